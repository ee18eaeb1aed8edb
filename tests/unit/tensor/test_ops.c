/* Every op of ops.h through the tape: finite differences in fp64 for every input, and mistakes in shapes. */
#include "tests/unit/tensor/tape_test.h"

#include <stdio.h>

#define N_OF(a) ((int)(sizeof(a) / sizeof *(a)))

enum { R = 7, C = 6 };
static const int32_t borders[] = {0, 1, 5, 5, 7}; /* four sequences, one of them empty */
static const rw_rows packed = {R, 4, borders}, one_row = {R, 1, NULL};

static bench b;

static int open_bench(void **state) {
    (void)state;
    bench_open(&b);
    return 0;
}
static int close_bench(void **state) {
    (void)state;
    bench_close(&b);
    return 0;
}

/* -- products, norms, the embedding ------------------------------------------------------------------------------ */

static void build_matmul(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const bool *trans = ctx;
    out[0] = rw_matmul(t, in[0], in[1], *trans, in[2]);
}
static void build_matmul_alone(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    (void)ctx;
    out[0] = rw_matmul(t, in[0], in[1], true, NULL);
}
/* x appears as a, as b and as the residual: three gradients meet in one */
static void build_matmul_self(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    (void)ctx;
    out[0] = rw_matmul(t, in[0], in[0], true, in[0]);
}

static void matmul(void **state) {
    (void)state;
    bool trans = true, plain = false;
    tc_input linear[] = {{"a", 2, {4, 5}, -1, 1}, {"b", 2, {3, 5}, -1, 1}, {"c", 2, {4, 3}, -1, 1}};
    tc_check(&b, "matmul a b^T + c", build_matmul, &trans, linear, 3);
    tc_input right[] = {{"a", 3, {2, 2, 5}, -1, 1}, {"b", 2, {5, 3}, -1, 1}, {"c", 2, {4, 3}, -1, 1}};
    tc_check(&b, "matmul a b + c", build_matmul, &plain, right, 3);
    tc_input two[] = {{"a", 2, {1, 5}, -1, 1}, {"b", 2, {3, 5}, -1, 1}};
    tc_check(&b, "matmul of one row", build_matmul_alone, NULL, two, 2);
    tc_input self[] = {{"x", 2, {4, 4}, -1, 1}};
    tc_check(&b, "matmul x x^T + x", build_matmul_self, NULL, self, 1);
}

/* act: tanh(x w1), used by `users` products. */
typedef struct {
    rw_epilogue act;
    int users;
} act_case;

static void build_act(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const act_case *c = ctx;
    rw_tensor *h = rw_matmul_act(t, in[0], in[1], true, c->act);
    if (c->users == 0) out[0] = h; /* its gradient comes from outside */
    for (int i = 0; i < c->users; i++) out[i] = rw_matmul(t, h, in[2 + i], i, NULL);
}

static void activations(void **state) {
    (void)state;
    tc_input in[] = {
        {"x", 2, {4, 5}, -1, 1}, {"w1", 2, {3, 5}, -1, 1}, {"w2", 2, {3, 6}, -1, 1}, {"w3", 2, {2, 3}, -1, 1}};
    for (rw_epilogue f = RW_EPILOGUE_NONE; f <= RW_EPILOGUE_SIGMOID; f++)
        for (int users = 0; users <= 2; users++) {
            act_case c = {f, users};
            char what[64];
            snprintf(what, sizeof what, "product with activation %d, %d users", (int)f, users);
            tc_check(&b, what, build_act, &c, in, 2 + users);
        }
}

/* -- who takes the slope ---------------------------------------------------------------------------------------- */

static const rw_kernels *real_kernels;
static int slopes_alone, slopes_inside;

static void spy_unary_backward(const rw_unary_args *a, const rw_exec *ex) {
    slopes_alone++;
    real_kernels->unary_backward(a, ex);
}
static void spy_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    slopes_inside += a->epilogue >= RW_EPILOGUE_D_RELU_SQ;
    real_kernels->matmul(a, ex);
}

/* The product behind an activation takes its slope along; with two of them, a pass of its own does. */
static void slope_rides_along(void **state) {
    (void)state;
    double x[20], w[18], ones[24];
    rw_kernels spied = *(real_kernels = b.device->kernels);
    spied.unary_backward = spy_unary_backward;
    spied.matmul = spy_matmul;
    b.device->kernels = &spied;
    for (int i = 0; i < 20; i++) x[i] = noise(1, i);
    for (int i = 0; i < 18; i++) w[i] = noise(2, i);
    for (int i = 0; i < 24; i++) ones[i] = 1;
    for (int users = 1; users <= 2; users++) {
        rw_error err = {0};
        act_case c = {RW_EPILOGUE_TANH, users};
        rw_tensor *in[4] = {rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){4, 5}, x),
                            rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){3, 5}, w),
                            rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){3, 6}, w),
                            rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){2, 3}, w)};
        rw_tensor *out[2];
        for (int i = 0; i < 4; i++) in[i]->requires_grad = true;
        slopes_alone = slopes_inside = 0;
        build_act(b.tape, in, out, &c);
        for (int i = 0; i < users; i++) rw_tape_seed_grad(b.tape, out[i], ones);
        must(rw_tape_backward(b.tape, &err), &err);
        assert_int_equal(slopes_inside, users == 1);
        assert_int_equal(slopes_alone, users == 2);
        rw_tape_reset(b.tape);
    }
    b.device->kernels = real_kernels;
}

static void wide_product(void **state) {
    (void)state;
    rw_error err = {0};
    double x[20], w[15];
    for (int i = 0; i < 20; i++) x[i] = noise(1, i);
    for (int i = 0; i < 15; i++) w[i] = noise(2, i);
    rw_tensor *a = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){4, 5}, x);
    rw_tensor *c = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){3, 5}, w);
    rw_tensor *y = rw_matmul_wide(b.tape, a, c, true), *same = rw_matmul(b.tape, a, c, true, NULL);
    assert_memory_equal(y->data, same->data, 12 * sizeof(double));
    a->requires_grad = true;
    assert_null(rw_matmul_wide(b.tape, a, c, true));
    assert_int_equal(rw_tape_error(b.tape, &err), RW_E_SHAPE);
    assert_string_equal(err.msg, "matmul: a wide product has no backward pass");
    rw_tape_reset(b.tape);
    assert_null(rw_matmul_act(b.tape, rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){4, 5}, x),
                              rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){3, 5}, w), true, RW_EPILOGUE_D_TANH));
    assert_int_equal(rw_tape_error(b.tape, &err), RW_E_SHAPE);
    rw_tape_reset(b.tape);
}

static const int32_t tokens[R] = {3, 0, 3, 4, 1, 3, 0};

static void build_embedding(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const bool *norm = ctx;
    out[0] = rw_embedding(t, in[0], tokens, R, *norm ? in[1] : NULL, *norm ? in[2] : NULL, 1e-5);
}

static void embedding(void **state) {
    (void)state;
    bool norm = true, plain = false;
    tc_input in[] = {{"weight", 2, {5, C}, -1, 1}, {"gamma", 1, {C}, 0.5, 1.5}, {"beta", 1, {C}, -1, 1}};
    tc_check(&b, "embedding with norm", build_embedding, &norm, in, 3);
    tc_check(&b, "embedding", build_embedding, &plain, in, 1);
}

static void build_norm(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const int64_t *n_head = ctx;
    out[0] =
        *n_head ? rw_group_norm(t, in[0], in[1], in[2], *n_head, 1e-3) : rw_layer_norm(t, in[0], in[1], in[2], 1e-5);
}

static void norms(void **state) {
    (void)state;
    int64_t heads = 2, none = 0;
    tc_input in[] = {{"x", 2, {R, 8}, -2, 2}, {"gamma", 1, {8}, 0.5, 1.5}, {"beta", 1, {8}, -1, 1}};
    tc_check(&b, "layer_norm", build_norm, &none, in, 3);
    tc_check(&b, "group_norm", build_norm, &heads, in, 3);
}

/* -- token shift and ddlerp ------------------------------------------------------------------------------------------
 */

typedef struct {
    rw_rows rows;
    int n_mix;
    bool times_current, shift, xn, shift_out;
} shift_case;

static void build_shift(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const shift_case *c = ctx;
    rw_token_shift_in a = {.rows = c->rows, .x = in[0], .gamma = in[1], .beta = in[2], .eps = 1e-5, .n_mix = c->n_mix};
    a.times_current = c->times_current;
    for (int i = 0; i < c->n_mix; i++) a.mu[i] = in[3 + i];
    a.shift_in = c->shift ? in[3 + c->n_mix] : NULL;
    rw_tensor *mix[RW_MAX_MIX], *xn, *shift_out;
    rw_token_shift(t, &a, mix, c->xn ? &xn : NULL, c->shift_out ? &shift_out : NULL);
    int n = 0;
    for (int i = 0; i < c->n_mix; i++) out[n++] = mix[i];
    if (c->xn) out[n++] = xn;
    if (c->shift_out) out[n++] = shift_out;
}

static void token_shift(void **state) {
    (void)state;
    static const shift_case cases[] = {{{R, 4, borders}, 2, false, true, true, true},
                                       {{R, 4, borders}, 1, true, true, false, false},
                                       {{R, 1, NULL}, 5, false, false, true, false},
                                       {{R, 1, NULL}, 1, false, true, true, true}};
    static const int64_t shift_rows[] = {4, 1, 1, 1}; /* the second: one row shared by four sequences */
    for (int k = 0; k < N_OF(cases); k++) {
        const shift_case *c = &cases[k];
        tc_input in[TC_IN] = {{"x", 2, {R, C}, -2, 2}, {"gamma", 1, {C}, 0.5, 1.5}, {"beta", 1, {C}, -1, 1}};
        int n = 3;
        for (int i = 0; i < c->n_mix; i++) in[n++] = (tc_input){"mu", 3, {1, 1, C}, 0, 1};
        if (c->shift) in[n++] = (tc_input){"shift_in", 2, {shift_rows[k], C}, -1, 1};
        char what[64];
        snprintf(what, sizeof what, "token_shift, case %d", k);
        tc_check(&b, what, build_shift, c, in, n);
    }
}

typedef struct {
    rw_rows rows;
    bool shift;
} lerp_case;

/* h is used up, so the op gets a copy */
static void build_ddlerp(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const lerp_case *c = ctx;
    rw_tensor *mu[] = {in[3], in[4], in[5], in[6], in[7]};
    rw_tensor *h = rw_unary(t, RW_UNARY_COPY, in[1], 0);
    rw_ddlerp(t, c->rows, in[0], c->shift ? in[8] : NULL, h, in[2], mu, out);
}

static void ddlerp(void **state) {
    (void)state;
    static const lerp_case each = {{R, 4, borders}, true}, none = {{R, 1, NULL}, false};
    for (int k = 0; k < 3; k++) {
        tc_input in[9] = {{"xn", 2, {R, C}, -1, 1}, {"h", 2, {R, 5 * 3}, -1, 1}, {"w2", 3, {5, 3, C}, -1, 1}};
        for (int i = 3; i < 8; i++) in[i] = (tc_input){"mu", 3, {1, 1, C}, 0, 1};
        in[8] = (tc_input){"shift_in", 2, {k == 0 ? 4 : 1, C}, -1, 1};
        tc_check(&b,
                 k == 0   ? "ddlerp, state each"
                 : k == 1 ? "ddlerp, shared state"
                          : "ddlerp, no state",
                 build_ddlerp, k == 2 ? &none : &each, in, k == 2 ? 8 : 9);
    }
}

/* -- wkv6 -------------------------------------------------------------------------------------------------------------
 */

typedef struct {
    rw_rows rows;
    bool state, w0, gate, norm, s_out;
} wkv_case;
enum { H = 2, N = 32 };

static void build_wkv(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const wkv_case *c = ctx;
    rw_wkv6_in a = {.rows = c->rows, .n_head = H, .head_size = N, .eps = 64e-5};
    int n = 5;
    a.r = in[0], a.k = in[1], a.v = in[2], a.w_raw = in[3], a.u = in[4];
    if (c->state) a.s0 = in[n++];
    if (c->w0) a.w0 = in[n++];
    if (c->gate) a.gate = in[n++];
    if (c->norm) a.ln_w = in[n++], a.ln_b = in[n++];
    out[0] = rw_wkv6(t, &a, c->s_out ? &out[1] : NULL);
}

static void wkv6(void **state) {
    (void)state;
    static const wkv_case cases[] = {{{R, 4, borders}, true, true, true, true, true},
                                     {{R, 4, borders}, true, false, false, false, true},
                                     {{R, 1, NULL}, false, true, true, true, false},
                                     {{R, 1, NULL}, true, false, true, false, true}};
    static const int64_t states[] = {4, 1, 1, 1}; /* the second: one shared by four sequences */
    for (int k = 0; k < N_OF(cases); k++) {
        const wkv_case *c = &cases[k];
        const int64_t D = H * N;
        tc_input in[TC_IN] = {{"r", 2, {R, D}, -1, 1},
                              {"k", 2, {R, D}, -1, 1},
                              {"v", 2, {R, D}, -1, 1},
                              {"w_raw", 2, {R, D}, -2, 1},
                              {"u", 2, {H, N}, -1, 1}};
        int n = 5;
        if (c->state) in[n++] = (tc_input){"s0", 4, {states[k], H, N, N}, -1, 1};
        if (c->w0) in[n++] = (tc_input){"w0", 3, {1, 1, D}, -2, 0};
        if (c->gate) in[n++] = (tc_input){"gate", 2, {R, D}, -2, 2};
        if (c->norm) {
            in[n++] = (tc_input){"ln_w", 1, {D}, 0.5, 1.5};
            in[n++] = (tc_input){"ln_b", 1, {D}, -1, 1};
        }
        char what[64];
        snprintf(what, sizeof what, "wkv6, case %d", k);
        tc_check(&b, what, build_wkv, c, in, n);
    }
}

/* -- wkv7 ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_rows rows;
    int64_t n_states; /* 0: zeros */
    bool value_mix, gate, bonus, norm, s_out;
} wkv7_case;

static void build_wkv7(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const wkv7_case *c = ctx;
    rw_wkv7_in a = {.rows = c->rows, .n_head = H, .head_size = N, .eps = 64e-5};
    rw_tensor **to[] = {&a.r, &a.w_raw, &a.k0, &a.v, &a.a_up, &a.w0, &a.a0, &a.k_k, &a.k_a};
    int n = 0;
    while (n < N_OF(to)) {
        *to[n] = in[n];
        n++;
    }
    if (c->n_states) a.s0 = in[n++];
    if (c->value_mix) {
        a.v_up = in[n++];
        a.v_first = in[n++];
        a.v0 = in[n++];
    }
    if (c->gate) a.g = in[n++];
    if (c->bonus) a.r_k = in[n++];
    if (c->norm) {
        a.ln_w = in[n++];
        a.ln_b = in[n++];
    }
    out[0] = rw_wkv7(t, &a, c->s_out ? &out[1] : NULL);
}

static void wkv7(void **state) {
    (void)state;
    static const wkv7_case cases[] = {{{R, 4, borders}, 4, true, true, true, true, true},
                                      {{R, 4, borders}, 1, false, false, false, false, true}, /* a shared state */
                                      {{R, 1, NULL}, 0, true, true, false, true, false},
                                      {{R, 1, NULL}, 1, false, true, true, true, true},
                                      {{R, 1, NULL}, 1, true, false, true, false, true}};
    for (int k = 0; k < N_OF(cases); k++) {
        const wkv7_case *c = &cases[k];
        const int64_t D = H * N;
        tc_input in[TC_IN] = {
            {"r", 2, {R, D}, -1, 1},     {"w_raw", 2, {R, D}, -2, 1},   {"k0", 2, {R, D}, -1, 1},
            {"v", 2, {R, D}, -1, 1},     {"a_up", 2, {R, D}, -1, 1},    {"w0", 3, {1, 1, D}, -2, 0},
            {"a0", 3, {1, 1, D}, -1, 1}, {"k_k", 3, {1, 1, D}, 0.5, 1}, {"k_a", 3, {1, 1, D}, 0.5, 1.5}};
        int n = 9;
        if (c->n_states) in[n++] = (tc_input){"s0", 4, {c->n_states, H, N, N}, -1, 1};
        if (c->value_mix) {
            in[n++] = (tc_input){"v_up", 2, {R, D}, -1, 1};
            in[n++] = (tc_input){"v_first", 2, {R, D}, -1, 1};
            in[n++] = (tc_input){"v0", 3, {1, 1, D}, -1, 1};
        }
        if (c->gate) in[n++] = (tc_input){"g", 2, {R, D}, -1, 1};
        if (c->bonus) in[n++] = (tc_input){"r_k", 2, {H, N}, -1, 1};
        if (c->norm) {
            in[n++] = (tc_input){"ln_w", 1, {D}, 0.5, 1.5};
            in[n++] = (tc_input){"ln_b", 1, {D}, -1, 1};
        }
        char what[64];
        snprintf(what, sizeof what, "wkv7, case %d", k);
        tc_check(&b, what, build_wkv7, c, in, n);
    }
}

/* -- elementwise
 * ------------------------------------------------------------------------------------------------------- */

static void build_relu_sq(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    (void)ctx;
    out[0] = rw_relu_sq(t, rw_unary(t, RW_UNARY_SCALE, in[0], 1.5));
}
static void build_rgate(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const int *form = ctx; /* 0: three inputs; 1: no residual; 2: one tensor in all three places */
    out[0] = rw_rgate(t, in[0], *form == 2 ? in[0] : in[1], *form == 1 ? NULL : *form == 2 ? in[0] : in[2]);
}

static void channel_mix(void **state) {
    (void)state;
    int three = 0, two = 1, one = 2;
    tc_input in[] = {{"q", 2, {4, 5}, -2, 2}, {"p", 2, {4, 5}, -1, 1}, {"residual", 2, {4, 5}, -1, 1}};
    tc_check(&b, "relu_sq", build_relu_sq, NULL, in, 1);
    tc_check(&b, "rgate", build_rgate, &three, in, 3);
    tc_check(&b, "rgate without residual", build_rgate, &two, in, 2);
    tc_check(&b, "rgate of one tensor", build_rgate, &one, in, 1);
}

static void build_unary(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const rw_unary_op *op = ctx;
    out[0] = rw_unary(t, *op, in[0], -0.7);
}

static void unary(void **state) {
    (void)state;
    for (rw_unary_op op = RW_UNARY_COPY; op < RW_UNARY_COUNT; op++) {
        bool positive = op == RW_UNARY_LOG || op == RW_UNARY_SQRT;
        tc_input in[] = {{"x", 2, {4, 5}, positive ? 0.5 : -2, 2}};
        char what[32];
        snprintf(what, sizeof what, "unary %d", (int)op);
        tc_check(&b, what, build_unary, &op, in, 1);
    }
}

static void build_binary(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const rw_binary_op *op = ctx;
    out[0] = rw_binary(t, *op, in[0], in[1]);
}
static void build_binary_self(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const rw_binary_op *op = ctx;
    out[0] = rw_binary(t, *op, in[0], in[0]);
}

static void binary(void **state) {
    (void)state;
    for (rw_binary_op op = RW_BINARY_ADD; op <= RW_BINARY_DIV; op++) {
        tc_input same[] = {{"a", 2, {4, 5}, 0.5, 2}, {"b", 2, {4, 5}, 0.5, 2}};
        tc_input row[] = {{"a", 3, {2, 3, 5}, 0.5, 2}, {"b", 2, {3, 5}, 0.5, 2}};
        tc_input lead[] = {{"a", 2, {4, 5}, 0.5, 2}, {"b", 2, {1, 5}, 0.5, 2}};
        tc_input one[] = {{"a", 2, {4, 5}, 0.5, 2}, {"b", 1, {1}, 0.5, 2}};
        char what[32];
        snprintf(what, sizeof what, "binary %d", (int)op);
        tc_check(&b, what, build_binary, &op, same, 2);
        tc_check(&b, what, build_binary, &op, row, 2);
        tc_check(&b, what, build_binary, &op, lead, 2);
        tc_check(&b, what, build_binary, &op, one, 2);
        if (op == RW_BINARY_MUL || op == RW_BINARY_ADD) tc_check(&b, what, build_binary_self, &op, same, 1);
    }
}

/* -- head and loss
 * ---------------------------------------------------------------------------------------------------------- */

enum { V = 9 };
static const int32_t targets[R] = {0, 8, 3, 3, 1, 2, 7};
static const float mask[R] = {1, 0, 0.5f, 1, 1, 0, 2};

typedef struct {
    int64_t chunk;
    const float *mask;
} head_case;

static void build_head(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const head_case *c = ctx;
    out[0] = rw_head_loss(t, in[0], in[1], targets, c->mask, c->chunk);
}

static void head_differences(void **state) {
    (void)state;
    b.scalars.normaliser = 0.37;
    b.scalars.l2wrap_mask = b.scalars.l2wrap_rows = 0;
    for (int k = 0; k < 6; k++) {
        static const int64_t chunks[] = {1, 3, 100};
        head_case c = {chunks[k % 3], k < 3 ? mask : NULL};
        double weight[R];
        for (int i = 0; i < R; i++) weight[i] = 0.37 * (c.mask ? (double)mask[i] : 1);
        tc_input in[] = {{"hidden", 2, {R, C}, -1, 1}, {"weight", 2, {V, C}, -1, 1}};
        tc_case check = {.b = &b, .build = build_head, .ctx = &c, .in = in, .n_in = 2, .loss_weight = weight};
        tc_run(&check, "head_loss");
    }
}

/* The gradient of logits by the formula of head_loss.h, L2Wrap included. */
static void dlogits_of(const double *z, int row, double *loss, double *dz) {
    double top = z[0], sum = 0;
    int arg = 0;
    for (int j = 1; j < V; j++)
        if (z[j] > top) top = z[j], arg = j;
    for (int j = 0; j < V; j++) sum += exp(z[j] - top);
    *loss = log(sum) + top - z[targets[row]];
    for (int j = 0; j < V; j++)
        dz[j] = (exp(z[j] - top) / sum - (j == targets[row])) * (double)mask[row] * b.scalars.normaliser;
    dz[arg] += z[arg] * (b.scalars.l2wrap_mask * (double)mask[row] + b.scalars.l2wrap_rows);
}

static void head_by_hand(void **state) {
    (void)state;
    double *h = noise_array(1, R * C, -2, 2), *w = noise_array(2, V * C, -1, 1), *loss = noise_array(3, R, 0, 0);
    double *dh = noise_array(3, R * C, 0, 0), *dw = noise_array(3, V * C, 0, 0);
    b.scalars.normaliser = 0.21;
    b.scalars.l2wrap_mask = 3e-2;
    b.scalars.l2wrap_rows = 5e-2;
    for (int i = 0; i < R; i++) {
        double z[V] = {0}, dz[V];
        for (int j = 0; j < V; j++)
            for (int c = 0; c < C; c++) z[j] += h[i * C + c] * w[j * C + c];
        dlogits_of(z, i, &loss[i], dz);
        for (int j = 0; j < V; j++)
            for (int c = 0; c < C; c++) {
                dh[i * C + c] += dz[j] * w[j * C + c];
                dw[j * C + c] += dz[j] * h[i * C + c];
            }
    }
    for (int64_t chunk = 1; chunk <= R + 1; chunk++) {
        rw_error err = {0};
        rw_tape_reset(b.tape);
        rw_tensor *x = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, C}, h);
        rw_tensor *weight = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){V, C}, w);
        x->requires_grad = weight->requires_grad = true;
        rw_tensor *y = rw_head_loss(b.tape, x, weight, targets, mask, chunk);
        assert_non_null(y);
        for (int i = 0; i < R; i++) assert_true(fabs(((double *)y->data)[i] - loss[i]) < 1e-13);
        must(rw_tape_backward(b.tape, &err), &err);
        for (int i = 0; i < R * C; i++) assert_true(fabs(((double *)x->grad)[i] - dh[i]) < 1e-13);
        for (int i = 0; i < V * C; i++) assert_true(fabs(((double *)weight->grad)[i] - dw[i]) < 1e-13);
        rw_tape_reset(b.tape);
    }
    b.scalars = (rw_step_scalars){.step = 1, .normaliser = 1};
    rw_free(h), rw_free(w), rw_free(loss), rw_free(dh), rw_free(dw);
}

/* -- mistakes
 * ----------------------------------------------------------------------------------------------------------------- */

static double some[4096];

static rw_tensor *wrong(int ndim, int64_t a, int64_t c, int64_t d, int64_t e) {
    return rw_tape_wrap(b.tape, RW_F64, ndim, (int64_t[]){a, c, d, e}, some);
}

/* The tape failed with RW_E_SHAPE and a text with `part`, and gives up what it had. */
static void failed(const char *part) {
    rw_error err = {0};
    assert_int_equal(rw_tape_error(b.tape, &err), RW_E_SHAPE);
    if (!strstr(err.msg, part)) fail_msg("'%s' is not in '%s'", part, err.msg);
    rw_tensor *x = wrong(2, 2, 2, 0, 0); /* all ops are quiet now */
    assert_null(x);
    assert_null(rw_unary(b.tape, RW_UNARY_TANH, x, 0));
    assert_int_not_equal(rw_tape_backward(b.tape, NULL), RW_OK);
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
    assert_int_equal(rw_tape_error(b.tape, NULL), RW_OK);
}

static void mistakes_of_products(void **state) {
    (void)state;
    assert_null(rw_matmul(b.tape, wrong(2, 4, 5, 0, 0), wrong(2, 3, 4, 0, 0), true, NULL));
    failed("matmul: shape (4,5) does not fit (3,4) transposed");
    assert_null(rw_matmul(b.tape, wrong(2, 4, 5, 0, 0), wrong(2, 4, 3, 0, 0), false, NULL));
    failed("matmul: shape (4,5) does not fit (4,3)");
    assert_null(rw_matmul(b.tape, wrong(2, 4, 5, 0, 0), wrong(2, 3, 5, 0, 0), true, wrong(2, 4, 4, 0, 0)));
    failed("matmul: c has shape (4,4), expected 12 elements");
    assert_null(rw_matmul(b.tape, NULL, wrong(2, 3, 5, 0, 0), true, NULL));
    failed("matmul: a is missing");
    rw_tensor *f32 = rw_tape_wrap(b.tape, RW_F32, 2, (int64_t[]){4, 5}, some);
    assert_null(rw_matmul(b.tape, f32, wrong(2, 3, 5, 0, 0), true, NULL));
    failed("matmul: a is f32, expected f64");
    assert_null(rw_embedding(b.tape, wrong(2, 5, 6, 0, 0), tokens, R, wrong(1, 5, 0, 0, 0), wrong(1, 6, 0, 0, 0), 0));
    failed("embedding: gamma has shape (5), expected 6 elements");
    assert_null(rw_layer_norm(b.tape, wrong(2, 5, 6, 0, 0), wrong(1, 6, 0, 0, 0), NULL, 0));
    failed("layer_norm: beta is missing");
    assert_null(rw_group_norm(b.tape, wrong(2, 5, 6, 0, 0), wrong(1, 6, 0, 0, 0), wrong(1, 6, 0, 0, 0), 4, 0));
    failed("group_norm: 6 channels cannot be cut into 4 heads");
    assert_null(rw_head_loss(b.tape, wrong(2, 5, 6, 0, 0), wrong(2, 9, 7, 0, 0), targets, NULL, 2));
    failed("head_loss: hidden has shape (5,6), expected 35 elements");
    assert_null(rw_tape_reshape(b.tape, wrong(2, 5, 6, 0, 0), 2, (int64_t[]){5, 5}));
    failed("reshape: 30 elements cannot become 25");
}

static void mistakes_of_rows(void **state) {
    (void)state;
    rw_tensor *out[RW_MAX_MIX], *xn, *last;
    rw_token_shift_in s = {.rows = {R, 2, NULL}, .n_mix = 1, .eps = 1e-5};
    for (int k = 0; k < 3; k++) {
        s.x = wrong(2, R, C, 0, 0), s.gamma = s.beta = wrong(1, C, 0, 0, 0);
        s.mu[0] = wrong(1, k == 0 ? C - 1 : C, 0, 0, 0);
        s.rows = k == 1 ? (rw_rows){R, 2, NULL} : (rw_rows){R, 1, NULL};
        s.shift_in = k == 2 ? wrong(1, C + 1, 0, 0, 0) : NULL;
        rw_token_shift(b.tape, &s, out, &xn, &last);
        assert_null(out[0]), assert_null(xn), assert_null(last);
        failed(k == 0   ? "token_shift: mu has shape (5), expected 6 elements"
               : k == 1 ? "token_shift: 7 rows in 2 sequences do not fit 7 rows"
                        : "token_shift: a state of 7 elements does not fit 1 sequences of 6");
    }
    for (int k = 0; k < 3; k++) {
        rw_tensor *mu[] = {wrong(1, C, 0, 0, 0), wrong(1, C, 0, 0, 0), wrong(1, C, 0, 0, 0), wrong(1, C, 0, 0, 0),
                           k == 0 ? NULL : wrong(1, C, 0, 0, 0)};
        rw_ddlerp(b.tape, one_row, wrong(2, R, C, 0, 0), k == 2 ? wrong(1, C - 1, 0, 0, 0) : NULL,
                  wrong(2, R, 15, 0, 0), wrong(3, 5, k == 1 ? 2 : 3, C, 0), mu, out);
        for (int i = 0; i < RW_DDLERP_MIX; i++) assert_null(out[i]);
        failed(k == 0   ? "ddlerp: mu is missing"
               : k == 1 ? "ddlerp: w2 has shape (5,2,6), expected 90 elements"
                        : "ddlerp: a state of 5 elements does not fit 1 sequences of 6");
    }
    for (int k = 0; k < 4; k++) {
        rw_wkv6_in w = {.rows = packed, .n_head = 1, .head_size = k == 0 ? 48 : 32};
        w.r = w.k = w.v = w.w_raw = wrong(2, R, 32, 0, 0);
        w.u = k == 1 ? wrong(2, 1, 31, 0, 0) : wrong(2, 1, 32, 0, 0);
        w.s0 = k == 2 ? wrong(3, 1, 32, 31, 0) : NULL;
        w.ln_w = k == 3 ? wrong(1, 32, 0, 0, 0) : NULL;
        assert_null(rw_wkv6(b.tape, &w, &last));
        assert_null(last);
        failed(k == 0   ? "wkv6: head size 48, expected 32, 64 or 128"
               : k == 1 ? "wkv6: u has shape (1,31), expected 32 elements"
               : k == 2 ? "wkv6: a state of 992 elements does not fit 4 sequences of 1024"
                        : "wkv6: ln_b is missing");
    }
}

static void mistakes_of_wkv7(void **state) {
    (void)state;
    static const char *const said[] = {"wkv7: head size 48, expected 32, 64 or 128",
                                       "wkv7: v_first is missing",
                                       "wkv7: v0 is missing",
                                       "wkv7: a state of 992 elements does not fit 4 sequences",
                                       "wkv7: k_k has shape (31), expected 32 elements",
                                       "wkv7: ln_b is missing"};
    for (int k = 0; k < N_OF(said); k++) {
        rw_tensor *last, *vector = wrong(1, 32, 0, 0, 0);
        rw_wkv7_in w = {.rows = packed, .n_head = 1, .head_size = k == 0 ? 48 : 32};
        w.r = w.w_raw = w.k0 = w.v = w.a_up = wrong(2, R, 32, 0, 0);
        w.w0 = w.a0 = w.k_a = vector;
        w.k_k = k == 4 ? wrong(1, 31, 0, 0, 0) : vector;
        w.v_up = k == 1 || k == 2 ? w.r : NULL;
        w.v_first = k == 2 ? w.r : NULL;
        w.s0 = k == 3 ? wrong(3, 1, 32, 31, 0) : NULL;
        w.ln_w = k == 5 ? vector : NULL;
        assert_null(rw_wkv7(b.tape, &w, &last));
        assert_null(last);
        failed(said[k]);
    }
}

static void mistakes_of_elements(void **state) {
    (void)state;
    assert_null(rw_rgate(b.tape, wrong(2, 4, 5, 0, 0), wrong(2, 4, 4, 0, 0), NULL));
    failed("rgate: p has shape (4,4), expected 20 elements");
    assert_null(rw_unary(b.tape, RW_UNARY_TANH, NULL, 0));
    failed("unary: x is missing");
    static const int64_t bad[][3] = {{2, 4, 7}, {2, 8, 1}, {2, 8, 4}, {1, 32, 0}, {1, 4, 0}, {2, 2, 8}};
    for (int k = 0; k < N_OF(bad); k++) {
        assert_null(rw_binary(b.tape, RW_BINARY_ADD, k == 1 ? wrong(2, 8, 8, 0, 0) : wrong(2, 4, 8, 0, 0),
                              wrong((int)bad[k][0], bad[k][1], bad[k][2], 0, 0)));
        failed("does not match");
    }
    assert_null(rw_binary(b.tape, RW_BINARY_ADD, wrong(1, 8, 0, 0, 0), wrong(2, 4, 8, 0, 0)));
    failed("binary: shape (8) does not match (4,8)");
    rw_tensor *huge = rw_tape_wrap(b.tape, RW_F64, 4, (int64_t[]){INT32_MAX, INT32_MAX, 1, 1}, some);
    assert_null(rw_binary(b.tape, RW_BINARY_ADD, wrong(2, 4, 8, 0, 0), huge));
    failed("does not match (2147483647,2147483647,1,1)");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(matmul),
                                       cmocka_unit_test(activations),
                                       cmocka_unit_test(slope_rides_along),
                                       cmocka_unit_test(wide_product),
                                       cmocka_unit_test(embedding),
                                       cmocka_unit_test(norms),
                                       cmocka_unit_test(token_shift),
                                       cmocka_unit_test(ddlerp),
                                       cmocka_unit_test(wkv6),
                                       cmocka_unit_test(wkv7),
                                       cmocka_unit_test(channel_mix),
                                       cmocka_unit_test(unary),
                                       cmocka_unit_test(binary),
                                       cmocka_unit_test(head_differences),
                                       cmocka_unit_test(head_by_hand),
                                       cmocka_unit_test(mistakes_of_products),
                                       cmocka_unit_test(mistakes_of_rows),
                                       cmocka_unit_test(mistakes_of_wkv7),
                                       cmocka_unit_test(mistakes_of_elements)};
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
