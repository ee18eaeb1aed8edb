/* What a run reports, and where it goes: a progress line for people, metrics.jsonl for programs, train_log.txt in the
 * form of the official trainer. Each is a sink, one row of a table. A file that cannot be written stops the run: a log
 * that ends in the middle is a full disk, and the next save would meet it too. Standard error may go (a terminal that
 * was closed, a pipe without a reader): what is for people is then dropped, and metrics.jsonl says so once. */
#ifndef RW_METRICS_METRICS_H
#define RW_METRICS_METRICS_H

#include "core/base/error.h"
#include "core/recipe/plan.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers of one moment; NaN: not known. */
typedef struct {
    int64_t step;  /* steps done, the one they belong to included: 1 is the first, as on the console */
    int64_t epoch; /* of that step, from 0                                                           */
    int64_t tokens;
    int64_t skipped;   /* steps so far that changed nothing, loss or gradient not being finite */
    double loss;       /* of the step: mean over its unmasked tokens  */
    double loss_epoch; /* mean over the epoch so far                  */
    double val_loss;
    double lr, weight_decay, grad_norm, clip_coef;
    double tokens_per_second, seconds_left, elapsed;
} rw_metrics;

typedef enum {
    RW_EVENT_RUN,    /* a new run begins; text: its name        */
    RW_EVENT_RESUME, /* of a saved run; text: the state's path  */
    RW_EVENT_STEP,   /* text: the line of the log hook, or NULL */
    RW_EVENT_VALID,
    RW_EVENT_EPOCH, /* an epoch ended                          */
    RW_EVENT_SAVE,  /* text: the path                          */
    RW_EVENT_END,   /* text: why, in English                   */
    RW_EVENT_NOTE   /* text: something else, in English        */
} rw_event;

typedef struct rw_sink rw_sink;
typedef struct {
    const char *name, *doc;
    rw_status (*open)(rw_sink **out, const rw_plan *plan, rw_error *err);
    rw_status (*event)(rw_sink *s, rw_event e, const rw_metrics *m, const char *text, rw_error *err);
    void (*close)(rw_sink *s);
} rw_sink_ops;

extern const rw_sink_ops rw_sink_console, rw_sink_jsonl, rw_sink_train_log;

#define RW_MAX_SINKS 8
typedef struct {
    const rw_sink_ops *ops[RW_MAX_SINKS];
    rw_sink *sinks[RW_MAX_SINKS];
    int n;
    bool deaf; /* standard error cannot be written any more, and metrics.jsonl says so */
} rw_reporter;

/* Before a run goes on after `step` steps: the rows of metrics.jsonl of later steps, which will come again, are cut
 * off. */
rw_status rw_metrics_cut(const char *proj_dir, int64_t step, rw_error *err);

/* Opens all sinks of a run; proj_dir must exist. Zero is a valid empty value. */
rw_status rw_reporter_open(rw_reporter *r, const rw_plan *plan, rw_error *err);
rw_status rw_report(rw_reporter *r, rw_event e, const rw_metrics *m, const char *text, rw_error *err);
void rw_reporter_close(rw_reporter *r);

#ifdef __cplusplus
}
#endif
#endif
