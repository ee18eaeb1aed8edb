/* The list of formats, and reading ids from an open source. */
#include "core/data/source.h"

#include "core/base/str.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const rw_source_ops *const all[] = {&rw_source_jsonl, &rw_source_binidx, &rw_source_text};
#define N_SOURCES ((int)(sizeof all / sizeof *all))

/* Names that the official trainer, or its documentation, has and this program has not. */
static const struct {
    const char *name, *answer;
} absent[] = {
    {"numpy", "an array of ids in a .npy file is not read; turn the text into jsonl or binidx"},
    {"uint16", "a bare file of 16-bit ids is not read; turn the text into jsonl or binidx"},
    {"utf-16le", "text in UTF-16 is not read; convert it (iconv -f utf-16le -t utf-8) and use utf-8"},
    {"dummy", "there is no made-up data; the quickstart recipe has a small real corpus"},
    {"wds_img", "it stands in the official list of types, but belonged to an image autoencoder of RWKV-v4neo, no "
                "language model, and the official trainer refuses it too; use jsonl, binidx or utf-8"},
};

const rw_source_ops *rw_source_at(int i) {
    return i >= 0 && i < N_SOURCES ? all[i] : NULL;
}

rw_status rw_source_find(const rw_source_ops **ops, const char *data_type, rw_error *err) {
    const char *names[N_SOURCES + 1] = {0};
    rw_where at = {.key = "data.data_type"};
    for (int i = 0; i < N_SOURCES; i++) {
        names[i] = all[i]->name;
        if (!strcmp(data_type, all[i]->name)) return *ops = all[i], RW_OK;
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (!strcmp(data_type, absent[i].name))
            return rw_fail(err, RW_E_UNSUPPORTED, at, "'%s': %s", data_type, absent[i].answer);
    const char *near = rw_did_you_mean(data_type, names);
    if (near) return rw_fail(err, RW_E_RECIPE, at, "unknown type '%s' (did you mean '%s'?)", data_type, near);
    return rw_fail(err, RW_E_RECIPE, at, "unknown type '%s' (jsonl, binidx, utf-8)", data_type);
}

rw_status rw_source_open(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err) {
    const rw_source_ops *ops;
    *s = (rw_source){0};
    RW_TRY(rw_source_find(&ops, plan->data_type, err));
    *s = (rw_source){.file = file, .vocab_size = plan->vocab_size};
    rw_status status = ops->open(s, plan, file, err);
    if (status == RW_OK && s->n_tokens == 0)
        status = rw_fail(err, RW_E_DATA, RW_AT_FILE(file), "there is nothing in it to train on: no tokens");
    if (status != RW_OK) rw_source_close(s);
    return status;
}

/* Errors name s->file, which the caller owns, so that they outlive the source. */
static rw_status read_bytes(const rw_source *s, int64_t offset, char *buf, int64_t n, rw_error *err) {
    for (int64_t done = 0; done < n;) {
        ssize_t got = pread(s->fd, buf + done, (size_t)(n - done), offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return rw_fail_errno(err, RW_AT_FILE(s->file), "cannot read its tokens");
        if (got == 0)
            return rw_fail(err, RW_E_IO, RW_AT_FILE(s->file),
                           "became shorter while it was in use: its tokens end at byte %lld",
                           (long long)(offset + done));
        done += got;
    }
    return RW_OK;
}

/* Copies n ids as int32; false when one is not below vocab_size (negative ones are large as unsigned). */
static bool widen(const rw_source *s, const char *raw, int32_t *ids, int64_t n) {
    const uint32_t limit = (uint32_t)s->vocab_size;
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) {
        if (s->id_bytes == 2) {
            uint16_t x;
            memcpy(&x, raw + 2 * i, 2);
            ids[i] = x;
        } else
            memcpy(&ids[i], raw + 4 * i, 4);
        bad |= (uint32_t)ids[i] >= limit;
    }
    return !bad;
}

static rw_status fail_id(const rw_source *s, int64_t first, const int32_t *ids, int64_t n, rw_error *err) {
    int64_t i = 0;
    while (i < n - 1 && ids[i] >= 0 && ids[i] < s->vocab_size) i++;
    return rw_fail(err, RW_E_DATA, RW_AT_FILE(s->file),
                   "token %lld has the id %d, but the model's vocab_size is %lld; was it made with another tokenizer?",
                   (long long)(first + i), ids[i], (long long)s->vocab_size);
}

rw_status rw_source_read(const rw_source *s, int64_t first, int64_t n, int32_t *ids, void *scratch, rw_error *err) {
    RW_TRY(read_bytes(s, first * s->id_bytes, scratch, n * s->id_bytes, err));
    return widen(s, scratch, ids, n) ? RW_OK : fail_id(s, first, ids, n, err);
}

void rw_source_close(rw_source *s) {
    if (s->id_bytes > 0 && s->fd >= 0) close(s->fd);
    *s = (rw_source){0};
}
