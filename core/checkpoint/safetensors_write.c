/* The header is padded with spaces so that the data begins at a multiple of 64; tensors follow each other in the
 * order given. `"format": "pt"` is added to the metadata, as Python's readers expect it, unless the caller has one. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/save_internal.h"

#include <string.h>

#define ALIGNMENT 64

static void put_pair(rw_str *s, const char *key, const char *value) {
    rw_json_append_string(s, key, strlen(key));
    rw_str_append(s, ":");
    rw_json_append_string(s, value, strlen(value));
}

static void put_metadata(rw_str *s, const char *const (*metadata)[2], int64_t n) {
    bool has_format = false;
    rw_str_append(s, "{\"__metadata__\":{");
    for (int64_t i = 0; i < n; i++) {
        if (i) rw_str_append(s, ",");
        put_pair(s, metadata[i][0], metadata[i][1]);
        has_format |= !strcmp(metadata[i][0], "format");
    }
    if (!has_format) {
        if (n) rw_str_append(s, ",");
        put_pair(s, "format", "pt");
    }
    rw_str_append(s, "}");
}

static void put_entry(rw_str *s, const rw_save_tensor *t, int64_t begin, int64_t end) {
    rw_str_append(s, ",");
    rw_json_append_string(s, t->name, strlen(t->name));
    rw_str_appendf(s, ":{\"dtype\":\"%s\",\"shape\":[", rw_dtype_safetensors(t->dtype));
    for (int i = 0; i < t->ndim; i++) rw_str_appendf(s, i ? ",%lld" : "%lld", (long long)t->shape[i]);
    rw_str_appendf(s, "],\"data_offsets\":[%lld,%lld]}", (long long)begin, (long long)end);
}

/* The header with its padding; returns the bytes of all data. */
static int64_t make_header(rw_str *s, const rw_save_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                           int64_t n_metadata) {
    int64_t at = 0;
    put_metadata(s, metadata, n_metadata);
    for (int64_t i = 0; i < n; i++) {
        int64_t end = at + rw_save_tensor_bytes(&tensors[i]);
        put_entry(s, &tensors[i], at, end);
        at = end;
    }
    rw_str_append(s, "}");
    while (!s->failed && (8 + s->len) % ALIGNMENT) rw_str_append(s, " ");
    return at;
}

static void put_bytes(void *w, const void *bytes, int64_t n) {
    rw_writer_put(w, bytes, n);
}

static rw_status put_all(rw_writer *w, const rw_str *header, const rw_save_buffers *b, const rw_save_tensor *tensors,
                         int64_t n, rw_error *err) {
    uint8_t length[8];
    rw_put_le64(length, header->len);
    rw_writer_put(w, length, 8);
    rw_writer_put(w, header->data, (int64_t)header->len);
    for (int64_t i = 0; i < n; i++) RW_TRY(rw_save_stream(&tensors[i], b, w, put_bytes, w, err));
    return RW_OK;
}

static rw_status write_file(const char *path, const rw_str *header, const rw_save_buffers *b,
                            const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    rw_writer w;
    if (header->failed) return rw_fail_memory(err, header->len);
    RW_TRY(rw_writer_open(&w, path, err));
    rw_status status = put_all(&w, header, b, tensors, n, err);
    if (status == RW_OK) return rw_writer_commit(&w, err);
    rw_writer_abort(&w);
    return status;
}

rw_status rw_safetensors_write(const char *path, const rw_save_tensor *tensors, int64_t n,
                               const char *const (*metadata)[2], int64_t n_metadata, rw_error *err) {
    rw_save_buffers buffers;
    rw_str header = {0};
    RW_TRY(rw_save_check(tensors, n, err));
    RW_TRY(rw_save_buffers_init(&buffers, tensors, n, err));
    make_header(&header, tensors, n, metadata, n_metadata);
    rw_status status = write_file(path, &header, &buffers, tensors, n, err);
    rw_str_done(&header);
    rw_save_buffers_done(&buffers);
    return status;
}

int64_t rw_safetensors_bytes(const rw_save_tensor *tensors, int64_t n, const char *const (*metadata)[2],
                             int64_t n_metadata) {
    rw_str header = {0};
    int64_t data = make_header(&header, tensors, n, metadata, n_metadata);
    int64_t bytes = header.failed ? -1 : 8 + (int64_t)header.len + data;
    rw_str_done(&header);
    return bytes;
}
