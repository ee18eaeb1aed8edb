/* Shared by the files of core/plan: one file decides one section. Each fills its part of a plan that is not const yet;
 * strings go to the arena. `saved` may be NULL, and is all-zero where nothing is resumed. */
#ifndef RW_PLAN_PLAN_INTERNAL_H
#define RW_PLAN_PLAN_INTERNAL_H

#include "core/plan/make_plan.h"

/* Which data: tokenizer and vocabulary, and how many tokens there are where the format says so. */
rw_status rw_plan_decide_data(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_error *err);
/* data.vocab_size is known: the files of ids are looked at. */
rw_status rw_plan_count_data(rw_plan *plan, rw_error *err);

/* Which model: the shape of load_model, which the recipe may not contradict, or the recipe's with official sizes. */
rw_status rw_plan_decide_model(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_error *err);

/* How much of everything: steps, micro batches, what the sections have in common. E_RECIPE
 * where products of them are beyond all counting. */
rw_status rw_plan_decide_sizes(rw_plan *plan, const rw_recipe *recipe, const rw_saved_run *saved, rw_error *err);

/* Where it runs, with how many threads; opens it. */
rw_status rw_plan_decide_device(rw_plan *plan, const rw_recipe *recipe, const rw_saved_run *saved, rw_arena *arena,
                                rw_device **device, rw_error *err);

/* The form, the level, the micro batch and the chunk of the head, where the recipe leaves them open, by the memory of
 * the device; the dtype of a save. */
rw_status rw_plan_decide_memory(rw_plan *plan, const rw_recipe *recipe, const rw_saved_run *saved,
                                const rw_device *device, rw_error *err);

/* What the sections have in common, again after a change of micro_bsz. */
void rw_plan_share_sizes(rw_plan *plan);

/* Bytes of the device's memory that the plan takes, libraries included. */
rw_status rw_plan_device_bytes(const rw_plan *plan, const rw_device *like, int64_t *n_bytes, rw_error *err);

/* plan->keys and plan->choices, from all that is decided. */
rw_status rw_plan_note_choices(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_error *err);

#endif
