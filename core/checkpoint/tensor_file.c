/* One reader for both kinds of files. The container says where each tensor is; here the bytes are fetched, put
 * in logical order and converted, in pieces. A whole record is compared with its CRC on the way. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <string.h>
#include <zlib.h>

#define PIECE ((int64_t)4 << 20)

/* -- opening ----------------------------------------------------------------------------------------- */

static rw_status open_by_content(rw_tensor_file *f, rw_error *err) {
    char head[512] = {0};
    int64_t n = f->file.n_bytes < (int64_t)sizeof head ? f->file.n_bytes : (int64_t)sizeof head;
    RW_TRY(rw_file_read_at(&f->file, 0, head, n, err));
    if (n >= 4 && (!memcmp(head, "PK\3\4", 4) || !memcmp(head, "PK\5\6", 4))) return rw_pth_open(f, err);
    if (n >= (int64_t)sizeof rw_pth_legacy_magic && !memcmp(head, rw_pth_legacy_magic, sizeof rw_pth_legacy_magic))
        return rw_pth_open_legacy(f, err);
    /* A length below 2^40, then JSON. */
    if (n >= 9 && head[8] == '{' && rw_le64((const uint8_t *)head) >> 40 == 0) return rw_safetensors_open(f, err);
    return rw_file_kind_fail(&f->file, head, n, err);
}

static rw_status build_index(rw_tensor_file *f, rw_error *err) {
    RW_TRY(rw_name_index_init(&f->index, f->n, err));
    for (int64_t i = 0; i < f->n; i++)
        if (rw_name_index_add(&f->index, f->tensors[i].name, i) >= 0)
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "tensor '%.200s' occurs twice",
                           f->tensors[i].name);
    return RW_OK;
}

rw_status rw_tensor_file_open(rw_tensor_file **out, const char *path, rw_error *err) {
    *out = NULL;
    rw_tensor_file *f = rw_alloc(sizeof *f);
    if (!f) return rw_fail_memory(err, sizeof *f);
    rw_status status = rw_file_open(&f->file, path, err);
    if (status == RW_OK) status = open_by_content(f, err);
    if (status == RW_OK) status = build_index(f, err);
    if (status == RW_OK)
        *out = f;
    else
        rw_tensor_file_close(f);
    return status;
}

void rw_tensor_file_close(rw_tensor_file *f) {
    if (!f) return;
    rw_file_close(&f->file);
    rw_name_index_done(&f->index);
    rw_arena_done(&f->arena);
    rw_free(f);
}

/* -- the table --------------------------------------------------------------------------------------- */

rw_status rw_tensor_file_reserve(rw_tensor_file *f, int64_t n, rw_error *err) {
    size_t room = (size_t)(n ? n : 1);
    f->tensors = rw_arena_alloc(&f->arena, room * sizeof *f->tensors);
    f->records = rw_arena_alloc(&f->arena, room * sizeof *f->records);
    if (!f->tensors || !f->records) return rw_fail_memory(err, room * (sizeof *f->tensors + sizeof *f->records));
    f->n = n;
    return RW_OK;
}

/* Elements from the first to the last of a view, both included; 0 when it is empty, -1 on overflow. */
static int64_t extent(const int64_t *shape, const int64_t *stride, int ndim) {
    int64_t last = 0, step;
    for (int i = 0; i < ndim; i++)
        if (shape[i] == 0) return 0;
    for (int i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(shape[i] - 1, stride[i], &step) || __builtin_add_overflow(last, step, &last))
            return -1;
    return last == INT64_MAX ? -1 : last + 1;
}

/* DeepSpeed puts this before each name. */
static const char *without_prefix(const char *name) {
    static const char prefix[] = "_forward_module.";
    return strncmp(name, prefix, sizeof prefix - 1) ? name : name + sizeof prefix - 1;
}

rw_status rw_tensor_file_set(rw_tensor_file *f, int64_t i, const rw_pickle_tensor *t, const rw_tensor_record *r,
                             rw_error *err) {
    int64_t item = rw_dtype_bytes(t->dtype), room = r->n_bytes / item;
    int64_t n = extent(t->shape, t->stride, t->ndim);
    rw_where at = {.file = f->file.path};
    if (t->storage_numel > room)
        return rw_fail(
            err, RW_E_FORMAT, at,
            "tensor '%.200s': its storage '%.100s' should have %lld elements of %lld bytes, but has %lld bytes",
            t->name, r->name, (long long)t->storage_numel, (long long)item, (long long)r->n_bytes);
    if (n < 0 || t->offset > t->storage_numel || n > t->storage_numel - t->offset)
        return rw_fail(err, RW_E_FORMAT, at,
                       "tensor '%.200s' reaches beyond its storage '%.100s' of %lld elements (offset %lld)", t->name,
                       r->name, (long long)t->storage_numel, (long long)t->offset);
    rw_file_tensor *out = &f->tensors[i];
    *out = (rw_file_tensor){.name = without_prefix(t->name),
                            .dtype = t->dtype,
                            .ndim = t->ndim,
                            .file_offset = r->offset + t->offset * item,
                            .negative = t->negative};
    memcpy(out->shape, t->shape, sizeof out->shape);
    memcpy(out->stride, t->stride, sizeof out->stride);
    f->records[i] = *r;
    return RW_OK;
}

int64_t rw_shape_bytes(const int64_t *shape, int ndim, rw_dtype dtype) {
    int64_t n = rw_dtype_bytes(dtype);
    for (int i = 0; i < ndim; i++)
        if (shape[i] == 0) return 0;
    for (int i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n)) return -1;
    return n;
}

const char *rw_tensor_file_kind(const rw_tensor_file *f) {
    return f->kind;
}
int64_t rw_tensor_file_bytes(const rw_tensor_file *f) {
    return f->file.n_bytes;
}
int64_t rw_tensor_file_count(const rw_tensor_file *f) {
    return f->n;
}
const rw_file_tensor *rw_tensor_file_at(const rw_tensor_file *f, int64_t i) {
    return &f->tensors[i];
}

const rw_file_tensor *rw_tensor_file_find(const rw_tensor_file *f, const char *name) {
    int64_t i = rw_name_index_find(&f->index, name);
    return i < 0 ? NULL : &f->tensors[i];
}

const char *rw_tensor_file_metadata(const rw_tensor_file *f, const char *key) {
    for (int64_t i = 0; i < f->n_metadata; i++)
        if (!strcmp(f->metadata[i][0], key)) return f->metadata[i][1];
    return NULL;
}

/* -- reading in order -------------------------------------------------------------------------------- */

static bool is_contiguous(const rw_file_tensor *t) {
    int64_t next = 1;
    for (int i = t->ndim; i-- > 0;) {
        if (t->shape[i] > 1 && t->stride[i] != next) return false;
        next *= t->shape[i] ? t->shape[i] : 1;
    }
    return true;
}

/* The record of t when its CRC is known and was not compared yet; else NULL. */
static const rw_tensor_record *unchecked(const rw_tensor_file *f, const rw_file_tensor *t) {
    if (t < f->tensors || t >= f->tensors + f->n) return NULL;
    const rw_tensor_record *r = &f->records[t - f->tensors];
    return r->has_crc && !*r->checked ? r : NULL;
}

/* The same when t is all of it, so that its CRC comes by the way. */
static const rw_tensor_record *crc_record(const rw_tensor_file *f, const rw_file_tensor *t, int64_t n_bytes) {
    const rw_tensor_record *r = unchecked(f, t);
    return r && r->offset == t->file_offset && r->n_bytes == n_bytes ? r : NULL;
}

static rw_status check_crc(const rw_file *f, const rw_tensor_record *r, uint32_t crc, rw_error *err) {
    if (!r) return RW_OK;
    *r->checked = r->crc == crc;
    if (*r->checked) return RW_OK;
    if (r->of_state) /* a training state of ours, no download */
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->path),
                       "tensor '%.200s' is damaged: its CRC32 is %08x, expected %08x; resume from another state "
                       "(--resume PATH) or start from the last .pth",
                       r->name, (unsigned)crc, (unsigned)r->crc);
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->path),
                   "record '%.200s' is damaged: its CRC32 is %08x, expected %08x; %s", r->name, (unsigned)crc,
                   (unsigned)r->crc, rw_file_advice(f, rw_message("download it again")));
}

rw_status rw_tensor_record_check(const rw_file *f, const rw_tensor_record *r, rw_error *err) {
    int64_t most = r->n_bytes < PIECE ? r->n_bytes : PIECE;
    uint8_t *piece = rw_alloc((size_t)most + 1);
    uint32_t crc = 0;
    rw_status status = piece ? RW_OK : rw_fail_memory(err, (size_t)most);
    for (int64_t at = 0; status == RW_OK && at < r->n_bytes; at += most) {
        int64_t n = r->n_bytes - at < most ? r->n_bytes - at : most;
        status = rw_file_read_at(f, r->offset + at, piece, n, err);
        if (status == RW_OK) crc = (uint32_t)crc32_z(crc, piece, (size_t)n);
    }
    rw_free(piece);
    return status == RW_OK ? check_crc(f, r->has_crc ? r : NULL, crc, err) : status;
}

static rw_status no_conversion(const rw_tensor_file *f, const rw_file_tensor *t, rw_dtype dtype, rw_error *err) {
    return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(f->file.path), "tensor '%.200s' is %s and cannot be read as %s",
                   t->name, rw_dtype_name(t->dtype), rw_dtype_name(dtype));
}

/* Contiguous: pieces go straight to `out`, through `buf` when the type changes. */
static rw_status read_in_order(const rw_tensor_file *f, const rw_file_tensor *t, int64_t numel, char *out,
                               rw_dtype dtype, char *buf, rw_error *err) {
    int64_t item = rw_dtype_bytes(t->dtype), size = rw_dtype_bytes(dtype);
    const rw_tensor_record *r = crc_record(f, t, numel * item);
    uint32_t crc = 0;
    for (int64_t i = 0; i < numel;) {
        int64_t n = numel - i < PIECE / item ? numel - i : PIECE / item;
        char *to = buf ? buf : out + i * size;
        RW_TRY(rw_file_read_at(&f->file, t->file_offset + i * item, to, n * item, err));
        if (r) crc = (uint32_t)crc32_z(crc, (const uint8_t *)to, (size_t)(n * item));
        if (buf && rw_convert(out + i * size, dtype, buf, t->dtype, n)) return no_conversion(f, t, dtype, err);
        i += n;
    }
    return check_crc(&f->file, r, crc, err);
}

/* -- reading views ------------------------------------------------------------------------------------ */

/* A part of the file in memory: elements [first, first + n) counted from element 0 of the tensor. */
typedef struct {
    char *buf; /* PIECE bytes */
    int64_t first, n;
} window;

static rw_status look_at(const rw_tensor_file *f, const rw_file_tensor *t, window *w, int64_t at, int64_t end,
                         rw_error *err) {
    int64_t item = rw_dtype_bytes(t->dtype);
    if (at >= w->first && at < w->first + w->n) return RW_OK;
    w->first = at;
    w->n = end - at < PIECE / item ? end - at : PIECE / item;
    return rw_file_read_at(&f->file, t->file_offset + at * item, w->buf, w->n * item, err);
}

/* Dimensions from the largest stride to the smallest, so that the file is read forwards. */
static void order_by_stride(const rw_file_tensor *t, int *order) {
    for (int i = 0; i < t->ndim; i++) {
        int k = i;
        for (; k > 0 && t->stride[order[k - 1]] < t->stride[i]; k--) order[k] = order[k - 1];
        order[k] = i;
    }
}

/* Any strides: walks the elements in the order of the file and puts each in its logical place. */
static rw_status read_view(const rw_tensor_file *f, const rw_file_tensor *t, int64_t numel, char *out, rw_dtype dtype,
                           char *buf, rw_error *err) {
    int64_t item = rw_dtype_bytes(t->dtype), size = rw_dtype_bytes(dtype);
    int64_t index[RW_CHECKPOINT_MAX_DIM] = {0}, place[RW_CHECKPOINT_MAX_DIM], next = 1, from = 0, to = 0;
    int order[RW_CHECKPOINT_MAX_DIM];
    window w = {.buf = buf};
    int64_t end = extent(t->shape, t->stride, t->ndim);
    order_by_stride(t, order);
    for (int i = t->ndim; i-- > 0;) {
        place[i] = next;
        next *= t->shape[i];
    }
    for (int64_t done = 0; done < numel; done++) {
        RW_TRY(look_at(f, t, &w, from, end, err));
        if (rw_convert(out + to * size, dtype, w.buf + (from - w.first) * item, t->dtype, 1))
            return no_conversion(f, t, dtype, err);
        for (int k = t->ndim; k-- > 0;) {
            int d = order[k];
            from += t->stride[d];
            to += place[d];
            if (++index[d] < t->shape[d]) break;
            from -= t->stride[d] * t->shape[d];
            to -= place[d] * t->shape[d];
            index[d] = 0;
        }
    }
    return RW_OK;
}

/* A float's sign is the top bit of its last byte, whatever its width. */
static void negate(uint8_t *x, int64_t numel, rw_dtype dtype) {
    int64_t item = rw_dtype_bytes(dtype);
    for (int64_t i = 0; i < numel; i++) x[i * item + item - 1] ^= 0x80;
}

static rw_status read_stored(const rw_tensor_file *f, const rw_file_tensor *t, int64_t numel, void *out, rw_dtype dtype,
                             rw_error *err) {
    bool in_order = is_contiguous(t);
    const rw_tensor_record *shared = unchecked(f, t); /* a part of a record: all of it is compared, once */
    if (shared && !(in_order && crc_record(f, t, numel * rw_dtype_bytes(t->dtype))))
        RW_TRY(rw_tensor_record_check(&f->file, shared, err));
    if (in_order && dtype == t->dtype) return read_in_order(f, t, numel, out, dtype, NULL, err);
    int64_t room = extent(t->shape, t->stride, t->ndim) * rw_dtype_bytes(t->dtype);
    if (room > PIECE) room = PIECE;
    char *buf = rw_alloc((size_t)room);
    if (!buf) return rw_fail_memory(err, (size_t)room);
    rw_status status =
        in_order ? read_in_order(f, t, numel, out, dtype, buf, err) : read_view(f, t, numel, out, dtype, buf, err);
    rw_free(buf);
    return status;
}

rw_status rw_tensor_file_read(const rw_tensor_file *f, const rw_file_tensor *t, void *out, rw_dtype dtype,
                              rw_error *err) {
    int64_t numel = rw_shape_bytes(t->shape, t->ndim, t->dtype) / rw_dtype_bytes(t->dtype);
    if (numel == 0) return RW_OK;
    RW_TRY(read_stored(f, t, numel, out, dtype, err));
    if (t->negative) negate(out, numel, dtype);
    return RW_OK;
}
