/* Inside the lua folder only: what state, sandbox, hooks and the bindings share. The other folders include
 * state.h and hooks.h, which know no lua.h. C alone, as lua.h is. */
#ifndef RW_LUA_BIND_H
#define RW_LUA_BIND_H

#include "core/hooks/hooks.h"
#include "lua/state.h"
#include "lua/watchdog.h"

#include <lauxlib.h>
#include <lua.h>

#define RW_LUA_FILE_LIMIT (4 << 20) /* bytes of one script */

/* What went wrong in a script, noted where it was raised, while the stack still stands. */
typedef struct {
    bool set;
    int line;       /* 0: unknown                                      */
    char file[512]; /* "": unknown                                     */
    char msg[800];
    char trace[3000];
} rw_lua_fault;

struct rw_lua {
    const rw_plan_lua *plan; /* borrowed                                         */
    lua_State *L;            /* owned                                            */
    lua_Alloc inner;         /* LuaJIT's own allocator (mmap), wrapped to count  */
    void *inner_ud;
    int64_t bytes, peak;
    rw_lua_watchdog watchdog;
    rw_lua_fault fault;
    /* the call that runs */
    uint64_t call; /* counts up at the begin and the end of each; odd: one runs */
    int *refs;     /* owned by hooks.c: registry references, [n_files + 1][RW_HOOK_COUNT] */
};

/* The rw_lua of a state: it is the allocator's context. */
rw_lua *rw_lua_of(lua_State *L);

/* Raises when the running call has used up its time. Every library function that loops calls it. */
void rw_lua_check_time(lua_State *L);

/* -- entering Lua ---------------------------------------------------------------------------------- */

/* One entry into Lua. `push` puts a function and its arguments on the stack and returns how many arguments;
 * `take` (may be NULL) finds the one result on top. Both may raise. */
typedef struct rw_lua_job {
    const char *hook; /* its name; NULL while a file is loaded                    */
    const char *file; /* blamed when the stack tells no place; may be NULL        */
    int line;
    int64_t step;
    int (*push)(lua_State *L, struct rw_lua_job *job);
    void (*take)(lua_State *L, struct rw_lua_job *job);
} rw_lua_job;

/* The only way in. Leaves the stack as it was. E_LUA, or E_MEMORY when Lua has none left. */
rw_status rw_lua_call(rw_lua *lua, rw_lua_job *job, rw_error *err);

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
