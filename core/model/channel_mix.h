/* The channel mix of x052 and x060 (RWKV-5 and 6, arXiv:2404.05892):
 *     x + sigmoid(receptance(xr)) * value(relu(key(xk))^2),   xk, xr: token shift of LN(x)
 * In a model with pre_ffn block 0 has a second one in place of its time mix. */
#ifndef RW_MODEL_CHANNEL_MIX_H
#define RW_MODEL_CHANNEL_MIX_H

#include "core/model/arch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    rw_tensor *ln_w, *ln_b, *mix_k, *mix_r; /* C elements each      */
    rw_tensor *key, *receptance, *value;    /* [F,C], [C,C], [C,F]  */
    bool times_current; /* the mixes multiply the token itself (x052), not the one before it (x060) */
    int shift;          /* the field of the state that holds the last token */
} rw_channel_mix_in;

/* x [R,C] -> [R,C] */
rw_tensor *rw_channel_mix(rw_tape *t, rw_block_io *io, rw_tensor *x, const rw_channel_mix_in *w);

#ifdef __cplusplus
}
#endif
#endif
