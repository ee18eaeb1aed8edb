/* The training state: state-<step>.safetensors, enough to go on by itself.
 *
 *   tensors   param.<name>, m.<name>, v.<name> in the official logical shapes, wide (fp32) whatever the optimizer's
 *             form stores; param is the master where there is one
 *   metadata  format, version, progress (JSON), cursor (JSON); choices and recipe as checkpoint/saved_run.h says;
 *             hooks: what the hooks remember (JSON), where they do; device_choices: rw_device.choices, where it has
 * them; crc32 of each tensor (checkpoint.h), compared while the state is loaded */
#ifndef RW_TRAINING_STATE_H
#define RW_TRAINING_STATE_H

#include "core/base/str.h"
#include "core/data/data.h"
#include "core/recipe/plan.h"
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
    double loss_scale;      /* of fp16; 0: none                           */
    int64_t good_steps;     /* since it changed last                      */
    double epoch_loss;      /* sum of the losses of the current epoch     */
    int64_t epoch_loss_n;   /* steps in it                                */
    double elapsed;         /* seconds of training, all processes         */
    rw_cursor cursor;       /* makes the next batch                       */
    const char *memory;     /* of the hooks, JSON; NULL: none. Borrowed   */
} rw_progress;

/* device_choices: may be NULL. */
rw_status rw_training_state_save(const char *path, rw_params *params, const rw_progress *progress, const rw_plan *plan,
                                 const char *device_choices, rw_error *err);
/* An entry of the metadata, "hooks" or "device_choices", appended; nothing when there is none. */
rw_status rw_training_state_text(const char *path, const char *entry, rw_str *text, rw_error *err);
/* Weights and moments, then *progress. The plan has accepted the run that wrote the file. */
rw_status rw_training_state_load(const char *path, rw_params *params, rw_progress *progress, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
