/* wkv6 against the operators of the reference implementation (golden set, wkv/x060-*): y and every gradient, in fp32
 * and fp64. The files hold fp32 roundings of fp64 results, so fp64 must agree to fp32 rounding. */
#include "tests/unit/kernels/device_test.h"

#include "tests/unit/golden.h"
#include "tests/unit/golden_safetensors.h"

static void *load(const golden_file *g, const char *name, rw_dtype t) {
    int64_t n = 0;
    const float *x = golden_f32(g, name, &n);
    if (!x) return NULL;
    void *to = test_memory((size_t)(n * rw_dtype_bytes(t)));
    assert_int_equal(rw_convert(to, t, x, RW_F32, n), 0);
    return to;
}

/* max|x - golden| / max|golden| */
static void compare(const golden_file *g, const char *name, rw_dtype t, const void *x, double tolerance) {
    int64_t n = 0;
    const float *want = golden_f32(g, name, &n);
    double worst = 0, largest = 1e-30;
    assert_non_null(want);
    for (int64_t i = 0; i < n; i++) {
        double got = t == RW_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
        worst = isnan(got) ? INFINITY : fmax(worst, fabs(got - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    printf("  %-3s %s %.2g of the largest\n", name, rw_dtype_name(t), worst / largest);
    assert_true(worst <= tolerance * largest);
}

static int64_t number(const golden_file *g, const char *key) {
    const char *text = json_string_value(json_object_get(json_object_get(g->header, "__metadata__"), key));
    assert_non_null(text);
    return atoll(text);
}

static void check(const char *name, rw_dtype t, double tolerance) {
    golden_file g = golden_open(rw_golden_path(name));
    rw_device *d = test_device(t, 2);
    const int64_t B = number(&g, "B"), T = number(&g, "T"), H = number(&g, "H"), N = number(&g, "N");
    const size_t rows = (size_t)(B * T * H * N * rw_dtype_bytes(t)), states = (size_t)(H * N * N * rw_dtype_bytes(t));
    rw_wkv6_args a = {.dtype = t,
                      .R = B * T,
                      .H = H,
                      .N = N,
                      .n_seq = B,
                      .r = load(&g, "r", t),
                      .k = load(&g, "k", t),
                      .v = load(&g, "v", t),
                      .w_raw = load(&g, "w", t),
                      .u = load(&g, "u", t),
                      .s0 = load(&g, "s", t),
                      .dout = load(&g, "gy", t),
                      .out = test_memory(rows),
                      .dr = test_memory(rows),
                      .dk = test_memory(rows),
                      .dv = test_memory(rows),
                      .dw_raw = test_memory(rows),
                      .du = test_memory(states)};
    if (a.s0) a.ds0 = test_memory(states); /* one state for all: the gradient is the sum */
    a.saved = test_memory((size_t)d->kernels->wkv6_saved(&a, &d->exec));
    a.scratch = test_memory((size_t)d->kernels->wkv6_forward_scratch(&a, &d->exec));
    d->kernels->wkv6_forward(&a, &d->exec);
    free(a.scratch);
    a.scratch = test_memory((size_t)d->kernels->wkv6_backward_scratch(&a, &d->exec));
    d->kernels->wkv6_backward(&a, &d->exec);

    printf("%s\n", name);
    compare(&g, "y", t, a.out, tolerance), compare(&g, "gr", t, a.dr, tolerance);
    compare(&g, "gk", t, a.dk, tolerance), compare(&g, "gv", t, a.dv, tolerance);
    compare(&g, "gw", t, a.dw_raw, tolerance), compare(&g, "gu", t, a.du, tolerance);
    if (a.s0) compare(&g, "gs", t, a.ds0, tolerance);
    const void *all[] = {a.r,  a.k,  a.v,  a.w_raw,  a.u,  a.s0,  a.dout,  a.out,
                         a.dr, a.dk, a.dv, a.dw_raw, a.du, a.ds0, a.saved, a.scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free((void *)(uintptr_t)all[i]);
    rw_device_close(d);
    golden_close(&g);
}

static void one_file(void *ctx, const char *name) {
    int *n = ctx;
    char path[300];
    if (strncmp(name, "x060", 4) != 0) return;
    snprintf(path, sizeof path, "wkv/%s", name);
    check(path, RW_F64, 1e-7);
    check(path, RW_F32, 5e-6);
    ++*n;
}

static void test_wkv6(void **state) {
    (void)state;
    int n = 0;
    rw_golden_each("wkv", one_file, &n);
    assert_true(n > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wkv6)};
    return cmocka_run_group_tests_name("golden wkv", tests, NULL, NULL);
}
