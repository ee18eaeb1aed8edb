/* Recipe + headers of the files it names + one step on the meta device -> the plan of a run.
 *
 * Nothing long happens here: no weights are read, no data is tokenized. What cannot work (a missing file, shapes that
 * differ from the checkpoint, more memory than there is) fails here, with the key and what to change. */
#ifndef RW_PLAN_MAKE_PLAN_H
#define RW_PLAN_MAKE_PLAN_H

#include "core/base/str.h"
#include "core/checkpoint/saved_run.h"
#include "core/recipe/plan.h"
#include "core/recipe/recipe.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* *plan in the arena, const from here on, and the device it decided on. `saved` is the run to resume: what it chose by
 * itself and what shapes the order of sums (threads, head_chunk) is taken over. NULL or
 * all-zero: none. `recipe` and `arena` must outlive the plan; errors lend strings of all three. */
rw_status rw_plan_make(const rw_plan **plan, const rw_recipe *recipe, const rw_saved_run *saved, rw_arena *arena,
                       rw_device **device, rw_error *err);

/* How a plan differs from the run that left a state. */
typedef struct {
    rw_str text;       /* "train.lr_init: was 1e-5, now 2e-5", a line each; rw_str_done()           */
    int keys, choices; /* how many of each: keys of the recipe, what a plan decides (device, ...)   */
    bool tensors;      /* the model has other tensors: the state's do not fit                       */
} rw_plan_difference;

/* Nothing differs from a saved run that is not there. */
rw_status rw_plan_compare(const rw_plan *plan, const rw_saved_run *saved, rw_plan_difference *out, rw_error *err);

/* What the sizes of a plan take, measured on the meta device with the queries of `like`. plan->needs is not read. */
rw_status rw_plan_measure(const rw_plan *plan, const rw_device *like, rw_plan_needs *needs, rw_error *err);

/* Rows of logits at a time, from the size of a micro batch and the vocabulary: in multiples of 64, equal chunks. */
int64_t rw_plan_head_chunk(const rw_plan *plan);

/* E_RECIPE where this machine, or its GPU, has less memory than the engine will ask for, with the part that is too
 * large and what helps against it. To be asked before the engine is opened. */
rw_status rw_plan_fits(const rw_plan *plan, const rw_device *device, rw_error *err);

/* What --dry-run and the beginning of a run show. */
void rw_plan_print(const rw_plan *plan, rw_str *out);

/* proj_dir/plan.yaml: the effective recipe and the choices; those of the device too (rw_device.choices), once there are
 * any: NULL before. */
rw_status rw_plan_write(const rw_plan *plan, const rw_recipe *recipe, const char *device_choices, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
