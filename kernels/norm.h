/* layer_norm over C channels; group_norm over N channels of each of H heads. Biased variance.
 *     x^ = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps),  out = x^ * gamma + beta
 *     dx = rstd (d - mean(d) - x^ mean(d x^)),  d = dout * gamma;  dgamma = sum dout x^,  dbeta = sum dout */
#ifndef RW_KERNELS_NORM_H
#define RW_KERNELS_NORM_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RW_NORM_ADD_X = 1, RW_NORM_ADD_GAMMA = 2, RW_NORM_ADD_BETA = 4 };

typedef struct {
    rw_dtype dtype;
    int64_t R, C;
    const void *x;            /* [R,C] */
    const void *gamma, *beta; /* [C] wide */
    double eps;
    void *out;         /* [R,C] */
    void *mean, *rstd; /* [R] wide, saved; NULL: no backward */
    /* backward */
    const void *dout;
    void *dx;
    void *dgamma, *dbeta; /* wide */
    uint32_t add;
    void *scratch; /* layer_norm_backward_scratch */
} rw_layer_norm_args;

typedef struct {
    rw_dtype dtype;
    int64_t R, H, N;
    const void *x;            /* [R,H*N] */
    const void *gamma, *beta; /* [H*N] wide */
    double eps;
    void *out;         /* [R,H*N] */
    void *mean, *rstd; /* [R,H] wide, saved; NULL: no backward */
    /* backward */
    const void *dout;
    void *dx;
    void *dgamma, *dbeta; /* wide */
    uint32_t add;
    void *scratch; /* group_norm_backward_scratch */
} rw_group_norm_args;

#ifdef __cplusplus
}
#endif
#endif
