/* The training loop: batches -> micro steps -> update -> hooks, logs, validation, saves; until the steps are done, the
 * time is up, a signal comes or a hook says stop. It always ends with a valid checkpoint. */
#ifndef RW_TRAIN_TRAINER_H
#define RW_TRAIN_TRAINER_H

#include "core/hooks/hooks.h"
#include "core/plan/make_plan.h"
#include "core/train/start.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Says what the plan allows and nobody wants: a warm-up longer than the run, with the learning rate that it will reach.
 * `hooks` may be NULL. */
void rw_train_warn(const rw_plan *plan, const rw_hooks *hooks);

/* Runs the plan on its device. `start`: what it begins with and where it may write, as rw_start_decide() says; NULL: a
 * new run in a folder that nobody else uses. `hooks` may be NULL:
 * constant learning rate, saves at the end alone. Returns RW_OK when the run came to its end, RW_E_STOPPED after a
 * signal (saved; err says how to go on), else what failed. */
rw_status rw_train(const rw_plan *plan, const rw_recipe *recipe, rw_device *device, const rw_hooks *hooks,
                   const rw_start *start, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
