/* What the tests of single ops share: a CPU device, and an op of its table in the form that gradcheck.h calls. */
#ifndef RW_TESTS_DEVICE_TEST_H
#define RW_TESTS_DEVICE_TEST_H

#include "tests/unit/kernels/gradcheck.h"

#include "kernels/device.h"

static inline rw_device *test_device(rw_dtype compute, int threads) {
    rw_device *d = NULL;
    rw_error err = {0};
    if (rw_device_open_cpu(&d, compute, threads, &err) != RW_OK) fail_msg("%s", err.msg);
    return d;
}

/* TEST_OP(op, args): struct op_ctx { device, args } and op_forward_fn, op_backward_fn. */
#define TEST_OP(op, args)                                                                                              \
    typedef struct {                                                                                                   \
        rw_device *d;                                                                                                  \
        args a;                                                                                                        \
    } op##_ctx;                                                                                                        \
    static void op##_forward_fn(void *p) {                                                                             \
        op##_ctx *c = p;                                                                                               \
        c->d->kernels->op##_forward(&c->a, &c->d->exec);                                                               \
    }                                                                                                                  \
    static void op##_backward_fn(void *p) {                                                                            \
        op##_ctx *c = p;                                                                                               \
        c->d->kernels->op##_backward(&c->a, &c->d->exec);                                                              \
    }

/* Numbers in [lo, hi), the same on every run. */
static inline double test_random(uint64_t stream, int64_t i, double lo, double hi) {
    return lo + (hi - lo) * (double)(rw_rng_u64_at(7, stream, (uint64_t)i) >> 11) * 0x1p-53;
}
static inline void test_fill_f32(float *x, int64_t n, uint64_t stream, double lo, double hi) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)test_random(stream, i, lo, hi);
}
static inline void test_fill_f64(double *x, int64_t n, uint64_t stream, double lo, double hi) {
    for (int64_t i = 0; i < n; i++) x[i] = test_random(stream, i, lo, hi);
}

static inline void *test_memory(size_t n_bytes) {
    void *p = malloc(n_bytes ? n_bytes : 1);
    assert_non_null(p);
    memset(p, 0xFF, n_bytes);
    return p;
}

#endif
