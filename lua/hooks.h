/* The hooks of a run: the user's Lua files as the plain C functions of core/hooks/hooks.h.
 *
 * Value hooks: the last file that has the hook is asked first; `nil` asks the one before it, and at last the
 * default of lua/rwkv, which is made from the recipe's keys. Events: every file that has the hook is called, in
 * the order of the recipe. Names are checked against core/hooks/hooks.def when a file is loaded. */
#ifndef RW_LUA_HOOKS_H
#define RW_LUA_HOOKS_H

#include "core/hooks/hooks.h"
#include "lua/vm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes a state (state.h), loads plan->files in order and fills *hooks, which stays valid until the close.
 * A file is a path, or the name of a module of this program ("rwkv.early_stop") when no such file exists.
 * It needs the recipe's section alone (rw_recipe_lua()), so it can come before the plan; `plan` must outlive it.
 * Errors: E_LUA with file and line, E_MEMORY. */
rw_status rw_lua_hooks_open(rw_lua **out, const rw_plan_lua *plan, rw_hooks *hooks, rw_error *err);
void rw_lua_hooks_close(rw_lua *lua); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
