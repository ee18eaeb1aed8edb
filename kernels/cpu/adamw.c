/* Adam and AdamW in one pass over the flat buffers: 16 bytes read and 12 written per parameter, so memory decides the
 * speed. The segments are laid end to end and cut into one part per thread; elements do not depend on each other. */
#include "kernels/cpu/span.h"

/* What is the same for all elements of a segment. */
typedef struct {
    real beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    real inv_correction1, inv_correction2; /* 1 / (1 - beta^t) */
    real clip, lr, decay;
} coefficients;

static coefficients coefficients_of(const rw_adamw_args *a, const rw_exec *ex, const rw_adamw_segment *seg) {
    const rw_step_scalars *s = ex->scalars;
    double t = (double)ex->own->updates;
    return (coefficients){
        .beta1 = (real)a->beta1,
        .one_minus_beta1 = (real)(1 - a->beta1),
        .beta2 = (real)a->beta2,
        .one_minus_beta2 = (real)(1 - a->beta2),
        .eps = (real)a->eps,
        .inv_correction1 = (real)(1 / (1 - pow(a->beta1, t))),
        .inv_correction2 = (real)(1 / (1 - pow(a->beta2, t))),
        .clip = (real)ex->own->grad_scale,
        .lr = (real)(s->lr * seg->lr_scale),
        .decay = a->adam_w_mode && seg->decay ? (real)s->weight_decay : 0,
    };
}

static RW_CLONES void update_span(real *restrict p, const real *restrict grad, real *restrict m, real *restrict v,
                                  int64_t n, coefficients c) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        real g = grad[i] * c.clip;
        real m1 = c.beta1 * m[i] + c.one_minus_beta1 * g;
        real v1 = c.beta2 * v[i] + c.one_minus_beta2 * g * g;
        real step = m1 * c.inv_correction1 / (RW_SQRT(v1 * c.inv_correction2) + c.eps) + c.decay * p[i];
        m[i] = m1;
        v[i] = v1;
        p[i] -= c.lr * step;
    }
}

/* The elements [first, last) of all segments laid end to end. */
static void update_part(const rw_adamw_args *a, const rw_exec *ex, int64_t first, int64_t last) {
    int64_t base = 0;
    for (int64_t k = 0; k < a->n_segments && base < last; base += a->segments[k++].n) {
        const rw_adamw_segment *seg = &a->segments[k];
        int64_t from = first > base ? first - base : 0, to = last - base < seg->n ? last - base : seg->n;
        int64_t at = seg->offset + from;
        if (from >= to) continue;
        update_span((real *)a->p + at, (const real *)a->grad + at, (real *)a->m + at, (real *)a->v + at, to - from,
                    coefficients_of(a, ex, seg));
    }
}

void RW_CPU_NAME(adamw)(const rw_adamw_args *a, const rw_exec *ex) {
    int64_t total = 0;
    for (int64_t k = 0; k < a->n_segments; k++) total += a->segments[k].n;
    if (ex->own->skipped_in_row) return;
    RW_SPANS(ex, total, update_part(a, ex, first, last));
}
