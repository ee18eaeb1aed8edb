/* Growable strings and the small text helpers that messages need. Formats follow the C locale: the program
 * never calls setlocale(). */
#include "core/base/str.h"

#include "core/base/alloc.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* -- rw_str ------------------------------------------------------------------------------------------ */

/* Room for n more bytes and the final NUL. */
static bool reserve(rw_str *s, size_t n) {
    if (!s->failed && n < SIZE_MAX - s->len) {
        void *data = s->data;
        if (rw_grow(&data, &s->cap, s->len + n + 1, 1)) {
            s->data = data;
            return true;
        }
    }
    s->failed = true;
    return false;
}

void rw_str_append_n(rw_str *s, const void *bytes, size_t n) {
    if (!reserve(s, n)) return;
    if (n) memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = '\0';
}

void rw_str_append(rw_str *s, const char *text) {
    rw_str_append_n(s, text, strlen(text));
}

void rw_str_appendf(rw_str *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) s->failed = true;
    if (n < 0 || !reserve(s, (size_t)n)) return;
    va_start(ap, fmt);
    vsnprintf(s->data + s->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->len += (size_t)n;
}

void rw_str_clear(rw_str *s) {
    s->len = 0;
    s->failed = false;
    if (s->data) s->data[0] = '\0';
}

void rw_str_done(rw_str *s) {
    rw_free(s->data);
    *s = (rw_str){0};
}

/* -- similar names ----------------------------------------------------------------------------------- */

enum { MAX_WORD = 96 }; /* longer words are never a slip of the finger */

static int min3(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

int rw_edit_distance(const char *a, const char *b, int limit) {
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a > MAX_WORD || n_b > MAX_WORD) return strcmp(a, b) == 0 ? 0 : limit + 1;
    int rows[3][MAX_WORD + 1]; /* rows i-2, i-1, i of the usual table, taken in turn */
    for (size_t j = 0; j <= n_b; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        const int *before = rows[(i + 1) % 3], *last = rows[(i + 2) % 3];
        int *row = rows[i % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            row[j] = min3(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
        }
    }
    int d = rows[n_a % 3][n_b];
    return d > limit ? limit + 1 : d;
}

const char *rw_did_you_mean(const char *word, const char *const *names) {
    int limit = (int)(strlen(word) + 2) / 3; /* one slip in three letters */
    if (limit > 3) limit = 3;
    if (strlen(word) < 3) limit = 0; /* "no" is not a slip for "on" */
    const char *best = NULL;
    for (; *names && limit >= 0; names++) {
        int d = rw_edit_distance(word, *names, limit);
        if (d > limit || (size_t)d >= strlen(*names)) continue;
        best = *names;
        limit = d - 1; /* the first of equals stays */
    }
    return best;
}

/* -- numbers for people ------------------------------------------------------------------------------ */

char *rw_format_bytes(char *buf, size_t size, int64_t n_bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = fabs((double)n_bytes);
    int unit = 0;
    for (; v >= 1023.5 && unit < 6; unit++) v /= 1024;
    int digits = unit == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
    snprintf(buf, size, "%s%.*f %s", n_bytes < 0 ? "-" : "", digits, v, units[unit]);
    return buf;
}

void rw_format_two_sizes(char a[32], int64_t n, char b[32], int64_t m) {
    rw_format_bytes(a, 32, n);
    rw_format_bytes(b, 32, m);
    if (n == m || strcmp(a, b) != 0) return;
    snprintf(a, 32, "%lld B", (long long)n);
    snprintf(b, 32, "%lld B", (long long)m);
}

char *rw_format_count(char *buf, size_t size, int64_t n) {
    char digits[24], text[32];
    uint64_t value = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    int n_digits = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value), k = 0;
    if (n < 0) text[k++] = '-';
    for (int i = 0; i < n_digits; i++) {
        if (i > 0 && (n_digits - i) % 3 == 0) text[k++] = ',';
        text[k++] = digits[i];
    }
    text[k] = '\0';
    snprintf(buf, size, "%s", text);
    return buf;
}

char *rw_format_seconds(char *buf, size_t size, double seconds) {
    if (!(seconds >= 0 && seconds < 1e12)) {
        snprintf(buf, size, "?");
        return buf;
    }
    long long s = llround(seconds);
    if (seconds < 59.95)
        snprintf(buf, size, "%.1fs", seconds);
    else if (s < 3600)
        snprintf(buf, size, "%lldm %02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(buf, size, "%lldh %02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(buf, size, "%lldd %02lldh", s / 86400, s / 3600 % 24);
    return buf;
}

/* -- UTF-8 ------------------------------------------------------------------------------------------- */

size_t rw_utf8_decode(const char *text, size_t n, uint32_t *code) {
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    if (n == 0) return 0;
    *code = s[0];
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > n) return 0;
    *code = s[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        *code = *code << 6 | (s[i] & 0x3f);
    }
    bool ok = *code >= smallest[len] && *code <= 0x10ffff && (*code < 0xd800 || *code > 0xdfff);
    return ok ? len : 0;
}

size_t rw_utf8_valid_prefix(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        for (; n - i >= 8; i += 8) { /* text is mostly ASCII */
            memcpy(&eight, s + i, 8);
            if (eight & 0x8080808080808080u) break;
        }
        uint32_t code;
        size_t len = rw_utf8_decode(s + i, n - i, &code);
        if (len == 0) break;
        i += len;
    }
    return i;
}

typedef struct {
    uint32_t first, last;
} range;

static bool in_ranges(const range *r, size_t n, uint32_t code) {
    for (size_t i = 0; i < n; i++)
        if (code >= r[i].first && code <= r[i].last) return true;
    return false;
}

/* Columns of one character, from the Unicode properties East_Asian_Width and Mn, coarsely. */
static int columns_of(uint32_t code) {
    static const range wide[] = {{0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},   {0xa960, 0xa97f},
                                 {0xac00, 0xd7a3},   {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff01, 0xff60},
                                 {0xffe0, 0xffe6},   {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff},
                                 {0x1fa70, 0x1faff}, {0x20000, 0x3fffd}};
    static const range none[] = {{0x300, 0x36f}, {0x200b, 0x200f}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}};
    if (code < 0x300) return 1;
    if (in_ranges(wide, sizeof wide / sizeof wide[0], code)) return 2;
    return in_ranges(none, sizeof none / sizeof none[0], code) ? 0 : 1;
}

int rw_utf8_columns(const char *s, size_t n) {
    int columns = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code;
        size_t len = rw_utf8_decode(s + i, n - i, &code);
        columns += len ? columns_of(code) : 1; /* a broken byte is shown as one sign */
        i += len ? len : 1;
    }
    return columns;
}
