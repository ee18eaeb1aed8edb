/* A virtual machine of Lua for scripts of recipes, bounded in memory and time; open.h makes one.
 *
 * Nothing here raises: scripts are entered through protected calls only, and what they raise becomes an
 * rw_error with code E_LUA, the place in the user's file, and the traceback as its detail. */
#ifndef RW_LUA_VM_H
#define RW_LUA_VM_H

#include "core/base/error.h"
#include "core/recipe/plan.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rw_lua rw_lua;

void rw_lua_free(rw_lua *lua); /* NULL is fine */

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
