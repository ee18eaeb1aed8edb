/* Shared by the files of core/plan: one function decides one section. */
#ifndef RW_PLAN_PLAN_INTERNAL_H
#define RW_PLAN_PLAN_INTERNAL_H

#include "core/plan/plan.h"

/* Which model: the shape of load_model, which the recipe may not contradict, or the recipe's with official sizes. */
rw_status rw_plan_decide_model(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_error *err);

#endif
