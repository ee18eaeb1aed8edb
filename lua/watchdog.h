/* A clock beside the script: a thread that says when a hook has run for too long.
 *
 * At the end of the budget it sets `expired`, which the count hook of the state and every library function
 * that loops in C look at, and which they turn into an error. Code that looks at nothing (compiled loops,
 * when the recipe switches the JIT on) cannot be ended from outside without leaving the state broken; so
 * when the script still runs `grace_ms` later, the process ends with a message, after `rescue`
 * has saved. While it does, the script may return: it then waits in rw_lua_watchdog_end(), so the loop does not go on.
 */
#ifndef RW_LUA_WATCHDOG_H
#define RW_LUA_WATCHDOG_H

#include "core/base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t budget_ms; /* <= 0: no limit, and no thread                       */
    int64_t grace_ms;  /* <= 0: never ends the process                        */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool started;
    bool quit;              /* under lock                                          */
    int64_t deadline_ns;    /* under lock; 0: nothing runs                         */
    uint64_t call;          /* under lock: which call runs                         */
    char what[128];         /* under lock: its name, for the message               */
    bool (*rescue)(void *); /* under lock: what to do before the end; NULL: nothing */
    void *rescue_ctx;
    bool expired; /* of the call that runs; read and written by __atomic_ alone */
} rw_lua_watchdog;

/* Fails with E_MEMORY when no thread can be had. An all-zero watchdog may be stopped. */
rw_status rw_lua_watchdog_start(rw_lua_watchdog *w, int64_t budget_ms, int64_t grace_ms, rw_error *err);
void rw_lua_watchdog_stop(rw_lua_watchdog *w);

/* Around each call of a script; `what` is copied. */
void rw_lua_watchdog_begin(rw_lua_watchdog *w, const char *what);
void rw_lua_watchdog_end(rw_lua_watchdog *w);

/* Before the process ends, `rescue` is called, from the thread of the watchdog; it says whether all is saved. */
void rw_lua_watchdog_set_rescue(rw_lua_watchdog *w, bool (*rescue)(void *), void *ctx);

static inline bool rw_lua_watchdog_expired(rw_lua_watchdog *w) {
    return __atomic_load_n(&w->expired, __ATOMIC_RELAXED);
}

#ifdef __cplusplus
}
#endif
#endif
