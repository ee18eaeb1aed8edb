/* A Lua state for scripts of recipes: bounded in memory and time, sandboxed unless trusted.
 *
 * Nothing here raises: scripts are entered through protected calls only, and what they raise becomes an
 * rw_error with code E_LUA, the place in the user's file, and the traceback as its detail. */
#ifndef RW_LUA_STATE_H
#define RW_LUA_STATE_H

#include "core/base/error.h"
#include "core/recipe/plan.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rw_lua rw_lua;

/* A state with the environment of sandbox.h and no script in it. `plan` must outlive it. Limits:
 * plan->memory_bytes for all that Lua holds (<= 0: none), plan->budget_ms for each call (<= 0: none).
 * Fails with E_MEMORY. Free with rw_lua_free(). */
rw_status rw_lua_new(rw_lua **out, const rw_plan_lua *plan, rw_error *err);
void rw_lua_free(rw_lua *lua);

/* Runs one file from top to bottom, outside training (`rwkv-run lua`). */
rw_status rw_lua_run_file(rw_lua *lua, const char *path, rw_error *err);

int64_t rw_lua_bytes(const rw_lua *lua); /* held by Lua now        */
int64_t rw_lua_peak(const rw_lua *lua);  /* the most it ever held  */

/* For tests: the n-th request for memory from now fails, those after it succeed again; 0 switches it off.
 * Lua's memory does not come from core/base/alloc.h, so it has a counter of its own. One per process. */
void rw_lua_alloc_fail_after(int64_t n);
/* For tests: milliseconds between the end of a budget and the end of the process. */
void rw_lua_set_grace(int64_t ms);

#ifdef __cplusplus
}
#endif
#endif
