/* How much of everything. */
#include "core/plan/plan_internal.h"

#define MOST_ROWS   (INT64_C(1) << 31) /* of a micro batch: borders of sequences are int32 */
#define MOST_BYTES  0x1p60
#define MOST_TOKENS 0x1p62

#define DEFAULT_MICRO_BSZ 12

void rw_plan_share_sizes(rw_plan *p) {
    p->data.vocab_size = p->model.vocab_size;
    p->data.rows_per_batch = p->train.micro_bsz;
    p->data.accumulate = p->train.accumulate;
    p->data.max_seq = p->data.rows_per_batch; /* each row is one sequence */
    p->data.seed = p->train.random_seed;
    p->train.ctx_len = p->data.ctx_len;
    p->train.n_steps = p->train.epoch_steps * p->train.epoch_count;
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

/* Of batch_size sequences so many go into a micro batch; 0: any number that divides it will do. */
static rw_status decide_batch(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_error *err) {
    rw_plan_train *t = &p->train;
    int64_t before = rw_saved_run_number(saved, "micro_bsz");
    if (t->batch_size == 0) {
        if (t->micro_bsz == 0) t->micro_bsz = DEFAULT_MICRO_BSZ;
        return RW_OK;
    }
    if (t->micro_bsz == 0 && before > 0 && t->batch_size % before == 0) t->micro_bsz = before;
    if (t->micro_bsz > 0 && t->batch_size % t->micro_bsz)
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_train_batch_size),
                       "expected a multiple of micro_bsz, which is %lld, got %lld", (long long)t->micro_bsz,
                       (long long)t->batch_size);
    t->accumulate = t->micro_bsz > 0 ? t->batch_size / t->micro_bsz : 1;
    if (t->micro_bsz == 0) t->micro_bsz = t->batch_size; /* until the device says what fits */
    return RW_OK;
}

rw_status rw_plan_decide_sizes(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_error *err) {
    p->train.choose_micro_bsz = p->train.batch_size > 0 && p->train.micro_bsz == 0;
    RW_TRY(decide_batch(p, r, saved, err));
    rw_plan_share_sizes(p);
    return check_products(p, r, err);
}
