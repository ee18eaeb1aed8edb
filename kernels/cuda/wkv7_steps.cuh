/* wkv7's recurrence as it is written, step by step in fp32, for every type and head size:
 *
 *     sa = S a;   S = S diag(w) + sa b^T + v k^T;   y = S r
 *     backwards, G = dL/dS of the new S, S' the old one:
 *         G += dy r^T    dr = S^T dy    dk = G^T v    dv = G k    db = G^T sa
 *         e = G b        da = S'^T e    dw_j = sum_i G_ij S'_ij   then G = G diag(w) + e a^T
 *
 * A block owns one head of one sequence. LANES neighbouring threads share row i of S, every thread has OWN columns of
 * it: column x of lane q is number 4 (q + LANES (x / 4)) + x % 4, so that the lanes' 16-byte loads lie side by side.
 * Backward keeps G twice, by rows and by columns: then every sum goes over a thread's own numbers and over LANES
 * neighbours, and only e has to be seen by the whole block, one barrier a token. S goes by columns alone, because
 * forward has saved sa; S before each token of KEEP tokens is made again from the saved one and waits in `room`, where
 * a thread reads only what it wrote. Sums have one order: the bits repeat.
 *
 * Saved for backward: sa [R,H*N] and S every KEEP tokens of a sequence but before its first. Backward leaves the
 * gradients of k, v, a, b where those were, dr where dy was: a tile of rows lies in shared memory before the first of
 * them is written, and no other block reads these columns. */
#ifndef RW_KERNELS_CUDA_WKV7_STEPS_CUH
#define RW_KERNELS_CUDA_WKV7_STEPS_CUH

#include "kernels/cuda/wkv7_rows.cuh"

namespace wkv7 {

constexpr int KEEP = 32;                     /* tokens from one saved state to the next */
constexpr float DECAY = 0.6065306597126334f; /* exp(-1/2) */

/* What a recurrence reads and writes. */
template <class T, class P> struct recurrence {
    int64_t R, H, n_seq;
    const int32_t *cu_seqlens;
    const T *r, *w_raw; /* [R,H*N], like all that follows */
    const float *w0;    /* [H*N] */
    const P *k, *v, *a, *b;
    const float *s0;
    int64_t s0_stride;
    float *s_out;
    P *y;
    float *sa;    /* the steps' alone; NULL: no backward */
    void *states; /* NULL: no backward */
    /* backward */
    const P *dy;
    const float *ds_out;
    P *dr, *dw_raw, *dk, *dv, *da, *db;
    float *ds0;         /* NULL: not wanted */
    int64_t ds0_stride; /* of a sequence: never shared */
    bool ds0_add;
    float *room; /* of the steps: room_bytes(); of the chunks: G between segments */
};

/* Number of the state saved before `row`: only rows x >= KEEP of their sequence, KEEP apart, so none comes twice. */
static __device__ __forceinline__ int64_t state_number(int64_t row, int64_t H, int64_t head) {
    return (row / KEEP - 1) * H + head;
}
static inline int64_t state_count(int64_t R, int64_t H) {
    return R > 0 ? (R - 1) / KEEP * H : 0;
}

template <int N> struct steps {
    static constexpr int OWN = N == 128 ? 32 : 16, LANES = N / OWN, THREADS = N * LANES, TILE = 1024 / N;
    static constexpr int PER_SM = N == 32 ? 4 : N == 64 ? 2 : 1; /* blocks of the backward pass */
};
static inline int64_t room_blocks(int64_t n_heads, int n_sm, int per_sm) {
    return n_heads < (int64_t)n_sm * per_sm ? n_heads : (int64_t)n_sm * per_sm;
}

/* w = exp(-exp(-1/2) s), 0 <= s <= 1, good to the last bit: counted from the middle, the exponent is small. */
static __device__ __forceinline__ float decay(float s) {
    constexpr float middle = 0.7384031414985657f, below = 8.476165e-9f; /* exp(-exp(-1/2) / 2) in two parts */
    return middle + fmaf(middle, expm1f(DECAY * (0.5f - s)), below);
}

/* Thread of a head: row (or column) `own`, numbers at(x) across it. */
template <int N> struct stepper {
    using c = steps<N>;
    int own, lane;
    int64_t head, first, last, C;
    template <class T, class P> __device__ __forceinline__ stepper(const recurrence<T, P> &p, int64_t index) {
        own = threadIdx.x / c::LANES;
        lane = threadIdx.x % c::LANES;
        const int64_t sequence = index / p.H;
        head = index % p.H;
        C = p.H * N;
        first = rw_first_row(p.cu_seqlens, p.n_seq, p.R, sequence);
        last = rw_first_row(p.cu_seqlens, p.n_seq, p.R, sequence + 1);
    }
    __device__ __forceinline__ int at(int x) const { return 4 * (lane + c::LANES * (x / 4)) + x % 4; }
    /* Sum over the row; every lane gets it. */
    static __device__ __forceinline__ float sum(float x) {
#pragma unroll
        for (int d = c::LANES / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
        return x;
    }
    /* f(x, number at(x) of a row in shared memory) */
    template <class F> __device__ __forceinline__ void across(const float *row, F f) const {
#pragma unroll
        for (int x = 0; x < c::OWN; x += 4) {
            const float4 q = *reinterpret_cast<const float4 *>(row + at(x));
            f(x, q.x), f(x + 1, q.y), f(x + 2, q.z), f(x + 3, q.w);
        }
    }
    __device__ __forceinline__ void load_row(const float *m, float *s) const {
        if (m)
            across(m + own * N, [&](int x, float q) { s[x] = q; });
        else
#pragma unroll
            for (int x = 0; x < c::OWN; x++) s[x] = 0;
    }
    __device__ __forceinline__ void load_column(const float *m, float *s) const {
#pragma unroll
        for (int x = 0; x < c::OWN; x++) s[x] = m ? m[at(x) * N + own] : 0;
    }
    __device__ __forceinline__ void store_row(float *m, const float *s, bool add) const {
#pragma unroll
        for (int x = 0; x < c::OWN; x += 4) {
            float4 *to = reinterpret_cast<float4 *>(m + own * N + at(x));
            const float4 old = add ? *to : make_float4(0, 0, 0, 0);
            *to = make_float4(old.x + s[x], old.y + s[x + 1], old.z + s[x + 2], old.w + s[x + 3]);
        }
    }
};

/* Rows of a tile in shared memory. */
template <int N> struct tile { float at[steps<N>::TILE][N]; };
template <int N, class X>
static __device__ __forceinline__ void load_tile(tile<N> *to, const X *from, const stepper<N> &z, int64_t row, int n) {
    for (int i = threadIdx.x; i < n * N; i += steps<N>::THREADS)
        to->at[i / N][i % N] = rw_to_float(from[(row + i / N) * z.C + z.head * N + i % N]);
}
template <int N, class T>
static __device__ __forceinline__ void load_decays(tile<N> *to, const T *w_raw, const float *w0, const stepper<N> &z,
                                                   int64_t row, int n) {
    for (int i = threadIdx.x; i < n * N; i += steps<N>::THREADS) {
        float s, rest;
        const int64_t c = z.head * N + i % N;
        sigmoid_parts<T>(w0[c] + rw_to_float(w_raw[(row + i / N) * z.C + c]), &s, &rest);
        to->at[i / N][i % N] = decay(s);
    }
}

/* -- forward -------------------------------------------------------------------------------------------------- */

template <class T, int N>
__global__ void __launch_bounds__(steps<N>::THREADS) steps_forward(const recurrence<T, float> p) {
    constexpr int TILE = steps<N>::TILE, OWN = steps<N>::OWN;
    __shared__ __align__(16) tile<N> r, w, k, v, a, b;
    const stepper<N> z(p, blockIdx.x);
    float s[OWN];
    z.load_row(p.s0 ? p.s0 + blockIdx.x / p.H * p.s0_stride + z.head * N * N : nullptr, s);
    for (int64_t row = z.first; row < z.last; row += TILE) {
        const int n = z.last - row < TILE ? (int)(z.last - row) : TILE;
        __syncthreads(); /* all have read the tile before */
        load_tile(&r, p.r, z, row, n);
        load_decays(&w, p.w_raw, p.w0, z, row, n);
        load_tile(&k, p.k, z, row, n);
        load_tile(&v, p.v, z, row, n);
        load_tile(&a, p.a, z, row, n);
        load_tile(&b, p.b, z, row, n);
        if (p.states && row > z.first && (row - z.first) % KEEP == 0)
            z.store_row(static_cast<float *>(p.states) + state_number(row, p.H, z.head) * N * N, s, false);
        __syncthreads(); /* this one is there */
        for (int t = 0; t < n; t++) {
            const float value = v.at[t][z.own];
            const int64_t to = (row + t) * z.C + z.head * N + z.own;
            float sa = 0, y = 0;
            z.across(a.at[t], [&](int x, float q) { sa += s[x] * q; });
            sa = z.sum(sa);
            z.across(w.at[t], [&](int x, float q) { s[x] *= q; });
            z.across(b.at[t], [&](int x, float q) { s[x] += sa * q; });
            z.across(k.at[t], [&](int x, float q) { s[x] += value * q; });
            z.across(r.at[t], [&](int x, float q) { y += s[x] * q; });
            y = z.sum(y);
            if (z.lane == 0) p.y[to] = y;
            if (z.lane == 0 && p.sa) p.sa[to] = sa;
        }
    }
    if (p.s_out) z.store_row(p.s_out + (int64_t)blockIdx.x * N * N, s, false);
}

/* -- backward ------------------------------------------------------------------------------------------------- */

template <int N> struct backward_tiles {
    tile<N> r, w, k, v, a, b, dy, sa;
    float e[2][N]; /* of every other token */
};

/* S before each of the n tokens from `row` on to room; s becomes S behind the last. By columns. */
template <class T, int N>
static __device__ void replay(const recurrence<T, float> &p, const stepper<N> &z, backward_tiles<N> &m, float *s,
                              float *room, int64_t row, int n) {
    constexpr int TILE = steps<N>::TILE, OWN = steps<N>::OWN, THREADS = steps<N>::THREADS;
    for (int t0 = 0; t0 < n; t0 += TILE) {
        const int count = n - t0 < TILE ? n - t0 : TILE;
        __syncthreads(); /* all have read the tile before */
        load_decays(&m.w, p.w_raw, p.w0, z, row + t0, count);
        load_tile(&m.k, p.k, z, row + t0, count);
        load_tile(&m.v, p.v, z, row + t0, count);
        load_tile(&m.b, p.b, z, row + t0, count);
        load_tile(&m.sa, p.sa, z, row + t0, count);
        __syncthreads(); /* this one is there */
        for (int t = 0; t < count; t++) {
            const float w = m.w.at[t][z.own], b = m.b.at[t][z.own], k = m.k.at[t][z.own];
            float4 *to = reinterpret_cast<float4 *>(room) + (int64_t)(t0 + t) * N * N / 4 + threadIdx.x;
#pragma unroll
            for (int x = 0; x < OWN; x += 4) to[x / 4 * THREADS] = make_float4(s[x], s[x + 1], s[x + 2], s[x + 3]);
#pragma unroll
            for (int x = 0; x < OWN; x++) s[x] *= w;
            z.across(m.sa.at[t], [&](int x, float q) { s[x] += q * b; });
            z.across(m.v.at[t], [&](int x, float q) { s[x] += q * k; });
        }
    }
}

/* One token backwards; g by rows, gc by columns, s = S behind the token, then S before it. */
template <class T, int N>
static __device__ __forceinline__ void step_back(const recurrence<T, float> &p, const stepper<N> &z,
                                                 backward_tiles<N> &m, float *g, float *gc, float *s,
                                                 const float *before, int64_t row, int t) {
    constexpr int OWN = steps<N>::OWN, THREADS = steps<N>::THREADS;
    const float dy = m.dy.at[t][z.own], r = m.r.at[t][z.own], w = m.w.at[t][z.own], a = m.a.at[t][z.own];
    float *e_all = m.e[t & 1];
    float e = 0, dv = 0, dr = 0, dk = 0, db = 0, da = 0, dw = 0;
    z.across(m.r.at[t], [&](int x, float q) { g[x] += dy * q; });
    z.across(m.b.at[t], [&](int x, float q) { e += g[x] * q; });
    z.across(m.k.at[t], [&](int x, float q) { dv += g[x] * q; });
    e = z.sum(e);
    if (z.lane == 0) e_all[z.own] = e;
    z.across(m.dy.at[t], [&](int x, float q) {
        gc[x] += q * r;
        dr += s[x] * q;
    });
    z.across(m.v.at[t], [&](int x, float q) { dk += gc[x] * q; });
    z.across(m.sa.at[t], [&](int x, float q) { db += gc[x] * q; });
    const float4 *from = reinterpret_cast<const float4 *>(before) + threadIdx.x;
#pragma unroll
    for (int x = 0; x < OWN; x += 4) {
        const float4 q = from[x / 4 * THREADS];
        s[x] = q.x, s[x + 1] = q.y, s[x + 2] = q.z, s[x + 3] = q.w;
    }
    __syncthreads(); /* e of all rows; the place of the token after this one is free: all have come here */
    z.across(e_all, [&](int x, float q) {
        da += s[x] * q;
        dw += s[x] * gc[x];
        gc[x] = gc[x] * w + q * a;
    });
    z.across(m.w.at[t], [&](int x, float q) { g[x] *= q; });
    z.across(m.a.at[t], [&](int x, float q) { g[x] += e * q; });
    dv = z.sum(dv), dr = z.sum(dr), dk = z.sum(dk), db = z.sum(db), da = z.sum(da), dw = z.sum(dw);
    if (z.lane > 0) return;
    const int64_t c = z.head * N + z.own, to = row * z.C + c;
    float sigma, rest;
    sigmoid_parts<T>(p.w0[c] + rw_to_float(p.w_raw[to]), &sigma, &rest);
    p.dv[to] = dv, p.dr[to] = dr, p.dk[to] = dk, p.db[to] = db, p.da[to] = da;
    p.dw_raw[to] = dw * w * (-DECAY * sigma * rest);
}

template <class T, int N>
static __device__ void steps_back(const recurrence<T, float> &p, const stepper<N> &z, backward_tiles<N> &m, float *g,
                                  float *gc, float *s, const float *room, int64_t row, int n) {
    constexpr int TILE = steps<N>::TILE;
    for (int t0 = (n - 1) / TILE * TILE; t0 >= 0; t0 -= TILE) {
        const int count = n - t0 < TILE ? n - t0 : TILE;
        __syncthreads(); /* all have read the tile before */
        load_tile(&m.r, p.r, z, row + t0, count);
        load_decays(&m.w, p.w_raw, p.w0, z, row + t0, count);
        load_tile(&m.k, p.k, z, row + t0, count);
        load_tile(&m.v, p.v, z, row + t0, count);
        load_tile(&m.a, p.a, z, row + t0, count);
        load_tile(&m.b, p.b, z, row + t0, count);
        load_tile(&m.dy, p.dy, z, row + t0, count);
        load_tile(&m.sa, p.sa, z, row + t0, count);
        __syncthreads(); /* this one is there, so its rows may be written */
        for (int t = count - 1; t >= 0; t--)
            step_back<T, N>(p, z, m, g, gc, s, room + (int64_t)(t0 + t) * N * N, row + t0 + t, t);
    }
}

template <class T, int N>
__global__ void __launch_bounds__(steps<N>::THREADS, steps<N>::PER_SM) steps_backward(const recurrence<T, float> p) {
    constexpr int OWN = steps<N>::OWN;
    __shared__ __align__(16) backward_tiles<N> m;
    float *room = p.room + (int64_t)blockIdx.x * KEEP * N * N;
    for (int64_t index = blockIdx.x; index < p.n_seq * p.H; index += gridDim.x) {
        const stepper<N> z(p, index);
        const float *last = p.ds_out ? p.ds_out + index * N * N : nullptr;
        const float *s0 = p.s0 ? p.s0 + index / p.H * p.s0_stride + z.head * N * N : nullptr;
        const int64_t length = z.last - z.first;
        float g[OWN], gc[OWN], s[OWN];
        z.load_row(last, g);
        z.load_column(last, gc);
        for (int64_t from = (length - 1) / KEEP * KEEP; length > 0 && from >= 0; from -= KEEP) {
            const int64_t row = z.first + from;
            const int n = length - from < KEEP ? (int)(length - from) : KEEP;
            const float *saved = static_cast<const float *>(p.states) + state_number(row, p.H, z.head) * N * N;
            z.load_column(from > 0 ? saved : s0, s);
            replay<T, N>(p, z, m, s, room, row, n);
            steps_back<T, N>(p, z, m, g, gc, s, room, row, n);
        }
        if (p.ds0) z.store_row(p.ds0 + index / p.H * p.ds0_stride + z.head * N * N, g, p.ds0_add);
    }
}

} // namespace wkv7

#endif
