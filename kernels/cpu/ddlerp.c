/* ddlerp on a CPU: tiles of rows, small enough that what the products write is still in the cache when the mix
 * reads it.
 *
 * Forward: one thread per tile; m_i is written into out_i by the product and mixed in place.
 * Backward: a block of rows per thread, its tiles from the last to the first, because each row needs what the row after
 * it sends back. Sums over rows are kept per block and added up at the end, in order: the number of threads does not
 * change a bit. */
#include "kernels/ddlerp.h"

#include "kernels/cpu/blas.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/sequences.h"

#include <assert.h>
#include <string.h>

enum { TILE = 64, MIX = RW_DDLERP_MIX };

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
    if (a->h) tanh_rows((const real *)a->h + first * width, t + first * width, (last - first) * width);
    for (int i = 0; i < MIX; i++) {
        if (!a->out[i]) continue;
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
    const int64_t tiles = (a->R + TILE - 1) / TILE;
#pragma omp parallel for num_threads(ex->threads) schedule(static)
    for (int64_t k = 0; k < tiles; k++) {
        const int64_t first = k * TILE, end = first + TILE;
        forward_tile(a, first, end < a->R ? end : a->R, t, zeros);
    }
}

/* -- backward --------------------------------------------------------------------------------------------- */

/* Rows are cut into blocks whose number depends on R alone; one thread works through a block, tile by tile. */
static int64_t block_count(int64_t R) {
    const int64_t n = R / 256;
    return n < 1 ? 1 : n > 32 ? 32 : n;
}

/* What one block works with and leaves to be summed up. */
typedef struct {
    real *m;        /* [TILE][C] m_i, then dm_i in its place */
    real *send;     /* [TILE + 1][C] sum over i of dout_i * (mu_i + m_i): goes to the row before */
    real *product;  /* [TILE][rank] */
    real *zeros;    /* [C] */
    real *unwanted; /* [C] in place of a dxn that is NULL */
    real *dmu;      /* [MIX][C] */
    real *dstate;   /* [C] of a state that all sequences share */
    real *dw2;      /* [MIX][rank][C] */
} block_work;

static int64_t block_layout(const rw_ddlerp_args *a, block_work *w, real *base) {
    const int64_t C = a->C;
    int64_t used = 0;
    w->m = rw_take(base, &used, TILE * C);
    w->send = rw_take(base, &used, (TILE + 1) * C);
    w->product = rw_take(base, &used, TILE * a->rank);
    w->zeros = rw_take(base, &used, C), w->unwanted = rw_take(base, &used, C);
    w->dmu = rw_take(base, &used, MIX * C);
    w->dstate = rw_take(base, &used, C);
    w->dw2 = rw_take(base, &used, a->dw2 ? MIX * a->rank * C : 0);
    return used;
}

int64_t RW_CPU_NAME(ddlerp_backward_scratch)(const rw_ddlerp_args *a, const rw_exec *ex) {
    (void)ex;
    block_work w;
    return block_layout(a, &w, NULL) * block_count(a->R) * (int64_t)sizeof(real);
}

/* m = m_i of n rows. */
static void load_mix(const rw_ddlerp_args *a, int i, int64_t row, int64_t n, real *m) {
    const int64_t C = a->C, D = a->rank;
    RW_CPU_NAME(gemm)
    (NULL, false, false, n, C, D, 1, row_of(a->tanh_h, row, MIX * D) + i * D, MIX * D, (const real *)a->w2 + i * D * C,
     C, 0, m, C);
}

/* One row and mix: q = mu + m, send += dout q, dxn += dout (1 - q), m = dm = dout (prev - xn), dmu += dm. */
RW_INLINE void mix_row(const real *restrict dout, const real *restrict mu, const real *restrict prev,
                       const real *restrict xn, int64_t C, real *restrict m, real *restrict send, real *restrict dxn,
                       real *restrict dmu) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) {
        const real d = dout[c], sent = d * (mu[c] + m[c]), dm = d * (prev[c] - xn[c]);
        send[c] += sent;
        dxn[c] += d - sent;
        m[c] = dm;
        dmu[c] += dm;
    }
}

RW_CLONES static void mix_backward(const rw_ddlerp_args *a, const block_work *w, int i, int64_t first, int64_t last) {
    const int64_t C = a->C;
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, first);
    for (int64_t row = first; row < last; row++) {
        rw_sequence_seek(&s, row);
        const int64_t o = (row - first) * C;
        mix_row(row_of(a->dout[i], row, C), a->mu[i], row_before(a, &s, row, w->zeros), row_of(a->xn, row, C), C,
                w->m + o, w->send + o, a->dxn ? row_of_w(a->dxn, row, C) : w->unwanted, w->dmu + i * C);
    }
}

/* What row `row`, of the next block, sends to the last row of this one. */
RW_CLONES static void send_of_next(const rw_ddlerp_args *a, const block_work *w, int64_t row, real *restrict send) {
    const int64_t C = a->C;
    memset(send, 0, (size_t)C * sizeof(real));
    for (int i = 0; i < MIX && row < a->R; i++) {
        if (!a->dout[i]) continue;
        load_mix(a, i, row, 1, w->m);
        const real *restrict dout = row_of(a->dout[i], row, C), *restrict mu = a->mu[i], *restrict m = w->m;
#pragma omp simd
        for (int64_t c = 0; c < C; c++) send[c] += dout[c] * (mu[c] + m[c]);
    }
}

RW_INLINE void add_row(const real *restrict from, int64_t C, real *restrict to) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++) to[c] += from[c];
}

/* Each row's `send` goes to the row before it, or to the state in front of the sequence. */
RW_CLONES static void rows_backward(const rw_ddlerp_args *a, const block_work *w, int64_t first, int64_t last) {
    const int64_t C = a->C;
    const bool own_state = a->dshift_in && a->shift_in_stride != 0;
    rw_sequence s = rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, first);
    for (int64_t row = first; row < last; row++) {
        rw_sequence_seek(&s, row);
        const real *send = w->send + (row - first) * C;
        if (row == s.first)
            add_row(send, C, own_state ? (real *)a->dshift_in + s.index * a->shift_in_stride : w->dstate);
        if (a->dxn && row + 1 < s.last) add_row(send + C, C, row_of_w(a->dxn, row, C));
    }
}

/* dh (+)= p (1 - tanh^2), p = dm w2^T [rows][rank]. */
RW_CLONES static void tanh_backward(const rw_ddlerp_args *a, const real *product, int i, int64_t first, int64_t last) {
    const int64_t D = a->rank;
    const bool add = a->add & RW_DDLERP_ADD_H;
    for (int64_t row = first; row < last; row++) {
        const real *restrict t = row_of(a->tanh_h, row, MIX * D) + i * D, *restrict p = product + (row - first) * D;
        real *restrict d = row_of_w(a->dh, row, MIX * D) + i * D;
        if (!add) memset(d, 0, (size_t)D * sizeof(real));
#pragma omp simd
        for (int64_t k = 0; k < D; k++) d[k] += p[k] * (1 - t[k] * t[k]);
    }
}

static void products_backward(const rw_ddlerp_args *a, const block_work *w, int i, int64_t first, int64_t last) {
    const int64_t C = a->C, D = a->rank, n = last - first;
    const real *t = row_of(a->tanh_h, first, MIX * D) + i * D, *w2 = (const real *)a->w2 + i * D * C;
    if (a->dh) {
        RW_CPU_NAME(gemm)(NULL, false, true, n, D, C, 1, w->m, C, w2, C, 0, w->product, D);
        tanh_backward(a, w->product, i, first, last);
    }
    if (a->dw2) RW_CPU_NAME(gemm)(NULL, true, false, D, C, n, 1, t, MIX * D, w->m, C, 1, w->dw2 + i * D * C, C);
}

static void tile_backward(const rw_ddlerp_args *a, const block_work *w, int64_t first, int64_t last) {
    const size_t bytes = (size_t)((last - first) * a->C) * sizeof(real);
    memset(w->send, 0, bytes);
    if (a->dxn && !(a->add & RW_DDLERP_ADD_XN)) memset(row_of_w(a->dxn, first, a->C), 0, bytes);
    for (int i = 0; i < MIX; i++) {
        if (!a->dout[i]) continue;
        load_mix(a, i, first, last - first, w->m);
        mix_backward(a, w, i, first, last);
        products_backward(a, w, i, first, last);
    }
    rows_backward(a, w, first, last);
}

/* Tiles from the last to the first: what the tile above sends is then at hand, in the row after this one's last. */
static void block_backward(const rw_ddlerp_args *a, const block_work *w, int64_t first, int64_t last) {
    const int64_t C = a->C;
    memset(w->zeros, 0, (size_t)C * sizeof(real)), memset(w->unwanted, 0, (size_t)C * sizeof(real));
    memset(w->dstate, 0, (size_t)C * sizeof(real));
    memset(w->dmu, 0, (size_t)(MIX * C) * sizeof(real));
    if (a->dw2) memset(w->dw2, 0, (size_t)(MIX * a->rank * C) * sizeof(real));
    for (int64_t end = last; end > first;) {
        const int64_t n = end - first < TILE ? end - first : TILE;
        if (end == last)
            send_of_next(a, w, last, w->send + n * C);
        else
            memmove(w->send + n * C, w->send, (size_t)C * sizeof(real));
        tile_backward(a, w, end - n, end);
        end -= n;
    }
}

/* Zeros where single rows are added up or where a NULL dout leaves nothing to write. */
static void clear_gradients(const rw_ddlerp_args *a) {
    const int64_t D = a->rank;
    if (a->dshift_in && a->shift_in_stride != 0 && !(a->add & RW_DDLERP_ADD_SHIFT_IN))
        memset(a->dshift_in, 0, (size_t)(a->n_seq * a->C) * sizeof(real));
    if (!a->dh || a->add & RW_DDLERP_ADD_H) return;
    for (int i = 0; i < MIX; i++)
        for (int64_t row = 0; !a->dout[i] && row < a->R; row++)
            memset(row_of_w(a->dh, row, MIX * D) + i * D, 0, (size_t)D * sizeof(real));
}

static void sum_blocks(const rw_ddlerp_args *a, const block_work *w, int64_t n, int64_t stride) {
    const int64_t C = a->C;
    for (int i = 0; i < MIX; i++)
        rw_add_partials(a->dmu[i], a->add & (uint32_t)RW_DDLERP_ADD_MU << i, w->dmu + i * C, n, stride, C);
    if (a->dw2) rw_add_partials(a->dw2, a->add & RW_DDLERP_ADD_W2, w->dw2, n, stride, MIX * a->rank * C);
    if (a->dshift_in && a->shift_in_stride == 0)
        rw_add_partials(a->dshift_in, a->add & RW_DDLERP_ADD_SHIFT_IN, w->dstate, n, stride, C);
}

void RW_CPU_NAME(ddlerp_backward)(const rw_ddlerp_args *a, const rw_exec *ex) {
    block_work w;
    const int64_t blocks = block_count(a->R), size = block_layout(a, &w, a->scratch);
    assert(!a->dw2_dtype || a->dw2_dtype == RW_REAL_DTYPE);
    clear_gradients(a);
#pragma omp parallel for num_threads(ex->threads) schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; b++) {
        block_work mine;
        int64_t first, last;
        block_layout(a, &mine, (real *)a->scratch + b * size);
        rw_split(a->R, blocks, b, &first, &last);
        block_backward(a, &mine, first, last);
    }
    sum_blocks(a, &w, blocks, size);
}
