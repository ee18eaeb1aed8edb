/* The training state: state-<step>.safetensors, enough to go on by itself.
 *
 *   tensors   param.<name>, m.<name>, v.<name> in the official logical shapes, in the dtype of the computation
 *   metadata  format, version, progress (JSON), cursor (JSON), choices (JSON object of strings: what the plan decided
 * by itself), recipe (JSON object of strings: the keys that must stay) */
#ifndef RW_TRAIN_STATE_H
#define RW_TRAIN_STATE_H

#include "core/base/str.h"
#include "core/data/data.h"
#include "core/plan/plan.h"
#include "core/tensor/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a run stands. */
typedef struct {
    int64_t step;           /* steps done                                 */
    int64_t tokens;         /* trained                                    */
    int64_t updates;        /* steps that changed the weights: Adam's t   */
    int64_t skipped;        /* steps that did not: not finite             */
    int64_t skipped_in_row; /* the last of them without an update between */
    double epoch_loss;      /* sum of the losses of the current epoch     */
    int64_t epoch_loss_n;   /* steps in it                                */
    double elapsed;         /* seconds of training, all processes         */
    rw_cursor cursor;       /* makes the next batch                       */
} rw_progress;

rw_status rw_state_save(const char *path, rw_params *params, const rw_progress *progress, const rw_plan *plan,
                        const rw_recipe *recipe, rw_error *err);
/* Weights and moments, then *progress. The file was accepted by rw_resume_find(). */
rw_status rw_state_load(const char *path, rw_params *params, rw_progress *progress, rw_error *err);

/* Which state this run goes on from: *path for rw_free(), NULL: none. plan->resume: "auto" takes the newest of
 * proj_dir, "never" none, else it is a path. Takes the state's automatic choices over into the plan (threads,
 * head_chunk), and measures it again. Errors: E_RECIPE naming every key and choice that differs. */
rw_status rw_resume_find(rw_plan *plan, const rw_recipe *recipe, rw_device *device, char **path, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
