/* A step in pieces. Running and updating are kernels alone; a device that queues and records gives the bits of one that
 * does neither; empty sequences at the end change nothing; a step that is not finite leaves no trace but its count. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/engine/engine.h"
#include "tests/unit/engine/lazy_device.h"

#include <math.h>

enum { B = 3, T = 7, R = B * T, V = 99, ACCUMULATE = 3, STEPS = 5, SPARE = 4 };

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

/* -- an engine and batches ---------------------------------------------------------------------------------------- */

static rw_plan small_plan(int64_t max_seq, rw_loss_norm_choice loss_norm) {
    rw_plan p = {.name = "engine", .threads = 1};
    p.model = (rw_plan_model){.arch = "x060",
                              .n_layer = 2,
                              .n_embd = 64,
                              .vocab_size = V,
                              .head_size = 32,
                              .n_head = 2,
                              .dim_ffn = 224,
                              .lora_mix = 32,
                              .lora_decay = 64,
                              .head_size_divisor = 8};
    p.train = (rw_plan_train){.micro_bsz = B,
                              .ctx_len = T,
                              .accumulate = ACCUMULATE,
                              .beta1 = 0.9,
                              .beta2 = 0.99,
                              .adam_eps = 1e-8,
                              .weight_decay = 0.1,
                              .layerwise_lr = true,
                              .grad_clip = 1,
                              .l2wrap = RW_L2WRAP_V7,
                              .loss_norm = loss_norm,
                              .head_chunk = 8};
    p.engine.graph = RW_GRAPH_ON;
    p.data.max_seq = max_seq;
    p.needs.arena_bytes = (int64_t)4 << 20;
    return p;
}

typedef struct {
    int32_t tokens[R], targets[R], borders[B + SPARE + 1];
    float mask[R];
    rw_batch b;
} batch;

/* Batch number k: its tokens, and a mask that leaves out some. */
static const rw_batch *make_batch(batch *x, int k) {
    *x = (batch){.b = {.n_rows = R, .n_seq = B}};
    for (int i = 0; i < R; i++) {
        x->tokens[i] = (k * 31 + i * i * 7) % V;
        x->targets[i] = (k * 31 + (i + 1) * (i + 1) * 7) % V;
        x->mask[i] = (i + k) % 4 != 0;
        x->b.mask_sum += (double)x->mask[i];
    }
    for (int i = 0; i <= B + SPARE; i++) x->borders[i] = i < B ? i * T : R;
    x->b.tokens = x->tokens;
    x->b.targets = x->targets;
    x->b.mask = x->mask;
    x->b.cu_seqlens = x->borders;
    return &x->b;
}

static rw_device *cpu(rw_dtype compute) {
    rw_error err = {0};
    rw_device *d;
    must(rw_device_open_cpu(&d, compute, 1, &err), &err);
    return d;
}

static void open_engine(rw_engine *e, const rw_plan *p, rw_device *d) {
    rw_error err = {0};
    must(rw_engine_open(e, p, d, true, &err), &err);
    must(rw_model_init(e->model, 3, &err), &err);
}

static void begin(rw_engine *e, int step) {
    batch x;
    double sum = 0;
    for (int i = 0; i < ACCUMULATE; i++) sum += make_batch(&x, step * ACCUMULATE + i)->mask_sum;
    rw_engine_begin_step(e, step, 1e-2, 0.1, sum);
}

/* The batch is gone when it was staged. */
static void stage(rw_engine *e, int number) {
    rw_error err = {0};
    batch x;
    must(rw_engine_stage(e, make_batch(&x, number), &err), &err);
    memset(&x, 0xff, sizeof x);
}

static void assert_grads_written(const rw_engine *e, bool written) {
    const rw_params *p = e->model->params;
    for (size_t i = 0; i < p->layout.n_segments; i++) assert_int_equal(p->tensors[i].grad_written, written);
}

static void one_step(rw_engine *e, int step) {
    rw_error err = {0};
    begin(e, step);
    assert_grads_written(e, false);
    for (int i = 0; i < ACCUMULATE; i++) {
        stage(e, step * ACCUMULATE + i);
        must(rw_engine_run(e, &err), &err);
        assert_grads_written(e, true);
    }
    must(rw_engine_update(e, &err), &err);
}

/* -- what a run leaves -------------------------------------------------------------------------------------------- */

typedef struct {
    rw_device_scalars reports[STEPS];
    double eval_loss;
    char *bytes; /* values, gradients and moments */
    size_t n_bytes;
} outcome;

static outcome outcome_of(rw_engine *e) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_GRAD, RW_PARAM_M, RW_PARAM_V};
    rw_flat(*flat)[RW_PARAM_CLASSES] = e->model->params->flat;
    size_t each = (size_t)(flat[RW_PARAM_VALUE][RW_MATRIX].n * rw_dtype_bytes(e->device->compute));
    outcome o = {.n_bytes = 4 * each, .bytes = rw_alloc(4 * each)};
    for (int i = 0; i < 4; i++)
        e->device->download(e->device, o.bytes + (size_t)i * each, flat[kinds[i]][RW_MATRIX].data, (int64_t)each);
    return o;
}

static void assert_same(const outcome *a, const outcome *b) {
    assert_memory_equal(a->reports, b->reports, sizeof a->reports);
    assert_memory_equal(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss);
    assert_int_equal(a->n_bytes, b->n_bytes);
    assert_memory_equal(a->bytes, b->bytes, a->n_bytes);
}

static outcome train(rw_device *d, rw_loss_norm_choice loss_norm, rw_checkpoint_choice level, bool every_report) {
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, loss_norm);
    rw_device_scalars reports[STEPS] = {{0}};
    double eval_loss = 0;
    batch x;
    p.train.checkpoint = level;
    open_engine(&e, &p, d);
    for (int step = 0; step < STEPS; step++) {
        one_step(&e, step);
        if (every_report || step == STEPS - 1) must(rw_engine_collect(&e, true, &reports[step], &err), &err);
        if (step == 2) must(rw_engine_evaluate(&e, make_batch(&x, 1000), &eval_loss, &err), &err);
    }
    outcome o = outcome_of(&e);
    memcpy(o.reports, reports, sizeof reports);
    o.eval_loss = eval_loss;
    rw_engine_close(&e);
    return o;
}

/* -- tests ----------------------------------------------------------------------------------------------------------
 */

/* From the third step on, so that the tape's tables have grown. */
static void kernels_alone(void **state) {
    (void)state;
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, RW_LOSS_NORM_MICRO);
    rw_device *inner = cpu(RW_F32);
    lazy_device l;
    rw_device_scalars report;
    lazy_open(&l, inner, 0);
    open_engine(&e, &p, &l.base);
    for (int step = 0; step < STEPS; step++) {
        begin(&e, step);
        for (int i = 0; i < ACCUMULATE; i++) {
            stage(&e, step * ACCUMULATE + i);
            int64_t up = l.uploads, down = l.downloads, waits = l.waits, allocs = l.allocs, kernels = l.kernels;
            int64_t host = rw_alloc_calls();
            must(rw_engine_run(&e, &err), &err);
            assert_true(l.uploads == up && l.downloads == down && l.waits == waits && l.allocs == allocs);
            assert_true(l.kernels > kernels);
            if (step > 1) assert_int_equal(rw_alloc_calls(), host);
        }
        int64_t up = l.uploads, down = l.downloads, waits = l.waits, allocs = l.allocs;
        must(rw_engine_update(&e, &err), &err);
        assert_true(l.uploads == up && l.downloads == down && l.waits == waits && l.allocs == allocs);
        must(rw_engine_collect(&e, true, &report, &err), &err);
        assert_true(l.uploads == up && l.downloads == down + 1 && l.waits == waits + 1);
        assert_true(report.step == step + 1 && report.updates == step + 1 && report.loss > 0 && report.grad_norm > 0);
    }
    rw_engine_close(&e);
    lazy_close(&l);
    rw_device_close(inner);
}

/* Every way of running gives the same bits as plain calls on the CPU. */
static void queued_and_recorded(void **state) {
    (void)state;
    static const int modes[] = {0, LAZY_AHEAD, LAZY_RECORD, LAZY_AHEAD | LAZY_RECORD};
    static const rw_loss_norm_choice norms[] = {RW_LOSS_NORM_STEP, RW_LOSS_NORM_MICRO};
    for (int k = 0; k < 4; k++) {
        rw_device *plain = cpu(k & 2 ? RW_F64 : RW_F32), *inner = cpu(k & 2 ? RW_F64 : RW_F32);
        outcome want = train(plain, norms[k & 1], k & 1, true);
        for (int m = 0; m < 4; m++) {
            lazy_device l;
            lazy_open(&l, inner, modes[m]);
            outcome have = train(&l.base, norms[k & 1], k & 1, true);
            lazy_close(&l);
            assert_same(&have, &want);
            rw_free(have.bytes);
            bool records = modes[m] & LAZY_RECORD;
            assert_int_equal(l.recordings, records ? RW_N_PIECES : 0);
            /* all but the first time of each piece */
            assert_int_equal(l.replays, records ? STEPS * (ACCUMULATE + 1) - RW_N_PIECES : 0);
        }
        rw_free(want.bytes);
        rw_device_close(plain);
        rw_device_close(inner);
    }
}

/* Nobody asks for a report until the end: the host is two steps ahead at most, and the last report is right. */
static void reports_may_come_late(void **state) {
    (void)state;
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, RW_LOSS_NORM_STEP);
    rw_device *plain = cpu(RW_F32), *inner = cpu(RW_F32);
    lazy_device l;
    outcome want = train(plain, RW_LOSS_NORM_STEP, 0, true);
    lazy_open(&l, inner, LAZY_AHEAD | LAZY_RECORD);
    open_engine(&e, &p, &l.base);
    rw_device_scalars report;
    must(rw_engine_collect(&e, true, &report, &err), &err);
    assert_int_equal(report.step, 0);
    for (int step = 0; step < STEPS; step++) {
        one_step(&e, step);
        int64_t waits = l.waits;
        must(rw_engine_collect(&e, false, &report, &err), &err);
        assert_int_equal(l.waits, waits);
        /* the batches wait for what was two before: so what is here is at least two steps old */
        assert_in_range(report.step, step > 1 ? step - 1 : 0, step);
        if (report.step == 0) continue;
        want.reports[report.step - 1].eval_loss = 0; /* here nothing is evaluated */
        assert_memory_equal(&report, &want.reports[report.step - 1], sizeof report);
    }
    must(rw_engine_collect(&e, true, &report, &err), &err);
    assert_int_equal(report.step, STEPS);
    assert_true(report.loss == want.reports[STEPS - 1].loss && report.grad_norm == want.reports[STEPS - 1].grad_norm);
    rw_engine_close(&e);
    lazy_close(&l);
    rw_free(want.bytes);
    rw_device_close(plain);
    rw_device_close(inner);
}

/* A piece that fails while it is recorded: the error comes up, the recording has ended, and the engine can go on. */
static void failure_in_a_recording(void **state) {
    (void)state;
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, RW_LOSS_NORM_STEP);
    rw_device *inner = cpu(RW_F32);
    lazy_device l;
    lazy_open(&l, inner, LAZY_RECORD);
    open_engine(&e, &p, &l.base);
    one_step(&e, 0);
    begin(&e, 1);
    stage(&e, 3);
    int32_t all = rw_step_arena_take(&e.arena, e.arena.capacity - 4096);
    int64_t recorded = l.recordings;
    assert_int_equal(rw_engine_run(&e, &err), RW_E_MEMORY);
    assert_null(l.recording);
    assert_int_equal(l.recordings, recorded);
    rw_step_arena_give(&e.arena, all);
    one_step(&e, 1);
    one_step(&e, 2);
    assert_int_equal(l.recordings, RW_N_PIECES);
    rw_engine_close(&e);
    lazy_close(&l);
    rw_device_close(inner);
}

static outcome one_step_with(int64_t max_seq) {
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(max_seq, RW_LOSS_NORM_STEP);
    rw_device *d = cpu(RW_F64);
    open_engine(&e, &p, d);
    one_step(&e, 0);
    outcome o = outcome_of(&e);
    must(rw_engine_collect(&e, true, &o.reports[0], &err), &err);
    rw_engine_close(&e);
    rw_device_close(d);
    return o;
}

/* Buffers and kernels have room for max_seq sequences; those beyond the batch's own are empty and add exact zeros. */
static void empty_sequences(void **state) {
    (void)state;
    outcome few = one_step_with(B), many = one_step_with(B + SPARE);
    assert_memory_equal(few.reports, many.reports, sizeof few.reports);
    const double *x = (const double *)few.bytes, *y = (const double *)many.bytes;
    for (size_t i = 0; i < few.n_bytes / sizeof *x; i++) assert_true(x[i] == y[i]); /* 0 and -0 are equal */
    rw_free(few.bytes);
    rw_free(many.bytes);
}

static void wrong_batches(void **state) {
    (void)state;
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, RW_LOSS_NORM_STEP);
    rw_device *d = cpu(RW_F32);
    batch x;
    open_engine(&e, &p, d);
    make_batch(&x, 0);
    x.b.n_seq = B + 1;
    assert_int_equal(rw_engine_stage(&e, &x.b, &err), RW_E_INTERNAL);
    assert_string_equal(err.msg, "a batch of 21 rows in 4 sequences; the engine takes 21 rows in at most 3");
    make_batch(&x, 0);
    x.b.n_rows = R + 1;
    assert_int_equal(rw_engine_stage(&e, &x.b, &err), RW_E_INTERNAL);
    rw_engine_close(&e);
    rw_device_close(d);
}

/* What a micro batch brings with it: the factor of the loss is of the step, or its own; of L2Wrap likewise. */
static void numbers_of_a_micro_batch(void **state) {
    (void)state;
    for (int micro = 0; micro < 2; micro++) {
        rw_engine e;
        rw_plan p = small_plan(B, micro ? RW_LOSS_NORM_MICRO : RW_LOSS_NORM_STEP);
        rw_device *d = cpu(RW_F32);
        rw_error err = {0};
        open_engine(&e, &p, d);
        begin(&e, 1);
        double total = e.mask_sum;
        for (int i = 0; i < ACCUMULATE; i++) {
            batch x;
            double own = make_batch(&x, ACCUMULATE + i)->mask_sum;
            stage(&e, ACCUMULATE + i);
            const rw_step_scalars *s = d->exec.scalars; /* a CPU: the host may look */
            assert_true(own < total && s->normaliser == (micro ? 1 / (own * ACCUMULATE) : 1 / total));
            assert_true(s->l2wrap_mask == 1e-4 * s->normaliser && s->l2wrap_rows == 0);
            assert_true(s->step == 2 && s->lr == 1e-2 && s->weight_decay == 0.1);
            must(rw_engine_run(&e, &err), &err);
        }
        rw_engine_close(&e);
        rw_device_close(d);
    }
}

/* Whether row `id` of the embedding was ever a token. */
static bool was_token(int64_t id) {
    batch x;
    for (int k = 0; k < STEPS * ACCUMULATE; k++) {
        make_batch(&x, k);
        for (int i = 0; i < R; i++)
            if (x.tokens[i] == id) return true;
    }
    return false;
}

/* Rows whose gradient is always 0 have not moved. Of the embedding, others have: all but those whose rows are masked.
 */
static void assert_unmoved(rw_params *p, const char *name, const float *before) {
    const rw_tensor *x = rw_params_find(p, name);
    int64_t rows = x->shape[0], each = rw_tensor_count(x) / rows, still = 0;
    bool embedding = strcmp(name, "emb.weight") == 0;
    for (int64_t r = 0; r < rows; r++) {
        bool moved = memcmp((float *)x->data + r * each, before + r * each, (size_t)each * sizeof *before) != 0;
        if (moved && !(embedding && was_token(r))) fail_msg("%s, row %lld moved", name, (long long)r);
        still += !moved;
    }
    assert_true(still > 0 && (still < rows) == embedding);
}

/* x070 trains with eps 1e-18: a gradient that is 1e-20 in place of 0 would move a weight by a whole learning rate. */
static void zero_gradients_move_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"emb.weight", "blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"};
    enum { NAMES = 4 };
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        rw_error err = {0};
        rw_engine e;
        rw_plan p = small_plan(B, RW_LOSS_NORM_STEP);
        rw_device *d = cpu(RW_F32);
        float *before[NAMES];
        p.model = (rw_plan_model){.arch = "x070", .n_layer = 3, .n_embd = 64, .vocab_size = V, .head_size = 32};
        rw_arch_default_shape(&rw_arch_x070, &p.model);
        p.train.adam_eps = 1e-18;
        p.train.weight_decay = 0;
        p.train.checkpoint = level;
        open_engine(&e, &p, d);
        for (int i = 0; i < NAMES; i++) {
            const rw_tensor *x = rw_params_find(e.model->params, names[i]);
            before[i] = rw_alloc((size_t)rw_tensor_bytes(x));
            memcpy(before[i], x->data, (size_t)rw_tensor_bytes(x));
        }
        for (int step = 0; step < STEPS; step++) {
            begin(&e, step);
            for (int i = 0; i < ACCUMULATE; i++) {
                stage(&e, step * ACCUMULATE + i);
                must(rw_engine_run(&e, &err), &err);
            }
            must(rw_engine_update(&e, &err), &err);
        }
        for (int i = 0; i < NAMES; i++) {
            assert_unmoved(e.model->params, names[i], before[i]);
            rw_free(before[i]);
        }
        rw_engine_close(&e);
        rw_device_close(d);
    }
}

/* Steps 0 to 3; before the update of step `poisoned` one gradient becomes NaN. Or, `left_out`, that step never was. */
static outcome four_steps(int mode, int poisoned, bool left_out) {
    rw_error err = {0};
    rw_engine e;
    rw_plan p = small_plan(B, RW_LOSS_NORM_STEP);
    rw_device *inner = cpu(RW_F32);
    lazy_device l;
    lazy_open(&l, inner, mode);
    open_engine(&e, &p, &l.base);
    for (int step = 0; step < 4; step++) {
        if (step == poisoned && left_out) continue;
        begin(&e, step);
        for (int i = 0; i < ACCUMULATE; i++) {
            stage(&e, step * ACCUMULATE + i);
            must(rw_engine_run(&e, &err), &err);
        }
        const float nan = NAN;
        if (step == poisoned)
            l.base.upload(&l.base, (float *)e.model->params->flat[RW_PARAM_GRAD][RW_MATRIX].data + 70, &nan,
                          sizeof nan);
        must(rw_engine_update(&e, &err), &err);
    }
    outcome o = outcome_of(&e);
    must(rw_engine_collect(&e, true, &o.reports[0], &err), &err);
    rw_engine_close(&e);
    lazy_close(&l);
    rw_device_close(inner);
    return o;
}

/* The run goes on as if the step had not been, t included. */
static void a_skipped_step_leaves_no_trace(void **state) {
    (void)state;
    outcome without = four_steps(0, 2, true);
    assert_true(without.reports[0].updates == 3 && without.reports[0].skipped == 0);
    for (int mode = 0; mode < 4; mode++) {
        outcome with = four_steps(mode, 2, false);
        assert_true(with.reports[0].updates == 3 && with.reports[0].skipped == 1);
        assert_true(with.reports[0].step == 4 && with.reports[0].skipped_in_row == 0);
        assert_memory_equal(with.bytes, without.bytes, without.n_bytes);
        rw_free(with.bytes);
    }
    rw_free(without.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_alone),
                                       cmocka_unit_test(queued_and_recorded),
                                       cmocka_unit_test(reports_may_come_late),
                                       cmocka_unit_test(failure_in_a_recording),
                                       cmocka_unit_test(empty_sequences),
                                       cmocka_unit_test(wrong_batches),
                                       cmocka_unit_test(numbers_of_a_micro_batch),
                                       cmocka_unit_test(zero_gradients_move_nothing),
                                       cmocka_unit_test(a_skipped_step_leaves_no_trace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
