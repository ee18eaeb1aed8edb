/* Two readers for a line. The quick one decodes the text and steps over other fields, whatever they hold: numbers of
 * any size, NaN, half a surrogate, bytes of another encoding. What it does not know goes to jansson, which accepts the
 * rest of JSON or says what is wrong. So the quick one may give up anywhere, but of the text itself it must never take
 * what jansson would refuse. Limit: lines of 1 GiB. */
#include "core/data/jsonl.h"

#include "core/base/alloc.h"
#include "core/base/json.h"
#include "core/data/text_kind.h"

#include <stdio.h>
#include <string.h>

#define PIECE     (1 << 20)
#define MAX_LINE  (INT64_C(1) << 30)
#define EXCERPT   40 /* characters of the line shown in an error */
#define KEY       "text"
#define MAX_DEPTH 512 /* of brackets in a field that is skipped */

/* -- the quick reader ----------------------------------------------------------------------------- */

static const char *skip_blank(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    return p;
}

static const char *expect(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    if (!p) return NULL;
    p = skip_blank(p, end);
    return (size_t)(end - p) >= n && !memcmp(p, word, n) ? p + n : NULL;
}

static bool hex4(const char *p, const char *end, uint32_t *u) {
    *u = 0;
    if (end - p < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return false;
        *u = *u << 4 | (uint32_t)d;
    }
    return true;
}

static char *put_utf8(char *o, uint32_t u) {
    if (u < 0x80) {
        *o++ = (char)u;
        return o;
    }
    if (u < 0x800)
        *o++ = (char)(0xc0 | u >> 6);
    else {
        if (u < 0x10000)
            *o++ = (char)(0xe0 | u >> 12);
        else {
            *o++ = (char)(0xf0 | u >> 18);
            *o++ = (char)(0x80 | (u >> 12 & 63));
        }
        *o++ = (char)(0x80 | (u >> 6 & 63));
    }
    *o++ = (char)(0x80 | (u & 63));
    return o;
}

/* \uXXXX, p after the u; a pair of surrogates is one character, a single one is refused. */
static const char *quick_unicode(const char *p, const char *end, char **o) {
    uint32_t u, low;
    if (!hex4(p, end, &u)) return NULL;
    p += 4;
    if (u >= 0xd800 && u < 0xe000) {
        if (u >= 0xdc00 || end - p < 6 || p[0] != '\\' || p[1] != 'u' || !hex4(p + 2, end, &low)) return NULL;
        if (low < 0xdc00 || low >= 0xe000) return NULL;
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
    }
    *o = put_utf8(*o, u);
    return p;
}

static const char *quick_escape(const char *p, const char *end, char **o) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (p >= end || !*p) return NULL;
    const char *simple = strchr(names, *p);
    if (!simple) return *p == 'u' ? quick_unicode(p + 1, end, o) : NULL;
    *(*o)++ = values[simple - names];
    return p + 1;
}

/* First byte that ends a run of plain text: a quote, a backslash or a control character. Eight at a time. */
static const char *plain_run(const char *p, const char *end) {
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    for (; end - p >= 8; p += 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        uint64_t quote = x ^ ones * '"', slash = x ^ ones * '\\';
        uint64_t found = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((x - ones * 0x20) & ~x);
        if (found & high) break;
    }
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    return p;
}

/* Decodes a string up to its closing quote into o, which has room for what is left of the line. NULL: not known here.
 */
static const char *quick_string(const char *p, const char *end, char *o, size_t *n) {
    char *start = o;
    for (;;) {
        const char *stop = plain_run(p, end);
        memcpy(o, p, (size_t)(stop - p));
        o += stop - p;
        if (stop >= end || (*stop != '"' && *stop != '\\')) return NULL;
        p = stop + 1;
        if (*stop == '"') break;
        if (!(p = quick_escape(p, end, &o))) return NULL;
    }
    *n = (size_t)(o - start);
    return p;
}

/* -- fields that nobody reads --------------------------------------------------------------------- */

/* The end of a string whose opening quote is before p; NULL: not closed. What is in it does not matter. */
static const char *skip_string(const char *p, const char *end) {
    for (; p < end && *p != '"'; p++)
        if (*p == '\\') p++;
    return p < end ? p + 1 : NULL;
}

/* A number of any size, or a word: as JSON and Python's json write them. */
static const char *skip_scalar(const char *p, const char *end) {
    static const char *const words[] = {"true", "false", "null", "NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(end - p) >= n && !memcmp(p, words[i], n)) return p + n;
    }
    const char *start = p;
    while (p < end && *p && strchr("0123456789+-.eE", *p)) p++;
    return p > start ? p : NULL;
}

/* The end of a value; NULL: not known here. Brackets must match; what is between them is not looked at closely. */
static const char *skip_value(const char *p, const char *end) {
    char open[MAX_DEPTH];
    int depth = 0;
    do {
        p = skip_blank(p, end);
        if (p >= end) return NULL;
        if (*p == '{' || *p == '[') {
            if (depth == MAX_DEPTH) return NULL;
            open[depth++] = *p++;
        } else if (*p == '}' || *p == ']') {
            if (depth == 0 || open[--depth] != (*p == '}' ? '{' : '[')) return NULL;
            p++;
        } else if (depth > 0 && (*p == ',' || *p == ':'))
            p++;
        else
            p = *p == '"' ? skip_string(p + 1, end) : skip_scalar(p, end);
    } while (p && depth > 0);
    return p;
}

/* -- a line -------------------------------------------------------------------------------------- */

/* One field, p at its quote; *found when it is the text. NULL: not known here. */
static const char *read_field(rw_jsonl *r, const char *p, const char *end, bool *found) {
    const char *key = p;
    p = expect(p, end, "\"" KEY "\"");
    if (!p) {
        p = expect(key, end, "\"");
        if (!p || !(p = skip_string(p, end)) || memchr(key, '\\', (size_t)(p - key))) return NULL;
        p = expect(p, end, ":");
        return p ? skip_value(p, end) : NULL;
    }
    p = expect(expect(p, end, ":"), end, "\"");
    if (!p || *found) return NULL;
    *found = true;
    return quick_string(p, end, r->text.data, &r->text.len);
}

/* An object with a string under "text": true, and the text in r->text. */
static bool read_quick(rw_jsonl *r, const char *p, const char *end) {
    bool found = false;
    const char *more = expect(p, end, "{");
    do {
        if (!more || !(p = read_field(r, skip_blank(more, end), end, &found))) return false;
        more = expect(p, end, ",");
    } while (more);
    p = expect(p, end, "}");
    if (!p || skip_blank(p, end) != end || !found) return false;
    return rw_utf8_valid_prefix(r->text.data, r->text.len) == r->text.len;
}

/* -- everything else ------------------------------------------------------------------------------ */

/* The part of the line about column `col` (from 1), whole characters, without line ends. */
static void excerpt(char *out, const char *line, const char *end, int col) {
    const char *from = line;
    int at = 1;
    for (; from < end && at + EXCERPT / 2 < col; at++) /* to the first character shown */
        do from++;
        while (from < end && (*from & 0xc0) == 0x80);
    int n = 0;
    for (const char *p = from; p < end && *p != '\r'; p++) {
        if ((*p & 0xc0) != 0x80 && n++ == EXCERPT) break;
        *out++ = (unsigned char)*p < 0x20 || (unsigned char)*p == 0x7f ? ' ' : *p;
        if (p - from >= EXCERPT * 4) break;
    }
    *out = 0;
}

static rw_status fail_line(const char *line, const char *end, rw_error *err, const rw_error *why) {
    char near[EXCERPT * 4 + 8];
    if (why->code != RW_E_FORMAT) return rw_fail(err, why->code, why->at, "%s", why->msg);
    rw_where at = why->at;
    excerpt(near, line, end, at.col);
    size_t n = strlen(near);
    near[rw_utf8_valid_prefix(near, n)] = 0;
    return rw_fail(err, RW_E_DATA, at, "%s; near: %s", why->msg, near);
}

/* The keys of an object as a list for people, at most about 200 characters. */
static void list_keys(json_t *object, char *out, size_t size) {
    const char *key;
    json_t *value;
    size_t len = 0;
    out[0] = 0;
    json_object_foreach(object, key, value) {
        int n = snprintf(out + len, size - len, "%s'%.40s'", len ? ", " : "", key);
        if (n < 0 || (size_t)n >= size - len) break;
        len += (size_t)n;
    }
    out[len] = 0;
}

static rw_status fail_no_text(json_t *object, rw_where at, rw_error *err) {
    char keys[200];
    const char *names[] = {"text", NULL}, *key;
    json_t *value;
    at.col = 1;
    if (!json_is_object(object))
        return rw_fail(err, RW_E_DATA, at, "expected an object like {\"text\": \"...\"}, found another kind of value");
    if (json_object_get(object, KEY)) return rw_fail(err, RW_E_DATA, at, "the value of 'text' is not a string");
    list_keys(object, keys, sizeof keys);
    json_object_foreach(object, key, value) {
        if (json_is_string(value) && rw_did_you_mean(key, names))
            return rw_fail(err, RW_E_DATA, at, "no key 'text' (found: %s); should '%s' be 'text'?", keys, key);
    }
    return rw_fail(err, RW_E_DATA, at, "no key 'text' (found: %s); each line must hold the whole document under 'text'",
                   *keys ? keys : rw_message("none"));
}

/* Where a byte is that is not UTF-8: its column counts characters. */
static rw_status check_utf8(const rw_jsonl *r, const char *line, const char *end, rw_where at, rw_error *err) {
    size_t n = (size_t)(end - line), valid = rw_utf8_valid_prefix(line, n);
    if (valid == n) return RW_OK;
    for (size_t i = 0; i < valid; i++) at.col += (line[i] & 0xc0) != 0x80;
    int64_t offset = r->offset - (int64_t)r->len + (line + valid - r->buf);
    return rw_text_fail_utf8(at, line + valid, n - valid, offset, err);
}

static rw_status read_any(rw_jsonl *r, const char *line, const char *end, rw_error *err) {
    rw_where at = {.file = r->file.path, .line = r->line, .col = 1};
    RW_TRY(check_utf8(r, line, end, at, err));
    rw_error why = {0};
    json_t *object;
    if (rw_json_parse(line, (size_t)(end - line), at, &object, &why) != RW_OK) {
        rw_status s = fail_line(line, end, err, &why);
        rw_error_clear(&why);
        return s;
    }
    json_t *value = json_object_get(object, KEY);
    rw_status s = json_is_string(value) ? RW_OK : fail_no_text(object, at, err);
    if (s == RW_OK) { /* never longer than the line: the room is there */
        r->text.len = json_string_length(value);
        memcpy(r->text.data, json_string_value(value), r->text.len);
    }
    json_decref(object);
    return s;
}

/* -- lines ---------------------------------------------------------------------------------------- */

static rw_status reserve(rw_jsonl *r, size_t n, rw_error *err) {
    void *p = r->buf;
    bool ok = rw_grow(&p, &r->cap, n, 1);
    r->buf = p;
    return ok ? RW_OK : rw_fail_memory(err, n);
}

/* Reads another piece after what is in the buffer; what was used is dropped first. */
static rw_status read_piece(rw_jsonl *r, rw_error *err) {
    if (r->pos > 0) memmove(r->buf, r->buf + r->pos, r->len - r->pos);
    r->len -= r->pos;
    r->pos = 0;
    int64_t n = r->file.n_bytes - r->offset;
    if (n > PIECE) n = PIECE;
    if (r->len + (size_t)n > MAX_LINE)
        return rw_fail(err, RW_E_DATA, (rw_where){.file = r->file.path, .line = r->line + 1},
                       "a line of more than 1 GiB; is this a .jsonl file?");
    RW_TRY(reserve(r, r->len + (size_t)n, err));
    RW_TRY(rw_file_read_at(&r->file, r->offset, r->buf + r->len, n, err));
    r->len += (size_t)n;
    r->offset += n;
    return RW_OK;
}

/* The next line without its end; *line = NULL after the last. */
static rw_status next_line(rw_jsonl *r, const char **line, const char **end, rw_error *err) {
    size_t seen = 0; /* bytes of the line already searched */
    *line = NULL;
    for (;;) {
        char *start = r->buf + r->pos, *eol = NULL;
        size_t n = r->len - r->pos;
        if (n > seen) eol = memchr(start + seen, '\n', n - seen);
        seen = n;
        if (!eol && r->offset < r->file.n_bytes) {
            RW_TRY(read_piece(r, err));
            continue;
        }
        if (n == 0) return RW_OK;
        *line = start;
        *end = eol ? eol : start + n;
        r->pos = (size_t)(*end - r->buf) + (eol != NULL);
        r->line++;
        return RW_OK;
    }
}

static rw_status read_document(rw_jsonl *r, const char *line, const char *end, rw_error *err) {
    void *data = r->text.data;
    bool ok = rw_grow(&data, &r->text.cap, (size_t)(end - line) + 1, 1);
    r->text.data = data;
    if (!ok) return rw_fail_memory(err, (size_t)(end - line));
    if (!read_quick(r, line, end)) RW_TRY(read_any(r, line, end, err));
    return RW_OK;
}

/* The whole file as one array, as many tools write it. */
static rw_status fail_array(const rw_jsonl *r, rw_error *err) {
    return rw_fail(err, RW_E_DATA, (rw_where){.file = r->file.path, .line = r->line},
                   "this is one JSON array, expected one object a line; first run: python3 -c 'import json,sys; "
                   "[print(json.dumps(x)) for x in json.load(sys.stdin)]' < '%s' > NEW",
                   r->file.path);
}

rw_status rw_jsonl_next(rw_jsonl *r, const char **text, size_t *n, rw_error *err) {
    const char *line, *end;
    *text = NULL;
    *n = 0;
    do {
        RW_TRY(next_line(r, &line, &end, err));
        if (!line) return RW_OK;
        if (r->line == 1 && end - line >= 3 && !memcmp(line, "\xef\xbb\xbf", 3)) line += 3;
    } while (skip_blank(line, end) == end);
    if (!r->began && *skip_blank(line, end) == '[') return fail_array(r, err);
    r->began = true;
    RW_TRY(read_document(r, line, end, err));
    *text = r->text.data;
    *n = r->text.len;
    return RW_OK;
}

/* -- opening -------------------------------------------------------------------------------------- */

rw_status rw_jsonl_open(rw_jsonl *r, const char *path, rw_error *err) {
    *r = (rw_jsonl){.file = {.fd = -1}};
    RW_TRY(rw_file_open(&r->file, path, err));
    r->is_open = true;
    rw_status s = rw_text_kind_check(&r->file, err);
    if (s == RW_OK) s = reserve(r, PIECE, err);
    if (s != RW_OK) rw_jsonl_close(r);
    return s;
}

rw_status rw_jsonl_open_memory(rw_jsonl *r, const char *name, const char *text, size_t n, rw_error *err) {
    *r = (rw_jsonl){.file = {.fd = -1, .path = name}};
    RW_TRY(reserve(r, n + 1, err));
    if (n) memcpy(r->buf, text, n);
    r->len = n;
    return RW_OK;
}

int64_t rw_jsonl_position(const rw_jsonl *r) {
    return r->offset - (int64_t)(r->len - r->pos);
}

void rw_jsonl_close(rw_jsonl *r) {
    if (r->is_open) rw_file_close(&r->file);
    rw_free(r->buf);
    rw_str_done(&r->text);
    *r = (rw_jsonl){.file = {.fd = -1}};
}
