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
 * the norm or own->loss is not finite, a skipped step, in which adamw writes nothing.
 *
 * dynamic_scale (fp16, whose gradients would vanish below 2^-24 and overflow above 65504): after all that, loss_scale
 * is set for the next step: halved after a skipped one, but never below 1; doubled after RW_LOSS_SCALE_STEPS updates in
 * a row. Whoever starts a run puts RW_LOSS_SCALE_FIRST there; who resumes one, what loss_scale and good_steps were. A
 * skipped step with a finite loss had a scale too large, until it is 1. */
enum { RW_LOSS_SCALE_FIRST = 65536, RW_LOSS_SCALE_STEPS = 2000 };
typedef struct {
    double max_norm;    /* 0: no clipping */
    bool dynamic_scale; /* of the loss    */
} rw_clip_coef_args;

#ifdef __cplusplus
}
#endif
#endif
