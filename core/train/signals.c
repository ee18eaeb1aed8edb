/* Signals: see signals.h. The handler does nothing but remember, and on the second signal leave. */
#include "core/train/signals.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static volatile sig_atomic_t received; /* a handler can reach nothing but a global */

static void on_signal(int number) {
    if (received) _exit(128 + number);
    received = number;
}

static void set(void (*handler)(int)) {
    struct sigaction a = {.sa_handler = handler};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

void rw_signals_catch(void) {
    received = 0;
    set(on_signal);
}

void rw_signals_release(void) {
    received = 0;
    set(SIG_DFL);
}

int rw_signals_received(void) {
    return received;
}
