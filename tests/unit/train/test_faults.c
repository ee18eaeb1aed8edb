/* Faults, walked: each allocation of an engine and of a run fails once, each write, fsync and rename of a run that
 * saves every step meets a full disk. The answer is an error that says so; nothing leaks, and no save is harmed. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/retention.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "core/train/trainer.h"
#include "core/train/training_state.h"
#include "tests/unit/golden.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

/* -- a tiny run --------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    char text[2048], dir[512];
} fixture;

static rw_status number(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)value, (void)err;
    *given = false;
    return RW_OK;
}
/* should_save: after each step */
static rw_status boolean(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                         bool *given, rw_error *err) {
    (void)ctx, (void)t, (void)m, (void)err;
    *given = *value = id == RW_HOOK_should_save;
    return RW_OK;
}
static rw_status text_of(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf,
                         int64_t size, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)buf, (void)size, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status event(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)err;
    return RW_OK;
}
static const rw_hooks hooks = {.number = number, .boolean = boolean, .text = text_of, .event = event};

static void open_run(fixture *f, const char *name) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "%s/%s", rw_test_folder(), name);
    int n = snprintf(f->text, sizeof f->text,
                     "name: faults\ndevice: cpu\nmodel: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }\n"
                     "data: { data_type: jsonl, data_file: '%s', valid_file: '%s', tokenizer: byte, ctx_len: 8 }\n"
                     "train: { micro_bsz: 2, epoch_steps: 3, precision: fp32, eval_batches: 1 }\n"
                     "save: { proj_dir: '%s', epoch_save: 0 }\nlog: { every: 100 }\n",
                     rw_source_path("tests/cli/data.jsonl"), rw_source_path("tests/cli/data.jsonl"), f->dir);
    rw_recipe_options options = {.path = "faults.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    must(rw_recipe_load(&f->recipe, &options, &err), &err);
    must(rw_plan_make(&f->plan, &f->recipe, NULL, &f->arena, &f->device, &err), &err);
}

static void close_run(fixture *f) {
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_recipe_done(&f->recipe);
}

/* rw_train(), but what it says goes nowhere: it runs a thousand times. */
static rw_status train(const fixture *f, const char *resume, rw_error *err) {
    fflush(stderr);
    int kept = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    rw_start start = {.kind = resume ? RW_START_RESUME : RW_START_NEW, .state = resume};
    rw_status status = rw_train(f->plan, &f->recipe, f->device, &hooks, &start, err);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(null);
    return status;
}

/* -- memory -----------------------------------------------------------------------------------------------------------
 */

static rw_status engine_step(fixture *f, rw_error *err) {
    static const int32_t tokens[16] = {1, 2, 3}, borders[] = {0, 8, 16};
    static const float mask[16] = {1, 1, 1};
    rw_batch b = {.n_rows = 16, .n_seq = 2, .tokens = tokens, .targets = tokens, .mask = mask, .cu_seqlens = borders};
    rw_engine e;
    double loss;
    b.mask_sum = 3;
    rw_status status = rw_engine_open(&e, f->plan, f->device, true, err);
    if (status == RW_OK) {
        rw_engine_begin_step(&e, 0, 1e-3, 0, 3);
        status = rw_engine_micro_step(&e, &b, &loss, err);
    }
    if (status == RW_OK) status = rw_engine_update(&e, err);
    if (status == RW_OK) status = rw_engine_evaluate(&e, &b, &loss, err);
    rw_engine_close(&e);
    return status;
}

static void engine_without_memory(void **state) {
    (void)state;
    fixture f;
    open_run(&f, "engine");
    int64_t live = rw_alloc_live(), n = 1;
    for (;; n++) {
        rw_error err = {0};
        rw_alloc_fail_after(n);
        rw_status status = engine_step(&f, &err);
        rw_alloc_fail_after(0);
        assert_int_equal(rw_alloc_live(), live);
        assert_int_equal(f.device->live_bytes, 0);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(err.msg[0] != 0);
    }
    print_message("  an engine and a step: %lld allocations\n", (long long)(n - 1));
    assert_true(n > 20);
    close_run(&f);
}

static void run_without_memory(void **state) {
    (void)state;
    fixture f;
    rw_error err = {0};
    open_run(&f, "memory");
    must(train(&f, NULL, &err), &err); /* once for what libraries keep */
    int64_t live = rw_alloc_live(), before = rw_alloc_calls(), n = 1;
    must(train(&f, NULL, &err), &err);
    int64_t calls = rw_alloc_calls() - before;
    for (; n <= calls + 2; n++) {
        err = (rw_error){0};
        rw_alloc_fail_after(n);
        rw_status status = train(&f, NULL, &err);
        rw_alloc_fail_after(0);
        if (rw_alloc_live() != live)
            fail_msg("allocation %lld: %lld blocks leak", (long long)n, (long long)(rw_alloc_live() - live));
        assert_int_equal(f.device->live_bytes, 0);
        if (status != RW_OK && status != RW_E_MEMORY) fail_msg("allocation %lld: %s", (long long)n, err.msg);
        rw_error_clear(&err);
    }
    print_message("  a run of 3 steps with 3 saves: %lld allocations\n", (long long)calls);
    assert_true(calls > 100);
    close_run(&f);
}

/* From the text of a recipe and the saved run to the plan. */
static rw_status plan_and_state(const fixture *f, rw_error *err) {
    rw_recipe recipe = {0};
    rw_arena arena = {0};
    rw_saved_run saved = {0};
    const rw_plan *plan;
    rw_device *device = NULL;
    rw_recipe_options options = {.path = "faults.yaml", .trust = true, .text = f->text, .n_text = strlen(f->text)};
    rw_status status = rw_recipe_load(&recipe, &options, err);
    if (status == RW_OK) status = rw_saved_run_find(&saved, "auto", f->dir, err);
    if (status == RW_OK) assert_non_null(saved.path);
    if (status == RW_OK) status = rw_plan_make(&plan, &recipe, &saved, &arena, &device, err);
    rw_error_settle(err);
    rw_device_close(device);
    rw_arena_done(&arena);
    rw_saved_run_done(&saved);
    rw_recipe_done(&recipe);
    return status;
}

static void plan_without_memory(void **state) {
    (void)state;
    fixture f;
    rw_error err = {0};
    open_run(&f, "plan");
    must(train(&f, NULL, &err), &err);
    must(plan_and_state(&f, &err), &err);
    int64_t live = rw_alloc_live(), before = rw_alloc_calls(), n = 1, went_on = 0;
    must(plan_and_state(&f, &err), &err);
    int64_t calls = rw_alloc_calls() - before;
    for (; n <= calls; n += n < 300 ? 1 : 23) { /* thousands are those of metadata */
        err = (rw_error){0};
        rw_alloc_fail_after(n);
        rw_status status = plan_and_state(&f, &err);
        rw_alloc_fail_after(0);
        if (rw_alloc_live() != live)
            fail_msg("allocation %lld: %lld blocks leak", (long long)n, (long long)(rw_alloc_live() - live));
        went_on += status == RW_OK; /* the free disk or the loader's size is not known, then */
        if (status != RW_OK && status != RW_E_MEMORY)
            fail_msg("allocation %lld: status %s: %s", (long long)n, rw_status_name(status), err.msg);
        rw_error_clear(&err);
    }
    print_message("  recipe, plan and state: %lld allocations, %lld of them not vital\n", (long long)calls,
                  (long long)went_on);
    assert_true(went_on * 4 < calls);
    close_run(&f);
}

/* -- a full disk
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *dir;
    int states, weights, rubbish;
} listing;

/* Every save that lies there can be read to its last byte. */
static rw_status read_all(void *ctx, const char *name, rw_error *err) {
    listing *l = ctx;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", l->dir, name);
    if (strstr(name, ".tmp-")) l->rubbish++;
    if (!strstr(name, ".safetensors") && !strstr(name, ".pth")) return RW_OK;
    rw_tensor_file *file;
    rw_status status = rw_tensor_file_open(&file, path, err);
    if (status != RW_OK) fail_msg("%s: %s", name, err->msg);
    for (int64_t i = 0; i < rw_tensor_file_count(file); i++) {
        static float buf[1 << 16];
        const rw_file_tensor *t = rw_tensor_file_at(file, i);
        status = rw_tensor_file_read(file, t, buf, RW_F32, err);
        if (status != RW_OK) fail_msg("%s: %s", name, err->msg);
    }
    rw_tensor_file_close(file);
    if (strstr(name, ".pth"))
        l->weights++;
    else
        l->states++;
    return RW_OK;
}

static listing list(const char *dir) {
    rw_error err = {0};
    listing l = {dir, 0, 0, 0};
    must(rw_dir_list(dir, read_all, &l, &err), &err);
    return l;
}

static void full_disk(void **state) {
    (void)state;
    fixture f;
    rw_error err = {0};
    open_run(&f, "disk");
    int64_t before = rw_fs_calls();
    must(train(&f, NULL, &err), &err);
    int64_t calls = rw_fs_calls() - before, live = rw_alloc_live();
    for (int64_t n = 1; n <= calls; n++) {
        err = (rw_error){0};
        listing was = list(f.dir);
        rw_fs_fail_after(n, ENOSPC);
        rw_status status = train(&f, NULL, &err);
        rw_fs_fail_after(0, 0);
        char text[2048];
        rw_error_format(&err, text, sizeof text);
        if (status != RW_E_IO) fail_msg("write %lld: status %s: %s", (long long)n, rw_status_name(status), text);
        if (!strstr(text, f.dir) || !strstr(text, "No space left on device"))
            fail_msg("write %lld: %s", (long long)n, text);
        listing now = list(f.dir);
        assert_int_equal(now.rubbish, 0);
        if (now.states < 1 || now.weights < 2)
            fail_msg("write %lld: %d states, %d weights; before %d, %d", (long long)n, now.states, now.weights,
                     was.states, was.weights);
        assert_int_equal(rw_alloc_live(), live);
        rw_error_clear(&err);
    }
    char *path;
    int64_t step;
    must(rw_checkpoint_latest(f.dir, &path, &step, &err), &err);
    assert_in_range(step, 1, 3);
    must(train(&f, path, &err), &err); /* and it goes on from there */
    rw_free(path);
    print_message("  a full disk at each of %lld writes\n", (long long)calls);
    assert_true(calls > 10);
    close_run(&f);
}

int main(void) {
    rw_log_set_level(RW_LOG_ERROR);
    setenv("RWKV_THREADS", "1", 1);
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0); /* thousands of fsyncs */
    const struct CMUnitTest tests[] = {cmocka_unit_test(engine_without_memory), cmocka_unit_test(run_without_memory),
                                       cmocka_unit_test(plan_without_memory), cmocka_unit_test(full_disk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
