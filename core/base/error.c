/* Errors: filling and printing. Text that comes from a file may hold anything; control bytes and broken UTF-8 are
 * shown as '?', so that a message cannot steer the terminal. */
#include "core/base/error.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* -- status codes ------------------------------------------------------------------------------------ */

int rw_status_exit_code(rw_status code) {
    switch (code) {
#define RW_STATUS(name, exit_code, doc)                                                                                \
    case RW_##name:                                                                                                    \
        return exit_code;
#include "core/base/status.def"
#undef RW_STATUS
    }
    return 1;
}

const char *rw_status_name(rw_status code) {
    switch (code) {
#define RW_STATUS(name, exit_code, doc)                                                                                \
    case RW_##name:                                                                                                    \
        return #name;
#include "core/base/status.def"
#undef RW_STATUS
    }
    return "?";
}

/* -- filling ----------------------------------------------------------------------------------------- */

/* Makes a text safe to print without changing its length. */
static void clean(char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        size_t valid = rw_utf8_valid_prefix(s + i, n - i);
        for (size_t end = i + valid; i < end; i++)
            if (((unsigned char)s[i] < 0x20 && s[i] != '\n' && s[i] != '\t') || s[i] == 0x7f) s[i] = '?';
        if (i < n) s[i++] = '?';
    }
}

/* Removes what is left of a character that the end of a buffer cut in two. */
static void drop_cut_character(char *s, size_t n) {
    size_t valid = rw_utf8_valid_prefix(s, n);
    if (n - valid < 4 && n > valid && ((unsigned char)s[valid] & 0xc0) == 0xc0) s[valid] = '\0';
}

rw_status rw_vfail(rw_error *err, rw_status code, rw_where at, const char *fmt, va_list ap) {
    if (!err) return code;
    char msg[sizeof err->msg]; /* the arguments may point into err->msg */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = vsnprintf(msg, sizeof msg, rw_message(fmt), ap);
#pragma GCC diagnostic pop
    if (n < 0) msg[0] = '\0';
    if (n >= (int)sizeof msg) drop_cut_character(msg, sizeof msg - 1);
    clean(msg);
    rw_error_clear(err);
    err->code = code;
    err->at = at;
    memcpy(err->msg, msg, sizeof msg);
    return code;
}

rw_status rw_fail(rw_error *err, rw_status code, rw_where at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rw_vfail(err, code, at, fmt, ap);
    va_end(ap);
    return code;
}

rw_status rw_fail_errno(rw_error *err, rw_where at, const char *fmt, ...) {
    char buffer[256];
    const char *reason = rw_message(strerror_r(errno, buffer, sizeof buffer));
    va_list ap;
    va_start(ap, fmt);
    rw_vfail(err, RW_E_IO, at, fmt, ap);
    va_end(ap);
    if (!err) return RW_E_IO;
    size_t n = strlen(err->msg);
    snprintf(err->msg + n, sizeof err->msg - n, ": %s", reason);
    return RW_E_IO;
}

rw_status rw_fail_memory(rw_error *err, size_t n_bytes) {
    char text[32];
    rw_format_bytes(text, sizeof text, n_bytes > INT64_MAX ? INT64_MAX : (int64_t)n_bytes);
    return rw_fail(err, RW_E_MEMORY, RW_AT_NONE, "not enough memory for %s", text);
}

void rw_error_set_detail(rw_error *err, const char *text) {
    if (!err) return;
    char *copy = rw_strdup(text);
    rw_free(err->detail);
    err->detail = copy;
}

void rw_error_clear(rw_error *err) {
    if (!err) return;
    rw_free(err->detail);
    *err = (rw_error){0};
}

/* -- printing ---------------------------------------------------------------------------------------- */

size_t rw_error_format(const rw_error *err, char *buf, size_t size) {
    char place[48] = "";
    if (err->at.line > 0 && err->at.col > 0)
        snprintf(place, sizeof place, ":%d:%d", err->at.line, err->at.col);
    else if (err->at.line > 0)
        snprintf(place, sizeof place, ":%d", err->at.line);
    const char *file = err->at.file, *key = err->at.key;
    int n = snprintf(buf, size, "%s%s%s%s%s%s", file ? file : "", file ? place : "", file ? ": " : "", key ? key : "",
                     key ? ": " : "", err->msg);
    if (size > 0) {
        if (n >= (int)size) drop_cut_character(buf, size - 1);
        clean(buf);
    }
    return n < 0 ? 0 : (size_t)n;
}

void rw_error_settle(rw_error *err) {
    char text[sizeof err->msg];
    if (!err || (!err->at.file && !err->at.key)) return;
    rw_error_format(err, text, sizeof text);
    memcpy(err->msg, text, sizeof text);
    err->at = RW_AT_NONE;
}
