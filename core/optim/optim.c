/* Groups, clipping and the update: see optim.h. */
#include "core/optim/optim.h"

#include "core/base/alloc.h"
#include "core/model/arch.h"

/* -- groups -------------------------------------------------------------------------------------------------- */

/* The official groups. In stage 2 both faster groups, and the mixes with them, run at 5 times. */
static const struct {
    double scale, stage2; /* of the learning rate */
    bool decays;
} groups[] = {[RW_GROUP_PLAIN] = {1, 1, false}, [RW_GROUP_MATRIX] = {1, 1, true}, [RW_GROUP_MIX] = {1, 5, false},
              [RW_GROUP_BONUS] = {1, 5, false}, [RW_GROUP_DECAY] = {2, 5, false}, [RW_GROUP_STATE] = {1, 1, true},
              [RW_GROUP_W0] = {2, 2, false}};

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
        if (plan->train_type == RW_TRAIN_STATES && g != RW_GROUP_STATE) s->trainable = false;
        s->lr_scale = !plan->layerwise_lr ? 1 : stage2 ? groups[g].stage2 : groups[g].scale;
        s->decay = plan->weight_decay > 0 && groups[g].decays && rank_of(s) >= 2;
    }
}

/* -- forms --------------------------------------------------------------------------------------------------- */

static const rw_storage forms[] = {
    [RW_FORM_AUTO] = {0}, /* not decided: plain */
    [RW_FORM_FP32] = {0},
    [RW_FORM_A16] = {.value = RW_BF16, .gradient = RW_BF16, .master = true}, /* fp16 has it too: see below */
    [RW_FORM_B12] = {.value = RW_BF16, .gradient = RW_BF16},
    [RW_FORM_B8] = {.value = RW_BF16, .gradient = RW_BF16, .moment = RW_BF16},
};

rw_storage rw_optim_storage(const rw_plan_train *plan) {
    rw_storage s = forms[plan->optim_form];
    if (plan->compute == RW_F16) s.value = s.gradient = RW_F16;
    if (s.gradient != RW_DTYPE_NONE && plan->accumulate > 1) s.gradient = RW_F32;
    return s;
}

/* -- an update ----------------------------------------------------------------------------------------------- */

/* Sum of squares of the gradients of a class; matrices first, vectors are added. -> own->grad_sumsq */
static rw_status sum_squares(rw_params *p, rw_param_class c, rw_step_arena *arena, rw_error *err) {
    rw_device *d = p->device;
    const rw_flat *grad = &p->flat[RW_PARAM_GRAD][c];
    rw_sum_args a = {.dtype = grad->dtype, .n = grad->n, .x = grad->data, .squares = true, .add = c == RW_VECTOR};
    a.out = &d->exec.own->grad_sumsq;
    int64_t n_scratch = d->kernels->sum_scratch(&a, &d->exec);
    int32_t piece = rw_step_arena_take(arena, n_scratch);
    if (piece < 0) return rw_fail_memory(err, (size_t)n_scratch);
    a.scratch = rw_step_arena_at(arena, piece);
    d->kernels->sum(&a, &d->exec);
    rw_step_arena_give(arena, piece);
    return RW_OK;
}

static void update_class(const rw_plan_train *plan, rw_params *p, rw_param_class c) {
    const rw_flat *value = &p->flat[RW_PARAM_VALUE][c], *m = &p->flat[RW_PARAM_M][c];
    rw_adamw_args a = {.dtype = value->dtype, .n_ranges = p->n_ranges[c], .ranges = p->ranges[c]};
    a.p_grid = value->grid;
    a.grad_dtype = p->flat[RW_PARAM_GRAD][c].dtype;
    a.moment_dtype = m->dtype;
    a.p = value->data;
    a.grad = p->flat[RW_PARAM_GRAD][c].data;
    a.master = p->flat[RW_PARAM_MASTER][c].data;
    a.m = m->data;
    a.v = p->flat[RW_PARAM_V][c].data;
    a.beta1 = plan->beta1;
    a.beta2 = plan->beta2;
    a.eps = plan->adam_eps;
    a.adam_w_mode = plan->weight_decay > 0;
    p->device->kernels->adamw(&a, &p->device->exec);
}

rw_status rw_optim_update(const rw_plan_train *plan, rw_params *p, rw_step_arena *arena, rw_error *err) {
    rw_params_finish_grads(p);
    RW_TRY(sum_squares(p, RW_MATRIX, arena, err));
    RW_TRY(sum_squares(p, RW_VECTOR, arena, err));
    const rw_clip_coef_args clip = {.max_norm = plan->grad_clip, .dynamic_scale = p->device->compute == RW_F16};
    p->device->kernels->clip_coef(&clip, &p->device->exec);
    for (int c = 0; c < RW_PARAM_CLASSES; c++)
        if (p->n_ranges[c]) update_class(plan, p, (rw_param_class)c);
    return RW_OK;
}
