/* The engine: a model on a device with everything that a step needs. The trainer runs it on the real device; the plan
 * runs the very same functions on the meta device to learn what they will take.
 *
 * A step is three pieces: micro steps (forward and backward of one batch each), then the update. Everything that
 * changes from step to step goes through rw_step_scalars. */
#ifndef RW_ENGINE_ENGINE_H
#define RW_ENGINE_ENGINE_H

#include "core/data/data.h"
#include "core/model/model.h"
#include "core/recipe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const rw_plan *plan;
    rw_device *device; /* borrowed                                       */
    rw_model *model;   /* owned from here on                             */
    rw_step_arena arena;
    rw_tape *tape;
    rw_step_scalars scalars; /* the host's copy                                */
    rw_exec before;          /* the device's, back in place after close        */
    rw_step_scalars *d_scalars;
    rw_device_scalars *d_own;
    int32_t *d_tokens, *d_targets, *d_cu_seqlens;
    float *d_mask;
    int64_t n_run; /* micro steps of this step so far                */
    bool train;
} rw_engine;

/* The step arena gets plan->needs.arena_bytes; 0, on a meta device: no limit. Zero is a valid closed engine. */
rw_status rw_engine_open(rw_engine *e, const rw_plan *plan, rw_device *device, bool train, rw_error *err);
void rw_engine_close(rw_engine *e);

/* Before a step: the numbers of this step. mask_sum: over all its micro batches. step counts from 0. */
void rw_engine_begin_step(rw_engine *e, int64_t step, double lr, double weight_decay, double mask_sum);
/* Forward and backward of one batch. *loss_sum (or NULL) receives sum(mask * loss) of the step so far. */
rw_status rw_engine_micro_step(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err);
/* Clip and Adam. Where the loss or the norm of the gradient is not finite, nothing changes but the counts. */
rw_status rw_engine_update(rw_engine *e, rw_error *err);
/* What the device made of the last step; waits for it. */
rw_status rw_engine_collect(rw_engine *e, rw_device_scalars *report, rw_error *err);
/* Where a saved run stood: updates, skipped and skipped_in_row count on from there. */
void rw_engine_set_counts(rw_engine *e, const rw_device_scalars *counts);
/* Forward alone, nothing recorded. */
rw_status rw_engine_evaluate(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err);

/* Bytes of the batch and scalar buffers that open takes from the device. */
int64_t rw_engine_batch_bytes(const rw_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
