/* The engine: see engine.h. */
#include "core/engine/engine.h"

#include "core/base/alloc.h"
#include "core/optim/optim.h"

#define L2WRAP 1e-4

/* -- buffers of a batch ----------------------------------------------------------------------------------- */

static int64_t max_rows(const rw_plan *p) {
    return p->train.micro_bsz * p->train.ctx_len;
}

/* One block, cut by hand: everything in it is small beside the model. */
static int64_t cut_batch(rw_engine *e, const rw_plan *p, char *base) {
    int64_t R = max_rows(p), at = 0, n_seq = p->train.micro_bsz;
    struct {
        void **pointer;
        int64_t n_bytes;
    } parts[] = {{(void **)&e->d_scalars, sizeof *e->d_scalars},
                 {(void **)&e->d_own, sizeof *e->d_own},
                 {(void **)&e->d_tokens, R * (int64_t)sizeof *e->d_tokens},
                 {(void **)&e->d_targets, R * (int64_t)sizeof *e->d_targets},
                 {(void **)&e->d_mask, R * (int64_t)sizeof *e->d_mask},
                 {(void **)&e->d_cu_seqlens, (n_seq + 1) * (int64_t)sizeof *e->d_cu_seqlens}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (base) *parts[i].pointer = base + at;
        at += (parts[i].n_bytes + RW_ARENA_ALIGN - 1) / RW_ARENA_ALIGN * RW_ARENA_ALIGN;
    }
    return at;
}

int64_t rw_engine_batch_bytes(const rw_plan *plan) {
    return cut_batch(&(rw_engine){0}, plan, NULL);
}

static rw_status open_buffers(rw_engine *e, const rw_plan *plan, rw_error *err) {
    int64_t n_bytes = rw_engine_batch_bytes(plan);
    char *base = e->device->alloc(e->device, n_bytes);
    if (!base) return rw_fail_memory(err, (size_t)n_bytes);
    cut_batch(e, plan, base);
    e->before = e->device->exec;
    e->device->exec.scalars = e->d_scalars;
    e->device->exec.own = e->d_own;
    RW_TRY(rw_step_arena_init(&e->arena, e->device, plan->needs.arena_bytes, err));
    RW_TRY(rw_tape_new(&e->tape, e->device, &e->arena, err));
    rw_tape_at_most(e->tape, max_rows(plan), plan->train.micro_bsz);
    return RW_OK;
}

static void set_groups(void *ctx, rw_layout *l) {
    rw_optim_groups(l, ctx);
}

rw_status rw_engine_open(rw_engine *e, const rw_plan *plan, rw_device *device, bool train, rw_error *err) {
    *e = (rw_engine){.plan = plan, .device = device, .train = train};
    rw_plan_train groups = plan->train;
    rw_model_options options = {.train = train, .groups = set_groups, .ctx = &groups};
    rw_status status = rw_model_new(&e->model, &plan->model, device, &options, err);
    if (status == RW_OK) status = open_buffers(e, plan, err);
    if (status != RW_OK) rw_engine_close(e);
    return status;
}

void rw_engine_close(rw_engine *e) {
    rw_tape_free(e->tape);
    rw_step_arena_done(&e->arena);
    if (e->d_scalars) {
        e->device->exec.scalars = e->before.scalars;
        e->device->exec.own = e->before.own;
        e->device->free(e->device, e->d_scalars, rw_engine_batch_bytes(e->plan));
    }
    rw_model_free(e->model);
    *e = (rw_engine){0};
}

/* -- a step -------------------------------------------------------------------------------------------------- */

static void upload_scalars(rw_engine *e) {
    e->device->upload(e->device, e->d_scalars, &e->scalars, sizeof e->scalars);
}

/* The factor of one batch: a share of the whole step, or with loss_norm "micro" the mean of the batches' means. */
static void set_normaliser(rw_engine *e, double step_sum, const rw_batch *b) {
    const rw_plan_train *p = &e->plan->train;
    double sum = step_sum;
    if (b && p->loss_norm == RW_LOSS_NORM_MICRO) sum = b->mask_sum * (double)p->accumulate;
    e->scalars.normaliser = sum > 0 ? 1 / sum : 0;
    e->scalars.l2wrap_mask = p->l2wrap == RW_L2WRAP_V7 ? L2WRAP * e->scalars.normaliser : 0;
    e->scalars.l2wrap_rows = p->l2wrap == RW_L2WRAP_V5 ? L2WRAP / (double)max_rows(e->plan) : 0;
}

void rw_engine_begin_step(rw_engine *e, int64_t step, double lr, double weight_decay, double mask_sum) {
    e->scalars = (rw_step_scalars){.step = step + 1, .lr = lr, .weight_decay = weight_decay};
    e->scalars.seed = e->plan->train.random_seed;
    set_normaliser(e, mask_sum, NULL);
    upload_scalars(e);
    e->n_run = 0;
    if (e->train) rw_params_begin_step(e->model->params);
}

static rw_rows upload_batch(rw_engine *e, const rw_batch *b) {
    rw_device *d = e->device;
    d->upload(d, e->d_tokens, b->tokens, b->n_rows * (int64_t)sizeof *b->tokens);
    d->upload(d, e->d_targets, b->targets, b->n_rows * (int64_t)sizeof *b->targets);
    d->upload(d, e->d_mask, b->mask, b->n_rows * (int64_t)sizeof *b->mask);
    d->upload(d, e->d_cu_seqlens, b->cu_seqlens, (b->n_seq + 1) * (int64_t)sizeof *b->cu_seqlens);
    return (rw_rows){b->n_rows, b->n_seq, e->d_cu_seqlens};
}

/* sum(mask * loss of each row) -> *out. Without a loss the tape holds the error. */
static rw_status sum_loss(rw_engine *e, const rw_tensor *loss, double *out, bool add, rw_error *err) {
    if (!loss) return RW_OK;
    rw_sum_args a = {.dtype = loss->dtype, .n = loss->shape[0], .x = loss->data, .weight = e->d_mask, .out = out};
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

static rw_tensor *forward(rw_engine *e, rw_rows rows) {
    const rw_plan_train *p = &e->plan->train;
    rw_tensor *hidden = rw_model_forward(e->model, e->tape, rows, e->d_tokens, NULL, NULL, p->grad_cp);
    return hidden ? rw_head_loss(e->tape, hidden, e->model->head, e->d_targets, e->d_mask, p->head_chunk) : NULL;
}

static rw_status finish(rw_engine *e, rw_status status, const double *d_loss, double *loss_sum, rw_error *err) {
    if (status == RW_OK) status = rw_tape_error(e->tape, err);
    rw_tape_reset(e->tape);
    RW_TRY(status);
    RW_TRY(e->device->synchronize(e->device, err));
    if (loss_sum) e->device->download(e->device, loss_sum, d_loss, sizeof *loss_sum);
    return RW_OK;
}

rw_status rw_engine_micro_step(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err) {
    if (e->plan->train.loss_norm == RW_LOSS_NORM_MICRO) {
        set_normaliser(e, 0, b);
        upload_scalars(e);
    }
    rw_rows rows = upload_batch(e, b);
    rw_tape_reset(e->tape);
    rw_tape_record(e->tape, true);
    rw_status status = sum_loss(e, forward(e, rows), &e->d_own->loss, e->n_run++ > 0, err);
    if (status == RW_OK) rw_tape_backward(e->tape, NULL);
    return finish(e, status, &e->d_own->loss, loss_sum, err);
}

rw_status rw_engine_evaluate(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err) {
    rw_rows rows = upload_batch(e, b);
    rw_tape_reset(e->tape);
    rw_tape_record(e->tape, false);
    rw_status status = sum_loss(e, forward(e, rows), &e->d_own->eval_loss, false, err);
    return finish(e, status, &e->d_own->eval_loss, loss_sum, err);
}

rw_status rw_engine_update(rw_engine *e, rw_error *err) {
    return rw_optim_update(&e->plan->train, e->model->params, &e->arena, err);
}

rw_status rw_engine_collect(rw_engine *e, rw_device_scalars *report, rw_error *err) {
    RW_TRY(e->device->synchronize(e->device, err));
    e->device->download(e->device, report, e->d_own, sizeof *report);
    return RW_OK;
}

void rw_engine_set_counts(rw_engine *e, const rw_device_scalars *counts) {
    e->device->upload(e->device, e->d_own, counts, sizeof *counts);
}
