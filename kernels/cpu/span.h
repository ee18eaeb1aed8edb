/* Loops over flat arrays: each thread works on one span, cut at cache lines. */
#ifndef RW_KERNELS_CPU_SPAN_H
#define RW_KERNELS_CPU_SPAN_H

#include "kernels/cpu/cpu.h"

#include <string.h>

#if defined(RW_REAL_F64)
#define RW_SQRT sqrt
#else
#define RW_SQRT sqrtf
#endif

enum { RW_SPAN_ALIGN = 64, RW_SPAN_SERIAL_BELOW = 8192 };

static inline int rw_span_count(const rw_exec *ex, int64_t n) {
    return n < RW_SPAN_SERIAL_BELOW ? 1 : ex->threads;
}

static inline void rw_span_cut(int64_t total, int n, int i, int64_t *first, int64_t *last) {
    rw_split((total + RW_SPAN_ALIGN - 1) / RW_SPAN_ALIGN, n, i, first, last);
    *first *= RW_SPAN_ALIGN;
    *last = i == n - 1 ? total : *last * RW_SPAN_ALIGN;
}

static inline void rw_zero_span(real *x, int64_t n) {
    memset(x, 0, (size_t)n * sizeof *x);
}

#define RW_PRAGMA(text) _Pragma(#text)

/* Runs `work`, an expression over int64_t first and last, for every span of n elements. */
#define RW_SPANS(ex, n, work)                                                                                          \
    do {                                                                                                               \
        const int rw_spans = rw_span_count(ex, n);                                                                     \
        const int64_t rw_total = (n);                                                                                  \
        RW_PRAGMA(omp parallel for num_threads(rw_spans) schedule(static, 1))                                          \
        for (int rw_i = 0; rw_i < rw_spans; rw_i++) {                                                                  \
            int64_t first, last;                                                                                       \
            rw_span_cut(rw_total, rw_spans, rw_i, &first, &last);                                                      \
            work;                                                                                                      \
        }                                                                                                              \
    } while (0)

#endif
