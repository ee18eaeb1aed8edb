/* head_loss: cross entropy over a chunk of rows of logits, in place, with the gradient in the same pass.
 *     loss[i] = logsumexp(logits[i]) - logits[i][target[i]]            (not multiplied by the mask)
 *     dlogits[i][j] = (softmax_j - [j = target]) * mask[i] * normaliser
 *                   + [j = first argmax] * logits[i][j] * (l2wrap_mask * mask[i] + l2wrap_rows)
 * and all of dlogits times loss_scale. The last line is L2Wrap of RWKV-LM; it changes gradients only. normaliser and
 * the l2wrap factors are the step's scalars, loss_scale the device's own. A row with mask 0 and l2wrap_rows 0 gets
 * exactly 0. */
#ifndef RW_KERNELS_HEAD_LOSS_H
#define RW_KERNELS_HEAD_LOSS_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    rw_dtype dtype;
    int64_t R, V;
    void *logits;           /* [R,V]; with want_grad overwritten by dlogits */
    const int32_t *targets; /* [R] */
    const float *mask;      /* [R]; NULL: ones */
    void *loss;             /* [R] wide */
    bool want_grad;
} rw_head_loss_args;

#ifdef __cplusplus
}
#endif
#endif
