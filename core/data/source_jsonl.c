/* jsonl: each line is a document. */
#include "core/base/fs.h"
#include "core/base/rng.h"
#include "core/data/jsonl.h"
#include "core/data/store.h"

static rw_status read_documents(rw_source *s, rw_store *st, rw_jsonl *r, rw_error *err) {
    const char *text;
    size_t n;
    for (;;) {
        RW_TRY(rw_jsonl_next(r, &text, &n, err));
        if (!text) break;
        RW_TRY(rw_store_reserve(st, n + 1, err));
        RW_TRY(rw_store_add(st, rw_tokenizer_encode_u16(st->tokenizer, text, n, st->ids + st->used), err));
        RW_TRY(rw_store_end_document(st, err));
        s->n_documents++;
    }
    s->n_bytes = r->file.n_bytes;
    return RW_OK;
}

static rw_status open_jsonl(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err) {
    rw_jsonl r;
    rw_store st = {0};
    RW_TRY(rw_jsonl_open(&r, file, err));
    rw_status status = rw_store_open(&st, plan, file, err);
    if (status == RW_OK) status = read_documents(s, &st, &r, err);
    if (status == RW_OK) status = rw_store_finish(&st, s, err);
    if (status == RW_OK) s->hash = rw_tokenizer_hash(st.tokenizer);
    rw_store_close(&st);
    rw_jsonl_close(&r);
    return status;
}

const rw_source_ops rw_source_jsonl = {open_jsonl};
