/* The plan is exact and the loop allocates nothing: engine buffers against what the device and the loaders really hold,
 * and calls of malloc, calloc and realloc by anybody in this process between steps 3 and 10. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/data/data.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "core/train/trainer.h"
#include "tests/unit/golden.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define COUNTS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTS 0
#endif
#endif
#ifndef COUNTS
#define COUNTS 1
#endif

static atomic_llong calls;

#if COUNTS
/* The process's own malloc, counted; glibc's stands behind it. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n) {
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(p, n);
}
#endif

typedef struct {
    long long at_3, at_10;
    int64_t live, peak;
    rw_device *device;
} seen;

/* -- hooks in C: they only look ---------------------------------------------------------------------------------- */

static rw_status no_number(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)value, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status no_boolean(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                            bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)value, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status no_text(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf,
                         int64_t size, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)buf, (void)size, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status look(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err) {
    seen *s = ctx;
    (void)m, (void)err;
    if (id != RW_HOOK_on_train_batch_end) return RW_OK;
    if (t->step == 2) s->at_3 = atomic_load(&calls);
    if (t->step == 9) s->at_10 = atomic_load(&calls);
    s->live = s->device->live_bytes;
    s->peak = s->device->peak_bytes;
    return RW_OK;
}
static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

/* A run of 12 steps; checks what it held against its plan. */
static void run(const char *extra) {
    char text[2048], dir[512];
    static int number;
    snprintf(dir, sizeof dir, "%s/out%d", rw_test_folder(), number++);
    snprintf(
        text, sizeof text,
        "name: memory\ndevice: cpu\nmodel: { arch: x060, n_layer: 3, n_embd: 64, head_size: 32 }\n"
        "data: { data_type: jsonl, data_file: '%s', valid_file: '%s', tokenizer: byte, ctx_len: 40 }\n"
        "train: { micro_bsz: 3, accumulate: 2, epoch_steps: 12, precision: fp32, eval_every: 5, eval_batches: 2, %s }\n"
        "save: { proj_dir: '%s', epoch_save: 0 }\nlog: { every: 100 }\n",
        rw_source_path("recipes/quickstart/data/train.jsonl"), rw_source_path("recipes/quickstart/data/valid.jsonl"),
        extra, dir);
    rw_error err = {0};
    rw_recipe recipe = {0};
    rw_arena arena = {0};
    const rw_plan *plan;
    rw_device *device;
    rw_recipe_options options = {.path = "memory.yaml", .trust = true, .text = text, .n_text = strlen(text)};
    must(rw_recipe_load(&recipe, &options, &err), &err);
    must(rw_plan_make(&plan, &recipe, NULL, &arena, &device, &err), &err);
    seen s = {.device = device};
    rw_hooks hooks = {.ctx = &s, .number = no_number, .boolean = no_boolean, .text = no_text, .event = look};
    must(rw_train(plan, &recipe, device, &hooks, NULL, &err), &err);

    int64_t planned = 0, loaders = 0;
    for (int i = 0; i < plan->needs.n_parts; i++) {
        const rw_plan_part *part = &plan->needs.parts[i];
        if (!part->ours) continue;
        planned += part->n_bytes;
        if (part->place == RW_MEMORY_HOST) loaders += part->n_bytes;
    }
    rw_loader *data, *valid;
    rw_data_info info;
    must(rw_loader_open(&data, &plan->data, plan->data.data_file, NULL, &info, &err), &err);
    must(rw_loader_open(&valid, &plan->data, plan->data.valid_file, NULL, &info, &err), &err);
    assert_int_equal(rw_loader_host_bytes(data) + rw_loader_host_bytes(valid), loaders);
    rw_loader_close(data);
    rw_loader_close(valid);
    print_message(
        "  %s: planned %lld bytes, device held %lld (peak %lld), loaders %lld; malloc calls in steps 4 to 10: %lld\n",
        extra, (long long)planned, (long long)s.live, (long long)s.peak, (long long)loaders, s.at_10 - s.at_3);
    assert_int_equal(planned, plan->needs.engine_bytes);
    assert_int_equal(s.live + loaders, planned);
    assert_int_equal(s.peak, s.live);
    if (COUNTS) {
        assert_true(s.at_3 > 0);
        assert_int_equal(s.at_10, s.at_3);
    }
    rw_device_close(device);
    rw_arena_done(&arena);
    rw_recipe_done(&recipe);
}

static void plain(void **state) {
    (void)state;
    run("grad_cp: 0");
}

static void checkpointed(void **state) {
    (void)state;
    run("checkpoint: ffn");
    run("checkpoint: block");
}

static void chunked(void **state) {
    (void)state;
    run("head_chunk: 7, weight_decay: 0.1");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(plain), cmocka_unit_test(checkpointed),
                                       cmocka_unit_test(chunked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
