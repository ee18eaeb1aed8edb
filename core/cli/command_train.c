/* rwkv-run RECIPE: recipe -> scripts -> saved run -> plan -> training. */
#include "core/cli/commands.h"
#include "core/cli/progress.h"
#include "core/data/loader.h"
#include "core/plan/make_plan.h"
#include "core/train/signals.h"
#include "core/train/trainer.h"
#include "lua/hooks.h"

#include <stdio.h>
#include <string.h>

/* Prints the text, and frees it. */
static rw_status put(rw_str *text, FILE *to, rw_error *err) {
    rw_status status = text->failed ? rw_fail_memory(err, text->len) : RW_OK;
    if (status == RW_OK) fputs(text->data, to);
    rw_str_done(text);
    return status;
}

static rw_status print_plan(const rw_plan *plan, FILE *to, rw_error *err) {
    rw_str text = {0};
    rw_plan_print(plan, &text);
    return put(&text, to, err);
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
    const rw_options *options;
    rw_recipe recipe;
    rw_plan_lua scripts;
    rw_lua *lua;
    rw_hooks hooks;
    rw_claim claim;
    rw_saved_run saved;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    rw_str same, elsewhere; /* the command line again */
    rw_start start;
} job;

/* The lock before the states are read: another run may be replacing them. A dry run takes none. */
static rw_status look_at_folder(job *j, rw_error *err) {
    const rw_value *dir = &j->recipe.values[RW_KEY_save_proj_dir];
    const rw_options *o = j->options;
    RW_TRY(rw_claim_look(&j->claim, dir->s, j->recipe.path, err));
    if (!o->train.dry_run) RW_TRY(rw_claim_lock(&j->claim, err));
    return rw_saved_run_find(&j->saved, o->train.restart ? "never" : o->train.resume, dir->s, err);
}

static rw_status decide_start(job *j, rw_error *err) {
    const rw_options *o = j->options;
    const rw_value *dir = &j->recipe.values[RW_KEY_save_proj_dir];
    rw_options_again(o, NULL, &j->same);
    rw_options_again(o, dir->at.key, &j->elsewhere);
    if (j->same.failed || j->elsewhere.failed) return rw_fail_memory(err, j->same.len);
    const rw_start_wish wish = {.never = strcmp(o->train.resume, "never") == 0,
                                .restart = o->train.restart,
                                .named_folder = dir->given && dir->at.line == 0,
                                .same = j->same.data,
                                .elsewhere = j->elsewhere.data};
    return rw_start_decide(&j->start, j->plan, &j->saved, &j->claim, &wish, err);
}

static rw_status print_start(const job *j, FILE *to, rw_error *err) {
    rw_str text = {0};
    rw_start_print(&j->start, j->plan, &j->saved, &text);
    return put(&text, to, err);
}

/* What a start would do; a refusal is no error of the dry run. */
static rw_status foretell(job *j, FILE *to, rw_error *err) {
    rw_str text = {0};
    rw_error why = {0};
    char line[2048];
    if (decide_start(j, &why) == RW_OK) return print_start(j, to, err);
    rw_error_format(&why, line, sizeof line);
    rw_str_append(&text, rw_message("a start would be refused:\n"));
    rw_str_appendf(&text, "%s\n%s\n", line, why.detail ? why.detail : "");
    rw_error_clear(&why);
    return put(&text, to, err);
}

/* Scripts before the plan: a mistake in them is the cheapest to find, and they may decide what there is to plan. The
 * saved run too: the plan takes over what it chose. */
static rw_status make_plan(job *j, rw_error *err) {
    RW_TRY(rw_recipe_load(&j->recipe, &j->options->train.recipe, err));
    j->scripts = rw_recipe_lua(&j->recipe);
    RW_TRY(rw_lua_hooks_open(&j->lua, &j->scripts, &j->hooks, err));
    RW_TRY(look_at_folder(j, err));
    return rw_plan_make(&j->plan, &j->recipe, &j->saved, &j->arena, &j->device, err);
}

static rw_status run(job *j, rw_error *err) {
    if (!j->options->train.dry_run) rw_signals_ignore_pipe();
    RW_TRY(make_plan(j, err));
    if (j->options->train.dry_run) {
        RW_TRY(print_plan(j->plan, stdout, err));
        rw_train_warn(j->plan, &j->hooks);
        RW_TRY(foretell(j, stdout, err));
        return rw_plan_fits(j->plan, j->device, err);
    }
    RW_TRY(decide_start(j, err));
    if (j->start.kind == RW_START_FINISHED) return print_start(j, stderr, err);
    RW_TRY(print_plan(j->plan, stderr, err));
    rw_train_warn(j->plan, &j->hooks);
    RW_TRY(rw_plan_fits(j->plan, j->device, err));
    RW_TRY(check_ids(&j->plan->data, err));
    return rw_train(j->plan, &j->recipe, j->device, &j->hooks, &j->start, err);
}

static void close_job(job *j) {
    rw_device_close(j->device);
    rw_arena_done(&j->arena);
    rw_saved_run_done(&j->saved);
    rw_claim_close(&j->claim);
    rw_str_done(&j->same);
    rw_str_done(&j->elsewhere);
    rw_lua_hooks_close(j->lua);
    rw_recipe_done(&j->recipe);
}

/* Errors borrow strings of the job, so the error is printed before it goes. */
rw_status rw_command_train(const rw_options *o, rw_error *err) {
    job j = {.options = o};
    rw_status status = run(&j, err);
    if (status != RW_OK) {
        rw_print_error(err);
        rw_error_clear(err);
    }
    close_job(&j);
    return status;
}
