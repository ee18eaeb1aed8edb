/* Sequences cut anywhere into any number of pieces, the state handed on: the logits and gradients of the whole. Every
 * architecture and variant, fp32 and fp64, with and without recomputing; several sequences at once, each cut at places
 * of its own, pieces of nothing included. */
#include "core/model/model.h"
#include "core/recipe/keys.h"
#include "tests/unit/tensor/tape_test.h"

enum { L = 2, C = 64, N = 32, V = 67, SEQUENCES = 3, MOST = 140, MOST_PIECES = 9, TRIES = 4 };

/* Of each sequence; wkv6 and wkv7 cut sequences into chunks of their own. */
static const int64_t lengths[SEQUENCES] = {75, 1, 30};

typedef struct {
    const rw_arch *arch;
    int64_t pre_ffn, time_state;
    rw_dtype dtype;
} variant;

typedef struct {
    rw_device *device;
    rw_step_arena arena;
    rw_tape *tape;
    rw_step_scalars scalars;
    rw_model *model;
    int64_t rows;
    int32_t tokens[MOST], targets[MOST];
} fixture;

/* logits [rows][V] by place in the whole; gradients one parameter behind the other, in the official order */
typedef struct {
    double *logits, *grads;
} result;

/* Rows first[s] .. first[s] + n[s] of each sequence s. */
typedef struct {
    int64_t first[SEQUENCES], n[SEQUENCES], rows;
} piece;

/* -- a model ---------------------------------------------------------------------------------------------------- */

/* Many parameters begin at zero: none shall here. */
static void move_parameters(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++)
        for (int64_t e = 0; e < p->layout.segments[i].n; e++) {
            double more = 0.05 * noise(1000 + i, e);
            if (p->device->compute == RW_F64) ((double *)p->tensors[i].data)[e] += more;
            if (p->device->compute == RW_F32) ((float *)p->tensors[i].data)[e] += (float)more;
        }
}

static void open_fixture(fixture *f, const variant *v) {
    rw_error err = {0};
    rw_plan_model shape = {.arch = v->arch->name, .n_layer = L, .n_embd = C, .vocab_size = V, .head_size = N};
    shape.pre_ffn = v->pre_ffn;
    shape.time_state = v->time_state;
    shape.head_size_divisor = 8;
    rw_arch_default_shape(v->arch, &shape);
    *f = (fixture){.scalars = {.step = 1, .normaliser = 1}};
    must(rw_device_open_cpu(&f->device, v->dtype, 1, &err), &err);
    f->device->exec.scalars = &f->scalars;
    must(rw_step_arena_init(&f->arena, f->device, (int64_t)64 << 20, &err), &err);
    must(rw_tape_new(&f->tape, f->device, &f->arena, &err), &err);
    rw_model_options train = {.train = true};
    must(rw_model_new(&f->model, &shape, f->device, &train, &err), &err);
    must(rw_model_init(f->model, 1, &err), &err);
    move_parameters(f->model->params);
    for (int s = 0; s < SEQUENCES; s++) f->rows += lengths[s];
    assert_true(f->rows <= MOST);
    for (int i = 0; i < f->rows; i++) {
        f->tokens[i] = (int32_t)(rw_rng_u64_at(1, 1, (uint64_t)i) % V);
        f->targets[i] = (int32_t)(rw_rng_u64_at(1, 2, (uint64_t)i) % V);
    }
}

static void close_fixture(fixture *f) {
    rw_model_free(f->model);
    rw_tape_free(f->tape);
    assert_int_equal(f->arena.live, 0);
    rw_step_arena_done(&f->arena);
    rw_device_close(f->device);
}

static result new_result(const fixture *f) {
    return (result){rw_alloc_array((size_t)(f->rows * V), sizeof(double)),
                    rw_alloc_array((size_t)f->model->params->layout.n_params, sizeof(double))};
}

static void free_result(result *r) {
    rw_free(r->logits);
    rw_free(r->grads);
}

/* -- pieces --------------------------------------------------------------------------------------------------------
 */

/* What a piece gives to the tape: alive until the backward pass. */
typedef struct {
    int32_t tokens[MOST], targets[MOST], borders[SEQUENCES + 1], at[MOST];
} piece_rows;

static void gather(const fixture *f, const piece *p, piece_rows *x) {
    int32_t n = 0;
    int64_t begin = 0;
    for (int s = 0; s < SEQUENCES; begin += lengths[s++]) {
        x->borders[s] = n;
        for (int64_t i = 0; i < p->n[s]; i++, n++) {
            x->at[n] = (int32_t)(begin + p->first[s] + i);
            x->tokens[n] = f->tokens[x->at[n]];
            x->targets[n] = f->targets[x->at[n]];
        }
    }
    x->borders[SEQUENCES] = n;
}

static void keep_logits(const fixture *f, const rw_tensor *logits, const piece_rows *x, int64_t rows, double *to) {
    for (int64_t i = 0; i < rows; i++) {
        const char *row = (const char *)logits->data + i * V * rw_dtype_bytes(logits->dtype);
        if (f->device->compute == RW_F64)
            memcpy(to + x->at[i] * V, row, V * sizeof *to);
        else
            rw_convert(to + x->at[i] * V, RW_F64, row, logits->dtype, V);
    }
}

/* All pieces under one loss: gradients flow from a later piece to an earlier one through the states. */
static void run(fixture *f, const piece *pieces, int n, int level, result *out) {
    rw_error err = {0};
    rw_state *states = rw_alloc_array((size_t)n, sizeof *states);
    piece_rows *x = rw_alloc_array((size_t)n, sizeof *x);
    rw_params *p = f->model->params;
    rw_tape_reset(f->tape);
    rw_params_begin_step(p);
    for (int i = 0; i < n; i++) {
        gather(f, &pieces[i], &x[i]);
        rw_rows rows = {pieces[i].rows, SEQUENCES, x[i].borders};
        rw_tensor *h = rw_model_forward(f->model, f->tape, rows, x[i].tokens, i ? &states[i - 1] : NULL,
                                        i + 1 < n ? &states[i] : NULL, level);
        rw_tensor *loss = rw_head_loss(f->tape, h, f->model->head, x[i].targets, NULL, 50);
        must(rw_tape_error(f->tape, &err), &err);
        assert_non_null(loss);
        bool recording = rw_tape_record(f->tape, false);
        keep_logits(f, rw_model_logits(f->model, f->tape, h), &x[i], pieces[i].rows, out->logits);
        rw_tape_record(f->tape, recording);
    }
    must(rw_tape_backward(f->tape, &err), &err);
    rw_tape_reset(f->tape);
    rw_params_finish_grads(p);
    double *to = out->grads;
    for (size_t i = 0; i < p->layout.n_segments; to += p->layout.segments[i++].n)
        rw_params_get(p, RW_PARAM_GRAD, i, 0, p->layout.segments[i].n, RW_F64, to);
    rw_free(states);
    rw_free(x);
}

static piece whole_of(const fixture *f) {
    piece p = {.rows = f->rows};
    memcpy(p.n, lengths, sizeof p.n);
    return p;
}

static int by_place(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* n pieces, cut at random places of each sequence, which may fall together; false: one is without any row. */
static bool cut(piece *pieces, int n, uint64_t number) {
    for (int s = 0; s < SEQUENCES; s++) {
        int64_t places[MOST_PIECES + 1] = {0};
        for (int i = 1; i < n; i++)
            places[i] = (int64_t)(rw_rng_u64_at(number, (uint64_t)s, (uint64_t)i) % (uint64_t)(lengths[s] + 1));
        places[n] = lengths[s];
        qsort(places, (size_t)n + 1, sizeof *places, by_place);
        for (int i = 0; i < n; i++) {
            pieces[i].first[s] = places[i];
            pieces[i].n[s] = places[i + 1] - places[i];
        }
    }
    bool rows = true;
    for (int i = 0; i < n; i++) {
        pieces[i].rows = 0;
        for (int s = 0; s < SEQUENCES; s++) pieces[i].rows += pieces[i].n[s];
        rows = rows && pieces[i].rows > 0;
    }
    return rows;
}

/* Every token alone, sequence by sequence as long as it lasts. */
static int single_tokens(piece *pieces) {
    for (int64_t i = 0; i < lengths[0]; i++) {
        pieces[i] = (piece){.rows = 0};
        for (int s = 0; s < SEQUENCES; s++) {
            pieces[i].first[s] = i < lengths[s] ? i : lengths[s];
            pieces[i].n[s] = i < lengths[s];
            pieces[i].rows += pieces[i].n[s];
        }
    }
    return (int)lengths[0];
}

/* -- comparing ---------------------------------------------------------------------------------------------------- */

typedef struct {
    double logits, grads; /* absolute; of the largest of its parameter */
    int cuts, most_pieces;
} worst;

static void compare(const fixture *f, const result *have, const result *want, worst *w) {
    for (int64_t i = 0; i < f->rows * V; i++) {
        double d = fabs(have->logits[i] - want->logits[i]);
        if (!(d <= w->logits)) w->logits = d;
    }
    const rw_layout *l = &f->model->params->layout;
    int64_t at = 0;
    for (size_t i = 0; i < l->n_segments; at += l->segments[i++].n) {
        double top = 0, error = 0;
        for (int64_t e = at; e < at + l->segments[i].n; e++) {
            double d = fabs(have->grads[e] - want->grads[e]);
            if (!(d <= error)) error = d;
            top = fmax(top, fabs(want->grads[e]));
        }
        bool idle = rw_role_idle(l->segments[i].role, l->segments[i].bucket - 1);
        if ((top == 0) != idle) fail_msg("%s has %s gradient", l->segments[i].name, idle ? "a" : "no");
        if (!(error <= w->grads * top)) w->grads = error / top;
    }
}

static void one_cut(fixture *f, const piece *pieces, int n, int level, const result *want, worst *w) {
    result have = new_result(f);
    run(f, pieces, n, level, &have);
    compare(f, &have, want, w);
    free_result(&have);
    w->cuts++;
    if (n > w->most_pieces) w->most_pieces = n;
}

static void check(const variant *v) {
    fixture f;
    worst w = {0};
    open_fixture(&f, v);
    result want = new_result(&f);
    piece pieces[MOST] = {whole_of(&f)};
    run(&f, pieces, 1, 0, &want);
    for (int n = 2, number = 0; n <= MOST_PIECES; n = 2 * n - 1)
        for (int k = 0; k < TRIES;) {
            if (!cut(pieces, n, (uint64_t)number++)) continue;
            one_cut(&f, pieces, n, k++ % RW_CHECKPOINT_AUTO, &want, &w);
        }
    one_cut(&f, pieces, single_tokens(pieces), 0, &want, &w);
    print_message("  %s%s%s %s: %d cuts, up to %d pieces: logits within %.1e, gradients within %.1e of the largest\n",
                  v->arch->name, v->pre_ffn ? " pre_ffn" : "", v->time_state ? " states" : "", rw_dtype_name(v->dtype),
                  w.cuts, w.most_pieces, w.logits, w.grads);
    assert_true(w.logits <= (v->dtype == RW_F64 ? 1e-12 : 1e-5));
    assert_true(w.grads <= (v->dtype == RW_F64 ? 1e-11 : 1e-4));
    free_result(&want);
    close_fixture(&f);
}

static void pieces_equal_the_whole(void **state) {
    (void)state;
    for (int i = 0; rw_arch_at(i); i++)
        for (int part = 0; part < 3; part++) {
            const rw_arch *arch = rw_arch_at(i);
            if (part == 1 && !rw_arch_has_part(arch, RW_DIM_pre_ffn)) continue;
            if (part == 2 && !rw_arch_has_part(arch, RW_DIM_time_state)) continue;
            variant v = {.arch = arch, .pre_ffn = part == 1, .time_state = part == 2, .dtype = RW_F64};
            check(&v);
            v.dtype = RW_F32;
            check(&v);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_equal_the_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
