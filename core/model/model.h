/* A model: parameters under their official names, initial values, and ONE forward pass:
 *     tokens + state -> hidden [R,C] + state
 * built of differentiable ops. Training, prefill and decoding of single tokens are this one function. The head is
 * separate: rw_head_loss() for training, rw_model_logits() for everything else. */
#ifndef RW_MODEL_MODEL_H
#define RW_MODEL_MODEL_H

#include "core/model/arch.h"
#include "core/tensor/layout.h"
#include "core/tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a model carries from token to token, per layer; NULL: zeros (coming in) or not wanted (going out).
 *   att_shift, ffn_shift [n_seq,C]: the layer norm of the last token;  wkv [n_seq,H,N,N]: row = value channel.
 * Coming in, a tensor without the first dimension is shared by all sequences. */
struct rw_state {
    rw_tensor *att_shift[RW_MAX_LAYERS], *ffn_shift[RW_MAX_LAYERS], *wkv[RW_MAX_LAYERS];
};

/* -- a model ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const rw_model *model;
    int layer;
    rw_rows rows;
    bool want_state;
} rw_block_site; /* the context of a checkpointed block */

struct rw_model {
    const rw_arch *arch;
    rw_plan_model shape; /* sizes; strings borrowed from the plan                                        */
    rw_params *params;   /* owned                                                                        */
    rw_tensor **roles;   /* owned [n_layer + 2][n_roles]: parameters; NULL where a part does not have one */
    rw_arena names;
    rw_tensor *emb, *ln0_w, *ln0_b, *ln_out_w, *ln_out_b, *head;
};

typedef struct {
    bool train;                              /* gradients and moments are allocated      */
    void (*groups)(void *ctx, rw_layout *l); /* sets trainable, lr_scale, decay; or NULL */
    void *ctx;
} rw_model_options;

/* Declares, places and allocates; values are zeros until init or load. */
rw_status rw_model_new(rw_model **out, const rw_plan_model *shape, rw_device *device, const rw_model_options *options,
                       rw_error *err);
void rw_model_free(rw_model *m);
/* The official initial values. */
rw_status rw_model_init(rw_model *m, uint64_t seed, rw_error *err);

/* Parameter `role` (index into arch->roles) of a block; layer -1: before the blocks, n_layer: after them. */
static inline rw_tensor *rw_role_of(const rw_model *m, int layer, int role) {
    return m->roles[(layer + 1) * m->arch->n_roles + role];
}

/* hidden [R,C]: the output of ln_out. tokens: rows.n_rows ids on the device. grad_cp 1: blocks are computed again in
 * the backward pass. *state_out (or NULL) is filled with tensors of the open scope. NULL after an error of the tape. */
rw_tensor *rw_model_forward(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, const rw_state *state_in,
                            rw_state *state_out, int grad_cp);
/* hidden [R,C] -> logits [R,V] */
rw_tensor *rw_model_logits(rw_model *m, rw_tape *t, rw_tensor *hidden);

#ifdef __cplusplus
}
#endif
#endif
