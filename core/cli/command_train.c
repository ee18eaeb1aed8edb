/* rwkv-run RECIPE: recipe -> scripts -> saved run -> plan -> training. */
#include "core/cli/commands.h"
#include "core/cli/progress.h"
#include "core/data/loader.h"
#include "core/plan/make_plan.h"
#include "core/train/trainer.h"
#include "lua/hooks.h"

#include <stdio.h>

static rw_status print_plan(const rw_plan *plan, FILE *to, rw_error *err) {
    rw_str text = {0};
    rw_plan_print(plan, &text);
    rw_status status = text.failed ? rw_fail_memory(err, text.len) : RW_OK;
    if (status == RW_OK) fputs(text.data, to);
    rw_str_done(&text);
    return status;
}

static bool show_scan(void *ctx, int64_t done, int64_t total) {
    rw_progress_show(ctx, done, total);
    return true;
}

/* Before anything is written: an id that the model has not would end the run at the step that meets it. */
static rw_status check_ids(const rw_plan_data *d, rw_error *err) {
    const char *const files[] = {d->data_file, d->valid_file};
    rw_status status = RW_OK;
    for (int i = 0; i < 2 && status == RW_OK; i++) {
        rw_progress_line line = rw_progress_begin();
        if (files[i]) status = rw_data_check_ids(d, files[i], show_scan, &line, err);
        rw_progress_end(&line);
    }
    return status;
}

/* In the order in which they come; the later ones borrow strings of the earlier. */
typedef struct {
    rw_recipe recipe;
    rw_plan_lua scripts;
    rw_lua *lua;
    rw_hooks hooks;
    rw_saved_run saved;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
} job;

/* Scripts before the plan: a mistake in them is the cheapest to find, and they may decide what there is to plan. The
 * saved run too: the plan takes over what it chose. */
static rw_status run(job *j, const rw_options *o, rw_error *err) {
    RW_TRY(rw_recipe_load(&j->recipe, &o->train.recipe, err));
    j->scripts = rw_recipe_lua(&j->recipe);
    RW_TRY(rw_lua_hooks_open(&j->lua, &j->scripts, &j->hooks, err));
    RW_TRY(rw_saved_run_find(&j->saved, o->train.resume, j->recipe.values[RW_KEY_save_proj_dir].s, err));
    RW_TRY(rw_plan_make(&j->plan, &j->recipe, &j->saved, &j->arena, &j->device, err));
    RW_TRY(print_plan(j->plan, o->train.dry_run ? stdout : stderr, err));
    rw_train_warn(j->plan, &j->hooks);
    if (o->train.dry_run) return RW_OK;
    RW_TRY(check_ids(&j->plan->data, err));
    return rw_train(j->plan, &j->recipe, j->device, &j->hooks, j->saved.path, err);
}

static void close_job(job *j) {
    rw_device_close(j->device);
    rw_arena_done(&j->arena);
    rw_saved_run_done(&j->saved);
    rw_lua_hooks_close(j->lua);
    rw_recipe_done(&j->recipe);
}

/* Errors borrow strings of the job, so the error is printed before it goes. */
rw_status rw_command_train(const rw_options *o, rw_error *err) {
    job j = {0};
    rw_status status = run(&j, o, err);
    if (status != RW_OK) {
        rw_print_error(err);
        rw_error_clear(err);
    }
    close_job(&j);
    return status;
}
