/* Token embedding with the layer norm of block 0. Forward and the norm's backward run over rows. The gradient of the
 * table is a sum over equal tokens: rows are sorted by token once (stable, so the order of rows stays), and each run of
 * equal tokens is summed by one thread. Sums over all rows (gamma, beta) go over fixed blocks of rows first. */
#include "kernels/cpu/span.h"

#include <assert.h>

enum { LANES = 16, MAX_BLOCKS = 64, ROWS_PER_BLOCK = 32, RADIX = 256 };

/* -- forward --------------------------------------------------------------------------------------- */

static real add_lanes(const real *lanes) {
    real s[LANES];
    for (int k = 0; k < LANES; k++) s[k] = lanes[k];
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int k = 0; k < width; k++) s[k] += s[k + width];
    return s[0];
}

static RW_CLONES void norm_row(const real *restrict x, const real *restrict gamma, const real *restrict beta,
                               real *restrict out, int64_t C, double eps, real *mean_out, real *rstd_out) {
    real lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= C; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k];
    for (int k = 0; i < C; i++, k++) lanes[k] += x[i];
    const real mean = add_lanes(lanes) / (real)C;

    for (int k = 0; k < LANES; k++) lanes[k] = 0;
    for (i = 0; i + LANES <= C; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) lanes[k] += (x[i + k] - mean) * (x[i + k] - mean);
    for (int k = 0; i < C; i++, k++) lanes[k] += (x[i] - mean) * (x[i] - mean);
    const real rstd = (real)(1 / sqrt((double)(add_lanes(lanes) / (real)C) + eps));

#pragma omp simd
    for (int64_t j = 0; j < C; j++) out[j] = (x[j] - mean) * rstd * gamma[j] + beta[j];
    *mean_out = mean;
    *rstd_out = rstd;
}

static void forward_row(const rw_embedding_args *a, int64_t r) {
    const int64_t C = a->C;
    const real *x = (const real *)a->weight + a->tokens[r] * C;
    real *out = (real *)a->out + r * C, mean, rstd;
    if (!a->gamma) {
        memcpy(out, x, (size_t)C * sizeof(real));
        return;
    }
    norm_row(x, a->gamma, a->beta, out, C, a->eps, &mean, &rstd);
    if (a->mean) ((real *)a->mean)[r] = mean;
    if (a->rstd) ((real *)a->rstd)[r] = rstd;
}

void RW_CPU_NAME(embedding_forward)(const rw_embedding_args *a, const rw_exec *ex) {
    RW_FOR(rw_span_count(ex, a->R * a->C), r, a->R, forward_row(a, r));
}

/* -- scratch --------------------------------------------------------------------------------------- */

typedef struct {
    int32_t *order, *other; /* [R] rows by token, and the sort's second buffer */
    real *partial;          /* [blocks][2][C] sums of dgamma and dbeta */
    int64_t n_bytes;
} layout;

static int64_t round64(int64_t n) {
    return (n + 63) / 64 * 64;
}

static int64_t block_count(int64_t R) {
    int64_t n = (R + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    return n < MAX_BLOCKS ? n : MAX_BLOCKS;
}

static layout lay(const rw_embedding_args *a) {
    const int64_t rows = round64(a->R * 4);
    const bool norm = a->gamma != NULL;
    const int64_t partial = norm ? round64(block_count(a->R) * 2 * a->C * (int64_t)sizeof(real)) : 0;
    char *p = a->scratch;
    layout l = {.n_bytes = 2 * rows + partial};
    if (!p) return l;
    l.order = (int32_t *)p;
    l.other = (int32_t *)(p + rows);
    l.partial = (real *)(p + 2 * rows);
    return l;
}

int64_t RW_CPU_NAME(embedding_backward_scratch)(const rw_embedding_args *a, const rw_exec *ex) {
    (void)ex;
    rw_embedding_args sizes = *a;
    sizes.scratch = NULL;
    return lay(&sizes).n_bytes;
}

/* -- sums over equal tokens ------------------------------------------------------------------------ */

/* Rows sorted by token: counting sorts, 8 bits at a time. Returns the sorted buffer. */
static const int32_t *sort_rows(const rw_embedding_args *a, int32_t *from, int32_t *to) {
    for (int64_t r = 0; r < a->R; r++) from[r] = (int32_t)r;
    for (int shift = 0; shift < 31 && (a->V - 1) >> shift; shift += 8) {
        int64_t at[RADIX + 1] = {0};
        for (int64_t r = 0; r < a->R; r++) at[(a->tokens[r] >> shift & (RADIX - 1)) + 1]++;
        for (int d = 0; d < RADIX; d++) at[d + 1] += at[d];
        for (int64_t r = 0; r < a->R; r++) to[at[a->tokens[from[r]] >> shift & (RADIX - 1)]++] = from[r];
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

/* dx of one row of the table: x^ = (x - mean) rstd, d = dout * gamma, dx += rstd (d - mean(d) - x^ mean(d x^)). */
static RW_CLONES void norm_back_row(const real *restrict x, const real *restrict gamma, const real *restrict dout,
                                    real mean, real rstd, int64_t C, real *restrict dx) {
    real sum[LANES] = {0}, dot[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= C; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++) {
            real d = dout[i + k] * gamma[i + k];
            sum[k] += d;
            dot[k] += d * ((x[i + k] - mean) * rstd);
        }
    for (int k = 0; i < C; i++, k++) {
        real d = dout[i] * gamma[i];
        sum[k] += d;
        dot[k] += d * ((x[i] - mean) * rstd);
    }
    const real s = add_lanes(sum) / (real)C, t = add_lanes(dot) / (real)C;
#pragma omp simd
    for (int64_t j = 0; j < C; j++) dx[j] += rstd * (dout[j] * gamma[j] - s - (x[j] - mean) * rstd * t);
}

static RW_CLONES void add_row(const real *restrict x, real *restrict sum, int64_t C) {
#pragma omp simd
    for (int64_t j = 0; j < C; j++) sum[j] += x[j];
}

static void token_run(const rw_embedding_args *a, const int32_t *order, int64_t first, int64_t last) {
    const int64_t C = a->C, token = a->tokens[order[first]];
    real *dw = (real *)a->dweight + token * C;
    for (int64_t i = first; i < last; i++) {
        int64_t r = order[i];
        const real *dout = (const real *)a->dout + r * C;
        if (a->gamma)
            norm_back_row((const real *)a->weight + token * C, a->gamma, dout, ((const real *)a->mean)[r],
                          ((const real *)a->rstd)[r], C, dw);
        else
            add_row(dout, dw, C);
    }
}

/* The runs of equal tokens that begin in [first, last). */
static void token_runs(const rw_embedding_args *a, const int32_t *order, int64_t first, int64_t last) {
    while (first > 0 && first < last && a->tokens[order[first]] == a->tokens[order[first - 1]]) first++;
    for (int64_t end; first < last; first = end) {
        for (end = first + 1; end < a->R && a->tokens[order[end]] == a->tokens[order[first]]; end++) {
        }
        token_run(a, order, first, end);
    }
}

static void backward_weight(const rw_embedding_args *a, const layout *l, const rw_exec *ex) {
    real *dw = a->dweight;
    if (!(a->add & RW_EMBEDDING_ADD_WEIGHT)) RW_SPANS(ex, a->V * a->C, rw_zero_span(dw + first, last - first));
    if (!a->dout || a->R == 0) return;
    const int32_t *order = sort_rows(a, l->order, l->other);
    const int n = rw_span_count(ex, a->R * a->C);
    RW_FOR(n, i, n, int64_t first, last; rw_split(a->R, n, i, &first, &last); token_runs(a, order, first, last));
}

/* -- gamma and beta -------------------------------------------------------------------------------- */

static RW_CLONES void affine_row(const real *restrict x, const real *restrict dout, real mean, real rstd, int64_t C,
                                 real *restrict dgamma, real *restrict dbeta) {
#pragma omp simd
    for (int64_t j = 0; j < C; j++) {
        dgamma[j] += dout[j] * ((x[j] - mean) * rstd);
        dbeta[j] += dout[j];
    }
}

static void add_blocks(real *to, const real *partial, int64_t blocks, int64_t C, bool add) {
    if (!to) return;
    if (!add) rw_zero_span(to, C);
    for (int64_t b = 0; b < blocks; b++) add_row(partial + b * 2 * C, to, C);
}

/* Rows of block b, into its own sums. */
static void affine_block(const rw_embedding_args *a, int64_t R, int64_t b, real *partial) {
    const int64_t C = a->C;
    int64_t first, last;
    rw_split(R, block_count(R), b, &first, &last);
    rw_zero_span(partial, 2 * C);
    for (int64_t r = first; r < last; r++)
        affine_row((const real *)a->weight + a->tokens[r] * C, (const real *)a->dout + r * C,
                   ((const real *)a->mean)[r], ((const real *)a->rstd)[r], C, partial, partial + C);
}

static void backward_affine(const rw_embedding_args *a, const layout *l, const rw_exec *ex) {
    const int64_t C = a->C, R = a->dout ? a->R : 0, blocks = block_count(R);
    real *partial = l->partial;
    RW_FOR(rw_span_count(ex, R * C), b, blocks, affine_block(a, R, b, partial + b * 2 * C));
    add_blocks(a->dgamma, partial, blocks, C, a->add & RW_EMBEDDING_ADD_GAMMA);
    add_blocks(a->dbeta, partial + C, blocks, C, a->add & RW_EMBEDDING_ADD_BETA);
}

void RW_CPU_NAME(embedding_backward)(const rw_embedding_args *a, const rw_exec *ex) {
    layout l = lay(a);
    assert(!a->dweight_dtype || a->dweight_dtype == RW_REAL_DTYPE);
    if (a->dweight) backward_weight(a, &l, ex);
    if (a->gamma && (a->dgamma || a->dbeta)) backward_affine(a, &l, ex);
}
