/* A model: parameters under their official names, initial values, and ONE forward pass:
 *     tokens + state -> hidden [R,C] + state
 * built of differentiable ops. Training, prefill and decoding of single tokens are this one function. The head is
 * separate: rw_head_loss() for training, rw_model_logits() for everything else. */
#ifndef RW_MODEL_MODEL_H
#define RW_MODEL_MODEL_H

#include "core/recipe/plan.h"
#include "core/tensor/init.h"
#include "core/tensor/layout.h"
#include "core/tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a model carries from token to token, per layer; NULL: zeros (coming in) or not wanted (going out).
 *   att_shift, ffn_shift [n_seq,C]: the layer norm of the last token;  wkv [n_seq,H,N,N]: row = value channel.
 * Coming in, a tensor without the first dimension is shared by all sequences. */
typedef struct {
    rw_tensor *att_shift[RW_MAX_LAYERS], *ffn_shift[RW_MAX_LAYERS], *wkv[RW_MAX_LAYERS];
} rw_state;

typedef struct rw_model rw_model;

/* -- architectures ------------------------------------------------------------------------------------------ */

/* Where an initial value is made: formulas see the sizes and the layer. */
typedef struct {
    const rw_plan_model *shape;
    int layer;
} rw_init_site;

/* A parameter of a block: its name after "blocks.N.", its shape, where it lies, how it starts.
 * shape, one letter a dimension: 1, 5, C n_embd, F dim_ffn, H heads, N head size, M lora_mix, m 5 * lora_mix, D
 * lora_decay. */
typedef struct {
    const char *name, *shape;
    int place;       /* order in memory; equal: as listed                       */
    bool only_first; /* exists in block 0 alone                                 */
    rw_init_kind kind;
    double value; /* see rw_init                                             */
    double (*formula)(const void *site, int64_t i);
} rw_role;

typedef struct {
    const char *arch;
    const rw_role *roles; /* in the official order                              */
    int n_roles;
    /* Block `layer`: x [R,C] -> [R,C]. state_in and state_out may be NULL. */
    rw_tensor *(*block)(const rw_model *m, rw_tape *t, int layer, rw_rows rows, rw_tensor *x, const rw_state *state_in,
                        rw_state *state_out);
} rw_model_ops;

extern const rw_model_ops rw_model_x060;

/* NULL, with the names that exist in the error, when there is no such architecture. */
const rw_model_ops *rw_model_find(const char *arch, rw_error *err);

/* -- a model ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const rw_model *model;
    int layer;
    rw_rows rows;
    bool want_state;
} rw_block_site; /* the context of a checkpointed block */

struct rw_model {
    const rw_model_ops *ops;
    rw_plan_model shape; /* sizes; strings borrowed from the plan                       */
    rw_params *params;   /* owned                                                       */
    rw_tensor **roles;   /* owned [n_layer][n_roles]: the blocks' parameters; may be NULL */
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

/* Parameter `role` (index into ops->roles) of a block. */
static inline rw_tensor *rw_role_of(const rw_model *m, int layer, int role) {
    return m->roles[layer * m->ops->n_roles + role];
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
