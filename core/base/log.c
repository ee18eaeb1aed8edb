/* Lines for people on standard error. One lock keeps lines whole and the progress bar out of them; the level and
 * the two callbacks are process-wide because standard error is. */
#include "core/base/log.h"

#include "core/base/alloc.h"
#include "core/base/error.h"
#include "core/base/printable.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*call_before)(void *), (*call_after)(void *);
static void *call_ctx;
static _Atomic int level_now = -1; /* -1: not read from the environment yet */

static int level_from_environment(void) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    const char *value = getenv("RWKV_LOG");
    for (int i = 0; value && i < 4; i++)
        if (strcmp(value, names[i]) == 0) return i;
    return RW_LOG_INFO;
}

static int current_level(void) {
    int level = atomic_load(&level_now);
    if (level < 0) atomic_store(&level_now, level = level_from_environment());
    return level;
}

void rw_log_set_level(rw_log_level level) {
    atomic_store(&level_now, (int)level);
}

void rw_log_set_around(void (*before)(void *), void (*after)(void *), void *ctx) {
    pthread_mutex_lock(&lock);
    call_before = before;
    call_after = after;
    call_ctx = ctx;
    pthread_mutex_unlock(&lock);
}

void rw_log_end_around(void) {
    pthread_mutex_lock(&lock);
    if (call_before) call_before(call_ctx);
    call_before = call_after = NULL;
    pthread_mutex_unlock(&lock);
}

/* Without memory a long text is cut. */
static void print(const char *fmt, va_list ap) {
    char small[2048], *text = small;
    size_t n = rw_printable_format(small, sizeof small, fmt, ap) + 1;
    if (n > sizeof small && (text = rw_alloc(n)) != NULL) rw_printable_format(text, n, fmt, ap);
    fputs(text ? text : small, stderr);
    if (text != small) rw_free(text);
}

void rw_log(rw_log_level level, const char *fmt, ...) {
    if ((int)level > current_level()) return;
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&lock);
    if (call_before) call_before(call_ctx);
    if (level == RW_LOG_ERROR) fputs(rw_message("error: "), stderr);
    if (level == RW_LOG_WARN) fputs(rw_message("warning: "), stderr);
    print(rw_message(fmt), ap);
    fputc('\n', stderr);
    fflush(stderr);
    if (call_after) call_after(call_ctx);
    pthread_mutex_unlock(&lock);
    va_end(ap);
}
