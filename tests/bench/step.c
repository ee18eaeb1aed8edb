/* How much of a training step is matrix products: the whole step (data in memory; forward, backward, clip, Adam)
 * against the time of its own products measured alone in the same run, shape by shape.
 *
 *   bench_step [arch ...] [micro_bsz [steps [n_layer n_embd vocab ctx_len]]]      default x060 4 3 12 768 65536 512
 *
 * Prints the time of every kernel in the fastest step. Of a step and of each shape the fastest counts, the one that
 * nothing disturbed; RWKV_THREADS sets the threads. Not a test: it judges nothing. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/engine/engine.h"
#include "core/plan/plan.h"
#include "kernels/bench/gemm_rate.h"
#include "kernels/bench/op_times.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_SHAPES = 256, MAX_ARCHS = 8, REPEATS = 5 };

/* -- the shapes of a step's products ------------------------------------------------------------------------------ */

static const rw_kernels *inner;
static rw_gemm_shape shapes[MAX_SHAPES];
static int n_shapes;

static void note(int64_t M, int64_t N, int64_t K, bool trans_a, bool trans_b, int64_t count) {
    for (int i = 0; i < n_shapes; i++) {
        rw_gemm_shape *s = &shapes[i];
        if (s->M != M || s->N != N || s->K != K || s->trans_a != trans_a || s->trans_b != trans_b) continue;
        s->count += count;
        return;
    }
    if (n_shapes == MAX_SHAPES) {
        fprintf(stderr, "bench_step: more than %d shapes of products\n", MAX_SHAPES);
        exit(1);
    }
    shapes[n_shapes++] = (rw_gemm_shape){M, N, K, trans_a, trans_b, count, 0};
}

/* An epilogue is a pass behind the product; here it is called as the kernel that it is, so that it is not counted as
 * a product. Those with a pitch or a batch stay where they are: no model has one. */
static void finish(const rw_matmul_args *a, const rw_exec *ex) {
    const int64_t n = a->M * a->N;
    const rw_relu_sq_args relu = {.dtype = a->dtype, .n = n, .x = a->out, .out = a->out};
    const rw_relu_sq_args d_relu = {.dtype = a->dtype, .n = n, .out = (void *)a->act, .dout = a->out, .dx = a->out};
    const bool is_tanh = a->epilogue == RW_EPILOGUE_TANH || a->epilogue == RW_EPILOGUE_D_TANH;
    rw_unary_args unary = {.dtype = a->dtype, .op = is_tanh ? RW_UNARY_TANH : RW_UNARY_SIGMOID, .n = n};
    unary.x = a->out;
    unary.out = a->epilogue < RW_EPILOGUE_D_RELU_SQ ? a->out : (void *)a->act;
    unary.dout = a->out;
    unary.dx = a->out;
    if (a->epilogue == RW_EPILOGUE_RELU_SQ)
        inner->relu_sq_forward(&relu, ex);
    else if (a->epilogue == RW_EPILOGUE_D_RELU_SQ)
        inner->relu_sq_backward(&d_relu, ex);
    else if (a->epilogue < RW_EPILOGUE_D_RELU_SQ)
        inner->unary_forward(&unary, ex);
    else
        inner->unary_backward(&unary, ex);
}

static void noting_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    rw_matmul_args product = *a;
    const bool apart = a->epilogue != RW_EPILOGUE_NONE && a->batch <= 1 && (!a->ldo || a->ldo == a->N);
    note(a->M, a->N, a->K, a->trans_a, a->trans_b, a->batch ? a->batch : 1);
    if (apart) product.epilogue = RW_EPILOGUE_NONE;
    inner->matmul(&product, ex);
    if (apart) finish(a, ex);
}

/* ddlerp multiplies inside, a few rows at a time: here as the products that it takes the place of. */
static void noting_ddlerp_forward(const rw_ddlerp_args *a, const rw_exec *ex) {
    note(a->R, a->C, a->rank, false, false, RW_DDLERP_MIX);
    inner->ddlerp_forward(a, ex);
}
static void noting_ddlerp_backward(const rw_ddlerp_args *a, const rw_exec *ex) {
    note(a->R, a->rank, a->C, false, true, RW_DDLERP_MIX);
    note(a->rank, a->C, a->R, true, false, RW_DDLERP_MIX);
    inner->ddlerp_backward(a, ex);
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

static void make_plan(rw_plan *p, const rw_arch *arch, int64_t bsz, const int64_t size[4]) {
    *p = (rw_plan){.threads = rw_cpu_count()};
    p->model = (rw_plan_model){.arch = arch->name, .n_layer = size[0], .n_embd = size[1], .vocab_size = size[2]};
    rw_arch_default_shape(arch, &p->model);
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

static void free_batch(rw_batch *b) {
    rw_free((void *)b->tokens); /* targets are the same block */
    rw_free((void *)b->mask);
    rw_free((void *)b->cu_seqlens);
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

/* -- one architecture --------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t bsz, size[4]; /* n_layer n_embd vocab ctx_len */
    int steps;
} settings;

/* Seconds of the fastest step; shapes[] and op_times know what it was made of. */
static double measure_steps(rw_device *device, rw_engine *e, const rw_batch *b, int steps) {
    const rw_kernels *plain = device->kernels;
    const rw_kernels timed = rw_op_times_wrap(plain);
    rw_kernels noting = timed;
    double fastest = 0;
    inner = &timed;
    noting.matmul = noting_matmul;
    noting.ddlerp_forward = noting_ddlerp_forward;
    noting.ddlerp_backward = noting_ddlerp_backward;
    one_step(e, b, 0); /* touches all memory */
    device->kernels = &noting;
    for (int i = 0; i < steps; i++) {
        rw_op_times_begin();
        const double seconds = one_step(e, b, 1 + i);
        rw_op_times_end(seconds);
        if (i == 0 || seconds < fastest) fastest = seconds;
    }
    device->kernels = plain;
    for (int i = 0; i < n_shapes; i++) shapes[i].count /= steps;
    return fastest;
}

static int by_time(const void *a, const void *b) {
    const rw_gemm_shape *x = a, *y = b;
    const double tx = x->seconds * (double)x->count, ty = y->seconds * (double)y->count;
    return (tx < ty) - (tx > ty);
}

/* What the products take, alone; the sums come in *flops and *seconds. */
static void print_shapes(double *flops, double *seconds) {
    qsort(shapes, (size_t)n_shapes, sizeof *shapes, by_time);
    *flops = 0;
    *seconds = 0;
    printf("%-26s %8s %9s\n", "product alone (M N K)", "calls", "ms");
    for (int i = 0; i < n_shapes; i++) {
        const rw_gemm_shape *s = &shapes[i];
        const double work = 2.0 * (double)s->M * (double)s->N * (double)s->K, ms = s->seconds * (double)s->count * 1e3;
        printf("%5lld %6lld %6lld %c%c     %8lld %9.2f %7.1f GFLOP/s\n", (long long)s->M, (long long)s->N,
               (long long)s->K, s->trans_a ? 'T' : '-', s->trans_b ? 'T' : '-', (long long)s->count, ms,
               s->seconds > 0 ? work / s->seconds * 1e-9 : 0);
        *flops += work * (double)s->count;
        *seconds += ms * 1e-3;
    }
}

static void print_step(const rw_plan *p, const rw_device *device, double step) {
    const rw_plan_model *m = &p->model;
    const double rows = (double)(p->train.micro_bsz * p->train.ctx_len);
    double flops, alone;
    printf("%s L%lld D%lld V%lld, micro_bsz %lld x ctx_len %lld, fp32, %s, head chunk %lld\n", m->arch,
           (long long)m->n_layer, (long long)m->n_embd, (long long)m->vocab_size, (long long)p->train.micro_bsz,
           (long long)p->train.ctx_len, device->detail, (long long)p->train.head_chunk);
    rw_op_times_print();
    print_shapes(&flops, &alone);
    printf("step  %8.3f s, %.0f tokens/s, %.1f GFLOP/s of products\n", step, rows / step, flops / step * 1e-9);
    printf("alone %8.3f s, %.1f GFLOP/s: its %d shapes of products, one by one\n", alone, flops / alone * 1e-9,
           n_shapes);
    printf("ratio %8.1f %%\n", 100 * alone / step);
}

static void measure(const rw_arch *arch, const settings *s) {
    rw_error err = {0};
    rw_plan plan;
    rw_device *device;
    rw_engine e;
    double rate;
    make_plan(&plan, arch, s->bsz, s->size);
    must(rw_device_open_cpu(&device, RW_F32, plan.threads, &err), &err);
    must(rw_plan_measure(&plan, device, &plan.needs, &err), &err);
    must(rw_engine_open(&e, &plan, device, true, &err), &err);
    fill(e.model->params);
    rw_batch b = make_batch(&plan);
    rw_op_times_clear();
    n_shapes = 0;
    const double step = measure_steps(device, &e, &b, s->steps);
    rw_engine_close(&e);
    must(rw_gemm_rate(device, shapes, n_shapes, REPEATS, &rate, &err), &err);
    print_step(&plan, device, step);
    free_batch(&b);
    rw_device_close(device);
}

static bool is_number(const char *text) {
    return isdigit((unsigned char)text[0]) != 0;
}

int main(int argc, char **argv) {
    settings s = {.bsz = 4, .size = {12, 768, 65536, 512}, .steps = 3};
    const rw_arch *archs[MAX_ARCHS] = {&rw_arch_x060};
    rw_error err = {0};
    int n = 0, at = 1;
    for (; at < argc && !is_number(argv[at]) && n < MAX_ARCHS; at++, n++) {
        archs[n] = rw_arch_find(argv[at], &err);
        if (!archs[n]) must(err.code, &err);
    }
    if (at < argc) s.bsz = atoll(argv[at++]);
    if (at < argc) s.steps = atoi(argv[at++]);
    for (int i = 0; i < 4 && at < argc; i++) s.size[i] = atoll(argv[at++]);
    if (s.bsz < 1 || s.steps < 1 || at < argc) return 2;
    for (int i = 0; i < (n ? n : 1); i++) measure(archs[i], &s);
    return 0;
}
