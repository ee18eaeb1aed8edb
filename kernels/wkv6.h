/* wkv6: time mixing of x060 (Finch) and x052 (Eagle), both arXiv:2404.05892, with its decay, group norm and gate.
 *     w_t = exp(-exp(w0 + w_raw_t))                                       in (0, 1)
 *     w_t = exp(-exp(w0)), the same for all t, with w_raw NULL            (x052; w0 must be given)
 *     y_t = S_{t-1} r_t + (r_t . (u * k_t)) v_t
 *     S_t = S_{t-1} diag(w_t) + v_t k_t^T
 *     out = GN(y; ln_w, ln_b, eps) * silu(gate)       (each part left out when its pointer is NULL)
 * S is one wide N x N matrix per sequence and head: row = value channel, column = key channel. N = 32, 64, 128;
 * sequences of any length, 0 included: they hand their state on. s_out may be s0 when s0_stride is H*N*N and `saved` is
 * NULL (decoding in place); no other output may be an input. No division by w anywhere: a decay may be 0. */
#ifndef RW_KERNELS_WKV6_H
#define RW_KERNELS_WKV6_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RW_WKV6_ADD_R = 1,
    RW_WKV6_ADD_K = 2,
    RW_WKV6_ADD_V = 4,
    RW_WKV6_ADD_W = 8,
    RW_WKV6_ADD_W0 = 16,
    RW_WKV6_ADD_U = 32,
    RW_WKV6_ADD_S0 = 64,
    RW_WKV6_ADD_GATE = 128,
    RW_WKV6_ADD_LN_W = 256,
    RW_WKV6_ADD_LN_B = 512,
};

typedef struct {
    rw_dtype dtype;
    int64_t R, H, N, n_seq;
    const int32_t *cu_seqlens;
    const void *r, *k, *v;   /* [R,H*N] */
    const void *w_raw;       /* [R,H*N]; NULL: a constant decay, and no dw_raw */
    const void *w0;          /* [H*N] wide: time_decay; NULL: zeros */
    const void *u;           /* [H,N] wide: time_faaaa */
    const void *s0;          /* [n_seq or 1,H,N,N] wide; NULL: zeros */
    int64_t s0_stride;       /* elements: H*N*N, or 0 = shared */
    const void *gate;        /* [R,H*N] before silu; NULL: no gate */
    const void *ln_w, *ln_b; /* [H*N] wide; NULL: no norm */
    double eps;
    void *out;   /* [R,H*N] */
    void *s_out; /* [n_seq,H,N,N] wide; NULL: not wanted */
    void *saved; /* wkv6_saved bytes; NULL: no backward */
    /* backward */
    const void *dout;                     /* [R,H*N] */
    const void *ds_out;                   /* [n_seq,H,N,N] wide */
    void *dr, *dk, *dv, *dw_raw, *dgate;  /* dw_raw is w.r.t. w_raw */
    void *dw0, *du, *ds0, *dln_w, *dln_b; /* wide */
    uint32_t add;
    void *scratch; /* wkv6_forward_scratch, wkv6_backward_scratch */
} rw_wkv6_args;

#ifdef __cplusplus
}
#endif
#endif
