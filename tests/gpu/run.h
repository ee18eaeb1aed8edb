/* A run for tests, from a recipe: plan, device, engine, batches. On the first GPU; with RWKV_TEST_DEVICE=cpu a CPU
 * stands in that queues its work and records graphs as a GPU does (lazy_device.h), so that the tests themselves can be
 * tried anywhere. Without a GPU they are skipped and say why.
 *
 *     open_run(&r, &(run_of){.arch = "x060", .precision = "bf16"});
 *     fresh(&r);                      initial values
 *     steps(&r, 0, 50, reports);      batches depend on the step alone
 *     close_run(&r); */
#ifndef RW_TESTS_GPU_RUN_H
#define RW_TESTS_GPU_RUN_H

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
#include "kernels/cuda/cuda.h"
#include "tests/unit/engine/lazy_device.h"
#include "tests/unit/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void must(rw_status status, const rw_error *err) {
    char text[2048];
    if (status == RW_OK) return;
    rw_error_format(err, text, sizeof text);
    fail_msg("%s", text);
}

static inline bool on_cpu(void) {
    const char *device = getenv("RWKV_TEST_DEVICE");
    return device && strcmp(device, "cpu") == 0;
}

static inline const rw_cuda_facts *gpus(void) {
    static rw_cuda_facts facts;
    rw_cuda_look(&facts);
    return &facts;
}

/* In every test first. */
static inline void need_gpu(void) {
    if (on_cpu() || !gpus()->why[0]) return;
    printf("skipped: %s\n", gpus()->why);
    skip();
}

/* A CPU imitates it. */
static inline bool has_bf16(void) {
    return on_cpu() || gpus()->gpus[0].bf16;
}

/* -- a run ---------------------------------------------------------------------------------------------------- */

/* Whole numbers 0 and texts NULL stand for what is on the right. */
typedef struct {
    const char *arch;
    int n_layer, n_embd, head_size;       /* 3, 128, 32                              */
    int ctx_len, micro_bsz, accumulate;   /* 48, 2, 1                                 */
    const char *precision, *form, *level; /* fp32, auto, none                         */
    const char *graph;                    /* on                                       */
    const char *train;                    /* more keys of train, behind a comma; none */
    const char *folder;                   /* name of save.proj_dir; "out"             */
    bool plain_cpu;                       /* the CPU as it is, whatever is tested     */
} run_of;

typedef struct {
    run_of of;
    rw_recipe recipe; /* borrows text */
    rw_arena arena;
    rw_plan plan;
    rw_device *device; /* as the plan opened it                 */
    lazy_device lazy;  /* around it, where it stands in for a GPU */
    rw_device *on;     /* where the engine is                   */
    rw_engine e;
    char text[2048];
} run;

static inline int or_number(int x, int otherwise) {
    return x ? x : otherwise;
}
static inline const char *or_text(const char *x, const char *otherwise) {
    return x ? x : otherwise;
}

static inline bool gpu_of(const run_of *o) {
    return !o->plain_cpu && !on_cpu();
}

static inline int recipe_text(run *r) {
    const run_of *o = &r->of;
    return snprintf(
        r->text, sizeof r->text,
        "name: runs\ndevice: %s\nmodel: { arch: %s, n_layer: %d, n_embd: %d, head_size: %d }\n"
        "data: { data_type: jsonl, data_file: '%s', valid_file: '%s', tokenizer: byte, ctx_len: %d }\n"
        "train: { micro_bsz: %d, accumulate: %d, precision: %s, optim_form: %s, checkpoint: %s, epoch_steps: 12,\n"
        "         weight_decay: 0.1, random_seed: 5%s }\n"
        "engine: { graph: %s }\nsave: { proj_dir: '%s/%s', epoch_save: 0 }\nlog: { every: 1000 }\n",
        gpu_of(o) ? "cuda" : "cpu", o->arch, or_number(o->n_layer, 3), or_number(o->n_embd, 128),
        or_number(o->head_size, 32), rw_source_path("recipes/quickstart/data/train.jsonl"),
        rw_source_path("recipes/quickstart/data/valid.jsonl"), or_number(o->ctx_len, 48), or_number(o->micro_bsz, 2),
        or_number(o->accumulate, 1), or_text(o->precision, "fp32"), or_text(o->form, "auto"), or_text(o->level, "none"),
        or_text(o->train, ""), or_text(o->graph, "on"), rw_test_folder(), or_text(o->folder, "out"));
}

/* The recipe, the plan and the device, without an engine. */
static inline void plan_run(run *r, const run_of *of) {
    rw_error err = {0};
    const rw_plan *plan;
    memset(r, 0, sizeof *r);
    r->of = *of;
    rw_recipe_options options = {.path = "run.yaml", .trust = true, .text = r->text};
    options.n_text = (size_t)recipe_text(r);
    must(rw_recipe_load(&r->recipe, &options, &err), &err);
    must(rw_plan_make(&plan, &r->recipe, NULL, &r->arena, &r->device, &err), &err);
    r->plan = *plan;
    r->on = r->device;
}

/* What it needs is that of the device that queues. */
static inline void stand_in(run *r) {
    rw_error err = {0};
    lazy_open(&r->lazy, r->device, LAZY_AHEAD | LAZY_RECORD);
    r->on = &r->lazy.base;
    must(rw_plan_measure(&r->plan, r->on, &r->plan.needs, &err), &err);
}

static inline void open_run(run *r, const run_of *of) {
    rw_error err = {0};
    plan_run(r, of);
    if (on_cpu() && !of->plain_cpu) stand_in(r);
    must(rw_engine_open(&r->e, &r->plan, r->on, true, &err), &err);
}

static inline void close_run(run *r) {
    rw_engine_close(&r->e);
    assert_int_equal(r->on->live_bytes, 0);
    if (r->on != r->device) lazy_close(&r->lazy);
    rw_device_close(r->device);
    rw_arena_done(&r->arena);
    rw_recipe_done(&r->recipe);
}

/* As a run begins: initial values, and the loss scale that fp16 starts with. */
static inline void fresh(run *r) {
    rw_error err = {0};
    must(rw_model_init(r->e.model, 5, &err), &err);
    rw_device_scalars s = {.loss_scale = r->plan.train.compute == RW_F16 ? RW_LOSS_SCALE_FIRST : 0};
    rw_engine_set_counts(&r->e, &s);
}

/* -- steps ----------------------------------------------------------------------------------------------------- */

/* Rows that count up through 50 ids, which is soon learnt; borders of sequences move, and some are empty. */
typedef struct {
    int32_t *tokens, *cu;
    float *mask;
    rw_batch b;
} batch_room;

static inline void make_batch(batch_room *room, const run *r, int64_t number) {
    const int64_t R = r->plan.train.micro_bsz * r->plan.train.ctx_len, S = r->plan.data.max_seq;
    room->tokens = rw_alloc_array((size_t)R + 1, sizeof(int32_t));
    room->cu = rw_alloc_array((size_t)S + 1, sizeof(int32_t));
    room->mask = rw_alloc_array((size_t)R, sizeof(float));
    assert_true(room->tokens && room->cu && room->mask);
    const uint64_t first = rw_rng_u64_at(1, (uint64_t)number, 0);
    for (int64_t i = 0; i <= R; i++) room->tokens[i] = (int32_t)(1 + (first + (uint64_t)i) % 50);
    for (int64_t i = 0; i < R; i++) room->mask[i] = i % 11 != 0;
    room->cu[S] = (int32_t)R;
    for (int64_t i = 1; i < S; i++) {
        const int64_t most = R - room->cu[i - 1]; /* one in four is empty */
        const uint64_t x = rw_rng_u64_at(2, (uint64_t)number, (uint64_t)i);
        room->cu[i] = room->cu[i - 1] + (x % 4 ? (int32_t)((int64_t)(x / 4) % (most + 1)) : 0);
    }
    room->b = (rw_batch){.n_rows = R, .n_seq = S, .tokens = room->tokens, .targets = room->tokens + 1};
    room->b.mask = room->mask;
    room->b.cu_seqlens = room->cu;
    for (int64_t i = 0; i < R; i++) room->b.mask_sum += (double)room->mask[i];
}

static inline void drop_batch(batch_room *room) {
    rw_free(room->tokens);
    rw_free(room->cu);
    rw_free(room->mask);
}

/* Steps first .. last - 1, as the trainer makes them; reports[step] (or NULL) is what the device says of each. */
static inline void steps(run *r, int64_t first, int64_t last, rw_device_scalars *reports) {
    rw_error err = {0};
    const int64_t accumulate = r->plan.train.accumulate;
    for (int64_t step = first; step < last; step++) {
        batch_room room[8];
        rw_device_scalars report;
        double mask_sum = 0;
        assert_true(accumulate <= 8);
        for (int64_t k = 0; k < accumulate; k++) {
            make_batch(&room[k], r, step * accumulate + k);
            mask_sum += room[k].b.mask_sum;
        }
        rw_engine_begin_step(&r->e, step, 1e-3, 0.1, mask_sum);
        for (int64_t k = 0; k < accumulate; k++) {
            must(rw_engine_stage(&r->e, &room[k].b, &err), &err);
            must(rw_engine_run(&r->e, &err), &err);
        }
        must(rw_engine_update(&r->e, &err), &err);
        must(rw_engine_collect(&r->e, true, &report, &err), &err);
        report.loss /= mask_sum;
        if (reports) reports[step] = report;
        for (int64_t k = 0; k < accumulate; k++) drop_batch(&room[k]);
    }
}

/* -- what the optimizer moves ------------------------------------------------------------------------------------- */

typedef struct {
    char *bytes; /* owned */
    size_t n;
} bits;

/* Every buffer of parameters, masters and moments, byte after byte. */
static inline bits bits_of(run *r) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_MASTER, RW_PARAM_M, RW_PARAM_V};
    rw_params *p = r->e.model->params;
    bits b = {0};
    for (int pass = 0; pass < 2; pass++) {
        if (pass) b.bytes = rw_alloc(b.n);
        b.n = 0;
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            for (int c = 0; c < RW_PARAM_CLASSES; c++) {
                const rw_flat *f = &p->flat[kinds[k]][c];
                const int64_t n = f->n * rw_dtype_bytes(f->dtype);
                if (pass && n) r->on->download(r->on, b.bytes + b.n, f->data, n);
                b.n += (size_t)n;
            }
    }
    return b;
}

static inline void same_bits(const bits *a, const bits *b, const char *what) {
    size_t differ = 0;
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) differ += a->bytes[i] != b->bytes[i];
    if (differ) fail_msg("%s: %zu of %zu bytes differ", what, differ, a->n);
}

#endif
