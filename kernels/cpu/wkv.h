/* What the two recurrences, wkv6.c and wkv7.c, share. */
#ifndef RW_KERNELS_CPU_WKV_H
#define RW_KERNELS_CPU_WKV_H

#include "kernels/cpu/lanes.h"

#include <string.h>

/* offset elements into an array that may be missing */
static inline const real *rw_at(const void *p, int64_t offset) {
    return p ? (const real *)p + offset : NULL;
}
static inline real *rw_at_w(void *p, int64_t offset) {
    return p ? (real *)p + offset : NULL;
}

/* to[j][i] = from[i][j], by blocks that fit the cache lines; N a multiple of 16. */
static inline void rw_transpose(real *restrict to, const real *restrict from, int64_t N) {
    for (int64_t i0 = 0; i0 < N; i0 += 16)
        for (int64_t j0 = 0; j0 < N; j0 += 16)
            for (int64_t j = j0; j < j0 + 16; j++)
                for (int64_t i = i0; i < i0 + 16; i++) to[j * N + i] = from[i * N + j];
}

/* A row of a gradient that may not be wanted. */
RW_INLINE void rw_store_row(void *to, int64_t offset, bool add, const real *restrict from, int64_t N) {
    real *restrict p = rw_at_w(to, offset);
    if (!p) return;
    if (!add) {
        memcpy(p, from, (size_t)N * sizeof(real));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < N; i++) p[i] += from[i];
}

#endif
