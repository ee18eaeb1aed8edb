/* The table of formats, and reading ids from an open source. */
#include "core/data/source.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const rw_source_ops *const formats[] = {
#define RW_FORMAT(id, word, file, holds) [RW_FORMAT_##id] = &rw_source_##file,
#include "core/recipe/formats.def"
#undef RW_FORMAT
};

rw_status rw_source_open(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err) {
    *s = (rw_source){.file = file, .vocab_size = plan->vocab_size};
    rw_status status = formats[plan->data_type]->open(s, plan, file, err);
    if (status == RW_OK && s->n_tokens == 0)
        status = rw_fail(err, RW_E_DATA, RW_AT_FILE(file),
                         "it has no tokens to train on; put text into it, or name another file");
    if (status != RW_OK) rw_source_close(s);
    return status;
}

/* Errors name s->file, which the caller owns, so that they outlive the source. */
static rw_status read_bytes(const rw_source *s, int64_t offset, char *buf, int64_t n, rw_error *err) {
    for (int64_t done = 0; done < n;) {
        ssize_t got = pread(s->fd, buf + done, (size_t)(n - done), offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return rw_fail_errno(err, RW_AT_FILE(s->file), "cannot read the tokens");
        if (got == 0)
            return rw_fail(err, RW_E_IO, RW_AT_FILE(s->file),
                           "became shorter while in use: the tokens now end at byte %lld", (long long)(offset + done));
        done += got;
    }
    return RW_OK;
}

static int32_t id_at(const void *raw, int64_t i, int id_bytes) {
    uint16_t narrow;
    int32_t wide;
    memcpy(&narrow, (const char *)raw + i * id_bytes, 2);
    if (id_bytes == 2) return narrow;
    memcpy(&wide, (const char *)raw + i * id_bytes, 4);
    return wide;
}

/* Copies n ids as int32; false when one is not below vocab_size (negative ones are large as unsigned). */
static bool widen(const rw_source *s, const char *raw, int32_t *ids, int64_t n) {
    const uint32_t limit = (uint32_t)s->vocab_size;
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) {
        ids[i] = id_at(raw, i, s->id_bytes);
        bad |= (uint32_t)ids[i] >= limit;
    }
    return !bad;
}

rw_status rw_source_fail_id(const rw_source *s, int64_t first, const void *raw, int64_t n, rw_error *err) {
    int64_t i = 0;
    while (i < n - 1 && (uint32_t)id_at(raw, i, s->id_bytes) < s->vocab_size) i++;
    if (id_at(raw, i, s->id_bytes) < 0)
        return rw_fail(err, RW_E_DATA, RW_AT_FILE(s->file),
                       "token %lld is %d, but ids are never negative; does the file hold something else?",
                       (long long)(first + i), id_at(raw, i, s->id_bytes));
    return rw_fail(err, RW_E_DATA, RW_AT_FILE(s->file),
                   "token %lld has the id %d, but the model's vocab_size is %lld; was it made with another tokenizer?",
                   (long long)(first + i), id_at(raw, i, s->id_bytes), (long long)s->vocab_size);
}

rw_status rw_source_read_raw(const rw_source *s, int64_t first, int64_t n, void *raw, rw_error *err) {
    return read_bytes(s, first * s->id_bytes, raw, n * s->id_bytes, err);
}

rw_status rw_source_read(const rw_source *s, int64_t first, int64_t n, int32_t *ids, void *scratch, rw_error *err) {
    RW_TRY(rw_source_read_raw(s, first, n, scratch, err));
    return widen(s, scratch, ids, n) ? RW_OK : rw_source_fail_id(s, first, scratch, n, err);
}

void rw_source_close(rw_source *s) {
    if (s->id_bytes > 0 && s->fd >= 0) close(s->fd);
    *s = (rw_source){0};
}
