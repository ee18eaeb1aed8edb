/* Streaming: one document at a time from jsonl through the tokenizer into binidx. */
#include "core/data/tokenize.h"

#include "core/base/alloc.h"
#include "core/data/binidx.h"
#include "core/data/jsonl.h"
#include "core/data/tokenizer.h"

#include <string.h>

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

static rw_status open_output(job *j, const char *prefix, rw_error *err) {
    static const char suffix[] = "_text_document";
    if (j->options->layout == RW_LAYOUT_MAKE_DATA) return rw_binidx_create(&j->out, prefix, RW_BINIDX_U16, err);
    char *name = rw_alloc(strlen(prefix) + sizeof suffix);
    if (!name) return rw_fail_memory(err, strlen(prefix) + sizeof suffix);
    strcat(strcpy(name, prefix), suffix);
    rw_status s = rw_binidx_create(&j->out, name, RW_BINIDX_I32, err);
    rw_free(name);
    return s;
}

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
