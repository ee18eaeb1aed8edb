/* What scripts can reach: the rows of functions.def, copied into a table that is the environment of a script.
 *
 * Left out on purpose: io, debug, package, ffi, jit, load and the like, getfenv and setfenv, string.dump, most of
 * os: whatever touches files, processes, bytecode or the engine's own functions. Chunks are loaded as text only:
 * LuaJIT does not check bytecode.
 *
 * Each hook file has an environment of its own, with its own libraries and its own copies of the modules it requires,
 * and so have the defaults: what one script changes there, no other sees. Methods of strings come from one more table,
 * which nobody can reach.
 *
 * Globals: reading an unknown one gives nil, as always in Lua; assigning one is an error that names the line,
 * because a forgotten `local` is how a hook's state leaks into another's.
 *
 * With `trust` the environment passes everything on to Lua's own globals, libraries and all; only print(), require()
 * and rwkv are ours. */
#include "lua/bind.h"
#include "lua/embedded.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/printable.h"

#include <limits.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 256 /* bytes of a chunk between two looks at the clock */

/* rwkv.message(english): the text in the user's language, if lua/messages.def has it. */
static int l_message(lua_State *L) {
    lua_pushstring(L, rw_message(luaL_checkstring(L, 1)));
    return 1;
}

/* -- chunks ---------------------------------------------------------------------------------------- */

static const struct rw_lua_embedded *find_module(const char *name) {
    for (const struct rw_lua_embedded *e = rw_lua_embedded; e->name; e++)
        if (strcmp(e->name, name) == 0) return e;
    return NULL;
}

bool rw_lua_is_module(const char *name) {
    return find_module(name) != NULL;
}

/* LuaJIT's parser can be slow (the time of a long row of `or` grows with its square), so it gets its text in pieces,
 * and time is looked at before each. */
typedef struct {
    const char *text;
    size_t n;
} rest_of_text;

static const char *next_piece(lua_State *L, void *ctx, size_t *size) {
    rest_of_text *rest = ctx;
    const char *piece = rest->text;
    rw_lua_check_time(L);
    *size = rest->n < PIECE ? rest->n : PIECE;
    rest->text += *size;
    rest->n -= *size;
    return *size ? piece : NULL;
}

/* [] -> [function or error], with the status of Lua. The environment is at index `env`. */
static int compile(lua_State *L, const char *text, size_t n, const char *name, int env) {
    rest_of_text rest = {text, n};
    const int status = lua_loadx(L, next_piece, &rest, name, "t");
    if (status != 0) return status;
    lua_pushvalue(L, env);
    lua_setfenv(L, -2);
    return 0;
}

/* Skips a byte order mark and a first line that begins with '#' (its line end stays, for the line numbers). */
static int64_t skip_head(const char *data, int64_t n) {
    int64_t at = n >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (at < n && data[at] == '#')
        while (at < n && data[at] != '\n') at++;
    return at;
}

/* Reads and compiles a file. Nothing of ours is held while Lua may raise. [] -> [function] */
static void load_file(lua_State *L, const char *path, int env) {
    char shown[PATH_MAX]; /* a newline in the path must begin no line of a traceback */
    rw_printable(shown, sizeof shown, path);
    lua_pushfstring(L, "@%s", shown);
    const char *name = lua_tostring(L, -1);
    char *data = NULL;
    int64_t n = 0;
    rw_error error = {0};
    if (rw_file_slurp(path, RW_LUA_FILE_LIMIT, &data, &n, &error) != RW_OK) {
        char text[600];
        rw_error_format(&error, text, sizeof text);
        rw_error_clear(&error);
        luaL_error(L, "%s", text);
    }
    const int64_t head = skip_head(data, n);
    const bool compiled = head < n && data[head] == '\033';
    const int status = compile(L, data + head, (size_t)(n - head), name, env);
    rw_free(data);
    if (compiled) luaL_error(L, rw_message("this is compiled code; only scripts in text form are loaded"));
    if (status != 0) lua_error(L);
    lua_remove(L, -2);
}

/* The folder of a file into `root`. */
static void folder_of(lua_State *L, const char *path, char root[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    const size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    if (n >= PATH_MAX) luaL_error(L, rw_message("the path is too long"));
    memcpy(root, n ? path : ".", n ? n : 1);
    root[n ? n : 1] = '\0';
}

void rw_lua_load_file(lua_State *L, const char *path) {
    char root[PATH_MAX];
    folder_of(L, path, root);
    rw_lua_push_environment(L, root);
    load_file(L, path, lua_gettop(L));
    lua_remove(L, -2);
}

/* -- require --------------------------------------------------------------------------------------- */

/* "a.b" -> "a/b": letters, digits, '_' and '-' between single dots; so no name leads upwards. */
static void module_path(lua_State *L, const char *name, char *path, size_t size) {
    size_t n = 0;
    for (; name[n]; n++) {
        const char c = name[n];
        const bool word =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
        const bool dot = c == '.' && n > 0 && name[n - 1] != '.' && name[n + 1] != '\0';
        if (n + 1 >= size || !(word || dot))
            luaL_error(L, rw_message("require '%s': expected a name such as 'rwkv.schedule' or 'lib.words'"), name);
        path[n] = dot ? '/' : c;
    }
    if (n == 0) luaL_error(L, rw_message("require: the name is empty"));
    path[n] = '\0';
}

/* A link must not lead out of the folder. */
static bool is_inside(const char *path, const char *root) {
    char real_path[PATH_MAX], real_root[PATH_MAX];
    if (!realpath(path, real_path) || !realpath(root, real_root)) return false;
    const size_t n = strlen(real_root);
    return strncmp(real_path, real_root, n) == 0 && (real_path[n] == '/' || (n == 1 && real_root[0] == '/'));
}

/* What require() of an environment knows, as upvalues of it; while it runs, at these indices of its stack too. */
enum { REQUIRE_NAME = 1, REQUIRE_ENV, REQUIRE_LOADED, REQUIRE_ROOT, REQUIRE_LIBRARY };

/* [] -> [function], or [] and false: a file of the root, which is nil where there is none. */
static bool load_beside(lua_State *L, const char *name) {
    const char *root = lua_tostring(L, REQUIRE_ROOT);
    char rel[256], path[PATH_MAX];
    module_path(L, name, rel, sizeof rel);
    if (!root) return false;
    const bool here = strcmp(root, ".") == 0;
    const int n = snprintf(path, sizeof path, "%s%s%s.lua", here ? "" : root, here ? "" : "/", rel);
    if (n < 0 || (size_t)n >= sizeof path || !rw_exists(path)) return false;
    if (!is_inside(path, root))
        luaL_error(L, rw_message("require '%s': %s is outside the folder of the recipe's scripts"), name, path);
    load_file(L, path, REQUIRE_ENV);
    return true;
}

/* [] -> [function] */
static void load_module(lua_State *L, const struct rw_lua_embedded *e) {
    char name[128];
    snprintf(name, sizeof name, "=%s.lua", e->name);
    for (char *c = name; *c; c++)
        if (*c == '.' && strcmp(c, ".lua") != 0) *c = '/';
    if (compile(L, e->text, e->n, name, REQUIRE_ENV) != 0) lua_error(L);
}

/* loaded[name] = a mark while it runs, then what it returned. [function] -> [result] */
static void run_module(lua_State *L, const char *name) {
    lua_pushlightuserdata(L, (void *)&rw_lua_embedded);
    lua_setfield(L, REQUIRE_LOADED, name);
    lua_call(L, 0, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, REQUIRE_LOADED, name);
}

/* [] -> [module] when it was required before. */
static bool push_loaded(lua_State *L, const char *name) {
    lua_getfield(L, REQUIRE_LOADED, name);
    if (lua_islightuserdata(L, -1))
        luaL_error(L, rw_message("require '%s': it requires itself, or failed before"), name);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

/* Lua's own require, with trust. */
static int require_library(lua_State *L, const char *name) {
    if (lua_isnil(L, REQUIRE_LIBRARY))
        return luaL_error(L, rw_message("require '%s': neither a module of this program nor a file beside this script"),
                          name);
    lua_pushvalue(L, REQUIRE_LIBRARY);
    lua_pushvalue(L, REQUIRE_NAME);
    lua_call(L, 1, 1);
    return 1;
}

/* require(name). Which folder it looks in is known from its upvalues, not from who calls: a tail call, as in
 * `return require("lib.x")`, leaves no caller on the stack. */
static int l_require(lua_State *L) {
    rw_lua_check_call(L);
    const char *name = luaL_checkstring(L, 1);
    lua_settop(L, 1);
    for (int i = REQUIRE_ENV; i <= REQUIRE_LIBRARY; i++) lua_pushvalue(L, lua_upvalueindex(i - 1));
    if (push_loaded(L, name)) return 1;
    const struct rw_lua_embedded *e = find_module(name);
    if (e)
        load_module(L, e);
    else if (!load_beside(L, name))
        return require_library(L, name);
    run_module(L, name);
    return 1;
}

void rw_lua_push_module(lua_State *L, int env, const char *name) {
    lua_getfield(L, env, "require");
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
}

/* -- the environment ------------------------------------------------------------------------------- */

static int undeclared_global(lua_State *L) {
    char name[64] = "?";
    if (lua_type(L, 2) == LUA_TSTRING) snprintf(name, sizeof name, "%.60s", lua_tostring(L, 2));
    return luaL_error(L, rw_message("assignment to undeclared global '%s'; write 'local %s'"), name, name);
}

static void open_library(lua_State *L, lua_CFunction open, const char *name) {
    lua_pushcfunction(L, open);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

/* Into Lua's own globals, from where environments copy. */
static void open_libraries(lua_State *L, bool jit) {
    open_library(L, luaopen_base, "");
    open_library(L, luaopen_string, LUA_STRLIBNAME);
    open_library(L, luaopen_table, LUA_TABLIBNAME);
    open_library(L, luaopen_math, LUA_MATHLIBNAME);
    open_library(L, luaopen_os, LUA_OSLIBNAME);
    open_library(L, luaopen_bit, LUA_BITLIBNAME);
    if (jit) open_library(L, luaopen_jit, LUA_JITLIBNAME);
}

typedef struct {
    const char *library, *name;
    lua_CFunction own; /* NULL: Lua's own */
} function_row;

static const function_row functions[] = {
#define RW_LIBRARY(library, name, bound) {#library, #name, NULL},
#define RW_OWN(library, name, bound)     {#library, #name, rw_lua_##library##_##name},
#include "lua/functions.def"
#undef RW_LIBRARY
#undef RW_OWN
};

/* [] -> [Lua's table of this library] */
static void push_library(lua_State *L, const char *library) {
    if (strcmp(library, "base") == 0)
        lua_pushvalue(L, LUA_GLOBALSINDEX);
    else
        lua_getglobal(L, library);
}

/* [into] -> [into], with what the rows of this library name */
static void copy_functions(lua_State *L, const char *library) {
    push_library(L, library); /* [into, from] */
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (strcmp(functions[i].library, library) != 0) continue;
        lua_getfield(L, -1, functions[i].name);
        if (functions[i].own) lua_pushcclosure(L, functions[i].own, 1);
        lua_setfield(L, -3, functions[i].name);
    }
    lua_pop(L, 1);
}

/* [env] -> [env] */
static void add_libraries(lua_State *L) {
    static const char *const libraries[] = {"coroutine", "string", "table", "math", "os", "bit"};
    copy_functions(L, "base");
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        lua_newtable(L);
        copy_functions(L, libraries[i]);
        lua_setfield(L, -2, libraries[i]);
    }
}

/* ("text"):method() finds the sandbox's functions, and the metatable itself is out of reach. */
static void set_string_metatable(lua_State *L) {
    lua_pushliteral(L, "");
    lua_newtable(L);
    lua_newtable(L);
    copy_functions(L, "string");
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "string");
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

/* [env] -> [env] */
static void forbid_new_globals(lua_State *L) {
    lua_newtable(L);
    lua_pushcfunction(L, undeclared_global);
    lua_setfield(L, -2, "__newindex");
    lua_pushliteral(L, "globals");
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}

/* With trust: what is not in the environment is in Lua's globals. [env] -> [env] */
static void pass_on_to_globals(lua_State *L) {
    lua_newtable(L);
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
}

/* rwkv.version, rwkv.log(...), rwkv.message(text), print(...). [env] -> [env, rwkv] */
static void add_rwkv(lua_State *L) {
    lua_getfield(L, -1, "tostring");
    lua_pushcclosure(L, rw_lua_print, 1);
    lua_newtable(L); /* [env, print, rwkv] */
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "log");
    lua_pushcfunction(L, l_message);
    lua_setfield(L, -2, "message");
    lua_pushliteral(L, RW_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "rwkv");
    lua_insert(L, -2);
    lua_setfield(L, -3, "print");
}

/* [env, rwkv] -> [env] */
static void add_require(lua_State *L, const char *root) {
    lua_pushvalue(L, -2);
    lua_newtable(L); /* [env, rwkv, env, loaded] */
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "rwkv");
    if (root)
        lua_pushstring(L, root);
    else
        lua_pushnil(L);
    lua_getglobal(L, "require"); /* nil without trust */
    lua_pushcclosure(L, l_require, 4);
    lua_setfield(L, -3, "require");
    lua_pop(L, 1);
}

void rw_lua_push_environment(lua_State *L, const char *root) {
    const bool trust = rw_lua_of(L)->plan->trust;
    lua_newtable(L);
    if (trust) {
        pass_on_to_globals(L);
    } else {
        lua_pushvalue(L, -1);
        lua_setfield(L, -2, "_G");
        add_libraries(L);
    }
    add_rwkv(L);
    add_require(L, root);
    if (!trust) forbid_new_globals(L);
}

void rw_lua_open_sandbox(lua_State *L, const rw_plan_lua *plan) {
    if (plan->trust) {
        luaL_openlibs(L);
        return;
    }
    open_libraries(L, plan->jit);
    set_string_metatable(L);
}
