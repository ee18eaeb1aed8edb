/* metrics.jsonl and train_log.txt: their lines, what is appended after a kill, and a disk that is full. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/metrics/metrics.h"
#include "tests/unit/golden.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static rw_plan plan_in(const char *name) {
    rw_error err = {0};
    rw_plan p = {.name = "metrics"};
    p.save.proj_dir = rw_test_path(name);
    p.train.epoch_begin = 3;
    p.train.n_steps = 4;
    p.log.every = 1000;
    assert_int_equal(rw_mkdir_all(p.save.proj_dir, &err), RW_OK);
    return p;
}

static const rw_metrics numbers = {.step = 7,
                                   .epoch = 2,
                                   .tokens = 4096,
                                   .loss = 2.5,
                                   .loss_epoch = 2.25,
                                   .val_loss = NAN,
                                   .lr = 6e-4,
                                   .weight_decay = 0.01,
                                   .grad_norm = 1.25,
                                   .clip_coef = 1,
                                   .tokens_per_second = 1e5,
                                   .seconds_left = 1,
                                   .elapsed = 12.5};

static char *slurp(const char *dir, const char *name, int64_t *n) {
    rw_error err = {0};
    char path[4096], *text;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (rw_file_slurp(path, 1 << 20, &text, n, &err) != RW_OK) fail_msg("%s", err.msg);
    return text;
}

static void report_all(const rw_plan *p, const rw_metrics *m) {
    rw_error err = {0};
    rw_reporter r;
    assert_int_equal(rw_reporter_open(&r, p, &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_RUN, m, "a \"name\"\n\xff with bytes", &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_STEP, m, "the line of the hook", &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_VALID, m, NULL, &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_EPOCH, m, NULL, &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_SAVE, m, "out/rwkv-3.pth", &err), RW_OK);
    assert_int_equal(rw_report(&r, RW_EVENT_END, m, "done", &err), RW_OK);
    rw_reporter_close(&r);
}

/* Every line that ought to be JSON; returns their number. */
static int parse_lines(char *text, int skip_line, json_t **out) {
    rw_error err = {0};
    int n = 0, number = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), number++) {
        if (number == skip_line) continue;
        if (rw_json_parse(line, strlen(line), RW_AT_NONE, &out[n], &err) != RW_OK) fail_msg("%s: %s", line, err.msg);
        n++;
    }
    return n;
}

static double value(json_t *j, const char *key) {
    json_t *v = json_object_get(j, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static void jsonl_lines(void **state) {
    (void)state;
    rw_plan p = plan_in("jsonl");
    int64_t n;
    json_t *j[16];
    report_all(&p, &numbers);
    char *text = slurp(p.save.proj_dir, "metrics.jsonl", &n);
    assert_int_equal(parse_lines(text, -1, j), 6);
    static const char *const events[] = {"run", "step", "valid", "epoch", "save", "end"};
    for (int i = 0; i < 6; i++) {
        assert_string_equal(json_string_value(json_object_get(j[i], "event")), events[i]);
        assert_true(value(j[i], "step") == 7 && value(j[i], "epoch") == 2 && value(j[i], "tokens") == 4096);
        assert_true(value(j[i], "elapsed") == 12.5);
    }
    assert_string_equal(json_string_value(json_object_get(j[0], "text")), "a \"name\"\n\xef\xbf\xbd with bytes");
    assert_true(value(j[1], "loss") == 2.5 && value(j[1], "lr") == 6e-4 && value(j[1], "grad_norm") == 1.25);
    assert_null(json_object_get(j[1], "text"));
    assert_null(json_object_get(j[2], "val_loss")); /* not known: left out, for JSON has no NaN */
    assert_true(value(j[3], "loss_epoch") == 2.25);
    assert_string_equal(json_string_value(json_object_get(j[4], "text")), "out/rwkv-3.pth");
    for (int i = 0; i < 6; i++) json_decref(j[i]);
    rw_free(text);
}

static void append_bytes(const char *dir, const char *name, const char *bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "a");
    assert_non_null(f);
    fputs(bytes, f);
    fclose(f);
}

/* A kill left half a line: it is ended, and what follows is whole. */
static void after_a_cut_line(void **state) {
    (void)state;
    rw_plan p = plan_in("cut");
    int64_t n;
    json_t *j[16];
    report_all(&p, &numbers);
    append_bytes(p.save.proj_dir, "metrics.jsonl", "{\"event\":\"st");
    append_bytes(p.save.proj_dir, "train_log.txt", "4 2.1");
    report_all(&p, &numbers);
    char *text = slurp(p.save.proj_dir, "metrics.jsonl", &n);
    assert_int_equal(parse_lines(text, 6, j), 12);
    for (int i = 0; i < 12; i++) json_decref(j[i]);
    rw_free(text);
    text = slurp(p.save.proj_dir, "train_log.txt", &n);
    assert_non_null(strstr(text, "\n4 2.1\nNEW RUN "));
    rw_free(text);
}

/* The columns of the official trainer: epoch, loss, perplexity, lr, date, time, epoch of this run. */
static void train_log_columns(void **state) {
    (void)state;
    rw_plan p = plan_in("log");
    int64_t n;
    report_all(&p, &numbers);
    char *text = slurp(p.save.proj_dir, "train_log.txt", &n), date[32], clock[32];
    int epoch, own;
    double loss, perplexity, lr;
    assert_int_equal(strncmp(text, "NEW RUN 2", 9), 0);
    int64_t last = n - 1;
    while (last > 0 && text[last - 1] != '\n') last--;
    assert_int_equal(
        sscanf(text + last, "%d %lf %lf %lf %31s %31s %d\n", &epoch, &loss, &perplexity, &lr, date, clock, &own), 7);
    assert_int_equal(epoch, 5);
    assert_int_equal(own, 2);
    assert_true(loss == 2.25 && lr == 6e-4 && fabs(perplexity - exp(2.25)) < 1e-4);
    assert_int_equal(strlen(date), 10);
    rw_free(text);
}

/* A limit on the size of files stands for the disk's: the kernel answers a write in the same way. */
static void full_disk(void **state) {
    (void)state;
    static const char *const names[] = {"metrics.jsonl", "train_log.txt"};
    struct rlimit before, small = {.rlim_cur = 4};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    for (int i = 0; i < 2; i++) {
        rw_error err = {0};
        rw_reporter r;
        char path[4096], want[4200];
        rw_plan p = plan_in(i ? "full1" : "full0");
        snprintf(path, sizeof path, "%s/%s", p.save.proj_dir, names[i]);
        assert_int_equal(rw_reporter_open(&r, &p, &err), RW_OK);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        rw_status status = r.ops[i]->event(r.sinks[i], RW_EVENT_RUN, &numbers, "name", &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, RW_E_IO);
        rw_reporter_close(&r);
        snprintf(want, sizeof want, "cannot write %s: File too large", path);
        char text[4200];
        rw_error_format(&err, text, sizeof text); /* borrows nothing of the closed reporter */
        assert_string_equal(text, want);
    }
    rw_error err = {0};
    rw_reporter r;
    rw_plan p = plan_in("folder");
    assert_int_equal(rw_mkdir_all(rw_test_path("folder/train_log.txt"), &err), RW_OK);
    assert_int_equal(rw_reporter_open(&r, &p, &err), RW_E_IO);
    assert_non_null(strstr(err.msg, "folder/train_log.txt: expected a regular file or nothing of that name"));
}

static void out_of_memory(void **state) {
    (void)state;
    rw_plan p = plan_in("memory");
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_reporter r;
        rw_alloc_fail_after(n);
        rw_status status = rw_reporter_open(&r, &p, &err);
        for (int e = RW_EVENT_RUN; e <= RW_EVENT_END && status == RW_OK; e++) {
            status = rw_report(&r, (rw_event)e, &numbers, "some text", &err);
        }
        rw_alloc_fail_after(0);
        rw_reporter_close(&r);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(status, RW_E_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(jsonl_lines), cmocka_unit_test(after_a_cut_line),
                                       cmocka_unit_test(train_log_columns), cmocka_unit_test(full_disk),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
