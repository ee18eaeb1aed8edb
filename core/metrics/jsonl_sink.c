/* metrics.jsonl: one JSON object a line, appended. "event" says which, "step" how many steps are done, "time" the
 * seconds since 1970; numbers that are not known are left out. The steps that a killed process had logged beyond its
 * last save come again after a resume, so their rows are cut off then, and each step is there once. */
#include "core/base/alloc.h"
#include "core/base/json.h"
#include "core/metrics/append.h"
#include "core/metrics/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAME "metrics.jsonl"

typedef struct {
    int fd;
    char *path; /* owned */
    rw_str line;
} jsonl;

static const char *const names[] = {
    [RW_EVENT_RUN] = "run",     [RW_EVENT_RESUME] = "resume", [RW_EVENT_STEP] = "step", [RW_EVENT_VALID] = "valid",
    [RW_EVENT_EPOCH] = "epoch", [RW_EVENT_SAVE] = "save",     [RW_EVENT_END] = "end",   [RW_EVENT_NOTE] = "note"};

static rw_status open_sink(rw_sink **out, const rw_plan *plan, rw_error *err) {
    jsonl *s = rw_alloc(sizeof *s);
    *out = (rw_sink *)s;
    if (!s) return rw_fail_memory(err, sizeof *s);
    rw_status status = rw_append_open(&s->fd, &s->path, plan->save.proj_dir, NAME, err);
    if (status != RW_OK) rw_free(s);
    return status;
}

static void number(rw_str *s, const char *key, double x) {
    if (!isfinite(x)) return;
    rw_str_appendf(s, ",\"%s\":", key);
    rw_json_append_number(s, x);
}

/* To the millisecond. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)(t.tv_nsec / 1000000) * 1e-3;
}

static rw_status event(rw_sink *sink, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    jsonl *s = (jsonl *)sink;
    rw_str *l = &s->line;
    rw_str_clear(l);
    rw_str_appendf(l, "{\"event\":\"%s\",\"step\":%lld,\"epoch\":%lld,\"tokens\":%lld", names[e], (long long)m->step,
                   (long long)m->epoch, (long long)m->tokens);
    if (e == RW_EVENT_STEP) number(l, "loss", m->loss);
    if (e == RW_EVENT_EPOCH) number(l, "loss_epoch", m->loss_epoch);
    if (e == RW_EVENT_VALID) number(l, "val_loss", m->val_loss);
    if (e == RW_EVENT_STEP) {
        number(l, "lr", m->lr);
        number(l, "weight_decay", m->weight_decay);
        number(l, "grad_norm", m->grad_norm);
        number(l, "tokens_per_second", m->tokens_per_second);
    }
    if (m->skipped > 0) rw_str_appendf(l, ",\"skipped\":%lld", (long long)m->skipped);
    number(l, "elapsed", m->elapsed);
    number(l, "time", now());
    if (text && e != RW_EVENT_STEP) {
        rw_str_append(l, ",\"text\":");
        rw_json_append_string(l, text, strlen(text));
    }
    rw_str_append(l, "}\n");
    if (l->failed) return rw_fail_memory(err, l->len);
    return rw_append(s->fd, s->path, l->data, l->len, err);
}

static void close_sink(rw_sink *sink) {
    jsonl *s = (jsonl *)sink;
    close(s->fd);
    rw_free(s->path);
    rw_str_done(&s->line);
    rw_free(s);
}

/* -- after a kill ------------------------------------------------------------------------------------------- */

/* Where the first row of a step beyond `step` begins; -1: there is none. What is no row of ours is passed over. */
static int64_t find_beyond(FILE *f, int64_t step) {
    char piece[4096]; /* of a line: a longer one comes in several */
    bool begins = true;
    long long n;
    for (int64_t at = 0; fgets(piece, sizeof piece, f); at += (int64_t)strlen(piece)) {
        bool row = begins && sscanf(piece, "{\"event\":\"%*[a-z]\",\"step\":%lld", &n) == 1;
        if (row && n > step) return at;
        begins = strchr(piece, '\n') != NULL;
    }
    return -1;
}

static rw_status cut(int fd, const char *path, int64_t step, rw_error *err) {
    int copy = dup(fd);
    FILE *f = copy < 0 ? NULL : fdopen(copy, "r");
    if (!f) {
        if (copy >= 0) close(copy);
        return rw_fail_errno(err, RW_AT_NONE, "cannot write %s", path);
    }
    rewind(f);
    int64_t at = find_beyond(f, step);
    fclose(f);
    return at < 0 || ftruncate(fd, at) == 0 ? RW_OK : rw_fail_errno(err, RW_AT_NONE, "cannot write %s", path);
}

rw_status rw_metrics_cut(const char *proj_dir, int64_t step, rw_error *err) {
    char *path;
    int fd;
    RW_TRY(rw_append_open(&fd, &path, proj_dir, NAME, err));
    rw_status status = cut(fd, path, step, err);
    close(fd);
    rw_free(path);
    return status;
}

const rw_sink_ops rw_sink_jsonl = {"jsonl", "metrics.jsonl: every event as a JSON object", open_sink, event,
                                   close_sink};
