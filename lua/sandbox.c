/* What scripts can reach: an allow-list, copied into a table that is the environment of every chunk.
 *
 * Left out on purpose: io, debug, package, ffi, jit, load and the like, getfenv and setfenv, string.dump, most of
 * os: whatever touches files, processes, bytecode or the engine's own functions. Functions whose time can grow
 * faster than what they touch are our own (pattern.c, table.c); the others are linear, so bounded by the memory.
 * Chunks are loaded as text only: LuaJIT does not check bytecode.
 *
 * Globals: reading an unknown one gives nil, as always in Lua; assigning one is an error that names the line,
 * because a forgotten `local` is how a hook's state leaks into another's.
 *
 * With `trust` the environment is Lua's own, libraries and all; only require() also finds our modules. */
#include "lua/bind.h"
#include "lua/embedded.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/printable.h"

#include <limits.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* keys of the registry */
#define ENVIRONMENT "rw.environment"
#define LOADED      "rw.loaded"
#define ROOTS       "rw.roots" /* chunk name -> folder of its require() */

/* -- our own versions of library functions --------------------------------------------------------- */

/* upvalue 1: the handler a script gave to xpcall. Once time is up it is not called: no hook fires while an error
 * that a hook raised is handled, so a handler that loops could not be stopped. */
static int call_handler(lua_State *L) {
    if (!rw_lua_watchdog_expired(&rw_lua_of(L)->watchdog)) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 1);
        lua_call(L, lua_gettop(L) - 1, 1);
    }
    return 1;
}

/* xpcall(f, handler, ...); upvalue 1: Lua's own */
static int l_xpcall(lua_State *L) {
    luaL_checkany(L, 2);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, call_handler, 1);
    lua_replace(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* Replaces control characters, which could steer a terminal. In place. */
static void make_printable(char *text) {
    for (; *text; text++)
        if (((unsigned char)*text < 32 && *text != '\t' && *text != '\n') || *text == 127) *text = '?';
}

/* Arguments as print() shows them, to the log. upvalue 1: tostring */
static int l_print(lua_State *L) {
    char line[2000];
    size_t used = 0;
    const int n = lua_gettop(L);
    for (int i = 1; i <= n; i++) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        size_t len = 0;
        const char *text = lua_tolstring(L, -1, &len);
        if (!text) return luaL_error(L, rw_message("'tostring' must return a string"));
        if (i > 1 && used < sizeof line - 1) line[used++] = '\t';
        if (len > sizeof line - 1 - used) len = sizeof line - 1 - used;
        memcpy(line + used, text, len);
        used += len;
        lua_pop(L, 1);
    }
    line[used] = '\0';
    make_printable(line);
    rw_info("%s", line);
    return 0;
}

/* rwkv.message(english): the text in the user's language, if lua/messages.def has it. */
static int l_message(lua_State *L) {
    lua_pushstring(L, rw_message(luaL_checkstring(L, 1)));
    return 1;
}

static int l_collectgarbage(lua_State *L) {
    static const char *const names[] = {"collect", "count", "step", NULL};
    const int what = luaL_checkoption(L, 1, "collect", names);
    rw_lua_check_time(L);
    if (what == 1)
        lua_pushnumber(L, (lua_Number)rw_lua_bytes(rw_lua_of(L)) / 1024);
    else
        lua_pushinteger(L, lua_gc(L, what == 0 ? LUA_GCCOLLECT : LUA_GCSTEP, 0));
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

/* [function] -> [function], with the environment of scripts */
static void set_environment(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, ENVIRONMENT);
    lua_setfenv(L, -2);
}

void rw_lua_load_text(lua_State *L, const char *text, size_t n, const char *name, const char *root) {
    if (root) {
        lua_getfield(L, LUA_REGISTRYINDEX, ROOTS);
        lua_pushstring(L, root);
        lua_setfield(L, -2, name);
        lua_pop(L, 1);
    }
    if (luaL_loadbufferx(L, text, n, name, "t") != 0) lua_error(L);
    set_environment(L);
}

/* Skips a byte order mark and a first line that begins with '#' (its line end stays, for the line numbers). */
static int64_t skip_head(const char *data, int64_t n) {
    int64_t at = n >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (at < n && data[at] == '#')
        while (at < n && data[at] != '\n') at++;
    return at;
}

/* Reads and compiles a file. Nothing of ours is held while Lua may raise. [] -> [function] */
static void load_file(lua_State *L, const char *path, const char *root) {
    char shown[PATH_MAX]; /* a newline in the path must begin no line of a traceback */
    rw_printable(shown, sizeof shown, path);
    lua_pushfstring(L, "@%s", shown);
    const char *name = lua_tostring(L, -1);
    lua_getfield(L, LUA_REGISTRYINDEX, ROOTS);
    lua_pushstring(L, root);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);

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
    const int status = luaL_loadbufferx(L, data + head, (size_t)(n - head), name, "t");
    rw_free(data);
    if (compiled) luaL_error(L, rw_message("this is compiled code; only scripts in text form are loaded"));
    if (status != 0) lua_error(L);
    set_environment(L);
    lua_remove(L, -2);
}

void rw_lua_load_file(lua_State *L, const char *path) {
    char root[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof root) {
        luaL_error(L, rw_message("the path is too long"));
        return;
    }
    memcpy(root, path, n);
    root[n] = '\0';
    load_file(L, path, slash ? (n ? root : "/") : ".");
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

/* The folder of the script that calls require; NULL: none calls. */
static const char *caller_root(lua_State *L) {
    lua_Debug ar;
    const char *root = NULL;
    lua_getfield(L, LUA_REGISTRYINDEX, ROOTS);
    for (int level = 1; !root && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "S", &ar);
        lua_getfield(L, -1, ar.source);
        root = lua_tostring(L, -1); /* the table keeps it */
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return root;
}

/* A link must not lead out of the folder. */
static bool is_inside(const char *path, const char *root) {
    char real_path[PATH_MAX], real_root[PATH_MAX];
    if (!realpath(path, real_path) || !realpath(root, real_root)) return false;
    const size_t n = strlen(real_root);
    return strncmp(real_path, real_root, n) == 0 && (real_path[n] == '/' || (n == 1 && real_root[0] == '/'));
}

/* [] -> [function] or [] and false. */
static bool load_beside(lua_State *L, const char *name) {
    const char *root = caller_root(L);
    char rel[256], path[PATH_MAX];
    module_path(L, name, rel, sizeof rel);
    if (!root) return false;
    const bool here = strcmp(root, ".") == 0;
    const int n = snprintf(path, sizeof path, "%s%s%s.lua", here ? "" : root, here ? "" : "/", rel);
    if (n < 0 || (size_t)n >= sizeof path || !rw_exists(path)) return false;
    if (!is_inside(path, root))
        luaL_error(L, rw_message("require '%s': %s is outside the folder of the recipe's scripts"), name, path);
    load_file(L, path, root);
    return true;
}

static void load_module(lua_State *L, const struct rw_lua_embedded *e) {
    char name[128];
    snprintf(name, sizeof name, "=%s.lua", e->name);
    for (char *c = name; *c; c++)
        if (*c == '.' && strcmp(c, ".lua") != 0) *c = '/';
    rw_lua_load_text(L, e->text, e->n, name, NULL);
}

/* LOADED[name] = true while it runs, then what it returned. [function] -> [result] */
static void run_module(lua_State *L, const char *name) {
    lua_getfield(L, LUA_REGISTRYINDEX, LOADED);
    lua_pushlightuserdata(L, (void *)&rw_lua_embedded);
    lua_setfield(L, -2, name);
    lua_insert(L, -2);
    lua_call(L, 0, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, name);
    lua_remove(L, -2);
}

/* [] -> [module] when it was required before. */
static bool push_loaded(lua_State *L, const char *name) {
    lua_getfield(L, LUA_REGISTRYINDEX, LOADED);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    if (lua_islightuserdata(L, -1))
        luaL_error(L, rw_message("require '%s': it requires itself, or failed before"), name);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

void rw_lua_push_module(lua_State *L, const char *name) {
    if (push_loaded(L, name)) return;
    const struct rw_lua_embedded *e = find_module(name);
    if (!e) luaL_error(L, rw_message("there is no module '%s' in this program"), name);
    load_module(L, e);
    run_module(L, name);
}

/* upvalue 1: Lua's own require, with trust; nil without */
static int l_require(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    if (push_loaded(L, name)) return 1;
    const struct rw_lua_embedded *e = find_module(name);
    if (e)
        load_module(L, e);
    else if (!load_beside(L, name)) {
        if (lua_isnil(L, lua_upvalueindex(1)))
            return luaL_error(
                L, rw_message("require '%s': neither a module of this program nor a file beside this script"), name);
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    run_module(L, name);
    return 1;
}

/* -- the environment ------------------------------------------------------------------------------- */

static int undeclared_global(lua_State *L) {
    char name[64] = "?";
    if (lua_type(L, 2) == LUA_TSTRING) snprintf(name, sizeof name, "%.60s", lua_tostring(L, 2));
    return luaL_error(L, rw_message("assignment to undeclared global '%s'; write 'local %s'"), name, name);
}

/* Copies the named fields of the global `library` (NULL: of the globals). [env] -> [env]; `into` a field of it */
static void allow(lua_State *L, const char *library, const char *const *names) {
    if (library) {
        lua_newtable(L);
        lua_getglobal(L, library);
    } else {
        lua_pushvalue(L, -1);
        lua_pushvalue(L, LUA_GLOBALSINDEX);
    }
    for (; *names; names++) {
        lua_getfield(L, -1, *names);
        lua_setfield(L, -3, *names);
    }
    lua_pop(L, 1);
    if (library)
        lua_setfield(L, -2, library);
    else
        lua_pop(L, 1);
}

static void open_library(lua_State *L, lua_CFunction open, const char *name) {
    lua_pushcfunction(L, open);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

static void open_libraries(lua_State *L, bool jit) {
    open_library(L, luaopen_base, "");
    open_library(L, luaopen_string, LUA_STRLIBNAME);
    open_library(L, luaopen_table, LUA_TABLIBNAME);
    open_library(L, luaopen_math, LUA_MATHLIBNAME);
    open_library(L, luaopen_os, LUA_OSLIBNAME);
    open_library(L, luaopen_bit, LUA_BITLIBNAME);
    if (jit) open_library(L, luaopen_jit, LUA_JITLIBNAME);
}

/* [env] -> [env] */
static void allow_all(lua_State *L) {
    static const char *const base[] = {"assert",   "error",  "getmetatable", "ipairs", "next",         "pcall",
                                       "rawequal", "rawget", "rawset",       "select", "setmetatable", "tonumber",
                                       "tostring", "type",   "unpack",       "xpcall", "_VERSION",     NULL};
    static const char *const coroutine[] = {"create", "resume", "running", "status", "wrap", "yield", NULL};
    static const char *const string[] = {"byte", "char",    "format", "len",   "lower",
                                         "rep",  "reverse", "sub",    "upper", NULL};
    static const char *const table[] = {"concat", "insert", "maxn", "remove", NULL};
    static const char *const math[] = {"abs",        "acos", "asin",  "atan", "atan2", "ceil", "cos",   "cosh",
                                       "deg",        "exp",  "floor", "fmod", "frexp", "huge", "ldexp", "log",
                                       "log10",      "max",  "min",   "modf", "pi",    "pow",  "rad",   "random",
                                       "randomseed", "sin",  "sinh",  "sqrt", "tan",   "tanh", NULL};
    static const char *const os[] = {"clock", "date", "difftime", "time", NULL};
    static const char *const bit[] = {"arshift", "band", "bnot",   "bor",   "bswap", "bxor", "lshift",
                                      "rol",     "ror",  "rshift", "tobit", "tohex", NULL};
    allow(L, NULL, base);
    allow(L, "coroutine", coroutine);
    allow(L, "string", string);
    allow(L, "table", table);
    allow(L, "math", math);
    allow(L, "os", os);
    allow(L, "bit", bit);
}

/* Replaces what our own code does better bounded. [env] -> [env] */
static void add_own(lua_State *L) {
    lua_getfield(L, -1, "string");
    rw_lua_add_patterns(L);
    lua_pop(L, 1);
    rw_lua_add_tables(L);
    lua_getfield(L, -1, "xpcall");
    lua_pushcclosure(L, l_xpcall, 1);
    lua_setfield(L, -2, "xpcall");
    lua_pushcfunction(L, l_collectgarbage);
    lua_setfield(L, -2, "collectgarbage");
}

/* ("text"):method() finds the sandbox's functions, and the metatable itself is out of reach. [env] -> [env] */
static void set_string_metatable(lua_State *L) {
    lua_pushliteral(L, "");
    lua_newtable(L);
    lua_getfield(L, -3, "string");
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

/* rwkv.version, rwkv.log(...), rwkv.message(text), print(...), require(name). [env] -> [env] */
static void add_rwkv(lua_State *L) {
    lua_getglobal(L, "require"); /* nil without package */
    lua_pushcclosure(L, l_require, 1);
    lua_setfield(L, -2, "require");
    lua_getglobal(L, "tostring");
    lua_pushcclosure(L, l_print, 1);
    lua_newtable(L);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "log");
    lua_pushcfunction(L, l_message);
    lua_setfield(L, -2, "message");
    lua_pushliteral(L, RW_VERSION);
    lua_setfield(L, -2, "version");
    lua_setfield(L, -3, "rwkv");
    lua_setfield(L, -2, "print");
}

/* [] -> [env] */
static void push_sandbox(lua_State *L, bool jit) {
    open_libraries(L, jit);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "_G");
    allow_all(L);
    add_own(L);
    set_string_metatable(L);
}

void rw_lua_open_sandbox(lua_State *L, const rw_plan_lua *plan) {
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, LOADED);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, ROOTS);
    if (plan->trust) {
        luaL_openlibs(L);
        lua_pushvalue(L, LUA_GLOBALSINDEX);
    } else
        push_sandbox(L, plan->jit);
    add_rwkv(L);
    lua_getfield(L, -1, "rwkv");
    lua_getfield(L, LUA_REGISTRYINDEX, LOADED);
    lua_insert(L, -2);
    lua_setfield(L, -2, "rwkv");
    lua_pop(L, 1);
    if (!plan->trust) forbid_new_globals(L);
    lua_setfield(L, LUA_REGISTRYINDEX, ENVIRONMENT);
}
