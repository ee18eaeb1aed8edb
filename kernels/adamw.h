/* adamw: Adam and AdamW as DeepSpeed FusedAdam computes them (arXiv:1412.6980, arXiv:1711.05101), over flat buffers.
 *     g = grad * grad_scale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g g
 *     step = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)  [+ weight_decay * p  in AdamW mode, decay segments]
 *     p -= lr * lr_scale * step
 * lr and weight_decay are the step's; t (updates), grad_scale (clipping) and skipped_in_row the device's own. In a step
 * that is skipped (skipped_in_row > 0) nothing is written, neither p nor m nor v. AdamW mode exactly when adam_w_mode
 * is set (weight_decay > 0 at the start of the run). Elements between segments (padding) are not touched. */
#ifndef RW_KERNELS_ADAMW_H
#define RW_KERNELS_ADAMW_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t offset, n; /* elements in the flat buffers */
    double lr_scale;
    int64_t decay; /* 1: weight decay */
} rw_adamw_segment;

typedef struct {
    rw_dtype dtype;
    int64_t n_segments;
    const rw_adamw_segment *segments; /* on the device */
    void *p;
    const void *grad;
    void *m, *v;
    double beta1, beta2, eps;
    bool adam_w_mode;
} rw_adamw_args;

#ifdef __cplusplus
}
#endif
#endif
