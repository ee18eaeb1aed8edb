/* The engine: a model on a device with everything that a step needs. The trainer runs it on the real device; the plan
 * runs the very same functions on the meta device to learn what they will take.
 *
 * A step is begun, then for each micro batch staged and run, then updated and collected:
 *
 *     begin_step   the numbers of the step, on the host
 *     stage        a batch and its numbers on their way to the device, ahead of the work where the device can
 *     run          forward and backward: kernels alone
 *     update       norm, clipping, Adam: kernels alone
 *     collect      one readback: what the device made of the step (rw_device_scalars)
 *
 * Nothing in run and update goes from host to device or back, waits, or depends on a number of the step. So a device
 * that can record (rw_device.record) records three pieces once and replays them: the first micro batch of a step, whose
 * gradients overwrite; the later ones, which add; the update. */
#ifndef RW_ENGINE_ENGINE_H
#define RW_ENGINE_ENGINE_H

#include "core/data/data.h"
#include "core/model/model.h"
#include "core/recipe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the host writes for a micro batch, in this order and in one block, on the device or in a slot of the host. */
typedef struct {
    rw_step_scalars *scalars;
    int32_t *tokens, *targets; /* [R]         */
    float *mask;               /* [R]         */
    int32_t *cu_seqlens;       /* [max_seq+1] */
} rw_engine_inputs;

/* A batch on its way: packed on the host, copied to the device, taken from there when it is run. */
typedef struct {
    rw_engine_inputs host;
    char *device;
    rw_mark *copied, *taken;
} rw_engine_slot;

/* A report on its way back. */
typedef struct {
    rw_device_scalars *host;
    rw_mark *copied;
} rw_engine_report;

typedef enum { RW_PIECE_FIRST, RW_PIECE_LATER, RW_PIECE_UPDATE, RW_N_PIECES } rw_engine_piece;

/* A piece of a step as the device recorded it. */
typedef struct {
    rw_graph *graph;
    bool *grad_written; /* owned, one for each parameter: as the piece leaves them */
    bool ran;
} rw_engine_recording;

enum { RW_ENGINE_AHEAD = 2 }; /* batches and reports that may be on their way */

typedef struct {
    const rw_plan *plan;
    rw_device *device; /* borrowed                                       */
    rw_model *model;   /* owned from here on                             */
    rw_step_arena arena;
    rw_tape *tape;
    rw_exec before;      /* the device's, back in place after close        */
    void *block;         /* owned, on the device: the scalars that it owns, inputs, slots */
    rw_engine_inputs in; /* of the micro batch that runs                   */
    rw_rows rows;        /* n_seq is max_seq: the last ones may be empty   */
    void *host_block;    /* owned, with device->ahead: of the slots and reports below */
    rw_engine_slot slots[RW_ENGINE_AHEAD];
    rw_engine_report reports[RW_ENGINE_AHEAD];
    rw_engine_recording recordings[RW_N_PIECES];
    rw_step_scalars scalars;              /* of this step, but for what depends on the micro batch */
    double mask_sum;                      /* of this step                                   */
    int64_t n_staged, n_taken, n_updates; /* since it was opened               */
    int64_t n_run;                        /* micro batches of this step so far              */
    bool train;
} rw_engine;

/* The step arena gets plan->needs.arena_bytes; 0, on a meta device: no limit. Zero is a valid closed engine. */
rw_status rw_engine_open(rw_engine *e, const rw_plan *plan, rw_device *device, bool train, rw_error *err);
void rw_engine_close(rw_engine *e);

/* Before a step. mask_sum: over all its micro batches. step counts from 0. */
void rw_engine_begin_step(rw_engine *e, int64_t step, double lr, double weight_decay, double mask_sum);
/* A batch of the step. It was copied when this returns. At most RW_ENGINE_AHEAD may be staged and not yet run, one on a
 * device without `ahead`. Errors: E_INTERNAL: not of the plan's size. */
rw_status rw_engine_stage(rw_engine *e, const rw_batch *b, rw_error *err);
/* Forward and backward of the batch staged first. */
rw_status rw_engine_run(rw_engine *e, rw_error *err);
/* Clipping and Adam. Where the loss or the norm of the gradient is not finite, nothing changes but the counts. */
rw_status rw_engine_update(rw_engine *e, rw_error *err);
/* What the device made of a step. `wait`: of the last one updated. Else the newest that is here; step 0: none yet. A
 * device without `ahead` is waited for in any case. Errors: whatever failed on the device since the last time. */
rw_status rw_engine_collect(rw_engine *e, bool wait, rw_device_scalars *report, rw_error *err);

/* stage and run, for who looks at single batches: *loss_sum (or NULL) receives sum(mask * loss) of the step so far. */
rw_status rw_engine_micro_step(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err);
/* Forward alone, nothing recorded. Waits. */
rw_status rw_engine_evaluate(rw_engine *e, const rw_batch *b, double *loss_sum, rw_error *err);
/* Where a saved run stood: updates, skipped and skipped_in_row count on from there. */
void rw_engine_set_counts(rw_engine *e, const rw_device_scalars *counts);

/* Bytes of scalars and batches that open takes from the device, and of host memory with device->ahead. */
int64_t rw_engine_batch_bytes(const rw_plan *plan, const rw_device *device);
int64_t rw_engine_host_bytes(const rw_plan *plan, const rw_device *device);

#ifdef __cplusplus
}
#endif
#endif
