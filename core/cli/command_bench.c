/* rwkv-run bench RECIPE: recipe -> plan -> some steps with random weights on random tokens. Nothing is written. */
#include "core/bench/bench.h"
#include "core/cli/commands.h"
#include "core/plan/make_plan.h"

#include <stdio.h>

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
} job;

static rw_status run(job *j, const rw_options *o, rw_error *err) {
    static const rw_saved_run none;
    rw_bench_result result;
    rw_str text = {0};
    RW_TRY(rw_recipe_load(&j->recipe, &o->train.recipe, err));
    RW_TRY(rw_plan_make(&j->plan, &j->recipe, &none, &j->arena, &j->device, err));
    RW_TRY(rw_plan_fits(j->plan, j->device, err));
    RW_TRY(rw_bench_run(&result, j->plan, j->device, o->bench.steps, err));
    rw_bench_print(&result, j->plan, j->device, o->bench.json, &text);
    rw_status status = text.failed ? rw_fail_memory(err, text.len) : RW_OK;
    if (status == RW_OK) fputs(text.data, stdout);
    rw_str_done(&text);
    return status;
}

/* Errors borrow strings of the job, so the error is printed before it goes. */
rw_status rw_command_bench(const rw_options *o, rw_error *err) {
    job j = {0};
    rw_status status = run(&j, o, err);
    if (status != RW_OK) {
        rw_print_error(err);
        rw_error_clear(err);
    }
    rw_device_close(j.device);
    rw_arena_done(&j.arena);
    rw_recipe_done(&j.recipe);
    return status;
}
