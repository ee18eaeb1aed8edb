/* Nodes x keys.def -> values.
 *
 * A mistake does not stop the reading: each is kept, so that one run names them all. */
#ifndef RW_RECIPE_SCHEMA_H
#define RW_RECIPE_SCHEMA_H

#include "core/base/arena.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/str.h"
#include "core/recipe/keys.h"
#include "core/recipe/yaml.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_MAX_PROBLEMS 20

/* Mistakes found so far. Zero is empty. */
typedef struct {
    int n;
    rw_error first;
    rw_str rest; /* the others, formatted, one a line */
} rw_problems;

void rw_problems_add(rw_problems *p, rw_where at, const char *fmt, ...) RW_PRINTF(3, 4);
/* Takes an error that a function returned; clears it. */
void rw_problems_take(rw_problems *p, rw_error *err);
/* E_RECIPE with the first mistake, the others as lines in err->detail; RW_OK when there is none. Empties *p. */
rw_status rw_problems_end(rw_problems *p, rw_error *err);

/* The value of one key. */
typedef struct {
    bool given;       /* false: the default, or nothing                          */
    rw_where at;      /* where it was given; at.key is always set                */
    const char *text; /* canonical: "1e-5", "true", "[a, b]"; NULL: no value    */
    union {
        const char *s; /* string, choice as text; a path with the folder of its file before it */
        int64_t i;     /* int, flag, bool, dtype, enum, int choice                     */
        double x;
        struct {
            const char *const *items;
            const rw_where *at; /* of each */
            int n;
        } list;
    };
} rw_value;

/* What the reading of one file needs. */
typedef struct {
    rw_arena *arena;
    rw_problems *problems;
    rw_value *values; /* [RW_KEY_COUNT], later calls overwrite */
    const char *dir;  /* paths are relative to it; "." or "": as they are */
    /* Names that ${env:NAME} may use besides RWKV_*. */
    const char *const *env_names;
    int n_env_names;
} rw_schema;

/* Reads the members of the top map; `include` is left to the caller. Fails only with E_MEMORY. */
rw_status rw_schema_read(rw_schema *s, const rw_node *root, rw_error *err);
/* Reads one value for a key. */
rw_status rw_schema_read_value(rw_schema *s, const rw_key *key, const rw_node *node, rw_error *err);
/* A key of another program that is accepted here (foreign.def): one line says what it does, and *taken is true. */
rw_status rw_schema_take_foreign(rw_schema *s, const char *name, const rw_node *node, bool *taken, rw_error *err);
/* Finds a key by its dotted path; a mistake is added to the problems and gives NULL. */
const rw_key *rw_schema_find(rw_schema *s, rw_where at, const char *path);
/* A path as seen from the working directory: `dir` before it unless it is absolute. NULL without memory. */
const char *rw_schema_path(rw_arena *arena, const char *dir, const char *path);
/* Replaces ${env:NAME}. A mistake is added to the problems and gives *out = NULL. */
rw_status rw_schema_expand(rw_schema *s, const rw_node *node, const char **out, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
