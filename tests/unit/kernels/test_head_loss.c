/* Cross entropy: loss and gradient against long double loops and finite differences, L2Wrap by its formula at the first
 * of equal maxima, masks, large and infinite logits, and threads. */
#include "tests/unit/kernels/device_test.h"

typedef struct {
    int64_t R, V;
    const double *logits;
    const int32_t *targets;
    const float *mask;
    rw_step_scalars scalars;
    double loss_scale;
} problem;

static long double loss_of(const double *x, int64_t V, int32_t target) {
    long double m = -INFINITY, sum = 0;
    for (int64_t j = 0; j < V; j++) m = fmaxl(m, x[j]);
    for (int64_t j = 0; j < V; j++) sum += expl((long double)x[j] - m);
    return logl(sum) + m - x[target];
}

static int64_t first_max(const double *x, int64_t V) {
    int64_t best = 0;
    for (int64_t j = 1; j < V; j++)
        if (x[j] > x[best]) best = j;
    return best;
}

/* lse: logsumexp of row i, top: its first maximum. */
static double expected_grad(const problem *p, int64_t i, int64_t j, long double lse, int64_t top) {
    const double *x = p->logits + i * p->V;
    long double softmax = expl(x[j] - lse), mask = p->mask ? (long double)p->mask[i] : 1;
    long double g = (softmax - (j == p->targets[i])) * mask * p->scalars.normaliser;
    if (j == top) g += x[j] * (p->scalars.l2wrap_mask * mask + p->scalars.l2wrap_rows);
    return (double)g;
}

static void run(rw_dtype t, int threads, const problem *p, void *logits, void *loss, bool grad) {
    rw_device *d = test_device(t, threads);
    *d->exec.scalars = p->scalars;
    d->exec.own->loss_scale = p->loss_scale;
    int64_t n = p->R * p->V;
    for (int64_t i = 0; i < n; i++)
        if (t == RW_F64)
            ((double *)logits)[i] = p->logits[i];
        else
            ((float *)logits)[i] = (float)p->logits[i];
    rw_head_loss_args a = {.dtype = t,
                           .R = p->R,
                           .V = p->V,
                           .logits = logits,
                           .targets = p->targets,
                           .mask = p->mask,
                           .loss = loss,
                           .want_grad = grad};
    d->kernels->head_loss(&a, &d->exec);
    rw_device_close(d);
}

static void compare(const problem *p, double tolerance, rw_dtype t) {
    size_t n = (size_t)(p->R * p->V), width = (size_t)rw_dtype_bytes(t);
    void *x = test_memory(n * width), *loss = test_memory((size_t)p->R * width);
    run(t, 2, p, x, loss, true);
    for (int64_t i = 0; i < p->R; i++) {
        const double *row = p->logits + i * p->V;
        double want = (double)loss_of(row, p->V, p->targets[i]);
        double got = t == RW_F64 ? ((double *)loss)[i] : (double)((float *)loss)[i];
        assert_true(fabs(got - want) <= tolerance * fmax(1, fabs(want)));
        long double lse = loss_of(row, p->V, p->targets[i]) + row[p->targets[i]];
        int64_t top = first_max(row, p->V);
        for (int64_t j = 0; j < p->V; j++) {
            double g = t == RW_F64 ? ((double *)x)[i * p->V + j] : (double)((float *)x)[i * p->V + j];
            double w = expected_grad(p, i, j, lse, top);
            assert_true(fabs(g - w) <= tolerance * fmax(1, fabs(w)));
        }
    }
    void *same = test_memory((size_t)p->R * width);
    run(t, 2, p, x, same, false); /* without gradient: the same loss, logits left alone */
    assert_memory_equal(loss, same, (size_t)p->R * width);
    for (size_t i = 0; i < n; i++)
        assert_true(t == RW_F64 ? ((double *)x)[i] == p->logits[i] : ((float *)x)[i] == (float)p->logits[i]);
    free(x), free(loss), free(same);
}

static void random_problem(int64_t R, int64_t V, double scale) {
    double *x = test_memory(sizeof(double) * (size_t)(R * V));
    int32_t *targets = test_memory(sizeof(int32_t) * (size_t)R);
    float *mask = test_memory(sizeof(float) * (size_t)R);
    for (int64_t i = 0; i < R * V; i++) x[i] = (double)(float)test_random(1, i, -scale, scale);
    for (int64_t i = 0; i < R; i++) targets[i] = (int32_t)(rw_rng_u64_at(1, 2, (uint64_t)i) % (uint64_t)V);
    for (int64_t i = 0; i < R; i++) mask[i] = (float)(i % 3) * 0.5f;
    problem p = {R, V, x, targets, mask, {.normaliser = 0.25, .l2wrap_mask = 1e-2, .l2wrap_rows = 3e-2}, 0};
    compare(&p, 1e-12, RW_F64);
    compare(&p, 3e-6, RW_F32);
    p.mask = NULL;
    compare(&p, 1e-12, RW_F64);
    p.scalars.l2wrap_mask = p.scalars.l2wrap_rows = 0;
    compare(&p, 1e-12, RW_F64);
    free(x), free(targets), free(mask);
}

static void test_formula(void **state) {
    (void)state;
    random_problem(1, 1, 1);
    random_problem(3, 2, 1);
    random_problem(5, 37, 5);
    random_problem(4, 5000, 5);
    random_problem(3, 65, 1e4);
}

/* dL/dlogits of L = normaliser * sum mask loss, by differences of the loss this kernel itself reports. */
static void test_finite_differences(void **state) {
    (void)state;
    enum { R = 3, V = 41 };
    double x[R * V], grad[R * V], loss[R], worst = 0;
    for (int i = 0; i < R * V; i++) x[i] = test_random(3, i, -3, 3);
    static const int32_t targets[R] = {0, 40, 7};
    static const float mask[R] = {1, 0.5f, 0};
    problem p = {R, V, x, targets, mask, {.normaliser = 1.0 / 1.5}, 0};
    run(RW_F64, 1, &p, grad, loss, true);
    for (int i = 0; i < R * V; i++) {
        double x0 = x[i], f[2], scratch[R * V];
        for (int side = 0; side < 2; side++) {
            x[i] = x0 + (side ? 1e-5 : -1e-5);
            run(RW_F64, 1, &p, scratch, loss, false);
            f[side] = 0;
            for (int r = 0; r < R; r++) f[side] += (double)mask[r] * loss[r] * p.scalars.normaliser;
        }
        x[i] = x0;
        worst = fmax(worst, fabs((f[1] - f[0]) / 2e-5 - grad[i]));
    }
    assert_true(worst <= 1e-9);
}

static void test_ties_take_the_first(void **state) {
    (void)state;
    enum { V = 200 };
    double x[V], grad[V], loss[1];
    for (int j = 0; j < V; j++) x[j] = 1;
    x[70] = x[71] = x[199] = 2;
    static const int32_t target[1] = {3};
    problem p = {1, V, x, target, NULL, {.l2wrap_mask = 1}, 0};
    run(RW_F64, 1, &p, grad, loss, true);
    for (int j = 0; j < V; j++) assert_true(grad[j] == (j == 70 ? 2.0 : 0.0));
    for (int j = 0; j < V; j++) x[j] = -7;
    run(RW_F64, 1, &p, grad, loss, true);
    for (int j = 0; j < V; j++) assert_true(grad[j] == (j == 0 ? -7.0 : 0.0));
    assert_true(fabs(loss[0] - log(V)) < 1e-13);
}

static void test_not_finite(void **state) {
    (void)state;
    enum { V = 100 };
    double x[3 * V], grad[3 * V], loss[3];
    static const int32_t targets[3] = {5, 5, 5};
    static const float mask[3] = {1, 1, 0};
    for (int j = 0; j < 3 * V; j++) x[j] = test_random(5, j, -1, 1);
    x[1] = x[50] = -INFINITY;      /* forbidden tokens are fine */
    x[V + 7] = x[2 * V + 7] = NAN; /* a broken row shows, and is dropped where the mask says so */
    problem p = {3, V, x, targets, mask, {.normaliser = 1, .l2wrap_mask = 1e-4}, 0};
    run(RW_F64, 1, &p, grad, loss, true);
    assert_true(isfinite(loss[0]) && grad[1] == 0 && grad[50] == 0);
    for (int j = 0; j < V; j++) assert_true(isfinite(grad[j]));
    assert_true(isnan(loss[1]) && isnan(grad[V]));
    for (int j = 0; j < V; j++) assert_true(grad[2 * V + j] == 0);
    p.scalars.l2wrap_rows = 1; /* which looks at every row, but only at its largest number */
    x[2 * V + 9] = 4;
    run(RW_F64, 1, &p, grad, loss, true);
    for (int j = 0; j < V; j++) assert_true(grad[2 * V + j] == (j == 9 ? 4 : 0));
}

/* A power of two changes the gradient by exactly that factor, and nothing else. */
static void test_loss_scale(void **state) {
    (void)state;
    enum { R = 3, V = 70 };
    double x[R * V], plain[R * V], scaled[R * V], loss[2][R];
    test_fill_f64(x, R * V, 9, -3, 3);
    static const int32_t targets[R] = {0, 69, 7};
    static const float mask[R] = {1, 0.5f, 0};
    problem p = {R, V, x, targets, mask, {.normaliser = 1.0 / 3, .l2wrap_mask = 1e-2, .l2wrap_rows = 1e-3}, 0};
    run(RW_F64, 1, &p, plain, loss[0], true);
    p.loss_scale = 1024;
    run(RW_F64, 1, &p, scaled, loss[1], true);
    for (int i = 0; i < R * V; i++) assert_true(scaled[i] == 1024 * plain[i]);
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
}

static void test_threads(void **state) {
    (void)state;
    enum { R = 9, V = 3001 };
    double *x = test_memory(sizeof(double) * R * V);
    float *one = test_memory(sizeof(float) * R * V), *many = test_memory(sizeof(float) * R * V), loss[2][R];
    test_fill_f64(x, R * V, 1, -9, 9);
    static const int32_t targets[R] = {1, 2, 3, 4, 5, 6, 7, 8, 3000};
    problem p = {R, V, x, targets, NULL, {.normaliser = 0.1, .l2wrap_mask = 1e-4}, 0};
    run(RW_F32, 1, &p, one, loss[0], true);
    run(RW_F32, 4, &p, many, loss[1], true);
    assert_memory_equal(one, many, sizeof(float) * R * V);
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    free(x), free(one), free(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_ties_take_the_first),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
