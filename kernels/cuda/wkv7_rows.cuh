/* wkv7, token by token: what stands before and behind the recurrence (formulas: kernels/wkv7.h). P is the type of what
 * goes between these kernels and the recurrence: float for the steps, T for the chunks.
 *
 * A warp takes one head and walks through the rows of one part, ROWS at a time: LANES of its lanes share a row, a lane
 * holds W neighbouring channels (16 bytes; 4 channels where many tensors meet), so that the vectors stay in registers
 * and sums along the head are shuffles. The four warps of a block take neighbouring heads. Where a part has no row left
 * for some lanes they work on its last one again, with gradients of 0, and store nothing. Parts depend on R alone; each
 * leaves its sums of the vectors' gradients [part][PARAMS][C], which sum_parts() adds up in order: the same bits
 * whatever the card.
 *
 * Numbers each way, per token and channel: prepare 4 (6 with the value mix) and 3 (4); read_out 3 and 1; out_backward 3
 * and 1; prepare_backward 16 and 8. */
#ifndef RW_KERNELS_CUDA_WKV7_ROWS_CUH
#define RW_KERNELS_CUDA_WKV7_ROWS_CUH

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pointwise.cuh"

namespace wkv7 {

constexpr int ROW_WARPS = 4, MOST_PARTS = 256, LEAST_ROWS = 8;
constexpr float NORM_MIN = 1e-12f;
enum { D_W0, D_A0, D_V0, D_K_K, D_K_A, D_R_K, D_LN_W, D_LN_B, PARAMS };

/* Rows of one part: not below LEAST_ROWS, and no more parts than MOST_PARTS. */
static inline int64_t rows_of_part(int64_t R) {
    const int64_t rows = (R + MOST_PARTS - 1) / MOST_PARTS;
    return rows < LEAST_ROWS ? LEAST_ROWS : rows;
}
static inline int64_t part_count(int64_t R) {
    const int64_t rows = rows_of_part(R);
    return (R + rows - 1) / rows;
}
/* No fewer than part_count() of any number of rows up to R. */
static inline int64_t most_parts(int64_t R) {
    const int64_t parts = (R + LEAST_ROWS - 1) / LEAST_ROWS;
    return parts < MOST_PARTS ? parts : MOST_PARTS;
}

/* What the caller gave, as far as it is read row by row. */
template <class T> struct inputs {
    int64_t R, H, part_rows;
    const T *r, *w_raw, *k0, *v, *a_up, *v_up, *v_first, *g, *dout;
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *ln_w, *ln_b;
    float eps;
};
/* What goes between prepare and read_out, [R,H*N]; bonus [R,H]. v is NULL when v' is the v of the inputs. */
template <class P> struct prepared_rows {
    P *k, *v, *a, *b; /* a = -kk, b = kk * a */
    float *bonus;     /* sum_j r_j k_j r_k_j */
};
/* Gradients of what the recurrence reads; NULL: there was none. */
template <class P> struct recurrence_grads { const P *dr, *dw_raw, *dk, *dv, *da, *db; };
template <class T> struct outputs {
    T *dr, *dw_raw, *dk0, *dv, *da_up, *dv_up, *dv_first, *dg;
    float *parts; /* [part][PARAMS][C] */
    uint32_t add;
};

/* sigmoid(x) and 1 - that, both to full precision. */
template <class T> static __device__ __forceinline__ void sigmoid_parts(float x, float *s, float *rest) {
    const float e = std::is_same_v<T, float> ? expf(-fabsf(x)) : __expf(-fabsf(x));
    const float large = 1 / (1 + e), small = e * large;
    *s = x < 0 ? small : large;
    *rest = x < 0 ? large : small;
}

/* -- where a warp works --------------------------------------------------------------------------------------- */

template <class P> constexpr int wide_row = sizeof(P) == 2 ? 8 : 4; /* W of a kernel that reads few tensors */

template <int N, int W> struct place {
    static constexpr int LANES = N / W, ROWS = 32 / LANES;
    int64_t C, head, first, last, channel; /* channel: of the lane, in the row */
    int sub;                               /* which of the warp's rows */
    __device__ __forceinline__ place(int64_t R, int64_t H, int64_t part_rows) {
        C = H * N;
        head = (int64_t)blockIdx.y * ROW_WARPS + threadIdx.x / 32;
        first = blockIdx.x * part_rows;
        last = first + part_rows < R ? first + part_rows : R;
        channel = head * N + threadIdx.x % LANES * W;
        sub = threadIdx.x % 32 / LANES;
    }
    __device__ __forceinline__ bool there(int64_t row) const { return row + sub < last; }
    __device__ __forceinline__ int64_t mine(int64_t row) const { return there(row) ? row + sub : last - 1; }
    static __device__ __forceinline__ float sum(float x) { /* over the row; every lane of it gets the sum */
#pragma unroll
        for (int d = LANES / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
        return x;
    }
    static __device__ __forceinline__ float dot(const float (&x)[W], const float (&y)[W]) {
        float z = 0;
#pragma unroll
        for (int i = 0; i < W; i++) z += x[i] * y[i];
        return sum(z);
    }
};
/* A lane's channels of a vector; `otherwise` without one. */
template <int W>
static __device__ __forceinline__ void vector_of(const float *p, int64_t at, float otherwise, float *x) {
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = p ? p[at + i] : otherwise;
}
template <int W, class T>
static __device__ __forceinline__ void load_or(const T *p, int64_t at, float otherwise, float (&x)[W]) {
    if (p)
        rw_load(p + at, x);
    else
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = otherwise;
}
/* Of 16-bit numbers by words: the compiler was seen to store them one by one. */
template <int W, class T> static __device__ __forceinline__ void store_row(T *p, const float (&x)[W]) {
    if constexpr (sizeof(T) == 2 && W == 8)
        rw_store16(p, make_uint4(rw_pack2<T>(x[0], x[1]), rw_pack2<T>(x[2], x[3]), rw_pack2<T>(x[4], x[5]),
                                 rw_pack2<T>(x[6], x[7])));
    else if constexpr (sizeof(T) == 2 && W == 4)
        rw_store8(p, make_uint2(rw_pack2<T>(x[0], x[1]), rw_pack2<T>(x[2], x[3])));
    else
        rw_store(p, x);
}
template <int W, class T>
static __device__ __forceinline__ void store_or_add(T *p, int64_t at, bool add, const float (&x)[W]) {
    float y[W];
    if (!p) return;
    load_or(add ? p : nullptr, at, 0, y);
#pragma unroll
    for (int i = 0; i < W; i++) y[i] += x[i];
    store_row(p + at, y);
}
/* -- preparation ---------------------------------------------------------------------------------------------- */

template <int W> struct key_vectors {
    float a0[W], k_k[W], k_a[W];
    template <class T> __device__ __forceinline__ key_vectors(const inputs<T> &p, int64_t channel) {
        vector_of<W>(p.a0, channel, 0, a0);
        vector_of<W>(p.k_k, channel, 0, k_k);
        vector_of<W>(p.k_a, channel, 0, k_a);
    }
};
/* The keys of a token. rest = 1 - a; kk = k0 * k_k * scale. */
template <int W> struct keys { float k0[W], k[W], kk[W], a[W], rest[W], scale; };
template <int N, int W, class T>
static __device__ __forceinline__ keys<W> prepare_keys(const inputs<T> &p, const key_vectors<W> &q, int64_t at) {
    keys<W> x;
    float up[W];
    rw_load(p.k0 + at, x.k0);
    rw_load(p.a_up + at, up);
#pragma unroll
    for (int i = 0; i < W; i++) {
        sigmoid_parts<T>(q.a0[i] + up[i], &x.a[i], &x.rest[i]);
        x.k[i] = x.k0[i] * (1 - x.rest[i] * q.k_a[i]);
        x.kk[i] = x.k0[i] * q.k_k[i];
    }
    x.scale = 1 / fmaxf(sqrtf(place<N, W>::dot(x.kk, x.kk)), NORM_MIN);
#pragma unroll
    for (int i = 0; i < W; i++) x.kk[i] *= x.scale;
    return x;
}
/* The value of a token. With a mix: own and first, s = sigmoid(v0 + v_up), rest = 1 - s. */
template <int W> struct values { float v[W], own[W], first[W], s[W], rest[W]; };
template <int W, class T>
static __device__ __forceinline__ values<W> prepare_values(const inputs<T> &p, const float (&v0)[W], int64_t at) {
    values<W> x;
    float up[W];
    rw_load(p.v + at, x.own);
    load_or(p.v_up, at, 0, up);
    load_or(p.v_up ? p.v_first : nullptr, at, 0, x.first);
#pragma unroll
    for (int i = 0; i < W; i++) {
        sigmoid_parts<T>(v0[i] + up[i], &x.s[i], &x.rest[i]);
        x.v[i] = p.v_up ? x.own[i] + (x.first[i] - x.own[i]) * x.s[i] : x.own[i];
    }
    return x;
}

/* to.bonus NULL: not wanted (backward). */
template <class T, class P, int N>
__global__ void __launch_bounds__(32 * ROW_WARPS) prepare(const inputs<T> p, const prepared_rows<P> to) {
    constexpr int W = wide_row<P>;
    const place<N, W> o(p.R, p.H, p.part_rows);
    if (o.head >= p.H) return;
    const key_vectors<W> q(p, o.channel);
    float v0[W], r_k[W];
    vector_of<W>(p.v0, o.channel, 0, v0);
    vector_of<W>(p.r_k, o.channel, 0, r_k);
    for (int64_t first = o.first; first < o.last; first += o.ROWS) {
        const bool there = o.there(first);
        const int64_t row = o.mine(first), at = row * o.C + o.channel;
        const keys<W> x = prepare_keys<N>(p, q, at);
        float a[W], b[W];
#pragma unroll
        for (int i = 0; i < W; i++) {
            a[i] = -x.kk[i];
            b[i] = x.kk[i] * x.a[i];
        }
        if (there) {
            store_row(to.k + at, x.k);
            store_row(to.a + at, a);
            store_row(to.b + at, b);
            if (to.v) store_row(to.v + at, prepare_values(p, v0, at).v);
        }
        if (!to.bonus) continue;
        float r[W];
        rw_load(p.r + at, r);
#pragma unroll
        for (int i = 0; i < W; i++) r[i] *= r_k[i];
        const float bonus = o.dot(r, x.k);
        if (there && threadIdx.x % o.LANES == 0) to.bonus[row * p.H + o.head] = bonus;
    }
}

/* -- read out: norm, bonus, gate ------------------------------------------------------------------------------ */

/* y -> (y - mean) / deviation over the head, in two passes so that nothing cancels. Returns 1 / deviation. */
template <int N, int W> static __device__ __forceinline__ float normalise(float (&y)[W], float eps) {
    float sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < W; i++) sum += y[i];
    const float mean = place<N, W>::sum(sum) * (1.0f / N);
#pragma unroll
    for (int i = 0; i < W; i++) {
        y[i] -= mean;
        square += y[i] * y[i];
    }
    const float rstd = 1 / sqrtf(place<N, W>::sum(square) * (1.0f / N) + eps);
#pragma unroll
    for (int i = 0; i < W; i++) y[i] *= rstd;
    return rstd;
}

/* v: the values that the recurrence read. */
template <class T, class P, int N>
__global__ void __launch_bounds__(32 * ROW_WARPS)
    read_out(const inputs<T> p, const P *y, const P *v, const float *bonus, T *out) {
    constexpr int W = wide_row<P>;
    const place<N, W> o(p.R, p.H, p.part_rows);
    if (o.head >= p.H) return;
    float ln_w[W], ln_b[W];
    vector_of<W>(p.ln_w, o.channel, 1, ln_w);
    vector_of<W>(p.ln_b, o.channel, 0, ln_b);
    for (int64_t first = o.first; first < o.last; first += o.ROWS) {
        const bool there = o.there(first);
        const int64_t row = o.mine(first), at = row * o.C + o.channel;
        float z[W], u[W], g[W];
        rw_load(y + at, z);
        load_or(p.r_k ? v : nullptr, at, 0, u);
        load_or(p.g, at, 1, g);
        const float c = p.r_k ? bonus[row * p.H + o.head] : 0;
        if (p.ln_w) normalise<N>(z, p.eps);
#pragma unroll
        for (int i = 0; i < W; i++) z[i] = (z[i] * ln_w[i] + ln_b[i] + c * u[i]) * g[i];
        if (there) store_row(out + at, z);
    }
}

/* -- backward ------------------------------------------------------------------------------------------------- */

/* The gradient behind the gate: zeros without dout. */
template <int W, class T>
static __device__ __forceinline__ void behind_gate(const inputs<T> &p, int64_t at, bool there, float (&dout)[W],
                                                   float (&dz)[W]) {
    load_or(there ? p.dout : nullptr, at, 0, dout);
    load_or(p.g, at, 1, dz);
#pragma unroll
    for (int i = 0; i < W; i++) dz[i] *= dout[i];
}
/* Sums of the part: over the warp's rows too. */
template <int N, int W>
static __device__ __forceinline__ void store_sums(float *parts, const place<N, W> &o, int param, float (&x)[W]) {
#pragma unroll
    for (int i = 0; i < W; i++)
#pragma unroll
        for (int d = o.LANES; d < 32; d *= 2) x[i] += __shfl_xor_sync(0xffffffffu, x[i], d);
    if (o.sub == 0) store_row(parts + ((int64_t)blockIdx.x * PARAMS + param) * o.C + o.channel, x);
}

/* dy from dout through gate and norm; the sums of ln_w and ln_b. dy NULL: not wanted. */
template <class T, class P, int N>
__global__ void __launch_bounds__(32 * ROW_WARPS) out_backward(const inputs<T> p, const P *y, P *dy, float *parts) {
    constexpr int W = wide_row<P>;
    const place<N, W> o(p.R, p.H, p.part_rows);
    if (o.head >= p.H) return;
    float ln_w[W], sum_w[W] = {}, sum_b[W] = {};
    vector_of<W>(p.ln_w, o.channel, 1, ln_w);
    for (int64_t first = o.first; first < o.last; first += o.ROWS) {
        const bool there = o.there(first);
        const int64_t row = o.mine(first), at = row * o.C + o.channel;
        float dout[W], d[W], x[W];
        behind_gate(p, at, there, dout, d);
        if (p.ln_w) {
            rw_load(y + at, x);
            const float rstd = normalise<N>(x, p.eps);
            float sum = 0;
#pragma unroll
            for (int i = 0; i < W; i++) {
                sum_w[i] += d[i] * x[i];
                sum_b[i] += d[i];
                d[i] *= ln_w[i];
                sum += d[i];
            }
            const float mean = o.sum(sum) * (1.0f / N), along = o.dot(d, x) * (1.0f / N);
#pragma unroll
            for (int i = 0; i < W; i++) d[i] = (d[i] - mean - x[i] * along) * rstd;
        }
        if (dy && there) store_row(dy + at, d);
    }
    store_sums(parts, o, D_LN_W, sum_w);
    store_sums(parts, o, D_LN_B, sum_b);
}

/* The rest: gate, bonus, value mix and keys backwards, from the gradients of what the recurrence read. */
template <class T, class P, int N>
__global__ void __launch_bounds__(32 * ROW_WARPS, 3)
    prepare_backward(const inputs<T> p, const P *y, const recurrence_grads<P> d, const outputs<T> to) {
    constexpr int W = 4;
    const place<N, W> o(p.R, p.H, p.part_rows);
    if (o.head >= p.H) return;
    const key_vectors<W> q(p, o.channel);
    float v0[W], r_k[W], ln_w[W], ln_b[W], sums[D_R_K + 1][W] = {};
    vector_of<W>(p.v0, o.channel, 0, v0);
    vector_of<W>(p.r_k, o.channel, 0, r_k);
    vector_of<W>(p.ln_w, o.channel, 1, ln_w);
    vector_of<W>(p.ln_b, o.channel, 0, ln_b);
    for (int64_t first = o.first; first < o.last; first += o.ROWS) {
        const bool there = o.there(first);
        const int64_t row = o.mine(first), at = row * o.C + o.channel;
        const keys<W> x = prepare_keys<N>(p, q, at);
        values<W> u = prepare_values(p, v0, at);
        float dout[W], dz[W], z[W], r[W], dr[W], dk[W], dv[W], da[W], db[W], dw[W];
        behind_gate(p, at, there, dout, dz);
        load_or(there ? d.dr : nullptr, at, 0, dr);
        load_or(there ? d.dk : nullptr, at, 0, dk);
        load_or(there ? d.dv : nullptr, at, 0, dv);
        load_or(there ? d.da : nullptr, at, 0, da);
        load_or(there ? d.db : nullptr, at, 0, db);
        load_or(there ? d.dw_raw : nullptr, at, 0, dw);
        float bonus = 0;
        if (p.r_k) {
            rw_load(p.r + at, r);
#pragma unroll
            for (int i = 0; i < W; i++) z[i] = r[i] * r_k[i];
            bonus = o.dot(z, x.k);
            const float along = o.dot(dz, u.v);
#pragma unroll
            for (int i = 0; i < W; i++) {
                dr[i] += along * x.k[i] * r_k[i];
                dk[i] += along * r[i] * r_k[i];
                dv[i] += bonus * dz[i];
                sums[D_R_K][i] += along * r[i] * x.k[i];
            }
        }
        if (to.dg) {
            rw_load(y + at, z);
            if (p.ln_w) normalise<N>(z, p.eps);
#pragma unroll
            for (int i = 0; i < W; i++) z[i] = dout[i] * (z[i] * ln_w[i] + ln_b[i] + bonus * u.v[i]);
            store_or_add(there ? to.dg : nullptr, at, to.add & RW_WKV7_ADD_G, z);
        }
        /* keys: da, of A = -kk, becomes the gradient of kk, then of kk before it was scaled */
#pragma unroll
        for (int i = 0; i < W; i++) da[i] = db[i] * x.a[i] - da[i];
        const float along = o.dot(x.kk, da),
                    part = x.scale < 1 / NORM_MIN ? along : 0; /* a raised norm is a constant */
#pragma unroll
        for (int i = 0; i < W; i++) {
            da[i] = (da[i] - x.kk[i] * part) * x.scale;
            db[i] = (db[i] * x.kk[i] + dk[i] * x.k0[i] * q.k_a[i]) * (x.a[i] * x.rest[i]);
            sums[D_K_K][i] += da[i] * x.k0[i];
            sums[D_K_A][i] -= dk[i] * x.k0[i] * x.rest[i];
            sums[D_A0][i] += db[i];
            sums[D_W0][i] += dw[i];
            dk[i] = dk[i] * (1 - x.rest[i] * q.k_a[i]) + da[i] * q.k_k[i];
        }
        store_or_add(there ? to.dr : nullptr, at, to.add & RW_WKV7_ADD_R, dr);
        store_or_add(there ? to.dw_raw : nullptr, at, to.add & RW_WKV7_ADD_W_RAW, dw);
        store_or_add(there ? to.dk0 : nullptr, at, to.add & RW_WKV7_ADD_K0, dk);
        store_or_add(there ? to.da_up : nullptr, at, to.add & RW_WKV7_ADD_A_UP, db);
        if (p.v_up) {
#pragma unroll
            for (int i = 0; i < W; i++) {
                const float up = dv[i] * (u.first[i] - u.own[i]) * (u.s[i] * u.rest[i]);
                u.first[i] = dv[i] * u.s[i];
                dv[i] *= u.rest[i];
                sums[D_V0][i] += up;
                u.own[i] = up;
            }
            store_or_add(there ? to.dv_up : nullptr, at, to.add & RW_WKV7_ADD_V_UP, u.own);
            store_or_add(there ? to.dv_first : nullptr, at, to.add & RW_WKV7_ADD_V_FIRST, u.first);
        }
        store_or_add(there ? to.dv : nullptr, at, to.add & RW_WKV7_ADD_V, dv);
    }
#pragma unroll
    for (int i = 0; i <= D_R_K; i++) store_sums(to.parts, o, i, sums[i]);
}

/* -- sums over parts, in order -------------------------------------------------------------------------------- */

constexpr int SUM_COLUMNS = 32, SUM_ROWS = 8;
struct part_sums {
    float *to[PARAMS]; /* NULL: not wanted */
    uint32_t add;      /* bit i: to[i] */
    const float *from; /* [n][of each to][width] */
    int64_t n, pitch, width;
};
/* Block (columns of `width`, which `to`); 32 x 8 threads: eight sums over every eighth part, then those. */
static __global__ void sum_parts(const part_sums p) {
    __shared__ float room[SUM_ROWS][SUM_COLUMNS];
    float *to = p.to[blockIdx.y];
    const int64_t c = (int64_t)blockIdx.x * SUM_COLUMNS + threadIdx.x;
    const float *from = p.from + blockIdx.y * p.width + c;
    float sum = 0;
    if (!to) return;
    for (int64_t i = threadIdx.y; c < p.width && i < p.n; i += SUM_ROWS) sum += from[i * p.pitch];
    room[threadIdx.y][threadIdx.x] = sum;
    __syncthreads(); /* the eight sums of all columns are there */
    if (threadIdx.y > 0 || c >= p.width) return;
#pragma unroll
    for (int i = 1; i < SUM_ROWS; i++) sum += room[i][threadIdx.x];
    to[c] = (p.add >> blockIdx.y & 1 ? to[c] : 0) + sum;
}

} // namespace wkv7

#endif
