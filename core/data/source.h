/* Sources of tokens: the formats of formats.def, each of which opens a file as one stream of ids.
 *
 * What is not tokens yet (jsonl, text) is tokenized once when it is opened, piece by piece, into a temporary file
 * without a name; each document is followed by id 0. From then on all sources are the same: ids of 2 or 4 bytes
 * in a file, read with pread() where they are wanted. Memory does not grow with the data.
 *
 * The temporary file is in $TMPDIR, else /var/tmp, else /tmp. */
#ifndef RW_DATA_SOURCE_H
#define RW_DATA_SOURCE_H

#include "core/data/data.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All-zero is closed. */
typedef struct {
    const char *file;   /* as the user named it; borrowed            */
    int64_t vocab_size; /* ids must be below                         */
    int fd;             /* owned, valid when id_bytes > 0            */
    int id_bytes;       /* 2: uint16, 4: int32; little-endian        */
    int64_t n_tokens, n_documents, n_bytes;
    uint64_t hash; /* of names, sizes, counts and tokenizer     */
} rw_source;

typedef struct {
    rw_status (*open)(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err);
} rw_source_ops;

#define RW_FORMAT(id, word, file, holds) extern const rw_source_ops rw_source_##file;
#include "core/recipe/formats.def"
#undef RW_FORMAT

/* Opens `file` as plan->data_type says. Errors: as the format's, and E_DATA for no tokens at all. */
rw_status rw_source_open(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err);
/* Ids [first, first + n) into ids[]; scratch has room for n * 4 bytes. Thread-safe. Errors: E_IO; E_DATA with the
 * position of an id that is not in 0 .. vocab_size-1. */
rw_status rw_source_read(const rw_source *s, int64_t first, int64_t n, int32_t *ids, void *scratch, rw_error *err);
/* The same as they are in the file, of s->id_bytes each, and not looked at. */
rw_status rw_source_read_raw(const rw_source *s, int64_t first, int64_t n, void *raw, rw_error *err);
/* E_DATA that names the first id of raw[n] that is not in 0 .. vocab_size-1; raw[0] is id number `first`. There must be
 * one. */
rw_status rw_source_fail_id(const rw_source *s, int64_t first, const void *raw, int64_t n, rw_error *err);
void rw_source_close(rw_source *s);

#ifdef __cplusplus
}
#endif
#endif
