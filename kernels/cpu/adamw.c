/* Adam and AdamW in one pass over the flat buffers: 16 bytes read and 12 written per parameter, so memory decides the
 * speed. The ranges are laid end to end and cut into one part per thread; elements do not depend on each other.
 *
 * The narrow forms are here to be the reference for devices that have bf16: a piece at a time is made wide, updated by
 * the same loop, and rounded. */
#include "kernels/cpu/span.h"
#include "kernels/rounding.h"

/* What is the same for all elements of a range. */
typedef struct {
    real beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    real inv_correction1, inv_correction2; /* 1 / (1 - beta^t) */
    real clip, lr, decay;
} coefficients;

static coefficients coefficients_of(const rw_adamw_args *a, const rw_exec *ex, const rw_adamw_range *range) {
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
        .lr = (real)(s->lr * range->lr_scale),
        .decay = a->adam_w_mode && range->decay ? (real)s->weight_decay : 0,
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

/* -- narrow forms: the elements from `at` on are those from `element` on of their parameter ------------------ */

enum { PIECE = 1024 };

static RW_CLONES void round_at_random(uint16_t *out, const real *x, int64_t n, uint64_t key, int64_t element,
                                      rw_round_use use) {
    for (int64_t i = 0; i < n; i++)
        out[i] = rw_bf16_stochastic((float)x[i], rw_round_bits_of(rw_round_bits(key, (uint64_t)(element + i)), use));
}

/* The new values `w`: kept in the master and rounded to the nearest, or rounded at random. */
static void write_values(const rw_adamw_args *a, int64_t at, const real *w, int64_t n, uint64_t key, int64_t element) {
    uint16_t narrow[PIECE];
    if (a->master) {
        memcpy((real *)a->master + at, w, (size_t)n * sizeof *w);
        rw_convert(narrow, RW_BF16, w, RW_REAL_DTYPE, n);
    } else {
        round_at_random(narrow, w, n, key, element, RW_ROUND_VALUE);
    }
    rw_convert((real *)a->p + at, RW_REAL_DTYPE, narrow, RW_BF16, n);
}

/* m and v in bf16 */
static void update_moments_too(const rw_adamw_args *a, int64_t at, real *w, int64_t n, coefficients c, uint64_t key,
                               int64_t element) {
    real m[PIECE], v[PIECE];
    uint16_t *m16 = (uint16_t *)a->m + at, *v16 = (uint16_t *)a->v + at;
    rw_convert(m, RW_REAL_DTYPE, m16, RW_BF16, n);
    rw_convert(v, RW_REAL_DTYPE, v16, RW_BF16, n);
    update_span(w, (const real *)a->grad + at, m, v, n, c);
    round_at_random(m16, m, n, key, element, RW_ROUND_M);
    round_at_random(v16, v, n, key, element, RW_ROUND_V);
}

static void update_piece(const rw_adamw_args *a, int64_t at, int64_t n, coefficients c, uint64_t key, int64_t element) {
    real w[PIECE];
    memcpy(w, (const real *)(a->master ? a->master : a->p) + at, (size_t)n * sizeof *w);
    if (a->moment_dtype == RW_BF16)
        update_moments_too(a, at, w, n, c, key, element);
    else
        update_span(w, (const real *)a->grad + at, (real *)a->m + at, (real *)a->v + at, n, c);
    write_values(a, at, w, n, key, element);
}

static void update_narrow(const rw_adamw_args *a, const rw_exec *ex, const rw_adamw_range *range, int64_t from,
                          int64_t to) {
    const coefficients c = coefficients_of(a, ex, range);
    const uint64_t key = rw_round_key(ex->scalars->seed, (uint64_t)ex->scalars->step, range->stream);
    for (int64_t i = from; i < to; i += PIECE)
        update_piece(a, range->offset + i, to - i < PIECE ? to - i : PIECE, c, key, range->first + i);
}

/* -- all forms --------------------------------------------------------------------------------------------- */

/* The elements [first, last) of all ranges laid end to end. */
static void update_part(const rw_adamw_args *a, const rw_exec *ex, int64_t first, int64_t last) {
    int64_t base = 0;
    for (int64_t k = 0; k < a->n_ranges && base < last; base += a->ranges[k++].n) {
        const rw_adamw_range *range = &a->ranges[k];
        int64_t from = first > base ? first - base : 0, to = last - base < range->n ? last - base : range->n;
        int64_t at = range->offset + from;
        if (from >= to) continue;
        if (a->p_grid == RW_BF16)
            update_narrow(a, ex, range, from, to);
        else
            update_span((real *)a->p + at, (const real *)a->grad + at, (real *)a->m + at, (real *)a->v + at, to - from,
                        coefficients_of(a, ex, range));
    }
}

void RW_CPU_NAME(adamw)(const rw_adamw_args *a, const rw_exec *ex) {
    int64_t total = 0;
    for (int64_t k = 0; k < a->n_ranges; k++) total += a->ranges[k].n;
    if (ex->own->skipped_in_row) return;
    RW_SPANS(ex, total, update_part(a, ex, first, last));
}
