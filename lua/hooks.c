/* Loads hook files and answers the training loop from them. The functions are in the registry; `refs` holds their
 * places in rows of RW_HOOK_COUNT: one row for each file, the last row for the defaults.
 *
 * math.random is seeded again before each call from the hook and the step alone, so that a run that was stopped and
 * resumed draws the same numbers as one that was not. */
#include "lua/hooks.h"

#include "lua/bind.h"
#include "lua/open.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/rng.h"
#include "core/base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum { KIND_number, KIND_boolean, KIND_text, KIND_event, KIND_memory } hook_kind;

static const char *const hook_names[] = {
#define RW_HOOK(name, kind, args, result, default_file, doc) #name,
#include "core/hooks/hooks.def"
#undef RW_HOOK
    NULL};
static const hook_kind hook_kinds[] = {
#define RW_HOOK(name, kind, args, result, default_file, doc) KIND_##kind,
#include "core/hooks/hooks.def"
#undef RW_HOOK
};
static const char *const default_files[] = {
#define RW_HOOK(name, kind, args, result, default_file, doc) default_file,
#include "core/hooks/hooks.def"
#undef RW_HOOK
};

static int *row(const rw_lua *lua, int file) {
    return lua->refs + (size_t)file * RW_HOOK_COUNT;
}

/* -- loading --------------------------------------------------------------------------------------- */

typedef struct {
    rw_lua_job job; /* first: the job is this */
    int file;
} load_job;

static int find_hook(const char *name) {
    for (int i = 0; i < RW_HOOK_COUNT; i++)
        if (strcmp(hook_names[i], name) == 0) return i;
    return -1;
}

static int unknown_hook(lua_State *L, const char *name) {
    const char *near = rw_did_you_mean(name, hook_names);
    if (near) return luaL_error(L, rw_message("unknown hook '%s' (did you mean '%s'?)"), name, near);
    lua_pushliteral(L, "");
    for (int i = 0; i < RW_HOOK_COUNT; i++) {
        lua_pushfstring(L, i ? ", %s" : "%s", hook_names[i]);
        lua_concat(L, 2);
    }
    return luaL_error(L, rw_message("unknown hook '%s' (known: %s)"), name, lua_tostring(L, -1));
}

/* [..., key, value] -> [..., key] : one row of the table that a file returned */
static void keep_hook(lua_State *L, int *refs) {
    if (lua_type(L, -2) != LUA_TSTRING)
        luaL_error(L, rw_message("the names of hooks must be strings, got a %s"), luaL_typename(L, -2));
    const char *name = lua_tostring(L, -2);
    const int id = find_hook(name);
    if (id < 0) unknown_hook(L, name);
    if (!lua_isfunction(L, -1))
        luaL_error(L, rw_message("hook '%s' must be a function, got a %s"), name, luaL_typename(L, -1));
    refs[id] = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* [..., table] */
static void keep_hooks(lua_State *L, rw_lua_job *job) {
    if (!lua_istable(L, -1))
        luaL_error(
            L, rw_message("must return a table of hooks, got %s (end the file with: return { on_train_end = ... })"),
            luaL_typename(L, -1));
    int *refs = row(rw_lua_of(L), ((load_job *)job)->file);
    lua_pushnil(L);
    while (lua_next(L, -2)) keep_hook(L, refs);
}

/* "rwkv.early_stop" by name; the recipe may have put its folder in front. NULL: a file. */
static const char *module_of(const char *path) {
    const char *base = rw_path_base(path);
    return !rw_exists(path) && rw_lua_is_module(base) ? base : NULL;
}

static int push_module(lua_State *L) {
    rw_lua_push_environment(L, NULL);
    rw_lua_push_module(L, lua_gettop(L), lua_tostring(L, lua_upvalueindex(1)));
    return 1;
}

static int push_hook_file(lua_State *L, rw_lua_job *job) {
    const char *module = module_of(job->file);
    if (module) {
        lua_pushstring(L, module);
        lua_pushcclosure(L, push_module, 1);
    } else
        rw_lua_load_file(L, job->file);
    return 0;
}

static rw_status load_file(rw_lua *lua, int file, rw_error *err) {
    load_job load = {.job = {.file = lua->plan->files[file], .push = push_hook_file, .take = keep_hooks}, .file = file};
    return rw_lua_call(lua, &load.job, err);
}

/* For each row of hooks.def with a default file: its table `hooks` has the function. */
static int load_defaults(lua_State *L) {
    int *refs = row(rw_lua_of(L), rw_lua_of(L)->plan->n_files);
    rw_lua_push_environment(L, NULL);
    const int env = lua_gettop(L);
    for (int id = 0; id < RW_HOOK_COUNT; id++) {
        if (!default_files[id][0]) continue;
        lua_pushfstring(L, "rwkv.%s", default_files[id]);
        rw_lua_push_module(L, env, lua_tostring(L, -1));
        lua_getfield(L, -1, "hooks");
        lua_getfield(L, -1, hook_names[id]);
        if (!lua_isfunction(L, -1))
            return luaL_error(L, rw_message("rwkv.%s has no hook '%s'"), default_files[id], hook_names[id]);
        refs[id] = luaL_ref(L, LUA_REGISTRYINDEX);
        lua_pop(L, 3);
    }
    return 0;
}

static int push_defaults(lua_State *L, rw_lua_job *job) {
    (void)job;
    lua_pushcfunction(L, load_defaults);
    return 0;
}

/* -- calling --------------------------------------------------------------------------------------- */

typedef struct {
    rw_lua_job job; /* first: the job is this */
    rw_hook_id id;
    int ref;
    rw_hook_trainer *trainer;
    const rw_hook_metrics *metrics; /* NULL: the hook takes none */
    /* what it answered */
    bool given;
    double number;
    bool boolean;
    char *text; /* not owned */
    int64_t text_size;
} hook_job;

/* A C function keeps the seed out of the script's sight. */
static void seed_random(lua_State *L, const hook_job *h) {
    const uint64_t bits = rw_rng_u64_at(0, (uint64_t)h->id, (uint64_t)h->trainer->step);
    lua_getglobal(L, "math");
    lua_getfield(L, -1, "randomseed");
    lua_pushnumber(L, (lua_Number)(bits >> 11));
    lua_call(L, 1, 0);
    lua_pop(L, 1);
}

static int push_hook(lua_State *L, rw_lua_job *job) {
    const hook_job *h = (hook_job *)job;
    seed_random(L, h);
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->ref);
    rw_lua_push_trainer(L, h->trainer);
    if (!h->metrics) return 1;
    rw_lua_push_metrics(L, h->metrics);
    return 2;
}

/* Blames the line where the hook's function begins: it has returned, no better place is known. */
static void blame_function(lua_State *L, hook_job *h) {
    rw_lua_fault *fault = &rw_lua_of(L)->fault;
    lua_Debug ar;
    lua_rawgeti(L, LUA_REGISTRYINDEX, h->ref);
    lua_getinfo(L, ">S", &ar);
    if (ar.source[0] != '@') return;
    snprintf(fault->file, sizeof fault->file, "%s", ar.source + 1);
    fault->line = ar.linedefined;
}

static void wrong_type(lua_State *L, hook_job *h, const char *expected) {
    const char *got = luaL_typename(L, -1);
    blame_function(L, h);
    luaL_error(L, rw_message("%s must return a %s, got %s"), hook_names[h->id], expected, got);
}

static void take_number(lua_State *L, hook_job *h) {
    if (lua_type(L, -1) != LUA_TNUMBER) wrong_type(L, h, "number");
    h->number = lua_tonumber(L, -1);
    if (isfinite(h->number) && h->number >= 0) return;
    blame_function(L, h);
    luaL_error(L, rw_message("%s must return a number >= 0, got %f"), hook_names[h->id], h->number);
}

static void take_boolean(lua_State *L, hook_job *h) {
    if (!lua_isboolean(L, -1)) wrong_type(L, h, "boolean");
    h->boolean = lua_toboolean(L, -1);
}

/* Copies the text; control characters could steer a terminal. */
static void take_text(lua_State *L, hook_job *h) {
    if (lua_type(L, -1) != LUA_TSTRING) wrong_type(L, h, "string");
    snprintf(h->text, (size_t)h->text_size, "%s", lua_tostring(L, -1));
    for (char *c = h->text; *c; c++)
        if ((unsigned char)*c < 32 || *c == 127) *c = *c == '\n' || *c == '\t' ? ' ' : '?';
}

/* [..., result] */
static void take_answer(lua_State *L, rw_lua_job *job) {
    hook_job *h = (hook_job *)job;
    h->given = !lua_isnil(L, -1);
    if (!h->given) return;
    switch (hook_kinds[h->id]) {
    case KIND_number:
        take_number(L, h);
        break;
    case KIND_boolean:
        take_boolean(L, h);
        break;
    case KIND_text:
        take_text(L, h);
        break;
    case KIND_event:
    case KIND_memory:
        break;
    }
}

static rw_status call_ref(rw_lua *lua, hook_job *h, int file, rw_error *err) {
    h->ref = row(lua, file)[h->id];
    h->job = (rw_lua_job){.hook = hook_names[h->id],
                          .file = file < lua->plan->n_files ? lua->plan->files[file] : NULL,
                          .step = h->trainer->step,
                          .push = push_hook,
                          .take = take_answer};
    return rw_lua_call(lua, &h->job, err);
}

/* Asks from the last file to the defaults, until one answers. */
static rw_status ask(rw_lua *lua, hook_job *h, rw_error *err) {
    const int n_files = lua->plan->n_files;
    for (int i = 0; i <= n_files && !h->given; i++) {
        const int file = i < n_files ? n_files - 1 - i : n_files;
        if (row(lua, file)[h->id] != LUA_NOREF) RW_TRY(call_ref(lua, h, file, err));
    }
    return RW_OK;
}

/* -- rw_hooks -------------------------------------------------------------------------------------- */

static rw_status hook_number(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err) {
    hook_job h = {.id = id, .trainer = t};
    RW_TRY(ask(ctx, &h, err));
    *given = h.given;
    if (h.given) *value = h.number;
    return RW_OK;
}

static rw_status hook_boolean(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                              bool *given, rw_error *err) {
    hook_job h = {.id = id, .trainer = t, .metrics = m};
    RW_TRY(ask(ctx, &h, err));
    *given = h.given;
    if (h.given) *value = h.boolean;
    return RW_OK;
}

static rw_status hook_text(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf,
                           int64_t size, bool *given, rw_error *err) {
    hook_job h = {.id = id, .trainer = t, .metrics = m, .text = buf, .text_size = size};
    RW_TRY(ask(ctx, &h, err));
    *given = h.given;
    return RW_OK;
}

static rw_status hook_event(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err) {
    rw_lua *lua = ctx;
    for (int file = 0; file <= lua->plan->n_files; file++) {
        hook_job h = {.id = id, .trainer = t, .metrics = m};
        if (row(lua, file)[id] != LUA_NOREF) RW_TRY(call_ref(lua, &h, file, err));
    }
    return RW_OK;
}

/* -- what they remember ---------------------------------------------------------------------------- */

typedef struct {
    rw_lua_job job; /* first: the job is this */
    int ref;
    rw_hook_trainer *trainer;
    rw_hook_id id;
    rw_str *out;      /* of state_dict      */
    const json_t *in; /* of load_state_dict */
} memory_job;

static int push_memory_hook(lua_State *L, rw_lua_job *job) {
    const memory_job *m = (memory_job *)job;
    const hook_job seed = {.id = m->id, .trainer = m->trainer};
    seed_random(L, &seed);
    lua_rawgeti(L, LUA_REGISTRYINDEX, m->ref);
    if (!m->in) return 0;
    rw_lua_push_json(L, m->in);
    return 1;
}

/* [..., result] */
static void take_memory(lua_State *L, rw_lua_job *job) {
    const memory_job *m = (memory_job *)job;
    if (!lua_istable(L, -1)) luaL_error(L, rw_message("state_dict must return a table, got %s"), luaL_typename(L, -1));
    rw_lua_append_json(L, -1, m->out);
}

static rw_status call_memory(rw_lua *lua, memory_job *m, int file, rw_error *err) {
    m->ref = row(lua, file)[m->id];
    m->job = (rw_lua_job){.hook = hook_names[m->id],
                          .file = lua->plan->files[file],
                          .step = m->trainer->step,
                          .push = push_memory_hook,
                          .take = m->in ? NULL : take_memory};
    return rw_lua_call(lua, &m->job, err);
}

/* Files are known by their names without folder, so that a run may move; the second of a name is "mine.lua#2". */
static void memory_name(const rw_lua *lua, int file, char *name, size_t size) {
    const char *base = rw_path_base(lua->plan->files[file]);
    int same = 1;
    for (int i = 0; i < file; i++) same += strcmp(rw_path_base(lua->plan->files[i]), base) == 0;
    snprintf(name, size, same > 1 ? "%s#%d" : "%s", base, same);
}

static rw_status save_memory(void *ctx, rw_hook_trainer *t, rw_str *json, rw_error *err) {
    rw_lua *lua = ctx;
    for (int file = 0; file < lua->plan->n_files; file++) {
        memory_job m = {.trainer = t, .id = RW_HOOK_state_dict, .out = json};
        char name[300];
        if (row(lua, file)[m.id] == LUA_NOREF) continue;
        memory_name(lua, file, name, sizeof name);
        rw_str_append(json, json->len ? "," : "{");
        rw_json_append_string(json, name, strlen(name));
        rw_str_append(json, ":");
        RW_TRY(call_memory(lua, &m, file, err));
    }
    if (json->len) rw_str_append(json, "}");
    return RW_OK;
}

static rw_status load_memory(void *ctx, rw_hook_trainer *t, const char *json, size_t n, rw_error *err) {
    rw_lua *lua = ctx;
    json_t *all;
    RW_TRY(rw_json_parse(json, n, RW_AT_NONE, &all, err));
    rw_status status = RW_OK;
    for (int file = 0; file < lua->plan->n_files && status == RW_OK; file++) {
        char name[300];
        memory_name(lua, file, name, sizeof name);
        memory_job m = {.trainer = t, .id = RW_HOOK_load_state_dict, .in = json_object_get(all, name)};
        if (m.in && row(lua, file)[m.id] != LUA_NOREF) status = call_memory(lua, &m, file, err);
    }
    json_decref(all);
    return status;
}

static void set_rescue(void *ctx, bool (*rescue)(void *), void *rescue_ctx) {
    rw_lua *lua = ctx;
    rw_lua_watchdog_set_rescue(&lua->watchdog, rescue, rescue_ctx);
}

/* -- opening --------------------------------------------------------------------------------------- */

static rw_status load_all(rw_lua *lua, rw_error *err) {
    const size_t n = ((size_t)lua->plan->n_files + 1) * RW_HOOK_COUNT;
    lua->refs = rw_alloc_array(n, sizeof *lua->refs);
    if (!lua->refs) return rw_fail_memory(err, n * sizeof *lua->refs);
    for (size_t i = 0; i < n; i++) lua->refs[i] = LUA_NOREF;
    rw_lua_job defaults = {.push = push_defaults};
    RW_TRY(rw_lua_call(lua, &defaults, err));
    for (int file = 0; file < lua->plan->n_files; file++) RW_TRY(load_file(lua, file, err));
    return RW_OK;
}

rw_status rw_lua_hooks_open(rw_lua **out, const rw_plan_lua *plan, rw_hooks *hooks, rw_error *err) {
    *out = NULL;
    rw_lua *lua;
    RW_TRY(rw_lua_new(&lua, plan, err));
    const rw_status status = load_all(lua, err);
    if (status != RW_OK) {
        rw_lua_free(lua);
        return status;
    }
    *hooks = (rw_hooks){.ctx = lua,
                        .number = hook_number,
                        .boolean = hook_boolean,
                        .text = hook_text,
                        .event = hook_event,
                        .save_memory = save_memory,
                        .load_memory = load_memory,
                        .set_rescue = set_rescue};
    *out = lua;
    return RW_OK;
}

void rw_lua_hooks_close(rw_lua *lua) {
    rw_lua_free(lua);
}
