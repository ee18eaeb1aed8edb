/* How much of everything. */
#include "core/plan/plan_internal.h"

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

void rw_plan_decide_sizes(rw_plan *p, const rw_saved_run *saved) {
    share_sizes(p);
    p->train.head_chunk = decide_head_chunk(p, saved);
    if (p->save.dtype == RW_DTYPE_NONE)
        p->save.dtype = *rw_dtype_torch_storage(p->model.file_dtype) ? p->model.file_dtype : RW_F32;
}
