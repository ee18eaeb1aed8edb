/* How much of a training step is matrix products: the whole step (data in memory; forward, backward, clip, Adam) as
 * 6 x GEMM weights x tokens over its time, against the rate of the step's own products measured alone in the same run.
 *
 *   bench_step [micro_bsz [steps [n_layer n_embd vocab ctx_len]]]      default 4 3 12 768 65536 512
 *
 * Prints the time of every kernel in the fastest step. Not a test: it judges nothing. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/engine/engine.h"
#include "core/plan/plan.h"
#include "kernels/bench/gemm_rate.h"
#include "kernels/bench/op_times.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_SHAPES 64

/* -- the shapes of a step's products ------------------------------------------------------------------------------ */

static const rw_kernels *inner;
static rw_gemm_shape shapes[MAX_SHAPES];
static int n_shapes;

static void note_shape(const rw_matmul_args *a) {
    int batch = a->batch ? (int)a->batch : 1;
    for (int i = 0; i < n_shapes; i++) {
        rw_gemm_shape *s = &shapes[i];
        if (s->M != a->M || s->N != a->N || s->K != a->K || s->trans_a != a->trans_a || s->trans_b != a->trans_b)
            continue;
        s->count += batch;
        return;
    }
    if (n_shapes < MAX_SHAPES) shapes[n_shapes++] = (rw_gemm_shape){a->M, a->N, a->K, a->trans_a, a->trans_b, batch, 0};
}

static void noting_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    note_shape(a);
    inner->matmul(a, ex);
}

/* -- a step -----------------------------------------------------------------------------------------------------------
 */

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status == RW_OK) return;
    fprintf(stderr, "bench_step: %s\n", text);
    exit(1);
}

static double gemm_weights(const rw_plan_model *m) {
    double C = (double)m->n_embd, F = (double)m->dim_ffn;
    double block = 6 * C * C + 2 * C * F + 2 * 5 * C * (double)m->lora_mix + 2 * C * (double)m->lora_decay;
    return (double)m->n_layer * block + C * (double)m->vocab_size;
}

static void make_plan(rw_plan *p, int64_t bsz, const int64_t size[4]) {
    *p = (rw_plan){.threads = rw_cpu_count()};
    p->model = (rw_plan_model){.arch = "x060", .n_layer = size[0], .n_embd = size[1], .vocab_size = size[2]};
    rw_arch_default_shape(&rw_arch_x060, &p->model);
    p->model.head_size_divisor = 8;
    p->train = (rw_plan_train){.micro_bsz = bsz, .ctx_len = size[3], .accumulate = 1, .lr_init = 1e-5, .beta1 = 0.9};
    p->train.beta2 = 0.99;
    p->train.adam_eps = 1e-8;
    p->train.grad_clip = 1;
    p->train.layerwise_lr = true;
    p->train.l2wrap = RW_L2WRAP_V7;
    p->train.loss_norm = RW_LOSS_NORM_STEP;
    p->data.max_seq = bsz;
    p->train.head_chunk = rw_plan_head_chunk(p);
}

static rw_batch make_batch(const rw_plan *p) {
    int64_t R = p->train.micro_bsz * p->train.ctx_len;
    int32_t *ids = rw_alloc_array((size_t)R + 1, sizeof *ids), *cu = rw_alloc_array((size_t)p->train.micro_bsz + 1, 4);
    float *mask = rw_alloc_array((size_t)R, sizeof *mask);
    if (!ids || !cu || !mask) exit(1);
    for (int64_t i = 0; i <= R; i++) ids[i] = (int32_t)((i * 7919 + i / 3) % p->model.vocab_size);
    for (int64_t i = 0; i < R; i++) mask[i] = 1;
    for (int64_t i = 0; i <= p->train.micro_bsz; i++) cu[i] = (int32_t)(i * p->train.ctx_len);
    return (rw_batch){.n_rows = R,
                      .n_seq = p->train.micro_bsz,
                      .tokens = ids,
                      .targets = ids + 1,
                      .mask = mask,
                      .cu_seqlens = cu,
                      .mask_sum = (double)R};
}

/* Small random weights: the speed of a step does not depend on how they start. */
static void fill(rw_params *p) {
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        float *w = p->flat[RW_PARAM_VALUE][c].data;
        for (int64_t i = 0; i < p->flat[RW_PARAM_VALUE][c].n; i++)
            w[i] = (float)((i * 2654435761u % 2001) - 1000.0) * 2e-5f;
    }
}

static double one_step(rw_engine *e, const rw_batch *b, int64_t step) {
    rw_error err = {0};
    int64_t ns = rw_now_ns();
    rw_engine_begin_step(e, step, 1e-5, 0, b->mask_sum);
    must(rw_engine_micro_step(e, b, NULL, &err), &err);
    must(rw_engine_update(e, &err), &err);
    return (double)(rw_now_ns() - ns) * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    int64_t bsz = argc > 1 ? atoll(argv[1]) : 4, size[4] = {12, 768, 65536, 512};
    int steps = argc > 2 ? atoi(argv[2]) : 3;
    for (int i = 0; i < 4 && argc > 3 + i; i++) size[i] = atoll(argv[3 + i]);
    if (bsz < 1 || steps < 1 || steps > 100) return 2;
    rw_error err = {0};
    rw_plan plan;
    rw_device *device;
    rw_engine e;
    make_plan(&plan, bsz, size);
    must(rw_device_open_cpu(&device, RW_F32, plan.threads, &err), &err);
    must(rw_plan_measure(&plan, device, &plan.needs, &err), &err);
    must(rw_engine_open(&e, &plan, device, true, &err), &err);
    fill(e.model->params);
    rw_batch b = make_batch(&plan);
    const rw_kernels *plain = device->kernels;
    rw_kernels timed = rw_op_times_wrap(plain), noting = timed;
    inner = &timed;
    noting.matmul = noting_matmul;
    one_step(&e, &b, 0); /* touches all memory */
    device->kernels = &noting;
    double times[100];
    for (int i = 0; i < steps; i++) {
        rw_op_times_begin();
        times[i] = one_step(&e, &b, 1 + i);
        rw_op_times_end(times[i]);
    }
    device->kernels = plain;
    qsort(times, (size_t)steps, sizeof *times, by_value);
    double step = times[steps / 2], flops = 6 * gemm_weights(&plan.model) * (double)b.n_rows, alone;
    rw_engine_close(&e);
    for (int i = 0; i < n_shapes; i++) shapes[i].count /= steps;
    must(rw_gemm_rate(device, shapes, n_shapes, 5, &alone, &err), &err);

    printf("x060 L%lld D%lld V%lld, micro_bsz %lld x ctx_len %lld, fp32, %s, head chunk %lld\n", (long long)size[0],
           (long long)size[1], (long long)size[2], (long long)bsz, (long long)size[3], device->detail,
           (long long)plan.train.head_chunk);
    rw_op_times_print();
    printf("step %.3f s (median of %d), %.0f tokens/s\n", step, steps, (double)b.n_rows / step);
    printf("step  %7.1f GFLOP/s (6 x %.1f M GEMM weights x %lld tokens)\n", flops / step * 1e-9,
           gemm_weights(&plan.model) * 1e-6, (long long)b.n_rows);
    printf("alone %7.1f GFLOP/s (its %d shapes of products, one by one)\n", alone * 1e-9, n_shapes);
    printf("ratio %7.1f %%\n", 100 * flops / step / alone);
    rw_device_close(device);
    return 0;
}
