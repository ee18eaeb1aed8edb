/* A file of tensors in words: what `rwkv-run inspect` prints for .pth, .safetensors and training states. */
#ifndef RW_CHECKPOINT_INSPECT_H
#define RW_CHECKPOINT_INSPECT_H

#include "core/base/error.h"
#include "core/base/str.h"
#include "core/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Appends the kind and size, the model (or why it is none that this program can run), the metadata (long values cut),
 * and one line for each tensor: name, type, shape. RW_E_MEMORY only. */
rw_status rw_inspect_print(const rw_tensor_file *f, rw_str *out, rw_error *err);

/* `inspect --verify`: reads every byte and compares what has a checksum; says how much of the file that is. */
rw_status rw_inspect_verify(const rw_tensor_file *f, rw_str *out, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
