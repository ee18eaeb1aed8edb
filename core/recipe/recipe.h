/* A recipe: YAML files, what they include, and the command line's overrides, checked against keys.def.
 *
 * The result holds choices only: every key with its value or default, and the place each came from. What
 * follows from them (shapes read from a checkpoint, memory, device) is decided by core/plan. */
#ifndef RW_RECIPE_RECIPE_H
#define RW_RECIPE_RECIPE_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/base/str.h"
#include "core/recipe/keys.h"
#include "core/recipe/plan.h"
#include "core/recipe/schema.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_MAX_INCLUDE_DEPTH 8
#define RW_MAX_INCLUDE_FILES 32

typedef struct {
    const char *path;             /* of the recipe                                              */
    const char *const *overrides; /* "train.lr_init=2e-5", ...                                  */
    int n_overrides;
    const char *const *env_names; /* what ${env:NAME} may read besides RWKV_*                   */
    int n_env_names;
    const char *const *read_paths; /* what a recipe from elsewhere may read besides its own folder: --allow-read */
    int n_read_paths;
    bool trust;       /* --trust: hooks without sandbox, and any folder may be written          */
    bool check_files; /* the files that are named must exist                                        */
    const char *text; /* instead of the file at `path`; for tests                               */
    size_t n_text;
} rw_recipe_options;

typedef struct {
    const char *path, *dir; /* the recipe and its folder ("." when it has none)                 */
    bool trust;
    rw_value values[RW_KEY_COUNT]; /* with defaults filled in                                   */
    rw_arena arena;                /* owns every string                                         */
} rw_recipe;

/* Reads and checks a recipe. Every mistake is found: the first is the error, the others are lines in
 * err->detail. Errors: E_RECIPE (a mistake in the recipe), E_USAGE (no such recipe), E_IO, E_MEMORY.
 * Errors borrow strings of `r`: print them before rw_recipe_done(), which is also needed after a failure. */
rw_status rw_recipe_load(rw_recipe *r, const rw_recipe_options *options, rw_error *err);
void rw_recipe_done(rw_recipe *r); /* fine on zero */

/* Writes the choices into the sections of a plan and leaves all else as it is. What the recipe leaves open
 * is empty there: NULL, 0, RW_DTYPE_NONE (sizes of the model, data.tokenizer, train.head_chunk, save.dtype, ...): the
 * plan decides. Strings belong to `r`. */
void rw_recipe_to_plan(const rw_recipe *r, rw_plan *plan);

/* The section of the scripts alone, which are opened before there is a plan. */
rw_plan_lua rw_recipe_lua(const rw_recipe *r);

/* Where the value of a key was given, for errors that are found later; only .key is set when it is a default. */
rw_where rw_recipe_where(const rw_recipe *r, rw_key_id id);
bool rw_recipe_given(const rw_recipe *r, rw_key_id id);

/* The effective recipe as YAML, each value with its origin as a comment. With a plan (NULL: none yet) also the keys
 * that it decided. */
void rw_recipe_print(const rw_recipe *r, const rw_plan *plan, rw_str *out);

/* -- resume -------------------------------------------------------------------------------------------- */

/* The value that a key took effect with: given, its default, or what the plan decided; canonical, "" for none. Belongs
 * to `r` and `plan`, or written into buf. `plan` may be NULL. */
const char *rw_recipe_value(const rw_recipe *r, const rw_plan *plan, rw_key_id id, char buf[32]);

/* The keys that must stay the same for a run to continue (column `resume` of keys.def), with these values. */
rw_status rw_recipe_pairs(const rw_recipe *r, const rw_plan *plan, rw_arena *arena, rw_pairs *out, rw_error *err);
/* Appends a line "train.lr_init: was 1e-5, now 2e-5" for each key whose value differs, also for keys that only one of
 * the two knows. Returns their number. */
int rw_recipe_differences(const rw_pairs *saved, const rw_pairs *now, rw_str *out);

#ifdef __cplusplus
}
#endif
#endif
