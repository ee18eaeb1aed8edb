/* ddlerp: the data-dependent token shift of x060 (Finch, arXiv:2404.05892). For i in w, k, v, r, g:
 *     m_i = tanh(h_i) w2_i,   out_i = xn + (prev - xn) * (mu_i + m_i)
 * h [R, 5*rank] = xxx time_maa_w1; prev as in token_shift.h, of the same xn. */
#ifndef RW_KERNELS_DDLERP_H
#define RW_KERNELS_DDLERP_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RW_DDLERP_ADD_XN = 1,
    RW_DDLERP_ADD_SHIFT_IN = 2,
    RW_DDLERP_ADD_H = 4,
    RW_DDLERP_ADD_W2 = 8,
    RW_DDLERP_ADD_MU = 16, /* << i for mix i */
};
#define RW_DDLERP_MIX 5

typedef struct {
    rw_dtype dtype;
    int64_t R, C, rank, n_seq;
    const int32_t *cu_seqlens;
    const void *xn;          /* [R,C] */
    const void *shift_in;    /* [n_seq or 1, C] wide, or NULL */
    int64_t shift_in_stride; /* C, or 0 = shared */
    const void *h;           /* [R,5*rank] before tanh; NULL: tanh_h holds tanh(h) already */
    const void *w2;          /* [5,rank,C] */
    const void *mu[5];       /* [C] each, wide */
    void *out[5];            /* [R,C] each; NULL: not wanted */
    void *tanh_h;            /* [R,5*rank] saved; may be h itself; NULL: no backward */
    /* backward (reads tanh_h, not h) */
    const void *dout[5];
    void *dxn, *dh, *dw2;
    rw_dtype dw2_dtype;       /* dtype (NONE stands for it) or wide */
    void *dshift_in, *dmu[5]; /* wide */
    uint32_t add;
    void *scratch; /* ddlerp_forward_scratch, ddlerp_backward_scratch */
} rw_ddlerp_args;

#ifdef __cplusplus
}
#endif
#endif
