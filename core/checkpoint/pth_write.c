/* A .pth as torch.save writes it: ROOT/data.pkl, ROOT/byteorder, ROOT/data/<n>, ROOT/version, where ROOT is the file's
 * name without its extension. One storage per tensor. The size is known before: the same code runs without a writer. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/checkpoint/pickle.h"
#include "core/checkpoint/save_internal.h"
#include "core/checkpoint/zip.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    rw_zip_writer zip;
    rw_str pickle, name;
    rw_save_buffers buffers; /* empty when only counting */
    size_t root_bytes;       /* of `name`: "ROOT/" */
} pth_writer;

/* "ROOT/": the last part of the path without its extension; "archive/" when that is nothing, or no UTF-8. */
static void set_root(pth_writer *p, const char *path) {
    const char *base = rw_path_base(path), *dot = strrchr(base, '.');
    size_t n = dot ? (size_t)(dot - base) : strlen(base);
    if (n == 0 || rw_utf8_valid_prefix(base, n) != n)
        rw_str_append(&p->name, "archive");
    else
        rw_str_append_n(&p->name, base, n);
    rw_str_append(&p->name, "/");
    p->root_bytes = p->name.len;
}

/* The name of a record; valid until the next one. */
static const char *record_name(pth_writer *p, const char *rest) {
    if (p->name.failed) return "";
    p->name.len = p->root_bytes;
    rw_str_append(&p->name, rest);
    return p->name.failed ? "" : p->name.data;
}

static void put_record(pth_writer *p, const char *rest, const char *bytes, size_t n) {
    rw_zip_writer_begin(&p->zip, record_name(p, rest), (int64_t)n);
    rw_zip_writer_put(&p->zip, bytes, (int64_t)n);
    rw_zip_writer_end(&p->zip);
}

static void put_bytes(void *zip, const void *bytes, int64_t n) {
    rw_zip_writer_put(zip, bytes, n);
}

static rw_status put_tensor(pth_writer *p, const rw_save_tensor *t, int64_t i, rw_error *err) {
    char rest[32];
    snprintf(rest, sizeof rest, "data/%lld", (long long)i);
    rw_zip_writer_begin(&p->zip, record_name(p, rest), rw_save_tensor_bytes(t));
    if (p->zip.w) RW_TRY(rw_save_stream(t, &p->buffers, p->zip.w, put_bytes, &p->zip, err));
    rw_zip_writer_end(&p->zip);
    return RW_OK;
}

static rw_status put_all(pth_writer *p, const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    rw_pickle_write_state_dict(&p->pickle, tensors, n);
    if (p->pickle.failed) return rw_fail_memory(err, p->pickle.len);
    put_record(p, "data.pkl", p->pickle.data, p->pickle.len);
    put_record(p, "byteorder", "little", 6);
    for (int64_t i = 0; i < n; i++) {
        RW_TRY(put_tensor(p, &tensors[i], i, err));
        if (p->zip.w && p->zip.w->error.code) return RW_OK; /* commit tells it */
    }
    put_record(p, "version", "3\n", 2);
    if (p->name.failed) return rw_fail_memory(err, p->root_bytes);
    return rw_zip_writer_finish(&p->zip, err);
}

static void release(pth_writer *p) {
    rw_zip_writer_done(&p->zip);
    rw_str_done(&p->pickle);
    rw_str_done(&p->name);
    rw_save_buffers_done(&p->buffers);
}

rw_status rw_pth_write(const char *path, const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    rw_writer w;
    pth_writer p = {.zip = {.w = &w}};
    RW_TRY(rw_save_check(tensors, n, err));
    RW_TRY(rw_save_buffers_init(&p.buffers, tensors, n, err));
    set_root(&p, path);
    rw_status status = rw_writer_open(&w, path, err);
    if (status == RW_OK) {
        status = put_all(&p, tensors, n, err);
        if (status == RW_OK)
            status = rw_writer_commit(&w, err);
        else
            rw_writer_abort(&w);
    }
    release(&p);
    return status;
}

int64_t rw_pth_bytes(const char *path, const rw_save_tensor *tensors, int64_t n) {
    pth_writer p = {0};
    set_root(&p, path);
    int64_t bytes = put_all(&p, tensors, n, NULL) == RW_OK ? p.zip.offset : -1;
    release(&p);
    return bytes;
}
