/* A model: parameters under their official names, initial values, and ONE forward pass:
 *     tokens + state -> hidden [R,C] + state
 * built of differentiable ops. Training, prefill and decoding of single tokens are this one function. The head is
 * separate: rw_model_loss() for training, rw_model_logits() for everything else. */
#ifndef RW_MODEL_MODEL_H
#define RW_MODEL_MODEL_H

#include "core/model/arch.h"
#include "core/tensor/layout.h"
#include "core/tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a model carries from token to token: the fields of its architecture, in each layer, wide. NULL: its beginning
 * (coming in) or not wanted (going out). */
typedef struct {
    rw_tensor *at[RW_MAX_FIELDS][RW_MAX_LAYERS];
} rw_state;

/* -- a model ---------------------------------------------------------------------------------------------------- */

struct rw_model {
    const rw_arch *arch;
    rw_plan_model shape;        /* sizes; strings borrowed from the plan                                        */
    rw_params *params;          /* owned                                                                        */
    rw_tensor **roles;          /* owned [n_layer + 2][n_roles]: parameters; NULL where a part does not have one */
    int initial[RW_MAX_FIELDS]; /* the role that begins a field; -1: none                                */
    rw_arena names;
    rw_tensor *emb, *ln0_w, *ln0_b, *ln_out_w, *ln_out_b, *head;
    rw_tensor *head_q, *head_k; /* with head_qk; else NULL */
};

typedef struct {
    bool train;                              /* gradients and moments are allocated      */
    rw_storage storage;                      /* of matrices                              */
    void (*groups)(void *ctx, rw_layout *l); /* sets trainable, lr_scale, decay; or NULL */
    void *ctx;
} rw_model_options;

/* Declares, places and allocates; values are zeros until init or load. */
rw_status rw_model_new(rw_model **out, const rw_plan_model *shape, rw_device *device, const rw_model_options *options,
                       rw_error *err);
void rw_model_free(rw_model *m);
/* The official initial values. */
rw_status rw_model_init(rw_model *m, uint64_t seed, rw_error *err);
/* Those of the parameters that a file has not, whose weights are to be loaded. */
typedef bool (*rw_model_has)(const void *ctx, const char *name);
rw_status rw_model_init_lacking(rw_model *m, uint64_t seed, rw_model_has has, const void *ctx, rw_error *err);

/* Parameter `role` (index into arch->roles) of a block; layer -1: before the blocks, n_layer: after them. */
static inline rw_tensor *rw_role_of(const rw_model *m, int layer, int role) {
    return m->roles[(layer + 1) * m->arch->n_roles + role];
}

/* What begins a field of the state in a block: the trained [field's shape], or NULL: zeros. */
static inline rw_tensor *rw_model_initial(const rw_model *m, int layer, int field) {
    return m->initial[field] < 0 ? NULL : rw_role_of(m, layer, m->initial[field]);
}

/* hidden [R,C]: the output of ln_out. tokens: rows.n_rows ids on the device. `level`: what the backward pass makes
 * again. *state_out (or NULL) is filled with tensors of the open scope; entries that are tensors already are written
 * instead, when nothing is recorded and the level is not block. NULL after an error of the tape. */
rw_tensor *rw_model_forward(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, const rw_state *state_in,
                            rw_state *state_out, rw_checkpoint_choice level);
/* The loss of each row, [R]: rw_head_loss(), with head_qk's part in a model that has it. */
rw_tensor *rw_model_loss(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, rw_tensor *hidden,
                         const int32_t *targets, const float *mask, int64_t chunk);
/* hidden [R,C] -> logits [R,V], without head_qk's part, which needs all rows of a sequence. */
rw_tensor *rw_model_logits(rw_model *m, rw_tape *t, rw_tensor *hidden);

#ifdef __cplusplus
}
#endif
#endif
