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

/* Runs the statement for every int64_t `i` below `count`, on `threads` threads. One thread takes a plain loop: a team
 * of one, between teams of several, would make the OpenMP runtime allocate a new team each time. */
#define RW_FOR(threads, i, count, ...)                                                                                 \
    do {                                                                                                               \
        const int rw_threads = (threads);                                                                              \
        const int64_t rw_count = (count);                                                                              \
        if (rw_threads <= 1 || rw_count <= 1) {                                                                        \
            for (int64_t i = 0; i < rw_count; i++) {                                                                   \
                __VA_ARGS__;                                                                                           \
            }                                                                                                          \
        } else {                                                                                                       \
            RW_PRAGMA(omp parallel for num_threads(rw_threads) schedule(static))                                       \
            for (int64_t i = 0; i < rw_count; i++) {                                                                   \
                __VA_ARGS__;                                                                                           \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* Runs the statement, over int64_t first and last, for every span of n elements. */
#define RW_SPANS(ex, n, ...)                                                                                           \
    do {                                                                                                               \
        const int rw_spans = rw_span_count(ex, n);                                                                     \
        const int64_t rw_total = (n);                                                                                  \
        RW_FOR(rw_spans, rw_i, rw_spans, int64_t first, last;                                                          \
               rw_span_cut(rw_total, rw_spans, (int)rw_i, &first, &last); __VA_ARGS__);                                \
    } while (0)

#endif
