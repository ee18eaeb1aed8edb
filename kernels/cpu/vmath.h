/* Elementary functions that a compiler can vectorise: no calls, no branches, no tables. Used inside RW_CLONES
 * functions; `#pragma omp simd` over a loop that calls them gives full vectors on every instruction set.
 *
 * Accuracy, against libm: below 3 ulp in both types (measured against long double).
 * Method: x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial in r (Taylor terms, enough of them), then a shift of the
 * exponent. A result that would be subnormal is 0. NaN goes through, so that broken numbers stay visible. */
#ifndef RW_KERNELS_CPU_VMATH_H
#define RW_KERNELS_CPU_VMATH_H

#include "kernels/cpu/cpu.h"

#include <stdint.h>
#include <string.h>

#define RW_INLINE static inline __attribute__((always_inline, unused))

#if defined(RW_REAL_F64)
typedef uint64_t rw_real_bits;
#define RW_EXP_MAX       710.0
#define RW_EXP_MIN       (-708.4)
#define RW_EXP_BOUND     700.0
#define RW_MANTISSA_BITS 52
#define RW_EXPONENT_BIAS 1023u
#define RW_ROUND_MAGIC   6755399441055744.0  /* 1.5 * 2^52: adding it rounds to an integer in the low bits */
#define RW_LN2_HI        6.93145751953125e-1 /* few bits, so that n * hi is exact */
#define RW_LN2_LO        1.42860682030941723212e-6
#define RW_TWO_POW       18014398509481984.0 /* 2^54 */
#define RW_TWO_POW_LOG   54
#define RW_REAL_MIN      2.2250738585072014e-308
#else
typedef uint32_t rw_real_bits;
#define RW_EXP_MAX       89.0f
#define RW_EXP_MIN       (-87.4f)
#define RW_EXP_BOUND     80.0f
#define RW_MANTISSA_BITS 23
#define RW_EXPONENT_BIAS 127u
#define RW_ROUND_MAGIC   12582912.0f
#define RW_LN2_HI        0.693359375f
#define RW_LN2_LO        (-2.12194440e-4f)
#define RW_TWO_POW       33554432.0f /* 2^25 */
#define RW_TWO_POW_LOG   25
#define RW_REAL_MIN      1.17549435e-38f
#endif

RW_INLINE rw_real_bits rw_bits_of(real x) {
    rw_real_bits u;
    memcpy(&u, &x, sizeof u);
    return u;
}

RW_INLINE real rw_real_of(rw_real_bits u) {
    real x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* e^r - 1 for |r| <= ln 2 / 2. */
RW_INLINE real rw_expm1_small(real r) {
#if defined(RW_REAL_F64)
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
#else
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
#endif
    return p * (r * r) + r;
}

/* x = n ln 2 + r. Returns r; *scale is 2^(n-1), so that n may be one past the largest exponent. */
RW_INLINE real rw_exp_reduce(real x, real *scale) {
    const real shifted = x * (real)1.4426950408889634074 + RW_ROUND_MAGIC;
    const real n = shifted - RW_ROUND_MAGIC;
    const rw_real_bits biased = rw_bits_of(shifted) - rw_bits_of(RW_ROUND_MAGIC) + (RW_EXPONENT_BIAS - 1);
    *scale = rw_real_of(biased << RW_MANTISSA_BITS);
    return (x - n * RW_LN2_HI) - n * RW_LN2_LO;
}

/* The limits are chosen so that the shift of the exponent itself gives 0 below and infinity above. */
RW_INLINE real rw_exp(real x) {
    real c = x < RW_EXP_MIN ? RW_EXP_MIN : x, scale;
    c = c > RW_EXP_MAX ? RW_EXP_MAX : c;
    const real p = rw_expm1_small(rw_exp_reduce(c, &scale));
    return (p * scale + scale) * 2;
}

/* exp(x) for x that has been brought between -RW_EXP_BOUND and RW_EXP_BOUND: finite and not 0. */
RW_INLINE real rw_exp_bounded(real x) {
    real half;
    const real p = rw_expm1_small(rw_exp_reduce(x, &half)), scale = 2 * half;
    return p * scale + scale;
}

/* (e^2a - 1) / (e^2a + 1) on a = |x|, which loses no digits near 0. */
RW_INLINE real rw_tanh(real x) {
    real a = 2 * (x < 0 ? -x : x), half;
    a = a > 44 ? 44 : a;
    const real q = rw_expm1_small(rw_exp_reduce(a, &half));
    const real scale = 2 * half, em = scale * q + (scale - 1), t = em / (em + 2);
    return x < 0 ? -t : t;
}

RW_INLINE real rw_sigmoid(real x) {
    return 1 / (1 + rw_exp(-x));
}

/* sigma(x); *rest = 1 - sigma(x), without cancellation. Beyond RW_EXP_BOUND both stay what they are there. */
RW_INLINE real rw_sigmoid_parts(real x, real *rest) {
    real c = x < -RW_EXP_BOUND ? -RW_EXP_BOUND : x;
    c = c > RW_EXP_BOUND ? RW_EXP_BOUND : c;
    const real e = rw_exp_bounded(-c), s = 1 / (1 + e);
    *rest = e * s;
    return s;
}

/* log of x = m 2^e, sqrt(1/2) <= m < sqrt(2): 2 atanh((m - 1) / (m + 1)). */
RW_INLINE real rw_log(real x) {
    const real big = x < RW_REAL_MIN ? x * RW_TWO_POW : x; /* subnormals */
    const rw_real_bits u = rw_bits_of(big), above = u - rw_bits_of((real)0.70710678118654752440);
    /* the exponent, kept in the low bits of a number near the magic, avoids an integer conversion */
    const rw_real_bits sign_fill = (above >> (sizeof(real) * 8 - 1)) * ~(((rw_real_bits)~0ull) >> RW_MANTISSA_BITS);
    const rw_real_bits exponent = (above >> RW_MANTISSA_BITS) | sign_fill;
    const real e = rw_real_of(rw_bits_of(RW_ROUND_MAGIC) + exponent) - RW_ROUND_MAGIC -
                   (x < RW_REAL_MIN ? (real)RW_TWO_POW_LOG : (real)0);
    const real m = rw_real_of(u - (exponent << RW_MANTISSA_BITS));
    const real s = (m - 1) / (m + 1), z = s * s;
#if defined(RW_REAL_F64)
    double p = 2.0 / 23;
    p = p * z + 2.0 / 21;
    p = p * z + 2.0 / 19;
    p = p * z + 2.0 / 17;
    p = p * z + 2.0 / 15;
    p = p * z + 2.0 / 13;
    p = p * z + 2.0 / 11;
    p = p * z + 2.0 / 9;
#else
    float p = 2.0f / 9;
#endif
    p = p * z + (real)(2.0 / 7);
    p = p * z + (real)(2.0 / 5);
    p = p * z + (real)(2.0 / 3);
    const real r = e * RW_LN2_HI + (2 * s + (p * (z * s) + e * RW_LN2_LO));
    const real zero = x == 0 ? -(real)INFINITY : r;
    const real positive = x < 0 ? (real)NAN : zero;
    return x > 0 && x - x != 0 ? x : (x != x ? x : positive);
}

#endif
