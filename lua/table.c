/* table.sort, table.insert and pairs for the sandbox.
 *
 * sort is a heap sort: n log n for any input and any comparison, where the library's quicksort can be driven to
 * n^2 inside one C call.
 *
 * pairs visits numbers in their order, then texts in theirs, then the rest. Lua's own order of texts hangs on a
 * random number of each process, and a hook that adds up a table in another order gives other bits. Keys that
 * appear during the loop are not visited; keys that disappear neither. Limit: keys that are tables or functions
 * come in Lua's order. */
#include "lua/bind.h"

#include <limits.h>

/* -- sort ------------------------------------------------------------------------------------------ */

/* Is t[a] < t[b]? [t, compare or nil] */
static bool is_less(lua_State *L, int a, int b) {
    bool less;
    if (lua_isnil(L, 2)) {
        lua_rawgeti(L, 1, a);
        lua_rawgeti(L, 1, b);
        less = lua_lessthan(L, -2, -1);
        lua_pop(L, 2);
    } else {
        lua_pushvalue(L, 2);
        lua_rawgeti(L, 1, a);
        lua_rawgeti(L, 1, b);
        lua_call(L, 2, 1);
        less = lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    return less;
}

static void swap(lua_State *L, int a, int b) {
    lua_rawgeti(L, 1, a);
    lua_rawgeti(L, 1, b);
    lua_rawseti(L, 1, a);
    lua_rawseti(L, 1, b);
}

static void sift_down(lua_State *L, int root, int n) {
    for (int child = 2 * root; child <= n; child = 2 * root) {
        if (child < n && is_less(L, child, child + 1)) child++;
        if (!is_less(L, root, child)) return;
        swap(L, root, child);
        root = child;
    }
}

int rw_lua_table_sort(lua_State *L) {
    rw_lua_check_call(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    const size_t len = lua_objlen(L, 1);
    if (len > INT_MAX / 2) return luaL_error(L, "table too large to sort");
    const int n = (int)len;
    for (int i = n / 2; i >= 1; i--) {
        if (i % 256 == 0) rw_lua_check_time(L);
        sift_down(L, i, n);
    }
    for (int end = n; end > 1; end--) {
        if (end % 256 == 0) rw_lua_check_time(L);
        swap(L, 1, end);
        sift_down(L, 1, end - 1);
    }
    return 0;
}

/* -- insert ---------------------------------------------------------------------------------------- */

/* Moves t[position..n] up by one. A hostile length or position makes this long, not endless. */
static void make_room(lua_State *L, int position, int n) {
    for (int i = n; i >= position; i--) {
        if (i % 256 == 0) rw_lua_check_time(L);
        lua_rawgeti(L, 1, i);
        lua_rawseti(L, 1, i + 1);
    }
}

/* insert(t, value), insert(t, position, value) */
int rw_lua_table_insert(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const int n_args = lua_gettop(L);
    const size_t len = lua_objlen(L, 1);
    if (len >= INT_MAX) return luaL_error(L, "table too large to insert");
    if (n_args != 2 && n_args != 3) return luaL_error(L, "wrong number of arguments to 'insert'");
    const int n = (int)len;
    const int position = n_args == 3 ? luaL_checkint(L, 2) : n + 1;
    make_room(L, position, n);
    lua_rawseti(L, 1, position);
    return 0;
}

/* -- pairs ----------------------------------------------------------------------------------------- */

static int rank_of(lua_State *L, int index) {
    const int type = lua_type(L, index);
    return type == LUA_TNUMBER ? 0 : type == LUA_TSTRING ? 1 : type == LUA_TBOOLEAN ? 2 : 3;
}

/* [..., a, b] */
static bool key_less(lua_State *L) {
    const int a = rank_of(L, -2), b = rank_of(L, -1);
    if (a != b) return a < b;
    return a < 2 && lua_lessthan(L, -2, -1);
}

/* The comparison for sort. [a, b] */
static int l_key_less(lua_State *L) {
    lua_pushboolean(L, key_less(L));
    return 1;
}

/* [t] -> [t, keys]. Returns whether they came in order already, as those of arrays do. */
static bool push_keys(lua_State *L) {
    bool in_order = true;
    lua_newtable(L);
    lua_pushnil(L);
    for (int n = 1; lua_next(L, 1); n++) {
        if (n % 16 == 0) rw_lua_check_time(L); /* keys with the same hash make each one slow to find again */
        lua_pop(L, 1);                         /* [t, keys, key] */
        if (in_order && n > 1) {
            lua_pushvalue(L, -1);
            lua_rawgeti(L, 2, n - 1);
            in_order = !key_less(L); /* [.., key, the one before] */
            lua_pop(L, 2);
        }
        lua_pushvalue(L, -1);
        lua_rawseti(L, 2, n);
    }
    return in_order;
}

/* upvalues: the keys, how many were visited. [t, ...] */
static int pairs_next(lua_State *L) {
    for (int i = (int)lua_tointeger(L, lua_upvalueindex(2)) + 1;; i++) {
        lua_settop(L, 1);
        lua_rawgeti(L, lua_upvalueindex(1), i);
        if (lua_isnil(L, -1)) return 1;
        lua_pushvalue(L, -1);
        lua_rawget(L, 1);
        if (lua_isnil(L, -1)) continue; /* removed on the way */
        lua_pushinteger(L, i);
        lua_replace(L, lua_upvalueindex(2));
        return 2;
    }
}

int rw_lua_base_pairs(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (!push_keys(L)) {
        lua_pushcfunction(L, rw_lua_table_sort);
        lua_pushvalue(L, 2);
        lua_pushcfunction(L, l_key_less);
        lua_call(L, 2, 0);
    }
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_next, 2);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}
