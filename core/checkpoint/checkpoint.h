/* Checkpoints: the official .pth (weights only) and, beside it, our training state (safetensors).
 *
 * Both are streams of named tensors. Readers hand out one tensor at a time into memory of the caller, so
 * that no whole copy of a file is ever held; writers ask for one tensor at a time. */
#ifndef RW_CHECKPOINT_CHECKPOINT_H
#define RW_CHECKPOINT_CHECKPOINT_H

#include "core/base/dtype.h"
#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_CHECKPOINT_MAX_DIM 8

/* One tensor of a file: logical shape, and where its bytes are. */
typedef struct {
    const char *name; /* without a `_forward_module.` prefix */
    rw_dtype dtype;
    int ndim;
    int64_t shape[RW_CHECKPOINT_MAX_DIM];
    int64_t stride[RW_CHECKPOINT_MAX_DIM]; /* in elements */
    int64_t file_offset;                   /* of element 0, in bytes */
    bool negative;                         /* a float whose sign is stored the other way (torch's lazy negative bit) */
} rw_file_tensor;

/* -- reading -------------------------------------------------------------------------------------- */

typedef struct rw_tensor_file rw_tensor_file;

/* Opens a .pth or a .safetensors by content, never by name. Says what a file really is when it is neither:
 * an HTML page, a git-lfs pointer, a file cut short ("N of M bytes; continue with wget -c"), a legacy
 * (not zip) torch file, an empty file. `path` is borrowed, by the file and by errors about it. */
rw_status rw_tensor_file_open(rw_tensor_file **out, const char *path, rw_error *err);
void rw_tensor_file_close(rw_tensor_file *f);
const char *rw_tensor_file_kind(const rw_tensor_file *f); /* "pth", "safetensors" */
int64_t rw_tensor_file_bytes(const rw_tensor_file *f);
int64_t rw_tensor_file_count(const rw_tensor_file *f);
const rw_file_tensor *rw_tensor_file_at(const rw_tensor_file *f, int64_t i);          /* order of the file */
const rw_file_tensor *rw_tensor_file_find(const rw_tensor_file *f, const char *name); /* NULL: not there */
/* Reads a whole tensor in logical (contiguous) order, converted to `dtype`, into out[numel]. Holds at most
 * a few MB beside it. */
rw_status rw_tensor_file_read(const rw_tensor_file *f, const rw_file_tensor *t, void *out, rw_dtype dtype,
                              rw_error *err);
/* safetensors: a value of __metadata__, or NULL. */
const char *rw_tensor_file_metadata(const rw_tensor_file *f, const char *key);

/* -- writing -------------------------------------------------------------------------------------- */

/* A tensor to be written. `fetch` copies elements [first, first+n) in logical order as `src_dtype` into buf;
 * it is called in order, in pieces. */
typedef struct rw_save_tensor {
    const char *name;
    int ndim;
    int64_t shape[RW_CHECKPOINT_MAX_DIM];
    rw_dtype src_dtype, dtype; /* in memory, in the file */
    rw_status (*fetch)(const struct rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err);
    const void *data; /* for rw_save_fetch_contiguous, or the caller's own */
} rw_save_tensor;

rw_status rw_save_fetch_contiguous(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err);

/* Writes PATH through rw_writer (temporary name, fsync, rename). The zip root is the file's stem, records are
 * stored and aligned to 64 bytes, the pickle is the official state_dict form (an OrderedDict in the order given). */
rw_status rw_pth_write(const char *path, const rw_save_tensor *tensors, int64_t n, rw_error *err);
/* `metadata`: n_meta pairs of strings. Data begins at a multiple of 64. One pair is added: "crc32", for each tensor, in
 * the order of the data, the CRC32 of its bytes (zlib's) as 8 hexadecimal digits. Readers compare a tensor that is read
 * whole. */
rw_status rw_safetensors_write(const char *path, const rw_save_tensor *tensors, int64_t n,
                               const char *const (*metadata)[2], int64_t n_meta, rw_error *err);

/* Exact sizes of the files that the two calls would write. */
int64_t rw_pth_bytes(const char *path, const rw_save_tensor *tensors, int64_t n);
int64_t rw_safetensors_bytes(const rw_save_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                             int64_t n_meta);

#ifdef __cplusplus
}
#endif
#endif
