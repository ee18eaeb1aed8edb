/* See printable.h. Formats are taken apart here because only the arguments can be told from what the program says
 * itself: a newline of the format is wanted, one of a name is not. */
#include "core/base/printable.h"

#include "core/base/alloc.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* -- where it goes --------------------------------------------------------------------------------------- */

typedef struct {
    char *buf;
    size_t size;
    size_t used;   /* bytes that the whole text has */
    size_t copied; /* of them in buf               */
} output;

/* All of the n bytes or none; after the first that do not fit, none. */
static void put(output *o, const char *bytes, size_t n) {
    if (o->copied == o->used && o->used + n < o->size) {
        memcpy(o->buf + o->used, bytes, n);
        o->copied += n;
    }
    o->used += n;
}

static size_t end(output *o) {
    if (o->size > 0) o->buf[o->copied] = '\0';
    return o->used;
}

/* -- characters ------------------------------------------------------------------------------------------- */

static bool is_control(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2066 && code <= 0x2069);
}

static void put_escape(output *o, uint32_t code, bool is_byte) {
    static const char named[] = "\n\t\r", letters[] = "ntr";
    const char *found = code ? strchr(named, (int)code) : NULL;
    char text[16];
    int n;
    if (found && !is_byte && code < 0x80)
        n = snprintf(text, sizeof text, "\\%c", letters[found - named]);
    else
        n = snprintf(text, sizeof text, is_byte || code < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)code);
    put(o, text, (size_t)n);
}

static void put_text(output *o, const char *text, size_t n, bool lines) {
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t len = rw_utf8_decode(text + i, n - i, &code);
        if (len == 0)
            put_escape(o, (unsigned char)text[i], true);
        else if (is_control(code) && !(lines && (code == '\n' || code == '\t')))
            put_escape(o, code, false);
        else
            put(o, text + i, len);
        i += len ? len : 1;
    }
}

size_t rw_printable(char *buf, size_t size, const char *text) {
    output o = {buf, size, 0, 0};
    put_text(&o, text, strlen(text), false);
    return end(&o);
}

size_t rw_printable_lines(char *buf, size_t size, const char *text) {
    output o = {buf, size, 0, 0};
    put_text(&o, text, strlen(text), true);
    return end(&o);
}

static void append(rw_str *s, const char *text, size_t n, bool lines) {
    output length = {NULL, 0, 0, 0};
    put_text(&length, text, n, lines);
    char small[512], *buf = length.used < sizeof small ? small : rw_alloc(length.used + 1);
    output o = {buf, length.used + 1, 0, 0};
    if (buf) put_text(&o, text, n, lines);
    if (buf) rw_str_append_n(s, buf, o.used);
    if (!buf) s->failed = true;
    if (buf != small) rw_free(buf);
}

void rw_str_append_printable(rw_str *s, const char *text) {
    append(s, text, strlen(text), false);
}

void rw_str_append_printable_bytes(rw_str *s, const char *bytes, size_t n) {
    append(s, bytes, n, true);
}

static void append_inside_quotes(rw_str *s, const char *text) {
    for (const char *p = text; *p; p++) rw_str_append_n(s, *p == '\'' ? "'\\''" : p, *p == '\'' ? 4 : 1);
}

/* The escapes of rw_printable() are those of the shell, but a backslash or quote of the text's own needs one too. */
static void append_escaped(rw_str *s, const char *text) {
    rw_str own = {0};
    for (const char *p = text; *p; p++) {
        if (*p == '\\' || *p == '\'') rw_str_append(&own, "\\");
        rw_str_append_n(&own, p, 1);
    }
    if (own.failed) s->failed = true;
    if (own.data) rw_str_append_printable(s, own.data);
    rw_str_done(&own);
}

void rw_str_append_quoted(rw_str *s, const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=,:+@%";
    bool controls = rw_printable(NULL, 0, text) != strlen(text);
    if (*text && text[strspn(text, plain)] == '\0') {
        rw_str_append(s, text);
        return;
    }
    rw_str_append(s, controls ? "$'" : "'");
    if (controls)
        append_escaped(s, text);
    else
        append_inside_quotes(s, text);
    rw_str_append(s, "'");
}

/* -- formats ------------------------------------------------------------------------------------------------ */

typedef struct {
    char flags[8];
    int width, precision; /* -1: none */
    char length[3];       /* "", "hh", "h", "l", "ll", "z", "t", "j" */
    char type;
} conversion;

static int read_number(const char **p, va_list *ap) {
    int n = 0;
    if (**p == '*') {
        ++*p;
        return va_arg(*ap, int);
    }
    for (; **p >= '0' && **p <= '9'; ++*p) n = n < 100000 ? 10 * n + (**p - '0') : n;
    return n;
}

static void read_chars(const char **p, const char *set, char *out, size_t size) {
    size_t n = 0;
    for (; **p && strchr(set, **p); ++*p)
        if (n + 1 < size) out[n++] = **p;
    out[n] = '\0';
}

/* *p is behind the '%'. va_list by pointer: the caller goes on with it. */
static conversion read_conversion(const char **p, va_list *ap) {
    conversion c = {.width = -1, .precision = -1};
    read_chars(p, "-+ #0", c.flags, sizeof c.flags);
    if (**p == '*' || (**p >= '1' && **p <= '9')) c.width = read_number(p, ap);
    if (**p == '.') {
        ++*p;
        c.precision = read_number(p, ap);
    }
    read_chars(p, "hlztj", c.length, sizeof c.length);
    c.type = **p;
    if (c.type) ++*p;
    return c;
}

static bool is_signed(char type) {
    return type == 'd' || type == 'i';
}

static long long take_signed(const conversion *c, va_list *ap) {
    if (strcmp(c->length, "l") == 0) return va_arg(*ap, long);
    if (strcmp(c->length, "ll") == 0) return va_arg(*ap, long long);
    if (strcmp(c->length, "z") == 0) return va_arg(*ap, ssize_t);
    if (strcmp(c->length, "t") == 0) return va_arg(*ap, ptrdiff_t);
    if (strcmp(c->length, "j") == 0) return va_arg(*ap, intmax_t);
    int x = va_arg(*ap, int);
    return strcmp(c->length, "hh") == 0 ? (signed char)x : strcmp(c->length, "h") == 0 ? (short)x : x;
}

static long long take_unsigned(const conversion *c, va_list *ap) {
    if (strcmp(c->length, "l") == 0) return (long long)va_arg(*ap, unsigned long);
    if (strcmp(c->length, "ll") == 0) return (long long)va_arg(*ap, unsigned long long);
    if (strcmp(c->length, "z") == 0) return (long long)va_arg(*ap, size_t);
    if (strcmp(c->length, "t") == 0) return (long long)va_arg(*ap, ptrdiff_t);
    if (strcmp(c->length, "j") == 0) return (long long)va_arg(*ap, uintmax_t);
    unsigned x = va_arg(*ap, unsigned);
    return strcmp(c->length, "hh") == 0 ? (unsigned char)x : strcmp(c->length, "h") == 0 ? (unsigned short)x : x;
}

/* "%<flags><width>.<precision><length><type>" for one snprintf(). A negative precision counts as none there. */
static void spec_of(const conversion *c, const char *length, char spec[24]) {
    snprintf(spec, 24, "%%%s*.*%s%c", c->flags, length, c->type);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void put_number(output *o, const conversion *c, va_list *ap) {
    char text[512], spec[24];
    int width = c->width > 0 ? c->width : 0, n;
    if (width > 100) width = 100;
    if (strchr("eEfFgGaA", c->type)) {
        spec_of(c, "", spec);
        n = snprintf(text, sizeof text, spec, width, c->precision, va_arg(*ap, double));
    } else if (c->type == 'p') {
        n = snprintf(text, sizeof text, "%p", va_arg(*ap, void *));
    } else {
        spec_of(c, "ll", spec);
        long long x = is_signed(c->type) ? take_signed(c, ap) : take_unsigned(c, ap);
        n = snprintf(text, sizeof text, spec, width, c->precision, x);
    }
    if (n > 0) put(o, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}
#pragma GCC diagnostic pop

static void put_spaces(output *o, int n) {
    while (n-- > 0) put(o, " ", 1);
}

/* A precision may cut a character in two; what is left of it goes. */
static size_t cut_length(const char *text, int precision) {
    size_t n = precision < 0 ? strlen(text) : strnlen(text, (size_t)precision);
    if (!text[n]) return n; /* nothing was cut */
    size_t valid = rw_utf8_valid_prefix(text, n);
    return n - valid < 4 && ((unsigned char)text[n] & 0xc0) == 0x80 ? valid : n;
}

static void put_string(output *o, const conversion *c, const char *text, bool lines) {
    if (!text) text = "(null)";
    size_t n = cut_length(text, c->precision), before = o->used;
    output measured = {NULL, 0, 0, 0};
    put_text(&measured, text, n, lines);
    int room = c->width - (int)measured.used;
    bool left = strchr(c->flags, '-') != NULL;
    if (!left) put_spaces(o, room);
    put_text(o, text, n, lines);
    if (left) put_spaces(o, c->width - (int)(o->used - before));
}

static void put_conversion(output *o, const char **p, va_list *ap, bool lines) {
    conversion c = read_conversion(p, ap);
    if (c.type == 's') {
        put_string(o, &c, va_arg(*ap, const char *), lines);
    } else if (c.type == 'c') {
        char text[2] = {(char)va_arg(*ap, int), '\0'};
        put_string(o, &c, text, false);
    } else if (c.type == '%') {
        put(o, "%", 1);
    } else if (c.type) {
        put_number(o, &c, ap);
    }
}

void rw_str_appendf_printable(rw_str *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t n = rw_printable_format(NULL, 0, fmt, ap) + 1;
    char small[1024], *buf = n > sizeof small ? rw_alloc(n) : small;
    if (buf) rw_printable_format(buf, n, fmt, ap);
    va_end(ap);
    if (buf) rw_str_append(s, buf);
    if (!buf) s->failed = true;
    if (buf != small) rw_free(buf);
}

size_t rw_printable_format(char *buf, size_t size, const char *fmt, va_list list) {
    output o = {buf, size, 0, 0};
    va_list ap;
    va_copy(ap, list);
    for (const char *p = fmt; *p;) {
        size_t n = strcspn(p, "%");
        if (n > 0) {
            for (size_t i = 0; i < n;) { /* whole characters, for the cut */
                uint32_t code;
                size_t len = rw_utf8_decode(p + i, n - i, &code);
                put(&o, p + i, len ? len : 1);
                i += len ? len : 1;
            }
            p += n;
            continue;
        }
        bool lines = strcmp(fmt, "%s") == 0 || (p > fmt && p[-1] == '\n');
        p++;
        put_conversion(&o, &p, &ap, lines);
    }
    va_end(ap);
    return end(&o);
}
