/* What hooks remember, as JSON: state_dict() gives a table, load_state_dict() gets it back.
 *
 *   boolean, string (UTF-8)        the same
 *   number                         a number that reads back to the same bits; what JSON lacks: {"$number": "inf"}
 *   table with keys 1 to n         an array
 *   table with strings as keys     an object, its keys in order; so is the empty table
 *
 * All else is an error that says what it is. Limits: 20 levels, 1 MiB. */
#include "lua/bind.h"

#include <math.h>
#include <string.h>

#define MAX_LEVELS   20
#define MEMORY_LIMIT (1 << 20)
#define NUMBER_KEY   "$number"

/* -- out -------------------------------------------------------------------------------------------- */

static void append_value(lua_State *L, rw_str *out, int level);

static void append_number(double x, rw_str *out) {
    if (x == 0 && signbit(x))
        rw_str_append(out, "-0.0"); /* "-0" would come back as the integer 0 */
    else if (isfinite(x))
        rw_json_append_number(out, x);
    else
        rw_str_appendf(out, "{\"" NUMBER_KEY "\":\"%s\"}", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
}

static void append_string(lua_State *L, rw_str *out) {
    size_t n;
    const char *text = lua_tolstring(L, -1, &n);
    if (rw_utf8_valid_prefix(text, n) != n)
        luaL_error(L, rw_message("state_dict: a string is not UTF-8, so it cannot be saved"));
    rw_json_append_string(out, text, n);
}

/* Has the table on top the keys 1 to n, and n > 0? */
static bool is_array(lua_State *L) {
    size_t n = 0;
    const size_t len = lua_objlen(L, -1);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pop(L, 1);
        const double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (!(key >= 1 && key <= (double)len && key == floor(key))) {
            lua_pop(L, 1);
            return false;
        }
        n++;
    }
    return n > 0 && n == len;
}

/* [table] */
static void append_array(lua_State *L, rw_str *out, int level) {
    const int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n; i++) {
        rw_str_append(out, i == 1 ? "[" : ",");
        lua_rawgeti(L, -1, i);
        append_value(L, out, level + 1);
        lua_pop(L, 1);
    }
    rw_str_append(out, "]");
}

static void append_key(lua_State *L, rw_str *out) {
    if (lua_type(L, -1) != LUA_TSTRING || strlen(lua_tostring(L, -1)) != lua_objlen(L, -1))
        luaL_error(L, rw_message("state_dict: the keys of a table must be 1 to n or strings, got a %s"),
                   luaL_typename(L, -1));
    append_string(L, out);
    rw_str_append(out, ":");
}

/* [table]; pairs() of the sandbox visits the keys in order. */
static void append_object(lua_State *L, rw_str *out, int level) {
    bool first = true;
    lua_pushcfunction(L, rw_lua_base_pairs);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 1); /* [table, next] */
    rw_str_append(out, "{");
    for (;;) {
        lua_pushvalue(L, -1);
        lua_pushvalue(L, -3);
        lua_call(L, 1, 2); /* [table, next, key, value] */
        if (lua_isnil(L, -2)) break;
        if (!first) rw_str_append(out, ",");
        first = false;
        lua_insert(L, -2); /* [table, next, value, key] */
        append_key(L, out);
        lua_pop(L, 1);
        append_value(L, out, level + 1);
        lua_pop(L, 1);
    }
    lua_pop(L, 3);
    rw_str_append(out, "}");
}

/* The value on top. */
static void append_value(lua_State *L, rw_str *out, int level) {
    rw_lua_check_time(L);
    luaL_checkstack(L, 10, "state_dict");
    if (level > MAX_LEVELS) luaL_error(L, rw_message("state_dict: tables in more than %d levels"), MAX_LEVELS);
    if (out->len > MEMORY_LIMIT) luaL_error(L, rw_message("state_dict: more than %d bytes"), MEMORY_LIMIT);
    switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN:
        rw_str_append(out, lua_toboolean(L, -1) ? "true" : "false");
        break;
    case LUA_TNUMBER:
        append_number(lua_tonumber(L, -1), out);
        break;
    case LUA_TSTRING:
        append_string(L, out);
        break;
    case LUA_TTABLE:
        if (is_array(L))
            append_array(L, out, level);
        else
            append_object(L, out, level);
        break;
    default:
        luaL_error(L, rw_message("state_dict: a %s cannot be saved"), luaL_typename(L, -1));
    }
}

void rw_lua_append_json(lua_State *L, int index, rw_str *out) {
    lua_pushvalue(L, index);
    append_value(L, out, 1);
    lua_pop(L, 1);
}

/* -- back ------------------------------------------------------------------------------------------- */

static void push_object(lua_State *L, const json_t *value) {
    const char *name, *number = json_string_value(json_object_get(value, NUMBER_KEY));
    json_t *each;
    if (number) {
        lua_pushnumber(L, strcmp(number, "nan") == 0 ? (double)NAN : number[0] == '-' ? -INFINITY : INFINITY);
        return;
    }
    lua_newtable(L);
    json_object_foreach((json_t *)(uintptr_t)value, name, each) {
        rw_lua_push_json(L, each);
        lua_setfield(L, -2, name);
    }
}

static void push_array(lua_State *L, const json_t *value) {
    lua_newtable(L);
    for (size_t i = 0; i < json_array_size(value); i++) {
        rw_lua_push_json(L, json_array_get(value, i));
        lua_rawseti(L, -2, (int)i + 1);
    }
}

void rw_lua_push_json(lua_State *L, const json_t *value) {
    luaL_checkstack(L, 10, "load_state_dict");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        push_object(L, value);
        break;
    case JSON_ARRAY:
        push_array(L, value);
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        lua_pushnumber(L, json_number_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(value));
        break;
    case JSON_NULL:
        lua_pushnil(L);
    }
}
