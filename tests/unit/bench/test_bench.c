/* The bench of a recipe, on the CPU: its JSON parses, every kernel has a time in which it did its work, and a model
 * that is not finite is refused. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/json.h"
#include "core/bench/bench.h"
#include "core/plan/make_plan.h"
#include "tests/unit/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    char text[1024];
} fixture;

static void open_plan(fixture *f, const char *arch) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    int n = snprintf(f->text, sizeof f->text,
                     "name: bench\ndevice: cpu\nmodel: { arch: %s, n_layer: 2, n_embd: 128, head_size: 64 }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: 16 }\n"
                     "train: { micro_bsz: 2, accumulate: 2, epoch_steps: 6, precision: fp32 }\n"
                     "save: { proj_dir: '%s' }\n",
                     arch, rw_source_path("tests/cli/data.jsonl"), rw_test_path("out"));
    rw_recipe_options options = {.path = "bench.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    must(rw_recipe_load(&f->recipe, &options, &err), &err);
    must(rw_plan_make(&f->plan, &f->recipe, NULL, &f->arena, &f->device, &err), &err);
}

static void close_plan(fixture *f) {
    assert_int_equal(f->device->live_bytes, 0);
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_recipe_done(&f->recipe);
}

static double number(const json_t *j, const char *key) {
    const json_t *x = json_object_get(j, key);
    if (!json_is_number(x)) fail_msg("no number '%s'", key);
    return json_number_value(x);
}

/* A kernel that skips its work is far faster than memory: 1 TB/s is more than any CPU has. */
#define FASTEST 1e12

static void check_adamw(const json_t *j) {
    const json_t *adamw = json_object_get(json_object_get(j, "kernels"), "adamw");
    print_message("  adamw: %.3f ms for %.1f MB\n", number(adamw, "seconds") * 1e3, number(j, "update_bytes") * 1e-6);
    assert_true(number(adamw, "calls") > 0);
    assert_true(number(adamw, "seconds") > number(j, "update_bytes") / FASTEST);
}

static void every_arch(void **state) {
    (void)state;
    static const char *const archs[] = {"x052", "x060", "x070"};
    static const char *const positive[] = {"tokens_per_second",     "step_seconds", "floor_seconds",
                                           "copy_bytes_per_second", "product_flop", "product_flop_per_second"};
    for (int a = 0; a < 3; a++) {
        fixture f;
        rw_bench_result r;
        rw_error err = {0};
        rw_str text = {0}, people = {0};
        open_plan(&f, archs[a]);
        must(rw_bench_run(&r, f.plan, f.device, 3, &err), &err);
        rw_bench_print(&r, f.plan, f.device, true, &text);
        json_t *j;
        must(rw_json_parse(text.data, text.len, RW_AT_NONE, &j, &err), &err);
        for (size_t i = 0; i < sizeof positive / sizeof *positive; i++) assert_true(number(j, positive[i]) > 0);
        assert_string_equal(json_string_value(json_object_get(j, "arch")), archs[a]);
        check_adamw(j);
        json_decref(j);
        rw_bench_print(&r, f.plan, f.device, false, &people);
        assert_non_null(strstr(people.data, "of the machine's product rate\n"));
        assert_null(strstr(people.data, "nan"));
        rw_str_done(&text), rw_str_done(&people);
        close_plan(&f);
    }
}

static const rw_kernels *whole;
static int n_updates;

/* From the call on that is no step's any more, it finds that loss or gradient are not finite: as it may well be where
 * kernels are made to run again on what others left. */
static void clip_coef(const rw_clip_coef_args *a, const rw_exec *ex) {
    enum { STEPS = 4 + 3 + 1 }; /* to warm up, timed, taken apart */
    whole->clip_coef(a, ex);
    if (++n_updates > STEPS) ex->own->skipped_in_row = 1;
}

static void kernels_alone_do_their_work(void **state) {
    (void)state;
    fixture f;
    rw_bench_result r;
    rw_error err = {0};
    open_plan(&f, "x060");
    whole = f.device->kernels;
    rw_kernels table = *whole;
    table.clip_coef = clip_coef;
    f.device->kernels = &table;
    must(rw_bench_run(&r, f.plan, f.device, 3, &err), &err);
    f.device->kernels = whole;
    for (int i = 0; i < r.n_kernels; i++)
        if (strcmp(r.kernels[i].name, "adamw") == 0) assert_true(r.kernels[i].seconds > r.update_bytes / FASTEST);
    assert_true(n_updates > 4 + 3 + 1);
    close_plan(&f);
}

static void broken_sum(const rw_sum_args *a, const rw_exec *ex) {
    (void)ex;
    *a->out = NAN;
}

static void refuses_what_is_not_finite(void **state) {
    (void)state;
    fixture f;
    rw_bench_result r;
    rw_error err = {0};
    open_plan(&f, "x060");
    whole = f.device->kernels;
    rw_kernels table = *whole;
    table.sum = broken_sum;
    f.device->kernels = &table;
    assert_int_equal(rw_bench_run(&r, f.plan, f.device, 3, &err), RW_E_NUMERIC);
    f.device->kernels = whole;
    close_plan(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_arch), cmocka_unit_test(kernels_alone_do_their_work),
                                       cmocka_unit_test(refuses_what_is_not_finite)};
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
