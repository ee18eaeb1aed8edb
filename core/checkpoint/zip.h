/* Zip archives as .pth files are: records stored without compression, each beginning at a multiple of 64.
 *
 * Reading goes by the central directory at the end of the file. Everything a file says about itself is
 * checked against its size; nothing is mapped. What is read and written, little-endian:
 *
 *   local header      offset  0 "PK\3\4"   6 flags   8 method  14 CRC32  18 size stored  22 size
 *   (before a record)        26 name bytes  28 extra bytes  30 name, extra; then the data
 *   central header    offset  0 "PK\1\2"   8 flags  10 method  16 CRC32  20 size stored  24 size
 *   (one per record)         28 name bytes  30 extra bytes  32 comment bytes  42 offset of the local header  46 name
 * ... end record        offset  0 "PK\5\6"  10 records  12 bytes of the directory  16 its offset  20 comment bytes
 *   zip64 end         offset  0 "PK\6\6"  32 records  40 bytes of the directory  48 its offset; found through
 *   its locator       offset  0 "PK\6\7"   8 offset of the zip64 end; 20 bytes long, right before the end record
 *   extra field 1     zip64: 8-byte size, size stored, header offset, each only where the field above is all ones
 *   extra field "FB"  padding, so that the data begins at a multiple of 64
 *
 * With bit 3 of the flags the local header holds no sizes (they follow the data): the directory always does. */
#ifndef RW_CHECKPOINT_ZIP_H
#define RW_CHECKPOINT_ZIP_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/checkpoint/name_index.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- reading -------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int64_t header_offset; /* of the local header */
    int64_t n_bytes;
    uint32_t crc;
} rw_zip_record;

typedef struct {
    const rw_file *file; /* borrowed */
    rw_arena arena;      /* names and records */
    rw_zip_record *records;
    int64_t n_records;
    rw_name_index index;
} rw_zip;

/* Reads the directory. RW_E_FORMAT: no end record (a file cut short: *cut_short is set, when not NULL),
 * compressed or encrypted records, a name twice, anything beyond the end of the file. */
rw_status rw_zip_open(rw_zip *z, const rw_file *file, bool *cut_short, rw_error *err);
void rw_zip_close(rw_zip *z);
const rw_zip_record *rw_zip_find(const rw_zip *z, const char *name); /* NULL: not there */
/* Where the bytes of a record begin: reads its local header and checks that the data is inside the file. */
rw_status rw_zip_data_offset(const rw_zip *z, const rw_zip_record *r, int64_t *offset, rw_error *err);

/* -- writing -------------------------------------------------------------------------------------- */

/* Sequential writer over an rw_writer. Sizes are given before the bytes, so local headers are complete and no
 * data descriptors are needed; the CRC is patched in afterwards. Without a writer it only counts: the same
 * code predicts the size of a file. */
typedef struct {
    rw_writer *w;     /* borrowed; NULL: count only */
    int64_t offset;   /* bytes so far */
    rw_str directory; /* owned: the central directory so far */
    int64_t n_records;
    rw_zip_record now; /* the record being written */
    int64_t to_come;   /* bytes of it still missing */
} rw_zip_writer;

#define RW_ZIP_ALIGNMENT 64

void rw_zip_writer_begin(rw_zip_writer *z, const char *name, int64_t n_bytes);
void rw_zip_writer_put(rw_zip_writer *z, const void *bytes, int64_t n); /* bytes may be NULL when counting */
void rw_zip_writer_end(rw_zip_writer *z);
/* The directory and the end records. RW_E_MEMORY; errors of the writer stay in the writer. Frees nothing. */
rw_status rw_zip_writer_finish(rw_zip_writer *z, rw_error *err);
void rw_zip_writer_done(rw_zip_writer *z);

#ifdef __cplusplus
}
#endif
#endif
