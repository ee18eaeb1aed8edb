/* Narrow and wide: whole models on a device that would compute in bf16, where nothing is computed. Activations and
 * matrices are bf16; vectors, statistics, states and losses f32; a wrong one is refused by name. */
#include "core/model/model.h"
#include "tests/unit/tensor/tape_test.h"

enum { L = 2, C = 128, ROWS = 96, SEQUENCES = 3 };

typedef struct {
    rw_device *cpu, *meta;
    rw_model *model;
    rw_step_arena arena;
    rw_tape *tape;
    int32_t tokens[1]; /* never read */
    rw_state in, out;
} fixture;

static fixture f;

static void open_meta(rw_dtype compute) {
    rw_error err = {0};
    must(rw_device_open_cpu(&f.cpu, RW_F32, 1, &err), &err);
    rw_device like = *f.cpu;
    like.compute = compute;
    must(rw_device_open_meta(&f.meta, &like, &err), &err);
    assert_int_equal(f.meta->compute, compute);
}

/* One number for each channel: not a factor of a product. */
static bool is_vector(const rw_segment *s) {
    return s->n == C;
}

static void open_model(const char *arch, rw_dtype compute) {
    rw_error err = {0};
    open_meta(compute);
    rw_plan_model shape = {.arch = arch, .n_layer = L, .n_embd = C, .vocab_size = 100, .head_size = 32};
    shape.head_size_divisor = 8;
    rw_arch_default_shape(rw_arch_find(arch, NULL), &shape);
    rw_model_options train = {.train = true};
    must(rw_model_new(&f.model, &shape, f.meta, &train, &err), &err);
    for (size_t i = 0; i < f.model->params->layout.n_segments; i++)
        if (is_vector(&f.model->params->layout.segments[i])) f.model->params->tensors[i].dtype = rw_wide(compute);
    must(rw_step_arena_init(&f.arena, f.meta, 0, &err), &err);
    must(rw_tape_new(&f.tape, f.meta, &f.arena, &err), &err);
}

static void close_model(void) {
    rw_tape_free(f.tape);
    rw_step_arena_done(&f.arena);
    rw_model_free(f.model);
    rw_device_close(f.meta);
    rw_device_close(f.cpu);
}

/* What comes in, a tensor for each field and layer, of an address that nobody reads. */
static void states(rw_dtype dtype) {
    const rw_arch *a = f.model->arch;
    int64_t shape[1 + RW_MAX_DIM] = {SEQUENCES};
    for (int k = 0; k < a->n_fields; k++) {
        int ndim = 1 + rw_shape_sizes(a->fields[k].shape, &f.model->shape, shape + 1);
        for (int l = 0; l < L; l++) {
            f.in.at[k][l] = rw_tape_wrap(f.tape, dtype, ndim, shape, &f);
            f.in.at[k][l]->requires_grad = true;
        }
    }
    f.out = (rw_state){0};
}

/* A training step; the hidden layer and the loss of each row. */
static void step(rw_dtype state_dtype, rw_tensor **hidden, rw_tensor **loss) {
    rw_tape_reset(f.tape);
    rw_params_begin_step(f.model->params);
    states(state_dtype);
    *hidden = rw_model_forward(f.model, f.tape, (rw_rows){ROWS, SEQUENCES, NULL}, f.tokens, &f.in, &f.out, 0);
    *loss = *hidden ? rw_head_loss(f.tape, *hidden, f.model->head, f.tokens, NULL, 40) : NULL;
    if (*loss) rw_tape_backward(f.tape, NULL);
}

static const struct {
    rw_dtype narrow, wide;
} types[] = {{RW_BF16, RW_F32}, {RW_F16, RW_F32}, {RW_F32, RW_F32}, {RW_F64, RW_F64}};
enum { N_TYPES = sizeof types / sizeof *types };

static void check_step(const rw_tensor *hidden, const rw_tensor *loss, int k) {
    assert_int_equal(hidden->dtype, types[k].narrow);
    assert_int_equal(loss->dtype, types[k].wide);
    for (int field = 0; field < f.model->arch->n_fields; field++)
        for (int l = 0; l < L; l++) {
            assert_int_equal(f.out.at[field][l]->dtype, types[k].wide);
            assert_non_null(f.in.at[field][l]->grad);
        }
    for (size_t i = 0; i < f.model->params->layout.n_segments; i++) {
        const rw_segment *s = &f.model->params->layout.segments[i];
        assert_int_equal(f.model->params->tensors[i].grad_written, !rw_role_idle(s->role, s->bucket - 1));
    }
}

static void whole_models(void **unused) {
    (void)unused;
    for (int n = 0; rw_arch_at(n); n++) {
        int64_t high_water[N_TYPES];
        for (int k = 0; k < N_TYPES; k++) {
            rw_tensor *hidden, *loss;
            rw_error err = {0};
            open_model(rw_arch_at(n)->name, types[k].narrow);
            step(types[k].wide, &hidden, &loss);
            must(rw_tape_error(f.tape, &err), &err);
            check_step(hidden, loss, k);
            high_water[k] = f.arena.high_water;
            close_model();
        }
        assert_int_equal(high_water[0], high_water[1]);
        assert_true(high_water[0] < high_water[2] && high_water[2] < high_water[3]);
    }
}

/* A parameter in the wrong type; what the step says. */
static void refused(const char *name, rw_dtype wrong, const char *message) {
    rw_error err = {0};
    rw_tensor *hidden, *loss, *p = rw_params_find(f.model->params, name);
    rw_dtype right = p->dtype;
    p->dtype = wrong;
    step(RW_F32, &hidden, &loss);
    assert_null(loss);
    assert_int_equal(rw_tape_error(f.tape, &err), RW_E_SHAPE);
    assert_string_equal(err.msg, message);
    p->dtype = right;
}

static void wrong_types(void **unused) {
    (void)unused;
    rw_tensor *hidden, *loss;
    rw_error err = {0};
    open_model("x060", RW_BF16);
    refused("emb.weight", RW_F32, "embedding: weight is f32, expected bf16");
    refused("blocks.0.ln0.weight", RW_BF16, "embedding: gamma is bf16, expected f32");
    refused("blocks.0.ln1.bias", RW_BF16, "token_shift: beta is bf16, expected f32");
    refused("blocks.1.att.time_maa_x", RW_BF16, "token_shift: mu is bf16, expected f32");
    refused("blocks.1.att.time_maa_k", RW_BF16, "ddlerp: mu is bf16, expected f32");
    refused("blocks.1.att.time_maa_w2", RW_F32, "ddlerp: w2 is f32, expected bf16");
    refused("blocks.1.att.time_maa_w1", RW_F32, "matmul: b is f32, expected bf16");
    refused("blocks.0.att.time_decay", RW_BF16, "wkv6: w0 is bf16, expected f32");
    refused("blocks.0.att.time_faaaa", RW_F16, "wkv6: u is f16, expected f32");
    refused("blocks.0.att.ln_x.bias", RW_BF16, "wkv6: ln_b is bf16, expected f32");
    refused("ln_out.weight", RW_BF16, "layer_norm: gamma is bf16, expected f32");
    refused("head.weight", RW_F32, "head_loss: weight is f32, expected bf16");
    step(RW_BF16, &hidden, &loss);
    assert_null(hidden);
    rw_tape_error(f.tape, &err);
    assert_string_equal(err.msg, "token_shift: shift_in is bf16, expected f32");
    close_model();
}

/* -- gradients of matrices ----------------------------------------------------------------------------------- */

static int wide_gradients, narrow_gradients, wide_logits;

static void look_at_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    (void)ex;
    int n = a->batch ? (int)a->batch : 1;
    wide_gradients += a->trans_a && a->out_dtype == RW_F32 ? n : 0;
    narrow_gradients += a->trans_a && a->out_dtype != RW_F32 ? n : 0;
    wide_logits += !a->trans_a && a->out_dtype == RW_F32;
}
static void look_at_embedding(const rw_embedding_args *a, const rw_exec *ex) {
    (void)ex;
    wide_gradients += a->dweight_dtype == RW_F32;
    narrow_gradients += a->dweight_dtype != RW_F32;
}
static void look_at_ddlerp(const rw_ddlerp_args *a, const rw_exec *ex) {
    (void)ex;
    wide_gradients += a->dw2_dtype == RW_F32;
    narrow_gradients += a->dw2_dtype != RW_F32;
}

/* A matrix whose gradient is summed in f32 tells every kernel that writes it. */
static void wide_sums(void **unused) {
    (void)unused;
    enum { MATRICES = 2 + 12 * L, HEAD_CHUNKS = 3 };
    open_model("x060", RW_BF16);
    rw_kernels spied = *f.meta->kernels;
    spied.matmul = look_at_matmul;
    spied.embedding_backward = look_at_embedding;
    spied.ddlerp_backward = look_at_ddlerp;
    f.meta->kernels = &spied;
    for (int wide = 0; wide < 2; wide++) {
        rw_error err = {0};
        rw_tensor *hidden, *loss;
        rw_params *p = f.model->params;
        for (size_t i = 0; wide && i < p->layout.n_segments; i++)
            if (!is_vector(&p->layout.segments[i])) p->tensors[i].grad_dtype = RW_F32;
        wide_gradients = narrow_gradients = 0;
        step(RW_F32, &hidden, &loss);
        must(rw_tape_error(f.tape, &err), &err);
        /* the head's is the sum over its chunks, wide in any case */
        assert_int_equal(narrow_gradients, wide ? 0 : MATRICES - 1);
        assert_int_equal(wide_gradients, wide ? MATRICES - 1 + HEAD_CHUNKS : HEAD_CHUNKS);
        assert_int_equal(wide_logits, 0);
        rw_tape_record(f.tape, false);
        rw_tensor *logits =
            rw_matmul_wide(f.tape, rw_tape_wrap(f.tape, RW_BF16, 2, (int64_t[]){ROWS, C}, &f), f.model->head, true);
        rw_tape_record(f.tape, true);
        assert_int_equal(logits->dtype, RW_F32);
        assert_int_equal(wide_logits, 1);
        wide_logits = 0;
    }
    close_model();
}

/* Plain ops take both, but not mixed. */
static void plain_ops(void **unused) {
    (void)unused;
    rw_error err = {0};
    int64_t shape[] = {4, 8};
    open_model("x060", RW_BF16);
    rw_tensor *narrow = rw_tape_wrap(f.tape, RW_BF16, 2, shape, &f), *wide = rw_tape_wrap(f.tape, RW_F32, 2, shape, &f);
    assert_int_equal(rw_unary(f.tape, RW_UNARY_TANH, narrow, 0)->dtype, RW_BF16);
    assert_int_equal(rw_binary(f.tape, RW_BINARY_ADD, wide, wide)->dtype, RW_F32);
    assert_null(rw_binary(f.tape, RW_BINARY_ADD, narrow, wide));
    rw_tape_error(f.tape, &err);
    assert_string_equal(err.msg, "binary: b is f32, expected bf16");
    close_model();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_models), cmocka_unit_test(wrong_types),
                                       cmocka_unit_test(wide_sums), cmocka_unit_test(plain_ops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
