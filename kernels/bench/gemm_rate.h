/* How fast the matrix products of a step would run if there were nothing else: the yardstick of the step benchmark. */
#ifndef RW_KERNELS_BENCH_GEMM_RATE_H
#define RW_KERNELS_BENCH_GEMM_RATE_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t M, N, K;
    bool trans_a, trans_b;
    int64_t count;  /* how often it occurs in a step */
    double seconds; /* written: of one call, the fastest of the repeats */
} rw_gemm_shape;

/* Times each shape alone on `d` (matmul of its table, random operands in memory allocated from d) and returns the
 * floating-point operations per second of all of them together: sum(2 M N K count) / sum(seconds count).
 * `repeats` at least 1, after one warm-up. E_MEMORY when the operands do not fit. */
rw_status rw_gemm_rate(rw_device *d, rw_gemm_shape *shapes, int n, int repeats, double *flops_per_second,
                       rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
