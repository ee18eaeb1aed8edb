/* A run that fails after some steps: whatever failed, what was trained is saved, unless the weights are not finite or
 * the device itself failed; then the steps that are lost are counted. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/plan/make_plan.h"
#include "core/train/trainer.h"
#include "tests/unit/golden.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the hooks of a run do in its third step. */
typedef struct {
    double lr;        /* 0: the recipe's */
    rw_status status; /* of the event after it */
    int64_t save_at;  /* step whose end is saved; -1: none */
} behaviour;

enum { THIRD = 2 };

static rw_status number(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err) {
    const behaviour *b = ctx;
    (void)err;
    *given = id == RW_HOOK_lr && b->lr != 0 && t->step == THIRD;
    if (*given) *value = b->lr;
    return RW_OK;
}

static rw_status boolean(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                         bool *given, rw_error *err) {
    const behaviour *b = ctx;
    (void)id, (void)m, (void)err;
    *given = true;
    *value = t->step == b->save_at;
    return RW_OK;
}

static rw_status text_of(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf,
                         int64_t size, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)buf, (void)size, (void)err;
    *given = false;
    return RW_OK;
}

static rw_status event(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err) {
    const behaviour *b = ctx;
    (void)m;
    if (id != RW_HOOK_on_train_batch_end || t->step != THIRD) return RW_OK;
    return rw_fail(err, b->status, RW_AT_NONE, "told to fail");
}

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

static rw_status train(const rw_plan *plan, const rw_recipe *recipe, rw_device *device, const rw_hooks *hooks,
                       const char *log, rw_error *err) {
    fflush(stderr);
    int kept = dup(STDERR_FILENO), file = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDERR_FILENO);
    rw_status status = rw_train(plan, recipe, device, hooks, NULL, err);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(file);
    return status;
}

/* Runs in a folder of its own and expects the status; whether state-3 is there is the answer. *said: for free(). */
static bool saves_third(const char *name, behaviour b, char **said) {
    char text[1024], path[1024];
    rw_error err = {0};
    rw_recipe recipe = {0};
    rw_arena arena = {0};
    const rw_plan *plan;
    rw_device *device;
    const rw_hooks hooks = {.ctx = &b, .number = number, .boolean = boolean, .text = text_of, .event = event};
    int n = snprintf(text, sizeof text,
                     "name: ends\ndevice: cpu\nmodel: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: 8 }\n"
                     "train: { micro_bsz: 1, epoch_steps: 9, precision: fp32 }\nsave: { proj_dir: '%s/%s' }\n",
                     rw_source_path("tests/cli/data.jsonl"), rw_test_folder(), name);
    rw_recipe_options options = {.path = "ends.yaml", .trust = true, .text = text, .n_text = (size_t)n};
    must(rw_recipe_load(&recipe, &options, &err), &err);
    must(rw_plan_make(&plan, &recipe, NULL, &arena, &device, &err), &err);
    snprintf(path, sizeof path, "%s/%s.log", rw_test_folder(), name);
    assert_int_equal(train(plan, &recipe, device, &hooks, path, &err), b.status);
    assert_non_null(strstr(err.msg, "told to fail"));
    int64_t size;
    char *log;
    rw_error why = {0};
    must(rw_file_slurp(path, 1 << 20, &log, &size, &why), &why);
    *said = log;
    snprintf(path, sizeof path, "%s/%s/state-3.safetensors", rw_test_folder(), name);
    rw_error_clear(&err);
    rw_device_close(device);
    rw_arena_done(&arena);
    rw_recipe_done(&recipe);
    return rw_exists(path);
}

static void any_failure_saves(void **state) {
    static const rw_status kinds[] = {RW_E_LUA, RW_E_DATA, RW_E_IO, RW_E_FORMAT, RW_E_MEMORY, RW_E_SHAPE};
    char name[32], *said;
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        snprintf(name, sizeof name, "kind%zu", i);
        if (!saves_third(name, (behaviour){.status = kinds[i], .save_at = -1}, &said))
            fail_msg("%s: not saved: %s", rw_status_name(kinds[i]), said);
        assert_non_null(strstr(said, "saved after step 3 of 9"));
        rw_free(said);
    }
}

static void weights_that_are_not_finite_are_not_saved(void **state) {
    char *said;
    (void)state;
    assert_false(saves_third("nan", (behaviour){.lr = NAN, .status = RW_E_LUA, .save_at = -1}, &said));
    assert_non_null(strstr(said, "could not save: the weights are not finite"));
    assert_non_null(strstr(said, "3 steps are lost; nothing was saved before"));
    rw_free(said);
}

static void a_failed_device_counts_the_loss(void **state) {
    char *said;
    (void)state;
    assert_false(saves_third("device", (behaviour){.status = RW_E_DEVICE, .save_at = 0}, &said));
    assert_non_null(strstr(said, "2 steps since the last save are lost; it is of step 1, in "));
    rw_free(said);
}

int main(void) {
    setenv("RWKV_THREADS", "1", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_failure_saves),
                                       cmocka_unit_test(weights_that_are_not_finite_are_not_saved),
                                       cmocka_unit_test(a_failed_device_counts_the_loss)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
