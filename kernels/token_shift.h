/* token_shift: layer norm, then the mix of each token with the one before it, for n_mix mixes at once.
 *     xn = LN(x);  prev[t] = xn[t-1], prev[first] = shift_in (zeros without one);  d = prev - xn
 *     out_i = xn + d * mu_i                      (x060, x070)
 *     out_i = xn * mu_i + prev * (1 - mu_i)      (times_current: x052)
 * The carried state is the LN output of the last token of a sequence. Sources: RWKV-5/6 arXiv:2404.05892, RWKV-7
 * arXiv:2503.14456. */
#ifndef RW_KERNELS_TOKEN_SHIFT_H
#define RW_KERNELS_TOKEN_SHIFT_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RW_TOKEN_SHIFT_ADD_X = 1,
    RW_TOKEN_SHIFT_ADD_GAMMA = 2,
    RW_TOKEN_SHIFT_ADD_BETA = 4,
    RW_TOKEN_SHIFT_ADD_SHIFT_IN = 8,
    RW_TOKEN_SHIFT_ADD_MU = 16, /* << i for mix i */
};

typedef struct {
    rw_dtype dtype;
    int64_t R, C, n_seq;
    const int32_t *cu_seqlens;
    int n_mix; /* 0 .. RW_MAX_MIX */
    bool times_current;
    const void *x;            /* [R,C] */
    const void *gamma, *beta; /* [C] wide */
    double eps;
    const void *mu[6];       /* [C] each, wide */
    const void *shift_in;    /* [n_seq or 1, C] wide, or NULL */
    int64_t shift_in_stride; /* elements: C, or 0 = shared by all sequences */
    void *out[6];            /* [R,C] each; NULL: not wanted */
    void *xn;                /* [R,C] the LN output; NULL: not wanted */
    void *shift_out;   /* [n_seq,C] wide; NULL: not wanted; may be shift_in with stride C, if no backward follows */
    void *mean, *rstd; /* [R] wide, saved; NULL: no backward */
    /* backward */
    const void *dout[6], *dxn;     /* as out and xn */
    const void *dshift_out;        /* wide */
    void *dx;                      /* as x */
    void *dgamma, *dbeta, *dmu[6]; /* wide */
    void *dshift_in;               /* wide, shape of shift_in; a shared one gets the sum over sequences */
    uint32_t add;
    void *scratch; /* token_shift_backward_scratch */
} rw_token_shift_args;

#ifdef __cplusplus
}
#endif
#endif
