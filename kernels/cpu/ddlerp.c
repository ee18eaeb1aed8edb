/* ddlerp on a CPU: tiles of rows, small enough that what the products write is still in the cache when the mix
 * reads it.
 *
 * Forward: one thread per tile; m_i is written into out_i by the product and mixed in place.
 * Backward: the products of a tile use all threads; between them every thread works on its own channels, so that sums
 * over rows and the step from a row to the one before need no other thread. Tiles go from the last to the first: the
 * gradient that a row sends to the row before it is then at hand. All sums have a fixed order. */
#include "kernels/ddlerp.h"

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/sequences.h"

#include <string.h>

enum { FORWARD_ROWS = 64, BACKWARD_ROWS = 256, MIX = RW_DDLERP_MIX };

static const real *row_of(const void *p, int64_t row, int64_t C) {
    return p ? (const real *)p + row * C : NULL;
}
static real *row_of_w(void *p, int64_t row, int64_t C) {
    return p ? (real *)p + row * C : NULL;
}

/* What lies before a row: the row above, the state, or `zeros`. */
RW_INLINE const real *row_before(const rw_ddlerp_args *a, const rw_sequence *s, int64_t row, const real *zeros) {
    if (row > s->first) return row_of(a->xn, row - 1, a->C);
    return a->shift_in ? (const real *)a->shift_in + s->index * a->shift_in_stride : zeros;
}

/* -- forward ---------------------------------------------------------------------------------------------- */

/* tanh(h) when it is not saved, and a row of zeros. */
static int64_t forward_layout(const rw_ddlerp_args *a, real *base, real **tanh_h, real **zeros) {
    int64_t used = 0;
    *tanh_h = rw_take(base, &used, a->tanh_h ? 0 : a->R * MIX * a->rank);
    *zeros = rw_take(base, &used, a->C);
    return used;
}

int64_t RW_CPU_NAME(ddlerp_forward_scratch)(const rw_ddlerp_args *a, const rw_exec *ex) {
    (void)ex;
    real *t, *z;
    return forward_layout(a, NULL, &t, &z) * (int64_t)sizeof(real);
}

RW_CLONES static void tanh_rows(const real *h, real *t, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) t[i] = rw_tanh(h[i]);
}

/* out = xn + (prev - xn) * (mu + out) */
RW_CLONES static void mix_rows(const rw_ddlerp_args *a, int i, int64_t first, int64_t last, const real *zeros) {
    const int64_t C = a->C;
    const real *restrict mu = a->mu[i];
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, first);
    for (int64_t row = first; row < last; row++) {
        rw_sequence_seek(&s, row);
        const real *xn = row_of(a->xn, row, C), *prev = row_before(a, &s, row, zeros);
        real *restrict out = row_of_w(a->out[i], row, C);
#pragma omp simd
        for (int64_t c = 0; c < C; c++) out[c] = xn[c] + (prev[c] - xn[c]) * (mu[c] + out[c]);
    }
}

static void forward_tile(const rw_ddlerp_args *a, int64_t first, int64_t last, real *t, const real *zeros) {
    const int64_t C = a->C, D = a->rank, width = MIX * D;
    tanh_rows((const real *)a->h + first * width, t + first * width, (last - first) * width);
    for (int i = 0; i < MIX; i++) {
        RW_CPU_NAME(gemm)
        (NULL, false, false, last - first, C, D, 1, t + first * width + i * D, width, (const real *)a->w2 + i * D * C,
         C, 0, row_of_w(a->out[i], first, C), C);
        mix_rows(a, i, first, last, zeros);
    }
}

void RW_CPU_NAME(ddlerp_forward)(const rw_ddlerp_args *a, const rw_exec *ex) {
    real *unsaved, *zeros;
    forward_layout(a, a->scratch, &unsaved, &zeros);
    memset(zeros, 0, (size_t)a->C * sizeof(real));
    real *t = a->tanh_h ? a->tanh_h : unsaved;
    const int64_t tiles = (a->R + FORWARD_ROWS - 1) / FORWARD_ROWS;
#pragma omp parallel for num_threads(ex->threads) schedule(static)
    for (int64_t k = 0; k < tiles; k++) {
        const int64_t first = k * FORWARD_ROWS, end = first + FORWARD_ROWS;
        forward_tile(a, first, end < a->R ? end : a->R, t, zeros);
    }
}

/* -- backward --------------------------------------------------------------------------------------------- */

typedef struct {
    real *m;       /* [BACKWARD_ROWS][C] m_i, then dm_i in its place */
    real *send;    /* [BACKWARD_ROWS + 1][C] sum over i of dout_i * (mu_i + m_i): goes to the row before */
    real *product; /* [BACKWARD_ROWS][rank] */
    real *dmu;     /* [MIX][C] */
    real *zeros;   /* [C] */
} backward_work;

static int64_t backward_layout(const rw_ddlerp_args *a, backward_work *w, real *base) {
    int64_t used = 0;
    w->m = rw_take(base, &used, BACKWARD_ROWS * a->C);
    w->send = rw_take(base, &used, (BACKWARD_ROWS + 1) * a->C);
    w->product = rw_take(base, &used, BACKWARD_ROWS * a->rank);
    w->dmu = rw_take(base, &used, MIX * a->C);
    w->zeros = rw_take(base, &used, a->C);
    return used;
}

int64_t RW_CPU_NAME(ddlerp_backward_scratch)(const rw_ddlerp_args *a, const rw_exec *ex) {
    (void)ex;
    backward_work w;
    return backward_layout(a, &w, NULL) * (int64_t)sizeof(real);
}

/* One tile of rows and a range of channels. */
typedef struct {
    int64_t first, last; /* rows */
    int64_t c0, c1;
} part;

/* send += dout (mu + m); m = dm = dout (prev - xn); dmu += dm. */
RW_CLONES static void mix_backward(const rw_ddlerp_args *a, const backward_work *w, int i, const part *p) {
    const int64_t C = a->C;
    const real *restrict mu = a->mu[i];
    real *restrict dmu = w->dmu + i * C;
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, p->first);
    for (int64_t row = p->first; row < p->last; row++) {
        rw_sequence_seek(&s, row);
        const real *xn = row_of(a->xn, row, C), *prev = row_before(a, &s, row, w->zeros);
        const real *restrict dout = row_of(a->dout[i], row, C);
        real *restrict m = w->m + (row - p->first) * C, *restrict send = w->send + (row - p->first) * C;
#pragma omp simd
        for (int64_t c = p->c0; c < p->c1; c++) {
            send[c] += dout[c] * (mu[c] + m[c]);
            m[c] = dout[c] * (prev[c] - xn[c]);
            dmu[c] += m[c];
        }
    }
}

RW_INLINE void add_row(const real *restrict from, real sign, const part *p, real *restrict to) {
#pragma omp simd
    for (int64_t c = p->c0; c < p->c1; c++) to[c] += sign * from[c];
}

/* dxn[t] = sum_i dout_i[t] - send[t] + send[t+1]; the first row of a sequence sends to its state. */
RW_CLONES static void rows_backward(const rw_ddlerp_args *a, const backward_work *w, const part *p) {
    const int64_t C = a->C;
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, p->first);
    for (int64_t row = p->first; row < p->last; row++) {
        rw_sequence_seek(&s, row);
        const real *send = w->send + (row - p->first) * C;
        if (a->dshift_in && row == s.first) add_row(send, 1, p, (real *)a->dshift_in + s.index * a->shift_in_stride);
        real *d = row_of_w(a->dxn, row, C);
        if (!d) continue;
        if (!(a->add & RW_DDLERP_ADD_XN)) memset(d + p->c0, 0, (size_t)(p->c1 - p->c0) * sizeof(real));
        for (int i = 0; i < MIX; i++)
            if (a->dout[i]) add_row(row_of(a->dout[i], row, C), 1, p, d);
        add_row(send, -1, p, d);
        if (row + 1 < s.last) add_row(send + C, 1, p, d);
    }
    memcpy(w->send + BACKWARD_ROWS * C + p->c0, w->send + p->c0, (size_t)(p->c1 - p->c0) * sizeof(real));
}

/* dh (+)= p (1 - tanh^2), p = dm w2^T [rows][rank]. */
RW_CLONES static void tanh_backward(const rw_ddlerp_args *a, const real *product, int i, int64_t first, int64_t last) {
    const int64_t D = a->rank;
    const bool add = a->add & RW_DDLERP_ADD_H;
    for (int64_t row = first; row < last; row++) {
        const real *restrict t = row_of(a->tanh_h, row, MIX * D) + i * D, *restrict p = product + (row - first) * D;
        real *restrict d = row_of_w(a->dh, row, MIX * D) + i * D;
        for (int64_t k = 0; !add && k < D; k++) d[k] = 0;
#pragma omp simd
        for (int64_t k = 0; k < D; k++) d[k] += p[k] * (1 - t[k] * t[k]);
    }
}

/* Channels of thread t of n. */
static part channels_of(int64_t first, int64_t last, int64_t C, int64_t n, int64_t t) {
    part p = {.first = first, .last = last};
    rw_split((C + 15) / 16, n, t, &p.c0, &p.c1);
    p.c0 *= 16;
    p.c1 = p.c1 * 16 < C ? p.c1 * 16 : C;
    return p;
}

static void products_backward(const rw_ddlerp_args *a, const backward_work *w, int i, const part *p,
                              const rw_exec *ex) {
    const int64_t C = a->C, D = a->rank, n = p->last - p->first;
    const real *t = row_of(a->tanh_h, p->first, MIX * D) + i * D;
    if (a->dh) {
        RW_CPU_NAME(gemm)
        (ex, false, true, n, D, C, 1, w->m, C, (const real *)a->w2 + i * D * C, C, 0, w->product, D);
        tanh_backward(a, w->product, i, p->first, p->last);
    }
    if (a->dw2) RW_CPU_NAME(gemm)
    (ex, true, false, D, C, n, 1, t, MIX * D, w->m, C, 1, (real *)a->dw2 + i * D * C, C);
}

static void tile_backward(const rw_ddlerp_args *a, const backward_work *w, int64_t first, int64_t last,
                          const rw_exec *ex) {
    const int64_t C = a->C, D = a->rank, n = last - first;
    const part all = {first, last, 0, C};
    memset(w->send, 0, (size_t)(n * C) * sizeof(real));
    for (int i = 0; i < MIX; i++) {
        if (!a->dout[i]) continue;
        RW_CPU_NAME(gemm)
        (ex, false, false, n, C, D, 1, row_of(a->tanh_h, first, MIX * D) + i * D, MIX * D,
         (const real *)a->w2 + i * D * C, C, 0, w->m, C);
#pragma omp parallel num_threads(ex->threads)
        {
            const part p = channels_of(first, last, C, omp_get_num_threads(), omp_get_thread_num());
            mix_backward(a, w, i, &p);
        }
        products_backward(a, w, i, &all, ex);
    }
#pragma omp parallel num_threads(ex->threads)
    {
        const part p = channels_of(first, last, C, omp_get_num_threads(), omp_get_thread_num());
        rows_backward(a, w, &p);
    }
}

/* Zeros where sums begin or where a NULL dout leaves nothing to write. */
static void clear_gradients(const rw_ddlerp_args *a, const backward_work *w) {
    const int64_t C = a->C, D = a->rank, states = a->shift_in_stride == 0 ? 1 : a->n_seq;
    memset(w->dmu, 0, (size_t)(MIX * C) * sizeof(real));
    memset(w->zeros, 0, (size_t)C * sizeof(real));
    if (a->dw2 && !(a->add & RW_DDLERP_ADD_W2)) memset(a->dw2, 0, (size_t)(MIX * D * C) * sizeof(real));
    if (a->dshift_in && !(a->add & RW_DDLERP_ADD_SHIFT_IN))
        memset(a->dshift_in, 0, (size_t)(states * C) * sizeof(real));
    for (int i = 0; i < MIX; i++)
        for (int64_t row = 0; a->dh && !a->dout[i] && !(a->add & RW_DDLERP_ADD_H) && row < a->R; row++)
            memset(row_of_w(a->dh, row, MIX * D) + i * D, 0, (size_t)D * sizeof(real));
}

void RW_CPU_NAME(ddlerp_backward)(const rw_ddlerp_args *a, const rw_exec *ex) {
    backward_work w;
    backward_layout(a, &w, a->scratch);
    clear_gradients(a, &w);
    for (int64_t tile = (a->R + BACKWARD_ROWS - 1) / BACKWARD_ROWS - 1; tile >= 0; tile--) {
        const int64_t first = tile * BACKWARD_ROWS, end = first + BACKWARD_ROWS;
        tile_backward(a, &w, first, end < a->R ? end : a->R, ex);
    }
    for (int i = 0; i < MIX; i++)
        rw_add_partials(a->dmu[i], a->add & (uint32_t)RW_DDLERP_ADD_MU << i, w.dmu + i * a->C, 1, 0, a->C);
}
