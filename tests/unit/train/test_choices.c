/* What a device decides by itself (rw_device.choices): it goes into the state and into plan.yaml, and a resume hands it
 * back before the first product; where the device refuses, that is said once and the run goes on. The device is the
 * CPU with a table of choices put beside it. */
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
#include "core/train/training_state.h"
#include "tests/unit/golden.h"

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

/* -- a device that chooses --------------------------------------------------------------------------------------- */

#define FIRST_LIST "library \"1\"\n64x64 : 7\n"
#define OTHER_LIST "library \"1\"\n64x64 : 9\n"

static struct {
    const char *list; /* what it says */
    bool refuses;
    int64_t n_products; /* made in this run */
    int n_presets;
    int64_t n_before; /* products before the preset */
    char preset[256];
} fake;

static char *list(rw_device *d) {
    (void)d;
    return rw_strdup(fake.list);
}

static rw_status preset(rw_device *d, const char *text, rw_error *err) {
    (void)d;
    fake.n_presets++;
    fake.n_before = fake.n_products;
    snprintf(fake.preset, sizeof fake.preset, "%s", text);
    return fake.refuses ? rw_fail(err, RW_E_UNSUPPORTED, RW_AT_NONE, "made by library 1, here is 2") : RW_OK;
}

static const rw_device_choices choices = {list, preset};
static const rw_kernels *inner;
static rw_kernels table;

static void matmul(const rw_matmul_args *a, const rw_exec *ex) {
    fake.n_products++;
    inner->matmul(a, ex);
}

static void disguise(rw_device *d) {
    inner = d->kernels;
    table = *inner;
    table.matmul = matmul;
    d->kernels = &table;
    d->choices = &choices;
}

/* -- a run --------------------------------------------------------------------------------------------------------- */

/* Up to the end of epoch `epochs`, resuming what is there; what it says goes to the file `said`. */
static void train(int epochs) {
    rw_error err = {0};
    rw_recipe recipe = {0};
    rw_saved_run saved;
    rw_arena arena = {0};
    const rw_plan *plan;
    rw_device *device;
    char text[2048];
    int n = snprintf(text, sizeof text,
                     "name: choices\ndevice: cpu\nmodel: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: 8 }\n"
                     "train: { micro_bsz: 1, epoch_steps: 2, epoch_count: %d, precision: fp32 }\n"
                     "save: { proj_dir: '%s/out', epoch_save: 1 }\n",
                     rw_source_path("tests/cli/data.jsonl"), epochs, rw_test_folder());
    rw_recipe_options options = {.path = "choices.yaml", .trust = true, .text = text, .n_text = (size_t)n};
    must(rw_recipe_load(&recipe, &options, &err), &err);
    must(rw_saved_run_find(&saved, "auto", recipe.values[RW_KEY_save_proj_dir].s, &err), &err);
    must(rw_plan_make(&plan, &recipe, &saved, &arena, &device, &err), &err);
    disguise(device);
    fake.n_products = fake.n_presets = 0;
    fflush(stderr);
    int kept = dup(STDERR_FILENO), file = open(rw_test_path("said"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDERR_FILENO);
    rw_start start = {.kind = saved.path ? RW_START_RESUME : RW_START_NEW, .state = saved.path};
    rw_status status = rw_train(plan, &recipe, device, NULL, &start, &err);
    dup2(kept, STDERR_FILENO);
    close(kept), close(file);
    must(status, &err);
    rw_device_close(device);
    rw_arena_done(&arena);
    rw_saved_run_done(&saved);
    rw_recipe_done(&recipe);
}

static int lines_with(const char *file, const char *part) {
    char *text;
    int64_t n;
    int found = 0;
    rw_error err = {0};
    must(rw_file_slurp(rw_test_path(file), 1 << 20, &text, &n, &err), &err);
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part)) found++;
    rw_free(text);
    return found;
}

static void state_holds(int step, const char *expected) {
    char name[64];
    rw_str text = {0};
    rw_error err = {0};
    snprintf(name, sizeof name, "out/state-%d.safetensors", step);
    must(rw_training_state_text(rw_test_path(name), "device_choices", &text, &err), &err);
    assert_string_equal(text.data, expected);
    rw_str_done(&text);
}

/* -- tests ----------------------------------------------------------------------------------------------------------
 */

static void saved_and_taken_back(void **state) {
    (void)state;
    fake.list = FIRST_LIST;
    train(1);
    assert_int_equal(fake.n_presets, 0);
    assert_true(fake.n_products > 0);
    state_holds(2, FIRST_LIST);
    assert_int_equal(lines_with("out/plan.yaml", "device_choices: |\n  library \"1\"\n  64x64 : 7\n"), 1);

    fake.list = OTHER_LIST;
    train(2);
    assert_int_equal(fake.n_presets, 1);
    assert_int_equal(fake.n_before, 0);
    assert_true(fake.n_products > 0);
    assert_string_equal(fake.preset, FIRST_LIST);
    state_holds(4, OTHER_LIST);
    assert_int_equal(lines_with("out/plan.yaml", "  64x64 : 9\n"), 1);
    assert_int_equal(lines_with("said", "warning"), 0);
}

static void refused(void **state) {
    (void)state;
    fake.refuses = true;
    train(3);
    assert_int_equal(fake.n_presets, 1);
    assert_string_equal(fake.preset, OTHER_LIST);
    assert_int_equal(lines_with("said", "made by library 1, here is 2"), 1);
    state_holds(6, OTHER_LIST);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(saved_and_taken_back), cmocka_unit_test(refused)};
    return cmocka_run_group_tests_name("choices", tests, NULL, NULL);
}
