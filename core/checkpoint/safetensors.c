/* safetensors: u64 length of the header, the header (JSON), the data.
 *
 *   {"__metadata__": {"key": "text", ...}, "name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ...}
 *
 * Read strictly: the spans must fill the data without hole or overlap, and end where the file ends. A header of more
 * than 100 MB is refused. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER ((int64_t)100 * 1000 * 1000)

typedef struct {
    int64_t begin, end, tensor;
} span;

static rw_status bad(const rw_tensor_file *f, const char *name, rw_error *err, const char *what) {
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "safetensors: tensor '%.200s': %s", name,
                   rw_message(what));
}

static char *keep(rw_tensor_file *f, const char *text) {
    return rw_arena_strdup(&f->arena, text);
}

/* -- the entry of a tensor ----------------------------------------------------------------------------- */

/* A JSON array of n integers >= 0. */
static bool read_integers(const json_t *a, int64_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(a, i);
        if (!json_is_integer(x) || json_integer_value(x) < 0) return false;
        out[i] = json_integer_value(x);
    }
    return true;
}

static rw_status read_dtype(const rw_tensor_file *f, const char *name, const json_t *e, rw_dtype *out, rw_error *err) {
    const char *text = json_string_value(json_object_get(e, "dtype"));
    if (!text) return bad(f, name, err, "expected a string as dtype");
    *out = rw_dtype_from_safetensors(text);
    if (*out != RW_DTYPE_NONE) return RW_OK;
    return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(f->file.path),
                   "safetensors: tensor '%.200s' has dtype %.20s, which is not supported; convert it to BF16 or F32",
                   name, text);
}

static rw_status read_shape(const rw_tensor_file *f, const char *name, const json_t *e, rw_file_tensor *t,
                            rw_error *err) {
    const json_t *shape = json_object_get(e, "shape");
    if (!json_is_array(shape)) return bad(f, name, err, "expected a list as shape");
    if (json_array_size(shape) > RW_CHECKPOINT_MAX_DIM) return bad(f, name, err, "more than 8 dimensions");
    t->ndim = (int)json_array_size(shape);
    if (!read_integers(shape, t->shape, (size_t)t->ndim)) return bad(f, name, err, "expected integers >= 0 in shape");
    int64_t next = 1;
    for (int i = t->ndim; i-- > 0;) {
        t->stride[i] = next;
        if (__builtin_mul_overflow(next, t->shape[i] > 1 ? t->shape[i] : 1, &next))
            return bad(f, name, err, "the shape is too large");
    }
    return RW_OK;
}

static rw_status read_entry(rw_tensor_file *f, int64_t i, const char *name, const json_t *e, span *s, rw_error *err) {
    rw_file_tensor *t = &f->tensors[i];
    const json_t *offsets = json_object_get(e, "data_offsets");
    int64_t place[2];
    if (json_object_size(e) != 3 || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return bad(f, name, err, "expected exactly dtype, shape and data_offsets");
    RW_TRY(read_dtype(f, name, e, &t->dtype, err));
    RW_TRY(read_shape(f, name, e, t, err));
    if (!read_integers(offsets, place, 2) || place[0] > place[1])
        return bad(f, name, err, "expected data_offsets [begin, end] with begin <= end");
    int64_t bytes = rw_shape_bytes(t->shape, t->ndim, t->dtype);
    if (bytes != place[1] - place[0])
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                       "safetensors: tensor '%.200s': its shape needs %lld bytes, but data_offsets give it %lld", name,
                       (long long)bytes, (long long)(place[1] - place[0]));
    static const char prefix[] = "_forward_module.";
    t->name = keep(f, strncmp(name, prefix, sizeof prefix - 1) ? name : name + sizeof prefix - 1);
    if (!t->name) return rw_fail_memory(err, strlen(name));
    *s = (span){place[0], place[1], i};
    return RW_OK;
}

/* -- metadata -------------------------------------------------------------------------------------------- */

static rw_status read_metadata(rw_tensor_file *f, json_t *m, rw_error *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(m)) return bad(f, "__metadata__", err, "expected an object");
    size_t room = json_object_size(m) + 1;
    f->metadata = rw_arena_alloc(&f->arena, room * sizeof *f->metadata);
    if (!f->metadata) return rw_fail_memory(err, room * sizeof *f->metadata);
    json_object_foreach(m, key, value) {
        const char *text = json_string_value(value);
        if (!text || strlen(text) != json_string_length(value))
            return bad(f, "__metadata__", err, "expected strings (without NUL) as values");
        const char **pair = f->metadata[f->n_metadata++];
        pair[0] = keep(f, key);
        pair[1] = keep(f, text);
        if (!pair[0] || !pair[1]) return rw_fail_memory(err, strlen(key) + strlen(text));
    }
    return RW_OK;
}

/* -- checksums ------------------------------------------------------------------------------------------ */

/* 8 hexadecimal digits; false: something else. */
static bool read_digits(const char *text, uint32_t *out) {
    static const char digits[] = "0123456789abcdef";
    *out = 0;
    for (int i = 0; i < 8; i++) {
        const char *at = text[i] ? strchr(digits, text[i]) : NULL;
        if (!at) return false;
        *out = *out << 4 | (uint32_t)(at - digits);
    }
    return true;
}

static rw_status fill_records(rw_tensor_file *f, const span *s, rw_error *err) {
    bool *checked = rw_arena_alloc(&f->arena, (size_t)f->n + 1);
    if (!checked) return rw_fail_memory(err, (size_t)f->n + 1);
    for (int64_t k = 0; k < f->n; k++) {
        const rw_file_tensor *t = &f->tensors[s[k].tensor];
        rw_tensor_record *r = &f->records[s[k].tensor];
        *r = (rw_tensor_record){.name = t->name, .offset = t->file_offset, .n_bytes = s[k].end - s[k].begin};
        r->checked = &checked[k];
    }
    return RW_OK;
}

/* "crc32" of rw_safetensors_write(), in the order of the sorted spans. Files of others have none. */
static rw_status read_checksums(rw_tensor_file *f, const span *s, rw_error *err) {
    RW_TRY(fill_records(f, s, err));
    const char *text = rw_tensor_file_metadata(f, "crc32");
    if (!text) return RW_OK;
    bool fits = strlen(text) == (size_t)f->n * 8;
    for (int64_t k = 0; fits && k < f->n; k++) {
        rw_tensor_record *r = &f->records[s[k].tensor];
        r->of_state = r->has_crc = fits = read_digits(text + 8 * k, &r->crc);
    }
    return fits ? RW_OK : bad(f, "__metadata__", err, "crc32 is not 8 hexadecimal digits for each tensor");
}

/* -- the whole ------------------------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b) {
    const span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1; /* an empty one stands before its neighbour */
    return x->tensor < y->tensor ? -1 : 1;
}

static rw_status cut_short(const rw_tensor_file *f, int64_t expected, rw_error *err) {
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "cut short: %lld of %lld bytes are here; %s",
                   (long long)f->file.n_bytes, (long long)expected,
                   rw_file_advice(&f->file, rw_message("continue the download with `wget -c URL`")));
}

/* Sorted, the spans must follow each other from 0 to the end of the file. */
static rw_status check_spans(const rw_tensor_file *f, span *s, int64_t data, rw_error *err) {
    int64_t at = 0, here = f->file.n_bytes - data;
    qsort(s, (size_t)f->n, sizeof *s, by_begin);
    for (int64_t i = 0; i < f->n; i++) {
        if (s[i].begin < at) return bad(f, f->tensors[s[i].tensor].name, err, "overlaps the bytes of another tensor");
        if (s[i].begin > at) return bad(f, f->tensors[s[i].tensor].name, err, "there is a gap before its bytes");
        at = s[i].end;
    }
    if (at > here) return cut_short(f, data + at, err);
    if (at < here)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                       "safetensors: %lld bytes more than the header accounts for; %s", (long long)(here - at),
                       rw_file_advice(&f->file, rw_message("download it again")));
    return RW_OK;
}

static rw_status read_entries(rw_tensor_file *f, json_t *header, int64_t data, span *s, rw_error *err) {
    const char *name;
    json_t *e;
    int64_t i = 0;
    json_object_foreach(header, name, e) {
        if (!strcmp(name, "__metadata__")) {
            RW_TRY(read_metadata(f, e, err));
            continue;
        }
        if (!json_is_object(e)) return bad(f, name, err, "expected an object");
        RW_TRY(read_entry(f, i, name, e, &s[i], err));
        i++;
    }
    RW_TRY(check_spans(f, s, data, err));
    for (int64_t k = 0; k < f->n; k++) f->tensors[s[k].tensor].file_offset = data + s[k].begin;
    return read_checksums(f, s, err);
}

static rw_status read_header(rw_tensor_file *f, json_t *header, int64_t data, rw_error *err) {
    if (!json_is_object(header))
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "safetensors: the header is not a JSON object");
    int64_t n = (int64_t)json_object_size(header) - (json_object_get(header, "__metadata__") ? 1 : 0);
    RW_TRY(rw_tensor_file_reserve(f, n, err));
    span *spans = rw_alloc_array((size_t)n, sizeof *spans);
    if (!spans) return rw_fail_memory(err, (size_t)n * sizeof *spans);
    rw_status status = read_entries(f, header, data, spans, err);
    rw_free(spans);
    return status;
}

/* The length field, and whether so much is there. */
static rw_status header_length(const rw_tensor_file *f, int64_t *n, rw_error *err) {
    uint8_t length[8];
    RW_TRY(rw_file_read_at(&f->file, 0, length, 8, err));
    if (rw_le64(length) > (uint64_t)MAX_HEADER)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                       "safetensors: a header of %llu bytes, but the limit is 100,000,000; is this a model?",
                       (unsigned long long)rw_le64(length));
    *n = (int64_t)rw_le64(length);
    return *n <= f->file.n_bytes - 8 ? RW_OK : cut_short(f, *n + 8, err);
}

rw_status rw_safetensors_open(rw_tensor_file *f, rw_error *err) {
    int64_t n = 0;
    json_t *header = NULL;
    f->kind = "safetensors";
    RW_TRY(header_length(f, &n, err));
    char *text = rw_alloc((size_t)n + 1);
    if (!text) return rw_fail_memory(err, (size_t)n);
    rw_status status = rw_file_read_at(&f->file, 8, text, n, err);
    if (status == RW_OK) status = rw_json_parse(text, (size_t)n, RW_AT_FILE(f->file.path), &header, err);
    rw_free(text);
    if (status == RW_OK) status = read_header(f, header, 8 + n, err);
    json_decref(header);
    return status;
}
