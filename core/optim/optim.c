/* Groups, clipping and the update: see optim.h. */
#include "core/optim/optim.h"

#include "core/base/alloc.h"
#include "core/model/arch.h"

/* The official groups. In stage 2 both faster groups, and the mixes with them, run at 5 times. */
static const struct {
    double scale, stage2; /* of the learning rate */
    bool decays;
} groups[] = {[RW_GROUP_PLAIN] = {1, 1, false}, [RW_GROUP_MATRIX] = {1, 1, true}, [RW_GROUP_MIX] = {1, 5, false},
              [RW_GROUP_BONUS] = {1, 5, false}, [RW_GROUP_DECAY] = {2, 5, false}, [RW_GROUP_W0] = {2, 2, false}};

/* Dimensions longer than 1: [1,1,C] counts as a vector, [1,N] too. */
static int rank_of(const rw_segment *s) {
    int rank = 0;
    for (int i = 0; i < s->ndim; i++) rank += s->shape[i] > 1;
    return rank;
}

void rw_optim_groups(rw_layout *l, const rw_plan_train *plan) {
    bool stage2 = plan->my_pile_stage == 2;
    for (size_t i = 0; i < l->n_segments; i++) {
        rw_segment *s = &l->segments[i];
        rw_role_group g = s->role ? s->role->group : RW_GROUP_PLAIN;
        s->lr_scale = !plan->layerwise_lr ? 1 : stage2 ? groups[g].stage2 : groups[g].scale;
        s->decay = plan->weight_decay > 0 && groups[g].decays && rank_of(s) >= 2;
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
