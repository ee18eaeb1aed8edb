/* Initial values: orthogonal to rounding, uniform in its bounds, the same for any number of threads, for a parameter
 * alone, and in both number types. */
#include "core/tensor/init.h"
#include "tests/unit/tensor/tape_test.h"

static double square_of(const void *ctx, int64_t i) {
    return *(const double *)ctx * (double)(i * i);
}

typedef struct {
    double wide[40 * 24], tall[24 * 40], uniform[10000], formula[100], constant[7];
} values;

static void fill(values *out, rw_dtype compute, int threads, uint64_t seed, bool backwards) {
    rw_error err = {0};
    rw_device *d;
    rw_layout l = {0};
    rw_params *p;
    must(rw_device_open_cpu(&d, compute, threads, &err), &err);
    static const struct {
        const char *name;
        int64_t shape[2];
        rw_init_kind kind;
        double value;
    } rows[] = {{"wide", {24, 40}, RW_INIT_ORTHOGONAL, 0.1},
                {"tall", {40, 24}, RW_INIT_ORTHOGONAL, 2},
                {"uniform", {100, 100}, RW_INIT_UNIFORM, 1e-2},
                {"formula", {1, 100}, RW_INIT_FORMULA, 0},
                {"constant", {1, 7}, RW_INIT_CONSTANT, -3}};
    double factor = 0.5, *to[] = {out->wide, out->tall, out->uniform, out->formula, out->constant};
    for (int i = 0; i < 5; i++) must(rw_layout_add(&l, rows[i].name, RW_MATRIX, 2, rows[i].shape, 0, i, &err), &err);
    must(rw_layout_place(&l, &err), &err);
    must(rw_params_new(&p, d, &l, &(rw_storage){0}, false, &err), &err);
    for (int k = 0; k < 5; k++) {
        int i = backwards ? 4 - k : k;
        rw_init init = {rows[i].kind, rows[i].value, square_of, &factor};
        must(rw_init_param(p, (size_t)i, &init, seed, threads, &err), &err);
        for (int64_t e = 0; e < p->layout.segments[i].n; e++)
            to[i][e] = compute == RW_F64 ? ((double *)p->tensors[i].data)[e] : (double)((float *)p->tensors[i].data)[e];
    }
    rw_params_free(p);
    rw_device_close(d);
}

/* The rows of a [n,k], n <= k, are orthogonal and `gain` long. */
static double worst_product(const double *a, int n, int k, int row_step, int column_step, double gain) {
    double worst = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double s = 0;
            for (int c = 0; c < k; c++) s += a[i * row_step + c * column_step] * a[j * row_step + c * column_step];
            worst = fmax(worst, fabs(s / (gain * gain) - (i == j)));
        }
    return worst;
}

static void kinds(void **state) {
    (void)state;
    values *v = rw_alloc(sizeof *v);
    fill(v, RW_F64, 1, 3, false);
    assert_true(worst_product(v->wide, 24, 40, 40, 1, 0.1) < 2e-6); /* values are rounded to float */
    assert_true(worst_product(v->tall, 24, 40, 1, 24, 2) < 2e-6);
    double mean = 0, square = 0;
    for (int i = 0; i < 10000; i++) {
        assert_true(v->uniform[i] >= -1e-2 && v->uniform[i] <= 1e-2);
        mean += v->uniform[i] / 10000;
        square += v->uniform[i] * v->uniform[i] / 10000;
    }
    assert_true(fabs(mean) < 4 * 1e-2 / sqrt(3 * 10000.));
    assert_true(fabs(square / (1e-4 / 3) - 1) < 0.05);
    for (int i = 0; i < 100; i++) assert_true(v->formula[i] == 0.5 * i * i);
    for (int i = 0; i < 7; i++) assert_true(v->constant[i] == -3);
    rw_free(v);
}

static void depends_on_the_seed_alone(void **state) {
    (void)state;
    values *a = rw_alloc(sizeof *a), *c = rw_alloc(sizeof *c);
    fill(a, RW_F64, 1, 3, false);
    fill(c, RW_F64, 3, 3, true);
    assert_memory_equal(a, c, sizeof *a);
    fill(c, RW_F32, 2, 3, false);
    assert_memory_equal(a, c, sizeof *a);
    fill(c, RW_F64, 1, 4, false);
    assert_memory_not_equal(a->wide, c->wide, sizeof a->wide);
    assert_memory_not_equal(a->uniform, c->uniform, sizeof a->uniform);
    assert_memory_equal(a->formula, c->formula, sizeof a->formula);
    rw_free(a);
    rw_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(kinds), cmocka_unit_test(depends_on_the_seed_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
