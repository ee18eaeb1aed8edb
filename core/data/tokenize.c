/* Streaming: one document at a time from jsonl through the tokenizer into binidx. */
#include "core/data/tokenize.h"

#include "core/base/alloc.h"
#include "core/data/binidx.h"
#include "core/data/jsonl.h"
#include "core/data/tokenizer.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define REPORT_EVERY (1 << 20)

typedef struct {
    const rw_tokenize_options *options;
    rw_jsonl in;
    rw_tokenizer *tokenizer;
    rw_binidx_writer *out;
    uint16_t *ids; /* owned, [cap] */
    size_t cap;
    rw_tokenize_progress done;
    rw_status (*progress)(void *ctx, const rw_tokenize_progress *p, rw_error *err);
    void *ctx;
    int64_t reported;
} job;

/* -- where it goes ------------------------------------------------------------------------------------------ */

static bool is_same_file(const struct stat *a, const char *path) {
    struct stat b;
    return path && stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* Looked at before the long work. Links are followed to find the input, so that no name of it is taken for another. */
static rw_status check_target(const job *j, const char *prefix, const char *suffix, rw_error *err) {
    char path[4096];
    struct stat found;
    int n = snprintf(path, sizeof path, "%s%s", prefix, suffix);
    if (n < 0 || (size_t)n >= sizeof path || lstat(path, &found) != 0) return RW_OK; /* the writer will say */
    bool there = stat(path, &found) == 0;
    if (there && (is_same_file(&found, j->in.file.path) || is_same_file(&found, j->options->vocab_file)))
        return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "%s is read from here: give the output another prefix", path);
    if (j->options->force) return RW_OK;
    return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "%s is there already: give another prefix, or --force to replace it",
                   path);
}

static rw_status create(job *j, const char *prefix, int dtype_code, rw_error *err) {
    RW_TRY(check_target(j, prefix, ".bin", err));
    RW_TRY(check_target(j, prefix, ".idx", err));
    return rw_binidx_create(&j->out, prefix, dtype_code, err);
}

static rw_status open_output(job *j, const char *prefix, rw_error *err) {
    static const char suffix[] = "_text_document";
    if (j->options->layout == RW_LAYOUT_MAKE_DATA) return create(j, prefix, RW_BINIDX_U16, err);
    char *name = rw_alloc(strlen(prefix) + sizeof suffix);
    if (!name) return rw_fail_memory(err, strlen(prefix) + sizeof suffix);
    strcat(strcpy(name, prefix), suffix);
    rw_status s = create(j, name, RW_BINIDX_I32, err);
    rw_free(name);
    return s;
}

/* -- the work ------------------------------------------------------------------------------------------------ */

static rw_status add_document(job *j, const char *text, size_t n, rw_error *err) {
    if (n == 0 && j->options->layout == RW_LAYOUT_PREPROCESS) {
        j->done.n_dropped++;
        return RW_OK;
    }
    void *p = j->ids;
    bool ok = rw_grow(&p, &j->cap, n + 1, sizeof *j->ids);
    j->ids = p;
    if (!ok) return rw_fail_memory(err, (n + 1) * sizeof *j->ids);
    size_t n_ids = rw_tokenizer_encode_u16(j->tokenizer, text, n, j->ids);
    j->ids[n_ids++] = RW_TOKEN_END_OF_DOCUMENT;
    j->done.n_documents++;
    j->done.n_tokens += (int64_t)n_ids;
    return rw_binidx_write(j->out, j->ids, (int64_t)n_ids, err);
}

static rw_status report(job *j, bool last, rw_error *err) {
    j->done.n_bytes = rw_jsonl_position(&j->in);
    if (!j->progress || (!last && j->done.n_bytes - j->reported < REPORT_EVERY)) return RW_OK;
    j->reported = j->done.n_bytes;
    return j->progress(j->ctx, &j->done, err);
}

static rw_status copy(job *j, rw_error *err) {
    const char *text;
    size_t n;
    for (;;) {
        RW_TRY(rw_jsonl_next(&j->in, &text, &n, err));
        if (!text) break;
        RW_TRY(add_document(j, text, n, err));
        RW_TRY(report(j, false, err));
    }
    if (j->done.n_documents == 0)
        return rw_fail(err, RW_E_DATA, RW_AT_FILE(j->in.file.path), "it contains no documents");
    return report(j, true, err);
}

static rw_status convert(job *j, const char *in, const char *prefix, rw_error *err) {
    RW_TRY(rw_tokenizer_open(&j->tokenizer, j->options->tokenizer, j->options->vocab_file, err));
    RW_TRY(rw_jsonl_open(&j->in, in, err));
    j->done.n_bytes_total = j->in.file.n_bytes;
    RW_TRY(open_output(j, prefix, err));
    RW_TRY(copy(j, err));
    rw_binidx_writer *out = j->out;
    j->out = NULL;
    return rw_binidx_commit(out, err);
}

rw_status rw_tokenize_file(const char *in, const char *out_prefix, const rw_tokenize_options *options,
                           rw_status (*progress)(void *ctx, const rw_tokenize_progress *p, rw_error *err), void *ctx,
                           rw_tokenize_progress *result, rw_error *err) {
    job j = {.options = options, .progress = progress, .ctx = ctx};
    rw_status s = convert(&j, in, out_prefix, err);
    rw_binidx_abort(j.out);
    rw_jsonl_close(&j.in);
    rw_tokenizer_close(j.tokenizer);
    rw_free(j.ids);
    if (result) *result = j.done;
    return s;
}
