/* rwkv-run RECIPE: recipe -> plan -> hooks -> training. */
#include "core/cli/commands.h"
#include "core/plan/plan.h"
#include "core/train/state.h"
#include "core/train/trainer.h"
#include "lua/hooks.h"

#include "core/base/alloc.h"

#include <stdio.h>

static rw_status print_plan(const rw_plan *plan, FILE *to, rw_error *err) {
    rw_str text = {0};
    rw_plan_print(plan, &text);
    if (text.failed) return rw_fail_memory(err, text.len);
    fputs(text.data, to);
    rw_str_done(&text);
    return RW_OK;
}

static rw_status with_hooks(rw_plan *plan, const rw_recipe *recipe, rw_device *device, bool dry_run, const char *resume,
                            rw_error *err) {
    rw_lua *lua = NULL;
    rw_hooks hooks;
    rw_hook_trainer settings;
    rw_trainer_settings(plan, &settings);
    RW_TRY(rw_lua_hooks_open(&lua, &plan->lua, &settings, &hooks, err));
    rw_status status = print_plan(plan, dry_run ? stdout : stderr, err);
    if (status == RW_OK && !dry_run) status = rw_train(plan, recipe, device, &hooks, resume, err);
    rw_lua_hooks_close(lua);
    return status;
}

static rw_status with_device(const rw_options *o, rw_plan *plan, const rw_recipe *recipe, rw_device *device,
                             rw_error *err) {
    char *resume = NULL;
    plan->resume = o->train.resume ? o->train.resume : "auto";
    RW_TRY(rw_resume_find(plan, recipe, device, &resume, err));
    rw_status status = with_hooks(plan, recipe, device, o->train.dry_run, resume, err);
    if (status != RW_OK) rw_error_settle(err);
    rw_free(resume);
    return status;
}

/* Errors lend strings of the recipe, so the error is printed here, before the recipe goes. */
rw_status rw_command_train(const rw_options *o, rw_error *err) {
    rw_recipe recipe = {0};
    rw_arena arena = {0};
    rw_plan plan;
    rw_device *device = NULL;
    rw_status status = rw_recipe_load(&recipe, &o->train.recipe, err);
    if (status == RW_OK) status = rw_plan_make(&plan, &recipe, &arena, &device, err);
    if (status == RW_OK) status = with_device(o, &plan, &recipe, device, err);
    if (status != RW_OK) {
        rw_print_error(err);
        rw_error_clear(err);
    }
    rw_device_close(device);
    rw_arena_done(&arena);
    rw_recipe_done(&recipe);
    return status;
}
