/* Sums in a fixed order. Blocks of BLOCK elements are summed in LANES interleaved sums, in double; then the lanes are
 * added in a tree, and the blocks in order. Which thread does a block changes nothing. */
#include "kernels/cpu/span.h"

enum { BLOCK = 1 << 14, LANES = 16 };

static int64_t block_count(int64_t n) {
    return (n + BLOCK - 1) / BLOCK;
}

static double add_lanes(const double *lanes) {
    double s[LANES];
    for (int k = 0; k < LANES; k++) s[k] = lanes[k];
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int k = 0; k < width; k++) s[k] += s[k + width];
    return s[0];
}

static RW_CLONES double block_squares(const real *x, int64_t n) {
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] += (double)x[i + k] * (double)x[i + k];
    for (int k = 0; i < n; i++, k++) lanes[k] += (double)x[i] * (double)x[i];
    return add_lanes(lanes);
}

static RW_CLONES double block_sum(const real *x, int64_t n) {
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] += (double)x[i + k];
    for (int k = 0; i < n; i++, k++) lanes[k] += (double)x[i];
    return add_lanes(lanes);
}

static double block_weighted(const real *x, const float *weight, int64_t n, bool squares) {
    double lanes[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i];
        lanes[i % LANES] += (double)weight[i] * (squares ? v * v : v);
    }
    return add_lanes(lanes);
}

static double one_block(const real *x, const float *weight, bool squares, int64_t n, int64_t at) {
    int64_t len = n - at < BLOCK ? n - at : BLOCK;
    if (weight) return block_weighted(x + at, weight + at, len, squares);
    return squares ? block_squares(x + at, len) : block_sum(x + at, len);
}

static double all_blocks(const real *x, const float *weight, bool squares, int64_t n, double *partial,
                         const rw_exec *ex) {
    const int64_t blocks = block_count(n);
    RW_FOR(blocks > 2 ? ex->threads : 1, b, blocks, partial[b] = one_block(x, weight, squares, n, b * BLOCK));
    double sum = 0;
    for (int64_t b = 0; b < blocks; b++) sum += partial[b];
    return sum;
}

int64_t RW_CPU_NAME(sum_scratch)(const rw_sum_args *a, const rw_exec *ex) {
    (void)ex;
    return block_count(a->n) * (int64_t)sizeof(double);
}

void RW_CPU_NAME(sum)(const rw_sum_args *a, const rw_exec *ex) {
    double sum = all_blocks(a->x, a->weight, a->squares, a->n, a->scratch, ex);
    *a->out = a->add ? *a->out + sum : sum;
}

static double clip_coefficient(double norm, double max_norm) {
    if (max_norm <= 0) return 1;
    if (!isfinite(norm)) return NAN;
    double c = max_norm / (norm + 1e-6);
    return c < 1 ? c : 1;
}

static void adapt_scale(rw_device_scalars *s, double scale, bool finite) {
    s->good_steps = finite ? s->good_steps + 1 : 0;
    s->loss_scale = finite ? scale : scale / 2 > 1 ? scale / 2 : 1;
    if (s->good_steps < RW_LOSS_SCALE_STEPS) return;
    s->good_steps = 0;
    s->loss_scale = scale * 2;
}

void RW_CPU_NAME(clip_coef)(const rw_clip_coef_args *a, const rw_exec *ex) {
    rw_device_scalars *s = ex->own;
    const double scale = rw_loss_scale(s);
    s->step = ex->scalars->step;
    s->grad_norm = sqrt(s->grad_sumsq) / scale;
    s->clip_coef = clip_coefficient(s->grad_norm, a->max_norm);
    s->grad_scale = s->clip_coef / scale;
    const bool finite = isfinite(s->grad_norm) && isfinite(s->loss);
    s->updates += finite;
    s->skipped += !finite;
    s->skipped_in_row = finite ? 0 : s->skipped_in_row + 1;
    if (a->dynamic_scale) adapt_scale(s, scale, finite);
}
