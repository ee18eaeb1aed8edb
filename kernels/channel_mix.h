/* The elementwise parts of the channel mix.
 *     relu_sq:  out = max(x, 0)^2            dx = 2 dout sqrt(out)     (so only out is kept)
 *     rgate:    out = residual + sigmoid(q) * p    (residual NULL: left out; its gradient is dout itself) */
#ifndef RW_KERNELS_CHANNEL_MIX_H
#define RW_KERNELS_CHANNEL_MIX_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    rw_dtype dtype;
    int64_t n;
    const void *x;    /* [n] */
    void *out;        /* [n]; may be x */
    const void *dout; /* backward reads out and dout */
    void *dx;         /* [n]; may be dout */
    bool add;
} rw_relu_sq_args;

enum { RW_RGATE_ADD_Q = 1, RW_RGATE_ADD_P = 2 };
typedef struct {
    rw_dtype dtype;
    int64_t n;
    const void *q, *p, *residual; /* [n] */
    void *out;                    /* [n]; may be residual or p */
    const void *dout;             /* backward reads q, p, dout */
    void *dq, *dp;
    uint32_t add;
} rw_rgate_args;

#ifdef __cplusplus
}
#endif
#endif
