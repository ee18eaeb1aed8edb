/* Every architecture, with and without pre_ffn, in fp64: packed documents equal documents alone, a sequence in pieces
 * equals the whole, checkpointing changes no bit, gradients of the carried state by finite differences, micro batches
 * add up to one batch. */
#include "core/model/model.h"
#include "tests/unit/tensor/tape_test.h"

#include <stdio.h>

enum { L = 2, C = 64, N = 32, H = 2, V = 11, MOST = 64 };

typedef struct {
    bench b;
    rw_model *model;
    int32_t tokens[MOST], targets[MOST];
    double *grads; /* of all parameters, as the flat buffer */
} fixture;

static fixture f;
static const rw_arch *arch; /* of this round */
static int64_t pre_ffn;

static int open_model(void **state) {
    (void)state;
    rw_error err = {0};
    bench_open(&f.b);
    rw_plan_model shape = {.arch = arch->name, .n_layer = L, .n_embd = C, .vocab_size = V, .head_size = N};
    shape.dim_ffn = 96;
    shape.pre_ffn = pre_ffn;
    shape.lora_mix = 5;
    shape.lora_decay = 7;
    shape.lora_w = 5;
    shape.lora_a = 7;
    shape.lora_v = 3;
    shape.lora_g = 9;
    shape.head_size_divisor = 8;
    rw_arch_default_shape(arch, &shape);
    rw_model_options train = {.train = true};
    must(rw_model_new(&f.model, &shape, f.b.device, &train, &err), &err);
    must(rw_model_init(f.model, 1, &err), &err);
    rw_params *p = f.model->params; /* many start at zero: none shall here */
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        double *x = p->tensors[i].data;
        for (int64_t e = 0; e < p->layout.segments[i].n; e++) x[e] += 0.05 * noise(1000 + i, e);
    }
    for (int i = 0; i < MOST; i++) {
        f.tokens[i] = (int32_t)rw_rng_u64_at(1, 1, (uint64_t)i) & 0x7fffffff;
        f.tokens[i] %= V;
        f.targets[i] = (f.tokens[i] * 3 + 1) % V;
    }
    f.grads = rw_alloc_array((size_t)p->layout.n_params, sizeof *f.grads);
    return 0;
}

static int close_model(void **state) {
    (void)state;
    rw_model_free(f.model);
    rw_free(f.grads);
    bench_close(&f.b);
    return 0;
}

static void back(void) {
    rw_error err = {0};
    must(rw_tape_backward(f.b.tape, &err), &err);
}

static void begin(void) {
    rw_tape_reset(f.b.tape);
    rw_params_begin_step(f.model->params);
}

/* Forward, loss and backward of rows [first, first+n); adds to the gradients. Copies hidden out. */
static void run_rows(int64_t first, int64_t n, rw_rows rows, double *hidden, rw_checkpoint_choice level) {
    rw_tape_reset(f.b.tape);
    rw_tensor *h = rw_model_forward(f.model, f.b.tape, rows, f.tokens + first, NULL, NULL, level);
    assert_non_null(h);
    if (hidden) memcpy(hidden, h->data, (size_t)(n * C) * sizeof *hidden);
    assert_non_null(rw_head_loss(f.b.tape, h, f.model->head, f.targets + first, NULL, 5));
    back();
    rw_tape_reset(f.b.tape);
    assert_int_equal(f.b.arena.live, 0);
}

/* One parameter behind the other, in the official order. */
static void copy_grads(double *to) {
    rw_params *p = f.model->params;
    rw_params_finish_grads(p);
    for (size_t i = 0; i < p->layout.n_segments; to += p->layout.segments[i++].n)
        rw_params_get(p, RW_PARAM_GRAD, i, 0, p->layout.segments[i].n, RW_F64, to);
}

static void keep_grads(void) {
    copy_grads(f.grads);
}

/* max|now - kept| / max|kept| of every parameter; a parameter without gradient would prove nothing, but
 * where it is never used: there it is exactly 0. */
static void same_grads(double tolerance) {
    rw_params *p = f.model->params;
    rw_params_finish_grads(p);
    double worst = 0;
    const double *was = f.grads;
    for (size_t i = 0; i < p->layout.n_segments; was += p->layout.segments[i++].n) {
        const rw_segment *s = &p->layout.segments[i];
        const double *now = p->tensors[i].grad;
        double top = 0, error = 0;
        for (int64_t e = 0; e < s->n; e++) {
            top = fmax(top, fabs(was[e]));
            error = fmax(error, isnan(now[e]) ? INFINITY : fabs(now[e] - was[e]));
        }
        bool idle = rw_role_idle(s->role, s->bucket - 1);
        if ((top == 0) != idle) fail_msg("%s has %s gradient", s->name, idle ? "a" : "no");
        if (!(error <= tolerance * top)) fail_msg("gradient of %s: %.2g", s->name, error / top);
        worst = fmax(worst, error / top);
    }
    print_message("  gradients agree to %.1e\n", worst);
}

static void packed_documents(void **state) {
    (void)state;
    static const int32_t borders[] = {0, 1, 18, 64};
    double *packed = rw_alloc_array(MOST * C, sizeof *packed), *alone = rw_alloc_array(MOST * C, sizeof *alone);
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        begin();
        run_rows(0, MOST, (rw_rows){MOST, 3, borders}, packed, level);
        keep_grads();
        begin();
        for (int d = 0; d < 3; d++) {
            int64_t first = borders[d], n = borders[d + 1] - first;
            run_rows(first, n, (rw_rows){n, 1, NULL}, alone + first * C, level);
        }
        for (int i = 0; i < MOST * C; i++) assert_true(fabs(packed[i] - alone[i]) <= 1e-12);
        same_grads(1e-11);
    }
    rw_free(packed);
    rw_free(alone);
}

static void micro_batches(void **state) {
    (void)state;
    begin();
    run_rows(0, 64, (rw_rows){64, 4, NULL}, NULL, 0);
    keep_grads();
    begin();
    for (int i = 0; i < 4; i++) run_rows(16 * i, 16, (rw_rows){16, 1, NULL}, NULL, 0);
    same_grads(1e-11);
}

static const char *const level_names[] = {"none", "mix", "ffn", "block"};

static void checkpointing(void **state) {
    (void)state;
    static const int32_t borders[] = {0, 1, 18, 64};
    int64_t peak[RW_CHECKPOINT_BLOCK + 1];
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        begin();
        f.b.arena.high_water = 0;
        run_rows(0, MOST, (rw_rows){MOST, 3, borders}, NULL, level);
        peak[level] = f.b.arena.high_water;
        print_message("  %s: step arena of %lld bytes\n", level_names[level], (long long)peak[level]);
        if (level == 0)
            keep_grads();
        else
            same_grads(0);
        /* with pre_ffn the peak may be elsewhere than in a channel mix */
        if (level > 0) assert_true(peak[level] < peak[level - 1] + (level == RW_CHECKPOINT_FFN));
    }
}

/* -- buckets ---------------------------------------------------------------------------------------------------------
 */

/* The gradients that a bucket had when it was done; in which order the buckets came. */
typedef struct {
    char needed[64], done[16]; /* a digit for each call */
    double *grads[RW_PARAM_CLASSES];
} bucket_log;

static void note(char *digits, int bucket) {
    size_t n = strlen(digits);
    digits[n] = (char)('0' + bucket);
    digits[n + 1] = '\0';
}

static void note_needed(void *ctx, int bucket) {
    note(((bucket_log *)ctx)->needed, bucket);
}

static void note_done(void *ctx, int bucket) {
    bucket_log *log = ctx;
    rw_params *p = f.model->params;
    note(log->done, bucket);
    for (int cls = 0; cls < RW_PARAM_CLASSES; cls++) {
        rw_flat_range r = p->layout.buckets[bucket].part[cls];
        const double *grads = p->flat[RW_PARAM_GRAD][cls].data;
        memcpy(log->grads[cls] + r.first, grads + r.first, (size_t)r.n * sizeof *grads);
    }
}

/* A bucket is done when nothing writes to its gradients any more: they are those of the end. */
static void buckets(void **state) {
    (void)state;
    rw_params *p = f.model->params;
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        bucket_log log = {0};
        for (int cls = 0; cls < RW_PARAM_CLASSES; cls++) {
            size_t n = (size_t)p->flat[RW_PARAM_GRAD][cls].n;
            log.grads[cls] = rw_alloc_array(n, sizeof(double));
            memset(p->flat[RW_PARAM_GRAD][cls].data, 0xff, n * sizeof(double)); /* nothing of a run before */
        }
        rw_tape_on_buckets(f.b.tape, (rw_bucket_calls){note_needed, note_done, &log});
        begin();
        run_rows(0, MOST, (rw_rows){MOST, 2, NULL}, NULL, level);
        rw_tape_on_buckets(f.b.tape, (rw_bucket_calls){0});
        assert_string_equal(log.needed, "0123210");
        assert_string_equal(log.done, "3210");
        for (int cls = 0; cls < RW_PARAM_CLASSES; cls++) {
            size_t n = (size_t)p->flat[RW_PARAM_GRAD][cls].n * sizeof(double);
            assert_memory_equal(log.grads[cls], p->flat[RW_PARAM_GRAD][cls].data, n);
            rw_free(log.grads[cls]);
        }
    }
}

/* -- pieces ----------------------------------------------------------------------------------------------------------
 */

/* hidden of several pieces under one loss: the gradient flows from the later piece through the state. */
static void in_pieces(const int64_t *pieces, int n, double *hidden, rw_checkpoint_choice level) {
    rw_state *states = rw_alloc_array((size_t)n, sizeof *states);
    rw_tensor *h[8];
    int64_t at = 0;
    rw_tape_reset(f.b.tape);
    for (int i = 0; i < n; i++) {
        rw_rows rows = {pieces[i], 1, NULL};
        h[i] = rw_model_forward(f.model, f.b.tape, rows, f.tokens + at, i ? &states[i - 1] : NULL,
                                i + 1 < n ? &states[i] : NULL, level);
        assert_non_null(h[i]);
        memcpy(hidden + at * C, h[i]->data, (size_t)(pieces[i] * C) * sizeof *hidden);
        rw_head_loss(f.b.tape, h[i], f.model->head, f.targets + at, NULL, 5);
        at += pieces[i];
    }
    back();
    rw_tape_reset(f.b.tape);
    rw_free(states);
}

static void pieces_equal_the_whole(void **state) {
    (void)state;
    static const int64_t cuts[][4] = {{30, 0}, {17, 13, 0}, {1, 28, 1, 0}, {29, 1, 0}};
    double *whole = rw_alloc_array(30 * C, sizeof *whole), *pieces = rw_alloc_array(30 * C, sizeof *pieces);
    begin();
    in_pieces(cuts[0], 1, whole, 0);
    keep_grads();
    for (int k = 1; k < 4; k++)
        for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
            int n = 0;
            while (cuts[k][n]) n++;
            begin();
            in_pieces(cuts[k], n, pieces, level);
            for (int i = 0; i < 30 * C; i++) assert_true(fabs(pieces[i] - whole[i]) <= 1e-12);
            same_grads(1e-11);
        }
    rw_free(whole);
    rw_free(pieces);
}

/* -- gradients of the state -------------------------------------------------------------------------------------------
 */

enum { MOST_STATES = 6 };
typedef struct {
    rw_rows rows;
    rw_checkpoint_choice level;
    int n;
    int field[MOST_STATES], layer[MOST_STATES]; /* the states that there are: with pre_ffn block 0 has no wkv */
} state_case;

static void list_states(state_case *c) {
    rw_state *s = rw_alloc(sizeof *s);
    rw_tape_reset(f.b.tape);
    assert_non_null(rw_model_forward(f.model, f.b.tape, (rw_rows){1, 1, NULL}, f.tokens, NULL, s, 0));
    for (int l = 0; l < L; l++)
        for (int k = 0; k < arch->n_fields; k++) {
            if (!s->at[k][l]) continue;
            assert_true(c->n < MOST_STATES);
            c->field[c->n] = k;
            c->layer[c->n++] = l;
        }
    rw_tape_reset(f.b.tape);
    rw_free(s);
}

/* states that come in -> hidden and the states that go out */
static void build_state(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const state_case *c = ctx;
    rw_state *s = rw_alloc_array(2, sizeof *s);
    for (int i = 0; i < c->n; i++) s[0].at[c->field[i]][c->layer[i]] = in[i];
    out[0] = rw_model_forward(f.model, t, c->rows, f.tokens, &s[0], &s[1], c->level);
    for (int i = 0; i < c->n; i++) out[1 + i] = s[1].at[c->field[i]][c->layer[i]];
    rw_free(s);
}

static void state_gradients(void **state) {
    (void)state;
    static const int32_t borders[] = {0, 3, 3, 5};
    for (int k = 0; k < 8; k++) {
        state_case c = {.rows = {5, k % 4 < 2 ? 1 : 3, k % 4 < 2 ? NULL : borders}};
        c.level = k % 2 ? RW_CHECKPOINT_BLOCK - k / 4 : k / 4;
        int64_t n = k % 4 == 2 ? 3 : 1; /* the last: one state shared by three sequences */
        tc_input in[MOST_STATES];
        list_states(&c);
        for (int i = 0; i < c.n; i++) {
            int64_t sizes[RW_MAX_DIM];
            int ndim = rw_shape_sizes(arch->fields[c.field[i]].shape, &f.model->shape, sizes);
            in[i] = (tc_input){arch->fields[c.field[i]].name, 1 + ndim, {n}, -0.5, 0.5};
            for (int d = 0; d < ndim && d + 1 < RW_MAX_DIM; d++) in[i].shape[1 + d] = sizes[d];
        }
        char what[64];
        snprintf(what, sizeof what, "state, %s, checkpoint %s",
                 k % 4 < 2 ? "one"
                 : n == 3  ? "each"
                           : "shared",
                 level_names[c.level]);
        tc_check(&f.b, what, build_state, &c, in, c.n);
    }
}

/* -- memory of the caller ---------------------------------------------------------------------------------------- */

/* Tensors over memory, for each field and layer; returns the number of elements. */
static int64_t state_over(double *memory, rw_state *s) {
    int64_t at = 0, shape[RW_MAX_DIM];
    for (int k = 0; k < arch->n_fields; k++)
        for (int l = 0; l < L; l++) {
            int ndim = rw_shape_sizes(arch->fields[k].shape, &f.model->shape, shape);
            s->at[k][l] = rw_tape_wrap(f.b.tape, RW_F64, ndim, shape, memory ? memory + at : NULL);
            at += rw_tensor_count(s->at[k][l]);
        }
    return at;
}

/* Two memories that take turns give, bit for bit, the state that the tape gives. */
static void states_in_memory(void **state) {
    (void)state;
    rw_error err = {0};
    rw_state *s = rw_alloc_array(4, sizeof *s);
    int64_t n = state_over(NULL, &s[0]);
    double *memory[2], *hidden = rw_alloc_array(10 * C, sizeof *hidden);
    for (int i = 0; i < 2; i++) memory[i] = rw_alloc_array((size_t)n, sizeof **memory);
    for (int turn = 0; turn < 3; turn++) {
        rw_rows rows = {10, 1, NULL};
        rw_tape_reset(f.b.tape);
        rw_tape_record(f.b.tape, false);
        for (int i = 0; i < 2; i++) state_over(memory[(turn + i) % 2], &s[i]);
        state_over(memory[turn % 2], &s[2]);
        s[3] = (rw_state){0};
        rw_tensor *h = rw_model_forward(f.model, f.b.tape, rows, f.tokens + 10 * turn, &s[2], &s[3], 0);
        memcpy(hidden, h->data, (size_t)(10 * C) * sizeof *hidden);
        h = rw_model_forward(f.model, f.b.tape, rows, f.tokens + 10 * turn, &s[0], &s[1], 0);
        must(rw_tape_error(f.b.tape, &err), &err);
        assert_memory_equal(h->data, hidden, (size_t)(10 * C) * sizeof *hidden);
        for (int k = 0; k < arch->n_fields; k++)
            for (int l = 0; l < L; l++)
                if (s[3].at[k][l])
                    assert_memory_equal(s[1].at[k][l]->data, s[3].at[k][l]->data,
                                        (size_t)rw_tensor_bytes(s[1].at[k][l]));
        assert_memory_equal(s[1].at[0][0]->data, memory[(turn + 1) % 2], C * sizeof *hidden);
        rw_tape_record(f.b.tape, true);
    }
    assert_null(rw_model_forward(f.model, f.b.tape, (rw_rows){10, 1, NULL}, f.tokens, &s[0], &s[1], 0));
    assert_int_equal(rw_tape_error(f.b.tape, &err), RW_E_INTERNAL);
    rw_tape_reset(f.b.tape);
    for (int i = 0; i < 2; i++) rw_free(memory[i]);
    rw_free(hidden);
    rw_free(s);
}

/* -- the rest
 * ---------------------------------------------------------------------------------------------------------- */

static void names(void **state) {
    (void)state;
    rw_error err = {0};
    rw_layout *l = &f.model->params->layout;
    assert_string_equal(l->segments[0].name, "emb.weight");
    assert_string_equal(l->segments[l->n_segments - 1].name, "head.weight");
    assert_true(rw_layout_find(l, "blocks.0.ln0.weight") > 0);
    assert_int_equal(rw_layout_find(l, "blocks.1.ln0.weight"), -1);
    assert_int_equal(rw_layout_find(l, "blocks.0.att.key.weight") < 0, pre_ffn);
    assert_int_equal(rw_layout_find(l, "blocks.0.ffnPre.key.weight") < 0, !pre_ffn);
    int receptance = rw_layout_find(l, "blocks.1.att.receptance.weight"),
        key = rw_layout_find(l, "blocks.1.att.key.weight");
    assert_int_equal(l->segments[key].offset, l->segments[receptance].offset + C * C); /* side by side */
    rw_model *none;
    rw_plan_model shape = {.arch = "x999"};
    assert_int_equal(rw_model_new(&none, &shape, f.b.device, NULL, &err), RW_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "no model of architecture 'x999' in this build; there is x052"));
}

static void out_of_memory(void **state) {
    (void)state;
    rw_plan_model shape = f.model->shape;
    rw_model_options train = {.train = true};
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_model *m = NULL;
        rw_alloc_fail_after(n);
        rw_status status = rw_model_new(&m, &shape, f.b.device, &train, &err);
        if (status == RW_OK) status = rw_model_init(m, 1, &err);
        rw_alloc_fail_after(0);
        rw_model_free(m);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) {
            assert_true(n > 20);
            break;
        }
        assert_int_equal(status, RW_E_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(packed_documents),       cmocka_unit_test(micro_batches),
                                       cmocka_unit_test(checkpointing),          cmocka_unit_test(buckets),
                                       cmocka_unit_test(pieces_equal_the_whole), cmocka_unit_test(state_gradients),
                                       cmocka_unit_test(states_in_memory),       cmocka_unit_test(names),
                                       cmocka_unit_test(out_of_memory)};
    int failed = 0;
    for (int i = 0; rw_arch_at(i); i++)
        for (pre_ffn = 0; pre_ffn < 2; pre_ffn++) {
            arch = rw_arch_at(i);
            if (pre_ffn && !rw_arch_has_part(arch, RW_DIM_pre_ffn)) continue;
            print_message("%s%s\n", arch->name, pre_ffn ? " with pre_ffn" : "");
            failed += cmocka_run_group_tests_name(arch->name, tests, open_model, close_model);
        }
    return failed;
}
