/* Which saves are in a project folder, and which may go.
 *
 *   rwkv-<N>.pth              weights, official format; N counts epochs (or steps) as the trainer names them
 *   rwkv-init.pth rwkv-final.pth     never touched here
 *   save-<name>.pth           a save that a script asked for by name; never touched here
 *   state-<step>.safetensors  training state: enough to resume from
 *   <name>.tmp-<pid>          a write that has not ended; of a process that died: rubbish
 *
 *   .rwkv-run                 the marker of a run's folder (core/train/claim.h)
 *
 * No other file of ours may match rwkv-*.pth: the official trainer reads the number out of each such name.
 * The state is written before the .pth of the same moment, so a kill in between loses nothing. */
#ifndef RW_CHECKPOINT_RETENTION_H
#define RW_CHECKPOINT_RETENTION_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a name in proj_dir says; NONE: no name that this program writes. PTH: any rwkv-*.pth, since users name such
 * files too, but rwkv-init.pth, which nothing was learned in, and save-*.pth; LOG: plan.yaml and the logs. */
typedef enum { RW_NAME_NONE, RW_NAME_INIT, RW_NAME_PTH, RW_NAME_STATE, RW_NAME_LOG } rw_name_kind;
rw_name_kind rw_checkpoint_name(const char *name);

/* Whether a run may write a file of that name: RW_NAME_PTH less what only users call so. */
bool rw_checkpoint_writes(const char *name);

#define RW_RUN_MARKER ".rwkv-run"
/* Whether a run wrote this file, as far as its place tells: a training state, or a .pth of ours beside the marker or in
 * the dated subfolder of such a folder. */
bool rw_checkpoint_is_save(const char *path);

/* Paths of the two kinds; rw_free(), NULL without memory. */
char *rw_checkpoint_pth_path(const char *proj_dir, int64_t n);
char *rw_checkpoint_state_path(const char *proj_dir, int64_t step);

/* The training state with the largest step that can be opened and is whole; a broken one is skipped with a warning.
 * *path (rw_free()) is NULL when there is none, or no such folder; that is no error. */
rw_status rw_checkpoint_latest(const char *proj_dir, char **path, int64_t *step, rw_error *err);

/* Deletes all but the `keep` largest rwkv-<N>.pth (keep <= 0: keeps all) and the `keep` largest state-<step> (at least
 * one: an older state serves only as long as the newest is being written). newest_* was just written (-1: nothing was)
 * and stays in any case. States beyond newest_state are of a run that was given up, from an earlier
 * state; they go, or a later resume would find them. Only what wrote(ctx, name) says this run wrote is counted
 * and deleted; NULL: everything. RW_E_IO when a file cannot be deleted. */
rw_status rw_checkpoint_keep(const char *proj_dir, int64_t keep, int64_t newest_pth, int64_t newest_state,
                             bool (*wrote)(void *ctx, const char *name), void *ctx, rw_error *err);

/* Deletes NAME.tmp-<pid> of processes that are no more on this machine, where NAME is one that this program writes. A
 * folder that does not exist is fine. */
rw_status rw_checkpoint_clean(const char *proj_dir, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
