/* One error type for the whole program.
 *
 * A function that can fail returns rw_status and takes `rw_error *err` last. The lowest function that
 * knows the place fills the error with rw_fail(); the others pass it up with RW_TRY(). Nothing below
 * core/cli prints an error or ends the process. */
#ifndef RW_BASE_ERROR_H
#define RW_BASE_ERROR_H

#include "core/base/messages.h"

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
#define RW_STATUS(name, exit_code, doc) RW_##name,
#include "core/base/status.def"
#undef RW_STATUS
} rw_status;

/* Where a mistake is. Strings are borrowed and must outlive the error (interned in the run arena,
 * or literals). line and col count from 1; 0 means unknown. */
typedef struct {
    const char *file;
    int line, col;
    const char *key;
} rw_where;

typedef struct {
    rw_status code;
    rw_where at;
    char msg[1024];
    char *detail; /* owned: a traceback or NULL; rw_error_clear() frees it */
} rw_error;

#if defined(__GNUC__)
#define RW_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define RW_PRINTF(fmt, first)
#endif

/* Fills *err (which may be NULL) and returns `code`. The English format text is the key under which a
 * translation is looked up (messages.def); $RWKV_LANG (zh, en) or the locale chooses the language. */
rw_status rw_fail(rw_error *err, rw_status code, rw_where at, const char *fmt, ...) RW_PRINTF(4, 5);
rw_status rw_vfail(rw_error *err, rw_status code, rw_where at, const char *fmt, va_list ap);

/* The same for a system call that failed: appends ": " and the text of errno. */
rw_status rw_fail_errno(rw_error *err, rw_where at, const char *fmt, ...) RW_PRINTF(3, 4);

rw_status rw_fail_memory(rw_error *err, size_t n_bytes); /* E_MEMORY, "not enough memory for ..." */

/* Attaches an owned multi-line text (a traceback); copies it. */
void rw_error_set_detail(rw_error *err, const char *text);
void rw_error_clear(rw_error *err);

/* Writes the place into the text, for when the strings that it borrows are about to go. NULL and no error are fine. */
void rw_error_settle(rw_error *err);

/* "file:line:col: key: msg", leaving out what is unknown. Returns the length that the whole text has. */
size_t rw_error_format(const rw_error *err, char *buf, size_t size);

/* The status the process should leave with when a run ends with this code. */
int rw_status_exit_code(rw_status code);
const char *rw_status_name(rw_status code);

#define RW_AT_NONE       ((rw_where){0})
#define RW_AT_FILE(path) ((rw_where){.file = (path)})

#define RW_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        rw_status rw_try_status = (expr);                                                                              \
        if (rw_try_status != RW_OK) return rw_try_status;                                                              \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
