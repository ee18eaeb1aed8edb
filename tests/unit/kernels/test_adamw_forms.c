/* AdamW in its narrow forms (kernels/adamw.h): each against a scalar model in double, unbiased rounding over many
 * elements and many steps, the same bits for any number of threads and wherever the parameters lie. */
#include "kernels/rounding.h"
#include "tests/unit/kernels/device_test.h"

typedef enum { A16, B12, B8, N_FORMS } form;
static const double BETA1 = 0.9, BETA2 = 0.99;

/* Flat buffers of n elements, fp32 as on the CPU; moments in bf16 for b8. */
typedef struct {
    form f;
    int64_t n;
    float *p, *grad, *master, *m, *v;
    uint16_t *m16, *v16;
} buffers;

static float on_grid(float x) {
    return rw_f32_from_bf16(rw_bf16_from_f32(x));
}

/* Random values and gradients; moments zero. */
static buffers new_buffers(form f, int64_t n) {
    const size_t bytes = (size_t)n * sizeof(float);
    buffers b = {.f = f, .n = n, .p = test_memory(bytes), .grad = test_memory(bytes), .master = test_memory(bytes)};
    b.m = test_memory(bytes);
    b.v = test_memory(bytes);
    b.m16 = (uint16_t *)b.m;
    b.v16 = (uint16_t *)b.v;
    test_fill_f32(b.master, n, 1, -1, 1);
    for (int64_t i = 0; i < n; i++) b.p[i] = on_grid(b.master[i]);
    test_fill_f32(b.grad, n, 2, -2, 2);
    memset(b.m, 0, bytes);
    memset(b.v, 0, bytes);
    return b;
}

static void free_buffers(buffers *b) {
    free(b->p);
    free(b->grad);
    free(b->master);
    free(b->m);
    free(b->v);
}

static void update(rw_device *d, const buffers *b, const rw_adamw_range *ranges, int n_ranges, double eps) {
    rw_adamw_args a = {.dtype = RW_F32, .p_grid = RW_BF16, .n_ranges = n_ranges, .ranges = ranges, .eps = eps};
    a.p = b->p;
    a.grad = b->grad;
    a.master = b->f == A16 ? b->master : NULL;
    a.m = b->m;
    a.v = b->v;
    a.moment_dtype = b->f == B8 ? RW_BF16 : RW_F32;
    a.beta1 = BETA1;
    a.beta2 = BETA2;
    a.adam_w_mode = true;
    d->kernels->adamw(&a, &d->exec);
}

static void set_scalars(rw_device *d, int64_t step) {
    *d->exec.scalars = (rw_step_scalars){.step = step, .lr = 1e-3, .weight_decay = 0.1, .seed = 11};
    *d->exec.own = (rw_device_scalars){.updates = step, .grad_scale = 0.5};
}

/* -- a scalar model ----------------------------------------------------------------------------------------- */

typedef struct {
    double p, m, v;
} element;

static element element_of(const buffers *b, int64_t i) {
    element e = {.p = (double)(b->f == A16 ? b->master[i] : b->p[i])};
    e.m = (double)(b->f == B8 ? rw_f32_from_bf16(b->m16[i]) : b->m[i]);
    e.v = (double)(b->f == B8 ? rw_f32_from_bf16(b->v16[i]) : b->v[i]);
    return e;
}

static element model_of(element e, double grad, const rw_exec *ex, const rw_adamw_range *seg, double eps) {
    const rw_step_scalars *s = ex->scalars;
    double g = grad * ex->own->grad_scale, t = (double)ex->own->updates;
    e.m = BETA1 * e.m + (1 - BETA1) * g;
    e.v = BETA2 * e.v + (1 - BETA2) * g * g;
    double step = e.m / (1 - pow(BETA1, t)) / (sqrt(e.v / (1 - pow(BETA2, t))) + eps);
    if (seg->decay) step += s->weight_decay * e.p;
    e.p -= s->lr * seg->lr_scale * step;
    return e;
}

/* Exact but for fp32's own rounding, of sums of numbers up to 1; or one of the two bf16 numbers around it. */
static void check_wide(double got, double want) {
    assert_true(fabs(got - want) <= 2e-7);
}
static void check_narrow(double got, double want) {
    assert_true((float)got == on_grid((float)got));
    assert_true(fabs(got - want) <= 0x1p-7 * fabs(want) + 2e-7);
}

static void check_element(const buffers *b, int64_t i, element want) {
    element got = element_of(b, i);
    if (b->f == A16) {
        check_wide(got.p, want.p);
        assert_true(b->p[i] == on_grid(b->master[i]));
    } else {
        check_narrow(got.p, want.p);
    }
    (b->f == B8 ? check_narrow : check_wide)(got.m, want.m);
    (b->f == B8 ? check_narrow : check_wide)(got.v, want.v);
}

enum { N = 9000 };
static const rw_adamw_range ranges[] = {{.offset = 0, .n = 7, .lr_scale = 1, .stream = 5},
                                        {.offset = 64, .n = 5001, .lr_scale = 2.5, .decay = 1, .stream = 6},
                                        {.offset = 5120, .n = 3000, .lr_scale = 0.5, .stream = 7}};
enum { N_RANGES = sizeof ranges / sizeof *ranges };

static bool in_range(int64_t i) {
    for (int k = 0; k < N_RANGES; k++)
        if (i >= ranges[k].offset && i < ranges[k].offset + ranges[k].n) return true;
    return false;
}

/* Each step starts from what the kernel left, so rounding does not pile up in the comparison. Padding stays. */
static void test_against_model(void **state) {
    (void)state;
    for (int f = 0; f < N_FORMS; f++) {
        rw_device *d = test_device(RW_F32, 2);
        buffers b = new_buffers((form)f, N);
        element *want = test_memory(N * sizeof *want);
        for (int step = 1; step <= 4; step++) {
            test_fill_f32(b.grad, N, (uint64_t)(10 + step), -2, 2);
            b.grad[100] = 0;
            set_scalars(d, step);
            for (int64_t i = 0; i < N; i++) want[i] = element_of(&b, i);
            for (int k = 0; k < N_RANGES; k++)
                for (int64_t i = ranges[k].offset; i < ranges[k].offset + ranges[k].n; i++)
                    want[i] = model_of(want[i], (double)b.grad[i], &d->exec, &ranges[k], 1e-18);
            update(d, &b, ranges, N_RANGES, 1e-18);
            for (int64_t i = 0; i < N; i++) {
                element got = element_of(&b, i);
                if (in_range(i))
                    check_element(&b, i, want[i]);
                else
                    assert_memory_equal(&got, &want[i], sizeof got);
            }
        }
        free(want);
        free_buffers(&b);
        rw_device_close(d);
    }
}

/* -- expectation --------------------------------------------------------------------------------------------- */

enum { MANY = 1 << 18 };
static const rw_adamw_range all = {.n = MANY, .lr_scale = 1, .decay = 1, .stream = 1};

static void fill_equal(buffers *b, float p, float grad) {
    for (int64_t i = 0; i < b->n; i++) {
        b->p[i] = p;
        b->grad[i] = grad;
    }
}

/* Mean over the elements, and its difference from `want` in deviations. */
static double mean_of(const buffers *b, double (*of)(element e)) {
    double sum = 0;
    for (int64_t i = 0; i < b->n; i++) sum += of(element_of(b, i));
    return sum / (double)b->n;
}
static double value_of(element e) {
    return e.p;
}
static double m_of(element e) {
    return e.m;
}
static double v_of(element e) {
    return e.v;
}
static void check_mean(const char *what, double got, double want, double deviation) {
    double off = (got - want) / deviation;
    print_message("  %s: mean %.9g, expected %.9g, %.1f deviations\n", what, got, want, off);
    assert_true(fabs(off) < 5);
}

/* One step, equal for all elements: its mean is that of the model. A rounding has a deviation of at most half an ulp.
 */
static void test_one_step_unbiased(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 2);
    set_scalars(d, 1);
    for (int f = B12; f < N_FORMS; f++) {
        buffers b = new_buffers((form)f, MANY);
        fill_equal(&b, 1.0f, 0.37f);
        element want = model_of(element_of(&b, 0), (double)b.grad[0], &d->exec, &all, 1e-8);
        update(d, &b, &all, 1, 1e-8);
        const double share = 0.5 * 0x1p-8 / sqrt(MANY);
        check_mean("p", mean_of(&b, value_of), want.p, share); /* below 1 an ulp is 2^-8 */
        if (f == B8) check_mean("m", mean_of(&b, m_of), want.m, 2 * share * want.m);
        if (f == B8) check_mean("v", mean_of(&b, v_of), want.v, 2 * share * want.v);
        free_buffers(&b);
    }
    rw_device_close(d);
}

/* Weight decay alone, 1e-4 of p a step: 40 times below half an ulp. Rounding to nearest would keep p for ever; here the
 * mean decays as it should, though each element moves by whole ulps. */
static void test_small_decay_acts(void **state) {
    (void)state;
    enum { STEPS = 200 };
    rw_device *d = test_device(RW_F32, 2);
    buffers b = new_buffers(B12, MANY);
    fill_equal(&b, 1.5f, 0);
    double want = 1.5;
    for (int step = 1; step <= STEPS; step++) {
        set_scalars(d, step);
        update(d, &b, &all, 1, 1e-8);
        want -= 1e-3 * 0.1 * want;
        assert_true(on_grid((float)(1.5 - 1e-4 * 1.5)) == 1.5f);
    }
    check_mean("p after 200 steps", mean_of(&b, value_of), want, 0.5 * 0x1p-7 * sqrt(STEPS) / sqrt(MANY));
    free_buffers(&b);
    rw_device_close(d);
}

/* The same for one element over many steps: each begins at 1.5, only the step's number differs. */
static void test_unbiased_over_steps(void **state) {
    (void)state;
    enum { STEPS = 20000 };
    rw_device *d = test_device(RW_F32, 1);
    buffers b = new_buffers(B8, 1);
    const rw_adamw_range one = {.n = 1, .lr_scale = 1, .decay = 1, .stream = 1};
    double sum = 0;
    for (int step = 1; step <= STEPS; step++) {
        b.p[0] = 1.5f;
        b.grad[0] = 0;
        set_scalars(d, step);
        update(d, &b, &one, 1, 1e-8);
        sum += (double)b.p[0];
    }
    double up = 1e-4 * 1.5 / 0x1p-7; /* probability to move by an ulp */
    check_mean("p", sum / STEPS, 1.5 - 1e-4 * 1.5, 0x1p-7 * sqrt(up / STEPS));
    free_buffers(&b);
    rw_device_close(d);
}

/* -- the second moment never vanishes ---------------------------------------------------------------------------- */

/* x070 has eps 1e-18: a v of 0 under an m that is not would make a step of 1e18 * m. */
static void test_v_never_zero(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 2);
    static const float tiny[] = {1e-18f, 1e-20f, 6e-21f, 1e-10f, 1.0f}; /* below that (1-b2) g g is 0 in fp32 */
    const int n = sizeof tiny / sizeof *tiny;
    buffers b = new_buffers(B8, n);
    const rw_adamw_range few = {.n = n, .lr_scale = 1, .stream = 1};
    for (int step = 1; step <= 60000; step++) {
        for (int i = 0; i < n; i++) b.grad[i] = step <= 2 ? tiny[i] : 0; /* then v decays for ever */
        set_scalars(d, step);
        d->exec.scalars->lr = 1e-6;
        update(d, &b, &few, 1, 1e-18);
        for (int i = 0; i < n; i++) {
            assert_true(b.v16[i] > 0 && b.v16[i] < 0x7f80);
            assert_true(fabsf(b.p[i]) < 2);
        }
    }
    free_buffers(&b);
    rw_device_close(d);
}

/* -- the same bits ------------------------------------------------------------------------------------------------- */

static void three_steps(rw_device *d, const buffers *b, const rw_adamw_range *s, int n) {
    for (int step = 1; step <= 3; step++) {
        set_scalars(d, step);
        update(d, b, s, n, 1e-8);
    }
}

static void same_bits(const buffers *a, int64_t i, const buffers *b, int64_t j, int64_t n) {
    const size_t wide = (size_t)n * sizeof(float), moment = a->f == B8 ? wide / 2 : wide;
    assert_memory_equal(a->p + i, b->p + j, wide);
    assert_memory_equal(a->master + i, b->master + j, wide);
    if (a->f == B8) {
        assert_memory_equal(a->m16 + i, b->m16 + j, moment);
        assert_memory_equal(a->v16 + i, b->v16 + j, moment);
    } else {
        assert_memory_equal(a->m + i, b->m + j, moment);
        assert_memory_equal(a->v + i, b->v + j, moment);
    }
}

static void test_threads(void **state) {
    (void)state;
    for (int f = 0; f < N_FORMS; f++) {
        buffers b[3];
        for (int k = 0; k < 3; k++) {
            rw_device *d = test_device(RW_F32, k + 1);
            b[k] = new_buffers((form)f, N);
            three_steps(d, &b[k], ranges, N_RANGES);
            same_bits(&b[0], 0, &b[k], 0, N);
            rw_device_close(d);
        }
        for (int k = 0; k < 3; k++) free_buffers(&b[k]);
    }
}

/* The large parameter elsewhere, and cut in three as processes would share it: same values, gradients and bits. */
static void test_layouts(void **state) {
    (void)state;
    enum { FROM = 64, TO = 3333, LEN = 5001, CUT = 1111 };
    rw_adamw_range cut[4] = {{.offset = 0, .n = 50, .lr_scale = 1, .stream = 9}, ranges[1], ranges[1], ranges[1]};
    static const int64_t first[] = {CUT, 0, 2 * CUT + 1}, n[] = {CUT + 1, CUT, LEN - 2 * CUT - 1};
    for (int k = 0; k < 3; k++) {
        cut[k + 1].first = first[k];
        cut[k + 1].offset = TO + first[k];
        cut[k + 1].n = n[k];
    }
    for (int f = 0; f < N_FORMS; f++) {
        rw_device *d = test_device(RW_F32, 2);
        buffers a = new_buffers((form)f, N), b = new_buffers((form)f, N);
        memcpy(b.p + TO, a.p + FROM, LEN * sizeof *a.p);
        memcpy(b.master + TO, a.master + FROM, LEN * sizeof *a.p);
        memcpy(b.grad + TO, a.grad + FROM, LEN * sizeof *a.p);
        three_steps(d, &a, ranges, N_RANGES);
        three_steps(d, &b, cut, 4);
        same_bits(&a, FROM, &b, TO, LEN);
        free_buffers(&a);
        free_buffers(&b);
        rw_device_close(d);
    }
}

/* Another seed, step or parameter: other bits. */
static void test_what_the_bits_depend_on(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 1);
    buffers b[4];
    for (int k = 0; k < 4; k++) {
        rw_adamw_range s = {.n = 1000, .lr_scale = 1, .stream = k == 3 ? 2 : 1};
        b[k] = new_buffers(B12, 1000);
        set_scalars(d, 1000000 + (k == 2)); /* far on: the bias correction is 1 */
        if (k == 1) d->exec.scalars->seed++;
        update(d, &b[k], &s, 1, 1e-8);
        if (k > 0) assert_memory_not_equal(b[0].p, b[k].p, 1000 * sizeof(float));
    }
    for (int k = 0; k < 4; k++) free_buffers(&b[k]);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),    cmocka_unit_test(test_one_step_unbiased),
        cmocka_unit_test(test_small_decay_acts), cmocka_unit_test(test_unbiased_over_steps),
        cmocka_unit_test(test_v_never_zero),     cmocka_unit_test(test_threads),
        cmocka_unit_test(test_layouts),          cmocka_unit_test(test_what_the_bits_depend_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
