/* What the readers of the containers share: a table of tensors, and where the bytes of each are. */
#ifndef RW_CHECKPOINT_TENSOR_FILE_INTERNAL_H
#define RW_CHECKPOINT_TENSOR_FILE_INTERNAL_H

#include "core/base/arena.h"
#include "core/base/fs.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/name_index.h"
#include "core/checkpoint/pickle.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes a tensor is a view of: a record of a zip, a storage of a legacy file, a span of a safetensors. */
typedef struct {
    const char *name; /* for messages */
    int64_t offset, n_bytes;
    uint32_t crc;  /* has_crc: of the whole record */
    bool has_crc;  /* false, too, where the writer left it out (torch can be told to; then 0 is stored) */
    bool of_state; /* with has_crc: we wrote it into a training state */
    bool *checked; /* with has_crc: shared by all tensors of the record */
} rw_tensor_record;

/* Reads a record and compares it with its CRC: RW_E_FORMAT. One without a CRC is read all the same. */
rw_status rw_tensor_record_check(const rw_file *f, const rw_tensor_record *r, rw_error *err);

struct rw_tensor_file {
    rw_file file;
    const char *kind;
    rw_arena arena;            /* names and tables */
    rw_file_tensor *tensors;   /* [n] */
    rw_tensor_record *records; /* [n], beside tensors */
    int64_t n;
    rw_name_index index;
    rw_tensor_record *parts; /* [n_parts] every record of a zip, those without tensors too; else NULL */
    int64_t n_parts;
    const char *(*metadata)[2]; /* [n_metadata] */
    int64_t n_metadata;
};

/* Each fills f->kind, tensors, records, n (and metadata) of an opened file; the caller frees on failure. */
rw_status rw_pth_open(rw_tensor_file *f, rw_error *err);
rw_status rw_pth_open_legacy(rw_tensor_file *f, rw_error *err);
rw_status rw_safetensors_open(rw_tensor_file *f, rw_error *err);

/* The first 14 bytes of a torch file of the time before zip. */
extern const char rw_pth_legacy_magic[14];

/* Room for n tensors in f. RW_E_MEMORY. */
rw_status rw_tensor_file_reserve(rw_tensor_file *f, int64_t n, rw_error *err);
/* Fills tensor i from what a pickle says, over the record r; checks that the view is inside it. */
rw_status rw_tensor_file_set(rw_tensor_file *f, int64_t i, const rw_pickle_tensor *t, const rw_tensor_record *r,
                             rw_error *err);
/* numel * bytes of an element; -1 on overflow. */
int64_t rw_shape_bytes(const int64_t *shape, int ndim, rw_dtype dtype);

/* a + b, both >= 0, at most INT64_MAX: views that repeat an element (stride 0) can be as large as that. */
static inline int64_t rw_add_saturated(int64_t a, int64_t b) {
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

/* What to do about a file that is damaged or cut short: `of_download`, already in the user's language, unless a run of
 * this program wrote the file. */
const char *rw_file_advice(const rw_file *file, const char *of_download);

/* Says what a file is when it is no model: an HTML page, a git-lfs pointer, ...; head[n] are its first bytes. */
rw_status rw_file_kind_fail(const rw_file *file, const char *head, int64_t n, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
