/* wkv7 on a CPU: the recurrence as it is written, one token after the other, for one (sequence, head) per thread.
 *
 * With G = dL/dS_t, from the last token to the first, all but S_{t-1} those of token t, sk = S_{t-1} kk, b = kk * a:
 *     G += dy r^T      dr = S_t^T dy      dk = G^T v      dv' = G k      db = -G^T sk
 *     e = G b          dkk = -S_{t-1}^T e (and db * a)    dw_j = sum_i G_ij S_{t-1},ij
 *     then G = G diag(w) - e kk^T, which is dL/dS_{t-1}
 *
 * The state is kept transposed, [key j][value i], and everything works on lanes of i, the value channel. Rows of S (and
 * of G = dL/dS) do not mix in either direction, so both go through blocks of a few value channels which stay in the
 * first cache. y, S kk, dv and G b need no sum across lanes; the five sums over i of the backward pass (dr, dk, db,
 * dkk, dw) keep one partial sum per lane and are added up once a token.
 *
 * One pass over the state does a token: it updates S, reads y, and multiplies the new S with the kk of the next token.
 *
 * Backward needs every S_t in reverse order and does not divide by w: forward saves S every CHUNK tokens (for N = 64:
 * as many numbers as two activations), backward runs forward again from there and keeps the states of one chunk.
 *
 * All that is done token by token (preparation, norm, bonus, gate) is computed for a few tokens at a time beside the
 * recurrence, into packed rows of one head: rows of the inputs are H*N apart, and when that is a power of two they
 * compete for the same few cache lines.
 * Saved: y (with norm or gate), mean and rstd (with norm), S before each CHUNK but the first of a sequence. */
#include "kernels/wkv7.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/wkv.h"

enum { TILE = 16, CHUNK = 32, IV = 4, IB = IV * RW_VL, LINE = 64 / sizeof(real) };

#define DECAY_RATE ((real)0.6065306597126334) /* exp(-1/2) */
#define DECAY_MID  ((real)0.738403149974731)  /* exp(-DECAY_RATE / 2) */
#define NORM_MIN   ((real)1e-12)

/* -- what is saved ---------------------------------------------------------------------------------------- */

typedef struct {
    real *y;           /* [R,H*N] */
    real *mean, *rstd; /* [R,H] */
    real *states;      /* [(R-1)/CHUNK][H][N][N] transposed; S before row x is number x / CHUNK - 1 */
} saved_parts;

/* Only rows x >= CHUNK of their sequence are saved, CHUNK apart, so x / CHUNK is never used twice. */
static int64_t saved_layout(const rw_wkv7_args *a, saved_parts *s) {
    const bool norm = a->ln_w != NULL, keep_y = norm || a->g;
    int64_t used = 0;
    s->y = rw_take(a->saved, &used, keep_y ? a->R * a->H * a->N : 0);
    s->mean = rw_take(a->saved, &used, norm ? a->R * a->H : 0);
    s->rstd = rw_take(a->saved, &used, norm ? a->R * a->H : 0);
    s->states = rw_take(a->saved, &used, a->R > 0 ? (a->R - 1) / CHUNK * a->H * a->N * a->N : 0);
    return used;
}

int64_t RW_CPU_NAME(wkv7_saved)(const rw_wkv7_args *a, const rw_exec *ex) {
    (void)ex;
    saved_parts s;
    return saved_layout(a, &s) * (int64_t)sizeof(real);
}

/* -- one sequence and head -------------------------------------------------------------------------------- */

/* Pointers to head h; rows are C apart. */
typedef struct {
    int64_t N, C, H, h;
    int64_t first, last;                                        /* rows of the sequence */
    const real *r, *w_raw, *k0, *v, *a_up, *v_up, *v_first, *g; /* [row * C] */
    const real *w0, *a0, *v0, *k_k, *k_a, *r_k, *ln_w, *ln_b;   /* [N] */
    real eps;
    saved_parts saved;
} head;

static head head_of(const rw_wkv7_args *a, int64_t s, int64_t h) {
    const int64_t N = a->N, o = h * N;
    head x = {.N = N, .C = a->H * N, .H = a->H, .h = h, .eps = (real)a->eps};
    x.first = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s);
    x.last = rw_seq_row(a->cu_seqlens, a->n_seq, a->R, s + 1);
    x.r = rw_at(a->r, o);
    x.w_raw = rw_at(a->w_raw, o);
    x.k0 = rw_at(a->k0, o);
    x.v = rw_at(a->v, o);
    x.a_up = rw_at(a->a_up, o);
    x.v_up = rw_at(a->v_up, o);
    x.v_first = rw_at(a->v_first, o);
    x.g = rw_at(a->g, o);
    x.w0 = rw_at(a->w0, o);
    x.a0 = rw_at(a->a0, o);
    x.v0 = rw_at(a->v0, o);
    x.k_k = rw_at(a->k_k, o);
    x.k_a = rw_at(a->k_a, o);
    x.r_k = rw_at(a->r_k, o);
    x.ln_w = rw_at(a->ln_w, o);
    x.ln_b = rw_at(a->ln_b, o);
    saved_layout(a, &x.saved);
    return x;
}

static real *saved_state(const head *x, int64_t row) {
    return x->saved.states + ((row / CHUNK - 1) * x->H + x->h) * x->N * x->N;
}

/* -- preparation ------------------------------------------------------------------------------------------ */

/* Packed rows of one head, [n][N] each. What the recurrence reads, and what else the backward pass needs. */
typedef struct {
    real *r, *w, *k, *v, *kk, *b, *a; /* b = kk * a */
    real *w_slope, *a_rest;           /* dw/dw_raw, 1 - a */
    real *mix, *mix_rest;             /* sigma(v0 + v_up) and 1 - that */
    real *scale;                      /* [n] kk = k0 * k_k * scale */
} prepared;

static void prepared_layout(prepared *p, real *base, int64_t *used, int64_t n, int64_t N, bool backward) {
    real **const both[] = {&p->r, &p->w, &p->k, &p->v, &p->kk, &p->b, &p->a};
    real **const more[] = {&p->w_slope, &p->a_rest, &p->mix, &p->mix_rest};
    for (int i = 0; i < 7; i++) *both[i] = rw_take(base, used, n * N);
    for (int i = 0; i < 4; i++) *more[i] = rw_take(base, used, backward ? n * N : 0);
    p->scale = rw_take(base, used, n);
}

/* exp(-DECAY_RATE s) for 0 <= s <= 1: the exponent is small when counted from the middle. */
RW_INLINE real decay(real s) {
    return DECAY_MID + DECAY_MID * rw_expm1_small(DECAY_RATE * ((real)0.5 - s));
}

RW_INLINE void prepare_keys(const head *x, int64_t row, const prepared *p, int64_t t, bool backward) {
    const int64_t N = x->N, o = row * x->C, q = t * N;
    const real *restrict r = x->r + o, *restrict w_raw = x->w_raw + o, *restrict k0 = x->k0 + o;
    const real *restrict a_up = x->a_up + o;
    real *restrict pr = p->r + q, *restrict w = p->w + q, *restrict k = p->k + q, *restrict kk = p->kk + q;
    real *restrict a = p->a + q, *restrict w_slope = p->w_slope + q, *restrict a_rest = p->a_rest + q;
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        real w_rest, rest;
        const real sw = rw_sigmoid_parts(x->w0[j] + w_raw[j], &w_rest);
        a[j] = rw_sigmoid_parts(x->a0[j] + a_up[j], &rest);
        w[j] = decay(sw);
        pr[j] = r[j];
        k[j] = k0[j] * (1 - rest * x->k_a[j]);
        kk[j] = k0[j] * x->k_k[j];
        if (backward) w_slope[j] = -DECAY_RATE * w[j] * (sw * w_rest);
        if (backward) a_rest[j] = rest;
    }
}

RW_INLINE void normalise_keys(int64_t N, const prepared *p, int64_t t) {
    real *restrict kk = p->kk + t * N, *restrict b = p->b + t * N;
    const real *restrict a = p->a + t * N;
    const real norm = (real)sqrt(rw_row_dot(kk, kk, N)), scale = 1 / (norm > NORM_MIN ? norm : NORM_MIN);
    p->scale[t] = scale;
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        kk[j] *= scale;
        b[j] = kk[j] * a[j];
    }
}

RW_INLINE void mix_values(const head *x, int64_t row, const prepared *p, int64_t t, bool backward) {
    const int64_t N = x->N, o = row * x->C, q = t * N;
    real *restrict v = p->v + q, *restrict mix = p->mix + q, *restrict mix_rest = p->mix_rest + q;
    if (!x->v_up) {
        memcpy(v, x->v + o, (size_t)N * sizeof(real));
        return;
    }
    const real *restrict own = x->v + o, *restrict v_up = x->v_up + o, *restrict v_first = x->v_first + o;
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        real rest;
        const real s = rw_sigmoid_parts(x->v0[j] + v_up[j], &rest);
        v[j] = own[j] + (v_first[j] - own[j]) * s;
        if (backward) mix[j] = s;
        if (backward) mix_rest[j] = rest;
    }
}

/* Asks for n rows of one head: they are H*N apart, which the processor does not foresee. Into the second cache: the
 * first holds the state. */
RW_INLINE void fetch_rows(const head *x, const real *rows, int64_t row, int64_t n) {
    if (!rows) return;
    for (int64_t t = row; t < row + n; t++)
        for (int64_t i = 0; i < x->N; i += LINE) __builtin_prefetch(rows + t * x->C + i, 0, 2);
}

RW_INLINE void fetch_inputs(const head *x, int64_t row, int64_t n) {
    const real *const rows[] = {x->r, x->w_raw, x->k0, x->v, x->a_up, x->v_up, x->v_first, x->g};
    for (int q = 0; q < 8; q++) fetch_rows(x, rows[q], row, n);
}

RW_INLINE void prepare(const head *x, int64_t row, int64_t n, const prepared *p, bool backward) {
    for (int64_t t = 0; t < n; t++) {
        prepare_keys(x, row + t, p, t, backward);
        normalise_keys(x->N, p, t);
        mix_values(x, row + t, p, t, backward);
    }
}

/* -- the recurrence, IB value channels at a time ----------------------------------------------------------- */

/* sk = S kk */
RW_INLINE void state_times(const real *state, int64_t pitch, int64_t N, const real *kk, rw_vec *sk) {
    rw_vec sum[IV] = {{0}};
    for (int64_t j = 0; j < N; j++) {
        const rw_vec *s = (const rw_vec *)(state + j * pitch);
        for (int q = 0; q < IV; q++) sum[q] += s[q] * kk[j];
    }
    for (int q = 0; q < IV; q++) sk[q] = sum[q];
}

/* One token: S = S diag(w) - sk b^T + v k^T, y = S r (when wanted), then sk = S kk_next. */
RW_INLINE void state_token(const real *from, real *to, int64_t pitch, int64_t N, const prepared *p, int64_t t,
                           const real *v, const real *kk_next, rw_vec *sk, bool want_y, real *y) {
    const real *r = p->r + t * N, *w = p->w + t * N, *k = p->k + t * N, *b = p->b + t * N;
    rw_vec vv[IV], old[IV], sum[IV] = {{0}}, next[IV] = {{0}};
    for (int q = 0; q < IV; q++) {
        vv[q] = ((const rw_vec *)v)[q];
        old[q] = sk[q];
    }
    for (int64_t j = 0; j < N; j++) {
        const rw_vec *s = (const rw_vec *)(from + j * pitch);
        rw_vec *d = (rw_vec *)(to + j * pitch);
        const real rj = r[j], wj = w[j], kj = k[j], bj = b[j], next_j = kk_next[j];
        for (int q = 0; q < IV; q++) {
            const rw_vec x = s[q] * wj - old[q] * bj + vv[q] * kj;
            d[q] = x;
            next[q] += x * next_j;
            if (want_y) sum[q] += x * rj;
        }
    }
    for (int q = 0; q < IV; q++) {
        sk[q] = next[q];
        if (want_y) ((rw_vec *)y)[q] = sum[q];
    }
}

/* -- forward ---------------------------------------------------------------------------------------------- */

typedef struct {
    real *state; /* [key][value] */
    prepared p;  /* of a tile */
    real *y;     /* [TILE][N] */
} forward_work;

static int64_t forward_layout(forward_work *w, real *base, int64_t N) {
    int64_t used = 0;
    w->state = rw_take(base, &used, N * N);
    prepared_layout(&w->p, base, &used, TILE, N, false);
    w->y = rw_take(base, &used, TILE * N);
    return used;
}

int64_t RW_CPU_NAME(wkv7_forward_scratch)(const rw_wkv7_args *a, const rw_exec *ex) {
    forward_work w;
    return forward_layout(&w, NULL, a->N) * ex->threads * (int64_t)sizeof(real);
}

/* Norm, bonus and gate of one token, and what backward needs of it. */
RW_INLINE void forward_tail(const head *x, bool save, int64_t row, const forward_work *m, int64_t t,
                            real *restrict out) {
    const int64_t N = x->N, o = row * x->C;
    const real *restrict y = m->y + t * N, *restrict v = m->p.v + t * N;
    real mean = 0, rstd = 1;
    if (save && (x->ln_w || x->g)) memcpy(x->saved.y + o + x->h * N, y, (size_t)N * sizeof(real));
    if (x->ln_w) {
        rw_norm_stats(y, N, x->eps, &mean, &rstd);
        if (save) {
            x->saved.mean[row * x->H + x->h] = mean;
            x->saved.rstd[row * x->H + x->h] = rstd;
        }
        rw_norm_apply(y, mean, rstd, x->ln_w, x->ln_b, N, out);
    } else {
        memcpy(out, y, (size_t)N * sizeof(real));
    }
    if (x->r_k) {
        const real bonus = rw_row_dot3(m->p.r + t * N, m->p.k + t * N, x->r_k, N);
#pragma omp simd
        for (int64_t i = 0; i < N; i++) out[i] += bonus * v[i];
    }
    if (!x->g) return;
    const real *restrict g = x->g + o;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) out[i] *= g[i];
}

RW_CLONES static void forward_tile(const head *x, const forward_work *m, bool save, int64_t row, int64_t n, real *out) {
    const int64_t N = x->N;
    prepare(x, row, n, &m->p, false);
    fetch_inputs(x, row + n, x->last - row - n < TILE ? x->last - row - n : TILE);
    for (int64_t i = 0; i < N; i += IB) {
        rw_vec sk[IV];
        state_times(m->state + i, N, N, m->p.kk, sk);
        for (int64_t t = 0; t < n; t++) {
            const real *next = m->p.kk + (t + 1 < n ? t + 1 : t) * N; /* the last product is not used */
            state_token(m->state + i, m->state + i, N, N, &m->p, t, m->p.v + t * N + i, next, sk, true,
                        m->y + t * N + i);
        }
    }
    for (int64_t t = 0; t < n; t++) forward_tail(x, save, row + t, m, t, out + (row + t) * x->C);
}

static void forward_head(const rw_wkv7_args *a, const forward_work *m, int64_t s, int64_t h) {
    const head x = head_of(a, s, h);
    const int64_t N = a->N, size = N * N;
    const real *s0 = rw_at(a->s0, s * a->s0_stride + h * size);
    if (s0)
        rw_transpose(m->state, s0, N);
    else
        memset(m->state, 0, (size_t)size * sizeof(real));
    for (int64_t row = x.first; row < x.last; row += TILE) {
        if (a->saved && row > x.first && (row - x.first) % CHUNK == 0)
            memcpy(saved_state(&x, row), m->state, (size_t)size * sizeof(real));
        forward_tile(&x, m, a->saved != NULL, row, x.last - row < TILE ? x.last - row : TILE, rw_at_w(a->out, h * N));
    }
    if (a->s_out) rw_transpose(rw_at_w(a->s_out, (s * a->H + h) * size), m->state, N);
}

void RW_CPU_NAME(wkv7_forward)(const rw_wkv7_args *a, const rw_exec *ex) {
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

enum { D_W0, D_A0, D_V0, D_K_K, D_K_A, D_R_K, D_LN_W, D_LN_B, PARAMS };
enum { LANES_R, LANES_K, LANES_B, LANES_KK, LANES_W, LANE_SUMS };

typedef struct {
    prepared p;                              /* of a chunk */
    real *dy, *dr, *dk, *dv, *dkk, *db, *dw; /* [CHUNK][N]; of the prepared rows; dw: sum over i of G S */
    real *grad;                              /* [N/IB][N][IB] G */
    real *states;                            /* [CHUNK+1][N][IB] S before each token, and after the last */
    real *sk;                                /* [CHUNK][IB] */
    real *lanes;                             /* [LANE_SUMS][N][RW_VL / 2] partial sums of one token */
    real *z, *dz, *row;                      /* [N] */
    real *sums[PARAMS];                      /* [N] of one chunk */
} backward_work;

static int64_t backward_layout(backward_work *m, real *base, int64_t N) {
    real **const rows[] = {&m->dy, &m->dr, &m->dk, &m->dv, &m->dkk, &m->db, &m->dw};
    int64_t used = 0;
    prepared_layout(&m->p, base, &used, CHUNK, N, true);
    for (int i = 0; i < 7; i++) *rows[i] = rw_take(base, &used, CHUNK * N);
    m->grad = rw_take(base, &used, N * N);
    m->states = rw_take(base, &used, (CHUNK + 1) * N * IB);
    m->sk = rw_take(base, &used, CHUNK * IB);
    m->lanes = rw_take(base, &used, LANE_SUMS * N * RW_VL / 2);
    m->z = rw_take(base, &used, N);
    m->dz = rw_take(base, &used, N);
    m->row = rw_take(base, &used, N);
    for (int i = 0; i < PARAMS; i++) m->sums[i] = rw_take(base, &used, N);
    return used;
}

/* Sums over sequences: the parameters [n_seq][PARAMS][C]; ds0 [n_seq][H][N][N] when it is shared. */
typedef struct {
    real *params, *ds0;
} partial_sums;

static int64_t partial_layout(const rw_wkv7_args *a, partial_sums *p, real *base) {
    const int64_t C = a->H * a->N;
    int64_t used = 0;
    p->params = rw_take(base, &used, a->n_seq * PARAMS * C);
    p->ds0 = rw_take(base, &used, a->s0_stride == 0 ? a->n_seq * C * a->N : 0);
    return used;
}

int64_t RW_CPU_NAME(wkv7_backward_scratch)(const rw_wkv7_args *a, const rw_exec *ex) {
    backward_work m;
    partial_sums p;
    return (backward_layout(&m, NULL, a->N) * ex->threads + partial_layout(a, &p, NULL)) * (int64_t)sizeof(real);
}

/* Through the gate: m->dz = dL/dz from dout, z before the gate; writes dg. */
RW_INLINE void gate_backward(const rw_wkv7_args *a, const head *x, const backward_work *m, int64_t row) {
    const int64_t N = x->N, o = row * x->C;
    const real *restrict g = x->g + o, *restrict z = m->z;
    real *restrict dz = m->dz, *restrict dg = m->row;
#pragma omp simd
    for (int64_t i = 0; i < N; i++) {
        dg[i] = dz[i] * z[i];
        dz[i] *= g[i];
    }
    rw_store_row(a->dg, o + x->h * N, a->add & RW_WKV7_ADD_G, dg, N);
}

/* What the bonus c v', c = sum r k r_k, adds to dr, dk and dv: the rows of token t start with it. */
RW_INLINE void bonus_backward(const head *x, const backward_work *m, int64_t t, real c) {
    const int64_t N = x->N, o = t * N;
    const real *restrict r = m->p.r + o, *restrict k = m->p.k + o, *restrict r_k = x->r_k, *restrict dz = m->dz;
    real *restrict dr = m->dr + o, *restrict dk = m->dk + o, *restrict dv = m->dv + o, *restrict dr_k = m->sums[D_R_K];
    const real q = rw_row_dot(dz, m->p.v + o, N);
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        dr[j] = q * k[j] * r_k[j];
        dk[j] = q * r[j] * r_k[j];
        dv[j] = c * dz[j];
        dr_k[j] += q * r[j] * k[j];
    }
}

/* Gate, bonus and norm of one token backwards: dy, and the beginnings of dr, dk, dv. */
RW_INLINE void tail_backward(const rw_wkv7_args *a, const head *x, const backward_work *m, int64_t row, int64_t t) {
    const int64_t N = x->N, q = row * x->H + x->h, o = t * N;
    const real *y = x->ln_w || x->g ? x->saved.y + q * N : NULL;
    const real mean = x->ln_w ? x->saved.mean[q] : 0, rstd = x->ln_w ? x->saved.rstd[q] : 1;
    const real bonus = x->r_k ? rw_row_dot3(m->p.r + o, m->p.k + o, x->r_k, N) : 0;
    if (a->dout)
        memcpy(m->dz, rw_at(a->dout, q * N), (size_t)N * sizeof(real));
    else
        memset(m->dz, 0, (size_t)N * sizeof(real));
    if (x->g) {
        if (x->ln_w)
            rw_norm_apply(y, mean, rstd, x->ln_w, x->ln_b, N, m->z);
        else
            memcpy(m->z, y, (size_t)N * sizeof(real));
        const real *restrict v = m->p.v + o;
        real *restrict z = m->z;
#pragma omp simd
        for (int64_t i = 0; i < N; i++) z[i] += bonus * v[i];
        gate_backward(a, x, m, row);
    }
    if (x->r_k) {
        bonus_backward(x, m, t, bonus);
    } else {
        real *const zero[3] = {m->dr + o, m->dk + o, m->dv + o};
        for (int i = 0; i < 3; i++) memset(zero[i], 0, (size_t)N * sizeof(real));
    }
    if (x->ln_w)
        rw_norm_row_backward(y, mean, rstd, x->ln_w, m->dz, N, false, m->dy + o, m->sums[D_LN_W], m->sums[D_LN_B]);
    else
        memcpy(m->dy + o, m->dz, (size_t)N * sizeof(real));
}

/* Between token t - 1 (early) and token t (late), which both meet the S between them. G goes back over the update of
 * late: partial sums of dkk and dw, then G = G diag(w) - e kk^T with the e = G b of late's turn as early. Then early's
 * y = S r: G += dy r^T; dv and e; partial sums of dr, dk and db. One pass, because loading S and G takes as long as
 * either half. */
RW_INLINE void grad_between(const backward_work *m, int64_t N, int64_t i, int64_t t, bool late, bool early, rw_vec *e) {
    const int64_t now = late ? t * N : 0, before = early ? (t - 1) * N : 0;
    const real *w = m->p.w + now, *kk = m->p.kk + now;
    const real *r = m->p.r + before, *k = m->p.k + before, *b = m->p.b + before;
    const real *sk_row = m->sk + (early ? t - 1 : 0) * IB;
    rw_vec dy[IV], v[IV], sk[IV], e_late[IV], sum_k[IV] = {{0}}, sum_b[IV] = {{0}};
    for (int q = 0; q < IV; q++) { /* copies, so that they can stay in registers */
        dy[q] = ((const rw_vec *)(m->dy + before + i))[q];
        v[q] = ((const rw_vec *)(m->p.v + before + i))[q];
        sk[q] = ((const rw_vec *)sk_row)[q];
        e_late[q] = e[q];
    }
    for (int64_t j = 0; j < N; j++) {
        const rw_vec *s = (const rw_vec *)(m->states + (t * N + j) * IB);
        rw_vec *g = (rw_vec *)(m->grad + i * N + j * IB);
        rw_half *lanes = (rw_half *)m->lanes + j;
        const real wj = w[j], kkj = kk[j], rj = r[j], kj = k[j], bj = b[j];
        rw_vec dkk = {0}, dw = {0}, dr = {0}, dk = {0}, db = {0};
        for (int q = 0; q < IV; q++) {
            const rw_vec sq = s[q];
            rw_vec x = g[q];
            if (late) {
                dkk -= sq * e_late[q];
                dw += sq * x;
                x = x * wj - e_late[q] * kkj;
            }
            if (early) {
                x += dy[q] * rj;
                dr += sq * dy[q];
                dk += x * v[q];
                db -= x * sk[q];
                sum_k[q] += x * kj;
                sum_b[q] += x * bj;
            }
            g[q] = x;
        }
        if (late) {
            lanes[LANES_KK * N] = rw_fold(&dkk);
            lanes[LANES_W * N] = rw_fold(&dw);
        }
        if (early) {
            lanes[LANES_R * N] = rw_fold(&dr);
            lanes[LANES_K * N] = rw_fold(&dk);
            lanes[LANES_B * N] = rw_fold(&db);
        }
    }
    for (int q = 0; early && q < IV; q++) {
        ((rw_vec *)(m->dv + before + i))[q] += sum_k[q];
        e[q] = sum_b[q];
    }
}

/* to[j] += the sum of the lanes of j, in row t */
RW_INLINE void add_lanes(const backward_work *m, int which, real *rows, int64_t t, int64_t N) {
    enum { W = RW_VL / 2 };
    const rw_half *lanes = (const rw_half *)m->lanes + which * N;
    rw_half *to = (rw_half *)(rows + t * N);
    for (int64_t j = 0; j < N / W; j++) to[j] += rw_half_sums(lanes + j * W);
}

/* S before each token of a chunk and after the last, from S before the first; sk of each token. */
RW_INLINE void chunk_states(const backward_work *m, int64_t N, int64_t n, int64_t i) {
    const prepared *p = &m->p;
    rw_vec sk[IV];
    state_times(m->states, IB, N, p->kk, sk);
    for (int64_t t = 0; t < n; t++) {
        real *state = m->states + t * N * IB;
        const real *next = p->kk + (t + 1 < n ? t + 1 : t) * N; /* the last product is not used */
        memcpy(m->sk + t * IB, sk, sizeof sk);
        state_token(state, state + N * IB, IB, N, p, t, p->v + t * N + i, next, sk, false, NULL);
    }
}

/* Value channels i .. i + IB of the n tokens of a chunk; m->states begins with S before the first of them. */
RW_INLINE void chunk_channels(const backward_work *m, int64_t N, int64_t n, int64_t i) {
    rw_vec e[IV] = {{0}};
    chunk_states(m, N, n, i);
    for (int64_t t = n; t >= 0; t--) {
        if (t == n)
            grad_between(m, N, i, t, false, true, e);
        else if (t > 0)
            grad_between(m, N, i, t, true, true, e);
        else
            grad_between(m, N, i, t, true, false, e);
        if (t < n) {
            add_lanes(m, LANES_KK, m->dkk, t, N);
            add_lanes(m, LANES_W, m->dw, t, N);
        }
        if (t > 0) {
            add_lanes(m, LANES_R, m->dr, t - 1, N);
            add_lanes(m, LANES_K, m->dk, t - 1, N);
            add_lanes(m, LANES_B, m->db, t - 1, N);
        }
    }
}

/* The preparation of the keys backwards; dkk and db are those of the recurrence alone. */
RW_INLINE void keys_backward(const rw_wkv7_args *a, const head *x, const backward_work *m, int64_t row, int64_t t) {
    const int64_t N = x->N, from = row * x->C, to = from + x->h * N, o = t * N;
    const real *restrict k0 = x->k0 + from, *restrict kk = m->p.kk + o, *restrict rate = m->p.a + o;
    const real *restrict rest = m->p.a_rest + o, *restrict w_slope = m->p.w_slope + o;
    const real *restrict dk = m->dk + o, *restrict db = m->db + o;
    real *restrict dkk = m->dkk + o, *restrict dw = m->dw + o, *restrict dk0 = m->z, *restrict da = m->row;
    const real scale = m->p.scale[t];
#pragma omp simd
    for (int64_t j = 0; j < N; j++) dkk[j] += db[j] * rate[j];
    /* a norm that was raised to NORM_MIN is a constant */
    const real along = scale < 1 / NORM_MIN ? rw_row_dot(kk, dkk, N) : 0;
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
        const real d = (dkk[j] - kk[j] * along) * scale;
        dk0[j] = dk[j] * (1 - rest[j] * x->k_a[j]) + d * x->k_k[j];
        da[j] = (db[j] * kk[j] + dk[j] * k0[j] * x->k_a[j]) * (rate[j] * rest[j]);
        dw[j] *= w_slope[j];
        m->sums[D_K_K][j] += d * k0[j];
        m->sums[D_K_A][j] -= dk[j] * k0[j] * rest[j];
        m->sums[D_A0][j] += da[j];
        m->sums[D_W0][j] += dw[j];
    }
    rw_store_row(a->dr, to, a->add & RW_WKV7_ADD_R, m->dr + o, N);
    rw_store_row(a->dw_raw, to, a->add & RW_WKV7_ADD_W_RAW, dw, N);
    rw_store_row(a->dk0, to, a->add & RW_WKV7_ADD_K0, dk0, N);
    rw_store_row(a->da_up, to, a->add & RW_WKV7_ADD_A_UP, da, N);
}

/* The value mix backwards. */
RW_INLINE void values_backward(const rw_wkv7_args *a, const head *x, const backward_work *m, int64_t row, int64_t t) {
    const int64_t N = x->N, from = row * x->C, to = from + x->h * N, o = t * N;
    real *restrict dv = m->dv + o, *restrict dv_up = m->z, *restrict dv_first = m->row;
    if (x->v_up) {
        const real *restrict own = x->v + from, *restrict first = x->v_first + from;
        const real *restrict mix = m->p.mix + o, *restrict rest = m->p.mix_rest + o;
#pragma omp simd
        for (int64_t j = 0; j < N; j++) {
            dv_up[j] = dv[j] * (first[j] - own[j]) * (mix[j] * rest[j]);
            dv_first[j] = dv[j] * mix[j];
            dv[j] *= rest[j];
            m->sums[D_V0][j] += dv_up[j];
        }
    }
    rw_store_row(a->dv, to, a->add & RW_WKV7_ADD_V, dv, N);
    if (!x->v_up) return;
    rw_store_row(a->dv_up, to, a->add & RW_WKV7_ADD_V_UP, dv_up, N);
    rw_store_row(a->dv_first, to, a->add & RW_WKV7_ADD_V_FIRST, dv_first, N);
}

/* S before the chunk, channels i .. i + IB, [key][value]: what forward saved, or the initial state [value][key]. */
static void load_saved(const real *from, real *to, int64_t N, int64_t i) {
    for (int64_t j = 0; j < N; j++) memcpy(to + j * IB, from + j * N + i, IB * sizeof(real));
}
static void load_initial(const real *from, real *to, int64_t N, int64_t i) {
    if (!from) memset(to, 0, (size_t)(N * IB) * sizeof(real));
    for (int64_t c = 0; from && c < IB; c++)
        for (int64_t j = 0; j < N; j++) to[j * IB + c] = from[(i + c) * N + j];
}

/* The rows that this chunk will write, and those that the next one, before it, will read. */
RW_INLINE void fetch_chunk(const rw_wkv7_args *a, const head *x, int64_t row, int64_t n) {
    void *const written[] = {a->dr, a->dw_raw, a->dk0, a->dv, a->da_up, a->dv_up, a->dv_first, a->dg};
    const int64_t o = x->h * x->N;
    for (int q = 0; q < 8; q++) fetch_rows(x, rw_at(written[q], o), row, n);
    if (row == x->first) return;
    fetch_inputs(x, row - CHUNK, CHUNK);
    fetch_rows(x, rw_at(a->dout, o), row - CHUNK, CHUNK);
    if (x->ln_w || x->g) fetch_rows(x, x->saved.y + o, row - CHUNK, CHUNK);
}

RW_CLONES static void backward_chunk(const rw_wkv7_args *a, const head *x, const backward_work *m, const real *s0,
                                     int64_t row, int64_t n, bool recurrence) {
    const int64_t N = x->N;
    real *const zero[3] = {m->dkk, m->db, m->dw};
    prepare(x, row, n, &m->p, true);
    fetch_chunk(a, x, row, n);
    for (int64_t t = 0; t < n; t++) tail_backward(a, x, m, row + t, t);
    if (!recurrence) return;
    for (int i = 0; i < 3; i++) memset(zero[i], 0, (size_t)(n * N) * sizeof(real));
    for (int64_t i = 0; i < N; i += IB) {
        if (row > x->first)
            load_saved(saved_state(x, row), m->states, N, i);
        else
            load_initial(s0, m->states, N, i);
        chunk_channels(m, N, n, i);
    }
    for (int64_t t = 0; t < n; t++) {
        keys_backward(a, x, m, row + t, t);
        values_backward(a, x, m, row + t, t);
    }
}

/* Between [value][key] and the blocks of backward_work.grad. */
static void grad_load(const backward_work *m, const real *from, int64_t N) {
    for (int64_t i = 0; i < N; i += IB) load_initial(from, m->grad + i * N, N, i);
}
static void grad_store(const backward_work *m, real *to, bool add, int64_t N) {
    if (!to) return;
    for (int64_t i = 0; i < N; i++) {
        const real *from = m->grad + i / IB * IB * N + i % IB;
        for (int64_t j = 0; j < N; j++) to[i * N + j] = (add ? to[i * N + j] : 0) + from[j * IB];
    }
}

/* The sums of a chunk join those of the sequence, [PARAMS][C]. */
static void chunk_sums(const backward_work *m, real *params, int64_t N, int64_t C) {
    for (int q = 0; q < PARAMS; q++)
        for (int64_t i = 0; i < N; i++) {
            params[q * C + i] += m->sums[q][i];
            m->sums[q][i] = 0;
        }
}

static void backward_head(const rw_wkv7_args *a, const backward_work *m, const partial_sums *p, int64_t s, int64_t h,
                          bool recurrence) {
    const head x = head_of(a, s, h);
    const int64_t N = x.N, C = x.C, size = N * N, length = x.last - x.first;
    real *params = p->params + s * PARAMS * C + h * N;
    for (int q = 0; q < PARAMS; q++) {
        memset(params + q * C, 0, (size_t)N * sizeof(real));
        memset(m->sums[q], 0, (size_t)N * sizeof(real));
    }
    grad_load(m, rw_at(a->ds_out, (s * a->H + h) * size), N);
    for (int64_t c = (length - 1) / CHUNK; length > 0 && c >= 0; c--) {
        const int64_t row = x.first + c * CHUNK;
        backward_chunk(a, &x, m, rw_at(a->s0, s * a->s0_stride + h * size), row,
                       x.last - row < CHUNK ? x.last - row : CHUNK, recurrence);
        chunk_sums(m, params, N, C);
    }
    if (p->ds0)
        grad_store(m, p->ds0 + (s * a->H + h) * size, false, N);
    else
        grad_store(m, rw_at_w(a->ds0, s * a->s0_stride + h * size), a->add & RW_WKV7_ADD_S0, N);
}

/* The parameter gradients of all sequences, in order. */
static void finish_sums(const rw_wkv7_args *a, const partial_sums *p) {
    void *const to[PARAMS] = {a->dw0, a->da0, a->dv0, a->dk_k, a->dk_a, a->dr_k, a->dln_w, a->dln_b};
    const uint32_t bits[PARAMS] = {RW_WKV7_ADD_W0,  RW_WKV7_ADD_A0,  RW_WKV7_ADD_V0,   RW_WKV7_ADD_K_K,
                                   RW_WKV7_ADD_K_A, RW_WKV7_ADD_R_K, RW_WKV7_ADD_LN_W, RW_WKV7_ADD_LN_B};
    const int64_t C = a->H * a->N;
    for (int q = 0; q < PARAMS; q++)
        rw_add_partials(to[q], a->add & bits[q], p->params + q * C, a->n_seq, PARAMS * C, C);
    if (p->ds0) rw_add_partials(a->ds0, a->add & RW_WKV7_ADD_S0, p->ds0, a->n_seq, C * a->N, C * a->N);
}

void RW_CPU_NAME(wkv7_backward)(const rw_wkv7_args *a, const rw_exec *ex) {
    backward_work none;
    partial_sums p;
    const int64_t size = backward_layout(&none, NULL, a->N);
    real *work = a->scratch;
    partial_layout(a, &p, work + size * ex->threads);
    if (a->s0_stride != 0 || !a->ds0) p.ds0 = NULL;
    const bool recurrence = a->dr || a->dw_raw || a->dk0 || a->dv || a->da_up || a->dv_up || a->dv_first || a->dw0 ||
                            a->da0 || a->dv0 || a->dk_k || a->dk_a || a->ds0;
#pragma omp parallel num_threads(ex->threads)
    {
        backward_work m;
        backward_layout(&m, work + size * omp_get_thread_num(), a->N);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < a->n_seq * a->H; i++) backward_head(a, &m, &p, i / a->H, i % a->H, recurrence);
    }
    finish_sums(a, &p);
}
