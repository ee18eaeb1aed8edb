/* Steps that are not finite, end to end: one of the vectors of the embedding is NaN, so that a batch which holds its
 * byte is not finite, forward and backward, and every other batch is. Such a step changes nothing, is counted and
 * reported, and stays out of the mean of its epoch; a resume counts on with the same bits; too many in a row end the
 * run, saved. */
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
#include "core/checkpoint/weights.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "core/train/trainer.h"
#include "core/train/training_state.h"
#include "tests/unit/golden.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EMBD = 32, MANY = 1 << 17 };

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

/* -- a run ---------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_recipe recipe;
    rw_saved_run saved;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    char text[2048];
} fixture;

static char data[600], broken[600]; /* paths */

/* `more` of train; load_model or a shape from scratch; what is in `dir` is resumed. */
static void open_run(fixture *f, const char *model, const char *dir, const char *more) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    int n = snprintf(f->text, sizeof f->text,
                     "name: skip\ndevice: cpu\nmodel: { %s }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: 8 }\n"
                     "train: { micro_bsz: 1, accumulate: 2, epoch_steps: 6, lr_init: 1e-2, precision: fp32%s }\n"
                     "save: { proj_dir: '%s/%s', epoch_save: 0 }\nlog: { every: 100 }\n",
                     model, data, more, rw_test_folder(), dir);
    rw_recipe_options options = {.path = "skip.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    must(rw_recipe_load(&f->recipe, &options, &err), &err);
    must(rw_saved_run_find(&f->saved, "auto", f->recipe.values[RW_KEY_save_proj_dir].s, &err), &err);
    must(rw_plan_make(&f->plan, &f->recipe, &f->saved, &f->arena, &f->device, &err), &err);
}

static void close_run(fixture *f) {
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_saved_run_done(&f->saved);
    rw_recipe_done(&f->recipe);
}

/* Trains in `dir`, resuming what is there; what it says goes to the file `said`. */
static rw_status train(const char *model, const char *dir, const char *more, rw_error *err) {
    fixture f;
    open_run(&f, model, dir, more);
    fflush(stderr);
    int kept = dup(STDERR_FILENO), file = open(rw_test_path("said"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDERR_FILENO);
    rw_start start = {.kind = f.saved.path ? RW_START_RESUME : RW_START_NEW, .state = f.saved.path};
    rw_status status = rw_train(f.plan, &f.recipe, f.device, NULL, &start, err);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(file);
    if (status != RW_OK) rw_error_settle(err);
    close_run(&f);
    return status;
}

static char *slurp(const char *dir, const char *name) {
    char path[700], *text;
    int64_t n;
    rw_error err = {0};
    snprintf(path, sizeof path, "%s/%s/%s", rw_test_folder(), dir, name);
    must(rw_file_slurp(path, 1 << 24, &text, &n, &err), &err);
    return text;
}

/* Letters, and in a few documents the byte whose vector is NaN. */
static void write_data(void) {
    rw_error err = {0};
    rw_str s = {0};
    for (int i = 0; i < 60; i++)
        rw_str_appendf(&s, "{\"text\":\"%c%s the sound of a line %d\"}\n", 'a' + i % 20, i % 4 ? "bc" : "Q", i * 7);
    snprintf(data, sizeof data, "%s", rw_test_path("data.jsonl"));
    must(rw_write_file(data, s.data, (int64_t)s.len, &err), &err);
    rw_str_done(&s);
}

/* A model in which parameter `name` is NaN from `first` on, n elements. */
static void write_model(char path[600], const char *file, const char *name, int64_t first, int64_t n) {
    rw_error err = {0};
    fixture f;
    rw_engine e;
    float nan[EMBD];
    for (int i = 0; i < EMBD; i++) nan[i] = NAN;
    snprintf(path, 600, "%s", rw_test_path(file));
    open_run(&f, "arch: x060, n_layer: 2, n_embd: 32, head_size: 32", "unused", "");
    must(rw_engine_open(&e, f.plan, f.device, false, &err), &err);
    must(rw_model_init(e.model, 5, &err), &err);
    int i = rw_layout_find(&e.model->params->layout, name);
    rw_params_set(e.model->params, RW_PARAM_VALUE, (size_t)i, first, n, RW_F32, nan);
    must(rw_weights_save_pth(e.model->params, path, RW_F32, &err), &err);
    rw_engine_close(&e);
    close_run(&f);
}

static char model_with_nan[700], model_of_nan[700];

static int setup(void **state) {
    (void)state;
    char path[600];
    write_data();
    write_model(broken, "broken.pth", "emb.weight", ('Q' + 1) * EMBD, EMBD); /* id = byte + 1 */
    snprintf(model_with_nan, sizeof model_with_nan, "load_model: '%s', allow_nonfinite: true", broken);
    write_model(path, "useless.pth", "ln_out.weight", 3, 1);
    snprintf(model_of_nan, sizeof model_of_nan, "load_model: '%s', allow_nonfinite: true", path);
    return 0;
}

/* -- what a state holds ------------------------------------------------------------------------------------------ */

typedef struct {
    rw_progress progress;
    float *values, *m, *v; /* of all parameters, in order */
    int64_t n;
} saved;

static saved read_state(const char *model, const char *dir, int64_t step) {
    rw_error err = {0};
    char path[700];
    fixture f;
    rw_engine e;
    saved s = {.values = rw_alloc_array(3 * MANY, sizeof(float))};
    s.m = s.values + MANY;
    s.v = s.m + MANY;
    snprintf(path, sizeof path, "%s/%s/state-%lld.safetensors", rw_test_folder(), dir, (long long)step);
    open_run(&f, model, "unused", "");
    must(rw_engine_open(&e, f.plan, f.device, true, &err), &err);
    rw_params *p = e.model->params;
    must(rw_training_state_load(path, p, &s.progress, &err), &err);
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        int64_t n = p->layout.segments[i].n;
        assert_true(s.n + n <= MANY);
        rw_params_get(p, RW_PARAM_VALUE, i, 0, n, RW_F32, s.values + s.n);
        rw_params_get(p, RW_PARAM_M, i, 0, n, RW_F32, s.m + s.n);
        rw_params_get(p, RW_PARAM_V, i, 0, n, RW_F32, s.v + s.n);
        s.n += n;
    }
    rw_engine_close(&e);
    close_run(&f);
    return s;
}

/* The values of a .pth, in the order of the model; returns their number. */
static int64_t values_of(const char *name, float *values) {
    rw_error err = {0};
    rw_tensor_file *f;
    int64_t n = 0;
    must(rw_tensor_file_open(&f, rw_test_path(name), &err), &err);
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        must(rw_tensor_file_read(f, t, values + n, RW_F32, &err), &err);
        int64_t each = 1;
        for (int k = 0; k < t->ndim; k++) each *= t->shape[k];
        n += each;
    }
    rw_tensor_file_close(f);
    return n;
}

static int lines_with(const char *text, const char *part) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part)) n++;
    return n;
}

/* -- tests ------------------------------------------------------------------------------------------------------ */

/* Some batches are not finite: the others train on, and nothing but the broken vector is ever NaN. */
static void some_steps(void **state) {
    (void)state;
    rw_error err = {0};
    must(train(model_with_nan, "some", ", epoch_count: 2", &err), &err);
    saved s = read_state(model_with_nan, "some", 12);
    const rw_progress *p = &s.progress;
    print_message("  %lld updates, %lld skipped\n", (long long)p->updates, (long long)p->skipped);
    assert_true(p->skipped > 0 && p->updates > 0 && p->skipped + p->updates == 12 && p->step == 12);
    int n_nan = 0;
    for (int64_t i = 0; i < s.n; i++) {
        n_nan += isnan(s.values[i]);
        assert_true(isfinite(s.m[i]) && isfinite(s.v[i]));
    }
    assert_int_equal(n_nan, EMBD);

    char *metrics = slurp("some", "metrics.jsonl"), *log = slurp("some", "train_log.txt"), *said = slurp(".", "said");
    assert_int_equal(lines_with(metrics, "\"event\":\"step\""), 12);
    assert_int_equal(lines_with(metrics, "\"loss\":"), p->updates); /* NaN is left out */
    char last[64];
    snprintf(last, sizeof last, "\"skipped\":%lld,", (long long)p->skipped);
    assert_true(lines_with(metrics, last) > 0);
    assert_int_equal(lines_with(metrics, "\"loss_epoch\":"), 2); /* the mean over the other steps */
    assert_int_equal(lines_with(log, "nan"), 0);
    assert_int_equal(lines_with(said, "not finite, so this step changed nothing ("), p->skipped);
    rw_free(metrics);
    rw_free(log);
    rw_free(said);
    rw_free(s.values);
}

static rw_status with(const char *dir, const char *name, char **text, int64_t *n, rw_error *err) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s/%s", rw_test_folder(), dir, name);
    return rw_file_slurp(path, 1 << 24, text, n, err);
}

/* Adam's t is the number of updates, not of steps: it is saved, or a resume would take other steps. */
static void resume_gives_the_same_bits(void **state) {
    (void)state;
    rw_error err = {0};
    char *whole, *parts;
    int64_t n_whole, n_parts;
    must(train(model_with_nan, "whole", ", epoch_count: 2", &err), &err);
    must(train(model_with_nan, "parts", ", epoch_count: 1", &err), &err);
    saved half = read_state(model_with_nan, "parts", 6);
    assert_true(half.progress.skipped > 0 && half.progress.updates == 6 - half.progress.skipped);
    must(train(model_with_nan, "parts", ", epoch_count: 2", &err), &err);
    must(with("whole", "rwkv-final.pth", &whole, &n_whole, &err), &err);
    must(with("parts", "rwkv-final.pth", &parts, &n_parts, &err), &err);
    assert_int_equal(n_whole, n_parts);
    assert_memory_equal(whole, parts, (size_t)n_whole);
    rw_free(whole);
    rw_free(parts);
    rw_free(half.values);
}

static void gives_up(const char *dir, int64_t allowed, int64_t step) {
    rw_error err = {0};
    char more[64], message[200];
    snprintf(more, sizeof more, ", epoch_count: 2, skip_nonfinite: %lld", (long long)allowed);
    assert_int_equal(train(model_of_nan, dir, more, &err), RW_E_NUMERIC);
    snprintf(message, sizeof message,
             "not finite for %lld steps in a row; train.skip_nonfinite allows %lld. Check the data", (long long)step,
             (long long)allowed);
    if (!strstr(err.msg, message)) fail_msg("'%s' is not in '%s'", message, err.msg);
    rw_error_clear(&err);
}

/* No batch is finite: the run ends, with the weights as they came, and saved; a resume begins where it stopped. */
static void too_many_in_a_row(void **state) {
    (void)state;
    gives_up("in_a_row", 2, 3);
    saved s = read_state(model_of_nan, "in_a_row", 3);
    assert_true(s.progress.step == 3 && s.progress.updates == 0 && s.progress.skipped_in_row == 3);
    for (int64_t i = 0; i < s.n; i++) assert_true(s.m[i] == 0 && s.v[i] == 0);
    char *metrics = slurp("in_a_row", "metrics.jsonl");
    assert_int_equal(lines_with(metrics, "\"text\":\"stopped: loss or gradient not finite\""), 1);
    rw_free(metrics);
    float *came = rw_alloc_array(MANY, sizeof *came);
    assert_int_equal(values_of("useless.pth", came), s.n);
    assert_memory_equal(came, s.values, (size_t)s.n * sizeof *came);
    assert_int_equal(values_of("in_a_row/rwkv-0.pth", came), s.n);
    assert_memory_equal(came, s.values, (size_t)s.n * sizeof *came);
    rw_free(came);
    gives_up("in_a_row", 2, 4); /* nothing has changed */
    gives_up("in_a_row", 6, 7);
    gives_up("at_once", 0, 1);
    rw_free(s.values);
}

int main(void) {
    setenv("RWKV_THREADS", "1", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(some_steps), cmocka_unit_test(resume_gives_the_same_bits),
                                       cmocka_unit_test(too_many_in_a_row)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
