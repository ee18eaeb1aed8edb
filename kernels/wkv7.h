/* wkv7: time mixing of x070 (RWKV-7 Goose, arXiv:2503.14456) between its products: preparation, recurrence, group norm,
 * bonus and gate. Per token, channel j of a head; sigma = logistic function:
 *     l  = -exp(-1/2) sigma(w0 + w_raw);   w = exp(l)                   in (0.545, 1)
 *     a  = sigma(a0 + a_up)
 *     v' = v + (v_first - v) sigma(v0 + v_up)                            (v_up NULL: v' = v, layer 0)
 *     kk = k0 * k_k / max(|k0 * k_k|, 1e-12)                             (norm of the head)
 *     k  = k0 * (1 + (a - 1) * k_a)
 *     S_t = S_{t-1} (diag(w_t) - kk_t (kk_t * a_t)^T) + v'_t k_t^T;   y_t = S_t r_t
 *     z   = GN(y; ln_w, ln_b, eps)                                       (ln_w NULL: z = y)
 *     z  += (sum_j r_j k_j r_k_j) v'                                     (r_k NULL: left out)
 *     out = z * g                                                        (g NULL: out = z)
 * In the paper's letters the recurrence has A = -kk and B = kk * a. eps of released models: 64e-5.
 *
 * S is one N x N matrix per sequence and head: row = value channel, column = key channel. N = 32, 64, 128; sequences of
 * any length, 0 included: they hand their state on. s_out may be s0 when s0_stride is H*N*N and `saved` is NULL
 * (decoding in place); no other output may be an input.
 *
 * Narrow, of `dtype`: r w_raw k0 v a_up v_up v_first g, out, and their gradients. Wide (fp64 with fp64, else fp32):
 * vectors of parameters, states, and their gradients. On a CPU all have the dtype of the activations. */
#ifndef RW_KERNELS_WKV7_H
#define RW_KERNELS_WKV7_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RW_WKV7_ADD_R = 1 << 0,
    RW_WKV7_ADD_W_RAW = 1 << 1,
    RW_WKV7_ADD_K0 = 1 << 2,
    RW_WKV7_ADD_V = 1 << 3,
    RW_WKV7_ADD_A_UP = 1 << 4,
    RW_WKV7_ADD_V_UP = 1 << 5,
    RW_WKV7_ADD_V_FIRST = 1 << 6,
    RW_WKV7_ADD_G = 1 << 7,
    RW_WKV7_ADD_W0 = 1 << 8,
    RW_WKV7_ADD_A0 = 1 << 9,
    RW_WKV7_ADD_V0 = 1 << 10,
    RW_WKV7_ADD_K_K = 1 << 11,
    RW_WKV7_ADD_K_A = 1 << 12,
    RW_WKV7_ADD_R_K = 1 << 13,
    RW_WKV7_ADD_LN_W = 1 << 14,
    RW_WKV7_ADD_LN_B = 1 << 15,
    RW_WKV7_ADD_S0 = 1 << 16,
};

typedef struct {
    rw_dtype dtype;
    int64_t R, H, N, n_seq;
    const int32_t *cu_seqlens;
    const void *r, *w_raw, *k0, *v, *a_up; /* [R,H*N] */
    const void *v_up, *v_first;            /* [R,H*N]; both NULL: no value mix */
    const void *g;                         /* [R,H*N] a factor, not activated here; NULL: no gate */
    const void *w0, *a0, *v0, *k_k, *k_a;  /* [H*N]; v0 is read with v_up only */
    const void *r_k;                       /* [H,N]; NULL: no bonus */
    const void *ln_w, *ln_b;               /* [H*N]; both NULL: no norm */
    double eps;                            /* of the norm */
    const void *s0;                        /* [n_seq or 1,H,N,N]; NULL: zeros */
    int64_t s0_stride;                     /* elements: H*N*N, or 0 = shared */
    void *out;                             /* [R,H*N] */
    void *s_out;                           /* [n_seq,H,N,N]; NULL: not wanted */
    void *saved;                           /* wkv7_saved bytes; NULL: no backward */
    /* backward */
    const void *dout, *ds_out;            /* [R,H*N], [n_seq,H,N,N] */
    void *dr, *dw_raw, *dk0, *dv, *da_up; /* shapes of what they belong to; a part left out has no gradients */
    void *dv_up, *dv_first, *dg;
    void *dw0, *da0, *dv0, *dk_k, *dk_a, *dr_k, *dln_w, *dln_b;
    void *ds0; /* a shared one gets the sum over sequences */
    uint32_t add;
    void *scratch; /* wkv7_forward_scratch, wkv7_backward_scratch */
} rw_wkv7_args;

#ifdef __cplusplus
}
#endif
#endif
