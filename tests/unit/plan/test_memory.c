/* What the plan chooses by the memory of a GPU, on a device that has none but says so. */
#include "core/base/error.h"
#include "core/base/thread.h"
#include "core/plan/plan_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static rw_plan_model shape(void) {
    return (rw_plan_model){.arch = "x060",
                           .n_layer = 4,
                           .n_embd = 256,
                           .vocab_size = 1024,
                           .head_size = 64,
                           .n_head = 4,
                           .dim_ffn = 896,
                           .lora_mix = 32,
                           .lora_decay = 64,
                           .head_size_divisor = 8};
}

static rw_plan plan_of(int64_t micro_bsz, int64_t batch_size) {
    rw_plan p = {.device = RW_ON_CUDA, .threads = 1, .recipe_path = "r.yaml", .model = shape()};
    p.train.micro_bsz = micro_bsz;
    p.train.accumulate = batch_size > 0 ? batch_size / micro_bsz : 1;
    p.train.batch_size = batch_size;
    p.train.epoch_steps = p.train.epoch_count = 1;
    p.train.beta1 = 0.9;
    p.train.beta2 = 0.99;
    p.train.compute = RW_BF16;
    p.train.precision = RW_PRECISION_BF16;
    p.data.ctx_len = 256;
    rw_plan_share_sizes(&p);
    return p;
}

/* The CPU's queries, a GPU's number type and memory. */
typedef struct {
    rw_device *cpu;
    rw_device gpu;
} fixture;

static int set_up(void **state) {
    static fixture f;
    rw_error err = {0};
    assert_int_equal(rw_device_open_cpu(&f.cpu, RW_F32, 1, &err), RW_OK);
    f.gpu = *f.cpu;
    f.gpu.kind = RW_DEVICE_CUDA;
    f.gpu.compute = RW_BF16;
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    rw_device_close(((fixture *)*state)->cpu);
    return 0;
}

static int64_t bytes_of(rw_plan p, const fixture *f, rw_optim_form_choice form, rw_checkpoint_choice level,
                        int64_t micro_bsz) {
    rw_error err = {0};
    int64_t n_bytes = 0;
    p.train.optim_form = form;
    p.train.checkpoint = level;
    p.train.micro_bsz = micro_bsz;
    if (p.train.batch_size) p.train.accumulate = p.train.batch_size / micro_bsz;
    p.train.head_chunk = rw_plan_head_chunk(&p);
    rw_plan_share_sizes(&p);
    assert_int_equal(rw_plan_device_bytes(&p, &f->gpu, &n_bytes, &err), RW_OK);
    assert_true(n_bytes > 0);
    return n_bytes;
}

static void decide(rw_plan *p, fixture *f, int64_t memory) {
    static const rw_recipe none;
    static const rw_saved_run nothing;
    rw_error err = {0};
    f->gpu.memory_bytes = memory;
    if (rw_plan_decide_memory(p, &none, &nothing, &f->gpu, &err) != RW_OK) fail_msg("%s", err.msg);
}

static void forms_in_order(void **state) {
    fixture *f = *state;
    rw_plan p = plan_of(4, 0);
    const int64_t a16 = bytes_of(p, f, RW_FORM_A16, RW_CHECKPOINT_NONE, 4);
    const int64_t b12 = bytes_of(p, f, RW_FORM_B12, RW_CHECKPOINT_NONE, 4);
    const int64_t b8 = bytes_of(p, f, RW_FORM_B8, RW_CHECKPOINT_NONE, 4);
    assert_true(a16 > b12 && b12 > b8);
    decide(&p, f, a16);
    assert_int_equal(p.train.optim_form, RW_FORM_A16);
    p = plan_of(4, 0);
    decide(&p, f, a16 - 1);
    assert_int_equal(p.train.optim_form, RW_FORM_B12);
    p = plan_of(4, 0);
    decide(&p, f, b12 - 1);
    assert_int_equal(p.train.optim_form, RW_FORM_B8);
    p = plan_of(4, 0);
    p.device_memory = b12;
    decide(&p, f, a16);
    assert_int_equal(p.train.optim_form, RW_FORM_B12); /* the recipe's own limit */
}

static void levels_before_forms(void **state) {
    fixture *f = *state;
    rw_plan p = plan_of(4, 0);
    p.train.checkpoint = RW_CHECKPOINT_AUTO;
    decide(&p, f, bytes_of(p, f, RW_FORM_A16, RW_CHECKPOINT_NONE, 4) - 1);
    assert_int_equal(p.train.optim_form, RW_FORM_A16);
    assert_int_equal(p.train.checkpoint, RW_CHECKPOINT_MIX);
}

static void largest_micro_batch(void **state) {
    fixture *f = *state;
    rw_plan p = plan_of(64, 64);
    p.train.choose_micro_bsz = true;
    decide(&p, f, bytes_of(p, f, RW_FORM_A16, RW_CHECKPOINT_NONE, 32));
    assert_int_equal(p.train.micro_bsz, 32);
    assert_int_equal(p.train.accumulate, 2);
    assert_int_equal(p.data.rows_per_batch, 32);
    assert_int_equal(p.train.optim_form, RW_FORM_A16);
}

/* A saved run's choices are used again though more would fit. */
static void as_the_saved_run(void **state) {
    fixture *f = *state;
    static const rw_recipe none;
    const rw_pair choices[] = {{"optim_form", "b8"}, {"checkpoint", "ffn"}};
    const rw_saved_run saved = {.choices = {2, choices}};
    rw_plan p = plan_of(4, 0);
    rw_error err = {0};
    p.train.checkpoint = RW_CHECKPOINT_AUTO;
    f->gpu.memory_bytes = (int64_t)1 << 40;
    assert_int_equal(rw_plan_decide_memory(&p, &none, &saved, &f->gpu, &err), RW_OK);
    assert_int_equal(p.train.optim_form, RW_FORM_B8);
    assert_int_equal(p.train.checkpoint, RW_CHECKPOINT_FFN);
}

static void what_would_fit(void **state) {
    fixture *f = *state;
    rw_error err = {0};
    rw_plan p = plan_of(16, 0);
    p.train.optim_form = RW_FORM_A16;
    rw_plan twice = plan_of(16, 16); /* sums over two micro batches have wide gradients */
    const int64_t half = bytes_of(twice, f, RW_FORM_A16, RW_CHECKPOINT_NONE, 8);
    decide(&p, f, half);
    assert_int_equal(rw_plan_device_bytes(&p, &f->gpu, &p.needs.bytes[RW_MEMORY_DEVICE], &err), RW_OK);
    assert_int_equal(rw_plan_fits(&p, &f->gpu, &err), RW_E_RECIPE);
    assert_non_null(strstr(err.msg, "the GPU is too small"));
    assert_non_null(strstr(err.detail, "train.checkpoint=none train.micro_bsz=8 train.accumulate=2"));
    rw_error_clear(&err);
    p = plan_of(1, 0);
    p.train.optim_form = RW_FORM_B8;
    p.train.checkpoint = RW_CHECKPOINT_BLOCK;
    decide(&p, f, 4096);
    p.needs.bytes[RW_MEMORY_DEVICE] = half;
    assert_int_equal(rw_plan_fits(&p, &f->gpu, &err), RW_E_RECIPE);
    assert_non_null(strstr(err.msg, "No form, checkpoint or micro_bsz"));
    rw_error_clear(&err);
}

static void forms_that_do_not_suit(void **state) {
    fixture *f = *state;
    static const rw_recipe none;
    static const rw_saved_run nothing;
    rw_error err = {0};
    rw_plan p = plan_of(4, 0);
    p.train.optim_form = RW_FORM_FP32;
    assert_int_equal(rw_plan_decide_memory(&p, &none, &nothing, &f->gpu, &err), RW_E_RECIPE);
    rw_error_clear(&err);
    p = plan_of(4, 0);
    p.train.compute = RW_F16;
    p.train.optim_form = RW_FORM_B8;
    assert_int_equal(rw_plan_decide_memory(&p, &none, &nothing, &f->gpu, &err), RW_E_RECIPE);
    rw_error_clear(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_in_order),      cmocka_unit_test(levels_before_forms),
        cmocka_unit_test(largest_micro_batch), cmocka_unit_test(as_the_saved_run),
        cmocka_unit_test(what_would_fit),      cmocka_unit_test(forms_that_do_not_suit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
