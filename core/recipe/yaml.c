/* YAML text -> nodes, over the events of libyaml (the only file that includes yaml.h).
 *
 * Events rather than libyaml's documents: they keep the place of every key, and what recipes do not use can be
 * refused at its place. Depth, number of nodes and lengths are bounded, so recursion and memory are too.
 * Limit: libyaml allocates with malloc, outside of core/base/alloc.h. */
#include "core/recipe/yaml.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <string.h>
#include <yaml.h>

typedef struct {
    rw_arena *arena;
    const char *file, *text;
    size_t n;
    rw_error *err;
    yaml_parser_t parser;
    int depth, n_nodes;
    size_t n_chars, n_bytes; /* of the text before the last place that was asked for */
} reader;

/* What this file needs of an event; the rest of it is already freed. */
typedef struct {
    yaml_event_type_t type;
    rw_where at;
    const char *text; /* of a scalar */
    bool quoted;
    const rw_slip *slip;
    rw_where slip_at;
} event;

static rw_where place(const reader *r, size_t line, size_t col) {
    return (rw_where){.file = r->file, .line = (int)line + 1, .col = (int)col + 1};
}

static rw_where mark_place(const reader *r, yaml_mark_t mark) {
    return place(r, mark.line, mark.column);
}

/* Line and column (in characters) of a byte of the text. */
static rw_where offset_place(const reader *r, size_t offset) {
    size_t line = 0, col = 0;
    if (offset > r->n) offset = r->n;
    for (size_t i = 0; i < offset; i++) {
        unsigned char c = (unsigned char)r->text[i];
        line += c == '\n';
        col = c == '\n' ? 0 : col + ((c & 0xc0) != 0x80);
    }
    return place(r, line, col);
}

/* -- libyaml's errors in our form ------------------------------------------------------------------------ */

/* A tab in front of the first word of this line (counted from 0)? */
static bool tab_in_indentation(const reader *r, size_t line) {
    const char *p = r->text, *end = r->text + r->n;
    for (; line > 0 && p; line--) {
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : NULL;
    }
    for (; p && p < end && (*p == ' ' || *p == '\t'); p++)
        if (*p == '\t') return true;
    return false;
}

/* The bytes of a line, counted from 0. */
static void line_bounds(const reader *r, size_t line, size_t *from, size_t *to) {
    const char *p = r->text, *end = r->text + r->n, *next;
    for (; line > 0 && (next = memchr(p, '\n', (size_t)(end - p))); line--) p = next + 1;
    next = memchr(p, '\n', (size_t)(end - p));
    *from = (size_t)(p - r->text);
    *to = (size_t)((next ? next + 1 : end) - r->text); /* with its end: a comma there may be between two keys */
}

/* The slip that made libyaml stumble: on the line where it did, or in a line above that hides its ':' from YAML and so
 * became part of a value. */
static bool slip_before(const reader *r, size_t line, rw_slip *slip) {
    enum { LINES = 20 };
    for (size_t i = 0; i <= line && i < LINES; i++) {
        size_t from, to;
        line_bounds(r, line - i, &from, &to);
        if (!rw_slip_find(r->text, from, to, slip) || slip->kind == RW_SLIP_COMMA) continue;
        const char *colon = memchr(r->text + from, ':', slip->offset - from);
        if (i == 0 || !colon) return true;
    }
    return false;
}

static const char *hint_for(const char *problem) {
    static const struct {
        const char *part, *hint;
    } hints[] = {
        {"mapping values are not allowed", "check the indentation, and put quotes around a value that contains ': '"},
        {"could not find expected ':'", "a key needs ': ' after it"},
        {"',' or '}'", "a ',' or a '}' is missing"},
        {"',' or ']'", "a ',' or a ']' is missing"},
        {"unexpected end of stream", "a closing quote is missing"},
        {"unexpected document indicator", "a closing quote is missing"},
        {"did not find expected key", "keys of one section need the same indentation"},
        {"did not find expected '-'", "items of one list need the same indentation"},
        {"block sequence entries", "start the list on a line of its own, or write [a, b]"},
        {"cannot start any token", "put quotes around a value that begins with @ or `"},
        {"unknown escape", "in double quotes, write a backslash twice; single quotes keep it as it is"},
    };
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (strstr(problem, hints[i].part)) return rw_message(hints[i].hint);
    return rw_message("check the indentation and the quotes");
}

static rw_status fail_in_libyaml(reader *r) {
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) return rw_fail_memory(r->err, r->n);
    if (p->error == YAML_READER_ERROR)
        return rw_fail(r->err, RW_E_RECIPE, offset_place(r, p->problem_offset),
                       "a control character (0x%02x) is not allowed in a recipe; is this a text file?",
                       (unsigned)p->problem_value & 0xffu);
    rw_where at = mark_place(r, p->problem_mark);
    if (tab_in_indentation(r, p->problem_mark.line))
        return rw_fail(r->err, RW_E_RECIPE, at, "a tab in the indentation; YAML allows only spaces there");
    rw_slip slip;
    if (slip_before(r, p->problem_mark.line, &slip))
        return rw_fail(r->err, RW_E_RECIPE, offset_place(r, slip.offset), "%s", slip.text);
    const char *problem = p->problem ? p->problem : "?", *hint = hint_for(problem);
    problem = rw_message(problem);
    if (p->context && p->context_mark.line != p->problem_mark.line)
        return rw_fail(r->err, RW_E_RECIPE, at, "not valid YAML: %s (it starts on line %d); %s", problem,
                       (int)p->context_mark.line + 1, hint);
    return rw_fail(r->err, RW_E_RECIPE, at, "not valid YAML: %s; %s", problem, hint);
}

/* -- events ---------------------------------------------------------------------------------------------- */

static rw_status refuse_extras(reader *r, rw_where at, const yaml_char_t *anchor, const yaml_char_t *tag) {
    if (anchor)
        return rw_fail(r->err, RW_E_RECIPE, at,
                       "anchors (&%.32s) are not used in recipes; write the value out, or share it with include",
                       (const char *)anchor);
    if (tag)
        return rw_fail(r->err, RW_E_RECIPE, at,
                       "tags (%.32s) are not used in recipes: the key decides the type; put quotes around a value "
                       "that begins with '!'",
                       (const char *)tag);
    return RW_OK;
}

/* The byte of a place of libyaml, which counts characters. Events come in the order of the text, so that all of these
 * together read it once. */
static size_t byte_of(reader *r, size_t index) {
    while (r->n_chars < index && r->n_bytes < r->n) {
        do r->n_bytes++;
        while (r->n_bytes < r->n && ((unsigned char)r->text[r->n_bytes] & 0xc0) == 0x80);
        r->n_chars++;
    }
    return r->n_bytes;
}

static rw_status find_slip(reader *r, const yaml_event_t *e, event *out) {
    size_t from = byte_of(r, e->start_mark.index);
    rw_slip found;
    if (!rw_slip_find(r->text, from, byte_of(r, e->end_mark.index), &found)) return RW_OK;
    rw_slip *slip = rw_arena_alloc(r->arena, sizeof *slip);
    if (!slip) return rw_fail_memory(r->err, sizeof *slip);
    *slip = found;
    out->slip = slip;
    out->slip_at = offset_place(r, found.offset);
    return RW_OK;
}

static rw_status take_scalar(reader *r, const yaml_event_t *e, event *out) {
    const char *value = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    RW_TRY(refuse_extras(r, out->at, e->data.scalar.anchor, e->data.scalar.tag));
    if (n > RW_YAML_MAX_SCALAR)
        return rw_fail(r->err, RW_E_RECIPE, out->at, "a value of %d bytes; the limit is %d", (int)n,
                       RW_YAML_MAX_SCALAR);
    if (memchr(value, '\0', n)) return rw_fail(r->err, RW_E_RECIPE, out->at, "a NUL byte inside a value");
    out->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    out->text = rw_arena_strndup(r->arena, value, n);
    if (!out->text) return rw_fail_memory(r->err, n);
    return out->quoted ? RW_OK : find_slip(r, e, out);
}

static rw_status take_event(reader *r, const yaml_event_t *e, event *out) {
    *out = (event){.type = e->type, .at = mark_place(r, e->start_mark)};
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return take_scalar(r, e, out);
    case YAML_MAPPING_START_EVENT:
        return refuse_extras(r, out->at, e->data.mapping_start.anchor, e->data.mapping_start.tag);
    case YAML_SEQUENCE_START_EVENT:
        return refuse_extras(r, out->at, e->data.sequence_start.anchor, e->data.sequence_start.tag);
    case YAML_ALIAS_EVENT:
        return rw_fail(r->err, RW_E_RECIPE, out->at,
                       "aliases (*%.32s) are not used in recipes; write the value out, or put quotes around it",
                       (const char *)e->data.alias.anchor);
    default:
        return RW_OK;
    }
}

static rw_status next_event(reader *r, event *out) {
    yaml_event_t e;
    if (!yaml_parser_parse(&r->parser, &e)) return fail_in_libyaml(r);
    rw_status status = take_event(r, &e, out);
    yaml_event_delete(&e);
    return status;
}

/* -- nodes ----------------------------------------------------------------------------------------------- */

static rw_status read_node(reader *r, const event *e, const char *path, rw_node **out);

static rw_status new_node(reader *r, const event *e, const char *path, rw_node_kind kind, rw_node **out) {
    if (++r->n_nodes > RW_YAML_MAX_NODES)
        return rw_fail(r->err, RW_E_RECIPE, e->at, "more than %d values; is this a recipe?", RW_YAML_MAX_NODES);
    rw_node *node = *out = rw_arena_alloc(r->arena, sizeof *node);
    if (!node) return rw_fail_memory(r->err, sizeof *node);
    node->kind = kind;
    node->at = e->at;
    node->at.key = path;
    node->text = e->text;
    node->quoted = e->quoted;
    node->slip = e->slip;
    node->slip_at = e->slip_at;
    node->slip_at.key = path;
    return RW_OK;
}

static rw_status check_name(reader *r, const event *e) {
    if (e->type != YAML_SCALAR_EVENT)
        return rw_fail(r->err, RW_E_RECIPE, e->at, "a key must be plain text, not a list or a map");
    if (!e->quoted && strcmp(e->text, "<<") == 0)
        return rw_fail(r->err, RW_E_RECIPE, e->at, "'<<' is not used in recipes; share keys with include");
    if (strlen(e->text) > RW_YAML_MAX_KEY)
        return rw_fail(r->err, RW_E_RECIPE, e->at, "a key of more than %d bytes", RW_YAML_MAX_KEY);
    return RW_OK;
}

static rw_status check_new(reader *r, const rw_node *map, const event *e, const char *path) {
    rw_where at = e->at;
    at.key = path;
    for (const rw_node *c = map->child; c; c = c->next)
        if (strcmp(c->name, e->text) == 0)
            return rw_fail(r->err, RW_E_RECIPE, at, "duplicate key; already on line %d", c->name_at.line);
    return RW_OK;
}

static rw_status read_members(reader *r, rw_node *map, const char *path) {
    rw_node **link = &map->child;
    for (event e;; link = &(*link)->next, map->n_child++) {
        RW_TRY(next_event(r, &e));
        if (e.type == YAML_MAPPING_END_EVENT) return RW_OK;
        RW_TRY(check_name(r, &e));
        char *member = path ? rw_arena_printf(r->arena, "%s.%s", path, e.text) : rw_arena_strdup(r->arena, e.text);
        if (!member) return rw_fail_memory(r->err, 0);
        RW_TRY(check_new(r, map, &e, member));
        event value;
        RW_TRY(next_event(r, &value));
        RW_TRY(read_node(r, &value, member, link));
        (*link)->name = e.text;
        (*link)->name_at = e.at;
        (*link)->name_at.key = member;
        (*link)->name_slip = e.slip;
        (*link)->name_slip_at = e.slip_at;
    }
}

static rw_status read_items(reader *r, rw_node *list, const char *path) {
    rw_node **link = &list->child;
    for (event e;; link = &(*link)->next, list->n_child++) {
        RW_TRY(next_event(r, &e));
        if (e.type == YAML_SEQUENCE_END_EVENT) return RW_OK;
        char *item = rw_arena_printf(r->arena, "%s[%d]", path ? path : "", list->n_child);
        if (!item) return rw_fail_memory(r->err, 0);
        RW_TRY(read_node(r, &e, item, link));
    }
}

static rw_status read_node(reader *r, const event *e, const char *path, rw_node **out) {
    bool map = e->type == YAML_MAPPING_START_EVENT, list = e->type == YAML_SEQUENCE_START_EVENT;
    if (!map && !list) return new_node(r, e, path, RW_NODE_SCALAR, out);
    if (r->depth >= RW_YAML_MAX_DEPTH)
        return rw_fail(r->err, RW_E_RECIPE, e->at, "nested deeper than %d levels; is this a recipe?",
                       RW_YAML_MAX_DEPTH);
    RW_TRY(new_node(r, e, path, map ? RW_NODE_MAP : RW_NODE_LIST, out));
    r->depth++;
    RW_TRY(map ? read_members(r, *out, path) : read_items(r, *out, path));
    r->depth--;
    return RW_OK;
}

/* stream start, document start, node, document end, stream end */
static rw_status read_stream(reader *r, rw_node **root) {
    event e;
    RW_TRY(next_event(r, &e));
    RW_TRY(next_event(r, &e));
    if (e.type == YAML_STREAM_END_EVENT) return RW_OK;
    RW_TRY(next_event(r, &e));
    RW_TRY(read_node(r, &e, NULL, root));
    RW_TRY(next_event(r, &e));
    RW_TRY(next_event(r, &e));
    if (e.type == YAML_STREAM_END_EVENT) return RW_OK;
    return rw_fail(r->err, RW_E_RECIPE, e.at, "a second document starts here; a recipe is a single document");
}

/* -- the text itself -------------------------------------------------------------------------------------- */

static bool begins_with(const reader *r, const char *bytes, size_t n) {
    return r->n >= n && memcmp(r->text, bytes, n) == 0;
}

static rw_status check_bytes(reader *r) {
    if (r->n > RW_YAML_MAX_BYTES)
        return rw_fail(r->err, RW_E_RECIPE, RW_AT_FILE(r->file), "%lld bytes, but the limit is %d; is this a recipe?",
                       (long long)r->n, RW_YAML_MAX_BYTES);
    if (begins_with(r, "\xff\xfe", 2) || begins_with(r, "\xfe\xff", 2))
        return rw_fail(r->err, RW_E_RECIPE, RW_AT_FILE(r->file), "the text is UTF-16; save it as UTF-8");
    size_t valid = rw_utf8_valid_prefix(r->text, r->n);
    if (valid == r->n) return RW_OK;
    return rw_fail(r->err, RW_E_RECIPE, offset_place(r, valid),
                   "byte 0x%02x is not UTF-8; save the file as UTF-8 (not GBK or another code page)",
                   (unsigned char)r->text[valid]);
}

rw_status rw_yaml_parse(rw_arena *arena, const char *file, const char *text, size_t n, rw_node **root, rw_error *err) {
    *root = NULL;
    size_t mark = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* the byte order mark of Windows editors */
    reader r = {.arena = arena, .file = file, .text = text + mark, .n = n - mark, .err = err};
    RW_TRY(check_bytes(&r));
    if (!yaml_parser_initialize(&r.parser)) return rw_fail_memory(err, sizeof r.parser);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)r.text, r.n);
    rw_status status = read_stream(&r, root);
    yaml_parser_delete(&r.parser);
    return status;
}
