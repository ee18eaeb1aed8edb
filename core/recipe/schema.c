/* Nodes x keys.def -> values, with one message for each mistake. What a value means comes from its key alone:
 * `6e-4` under a number is a number, `no` under a string is a string, and a bool is `true` or `false` only. */
#include "core/recipe/schema.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* -- mistakes -------------------------------------------------------------------------------------------- */

static void append_line(rw_str *s, const rw_error *err) {
    char line[2048];
    rw_error_format(err, line, sizeof line);
    if (s->len) rw_str_append(s, "\n");
    rw_str_append(s, line);
    if (err->detail) rw_str_appendf(s, "\n%s", err->detail);
}

void rw_problems_take(rw_problems *p, rw_error *err) {
    p->n++;
    if (p->n == 1) {
        p->first = *err;
        *err = (rw_error){0};
        return;
    }
    if (p->n <= RW_MAX_PROBLEMS) append_line(&p->rest, err);
    rw_error_clear(err);
}

void rw_problems_add(rw_problems *p, rw_where at, const char *fmt, ...) {
    rw_error err = {0};
    va_list ap;
    va_start(ap, fmt);
    rw_vfail(&err, RW_E_RECIPE, at, fmt, ap);
    va_end(ap);
    rw_problems_take(p, &err);
}

rw_status rw_problems_end(rw_problems *p, rw_error *err) {
    rw_status status = p->n ? p->first.code : RW_OK;
    if (p->n > RW_MAX_PROBLEMS)
        rw_str_appendf(&p->rest, rw_message("\n... and %d more mistakes"), p->n - RW_MAX_PROBLEMS);
    if (p->n && err) {
        rw_str all = {0};
        if (p->first.detail) rw_str_append(&all, p->first.detail);
        if (p->rest.len) rw_str_appendf(&all, "%s%s", all.len ? "\n" : "", p->rest.data);
        rw_error_clear(err);
        *err = p->first;
        err->detail = NULL;
        if (all.len && !all.failed) rw_error_set_detail(err, all.data);
        rw_str_done(&all);
    }
    rw_error_clear(&p->first);
    rw_str_done(&p->rest);
    *p = (rw_problems){0};
    return status;
}

/* -- showing what was found ------------------------------------------------------------------------------- */

/* A user's text, short and on one line. Returns buf. */
static const char *show(const char *text, char *buf, size_t size) {
    size_t n = strlen(text), limit = size - 4;
    size_t kept = n <= limit ? n : rw_utf8_valid_prefix(text, limit);
    memcpy(buf, text, kept);
    memcpy(buf + kept, n <= limit ? "" : "...", n <= limit ? 1 : 4);
    for (char *p = buf; *p; p++)
        if (*p == '\n' || *p == '\t' || *p == '\r') *p = ' ';
    return buf;
}

static bool is_empty(const rw_node *node) {
    if (node->kind != RW_NODE_SCALAR || node->quoted) return false;
    const char *t = node->text;
    return !*t || strcmp(t, "~") == 0 || strcmp(t, "null") == 0 || strcmp(t, "Null") == 0 || strcmp(t, "NULL") == 0;
}

/* Says the slip of the keyboard in a node instead of what it led to; false: there is none. */
static bool say_slip(rw_schema *s, const rw_node *node) {
    bool said = node->slip && node->slip->kind != RW_SLIP_SPACE; /* that is a slip only where a section was meant */
    if (said) rw_problems_add(s->problems, node->slip_at, "%s", node->slip->text);
    return said;
}

/* "expected a number >= 0, got 'abc'" */
static void wrong_value(rw_schema *s, const rw_key *key, const rw_node *node) {
    char expects[256], got[80];
    if (say_slip(s, node)) return;
    rw_key_expects(key, expects, sizeof expects);
    if (node->kind != RW_NODE_SCALAR)
        rw_problems_add(s->problems, node->at, "expected %s, got %s", expects,
                        rw_message(node->kind == RW_NODE_MAP ? "a map" : "a list"));
    else if (is_empty(node))
        rw_problems_add(s->problems, node->at, "expected %s, got nothing; leave the key out to get its default",
                        expects);
    else
        rw_problems_add(s->problems, node->at, "expected %s, got '%s'", expects, show(node->text, got, sizeof got));
}

static void wrong_choice(rw_schema *s, const rw_key *key, const rw_node *node, const char *text) {
    char expects[256], got[80], copy[128];
    const char *names[16], *refused = rw_value_refused(key, text);
    if (!refused && say_slip(s, node)) return;
    show(text, got, sizeof got);
    if (refused) {
        rw_problems_add(s->problems, node->at, "'%s': %s", got, refused);
        return;
    }
    snprintf(copy, sizeof copy, "%s", key->choices);
    int n = 0;
    for (char *save, *p = strtok_r(copy, "|", &save); p && n < 15; p = strtok_r(NULL, "|", &save)) names[n++] = p;
    names[n] = NULL;
    const char *near = NULL;
    for (int i = 0; i < n && !near; i++)
        if (strcasecmp(names[i], text) == 0) near = names[i];
    if (!near) near = rw_did_you_mean(text, names);
    rw_key_expects(key, expects, sizeof expects);
    if (near && n > 1 && key->type != RW_TYPE_INT_CHOICE)
        rw_problems_add(s->problems, node->at, "expected %s, got '%s' (did you mean '%s'?)", expects, got, near);
    else
        rw_problems_add(s->problems, node->at, "expected %s, got '%s'", expects, got);
}

/* -- ${env:NAME} ------------------------------------------------------------------------------------------ */

static bool env_allowed(const rw_schema *s, const char *name) {
    if (strncmp(name, "RWKV_", 5) == 0) return true;
    for (int i = 0; i < s->n_env_names; i++)
        if (strcmp(s->env_names[i], name) == 0) return true;
    return false;
}

/* Appends the value of the variable that "${env:NAME}" at p names. Returns what follows, NULL on a mistake. */
static const char *expand_one(rw_schema *s, const rw_node *node, const char *p, rw_str *out) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    char name[64], got[80];
    size_t n = strncmp(p, "${env:", 6) == 0 ? strspn(p + 6, letters) : 0;
    if (n == 0 || n >= sizeof name || p[6 + n] != '}') {
        rw_problems_add(s->problems, node->at, "expected ${env:NAME}, got '%s'", show(p, got, sizeof got));
        return NULL;
    }
    snprintf(name, sizeof name, "%.*s", (int)n, p + 6);
    const char *value = env_allowed(s, name) ? getenv(name) : NULL;
    if (value) {
        rw_str_append(out, value);
        return p + 6 + n + 1;
    }
    if (!env_allowed(s, name))
        rw_problems_add(s->problems, node->at,
                        "${env:%s}: a recipe may read only RWKV_* variables; allow this one with --env %s", name, name);
    else
        rw_problems_add(s->problems, node->at, "${env:%s}: this variable is not set", name);
    return NULL;
}

rw_status rw_schema_expand(rw_schema *s, const rw_node *node, const char **out, rw_error *err) {
    *out = node->text;
    const char *dollar = strstr(node->text, "${");
    if (!dollar) return RW_OK;
    rw_str text = {0};
    const char *p = node->text;
    for (; dollar; dollar = strstr(p, "${")) {
        rw_str_append_n(&text, p, (size_t)(dollar - p));
        p = expand_one(s, node, dollar, &text);
        if (!p) break;
    }
    if (p) rw_str_append(&text, p);
    *out = p && !text.failed ? rw_arena_strdup(s->arena, text.data) : NULL;
    bool short_of_memory = p && !*out;
    rw_str_done(&text);
    return short_of_memory ? rw_fail_memory(err, 0) : RW_OK;
}

/* -- numbers ---------------------------------------------------------------------------------------------- */

/* Decimal notation only: strtod alone would also take "nan", "0x10" and leading blanks. */
static bool parse_number(const char *text, double *x) {
    char *end;
    if (!*text || text[strspn(text, "0123456789.eE+-")] || !strpbrk(text, "0123456789")) return false;
    *x = strtod(text, &end);
    return *end == '\0' && isfinite(*x);
}

static bool parse_integer(const char *text, int64_t *i) {
    double x;
    if (!parse_number(text, &x) || x != floor(x) || fabs(x) > 9007199254740992.0) return false; /* 1e3 is 1000 */
    *i = (int64_t)x;
    return true;
}

/* "22GiB", "800 MB": a unit is needed, because bare numbers would be taken for bytes by one and for GiB by another. */
static bool parse_size(const char *text, int64_t *n_bytes) {
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
                 {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
    size_t n = strspn(text, "0123456789.");
    const char *unit = text + n + strspn(text + n, " ");
    char number[32];
    double x;
    if (n == 0 || n >= sizeof number) return false;
    snprintf(number, sizeof number, "%.*s", (int)n, text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].unit) != 0 || !parse_number(number, &x) || x * units[i].factor > 0x1p50) continue;
        *n_bytes = (int64_t)(x * units[i].factor);
        return true;
    }
    return false;
}

static bool in_range(const rw_range *r, double x) {
    return (r->above_low ? x > r->low : x >= r->low) && (r->below_high ? x < r->high : x <= r->high);
}

/* The shortest text that reads back to the same number: 0.9, 1e-5. */
static const char *number_text(rw_arena *arena, double x) {
    char buf[40];
    bool small = x != 0 && fabs(x) < 0.01;
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, small ? "%.*e" : "%.*g", small ? digits - 1 : digits, x);
        if (strtod(buf, NULL) == x) break;
    }
    char *e = strchr(buf, 'e');
    if (e && e[2] == '0') memmove(e + 2, e + 3, strlen(e + 3) + 1); /* 1e-05: as people write it */
    return rw_arena_strdup(arena, buf);
}

/* -- paths ------------------------------------------------------------------------------------------------ */

const char *rw_schema_path(rw_arena *arena, const char *dir, const char *path) {
    while (path[0] == '.' && path[1] == '/' && path[2] && !strchr("/~", path[2])) path += 2;
    if (path[0] == '/' || !dir || !dir[0] || strcmp(dir, ".") == 0) return rw_arena_strdup(arena, path);
    return rw_arena_printf(arena, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", path);
}

/* Chinese names of files may hold full-width characters. What no name begins or ends with, and commas and quotation
 * marks where there is no such file, are slips. */
static bool slip_in_path(const rw_key *key, const rw_node *node, const char *path) {
    const rw_slip *slip = node->slip;
    if (!slip || rw_exists(path)) return false;
    bool comma = strstr(node->text, "，") != NULL;
    bool new_one = key == &rw_keys[RW_KEY_save_proj_dir];
    return slip->kind == RW_SLIP_QUOTE || slip->kind == RW_SLIP_COMMA || slip->edge || (comma && !new_one);
}

/* Gives *path = NULL on a mistake. */
static rw_status read_path(rw_schema *s, const rw_key *key, const rw_node *node, const char **text, const char **path,
                           rw_error *err) {
    *path = NULL;
    if (node->kind != RW_NODE_SCALAR || is_empty(node)) {
        wrong_value(s, key, node);
        return RW_OK;
    }
    RW_TRY(rw_schema_expand(s, node, text, err));
    if (!*text) return RW_OK;
    if (!**text) {
        rw_problems_add(s->problems, node->at,
                        "expected a path, got an empty string; leave the key out if there is none");
        return RW_OK;
    }
    if (strcmp(*text, "~") == 0 || strncmp(*text, "~/", 2) == 0) {
        rw_problems_add(s->problems, node->at,
                        "'~' is not expanded in a recipe; write the whole path, or ${env:HOME} with --env HOME");
        return RW_OK;
    }
    const char *whole = rw_schema_path(s->arena, s->dir, *text);
    if (!whole) return rw_fail_memory(err, 0);
    if (!slip_in_path(key, node, whole) || !say_slip(s, node)) *path = whole;
    return RW_OK;
}

/* One path, or a list of them. */
static rw_status read_paths(rw_schema *s, const rw_key *key, const rw_node *node, rw_value *v, rw_error *err) {
    if (node->kind == RW_NODE_MAP || is_empty(node)) {
        wrong_value(s, key, node);
        return RW_OK;
    }
    bool list = node->kind == RW_NODE_LIST;
    int n = list ? node->n_child : 1;
    const char **items = rw_arena_alloc(s->arena, sizeof *items * ((size_t)n + 1));
    rw_where *places = rw_arena_alloc(s->arena, sizeof *places * ((size_t)n + 1));
    if (!items || !places) return rw_fail_memory(err, sizeof *places * ((size_t)n + 1));
    rw_str all = {0};
    rw_status status = RW_OK;
    bool good = true;
    const rw_node *item = list ? node->child : node;
    for (int i = 0; i < n && status == RW_OK; i++, item = item->next) {
        const char *text = NULL;
        static const rw_key one = {.type = RW_TYPE_PATH};
        status = read_path(s, item == node ? key : &one, item, &text, &items[i], err);
        places[i] = item->at;
        good = good && items[i];
        if (items[i]) rw_str_appendf(&all, "%s%s", i ? ", " : "", text);
    }
    if (status == RW_OK && good) {
        v->text = rw_arena_printf(s->arena, "[%s]", all.len ? all.data : "");
        v->list.items = items;
        v->list.at = places;
        v->list.n = n;
        if (!v->text || all.failed) status = rw_fail_memory(err, all.len);
    }
    rw_str_done(&all);
    return status;
}

/* -- one value -------------------------------------------------------------------------------------------- */

static bool in_choices(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *p = choices; n && *p; p += strcspn(p, "|"), p += *p != '\0')
        if (strcspn(p, "|") == n && memcmp(p, text, n) == 0) return true;
    return false;
}

static bool parse_bool(const char *text, bool digits, int64_t *i) {
    bool yes = strcmp(text, "true") == 0 || (digits && strcmp(text, "1") == 0);
    bool no = strcmp(text, "false") == 0 || (digits && strcmp(text, "0") == 0);
    *i = yes;
    return yes || no;
}

/* Is the text a value of this key? Sets v->text, which stays NULL without memory. */
static bool parse_scalar(rw_schema *s, const rw_key *key, const char *text, rw_value *v) {
    bool ok = false;
    switch (key->type) {
    case RW_TYPE_INT:
        ok = parse_integer(text, &v->i) && in_range(&key->range, (double)v->i);
        if (ok) v->text = rw_arena_printf(s->arena, "%lld", (long long)v->i);
        break;
    case RW_TYPE_NUMBER:
        ok = parse_number(text, &v->x) && in_range(&key->range, v->x);
        if (ok && v->x == 0) v->x = 0; /* no -0 */
        if (ok) v->text = number_text(s->arena, v->x);
        break;
    case RW_TYPE_SIZE:
        ok = parse_size(text, &v->i) && in_range(&key->range, (double)v->i);
        if (ok) v->text = rw_arena_strdup(s->arena, text);
        break;
    case RW_TYPE_BOOL:
    case RW_TYPE_FLAG:
        ok = parse_bool(text, key->type == RW_TYPE_FLAG, &v->i);
        if (ok) v->text = v->i ? "true" : "false";
        break;
    case RW_TYPE_ENUM:
    case RW_TYPE_CHOICE:
    case RW_TYPE_INT_CHOICE:
    case RW_TYPE_DTYPE:
        ok = in_choices(key->choices, text);
        if (ok) v->text = rw_arena_strdup(s->arena, text);
        if (ok && key->type == RW_TYPE_INT_CHOICE)
            v->i = strtoll(text, NULL, 10);
        else if (ok && key->type == RW_TYPE_ENUM)
            v->i = rw_choice_find((rw_key_id)(key - rw_keys), text);
        else if (ok && key->type == RW_TYPE_DTYPE)
            v->i = rw_dtype_from_name(text);
        else if (ok)
            v->s = v->text;
        break;
    default:
        ok = true; /* a string may hold anything */
        v->s = v->text = rw_arena_strdup(s->arena, text);
        break;
    }
    return ok;
}

static bool has_choices(const rw_key *key) {
    return key->choices[0] != '\0';
}

static rw_status read_scalar(rw_schema *s, const rw_key *key, const rw_node *node, rw_value *v, rw_error *err) {
    const char *text;
    if (node->kind != RW_NODE_SCALAR || is_empty(node)) {
        wrong_value(s, key, node);
        return RW_OK;
    }
    RW_TRY(rw_schema_expand(s, node, &text, err));
    if (!text) return RW_OK;
    bool slip = key->type == RW_TYPE_STRING && node->slip && node->slip->kind == RW_SLIP_QUOTE && node->slip->edge;
    if (slip && say_slip(s, node)) return RW_OK;
    if (!rw_value_refused(key, text) && parse_scalar(s, key, text, v)) return v->text ? RW_OK : rw_fail_memory(err, 0);
    rw_node shown = *node;
    shown.text = text;
    shown.quoted = true; /* it is a string, if an empty one */
    if (has_choices(key) || rw_value_refused(key, text))
        wrong_choice(s, key, &shown, text);
    else
        wrong_value(s, key, &shown);
    return RW_OK;
}

/* "recipe.yaml:4:10: train.devices: a run uses one device; this changes nothing" */
static void say(rw_where at, const char *what) {
    char line[1024];
    rw_error e = {.at = at};
    snprintf(e.msg, sizeof e.msg, "%s", what);
    rw_error_format(&e, line, sizeof line);
    rw_info("%s", line);
}

rw_status rw_schema_read_value(rw_schema *s, const rw_key *key, const rw_node *node, rw_error *err) {
    rw_value v = {.given = true, .at = node->at};
    const char *automatic = node->kind == RW_NODE_SCALAR ? rw_value_automatic(key, node->text) : NULL;
    if (automatic) {
        say(node->at, automatic);
        s->values[key - rw_keys] = (rw_value){0};
        return RW_OK;
    }
    if (key->type == RW_TYPE_PATHS)
        RW_TRY(read_paths(s, key, node, &v, err));
    else if (key->type == RW_TYPE_PATH)
        RW_TRY(read_path(s, key, node, &v.text, &v.s, err));
    else
        RW_TRY(read_scalar(s, key, node, &v, err));
    bool good = key->type == RW_TYPE_PATH ? v.s != NULL : v.text != NULL;
    /* A wrong value is given all the same: there is a message about it already, "missing" would be a second. */
    if (!good) v = (rw_value){.given = true, .at = node->at};
    s->values[key - rw_keys] = v;
    return RW_OK;
}

rw_status rw_schema_take_foreign(rw_schema *s, const char *name, const rw_node *node, bool *taken, rw_error *err) {
    rw_foreign f;
    *taken = node->kind == RW_NODE_SCALAR && rw_foreign_find(name, is_empty(node) ? "" : node->text, &f);
    if (!*taken) return RW_OK;
    say(node->at, f.what);
    if (!f.sets || s->values[f.sets - rw_keys].given) return RW_OK;
    rw_node value = *node;
    value.text = f.to;
    return rw_schema_read_value(s, f.sets, &value, err);
}

/* -- names ------------------------------------------------------------------------------------------------ */

/* The section that has a key of this name, or NULL. */
static const rw_key *find_anywhere(const char *name) {
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (strcmp(rw_keys[i].key, name) == 0) return &rw_keys[i];
    return NULL;
}

/* A key of this section near to the name, then one of any section. */
static const char *suggest(const char *section, const char *name, const char *path) {
    const char *names[RW_KEY_COUNT + 1];
    int n = 0;
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (strcmp(rw_keys[i].section, section) == 0) names[n++] = rw_keys[i].key;
    names[n] = NULL;
    const char *near = rw_did_you_mean(name, names);
    if (!near && !section[0]) near = rw_did_you_mean(name, rw_section_names());
    if (near) return near;
    for (n = 0; n < RW_KEY_COUNT; n++) names[n] = rw_keys[n].key;
    names[n] = NULL;
    near = rw_did_you_mean(name, names);
    if (near) return find_anywhere(near)->path;
    return rw_did_you_mean(path, rw_key_paths());
}

static void unknown_key(rw_schema *s, rw_where at, const char *section, const char *name) {
    const rw_key *other = find_anywhere(name);
    const char *gone = rw_key_gone(name);
    if (other && !other->section[0])
        rw_problems_add(s->problems, at, "unknown key; '%s' belongs at the top level, in no section", name);
    else if (other)
        rw_problems_add(s->problems, at, "unknown key; '%s' belongs in the section '%s'", name, other->section);
    else if (gone)
        rw_problems_add(s->problems, at, "not a key here: %s", gone);
    else {
        const char *near = suggest(section, name, at.key ? at.key : name);
        if (near)
            rw_problems_add(s->problems, at, "unknown key (did you mean '%s'?)", near);
        else
            rw_problems_add(s->problems, at, "unknown key; rwkv-run --keys lists them all");
    }
}

const rw_key *rw_schema_find(rw_schema *s, rw_where at, const char *path) {
    char section[RW_YAML_MAX_KEY] = "";
    const char *dot = strchr(path, '.'), *name = dot ? dot + 1 : path;
    if (dot) snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
    const rw_key *key = rw_key_find(section, name);
    if (!key && !dot && rw_section_known(path))
        rw_problems_add(s->problems, at, "this is a section; set one of its keys: %s.KEY=VALUE", path);
    else if (!key && dot && !rw_section_known(section))
        unknown_key(s, at, "", name);
    else if (!key)
        unknown_key(s, at, section, name);
    return key;
}

/* -- maps ------------------------------------------------------------------------------------------------- */

static rw_status read_unknown(rw_schema *s, const char *section, const rw_node *n, rw_error *err) {
    bool taken;
    RW_TRY(rw_schema_take_foreign(s, n->name, n, &taken, err));
    if (taken) return RW_OK;
    if (n->name_slip)
        rw_problems_add(s->problems, n->name_slip_at, "%s", n->name_slip->text);
    else
        unknown_key(s, n->name_at, section, n->name);
    return RW_OK;
}

static rw_status read_section(rw_schema *s, const rw_node *section, rw_error *err) {
    if (is_empty(section)) return RW_OK; /* a heading whose keys are all commented out */
    if (section->kind != RW_NODE_MAP) {
        if (section->slip)
            rw_problems_add(s->problems, section->slip_at, "%s", section->slip->text);
        else
            rw_problems_add(s->problems, section->at, "expected a section with keys, got %s",
                            rw_message(section->kind == RW_NODE_LIST ? "a list" : "one value"));
        return RW_OK;
    }
    for (const rw_node *n = section->child; n; n = n->next) {
        const rw_key *key = rw_key_find(section->name, n->name);
        RW_TRY(key ? rw_schema_read_value(s, key, n, err) : read_unknown(s, section->name, n, err));
    }
    return RW_OK;
}

rw_status rw_schema_read(rw_schema *s, const rw_node *root, rw_error *err) {
    for (const rw_node *n = root->child; n; n = n->next) {
        const rw_key *key = rw_key_find("", n->name);
        if (key == &rw_keys[RW_KEY_top_include]) continue;
        if (key)
            RW_TRY(rw_schema_read_value(s, key, n, err));
        else if (rw_section_known(n->name))
            RW_TRY(read_section(s, n, err));
        else
            RW_TRY(read_unknown(s, "", n, err));
    }
    return RW_OK;
}
