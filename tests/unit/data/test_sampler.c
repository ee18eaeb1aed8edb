/* Random starts stay in their range and reach both ends; magic primes against trial division; the cubic sampler is a
 * permutation and exact where products pass 64 bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/data/sampler.h"
#include "tests/unit/data/fixture.h"

static void test_random(void **state) {
    (void)state;
    int seen[10] = {0};
    for (uint64_t step = 0; step < 500; step++)
        for (int64_t row = 0; row < 4; row++) {
            int64_t at = rw_sampler_random(42, step, 4, row, 27, 16);
            assert_in_range(at, 0, 9);
            seen[at]++;
        }
    for (int i = 0; i < 10; i++) assert_in_range(seen[i], 140, 260); /* 200 each; 4 deviations are 54 */
    assert_int_equal(rw_sampler_random(1, 2, 3, 0, 18, 16), 0);      /* a single possible start */
}

/* Numbered by step * rows + row: 2 rows twice are the numbers of 4 rows once; other seeds are other numbers. */
static void test_pure(void **state) {
    (void)state;
    const int64_t n = INT64_C(1) << 40;
    for (int64_t row = 0; row < 4; row++)
        assert_int_equal(rw_sampler_random(7, 5, 4, row, n, 512),
                         rw_sampler_random(7, (uint64_t)(10 + row / 2), 2, row % 2, n, 512));
    assert_int_not_equal(rw_sampler_random(7, 5, 4, 0, n, 512), rw_sampler_random(8, 5, 4, 0, n, 512));
    assert_int_not_equal(rw_sampler_random(7, 5, 4, 0, n, 512), rw_sampler_random(7, 5, 4, 1, n, 512));
}

static bool prime_by_division(int64_t n) {
    for (int64_t d = 2; d * d <= n; d++)
        if (n % d == 0) return false;
    return n > 1;
}

static void test_magic_prime(void **state) {
    (void)state;
    for (int64_t slots = 0; slots < 5000; slots++) {
        int64_t want = slots - 1;
        while (want > 1 && !(want % 3 == 2 && prime_by_division(want))) want--;
        assert_int_equal(rw_sampler_magic_prime(slots * 16 + 5, 16), want > 1 ? want : 0);
    }
    assert_int_equal(rw_sampler_magic_prime(100, 0), 0);
    assert_int_equal(rw_sampler_magic_prime((INT64_C(1) << 61), 1), INT64_C(2305843009213693907));
}

static void test_permutation(void **state) {
    (void)state;
    static char seen[1229];
    for (int64_t i = 1; i <= 1229; i++) {
        int64_t at = rw_sampler_cubic(1229, 16, (uint64_t)i);
        assert_int_equal(at % 16, 0);
        assert_in_range(at / 16, 0, 1228);
        assert_false(seen[at / 16]++);
    }
}

/* f = 50111936 for this prime: (f i^3) mod p in Python's integers. */
static void test_wide(void **state) {
    (void)state;
    assert_int_equal(rw_sampler_cubic(81082817, 4096, 123456789), INT64_C(73045422080));
    assert_int_equal(rw_sampler_cubic(81082817, 1, UINT64_C(9999999999999999999)), 48764649);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),      cmocka_unit_test(test_pure), cmocka_unit_test(test_magic_prime),
        cmocka_unit_test(test_permutation), cmocka_unit_test(test_wide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
