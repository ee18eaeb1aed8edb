/* relu squared and the receptance gate: finite differences, in place, without residual, without incoming gradient. */
#include "tests/unit/kernels/device_test.h"

TEST_OP(relu_sq, rw_relu_sq_args)
TEST_OP(rgate, rw_rgate_args)

static const int64_t sizes[] = {1, 7, 64, 300, 20000};

static void check_relu_sq(int64_t n) {
    gc g = {.seed = (uint64_t)n, .samples = 30};
    relu_sq_ctx c = {.d = test_device(RW_F64, 3), .a = {.dtype = RW_F64, .n = n}};
    double *x = gc_input(&g, "x", n, -1, 1);
    for (int64_t i = 0; i < n; i++)
        if (fabs(x[i]) < 1e-2) x[i] = 0.5; /* away from the bend, where differences mean nothing */
    c.a.x = x;
    c.a.out = gc_output(&g, "out", n);
    c.a.dout = gc_dout(&g, "out");
    c.a.dx = gc_grad(&g, "x");
    gc_check(&g, relu_sq_forward_fn, relu_sq_backward_fn, &c);
    uint32_t add = 0;
    const gc_slot slots[] = {{"x", &c.a.dx, 0}};
    gc_check_slots(&g, relu_sq_backward_fn, &c, slots, 1, &add);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_relu_sq(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_relu_sq(sizes[i]);
}

static void test_relu_sq_in_place_and_add(void **state) {
    (void)state;
    float x[4] = {-1, 2, 0.5f, -0.0f}, g[4] = {1, 10, 100, 1000}, sum[4] = {5, 5, 5, 5};
    rw_device *d = test_device(RW_F32, 1);
    rw_relu_sq_args a = {.dtype = RW_F32, .n = 4, .x = x, .out = x};
    d->kernels->relu_sq_forward(&a, &d->exec);
    const float out[4] = {0, 4, 0.25f, 0}, dx[4] = {0, 40, 100, 0}, added[4] = {5, 45, 105, 5};
    for (int i = 0; i < 4; i++) assert_true(x[i] == out[i]);
    a.dout = g, a.dx = sum, a.add = true;
    d->kernels->relu_sq_backward(&a, &d->exec);
    for (int i = 0; i < 4; i++) assert_true(sum[i] == added[i]);
    a.dx = g, a.add = false;
    d->kernels->relu_sq_backward(&a, &d->exec);
    for (int i = 0; i < 4; i++) assert_true(g[i] == dx[i]);
    a.dout = NULL;
    d->kernels->relu_sq_backward(&a, &d->exec);
    for (int i = 0; i < 4; i++) assert_true(g[i] == 0);
    float nan[1] = {NAN};
    a = (rw_relu_sq_args){.dtype = RW_F32, .n = 1, .x = nan, .out = nan};
    d->kernels->relu_sq_forward(&a, &d->exec);
    assert_true(isnan(nan[0])); /* broken numbers stay visible */
    rw_device_close(d);
}

static void check_rgate(int64_t n, bool residual) {
    gc g = {.seed = (uint64_t)n, .samples = 30};
    rgate_ctx c = {.d = test_device(RW_F64, 3), .a = {.dtype = RW_F64, .n = n}};
    c.a.q = gc_input(&g, "q", n, -4, 4);
    c.a.p = gc_input(&g, "p", n, -2, 2);
    double *r = gc_input(&g, "residual", n, -1, 1);
    if (residual) c.a.residual = r;
    c.a.out = gc_output(&g, "out", n);
    c.a.dout = gc_dout(&g, "out");
    c.a.dq = gc_grad(&g, "q");
    c.a.dp = gc_grad(&g, "p");
    gc_check(&g, rgate_forward_fn, rgate_backward_fn, &c);
    const gc_slot slots[] = {{"q", &c.a.dq, RW_RGATE_ADD_Q}, {"p", &c.a.dp, RW_RGATE_ADD_P}};
    gc_check_slots(&g, rgate_backward_fn, &c, slots, 2, &c.a.add);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_rgate(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int residual = 0; residual < 2; residual++) check_rgate(sizes[i], residual);
}

static void test_rgate_aliases(void **state) {
    (void)state;
    enum { N = 100 };
    rw_device *d = test_device(RW_F32, 2);
    float q[N], p[N], r[N], want[N];
    test_fill_f32(q, N, 1, -100, 100), test_fill_f32(p, N, 2, -1, 1), test_fill_f32(r, N, 3, -1, 1);
    rw_rgate_args a = {.dtype = RW_F32, .n = N, .q = q, .p = p, .residual = r, .out = want};
    d->kernels->rgate_forward(&a, &d->exec);
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)want[i] - ((double)r[i] + (double)p[i] / (1 + exp(-(double)q[i])))) < 1e-6);
    float copy[N];
    memcpy(copy, p, sizeof p);
    a.p = copy, a.out = copy;
    d->kernels->rgate_forward(&a, &d->exec);
    assert_memory_equal(copy, want, sizeof want);
    a.p = p, a.out = r;
    d->kernels->rgate_forward(&a, &d->exec);
    assert_memory_equal(r, want, sizeof want);
    float dq[N];
    a.dout = NULL, a.dq = dq;
    d->kernels->rgate_backward(&a, &d->exec);
    for (int i = 0; i < N; i++) assert_true(dq[i] == 0);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relu_sq),
        cmocka_unit_test(test_relu_sq_in_place_and_add),
        cmocka_unit_test(test_rgate),
        cmocka_unit_test(test_rgate_aliases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
