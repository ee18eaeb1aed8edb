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
    bool squares;        /* sum of x * x: of all gradients, padding zero, for their norm */
    double *out;         /* one number on the device */
    bool add;
    void *scratch; /* sum_scratch */
} rw_sum_args;

/* clip_coef: what becomes of a step, after the gradients' sum of squares is in own->grad_sumsq (by `sum`; an all-reduce
 * fits between). Writes step, grad_norm, clip_coef and grad_scale of the device's scalars; counts an update, or, where
 * the norm or own->loss is not finite, a skipped step, in which adamw writes nothing. */
typedef struct {
    double max_norm; /* 0: no clipping */
} rw_clip_coef_args;

#ifdef __cplusplus
}
#endif
#endif
