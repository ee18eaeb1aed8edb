/* copy_head: what head_qk of RWKV-LM (RWKV-v5) adds to the logits: a token of the sequence so far is likely to return.
 *     c[t][s] = scale * q_t . k_s  for s <= t in the same sequence (no softmax),     scale = 1 / head_qk
 *     logits[t][token_s] += c[t][s]
 *     dc[t][s] = dlogits[t][token_s],  dq_t = scale * sum_s dc[t][s] k_s,  dk_s = scale * sum_t dc[t][s] q_t
 * The logits of `n` rows from `first` on are here, those of others are not: a row needs the k of all rows before it. */
#ifndef RW_KERNELS_COPY_HEAD_H
#define RW_KERNELS_COPY_HEAD_H

#include "core/base/dtype.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RW_COPY_HEAD_ADD_K = 1 };
typedef struct {
    rw_dtype dtype;
    int64_t R, Q, V;           /* rows of all sequences together, width of q and k, vocabulary */
    const int32_t *cu_seqlens; /* [n_seq+1] on the device; NULL: n_seq equal                   */
    int64_t n_seq;
    int64_t first, n;
    double scale;
    const int32_t *tokens; /* [R]                                                          */
    const void *q, *k;     /* [R,Q]                                                        */
    void *logits;          /* [n,V]; forward adds to them                                  */
    const void *dlogits;   /* [n,V]                                                        */
    void *dq;              /* [R,Q]; rows first .. first + n are written, the others left  */
    void *dk;              /* [R,Q]; all rows are written, or added to                     */
    uint32_t add;
} rw_copy_head_args;

#ifdef __cplusplus
}
#endif
#endif
