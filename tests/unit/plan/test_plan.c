/* The plan: what it refuses and how it says so, the chunk of the head, and its figures against a real engine, to the
 * byte, for many shapes. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/checkpoint/weights.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"
#include "tests/unit/golden.h"

#include <stdio.h>
#include <string.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status != RW_OK) fail_msg("%s", text);
}

#define SMALL "arch: x060, n_layer: 2, n_embd: 64, head_size: 32"

/* -- making a plan ------------------------------------------------------------------------------------------------ */

typedef struct {
    rw_recipe recipe;
    rw_arena arena;
    rw_plan plan;
    rw_device *device;
    char text[2048], error[4096];
} fixture;

static rw_status make_sized(fixture *f, const char *model, const char *more, int ctx_len, const rw_saved_run *saved) {
    rw_error err = {0};
    memset(f, 0, sizeof *f);
    int n = snprintf(f->text, sizeof f->text,
                     "name: plan\ndevice: cpu\nmodel: { %s }\n"
                     "data: { data_type: jsonl, data_file: '%s', tokenizer: byte, ctx_len: %d }\n"
                     "train: { micro_bsz: 2, epoch_steps: 3, precision: fp32%s }\nsave: { proj_dir: '%s' }\n",
                     model, rw_source_path("tests/cli/data.jsonl"), ctx_len, more, rw_test_path("out"));
    rw_recipe_options options = {.path = "plan.yaml", .trust = true, .text = f->text, .n_text = (size_t)n};
    rw_status status = rw_recipe_load(&f->recipe, &options, &err);
    const rw_plan *made = NULL;
    if (status == RW_OK) status = rw_plan_make(&made, &f->recipe, saved, &f->arena, &f->device, &err);
    if (made) f->plan = *made; /* a copy that tests may change */
    if (status != RW_OK) {
        size_t at = rw_error_format(&err, f->error, sizeof f->error);
        if (at < sizeof f->error) snprintf(f->error + at, sizeof f->error - at, "\n%s", err.detail ? err.detail : "");
        rw_error_clear(&err);
    }
    return status;
}

static rw_status make(fixture *f, const char *model, const char *more) {
    return make_sized(f, model, more, 16, NULL);
}

static void done(fixture *f) {
    rw_device_close(f->device);
    rw_arena_done(&f->arena);
    rw_recipe_done(&f->recipe);
}

static void refused(const char *model, const char *message) {
    fixture f;
    int64_t live = rw_alloc_live();
    assert_int_equal(make(&f, model, ""), RW_E_RECIPE);
    if (!strstr(f.error, message)) fail_msg("'%s' is not in '%s'", message, f.error);
    assert_null(f.device);
    done(&f);
    assert_int_equal(rw_alloc_live(), live);
}

/* A .pth of x060 with two layers of 64 channels. */
static const char *small_model(void) {
    static char path[1024];
    if (path[0]) return path;
    rw_error err = {0};
    fixture f;
    rw_engine e;
    snprintf(path, sizeof path, "%s", rw_test_path("small.pth"));
    must(make(&f, SMALL, ""), &err);
    must(rw_engine_open(&e, &f.plan, f.device, false, &err), &err);
    must(rw_model_init(e.model, 1, &err), &err);
    must(rw_weights_save_pth(e.model->params, path, RW_BF16, &err), &err);
    rw_engine_close(&e);
    done(&f);
    return path;
}

static const char *name_of(int i) {
    return rw_arch_at(i) ? rw_arch_at(i)->name : NULL;
}

/* A .pth of the architecture with two layers of 64 channels, and what it holds. */
static rw_plan_model model_of(const char *arch, const char *path) {
    rw_error err = {0};
    fixture f;
    rw_engine e;
    char model[200];
    snprintf(model, sizeof model, "arch: %s, n_layer: 2, n_embd: 64, head_size: 32", arch);
    must(make(&f, model, ""), &err);
    must(rw_engine_open(&e, &f.plan, f.device, false, &err), &err);
    must(rw_model_init(e.model, 1, &err), &err);
    must(rw_weights_save_pth(e.model->params, path, RW_BF16, &err), &err);
    rw_plan_model shape = f.plan.model;
    rw_engine_close(&e);
    done(&f);
    return shape;
}

/* load_model alone is enough; what the recipe says beside it is checked, and every wrong statement is told at once. */
static void five_wrong_statements(const char *arch, const char *other) {
    char path[600], model[1200], message[1400];
    snprintf(path, sizeof path, "%s-%s.pth", rw_test_path("wrong"), arch);
    rw_plan_model is = model_of(arch, path);
    fixture f;
    rw_error err = {0};
    snprintf(model, sizeof model, "load_model: '%s'", path);
    must(make(&f, model, ""), &err);
    assert_string_equal(f.plan.model.arch, arch);
    for (int d = 0; d < RW_DIM_COUNT; d++) assert_int_equal(f.plan.model.dim[d], is.dim[d]);
    done(&f);
    const struct {
        const char *key;
        int64_t says, found;
    } rows[] = {{"n_layer", 3, is.n_layer},
                {"n_embd", 128, is.n_embd},
                {"vocab_size", 300, is.vocab_size},
                {"head_size", 64, is.head_size},
                {"dim_ffn", 512, is.dim_ffn}};
    int n = snprintf(model, sizeof model, "load_model: '%s', arch: %s", path, other);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        n += snprintf(model + n, sizeof model - (size_t)n, ", %s: %lld", rows[i].key, (long long)rows[i].says);
    assert_int_equal(make(&f, model, ""), RW_E_RECIPE);
    done(&f);
    snprintf(message, sizeof message, "model.arch: the recipe says %s, but %s is %s; leave this key out", other, path,
             arch);
    if (!strstr(f.error, message)) fail_msg("'%s' is not in '%s'", message, f.error);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(message, sizeof message, "model.%s: the recipe says %lld, but %s has %lld; leave this key out",
                 rows[i].key, (long long)rows[i].says, path, (long long)rows[i].found);
        if (!strstr(f.error, message)) fail_msg("'%s' is not in '%s'", message, f.error);
    }
}

/* What a recipe alone can tell is refused by core/recipe (tests/cli/bad); here the file has the last word. */
static void refuses(void **state) {
    (void)state;
    for (int i = 0; rw_arch_at(i); i++) five_wrong_statements(name_of(i), name_of(i ? 0 : 1));
    char model[2048], message[2048];
    snprintf(model, sizeof model, "load_model: '%s', head_qk: 16", small_model());
    snprintf(message, sizeof message, "model.head_qk: the recipe says 16, but %s has 0; leave this key out",
             small_model());
    refused(model, message);
}

/* A file that lacks a block and the head, and has a tensor too many: initial values, and the rest as it is. */
static void partial(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    char model[2048];
    snprintf(model, sizeof model, "load_model: '%s', n_layer: 3", small_model());
    refused(model, "model.n_layer: the recipe says 3, but ");
    snprintf(model, sizeof model, "load_model: '%s', load_partial: true, n_layer: 3, head_qk: 8", small_model());
    must(make(&f, model, ""), &err);
    assert_int_equal(f.plan.model.n_layer, 3);
    assert_int_equal(f.plan.model.head_qk, 8);
    assert_int_equal(f.plan.model.dim_ffn, 224);
    done(&f);
    snprintf(model, sizeof model, "load_model: '%s', load_partial: true, n_embd: 128", small_model());
    refused(model, "model.n_embd: the recipe says 128, but ");
}

static void from_a_file(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    char model[2048];
    snprintf(model, sizeof model, "load_model: '%s', n_layer: 2", small_model());
    must(make(&f, model, ""), &err);
    const rw_plan_model *m = &f.plan.model;
    assert_int_equal(m->n_embd, 64);
    assert_int_equal(m->head_size, 32);
    assert_int_equal(m->n_head, 2);
    assert_int_equal(m->vocab_size, 257);
    assert_int_equal(m->lora_mix, 32);
    assert_int_equal(m->lora_decay, 64);
    assert_int_equal(f.plan.save.dtype, RW_BF16); /* as loaded */
    assert_int_equal(f.plan.train.compute, RW_F32);
    done(&f);
}

/* No file says it: the recipe's counts with a checkpoint too. */
static void head_size_divisor(void **state) {
    (void)state;
    static const char *const given[] = {"", ", head_size_divisor: 4"};
    for (int i = 0; i < 4; i++) {
        rw_error err = {0};
        fixture f;
        char model[2048];
        if (i < 2)
            snprintf(model, sizeof model, "load_model: '%s'%s", small_model(), given[i % 2]);
        else
            snprintf(model, sizeof model, "arch: x060, n_layer: 2, n_embd: 64%s", given[i % 2]);
        must(make(&f, model, ""), &err);
        assert_true(f.plan.model.head_size_divisor == (i % 2 ? 4 : 8));
        done(&f);
    }
}

/* What the recipe leaves open and what sections share, decided; the effective recipe says so. */
static void from_scratch(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    must(make(&f, "arch: x060, n_layer: 2, n_embd: 64", ", epoch_count: 2, accumulate: 3, random_seed: 9"), &err);
    const rw_plan *p = &f.plan;
    assert_int_equal(p->model.head_size, 64);
    assert_int_equal(p->model.vocab_size, 257); /* the byte tokenizer's */
    assert_int_equal(p->data.vocab_size, 257);
    assert_int_equal(p->model.dim_ffn, 224);
    assert_int_equal(p->data.rows_per_batch, 2);
    assert_int_equal(p->data.accumulate, 3);
    assert_int_equal(p->data.seed, 9);
    assert_int_equal(p->train.ctx_len, 16);
    assert_int_equal(p->train.n_steps, 6);
    assert_int_equal(p->data.n_tokens, -1);
    rw_str text = {0};
    rw_recipe_print(&f.recipe, p, &text);
    if (!strstr(text.data, "  head_size: 64 ") || !strstr(text.data, "# chosen by the plan")) fail_msg("%s", text.data);
    rw_str_done(&text);
    done(&f);
}

/* -- resuming ---------------------------------------------------------------------------------------------------------
 */

/* A saved run as this plan would leave it, with one choice changed. */
static rw_saved_run left_by(const fixture *f, const char *name, const char *value, rw_pair choices[16]) {
    static char path[] = "state-7.safetensors";
    rw_saved_run run = {.path = path, .keys = f->plan.keys, .choices = {f->plan.choices.n, choices}};
    for (int i = 0; i < run.choices.n; i++) {
        choices[i] = f->plan.choices.at[i];
        if (strcmp(choices[i].name, name) == 0) choices[i].value = value;
    }
    return run;
}

static void takes_over(void **state) {
    (void)state;
    rw_error err = {0};
    fixture first, f;
    rw_pair choices[16];
    must(make(&first, SMALL, ""), &err);
    assert_int_equal(first.plan.train.head_chunk, 32);
    rw_saved_run run = left_by(&first, "threads", "3", choices);
    must(make_sized(&f, SMALL, "", 16, &run), &err);
    assert_int_equal(f.plan.threads, 3);
    assert_int_equal(f.device->exec.threads, 3); /* opened so, not changed later */
    done(&f);
    run = left_by(&first, "threads", "-5", choices);
    must(make_sized(&f, SMALL, "", 16, &run), &err);
    assert_int_equal(f.plan.threads, first.plan.threads);
    done(&f);
    /* saying what was decided is no difference */
    must(make_sized(&f, SMALL ", vocab_size: 257, pre_ffn: 0", ", head_chunk: 32", 16, &run), &err);
    done(&f);
    done(&first);
}

static rw_plan_difference compare(const fixture *f, const rw_saved_run *run) {
    rw_error err = {0};
    rw_plan_difference d;
    must(rw_plan_compare(&f->plan, run, &d, &err), &err);
    return d;
}

static void compares_with_another_run(void **state) {
    (void)state;
    rw_error err = {0};
    fixture first, f;
    rw_pair choices[16];
    must(make(&first, SMALL, ""), &err);
    rw_saved_run run = left_by(&first, "none", "", choices);
    must(make_sized(&f, SMALL, ", head_chunk: 16, lr_init: 1", 16, &run), &err);
    rw_plan_difference d = compare(&f, &run);
    assert_string_equal(d.text.data, "train.lr_init: was 6e-4, now 1\ntrain.head_chunk: was 32, now 16\n");
    assert_true(d.keys == 2 && d.choices == 0 && !d.tensors);
    rw_str_done(&d.text);
    done(&f);
    must(make_sized(&f, SMALL ", dim_ffn: 64", "", 16, &run), &err);
    d = compare(&f, &run);
    assert_true(d.keys == 1 && d.tensors);
    rw_str_done(&d.text);
    run = left_by(&first, "cpu_kernels", "OpenBLAS Other", choices);
    d = compare(&first, &run);
    assert_true(d.keys == 0 && d.choices == 1);
    assert_non_null(strstr(d.text.data, "cpu_kernels: was OpenBLAS Other, now "));
    rw_str_done(&d.text);
    run.path = NULL;
    d = compare(&first, &run);
    assert_true(d.keys + d.choices == 0);
    done(&f);
    done(&first);
}

/* The sizes of the files that a save writes, exact but for the metadata of the state. */
static void size_of_files(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    rw_engine e;
    rw_file file;
    must(make(&f, SMALL, ""), &err);
    must(rw_engine_open(&e, &f.plan, f.device, false, &err), &err);
    const char *path = rw_test_path("rwkv-final.pth");
    must(rw_weights_save_pth(e.model->params, path, f.plan.save.dtype, &err), &err);
    must(rw_file_open(&file, path, &err), &err);
    assert_int_equal(file.n_bytes, f.plan.needs.pth_bytes);
    rw_file_close(&file);
    assert_true(f.plan.needs.state_bytes > 3 * 4 * f.plan.needs.n_params);
    rw_engine_close(&e);
    done(&f);
}

/* -- the chunk of the head
 * --------------------------------------------------------------------------------------------- */

/* At most 128 MiB of logits, in multiples of 64 rows, all chunks about equal; a few rows are one chunk. */
static void head_chunk(void **state) {
    (void)state;
    static const struct {
        const char *more;
        int64_t vocab, ctx_len, want; /* of 2 * ctx_len rows */
    } rows[] = {{"", 257, 16, 32},      {", head_chunk: 5", 257, 16, 5}, {"", 65536, 256, 512},  {"", 65536, 257, 320},
                {"", 65536, 1024, 512}, {"", 65536, 513, 384},           {"", 1000000, 100, 64}, {"", 257, 4096, 8192}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fixture f;
        char text[256];
        snprintf(text, sizeof text, "arch: x060, n_layer: 2, n_embd: 32, head_size: 32, vocab_size: %lld",
                 (long long)rows[i].vocab);
        rw_status status = make_sized(&f, text, rows[i].more, (int)rows[i].ctx_len, NULL);
        if (status != RW_OK) fail_msg("%s", f.error);
        if (f.plan.train.head_chunk != rows[i].want)
            fail_msg("%lld rows of %lld: chunk %lld, expected %lld", (long long)(2 * rows[i].ctx_len),
                     (long long)rows[i].vocab, (long long)f.plan.train.head_chunk, (long long)rows[i].want);
        done(&f);
    }
}

/* -- figures against a real engine
 * ----------------------------------------------------------------------------------------- */

typedef struct {
    int64_t L, C, N, V, B, T, chunk;
    rw_checkpoint_choice checkpoint;
    int threads;
    rw_dtype compute;
    rw_optim_form_choice form;
    int64_t accumulate;
} shape_row;

#define KEEP  RW_CHECKPOINT_NONE
#define MIX   RW_CHECKPOINT_MIX
#define FFN   RW_CHECKPOINT_FFN
#define BLOCK RW_CHECKPOINT_BLOCK
static const shape_row shapes[] = {{2, 64, 32, 257, 3, 17, 0, KEEP, 1, RW_F32, RW_FORM_FP32, 1},
                                   {2, 64, 32, 257, 3, 17, 0, BLOCK, 1, RW_F32, RW_FORM_A16, 1},
                                   {3, 64, 64, 257, 1, 1, 0, MIX, 1, RW_F32, RW_FORM_B12, 1},
                                   {3, 128, 64, 1000, 2, 40, 7, BLOCK, 2, RW_F32, RW_FORM_B8, 1},
                                   {2, 128, 128, 300, 4, 33, 50, FFN, 2, RW_F32, RW_FORM_B8, 2},
                                   {2, 32, 32, 65536, 1, 16, 0, KEEP, 2, RW_F32, RW_FORM_A16, 2},
                                   {2, 32, 32, 65536, 2, 24, 16, BLOCK, 1, RW_F32, RW_FORM_FP32, 1},
                                   {2, 64, 32, 99, 2, 200, 0, FFN, 3, RW_F64, RW_FORM_AUTO, 1},
                                   {5, 32, 32, 50, 1, 130, 64, KEEP, 1, RW_F32, RW_FORM_B12, 2}};

static rw_plan plan_of(const shape_row *s, const rw_arch *arch) {
    rw_plan p = {.name = "shape", .threads = s->threads, .device = RW_ON_CPU};
    p.model = (rw_plan_model){.arch = arch->name, .n_layer = s->L, .n_embd = s->C, .vocab_size = s->V};
    p.model.head_size = s->N;
    p.model.head_size_divisor = 8;
    p.model.init = RW_INIT_TUTORIAL;
    rw_arch_default_shape(arch, &p.model);
    p.train = (rw_plan_train){.micro_bsz = s->B,
                              .ctx_len = s->T,
                              .accumulate = s->accumulate,
                              .optim_form = s->form,
                              .epoch_steps = 1,
                              .epoch_count = 1,
                              .n_steps = 1,
                              .beta1 = 0.9,
                              .beta2 = 0.99,
                              .adam_eps = 1e-8,
                              .grad_clip = 1,
                              .checkpoint = s->checkpoint,
                              .compute = s->compute,
                              .l2wrap = RW_L2WRAP_V7,
                              .loss_norm = RW_LOSS_NORM_STEP,
                              .head_chunk = s->chunk ? s->chunk : s->B * s->T};
    p.data.max_seq = s->B;
    p.save.dtype = RW_F32;
    return p;
}

static void steps_of(rw_engine *e, const shape_row *s) {
    rw_error err = {0};
    int64_t R = s->B * s->T;
    int32_t *tokens = rw_alloc_array((size_t)R, sizeof *tokens), *borders = rw_alloc_array((size_t)s->B + 1, 4);
    float *mask = rw_alloc_array((size_t)R, sizeof *mask);
    for (int64_t i = 0; i < R; i++) {
        tokens[i] = (int32_t)(i * 31 % s->V);
        mask[i] = 1;
    }
    for (int64_t i = 0; i <= s->B; i++) borders[i] = (int32_t)(i * s->T);
    rw_batch b = {.n_rows = R, .n_seq = s->B, .tokens = tokens, .targets = tokens, .mask = mask, .cu_seqlens = borders};
    b.mask_sum = (double)R;
    must(rw_model_init(e->model, 1, &err), &err);
    for (int step = 0; step < 2; step++) {
        double loss;
        rw_engine_begin_step(e, step, 1e-3, 0, b.mask_sum);
        must(rw_engine_micro_step(e, &b, &loss, &err), &err);
        assert_true(loss > 0);
        must(rw_engine_update(e, &err), &err);
        rw_device_scalars report;
        must(rw_engine_collect(e, true, &report, &err), &err);
        assert_true(report.step == step + 1 && report.updates == step + 1 && report.grad_norm > 0);
        must(rw_engine_evaluate(e, &b, &loss, &err), &err);
    }
    rw_free(tokens);
    rw_free(borders);
    rw_free(mask);
}

static int64_t part_of(const rw_plan_needs *n, const char *name) {
    for (int i = 0; i < n->n_parts; i++)
        if (strcmp(n->parts[i].name, name) == 0) return n->parts[i].n_bytes;
    return 0;
}

/* What the form takes, against the buffers that are really there, and by hand. */
static void check_form(const rw_plan_needs *n, const rw_params *p, const shape_row *s) {
    int64_t matrices = p->layout.n_trainable[RW_MATRIX], vectors = p->layout.n_trainable[RW_VECTOR];
    int64_t wide = rw_dtype_bytes(s->compute),
            moments = rw_params_bytes(p, RW_PARAM_M) + rw_params_bytes(p, RW_PARAM_V);
    int64_t master = s->form == RW_FORM_A16 ? wide * matrices : 0, each = s->form == RW_FORM_B8 ? 2 : wide;
    assert_int_equal(part_of(n, "parameters"), rw_params_bytes(p, RW_PARAM_VALUE));
    assert_int_equal(part_of(n, "gradients"), rw_params_bytes(p, RW_PARAM_GRAD));
    assert_int_equal(part_of(n, "master weights"), rw_params_bytes(p, RW_PARAM_MASTER));
    assert_int_equal(part_of(n, "Adam moments"), moments);
    assert_int_equal(part_of(n, "parameters"), wide * (matrices + vectors));
    assert_int_equal(part_of(n, "master weights"), master);
    assert_int_equal(moments, 2 * (each * matrices + wide * vectors));
    assert_int_equal(n->param_bytes, 2 * wide * (matrices + vectors) + master + moments);
}

static void check_needs(const rw_plan_needs *n, const rw_engine *e) {
    int64_t sum = 0;
    assert_int_equal(e->arena.high_water, n->arena_bytes);
    assert_int_equal(e->device->live_bytes, n->engine_bytes);
    assert_int_equal(e->device->peak_bytes, n->engine_bytes);
    for (int k = 0; k < n->n_parts; k++) sum += n->parts[k].ours ? n->parts[k].n_bytes : 0;
    assert_int_equal(sum, n->engine_bytes);
    assert_int_equal(sum, n->bytes[RW_MEMORY_DEVICE]); /* no loaders here, and a CPU takes nothing itself */
}

/* Returns the bytes of the arena. */
static int64_t figure(const shape_row *s, const rw_arch *arch) {
    rw_error err = {0};
    rw_plan p = plan_of(s, arch);
    rw_device *d;
    rw_engine e;
    must(rw_device_open_cpu(&d, s->compute, s->threads, &err), &err);
    int64_t calls = rw_alloc_live();
    must(rw_plan_measure(&p, d, &p.needs, &err), &err);
    assert_int_equal(rw_alloc_live(), calls);
    assert_int_equal(d->live_bytes, 0); /* measuring takes nothing */
    const rw_step_scalars *scalars = d->exec.scalars;
    const rw_device_scalars *own = d->exec.own;
    must(rw_engine_open(&e, &p, d, true, &err), &err);
    steps_of(&e, s);
    print_message("  %s L%lld C%lld N%lld V%lld B%lld T%lld %s %s, checkpoint %s: %lld bytes, arena %lld\n", arch->name,
                  (long long)s->L, (long long)s->C, (long long)s->N, (long long)s->V, (long long)s->B, (long long)s->T,
                  rw_dtype_name(s->compute), rw_choice_word(RW_KEY_train_optim_form, s->form),
                  rw_choice_word(RW_KEY_train_checkpoint, s->checkpoint), (long long)p.needs.engine_bytes,
                  (long long)p.needs.arena_bytes);
    check_needs(&p.needs, &e);
    check_form(&p.needs, e.model->params, s);
    rw_engine_close(&e);
    assert_int_equal(d->live_bytes, 0);
    assert_ptr_equal(d->exec.scalars, scalars);
    assert_ptr_equal(d->exec.own, own);
    rw_device_close(d);
    return p.needs.arena_bytes;
}

static void figures(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) figure(&shapes[i], &rw_arch_x060);
}

/* Each takes less than the one before it. */
static void every_level(void **state) {
    (void)state;
    for (int i = 0; rw_arch_at(i); i++) {
        shape_row row = {4, 64, 32, 99, 3, 50, 0, KEEP, 1, RW_F32, RW_FORM_FP32, 1};
        int64_t before = INT64_MAX;
        for (int level = KEEP; level <= BLOCK; level++) {
            row.checkpoint = level;
            int64_t bytes = figure(&row, rw_arch_at(i));
            assert_true(bytes < before);
            before = bytes;
        }
    }
}

/* One unit less in the arena, and the step says so; nothing else happens. */
static void one_unit_less(void **state) {
    (void)state;
    rw_error err = {0};
    rw_plan p = plan_of(&shapes[0], &rw_arch_x060);
    rw_device *d;
    rw_engine e;
    must(rw_device_open_cpu(&d, RW_F32, 1, &err), &err);
    must(rw_plan_measure(&p, d, &p.needs, &err), &err);
    p.needs.arena_bytes -= RW_ARENA_ALIGN;
    must(rw_engine_open(&e, &p, d, true, &err), &err);
    static const int32_t tokens[64], borders[] = {0, 17, 34, 51};
    static const float mask[64] = {1};
    rw_batch b = {.n_rows = 51, .n_seq = 3, .tokens = tokens, .targets = tokens, .mask = mask, .cu_seqlens = borders};
    double loss;
    rw_engine_begin_step(&e, 0, 1e-3, 0, 1);
    assert_int_equal(rw_engine_micro_step(&e, &b, &loss, &err), RW_E_MEMORY);
    assert_non_null(strstr(err.msg, "the step arena of"));
    assert_int_equal(e.arena.live, 0);
    rw_engine_close(&e);
    rw_device_close(d);
}

/* -- in words
 * -------------------------------------------------------------------------------------------------------------- */

static void printed(void **state) {
    (void)state;
    rw_error err = {0};
    fixture f;
    must(make(&f, SMALL, ""), &err);
    rw_str text = {0};
    rw_plan_print(&f.plan, &text);
    assert_null(strstr(text.data, "GPU"));
    static const char *const parts[] = {"plan of plan\n",
                                        ("x060, 199,040 parameters: n_layer 2, n_embd 64, vocab_size 257, n_head 2, "
                                         "head_size 32, dim_ffn 224, lora_mix 32, lora_decay 64\n"),
                                        "initial values",
                                        "counted when it is read",
                                        "3 (epochs: 1 of 3 steps); 32 tokens a step, 96 in total",
                                        "micro_bsz 2 x ctx_len 16 x accumulate 1",
                                        "fp32: weights, gradients and moments in fp32; 16.",
                                        "none: all activations are kept",
                                        "cpu: OpenBLAS ",
                                        "computes in fp32",
                                        "each save",
                                        "memory\n",
                                        "parameters",
                                        "gradients",
                                        "Adam moments",
                                        "activations (step arena)",
                                        "libraries and threads",
                                        "engine, total",
                                        "process, roughly"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text.data, parts[i])) fail_msg("'%s' is not in the plan:\n%s", parts[i], text.data);
    assert_null(strstr(text.data, "WARNING"));
    rw_str_clear(&text);
    rw_plan gpu = f.plan;
    gpu.device = RW_ON_CUDA;
    gpu.needs.bytes[RW_MEMORY_DEVICE] = INT64_MAX / 2; /* of the GPU, not of this machine */
    rw_plan_print(&gpu, &text);
    assert_null(strstr(text.data, "WARNING"));
    assert_non_null(strstr(text.data, "GPU, total"));
    rw_str_clear(&text);
    f.plan.needs.disk_free = 1000;
    f.plan.needs.bytes[RW_MEMORY_HOST] = INT64_MAX / 2;
    rw_plan_print(&f.plan, &text);
    assert_non_null(strstr(text.data, "WARNING: the disk has no room for one save of "));
    assert_non_null(strstr(text.data, "lower train.micro_bsz or data.ctx_len, or set train.checkpoint"));
    rw_str_done(&text);

    const rw_pairs *choices = &f.plan.choices;
    assert_true(choices->n >= 5);
    must(rw_mkdir_all(f.plan.save.proj_dir, &err), &err);
    must(rw_plan_write(&f.plan, &f.recipe, "library 1\na product\n", &err), &err);
    char *yaml, row[2200];
    int64_t size;
    must(rw_file_slurp(rw_test_path("out/plan.yaml"), 1 << 20, &yaml, &size, &err), &err);
    for (int i = 0; i < choices->n; i++) {
        snprintf(row, sizeof row, "  %s: \"%s\"\n", choices->at[i].name, choices->at[i].value);
        if (!strstr(yaml, row)) fail_msg("%s is not in plan.yaml", row);
    }
    assert_non_null(strstr(yaml, "\ndevice_choices: |\n  library 1\n  a product\n"));
    rw_free(yaml);
    done(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(refuses),
                                       cmocka_unit_test(partial),
                                       cmocka_unit_test(from_a_file),
                                       cmocka_unit_test(head_size_divisor),
                                       cmocka_unit_test(from_scratch),
                                       cmocka_unit_test(takes_over),
                                       cmocka_unit_test(compares_with_another_run),
                                       cmocka_unit_test(size_of_files),
                                       cmocka_unit_test(head_chunk),
                                       cmocka_unit_test(figures),
                                       cmocka_unit_test(every_level),
                                       cmocka_unit_test(one_unit_less),
                                       cmocka_unit_test(printed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
