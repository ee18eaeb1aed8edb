/* What model a file holds, read from the names and shapes of its tensors. */
#ifndef RW_CHECKPOINT_MODEL_SHAPE_H
#define RW_CHECKPOINT_MODEL_SHAPE_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/checkpoint/checkpoint.h"
#include "core/recipe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills arch, n_layer, n_embd, vocab_size, head_size, n_head, dim_ffn, lora_mix, lora_decay (x060), head_size_divisor
 * (8: no file says it) and file_dtype (the one with most bytes) of *out and leaves the rest. The arena holds a few
 * bytes. Exactly the tensors of model_keys.def must be there, in their shapes (x070: v0 v1 v2 of block 0 may be
 * missing). RW_E_FORMAT: no RWKV model, a tensor missing, unknown or of another shape. RW_E_UNSUPPORTED: an older
 * version, quantised weights, or parts that this program does not have (head_qk, pre_ffn, time_state). */
rw_status rw_model_shape_from_file(const rw_tensor_file *f, rw_plan_model *out, rw_arena *arena, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
