/* The pickle of a .pth file: a reader of the few opcodes that a dictionary of tensors needs, and a writer.
 *
 * A pickle is a program for a small stack machine and can call anything; this reader calls nothing. It knows
 * dictionaries, lists, tuples, strings, numbers, and these names, to which it gives its own meaning:
 *
 *   collections.OrderedDict                    a dictionary; BUILD on it (torch's _metadata) is read and ignored
 *   torch.<X>Storage, torch.cuda.<X>Storage    an element type (dtypes.def)
 *   torch._utils._rebuild_tensor_v2            (storage, offset, size, stride, requires_grad, hooks[, metadata]);
 *                                              of the metadata only a float's lazy negative bit is honoured, whatever
 *                                              else it says is refused
 *   torch._utils._rebuild_parameter            (tensor, requires_grad, hooks): the tensor
 *   persistent id ('storage', type, key, location, elements)
 *
 * Every other opcode and name is an error that says which one and where. Numbers in a tensor are not yet checked
 * against the file here: only that they are numbers, not negative, and do not overflow. */
#ifndef RW_CHECKPOINT_PICKLE_H
#define RW_CHECKPOINT_PICKLE_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/base/str.h"
#include "core/checkpoint/checkpoint.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_PICKLE_MAX_BYTES ((int64_t)32 << 20) /* a tensor takes some 150 bytes */

/* -- reading -------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;    /* as in the file, with its prefix */
    const char *storage; /* key of the storage: record data/<key> */
    rw_dtype dtype;
    int64_t storage_numel;
    int64_t offset; /* of element 0 in the storage, in elements */
    bool negative;  /* its numbers are the stored ones with the other sign */
    int ndim;
    int64_t shape[RW_CHECKPOINT_MAX_DIM], stride[RW_CHECKPOINT_MAX_DIM]; /* strides >= 0 */
} rw_pickle_tensor;

typedef struct rw_pickle_value rw_pickle_value;

/* Reads one pickle from the beginning of bytes[n]; *used (may be NULL) is its length. Values live in the arena;
 * nothing points into `bytes`. RW_E_FORMAT, RW_E_MEMORY. */
rw_status rw_pickle_read(const void *bytes, int64_t n, rw_where at, rw_arena *a, const rw_pickle_value **root,
                         int64_t *used, rw_error *err);

/* The tensors of a dictionary, in its order; goes into {"state_dict": ...} (or "module", "model") when there is one.
 * Anything in it that is no tensor is an error that names the key. */
rw_status rw_pickle_tensors(const rw_pickle_value *root, rw_where at, rw_arena *a, rw_pickle_tensor **tensors,
                            int64_t *n, rw_error *err);

/* A list of strings (the storage keys of a legacy file); *strings lives in the arena. */
rw_status rw_pickle_strings(const rw_pickle_value *root, rw_where at, rw_arena *a, const char ***strings, int64_t *n,
                            rw_error *err);

/* -- writing -------------------------------------------------------------------------------------- */

/* Appends the pickle of an OrderedDict name -> contiguous tensor, tensor i in storage "i" of its own, protocol 2, as
 * torch.save writes a state dict. Appends are sticky: look at s->failed. */
void rw_pickle_write_state_dict(rw_str *s, const rw_save_tensor *tensors, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
