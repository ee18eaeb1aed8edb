/* The training loop: see trainer.h. One function for each thing that happens in a step, in the order in which it does.
 */
#include "core/train/trainer.h"

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/checkpoint/weights.h"
#include "core/engine/engine.h"
#include "core/train/output.h"
#include "core/train/signals.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const rw_plan *plan;
    const rw_recipe *recipe;
    const rw_hooks *hooks;
    const rw_start *start;
    rw_engine engine;
    rw_loader *data, *valid;
    rw_output output;
    rw_hook_trainer trainer; /* what hooks see                               */
    rw_metrics metrics;
    rw_progress progress;
    const rw_batch **batches; /* owned: the micro batches of a step           */
    int64_t began_ns;         /* of the first step of this process            */
    double elapsed_before;    /* seconds of earlier processes                 */
    double rate;              /* tokens per second, smoothed                  */
    int64_t valid_step;       /* step after which was validated last; -1      */
    rw_str memory, next;      /* owned: what the hooks remember; being asked  */
    char line[512];
} trainer;

static bool last_of_epoch(const trainer *t, int64_t step) {
    return (step + 1) % t->plan->train.epoch_steps == 0;
}
static double seconds_since(int64_t ns) {
    return (double)(rw_now_ns() - ns) * 1e-9;
}

/* -- hooks ----------------------------------------------------------------------------------------------------- */

static void settings_of(const rw_plan *plan, rw_hook_trainer *h) {
    const rw_plan_train *p = &plan->train;
    *h = (rw_hook_trainer){.n_steps = p->n_steps,
                           .epoch_steps = p->epoch_steps,
                           .epoch_count = p->epoch_count,
                           .epoch_begin = p->epoch_begin,
                           .epoch_save = plan->save.epoch_save,
                           .ctx_len = p->ctx_len,
                           .micro_bsz = p->micro_bsz,
                           .accumulate = p->accumulate,
                           .real_bsz = p->micro_bsz * p->accumulate,
                           .lr_init = p->lr_init,
                           .lr_final = p->lr_final,
                           .weight_decay = p->weight_decay,
                           .weight_decay_final = p->weight_decay_final,
                           .warmup_steps = p->warmup_steps,
                           .schedule = rw_choice_word(RW_KEY_train_schedule, p->schedule),
                           .save_every = plan->save.every,
                           .log_every = plan->log.every,
                           .proj_dir = plan->save.proj_dir,
                           .name = plan->name,
                           .arch = plan->model.arch};
}

/* Asked of the default schedule, which has no memory; a script may count its calls. */
void rw_train_warn(const rw_plan *plan, const rw_hooks *hooks) {
    const rw_plan_train *p = &plan->train;
    rw_hook_trainer last;
    rw_error ignored = {0};
    double lr = 0;
    bool given = false;
    if (p->warmup_steps < p->n_steps) return;
    settings_of(plan, &last);
    last.step = p->n_steps - 1;
    last.epoch = last.step / p->epoch_steps;
    if (hooks && plan->lua.n_files == 0) hooks->number(hooks->ctx, RW_HOOK_lr, &last, &lr, &given, &ignored);
    rw_error_clear(&ignored);
    if (given)
        rw_warn("train.warmup_steps is %lld, but the run has %lld steps: the learning rate rises to %g and never to "
                "lr_init, which is %g",
                (long long)p->warmup_steps, (long long)p->n_steps, lr, p->lr_init);
    else
        rw_warn("train.warmup_steps is %lld, but the run has %lld steps: the warm-up does not end",
                (long long)p->warmup_steps, (long long)p->n_steps);
}

static void refresh(trainer *t, int64_t step) {
    t->trainer.step = step;
    t->trainer.epoch = step / t->plan->train.epoch_steps;
    t->trainer.tokens = t->progress.tokens;
    t->trainer.elapsed = t->began_ns ? seconds_since(t->began_ns) : 0;
}

static rw_status ask_number(trainer *t, rw_hook_id id, double otherwise, double *value, rw_error *err) {
    bool given = false;
    *value = otherwise;
    if (t->hooks) RW_TRY(t->hooks->number(t->hooks->ctx, id, &t->trainer, value, &given, err));
    if (!given) *value = otherwise;
    return RW_OK;
}

static rw_status fire(trainer *t, rw_hook_id id, const rw_metrics *m, rw_error *err) {
    return t->hooks ? t->hooks->event(t->hooks->ctx, id, &t->trainer, m, err) : RW_OK;
}

static const char *ask_line(trainer *t, rw_status *status, rw_error *err) {
    bool given = false;
    *status = RW_OK;
    if (t->hooks)
        *status =
            t->hooks->text(t->hooks->ctx, RW_HOOK_log, &t->trainer, &t->metrics, t->line, sizeof t->line, &given, err);
    if (!given)
        snprintf(t->line, sizeof t->line, rw_message("step %lld  loss %.4f"), (long long)t->metrics.step,
                 t->metrics.loss);
    return t->line;
}

/* After each step, because a save may come when no script can be asked: it failed, or does not return. */
static rw_status remember(trainer *t, rw_error *err) {
    if (!t->hooks || !t->hooks->save_memory) return RW_OK;
    rw_str_clear(&t->next);
    RW_TRY(t->hooks->save_memory(t->hooks->ctx, &t->trainer, &t->next, err));
    if (t->next.failed) return rw_fail_memory(err, t->next.len);
    rw_str swap = t->memory;
    t->memory = t->next;
    t->next = swap;
    t->progress.memory = t->memory.len > 0 ? t->memory.data : NULL;
    return RW_OK;
}

static rw_status recall(trainer *t, const char *resume, rw_error *err) {
    if (!t->hooks || !t->hooks->load_memory) return RW_OK;
    RW_TRY(rw_training_state_text(resume, "hooks", &t->memory, err));
    if (t->memory.len == 0) return RW_OK;
    t->progress.memory = t->memory.data;
    return t->hooks->load_memory(t->hooks->ctx, &t->trainer, t->memory.data, t->memory.len, err);
}

/* -- a step ------------------------------------------------------------------------------------------------------- */

static rw_status fetch_batches(trainer *t, double *mask_sum, rw_error *err) {
    *mask_sum = 0;
    for (int64_t i = 0; i < t->plan->train.accumulate; i++) {
        RW_TRY(rw_loader_next(t->data, &t->batches[i], err));
        *mask_sum += t->batches[i]->mask_sum;
    }
    return RW_OK;
}

static rw_status compute(trainer *t, int64_t step, double mask_sum, rw_device_scalars *report, rw_error *err) {
    rw_engine_begin_step(&t->engine, step, t->metrics.lr, t->metrics.weight_decay, mask_sum);
    for (int64_t i = 0; i < t->plan->train.accumulate; i++) {
        RW_TRY(rw_engine_stage(&t->engine, t->batches[i], err));
        RW_TRY(rw_engine_run(&t->engine, err));
    }
    RW_TRY(rw_engine_update(&t->engine, err));
    return rw_engine_collect(&t->engine, true, report, err); /* now: hooks and log lines take its numbers */
}

/* The loss of a step that changed nothing is no part of the mean of its epoch. */
static void count_loss(trainer *t, double loss) {
    rw_progress *p = &t->progress;
    if (p->skipped_in_row > 0 && p->loss_scale > 1 && isfinite(loss)) {
        rw_info("step %lld: the gradient does not fit fp16, so this step changed nothing; the loss scale is now %g",
                (long long)p->step, p->loss_scale);
        return;
    }
    if (p->skipped_in_row > 0) {
        rw_warn("step %lld: loss %g, gradient norm %g: not finite, so this step changed nothing (%lld in a row)",
                (long long)p->step, loss, t->metrics.grad_norm, (long long)p->skipped_in_row);
        return;
    }
    p->epoch_loss += loss;
    p->epoch_loss_n++;
}

/* The sign of a NaN means nothing, and people wonder about "-nan". */
static double without_sign(double x) {
    return isnan(x) ? NAN : x;
}

static void count_step(trainer *t, const rw_device_scalars *report, double mask_sum) {
    rw_progress *p = &t->progress;
    p->cursor = t->batches[t->plan->train.accumulate - 1]->next;
    p->step = report->step;
    p->tokens += t->plan->needs.tokens_per_step;
    p->updates = report->updates;
    p->skipped = t->metrics.skipped = report->skipped;
    p->skipped_in_row = report->skipped_in_row;
    p->loss_scale = report->loss_scale;
    p->good_steps = report->good_steps;
    t->metrics.loss = mask_sum > 0 ? without_sign(report->loss / mask_sum) : 0;
    t->metrics.grad_norm = without_sign(report->grad_norm);
    t->metrics.clip_coef = report->clip_coef;
    count_loss(t, t->metrics.loss);
}

static rw_status run_step(trainer *t, int64_t step, rw_error *err) {
    double mask_sum;
    rw_device_scalars report;
    RW_TRY(ask_number(t, RW_HOOK_lr, t->plan->train.lr_init, &t->metrics.lr, err));
    RW_TRY(ask_number(t, RW_HOOK_weight_decay, t->plan->train.weight_decay, &t->metrics.weight_decay, err));
    RW_TRY(fetch_batches(t, &mask_sum, err));
    RW_TRY(compute(t, step, mask_sum, &report, err));
    count_step(t, &report, mask_sum);
    return RW_OK;
}

static void measure(trainer *t, int64_t step, double seconds) {
    double rate = seconds > 0 ? (double)t->plan->needs.tokens_per_step / seconds : 0;
    t->rate = t->rate > 0 ? 0.95 * t->rate + 0.05 * rate : rate;
    rw_metrics *m = &t->metrics;
    m->step = step + 1;
    m->epoch = step / t->plan->train.epoch_steps;
    m->tokens = t->progress.tokens;
    m->loss_epoch = t->progress.epoch_loss / (double)t->progress.epoch_loss_n;
    m->tokens_per_second = t->rate;
    m->elapsed = t->elapsed_before + seconds_since(t->began_ns);
    double left = (double)(t->plan->train.n_steps - step - 1) * (double)t->plan->needs.tokens_per_step / t->rate;
    double limit = t->plan->train.max_seconds > 0 ? t->plan->train.max_seconds - seconds_since(t->began_ns) : INFINITY;
    m->seconds_left = left < limit ? left : limit > 0 ? limit : 0;
    t->progress.elapsed = m->elapsed;
}

/* -- validation ------------------------------------------------------------------------------------------------------
 */

static rw_status validate(trainer *t, rw_error *err) {
    if (!t->valid || t->valid_step == t->progress.step) return RW_OK;
    int64_t n = rw_loader_n_eval_batches(t->valid), limit = t->plan->train.eval_batches;
    if (limit > 0 && limit < n) n = limit;
    double sum = 0, weight = 0, each;
    for (int64_t i = 0; i < n; i++) {
        const rw_batch *b;
        RW_TRY(rw_loader_eval_batch(t->valid, i, &b, err));
        RW_TRY(rw_engine_evaluate(&t->engine, b, &each, err));
        sum += each;
        weight += b->mask_sum;
        if (rw_signals_received() && i + 1 < n) return RW_OK; /* part of the data is no validation */
    }
    t->metrics.val_loss = weight > 0 ? sum / weight : NAN;
    t->valid_step = t->progress.step;
    RW_TRY(rw_output_report(&t->output, RW_EVENT_VALID, &t->metrics, NULL, err));
    return fire(t, RW_HOOK_on_validation_end, &t->metrics, err);
}

static rw_status save(trainer *t, rw_error *err) {
    return rw_output_save(&t->output, t->engine.model->params, &t->progress, &t->metrics, err);
}

static rw_status save_if_finite(trainer *t, rw_error *err) {
    bool finite = false;
    RW_TRY(rw_weights_finite(t->engine.model->params, &finite, err));
    if (!finite) return rw_fail(err, RW_E_NUMERIC, RW_AT_NONE, "the weights are not finite");
    return save(t, err);
}

/* What scripts asked for with trainer:save(name). */
static rw_status save_named(trainer *t, rw_error *err) {
    rw_hook_trainer *h = &t->trainer;
    for (int i = 0; i < h->n_save_names; i++)
        RW_TRY(rw_output_save_named(&t->output, t->engine.model->params, h->save_names[i], &t->metrics, err));
    h->n_save_names = 0;
    return RW_OK;
}

/* A script does not return: called from the thread that ends the process. Nothing moves meanwhile, because the loop
 * waits for the script; so what the last whole step left is saved. */
static bool rescue(void *ctx) {
    trainer *t = ctx;
    rw_error error = {0};
    bool saved = t->progress.step == 0 || save_if_finite(t, &error) == RW_OK;
    if (!saved) rw_warn("could not save: %s", error.msg);
    rw_error_clear(&error);
    return saved;
}

static void set_rescue(trainer *t, bool (*f)(void *)) {
    if (t->hooks && t->hooks->set_rescue) t->hooks->set_rescue(t->hooks->ctx, f, t);
}

/* -- between the steps
 * ------------------------------------------------------------------------------------------------------ */

static bool validation_is_due(const trainer *t, int64_t step) {
    int64_t every = t->plan->train.eval_every;
    return last_of_epoch(t, step) || (every > 0 && (step + 1) % every == 0);
}

static rw_status end_epoch(trainer *t, rw_error *err) {
    RW_TRY(rw_output_report(&t->output, RW_EVENT_EPOCH, &t->metrics, NULL, err));
    t->progress.epoch_loss = 0;
    t->progress.epoch_loss_n = 0;
    return RW_OK;
}

static rw_status after_step(trainer *t, int64_t step, rw_error *err) {
    rw_status status;
    const char *line = ask_line(t, &status, err);
    RW_TRY(status);
    RW_TRY(rw_output_report(&t->output, RW_EVENT_STEP, &t->metrics, line, err));
    if (validation_is_due(t, step)) RW_TRY(validate(t, err)); /* the hooks of this step know its result */
    RW_TRY(fire(t, RW_HOOK_on_train_batch_end, &t->metrics, err));
    if (last_of_epoch(t, step)) RW_TRY(end_epoch(t, err));
    bool want = false, given = false;
    if (t->hooks)
        RW_TRY(t->hooks->boolean(t->hooks->ctx, RW_HOOK_should_save, &t->trainer, &t->metrics, &want, &given, err));
    RW_TRY(remember(t, err));
    if ((given && want) || t->trainer.ask_save) RW_TRY(save(t, err));
    t->trainer.ask_save = false;
    return save_named(t, err);
}

/* How the run ended: in the user's language for people, in English for the files. */
static rw_status say_end(trainer *t, rw_error *err, const char *fmt, ...) RW_PRINTF(3, 4);
static rw_status say_end(trainer *t, rw_error *err, const char *fmt, ...) {
    const char *formats[] = {rw_message(fmt), fmt};
    char text[2][400];
    for (int i = 0; i < 2; i++) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text[i], sizeof text[i], formats[i], ap);
        va_end(ap);
    }
    rw_status status = rw_output_report(&t->output, RW_EVENT_END, &t->metrics, text[1], err);
    rw_info("%s", text[0]); /* after the bar has ended */
    return status;
}

static bool time_is_up(const trainer *t) {
    return t->plan->train.max_seconds > 0 && seconds_since(t->began_ns) >= t->plan->train.max_seconds;
}

/* Nothing moves any more. What was learned before is saved; what to change is the user's to say. */
static rw_status give_up(trainer *t, rw_error *err) {
    RW_TRY(save(t, err));
    RW_TRY(say_end(t, err, "stopped: loss or gradient not finite"));
    return rw_fail(err, RW_E_NUMERIC, RW_AT_NONE,
                   "step %lld: loss %g, gradient norm %g: not finite for %lld steps in a row; train.skip_nonfinite "
                   "allows %lld. Check the data, or continue with a lower learning rate: through an 'lr' hook, or in a "
                   "new run from the last .pth. The weights from before these steps are saved in %s",
                   (long long)t->progress.step, t->metrics.loss, t->metrics.grad_norm,
                   (long long)t->progress.skipped_in_row, (long long)t->plan->train.skip_nonfinite,
                   t->plan->save.proj_dir);
}

static rw_status run_steps(trainer *t, rw_error *err) {
    t->began_ns = rw_now_ns();
    for (int64_t step = t->progress.step; step < t->plan->train.n_steps && !rw_signals_received(); step++) {
        refresh(t, step);
        int64_t ns = rw_now_ns();
        RW_TRY(run_step(t, step, err));
        measure(t, step, seconds_since(ns));
        refresh(t, step);
        RW_TRY(after_step(t, step, err));
        if (t->progress.skipped_in_row > t->plan->train.skip_nonfinite) return give_up(t, err);
        if (t->trainer.ask_stop || time_is_up(t)) break;
    }
    return RW_OK;
}

/* -- beginning and end
 * ---------------------------------------------------------------------------------------------------------- */

/* Other data than before: the refusal says how to go on with it. */
static rw_status open_training_data(trainer *t, rw_data_info *info, rw_error *err) {
    const rw_plan_data *d = &t->plan->data;
    const char *state = t->start->state;
    if (t->start->other_numbers) t->progress.cursor.n_tokens = 0;
    rw_status status = rw_loader_open(&t->data, d, d->data_file, state ? &t->progress.cursor : NULL, info, err);
    if (status != RW_E_DATA || !state || !t->start->same) return status;
    rw_str way = {0};
    rw_start_way(&way, rw_message("to go on with the data as they are:"), t->start->same, " --resume ", state);
    rw_error_set_detail(err, way.data ? way.data : "");
    rw_str_done(&way);
    return status;
}

static rw_status open_data(trainer *t, rw_error *err) {
    rw_data_info info;
    const rw_plan_data *d = &t->plan->data;
    RW_TRY(open_training_data(t, &info, err));
    char a[32], b[32];
    rw_info("data: %s tokens in %s documents", rw_format_count(a, sizeof a, info.n_tokens),
            rw_format_count(b, sizeof b, info.n_documents));
    return d->valid_file ? rw_loader_open(&t->valid, d, d->valid_file, NULL, &info, err) : RW_OK;
}

static bool file_has(const void *ctx, const char *name) {
    return rw_tensor_file_find(ctx, name) != NULL;
}

static rw_status load_model(trainer *t, rw_error *err) {
    const rw_plan_model *m = &t->plan->model;
    rw_params *p = t->engine.model->params;
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, m->load_model, err));
    rw_status status = rw_model_init_lacking(t->engine.model, t->plan->train.random_seed, file_has, f, err);
    if (status == RW_OK)
        status = m->load_partial ? rw_weights_load_partial(p, f, m->load_model, err)
                                 : rw_weights_load(p, RW_PARAM_VALUE, f, m->load_model, "", err);
    rw_tensor_file_close(f);
    if (status == RW_OK && !m->allow_nonfinite) status = rw_weights_check_finite(p, m->load_model, err);
    if (status == RW_OK && m->load_state) {
        status = rw_weights_load_states(p, m->load_state, err);
        if (status == RW_OK && !m->allow_nonfinite) status = rw_weights_check_finite(p, m->load_state, err);
    }
    return status;
}

static rw_status fill_model(trainer *t, rw_error *err) {
    if (t->plan->model.load_model) return load_model(t, err);
    RW_TRY(rw_model_init(t->engine.model, t->plan->train.random_seed, err));
    return rw_output_save_init(&t->output, t->engine.model->params, &t->metrics, err);
}

/* What does not learn is not in the saved state. */
static rw_status load_saved(trainer *t, const char *resume, rw_error *err) {
    if (t->plan->train.train_type != RW_TRAIN_ALL) RW_TRY(load_model(t, err));
    rw_params *p = t->engine.model->params;
    rw_progress progress;
    RW_TRY(rw_training_state_load(resume, p, &progress, err));
    if (!t->plan->model.allow_nonfinite) RW_TRY(rw_weights_check_finite(p, resume, err));
    t->progress = progress; /* only now: what is half loaded is no work to save */
    t->output.saved_step = progress.step;
    return RW_OK;
}

/* What the saved run's device chose is chosen again, or what differs is said: then the bits may. */
static rw_status recall_choices(trainer *t, const char *resume, rw_error *err) {
    rw_device *d = t->engine.device;
    rw_str list = {0};
    rw_error why = {0};
    rw_status status = d->choices ? rw_training_state_text(resume, "device_choices", &list, err) : RW_OK;
    if (status == RW_OK && list.len > 0 && d->choices->preset(d, list.data, &why) != RW_OK) {
        rw_error_settle(&why);
        rw_warn("%s", why.msg);
    }
    rw_error_clear(&why);
    rw_str_done(&list);
    return status;
}

/* The device counts on from where the saved run stood. */
static void set_counts(trainer *t) {
    const rw_progress *p = &t->progress;
    rw_device_scalars s = {.step = p->step, .updates = p->updates, .skipped = p->skipped};
    s.skipped_in_row = p->skipped_in_row;
    s.loss_scale = p->loss_scale;
    s.good_steps = p->good_steps;
    if (t->plan->train.compute == RW_F16 && s.loss_scale == 0) s.loss_scale = RW_LOSS_SCALE_FIRST;
    if (t->plan->train.compute != RW_F16) s.loss_scale = 0; /* going on in another precision */
    rw_engine_set_counts(&t->engine, &s);
    t->metrics.skipped = p->skipped;
}

/* Before the first step of this process: what was reached before. */
static void set_metrics(trainer *t) {
    const rw_progress *p = &t->progress;
    t->metrics.step = p->step;
    t->metrics.epoch = (p->step > 0 ? p->step - 1 : 0) / t->plan->train.epoch_steps;
    t->metrics.tokens = p->tokens;
    t->metrics.elapsed = p->elapsed;
}

static rw_status begin(trainer *t, rw_device *device, rw_error *err) {
    const char *resume = t->start->state;
    RW_TRY(rw_output_open(&t->output, t->plan, t->recipe, t->start, err));
    t->batches = rw_alloc_array((size_t)t->plan->train.accumulate, sizeof *t->batches);
    if (!t->batches) return rw_fail_memory(err, sizeof *t->batches);
    RW_TRY(rw_engine_open(&t->engine, t->plan, device, true, err));
    if (resume) RW_TRY(load_saved(t, resume, err));
    if (resume) RW_TRY(recall_choices(t, resume, err));
    RW_TRY(open_data(t, err)); /* mistakes in the data show before long work */
    if (!resume) RW_TRY(fill_model(t, err));
    if (t->progress.step % t->plan->train.epoch_steps == 0) { /* saved between a step and the end of its epoch */
        t->progress.epoch_loss = 0;
        t->progress.epoch_loss_n = 0;
    }
    set_counts(t);
    t->elapsed_before = t->progress.elapsed;
    t->trainer.step_begin = t->progress.step;
    set_metrics(t);
    refresh(t, t->progress.step);
    rw_signals_begin();
    RW_TRY(rw_output_report(&t->output, resume ? RW_EVENT_RESUME : RW_EVENT_RUN, &t->metrics,
                            resume ? resume : t->plan->name, err));
    set_rescue(t, rescue);
    if (resume) RW_TRY(recall(t, resume, err));
    return fire(t, RW_HOOK_on_train_start, NULL, err);
}

/* Training went on without them, and the state holds the weights; but the files that were asked for are not there. */
static rw_status end_unsaved(const trainer *t, rw_error *err) {
    if (t->output.n_unsaved == 0) return RW_OK;
    return rw_fail(
        err, RW_E_NUMERIC, RW_AT_NONE,
        "%lld of the .pth files could not be written; the weights are in the training state in %s, and the same "
        "command with save.dtype=fp32 writes rwkv-final.pth from it",
        (long long)t->output.n_unsaved, t->plan->save.proj_dir);
}

static rw_status say_how_it_ended(trainer *t, int64_t done, int64_t all, rw_error *err) {
    if (t->trainer.ask_stop)
        return say_end(t, err, "stopped by a hook after step %lld: %s", (long long)done, t->trainer.stop_reason);
    if (done < all)
        return say_end(t, err, "stopped after %g seconds (train.max_seconds) at step %lld of %lld",
                       t->plan->train.max_seconds, (long long)done, (long long)all);
    return say_end(t, err, "done: %lld steps", (long long)done);
}

static rw_status end_by_signal(trainer *t, rw_error *err) {
    int64_t done = t->progress.step, all = t->plan->train.n_steps;
    if (done > 0) RW_TRY(save(t, err));
    RW_TRY(say_end(t, err, "stopped by a signal"));
    if (done == 0) return rw_fail(err, RW_E_STOPPED, RW_AT_NONE, "stopped before the first step; nothing to save");
    return rw_fail(err, RW_E_STOPPED, RW_AT_NONE,
                   "stopped after step %lld of %lld and saved in %s; run the same command to resume", (long long)done,
                   (long long)all, t->plan->save.proj_dir);
}

static rw_status end(trainer *t, rw_error *err) {
    int64_t done = t->progress.step, all = t->plan->train.n_steps;
    if (rw_signals_received() && done < all) return end_by_signal(t, err);
    RW_TRY(validate(t, err));
    RW_TRY(fire(t, RW_HOOK_on_train_end, &t->metrics, err));
    RW_TRY(save_named(t, err));
    RW_TRY(rw_output_save_final(&t->output, t->engine.model->params, &t->progress, &t->metrics, err));
    RW_TRY(say_how_it_ended(t, done, all, err));
    RW_TRY(end_unsaved(t, err));
    return done < all || t->trainer.ask_stop ? RW_OK : rw_output_finish(&t->output, &t->progress, err);
}

static void close_all(trainer *t) {
    rw_loader_close(t->data);
    rw_loader_close(t->valid);
    rw_engine_close(&t->engine);
    rw_output_close(&t->output);
    rw_free(t->batches);
    rw_str_done(&t->memory);
    rw_str_done(&t->next);
}

/* -- a failure costs no work ----------------------------------------------------------------------------------- */

/* Steps that no save holds. */
static int64_t unsaved(const trainer *t) {
    int64_t saved = t->output.saved_step;
    return t->progress.step - (saved > 0 ? saved : 0);
}

static void say_lost(const trainer *t) {
    long long n = unsaved(t), saved = t->output.saved_step;
    if (saved > 0)
        rw_warn("%lld steps since the last save are lost; it is of step %lld, in %s", n, saved, t->plan->save.proj_dir);
    else
        rw_warn("%lld steps are lost; nothing was saved before", n);
}

/* Whatever failed, what was trained is saved before the error goes up; but a device that failed has nothing to read
 * weights from. */
static void save_after_failure(trainer *t, rw_status status) {
    rw_error why = {0};
    if (!t->engine.model || unsaved(t) <= 0) return;
    if (status != RW_E_DEVICE && save_if_finite(t, &why) != RW_OK) {
        rw_error_settle(&why);
        rw_warn("could not save: %s", why.msg);
    }
    rw_error_clear(&why);
    if (unsaved(t) > 0)
        say_lost(t);
    else
        rw_info("saved after step %lld of %lld in %s", (long long)t->progress.step, (long long)t->plan->train.n_steps,
                t->plan->save.proj_dir);
}

rw_status rw_train(const rw_plan *plan, const rw_recipe *recipe, rw_device *device, const rw_hooks *hooks,
                   const rw_start *start, rw_error *err) {
    static const rw_start alone = {.kind = RW_START_NEW};
    trainer *t = rw_alloc(sizeof *t);
    if (!t) return rw_fail_memory(err, sizeof *t);
    t->plan = plan;
    t->recipe = recipe;
    t->hooks = hooks;
    t->start = start ? start : &alone;
    t->valid_step = -1;
    t->metrics = (rw_metrics){.loss = NAN, .loss_epoch = NAN, .val_loss = NAN, .lr = NAN, .weight_decay = NAN};
    t->metrics.grad_norm = t->metrics.clip_coef = t->metrics.tokens_per_second = t->metrics.seconds_left = NAN;
    settings_of(plan, &t->trainer);
    rw_signals_catch(rw_message("stopped before the first step; nothing to save"), rw_status_exit_code(RW_E_STOPPED));
    rw_status status = begin(t, device, err);
    if (status == RW_OK) status = run_steps(t, err);
    if (status == RW_OK) status = end(t, err);
    set_rescue(t, NULL);
    if (status != RW_OK && status != RW_E_STOPPED) save_after_failure(t, status);
    if (status != RW_OK) rw_error_settle(err); /* data and logs are closed, and their names with them */
    rw_signals_release();
    close_all(t);
    rw_free(t);
    return status;
}
