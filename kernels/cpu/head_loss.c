/* Cross entropy and its gradient, in place, one row per turn of a thread. A row of 65536 floats is 256 KB and stays in
 * the second-level cache, so memory sees one read and one write: maximum; exponentials, left in the row; scale.
 * The sum of exponentials runs in LANES interleaved sums, emptied into doubles every BLOCK elements. */
#include "kernels/cpu/span.h"
#include "kernels/cpu/vmath.h"

enum { LANES = 32, BLOCK = 4096 };

/* Largest element; NaN does not count here, it shows in the sum. */
static RW_CLONES real row_max(const real *x, int64_t n) {
    real lanes[LANES];
    for (int k = 0; k < LANES; k++) lanes[k] = -(real)INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k];
    for (; i < n; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    real m = lanes[0];
    for (int k = 1; k < LANES; k++) m = lanes[k] > m ? lanes[k] : m;
    return m;
}

/* The first element equal to m; 0 when there is none (all NaN). Whole blocks are skipped first. */
static RW_CLONES int64_t first_equal(const real *x, int64_t n, real m) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        int found = 0;
#pragma omp simd reduction(| : found)
        for (int k = 0; k < LANES; k++) found |= x[i + k] == m;
        if (found) break;
    }
    for (; i < n; i++)
        if (x[i] == m) return i;
    return 0;
}

static RW_CLONES real exp_block_keep(real *x, int64_t n, real m) {
    real lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) {
            x[i + k] = rw_exp(x[i + k] - m);
            lanes[k] += x[i + k];
        }
    for (int k = 0; i < n; i++, k++) lanes[k] += x[i] = rw_exp(x[i] - m);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int k = 0; k < width; k++) lanes[k] += lanes[k + width];
    return lanes[0];
}

static RW_CLONES real exp_block(const real *x, int64_t n, real m) {
    real lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] += rw_exp(x[i + k] - m);
    for (int k = 0; i < n; i++, k++) lanes[k] += rw_exp(x[i] - m);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int k = 0; k < width; k++) lanes[k] += lanes[k + width];
    return lanes[0];
}

static RW_CLONES void scale_row(real *x, int64_t n, real factor) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

static double exp_sum(real *x, int64_t n, real m, bool keep) {
    double sum = 0;
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t len = n - i < BLOCK ? n - i : BLOCK;
        sum += (double)(keep ? exp_block_keep(x + i, len, m) : exp_block(x + i, len, m));
    }
    return sum;
}

static void row(const rw_head_loss_args *a, const rw_step_scalars *s, double scale, int64_t i) {
    real *x = (real *)a->logits + i * a->V, m = row_max(x, a->V);
    const int64_t target = a->targets[i];
    const double mask = a->mask ? (double)a->mask[i] : 1, weight = mask * s->normaliser * scale;
    const double l2 = (s->l2wrap_mask * mask + s->l2wrap_rows) * scale, at_target = (double)x[target];
    const bool want = a->want_grad && (weight != 0 || l2 != 0);
    const int64_t top = want && l2 != 0 ? first_equal(x, a->V, m) : 0;
    const double at_top = (double)x[top];

    const double sum = exp_sum(x, a->V, m, want);
    ((real *)a->loss)[i] = (real)(((double)m - at_target) + log(sum));
    if (!a->want_grad) return;
    if (!want || weight == 0) /* also of a row that is not finite: it does not count */
        rw_zero_span(x, a->V);
    else
        scale_row(x, a->V, (real)(weight / sum));
    if (!want) return;
    x[target] -= (real)weight;
    if (l2 != 0) x[top] += (real)(l2 * at_top);
}

void RW_CPU_NAME(head_loss)(const rw_head_loss_args *a, const rw_exec *ex) {
    const rw_step_scalars *s = ex->scalars;
    const double scale = rw_loss_scale(ex->own);
    RW_FOR(rw_span_count(ex, a->R * a->V), i, a->R, row(a, s, scale, i));
}
