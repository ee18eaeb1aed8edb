/* The .pth of torch.save since 1.6: a zip with ROOT/data.pkl (names and shapes) and ROOT/data/<key> (bytes), and
 * in newer files ROOT/byteorder; other records (version, .format_version, .data/serialization_id) are not needed. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/tensor_file_internal.h"
#include "core/checkpoint/zip.h"

#include <string.h>
#include <zlib.h>

/* -- a file cut short --------------------------------------------------------------------------------- */

/* Bytes of all storages that the tensors name, each once; -1 when that cannot be told. */
static int64_t storages_bytes(const rw_pickle_tensor *t, int64_t n) {
    rw_name_index seen;
    int64_t sum = 0, bytes;
    if (rw_name_index_init(&seen, n, NULL) != RW_OK) return -1;
    for (int64_t i = 0; i < n && sum >= 0; i++) {
        if (rw_name_index_add(&seen, t[i].storage, i) >= 0) continue;
        bytes = rw_shape_bytes(&t[i].storage_numel, 1, t[i].dtype);
        if (bytes < 0 || __builtin_add_overflow(sum, bytes, &sum)) sum = -1;
    }
    rw_name_index_done(&seen);
    return sum;
}

/* data.pkl is the first record and a pickle knows its own end, so even a file without its directory tells how many
 * bytes its tensors take. -1: not even that much is there. */
static int64_t expected_bytes(const rw_tensor_file *f) {
    uint8_t h[30];
    if (f->file.n_bytes < 30 || rw_file_read_at(&f->file, 0, h, 30, NULL) != RW_OK) return -1;
    int64_t begin = 30 + rw_le16(h + 26) + rw_le16(h + 28), sum = -1, n_tensors = 0;
    int64_t n = f->file.n_bytes - begin < RW_PICKLE_MAX_BYTES ? f->file.n_bytes - begin : RW_PICKLE_MAX_BYTES;
    char *bytes = n > 0 ? rw_alloc((size_t)n) : NULL;
    rw_arena arena = {0};
    const rw_pickle_value *root;
    rw_pickle_tensor *tensors;
    if (bytes && rw_file_read_at(&f->file, begin, bytes, n, NULL) == RW_OK &&
        rw_pickle_read(bytes, n, RW_AT_NONE, &arena, &root, NULL, NULL) == RW_OK &&
        rw_pickle_tensors(root, RW_AT_NONE, &arena, &tensors, &n_tensors, NULL) == RW_OK)
        sum = storages_bytes(tensors, n_tensors);
    rw_arena_done(&arena);
    rw_free(bytes);
    return sum;
}

static rw_status fail_cut_short(const rw_tensor_file *f, rw_error *err) {
    int64_t expected = expected_bytes(f);
    const char *advice = rw_file_advice(&f->file, rw_message("continue the download with `wget -c URL`"));
    if (expected > f->file.n_bytes)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path), "cut short: %lld of about %lld bytes are here; %s",
                       (long long)f->file.n_bytes, (long long)expected, advice);
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                   "cut short: %lld bytes are here and the end of the archive is missing; %s",
                   (long long)f->file.n_bytes, advice);
}

/* -- records ------------------------------------------------------------------------------------------ */

static const rw_zip_record *find_in(rw_tensor_file *f, const rw_zip *z, const char *root, const char *rest,
                                    const char *key, char **name) {
    *name = rw_arena_printf(&f->arena, "%s%s%s", root, rest, key);
    return *name ? rw_zip_find(z, *name) : NULL;
}

/* The part before "data.pkl": "ROOT/", or "" when it is at the top. */
static rw_status find_root(rw_tensor_file *f, const rw_zip *z, const char **root, rw_error *err) {
    *root = "";
    if (rw_zip_find(z, "data.pkl")) return RW_OK;
    for (int64_t i = 0; i < z->n_records; i++) {
        const char *name = z->records[i].name, *slash = strchr(name, '/');
        if (!slash || strcmp(slash, "/data.pkl")) continue;
        *root = rw_arena_strndup(&f->arena, name, (size_t)(slash + 1 - name));
        return *root ? RW_OK : rw_fail_memory(err, strlen(name));
    }
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                   "a zip without data.pkl, so torch.save did not write it (its first record is '%.200s'); if it "
                   "contains a .pth, unpack it first",
                   z->n_records ? z->records[0].name : "");
}

/* A small record in memory, NUL-terminated, its CRC checked; rw_free(). */
static rw_status slurp_record(const rw_tensor_file *f, const rw_zip *z, const rw_zip_record *r, char **out,
                              rw_error *err) {
    int64_t offset = 0;
    *out = NULL;
    if (r->n_bytes > RW_PICKLE_MAX_BYTES)
        return rw_fail(
            err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
            "record '%.200s' has %lld bytes, but the limit is %lld: this is not a plain dictionary of tensors", r->name,
            (long long)r->n_bytes, (long long)RW_PICKLE_MAX_BYTES);
    RW_TRY(rw_zip_data_offset(z, r, &offset, err));
    *out = rw_alloc((size_t)r->n_bytes + 1);
    if (!*out) return rw_fail_memory(err, (size_t)r->n_bytes);
    rw_status status = rw_file_read_at(&f->file, offset, *out, r->n_bytes, err);
    uint32_t crc = (uint32_t)crc32_z(0, (const uint8_t *)*out, (size_t)r->n_bytes);
    if (status == RW_OK && r->crc && crc != r->crc)
        status = rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                         "record '%.200s' is damaged: its CRC32 is %08x, expected %08x; %s", r->name, (unsigned)crc,
                         (unsigned)r->crc, rw_file_advice(&f->file, rw_message("download it again")));
    if (status == RW_OK) return RW_OK;
    rw_free(*out);
    *out = NULL;
    return status;
}

static rw_status check_byte_order(rw_tensor_file *f, const rw_zip *z, const char *root, rw_error *err) {
    char *name, *text;
    const rw_zip_record *r = find_in(f, z, root, "byteorder", "", &name);
    if (!name) return rw_fail_memory(err, 0);
    if (!r) return RW_OK;
    RW_TRY(slurp_record(f, z, r, &text, err));
    bool little = !strncmp(text, "little", 6);
    rw_free(text);
    if (little) return RW_OK;
    return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(f->file.path),
                   "saved on a big-endian machine; only little-endian files can be read");
}

static rw_status set_tensor(rw_tensor_file *f, const rw_zip *z, const char *root, const rw_pickle_tensor *t, int64_t i,
                            rw_error *err) {
    char *name;
    const rw_zip_record *r = find_in(f, z, root, "data/", t->storage, &name);
    if (!name) return rw_fail_memory(err, strlen(t->storage));
    if (!r)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(f->file.path),
                       "tensor '%.200s' should be in record '%.200s', which is not in the archive; %s", t->name, name,
                       rw_file_advice(&f->file, rw_message("download it again")));
    return rw_tensor_file_set(f, i, t, &f->parts[r - z->records], err);
}

/* Every record with its place and its CRC. */
static rw_status list_parts(rw_tensor_file *f, const rw_zip *z, rw_error *err) {
    size_t n = (size_t)z->n_records + 1;
    f->parts = rw_arena_alloc(&f->arena, n * sizeof *f->parts);
    bool *checked = rw_arena_alloc(&f->arena, n);
    if (!f->parts || !checked) return rw_fail_memory(err, n * sizeof *f->parts);
    for (int64_t i = 0; i < z->n_records; i++) {
        const rw_zip_record *r = &z->records[i];
        rw_tensor_record *part = &f->parts[i];
        *part = (rw_tensor_record){.n_bytes = r->n_bytes, .crc = r->crc, .has_crc = r->crc, .checked = &checked[i]};
        part->name = rw_arena_strdup(&f->arena, r->name);
        if (!part->name) return rw_fail_memory(err, strlen(r->name));
        RW_TRY(rw_zip_data_offset(z, r, &part->offset, err));
    }
    f->n_parts = z->n_records;
    return RW_OK;
}

/* -- the whole ----------------------------------------------------------------------------------------- */

static rw_status read_tensors(rw_tensor_file *f, const rw_zip *z, const char *root, rw_error *err) {
    char *name, *bytes;
    const rw_pickle_value *value;
    rw_pickle_tensor *tensors;
    int64_t n = 0;
    rw_where at = {.file = f->file.path, .key = "data.pkl"};
    const rw_zip_record *r = find_in(f, z, root, "data.pkl", "", &name);
    if (!name || !r) return rw_fail_memory(err, strlen(root));
    RW_TRY(slurp_record(f, z, r, &bytes, err));
    rw_status status = rw_pickle_read(bytes, r->n_bytes, at, &f->arena, &value, NULL, err);
    rw_free(bytes);
    RW_TRY(status);
    RW_TRY(rw_pickle_tensors(value, at, &f->arena, &tensors, &n, err));
    RW_TRY(rw_tensor_file_reserve(f, n, err));
    for (int64_t i = 0; i < n; i++) RW_TRY(set_tensor(f, z, root, &tensors[i], i, err));
    return RW_OK;
}

static rw_status read_zip(rw_tensor_file *f, const rw_zip *z, rw_error *err) {
    const char *root;
    RW_TRY(list_parts(f, z, err));
    RW_TRY(find_root(f, z, &root, err));
    RW_TRY(check_byte_order(f, z, root, err));
    return read_tensors(f, z, root, err);
}

rw_status rw_pth_open(rw_tensor_file *f, rw_error *err) {
    rw_zip z;
    bool cut_short;
    f->kind = "pth";
    rw_status status = rw_zip_open(&z, &f->file, &cut_short, err);
    if (status != RW_OK && cut_short) return fail_cut_short(f, err);
    RW_TRY(status);
    status = read_zip(f, &z, err);
    rw_zip_close(&z);
    return status;
}
