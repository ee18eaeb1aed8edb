/* The folder of a run, save.proj_dir: plan.yaml, the logs, the weights (rwkv-init.pth, rwkv-N.pth, rwkv-final.pth) and
 * the training states. Whatever a run writes there goes through here; the folder belongs to one process. */
#ifndef RW_TRAIN_OUTPUT_H
#define RW_TRAIN_OUTPUT_H

#include "core/metrics/metrics.h"
#include "core/plan/make_plan.h"
#include "core/train/start.h"
#include "core/train/training_state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const rw_plan *plan;     /* borrowed */
    const rw_recipe *recipe; /* borrowed */
    rw_claim *claim;         /* borrowed; NULL: nobody else uses the folder */
    rw_reporter reporter;
    int64_t n_unsaved;  /* .pth files left out because a value would become infinite in save.dtype */
    int64_t saved_step; /* steps done at the last save; -1: none yet */
    bool planned;       /* plan.yaml has the choices of the device   */
} rw_output;

/* Makes the folder and takes it, clears what a killed process left half written, writes plan.yaml and opens the logs.
 * Zero is a valid closed output. */
rw_status rw_output_open(rw_output *o, const rw_plan *plan, const rw_recipe *recipe, const rw_start *start,
                         rw_error *err);
void rw_output_close(rw_output *o);

/* An event for the logs and the console. */
rw_status rw_output_report(rw_output *o, rw_event e, const rw_metrics *m, const char *text, rw_error *err);

/* rwkv-init.pth: the initial values. */
rw_status rw_output_save_init(rw_output *o, rw_params *p, const rw_metrics *m, rw_error *err);
/* A training state and rwkv-N.pth, N the number of the epoch (or a warning when a value does not fit save.dtype); then
 * what save.keep no longer wants goes. Nothing when this step is saved already. */
rw_status rw_output_save(rw_output *o, rw_params *p, const rw_progress *progress, const rw_metrics *m, rw_error *err);
/* save-NAME.pth, the weights alone: a script asked for it. The scan for rwkv-*.pth of other programs passes it by. */
rw_status rw_output_save_named(rw_output *o, rw_params *p, const char *name, const rw_metrics *m, rw_error *err);
/* The same at the end of a run, with rwkv-final.pth. */
rw_status rw_output_save_final(rw_output *o, rw_params *p, const rw_progress *progress, const rw_metrics *m,
                               rw_error *err);

/* The run came to its end: another start of it has nothing to do. */
rw_status rw_output_finish(rw_output *o, const rw_progress *progress, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
