/* A virtual machine of Lua with all that scripts may use: the environment of sandbox.c, `trainer` and `metrics`. */
#ifndef RW_LUA_OPEN_H
#define RW_LUA_OPEN_H

#include "lua/vm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A machine with no script in it. `plan` must outlive it. Limits: plan->memory_bytes for all that Lua holds (<= 0:
 * none), plan->budget_ms for each call (<= 0: none). Fails with E_MEMORY, or E_LUA when the limits are too tight even
 * for the libraries. Free with rw_lua_free(). */
rw_status rw_lua_new(rw_lua **out, const rw_plan_lua *plan, rw_error *err);

/* Runs one file from top to bottom, outside training (`rwkv-run lua`); `...` in it are the n_args texts. */
rw_status rw_lua_run_file(rw_lua *lua, const char *path, char *const *args, int n_args, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
