/* Random orthogonal matrices: rows orthonormal to rounding for shapes with one tile, several and parts of one, against
 * reflections one by one, the same bits for any number of threads, and the distribution. */
#include "core/tensor/orthogonal.h"
#include "kernels/cpu/random.h"
#include "tests/unit/tensor/tape_test.h"

static const int64_t shapes[][2] = {{1, 1},     {1, 5},     {5, 5},     {65, 1000},  {77, 200},
                                    {128, 128}, {129, 129}, {200, 300}, {150, 9000}, {260, 4100}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static float *make(int64_t k, int64_t n, uint64_t stream, int threads) {
    rw_error err = {0};
    float *q = rw_alloc_array((size_t)(k * n), sizeof *q);
    must(rw_orthogonal(q, k, n, 11, stream, threads, &err), &err);
    return q;
}

static double worst_product(const float *q, int64_t k, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j <= i; j++) {
            double s = 0;
            for (int64_t c = 0; c < n; c++) s += (double)q[i * n + c] * q[j * n + c];
            if (!(fabs(s - (i == j)) <= worst)) worst = fabs(s - (i == j));
        }
    return worst;
}

static void orthonormal(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        float *q = make(shapes[s][0], shapes[s][1], 1, 2);
        double worst = worst_product(q, shapes[s][0], shapes[s][1]);
        print_message("  %lld x %lld: %.1e\n", (long long)shapes[s][0], (long long)shapes[s][1], worst);
        assert_true(worst < 1e-6);
        rw_free(q);
    }
}

/* One reflection after the other, the last first, on a matrix that begins with the signs. */
static double *one_by_one(int64_t k, int64_t n, uint64_t stream) {
    double *q = rw_alloc_array((size_t)(k * n), sizeof *q), *v = rw_alloc_array((size_t)n, sizeof *v);
    float *g = rw_alloc_array((size_t)n, sizeof *g);
    const int64_t blocks = (n + RW_NORMAL_BLOCK - 1) / RW_NORMAL_BLOCK;
    for (int64_t j = k - 1; j >= 0; j--) {
        const int64_t m = n - j;
        double norm = 0, size = 0;
        rw_cpu_f32_normals(11, stream, (uint64_t)(j * blocks), m, g);
        for (int64_t i = 0; i < m; i++) v[i] = g[i];
        for (int64_t i = 0; i < m; i++) norm += v[i] * v[i];
        norm = sqrt(norm);
        q[j * n + j] = v[0] < 0 ? 1 : -1;
        v[0] += v[0] < 0 ? -norm : norm;
        for (int64_t i = 0; i < m; i++) size += v[i] * v[i];
        for (int64_t row = j; row < k; row++) {
            double dot = 0, *x = q + row * n + j;
            for (int64_t i = 0; i < m; i++) dot += x[i] * v[i];
            for (int64_t i = 0; i < m; i++) x[i] -= 2 * dot / size * v[i];
        }
    }
    rw_free(g);
    rw_free(v);
    return q;
}

static void blocks_are_reflections(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        const int64_t k = shapes[s][0], n = shapes[s][1];
        float *q = make(k, n, 3, 2);
        double *want = one_by_one(k, n, 3);
        for (int64_t i = 0; i < k * n; i++) assert_true(fabs(q[i] - want[i]) < 1e-6);
        rw_free(q);
        rw_free(want);
    }
}

static void any_number_of_threads(void **state) {
    (void)state;
    for (int s = 0; s < N_SHAPES; s++) {
        const size_t n_bytes = (size_t)(shapes[s][0] * shapes[s][1]) * sizeof(float);
        float *one = make(shapes[s][0], shapes[s][1], 2, 1);
        for (int threads = 2; threads <= 5; threads++) {
            float *q = make(shapes[s][0], shapes[s][1], 2, threads);
            assert_memory_equal(one, q, n_bytes);
            rw_free(q);
        }
        rw_free(one);
    }
}

/* Haar measure on O(3): the trace has moments 0, 1, 0, 3 and an entry 0, 1/3, 0, 1/5; half of the determinants are 1.
 */
static void uniform_over_rotations(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    double trace[4] = {0}, entry[9][4] = {{0}};
    int positive = 0;
    for (uint64_t d = 0; d < DRAWS; d++) {
        float *q = make(3, 3, d, 1);
        double t = q[0] + q[4] + q[8];
        double det = q[0] * (q[4] * q[8] - q[5] * q[7]) - q[1] * (q[3] * q[8] - q[5] * q[6]) +
                     q[2] * (q[3] * q[7] - q[4] * q[6]);
        positive += det > 0;
        for (int p = 0; p < 4; p++) trace[p] += pow(t, p + 1) / DRAWS;
        for (int e = 0; e < 9; e++)
            for (int p = 0; p < 4; p++) entry[e][p] += pow(q[e], p + 1) / DRAWS;
        rw_free(q);
    }
    static const double of_trace[] = {0, 1, 0, 3}, of_entry[] = {0, 1. / 3, 0, 1. / 5};
    /* 5 deviations, each below the square root of the moment of twice the order (trace^8: 105; entries below 1) */
    static const double wide[] = {1, 1.8, 4, 10.3};
    for (int p = 0; p < 4; p++) assert_true(fabs(trace[p] - of_trace[p]) < 5 * wide[p] / sqrt(DRAWS));
    for (int e = 0; e < 9; e++)
        for (int p = 0; p < 4; p++) assert_true(fabs(entry[e][p] - of_entry[p]) < 5 * 0.6 / sqrt(DRAWS));
    assert_true(fabs((double)positive / DRAWS - 0.5) < 5 * 0.5 / sqrt(DRAWS));
}

static void short_of_memory(void **state) {
    (void)state;
    rw_error err = {0};
    float q[6] = {0};
    rw_alloc_fail_after(1);
    assert_int_equal(rw_orthogonal(q, 2, 3, 1, 1, 1, &err), RW_E_MEMORY);
    rw_alloc_fail_after(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(orthonormal), cmocka_unit_test(blocks_are_reflections),
                                       cmocka_unit_test(any_number_of_threads),
                                       cmocka_unit_test(uniform_over_rotations), cmocka_unit_test(short_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
