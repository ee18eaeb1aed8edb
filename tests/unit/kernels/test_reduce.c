/* Sums against a long double loop, the same bits for any number of threads; what clipping makes of the global norm, and
 * of one that is not finite. */
#include "tests/unit/kernels/device_test.h"

static double sum_of(rw_device *d, const rw_sum_args *a) {
    rw_sum_args s = *a;
    double out = NAN;
    s.out = &out;
    s.scratch = test_memory((size_t)d->kernels->sum_scratch(a, &d->exec));
    d->kernels->sum(&s, &d->exec);
    free(s.scratch);
    return out;
}

static void check_sum(int64_t n, bool squares, bool weighted) {
    float *x = test_memory(sizeof(float) * (size_t)n), *w = test_memory(sizeof(float) * (size_t)n);
    test_fill_f32(x, n, 1, -1, 3), test_fill_f32(w, n, 2, 0, 1);
    long double want = 0;
    for (int64_t i = 0; i < n; i++)
        want += (long double)x[i] * (squares ? (long double)x[i] : 1) * (weighted ? (long double)w[i] : 1);
    rw_device *one = test_device(RW_F32, 1), *many = test_device(RW_F32, 3);
    rw_sum_args a = {.dtype = RW_F32, .n = n, .x = x, .weight = weighted ? w : NULL, .squares = squares};
    double got = sum_of(one, &a), again = sum_of(many, &a);
    assert_true(fabs(got - (double)want) <= 1e-12 * (1 + (double)n));
    assert_memory_equal(&got, &again, sizeof got);
    rw_device_close(one), rw_device_close(many);
    free(x), free(w);
}

static void test_sum(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 15, 16, 17, 16383, 16384, 16385, 100001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 4; k++) check_sum(sizes[i], k & 1, k & 2);
}

static void test_sum_adds(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    double x[3] = {1, 2, 4}, out = 10, scratch[1];
    rw_sum_args a = {.dtype = RW_F64, .n = 3, .x = x, .out = &out, .add = true, .scratch = scratch};
    d->kernels->sum(&a, &d->exec);
    assert_true(out == 17);
    rw_device_close(d);
}

static const rw_device_scalars *clip(rw_device *d, double sumsq, double loss, double max_norm) {
    d->exec.own->grad_sumsq = sumsq;
    d->exec.own->loss = loss;
    d->kernels->clip_coef(&(rw_clip_coef_args){.max_norm = max_norm}, &d->exec);
    return d->exec.own;
}

static void test_clip_coef(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    d->exec.scalars->step = 41;
    const rw_device_scalars *s = clip(d, 25, 1, 1);
    assert_true(s->step == 41 && s->grad_norm == 5 && fabs(s->clip_coef - 1 / (5 + 1e-6)) < 1e-15);
    assert_true(s->grad_scale == s->clip_coef);
    clip(d, 25, 1, 10);
    assert_true(s->grad_norm == 5 && s->clip_coef == 1);
    clip(d, 25, 1, 0);
    assert_true(s->grad_norm == 5 && s->clip_coef == 1);
    rw_device_close(d);
}

/* The scale is in the gradients, and so in their sum; the norm is without, and adamw takes it out. */
static void test_loss_scale(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    d->exec.own->loss_scale = 8;
    const rw_device_scalars *s = clip(d, 25 * 64, 1, 10);
    assert_true(s->grad_norm == 5 && s->clip_coef == 1 && s->grad_scale == 0.125);
    rw_device_close(d);
}

static void dynamic(rw_device *d, double sumsq, double loss) {
    d->exec.own->grad_sumsq = sumsq;
    d->exec.own->loss = loss;
    d->kernels->clip_coef(&(rw_clip_coef_args){.max_norm = 1, .dynamic_scale = true}, &d->exec);
}

/* Doubled after so many updates in a row, halved at each step that is skipped, never below 1. What adamw takes out is
 * the scale that is in the gradients, not the next one. */
static void test_dynamic_scale(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    rw_device_scalars *s = d->exec.own;
    const double first = RW_LOSS_SCALE_FIRST;
    s->loss_scale = first;
    dynamic(d, INFINITY, 1);
    assert_true(s->loss_scale == first / 2 && s->good_steps == 0 && s->skipped == 1 && s->updates == 0);
    for (int i = 1; i < RW_LOSS_SCALE_STEPS; i++) {
        dynamic(d, first * first / 16, 1);
        assert_true(s->loss_scale == first / 2 && s->good_steps == i && s->grad_norm == 0.5);
    }
    dynamic(d, first * first / 16, 1);
    assert_true(s->loss_scale == first && s->good_steps == 0 && s->grad_scale == 2 / first);
    dynamic(d, 1, 1);
    assert_true(s->loss_scale == first && s->good_steps == 1);
    dynamic(d, 1, NAN);
    assert_true(s->loss_scale == first / 2 && s->good_steps == 0 && s->skipped_in_row == 1);
    for (int i = 0; i < 20; i++) dynamic(d, NAN, 1);
    assert_true(s->loss_scale == 1 && s->skipped_in_row == 21);
    rw_device_close(d);
}

/* Otherwise it stays, and nothing is counted. */
static void test_fixed_scale(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    d->exec.own->loss_scale = 8;
    clip(d, INFINITY, 1, 1);
    clip(d, 1, 1, 1);
    assert_true(d->exec.own->loss_scale == 8 && d->exec.own->good_steps == 0);
    rw_device_close(d);
}

/* A step whose norm or loss is not finite is no update: counted apart. */
static void test_skips_are_counted(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 1);
    const rw_device_scalars *s = clip(d, 25, 1, 1);
    assert_true(s->updates == 1 && s->skipped == 0 && s->skipped_in_row == 0);
    clip(d, NAN, 1, 1);
    assert_true(s->updates == 1 && s->skipped == 1 && s->skipped_in_row == 1);
    assert_true(isnan(s->grad_norm) && isnan(s->clip_coef));
    clip(d, INFINITY, 1, 0);
    assert_true(s->updates == 1 && s->skipped == 2 && s->skipped_in_row == 2 && isinf(s->grad_norm));
    clip(d, 25, NAN, 1);
    assert_true(s->updates == 1 && s->skipped == 3 && s->skipped_in_row == 3);
    clip(d, 25, -INFINITY, 1);
    assert_true(s->updates == 1 && s->skipped == 4 && s->skipped_in_row == 4);
    clip(d, 25, 1, 1);
    assert_true(s->updates == 2 && s->skipped == 4 && s->skipped_in_row == 0);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum),
        cmocka_unit_test(test_sum_adds),
        cmocka_unit_test(test_clip_coef),
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_skips_are_counted),
        cmocka_unit_test(test_dynamic_scale),
        cmocka_unit_test(test_fixed_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
