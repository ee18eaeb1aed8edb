/* Inside the lua folder only: what the sandbox, the hooks and the bindings offer each other, on top of the state. */
#ifndef RW_LUA_BIND_H
#define RW_LUA_BIND_H

#include "core/hooks/hooks.h"
#include "lua/vm_internal.h"

#define RW_LUA_FILE_LIMIT (4 << 20) /* bytes of one script */

/* -- sandbox.c ------------------------------------------------------------------------------------- */

/* Makes the environment and leaves it in the registry. Raises without memory. */
void rw_lua_open_sandbox(lua_State *L, const rw_plan_lua *plan);
/* [] -> [function]: compiles text (never bytecode) with the environment of scripts; raises syntax errors.
 * `name` as messages show it; `root`: where require() looks for more files, NULL: nowhere. */
void rw_lua_load_text(lua_State *L, const char *text, size_t n, const char *name, const char *root);
/* The same for a file, or for "rwkv.<name>", a module of this program. */
void rw_lua_load_file(lua_State *L, const char *path);
/* Is there a module of this program with this name ("rwkv.schedule")? */
bool rw_lua_is_module(const char *name);
/* [] -> [module]: what require(name) returns for a module of this program. Raises when there is none. */
void rw_lua_push_module(lua_State *L, const char *name);

/* -- the other files ------------------------------------------------------------------------------- */

void rw_lua_add_patterns(lua_State *L); /* pattern.c; [table] -> [table]      */
void rw_lua_add_tables(lua_State *L);   /* table.c; [env] -> [env]          */
void rw_lua_open_trainer(lua_State *L); /* bind_trainer.c: the two metatables */
/* [] -> [trainer]; valid until the running call ends. */
void rw_lua_push_trainer(lua_State *L, rw_hook_trainer *t);
void rw_lua_push_metrics(lua_State *L, const rw_hook_metrics *m);

#endif
