/* The optimizer: official parameter groups, global-norm clipping, Adam and AdamW. The schedule of the learning rate
 * and of weight decay is not here: both come as step scalars, from Lua. */
#ifndef RW_OPTIM_OPTIM_H
#define RW_OPTIM_OPTIM_H

#include "core/recipe/plan.h"
#include "core/tensor/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sets trainable, lr_scale and decay of every segment by the group of its role, as RWKV-LM does: with layerwise_lr,
 * time_decay and att.w0 learn twice as fast (stage 2: time_decay, the mixes and time_faaaa five times); weight decay
 * only for matrices (two or more dimensions longer than 1), never for LoRA factors, mixes or decays, and only when
 * weight_decay > 0. With train_type states only the initial states are trainable. */
void rw_optim_groups(rw_layout *l, const rw_plan_train *plan);

/* What the buffers hold in plan->optim_form (kernels/adamw.h). Gradients of the bf16 forms are bf16 after one micro
 * batch, and fp32 where several are added up. */
rw_storage rw_optim_storage(const rw_plan_train *plan);

/* One update of all trainable parameters from their gradients: their norm, what clipping makes of it (the
 * device's own scalars), then Adam; AdamW exactly when plan->weight_decay > 0, as the official code chooses. A norm or
 * a loss that is not finite makes it a skipped step: no weight and no moment changes. Scratch is taken from the arena
 * for the moment. Errors: E_MEMORY. */
rw_status rw_optim_update(const rw_plan_train *plan, rw_params *p, rw_step_arena *arena, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
