/* The reporter: every event goes to every sink, in the order of the table. */
#include "core/metrics/metrics.h"

#include <stdio.h>

static const rw_sink_ops *const all[] = {&rw_sink_jsonl, &rw_sink_train_log, &rw_sink_console};

rw_status rw_reporter_open(rw_reporter *r, const rw_plan *plan, rw_error *err) {
    *r = (rw_reporter){.n = 0};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        rw_status status = all[i]->open(&r->sinks[r->n], plan, err);
        if (status != RW_OK) {
            rw_reporter_close(r);
            return status;
        }
        r->ops[r->n++] = all[i];
    }
    return RW_OK;
}

static rw_status to_all(rw_reporter *r, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    for (int i = 0; i < r->n; i++) RW_TRY(r->ops[i]->event(r->sinks[i], e, m, text, err));
    return RW_OK;
}

rw_status rw_report(rw_reporter *r, rw_event e, const rw_metrics *m, const char *text, rw_error *err) {
    RW_TRY(to_all(r, e, m, text, err));
    if (r->deaf || !ferror(stderr)) return RW_OK;
    r->deaf = true;
    return to_all(r, RW_EVENT_NOTE, m, "standard error cannot be written: no more progress lines", err);
}

void rw_reporter_close(rw_reporter *r) {
    for (int i = 0; i < r->n; i++) r->ops[i]->close(r->sinks[i]);
    *r = (rw_reporter){.n = 0};
}
