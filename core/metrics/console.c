/* The progress of a run on standard error: on a terminal one line that redraws itself, a bar and what the log hook
 * says; elsewhere (a file, a pipe) plain lines. Validation and saves are always lines of their own. */
#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/printable.h"
#include "core/base/str.h"
#include "core/base/thread.h"
#include "core/metrics/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR        20
#define MIN_BAR    8
#define REDRAW_NS  100000000ll
#define LINE_BYTES 1024
#define ECHO       2 /* "^C", which the terminal writes behind the line: it must not wrap either */
#define NARROW     (40 - ECHO)

typedef struct {
    bool terminal, shown;
    int64_t n_steps, log_every, drawn_ns;
    char line[LINE_BYTES]; /* what the bar shows now */
} console;

static int columns(void) {
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return 80;
}

/* Without a bar, too: a "^C" may be there. */
static void hide(void *ctx) {
    console *c = ctx;
    if (c->terminal) fputs("\r\033[K", stderr);
}

static void show(void *ctx) {
    console *c = ctx;
    if (c->shown) {
        fputs(c->line, stderr);
        fflush(stderr);
    }
}

static rw_status open_sink(rw_sink **out, const rw_plan *plan, rw_error *err) {
    console *c = rw_alloc(sizeof *c);
    *out = (rw_sink *)c;
    if (!c) return rw_fail_memory(err, sizeof *c);
    const char *term = getenv("TERM");
    c->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
    c->n_steps = plan->train.n_steps;
    c->log_every = plan->log.every > 0 ? plan->log.every : 1;
    rw_log_set_around(hide, show, c);
    return RW_OK;
}

/* Leaves out fields until the text has room: the ones between the first (the step) and the last (the time left), the
 * last of them first. Fields are divided by two blanks, as in rwkv.log. */
static void shorten(char *text, int room) {
    while (rw_utf8_columns(text, strlen(text)) > room) {
        char *end = NULL, *begin = NULL;
        for (char *p = text; (p = strstr(p, "  ")); p += 2) {
            begin = end;
            end = p;
        }
        if (!begin) return;
        memmove(begin, end, strlen(end) + 1);
    }
}

/* Cuts the line to the width of the terminal, so that it never wraps. */
static void fit(char *line, int width) {
    size_t n = strlen(line);
    while (n > 0 && rw_utf8_columns(line, n) >= width) n--;
    line[rw_utf8_valid_prefix(line, n)] = 0;
}

/* Below 40 columns there is the text alone; above, the bar takes what the text leaves, from MIN_BAR up to BAR columns.
 */
static void draw(console *c, const rw_metrics *m, const char *whole) {
    int64_t done = m->step;
    char text[LINE_BYTES];
    snprintf(text, sizeof text, "%s", whole);
    int width = columns() - ECHO, least = width < NARROW ? 0 : MIN_BAR + 4;
    shorten(text, width - 1 - least);
    int room = width - rw_utf8_columns(text, strlen(text)) - 4;
    int size = room < 4 || least == 0 ? 0 : room < BAR ? room : BAR;
    int filled = c->n_steps > 0 && done < c->n_steps ? (int)(done * size / c->n_steps) : size;
    char bar[BAR + 1];
    for (int i = 0; i < size; i++) bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
    bar[size] = 0;
    hide(c);
    snprintf(c->line, sizeof c->line, size ? "[%s] %s" : "%s%s", bar, text);
    fit(c->line, width);
    c->shown = true;
    show(c);
}

static void step(console *c, const rw_metrics *m, const char *hook_text) {
    char text[LINE_BYTES];
    bool last = m->step >= c->n_steps, due = m->step % c->log_every == 0 || last;
    if (!hook_text) return;
    rw_printable(text, sizeof text, hook_text);
    if (!c->terminal) {
        if (due) fprintf(stderr, "%s\n", text);
        return;
    }
    int64_t now = rw_now_ns();
    if (now - c->drawn_ns < REDRAW_NS && !last) return;
    c->drawn_ns = now;
    draw(c, m, text);
}

static void note(console *c, const char *what, const char *text) {
    char line[LINE_BYTES];
    rw_printable(line, sizeof line, text);
    hide(c);
    fprintf(stderr, "%s%s\n", what, line);
    show(c);
}

static void end_bar(console *c) {
    if (c->shown) fputc('\n', stderr);
    c->shown = false;
}

static rw_status event(rw_sink *sink, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    console *c = (console *)sink;
    char line[96];
    (void)err;
    if (ferror(stderr)) return RW_OK;
    switch (e) {
    case RW_EVENT_STEP:
        step(c, m, text);
        break;
    case RW_EVENT_VALID:
        snprintf(line, sizeof line, rw_message("step %lld  val_loss %.4f"), (long long)m->step, m->val_loss);
        note(c, "", line);
        break;
    case RW_EVENT_SAVE:
        note(c, rw_message("saved "), text);
        break;
    case RW_EVENT_RESUME:
        note(c, rw_message("resuming from "), text);
        break;
    case RW_EVENT_END: /* the loop says it to people itself, below the bar's last state */
        end_bar(c);
        break;
    case RW_EVENT_RUN:
    case RW_EVENT_EPOCH:
    case RW_EVENT_NOTE:
        break;
    }
    return RW_OK;
}

static void close_sink(rw_sink *sink) {
    console *c = (console *)sink;
    end_bar(c);
    rw_log_set_around(NULL, NULL, NULL);
    rw_free(c);
}

const rw_sink_ops rw_sink_console = {"console", "a progress line on standard error", open_sink, event, close_sink};
