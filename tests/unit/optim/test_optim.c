/* Groups by role and rank, clipping, and what an update leaves alone. */
#include "core/model/arch.h"
#include "core/optim/optim.h"
#include "tests/unit/tensor/tape_test.h"

/* -- groups ----------------------------------------------------------------------------------------------------- */

static const rw_role plain = {.group = RW_GROUP_PLAIN}, matrix = {.group = RW_GROUP_MATRIX},
                     mix = {.group = RW_GROUP_MIX}, bonus = {.group = RW_GROUP_BONUS},
                     time_decay = {.group = RW_GROUP_DECAY}, w0 = {.group = RW_GROUP_W0};

enum { C = 64 };
typedef struct {
    const char *name;
    int ndim;
    int64_t shape[4];
    const rw_role *role;
    double scale, stage2; /* of the learning rate, with layerwise_lr */
    bool decay;
} group_row;

static const group_row rows[] = {
    {"plain", 2, {C, 160}, &plain, 1, 1, false},
    {"matrix", 2, {99, C}, &matrix, 1, 1, true},
    {"one row", 2, {1, C}, &matrix, 1, 1, false}, /* a vector in disguise */
    {"one column", 3, {C, 1, 1}, &matrix, 1, 1, false},
    {"mix", 3, {1, 1, C}, &mix, 1, 5, false},
    {"bonus", 2, {2, 32}, &bonus, 1, 5, false},
    {"decay", 2, {2, 32}, &time_decay, 2, 5, false},
    {"w0", 3, {1, 1, C}, &w0, 2, 2, false},
    {"nobody's", 2, {C, C}, NULL, 1, 1, false},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static void declare(rw_layout *l) {
    rw_error err = {0};
    for (int i = 0; i < N_ROWS; i++) {
        must(rw_layout_add(l, rows[i].name, RW_MATRIX, rows[i].ndim, rows[i].shape, 0, i, &err), &err);
        l->segments[i].role = rows[i].role;
    }
}

static void groups(void **state) {
    (void)state;
    rw_layout l = {0};
    declare(&l);
    for (int form = 0; form < 4; form++) {
        rw_plan_train plan = {.layerwise_lr = form != 0, .my_pile_stage = form == 2 ? 2 : 0};
        plan.weight_decay = form == 3 ? 0 : 0.1;
        rw_optim_groups(&l, &plan);
        for (int i = 0; i < N_ROWS; i++) {
            double scale = form == 0 ? 1 : form == 2 ? rows[i].stage2 : rows[i].scale;
            if (l.segments[i].lr_scale != scale)
                fail_msg("%s: learning rate times %g, expected %g", rows[i].name, l.segments[i].lr_scale, scale);
            if (l.segments[i].decay != (rows[i].decay && form != 3))
                fail_msg("%s: decay %d in form %d", rows[i].name, l.segments[i].decay, form);
        }
    }
    rw_layout_done(&l);
}

/* -- an update ---------------------------------------------------------------------------------------------------- */

typedef struct {
    bench b;
    rw_params *p;
} fixture;

static void open_params(fixture *f, const rw_plan_train *plan) {
    rw_error err = {0};
    rw_layout l = {0};
    static const struct {
        const char *name;
        int64_t shape[2];
        const rw_role *role;
    } few[] = {{"a", {3, 5}, &matrix}, {"b", {1, 7}, &time_decay}, {"frozen", {4, 4}, &matrix}, {"c", {9, 9}, &matrix}};
    bench_open(&f->b);
    for (int i = 0; i < 4; i++) {
        must(rw_layout_add(&l, few[i].name, i == 1 ? RW_VECTOR : RW_MATRIX, 2, few[i].shape, i, 0, &err), &err);
        l.segments[i].role = few[i].role;
    }
    l.segments[2].trainable = false;
    rw_optim_groups(&l, plan);
    must(rw_layout_place(&l, &err), &err);
    must(rw_params_new(&f->p, f->b.device, &l, &(rw_storage){0}, true, &err), &err);
    for (size_t i = 0; i < 4; i++)
        for (int64_t e = 0; e < f->p->layout.segments[i].n; e++) ((double *)f->p->tensors[i].data)[e] = noise(i, e);
}

static void close_params(fixture *f) {
    rw_params_free(f->p);
    bench_close(&f->b);
}

static double set_grads(fixture *f) {
    double sum = 0;
    for (size_t i = 0; i < 4; i++) {
        rw_tensor *x = &f->p->tensors[i];
        for (int64_t e = 0; x->grad && e < rw_tensor_count(x); e++) {
            double g = 3 * noise(10 + i, e);
            ((double *)x->grad)[e] = g;
            sum += g * g;
        }
        x->grad_written = x->grad != NULL;
    }
    return sqrt(sum);
}

/* Is element e of the flat buffers of class c part of a parameter? */
static bool in_range(const rw_params *p, int c, int64_t e) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if ((int)s->cls == c && s->trainable && e >= s->offset && e < s->offset + s->n) return true;
    }
    return false;
}

/* Padding of values and moments: set to `mark`, or found to be it still. */
static void padding(rw_params *p, double mark, bool set) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < RW_PARAM_CLASSES; c++) {
            double *x = p->flat[kinds[k]][c].data;
            for (int64_t e = 0; e < p->flat[kinds[k]][c].n; e++) {
                if (in_range(p, c, e)) continue;
                if (set) x[e] = mark;
                assert_true(x[e] == mark);
            }
        }
}

static void one_update(double grad_clip, double decay) {
    rw_error err = {0};
    fixture f;
    rw_plan_train plan = {.layerwise_lr = true, .weight_decay = decay, .grad_clip = grad_clip, .beta1 = 0.9};
    plan.beta2 = 0.99;
    plan.adam_eps = 1e-8;
    open_params(&f, &plan);
    rw_params *p = f.p;
    double norm = set_grads(&f), frozen[16], old[3][81];
    memcpy(frozen, p->tensors[2].data, sizeof frozen);
    const int index[] = {0, 1, 3};
    for (int k = 0; k < 3; k++)
        memcpy(old[k], p->tensors[index[k]].data, (size_t)rw_tensor_bytes(&p->tensors[index[k]]));
    padding(p, 1e30, true);
    f.b.scalars.lr = 1e-2;
    f.b.scalars.weight_decay = decay;
    must(rw_optim_update(&plan, p, &f.b.arena, &err), &err);
    assert_int_equal(f.b.arena.live, 0);

    double coef = grad_clip > 0 ? fmin(1, grad_clip / (norm + 1e-6)) : 1;
    assert_true(fabs(f.b.device->exec.own->grad_norm / norm - 1) < 1e-14);
    assert_true(fabs(f.b.device->exec.own->clip_coef / coef - 1) < 1e-14);
    for (int k = 0; k < 3; k++) {
        const rw_tensor *x = &p->tensors[index[k]];
        for (int64_t e = 0; e < rw_tensor_count(x); e++) {
            double g = 3 * noise((uint64_t)(10 + index[k]), e) * coef, lr = 1e-2 * (k == 1 ? 2 : 1);
            double step = g / (fabs(g) + 1e-8); /* the first step: both moments are g, bias corrected */
            if (k != 1 && decay > 0) step += decay * old[k][e];
            assert_true(fabs(((double *)x->data)[e] - (old[k][e] - lr * step)) < 1e-13);
        }
    }
    assert_memory_equal(frozen, p->tensors[2].data, sizeof frozen);
    padding(p, 1e30, false);
    close_params(&f);
}

static void updates(void **state) {
    (void)state;
    one_update(0, 0);
    one_update(0, 0.1);
    one_update(1, 0.1);
    one_update(1e6, 0); /* a limit that is not reached */
}

/* A parameter that nothing used has gradient 0, not that of the last step; a full arena is an error. */
static void edges(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    rw_plan_train plan = {.beta1 = 0.9, .beta2 = 0.99, .adam_eps = 1e-8};
    open_params(&f, &plan);
    set_grads(&f);
    rw_params_begin_step(f.p);
    double before = *(double *)f.p->tensors[0].data;
    f.b.scalars.lr = 1;
    must(rw_optim_update(&plan, f.p, &f.b.arena, &err), &err);
    assert_true(f.b.device->exec.own->grad_norm == 0);
    assert_true(*(double *)f.p->tensors[0].data == before);
    int32_t all = rw_step_arena_take(&f.b.arena, f.b.arena.capacity);
    assert_int_equal(rw_optim_update(&plan, f.p, &f.b.arena, &err), RW_E_MEMORY);
    rw_step_arena_give(&f.b.arena, all);
    close_params(&f);
}

/* Values, m, v, padding included. */
enum { N_BUFFER = 2048 };
static double *copy_buffers(const rw_params *p) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
    double *copy = rw_alloc_array(3 * N_BUFFER, sizeof *copy), *at = copy;
    for (int k = 0; k < 3; k++, at = copy + k * N_BUFFER)
        for (int c = 0; c < RW_PARAM_CLASSES; c++) {
            const rw_flat *x = &p->flat[kinds[k]][c];
            assert_true(at + x->n <= copy + (k + 1) * N_BUFFER);
            memcpy(at, x->data, (size_t)x->n * sizeof *at);
            at += x->n;
        }
    return copy;
}

/* One NaN among the gradients: no value, no moment, no padding moves, and t stays. */
static void not_finite(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    rw_plan_train plan = {.weight_decay = 0.1, .grad_clip = 1, .beta1 = 0.9, .beta2 = 0.99, .adam_eps = 1e-8};
    open_params(&f, &plan);
    set_grads(&f);
    f.b.scalars.lr = 1e-2;
    must(rw_optim_update(&plan, f.p, &f.b.arena, &err), &err);
    double *before = copy_buffers(f.p), *after;
    ((double *)f.p->tensors[3].grad)[80] = NAN;
    must(rw_optim_update(&plan, f.p, &f.b.arena, &err), &err);
    after = copy_buffers(f.p);
    assert_memory_equal(before, after, 3 * N_BUFFER * sizeof *before);
    rw_free(after);
    const rw_device_scalars *own = f.b.device->exec.own;
    assert_true(own->updates == 1 && own->skipped == 1 && own->skipped_in_row == 1 && isnan(own->grad_norm));
    set_grads(&f);
    must(rw_optim_update(&plan, f.p, &f.b.arena, &err), &err);
    assert_true(own->updates == 2 && own->skipped == 1 && own->skipped_in_row == 0);
    after = copy_buffers(f.p);
    assert_memory_not_equal(before, after, N_BUFFER * sizeof *before);
    rw_free(after);
    rw_free(before);
    close_params(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups), cmocka_unit_test(updates), cmocka_unit_test(edges),
                                       cmocka_unit_test(not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
