/* Sums in a fixed order: first over fixed blocks of elements, then over the blocks, all in double, so that the result
 * depends neither on the number of threads nor on timing. */
#ifndef RW_KERNELS_REDUCE_H
#define RW_KERNELS_REDUCE_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    rw_dtype dtype;
    int64_t n;
    const void *x;       /* [n] */
    const float *weight; /* [n] factor of each element; NULL: 1 */
    bool squares;        /* sum of x * x */
    double *out;         /* one number on the device */
    bool add;
    void *scratch; /* sum_scratch */
} rw_sum_args;

/* Global norm of all trainable gradients: grad_norm and clip_coef of the step scalars. */
typedef struct {
    rw_dtype dtype;
    int64_t n;
    const void *grad; /* [n] flat, padding zero */
    double max_norm;  /* 0: no clipping, clip_coef = 1 */
    void *scratch;    /* clip_scratch */
} rw_clip_args;

#ifdef __cplusplus
}
#endif
#endif
