/* AdamW against a plain loop, in both modes and both types: ranges with their own scales, padding left alone, exact
 * zeros kept, any number of threads; in a skipped step not one bit changes. */
#include "tests/unit/kernels/device_test.h"

enum { N = 30000 };
static const rw_adamw_range ranges[] = {{.offset = 0, .n = 7, .lr_scale = 1},
                                        {.offset = 64, .n = 20001, .lr_scale = 2.5, .decay = 1},
                                        {.offset = 20096, .n = 0, .lr_scale = 1, .decay = 1},
                                        {.offset = 20096, .n = 1, .lr_scale = 1, .decay = 1},
                                        {.offset = 20160, .n = 9000, .lr_scale = 0.5}};
enum { N_RANGES = sizeof ranges / sizeof *ranges };

static void plain_step(double *p, const double *grad, double *m, double *v, const rw_exec *ex, bool w_mode,
                       double eps) {
    const rw_step_scalars *s = ex->scalars;
    for (int k = 0; k < N_RANGES; k++)
        for (int64_t i = ranges[k].offset; i < ranges[k].offset + ranges[k].n; i++) {
            double g = grad[i] * ex->own->grad_scale, t = (double)ex->own->updates;
            m[i] = 0.9 * m[i] + (1 - 0.9) * g;
            v[i] = 0.99 * v[i] + (1 - 0.99) * g * g;
            double step = (m[i] / (1 - pow(0.9, t))) / (sqrt(v[i] / (1 - pow(0.99, t))) + eps);
            if (w_mode && ranges[k].decay) step += s->weight_decay * p[i];
            p[i] -= s->lr * ranges[k].lr_scale * step;
        }
}

typedef struct {
    double *p, *g, *m, *v;
} buffers;

static buffers new_buffers(void) {
    buffers b = {test_memory(8 * N), test_memory(8 * N), test_memory(8 * N), test_memory(8 * N)};
    test_fill_f64(b.p, N, 1, -1, 1);
    memset(b.m, 0, 8 * N), memset(b.v, 0, 8 * N);
    return b;
}
static void free_buffers(buffers *b) {
    free(b->p), free(b->g), free(b->m), free(b->v);
}

static void gradient_of(buffers *b, int step) {
    test_fill_f64(b->g, N, (uint64_t)(100 + step), -2, 2);
    b->g[3] = 0; /* a parameter that no row touched */
}

/* t is the number of updates, which falls behind the number of steps when some are skipped. */
static void set_scalars(rw_device *d, int t) {
    *d->exec.scalars = (rw_step_scalars){.step = t + 7, .lr = 1e-3 * t, .weight_decay = 0.1};
    *d->exec.own = (rw_device_scalars){.updates = t, .grad_scale = t == 2 ? 0.25 : 1};
}

static void check(rw_dtype t, bool w_mode, int threads, double eps, double tolerance) {
    rw_device *d = test_device(t, threads);
    buffers plain = new_buffers(), wide = new_buffers();
    float *f[4];
    double *const source[4] = {wide.p, wide.g, wide.m, wide.v};
    for (int k = 0; k < 4; k++) f[k] = test_memory(4 * N);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < N && k != 1; i++) f[k][i] = (float)source[k][i];
    rw_adamw_args a = {.dtype = t,
                       .n_ranges = N_RANGES,
                       .ranges = ranges,
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .eps = eps,
                       .adam_w_mode = w_mode};
    a.p = t == RW_F64 ? (void *)wide.p : f[0], a.grad = t == RW_F64 ? (void *)wide.g : f[1];
    a.m = t == RW_F64 ? (void *)wide.m : f[2], a.v = t == RW_F64 ? (void *)wide.v : f[3];
    for (int step = 1; step <= 5; step++) {
        gradient_of(&plain, step), gradient_of(&wide, step);
        for (int i = 0; i < N; i++) f[1][i] = (float)wide.g[i];
        set_scalars(d, step);
        plain_step(plain.p, plain.g, plain.m, plain.v, &d->exec, w_mode, eps);
        d->kernels->adamw(&a, &d->exec);
    }
    buffers start = new_buffers();
    for (int i = 0; i < N; i++) {
        double got = t == RW_F64 ? wide.p[i] : (double)f[0][i];
        assert_true(fabs(got - plain.p[i]) <= tolerance);
        if (plain.p[i] == start.p[i]) /* padding, and element 3: not one bit */
            assert_true(t == RW_F64 ? wide.p[i] == start.p[i] : f[0][i] == (float)start.p[i]);
    }
    assert_true(plain.p[3] == start.p[3] && plain.p[8] == start.p[8] && plain.p[100] != start.p[100]);
    free_buffers(&plain), free_buffers(&wide), free_buffers(&start);
    for (int k = 0; k < 4; k++) free(f[k]);
    rw_device_close(d);
}

static void test_against_plain_loop(void **state) {
    (void)state;
    for (int threads = 1; threads <= 4; threads += 3)
        for (int w_mode = 0; w_mode < 2; w_mode++) {
            check(RW_F64, w_mode, threads, 1e-8, 1e-14);
            check(RW_F64, w_mode, threads, 1e-18, 1e-14);
            check(RW_F32, w_mode, threads, 1e-8, 3e-7);
            check(RW_F32, w_mode, threads, 1e-18, 3e-7);
        }
}

static void test_threads_give_equal_bits(void **state) {
    (void)state;
    float *p[2];
    for (int k = 0; k < 2; k++) {
        rw_device *d = test_device(RW_F32, k ? 3 : 1);
        float *g = test_memory(4 * N), *m = test_memory(4 * N), *v = test_memory(4 * N);
        p[k] = test_memory(4 * N);
        test_fill_f32(p[k], N, 1, -1, 1), test_fill_f32(g, N, 2, -1, 1);
        test_fill_f32(m, N, 3, -1, 1), test_fill_f32(v, N, 4, 0, 1);
        rw_adamw_args a = {.dtype = RW_F32,
                           .n_ranges = N_RANGES,
                           .ranges = ranges,
                           .p = p[k],
                           .grad = g,
                           .m = m,
                           .v = v,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .eps = 1e-8,
                           .adam_w_mode = true};
        set_scalars(d, 2);
        d->kernels->adamw(&a, &d->exec);
        free(g), free(m), free(v);
        rw_device_close(d);
    }
    assert_memory_equal(p[0], p[1], 4 * N);
    free(p[0]), free(p[1]);
}

static void test_a_skipped_step_writes_nothing(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 2);
    buffers b = new_buffers(), before = new_buffers();
    gradient_of(&b, 1);
    b.g[100] = NAN;
    set_scalars(d, 2);
    d->exec.own->grad_scale = NAN;
    d->exec.own->skipped_in_row = 3;
    rw_adamw_args a = {.dtype = RW_F64,
                       .n_ranges = N_RANGES,
                       .ranges = ranges,
                       .p = b.p,
                       .grad = b.g,
                       .m = b.m,
                       .v = b.v,
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .eps = 1e-8,
                       .adam_w_mode = true};
    d->kernels->adamw(&a, &d->exec);
    assert_memory_equal(b.p, before.p, 8 * N);
    assert_memory_equal(b.m, before.m, 8 * N);
    assert_memory_equal(b.v, before.v, 8 * N);
    free_buffers(&b), free_buffers(&before);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_plain_loop),
        cmocka_unit_test(test_threads_give_equal_bits),
        cmocka_unit_test(test_a_skipped_step_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
