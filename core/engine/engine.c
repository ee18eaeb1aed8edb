/* The engine: see engine.h. */
#include "core/engine/engine_internal.h"

#include "core/base/alloc.h"
#include "core/optim/optim.h"

/* -- its life --------------------------------------------------------------------------------------------- */

static void set_groups(void *ctx, rw_layout *l) {
    rw_optim_groups(l, ctx);
}

static rw_status open_parts(rw_engine *e, rw_error *err) {
    rw_plan_train groups = e->plan->train;
    rw_model_options options = {.train = e->train, .groups = set_groups, .ctx = &groups};
    options.storage = rw_optim_storage(&groups);
    RW_TRY(rw_model_new(&e->model, &e->plan->model, e->device, &options, err));
    RW_TRY(rw_engine_open_transfer(e, err));
    RW_TRY(rw_engine_open_capture(e, err));
    RW_TRY(rw_step_arena_init(&e->arena, e->device, e->plan->needs.arena_bytes, err));
    RW_TRY(rw_tape_new(&e->tape, e->device, &e->arena, err));
    rw_tape_at_most(e->tape, e->plan->train.micro_bsz * e->plan->train.ctx_len, e->plan->data.max_seq);
    return RW_OK;
}

rw_status rw_engine_open(rw_engine *e, const rw_plan *plan, rw_device *device, bool train, rw_error *err) {
    *e = (rw_engine){.plan = plan, .device = device, .train = train};
    rw_status status = open_parts(e, err);
    if (status != RW_OK) rw_engine_close(e);
    return status;
}

void rw_engine_close(rw_engine *e) {
    rw_engine_close_transfer(e);
    rw_engine_close_capture(e);
    rw_tape_free(e->tape);
    rw_step_arena_done(&e->arena);
    rw_model_free(e->model);
    *e = (rw_engine){0};
}

/* -- pieces of a step: kernels alone ------------------------------------------------------------------------ */

/* sum(mask * loss of each row) -> *out. Without a loss the tape holds the error. */
static rw_status sum_loss(rw_engine *e, const rw_tensor *loss, double *out, bool add, rw_error *err) {
    if (!loss) return RW_OK;
    rw_sum_args a = {.dtype = loss->dtype, .n = loss->shape[0], .x = loss->data, .weight = e->in.mask, .out = out};
    a.add = add;
    rw_sum_args most = a;
    most.n = loss->room;
    int64_t n = e->device->kernels->sum_scratch(&most, &e->device->exec);
    int32_t piece = rw_step_arena_take(&e->arena, n);
    if (piece < 0) return rw_fail_memory(err, (size_t)n);
    a.scratch = rw_step_arena_at(&e->arena, piece);
    e->device->kernels->sum(&a, &e->device->exec);
    rw_step_arena_give(&e->arena, piece);
    return RW_OK;
}

/* The loss goes to *out; with `train` the gradients to their buffers. */
static rw_status pass(rw_engine *e, bool train, double *out, bool add, rw_error *err) {
    const rw_plan_train *p = &e->plan->train;
    rw_tape_reset(e->tape);
    rw_tape_record(e->tape, train);
    rw_tensor *hidden = rw_model_forward(e->model, e->tape, e->rows, e->in.tokens, NULL, NULL, p->checkpoint);
    rw_tensor *loss =
        rw_model_loss(e->model, e->tape, e->rows, e->in.tokens, hidden, e->in.targets, e->in.mask, p->head_chunk);
    rw_status status = sum_loss(e, loss, out, add, err);
    if (status == RW_OK && train) rw_tape_backward(e->tape, NULL);
    if (status == RW_OK) status = rw_tape_error(e->tape, err);
    rw_tape_reset(e->tape);
    return status;
}

rw_status rw_engine_launch(rw_engine *e, rw_engine_piece piece, rw_error *err) {
    if (piece == RW_PIECE_UPDATE) return rw_optim_update(&e->plan->train, e->model->params, &e->arena, err);
    return pass(e, true, &e->device->exec.own->loss, piece == RW_PIECE_LATER, err);
}

/* -- a step ---------------------------------------------------------------------------------------------------- */

void rw_engine_begin_step(rw_engine *e, int64_t step, double lr, double weight_decay, double mask_sum) {
    e->scalars = (rw_step_scalars){.step = step + 1, .lr = lr, .weight_decay = weight_decay};
    e->scalars.seed = e->plan->train.random_seed;
    e->mask_sum = mask_sum;
    e->n_run = 0;
    if (e->train) rw_params_begin_step(e->model->params);
}

rw_status rw_engine_run(rw_engine *e, rw_error *err) {
    rw_engine_take(e);
    return rw_engine_play(e, e->n_run++ == 0 ? RW_PIECE_FIRST : RW_PIECE_LATER, err);
}

rw_status rw_engine_update(rw_engine *e, rw_error *err) {
    RW_TRY(rw_engine_play(e, RW_PIECE_UPDATE, err));
    rw_engine_send_report(e);
    return RW_OK;
}

/* -- single batches -------------------------------------------------------------------------------------------- */

static rw_status read_loss(rw_engine *e, const double *from, double *loss_sum, rw_error *err) {
    RW_TRY(e->device->synchronize(e->device, err));
    e->device->download(e->device, loss_sum, from, sizeof *loss_sum);
    return RW_OK;
}

rw_status rw_engine_micro_step(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err) {
    RW_TRY(rw_engine_stage(e, b, err));
    RW_TRY(rw_engine_run(e, err));
    return loss_sum ? read_loss(e, &e->device->exec.own->loss, loss_sum, err) : RW_OK;
}

rw_status rw_engine_evaluate(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err) {
    double *to = &e->device->exec.own->eval_loss;
    RW_TRY(rw_engine_stage(e, b, err));
    rw_engine_take(e);
    RW_TRY(pass(e, false, to, false, err));
    return read_loss(e, to, loss_sum, err);
}
