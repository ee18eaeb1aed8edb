/* JSON: jansson does the reading, with its memory taken from rw_alloc; writing is ours, because numbers must read
 * back to the same double and text may hold bytes that are not UTF-8. */
#include "core/base/json.h"

#include "core/base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* jansson reports some lacks of memory as mistakes in the text, and a text buffer that cannot grow ends in an assert of
 * its own. So each lack is remembered here and the request tried once more; what was parsed is thrown away then. */
static _Thread_local bool short_of_memory;

static void *allocate(size_t n) {
    void *p = rw_alloc(n);
    if (p) return p;
    short_of_memory = true;
    return rw_alloc(n);
}

/* Before main(), so that no value made with one allocator is freed with another. */
__attribute__((constructor)) static void use_our_allocator(void) {
    json_set_alloc_funcs(allocate, rw_free);
}

/* -- reading ----------------------------------------------------------------------------------------- */

static rw_where place_of(const json_error_t *e, rw_where at) {
    if (at.line < 1) at.line = 1;
    if (e->line == 1 && at.col > 1)
        at.col += e->column - 1;
    else
        at.col = e->column;
    if (e->line > 1) at.line += e->line - 1;
    if (at.col < 1) at.col = 1;
    return at;
}

static rw_status fail_json(const json_error_t *e, size_t n, rw_where at, rw_error *err) {
    if (!e->text[0]) return rw_fail_memory(err, n); /* jansson says nothing when memory is short */
    switch (json_error_code(e)) {
    case json_error_out_of_memory:
        return rw_fail_memory(err, n);
    case json_error_premature_end_of_input:
        return rw_fail(err, RW_E_FORMAT, place_of(e, at),
                       "the JSON value is not complete; is a quote or a bracket missing?");
    case json_error_invalid_utf8:
        return rw_fail(err, RW_E_FORMAT, place_of(e, at), "not valid JSON: the bytes are not UTF-8");
    default:
        return rw_fail(err, RW_E_FORMAT, place_of(e, at), "not valid JSON: %s", e->text);
    }
}

rw_status rw_json_parse(const char *text, size_t n, rw_where at, json_t **out, rw_error *err) {
    json_error_t e = {0};
    short_of_memory = false;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (short_of_memory) {
        json_decref(*out);
        *out = NULL;
        return rw_fail_memory(err, n);
    }
    return *out ? RW_OK : fail_json(&e, n, at, err);
}

/* -- writing ----------------------------------------------------------------------------------------- */

static void append_escaped(rw_str *s, uint32_t c) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = c > 0 && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (found)
        rw_str_appendf(s, "\\%c", to[found - from]);
    else
        rw_str_appendf(s, "\\u%04x", (unsigned)c);
}

/* Control characters of one byte and of two (U+0080 to U+009F): a file of ours may be shown on a terminal. */
static bool needs_escape(uint32_t c) {
    return c < 0x20 || c == '"' || c == '\\' || (c >= 0x7f && c < 0xa0);
}

/* The character at p: its code, or of those beyond two bytes the first byte. */
static uint32_t code_at(const char *p, size_t *len) {
    const unsigned char *c = (const unsigned char *)p;
    *len = c[0] == 0xc2 ? 2 : 1;
    return *len == 2 ? c[1] : c[0] < 0x80 ? c[0] : 0xffff;
}

void rw_json_append_string(rw_str *s, const char *text, size_t n) {
    rw_str_append_n(s, "\"", 1);
    for (size_t i = 0; i < n;) {
        size_t end = i + rw_utf8_valid_prefix(text + i, n - i);
        for (size_t start = i, len; i < end; start = i) {
            while (i < end && !needs_escape(code_at(text + i, &len))) i += len;
            rw_str_append_n(s, text + start, i - start);
            if (i < end) append_escaped(s, code_at(text + i, &len));
            if (i < end) i += len;
        }
        if (i < n) {
            rw_str_append(s, "\xef\xbf\xbd");
            i++;
        }
    }
    rw_str_append_n(s, "\"", 1);
}

void rw_json_append_number(rw_str *s, double x) {
    char text[40] = "null";
    for (int digits = 15; isfinite(x) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    rw_str_append(s, text);
}
