/* Every architecture and part at every level of train.checkpoint and in every form of the optimizer: the same bits in
 * gradients and loss as without recomputing, and the plan's buffers are those of the engine, to the byte. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "core/recipe/keys.h"
#include "tests/unit/golden.h"

#include <stdio.h>
#include <string.h>

enum { CTX = 40, BATCH = 3, ROWS = CTX * BATCH, V = 257, ACCUMULATE = 2, WORD = 32 };

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

/* The n-th of "a|b|c", copied; false: there are fewer. */
static bool nth(const char *choices, int n, char word[WORD]) {
    for (; n > 0; n--) {
        const char *bar = strchr(choices, '|');
        if (!bar) return false;
        choices = bar + 1;
    }
    snprintf(word, WORD, "%.*s", (int)strcspn(choices, "|"), choices);
    return true;
}

/* -- a plan and its engine --------------------------------------------------------------------------------------- */

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    rw_engine e;
    char text[2048];
} fixture;

static void open_engine(fixture *f, const char *model, const char *level, const char *form) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    int n = snprintf(f->text, sizeof f->text,
                     "name: levels\ndevice: cpu\nmodel: { %s, n_layer: 3, n_embd: 64, head_size: 32 }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: %d }\n"
                     "train: { micro_bsz: %d, accumulate: %d, epoch_steps: 6, precision: fp32, random_seed: 5,\n"
                     "         checkpoint: %s, optim_form: %s, head_chunk: 50 }\n"
                     "save: { proj_dir: '%s' }\n",
                     model, rw_source_path("tests/cli/data.jsonl"), CTX, BATCH, ACCUMULATE, level, form,
                     rw_test_path("out"));
    rw_recipe_options options = {.path = "levels.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    must(rw_recipe_load(&f->recipe, &options, &err), &err);
    must(rw_plan_make(&f->plan, &f->recipe, NULL, &f->arena, &f->device, &err), &err);
    must(rw_engine_open(&f->e, f->plan, f->device, true, &err), &err);
    must(rw_model_init(f->e.model, 5, &err), &err);
}

static void close_engine(fixture *f) {
    rw_engine_close(&f->e);
    assert_int_equal(f->device->live_bytes, 0);
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_recipe_done(&f->recipe);
}

/* What the plan counts of the device; the loaders' buffers are no part of an engine. */
static int64_t planned_bytes(const rw_plan *p) {
    int64_t sum = 0;
    for (int i = 0; i < p->needs.n_parts; i++)
        if (p->needs.parts[i].ours && p->needs.parts[i].place == RW_MEMORY_DEVICE) sum += p->needs.parts[i].n_bytes;
    return sum;
}

/* -- steps ----------------------------------------------------------------------------------------------------------
 */

/* Two steps and an evaluation; returns the sum of what was lost. The last gradients stay in their buffers. */
static double steps(fixture *f) {
    static const int32_t borders[BATCH + 1] = {0, 1, CTX, ROWS};
    rw_error err = {0};
    int32_t tokens[ROWS + 1];
    float mask[ROWS];
    double sum = 0, loss;
    rw_batch b = {.n_rows = ROWS, .n_seq = BATCH, .tokens = tokens, .targets = tokens + 1, .mask = mask};
    b.cu_seqlens = borders;
    b.mask_sum = ROWS;
    for (int i = 0; i < ROWS; i++) mask[i] = 1;
    for (int step = 0; step < 2; step++) {
        rw_engine_begin_step(&f->e, step, 1e-2, 0.1, ROWS * ACCUMULATE);
        for (int k = 0; k < ACCUMULATE; k++) {
            for (int i = 0; i <= ROWS; i++)
                tokens[i] = (int32_t)(rw_rng_u64_at(1, (uint64_t)(step * 8 + k), (uint64_t)i) % V);
            must(rw_engine_micro_step(&f->e, &b, &loss, &err), &err);
        }
        sum += loss;
        must(rw_engine_update(&f->e, &err), &err);
    }
    must(rw_engine_evaluate(&f->e, &b, &loss, &err), &err);
    return sum + loss;
}

static size_t bytes_of(const rw_flat *x) {
    return (size_t)(x->n * rw_dtype_bytes(x->dtype));
}

static void same_bits(const fixture *a, const fixture *b) {
    static const rw_param_kind kinds[] = {RW_PARAM_GRAD, RW_PARAM_VALUE, RW_PARAM_MASTER, RW_PARAM_M, RW_PARAM_V};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int c = 0; c < RW_PARAM_CLASSES; c++) {
            const rw_flat *x = &a->e.model->params->flat[kinds[k]][c], *y = &b->e.model->params->flat[kinds[k]][c];
            assert_int_equal(bytes_of(x), bytes_of(y));
            if (x->n) assert_memory_equal(x->data, y->data, bytes_of(x));
        }
}

static void exact_bytes(const fixture *f) {
    int64_t planned = planned_bytes(f->plan);
    assert_true(planned > 0);
    assert_int_equal(f->e.arena.high_water, f->plan->needs.arena_bytes);
    assert_int_equal(f->device->live_bytes, planned);
    assert_int_equal(f->device->peak_bytes, planned);
}

/* All levels of one model in one form against the first; *arenas: what each needs for activations. */
static void all_levels(const char *model, const char *form) {
    fixture first = {0}, f;
    char level[WORD];
    double loss = 0;
    rw_str arenas = {0};
    for (int i = 0; i < RW_CHECKPOINT_AUTO && nth(rw_keys[RW_KEY_train_checkpoint].choices, i, level); i++) {
        fixture *here = i ? &f : &first;
        open_engine(here, model, level, form);
        double sum = steps(here);
        exact_bytes(here);
        rw_str_appendf(&arenas, "  %s %lld", level, (long long)here->plan->needs.arena_bytes);
        if (i == 0) {
            loss = sum;
            continue;
        }
        assert_true(sum == loss);
        same_bits(&first, here);
        assert_true(here->plan->needs.arena_bytes < first.plan->needs.arena_bytes);
        close_engine(here);
    }
    close_engine(&first);
    print_message("  %-24s %-5s step arena:%s\n", model, form, arenas.data);
    rw_str_done(&arenas);
}

static void every_level(void **state) {
    (void)state;
    static const struct {
        rw_dim part;
        const char *text;
    } variants[] = {{RW_DIM_COUNT, ""}, {RW_DIM_pre_ffn, ", pre_ffn: 1"}, {RW_DIM_head_qk, ", head_qk: 8"}};
    char form[WORD], model[64];
    for (int a = 0; rw_arch_at(a); a++)
        for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
            if (v && !rw_arch_has_part(rw_arch_at(a), variants[v].part)) continue;
            snprintf(model, sizeof model, "arch: %s%s", rw_arch_at(a)->name, variants[v].text);
            for (int i = 0; nth(rw_keys[RW_KEY_train_optim_form].choices, i, form); i++) all_levels(model, form);
        }
}

int main(void) {
    rw_log_set_level(RW_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_level)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
