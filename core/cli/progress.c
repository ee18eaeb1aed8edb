/* See progress.h. */
#include "core/cli/progress.h"

#include "core/base/log.h"
#include "core/base/messages.h"
#include "core/base/str.h"
#include "core/base/thread.h"

#include <stdio.h>
#include <unistd.h>

static void clear(void *unused) {
    (void)unused;
    fputs("\r\033[K", stderr);
}

rw_progress_line rw_progress_begin(void) {
    rw_progress_line line = {rw_now_ns(), isatty(STDERR_FILENO) != 0};
    if (line.terminal) rw_log_set_around(clear, NULL, NULL);
    return line;
}

void rw_progress_show(const rw_progress_line *p, int64_t n_bytes, int64_t n_bytes_total) {
    if (!p->terminal) return;
    double seconds = (double)(rw_now_ns() - p->began_ns) * 1e-9 + 1e-9, rate = (double)n_bytes / seconds;
    char left[32];
    rw_format_seconds(left, sizeof left, (double)(n_bytes_total - n_bytes) / (rate + 1e-9));
    fprintf(stderr, rw_message("\r\033[K%3.0f %%  %.0f MB/s  left %s"),
            n_bytes_total ? 100.0 * (double)n_bytes / (double)n_bytes_total : 100.0, rate / 1e6, left);
}

void rw_progress_end(const rw_progress_line *p) {
    if (!p->terminal) return;
    rw_log_set_around(NULL, NULL, NULL);
    clear(NULL);
}
