/* What a start would do: see start.h. */
#include "core/train/start.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/printable.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What all the questions are about. */
typedef struct {
    rw_start *s;
    const rw_plan *plan;
    const rw_saved_run *saved;
    const rw_claim *claim;
    const rw_start_wish *wish;
    rw_plan_difference difference;
} question;

/* -- the ways on ---------------------------------------------------------------------------------------------- */

/* A folder beside proj_dir that is not there. */
static void free_folder(const char *dir, char *out, size_t size) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    for (int i = 2; i < 1000; i++) {
        snprintf(out, size, "%.*s-%d", (int)n, dir, i);
        if (!rw_exists(out)) return;
    }
}

static void append_option(rw_str *out, const char *command, const char *option, const char *value) {
    rw_str_append(out, command);
    rw_str_append(out, option);
    if (value) rw_str_append_quoted(out, value);
}

void rw_start_way(rw_str *out, const char *what, const char *command, const char *option, const char *value) {
    rw_str_appendf(out, "  %s\n    ", what);
    append_option(out, command, option, value);
    rw_str_append(out, "\n");
}

static void way_resume(const question *q, rw_str *out) {
    if (!q->saved->path || q->difference.tensors) return;
    rw_start_way(out,
                 q->difference.keys > 0 ? rw_message("to go on with its weights and moments under the new keys:")
                                        : rw_message("to go on from it:"),
                 q->wish->same, " --resume ", q->saved->path);
}

/* The weights alone, into a new folder, for when what learns is another part of the model. */
static void way_weights(const question *q, rw_str *out) {
    char folder[PATH_MAX] = "", *final;
    bool sizes = strstr(q->difference.text.data ? q->difference.text.data : "", "model.") != NULL;
    if (!q->difference.tensors || sizes || !(final = rw_path_join(q->claim->dir, "rwkv-final.pth"))) return;
    rw_str both = {0};
    free_folder(q->claim->dir, folder, sizeof folder);
    append_option(&both, q->wish->elsewhere, " model.load_model=", final);
    if (rw_exists(final) && !both.failed)
        rw_start_way(out, rw_message("to go on with its weights alone, in another folder:"), both.data,
                     " save.proj_dir=", folder);
    rw_str_done(&both);
    rw_free(final);
}

static void ways_on(const question *q, rw_str *out) {
    char folder[PATH_MAX] = "";
    free_folder(q->claim->dir, folder, sizeof folder);
    way_resume(q, out);
    way_weights(q, out);
    rw_start_way(out, rw_message("to train in another folder:"), q->wish->elsewhere, " save.proj_dir=", folder);
    rw_start_way(out, rw_message("to begin anew, once the old files are moved into a dated subfolder:"), q->wish->same,
                 " --restart", NULL);
}

/* The error is there; the ways on become its detail. */
static rw_status with_ways(const question *q, rw_status status, rw_error *err) {
    rw_str ways = {0};
    if (q->difference.keys + q->difference.choices > 0) rw_str_append(&ways, q->difference.text.data);
    ways_on(q, &ways);
    if (ways.data && ways.data[ways.len - 1] == '\n') ways.data[ways.len - 1] = '\0';
    if (!ways.failed) rw_error_set_detail(err, ways.data);
    rw_str_done(&ways);
    return status;
}

/* -- refusals --------------------------------------------------------------------------------------------------- */

static rw_status refuse_run(const question *q, rw_error *err) {
    return with_ways(q, rw_fail(err, RW_E_RECIPE, RW_AT_FILE(q->saved->path), "the saved run differs from the recipe"),
                     err);
}

static rw_status refuse_unusable(const question *q, rw_error *err) {
    const rw_claim *c = q->claim;
    return with_ways(q,
                     rw_fail(err, RW_E_USAGE, RW_AT_NONE,
                             "%s holds %d weights and %d training states of earlier runs (%s), but no state that this "
                             "run can go on from; nothing is overwritten",
                             c->dir, c->n_weights, c->n_states, c->example),
                     err);
}

static rw_status refuse_over(const question *q, rw_error *err) {
    const rw_claim *c = q->claim;
    return with_ways(
        q,
        rw_fail(err, RW_E_USAGE, RW_AT_NONE,
                "%s holds %d weights and %d training states of an earlier run (%s); nothing is overwritten", c->dir,
                c->n_weights, c->n_states, c->example),
        err);
}

static rw_status refuse_other(const question *q, rw_error *err) {
    return with_ways(q,
                     rw_fail(err, RW_E_USAGE, RW_AT_NONE, "%s belongs to the runs of another recipe, %s", q->claim->dir,
                             q->claim->other),
                     err);
}

static rw_status refuse_strangers(const question *q, rw_error *err) {
    return with_ways(q,
                     rw_fail(err, RW_E_USAGE, RW_AT_NONE,
                             "%s holds files that no run wrote ('%s'), and no run has begun in it; to write there all "
                             "the same, put save.proj_dir=%s on the command line",
                             q->claim->dir, q->claim->stranger, q->claim->dir),
                     err);
}

/* -- deciding ------------------------------------------------------------------------------------------------------ */

static bool is_in(const char *path, const char *dir) {
    char a[PATH_MAX], b[PATH_MAX], *folder = rw_path_dir(path);
    bool same = folder && realpath(folder, a) && realpath(dir, b) && strcmp(a, b) == 0;
    rw_free(folder);
    return same;
}

/* Without a saved run to go on with, or with one from elsewhere: are there weights that this start would replace? */
static rw_status into_folder(question *q, rw_error *err) {
    const rw_claim *c = q->claim;
    bool learned = c->n_weights + c->n_states > 0;
    q->s->restart = q->wish->restart;
    if (q->wish->restart || c->kind == RW_FOLDER_EMPTY) return RW_OK;
    if (c->kind == RW_FOLDER_OTHER) return refuse_other(q, err);
    if (learned && (q->saved->path || q->wish->never)) return refuse_over(q, err);
    if (learned) return refuse_unusable(q, err);
    if (c->kind == RW_FOLDER_OWN) return RW_OK;
    if (c->init || !c->stranger[0]) return refuse_over(q, err);
    return q->wish->named_folder ? RW_OK : refuse_strangers(q, err);
}

static void resume_here(question *q) {
    q->s->adopt = q->claim->kind != RW_FOLDER_OWN;
    if (q->saved->step >= q->plan->train.n_steps && q->claim->finished == q->saved->step)
        q->s->kind = RW_START_FINISHED;
}

static rw_status by_name(question *q, rw_error *err) {
    if (q->difference.tensors) return refuse_run(q, err);
    if (!is_in(q->saved->path, q->claim->dir)) return into_folder(q, err);
    resume_here(q);
    return RW_OK;
}

static rw_status by_itself(question *q, rw_error *err) {
    if (q->claim->kind == RW_FOLDER_OTHER) return refuse_other(q, err);
    if (q->difference.keys + q->difference.choices > 0) return refuse_run(q, err);
    resume_here(q);
    return RW_OK;
}

static rw_status decide(question *q, rw_error *err) {
    rw_start *s = q->s;
    if (!q->saved->path) return into_folder(q, err);
    s->kind = RW_START_RESUME;
    s->state = q->saved->path;
    s->step = q->saved->step;
    s->other_numbers = q->saved->named;
    return q->saved->named ? by_name(q, err) : by_itself(q, err);
}

rw_status rw_start_decide(rw_start *s, const rw_plan *plan, const rw_saved_run *saved, rw_claim *claim,
                          const rw_start_wish *wish, rw_error *err) {
    question q = {s, plan, saved, claim, wish, {{0}, 0, 0, false}};
    *s = (rw_start){.kind = RW_START_NEW, .claim = claim, .same = wish->same};
    rw_status status = rw_plan_compare(plan, saved, &q.difference, err);
    if (status == RW_OK) status = decide(&q, err);
    if (status == RW_OK && s->state && q.difference.keys + q.difference.choices > 0)
        rw_warn("resuming; results will not be bit-identical:\n%s", q.difference.text.data);
    rw_str_done(&q.difference.text);
    return status;
}

/* -- saying -------------------------------------------------------------------------------------------------------- */

static void print_finished(const rw_start *s, const rw_plan *plan, const rw_saved_run *saved, rw_str *out) {
    long long step = saved->step, more = (step / plan->train.epoch_steps) + 1;
    rw_str_appendf_printable(
        out,
        rw_message(
            "already finished: %lld steps, %s/rwkv-final.pth; to train further:\n    %s train.epoch_count=%lld\n"),
        step, plan->save.proj_dir, s->same, more);
}

void rw_start_print(const rw_start *s, const rw_plan *plan, const rw_saved_run *saved, rw_str *out) {
    if (s->kind == RW_START_FINISHED)
        print_finished(s, plan, saved, out);
    else if (s->kind == RW_START_RESUME)
        rw_str_appendf_printable(out, rw_message("a start resumes from %s\n"), s->state);
    else if (s->restart && s->claim->kind != RW_FOLDER_EMPTY)
        rw_str_appendf_printable(
            out, rw_message("a start moves the old files of %s into a dated subfolder and begins anew\n"),
            s->claim->dir);
    else
        rw_str_append(out, rw_message("a start begins a new run\n"));
}
