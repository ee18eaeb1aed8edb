/* What the training loop asks of scripts. Plain C: the lua folder implements it, the loop knows no Lua.
 *
 * The rows are in hooks.def. A value hook that is not defined by any script has no answer here; the
 * defaults are Lua files in lua/rwkv/, so with scripts on, every value hook answers. */
#ifndef RW_HOOKS_HOOKS_H
#define RW_HOOKS_HOOKS_H

#include "core/base/error.h"
#include "core/base/str.h"
#include "core/metrics/metrics.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_SCRIPTS_FOLDER "lua"                          /* in proj_dir: where scripts may write */
enum { RW_HOOK_SAVE_NAMES = 4, RW_HOOK_SAVE_NAME = 48 }; /* in one step; bytes of one */

/* What a hook sees as `trainer`. Read-only for scripts, but for what `ask_` fields collect. */
typedef struct {
    int64_t step;       /* steps done before this one: 0 in the first */
    int64_t step_begin; /* first step of this process (a resume: > 0) */
    int64_t n_steps;    /* where the run ends */
    int64_t epoch, epoch_steps, epoch_count, epoch_begin, epoch_save;
    int64_t tokens; /* trained so far */
    int64_t ctx_len, micro_bsz, accumulate, real_bsz;
    double lr_init, lr_final, weight_decay, weight_decay_final;
    int64_t warmup_steps;
    const char *schedule; /* key train.schedule */
    int64_t save_every, log_every;
    const char *proj_dir, *name, *arch;
    double elapsed; /* seconds of training in this process */
    /* what a script asked for with trainer:stop(why), trainer:save() */
    bool ask_stop, ask_save;
    char save_names[RW_HOOK_SAVE_NAMES][RW_HOOK_SAVE_NAME]; /* trainer:save(name) */
    int n_save_names;
    char stop_reason[256];
} rw_hook_trainer;

/* What a hook sees as `metrics`, by name; NaN: not known. */
typedef rw_metrics rw_hook_metrics;

typedef enum {
#define RW_HOOK(name, kind, args, result, default_file, doc) RW_HOOK_##name,
#include "core/hooks/hooks.def"
#undef RW_HOOK
    RW_HOOK_COUNT
} rw_hook_id;

/* A table of functions with a context; `ctx` is passed back. Any of them may fail with E_LUA. */
typedef struct {
    void *ctx;
    /* Value hooks. *given = false: no script answered, the loop uses its own fallback. */
    rw_status (*number)(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err);
    rw_status (*boolean)(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                         bool *given, rw_error *err);
    /* `log`: the line for people; a copy into buf. */
    rw_status (*text)(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf, int64_t size,
                      bool *given, rw_error *err);
    /* Events. */
    rw_status (*event)(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err);
    /* optional: what the scripts remember (state_dict), as a JSON object with one value for each file; appends nothing
     * when none remembers. And back (load_state_dict). */
    rw_status (*save_memory)(void *ctx, rw_hook_trainer *t, rw_str *json, rw_error *err);
    rw_status (*load_memory)(void *ctx, rw_hook_trainer *t, const char *json, size_t n, rw_error *err);
    /* optional: what to do before the process ends because a script does not return. `rescue` saves and says whether
     * all is saved; another thread calls it while the loop waits for the script. NULL: nothing. */
    void (*set_rescue)(void *ctx, bool (*rescue)(void *), void *rescue_ctx);
} rw_hooks;

#ifdef __cplusplus
}
#endif
#endif
