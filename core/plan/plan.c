/* Making the plan: see plan.h. Each function decides one section; the order is that of the questions: which model,
 * which data, which device, how much of everything. */
#include "core/plan/plan.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/weights.h"
#include "core/data/binidx.h"
#include "core/data/loader.h"
#include "core/data/tokenizer.h"
#include "core/engine/engine.h"
#include "core/plan/plan_internal.h"

#include <stdio.h>
#include <string.h>

#define HEAD_CHUNK_BYTES ((int64_t)128 << 20) /* logits at a time; wider chunks win nothing on a CPU */

/* Anonymous memory of the process beside the engine's buffers: libraries, Lua, tables; and BLAS's for each thread.
 * Measured with tests/bench/memory.sh, not known. */
#define RW_PROCESS_BYTES            ((int64_t)24 << 20)
#define RW_PROCESS_BYTES_PER_THREAD ((int64_t)32 << 20)

/* -- data ------------------------------------------------------------------------------------------------------- */

static rw_status decide_data(rw_plan *p, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_plan_data *d = &p->data;
    if (d->tokenizer != RW_TOKENIZER_WORLD) return RW_OK;
    char *found = NULL;
    rw_status status = rw_vocab_find(d->vocab_file, r->dir, &found, err);
    if (status == RW_OK && !(d->vocab_file = rw_arena_strdup(arena, found)))
        status = rw_fail_memory(err, strlen(found));
    rw_free(found);
    return status;
}

/* binidx says in its header how much it holds; text is counted when it is read. */
static rw_status count_data(rw_plan *p, rw_error *err) {
    p->needs.data_tokens = -1;
    if (!rw_format_holds_ids(p->data.data_type)) return RW_OK;
    rw_data_info info;
    RW_TRY(rw_data_info_read(&p->data, p->data.data_file, &info, err));
    p->needs.data_tokens = info.n_tokens;
    if (p->data.valid_file) RW_TRY(rw_data_info_read(&p->data, p->data.valid_file, &info, err));
    return RW_OK;
}

static void share_sizes(rw_plan *p) {
    p->data.vocab_size = p->model.vocab_size;
    p->data.rows_per_batch = p->train.micro_bsz;
    p->data.accumulate = p->train.accumulate;
    p->data.seed = p->train.random_seed;
    p->train.ctx_len = p->data.ctx_len;
    p->train.n_steps = p->train.epoch_steps * p->train.epoch_count;
}

/* -- device and sizes ------------------------------------------------------------------------------------------------
 */

static rw_status open_device(rw_plan *p, rw_device **device, rw_arena *arena, rw_error *err) {
    p->threads = rw_cpu_count();
    if (p->device != RW_ON_CPU) {
        rw_error why = {0};
        rw_status status = rw_device_open_cuda(device, RW_F32, 0, &why);
        if (status == RW_OK || p->device == RW_ON_CUDA) {
            if (err) *err = why;
            p->device = RW_ON_CUDA;
            return status;
        }
        rw_error_clear(&why);
    }
    p->device = RW_ON_CPU;
    p->train.compute = RW_F32;
    if (p->train.precision == RW_PRECISION_BF16 || p->train.precision == RW_PRECISION_FP16)
        rw_info("precision %s: this CPU computes in fp32", rw_choice_word(RW_KEY_train_precision, p->train.precision));
    RW_TRY(rw_device_open_cpu(device, RW_F32, p->threads, err));
    const char *detail = (*device)->detail; /* without the number of threads, which a resume may set */
    p->cpu_kernels = rw_arena_strndup(arena, detail, strcspn(detail, ","));
    if (p->cpu_kernels) return RW_OK;
    rw_device_close(*device);
    *device = NULL;
    return rw_fail_memory(err, 64);
}

int64_t rw_plan_head_chunk(const rw_plan *p) {
    int64_t rows = p->train.micro_bsz * p->train.ctx_len, fit = HEAD_CHUNK_BYTES / (p->model.vocab_size * 4) / 64 * 64;
    if (fit < 64) fit = 64;
    int64_t n_chunks = (rows + fit - 1) / fit, each = (rows + n_chunks - 1) / n_chunks;
    return each < rows ? (each + 63) / 64 * 64 : rows;
}

rw_status rw_plan_make(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_device **device, rw_error *err) {
    *plan = (rw_plan){.resume = "auto"};
    *device = NULL;
    rw_recipe_to_plan(recipe, plan);
    plan->recipe_path = recipe->path;
    plan->recipe_dir = recipe->dir;
    RW_TRY(decide_data(plan, recipe, arena, err));
    RW_TRY(rw_plan_decide_model(plan, recipe, arena, err));
    share_sizes(plan);
    RW_TRY(count_data(plan, err));
    if (plan->train.head_chunk <= 0) plan->train.head_chunk = rw_plan_head_chunk(plan);
    if (plan->save.dtype == RW_DTYPE_NONE)
        plan->save.dtype = plan->model.file_dtype != RW_DTYPE_NONE ? plan->model.file_dtype : RW_F32;
    RW_TRY(open_device(plan, device, arena, err));
    rw_status status = rw_plan_measure(plan, *device, err);
    if (status != RW_OK) {
        rw_device_close(*device);
        *device = NULL;
    }
    return status;
}

/* -- what it will need
 * --------------------------------------------------------------------------------------------------- */

static void part(rw_plan_needs *n, const char *name, int64_t n_bytes) {
    if (n_bytes <= 0 || n->n_parts == RW_PLAN_MAX_PARTS) return;
    n->parts[n->n_parts++] = (rw_plan_part){name, n_bytes};
    n->engine_bytes += n_bytes;
}

static rw_status file_sizes(rw_plan *plan, rw_params *p, rw_error *err) {
    rw_weights_list pth, state;
    const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
    RW_TRY(rw_weights_list_new(&pth, p, kinds, (const char *[]){""}, 1, plan->save.dtype, err));
    plan->needs.pth_bytes = rw_pth_bytes("rwkv-final.pth", pth.tensors, pth.n);
    rw_weights_list_done(&pth);
    RW_TRY(rw_weights_list_new(&state, p, kinds, (const char *[]){"param.", "m.", "v."}, 3, RW_DTYPE_NONE, err));
    plan->needs.state_bytes = rw_safetensors_bytes(state.tensors, state.n, NULL, 0);
    rw_weights_list_done(&state);
    return RW_OK;
}

/* One training step and one evaluation; the arena's high-water mark is what they need. */
static rw_status run_on_meta(rw_plan *plan, rw_device *meta, rw_error *err) {
    rw_engine e;
    RW_TRY(rw_engine_open(&e, plan, meta, true, err));
    rw_batch b = {.n_rows = plan->train.micro_bsz * plan->train.ctx_len, .n_seq = plan->train.micro_bsz, .mask_sum = 1};
    rw_engine_begin_step(&e, 0, 0, 0, 1);
    rw_status status = rw_engine_micro_step(&e, &b, NULL, err);
    if (status == RW_OK) status = rw_engine_update(&e, err);
    if (status == RW_OK) status = rw_engine_evaluate(&e, &b, NULL, err);
    plan->needs.arena_bytes = e.arena.high_water;
    rw_params *p = e.model->params;
    int64_t each = p->layout.n_trainable * rw_dtype_bytes(meta->compute);
    plan->needs.n_params = p->layout.n_params;
    part(&plan->needs, "parameters", each + p->layout.n_frozen * rw_dtype_bytes(meta->compute));
    part(&plan->needs, "gradients", each);
    part(&plan->needs, "Adam moments", 2 * each);
    part(&plan->needs, "table of parameters", p->n_segments * (int64_t)sizeof(rw_adamw_segment));
    part(&plan->needs, "batch", rw_engine_batch_bytes(plan));
    part(&plan->needs, "activations (step arena)", e.arena.high_water);
    if (status == RW_OK) status = file_sizes(plan, p, err);
    rw_engine_close(&e);
    return status;
}

rw_status rw_plan_measure(rw_plan *plan, const rw_device *like, rw_error *err) {
    rw_plan_needs *n = &plan->needs;
    int64_t data_tokens = n->data_tokens;
    *n = (rw_plan_needs){.data_tokens = data_tokens};
    rw_device *meta;
    RW_TRY(rw_device_open_meta(&meta, like, err));
    rw_status status = run_on_meta(plan, meta, err);
    rw_device_close(meta);
    RW_TRY(status);
    if (plan->data.data_file) part(n, "data loader", rw_loader_bytes_for(&plan->data, plan->data.data_file));
    if (plan->data.valid_file) part(n, "validation loader", rw_loader_bytes_for(&plan->data, plan->data.valid_file));
    n->tokens_per_step = plan->train.micro_bsz * plan->train.ctx_len * plan->train.accumulate;
    n->tokens_total = n->tokens_per_step * plan->train.n_steps;
    n->process_bytes = n->engine_bytes + RW_PROCESS_BYTES + RW_PROCESS_BYTES_PER_THREAD * plan->threads;
    n->disk_free = rw_disk_free(plan->save.proj_dir ? plan->save.proj_dir : ".");
    return RW_OK;
}
