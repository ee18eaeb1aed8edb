/* wkv6 on a CPU: the recurrence as it is written, one token after the other, for one (sequence, head) per thread.
 *
 * Forward keeps the state transposed, [key j][value i], and works on lanes of i: y needs no sum across lanes. Backward
 * keeps S and G = dL/dS as [value i][key j] and works on lanes of j, because three of its four sums (dr, dk, dw) run
 * over i; the fourth (dv) keeps one partial sum per lane. Columns j do not mix in either recurrence, so backward goes
 * through blocks of a few columns which stay in the first cache.
 *
 * With G = dL/dS_t, from the last token to the first, d = v . dy, and all but S_{t-1} those of token t:
 *     dr = S_{t-1}^T dy + d (u * k)     dk = G^T v + d (u * r)     dv = G k + (r . (u * k)) dy     du += d (r * k)
 *     dw_j = sum_i G_ij S_{t-1},ij      then G = G diag(w) + dy r^T, which is dL/dS_{t-1}
 *
 * Backward needs every S_{t-1} in reverse order and may not divide by w. Forward saves S every CHUNK tokens (for N =
 * 64: as many numbers as one activation); backward runs forward again from there, first to every SUB-th token of the
 * chunk, then to every token of one SUB.
 *
 * The decay, the group norm and the gate are computed for a few tokens at a time beside the recurrence.
 * Saved: y (with norm or gate), mean and rstd (with norm), S before each CHUNK but the first of a sequence. */
#include "kernels/wkv6.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/wkv.h"

enum { TILE = 16, CHUNK = 64, SUB = 32, JB = 2 * RW_VL, IB = 4 * RW_VL };

/* -e^ww never exceeds this, so that w * e^ww is 0 and not 0 * inf for a large ww. */
#if defined(RW_REAL_F64)
#define DECAY_MAX 700.0
#else
#define DECAY_MAX 80.0f
#endif

/* -- what is saved ---------------------------------------------------------------------------------------- */

typedef struct {
    real *y;           /* [R,H*N] */
    real *mean, *rstd; /* [R,H] */
    real *states;      /* [(R-1)/CHUNK][H][N][N]; S before row x is number x / CHUNK - 1 */
} saved_parts;

/* Only rows x >= CHUNK of their sequence are saved, CHUNK apart, so x / CHUNK is never used twice. */
static int64_t saved_layout(const rw_wkv6_args *a, saved_parts *s) {
    const bool norm = a->ln_w != NULL, keep_y = norm || a->gate;
    int64_t used = 0;
    s->y = rw_take(a->saved, &used, keep_y ? a->R * a->H * a->N : 0);
    s->mean = rw_take(a->saved, &used, norm ? a->R * a->H : 0);
    s->rstd = rw_take(a->saved, &used, norm ? a->R * a->H : 0);
    s->states = rw_take(a->saved, &used, a->R > 0 ? (a->R - 1) / CHUNK * a->H * a->N * a->N : 0);
    return used;
}

int64_t RW_CPU_NAME(wkv6_saved)(const rw_wkv6_args *a, const rw_exec *ex) {
    (void)ex;
    saved_parts s;
    return saved_layout(a, &s) * (int64_t)sizeof(real);
}

static real *saved_state(const rw_wkv6_args *a, const saved_parts *s, int64_t row, int64_t h) {
    return s->states + ((row / CHUNK - 1) * a->H + h) * a->N * a->N;
}

/* -- one sequence and head -------------------------------------------------------------------------------- */

/* Pointers to head h; rows are C apart. */
typedef struct {
    int64_t N, C, H, h;
    int64_t first, last;               /* rows of the sequence */
    const real *r, *k, *v, *ww, *gate; /* [row * C]; ww NULL: constant decay */
    const real *w0, *u, *ln_w, *ln_b;  /* [N] */
    real eps;
    saved_parts saved;
} head;

static head head_of(const rw_wkv6_args *a, int64_t s, int64_t h) {
    const int64_t N = a->N, o = h * N;
    head x = {.N = N, .C = a->H * N, .H = a->H, .h = h, .eps = (real)a->eps};
    x.first = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s);
    x.last = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s + 1);
    x.r = rw_at(a->r, o);
    x.k = rw_at(a->k, o);
    x.v = rw_at(a->v, o);
    x.ww = rw_at(a->w_raw, o);
    x.gate = rw_at(a->gate, o);
    x.w0 = rw_at(a->w0, o);
    x.u = rw_at(a->u, o);
    x.ln_w = rw_at(a->ln_w, o);
    x.ln_b = a->ln_w ? rw_at(a->ln_b, o) : NULL;
    saved_layout(a, &x.saved);
    return x;
}

static const real *initial_state(const rw_wkv6_args *a, int64_t s, int64_t h) {
    return rw_at(a->s0, s * a->s0_stride + h * a->N * a->N);
}

/* w = exp(-exp(ww + w0)) of a row; slope = dw/dww = -e^ww w (forward gives its w twice: not wanted). */
RW_INLINE void decay_row(const real *ww, const real *w0, int64_t N, real *w, real *slope) {
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        real z = ww[j] + w0[j];
        z = z > DECAY_MAX ? DECAY_MAX : z;
        const real e = rw_exp(z), d = rw_exp(-e);
        slope[j] = -e * d;
        w[j] = d;
    }
}

/* Rows 1 .. n become row 0. */
RW_INLINE void repeat_row(real *x, int64_t N, int64_t n) {
    for (int64_t t = 1; t < n; t++) memcpy(x + t * N, x, (size_t)N * sizeof(real));
}

/* Of n rows. No test of a pointer inside the loop of a row: it would become a masked load, which is slow where the
 * address is not valid. */
RW_INLINE void decay(const head *x, int64_t row, int64_t n, real *w, real *slope) {
    static const real zeros[128];
    const int64_t N = x->N;
    const real *w0 = x->w0 ? x->w0 : zeros;
    if (!x->ww) { /* constant in time */
        decay_row(zeros, w0, N, w, slope);
        repeat_row(w, N, n);
        repeat_row(slope, N, n);
        return;
    }
    for (int64_t t = 0; t < n; t++) decay_row(x->ww + (row + t) * x->C, w0, N, w + t * N, slope + t * N);
}

/* -- forward ---------------------------------------------------------------------------------------------- */

typedef struct {
    real *state; /* [key][value] */
    real *w, *y; /* [TILE][N] */
} forward_work;

static int64_t forward_layout(forward_work *w, real *base, int64_t N) {
    int64_t used = 0;
    w->state = rw_take(base, &used, N * N);
    w->w = rw_take(base, &used, TILE * N);
    w->y = rw_take(base, &used, TILE * N);
    return used;
}

int64_t RW_CPU_NAME(wkv6_forward_scratch)(const rw_wkv6_args *a, const rw_exec *ex) {
    forward_work w;
    return forward_layout(&w, NULL, a->N) * ex->threads * (int64_t)sizeof(real);
}

/* One token for IB value channels: y = S r, then S = S diag(w) + v k^T. */
RW_INLINE void forward_token(real *state, int64_t N, const real *r, const real *k, const real *v, const real *w,
                             real *y) {
    const rw_vec *vv = (const rw_vec *)v;
    const rw_vec v0 = vv[0], v1 = vv[1], v2 = vv[2], v3 = vv[3];
    rw_vec y0 = {0}, y1 = {0}, y2 = {0}, y3 = {0};
    for (int64_t j = 0; j < N; j++) {
        rw_vec *s = (rw_vec *)(state + j * N);
        const rw_vec s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3];
        const real rj = r[j], kj = k[j], wj = w[j];
        y0 += s0 * rj, y1 += s1 * rj, y2 += s2 * rj, y3 += s3 * rj;
        s[0] = s0 * wj + v0 * kj, s[1] = s1 * wj + v1 * kj, s[2] = s2 * wj + v2 * kj, s[3] = s3 * wj + v3 * kj;
    }
    rw_vec *out = (rw_vec *)y;
    out[0] = y0, out[1] = y1, out[2] = y2, out[3] = y3;
}

RW_INLINE void forward_bonus(const head *x, int64_t row, real *y) {
    const int64_t o = row * x->C;
    const real b = rw_row_dot3(x->r + o, x->u, x->k + o, x->N);
#pragma omp simd
    for (int64_t i = 0; i < x->N; i++) y[i] += b * x->v[o + i];
}

RW_INLINE void norm_apply(const head *x, const real *restrict y, real mean, real rstd, real *restrict z) {
    const int64_t N = x->N;
    if (!x->ln_w) {
        memcpy(z, y, (size_t)N * sizeof(real));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < N; i++) z[i] = (y[i] - mean) * rstd * x->ln_w[i];
    if (!x->ln_b) return;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) z[i] += x->ln_b[i];
}

/* Group norm and gate of one token, and what backward needs of it. */
RW_INLINE void forward_tail(const head *x, bool save, int64_t row, const real *restrict y, real *restrict out) {
    const int64_t N = x->N, o = row * x->C;
    real mean = 0, rstd = 1;
    if (save && x->saved.y && (x->ln_w || x->gate)) memcpy(x->saved.y + o + x->h * N, y, (size_t)N * sizeof(real));
    if (x->ln_w) {
        mean = rw_row_sum(y, N) / (real)N;
        rstd = 1 / (real)sqrt(rw_row_sum_sq(y, mean, N) / (real)N + x->eps);
        if (save) x->saved.mean[row * x->H + x->h] = mean, x->saved.rstd[row * x->H + x->h] = rstd;
    }
    norm_apply(x, y, mean, rstd, out);
    if (!x->gate) return;
    const real *gate = x->gate + o;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) out[i] *= gate[i] * rw_sigmoid(gate[i]);
}

RW_CLONES static void forward_tile(const head *x, const forward_work *m, bool save, int64_t row, int64_t n, real *out) {
    const int64_t N = x->N, C = x->C;
    decay(x, row, n, m->w, m->w);
    for (int64_t i = 0; i < N; i += IB)
        for (int64_t t = 0; t < n; t++) {
            const int64_t o = (row + t) * C;
            forward_token(m->state + i, N, x->r + o, x->k + o, x->v + o + i, m->w + t * N, m->y + t * N + i);
        }
    for (int64_t t = 0; t < n; t++) {
        forward_bonus(x, row + t, m->y + t * N);
        forward_tail(x, save, row + t, m->y + t * N, out + (row + t) * C);
    }
}

static void forward_head(const rw_wkv6_args *a, const forward_work *m, int64_t s, int64_t h) {
    const head x = head_of(a, s, h);
    const int64_t N = a->N;
    const real *s0 = initial_state(a, s, h);
    if (s0)
        rw_transpose(m->state, s0, N);
    else
        memset(m->state, 0, (size_t)(N * N) * sizeof(real));
    for (int64_t row = x.first; row < x.last; row += TILE) {
        if (a->saved && row > x.first && (row - x.first) % CHUNK == 0)
            rw_transpose(saved_state(a, &x.saved, row, h), m->state, N);
        forward_tile(&x, m, a->saved != NULL, row, x.last - row < TILE ? x.last - row : TILE, rw_at_w(a->out, h * N));
    }
    if (a->s_out) rw_transpose(rw_at_w(a->s_out, (s * a->H + h) * N * N), m->state, N);
}

void RW_CPU_NAME(wkv6_forward)(const rw_wkv6_args *a, const rw_exec *ex) {
#pragma omp parallel num_threads(ex->threads)
    {
        forward_work m, none;
        const int64_t size = forward_layout(&none, NULL, a->N);
        forward_layout(&m, (real *)a->scratch + size * omp_get_thread_num(), a->N);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < a->n_seq * a->H; i++) forward_head(a, &m, i / a->H, i % a->H);
    }
}

/* -- backward --------------------------------------------------------------------------------------------- */

typedef struct {
    real *w, *slope;                /* [CHUNK][N] decay and dw/dww */
    real *dy, *dr, *dk, *dw;        /* [CHUNK][N] */
    real *dv;                       /* [CHUNK][N][RW_VL] a partial sum per lane */
    real *grad;                     /* [N/JB][N][JB] G */
    real *state;                    /* [N][JB] */
    real *starts;                   /* [CHUNK/SUB][N][JB] S before each SUB of the chunk */
    real *states;                   /* [SUB][N][JB] S before each token */
    real *bonus, *delta;            /* [CHUNK] r.(u*k) and v.dy */
    real *tail, *dgate;             /* [N] */
    real *du, *dw0, *dln_w, *dln_b; /* [N] sums of one chunk */
} backward_work;

static int64_t backward_layout(backward_work *m, real *base, int64_t N) {
    int64_t used = 0;
    m->w = rw_take(base, &used, CHUNK * N), m->slope = rw_take(base, &used, CHUNK * N);
    m->dy = rw_take(base, &used, CHUNK * N), m->dr = rw_take(base, &used, CHUNK * N);
    m->dk = rw_take(base, &used, CHUNK * N), m->dw = rw_take(base, &used, CHUNK * N);
    m->dv = rw_take(base, &used, CHUNK * N * RW_VL);
    m->grad = rw_take(base, &used, N * N);
    m->state = rw_take(base, &used, N * JB);
    m->starts = rw_take(base, &used, CHUNK / SUB * N * JB);
    m->states = rw_take(base, &used, SUB * N * JB);
    m->bonus = rw_take(base, &used, CHUNK), m->delta = rw_take(base, &used, CHUNK);
    m->tail = rw_take(base, &used, N), m->dgate = rw_take(base, &used, N);
    m->du = rw_take(base, &used, N), m->dw0 = rw_take(base, &used, N);
    m->dln_w = rw_take(base, &used, N), m->dln_b = rw_take(base, &used, N);
    return used;
}

/* Sums over sequences: du, dw0, dln_w, dln_b [n_seq][4][C]; ds0 [n_seq][H][N][N] when it is shared. */
typedef struct {
    real *params, *ds0;
} sums;

static int64_t sums_layout(const rw_wkv6_args *a, sums *p, real *base) {
    const int64_t C = a->H * a->N;
    int64_t used = 0;
    p->params = rw_take(base, &used, a->n_seq * 4 * C);
    p->ds0 = rw_take(base, &used, a->s0_stride == 0 ? a->n_seq * C * a->N : 0);
    return used;
}

int64_t RW_CPU_NAME(wkv6_backward_scratch)(const rw_wkv6_args *a, const rw_exec *ex) {
    backward_work m;
    sums p;
    return (backward_layout(&m, NULL, a->N) * ex->threads + sums_layout(a, &p, NULL)) * (int64_t)sizeof(real);
}

/* dz = dL/dz of one token, z the output of the norm, through the gate; writes dgate. */
RW_INLINE void gate_backward(const rw_wkv6_args *a, const head *x, const backward_work *m, int64_t row,
                             const real *restrict z, real *restrict dz) {
    const int64_t N = x->N, o = row * x->C;
    const real *restrict gate = x->gate + o;
    real *restrict dgate = m->dgate;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        const real g = gate[i], sg = rw_sigmoid(g), d = dz[i];
        dz[i] = d * g * sg;
        dgate[i] = d * z[i] * (sg + g * sg * (1 - sg));
    }
    rw_store_row(a->dgate, o + x->h * N, a->add & RW_WKV6_ADD_GATE, dgate, N);
}

RW_INLINE void norm_backward(const head *x, const backward_work *m, const real *restrict y, real mean, real rstd,
                             real *restrict dz) {
    const int64_t N = x->N;
    real *restrict xhat = m->tail;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        xhat[i] = (y[i] - mean) * rstd;
        m->dln_w[i] += dz[i] * xhat[i];
        m->dln_b[i] += dz[i];
        dz[i] *= x->ln_w[i];
    }
    const real d = rw_row_sum(dz, N) / (real)N, dx = rw_row_dot(dz, xhat, N) / (real)N;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) dz[i] = rstd * (dz[i] - d - xhat[i] * dx);
}

/* dy of the rows of a chunk. */
RW_INLINE void tail_backward(const rw_wkv6_args *a, const head *x, const backward_work *m, int64_t row, int64_t n) {
    for (int64_t t = 0; t < n; t++) {
        const int64_t q = (row + t) * x->H + x->h;
        const real *y = x->ln_w || x->gate ? x->saved.y + q * x->N : NULL;
        const real mean = x->ln_w ? x->saved.mean[q] : 0, rstd = x->ln_w ? x->saved.rstd[q] : 1;
        real *dz = m->dy + t * x->N;
        if (a->dout)
            memcpy(dz, rw_at(a->dout, q * x->N), (size_t)x->N * sizeof(real));
        else
            memset(dz, 0, (size_t)x->N * sizeof(real));
        if (x->gate) {
            norm_apply(x, y, mean, rstd, m->tail);
            gate_backward(a, x, m, row + t, m->tail, dz);
        }
        if (x->ln_w) norm_backward(x, m, y, mean, rstd, dz);
    }
}

/* S = S diag(w) + v k^T for JB columns. */
RW_INLINE void state_step(real *to, const real *from, int64_t N, const real *k, const real *v, const real *w) {
    const rw_vec k0 = *(const rw_vec *)k, k1 = *(const rw_vec *)(k + RW_VL);
    const rw_vec w0 = *(const rw_vec *)w, w1 = *(const rw_vec *)(w + RW_VL);
    for (int64_t i = 0; i < N; i++) {
        const rw_vec *s = (const rw_vec *)(from + i * JB);
        rw_vec *d = (rw_vec *)(to + i * JB);
        const real vi = v[i];
        d[0] = s[0] * w0 + k0 * vi;
        d[1] = s[1] * w1 + k1 * vi;
    }
}

/* One token of the backward recurrence for JB columns, all but the bonus. */
RW_INLINE void grad_step(real *grad, const real *state, int64_t N, const real *r, const real *k, const real *v,
                         const real *w, const real *dy, real *dr, real *dk, real *dw, real *dv) {
    const rw_vec k0 = *(const rw_vec *)k, k1 = *(const rw_vec *)(k + RW_VL);
    const rw_vec w0 = *(const rw_vec *)w, w1 = *(const rw_vec *)(w + RW_VL);
    const rw_vec r0 = *(const rw_vec *)r, r1 = *(const rw_vec *)(r + RW_VL);
    rw_vec dr0 = {0}, dr1 = {0}, dk0 = {0}, dk1 = {0}, dw0 = {0}, dw1 = {0};
    for (int64_t i = 0; i < N; i++) {
        const rw_vec *s = (const rw_vec *)(state + i * JB);
        rw_vec *g = (rw_vec *)(grad + i * JB), *p = (rw_vec *)(dv + i * RW_VL);
        const rw_vec s0 = s[0], s1 = s[1], g0 = g[0], g1 = g[1];
        const real dyi = dy[i], vi = v[i];
        dr0 += s0 * dyi, dr1 += s1 * dyi;
        dk0 += g0 * vi, dk1 += g1 * vi;
        dw0 += g0 * s0, dw1 += g1 * s1;
        p[0] = p[0] + g0 * k0 + g1 * k1;
        g[0] = g0 * w0 + r0 * dyi;
        g[1] = g1 * w1 + r1 * dyi;
    }
    *(rw_vec *)dr = dr0, *(rw_vec *)(dr + RW_VL) = dr1;
    *(rw_vec *)dk = dk0, *(rw_vec *)(dk + RW_VL) = dk1;
    *(rw_vec *)dw = dw0, *(rw_vec *)(dw + RW_VL) = dw1;
}

/* Columns j .. j + JB of n tokens from `row`; m->state holds S before the first of them. */
RW_INLINE void chunk_columns(const head *x, const backward_work *m, int64_t row, int64_t n, int64_t j) {
    const int64_t N = x->N, C = x->C, size = N * JB;
    const real *r = x->r + row * C + j, *k = x->k + row * C + j, *v = x->v + row * C, *w = m->w + j;
    for (int64_t t = 0; t < n; t++) {
        if (t % SUB == 0) memcpy(m->starts + t / SUB * size, m->state, (size_t)size * sizeof(real));
        if (t / SUB == (n - 1) / SUB) break;
        state_step(m->state, m->state, N, k + t * C, v + t * C, w + t * N);
    }
    for (int64_t b = (n - 1) / SUB; b >= 0; b--) {
        const int64_t t0 = b * SUB, t1 = t0 + SUB < n ? t0 + SUB : n;
        memcpy(m->states, m->starts + b * size, (size_t)size * sizeof(real));
        for (int64_t t = t0; t + 1 < t1; t++)
            state_step(m->states + (t + 1 - t0) * size, m->states + (t - t0) * size, N, k + t * C, v + t * C,
                       w + t * N);
        for (int64_t t = t1 - 1; t >= t0; t--)
            grad_step(m->grad + j * N, m->states + (t - t0) * size, N, r + t * C, k + t * C, v + t * C, w + t * N,
                      m->dy + t * N, m->dr + t * N + j, m->dk + t * N + j, m->dw + t * N + j, m->dv + t * N * RW_VL);
    }
}

/* The bonus terms and the sums over lanes of one token, then out with it. */
RW_INLINE void token_finish(const rw_wkv6_args *a, const head *x, const backward_work *m, int64_t row, int64_t t) {
    const int64_t N = x->N, o = (row + t) * x->C, to = o + x->h * N;
    const real *r = x->r + o, *k = x->k + o, *v = x->v + o, *u = x->u;
    real *restrict dr = m->dr + t * N, *restrict dk = m->dk + t * N, *restrict dw = m->dw + t * N;
    real *restrict dv = m->tail;
    const real *dy = m->dy + t * N, *slope = m->slope + t * N;
    const real bonus = rw_row_dot3(r, u, k, N), delta = rw_row_dot(v, dy, N);
    const real *restrict lanes = m->dv + t * N * RW_VL;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        const real *q = lanes + i * RW_VL;
        real even = q[0] + q[2], odd = q[1] + q[3];
        if (RW_VL == 8) even += q[4] + q[6], odd += q[5] + q[7];
        dv[i] = even + odd + bonus * dy[i];
    }
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        const real d = delta * u[j];
        dr[j] += d * k[j];
        dk[j] += d * r[j];
        dw[j] *= slope[j];
        m->du[j] += delta * r[j] * k[j];
        m->dw0[j] += dw[j];
    }
    rw_store_row(a->dr, to, a->add & RW_WKV6_ADD_R, dr, N);
    rw_store_row(a->dk, to, a->add & RW_WKV6_ADD_K, dk, N);
    rw_store_row(a->dv, to, a->add & RW_WKV6_ADD_V, dv, N);
    rw_store_row(a->dw_raw, to, a->add & RW_WKV6_ADD_W, dw, N);
}

/* S before `row`, columns j .. j + JB, from what forward saved. */
static void load_state(const real *from, real *to, int64_t N, int64_t j) {
    if (!from) memset(to, 0, (size_t)(N * JB) * sizeof(real));
    for (int64_t i = 0; from && i < N; i++) memcpy(to + i * JB, from + i * N + j, JB * sizeof(real));
}

RW_CLONES static void backward_chunk(const rw_wkv6_args *a, const head *x, const backward_work *m, const real *state,
                                     int64_t row, int64_t n, bool recurrence) {
    const int64_t N = x->N;
    tail_backward(a, x, m, row, n);
    if (!recurrence) return;
    decay(x, row, n, m->w, m->slope);
    memset(m->dv, 0, (size_t)(n * N * RW_VL) * sizeof(real));
    for (int64_t j = 0; j < N; j += JB) {
        load_state(state, m->state, N, j);
        chunk_columns(x, m, row, n, j);
    }
    for (int64_t t = 0; t < n; t++) token_finish(a, x, m, row, t);
}

/* Between [N][N] and the blocks of columns of backward_work.grad. */
static void grad_load(const backward_work *m, const real *from, int64_t N) {
    for (int64_t j = 0; j < N; j += JB) load_state(from, m->grad + j * N, N, j);
}
static void grad_store(const backward_work *m, real *to, bool add, int64_t N) {
    for (int64_t j = 0; to && j < N; j += JB)
        for (int64_t i = 0; i < N; i++) rw_store_row(to, i * N + j, add, m->grad + j * N + i * JB, JB);
}

/* The sums of a chunk join those of the sequence: [4][C] in the order of `sums`. */
static void chunk_sums(const backward_work *m, real *params, int64_t N, int64_t C) {
    real *const from[4] = {m->du, m->dw0, m->dln_w, m->dln_b};
    for (int q = 0; q < 4; q++)
        for (int64_t i = 0; i < N; i++) params[q * C + i] += from[q][i], from[q][i] = 0;
}

static void backward_head(const rw_wkv6_args *a, const backward_work *m, const sums *p, int64_t s, int64_t h,
                          bool recurrence) {
    const head x = head_of(a, s, h);
    const int64_t N = x.N, C = x.C, NN = N * N, length = x.last - x.first;
    real *params = p->params + s * 4 * C + h * N;
    real *const zero[8] = {m->du, m->dw0, m->dln_w, m->dln_b, params, params + C, params + 2 * C, params + 3 * C};
    for (int q = 0; q < 8; q++) memset(zero[q], 0, (size_t)N * sizeof(real));
    grad_load(m, rw_at(a->ds_out, (s * a->H + h) * NN), N);
    for (int64_t c = (length - 1) / CHUNK; length > 0 && c >= 0; c--) {
        const int64_t row = x.first + c * CHUNK;
        const real *state = c > 0 ? saved_state(a, &x.saved, row, h) : initial_state(a, s, h);
        backward_chunk(a, &x, m, state, row, x.last - row < CHUNK ? x.last - row : CHUNK, recurrence);
        chunk_sums(m, params, N, C);
    }
    if (p->ds0)
        grad_store(m, p->ds0 + (s * a->H + h) * NN, false, N);
    else
        grad_store(m, rw_at_w(a->ds0, s * a->s0_stride + h * NN), a->add & RW_WKV6_ADD_S0, N);
}

void RW_CPU_NAME(wkv6_backward)(const rw_wkv6_args *a, const rw_exec *ex) {
    backward_work none;
    sums p;
    const int64_t C = a->H * a->N, size = backward_layout(&none, NULL, a->N);
    real *work = a->scratch;
    sums_layout(a, &p, work + size * ex->threads);
    if (a->s0_stride != 0 || !a->ds0) p.ds0 = NULL;
    const bool recurrence = a->dr || a->dk || a->dv || a->dw_raw || a->dw0 || a->du || a->ds0;
#pragma omp parallel num_threads(ex->threads)
    {
        backward_work m;
        backward_layout(&m, work + size * omp_get_thread_num(), a->N);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < a->n_seq * a->H; i++) backward_head(a, &m, &p, i / a->H, i % a->H, recurrence);
    }
    const uint32_t add = a->add;
    rw_add_partials(a->du, add & RW_WKV6_ADD_U, p.params, a->n_seq, 4 * C, C);
    rw_add_partials(a->dw0, add & RW_WKV6_ADD_W0, p.params + C, a->n_seq, 4 * C, C);
    rw_add_partials(a->dln_w, add & RW_WKV6_ADD_LN_W, p.params + 2 * C, a->n_seq, 4 * C, C);
    rw_add_partials(a->dln_b, add & RW_WKV6_ADD_LN_B, p.params + 3 * C, a->n_seq, 4 * C, C);
    if (p.ds0) rw_add_partials(a->ds0, add & RW_WKV6_ADD_S0, p.ds0, a->n_seq, C * a->N, C * a->N);
}
