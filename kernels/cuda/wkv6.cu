/* wkv6 on the GPU: the recurrence of x060 and, with a decay constant in time, of x052 (formulas: kernels/wkv6.h, the
 * backward's: kernels/cpu/wkv6.c). Here are the launchers and the sequential form, which is right for every number
 * type, head size and card; wkv6_chunked.cuh is the fast form, for 16-bit numbers and heads of 64.
 *
 * Three steps each way, each a kernel of its own:
 *     forward     walk (y, states)                                          then finish (norm and gate)
 *     backward    finish_back (dy, dgate), then walk backward in time (dv, ds0) and columns (dr, dk, dw_raw, du, dw0)
 * walk: a block owns a head of a sequence. Four neighbouring lanes share two rows of S, value channels i and i + N/2;
 * each lane holds every fourth group of four columns in registers. The lanes' sums meet in two shuffles.
 * Backward in time the same lines carry G = dL/dS and give dv, with (k, r, dy) for (r, k, v): both recurrences are
 * X = X diag(w) + (value)(write)^T, read before it changes, and r . (u k) is the same both ways.
 * columns: needs S and G at once. Columns of S and G do not mix, so a block owns a few columns of a head; a column is
 * held by N/8 neighbouring lanes, 8 rows each. 64 rows at a time, from the last: forward again from the saved S, once
 * to each 16th row (kept in shared memory), then 16 rows with every S in registers, and back with G.
 *
 * Rows past the end of a sequence never enter a sum: walk stops, columns sees zeros and w = 1 there.
 * Bytes (narrow numbers a token and channel): forward 4 + 1, finish 2 + 1; finish_back 3 + 2, walk 4 + 1, columns 5 + 3
 * (its v and dy once for each block of columns, from L2). Saved: y, and S every 64 rows.
 * What crosses threads: tiles of rows in shared memory, a barrier on each side; sums in shuffles of a fixed tree; sums
 * over rows and sequences as partial sums, added in order by sum_parts. No atomics: the bits repeat.
 * sm_90 registers: walk 64, 80, 128 (N = 32, 64, 128), columns 230, finish 38, finish_back 91; nothing spilled but 4
 * bytes around a division in walk. */
#include "kernels/cuda/wkv6_chunked.cuh"
#include "kernels/cuda/wkv6_rows.cuh"

namespace {

using wkv6::first_row;
using wkv6::packed;
using wkv6::saved_at;

enum { TILE = 16, CHUNK = wkv6::SAVE_EVERY, COLUMN_THREADS = 128, FINISH_ROWS = 128 };
/* -e^ww never exceeds this, so that w * e^ww is 0 and not 0 * inf for a large ww. */
constexpr float DECAY_MAX = 80.0f;

/* -- decay, packs ---------------------------------------------------------------------------------------- */

/* w = exp(-exp(ww)) and dw/dww. A weak decay is a rounding of 1 - e: what is lost there comes back at each step that
 * remembers, so it is rounded once. */
__device__ __forceinline__ float decay(float ww, float *slope) {
    const float e = expf(ww > DECAY_MAX ? DECAY_MAX : ww); /* this way round NaN passes */
    const float w = e < 0.5f ? 1.0f + expm1f(-e) : expf(-e);
    *slope = -e * w;
    return w;
}

template <class T> __device__ __forceinline__ float sigmoid(float x) {
    return std::is_same_v<T, float> ? 1.0f / (1.0f + expf(-x)) : rw_sigmoid(x);
}

/* 8 neighbours, zeros where there is nothing */
template <class T> __device__ __forceinline__ void load8(const T *from, bool there, float (&x)[8]) {
#pragma unroll
    for (float &e : x) e = 0;
    if (there) rw_load(from, x);
}
/* 16 bytes at a time by name: left to itself the compiler cut some of these stores into numbers. */
__device__ __forceinline__ void write8(float *to, const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 4)
        rw_store16(to + i, make_uint4(__float_as_uint(x[i]), __float_as_uint(x[i + 1]), __float_as_uint(x[i + 2]),
                                      __float_as_uint(x[i + 3])));
}
template <class T> __device__ __forceinline__ void write8(T *to, const float (&x)[8]) {
    rw_store16(to, make_uint4(rw_pack2<T>(x[0], x[1]), rw_pack2<T>(x[2], x[3]), rw_pack2<T>(x[4], x[5]),
                              rw_pack2<T>(x[6], x[7])));
}
template <class T> __device__ __forceinline__ void store8(T *to, bool add, float (&x)[8]) {
    float old[8] = {};
    if (add) rw_load(to, old);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] += old[e];
    write8(to, x);
}
template <class T> __device__ __forceinline__ void store1(T *to, bool add, float x) {
    *to = rw_from_float<T>(add ? rw_to_float(*to) + x : x);
}

/* -- the recurrence, forward or backward in time --------------------------------------------------------- */

template <class T> struct walk_args {
    packed rows;
    const T *read, *write, *value, *ww; /* forward r k v, backward k r dy; ww NULL: the decay is w0 alone */
    const float *w0, *u;                /* w0 NULL: zeros */
    const float *start;                 /* [n_seq,H,N,N] by start_stride; NULL: zeros */
    int64_t start_stride;
    T *y; /* y or dv; NULL: not wanted */
    T *states;
    float *end; /* NULL: not wanted */
    int64_t end_stride;
    bool add, add_end;
};

template <int N> struct walk_room {
    float read[TILE][N], write[TILE][N], w[TILE][N];
    float value[TILE][N]; /* then y */
    float bonus[TILE];
};

/* Tile from step t on, a pack of 8 a tensor and thread. */
template <class T, int N, class Row>
__device__ __forceinline__ void walk_load(const walk_args<T> &a, walk_room<N> &m, int h, int n, Row row) {
    const int x = threadIdx.x / (N / 8), c = threadIdx.x % (N / 8) * 8;
    const int64_t at = row(x < n ? x : 0) + c;
    float read[8], write[8], value[8], w[8], w0[8], slope;
    load8(a.read + at, x < n, read);
    load8(a.write + at, x < n, write);
    load8(a.value + at, x < n, value);
    load8(a.ww + at, a.ww && x < n, w);
    load8(a.w0 + h * N + c, a.w0, w0);
#pragma unroll
    for (int e = 0; e < 8; e++) w[e] = decay(w[e] + w0[e], &slope);
    rw_store(&m.read[x][c], read);
    rw_store(&m.write[x][c], write);
    rw_store(&m.value[x][c], value);
    rw_store(&m.w[x][c], w);
}

/* r . (u k) of each row of the tile, a warp a row */
template <int N> __device__ __forceinline__ void walk_bonus(const float *u, walk_room<N> &m) {
    const int lane = threadIdx.x % 32;
    for (int x = threadIdx.x / 32; x < TILE; x += 2 * N / 32) {
        float sum = 0;
#pragma unroll
        for (int j = lane; j < N; j += 32) sum += m.read[x][j] * u[j] * m.write[x][j];
        sum = rw_warp_sum(sum);
        if (lane == 0) m.bonus[x] = sum;
    }
}

/* One token: this lane's part of two rows; y takes the place of value. */
template <int N>
__device__ __forceinline__ void walk_token(walk_room<N> &m, int x, float (&top)[N / 16][4], float (&low)[N / 16][4]) {
    const int q = threadIdx.x % 4, i = threadIdx.x / 4;
    const float v0 = m.value[x][i], v1 = m.value[x][i + N / 2];
    float y0 = 0, y1 = 0;
#pragma unroll
    for (int g = 0; g < N / 16; g++) {
        float r[4], k[4], w[4];
        rw_load(&m.read[x][16 * g + 4 * q], r);
        rw_load(&m.write[x][16 * g + 4 * q], k);
        rw_load(&m.w[x][16 * g + 4 * q], w);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            y0 += top[g][e] * r[e], y1 += low[g][e] * r[e];
            top[g][e] = top[g][e] * w[e] + v0 * k[e], low[g][e] = low[g][e] * w[e] + v1 * k[e];
        }
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2) y0 += __shfl_xor_sync(~0u, y0, d), y1 += __shfl_xor_sync(~0u, y1, d);
    __syncwarp(); /* the four lanes have read value */
    if (q == 0) m.value[x][i] = y0 + m.bonus[x] * v0, m.value[x][i + N / 2] = y1 + m.bonus[x] * v1;
}

template <int N, class T>
__device__ __forceinline__ void walk_store_state(T *to, bool add, float (&top)[N / 16][4], float (&low)[N / 16][4]) {
    const int at = threadIdx.x / 4 * N + threadIdx.x % 4 * 4;
#pragma unroll
    for (int g = 0; g < N / 16; g++) {
        float x[4], y[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int o = at + 16 * g + e;
            x[e] = top[g][e] + (add ? rw_to_float(to[o]) : 0),
            y[e] = low[g][e] + (add ? rw_to_float(to[o + N / 2 * N]) : 0);
        }
        rw_store(to + at + 16 * g, x);
        rw_store(to + at + 16 * g + N / 2 * N, y);
    }
}

/* grid n_seq * H, 2 N threads */
template <class T, int N, bool BACK> __global__ void __launch_bounds__(2 * N) walk(const walk_args<T> a) {
    __shared__ __align__(16) walk_room<N> m;
    const int H = a.rows.H, h = blockIdx.x % H, C = H * N;
    const int64_t seq = blockIdx.x / H, first = first_row(a.rows, seq), last = first_row(a.rows, seq + 1);
    const int64_t from = seq * a.start_stride + (int64_t)h * N * N + threadIdx.x / 4 * N + threadIdx.x % 4 * 4;
    float top[N / 16][4] = {}, low[N / 16][4] = {};
    if (a.start)
#pragma unroll
        for (int g = 0; g < N / 16; g++) {
            rw_load(a.start + from + 16 * g, top[g]);
            rw_load(a.start + from + 16 * g + N / 2 * N, low[g]);
        }
    for (int64_t t = 0; t < last - first; t += TILE) {
        const int n = last - first - t < TILE ? (int)(last - first - t) : TILE;
        const auto row = [&](int x) { return (BACK ? last - 1 - t - x : first + t + x) * C + h * N; };
        if (!BACK && a.states && t > 0 && t % CHUNK == 0)
            walk_store_state<N>(a.states + saved_at<N>(a.rows, first + t, h), false, top, low);
        walk_load<T, N>(a, m, h, n, row);
        __syncthreads(); /* the tile is there */
        walk_bonus<N>(a.u + h * N, m);
        __syncthreads(); /* bonus too */
        for (int x = 0; x < n; x++) walk_token<N>(m, x, top, low);
        __syncthreads(); /* y is there, and the tile free again */
        const int x = threadIdx.x / (N / 8), c = threadIdx.x % (N / 8) * 8;
        float y[8];
        rw_load(&m.value[x][c], y);
        if (a.y && x < n) store8(a.y + row(x) + c, a.add, y);
    }
    if (a.end) walk_store_state<N>(a.end + seq * a.end_stride + (int64_t)h * N * N, a.add_end, top, low);
}

/* -- what sums over value channels: dr, dk, dw ----------------------------------------------------------- */

template <class T> struct column_args {
    packed rows;
    const T *r, *k, *v, *ww, *dy, *states;
    const float *w0, *u, *s0, *ds_out;
    int64_t s0_stride;
    T *dr, *dk, *dw; /* NULL: not wanted */
    float *parts;    /* [n_seq,2,H*N]: du, dw0 */
    bool add_r, add_k, add_w;
};

template <int N> struct column_room {
    static constexpr int LANES = N / 8, COLUMNS = COLUMN_THREADS / LANES;
    float v[TILE][N], dy[TILE][N];
    float r[TILE][COLUMNS], k[TILE][COLUMNS];      /* then dr, dk */
    float w[TILE][COLUMNS], slope[TILE][COLUMNS];  /* then dw_raw */
    float starts[CHUNK / TILE][8][COLUMN_THREADS]; /* S before each tile, every thread's own */
};

/* Where this thread is: column j of head h, value channels i(e) = e % 4 + 4 part + (e / 4) (N / 2). */
struct column_place {
    int64_t seq, first, last;
    int h, column, group, part, C;
};
template <int N> __device__ __forceinline__ int column_row(const column_place &p, int e) {
    return e % 4 + 4 * p.part + e / 4 * (N / 2);
}
template <int N> __device__ __forceinline__ void column_strip(const column_place &p, const float *row, float (&x)[8]) {
    const float4 a = *reinterpret_cast<const float4 *>(row + 4 * p.part);
    const float4 b = *reinterpret_cast<const float4 *>(row + 4 * p.part + N / 2);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

/* n rows from `row` on; the rest of the tile changes nothing: zeros, and w = 1. */
template <class T, int N>
__device__ __forceinline__ void column_load(const column_args<T> &a, column_room<N> &m, const column_place &p,
                                            int64_t row, int n) {
    constexpr int COLUMNS = column_room<N>::COLUMNS;
    const int64_t base = row * p.C + p.h * N;
    for (int i = threadIdx.x; i < TILE * N / 8; i += COLUMN_THREADS) {
        const int x = i / (N / 8), c = i % (N / 8) * 8;
        float v[8], dy[8];
        load8(a.v + base + (int64_t)x * p.C + c, x < n, v);
        load8(a.dy + base + (int64_t)x * p.C + c, x < n, dy);
        rw_store(&m.v[x][c], v);
        rw_store(&m.dy[x][c], dy);
    }
    for (int i = threadIdx.x; i < TILE * COLUMNS; i += COLUMN_THREADS) {
        const int x = i / COLUMNS, c = i % COLUMNS, j = p.group * COLUMNS + c;
        const int64_t at = base + (int64_t)x * p.C + j;
        float slope = 0, w = 1, r = 0, k = 0;
        if (x < n) {
            w = decay((a.ww ? rw_to_float(a.ww[at]) : 0) + (a.w0 ? a.w0[p.h * N + j] : 0), &slope);
            r = rw_to_float(a.r[at]), k = rw_to_float(a.k[at]);
        }
        m.r[x][c] = r, m.k[x][c] = k, m.w[x][c] = w, m.slope[x][c] = slope;
    }
}

template <int N>
__device__ __forceinline__ void column_step(const column_room<N> &m, const column_place &p, int x,
                                            const float (&from)[8], float (&to)[8]) {
    float v[8];
    column_strip<N>(p, m.v[x], v);
    const float k = m.k[x][p.column], w = m.w[x][p.column];
#pragma unroll
    for (int e = 0; e < 8; e++) to[e] = from[e] * w + v[e] * k;
}

struct column_sums {
    float u, du, dw0;
};

/* One token backward: G and this column's dr, dk, dw_raw, which replace r, k, slope. */
template <int N>
__device__ __forceinline__ void column_token(column_room<N> &m, const column_place &p, int x, const float (&s)[8],
                                             float (&g)[8], column_sums &sum) {
    float v[8], dy[8], dr = 0, dk = 0, dw = 0, delta = 0;
    column_strip<N>(p, m.v[x], v);
    column_strip<N>(p, m.dy[x], dy);
    const float r = m.r[x][p.column], k = m.k[x][p.column], w = m.w[x][p.column], slope = m.slope[x][p.column];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        dr += s[e] * dy[e], dk += g[e] * v[e], dw += g[e] * s[e], delta += v[e] * dy[e];
        g[e] = g[e] * w + dy[e] * r;
    }
#pragma unroll
    for (int d = 1; d < column_room<N>::LANES; d *= 2) {
        dr += __shfl_xor_sync(~0u, dr, d), dk += __shfl_xor_sync(~0u, dk, d);
        dw += __shfl_xor_sync(~0u, dw, d), delta += __shfl_xor_sync(~0u, delta, d);
    }
    dw *= slope;
    sum.du += delta * r * k, sum.dw0 += dw;
    __syncwarp(); /* all lanes of the column have read */
    if (p.part == 0) {
        m.r[x][p.column] = dr + delta * sum.u * k;
        m.k[x][p.column] = dk + delta * sum.u * r;
        m.slope[x][p.column] = dw;
    }
}

template <class T, int N>
__device__ __forceinline__ void column_store(const column_args<T> &a, const column_room<N> &m, const column_place &p,
                                             int64_t row, int n) {
    constexpr int COLUMNS = column_room<N>::COLUMNS;
    for (int i = threadIdx.x; i < n * COLUMNS; i += COLUMN_THREADS) {
        const int x = i / COLUMNS, c = i % COLUMNS;
        const int64_t at = (row + x) * p.C + p.h * N + p.group * COLUMNS + c;
        if (a.dr) store1(a.dr + at, a.add_r, m.r[x][c]);
        if (a.dk) store1(a.dk + at, a.add_k, m.k[x][c]);
        if (a.dw) store1(a.dw + at, a.add_w, m.slope[x][c]);
    }
}

/* S before `row`, the first of a chunk */
template <class T, int N>
__device__ __forceinline__ void column_state(const column_args<T> &a, const column_place &p, int64_t row, int j,
                                             float (&s)[8]) {
    const float *s0 = a.s0 ? a.s0 + p.seq * a.s0_stride + (int64_t)p.h * N * N : nullptr;
    const T *saved = row > p.first ? a.states + saved_at<N>(a.rows, row, p.h) : nullptr;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int at = column_row<N>(p, e) * N + j;
        s[e] = saved ? rw_to_float(saved[at]) : s0 ? s0[at] : 0;
    }
}

/* A tile backward: every S of it in registers, then its tokens from the last to the first. */
template <class T, int N>
__device__ __forceinline__ void column_tile(const column_args<T> &a, column_room<N> &m, const column_place &p, int tile,
                                            float (&g)[8], column_sums &sum) {
    float s[TILE][8];
#pragma unroll
    for (int e = 0; e < 8; e++) s[0][e] = m.starts[tile][e][threadIdx.x];
#pragma unroll
    for (int x = 0; x + 1 < TILE; x++) column_step<N>(m, p, x, s[x], s[x + 1]);
#pragma unroll
    for (int x = TILE - 1; x >= 0; x--) column_token<N>(m, p, x, s[x], g, sum);
}

template <class T, int N>
__device__ __forceinline__ void column_chunk(const column_args<T> &a, column_room<N> &m, const column_place &p,
                                             int64_t row, float (&g)[8], column_sums &sum) {
    const int n = p.last - row < CHUNK ? (int)(p.last - row) : CHUNK, tiles = (n + TILE - 1) / TILE;
    float s[8];
    column_state<T, N>(a, p, row, p.group * column_room<N>::COLUMNS + p.column, s);
    for (int tile = 0; tile < tiles; tile++) {
#pragma unroll
        for (int e = 0; e < 8; e++) m.starts[tile][e][threadIdx.x] = s[e];
        if (tile + 1 == tiles) break;
        column_load<T, N>(a, m, p, row + tile * TILE, TILE);
        __syncthreads(); /* the tile is there */
        for (int x = 0; x < TILE; x++) column_step<N>(m, p, x, s, s);
        __syncthreads(); /* and free again */
    }
    for (int tile = tiles - 1; tile >= 0; tile--) {
        const int64_t at = row + tile * TILE;
        const int left = n - tile * TILE < TILE ? n - tile * TILE : TILE;
        column_load<T, N>(a, m, p, at, left);
        __syncthreads(); /* the tile is there */
        column_tile<T, N>(a, m, p, tile, g, sum);
        __syncthreads(); /* what it became too */
        column_store<T, N>(a, m, p, at, left);
        __syncthreads(); /* free again */
    }
}

/* grid n_seq * H * (N / COLUMNS), COLUMN_THREADS threads */
template <class T, int N> __global__ void __launch_bounds__(COLUMN_THREADS, 2) columns(const column_args<T> a) {
    constexpr int LANES = column_room<N>::LANES, COLUMNS = column_room<N>::COLUMNS, GROUPS = N / COLUMNS;
    __shared__ __align__(16) column_room<N> m;
    column_place p;
    const int head = blockIdx.x / GROUPS;
    p.group = blockIdx.x % GROUPS, p.h = head % a.rows.H, p.seq = head / a.rows.H, p.C = a.rows.H * N;
    p.part = threadIdx.x % LANES, p.column = threadIdx.x / LANES;
    p.first = first_row(a.rows, p.seq), p.last = first_row(a.rows, p.seq + 1);
    const int j = p.group * COLUMNS + p.column;
    column_sums sum = {a.u[p.h * N + j], 0, 0};
    float g[8] = {};
    if (a.ds_out)
#pragma unroll
        for (int e = 0; e < 8; e++) g[e] = a.ds_out[(p.seq * a.rows.H + p.h) * N * N + column_row<N>(p, e) * N + j];
    const int64_t chunks = (p.last - p.first + CHUNK - 1) / CHUNK;
    for (int64_t c = chunks - 1; c >= 0; c--) column_chunk<T, N>(a, m, p, p.first + c * CHUNK, g, sum);
    if (p.part == 0) {
        float *to = a.parts + p.seq * 2 * p.C + p.h * N + j;
        to[0] = sum.du, to[p.C] = sum.dw0;
    }
}

/* -- group norm and gate ---------------------------------------------------------------------------------
 * N/8 neighbouring lanes own the head of a token, 8 channels each. */

template <class T> struct finish_args {
    int64_t R;
    int H;
    const T *y, *gate; /* gate NULL: none */
    const float *ln_w, *ln_b;
    float eps;
    T *out;
    /* backward */
    const T *dout; /* NULL: zeros */
    T *dy, *dgate; /* dgate NULL: not wanted */
    bool add_gate;
    float *parts; /* [ceil(R / FINISH_ROWS),2,H*N]: dln_w, dln_b */
};

template <int N> __device__ __forceinline__ float head_sum(float x) {
#pragma unroll
    for (int d = 1; d < N / 8; d *= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

/* y becomes (y - mean) / std; returns 1 / std */
template <int N> __device__ __forceinline__ float normalize(float (&y)[8], float eps) {
    float sum = 0, sq = 0;
#pragma unroll
    for (float e : y) sum += e;
    const float mean = head_sum<N>(sum) / N;
#pragma unroll
    for (float &e : y) e -= mean, sq += e * e;
    const float rstd = 1 / sqrtf(head_sum<N>(sq) / N + eps);
#pragma unroll
    for (float &e : y) e *= rstd;
    return rstd;
}

/* grid-wide: a group of lanes a token and head. out may be y. */
template <class T, int N> __global__ void __launch_bounds__(RW_CUDA_THREADS) finish(const finish_args<T> a) {
    const int64_t q = rw_thread_index() / (N / 8), last = a.R * a.H - 1;
    const bool there = q <= last;
    const int c = (int)((there ? q : last) % a.H) * N + threadIdx.x % (N / 8) * 8;
    const int64_t at = (there ? q : last) / a.H * a.H * N + c;
    float y[8], gate[8], w[8], b[8] = {};
    rw_load(a.y + at, y);
    if (a.ln_w) {
        normalize<N>(y, a.eps);
        rw_load(a.ln_w + c, w);
        if (a.ln_b) rw_load(a.ln_b + c, b);
#pragma unroll
        for (int e = 0; e < 8; e++) y[e] = y[e] * w[e] + b[e];
    }
    if (a.gate) {
        rw_load(a.gate + at, gate);
#pragma unroll
        for (int e = 0; e < 8; e++) y[e] *= gate[e] * sigmoid<T>(gate[e]);
    }
    if (there) write8(a.out + at, y);
}

/* dz of the gate's input z becomes that of z; gate becomes dgate. */
template <class T> __device__ __forceinline__ void gate_back(const float (&z)[8], float (&gate)[8], float (&dz)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float g = gate[e], s = sigmoid<T>(g), d = dz[e];
        dz[e] = d * g * s;
        gate[e] = d * z[e] * (s + g * s * (1 - s));
    }
}

/* A token: dy out of dz = dout; sums of dln. */
template <class T, int N>
__device__ __forceinline__ void finish_back_row(const finish_args<T> &a, int64_t at, bool there, const float (&w)[8],
                                                const float (&b)[8], float (&dw)[8], float (&db)[8]) {
    float y[8], dz[8], rstd = 1;
    load8(a.y + at, there, y);
    load8(a.dout + at, there && a.dout, dz);
    if (a.ln_w) rstd = normalize<N>(y, a.eps);
    if (a.gate) {
        float gate[8], z[8];
        load8(a.gate + at, there, gate);
#pragma unroll
        for (int e = 0; e < 8; e++) z[e] = a.ln_w ? y[e] * w[e] + b[e] : y[e];
        gate_back<T>(z, gate, dz);
        if (a.dgate && there) store8(a.dgate + at, a.add_gate, gate);
    }
    if (a.ln_w) {
        float d = 0, dx = 0;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            dw[e] += dz[e] * y[e], db[e] += dz[e];
            dz[e] *= w[e];
            d += dz[e], dx += dz[e] * y[e];
        }
        d = head_sum<N>(d) / N, dx = head_sum<N>(dx) / N;
#pragma unroll
        for (int e = 0; e < 8; e++) dz[e] = rstd * (dz[e] - d - y[e] * dx);
    }
    if (there) store8(a.dy + at, false, dz);
}

/* grid (H, ceil(R / FINISH_ROWS)): a block takes FINISH_ROWS rows of a head, a group of lanes every SLOTS-th of them;
 * the groups' sums are added in order. */
template <class T, int N> __global__ void __launch_bounds__(RW_CUDA_THREADS) finish_back(const finish_args<T> a) {
    constexpr int SLOTS = RW_CUDA_THREADS / (N / 8);
    __shared__ __align__(16) float sums[2][SLOTS][N];
    const int slot = threadIdx.x / (N / 8), x = threadIdx.x % (N / 8) * 8, c = blockIdx.x * N + x, C = a.H * N;
    const int64_t first = (int64_t)blockIdx.y * FINISH_ROWS;
    float w[8] = {}, b[8] = {}, dw[8] = {}, db[8] = {};
    if (a.ln_w) rw_load(a.ln_w + c, w);
    if (a.ln_w && a.ln_b) rw_load(a.ln_b + c, b);
    for (int i = slot; i < FINISH_ROWS; i += SLOTS) {
        const bool there = first + i < a.R;
        finish_back_row<T, N>(a, (there ? first + i : 0) * C + c, there, w, b, dw, db);
    }
    rw_store(&sums[0][slot][x], dw);
    rw_store(&sums[1][slot][x], db);
    __syncthreads(); /* the sums of all groups are there */
    for (int i = threadIdx.x; i < 2 * N; i += RW_CUDA_THREADS) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < SLOTS; k++) sum += sums[i / N][k][i % N];
        a.parts[((int64_t)blockIdx.y * 2 + i / N) * C + blockIdx.x * N + i % N] = sum;
    }
}

/* out[i] = the sum of n parts, `pitch` apart */
struct sum_job {
    void *out; /* NULL: not wanted */
    bool add;
    const float *parts;
    int64_t n, pitch;
};
struct sum_jobs {
    sum_job at[4];
};
/* grid (numbers / 32, jobs), 256 threads: a block sums 32 numbers; each of its 8 warps every 8th part, in order, then
 * the first warp the warps' sums, in order. */
__global__ void __launch_bounds__(RW_CUDA_THREADS) sum_parts(const sum_jobs jobs) {
    __shared__ float sums[RW_CUDA_THREADS / 32][32];
    const sum_job j = jobs.at[blockIdx.y];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, i = blockIdx.x * 32 + lane;
    float *out = static_cast<float *>(j.out);
    if (!out) return;
    float sum = 0;
#pragma unroll 4
    for (int64_t k = warp; k < j.n; k += RW_CUDA_THREADS / 32) sum += j.parts[k * j.pitch + i];
    sums[warp][lane] = sum;
    __syncthreads(); /* the sums of all warps are there */
    if (warp > 0) return;
    sum = 0;
#pragma unroll
    for (int k = 0; k < RW_CUDA_THREADS / 32; k++) sum += sums[k][lane];
    out[i] = j.add ? out[i] + sum : sum;
}

/* -- memory ---------------------------------------------------------------------------------------------- */

int64_t bytes_of(rw_dtype t) {
    return t == RW_F32 ? 4 : 2;
}
template <class T> T *take(void *base, int64_t *used, int64_t n_bytes) {
    char *p = base ? static_cast<char *>(base) + *used : nullptr;
    *used += (n_bytes + 255) / 256 * 256;
    return reinterpret_cast<T *>(p);
}

struct saved_parts {
    void *y, *states;
};
int64_t saved_layout(const rw_wkv6_args *a, saved_parts *p) {
    const int64_t each = bytes_of(a->dtype), C = a->H * a->N;
    int64_t used = 0;
    p->y = take<void>(a->saved, &used, a->ln_w || a->gate ? a->R * C * each : 0);
    p->states = take<void>(a->saved, &used, a->R > 0 ? (a->R - 1) / CHUNK * C * a->N * each : 0);
    return used;
}

int64_t finish_blocks(const rw_wkv6_args *a) {
    return (a->R + FINISH_ROWS - 1) / FINISH_ROWS;
}
bool shared_state(const rw_wkv6_args *a) {
    return a->s0_stride == 0 && (a->s0 || a->ds0);
}

/* Does the chunked form run? Both ways or neither. */
bool chunked(const rw_wkv6_args *a, const rw_cuda_state *s) {
    return a->dtype != RW_F32 && a->N == wkv6::HEAD && s->capability >= 80 &&
           s->shared_bytes >= wkv6::layout<true>::BYTES;
}

/* How many segments a sequence is cut into, so that up to 4 blocks an SM have work. Measured on an H100 (132 SMs): 4
 * are best for 128 heads, 8 for 32 and 48; none cut for 1024; between 128 and 1024 nothing was measured. */
enum { MOST_SEGMENTS = 8, BLOCKS_AN_SM = 4 };
int segments_of(const rw_wkv6_args *a, const rw_cuda_state *s) {
    const int64_t heads = a->n_seq * a->H, wanted = s->n_sm * BLOCKS_AN_SM / heads;
    const int64_t blocks = a->R / a->n_seq / wkv6::BLOCK, most = blocks < MOST_SEGMENTS ? blocks : MOST_SEGMENTS;
    const int64_t n = wanted < most ? wanted : most;
    return n < 1 ? 1 : (int)n;
}
/* No pass with as many rows and sequences, or fewer, has more segments in all. */
int64_t most_slots(const rw_wkv6_args *a, const rw_cuda_state *s) {
    if (!chunked(a, s) || a->R < 2 * wkv6::BLOCK) return 0;
    const int64_t cut = a->n_seq * a->H * MOST_SEGMENTS, most = s->n_sm * BLOCKS_AN_SM;
    return cut < most ? cut : most;
}

struct cut_parts {
    float *state, *decay; /* [slots,N,N], [slots,N] */
};
void cut_layout(const rw_wkv6_args *a, const rw_cuda_state *s, void *base, int64_t *used, cut_parts *p) {
    const int64_t slots = most_slots(a, s);
    p->state = take<float>(base, used, slots * a->N * a->N * 4);
    p->decay = take<float>(base, used, slots * a->N * 4);
}

struct backward_parts {
    void *dy;
    float *ln, *params; /* [finish_blocks,2,C]; [n_seq,segments,2,C] */
    float *ds0;         /* [n_seq,H,N,N] of a shared state */
    cut_parts cut;
};
int64_t backward_layout(const rw_wkv6_args *a, const rw_cuda_state *s, backward_parts *p) {
    const int64_t C = a->H * a->N;
    int64_t used = 0;
    p->dy = take<void>(a->scratch, &used, a->R * C * bytes_of(a->dtype));
    p->ln = take<float>(a->scratch, &used, finish_blocks(a) * 2 * C * 4);
    p->params = take<float>(a->scratch, &used, (a->n_seq * a->H + most_slots(a, s)) * 2 * a->N * 4);
    p->ds0 = take<float>(a->scratch, &used, shared_state(a) ? a->n_seq * C * a->N * 4 : 0);
    cut_layout(a, s, a->scratch, &used, &p->cut);
    return used;
}

/* -- launchers ------------------------------------------------------------------------------------------- */

/* Runs the statement with N = the head size. */
#define WKV6_SIZE(size, N, ...)                                                                                        \
    switch (size) {                                                                                                    \
    case 32: {                                                                                                         \
        constexpr int N = 32;                                                                                          \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case 64: {                                                                                                         \
        constexpr int N = 64;                                                                                          \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    default: {                                                                                                         \
        constexpr int N = 128;                                                                                         \
        __VA_ARGS__;                                                                                                   \
    }                                                                                                                  \
    }

packed rows_of(const rw_wkv6_args *a) {
    return packed{a->cu_seqlens, a->R, a->n_seq, (int)a->H};
}

template <class T> finish_args<T> finish_of(const rw_wkv6_args *a, const void *y) {
    finish_args<T> f = {};
    f.R = a->R, f.H = (int)a->H, f.eps = (float)a->eps;
    f.y = rw_in<T>(y), f.gate = rw_in<T>(a->gate);
    f.ln_w = rw_in<float>(a->ln_w), f.ln_b = rw_in<float>(a->ln_b);
    f.out = rw_out<T>(a->out);
    return f;
}

template <class T> void run_walk(const rw_wkv6_args *a, rw_cuda_state *s, T *y) {
    saved_parts keep;
    saved_layout(a, &keep);
    walk_args<T> w = {};
    w.rows = rows_of(a);
    w.read = rw_in<T>(a->r), w.write = rw_in<T>(a->k), w.value = rw_in<T>(a->v), w.ww = rw_in<T>(a->w_raw);
    w.w0 = rw_in<float>(a->w0), w.u = rw_in<float>(a->u);
    w.start = rw_in<float>(a->s0), w.start_stride = a->s0_stride;
    w.y = y, w.states = a->saved ? static_cast<T *>(keep.states) : nullptr;
    w.end = rw_out<float>(a->s_out), w.end_stride = a->H * a->N * a->N;
    WKV6_SIZE(a->N, N, walk<T, N, false><<<(int)(a->n_seq * a->H), 2 * N, 0, s->stream>>>(w));
}

/* What both passes of the chunked form read. */
template <class T> wkv6::inputs<T> inputs_of(const rw_wkv6_args *a, const rw_cuda_state *s, const cut_parts &cut) {
    saved_parts keep;
    saved_layout(a, &keep);
    wkv6::inputs<T> p = {};
    p.rows = rows_of(a);
    p.r = rw_in<T>(a->r), p.k = rw_in<T>(a->k), p.v = rw_in<T>(a->v), p.ww = rw_in<T>(a->w_raw);
    p.w0 = rw_in<float>(a->w0), p.u = rw_in<float>(a->u), p.s0 = rw_in<float>(a->s0), p.s0_stride = a->s0_stride;
    p.states = a->saved ? static_cast<T *>(keep.states) : nullptr;
    p.segments = segments_of(a, s), p.state = cut.state, p.decay = cut.decay;
    return p;
}

/* The state where the walk enters each segment. x0: where it begins. */
template <class T, bool FORWARD>
void run_segments(const rw_wkv6_args *a, rw_cuda_state *s, const wkv6::inputs<T> &p, const T *dy, const void *x0,
                  int64_t stride) {
    const int heads = (int)(a->n_seq * a->H);
    if (p.segments == 1) return;
    wkv6::segment_sums<T, FORWARD><<<heads *(p.segments - 1), wkv6::THREADS, wkv6::SEGMENT_BYTES, s->stream>>>(p, dy);
    wkv6::join_segments<T, FORWARD>
        <<<dim3(wkv6::HEAD * wkv6::HEAD / wkv6::THREADS, heads), wkv6::THREADS, 0, s->stream>>>(p, rw_in<float>(x0),
                                                                                                stride);
}

template <class T> void run_chunked(const rw_wkv6_args *a, rw_cuda_state *s, T *y) {
    cut_parts cut;
    int64_t used = 0;
    cut_layout(a, s, a->scratch, &used, &cut);
    const wkv6::inputs<T> p = inputs_of<T>(a, s, cut);
    const wkv6::outputs<T> o = {y, rw_out<float>(a->s_out)};
    run_segments<T, true>(a, s, p, static_cast<const T *>(nullptr), a->s0, a->s0_stride);
    wkv6::forward_kernel<T>
        <<<(int)(a->n_seq * a->H * p.segments), wkv6::THREADS, wkv6::FORWARD_BYTES, s->stream>>>(p, o);
}

template <class T> void run_recurrence(const rw_wkv6_args *a, rw_cuda_state *s, T *y) {
    if constexpr (!std::is_same_v<T, float>)
        if (chunked(a, s)) return run_chunked<T>(a, s, y);
    run_walk<T>(a, s, y);
}

template <class T> void forward(const rw_wkv6_args *a, rw_cuda_state *s) {
    const bool tail = a->ln_w || a->gate;
    saved_parts keep;
    saved_layout(a, &keep);
    T *y = tail && a->saved ? static_cast<T *>(keep.y) : rw_out<T>(a->out);
    run_recurrence<T>(a, s, y);
    if (!tail || a->R == 0) return;
    const finish_args<T> f = finish_of<T>(a, y);
    const int64_t lanes = a->R * a->H * a->N / 8;
    WKV6_SIZE(a->N, N,
              finish<T, N>
              <<<(int)((lanes + RW_CUDA_THREADS - 1) / RW_CUDA_THREADS), RW_CUDA_THREADS, 0, s->stream>>>(f));
}

/* dy of the recurrence: what norm and gate leave of dout */
template <class T> const T *run_finish_back(const rw_wkv6_args *a, rw_cuda_state *s, const backward_parts &p) {
    if (!a->ln_w && !a->gate) {
        if (a->dout) return rw_in<T>(a->dout);
        rw_cuda_check(s, "wkv6_backward", cudaMemsetAsync(p.dy, 0, a->R * a->H * a->N * sizeof(T), s->stream));
        return static_cast<const T *>(p.dy);
    }
    saved_parts keep;
    saved_layout(a, &keep);
    finish_args<T> f = finish_of<T>(a, keep.y);
    f.dout = rw_in<T>(a->dout), f.dy = static_cast<T *>(p.dy);
    f.dgate = rw_out<T>(a->dgate), f.add_gate = a->add & RW_WKV6_ADD_GATE;
    f.parts = p.ln;
    if (a->R > 0)
        WKV6_SIZE(a->N, N,
                  finish_back<T, N>
                  <<<dim3((unsigned)a->H, (unsigned)finish_blocks(a)), RW_CUDA_THREADS, 0, s->stream>>>(f));
    return f.dy;
}

/* Where the gradient of each sequence's own S_0 goes. */
float *ds0_of(const rw_wkv6_args *a, const backward_parts &p) {
    return a->ds0 && shared_state(a) ? p.ds0 : rw_out<float>(a->ds0);
}
bool adds_ds0(const rw_wkv6_args *a) {
    return !shared_state(a) && (a->add & RW_WKV6_ADD_S0);
}

template <class T> void run_walk_back(const rw_wkv6_args *a, rw_cuda_state *s, const backward_parts &p, const T *dy) {
    const int64_t each = a->H * a->N * a->N;
    walk_args<T> w = {};
    w.rows = rows_of(a);
    w.read = rw_in<T>(a->k), w.write = rw_in<T>(a->r), w.value = dy, w.ww = rw_in<T>(a->w_raw);
    w.w0 = rw_in<float>(a->w0), w.u = rw_in<float>(a->u);
    w.start = rw_in<float>(a->ds_out), w.start_stride = each;
    w.y = rw_out<T>(a->dv), w.add = a->add & RW_WKV6_ADD_V;
    w.end = ds0_of(a, p), w.end_stride = each, w.add_end = adds_ds0(a);
    WKV6_SIZE(a->N, N, walk<T, N, true><<<(int)(a->n_seq * a->H), 2 * N, 0, s->stream>>>(w));
}

template <class T> void run_columns(const rw_wkv6_args *a, rw_cuda_state *s, const backward_parts &p, const T *dy) {
    saved_parts keep;
    saved_layout(a, &keep);
    column_args<T> c = {};
    c.rows = rows_of(a);
    c.r = rw_in<T>(a->r), c.k = rw_in<T>(a->k), c.v = rw_in<T>(a->v), c.ww = rw_in<T>(a->w_raw), c.dy = dy;
    c.states = static_cast<const T *>(keep.states);
    c.w0 = rw_in<float>(a->w0), c.u = rw_in<float>(a->u), c.s0 = rw_in<float>(a->s0), c.s0_stride = a->s0_stride;
    c.ds_out = rw_in<float>(a->ds_out);
    c.dr = rw_out<T>(a->dr), c.dk = rw_out<T>(a->dk), c.dw = a->w_raw ? rw_out<T>(a->dw_raw) : nullptr;
    c.add_r = a->add & RW_WKV6_ADD_R, c.add_k = a->add & RW_WKV6_ADD_K, c.add_w = a->add & RW_WKV6_ADD_W;
    c.parts = p.params;
    WKV6_SIZE(a->N, N,
              columns<T, N>
              <<<(int)(a->n_seq * a->H * (N / column_room<N>::COLUMNS)), COLUMN_THREADS, 0, s->stream>>>(c));
}

template <class T, bool SMALL>
void launch_back(rw_cuda_state *s, int blocks, const wkv6::inputs<T> &p, const wkv6::gradients<T> &o) {
    constexpr int bytes = wkv6::layout<SMALL>::BYTES;
    static bool allowed; /* more shared memory than a block has by itself */
    if (!allowed)
        rw_cuda_check(
            s, "wkv6_backward",
            cudaFuncSetAttribute(wkv6::backward_kernel<T, SMALL>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    allowed = true;
    wkv6::backward_kernel<T, SMALL><<<blocks, wkv6::THREADS, bytes, s->stream>>>(p, o);
}

template <class T>
void run_chunked_back(const rw_wkv6_args *a, rw_cuda_state *s, const backward_parts &p, const T *dy) {
    const wkv6::inputs<T> in = inputs_of<T>(a, s, p.cut);
    wkv6::gradients<T> o = {};
    o.dy = dy, o.ds_out = rw_in<float>(a->ds_out);
    o.dr = rw_out<T>(a->dr), o.dk = rw_out<T>(a->dk), o.dv = rw_out<T>(a->dv), o.dww = rw_out<T>(a->dw_raw);
    o.add_r = a->add & RW_WKV6_ADD_R, o.add_k = a->add & RW_WKV6_ADD_K, o.add_v = a->add & RW_WKV6_ADD_V;
    o.add_w = a->add & RW_WKV6_ADD_W, o.add_s0 = adds_ds0(a), o.ds0 = ds0_of(a, p), o.parts = p.params;
    run_segments<T, false>(a, s, in, dy, a->ds_out, a->H * a->N * a->N);
    const int blocks = (int)(a->n_seq * a->H * in.segments);
    if (s->shared_bytes >= wkv6::layout<false>::BYTES)
        launch_back<T, false>(s, blocks, in, o);
    else
        launch_back<T, true>(s, blocks, in, o);
}

void sum_gradients(const rw_wkv6_args *a, rw_cuda_state *s, const backward_parts &p, int segments) {
    const int64_t C = a->H * a->N, walks = a->n_seq * segments;
    const int64_t tails = a->ln_w ? finish_blocks(a) : 0; /* without a norm nothing was summed: zeros */
    const auto adds = [a](uint32_t bit) { return (a->add & bit) != 0; };
    const sum_jobs vectors = {{{a->dln_w, adds(RW_WKV6_ADD_LN_W), p.ln, tails, 2 * C},
                               {a->dln_b, adds(RW_WKV6_ADD_LN_B), p.ln + C, tails, 2 * C},
                               {a->du, adds(RW_WKV6_ADD_U), p.params, walks, 2 * C},
                               {a->dw0, adds(RW_WKV6_ADD_W0), p.params + C, walks, 2 * C}}};
    if (a->dln_w || a->dln_b || a->du || a->dw0)
        sum_parts<<<dim3((unsigned)(C / 32), 4), RW_CUDA_THREADS, 0, s->stream>>>(vectors);
    if (!a->ds0 || !shared_state(a)) return;
    const sum_jobs state = {{{a->ds0, adds(RW_WKV6_ADD_S0), p.ds0, a->n_seq, C * a->N}}};
    sum_parts<<<(unsigned)(C * a->N / 32), RW_CUDA_THREADS, 0, s->stream>>>(state);
}

template <class T> void backward(const rw_wkv6_args *a, rw_cuda_state *s) {
    const bool by_row = a->dv || a->ds0, by_column = a->dr || a->dk || a->dw_raw || a->dw0 || a->du;
    int segments = 1;
    backward_parts p;
    backward_layout(a, s, &p);
    const T *dy = run_finish_back<T>(a, s, p);
    bool done = !by_row && !by_column;
    if constexpr (!std::is_same_v<T, float>)
        if (!done && chunked(a, s)) {
            run_chunked_back<T>(a, s, p, dy);
            segments = segments_of(a, s), done = true;
        }
    if (!done && by_row) run_walk_back<T>(a, s, p, dy);
    if (!done && by_column) run_columns<T>(a, s, p, dy);
    sum_gradients(a, s, p, segments);
}

/* Packs of 16 bytes all along. The engine's tensors begin on 64 elements at least. */
bool aligned(const rw_wkv6_args *a) {
    return rw_aligned({a->r,    a->k,   a->v,      a->w_raw, a->s0,   a->gate,   a->ln_w,
                       a->ln_b, a->out, a->s_out,  a->saved, a->dout, a->ds_out, a->dr,
                       a->dk,   a->dv,  a->dw_raw, a->dgate, a->ds0,  a->scratch});
}

} // namespace

int64_t rw_cuda_wkv6_saved(const rw_wkv6_args *a, const rw_exec *ex) {
    (void)ex;
    saved_parts p;
    return saved_layout(a, &p);
}

int64_t rw_cuda_wkv6_forward_scratch(const rw_wkv6_args *a, const rw_exec *ex) {
    cut_parts p;
    int64_t used = 0;
    cut_layout(a, rw_cuda_of(ex), a->scratch, &used, &p);
    return used;
}

int64_t rw_cuda_wkv6_backward_scratch(const rw_wkv6_args *a, const rw_exec *ex) {
    backward_parts p;
    return backward_layout(a, rw_cuda_of(ex), &p);
}

void rw_cuda_wkv6_forward(const rw_wkv6_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n_seq == 0) return;
    if (!aligned(a)) {
        rw_cuda_note(s, "wkv6_forward", "a tensor does not begin on 16 bytes");
        return;
    }
    RW_CUDA_NARROW(s, "wkv6_forward", a->dtype, T, forward<T>(a, s));
    rw_cuda_launched(s, "wkv6_forward");
}

void rw_cuda_wkv6_backward(const rw_wkv6_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (!aligned(a)) {
        rw_cuda_note(s, "wkv6_backward", "a tensor does not begin on 16 bytes");
        return;
    }
    if (a->n_seq == 0) return;
    RW_CUDA_NARROW(s, "wkv6_backward", a->dtype, T, backward<T>(a, s));
    rw_cuda_launched(s, "wkv6_backward");
}
