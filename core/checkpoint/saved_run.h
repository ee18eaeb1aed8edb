/* What a training state says about the run that wrote it, read before the next run decides anything.
 *
 * Two entries of the file's metadata, each a JSON object of strings:
 *   recipe    the keys that must stay the same, with the values that took effect
 *   choices   what the plan decided by itself: device, threads, head_chunk, ... */
#ifndef RW_CHECKPOINT_SAVED_RUN_H
#define RW_CHECKPOINT_SAVED_RUN_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/recipe/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Metadata "format" and "version" of a training state (core/train/training_state.h). Others are refused: a layout that
 * is not known would be read as something that it is not. */
#define RW_STATE_FORMAT  "rwkv-run training state"
#define RW_STATE_VERSION "1"

/* All-zero: no saved run. */
typedef struct {
    char *path;   /* owned: the training state; NULL: none */
    bool named;   /* the user named this file */
    int64_t step; /* steps done; -1: it does not say */
    rw_pairs keys, choices;
    rw_arena arena; /* owns the pairs */
} rw_saved_run;

/* The run to resume. `resume`: "auto", the newest whole state of proj_dir, if there is one; "never"; or the path of a
 * state. Errors: E_IO, E_FORMAT when it is no training state. They lend run->path; rw_saved_run_done() in any case. */
rw_status rw_saved_run_find(rw_saved_run *run, const char *resume, const char *proj_dir, rw_error *err);
void rw_saved_run_done(rw_saved_run *run);

/* A choice of that run as text, or as a number (0 where it is none); NULL and 0 also without a saved run. */
const char *rw_saved_run_choice(const rw_saved_run *run, const char *name);
int64_t rw_saved_run_number(const rw_saved_run *run, const char *name);

#ifdef __cplusplus
}
#endif
#endif
