/* Vectors of 32 bytes and the few things rows of numbers need: sums with one partial sum per lane, added up in a
 * fixed order, so that every build of the same `real` gives the same bits whatever its instruction set.
 *
 * rw_vec is the vector extension of gcc and clang; on narrower hardware the compiler splits it. No function takes or
 * returns one (the calling convention would depend on the instruction set). */
#ifndef RW_KERNELS_CPU_LANES_H
#define RW_KERNELS_CPU_LANES_H

#include "kernels/cpu/vmath.h"

enum { RW_VL = 32 / sizeof(real) };
typedef real rw_vec __attribute__((vector_size(32), aligned(sizeof(real)), may_alias));

/* Half a vector: what every processor has in one register. */
typedef real rw_half __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));

#if defined(__clang__)
#define RW_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(RW_REAL_F64)
#define RW_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int64_t __attribute__((vector_size(16)))){__VA_ARGS__})
#else
#define RW_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif

RW_INLINE rw_half rw_fold(const rw_vec *x) {
    rw_half low, high;
    memcpy(&low, x, sizeof low);
    memcpy(&high, (const char *)x + sizeof low, sizeof high);
    return low + high;
}

/* Lane l of the result is the sum of the lanes of x[l]. */
RW_INLINE rw_half rw_half_sums(const rw_half *x) {
#if defined(RW_REAL_F64)
    return RW_SHUFFLE(x[0], x[1], 0, 2) + RW_SHUFFLE(x[0], x[1], 1, 3);
#else
    const rw_half a = RW_SHUFFLE(x[0], x[1], 0, 4, 1, 5) + RW_SHUFFLE(x[0], x[1], 2, 6, 3, 7);
    const rw_half b = RW_SHUFFLE(x[2], x[3], 0, 4, 1, 5) + RW_SHUFFLE(x[2], x[3], 2, 6, 3, 7);
    return RW_SHUFFLE(a, b, 0, 1, 4, 5) + RW_SHUFFLE(a, b, 2, 3, 6, 7);
#endif
}

RW_INLINE real rw_lane_total(const real *acc) {
    real half[RW_VL / 2];
    for (int l = 0; l < RW_VL / 2; l++) half[l] = acc[l] + acc[l + RW_VL / 2];
    real sum = 0;
    for (int l = 0; l < RW_VL / 2; l++) sum += half[l];
    return sum;
}

/* Two accumulators hide the latency of the additions. */
RW_INLINE real rw_row_sum(const real *x, int64_t n) {
    rw_vec a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * RW_VL <= n; i += 2 * RW_VL) {
        a += *(const rw_vec *)(x + i);
        b += *(const rw_vec *)(x + i + RW_VL);
    }
    a += b;
    real rest = 0;
    for (; i < n; i++) rest += x[i];
    return rw_lane_total((const real *)&a) + rest;
}

/* sum (x - m)^2 */
RW_INLINE real rw_row_sum_sq(const real *x, real m, int64_t n) {
    rw_vec a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * RW_VL <= n; i += 2 * RW_VL) {
        const rw_vec p = *(const rw_vec *)(x + i) - m, q = *(const rw_vec *)(x + i + RW_VL) - m;
        a += p * p;
        b += q * q;
    }
    a += b;
    real rest = 0;
    for (; i < n; i++) rest += (x[i] - m) * (x[i] - m);
    return rw_lane_total((const real *)&a) + rest;
}

RW_INLINE real rw_row_dot(const real *x, const real *y, int64_t n) {
    rw_vec a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * RW_VL <= n; i += 2 * RW_VL) {
        a += *(const rw_vec *)(x + i) * *(const rw_vec *)(y + i);
        b += *(const rw_vec *)(x + i + RW_VL) * *(const rw_vec *)(y + i + RW_VL);
    }
    a += b;
    real rest = 0;
    for (; i < n; i++) rest += x[i] * y[i];
    return rw_lane_total((const real *)&a) + rest;
}

/* sum x y z: the bonus r . (u * k) */
RW_INLINE real rw_row_dot3(const real *x, const real *y, const real *z, int64_t n) {
    rw_vec a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * RW_VL <= n; i += 2 * RW_VL) {
        a += *(const rw_vec *)(x + i) * *(const rw_vec *)(y + i) * *(const rw_vec *)(z + i);
        b += *(const rw_vec *)(x + i + RW_VL) * *(const rw_vec *)(y + i + RW_VL) * *(const rw_vec *)(z + i + RW_VL);
    }
    a += b;
    real rest = 0;
    for (; i < n; i++) rest += x[i] * y[i] * z[i];
    return rw_lane_total((const real *)&a) + rest;
}

/* -- partial sums of parameter gradients ----------------------------------------------------------------- */

/* Rows are summed in a number of blocks that depends only on R, each by one thread into its own partial sum; the
 * partial sums are then added in order: the same bits for any number of threads. */
static inline int64_t rw_row_blocks(int64_t R) {
    return R < 8 ? 1 : R > 512 ? 64 : R / 8;
}

/* dst[c] (+)= sum over p < n of partial[p * stride + c]. */
static inline void rw_add_partials(real *dst, bool add, const real *partial, int64_t n, int64_t stride, int64_t C) {
    if (!dst) return;
    for (int64_t c = 0; c < C; c++) dst[c] = add ? dst[c] : 0;
    for (int64_t p = 0; p < n; p++) {
        const real *from = partial + p * stride;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) dst[c] += from[c];
    }
}

/* Takes n numbers off a block of memory, a multiple of 64 bytes; base NULL: only counts. */
static inline real *rw_take(real *base, int64_t *used, int64_t n) {
    real *p = base ? base + *used : NULL;
    *used += (n + 15) / 16 * 16;
    return p;
}

#endif
