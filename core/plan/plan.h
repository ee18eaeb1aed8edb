/* Recipe + headers of the files it names + one step on the meta device -> the plan of a run.
 *
 * Nothing long happens here: no weights are read, no data is tokenized. What cannot work (a missing file, shapes that
 * differ from the checkpoint, more memory than there is) fails here, with the key and what to change. */
#ifndef RW_PLAN_PLAN_H
#define RW_PLAN_PLAN_H

#include "core/base/str.h"
#include "core/recipe/plan.h"
#include "core/recipe/recipe.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills *plan and opens the device it decided on. `recipe` and `arena` must outlive the plan. */
rw_status rw_plan_make(rw_plan *plan, const rw_recipe *recipe, rw_arena *arena, rw_device **device, rw_error *err);

/* plan->needs for the shape and sizes that the plan already has, measured on the meta device with the queries of
 * `like`; part of rw_plan_make(). */
rw_status rw_plan_measure(rw_plan *plan, const rw_device *like, rw_error *err);

/* Rows of logits at a time, from the size of a micro batch and the vocabulary: in multiples of 64, equal chunks. */
int64_t rw_plan_head_chunk(const rw_plan *plan);

/* What --dry-run and the beginning of a run show. */
void rw_plan_print(const rw_plan *plan, rw_str *out);

/* Every automatic choice, as name and value: written to plan.yaml and to the training state. A resume takes them over
 * or names what differs. */
typedef struct {
    char name[32], value[96];
} rw_plan_choice;
#define RW_PLAN_MAX_CHOICES 16
int rw_plan_choices(const rw_plan *plan, rw_plan_choice choices[RW_PLAN_MAX_CHOICES]);
/* proj_dir/plan.yaml: the effective recipe and the choices. */
rw_status rw_plan_write(const rw_plan *plan, const rw_recipe *recipe, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
