/* The one place that joins the bindings: vm.c knows none of them. */
#include "lua/open.h"

#include "lua/bind.h"

#include <luajit.h>

static int open_bindings(lua_State *L) {
    rw_lua_open_sandbox(L, rw_lua_of(L)->plan);
    rw_lua_open_trainer(L);
    return 0;
}

static int push_bindings(lua_State *L, rw_lua_job *job) {
    (void)job;
    lua_pushcfunction(L, open_bindings);
    return 0;
}

rw_status rw_lua_new(rw_lua **out, const rw_plan_lua *plan, rw_error *err) {
    *out = NULL;
    rw_lua *lua;
    RW_TRY(rw_lua_vm_new(&lua, plan, err));
    rw_lua_job job = {.push = push_bindings};
    const rw_status status = rw_lua_call(lua, &job, err);
    if (status != RW_OK) {
        rw_lua_free(lua);
        return status;
    }
    /* after the libraries: opening `jit` switches the compiler on */
    luaJIT_setmode(lua->L, 0, LUAJIT_MODE_ENGINE | (plan->jit ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
    *out = lua;
    return RW_OK;
}

/* -- a script by itself -------------------------------------------------------------------------------------------- */

typedef struct {
    rw_lua_job job; /* first: the job is this */
    char *const *args;
    int n_args;
} file_job;

static int push_file(lua_State *L, rw_lua_job *job) {
    const file_job *f = (file_job *)job;
    rw_lua_load_file(L, job->file);
    luaL_checkstack(L, f->n_args, "too many arguments");
    for (int i = 0; i < f->n_args; i++) lua_pushstring(L, f->args[i]);
    return f->n_args;
}

rw_status rw_lua_run_file(rw_lua *lua, const char *path, char *const *args, int n_args, rw_error *err) {
    file_job f = {.job = {.file = path, .push = push_file}, .args = args, .n_args = n_args};
    return rw_lua_call(lua, &f.job, err);
}
