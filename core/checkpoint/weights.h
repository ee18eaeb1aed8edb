/* Parameters to and from files of named tensors. */
#ifndef RW_CHECKPOINT_WEIGHTS_H
#define RW_CHECKPOINT_WEIGHTS_H

#include "core/checkpoint/checkpoint.h"
#include "core/tensor/layout.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Fills `kind` of every parameter from the tensor PREFIX + name. All must be there with the right shape, whatever the
 * order and dtype; with an empty prefix (an official file) a tensor that the model does not know is an error too, and
 * idle parameters (core/model/arch.h) and initial states may be missing: they keep their values. A prefix: trainable
 * parameters alone, as they are saved. Errors: E_FORMAT with the file and the tensor's name. */
rw_status rw_weights_load(rw_params *p, rw_param_kind kind, const rw_tensor_file *f, const char *path,
                          const char *prefix, rw_error *err);
/* What is there and fits: parameters that the file lacks keep their values, tensors that the model does not know are
 * ignored; the log names each of both. Errors: E_FORMAT for another shape. */
rw_status rw_weights_load_partial(rw_params *p, const rw_tensor_file *f, const char *path, rw_error *err);
/* Fills the initial states from a file of exactly them (train_type states). Errors: E_FORMAT. */
rw_status rw_weights_load_states(rw_params *p, const char *path, rw_error *err);

/* Refuses a parameter with a value that is NaN or infinite: E_NUMERIC with its name, its place and what to do, at
 * `path`, where it came from. */
rw_status rw_weights_check_finite(rw_params *p, const char *path, rw_error *err);
/* Whether every trainable value is finite: what is not should not replace what was saved before. */
rw_status rw_weights_finite(rw_params *p, bool *finite, rw_error *err);

/* What a save writes, trainable parameters alone, since the others are as in the file that they came from; in official
 * order: the layout's buffers when the first prefix is empty, then n entries for each
 * kind. */
typedef struct {
    rw_save_tensor *tensors; /* owned */
    int64_t n;
    void *sources; /* owned */
    char *names;   /* owned */
} rw_weights_list;

/* kinds and prefixes: n_kinds of them. `dtype` is that of the file; RW_DTYPE_NONE: wide, exact for all forms. The list
 * lends `p`. */
rw_status rw_weights_list_new(rw_weights_list *list, rw_params *p, const rw_param_kind *kinds,
                              const char *const *prefixes, int n_kinds, rw_dtype dtype, rw_error *err);
void rw_weights_list_done(rw_weights_list *list);

/* The official file: values alone, of all parameters or, with train_type states, of these. E_NUMERIC: a finite value
 * would become infinite in this dtype; nothing is written. */
rw_status rw_weights_save_pth(rw_params *p, const char *path, rw_dtype dtype, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
