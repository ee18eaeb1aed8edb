/* token_shift on a CPU: layer norm, shift and mixes in one pass over the rows.
 *
 * The row before is not kept: its norm is computed again from x, the two numbers mean and rstd, and the same
 * expression, which costs less than a buffer and lets any thread begin at any row. Backward gathers, for each row, the
 * gradient of its norm from its own mixes and from those of the row after it, and goes on through the norm.
 *
 * The state of an empty sequence passes through, and so does its gradient. */
#include "kernels/token_shift.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/sequences.h"

#include <string.h>

enum { BLOCK = 256 }; /* channels at a time: xn and prev of a block stay in the first cache */

static const real *row_of(const void *p, int64_t row, int64_t C) {
    return p ? (const real *)p + row * C : NULL;
}
static real *row_of_w(void *p, int64_t row, int64_t C) {
    return p ? (real *)p + row * C : NULL;
}

static const real *shift_in_of(const rw_token_shift_args *a, int64_t s) {
    return a->shift_in ? (const real *)a->shift_in + s * a->shift_in_stride : NULL;
}

/* x and the statistics of a row, or the state in front of a sequence. */
typedef struct {
    const real *x;
    real mean, rstd;
    const real *state; /* used when x is NULL; NULL: zeros */
} row_ref;

RW_INLINE row_ref row_before(const rw_token_shift_args *a, const rw_sequence *s, int64_t row) {
    row_ref p = {0};
    if (row > s->first)
        p.x = row_of(a->x, row - 1, a->C);
    else
        p.state = shift_in_of(a, s->index);
    return p;
}

/* Channels c .. c + n of the layer norm of a row (or of the state) into `to`. */
RW_INLINE void load_block(const rw_token_shift_args *a, const row_ref *p, int64_t c, int64_t n, real *restrict to) {
    if (p->x)
        rw_norm_apply(p->x + c, p->mean, p->rstd, (const real *)a->gamma + c, (const real *)a->beta + c, n, to);
    else if (p->state)
        memcpy(to, p->state + c, (size_t)n * sizeof(real));
    else
        memset(to, 0, (size_t)n * sizeof(real));
}

/* -- forward ---------------------------------------------------------------------------------------------- */

RW_INLINE void mix_block(bool times_current, const real *restrict xn, const real *restrict prev,
                         const real *restrict mu, int64_t n, real *restrict out) {
    if (times_current) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) out[c] = xn[c] * mu[c] + prev[c] * (1 - mu[c]);
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) out[c] = xn[c] + (prev[c] - xn[c]) * mu[c];
    }
}

RW_INLINE void forward_row(const rw_token_shift_args *a, const row_ref *now, const row_ref *before, int64_t row) {
    const int64_t C = a->C;
    for (int64_t c = 0; c < C; c += BLOCK) {
        const int64_t n = C - c < BLOCK ? C - c : BLOCK;
        real xn[BLOCK], prev[BLOCK];
        load_block(a, now, c, n, xn);
        if (a->n_mix > 0) load_block(a, before, c, n, prev);
        for (int i = 0; i < a->n_mix; i++)
            if (a->out[i])
                mix_block(a->times_current, xn, prev, (const real *)a->mu[i] + c, n, row_of_w(a->out[i], row, C) + c);
        if (a->xn) memcpy(row_of_w(a->xn, row, C) + c, xn, (size_t)n * sizeof(real));
    }
}

RW_CLONES static void forward_rows(const rw_token_shift_args *a, int64_t first, int64_t last) {
    const int64_t C = a->C;
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, first);
    row_ref now = {0};
    for (int64_t row = first; row < last; row++) {
        rw_sequence_seek(&s, row);
        row_ref before = row_before(a, &s, row);
        if (before.x && row > first)
            before = now;
        else if (before.x)
            rw_norm_stats(before.x, C, a->eps, &before.mean, &before.rstd);
        now = (row_ref){.x = row_of(a->x, row, C)};
        rw_norm_stats(now.x, C, a->eps, &now.mean, &now.rstd);
        forward_row(a, &now, &before, row);
        if (a->mean) ((real *)a->mean)[row] = now.mean;
        if (a->rstd) ((real *)a->rstd)[row] = now.rstd;
    }
}

static bool is_empty(const rw_token_shift_args *a, int64_t s) {
    return rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s) == rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s + 1);
}

/* The norm of the last row of a sequence. */
RW_CLONES static void store_state(const rw_token_shift_args *a, int64_t s) {
    const int64_t C = a->C, last = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s + 1) - 1;
    row_ref from = {.state = shift_in_of(a, s)};
    real *to = row_of_w(a->shift_out, s, C);
    if (from.state == to && is_empty(a, s)) return;
    if (!is_empty(a, s)) {
        from.x = row_of(a->x, last, C);
        rw_norm_stats(from.x, C, a->eps, &from.mean, &from.rstd);
    }
    load_block(a, &from, 0, C, to);
}

/* States are written when all rows are done, because shift_out may be shift_in. */
void RW_CPU_NAME(token_shift_forward)(const rw_token_shift_args *a, const rw_exec *ex) {
#pragma omp parallel num_threads(ex->threads)
    {
        int64_t first, last;
        rw_split(a->R, omp_get_num_threads(), omp_get_thread_num(), &first, &last);
        if (first < last) forward_rows(a, first, last);
    }
    for (int64_t s = 0; a->shift_out && s < a->n_seq; s++) store_state(a, s);
}

/* -- backward --------------------------------------------------------------------------------------------- */

/* Partial sums of one block of rows, and a row to work in: [3 + n_mix][C] in the order dgamma, dbeta, row, dmu. */
static int64_t partial_rows(const rw_token_shift_args *a) {
    return 3 + a->n_mix;
}

int64_t RW_CPU_NAME(token_shift_backward_scratch)(const rw_token_shift_args *a, const rw_exec *ex) {
    (void)ex;
    return rw_row_blocks(a->R) * partial_rows(a) * a->C * (int64_t)sizeof(real);
}

/* One block of one mix. A row gives the share mu (times_current: 1 - mu) of its dout to the row before it and keeps the
 * rest: d += dout - its share + the share of the row after it; dmu += dout (prev - xn), or the opposite sign. */
RW_INLINE void gather_block(bool times_current, const real *restrict dout, const real *restrict next,
                            const real *restrict mu, const real *restrict diff, int64_t n, real *restrict d,
                            real *restrict dmu) {
    if (times_current) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            d[c] += next[c] + (dout[c] - next[c]) * mu[c];
            dmu[c] -= dout[c] * diff[c];
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            d[c] += dout[c] + (next[c] - dout[c]) * mu[c];
            dmu[c] += dout[c] * diff[c];
        }
    }
}

/* dL/d xn of a row into d, and what the row adds to dmu. */
RW_INLINE void gather_row(const rw_token_shift_args *a, const rw_sequence *s, int64_t row, const row_ref *now,
                          const row_ref *before, real *restrict d, real *dmu) {
    static const real zeros[BLOCK];
    const int64_t C = a->C;
    const bool last = row + 1 == s->last;
    const real *given = row_of(a->dxn, row, C), *dshift = last ? row_of(a->dshift_out, s->index, C) : NULL;
    for (int64_t c = 0; c < C; c += BLOCK) {
        const int64_t n = C - c < BLOCK ? C - c : BLOCK;
        real xn[BLOCK], diff[BLOCK], unwanted[BLOCK] = {0};
        load_block(a, now, c, n, xn);
        load_block(a, before, c, n, diff);
        for (int64_t k = 0; k < n; k++) diff[k] -= xn[k];
        if (given)
            memcpy(d + c, given + c, (size_t)n * sizeof(real));
        else
            memset(d + c, 0, (size_t)n * sizeof(real));
        for (int64_t k = 0; dshift && k < n; k++) d[c + k] += dshift[c + k];
        for (int i = 0; i < a->n_mix; i++) {
            const real *dout = row_of(a->dout[i], row, C);
            if (!dout) continue;
            gather_block(a->times_current, dout + c, last ? zeros : dout + C + c, (const real *)a->mu[i] + c, diff, n,
                         d + c, a->dmu[i] ? dmu + i * C + c : unwanted);
        }
    }
}

RW_INLINE void load_stats(const rw_token_shift_args *a, row_ref *p, int64_t row) {
    if (!p->x) return;
    p->mean = ((const real *)a->mean)[row];
    p->rstd = ((const real *)a->rstd)[row];
}

RW_CLONES static void backward_rows(const rw_token_shift_args *a, int64_t first, int64_t last, real *partial) {
    const int64_t C = a->C;
    memset(partial, 0, (size_t)(partial_rows(a) * C) * sizeof(real));
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, first);
    real *d = partial + 2 * C;
    for (int64_t row = first; row < last; row++) {
        rw_sequence_seek(&s, row);
        row_ref before = row_before(a, &s, row), now = {.x = row_of(a->x, row, C)};
        load_stats(a, &before, row - 1);
        load_stats(a, &now, row);
        gather_row(a, &s, row, &now, &before, d, partial + 3 * C);
        rw_norm_row_backward(now.x, now.mean, now.rstd, a->gamma, d, C, a->add & RW_TOKEN_SHIFT_ADD_X,
                             row_of_w(a->dx, row, C), partial, partial + C);
    }
}

/* dL/d shift_in of sequence s, added to `to`. */
RW_CLONES static void state_backward(const rw_token_shift_args *a, int64_t s, real *restrict to) {
    const int64_t C = a->C, row = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s);
    const real *through = is_empty(a, s) ? row_of(a->dshift_out, s, C) : NULL;
    for (int64_t c = 0; through && c < C; c++) to[c] += through[c];
    for (int i = 0; i < a->n_mix && !is_empty(a, s); i++) {
        const real *restrict dout = row_of(a->dout[i], row, C), *restrict mu = a->mu[i];
        for (int64_t c = 0; dout && c < C; c++) to[c] += dout[c] * (a->times_current ? 1 - mu[c] : mu[c]);
    }
}

static void states_backward(const rw_token_shift_args *a) {
    const bool add = a->add & RW_TOKEN_SHIFT_ADD_SHIFT_IN;
    if (!a->dshift_in) return;
    const int64_t rows = a->shift_in_stride == 0 ? 1 : a->n_seq;
    if (!add) memset(a->dshift_in, 0, (size_t)(rows * a->C) * sizeof(real));
    for (int64_t s = 0; s < a->n_seq; s++) state_backward(a, s, (real *)a->dshift_in + s * a->shift_in_stride);
}

void RW_CPU_NAME(token_shift_backward)(const rw_token_shift_args *a, const rw_exec *ex) {
    const int64_t C = a->C, blocks = rw_row_blocks(a->R), size = partial_rows(a) * C;
    real *partial = a->scratch;
#pragma omp parallel for num_threads(ex->threads) schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first, last;
        rw_split(a->R, blocks, b, &first, &last);
        backward_rows(a, first, last, partial + b * size);
    }
    rw_add_partials(a->dgamma, a->add & RW_TOKEN_SHIFT_ADD_GAMMA, partial, blocks, size, C);
    rw_add_partials(a->dbeta, a->add & RW_TOKEN_SHIFT_ADD_BETA, partial + C, blocks, size, C);
    for (int i = 0; i < a->n_mix; i++)
        rw_add_partials(a->dmu[i], a->add & (uint32_t)RW_TOKEN_SHIFT_ADD_MU << i, partial + (3 + i) * C, blocks, size,
                        C);
    states_backward(a);
}
