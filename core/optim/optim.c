/* Groups, clipping and the update: see optim.h. */
#include "core/optim/optim.h"

#include "core/base/alloc.h"

#include <string.h>

static bool has(const char *name, const char *part) {
    return strstr(name, part) != NULL;
}

/* Dimensions longer than 1: [1,1,C] counts as a vector, [1,N] too. */
static int rank_of(const rw_segment *s) {
    int rank = 0;
    for (int i = 0; i < s->ndim; i++) rank += s->shape[i] > 1;
    return rank;
}

/* First match wins. In the official stage 2 both faster groups, and the mixes with them, run at 5 times. */
static double scale_of(const char *name, bool stage2) {
    if (has(name, "_w1") || has(name, "_w2")) return 1;
    if (has(name, "time_mix") || has(name, "time_maa") || has(name, "time_faaaa")) return stage2 ? 5 : 1;
    if (has(name, "time_decay")) return stage2 ? 5 : 2;
    if (has(name, "att.w0")) return 2;
    return 1;
}

void rw_optim_groups(rw_layout *l, const rw_plan_train *plan) {
    for (size_t i = 0; i < l->n_segments; i++) {
        rw_segment *s = &l->segments[i];
        s->lr_scale = plan->layerwise_lr ? scale_of(s->name, plan->my_pile_stage == 2) : 1;
        s->decay = plan->weight_decay > 0 && has(s->name, ".weight") && rank_of(s) >= 2;
    }
}

/* Sum of squares of all gradients -> own->grad_sumsq. */
static rw_status sum_squares(rw_params *p, rw_step_arena *arena, rw_error *err) {
    rw_device *d = p->device;
    rw_sum_args a = {.dtype = d->compute, .n = p->layout.n_trainable, .x = p->grads, .squares = true};
    a.out = &d->exec.own->grad_sumsq;
    int64_t n_scratch = d->kernels->sum_scratch(&a, &d->exec);
    int32_t piece = rw_step_arena_take(arena, n_scratch);
    if (piece < 0) return rw_fail_memory(err, (size_t)n_scratch);
    a.scratch = rw_step_arena_at(arena, piece);
    d->kernels->sum(&a, &d->exec);
    rw_step_arena_give(arena, piece);
    return RW_OK;
}

rw_status rw_optim_update(const rw_plan_train *plan, rw_params *p, rw_step_arena *arena, rw_error *err) {
    rw_params_finish_grads(p);
    RW_TRY(sum_squares(p, arena, err));
    p->device->kernels->clip_coef(&(rw_clip_coef_args){plan->grad_clip}, &p->device->exec);
    rw_adamw_args a = {.dtype = p->device->compute, .n_segments = p->n_segments, .segments = p->segments};
    a.p = p->values;
    a.grad = p->grads;
    a.m = p->m;
    a.v = p->v;
    a.beta1 = plan->beta1;
    a.beta2 = plan->beta2;
    a.eps = plan->adam_eps;
    a.adam_w_mode = plan->weight_decay > 0;
    p->device->kernels->adamw(&a, &p->device->exec);
    return RW_OK;
}
