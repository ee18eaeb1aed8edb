/* Slabs and groups: outputs at one stride, gradients too, three products as one call each way with the bits of single
 * calls; and single calls where something lies elsewhere. */
#include "tests/unit/tensor/tape_test.h"

#include <stdio.h>

enum { R = 37, C = 64, F = 48, N = 3 };

static bench b;
static const rw_kernels *real_kernels;
static rw_kernels spied;
static int n_calls, n_batched;

static void spy_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    n_calls++;
    n_batched += a->batch > 1;
    real_kernels->matmul(a, ex);
}

static int open_bench(void **state) {
    (void)state;
    bench_open(&b);
    spied = *(real_kernels = b.device->kernels);
    spied.matmul = spy_matmul;
    b.device->kernels = &spied;
    return 0;
}
static int close_bench(void **state) {
    (void)state;
    b.device->kernels = real_kernels;
    bench_close(&b);
    return 0;
}

/* -- a layer: three mixes of x, a product each --------------------------------------------------------------------- */

typedef struct {
    double x[R * C], gamma[C], beta[C], mu[N][C], w[N * F * C + 64], dw[N * F * C + 64];
    rw_tensor params[N];
    rw_tensor *x_of_tape, *y[N];
} layer;

/* gap: elements between the weights; not the same between all of them: `crooked`. */
static void fill(layer *l, int64_t gap, bool crooked) {
    for (int i = 0; i < R * C; i++) l->x[i] = noise(1, i);
    for (int i = 0; i < C; i++) {
        l->gamma[i] = 1 + noise(2, i) / 2;
        l->beta[i] = noise(3, i);
        for (int k = 0; k < N; k++) l->mu[k][i] = noise((uint64_t)(4 + k), i);
    }
    for (int k = 0; k < N; k++) {
        int64_t at = k * (F * C + gap) + (crooked && k == 2);
        for (int i = 0; i < F * C; i++) l->w[at + i] = noise((uint64_t)(10 + k), i);
        l->params[k] = (rw_tensor){.dtype = RW_F64, .ndim = 2, .shape = {F, C}, .room = F * C, .data = l->w + at};
        l->params[k].grad = l->dw + at;
        l->params[k].requires_grad = l->params[k].is_param = true;
        l->params[k].share = l->params[k].grad_share = -1;
    }
}

static rw_tensor *vector(double *data) {
    return rw_tape_wrap(b.tape, RW_F64, 1, (int64_t[]){C}, data);
}

static void forward(layer *l, bool group) {
    rw_token_shift_in in = {.rows = {R, 1, NULL}, .eps = 1e-5, .n_mix = N, .n_slab = group ? N : 0};
    rw_tensor *mix[N], *w[N];
    in.x = l->x_of_tape = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, C}, l->x);
    in.x->requires_grad = true;
    in.gamma = vector(l->gamma);
    in.beta = vector(l->beta);
    for (int k = 0; k < N; k++) in.mu[k] = vector(l->mu[k]);
    rw_token_shift(b.tape, &in, mix, NULL, NULL);
    for (int k = 0; k < N; k++) w[k] = &l->params[k];
    if (group)
        rw_linear_group(b.tape, N, mix, w, true, l->y);
    else
        for (int k = 0; k < N; k++) l->y[k] = rw_matmul(b.tape, mix[k], w[k], true, NULL);
}

/* A step; `only`: the results whose gradient is asked for (bits). The gradients of results lie where seeds put them. */
static void step(layer *l, bool group, unsigned only, double *y, double *dx) {
    rw_error err = {0};
    double seed[R * F];
    n_calls = n_batched = 0;
    forward(l, group);
    must(rw_tape_error(b.tape, &err), &err);
    for (int k = 0; k < N; k++) {
        memcpy(y + k * R * F, l->y[k]->data, sizeof seed);
        for (int i = 0; i < R * F; i++) seed[i] = noise((uint64_t)(20 + k), i);
        if (only >> k & 1) rw_tape_seed_grad(b.tape, l->y[k], seed);
    }
    must(rw_tape_backward(b.tape, &err), &err);
    memcpy(dx, l->x_of_tape->grad, R * C * sizeof *dx);
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
}

static void compare(int64_t gap, bool crooked, unsigned only, bool twice, int calls, int batched) {
    static layer single, group;
    static double y[2][N * R * F], dx[2][R * C];
    memset(&single, 0, sizeof single);
    memset(&group, 0, sizeof group);
    fill(&single, gap, crooked);
    fill(&group, gap, crooked);
    for (int round = 0; round <= twice; round++) { /* the second adds */
        step(&single, false, only, y[0], dx[0]);
        step(&group, true, only, y[1], dx[1]);
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
        assert_memory_equal(single.dw, group.dw, sizeof single.dw);
        assert_int_equal(n_calls, calls);
        assert_int_equal(n_batched, batched);
    }
    for (int k = 0; k < N; k++) assert_int_equal(group.params[k].grad_written, only >> k & 1);
}

static void groups(void **state) {
    (void)state;
    compare(0, false, 7, true, 3, 3);  /* forward, dX, dW: one call each */
    compare(16, false, 7, true, 3, 3); /* a gap is a stride like any other */
    compare(16, true, 7, false, 9, 0); /* weights at no stride: forward, dX and dW call three times */
    compare(0, false, 5, false, 5, 1); /* no gradient for the second: it is left out */
    compare(0, false, 4, false, 3, 1);
}

static void frozen(void **state) {
    (void)state;
    static layer l;
    static double y[N * R * F], dx[R * C];
    fill(&l, 0, false);
    l.params[1].requires_grad = false;
    step(&l, true, 7, y, dx);
    assert_int_equal(n_calls, 1 + 1 + 2);
    assert_true(l.params[0].grad_written && !l.params[1].grad_written && l.params[2].grad_written);
}

/* -- where things lie ---------------------------------------------------------------------------------------------- */

static int64_t apart(const void *a, const void *c) {
    return (const char *)c - (const char *)a;
}

static void strides(void **state) {
    (void)state;
    static layer l;
    rw_error err = {0};
    double seed[R * F] = {0};
    fill(&l, 0, false);
    forward(&l, true);
    assert_int_equal(apart(l.y[0]->data, l.y[1]->data), apart(l.y[1]->data, l.y[2]->data));
    assert_true(apart(l.y[0]->data, l.y[1]->data) >= R * F * 8);
    for (int k = N - 1; k >= 0; k--) rw_tape_seed_grad(b.tape, l.y[k], seed);
    int64_t live = b.arena.live;
    assert_int_equal(apart(l.y[0]->grad, l.y[1]->grad), apart(l.y[1]->grad, l.y[2]->grad));
    rw_tape_seed_grad(b.tape, l.y[1], seed); /* nothing new is taken */
    assert_int_equal(b.arena.live, live);
    must(rw_tape_backward(b.tape, &err), &err);
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
}

/* Of ddlerp, the outputs k v r g lie as r k v g. */
static void strides_of_ddlerp(void **state) {
    (void)state;
    static double xn[R * C], h[R * 10], w2[10 * C], mu[C];
    rw_tensor *x = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, C}, xn), *out[RW_DDLERP_MIX];
    rw_tensor *m = vector(mu), *mus[] = {m, m, m, m, m};
    rw_tensor *hidden = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, 10}, h);
    rw_tensor *up = rw_tape_wrap(b.tape, RW_F64, 3, (int64_t[]){5, 2, C}, w2);
    rw_ddlerp(b.tape, (rw_rows){R, 1, NULL}, x, NULL, hidden, up, mus, out);
    int64_t pitch = apart(out[3]->data, out[1]->data);
    assert_true(pitch >= R * C * 8);
    assert_int_equal(apart(out[1]->data, out[2]->data), pitch);
    assert_int_equal(apart(out[2]->data, out[4]->data), pitch);
    rw_tape_reset(b.tape);
}

/* A gradient that came from elsewhere (the residual's) stands beside the slab, and the slab's memory is given back. */
static void moved_gradients(void **state) {
    (void)state;
    rw_error err = {0};
    static double xs[R * C], ws[C * C], seed[R * C];
    static const int64_t shape[] = {R, C}, square[] = {C, C};
    for (int i = 0; i < R * C; i++) xs[i] = seed[i] = noise(1, i);
    for (int i = 0; i < C * C; i++) ws[i] = noise(2, i);
    rw_tensor *x = rw_tape_wrap(b.tape, RW_F64, 2, shape, xs), *w = rw_tape_wrap(b.tape, RW_F64, 2, square, ws);
    x->requires_grad = w->requires_grad = true;
    rw_tensor *xx[] = {x, x}, *ww[] = {w, w}, *y[2];
    rw_scope s = rw_scope_begin(b.tape);
    rw_linear_group(b.tape, 2, xx, ww, true, y);
    rw_tensor *z = rw_matmul(b.tape, y[0], w, true, y[1]); /* y[1] gets the gradient of z itself */
    rw_scope_end(b.tape, s, &z, 1);
    rw_tape_seed_grad(b.tape, z, seed);
    must(rw_tape_backward(b.tape, &err), &err);
    assert_non_null(x->grad);
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
}

/* -- differences ----------------------------------------------------------------------------------------------------
 */

static void build(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    const bool *trans = ctx;
    rw_tensor *x[] = {in[0], in[0], in[1]}, *w[] = {in[2], in[3], in[2]};
    rw_linear_group(t, 3, x, w, *trans, out);
}

static void differences(void **state) {
    (void)state;
    for (int trans = 0; trans < 2; trans++) {
        bool by_rows = trans;
        int64_t rows = trans ? 3 : 5, cols = trans ? 5 : 3;
        tc_input in[] = {{"x0", 2, {4, 5}, -1, 1},
                         {"x1", 2, {4, 5}, -1, 1},
                         {"w0", 2, {rows, cols}, -1, 1},
                         {"w1", 2, {rows, cols}, -1, 1}};
        tc_check(&b, "group with shared factors", build, &by_rows, in, 4);
    }
}

static void refused(rw_tensor *x, rw_tensor *w0, rw_tensor *w1, const char *message) {
    rw_error err = {0};
    rw_tensor *xs[] = {x, x}, *ws[] = {w0, w1}, *y[2];
    rw_linear_group(b.tape, 2, xs, ws, true, y);
    assert_null(y[0]);
    assert_int_equal(rw_tape_error(b.tape, &err), RW_E_SHAPE);
    assert_string_equal(err.msg, message);
    rw_tape_reset(b.tape);
}

static rw_tensor *matrix(int64_t rows, int64_t cols) {
    static double some[64];
    return rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){rows, cols}, some);
}

static void mistakes(void **state) {
    (void)state;
    rw_tensor *y[1];
    refused(matrix(4, 5), matrix(3, 5), matrix(2, 5), "linear_group: w has shape (2,5), expected 15 elements");
    refused(matrix(4, 5), matrix(3, 5), matrix(3, 4), "matmul: shape (4,5) does not fit (3,4) transposed");
    refused(matrix(4, 5), matrix(3, 5), NULL, "matmul: b is missing");
    rw_linear_group(b.tape, 0, NULL, NULL, true, y);
    assert_int_equal(rw_tape_error(b.tape, NULL), RW_E_SHAPE);
    rw_tape_reset(b.tape);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups),          cmocka_unit_test(frozen),
                                       cmocka_unit_test(strides),         cmocka_unit_test(strides_of_ddlerp),
                                       cmocka_unit_test(moved_gradients), cmocka_unit_test(differences),
                                       cmocka_unit_test(mistakes)};
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
