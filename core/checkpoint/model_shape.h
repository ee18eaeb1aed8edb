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

/* Fills arch, every size (0: the architecture has none such), head_size_divisor where it is 0 (with 8: no file says it)
 * and file_dtype (the one with most bytes) of *out and leaves the rest. The arena holds a few bytes. Exactly the
 * tensors of the architecture's table must be there, in their shapes; others are named in err->detail. With
 * out->load_partial any may be missing or unknown; then out->n_layer counts before the file's, and out->arch and sizes
 * fill in what no tensor tells. RW_E_FORMAT: no RWKV model, a tensor missing,
 * unknown or of another shape. RW_E_UNSUPPORTED: an older version, quantised weights, initial states alone. */
rw_status rw_model_shape_from_file(const rw_tensor_file *f, rw_plan_model *out, rw_arena *arena, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
