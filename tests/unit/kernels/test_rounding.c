/* Stochastic rounding: exact probabilities, special numbers, and the random bits behind it. */
#include "kernels/rounding.h"
#include "tests/unit/kernels/device_test.h"

static float of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Of all 65536 values of the random number exactly as many round up as the fraction says; the rest round down. */
static void test_probability(void **state) {
    (void)state;
    static const uint32_t lowest[] = {0x3f800000u, 0xbf810000u, 0x00010000u, 0x7f7f0000u, 0x12340000u, 0x80000000u};
    static const uint32_t fractions[] = {0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff, 12345};
    for (size_t i = 0; i < sizeof lowest / sizeof *lowest; i++)
        for (size_t k = 0; k < sizeof fractions / sizeof *fractions; k++) {
            uint32_t low = lowest[i] >> 16, up = 0;
            if (low % 0x8000 == 0) continue; /* below the smallest number: see test_never_zero */
            for (uint32_t random = 0; random < 65536; random++) {
                uint16_t h = rw_bf16_stochastic(of_bits(lowest[i] | fractions[k]), random);
                assert_true(h == low || h == low + 1);
                up += h == low + 1;
            }
            assert_int_equal(up, fractions[k]);
        }
}

static void test_special_numbers(void **state) {
    (void)state;
    for (uint32_t random = 0; random < 65536; random++) {
        assert_int_equal(rw_bf16_stochastic(0.0f, random), 0);
        assert_int_equal(rw_bf16_stochastic(-0.0f, random), 0x8000);
        assert_int_equal(rw_bf16_stochastic(INFINITY, random), 0x7f80);
        assert_int_equal(rw_bf16_stochastic(-INFINITY, random), 0xff80);
        assert_true(isnan(rw_f32_from_bf16(rw_bf16_stochastic(of_bits(0x7fffffffu), random))));
        assert_true(isnan(rw_f32_from_bf16(rw_bf16_stochastic(of_bits(0xff800001u), random))));
    }
}

/* From the smallest float up: what is not 0 stays so. */
static void test_never_zero(void **state) {
    (void)state;
    for (uint32_t u = 1; u < 0x10000u; u = u * 3 + 1)
        for (uint32_t random = 0; random < 65536; random++) {
            assert_int_equal(rw_bf16_stochastic(of_bits(u), random), 1);
            assert_int_equal(rw_bf16_stochastic(of_bits(u | 0x80000000u), random), 0x8001);
        }
}

/* Every bit is 1 half of the time, and independent of the same bit of the next element, the next step and the next
 * parameter: each count within 5 deviations. */
static void test_bits(void **state) {
    (void)state;
    enum { N = 1 << 17 };
    int ones[4][64] = {{0}};
    for (uint64_t i = 0; i < N; i++) {
        uint64_t bits = rw_round_bits(rw_round_key(1, 2, 3), i);
        uint64_t sets[4] = {bits};
        sets[1] = bits ^ rw_round_bits(rw_round_key(1, 2, 3), i + 1);
        sets[2] = bits ^ rw_round_bits(rw_round_key(1, 3, 3), i);
        sets[3] = bits ^ rw_round_bits(rw_round_key(1, 2, 4), i);
        for (int k = 0; k < 4; k++)
            for (int b = 0; b < 64; b++) ones[k][b] += sets[k] >> b & 1;
    }
    const double deviation = sqrt(N) / 2;
    for (int k = 0; k < 4; k++)
        for (int b = 0; b < 64; b++) assert_true(fabs(ones[k][b] - N / 2.0) < 5 * deviation);
}

/* The same in every build, for ever: saved runs resume with these bits. */
static void test_pinned(void **state) {
    (void)state;
    const uint64_t key = rw_round_key(42, 1000, 0x123456789abcdefull);
    assert_true(rw_mix64(0x9e3779b97f4a7c15ull) == 0xe220a8397b1dcdafull); /* SplitMix64 from 0: its first number */
    assert_true(rw_round_bits(0, 1) == 0x6e789e6aa1b965f4ull);             /* and its second */
    assert_true(key == 0xec08ea79589833a0ull);
    uint64_t bits = rw_round_bits(key, 7);
    assert_int_equal(rw_round_bits_of(bits, RW_ROUND_VALUE), bits & 0xffff);
    assert_int_equal(rw_round_bits_of(bits, RW_ROUND_M), bits >> 16 & 0xffff);
    assert_int_equal(rw_round_bits_of(bits, RW_ROUND_V), bits >> 32 & 0xffff);
    assert_true(bits == 0x8d825e49cc8ad077ull);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probability), cmocka_unit_test(test_special_numbers), cmocka_unit_test(test_never_zero),
        cmocka_unit_test(test_bits),        cmocka_unit_test(test_pinned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
