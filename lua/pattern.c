/* string.find, match, gmatch and gsub with Lua 5.1's patterns, for the sandbox.
 *
 * Why not the library's own: a pattern such as ".-.-.-.-b" takes time that grows with a power of the subject,
 * inside one C call that nothing can interrupt. Here a pattern is first compiled to a list of items (so that
 * mistakes in it are found before any text is read), single characters become bit sets, and the matcher looks
 * at the watchdog as it goes.
 *
 * Limits: 128 items in a pattern, 32 captures, 200 items that wait for one another (as in Lua). As in Lua 5.1,
 * '^' anchors find, match and gsub, and is an ordinary character in gmatch. */
#include "lua/bind.h"

#include <ctype.h>
#include <string.h>

#define MAX_ITEMS    128
#define MAX_CAPTURES 32
#define MAX_DEPTH    200

typedef enum { ITEM_SET, ITEM_OPEN, ITEM_CLOSE, ITEM_HERE, ITEM_BALANCE, ITEM_FRONTIER, ITEM_BACK, ITEM_END } item_kind;

typedef struct {
    item_kind kind;
    char repeat;        /* of ITEM_SET: 0, '?', '*', '+' or '-'                     */
    unsigned char a, b; /* ITEM_BALANCE: the two characters; ITEM_BACK: a = capture */
    uint32_t bits[8];   /* ITEM_SET, ITEM_FRONTIER: the characters                  */
} item;

typedef struct {
    bool anchored; /* began with '^' */
    int n;
    item items[MAX_ITEMS + 1]; /* the last one is ITEM_END or "$" */
    bool at_end;               /* ended with '$' */
} pattern;

/* -- compiling ------------------------------------------------------------------------------------- */

static bool in_class(int c, int name) {
    switch (tolower(name)) {
    case 'a':
        return isalpha(c) != 0;
    case 'c':
        return iscntrl(c) != 0;
    case 'd':
        return isdigit(c) != 0;
    case 'g':
        return isgraph(c) != 0;
    case 'l':
        return islower(c) != 0;
    case 'p':
        return ispunct(c) != 0;
    case 's':
        return isspace(c) != 0;
    case 'u':
        return isupper(c) != 0;
    case 'w':
        return isalnum(c) != 0;
    case 'x':
        return isxdigit(c) != 0;
    default:
        return c == 0; /* z */
    }
}

static bool is_class(int name) {
    return name != 0 && strchr("acdglpsuwxz", tolower(name)) != NULL;
}
static void add_char(item *it, int c) {
    it->bits[c >> 5] |= UINT32_C(1) << (c & 31);
}
static bool has_char(const item *it, int c) {
    return (it->bits[c >> 5] >> (c & 31)) & 1;
}

static void add_class(item *it, int name) {
    for (int c = 0; c < 256; c++)
        if (in_class(c, name) != (isupper(name) != 0)) add_char(it, c);
}

static void invert(item *it) {
    for (int i = 0; i < 8; i++) it->bits[i] = ~it->bits[i];
}

/* "%x" at p (p points past the '%'): a class, or the character itself. Returns what follows. */
static const char *add_escape(lua_State *L, item *it, const char *p, const char *end) {
    if (p == end) luaL_error(L, "malformed pattern (ends with '%%')");
    const int c = (unsigned char)*p;
    if (is_class(c))
        add_class(it, c);
    else
        add_char(it, c);
    return p + 1;
}

/* One character or range of a set. A ']' in first place stands for itself, so does a '-' in the last. */
static const char *add_member(lua_State *L, item *it, const char *p, const char *end) {
    const int low = (unsigned char)*p++;
    if (low == '%') return add_escape(L, it, p, end);
    if (end - p >= 2 && *p == '-' && p[1] != ']') {
        for (int c = low; c <= (unsigned char)p[1]; c++) add_char(it, c);
        return p + 2;
    }
    add_char(it, low);
    return p;
}

/* p points past the '['. */
static const char *add_set(lua_State *L, item *it, const char *p, const char *end) {
    const bool inverted = p < end && *p == '^';
    if (inverted) p++;
    bool first = true;
    while (p < end && (first || *p != ']')) {
        rw_lua_check_time(L); /* a class looks at 256 characters */
        p = add_member(L, it, p, end);
        first = false;
    }
    if (p >= end) luaL_error(L, "malformed pattern (missing ']')");
    if (inverted) invert(it);
    return p + 1;
}

/* A character, a class or a set, and what repeats it. */
static const char *compile_set(lua_State *L, item *it, const char *p, const char *end) {
    it->kind = ITEM_SET;
    const char c = *p++;
    if (c == '%')
        p = add_escape(L, it, p, end);
    else if (c == '[')
        p = add_set(L, it, p, end);
    else if (c == '.')
        invert(it);
    else
        add_char(it, (unsigned char)c);
    if (p < end && strchr("?*+-", *p) && *p != 0) it->repeat = *p++;
    return p;
}

/* "%b()", "%f[set]", "%1"; returns NULL when the '%' begins an ordinary class. p points past the '%'. */
static const char *compile_special(lua_State *L, item *it, const char *p, const char *end) {
    if (p == end) return NULL;
    if (*p == 'b') {
        if (end - p < 3) luaL_error(L, "malformed pattern (missing characters after '%%b')");
        *it = (item){.kind = ITEM_BALANCE, .a = (unsigned char)p[1], .b = (unsigned char)p[2]};
        return p + 3;
    }
    if (*p == 'f') {
        if (end - p < 2 || p[1] != '[') luaL_error(L, "missing '[' after '%%f' in pattern");
        it->kind = ITEM_FRONTIER;
        return add_set(L, it, p + 2, end);
    }
    if (!isdigit((unsigned char)*p)) return NULL;
    if (*p == '0') luaL_error(L, "invalid capture index %%0 in pattern");
    *it = (item){.kind = ITEM_BACK, .a = (unsigned char)(*p - '1')};
    return p + 1;
}

static const char *compile_item(lua_State *L, item *it, const char *p, const char *end) {
    if (*p == '(') {
        const bool here = p + 1 < end && p[1] == ')';
        it->kind = here ? ITEM_HERE : ITEM_OPEN;
        return p + (here ? 2 : 1);
    }
    if (*p == ')') {
        it->kind = ITEM_CLOSE;
        return p + 1;
    }
    if (*p == '%') {
        const char *next = compile_special(L, it, p + 1, end);
        if (next) return next;
    }
    return compile_set(L, it, p, end);
}

static void compile(lua_State *L, pattern *out, const char *p, size_t n, bool anchors) {
    const char *end = p + n;
    memset(out, 0, sizeof *out);
    out->anchored = anchors && p < end && *p == '^';
    if (out->anchored) p++;
    while (p < end) {
        if (*p == '$' && p + 1 == end) {
            out->at_end = true;
            break;
        }
        if (out->n == MAX_ITEMS) luaL_error(L, "pattern too long (more than %d items)", MAX_ITEMS);
        p = compile_item(L, &out->items[out->n], p, end);
        out->n++;
    }
    out->items[out->n].kind = ITEM_END;
}

/* -- matching -------------------------------------------------------------------------------------- */

#define LEN_OPEN (-1)
#define LEN_HERE (-2)

typedef struct {
    lua_State *L;
    rw_lua *lua;
    const pattern *pat;
    const char *begin, *end; /* the subject */
    int level;               /* captures so far */
    int depth;
    uint32_t steps;
    struct {
        const char *at;
        ptrdiff_t len;
    } cap[MAX_CAPTURES];
} matcher;

static const char *match_items(matcher *m, const char *s, int i);

static void count_steps(matcher *m, size_t n) {
    m->steps += (uint32_t)(n < 4096 ? n : 4096);
    if (m->steps < 4096) return;
    m->steps = 0;
    rw_lua_check_time(m->L);
}

static bool fits(const item *it, const char *s, const char *end) {
    return s < end && has_char(it, (unsigned char)*s);
}

/* As many as there are, then fewer until the rest matches. */
static const char *match_most(matcher *m, const char *s, int i, size_t least) {
    const item *it = &m->pat->items[i];
    size_t k = 0;
    while (fits(it, s + k, m->end)) k++;
    count_steps(m, k);
    for (; k + 1 > least; k--) {
        const char *r = match_items(m, s + k, i + 1);
        if (r || k == least) return r;
    }
    return NULL;
}

/* As few as will do. */
static const char *match_least(matcher *m, const char *s, int i) {
    const item *it = &m->pat->items[i];
    for (;; s++) {
        const char *r = match_items(m, s, i + 1);
        if (r) return r;
        if (!fits(it, s, m->end)) return NULL;
    }
}

static const char *match_repeated(matcher *m, const char *s, int i) {
    const item *it = &m->pat->items[i];
    if (it->repeat == '*') return match_most(m, s, i, 0);
    if (it->repeat == '-') return match_least(m, s, i);
    if (it->repeat == '+') return fits(it, s, m->end) ? match_most(m, s, i, 1) : NULL;
    const char *r = fits(it, s, m->end) ? match_items(m, s + 1, i + 1) : NULL;
    return r ? r : match_items(m, s, i + 1);
}

static const char *match_open(matcher *m, const char *s, int i, ptrdiff_t len) {
    if (m->level == MAX_CAPTURES) luaL_error(m->L, "too many captures");
    m->cap[m->level].at = s;
    m->cap[m->level].len = len;
    m->level++;
    const char *r = match_items(m, s, i + 1);
    if (!r) m->level--;
    return r;
}

static const char *match_close(matcher *m, const char *s, int i) {
    int c = m->level - 1;
    while (c >= 0 && m->cap[c].len != LEN_OPEN) c--;
    if (c < 0) luaL_error(m->L, "invalid pattern capture");
    m->cap[c].len = s - m->cap[c].at;
    const char *r = match_items(m, s, i + 1);
    if (!r) m->cap[c].len = LEN_OPEN;
    return r;
}

static const char *match_balance(matcher *m, const item *it, const char *s) {
    if (s >= m->end || (unsigned char)*s != it->a) return NULL;
    int64_t open = 1;
    for (const char *p = s + 1; p < m->end; p++) {
        if ((unsigned char)*p == it->b) {
            if (--open == 0) {
                count_steps(m, (size_t)(p - s));
                return p + 1;
            }
        } else if ((unsigned char)*p == it->a)
            open++;
    }
    count_steps(m, (size_t)(m->end - s));
    return NULL;
}

static const char *match_back(matcher *m, const item *it, const char *s) {
    if (it->a >= m->level || m->cap[it->a].len == LEN_OPEN) luaL_error(m->L, "invalid capture index %%%d", it->a + 1);
    const ptrdiff_t n = m->cap[it->a].len;
    if (n < 0 || m->end - s < n) return NULL;
    count_steps(m, (size_t)n);
    return memcmp(m->cap[it->a].at, s, (size_t)n) == 0 ? s + n : NULL;
}

static bool at_frontier(const matcher *m, const item *it, const char *s) {
    const int before = s == m->begin ? 0 : (unsigned char)s[-1];
    const int after = s == m->end ? 0 : (unsigned char)*s;
    return !has_char(it, before) && has_char(it, after);
}

/* Where the rest of the pattern, from item i on, ends when it begins at s; NULL: it does not match. */
static const char *match_rest(matcher *m, const char *s, int i) {
    for (;; i++) {
        const item *it = &m->pat->items[i];
        count_steps(m, 1);
        switch (it->kind) {
        case ITEM_END:
            return !m->pat->at_end || s == m->end ? s : NULL;
        case ITEM_OPEN:
            return match_open(m, s, i, LEN_OPEN);
        case ITEM_HERE:
            return match_open(m, s, i, LEN_HERE);
        case ITEM_CLOSE:
            return match_close(m, s, i);
        case ITEM_BALANCE:
            s = match_balance(m, it, s);
            break;
        case ITEM_BACK:
            s = match_back(m, it, s);
            break;
        case ITEM_FRONTIER:
            s = at_frontier(m, it, s) ? s : NULL;
            break;
        case ITEM_SET:
            if (it->repeat) return match_repeated(m, s, i);
            s = fits(it, s, m->end) ? s + 1 : NULL;
            break;
        }
        if (!s) return NULL;
    }
}

static const char *match_items(matcher *m, const char *s, int i) {
    if (++m->depth > MAX_DEPTH) luaL_error(m->L, "pattern too complex");
    const char *r = match_rest(m, s, i);
    m->depth--;
    return r;
}

static const char *match_at(matcher *m, const char *s) {
    m->level = m->depth = 0;
    return match_items(m, s, 0);
}

/* -- results --------------------------------------------------------------------------------------- */

static void push_capture(matcher *m, int c, const char *s, const char *e) {
    if (c >= m->level) {
        if (c != 0) luaL_error(m->L, "invalid capture index %%%d", c + 1);
        lua_pushlstring(m->L, s, (size_t)(e - s)); /* no captures: the whole match */
        return;
    }
    if (m->cap[c].len == LEN_OPEN) luaL_error(m->L, "unfinished capture");
    if (m->cap[c].len == LEN_HERE)
        lua_pushinteger(m->L, m->cap[c].at - m->begin + 1);
    else
        lua_pushlstring(m->L, m->cap[c].at, (size_t)m->cap[c].len);
}

/* All captures; the whole match when there are none and `whole` asks for it. */
static int push_captures(matcher *m, const char *s, const char *e, bool whole) {
    const int n = m->level == 0 && whole ? 1 : m->level;
    luaL_checkstack(m->L, n, "too many captures");
    for (int c = 0; c < n; c++) push_capture(m, c, s, e);
    return n;
}

static matcher start(lua_State *L, const pattern *pat, const char *s, size_t n) {
    return (matcher){.L = L, .lua = rw_lua_of(L), .pat = pat, .begin = s, .end = s + n};
}

/* -- the four functions ---------------------------------------------------------------------------- */

/* Argument 3, from 1, negative from the end -> an offset, at most n. */
static size_t start_offset(lua_State *L, size_t n) {
    const lua_Number init = luaL_optnumber(L, 3, 1);
    if (init > (lua_Number)n) return n;
    if (init >= 1) return (size_t)init - 1;
    if (!(init < 0)) return 0; /* NaN too */
    return -init >= (lua_Number)n ? 0 : n - (size_t)-init;
}

static bool is_plain(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0 && strchr("^$*+?.([%-", p[i])) return false;
    return true;
}

static int find_plain(lua_State *L, const char *s, size_t n, const char *p, size_t np, size_t offset) {
    const char *hit = memmem(s + offset, n - offset, p, np); /* linear time in this libc */
    if (!hit) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, hit - s + 1);
    lua_pushinteger(L, hit - s + (ptrdiff_t)np);
    return 2;
}

static int find_or_match(lua_State *L, bool find) {
    size_t n, np;
    const char *s = luaL_checklstring(L, 1, &n), *p = luaL_checklstring(L, 2, &np);
    const size_t offset = start_offset(L, n);
    if (find && (lua_toboolean(L, 4) || is_plain(p, np))) return find_plain(L, s, n, p, np, offset);
    pattern pat;
    compile(L, &pat, p, np, true);
    matcher m = start(L, &pat, s, n);
    const char *at = s + offset;
    do {
        const char *e = match_at(&m, at);
        if (e && !find) return push_captures(&m, at, e, true);
        if (e) {
            lua_pushinteger(L, at - s + 1);
            lua_pushinteger(L, e - s);
            return push_captures(&m, at, e, false) + 2;
        }
    } while (at++ < m.end && !pat.anchored);
    lua_pushnil(L);
    return 1;
}

int rw_lua_string_find(lua_State *L) {
    return find_or_match(L, true);
}
int rw_lua_string_match(lua_State *L) {
    return find_or_match(L, false);
}

/* upvalues: the subject, the compiled pattern, the offset where to continue */
static int gmatch_next(lua_State *L) {
    size_t n;
    const char *s = lua_tolstring(L, lua_upvalueindex(1), &n);
    const pattern *pat = lua_touserdata(L, lua_upvalueindex(2));
    matcher m = start(L, pat, s, n);
    for (const char *at = s + (size_t)lua_tointeger(L, lua_upvalueindex(3)); at <= m.end; at++) {
        const char *e = match_at(&m, at);
        if (!e) continue;
        lua_pushinteger(L, e - s + (e == at)); /* an empty match must not be found again */
        lua_replace(L, lua_upvalueindex(3));
        return push_captures(&m, at, e, true);
    }
    return 0;
}

int rw_lua_string_gmatch(lua_State *L) {
    size_t np;
    luaL_checkstring(L, 1);
    const char *p = luaL_checklstring(L, 2, &np);
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    compile(L, lua_newuserdata(L, sizeof(pattern)), p, np, false);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

/* The replacement text: %0 the match, %1 to %9 the captures, %% a percent sign. */
static void add_template(matcher *m, luaL_Buffer *b, const char *s, const char *e) {
    size_t n;
    const char *r = lua_tolstring(m->L, 3, &n);
    for (size_t i = 0; i < n; i++) {
        count_steps(m, 16); /* a capture may be copied */
        if (r[i] != '%')
            luaL_addchar(b, r[i]);
        else if (++i < n && r[i] == '0')
            luaL_addlstring(b, s, (size_t)(e - s));
        else if (i < n && isdigit((unsigned char)r[i])) {
            push_capture(m, r[i] - '1', s, e);
            luaL_addvalue(b);
        } else if (i < n)
            luaL_addchar(b, r[i]);
    }
}

static void add_replacement(matcher *m, luaL_Buffer *b, const char *s, const char *e) {
    lua_State *L = m->L;
    rw_lua_check_time(L);
    const int type = lua_type(L, 3);
    if (type == LUA_TNUMBER || type == LUA_TSTRING) {
        add_template(m, b, s, e);
        return;
    }
    if (type == LUA_TTABLE) {
        push_capture(m, 0, s, e);
        lua_gettable(L, 3);
    } else {
        lua_pushvalue(L, 3);
        const int n = push_captures(m, s, e, true);
        lua_call(L, n, 1);
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_pushlstring(L, s, (size_t)(e - s)); /* nil or false: keeps the match */
    } else if (!lua_isstring(L, -1))
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    luaL_addvalue(b);
}

int rw_lua_string_gsub(lua_State *L) {
    size_t n, np;
    rw_lua_check_call(L);
    const char *s = luaL_checklstring(L, 1, &n), *p = luaL_checklstring(L, 2, &np);
    const int type = lua_type(L, 3);
    if (type != LUA_TNUMBER && type != LUA_TSTRING && type != LUA_TTABLE && type != LUA_TFUNCTION)
        return luaL_error(L, "bad argument #3 to 'gsub' (string, function or table expected, got %s)",
                          luaL_typename(L, 3));
    const lua_Number limit = luaL_optnumber(L, 4, (lua_Number)n + 1);
    pattern pat;
    compile(L, &pat, p, np, true);
    matcher m = start(L, &pat, s, n);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    lua_Number count = 0;
    const char *at = s;
    while (count < limit) {
        const char *e = match_at(&m, at);
        if (e) {
            count++;
            add_replacement(&m, &b, at, e);
        }
        if (e && e > at)
            at = e;
        else if (at < m.end)
            luaL_addchar(&b, *at++);
        else
            break;
        if (pat.anchored) break;
    }
    luaL_addlstring(&b, at, (size_t)(m.end - at));
    luaL_pushresult(&b);
    lua_pushnumber(L, count);
    return 2;
}
