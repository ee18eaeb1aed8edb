/* The header is padded with spaces so that the data begins at a multiple of 64; tensors follow each other in the
 * order given. `"format": "pt"` is added to the metadata, as Python's readers expect it, unless the caller has one. The
 * checksums are known when the tensors are written, so zeros stand in their place until then. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/save_internal.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#define ALIGNMENT 64

static void put_pair(rw_str *s, const char *key, const char *value) {
    rw_json_append_string(s, key, strlen(key));
    rw_str_append(s, ":");
    rw_json_append_string(s, value, strlen(value));
}

/* Returns where the digits are, in the header. */
static int64_t put_checksums(rw_str *s, int64_t n_tensors) {
    rw_str_append(s, "\"crc32\":\"");
    int64_t at = (int64_t)s->len;
    for (int64_t i = 0; i < n_tensors; i++) rw_str_append(s, "00000000");
    rw_str_append(s, "\"");
    return at;
}

static int64_t put_metadata(rw_str *s, int64_t n_tensors, const char *const (*metadata)[2], int64_t n) {
    bool has_format = false;
    rw_str_append(s, "{\"__metadata__\":{");
    for (int64_t i = 0; i < n; i++) {
        if (i) rw_str_append(s, ",");
        put_pair(s, metadata[i][0], metadata[i][1]);
        has_format |= !strcmp(metadata[i][0], "format");
    }
    if (n) rw_str_append(s, ",");
    if (!has_format) put_pair(s, "format", "pt");
    if (!has_format) rw_str_append(s, ",");
    int64_t at = put_checksums(s, n_tensors);
    rw_str_append(s, "}");
    return at;
}

static void put_entry(rw_str *s, const rw_save_tensor *t, int64_t begin, int64_t end) {
    rw_str_append(s, ",");
    rw_json_append_string(s, t->name, strlen(t->name));
    rw_str_appendf(s, ":{\"dtype\":\"%s\",\"shape\":[", rw_dtype_safetensors(t->dtype));
    for (int i = 0; i < t->ndim; i++) rw_str_appendf(s, i ? ",%lld" : "%lld", (long long)t->shape[i]);
    rw_str_appendf(s, "],\"data_offsets\":[%lld,%lld]}", (long long)begin, (long long)end);
}

/* The header with its padding; returns the bytes of all data. *checksums: the place of their digits in the header. */
static int64_t make_header(rw_str *s, const rw_save_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                           int64_t n_metadata, int64_t *checksums) {
    int64_t at = 0;
    *checksums = put_metadata(s, n, metadata, n_metadata);
    for (int64_t i = 0; i < n; i++) {
        int64_t end = at + rw_save_tensor_bytes(&tensors[i]);
        put_entry(s, &tensors[i], at, end);
        at = end;
    }
    rw_str_append(s, "}");
    while (!s->failed && (8 + s->len) % ALIGNMENT) rw_str_append(s, " ");
    return at;
}

typedef struct {
    rw_writer w;
    rw_str header; /* owned */
    int64_t checksums;
    uint32_t crc; /* of the tensor that is being written */
} output;

static void put_bytes(void *ctx, const void *bytes, int64_t n) {
    output *o = ctx;
    o->crc = (uint32_t)crc32_z(o->crc, bytes, (size_t)n);
    rw_writer_put(&o->w, bytes, n);
}

static rw_status put_tensor(output *o, const rw_save_buffers *b, const rw_save_tensor *t, int64_t i, rw_error *err) {
    char digits[9];
    o->crc = 0;
    RW_TRY(rw_save_stream(t, b, &o->w, put_bytes, o, err));
    snprintf(digits, sizeof digits, "%08x", (unsigned)o->crc);
    rw_writer_patch(&o->w, 8 + o->checksums + 8 * i, digits, 8);
    return RW_OK;
}

static rw_status put_all(output *o, const rw_save_buffers *b, const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    uint8_t length[8];
    rw_put_le64(length, o->header.len);
    rw_writer_put(&o->w, length, 8);
    rw_writer_put(&o->w, o->header.data, (int64_t)o->header.len);
    for (int64_t i = 0; i < n; i++) RW_TRY(put_tensor(o, b, &tensors[i], i, err));
    return RW_OK;
}

static rw_status write_file(const char *path, output *o, const rw_save_buffers *b, const rw_save_tensor *tensors,
                            int64_t n, rw_error *err) {
    if (o->header.failed) return rw_fail_memory(err, o->header.len);
    RW_TRY(rw_writer_open(&o->w, path, err));
    rw_status status = put_all(o, b, tensors, n, err);
    if (status == RW_OK) return rw_writer_commit(&o->w, err);
    rw_writer_abort(&o->w);
    return status;
}

rw_status rw_safetensors_write(const char *path, const rw_save_tensor *tensors, int64_t n,
                               const char *const (*metadata)[2], int64_t n_metadata, rw_error *err) {
    rw_save_buffers buffers;
    output o = {.crc = 0};
    RW_TRY(rw_save_check(tensors, n, err));
    RW_TRY(rw_save_buffers_init(&buffers, tensors, n, err));
    make_header(&o.header, tensors, n, metadata, n_metadata, &o.checksums);
    rw_status status = write_file(path, &o, &buffers, tensors, n, err);
    rw_str_done(&o.header);
    rw_save_buffers_done(&buffers);
    return status;
}

int64_t rw_safetensors_bytes(const rw_save_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                             int64_t n_metadata) {
    rw_str header = {0};
    int64_t checksums, data = make_header(&header, tensors, n, metadata, n_metadata, &checksums);
    int64_t bytes = header.failed ? -1 : 8 + (int64_t)header.len + data;
    rw_str_done(&header);
    return bytes;
}
