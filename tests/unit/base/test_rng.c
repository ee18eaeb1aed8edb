/* Random numbers: Philox against the known answers of its authors (the kat_vectors file of Random123), order,
 * distribution, hashing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        rw_philox4x32(cases[i].counter, cases[i].key, out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
    assert_true(rw_rng_u64_at(0, 0, 0) == 0xe169c58d6627e8d5u);
    assert_true(rw_rng_u64_at(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u) == 0x94fdccebd16cfe09u);
}

static void order_does_not_matter(void **state) {
    (void)state;
    rw_rng r = {.seed = 5, .stream = 7, .index = 0};
    for (uint64_t i = 0; i < 100; i++) assert_true(rw_rng_u64(&r) == rw_rng_u64_at(5, 7, i));
    assert_int_equal(r.index, 100);
    assert_true(rw_rng_u64_at(5, 7, 3) != rw_rng_u64_at(5, 8, 3));
    assert_true(rw_rng_u64_at(5, 7, 3) != rw_rng_u64_at(6, 7, 3));
}

static void uniform_and_normal(void **state) {
    (void)state;
    enum { N = 200000 };
    rw_rng r = {.seed = 42};
    double sum = 0, square = 0, n1 = 0, n2 = 0, n4 = 0;
    for (int i = 0; i < N; i++) {
        double u = rw_rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        sum += u, square += u * u;
    }
    assert_int_equal(r.index, N);
    for (int i = 0; i < N; i++) {
        double x = rw_rng_normal(&r);
        n1 += x, n2 += x * x, n4 += x * x * x * x;
    }
    assert_int_equal(r.index, 3 * N);
    /* 5 standard deviations of each mean */
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N));
    assert_true(fabs(square / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
    assert_true(fabs(n1 / N) < 5 / sqrt(N));
    assert_true(fabs(n2 / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(n4 / N - 3) < 5 * sqrt(96.0 / N));
}

static void below_covers_all(void **state) {
    (void)state;
    rw_rng r = {.seed = 1};
    int counts[7] = {0};
    for (int i = 0; i < 70000; i++) counts[rw_rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++) assert_true(abs(counts[i] - 10000) < 500);
    assert_true(rw_rng_below(&r, 1) == 0);
    /* Three quarters of all: without the second draw every third value would come twice as often. */
    uint64_t n = 0xc000000000000000u;
    int thirds[3] = {0};
    for (int i = 0; i < 30000; i++) {
        uint64_t x = rw_rng_below(&r, n);
        assert_true(x < n);
        thirds[x % 3]++;
    }
    for (int i = 0; i < 3; i++) assert_true(abs(thirds[i] - 10000) < 500);
}

static void hashes_differ(void **state) {
    (void)state;
    assert_true(rw_hash_name("emb.weight") == rw_hash64("emb.weight", 10, 0));
    assert_true(rw_hash_name("a") != rw_hash_name("b"));
    assert_true(rw_hash_name("") != rw_hash64("", 0, 1));
    uint64_t seen_low = 0; /* the low bits of near names must differ, they choose streams */
    for (int i = 0; i < 64; i++) {
        char name[2] = {(char)(32 + i), 0};
        seen_low |= 1ull << (rw_hash_name(name) & 63);
    }
    assert_true(__builtin_popcountll(seen_low) > 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),      cmocka_unit_test(order_does_not_matter),
        cmocka_unit_test(uniform_and_normal), cmocka_unit_test(below_covers_all),
        cmocka_unit_test(hashes_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
