/* Inside the lua folder only: what the sandbox, the hooks and the bindings offer each other, on top of the state. */
#ifndef RW_LUA_BIND_H
#define RW_LUA_BIND_H

#include "core/base/json.h"
#include "core/hooks/hooks.h"
#include "lua/vm_internal.h"

#define RW_LUA_FILE_LIMIT (4 << 20) /* bytes of one script */

/* -- sandbox.c ------------------------------------------------------------------------------------- */

/* Opens Lua's libraries, where no script sees them. Raises without memory. */
void rw_lua_open_sandbox(lua_State *L, const rw_plan_lua *plan);
/* [] -> [env]: a new environment. `root`: the folder of its require(), NULL: modules of this program only. */
void rw_lua_push_environment(lua_State *L, const char *root);
/* [] -> [function]: compiles a text (never bytecode) in an environment of its own; raises syntax errors. */
void rw_lua_load_file(lua_State *L, const char *path);
/* Is there a module of this program with this name ("rwkv.schedule")? */
bool rw_lua_is_module(const char *name);
/* [] -> [module]: what require(name) returns in the environment at this index. Raises when there is none. */
void rw_lua_push_module(lua_State *L, int env, const char *name);

/* -- library.c, pattern.c, table.c ----------------------------------------------------------------- */

#define RW_OWN(library, name, bound) int rw_lua_##library##_##name(lua_State *L);
#include "lua/functions.def"
#undef RW_OWN
int rw_lua_print(lua_State *L); /* upvalue 1: tostring */

/* -- the other files ------------------------------------------------------------------------------- */

/* files.c: appends to DIR/lua/NAME; raises when it cannot, or has written enough. */
void rw_lua_append_file(lua_State *L, const char *dir, const char *name, const char *text, size_t n);
/* memory.c: a table as JSON, and back: [] -> [value]. Raise what does not fit. */
void rw_lua_append_json(lua_State *L, int index, rw_str *out);
void rw_lua_push_json(lua_State *L, const json_t *value);
void rw_lua_open_trainer(lua_State *L); /* bind_trainer.c: the two metatables */
/* [] -> [trainer]; valid until the running call ends. */
void rw_lua_push_trainer(lua_State *L, rw_hook_trainer *t);
void rw_lua_push_metrics(lua_State *L, const rw_hook_metrics *m);

#endif
