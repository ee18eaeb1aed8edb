/* The bench of a recipe: see bench.h. */
#include "core/bench/bench.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"
#include "core/bench/op_list.h"
#include "core/engine/engine.h"
#include "kernels/rates.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 4, MOST_STEPS = 64 };
#define ENOUGH_SECONDS 6.0

/* -- a model with random weights ---------------------------------------------------------------------------------- */

#define PIECE ((int64_t)1 << 20)

static void fill_flat(const rw_flat *f, float *host, void *narrow) {
    for (int64_t at = 0; at < f->n; at += PIECE) {
        const int64_t n = f->n - at < PIECE ? f->n - at : PIECE;
        rw_convert(narrow, f->dtype, host, RW_F32, n);
        f->device->upload(f->device, (char *)f->data + at * rw_dtype_bytes(f->dtype), narrow,
                          n * rw_dtype_bytes(f->dtype));
    }
}

/* Small numbers, none of them zero: zeros run faster than real data. */
static rw_status fill_matrices(rw_params *p, rw_error *err) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_FROZEN, RW_PARAM_MASTER};
    float *host = rw_alloc_array((size_t)PIECE, sizeof *host);
    double *narrow = rw_alloc_array((size_t)PIECE, sizeof *narrow);
    if (host && narrow) {
        for (int64_t i = 0; i < PIECE; i++)
            host[i] = 0.02f * (float)((double)(rw_rng_u64_at(1, 1, (uint64_t)i) >> 11) * 0x1p-52 - 1);
        for (int k = 0; k < 3; k++)
            if (p->flat[kinds[k]][RW_MATRIX].n) fill_flat(&p->flat[kinds[k]][RW_MATRIX], host, narrow);
    }
    rw_free(host);
    rw_free(narrow);
    return host && narrow ? RW_OK : rw_fail_memory(err, (size_t)PIECE * sizeof *narrow);
}

static bool is_matrix(const void *layout, const char *name) {
    const rw_layout *l = layout;
    return l->segments[rw_layout_find(l, name)].cls == RW_MATRIX;
}

/* Vectors (norms, decays, mixes) as a new model has them: with other numbers loss and gradients would not be finite. */
static rw_status fill_weights(rw_model *m, rw_error *err) {
    RW_TRY(fill_matrices(m->params, err));
    return rw_model_init_lacking(m, 1, is_matrix, &m->params->layout, err);
}

/* -- batches ------------------------------------------------------------------------------------------------------ */

typedef struct {
    rw_batch b;
    int32_t *ids; /* owned: tokens, then the borders */
    float *mask;  /* owned */
} random_batch;

static rw_status make_batch(random_batch *r, const rw_plan *p, rw_error *err) {
    const int64_t B = p->train.micro_bsz, T = p->train.ctx_len, R = B * T;
    r->ids = rw_alloc_array((size_t)(R + 1 + B + 1), sizeof *r->ids);
    r->mask = rw_alloc_array((size_t)R, sizeof *r->mask);
    if (!r->ids || !r->mask) return rw_fail_memory(err, (size_t)R * sizeof *r->ids);
    for (int64_t i = 0; i <= R; i++)
        r->ids[i] = (int32_t)(rw_rng_u64_at(2, 2, (uint64_t)i) % (uint64_t)p->model.vocab_size);
    for (int64_t i = 0; i < R; i++) r->mask[i] = 1;
    for (int64_t i = 0; i <= B; i++) r->ids[R + 1 + i] = (int32_t)(i * T);
    r->b = (rw_batch){.n_rows = R, .n_seq = B, .tokens = r->ids, .targets = r->ids + 1, .mask = r->mask};
    r->b.cu_seqlens = r->ids + R + 1;
    r->b.mask_sum = (double)R;
    return RW_OK;
}

/* -- steps -----------------------------------------------------------------------------------------------------------
 */

/* A step that changes nothing is none: adamw does not run in it. */
static rw_status check_step(const rw_device_scalars *report, rw_error *err) {
    if (report->skipped == 0) return RW_OK;
    return rw_fail(err, RW_E_NUMERIC, RW_AT_NONE,
                   "loss %g, gradient norm %g: not finite with random weights, so there is no time to tell",
                   report->loss, report->grad_norm);
}

static rw_status one_step(rw_engine *e, const rw_batch *b, int64_t step, rw_error *err) {
    rw_device_scalars report;
    const int64_t n = e->plan->train.accumulate;
    rw_engine_begin_step(e, step, 1e-5, 0, b->mask_sum * (double)n);
    for (int64_t i = 0; i < n; i++) {
        RW_TRY(rw_engine_stage(e, b, err));
        RW_TRY(rw_engine_run(e, err));
    }
    RW_TRY(rw_engine_update(e, err));
    RW_TRY(rw_engine_collect(e, true, &report, err));
    return check_step(&report, err);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static rw_status time_steps(rw_bench_result *r, rw_engine *e, const rw_batch *b, int64_t n_steps, rw_error *err) {
    double each[MOST_STEPS];
    int64_t n = 0;
    for (int64_t i = 0; i < WARM_UP; i++) RW_TRY(one_step(e, b, i, err));
    const int64_t began = rw_now_ns(), most = n_steps > 0 && n_steps < MOST_STEPS ? n_steps : MOST_STEPS;
    while (n < most && (n < 3 || n_steps > 0 || (double)(rw_now_ns() - began) * 1e-9 < ENOUGH_SECONDS)) {
        const int64_t ns = rw_now_ns();
        RW_TRY(one_step(e, b, WARM_UP + n, err));
        each[n++] = (double)(rw_now_ns() - ns) * 1e-9;
    }
    qsort(each, (size_t)n, sizeof *each, by_size);
    r->step = each[n / 2];
    r->fastest = each[0];
    return RW_OK;
}

/* -- the floor
 * ---------------------------------------------------------------------------------------------------------- */

/* Activations of a token and layer that fused kernels move, forward and backward. */
static double fused_activations(const char *arch) {
    return strcmp(arch, "x052") == 0 ? 64.5 : strcmp(arch, "x060") == 0 ? 100 : 98;
}

/* Read: gradient, weight or master, both moments. Written: weight, master, both moments. */
static double update_bytes(const rw_params *p) {
    static const struct {
        rw_param_kind kind;
        int times;
    } parts[] = {{RW_PARAM_VALUE, 1}, {RW_PARAM_MASTER, 2}, {RW_PARAM_GRAD, 1}, {RW_PARAM_M, 2}, {RW_PARAM_V, 2}};
    double n = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        n += (double)parts[i].times * (double)rw_params_bytes(p, parts[i].kind);
    if (rw_params_bytes(p, RW_PARAM_MASTER) == 0) n += (double)rw_params_bytes(p, RW_PARAM_VALUE); /* it is read, too */
    return n;
}

static void count_bytes(rw_bench_result *r, const rw_plan *p, const rw_params *params) {
    const double width = (double)rw_dtype_bytes(p->train.compute);
    r->fused_bytes =
        r->tokens * (double)p->model.n_layer * fused_activations(p->model.arch) * (double)p->model.n_embd * width;
    r->loss_bytes = r->tokens * 2 * (double)p->model.vocab_size * width;
    r->update_bytes = update_bytes(params);
}

static rw_status time_kernels(rw_bench_result *r, rw_op_list *l, rw_error *err) {
    for (int k = 0; k < rw_op_list_kernels() && r->n_kernels < RW_BENCH_MAX_KERNELS; k++) {
        rw_bench_kernel *to = &r->kernels[r->n_kernels];
        *to = (rw_bench_kernel){.name = rw_op_list_name(k), .calls = rw_op_list_calls(l, k)};
        if (to->calls == 0) continue;
        RW_TRY(rw_op_list_seconds(l, k, false, &to->seconds, err));
        if (strcmp(to->name, "matmul") == 0) {
            r->products = to->seconds;
            RW_TRY(rw_op_list_seconds(l, k, true, &r->products_plain, err));
        }
        r->n_kernels++;
    }
    r->product_flops = rw_op_list_product_flops(l);
    return RW_OK;
}

/* One step kernel by kernel, kept; then each kernel's calls alone. */
static rw_status take_apart(rw_bench_result *r, const rw_plan *plan, rw_device *device, const random_batch *b,
                            rw_error *err) {
    rw_plan plain = *plan;
    rw_engine e;
    plain.engine.graph = RW_GRAPH_OFF;
    RW_TRY(rw_engine_open(&e, &plain, device, true, err));
    rw_status status = fill_weights(e.model, err);
    rw_op_list *l = rw_op_list_begin(device);
    if (!l) status = rw_fail_memory(err, 4096);
    if (status == RW_OK) status = one_step(&e, &b->b, 0, err);
    if (l && !rw_op_list_end(l) && status == RW_OK) status = rw_fail_memory(err, 4096);
    if (status == RW_OK) status = time_kernels(r, l, err);
    if (status == RW_OK) count_bytes(r, plan, e.model->params);
    rw_op_list_free(l);
    rw_engine_close(&e);
    return status;
}

/* -- all of it
 * ------------------------------------------------------------------------------------------------------------ */

static rw_status whole_steps(rw_bench_result *r, const rw_plan *plan, rw_device *device, const random_batch *b,
                             int64_t n_steps, rw_error *err) {
    rw_engine e;
    RW_TRY(rw_engine_open(&e, plan, device, true, err));
    rw_status status = fill_weights(e.model, err);
    if (status == RW_OK) status = time_steps(r, &e, &b->b, n_steps, err);
    r->device_bytes = device->live_bytes + device->own_bytes;
    rw_engine_close(&e);
    return status;
}

rw_status rw_bench_run(rw_bench_result *r, const rw_plan *plan, rw_device *device, int64_t n_steps, rw_error *err) {
    random_batch b = {0};
    *r = (rw_bench_result){.tokens = (double)plan->needs.tokens_per_step};
    r->planned_bytes = plan->needs.bytes[RW_MEMORY_DEVICE];
    rw_status status = make_batch(&b, plan, err);
    if (status == RW_OK) status = whole_steps(r, plan, device, &b, n_steps, err);
    if (status == RW_OK) status = take_apart(r, plan, device, &b, err);
    if (status == RW_OK) status = rw_copy_rate(device, &r->copy_rate, err);
    if (status == RW_OK) status = rw_product_rate(device, &r->product_rate, err);
    if (r->copy_rate > 0)
        r->floor = r->products_plain + (r->fused_bytes + r->loss_bytes + r->update_bytes) / r->copy_rate;
    rw_free(b.ids);
    rw_free(b.mask);
    return status;
}
