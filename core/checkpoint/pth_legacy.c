/* The stream that torch.save wrote before 1.6 (or is told to write): five pickles one after another, then the bytes.
 *
 *   magic number        14 bytes
 *   protocol version    1001
 *   system info         a dictionary
 *   the object          the dictionary of tensors
 *   storage keys        a list of strings
 *   each storage, in the order of the keys: i64 elements, then its bytes */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <string.h>

const char rw_pth_legacy_magic[14] = {'\x80', '\x02', '\x8a', '\x0a', '\x6c', '\xfc', '\x9c',
                                      '\x46', '\xf9', '\x20', '\x6a', '\xa8', '\x50', '\x19'};

typedef struct {
    rw_pickle_tensor *tensors;
    const char **keys;
    int64_t n_tensors, n_keys, end; /* end: of the pickles, from the beginning of the file */
} legacy;

static rw_status next_pickle(rw_tensor_file *f, const char *head, int64_t n, int64_t *at, const rw_pickle_value **v,
                             rw_error *err) {
    int64_t used = 0;
    rw_status status = rw_pickle_read(head + *at, n - *at, RW_AT_FILE(f->file.path), &f->arena, v, &used, err);
    *at += used;
    return status;
}

static rw_status read_pickles(rw_tensor_file *f, const char *head, int64_t n, legacy *l, rw_error *err) {
    const rw_pickle_value *v;
    rw_where where = RW_AT_FILE(f->file.path);
    l->end = (int64_t)sizeof rw_pth_legacy_magic + 1; /* and STOP */
    if (l->end > n) l->end = n;
    RW_TRY(next_pickle(f, head, n, &l->end, &v, err));
    RW_TRY(next_pickle(f, head, n, &l->end, &v, err));
    RW_TRY(next_pickle(f, head, n, &l->end, &v, err));
    RW_TRY(rw_pickle_tensors(v, where, &f->arena, &l->tensors, &l->n_tensors, err));
    RW_TRY(next_pickle(f, head, n, &l->end, &v, err));
    return rw_pickle_strings(v, where, &f->arena, &l->keys, &l->n_keys, err);
}

/* Element types of the storages, by key: the tensors know them. */
static rw_status dtypes_of_keys(const rw_tensor_file *f, const legacy *l, const rw_name_index *keys, rw_dtype *dtypes,
                                rw_error *err) {
    for (int64_t i = 0; i < l->n_tensors; i++) {
        int64_t k = rw_name_index_find(keys, l->tensors[i].storage);
        if (k < 0)
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                           "tensor '%.200s' should be in storage '%.100s', which is not in the file",
                           l->tensors[i].name, l->tensors[i].storage);
        dtypes[k] = l->tensors[i].dtype;
    }
    return RW_OK;
}

/* Walks the storages: each one's bytes begin 8 after the end of the one before. */
static rw_status place_storages(const rw_tensor_file *f, const legacy *l, const rw_dtype *dtypes, rw_tensor_record *r,
                                rw_error *err) {
    int64_t at = l->end;
    for (int64_t k = 0; k < l->n_keys; k++) {
        uint8_t count[8];
        if (dtypes[k] == RW_DTYPE_NONE)
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "storage '%.100s' belongs to no tensor",
                           l->keys[k]);
        RW_TRY(rw_file_read_at(&f->file, at, count, 8, err));
        int64_t numel = (int64_t)rw_le64(count), left = f->file.n_bytes - at - 8, item = rw_dtype_bytes(dtypes[k]);
        if (numel < 0 || numel > left / item)
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                           "cut short: storage '%.100s' has %lld elements of %lld bytes, but only %lld bytes follow; "
                           "%s",
                           l->keys[k], (long long)numel, (long long)item, (long long)left,
                           rw_file_advice(&f->file, rw_message("continue the download with `wget -c URL`")));
        r[k] = (rw_tensor_record){.name = l->keys[k], .offset = at + 8, .n_bytes = numel * item};
        at += 8 + numel * item;
    }
    return RW_OK;
}

static rw_status place_tensors(rw_tensor_file *f, const legacy *l, const rw_name_index *keys, rw_error *err) {
    size_t room = (size_t)l->n_keys + 1;
    rw_dtype *dtypes = rw_arena_alloc(&f->arena, room * sizeof *dtypes);
    rw_tensor_record *records = rw_arena_alloc(&f->arena, room * sizeof *records);
    if (!dtypes || !records) return rw_fail_memory(err, room * sizeof *records);
    RW_TRY(dtypes_of_keys(f, l, keys, dtypes, err));
    RW_TRY(place_storages(f, l, dtypes, records, err));
    RW_TRY(rw_tensor_file_reserve(f, l->n_tensors, err));
    for (int64_t i = 0; i < l->n_tensors; i++) {
        const rw_pickle_tensor *t = &l->tensors[i];
        RW_TRY(rw_tensor_file_set(f, i, t, &records[rw_name_index_find(keys, t->storage)], err));
    }
    return RW_OK;
}

static rw_status place_all(rw_tensor_file *f, const legacy *l, rw_error *err) {
    rw_name_index keys;
    RW_TRY(rw_name_index_init(&keys, l->n_keys, err));
    for (int64_t k = 0; k < l->n_keys; k++) rw_name_index_add(&keys, l->keys[k], k);
    rw_status status = place_tensors(f, l, &keys, err);
    rw_name_index_done(&keys);
    return status;
}

rw_status rw_pth_open_legacy(rw_tensor_file *f, rw_error *err) {
    legacy l = {0};
    int64_t n = f->file.n_bytes < RW_PICKLE_MAX_BYTES ? f->file.n_bytes : RW_PICKLE_MAX_BYTES;
    f->kind = "pth";
    char *head = rw_alloc((size_t)n);
    if (!head) return rw_fail_memory(err, (size_t)n);
    rw_status status = rw_file_read_at(&f->file, 0, head, n, err);
    if (status == RW_OK) status = read_pickles(f, head, n, &l, err);
    rw_free(head);
    return status == RW_OK ? place_all(f, &l, err) : status;
}
