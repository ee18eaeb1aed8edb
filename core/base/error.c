/* Errors: filling and printing. Text that comes from a file may hold anything, so all of it passes core/base/printable.
 */
#include "core/base/error.h"

#include "core/base/alloc.h"
#include "core/base/printable.h"

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

rw_status rw_vfail(rw_error *err, rw_status code, rw_where at, const char *fmt, va_list ap) {
    if (!err) return code;
    char msg[sizeof err->msg]; /* the arguments may point into err->msg */
    rw_printable_format(msg, sizeof msg, rw_message(fmt), ap);
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
    size_t n = rw_printable_lines(NULL, 0, text) + 1;
    char *copy = rw_alloc(n);
    if (copy) rw_printable_lines(copy, n, text);
    rw_free(err->detail);
    err->detail = copy;
}

void rw_error_clear(rw_error *err) {
    if (!err) return;
    rw_free(err->detail);
    *err = (rw_error){0};
}

/* -- printing ---------------------------------------------------------------------------------------- */

static void append(char *buf, size_t size, size_t *n, size_t (*print)(char *, size_t, const char *), const char *text) {
    size_t room = *n < size ? size - *n : 0;
    *n += print(room ? buf + *n : NULL, room, text);
}

size_t rw_error_format(const rw_error *err, char *buf, size_t size) {
    const char *file = err->at.file, *key = err->at.key;
    char number[24];
    size_t n = 0;
    if (size > 0) buf[0] = '\0';
    if (file) {
        append(buf, size, &n, rw_printable, file);
        int numbers[] = {err->at.line, err->at.line > 0 ? err->at.col : 0};
        for (int i = 0; i < 2 && numbers[i] > 0; i++) {
            snprintf(number, sizeof number, ":%d", numbers[i]);
            append(buf, size, &n, rw_printable, number);
        }
        append(buf, size, &n, rw_printable, ": ");
    }
    if (key) append(buf, size, &n, rw_printable, key);
    if (key) append(buf, size, &n, rw_printable, ": ");
    append(buf, size, &n, rw_printable_lines, err->msg); /* made so already; this cuts it between characters */
    return n;
}

void rw_error_settle(rw_error *err) {
    char text[sizeof err->msg];
    if (!err || (!err->at.file && !err->at.key)) return;
    rw_error_format(err, text, sizeof text);
    memcpy(err->msg, text, sizeof text);
    err->at = RW_AT_NONE;
}
