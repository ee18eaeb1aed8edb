/* The folder of a run: see output.h. */
#include "core/train/output.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/checkpoint/retention.h"
#include "core/checkpoint/weights.h"
#include "core/hooks/hooks.h"

#include <stdio.h>

static rw_status claim_logs(rw_claim *c, const rw_plan *plan, rw_error *err) {
    if (plan->lua.n_files > 0) RW_TRY(rw_claim_folder(c, RW_SCRIPTS_FOLDER, err));
    RW_TRY(rw_claim_file(c, "plan.yaml", err));
    RW_TRY(rw_claim_file(c, "metrics.jsonl", err));
    return rw_claim_file(c, "train_log.txt", err);
}

static rw_status check_name(void *folder, const char *name, rw_error *err) {
    return rw_checkpoint_writes(name) ? rw_folder_check(folder, name, err) : RW_OK;
}

/* A folder, link or pipe where a file of the run belongs is found now, not hours later by the save that meets it. */
static rw_status check_names(const char *dir, rw_error *err) {
    rw_folder f;
    RW_TRY(rw_folder_open(&f, dir, err));
    rw_status status = rw_dir_list(dir, check_name, &f, err);
    rw_folder_close(&f);
    return status;
}

rw_status rw_output_open(rw_output *o, const rw_plan *plan, const rw_recipe *recipe, const rw_start *start,
                         rw_error *err) {
    const char *dir = plan->save.proj_dir;
    *o = (rw_output){.plan = plan, .recipe = recipe, .claim = start->claim, .saved_step = -1};
    if (start->claim) RW_TRY(rw_claim_take(start->claim, start->restart, start->adopt, err));
    RW_TRY(rw_mkdir_all(dir, err));
    RW_TRY(check_names(dir, err));
    RW_TRY(rw_checkpoint_clean(dir, err));
    RW_TRY(claim_logs(start->claim, plan, err));
    if (start->state && start->step >= 0) RW_TRY(rw_metrics_cut(dir, start->step, err));
    RW_TRY(rw_plan_write(plan, recipe, NULL, err));
    return rw_reporter_open(&o->reporter, plan, err);
}

void rw_output_close(rw_output *o) {
    rw_reporter_close(&o->reporter);
    *o = (rw_output){0};
}

rw_status rw_output_report(rw_output *o, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    return rw_report(&o->reporter, e, m, text, err);
}

/* -- saves ------------------------------------------------------------------------------------------------- */

static rw_status write_state(rw_output *o, rw_params *p, const rw_progress *progress, const char *device_choices,
                             rw_error *err) {
    char *path = rw_checkpoint_state_path(o->plan->save.proj_dir, progress->step);
    if (!path) return rw_fail_memory(err, 256);
    rw_status status = rw_claim_file(o->claim, rw_path_base(path), err);
    if (status == RW_OK) status = rw_training_state_save(path, p, progress, o->plan, device_choices, err);
    rw_free(path);
    if (status == RW_OK) o->saved_step = progress->step;
    return status;
}

/* plan.yaml was written before the device had met any shape: with the first state it gets what was chosen. */
static rw_status save_state(rw_output *o, rw_params *p, const rw_progress *progress, rw_error *err) {
    const rw_device_choices *choices = p->device->choices;
    if (o->saved_step == progress->step) return RW_OK;
    char *list = choices ? choices->list(p->device) : NULL;
    if (choices && !list) return rw_fail_memory(err, 256);
    rw_status status = write_state(o, p, progress, list, err);
    if (status == RW_OK && list && !o->planned) {
        status = rw_plan_write(o->plan, o->recipe, list, err);
        o->planned = status == RW_OK;
    }
    rw_free(list);
    return status;
}

static rw_status save_pth(rw_output *o, rw_params *p, const char *name, const rw_metrics *m, rw_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->plan->save.proj_dir, name);
    RW_TRY(rw_claim_file(o->claim, name, err));
    rw_error why = {0};
    rw_status status = rw_weights_save_pth(p, path, o->plan->save.dtype, &why);
    if (status == RW_E_NUMERIC) {
        rw_warn("%s is not written: %s", path, why.msg);
        o->n_unsaved++;
        return RW_OK;
    }
    if (status != RW_OK) {
        *err = why;
        return status;
    }
    return rw_output_report(o, RW_EVENT_SAVE, m, path, err);
}

rw_status rw_output_save_init(rw_output *o, rw_params *p, const rw_metrics *m, rw_error *err) {
    return save_pth(o, p, "rwkv-init.pth", m, err);
}

/* The epoch of the last step done, counted from epoch_begin. */
static int64_t epoch_number(const rw_plan_train *t, int64_t step) {
    return t->epoch_begin + (step > 0 ? step - 1 : 0) / t->epoch_steps;
}

static rw_status keep(rw_output *o, int64_t pth, const rw_progress *progress, rw_error *err) {
    const rw_plan_save *save = &o->plan->save;
    return rw_checkpoint_keep(save->proj_dir, save->keep, pth, progress->step, rw_claim_wrote, o->claim, err);
}

/* The state first: it alone is enough to go on. */
rw_status rw_output_save(rw_output *o, rw_params *p, const rw_progress *progress, const rw_metrics *m, rw_error *err) {
    if (o->saved_step == progress->step) return RW_OK;
    int64_t number = epoch_number(&o->plan->train, progress->step);
    char name[64];
    snprintf(name, sizeof name, "rwkv-%lld.pth", (long long)number);
    RW_TRY(save_state(o, p, progress, err));
    RW_TRY(save_pth(o, p, name, m, err));
    return keep(o, number, progress, err);
}

rw_status rw_output_save_named(rw_output *o, rw_params *p, const char *name, const rw_metrics *m, rw_error *err) {
    char file[64 + RW_HOOK_SAVE_NAME];
    snprintf(file, sizeof file, "save-%s.pth", name);
    return save_pth(o, p, file, m, err);
}

rw_status rw_output_save_final(rw_output *o, rw_params *p, const rw_progress *progress, const rw_metrics *m,
                               rw_error *err) {
    RW_TRY(save_state(o, p, progress, err));
    RW_TRY(save_pth(o, p, "rwkv-final.pth", m, err));
    return keep(o, -1, progress, err);
}

rw_status rw_output_finish(rw_output *o, const rw_progress *progress, rw_error *err) {
    return rw_claim_finish(o->claim, progress->step, err);
}
