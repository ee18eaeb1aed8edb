/* The reader trusts nothing: each offset and size is compared with what is left of the file before it is used,
 * in subtractions that cannot overflow. Limits: one disk, stored records, a directory of at most 64 MiB. */
#include "core/checkpoint/zip.h"

#include "core/base/alloc.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <assert.h>
#include <string.h>
#include <zlib.h>

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    LOCATOR_BYTES = 20,
    END64_BYTES = 56,
    MAX_COMMENT = 65535,
    FLAG_ENCRYPTED = 1,
    FLAG_UTF8 = 0x800,
    EXTRA_ZIP64 = 1,
    EXTRA_PADDING = 0x4246, /* "FB" */
};
#define MAX_DIRECTORY ((int64_t)64 << 20)
#define MAX_32        0xffffffffu

/* -- reading: the end records ------------------------------------------------------------------------ */

typedef struct {
    int64_t n_records, offset, n_bytes; /* of the directory */
    int64_t limit;                      /* the directory must end here or before */
} directory_place;

static rw_status bad(const rw_zip *z, rw_error *err, const char *what) {
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(z->file->path), "zip: %s; the file is damaged: %s", rw_message(what),
                   rw_file_advice(z->file, rw_message("download it again")));
}

/* The last "PK\5\6" whose comment reaches exactly to the end of the file; -1 when there is none. */
static int64_t find_end(const uint8_t *tail, int64_t n) {
    for (int64_t i = n - END_BYTES; i >= 0; i--)
        if (rw_le32(tail + i) == 0x06054b50 && rw_le16(tail + i + 20) == n - i - END_BYTES) return i;
    return -1;
}

static rw_status read_end64(const rw_zip *z, int64_t end, directory_place *d, rw_error *err) {
    uint8_t locator[LOCATOR_BYTES], end64[END64_BYTES];
    if (end < LOCATOR_BYTES + END64_BYTES) return RW_OK;
    RW_TRY(rw_file_read_at(z->file, end - LOCATOR_BYTES, locator, LOCATOR_BYTES, err));
    if (rw_le32(locator) != 0x07064b50) return RW_OK; /* an ordinary zip */
    uint64_t at = rw_le64(locator + 8);
    if (at > (uint64_t)(end - LOCATOR_BYTES - END64_BYTES)) return bad(z, err, "zip64 end record beyond the file");
    RW_TRY(rw_file_read_at(z->file, (int64_t)at, end64, END64_BYTES, err));
    if (rw_le32(end64) != 0x06064b50) return bad(z, err, "zip64 end record not where its locator says");
    if (rw_le64(end64 + 32) > INT64_MAX || rw_le64(end64 + 40) > INT64_MAX || rw_le64(end64 + 48) > INT64_MAX)
        return bad(z, err, "impossible numbers in the zip64 end record");
    *d = (directory_place){(int64_t)rw_le64(end64 + 32), (int64_t)rw_le64(end64 + 48), (int64_t)rw_le64(end64 + 40),
                           (int64_t)at};
    return RW_OK;
}

static rw_status find_directory(const rw_zip *z, directory_place *d, bool *cut_short, rw_error *err) {
    int64_t n = z->file->n_bytes < END_BYTES + MAX_COMMENT ? z->file->n_bytes : END_BYTES + MAX_COMMENT;
    uint8_t *tail = rw_alloc((size_t)n);
    if (!tail) return rw_fail_memory(err, (size_t)n);
    rw_status status = rw_file_read_at(z->file, z->file->n_bytes - n, tail, n, err);
    int64_t i = status == RW_OK ? find_end(tail, n) : -1;
    if (i >= 0) {
        int64_t end = z->file->n_bytes - n + i;
        *d = (directory_place){rw_le16(tail + i + 10), rw_le32(tail + i + 16), rw_le32(tail + i + 12), end};
        status = read_end64(z, end, d, err);
    } else if (status == RW_OK) {
        if (cut_short) *cut_short = true;
        status = rw_fail(err, RW_E_FORMAT, RW_AT_FILE(z->file->path),
                         "zip: the file has %lld bytes and its end record is missing: it is cut short",
                         (long long)z->file->n_bytes);
    }
    rw_free(tail);
    if (status != RW_OK) return status;
    if (d->offset > d->limit || d->n_bytes > d->limit - d->offset) return bad(z, err, "directory beyond the file");
    if (d->n_bytes > MAX_DIRECTORY) return bad(z, err, "directory of more than 64 MiB");
    if (d->n_records > d->n_bytes / CENTRAL_BYTES) return bad(z, err, "more records than the directory has room for");
    return RW_OK;
}

/* -- reading: the directory -------------------------------------------------------------------------- */

/* Puts the 8-byte values of the zip64 extra field in the place of fields that are all ones. */
static bool apply_zip64(const uint8_t *extra, int64_t n, uint64_t *size, uint64_t *stored, uint64_t *header) {
    uint64_t *fields[3] = {size, stored, header};
    bool wanted = *size == MAX_32 || *stored == MAX_32 || *header == MAX_32;
    while (wanted && n >= 4) {
        int64_t length = rw_le16(extra + 2);
        if (length > n - 4) return false;
        if (rw_le16(extra) == EXTRA_ZIP64) {
            const uint8_t *p = extra + 4, *stop = p + length;
            for (int k = 0; k < 3; k++) {
                if (*fields[k] != MAX_32) continue;
                if (stop - p < 8) return false;
                *fields[k] = rw_le64(p);
                p += 8;
            }
            return true;
        }
        extra += 4 + length;
        n -= 4 + length;
    }
    return true;
}

static rw_status bad_record(const rw_zip *z, const char *name, rw_error *err, const char *what) {
    rw_where at = {.file = z->file->path};
    return rw_fail(err, RW_E_FORMAT, at, "zip: record '%.200s': %s", name, rw_message(what));
}

/* One central header at p (n bytes are left); *used is its whole length. */
static rw_status read_record(rw_zip *z, const uint8_t *p, int64_t n, rw_zip_record *r, int64_t *used, rw_error *err) {
    if (n < CENTRAL_BYTES || rw_le32(p) != 0x02014b50) return bad(z, err, "a directory entry without its signature");
    int64_t name = rw_le16(p + 28), extra = rw_le16(p + 30), comment = rw_le16(p + 32);
    if (name + extra + comment > n - CENTRAL_BYTES) return bad(z, err, "directory entry longer than the directory");
    *used = CENTRAL_BYTES + name + extra + comment;
    r->name = rw_arena_strndup(&z->arena, (const char *)p + CENTRAL_BYTES, (size_t)name);
    if (!r->name) return rw_fail_memory(err, (size_t)name);
    if (strlen(r->name) != (size_t)name) return bad(z, err, "NUL in the name of a record");
    if (rw_le16(p + 8) & FLAG_ENCRYPTED) return bad_record(z, r->name, err, "is encrypted");
    if (rw_le16(p + 10) != 0)
        return bad_record(z, r->name, err,
                          "is compressed; torch stores its records uncompressed, so this file was packed "
                          "again: unpack it and look for the .pth inside");
    uint64_t size = rw_le32(p + 24), stored = rw_le32(p + 20), header = rw_le32(p + 42);
    if (!apply_zip64(p + CENTRAL_BYTES + name, extra, &size, &stored, &header))
        return bad_record(z, r->name, err, "zip64 field too short");
    if (size != stored) return bad_record(z, r->name, err, "stored with two different sizes");
    uint64_t file = (uint64_t)z->file->n_bytes;
    if (header > file || size > file - header) {
        rw_where at = {.file = z->file->path};
        return rw_fail(err, RW_E_FORMAT, at,
                       "zip: record '%.200s' has %llu bytes from byte %llu, but the file has %lld bytes: it is cut "
                       "short or damaged; %s",
                       r->name, (unsigned long long)size, (unsigned long long)header, (long long)z->file->n_bytes,
                       rw_file_advice(z->file, rw_message("download it again (`wget -c URL` continues)")));
    }
    r->n_bytes = (int64_t)size;
    r->header_offset = (int64_t)header;
    r->crc = rw_le32(p + 16);
    return RW_OK;
}

static rw_status read_records(rw_zip *z, const uint8_t *p, int64_t n, rw_error *err) {
    for (int64_t i = 0; i < z->n_records; i++) {
        int64_t used = 0;
        RW_TRY(read_record(z, p, n, &z->records[i], &used, err));
        if (rw_name_index_add(&z->index, z->records[i].name, i) >= 0)
            return bad_record(z, z->records[i].name, err, "occurs twice");
        p += used;
        n -= used;
    }
    return RW_OK;
}

static rw_status read_directory(rw_zip *z, const directory_place *d, rw_error *err) {
    size_t records = (size_t)(d->n_records ? d->n_records : 1) * sizeof *z->records;
    z->records = rw_arena_alloc(&z->arena, records);
    if (!z->records) return rw_fail_memory(err, records);
    z->n_records = d->n_records;
    RW_TRY(rw_name_index_init(&z->index, d->n_records, err));
    uint8_t *bytes = rw_alloc((size_t)d->n_bytes);
    if (!bytes) return rw_fail_memory(err, (size_t)d->n_bytes);
    rw_status status = rw_file_read_at(z->file, d->offset, bytes, d->n_bytes, err);
    if (status == RW_OK) status = read_records(z, bytes, d->n_bytes, err);
    rw_free(bytes);
    return status;
}

rw_status rw_zip_open(rw_zip *z, const rw_file *file, bool *cut_short, rw_error *err) {
    directory_place d = {0};
    *z = (rw_zip){.file = file};
    if (cut_short) *cut_short = false;
    rw_status status = find_directory(z, &d, cut_short, err);
    if (status == RW_OK) status = read_directory(z, &d, err);
    if (status != RW_OK) rw_zip_close(z);
    return status;
}

void rw_zip_close(rw_zip *z) {
    rw_name_index_done(&z->index);
    rw_arena_done(&z->arena);
    *z = (rw_zip){0};
}

const rw_zip_record *rw_zip_find(const rw_zip *z, const char *name) {
    int64_t i = rw_name_index_find(&z->index, name);
    return i < 0 ? NULL : &z->records[i];
}

rw_status rw_zip_data_offset(const rw_zip *z, const rw_zip_record *r, int64_t *offset, rw_error *err) {
    uint8_t h[LOCAL_BYTES];
    if (z->file->n_bytes - r->header_offset < LOCAL_BYTES)
        return bad_record(z, r->name, err, "local header beyond the file");
    RW_TRY(rw_file_read_at(z->file, r->header_offset, h, LOCAL_BYTES, err));
    if (rw_le32(h) != 0x04034b50) return bad_record(z, r->name, err, "no local header where the directory says");
    int64_t at = r->header_offset + LOCAL_BYTES + rw_le16(h + 26) + rw_le16(h + 28);
    if (at > z->file->n_bytes || r->n_bytes > z->file->n_bytes - at)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(z->file->path),
                       "zip: record '%.200s' ends at byte %llu, but the file has %lld bytes: it is cut short or "
                       "damaged; %s",
                       r->name, (unsigned long long)at + (unsigned long long)r->n_bytes, (long long)z->file->n_bytes,
                       rw_file_advice(z->file, rw_message("download it again (`wget -c URL` continues)")));
    *offset = at;
    return RW_OK;
}

/* -- writing ----------------------------------------------------------------------------------------- */

static void emit(rw_zip_writer *z, const void *bytes, int64_t n) {
    if (z->w) rw_writer_put(z->w, bytes, n);
    z->offset += n;
}

static uint32_t clip32(int64_t x) {
    return x >= (int64_t)MAX_32 ? MAX_32 : (uint32_t)x;
}
static uint16_t clip16(int64_t x) {
    return x >= 0xffff ? 0xffff : (uint16_t)x;
}

/* Local header, name, zip64 sizes when needed, and padding such that the data begins at a multiple of 64. */
void rw_zip_writer_begin(rw_zip_writer *z, const char *name, int64_t n_bytes) {
    bool big = n_bytes >= (int64_t)MAX_32;
    size_t name_bytes = strlen(name);
    int64_t before = z->offset + LOCAL_BYTES + (int64_t)name_bytes + (big ? 20 : 0) + 4;
    int64_t padding = (RW_ZIP_ALIGNMENT - before % RW_ZIP_ALIGNMENT) % RW_ZIP_ALIGNMENT;
    uint8_t h[LOCAL_BYTES] = {0}, extra[20 + 4 + RW_ZIP_ALIGNMENT], *p = extra;
    z->now = (rw_zip_record){.name = name, .header_offset = z->offset, .n_bytes = n_bytes};
    z->to_come = n_bytes;
    rw_put_le32(h, 0x04034b50);
    rw_put_le16(h + 4, big ? 45 : 20);
    rw_put_le16(h + 6, FLAG_UTF8);
    rw_put_le16(h + 12, 0x21); /* 1980-01-01: the same run writes the same bytes */
    rw_put_le32(h + 18, clip32(n_bytes));
    rw_put_le32(h + 22, clip32(n_bytes));
    rw_put_le16(h + 26, (uint16_t)name_bytes);
    rw_put_le16(h + 28, (uint16_t)((big ? 20 : 0) + 4 + padding));
    if (big) {
        rw_put_le16(p, EXTRA_ZIP64);
        rw_put_le16(p + 2, 16);
        rw_put_le64(p + 4, (uint64_t)n_bytes);
        rw_put_le64(p + 12, (uint64_t)n_bytes);
        p += 20;
    }
    rw_put_le16(p, EXTRA_PADDING);
    rw_put_le16(p + 2, (uint16_t)padding);
    memset(p + 4, 'Z', (size_t)padding);
    emit(z, h, LOCAL_BYTES);
    emit(z, name, (int64_t)name_bytes);
    emit(z, extra, p - extra + 4 + padding);
}

void rw_zip_writer_put(rw_zip_writer *z, const void *bytes, int64_t n) {
    assert(n <= z->to_come);
    if (z->w) z->now.crc = (uint32_t)crc32_z(z->now.crc, bytes, (size_t)n);
    emit(z, bytes, n);
    z->to_come -= n;
}

/* The 8-byte values a central header needs, in the order of the format. Returns the bytes of the field. */
static int central_zip64(uint8_t *p, const rw_zip_record *r) {
    int n = 4;
    if (r->n_bytes >= (int64_t)MAX_32) {
        rw_put_le64(p + n, (uint64_t)r->n_bytes);
        rw_put_le64(p + n + 8, (uint64_t)r->n_bytes);
        n += 16;
    }
    if (r->header_offset >= (int64_t)MAX_32) {
        rw_put_le64(p + n, (uint64_t)r->header_offset);
        n += 8;
    }
    rw_put_le16(p, EXTRA_ZIP64);
    rw_put_le16(p + 2, (uint16_t)(n - 4));
    return n > 4 ? n : 0;
}

void rw_zip_writer_end(rw_zip_writer *z) {
    const rw_zip_record *r = &z->now;
    uint8_t h[CENTRAL_BYTES] = {0}, extra[28], crc[4];
    int n_extra = central_zip64(extra, r);
    assert(z->to_come == 0 || !z->w);
    z->offset += z->to_come; /* counting: the bytes were not put */
    z->to_come = 0;
    rw_put_le32(crc, r->crc);
    if (z->w) rw_writer_patch(z->w, r->header_offset + 14, crc, 4);
    rw_put_le32(h, 0x02014b50);
    rw_put_le16(h + 4, n_extra ? 45 : 20);
    rw_put_le16(h + 6, n_extra ? 45 : 20);
    rw_put_le16(h + 8, FLAG_UTF8);
    rw_put_le16(h + 14, 0x21);
    rw_put_le32(h + 16, r->crc);
    rw_put_le32(h + 20, clip32(r->n_bytes));
    rw_put_le32(h + 24, clip32(r->n_bytes));
    rw_put_le16(h + 28, (uint16_t)strlen(r->name));
    rw_put_le16(h + 30, (uint16_t)n_extra);
    rw_put_le32(h + 42, clip32(r->header_offset));
    rw_str_append_n(&z->directory, h, CENTRAL_BYTES);
    rw_str_append(&z->directory, r->name);
    rw_str_append_n(&z->directory, extra, (size_t)n_extra);
    z->n_records++;
}

static void put_end64(rw_zip_writer *z, int64_t directory) {
    uint8_t end[END64_BYTES + LOCATOR_BYTES] = {0}, *locator = end + END64_BYTES;
    rw_put_le32(end, 0x06064b50);
    rw_put_le64(end + 4, END64_BYTES - 12);
    rw_put_le16(end + 12, 45);
    rw_put_le16(end + 14, 45);
    rw_put_le64(end + 24, (uint64_t)z->n_records);
    rw_put_le64(end + 32, (uint64_t)z->n_records);
    rw_put_le64(end + 40, z->directory.len);
    rw_put_le64(end + 48, (uint64_t)directory);
    rw_put_le32(locator, 0x07064b50);
    rw_put_le64(locator + 8, (uint64_t)z->offset);
    rw_put_le32(locator + 16, 1);
    emit(z, end, sizeof end);
}

rw_status rw_zip_writer_finish(rw_zip_writer *z, rw_error *err) {
    uint8_t end[END_BYTES] = {0};
    int64_t directory = z->offset;
    if (z->directory.failed) return rw_fail_memory(err, z->directory.len);
    emit(z, z->directory.data, (int64_t)z->directory.len);
    if (directory >= (int64_t)MAX_32 || z->n_records >= 0xffff) put_end64(z, directory);
    rw_put_le32(end, 0x06054b50);
    rw_put_le16(end + 8, clip16(z->n_records));
    rw_put_le16(end + 10, clip16(z->n_records));
    rw_put_le32(end + 12, clip32((int64_t)z->directory.len));
    rw_put_le32(end + 16, clip32(directory));
    emit(z, end, END_BYTES);
    return RW_OK;
}

void rw_zip_writer_done(rw_zip_writer *z) {
    rw_str_done(&z->directory);
    *z = (rw_zip_writer){0};
}
