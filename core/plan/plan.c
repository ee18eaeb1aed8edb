/* Making the plan: see plan.h. The order is that of the questions: which data, which model, how much of everything, on
 * which device, and what that will take. */
#include "core/plan/make_plan.h"

#include "core/plan/plan_internal.h"

static rw_status decide(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_arena *arena, rw_error *err) {
    rw_recipe_to_plan(r, p);
    RW_TRY(rw_plan_decide_data(p, r, arena, err));
    RW_TRY(rw_plan_decide_model(p, r, arena, err));
    RW_TRY(rw_plan_decide_sizes(p, r, saved, err));
    return rw_plan_count_data(p, err);
}

static rw_status complete(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, const rw_device *device,
                          rw_arena *arena, rw_error *err) {
    RW_TRY(rw_plan_decide_memory(p, r, saved, device, err));
    RW_TRY(rw_plan_measure(p, device, &p->needs, err));
    return rw_plan_note_choices(p, r, arena, err);
}

rw_status rw_plan_make(const rw_plan **out, const rw_recipe *recipe, const rw_saved_run *saved, rw_arena *arena,
                       rw_device **device, rw_error *err) {
    *out = NULL;
    *device = NULL;
    rw_plan *p = rw_arena_alloc(arena, sizeof *p);
    if (!p) return rw_fail_memory(err, sizeof *p);
    RW_TRY(decide(p, recipe, saved, arena, err));
    RW_TRY(rw_plan_decide_device(p, recipe, saved, arena, device, err));
    rw_status status = complete(p, recipe, saved, *device, arena, err);
    if (status == RW_OK) {
        *out = p;
    } else {
        rw_device_close(*device);
        *device = NULL;
    }
    return status;
}
