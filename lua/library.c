/* Our versions of those functions of Lua's libraries that a script could use to overflow the C stack or to loop where
 * nothing interrupts; functions.def lists all that scripts can reach. Also print(), which has an end here.
 *
 * Which functions need one: a C function that calls back into Lua uses C stack, and LuaJIT counts no depth there. It
 * looks at the stack itself (rw_lua_check_call) when what it calls may again be such a function. */
#include "lua/bind.h"

#include "core/base/log.h"
#include "core/base/thread.h"

#include <string.h>

#define PRINT_AT_ONCE     (1 << 20)
#define PRINT_A_SECOND    (16 << 10)
#define DATE_FORMAT_LIMIT 200 /* bytes; strftime takes microseconds for each, and the library tries four times */

/* -- base ------------------------------------------------------------------------------------------ */

int rw_lua_base_tostring(lua_State *L) {
    luaL_checkany(L, 1);
    rw_lua_check_call(L);
    lua_settop(L, 1);
    if (!luaL_getmetafield(L, 1, "__tostring")) lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

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

/* xpcall(f, handler, ...) */
int rw_lua_base_xpcall(lua_State *L) {
    rw_lua_check_call(L);
    luaL_checkany(L, 2);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, call_handler, 1);
    lua_replace(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

int rw_lua_base_collectgarbage(lua_State *L) {
    static const char *const names[] = {"collect", "count", "step", NULL};
    const int what = luaL_checkoption(L, 1, "collect", names);
    rw_lua_check_time(L);
    if (what == 1)
        lua_pushnumber(L, (lua_Number)rw_lua_bytes(rw_lua_of(L)) / 1024);
    else
        lua_pushinteger(L, lua_gc(L, what == 0 ? LUA_GCCOLLECT : LUA_GCSTEP, 0));
    return 1;
}

/* -- coroutine ------------------------------------------------------------------------------------- */

/* May it be resumed? NULL: yes; else what to say. */
static const char *why_not(lua_State *L, lua_State *co) {
    lua_Debug ar;
    if (co == L) return "cannot resume non-suspended coroutine";
    if (lua_status(co) == LUA_YIELD) return NULL;
    if (lua_status(co) != 0) return "cannot resume dead coroutine";
    if (lua_getstack(co, 0, &ar)) return "cannot resume non-suspended coroutine"; /* it resumed another */
    return lua_gettop(co) == 0 ? "cannot resume dead coroutine" : NULL;
}

/* The top n_args values go to the coroutine. Returns how many results are on top, or -1: an error is. */
static int resume(lua_State *L, lua_State *co, int n_args) {
    rw_lua_check_call(L);
    const char *why = why_not(L, co);
    if (!why && !lua_checkstack(co, n_args)) why = "too many arguments to resume";
    if (why) {
        lua_pushstring(L, why);
        return -1;
    }
    lua_xmove(L, co, n_args);
    const int status = lua_resume(co, n_args);
    if (status != 0 && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    const int n = lua_gettop(co);
    luaL_checkstack(L, n + 1, "too many results to resume");
    lua_xmove(co, L, n);
    return n;
}

/* resume(co, ...) -> true, ... or false, error */
int rw_lua_coroutine_resume(lua_State *L) {
    lua_State *co = lua_tothread(L, 1);
    luaL_argcheck(L, co, 1, "coroutine expected");
    const int n = resume(L, co, lua_gettop(L) - 1);
    const int n_results = n < 0 ? 1 : n;
    lua_pushboolean(L, n >= 0);
    lua_insert(L, -1 - n_results);
    return n_results + 1;
}

/* upvalue 1: the coroutine */
static int call_wrapped(lua_State *L) {
    const int n = resume(L, lua_tothread(L, lua_upvalueindex(1)), lua_gettop(L));
    return n < 0 ? lua_error(L) : n;
}

int rw_lua_coroutine_wrap(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, call_wrapped, 1);
    return 1;
}

/* -- os -------------------------------------------------------------------------------------------- */

/* date([format [, time]]) */
int rw_lua_os_date(lua_State *L) {
    size_t n = 0;
    luaL_optlstring(L, 1, "", &n);
    luaL_optnumber(L, 2, 0);
    if (n > DATE_FORMAT_LIMIT)
        return luaL_error(L, rw_message("os.date: the format may have %d bytes, got %d"), DATE_FORMAT_LIMIT, (int)n);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

/* time([table]): from a copy, because the library's own would call an __index. */
int rw_lua_os_time(lua_State *L) {
    static const char *const fields[] = {"year", "month", "day", "hour", "min", "sec", "isdst"};
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    if (lua_isnil(L, 1)) {
        lua_call(L, 0, 1);
        return 1;
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_newtable(L); /* [t, time, copy] */
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        lua_pushstring(L, fields[i]);
        lua_rawget(L, 1);
        lua_setfield(L, 3, fields[i]);
    }
    lua_call(L, 1, 1);
    return 1;
}

/* -- print ----------------------------------------------------------------------------------------- */

/* Replaces control characters, which could steer a terminal. In place. */
static void make_printable(char *text) {
    for (; *text; text++)
        if (((unsigned char)*text < 32 && *text != '\t' && *text != '\n') || *text == 127) *text = '?';
}

/* A log that a script fills is somebody's disk: 1 MiB, and 16 KiB more for each second of the run. Scripts without a
 * limit of time are the user's own. */
static bool may_print(rw_lua *lua, size_t n) {
    const int64_t seconds = (rw_now_ns() - lua->begun_ns) / 1000000000;
    if (lua->plan->budget_ms <= 0 || lua->plan->trust) return true;
    if (lua->printed + (int64_t)n > PRINT_AT_ONCE + seconds * PRINT_A_SECOND) {
        if (lua->left_out++ == 0)
            rw_warn("the scripts print more than %d KiB and %d KiB a second; what is beyond that is left out",
                    PRINT_AT_ONCE >> 10, PRINT_A_SECOND >> 10);
        return false;
    }
    lua->printed += (int64_t)n;
    if (lua->left_out > 0) rw_info("(%lld lines of print were left out)", (long long)lua->left_out);
    lua->left_out = 0;
    return true;
}

/* Arguments as print() shows them, to the log. upvalue 1: tostring */
int rw_lua_print(lua_State *L) {
    char line[2000];
    size_t used = 0;
    const int n = lua_gettop(L);
    rw_lua_check_call(L);
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
    if (may_print(rw_lua_of(L), used + 1)) rw_info("%s", line);
    return 0;
}
