/* The state from inside the lua folder. The other folders include open.h and hooks.h, which know no lua.h. C alone, as
 * lua.h is. */
#ifndef RW_LUA_VM_INTERNAL_H
#define RW_LUA_VM_INTERNAL_H

#include "lua/vm.h"
#include "lua/watchdog.h"

#include <lauxlib.h>
#include <lua.h>

/* What went wrong in a script, noted where it was raised, while the stack is still there. */
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
    const char *stack_end;               /* the C stack may grow down to here                */
    pthread_t stack_thread;              /* whose stack that is                              */
    int64_t appended;                    /* bytes that scripts wrote to files                          */
    int64_t begun_ns, printed, left_out; /* of print: when it all began, bytes so far, lines left out */
    /* the call that runs */
    int64_t counted_ns; /* when the count hook looked last */
    uint64_t call;      /* counts up at the beginning and the end of each; odd: one runs */
    int *refs;          /* owned by hooks.c: registry references, [n_files + 1][RW_HOOK_COUNT] */
};

/* The rw_lua of a state: it is the allocator's context. */
rw_lua *rw_lua_of(lua_State *L);

/* Raises when the running call has used up its time. Every library function that loops calls it. */
void rw_lua_check_time(lua_State *L);
/* Raises when the C stack is used up but for a reserve. */
void rw_lua_check_stack(lua_State *L);
/* Both. Every library function that calls back into Lua begins with it. */
void rw_lua_check_call(lua_State *L);

/* A state without libraries; rw_lua_new() of open.h adds them. */
rw_status rw_lua_vm_new(rw_lua **out, const rw_plan_lua *plan, rw_error *err);

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

#endif
