/* adamw: Adam and AdamW as DeepSpeed FusedAdam computes them (arXiv:1412.6980, arXiv:1711.05101), over flat buffers.
 *     g = grad * grad_scale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g g
 *     step = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)  [+ weight_decay * p  in AdamW mode, decay ranges]
 *     p -= lr * lr_scale * step
 * lr, weight_decay and seed are the step's; t (updates), grad_scale (clipping) and skipped_in_row the device's own. In
 * a step that is skipped (skipped_in_row > 0) nothing is written, neither p nor m nor v. AdamW mode exactly when
 * adam_w_mode is set (weight_decay > 0 at the start of the run). Elements between ranges (padding) are not touched.
 *
 * All of this is computed wide (fp32; fp64 on cpu_f64), gradient step and decay together, and then rounded once, by
 * what the buffers hold. Bytes are those of a device with bf16 buffers, gradient included:
 *     form   p          master   m, v      bytes   how p is written
 *     fp32   wide       -        wide      16      as computed
 *     a16    bf16       fp32     fp32      16      the nearest to master, which is what moves
 *     b12    bf16       -        fp32      12      at random (rounding.h)
 *     b8     bf16       -        bf16       8      at random, m and v too
 * "bf16" p is a buffer of bf16, or of a wider type that holds numbers of bf16 alone (p_grid): the CPU's way. */
#ifndef RW_KERNELS_ADAMW_H
#define RW_KERNELS_ADAMW_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A parameter, or a part of one. */
typedef struct {
    int64_t offset, n; /* elements [offset, offset + n) of all flat buffers                        */
    double lr_scale;
    int64_t decay;   /* 1: weight decay                                                           */
    uint64_t stream; /* names the parameter, for rounding: a hash of its name                     */
    int64_t first;   /* which of the parameter's elements, in logical order, is the one at offset */
} rw_adamw_range;

typedef struct {
    rw_dtype dtype;        /* of p                                                                */
    rw_dtype p_grid;       /* RW_BF16: p holds numbers of bf16; NONE: any of dtype                */
    rw_dtype grad_dtype;   /* NONE: dtype                                                         */
    rw_dtype moment_dtype; /* of m and v: RW_BF16; NONE: wide                                     */
    int64_t n_ranges;
    const rw_adamw_range *ranges; /* [n_ranges] on the device; they do not overlap          */
    void *p;                      /* [flat] dtype                                             */
    const void *grad;             /* [flat] grad_dtype                                        */
    void *master;                 /* [flat] wide; NULL: none. Only with p_grid                */
    void *m, *v;                  /* [flat] moment_dtype                                      */
    double beta1, beta2, eps;
    bool adam_w_mode;
} rw_adamw_args;

#ifdef __cplusplus
}
#endif
#endif
