/* The watchdog thread sleeps until a call begins, then until its deadline. Signals stay with the other threads:
 * they are blocked here, so that SIGINT reaches the training loop. */
#include "lua/watchdog.h"

#include "core/base/log.h"
#include "core/base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Waits until `ns` of the monotonic clock, or for a word from the other side when ns is 0. */
static void wait_until(rw_lua_watchdog *w, int64_t ns) {
    if (ns == 0) {
        pthread_cond_wait(&w->wake, &w->lock);
        return;
    }
    struct timespec at = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    pthread_cond_timedwait(&w->wake, &w->lock, &at);
}

/* The state cannot be left from outside, and the loop cannot continue: the one place below core/cli that ends
 * the process. */
static void end_process(const rw_lua_watchdog *w) {
    const bool saved = w->rescue && w->rescue(w->rescue_ctx);
    rw_log(RW_LOG_ERROR,
           "%s does not return: it is %lld ms past lua.budget_ms (%lld) and cannot be interrupted (is lua.jit on?). %s",
           w->what, (long long)w->grace_ms, (long long)w->budget_ms,
           saved ? rw_message("What was trained is saved; without this script, the same command resumes the run.")
                 : rw_message("Nothing was saved now; what was saved before is intact."));
    _exit(rw_status_exit_code(RW_E_LUA));
}

/* One call: the deadline, then the grace. Returns when the call has ended. Called with the lock held. */
static void watch_call(rw_lua_watchdog *w) {
    const uint64_t call = w->call;
    int64_t end_ns = 0;
    while (!w->quit && w->deadline_ns != 0 && w->call == call) {
        const int64_t now = rw_now_ns();
        if (end_ns != 0 && now >= end_ns) end_process(w);
        if (end_ns == 0 && now >= w->deadline_ns) {
            __atomic_store_n(&w->expired, true, __ATOMIC_RELAXED);
            /* counted from here, so that a process that was stopped for a while is not ended at once */
            end_ns = w->grace_ms > 0 ? now + w->grace_ms * 1000000 : INT64_MAX;
        }
        wait_until(w, end_ns == 0 ? w->deadline_ns : end_ns == INT64_MAX ? 0 : end_ns);
    }
}

static void *run(void *arg) {
    rw_lua_watchdog *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->quit) {
        if (w->deadline_ns == 0)
            wait_until(w, 0);
        else
            watch_call(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int start_thread(rw_lua_watchdog *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

rw_status rw_lua_watchdog_start(rw_lua_watchdog *w, int64_t budget_ms, int64_t grace_ms, rw_error *err) {
    const int64_t year_ms = INT64_C(365) * 86400 * 1000; /* keeps the sums below far from overflow */
    *w = (rw_lua_watchdog){.budget_ms = budget_ms < year_ms ? budget_ms : year_ms, .grace_ms = grace_ms};
    if (budget_ms <= 0) return RW_OK;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (start_thread(w) != 0) {
        pthread_cond_destroy(&w->wake);
        pthread_mutex_destroy(&w->lock);
        return rw_fail(err, RW_E_MEMORY, RW_AT_NONE, "cannot start the thread that limits the time of scripts");
    }
    w->started = true;
    return RW_OK;
}

void rw_lua_watchdog_stop(rw_lua_watchdog *w) {
    if (!w->started) return;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    w->started = false;
}

void rw_lua_watchdog_begin(rw_lua_watchdog *w, const char *what) {
    __atomic_store_n(&w->expired, false, __ATOMIC_RELAXED);
    if (!w->started) return;
    pthread_mutex_lock(&w->lock);
    snprintf(w->what, sizeof w->what, "%s", what);
    w->call++;
    w->deadline_ns = rw_now_ns() + w->budget_ms * 1000000;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

void rw_lua_watchdog_set_rescue(rw_lua_watchdog *w, bool (*rescue)(void *), void *ctx) {
    if (!w->started) return;
    pthread_mutex_lock(&w->lock);
    w->rescue = rescue;
    w->rescue_ctx = ctx;
    pthread_mutex_unlock(&w->lock);
}

void rw_lua_watchdog_end(rw_lua_watchdog *w) {
    if (!w->started) return;
    pthread_mutex_lock(&w->lock);
    w->deadline_ns = 0;
    pthread_mutex_unlock(&w->lock);
}
