/* What the tape itself costs: steps of the engine on the meta device, where every kernel returns at once. What is left
 * is shape checks, the arena, nodes and the walk back.
 *
 *   bench_tape [steps [n_layer n_embd]]      default 2000 12 768
 *
 * Prints the least time of a step, and of a forward pass that records nothing. Not a test: it judges nothing. */
#include "core/base/thread.h"
#include "core/engine/engine.h"
#include "core/plan/make_plan.h"

#include <stdio.h>
#include <stdlib.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status == RW_OK) return;
    fprintf(stderr, "bench_tape: %s\n", text);
    exit(1);
}

static void make_plan(rw_plan *p, int64_t n_layer, int64_t n_embd) {
    *p = (rw_plan){.threads = 1};
    p->data.max_seq = 4;
    p->model = (rw_plan_model){.arch = "x060", .n_layer = n_layer, .n_embd = n_embd, .vocab_size = 65536};
    p->model.head_size = 64;
    p->model.n_head = n_embd / 64;
    p->model.dim_ffn = n_embd * 7 / 2 / 32 * 32;
    p->model.lora_mix = 32;
    p->model.lora_decay = 64;
    p->model.head_size_divisor = 8;
    p->train = (rw_plan_train){.micro_bsz = 4, .ctx_len = 512, .accumulate = 1, .beta1 = 0.9, .beta2 = 0.99};
    p->train.adam_eps = 1e-8;
    p->train.grad_clip = 1;
    p->train.layerwise_lr = true;
    p->train.l2wrap = RW_L2WRAP_V7;
    p->train.loss_norm = RW_LOSS_NORM_STEP;
    p->train.head_chunk = rw_plan_head_chunk(p);
}

static double step_ms(rw_engine *e, const rw_batch *b) {
    rw_error err = {0};
    int64_t ns = rw_now_ns();
    rw_engine_begin_step(e, 0, 1e-5, 0, 1);
    must(rw_engine_micro_step(e, b, NULL, &err), &err);
    must(rw_engine_update(e, &err), &err);
    return (double)(rw_now_ns() - ns) * 1e-6;
}

static double evaluate_ms(rw_engine *e, const rw_batch *b) {
    rw_error err = {0};
    int64_t ns = rw_now_ns();
    must(rw_engine_evaluate(e, b, NULL, &err), &err);
    return (double)(rw_now_ns() - ns) * 1e-6;
}

static double least(double (*run)(rw_engine *, const rw_batch *), rw_engine *e, const rw_batch *b, int steps) {
    double best = run(e, b);
    for (int i = 1; i < steps; i++) {
        double ms = run(e, b);
        if (ms < best) best = ms;
    }
    return best;
}

int main(int argc, char **argv) {
    rw_error err = {0};
    rw_plan plan;
    rw_device *cpu, *meta;
    rw_engine e;
    int steps = argc > 1 ? atoi(argv[1]) : 2000;
    make_plan(&plan, argc > 3 ? atoi(argv[2]) : 12, argc > 3 ? atoi(argv[3]) : 768);
    must(rw_device_open_cpu(&cpu, RW_F32, 1, &err), &err);
    must(rw_device_open_meta(&meta, cpu, &err), &err);
    must(rw_engine_open(&e, &plan, meta, true, &err), &err);
    rw_batch b = {.n_rows = 2048, .n_seq = 4, .mask_sum = 1};
    double step = least(step_ms, &e, &b, steps), forward = least(evaluate_ms, &e, &b, steps);
    printf("L%d D%d on the meta device: step %.4f ms, forward alone %.4f ms, arena %.1f MiB\n", (int)plan.model.n_layer,
           (int)plan.model.n_embd, step, forward, (double)e.arena.high_water / 0x1p20);
    rw_engine_close(&e);
    rw_device_close(meta);
    rw_device_close(cpu);
    return 0;
}
