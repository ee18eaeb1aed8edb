/* Element types: names, and each 16-bit value against the definition of its format in exact arithmetic. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void names_both_ways(void **state) {
    (void)state;
    for (int t = 1; t < RW_DTYPE_COUNT; t++) {
        assert_int_equal(rw_dtype_from_name(rw_dtype_name((rw_dtype)t)), t);
        assert_int_equal(rw_dtype_from_safetensors(rw_dtype_safetensors((rw_dtype)t)), t);
        const char *storage = rw_dtype_torch_storage((rw_dtype)t);
        assert_int_equal(!*storage, t == RW_U16); /* torch has no class for it */
        assert_int_equal(rw_dtype_from_torch_storage(storage), *storage ? t : RW_DTYPE_NONE);
        assert_true(rw_dtype_bytes((rw_dtype)t) > 0);
        bool is_float = t == RW_F32 || t == RW_F64 || t == RW_BF16 || t == RW_F16;
        assert_int_equal(rw_dtype_is_float((rw_dtype)t), is_float);
    }
    assert_false(rw_dtype_is_float(RW_DTYPE_NONE));
    assert_int_equal(rw_dtype_from_name("fp32"), RW_F32);
    assert_int_equal(rw_dtype_from_name("bfloat16"), RW_BF16);
    assert_int_equal(rw_dtype_from_name("F16"), RW_F16);
    assert_int_equal(rw_dtype_from_name("f99"), RW_DTYPE_NONE);
    assert_int_equal(rw_dtype_from_name(""), RW_DTYPE_NONE);
    assert_int_equal(rw_dtype_from_torch_storage("QInt8Storage"), RW_DTYPE_NONE);
}

/* The value of a number with e exponent bits and m mantissa bits, by the IEEE definition. */
static double define(uint32_t h, int e, int m) {
    int sign = (int)(h >> (e + m) & 1), exponent = (int)(h >> m & ((1u << e) - 1)), bias = (1 << (e - 1)) - 1;
    double mantissa = (double)(h & ((1u << m) - 1));
    double v;
    if (exponent == (1 << e) - 1)
        v = mantissa != 0 ? NAN : INFINITY;
    else if (exponent == 0)
        v = ldexp(mantissa, 1 - bias - m);
    else
        v = ldexp(mantissa + (double)(1 << m), exponent - bias - m);
    return sign ? -v : v;
}

static bool same(double a, double b) {
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static void reads_each_value(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        if (!same(define(h, 5, 10), rw_f32_from_f16((uint16_t)h))) fail_msg("f16 %04x", h);
        if (!same(define(h, 8, 7), rw_f32_from_bf16((uint16_t)h))) fail_msg("bf16 %04x", h);
    }
}

typedef uint16_t writer(double x);
static uint16_t write_f16(double x) {
    return rw_f16_from_f32((float)x);
}
static uint16_t write_bf16(double x) {
    return rw_bf16_from_f32((float)x);
}
static uint16_t write_f16_of_f64(double x) {
    uint16_t h;
    assert_int_equal(rw_convert(&h, RW_F16, &x, RW_F64, 1), 0);
    return h;
}
static uint16_t write_bf16_of_f64(double x) {
    uint16_t h;
    assert_int_equal(rw_convert(&h, RW_BF16, &x, RW_F64, 1), 0);
    return h;
}

/* For each pair of neighbours h, h+1: both are kept, the middle goes to the even one, and what lies just beside
 * the middle goes to its own side. beside() gives the neighbour of a number in the source type. */
static void round_between(writer *write, double (*beside)(double, double), int e, int m) {
    uint32_t infinity = ((1u << e) - 1) << m;
    for (uint32_t h = 0; h < infinity; h++) {
        double low = define(h, e, m), high = define(h + 1, e, m), even = h & 1 ? h + 1 : h;
        if (h + 1 == infinity) high = ldexp(1, 1 << (e - 1)); /* where the next value would stand */
        double middle = (low + high) / 2;
        bool ok = write(low) == h && write(-low) == (h | 0x8000u) && write(middle) == even &&
                  write(beside(middle, low)) == h && write(beside(middle, INFINITY)) == h + 1 &&
                  write(-beside(middle, low)) == (h | 0x8000u);
        if (!ok) fail_msg("%d exponent bits: %04x", e, h);
    }
    assert_int_equal(write(INFINITY), infinity);
    assert_int_equal(write(-INFINITY), infinity | 0x8000u);
    assert_int_equal(write(1e30 * ldexp(1, 90)), infinity);
    assert_true(isnan(define(write(NAN), e, m)));
    assert_true(isnan(define(write(-NAN), e, m)));
}

static double beside_f32(double x, double to) {
    return nextafterf((float)x, (float)to);
}

static void rounds_to_nearest_even(void **state) {
    (void)state;
    round_between(write_f16, beside_f32, 5, 10);
    round_between(write_bf16, beside_f32, 8, 7);
    round_between(write_f16_of_f64, nextafter, 5, 10); /* twice rounded, these would fail */
    round_between(write_bf16_of_f64, nextafter, 8, 7);
}

static void nan_with_low_bits_stays_nan(void **state) {
    (void)state;
    static const uint32_t bits[] = {0x7f800001, 0xff800001, 0x7fbfffff, 0x7fffffff};
    for (int i = 0; i < 4; i++) {
        float f;
        memcpy(&f, &bits[i], 4);
        assert_true(isnan(rw_f32_from_f16(rw_f16_from_f32(f))));
        assert_true(isnan(rw_f32_from_bf16(rw_bf16_from_f32(f))));
    }
}

static void converts_arrays_at_any_address(void **state) {
    (void)state;
    static const rw_dtype types[] = {RW_F64, RW_F32, RW_BF16, RW_F16};
    enum { N = 2503 }; /* more than two pieces on the way through f32 */
    char *from = malloc(N * 8 + 1), *to = malloc(N * 8 + 1), *back = malloc(N * 8);
    double values[N];
    for (int i = 0; i < N; i++) values[i] = i % 3 ? (i % 128) / 4.0 : -(i % 100); /* 7 bits: exact in bf16, too */
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            assert_int_equal(rw_convert(from + 1, types[a], values, RW_F64, N), 0);
            assert_int_equal(rw_convert(to + 1, types[b], from + 1, types[a], N), 0);
            assert_int_equal(rw_convert(back, RW_F64, to + 1, types[b], N), 0);
            assert_memory_equal(back, values, sizeof values);
        }
    free(from);
    free(to);
    free(back);
}

static void refuses_other_pairs(void **state) {
    (void)state;
    int64_t a = 5, b = 0;
    assert_int_equal(rw_convert(&b, RW_I64, &a, RW_I64, 1), 0);
    assert_int_equal(b, 5);
    assert_int_equal(rw_convert(&b, RW_I32, &a, RW_I64, 1), -1);
    assert_int_equal(rw_convert(&b, RW_F32, &a, RW_I32, 1), -1);
    assert_int_equal(rw_convert(&b, RW_DTYPE_NONE, &a, RW_F32, 1), -1);
    assert_int_equal(rw_convert(&b, RW_F32, &a, RW_F64, -1), -1);
    assert_int_equal(rw_convert(NULL, RW_F32, NULL, RW_F64, 0), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_both_ways),
        cmocka_unit_test(reads_each_value),
        cmocka_unit_test(rounds_to_nearest_even),
        cmocka_unit_test(nan_with_low_bits_stays_nan),
        cmocka_unit_test(converts_arrays_at_any_address),
        cmocka_unit_test(refuses_other_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
