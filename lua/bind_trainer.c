/* `trainer` and `metrics`, as hooks see them: read-only views of two C structs.
 *
 * Each call gets its own userdata, which remembers the number of the call. When the hook has returned, the
 * number no longer fits, and using what a script kept is an error instead of a look at old memory. */
#include "lua/bind.h"

#include "core/base/printable.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef enum { FIELD_INT, FIELD_NUMBER, FIELD_TEXT } field_kind;
typedef struct {
    const char *name;
    field_kind kind;
    size_t offset;
} field;

typedef struct {
    void *data; /* rw_hook_trainer or rw_hook_metrics */
    uint64_t call;
} view;

#define TRAINER "rw.trainer"
#define METRICS "rw.metrics"

/* -- the fields ------------------------------------------------------------------------------------ */

#define T_INT(name)                                                                                                    \
    { #name, FIELD_INT, offsetof(rw_hook_trainer, name) }
#define T_NUMBER(name)                                                                                                 \
    { #name, FIELD_NUMBER, offsetof(rw_hook_trainer, name) }
#define T_TEXT(name)                                                                                                   \
    { #name, FIELD_TEXT, offsetof(rw_hook_trainer, name) }
static const field trainer_fields[] = {
    T_INT(step),
    T_INT(step_begin),
    T_INT(n_steps),
    T_INT(epoch),
    T_INT(epoch_steps),
    T_INT(epoch_count),
    T_INT(epoch_begin),
    T_INT(epoch_save),
    T_INT(tokens),
    T_INT(ctx_len),
    T_INT(micro_bsz),
    T_INT(accumulate),
    T_INT(real_bsz),
    T_NUMBER(lr_init),
    T_NUMBER(lr_final),
    T_NUMBER(weight_decay),
    T_NUMBER(weight_decay_final),
    T_INT(warmup_steps),
    T_TEXT(schedule),
    T_INT(save_every),
    T_INT(log_every),
    T_TEXT(proj_dir),
    T_TEXT(name),
    T_TEXT(arch),
    T_NUMBER(elapsed),
    {NULL, FIELD_INT, 0},
};

#define M_INT(name)                                                                                                    \
    { #name, FIELD_INT, offsetof(rw_hook_metrics, name) }
#define M_NUMBER(name)                                                                                                 \
    { #name, FIELD_NUMBER, offsetof(rw_hook_metrics, name) }
static const field metrics_fields[] = {
    M_INT(step),
    M_INT(epoch),
    M_INT(tokens),
    M_INT(skipped),
    M_NUMBER(loss),
    M_NUMBER(loss_epoch),
    M_NUMBER(val_loss),
    M_NUMBER(lr),
    M_NUMBER(weight_decay),
    M_NUMBER(grad_norm),
    M_NUMBER(clip_coef),
    M_NUMBER(tokens_per_second),
    M_NUMBER(seconds_left),
    M_NUMBER(elapsed),
    {NULL, FIELD_INT, 0},
};

static void push_field(lua_State *L, const void *data, const field *f) {
    const char *at = (const char *)data + f->offset;
    if (f->kind == FIELD_INT)
        lua_pushnumber(L, (lua_Number) * (const int64_t *)at);
    else if (f->kind == FIELD_NUMBER)
        lua_pushnumber(L, *(const double *)at);
    else
        lua_pushstring(L, *(const char *const *)at); /* NULL: nil */
}

static const field *find_field(const field *fields, const char *name) {
    for (; fields->name; fields++)
        if (strcmp(fields->name, name) == 0) return fields;
    return NULL;
}

/* -- views ----------------------------------------------------------------------------------------- */

/* What argument 1 looks at; raises when it is something else, or out of its time. */
static void *checked(lua_State *L, const char *type) {
    const view *v = luaL_checkudata(L, 1, type);
    if (v->call != rw_lua_of(L)->call)
        luaL_error(L, rw_message("'%s' was used after its hook returned; keep the numbers you need, not the object"),
                   type + 3);
    return v->data;
}

static int unknown_field(lua_State *L, const char *type, const field *fields, const char *const *methods) {
    const char *names[64];
    int n = 0;
    for (; fields->name; fields++) names[n++] = fields->name;
    for (; *methods; methods++) names[n++] = *methods;
    names[n] = NULL;
    const char *word = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    const char *near = rw_did_you_mean(word, names);
    if (near) return luaL_error(L, rw_message("%s has no field '%s' (did you mean '%s'?)"), type + 3, word, near);
    return luaL_error(L, rw_message("%s has no field '%s'"), type + 3, word);
}

static int read_only(lua_State *L) {
    return luaL_error(L, rw_message("trainer and metrics are read-only; a hook answers with its return value"));
}

/* -- trainer --------------------------------------------------------------------------------------- */

static rw_hook_trainer *checked_self(lua_State *L, const char *method) {
    if (lua_type(L, 1) != LUA_TUSERDATA)
        luaL_error(L, rw_message("call %s with a colon: trainer:%s(...)"), method, method);
    return checked(L, TRAINER);
}

/* trainer:stop(why) */
static int l_stop(lua_State *L) {
    rw_hook_trainer *t = checked_self(L, "stop");
    const char *why = luaL_optstring(L, 2, rw_message("a hook asked for it"));
    t->ask_stop = true;
    rw_printable(t->stop_reason, sizeof t->stop_reason, why);
    return 0;
}

/* Letters, digits, '_', '-' and, but for the first, '.'; so it is a name in one folder. */
static const char *checked_name(lua_State *L, const char *method, size_t limit) {
    size_t n;
    const char *name = luaL_checklstring(L, 2, &n);
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    if (n == 0 || n >= limit || name[0] == '.' || strspn(name, letters) != n)
        luaL_error(L,
                   rw_message("trainer:%s: expected a name of letters, digits, '_', '-' and '.', at most %d, got '%s'"),
                   method, (int)limit - 1, n < 100 ? name : "...");
    return name;
}

/* trainer:save("best"): save-best.pth */
static void add_save_name(lua_State *L, rw_hook_trainer *t) {
    const char *name = checked_name(L, "save", RW_HOOK_SAVE_NAME);
    for (int i = 0; i < t->n_save_names; i++)
        if (strcmp(t->save_names[i], name) == 0) return;
    if (t->n_save_names == RW_HOOK_SAVE_NAMES)
        luaL_error(L, rw_message("trainer:save: more than %d names in one step"), (int)RW_HOOK_SAVE_NAMES);
    snprintf(t->save_names[t->n_save_names++], RW_HOOK_SAVE_NAME, "%s", name);
}

/* trainer:save(), trainer:save(name) */
static int l_save(lua_State *L) {
    rw_hook_trainer *t = checked_self(L, "save");
    if (lua_isnoneornil(L, 2))
        t->ask_save = true;
    else
        add_save_name(L, t);
    return 0;
}

/* trainer:append(file, text): to proj_dir/lua/FILE */
static int l_append(lua_State *L) {
    size_t n;
    rw_hook_trainer *t = checked_self(L, "append");
    const char *name = checked_name(L, "append", 100);
    const char *text = luaL_checklstring(L, 3, &n);
    rw_lua_append_file(L, t->proj_dir, name, text, n);
    return 0;
}

static const struct {
    const char *name;
    lua_CFunction f;
} methods[] = {{"stop", l_stop}, {"save", l_save}, {"append", l_append}};
static const char *const trainer_methods[] = {"stop", "save", "append", NULL};

/* NULL: there is none */
static lua_CFunction find_method(const char *name) {
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(methods[i].name, name) == 0) return methods[i].f;
    return NULL;
}

static int trainer_index(lua_State *L) {
    const rw_hook_trainer *t = checked(L, TRAINER);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    const field *f = find_field(trainer_fields, name);
    const lua_CFunction method = find_method(name);
    if (f)
        push_field(L, t, f);
    else if (method)
        lua_pushcfunction(L, method);
    else
        return unknown_field(L, TRAINER, trainer_fields, trainer_methods);
    return 1;
}

static int trainer_tostring(lua_State *L) {
    const rw_hook_trainer *t = checked(L, TRAINER);
    lua_pushfstring(L, rw_message("trainer (step %d of %d)"), (int)t->step, (int)t->n_steps);
    return 1;
}

/* -- metrics --------------------------------------------------------------------------------------- */

static int metrics_index(lua_State *L) {
    static const char *const none[] = {NULL};
    const rw_hook_metrics *m = checked(L, METRICS);
    const field *f = lua_type(L, 2) == LUA_TSTRING ? find_field(metrics_fields, lua_tostring(L, 2)) : NULL;
    if (!f) return unknown_field(L, METRICS, metrics_fields, none);
    push_field(L, m, f);
    return 1;
}

static int metrics_tostring(lua_State *L) {
    checked(L, METRICS);
    lua_pushliteral(L, "metrics");
    return 1;
}

/* -- making them ----------------------------------------------------------------------------------- */

static void make_metatable(lua_State *L, const char *type, lua_CFunction index, lua_CFunction text) {
    luaL_newmetatable(L, type);
    lua_pushcfunction(L, index);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, read_only);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, text);
    lua_setfield(L, -2, "__tostring");
    lua_pushstring(L, type + 3);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

void rw_lua_open_trainer(lua_State *L) {
    make_metatable(L, TRAINER, trainer_index, trainer_tostring);
    make_metatable(L, METRICS, metrics_index, metrics_tostring);
}

static void push_view(lua_State *L, void *data, const char *type) {
    view *v = lua_newuserdata(L, sizeof *v);
    *v = (view){.data = data, .call = rw_lua_of(L)->call};
    luaL_getmetatable(L, type);
    lua_setmetatable(L, -2);
}

void rw_lua_push_trainer(lua_State *L, rw_hook_trainer *t) {
    push_view(L, t, TRAINER);
}

/* The view never writes, so the const comes back in metrics_index. */
void rw_lua_push_metrics(lua_State *L, const rw_hook_metrics *m) {
    push_view(L, (void *)(uintptr_t)m, METRICS);
}
