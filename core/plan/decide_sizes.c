/* How much of everything. */
#include "core/plan/plan_internal.h"

#define MOST_ROWS   (INT64_C(1) << 31) /* of a micro batch: borders of sequences are int32 */
#define MOST_BYTES  0x1p60
#define MOST_TOKENS 0x1p62

#define HEAD_CHUNK_BYTES ((int64_t)128 << 20) /* logits at a time; wider chunks win nothing on a CPU */

static void share_sizes(rw_plan *p) {
    p->data.vocab_size = p->model.vocab_size;
    p->data.rows_per_batch = p->train.micro_bsz;
    p->data.accumulate = p->train.accumulate;
    p->data.max_seq = p->data.rows_per_batch; /* each row is one sequence */
    p->data.seed = p->train.random_seed;
    p->train.ctx_len = p->data.ctx_len;
    p->train.n_steps = p->train.epoch_steps * p->train.epoch_count;
}

int64_t rw_plan_head_chunk(const rw_plan *p) {
    int64_t rows = p->train.micro_bsz * p->train.ctx_len, fit = HEAD_CHUNK_BYTES / (p->model.vocab_size * 4) / 64 * 64;
    if (fit < 64) fit = 64;
    int64_t n_chunks = (rows + fit - 1) / fit, each = (rows + n_chunks - 1) / n_chunks;
    return each < rows ? (each + 63) / 64 * 64 : rows;
}

/* Chunks shape the order of sums: a saved run's is used again. */
static int64_t decide_head_chunk(const rw_plan *p, const rw_saved_run *saved) {
    int64_t before = rw_saved_run_number(saved, "head_chunk");
    if (p->train.head_chunk > 0) return p->train.head_chunk;
    return before > 0 ? before : rw_plan_head_chunk(p);
}

/* Products of the largest sizes that the keys allow overflow 64 bits. Activations: far more than any model keeps of a
 * row in a block. */
static rw_status check_products(const rw_plan *p, const rw_recipe *r, rw_error *err) {
    const rw_plan_train *t = &p->train;
    const rw_plan_model *m = &p->model;
    rw_where at = rw_recipe_where(r, RW_KEY_train_micro_bsz);
    double rows = (double)t->micro_bsz * (double)t->ctx_len;
    double bytes = rows * (double)m->n_layer * (4.0 * (double)m->dim_ffn + 64.0 * (double)m->n_embd) * 8;
    if (rows >= MOST_ROWS)
        return rw_fail(err, RW_E_RECIPE, at, "micro_bsz %lld x ctx_len %lld: expected fewer than %lld rows",
                       (long long)t->micro_bsz, (long long)t->ctx_len, (long long)MOST_ROWS);
    if (bytes >= MOST_BYTES)
        return rw_fail(err, RW_E_RECIPE, at,
                       "micro_bsz %lld x ctx_len %lld, n_layer %lld, n_embd %lld: no machine has memory for a step of "
                       "these sizes",
                       (long long)t->micro_bsz, (long long)t->ctx_len, (long long)m->n_layer, (long long)m->n_embd);
    if (rows * (double)t->accumulate * (double)t->n_steps >= MOST_TOKENS)
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_train_epoch_count),
                       "%lld steps of micro_bsz %lld x ctx_len %lld x accumulate %lld: more tokens than can be counted",
                       (long long)t->n_steps, (long long)t->micro_bsz, (long long)t->ctx_len, (long long)t->accumulate);
    return RW_OK;
}

rw_status rw_plan_decide_sizes(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_error *err) {
    share_sizes(p);
    RW_TRY(check_products(p, r, err));
    p->train.head_chunk = decide_head_chunk(p, saved);
    if (p->save.dtype == RW_DTYPE_NONE)
        p->save.dtype = *rw_dtype_torch_storage(p->model.file_dtype) ? p->model.file_dtype : RW_F32;
    return RW_OK;
}
