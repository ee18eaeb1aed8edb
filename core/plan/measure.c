/* What a run will take: the engine runs one step on the meta device, which hands out addresses but no memory and
 * computes nothing. Its buffers and the high-water mark of its arena are the figures, exact to the byte. */
#include "core/base/fs.h"
#include "core/checkpoint/weights.h"
#include "core/data/loader.h"
#include "core/engine/engine.h"
#include "core/plan/plan_internal.h"

/* Anonymous memory of the process beside the engine's buffers: libraries, Lua, tables; and BLAS's for each thread.
 * Measured with tests/bench/memory.sh, not known. */
#define PROCESS_BYTES            ((int64_t)24 << 20)
#define PROCESS_BYTES_PER_THREAD ((int64_t)32 << 20)

/* -- parts ---------------------------------------------------------------------------------------------------- */

static void add(rw_plan_needs *n, rw_plan_part part) {
    if (part.n_bytes <= 0 || n->n_parts == RW_PLAN_MAX_PARTS) return;
    n->parts[n->n_parts++] = part;
    n->bytes[part.place] += part.n_bytes;
    if (part.ours) n->engine_bytes += part.n_bytes;
}

static void on_device(rw_plan_needs *n, const char *name, int64_t n_bytes) {
    add(n, (rw_plan_part){rw_message(name), RW_MEMORY_DEVICE, true, n_bytes});
}

static void on_host(rw_plan_needs *n, const char *name, int64_t n_bytes) {
    add(n, (rw_plan_part){rw_message(name), RW_MEMORY_HOST, true, n_bytes});
}

static void of_libraries(rw_plan_needs *n, const rw_plan *plan, const rw_device *device) {
    int64_t host = PROCESS_BYTES + PROCESS_BYTES_PER_THREAD * plan->threads;
    add(n, (rw_plan_part){rw_message("device libraries"), RW_MEMORY_DEVICE, false, device->own_bytes});
    add(n, (rw_plan_part){rw_message("libraries and threads"), RW_MEMORY_HOST, false, host});
}

/* -- the engine ------------------------------------------------------------------------------------------------ */

static void of_engine(rw_plan_needs *n, const rw_engine *e) {
    const rw_params *p = e->model->params;
    n->n_params = p->layout.n_params;
    n->arena_bytes = e->arena.high_water;
    on_device(n, "parameters", rw_params_bytes(p, RW_PARAM_VALUE) + rw_params_bytes(p, RW_PARAM_FROZEN));
    on_device(n, "master weights", rw_params_bytes(p, RW_PARAM_MASTER));
    on_device(n, "gradients", rw_params_bytes(p, RW_PARAM_GRAD));
    on_device(n, "Adam moments", rw_params_bytes(p, RW_PARAM_M) + rw_params_bytes(p, RW_PARAM_V));
    n->param_bytes = n->engine_bytes;
    on_device(n, "parameter table", rw_params_table_bytes(p));
    on_device(n, "activations (step arena)", e->arena.high_water);
}

static rw_status file_sizes(rw_plan_needs *n, const rw_plan *plan, rw_params *p, rw_error *err) {
    rw_weights_list pth, state;
    const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
    RW_TRY(rw_weights_list_new(&pth, p, kinds, (const char *[]){""}, 1, plan->save.dtype, err));
    n->pth_bytes = rw_pth_bytes("rwkv-final.pth", pth.tensors, pth.n);
    rw_weights_list_done(&pth);
    RW_TRY(rw_weights_list_new(&state, p, kinds, (const char *[]){"param.", "m.", "v."}, 3, RW_DTYPE_NONE, err));
    n->state_bytes = rw_safetensors_bytes(state.tensors, state.n, NULL, 0);
    rw_weights_list_done(&state);
    return RW_OK;
}

/* One training step and one evaluation. */
static rw_status run_step(rw_engine *e, const rw_plan *plan, rw_error *err) {
    rw_batch b = {.n_rows = plan->train.micro_bsz * plan->train.ctx_len, .n_seq = plan->train.micro_bsz, .mask_sum = 1};
    rw_engine_begin_step(e, 0, 0, 0, 1);
    RW_TRY(rw_engine_micro_step(e, &b, NULL, err));
    RW_TRY(rw_engine_update(e, err));
    double loss;
    return rw_engine_evaluate(e, &b, &loss, err);
}

static rw_status measure_engine(rw_plan_needs *n, const rw_plan *plan, rw_device *meta, bool files, rw_error *err) {
    rw_engine e;
    RW_TRY(rw_engine_open(&e, plan, meta, true, err));
    rw_status status = run_step(&e, plan, err);
    of_engine(n, &e);
    if (status == RW_OK && files) status = file_sizes(n, plan, e.model->params, err);
    rw_engine_close(&e);
    return status;
}

static rw_status on_meta(rw_plan_needs *n, const rw_plan *plan, const rw_device *like, bool files, rw_error *err) {
    rw_device *meta;
    RW_TRY(rw_device_open_meta(&meta, like, err));
    rw_status status = measure_engine(n, plan, meta, files, err);
    rw_device_close(meta);
    return status;
}

rw_status rw_plan_device_bytes(const rw_plan *plan, const rw_device *like, int64_t *n_bytes, rw_error *err) {
    rw_plan_needs n = {0};
    rw_plan unlimited = *plan;
    unlimited.needs.arena_bytes = 0; /* of a candidate before */
    RW_TRY(on_meta(&n, &unlimited, like, false, err));
    *n_bytes = n.bytes[RW_MEMORY_DEVICE] + rw_engine_batch_bytes(plan, like) + like->own_bytes;
    return RW_OK;
}

rw_status rw_plan_measure(const rw_plan *plan, const rw_device *like, rw_plan_needs *n, rw_error *err) {
    const rw_plan_data *d = &plan->data;
    const int64_t limit = plan->needs.device_limit;
    *n = (rw_plan_needs){.device_limit = limit};
    RW_TRY(on_meta(n, plan, like, true, err));
    on_device(n, "batch", rw_engine_batch_bytes(plan, like));
    on_host(n, "batches on their way", rw_engine_host_bytes(plan, like));
    if (d->data_file) on_host(n, "data loader", rw_loader_bytes_for(d, d->data_file));
    if (d->valid_file) on_host(n, "validation loader", rw_loader_bytes_for(d, d->valid_file));
    of_libraries(n, plan, like);
    n->tokens_per_step = plan->train.micro_bsz * plan->train.ctx_len * plan->train.accumulate;
    n->tokens_total = n->tokens_per_step * plan->train.n_steps;
    n->disk_free = rw_disk_free(plan->save.proj_dir ? plan->save.proj_dir : ".");
    return RW_OK;
}
