/* The data of a run: who makes ids of it, and how many there are. */
#include "core/base/alloc.h"
#include "core/data/loader.h"
#include "core/data/tokenizer.h"
#include "core/plan/plan_internal.h"

#include <string.h>

static rw_status find_vocab(rw_plan_data *d, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    char *found = NULL;
    rw_status status = rw_vocab_find(d->vocab_file, r->dir, &found, err);
    if (status == RW_OK && !(d->vocab_file = rw_arena_strdup(arena, found)))
        status = rw_fail_memory(err, strlen(found));
    rw_free(found);
    return status;
}

rw_status rw_plan_decide_data(rw_plan *p, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_plan_data *d = &p->data;
    if (!rw_recipe_given(r, RW_KEY_data_tokenizer))
        d->tokenizer = rw_format_holds_ids(d->data_type) ? RW_TOKENIZER_NONE : RW_TOKENIZER_WORLD;
    return d->tokenizer == RW_TOKENIZER_WORLD ? find_vocab(d, r, arena, err) : RW_OK;
}

rw_status rw_plan_count_data(rw_plan *p, rw_error *err) {
    rw_data_info info;
    p->data.n_tokens = -1;
    if (!rw_format_holds_ids(p->data.data_type)) return RW_OK; /* text is counted when it is read */
    RW_TRY(rw_data_info_read(&p->data, p->data.data_file, &info, err));
    p->data.n_tokens = info.n_tokens;
    return p->data.valid_file ? rw_data_info_read(&p->data, p->data.valid_file, &info, err) : RW_OK;
}
