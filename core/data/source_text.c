/* utf-8: the whole file is one document. Read in pieces: a character or a token that a piece cuts waits for the next.
 */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/data/store.h"
#include "core/data/text_kind.h"

#include <string.h>

#define PIECE (1 << 20)
#define ROOM  (PIECE + (1 << 16)) /* a piece and what the last one left: less than the longest token */

typedef struct {
    rw_file file;
    char *buf;      /* owned, [ROOM] */
    size_t len;     /* bytes in buf */
    size_t valid;   /* of them known to be UTF-8 */
    int64_t offset; /* in the file, of what follows buf */
    int64_t line;   /* of buf[valid] */
} reader;

static rw_status fail_utf8(const reader *r, rw_error *err) {
    int64_t at = r->offset - (int64_t)(r->len - r->valid);
    return rw_text_fail_utf8((rw_where){.file = r->file.path, .line = (int)r->line}, r->buf + r->valid,
                             r->len - r->valid, at, err);
}

/* Checks the bytes that came in; up to 3 at the end may be the beginning of a character. */
static rw_status check_utf8(reader *r, bool last, rw_error *err) {
    size_t n = rw_utf8_valid_prefix(r->buf + r->valid, r->len - r->valid);
    for (size_t i = r->valid; i < r->valid + n; i++) r->line += r->buf[i] == '\n';
    r->valid += n;
    size_t left = r->len - r->valid;
    return left > (last ? 0 : 3) ? fail_utf8(r, err) : RW_OK;
}

static rw_status read_piece(reader *r, bool *last, rw_error *err) {
    int64_t n = r->file.n_bytes - r->offset;
    *last = n <= PIECE;
    if (!*last) n = PIECE;
    RW_TRY(rw_file_read_at(&r->file, r->offset, r->buf + r->len, n, err));
    r->len += (size_t)n;
    r->offset += n;
    return check_utf8(r, *last, err);
}

/* Encodes what can be decided and moves the rest to the front. */
static rw_status encode_piece(reader *r, rw_store *st, size_t skip, bool last, rw_error *err) {
    size_t n_ids, n = r->valid - skip, used = n;
    const char *p = r->buf + skip;
    RW_TRY(rw_store_reserve(st, n, err));
    uint16_t *ids = st->ids ? st->ids + st->used : NULL; /* nothing is reserved for no bytes */
    if (last)
        n_ids = rw_tokenizer_encode_u16(st->tokenizer, p, n, ids);
    else
        used = rw_tokenizer_encode_part(st->tokenizer, p, n, ids, &n_ids);
    used += skip;
    memmove(r->buf, r->buf + used, r->len - used);
    r->len -= used;
    r->valid -= used;
    return rw_store_add(st, n_ids, err);
}

static rw_status read_text(rw_source *s, rw_store *st, reader *r, rw_error *err) {
    bool last = false;
    while (!last) {
        bool first = r->offset == 0;
        RW_TRY(read_piece(r, &last, err));
        /* a byte order mark is no text */
        size_t skip = first && r->len >= 3 && !memcmp(r->buf, "\xef\xbb\xbf", 3) ? 3 : 0;
        RW_TRY(encode_piece(r, st, skip, last, err));
    }
    s->n_bytes = r->file.n_bytes;
    s->n_documents = 1;
    return st->n_tokens > 0 ? rw_store_end_document(st, err) : RW_OK;
}

static rw_status open_text(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err) {
    reader r = {.line = 1};
    rw_store st = {0};
    RW_TRY(rw_file_open(&r.file, file, err));
    rw_status status = rw_text_kind_check(&r.file, err);
    if (status == RW_OK) status = rw_store_open(&st, plan, file, err);
    if (status == RW_OK && !(r.buf = rw_alloc(ROOM))) status = rw_fail_memory(err, ROOM);
    if (status == RW_OK) status = read_text(s, &st, &r, err);
    if (status == RW_OK) status = rw_store_finish(&st, s, err);
    if (status == RW_OK) s->hash = rw_tokenizer_hash(st.tokenizer);
    rw_free(r.buf);
    rw_store_close(&st);
    rw_file_close(&r.file);
    return status;
}

const rw_source_ops rw_source_text = {open_text};
