/* Vectors of random numbers against one at a time: uniform ones bit by bit, normal ones against libm, their moments,
 * and that a number depends on its place alone. */
#include "tests/unit/kernels/device_test.h"

#include "core/base/rng.h"
#include "kernels/cpu/random.h"

enum { N = 1000, MANY = 1 << 20 };
static const uint64_t seed = 0x123456789abcdefull, stream = 0xfedcba9876543210ull;

/* Number `place` of the stream, from words w and w + 1 of its counter. */
static double expected_normal(uint64_t place) {
    const uint64_t block = place / RW_NORMAL_BLOCK, in = place % RW_NORMAL_BLOCK, counter = block * 8 + in % 8;
    const uint32_t at[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t w[4];
    rw_philox4x32(at, key, w);
    const uint32_t *pair = w + in / 16 * 2;
    const double radius = sqrt(-2 * log(((double)pair[0] + 0.5) * 0x1p-32));
    const double angle = ((double)(pair[1] & ~3u) + 0.5 - 0x1p31) * 0x1p-32 * acos(0);
    const double along = (pair[1] & 1 ? -1 : 1) * radius * cos(angle), across = radius * sin(angle);
    const bool second = in / 8 % 2, swapped = pair[1] & 2;
    return second != swapped ? across : along;
}

static void test_normal(void **state) {
    (void)state;
    double x[N];
    float y[N];
    rw_cpu_f64_normals(seed, stream, 3, N, x);
    rw_cpu_f32_normals(seed, stream, 3, N, y);
    for (uint64_t i = 0; i < N; i++) {
        double want = expected_normal(3 * RW_NORMAL_BLOCK + i);
        assert_true(fabs(x[i] - want) <= 1e-14 * (1 + fabs(want)));
        assert_true(fabs(y[i] - want) <= 2e-6 * (1 + fabs(want))); /* log and the uniform number in float */
    }
}

/* Mean, variance, third and fourth moment of a million, five deviations wide, and products of neighbours. */
static void test_moments(void **state) {
    (void)state;
    double *x = test_memory(sizeof *x * MANY), m[4] = {0}, next = 0, lanes = 0;
    rw_cpu_f64_normals(seed, 5, 0, MANY, x);
    for (int64_t i = 0; i < MANY; i++) {
        for (int p = 0; p < 4; p++) m[p] += pow(x[i], p + 1) / MANY;
        next += x[i] * x[i ^ 1] / MANY;
        lanes += x[i] * x[i ^ 8] / MANY; /* the two of a pair */
    }
    const double deviation = 1 / sqrt(MANY);
    assert_true(fabs(m[0]) < 5 * deviation);
    assert_true(fabs(m[1] - 1) < 5 * sqrt(2) * deviation);
    assert_true(fabs(m[2]) < 5 * sqrt(15) * deviation);
    assert_true(fabs(m[3] - 3) < 5 * sqrt(96) * deviation);
    assert_true(fabs(next) < 5 * sqrt(2) * deviation);
    assert_true(fabs(lanes) < 5 * sqrt(2) * deviation);
    free(x);
}

static void test_uniform(void **state) {
    (void)state;
    double x[N];
    float y[N];
    const uint64_t first = 0xfffffffcull; /* over the edge of 32 bits */
    rw_cpu_f64_uniforms(seed, stream, first, N, 0.3, x);
    rw_cpu_f32_uniforms(seed, stream, first, N, 0.3, y);
    rw_rng r = {seed, stream, first};
    for (int i = 0; i < N; i++) {
        double want = 0.3 * (2 * rw_rng_uniform(&r) - 1);
        assert_true(x[i] == want);
        assert_true(y[i] == (float)want);
    }
}

static void test_place(void **state) {
    (void)state;
    double all[N], part[N];
    rw_cpu_f64_normals(seed, stream, 0, N, all);
    for (int64_t n = 0; n <= 70; n++) {
        rw_cpu_f64_normals(seed, stream, 2, n, part);
        assert_memory_equal(part, all + 2 * RW_NORMAL_BLOCK, (size_t)n * sizeof *part);
    }
    rw_cpu_f64_uniforms(seed, stream, 0, N, 1, all);
    for (int64_t n = 0; n <= 20; n++) {
        rw_cpu_f64_uniforms(seed, stream, 13, n, 1, part);
        assert_memory_equal(part, all + 13, (size_t)n * sizeof *part);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normal), cmocka_unit_test(test_moments),
                                       cmocka_unit_test(test_uniform), cmocka_unit_test(test_place)};
    return cmocka_run_group_tests_name("random", tests, NULL, NULL);
}
