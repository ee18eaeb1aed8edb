/* Each form of the optimizer through files: a run that is saved and loaded in the middle ends with the same bits, a
 * state is the same fp32 file whatever the buffers are, and a .pth comes back as exactly as the form can hold it. */
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
#include "core/checkpoint/weights.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "core/train/training_state.h"
#include "tests/unit/golden.h"

#include <stdio.h>
#include <string.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

static const char *const forms[] = {"fp32", "a16", "b12", "b8"};
enum { N_FORMS = 4, CTX = 16, BATCH = 2, ROWS = CTX * BATCH };

/* -- an engine -------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    const rw_plan *plan;
    rw_device *device;
    rw_engine e;
    char text[2048];
} fixture;

static void open_engine(fixture *f, const char *form, int accumulate) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    int n = snprintf(f->text, sizeof f->text,
                     "name: forms\ndevice: cpu\nmodel: { arch: x060, n_layer: 2, n_embd: 64, head_size: 32 }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: %d }\n"
                     "train: { micro_bsz: %d, epoch_steps: 6, weight_decay: 0.1, accumulate: %d, optim_form: %s,\n"
                     "         random_seed: 5, precision: fp32 }\n"
                     "save: { proj_dir: '%s' }\n",
                     rw_source_path("tests/cli/data.jsonl"), CTX, BATCH, accumulate, form, rw_test_path("out"));
    rw_recipe_options options = {.path = "forms.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    must(rw_recipe_load(&f->recipe, &options, &err), &err);
    must(rw_plan_make(&f->plan, &f->recipe, NULL, &f->arena, &f->device, &err), &err);
    must(rw_engine_open(&f->e, f->plan, f->device, true, &err), &err);
}

static void close_engine(fixture *f) {
    rw_engine_close(&f->e);
    assert_int_equal(f->device->live_bytes, 0);
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_recipe_done(&f->recipe);
}

static void steps(fixture *f, int64_t first, int64_t last) {
    static const int32_t borders[] = {0, CTX, ROWS};
    rw_error err = {0};
    int32_t tokens[ROWS + 1];
    float mask[ROWS];
    double loss;
    for (int i = 0; i < ROWS; i++) mask[i] = 1;
    for (int64_t step = first; step < last; step++) {
        rw_engine_begin_step(&f->e, step, 1e-2, 0.1, (double)(ROWS * f->plan->train.accumulate));
        for (int64_t k = 0; k < f->plan->train.accumulate; k++) {
            for (int i = 0; i <= ROWS; i++)
                tokens[i] = (int32_t)(rw_rng_u64_at(1, (uint64_t)(step * 8 + k), (uint64_t)i) % 257);
            rw_batch b = {.n_rows = ROWS, .n_seq = BATCH, .tokens = tokens, .targets = tokens + 1, .mask = mask};
            b.cu_seqlens = borders;
            b.mask_sum = ROWS;
            must(rw_engine_micro_step(&f->e, &b, &loss, &err), &err);
        }
        must(rw_engine_update(&f->e, &err), &err);
    }
}

/* -- comparing ---------------------------------------------------------------------------------------------------- */

static void same_buffers(const rw_params *a, const rw_params *b) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_MASTER, RW_PARAM_M, RW_PARAM_V};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int c = 0; c < RW_PARAM_CLASSES; c++) {
            const rw_flat *x = &a->flat[kinds[k]][c], *y = &b->flat[kinds[k]][c];
            assert_int_equal(x->n, y->n);
            if (x->n) assert_memory_equal(x->data, y->data, (size_t)(x->n * rw_dtype_bytes(x->dtype)));
        }
}

static bool on_grid(float x) {
    return rw_f32_from_bf16(rw_bf16_from_f32(x)) == x;
}

/* How many values of the class, as the ops see them, are no numbers of bf16. */
static int64_t off_grid(const rw_params *p, rw_param_class c) {
    const float *x = p->flat[RW_PARAM_VALUE][c].data;
    int64_t count = 0;
    for (int64_t i = 0; i < p->flat[RW_PARAM_VALUE][c].n; i++) count += !on_grid(x[i]);
    return count;
}

static float *all_of(rw_params *p, rw_param_kind kind) {
    float *x = rw_alloc_array((size_t)p->layout.n_params, sizeof *x), *at = x;
    assert_non_null(x);
    for (size_t i = 0; i < p->layout.n_segments; at += p->layout.segments[i++].n)
        rw_params_get(p, kind, i, 0, p->layout.segments[i].n, RW_F32, at);
    return x;
}

/* -- tests ----------------------------------------------------------------------------------------------------------
 */

static void check_state_file(const char *path, const rw_params *p) {
    rw_error err = {0};
    rw_tensor_file *file;
    must(rw_tensor_file_open(&file, path, &err), &err);
    assert_int_equal(rw_tensor_file_count(file), 3 * p->layout.n_segments);
    for (int64_t i = 0; i < rw_tensor_file_count(file); i++)
        assert_int_equal(rw_tensor_file_at(file, i)->dtype, RW_F32);
    rw_tensor_file_close(file);
}

/* Six steps, against three, a state, and three more in another engine. */
static void resume(void **state) {
    (void)state;
    rw_error err = {0};
    for (int k = 0; k < N_FORMS; k++)
        for (int accumulate = 1; accumulate <= 2; accumulate++) {
            fixture whole, rest;
            const char *path = rw_test_path("state.safetensors");
            rw_progress progress = {.step = 3, .updates = 3}, loaded;
            open_engine(&whole, forms[k], accumulate);
            open_engine(&rest, forms[k], accumulate);
            rw_params *p = whole.e.model->params, *q = rest.e.model->params;
            must(rw_model_init(whole.e.model, 5, &err), &err);
            steps(&whole, 0, 3);
            must(rw_training_state_save(path, p, &progress, whole.plan, NULL, &err), &err);
            check_state_file(path, p);
            must(rw_training_state_load(path, q, &loaded, &err), &err);
            assert_int_equal(loaded.step, 3);
            rw_engine_set_counts(&rest.e, &(rw_device_scalars){.step = loaded.step, .updates = loaded.updates});
            same_buffers(p, q);
            steps(&whole, 3, 6);
            steps(&rest, 3, 6);
            same_buffers(p, q);
            assert_int_equal(off_grid(p, RW_MATRIX) > 0, k == 0);
            assert_true(off_grid(p, RW_VECTOR) > 0);
            close_engine(&whole);
            close_engine(&rest);
        }
}

/* A .pth in bf16 is the same in every form; one in fp32 keeps its vectors, and its matrices where there is a master. */
static void weights(void **state) {
    (void)state;
    rw_error err = {0};
    char path[2][1024];
    snprintf(path[0], sizeof path[0], "%s", rw_test_path("wide.pth"));
    snprintf(path[1], sizeof path[1], "%s", rw_test_path("narrow.pth"));
    fixture from;
    open_engine(&from, "fp32", 1);
    rw_params *p = from.e.model->params;
    must(rw_model_init(from.e.model, 5, &err), &err);
    steps(&from, 0, 2);
    must(rw_weights_save_pth(p, path[0], RW_F32, &err), &err);
    must(rw_weights_save_pth(p, path[1], RW_BF16, &err), &err);
    float *exact = all_of(p, RW_PARAM_VALUE);
    for (int k = 0; k < 2 * N_FORMS; k++) {
        fixture to;
        rw_tensor_file *file;
        const char *name = path[k / N_FORMS];
        open_engine(&to, forms[k % N_FORMS], 1);
        rw_params *q = to.e.model->params;
        must(rw_tensor_file_open(&file, name, &err), &err);
        must(rw_weights_load(q, RW_PARAM_VALUE, file, name, "", &err), &err);
        rw_tensor_file_close(file);
        float *got = all_of(q, RW_PARAM_VALUE), *x = exact, *y = got;
        bool keeps = k < 2; /* fp32, a16 */
        for (size_t i = 0; i < q->layout.n_segments; i++)
            for (int64_t e = 0; e < q->layout.segments[i].n; e++, x++, y++) {
                float rounded = rw_f32_from_bf16(rw_bf16_from_f32(*x)), seen = ((float *)q->tensors[i].data)[e];
                bool vector = q->layout.segments[i].cls == RW_VECTOR;
                assert_true(*y == (keeps || (vector && k < N_FORMS) ? *x : rounded));
                assert_true(seen == (k % N_FORMS == 0 || vector ? *y : rounded));
            }
        rw_free(got);
        close_engine(&to);
    }
    rw_free(exact);
    close_engine(&from);
}

/* The forms are real: same data, other bits; and b8 keeps its moments in half of the room. */
static void differ(void **state) {
    (void)state;
    rw_error err = {0};
    float *values[N_FORMS];
    int64_t n = 0, bytes[N_FORMS];
    for (int k = 0; k < N_FORMS; k++) {
        fixture f;
        open_engine(&f, forms[k], 1);
        must(rw_model_init(f.e.model, 5, &err), &err);
        steps(&f, 0, 2);
        n = f.e.model->params->layout.n_params;
        values[k] = all_of(f.e.model->params, RW_PARAM_VALUE);
        bytes[k] = f.plan->needs.param_bytes;
        for (int i = 0; i < k; i++) assert_memory_not_equal(values[i], values[k], (size_t)n * sizeof(float));
        close_engine(&f);
    }
    print_message("  bytes a parameter: fp32 %.2f, a16 %.2f, b12 %.2f, b8 %.2f\n", (double)bytes[0] / (double)n,
                  (double)bytes[1] / (double)n, (double)bytes[2] / (double)n, (double)bytes[3] / (double)n);
    assert_int_equal(bytes[0], bytes[2]);
    assert_true(bytes[3] < bytes[2] && bytes[2] < bytes[1]);
    for (int k = 0; k < N_FORMS; k++) rw_free(values[k]);
}

int main(void) {
    rw_log_set_level(RW_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(resume), cmocka_unit_test(weights), cmocka_unit_test(differ)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
