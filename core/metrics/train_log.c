/* train_log.txt in the columns of the official trainer: epoch, loss, perplexity, learning rate, time, epoch of this
 * run; a line for each epoch, and NEW RUN with the time before the first. */
#include "core/base/alloc.h"
#include "core/base/printable.h"
#include "core/metrics/append.h"
#include "core/metrics/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd;
    char *path; /* owned */
    int64_t epoch_begin;
} train_log;

static rw_status open_sink(rw_sink **out, const rw_plan *plan, rw_error *err) {
    train_log *s = rw_alloc(sizeof *s);
    *out = (rw_sink *)s;
    if (!s) return rw_fail_memory(err, sizeof *s);
    s->epoch_begin = plan->train.epoch_begin;
    rw_status status = rw_append_open(&s->fd, &s->path, plan->save.proj_dir, "train_log.txt", err);
    if (status != RW_OK) rw_free(s);
    return status;
}

static const char *now(char buf[32], const char *format) {
    time_t t = time(NULL);
    struct tm tm;
    localtime_r(&t, &tm);
    strftime(buf, 32, format, &tm);
    return buf;
}

static rw_status event(rw_sink *sink, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    train_log *s = (train_log *)sink;
    char line[512], when[32], name[400] = "";
    if (text) rw_printable(name, sizeof name, text);
    if (e == RW_EVENT_RUN || e == RW_EVENT_RESUME)
        snprintf(line, sizeof line, "NEW RUN %s\n%s\n", now(when, "%Y-%m-%d-%H-%M-%S"), name);
    else if (e == RW_EVENT_EPOCH)
        snprintf(line, sizeof line, "%lld %.6f %.4f %.8f %s %lld\n", (long long)(s->epoch_begin + m->epoch),
                 m->loss_epoch, exp(m->loss_epoch), m->lr, now(when, "%Y-%m-%d %H:%M:%S"), (long long)m->epoch);
    else
        return RW_OK;
    return rw_append(s->fd, s->path, line, strlen(line), err);
}

static void close_sink(rw_sink *sink) {
    train_log *s = (train_log *)sink;
    close(s->fd);
    rw_free(s->path);
    rw_free(s);
}

const rw_sink_ops rw_sink_train_log = {"train_log", "train_log.txt: a line for each epoch, as RWKV-LM writes it",
                                       open_sink, event, close_sink};
