/* layer_norm and group_norm: the formulas in long double, gradients by differences, large means, one channel, the same
 * bits for any number of threads. */
#include "tests/unit/kernels/device_test.h"

TEST_OP(layer_norm, rw_layer_norm_args)
TEST_OP(group_norm, rw_group_norm_args)

/* -- gradients -------------------------------------------------------------------------------------------- */

static void layer_gradients(int64_t R, int64_t C, double eps, int threads) {
    layer_norm_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 3, .samples = 60};
    rw_layer_norm_args *a = &c.a;
    *a = (rw_layer_norm_args){.dtype = RW_F64, .R = R, .C = C, .eps = eps};
    a->x = gc_input(&g, "x", R * C, -2, 3);
    a->gamma = gc_input(&g, "gamma", C, -1, 2), a->beta = gc_input(&g, "beta", C, -1, 1);
    a->out = gc_output(&g, "out", R * C), a->dout = gc_dout(&g, "out");
    a->mean = gc_output(&g, "mean", R), a->rstd = gc_output(&g, "rstd", R);
    a->dx = gc_grad(&g, "x"), a->dgamma = gc_grad(&g, "gamma"), a->dbeta = gc_grad(&g, "beta");
    a->scratch = gc_scratch(&g, c.d->kernels->layer_norm_backward_scratch(a, &c.d->exec));
    gc_check(&g, layer_norm_forward_fn, layer_norm_backward_fn, &c);
    const gc_slot slots[] = {
        {"x", &a->dx, RW_NORM_ADD_X}, {"gamma", &a->dgamma, RW_NORM_ADD_GAMMA}, {"beta", &a->dbeta, RW_NORM_ADD_BETA}};
    gc_check_slots(&g, layer_norm_backward_fn, &c, slots, 3, &a->add);
    printf("layer_norm R %lld C %lld: worst difference %.2g\n", (long long)R, (long long)C, g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void group_gradients(int64_t R, int64_t H, int64_t N, int threads) {
    group_norm_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 4, .samples = 60};
    rw_group_norm_args *a = &c.a;
    *a = (rw_group_norm_args){.dtype = RW_F64, .R = R, .H = H, .N = N, .eps = 64e-5};
    a->x = gc_input(&g, "x", R * H * N, -2, 3);
    a->gamma = gc_input(&g, "gamma", H * N, -1, 2), a->beta = gc_input(&g, "beta", H * N, -1, 1);
    a->out = gc_output(&g, "out", R * H * N), a->dout = gc_dout(&g, "out");
    a->mean = gc_output(&g, "mean", R * H), a->rstd = gc_output(&g, "rstd", R * H);
    a->dx = gc_grad(&g, "x"), a->dgamma = gc_grad(&g, "gamma"), a->dbeta = gc_grad(&g, "beta");
    a->scratch = gc_scratch(&g, c.d->kernels->group_norm_backward_scratch(a, &c.d->exec));
    gc_check(&g, group_norm_forward_fn, group_norm_backward_fn, &c);
    const gc_slot slots[] = {
        {"x", &a->dx, RW_NORM_ADD_X}, {"gamma", &a->dgamma, RW_NORM_ADD_GAMMA}, {"beta", &a->dbeta, RW_NORM_ADD_BETA}};
    gc_check_slots(&g, group_norm_backward_fn, &c, slots, 3, &a->add);
    printf("group_norm R %lld H %lld N %lld: worst difference %.2g\n", (long long)R, (long long)H, (long long)N,
           g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    layer_gradients(1, 5, 1e-5, 1);
    layer_gradients(7, 17, 1e-5, 2);
    layer_gradients(40, 96, 1e-5, 3);
    layer_gradients(700, 9, 1e-5, 2);
    layer_gradients(0, 12, 1e-5, 1);
    group_gradients(1, 1, 32, 1);
    group_gradients(9, 3, 64, 2);
    group_gradients(33, 2, 10, 2);
}

/* -- values ----------------------------------------------------------------------------------------------- */

/* out of one row in long double; returns the largest error over the largest number. */
static double row_error(const float *x, const float *gamma, const float *beta, const float *out, int64_t n,
                        double eps) {
    long double mean = 0, var = 0, worst = 0, largest = 1;
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean /= n;
    for (int64_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    var /= n;
    for (int64_t i = 0; i < n; i++) {
        long double y = (x[i] - mean) / sqrtl(var + eps) * gamma[i] + beta[i];
        worst = fmaxl(worst, fabsl(y - out[i])), largest = fmaxl(largest, fabsl(y));
    }
    return (double)(worst / largest);
}

static double values(int64_t R, int64_t C, double offset, double spread, double eps) {
    rw_device *d = test_device(RW_F32, 2);
    float *x = test_memory((size_t)(R * C) * 4), *out = test_memory((size_t)(R * C) * 4);
    float *gamma = test_memory((size_t)C * 4), *beta = test_memory((size_t)C * 4);
    test_fill_f32(x, R * C, 1, offset - spread, offset + spread);
    test_fill_f32(gamma, C, 2, -1, 2), test_fill_f32(beta, C, 3, -1, 1);
    rw_layer_norm_args a = {
        .dtype = RW_F32, .R = R, .C = C, .eps = eps, .x = x, .gamma = gamma, .beta = beta, .out = out};
    d->kernels->layer_norm_forward(&a, &d->exec);
    double worst = 0;
    for (int64_t r = 0; r < R; r++) worst = fmax(worst, row_error(x + r * C, gamma, beta, out + r * C, C, eps));
    printf("layer_norm fp32, C %lld, x %g +- %g: error %.2g of the largest\n", (long long)C, offset, spread, worst);
    free(x), free(out), free(gamma), free(beta);
    rw_device_close(d);
    return worst;
}

static void test_values(void **state) {
    (void)state;
    assert_true(values(5, 768, 0, 1, 1e-5) < 1e-6);
    assert_true(values(3, 1, 0, 1, 1e-5) < 1e-6);
    assert_true(values(4, 2048, 0, 1e-6, 1e-5) < 1e-6);
    assert_true(values(4, 100, 0, 1e15, 1e-5) < 1e-6);
    assert_true(values(4, 768, 100, 1, 1e-5) < 3e-5); /* fp32 of x itself: 100 * 6e-8 against a spread of 0.6 */
}

static void test_not_a_number(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 1);
    float x[40], gamma[20], beta[20], out[40];
    test_fill_f32(x, 40, 1, -1, 1), test_fill_f32(gamma, 20, 2, 0, 1), test_fill_f32(beta, 20, 3, 0, 1);
    x[7] = NAN;
    rw_layer_norm_args a = {
        .dtype = RW_F32, .R = 2, .C = 20, .eps = 1e-5, .x = x, .gamma = gamma, .beta = beta, .out = out};
    d->kernels->layer_norm_forward(&a, &d->exec);
    for (int i = 0; i < 20; i++) assert_true(isnan(out[i]) && !isnan(out[20 + i]));
    rw_device_close(d);
}

static void test_threads(void **state) {
    (void)state;
    enum { R = 333, C = 70 };
    static float x[R * C], dout[R * C], out[R * C], dx[2][R * C], gamma[C], beta[C], dgamma[2][C], dbeta[2][C];
    static float mean[R], rstd[R];
    test_fill_f32(x, R * C, 1, -1, 1), test_fill_f32(dout, R * C, 2, -1, 1);
    test_fill_f32(gamma, C, 3, -1, 1), test_fill_f32(beta, C, 4, -1, 1);
    for (int i = 0; i < 2; i++) {
        rw_device *d = test_device(RW_F32, i ? 5 : 1);
        rw_layer_norm_args a = {.dtype = RW_F32,
                                .R = R,
                                .C = C,
                                .eps = 1e-5,
                                .x = x,
                                .gamma = gamma,
                                .beta = beta,
                                .out = out,
                                .mean = mean,
                                .rstd = rstd,
                                .dout = dout,
                                .dx = dx[i],
                                .dgamma = dgamma[i],
                                .dbeta = dbeta[i]};
        a.scratch = test_memory((size_t)d->kernels->layer_norm_backward_scratch(&a, &d->exec));
        d->kernels->layer_norm_forward(&a, &d->exec);
        d->kernels->layer_norm_backward(&a, &d->exec);
        free(a.scratch);
        rw_device_close(d);
    }
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    assert_memory_equal(dgamma[0], dgamma[1], sizeof dgamma[0]);
    assert_memory_equal(dbeta[0], dbeta[1], sizeof dbeta[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_not_a_number),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("norm", tests, NULL, NULL);
}
