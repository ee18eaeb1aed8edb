/* Signals: see signals.h. A handler may do next to nothing, so it counts, and passes the number through a pipe to a
 * thread that may print and delete files. A third press does not wait for that thread. */
#include "core/train/signals.h"

#include "core/base/fs.h"
#include "core/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_SIGNALS = sizeof numbers / sizeof *numbers };

/* A handler can reach nothing but globals. */
static _Atomic int received, presses;
static int ends[2] = {-1, -1}; /* of the pipe */
static _Atomic bool begun;     /* there is something to lose */
static const char *farewell;
static int farewell_status;
static pthread_t answerer;
static bool answering;
static struct sigaction before[N_SIGNALS];

static void on_signal(int number) {
    int kept = errno, none = 0;
    bool first = atomic_compare_exchange_strong(&received, &none, number);
    char byte = (char)number;
    if (first || number != SIGHUP) {
        if (atomic_fetch_add(&presses, 1) >= 2 || (!first && !answering)) _exit(128 + number);
        if (answering && write(ends[1], &byte, 1) != 1) _exit(128 + number);
    }
    errno = kept;
}

static _Noreturn void leave(const char *why, int status) {
    rw_fs_leave();
    rw_log_end_around();
    rw_info("%s", why);
    _exit(status);
}

static void *answer(void *unused) {
    char number;
    bool asked = false;
    (void)unused;
    while (read(ends[0], &number, 1) == 1 && number != 0) {
        if (asked) leave(rw_message("left without saving; what was saved before is intact"), 128 + number);
        if (!atomic_load(&begun)) leave(farewell, farewell_status);
        asked = true;
        rw_info("stopping after this step, saving; press again to leave without saving");
    }
    return NULL;
}

static void start_answering(void) {
    answering = pipe2(ends, O_CLOEXEC) == 0;
    if (answering && pthread_create(&answerer, NULL, answer, NULL) == 0) return;
    if (answering) {
        close(ends[0]);
        close(ends[1]);
    }
    answering = false;
}

static void stop_answering(void) {
    if (!answering) return;
    answering = false;
    if (write(ends[1], "", 1) == 1) pthread_join(answerer, NULL);
    close(ends[0]);
    close(ends[1]);
}

void rw_signals_catch(const char *say, int status) {
    farewell = say;
    farewell_status = status;
    atomic_store(&begun, false);
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++) sigaddset(&a.sa_mask, numbers[i]);
    atomic_store(&received, 0);
    atomic_store(&presses, 0);
    start_answering();
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaction(numbers[i], NULL, &before[i]);
        if (numbers[i] != SIGHUP || before[i].sa_handler != SIG_IGN) sigaction(numbers[i], &a, NULL);
    }
}

void rw_signals_begin(void) {
    atomic_store(&begun, true);
}

void rw_signals_release(void) {
    for (int i = 0; i < N_SIGNALS; i++) sigaction(numbers[i], &before[i], NULL);
    stop_answering();
    atomic_store(&received, 0);
}

int rw_signals_received(void) {
    return atomic_load(&received);
}

void rw_signals_ignore_pipe(void) {
    signal(SIGPIPE, SIG_IGN);
}
