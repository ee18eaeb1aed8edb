/* wkv6 on tensor cores: 16-bit numbers, heads of 64, compute capability 8.0 on (kernels/cuda/wkv6.cu chooses).
 *
 *     y_t = S_{t-1} r_t + (r_t . (u k_t)) v_t,   S_t = S_{t-1} diag(w_t) + v_t k_t^T,   w = 2^l, l = -e^ww / log 2
 *
 * Chunks of 16 steps; with pre, cum and suf the sums of l before a step, up to and with it, and behind it:
 *     Rt = r w^pre   Kb = k w^suf   A[t,s] = sum_j r_t k_s w^(between s and t) (s < t),  A[t,t] = r_t . (u k_t)
 *     Y = Rt S^T + A V,   S' = S diag(w^total) + V^T Kb
 * Forward: a block of 4 warps owns a head and works on 64 steps at a time. Warp p prepares chunk p (Rt, Kb, A), then,
 * without a barrier, carries value rows 16p .. 16p+15 of S as fp32 sums through the four chunks. A of a chunk is one
 * product of operands scaled about its middle when every |l| there is small enough for the number type (LIMIT: the
 * chunk is "mild"), else comes from running products of w on CUDA cores, which cannot overflow for any l.
 *
 * Backward: delta_t = v_t . dy_t, Om[t,s] = v_s . dy_t (s < t), G = dL/dS at the end of a chunk:
 *     dV = A^T dY + Kb G^T          G' = G diag(w^total) + dY^T Rt
 *     dR = (dY S) w^pre + rho + delta u k      dK = (V G) w^suf + kappa + delta u r      du = sum_t delta r k
 *     dl_x = sum_{t>x} Rt.(dY S) + sum_{s<x} Kb.(V G) + w^total sum_i G S + (pairs s < x < t inside the chunk)
 * rho, kappa and the pairs inside the chunk come from Om, r, k and the decays between s and t:
 *   mild chunk: k w^-cum takes the place of Kb ("ks") and G is scaled by w^total first, so that rho = Om ks and kappa =
 *     Om^T Rt join the products with the states; the pairs are a suffix sum of Rt.rho - ks.kappa, taken with the very
 *     operands of those products (their rounding cancels);
 *   other chunks: running products of w on CUDA cores; no difference of large terms, any l <= 0.
 * 64 steps at a time: warp p prepares chunk p; every warp carries its value rows of S forward through the four chunks,
 * then G backward through two of them, leaving 16-bit tiles; then warps (chunk, half of the key channels) do what sums
 * over value rows, in place of the tiles; then the other two chunks.
 *
 * Few heads: each sequence is cut into segments of whole 64 steps, worked on side by side. segment_sums moves only the
 * state (from zeros) over each, join_segments, elementwise, makes the state at every cut.
 *
 * Rows past the end of a sequence are zeros in the tiles, and l = 0 there, by hand: ww = 0 would mean a decay.
 * The study behind it, without packed rows, measured on an H100 (32 sequences of 512, 32 heads): forward 0.32, backward
 * 0.75 ns a token and head; where a channel of each chunk decays strongly 0.41 and 1.06. */
#ifndef RW_KERNELS_CUDA_WKV6_CHUNKED_CUH
#define RW_KERNELS_CUDA_WKV6_CHUNKED_CUH

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/wkv6_rows.cuh"

namespace wkv6 {

constexpr int HEAD = 64, CHUNK = 16, BLOCK = 64, WARPS = 4, THREADS = 32 * WARPS;
constexpr int ROW = HEAD * 2;             /* bytes of one row of a tile            */
constexpr int CHUNK_TILE = CHUNK * ROW;   /* 2 KB                                  */
constexpr int TENSOR = BLOCK * ROW;       /* 8 KB: one tensor, 64 steps            */
constexpr int MATRIX = CHUNK * CHUNK * 2; /* one 16 x 16 matrix                    */
constexpr int STATE_TILE = HEAD * ROW;    /* 8 KB: S or G, [i][j]                  */
constexpr float LOG2E = 1.4426950408889634f, LOG2_LOG2E = 0.5287663729448977f;
constexpr float GONE = -40.f * LOG2E; /* l below -40: dww = 0 (the true one is under 2e-16 of sum_i G S) */

/* |l| up to which operands may be scaled by w^-1: forward by 8 steps, backward by 16, where sums of v k w^-cum follow.
 * fp16 ends at 65504: both leave it a factor of 120. */
template <class T> constexpr float LIMIT = (std::is_same_v<T, __half> ? 0.6f : 10.f) * LOG2E;
template <class T> constexpr float LIMIT_BACK = (std::is_same_v<T, __half> ? 0.3f : 4.f) * LOG2E;

template <class T> struct inputs {
    packed rows;
    const T *r, *k, *v, *ww; /* [R,H,64]; ww NULL: the decay is w0 alone          */
    const float *w0, *u;     /* [H,64]; w0 NULL: zeros                            */
    const float *s0;         /* [n_seq,H,64,64] by s0_stride; NULL: zeros         */
    int64_t s0_stride;
    T *states;            /* S every 64 rows, see saved_at; forward: NULL: not wanted */
    int segments;         /* 1: not cut                                        */
    float *state, *decay; /* [n_seq,H,segments,64,64] and [..,64] of the segments, when cut */
};
template <class T> struct outputs {
    T *y;         /* [R,H,64]                                          */
    float *s_out; /* [n_seq,H,64,64]; NULL: not wanted                 */
};
template <class T> struct gradients {
    const T *dy;           /* [R,H,64]                                          */
    const float *ds_out;   /* [n_seq,H,64,64]; NULL: zeros                      */
    T *dr, *dk, *dv, *dww; /* [R,H,64]; NULL: not wanted                        */
    bool add_r, add_k, add_v, add_w, add_s0;
    float *ds0;   /* [n_seq,H,64,64]; NULL: not wanted                 */
    float *parts; /* [n_seq,segments,2,H*64]: du, dw0                  */
};

/* -- which rows a block works on ------------------------------------------------------------------------- */

struct place {
    int64_t seq, first, last;   /* rows of the sequence                              */
    int h, segment, begin, end; /* of 64 rows; the last block may be shorter         */
    int64_t head, stride;       /* number of (sequence, head); elements from row to row */
};
template <class T> __device__ __forceinline__ place place_of(const inputs<T> &p, int64_t head, int segment) {
    place x;
    x.head = head, x.segment = segment;
    x.seq = head / p.rows.H, x.h = (int)(head % p.rows.H);
    x.first = first_row(p.rows, x.seq), x.last = first_row(p.rows, x.seq + 1);
    const int blocks = (int)((x.last - x.first + BLOCK - 1) / BLOCK), each = (blocks + p.segments - 1) / p.segments;
    x.begin = min(segment * each, blocks), x.end = min(x.begin + each, blocks);
    x.stride = (int64_t)p.rows.H * HEAD;
    return x;
}
__device__ __forceinline__ int64_t element_of(const place &x, int block) {
    return (x.first + (int64_t)block * BLOCK) * x.stride + x.h * HEAD;
}
/* rows of a block that exist */
__device__ __forceinline__ int rows_of(const place &x, int block) {
    const int64_t left = x.last - x.first - (int64_t)block * BLOCK;
    return left < BLOCK ? (int)left : BLOCK;
}

/* -- operands, tiles ------------------------------------------------------------------------------------- */

template <class T> __device__ __forceinline__ float2 unpack(uint32_t w) {
    return make_float2(rw_low<T>(w), rw_high<T>(w));
}
template <class T> __device__ __forceinline__ float2 unpack_at(const char *p) {
    return unpack<T>(*(const uint32_t *)p);
}
/* d[16x16] += a . b, b laid out [n][k] and read by rw_ldmatrix (or the registers of an A operand [n][k]) */
template <class T> __device__ __forceinline__ void mma_nk(float (*d)[4], const rw_fragment &a, const rw_fragment &b) {
    rw_mma<T>(d[0], a, b.x[0], b.x[2]);
    rw_mma<T>(d[1], a, b.x[1], b.x[3]);
}
/* the same, b laid out [k][n] and read by rw_ldmatrix_trans */
template <class T> __device__ __forceinline__ void mma_kn(float (*d)[4], const rw_fragment &a, const rw_fragment &b) {
    rw_mma<T>(d[0], a, b.x[0], b.x[1]);
    rw_mma<T>(d[1], a, b.x[2], b.x[3]);
}

/* 16-byte piece p of row t lies at piece p ^ (t & 7): ldmatrix and whole rows are free of bank conflicts */
__device__ __forceinline__ uint32_t word_at(int t, int word) {
    return t * ROW + (((word >> 2) ^ (t & 7)) << 4) + ((word & 3) << 2);
}
/* ldmatrix address of columns 16q.. of a chunk tile */
__device__ __forceinline__ uint32_t block_at(uint32_t tile, int q) {
    const int lane = threadIdx.x & 31, t = lane & 15;
    return tile + t * ROW + (((2 * q + (lane >> 4)) ^ (t & 7)) << 4);
}
/* ldmatrix address of a 16 x 16 matrix with 32-byte rows */
__device__ __forceinline__ uint32_t matrix_at(uint32_t m) {
    const int lane = threadIdx.x & 31;
    return m + (lane & 15) * 32 + ((lane >> 4) << 4);
}
/* start copying 64 rows of one tensor into a tile; rows from `valid` on become zeros */
template <class T> __device__ __forceinline__ void copy_tile(uint32_t tile, const T *src, int64_t stride, int valid) {
#pragma unroll
    for (int x = 0; x < TENSOR / 16 / THREADS; x++) {
        const int piece = threadIdx.x + x * THREADS, row = piece >> 3, p = piece & 7;
        const bool there = row < valid;
        rw_copy_async(tile + row * ROW + ((p ^ (row & 7)) << 4), src + (there ? row : 0) * stride + p * 8, there);
    }
}
/* start copying 64 steps of the inputs */
template <class T>
__device__ __forceinline__ void copy_inputs(uint32_t to, const inputs<T> &p, int64_t at, int64_t stride, int valid) {
    copy_tile(to, p.r + at, stride, valid);
    copy_tile(to + TENSOR, p.k + at, stride, valid);
    copy_tile(to + 2 * TENSOR, p.v + at, stride, valid);
    if (p.ww) copy_tile(to + 3 * TENSOR, p.ww + at, stride, valid);
}
__device__ __forceinline__ void copies_done() {
    rw_copy_commit();
    rw_copy_wait<0>();
}

/* l = -e^ww in units of log 2, as everywhere below: w = 2^l. Finite for any ww. */
__device__ __forceinline__ float log_decay(float ww) {
    const float x = fmaf(ww, LOG2E, LOG2_LOG2E);
    return -rw_exp2_fast(x > 115.f ? 115.f : x); /* this way round NaN passes */
}
__device__ __forceinline__ float2 log_decay(float2 a, float2 b) {
    return make_float2(log_decay(a.x + b.x), log_decay(a.y + b.y));
}
/* w0 of the lane's two channels */
template <class T> __device__ __forceinline__ float2 own_w0(const inputs<T> &p, int h, int lane) {
    return p.w0 ? *(const float2 *)(p.w0 + h * HEAD + 2 * lane) : make_float2(0.f, 0.f);
}

/* sums 16 values over the 32 lanes in 16 shuffles; the sum of v[i] ends in lanes 2i and 2i+1.
 * (One loop variable: with two, the compiler keeps v in local memory.) */
__device__ __forceinline__ float sum16(float *v, int lane) {
#pragma unroll
    for (int step = 0; step < 4; step++) {
        const int half = 8 >> step, bit = 16 >> step;
        const bool up = lane & bit;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < half) {
                const float keep = up ? v[i + half] : v[i], send = up ? v[i] : v[i + half];
                v[i] = keep + __shfl_xor_sync(~0u, send, bit);
            }
    }
    return v[0] + __shfl_xor_sync(~0u, v[0], 1);
}

/* -- A of a chunk ---------------------------------------------------------------------------------------- */

struct tiles { /* one chunk each; left, right: operands of the factored product */
    char *r, *k, *left, *right, *a;
    float *total;
};

/* A by running products: q[s] = k_s w_{s+1} .. w_{t-1}, A[t,s] = r_t . q[s]. Lane = channels 2 lane, +1. Any l <= 0. */
template <class T>
__device__ __forceinline__ void exact_matrix(const tiles &c, const float (*l)[2], float2 u, int lane) {
    float q[CHUNK][2];
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
        const float2 r = unpack_at<T>(c.r + word_at(t, lane)), k = unpack_at<T>(c.k + word_at(t, lane));
        float a[CHUNK];
#pragma unroll
        for (int s = 0; s < CHUNK; s++)
            a[s] = s < t ? r.x * q[s][0] + r.y * q[s][1] : s == t ? r.x * u.x * k.x + r.y * u.y * k.y : 0.f;
        const float sum = sum16(a, lane);
        if (!(lane & 1)) *(T *)(c.a + t * 32 + lane) = rw_from_float<T>(sum);
        const float w0 = rw_exp2_fast(l[t][0]), w1 = rw_exp2_fast(l[t][1]);
#pragma unroll
        for (int s = 0; s < t; s++) q[s][0] *= w0, q[s][1] *= w1;
        q[t][0] = k.x, q[t][1] = k.y;
    }
}

/* A by one product of c.left and c.right; diag[t] = r_t.(u k_t). What stands above the diagonal may be anything. */
template <class T> __device__ __forceinline__ void factored_matrix(const tiles &c, float diag, int lane) {
    float d[2][4] = {};
#pragma unroll
    for (int q = 0; q < 4; q++)
        mma_nk<T>(d, rw_ldmatrix(block_at(rw_shared_address(c.left), q)),
                  rw_ldmatrix(block_at(rw_shared_address(c.right), q)));
    const int g = lane >> 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int t = g + 8 * h;
        const float own = __shfl_sync(~0u, diag, 2 * t);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int s = 8 * n + 2 * (lane & 3);
            const float x = s < t ? d[n][2 * h] : s == t ? own : 0.f;
            const float y = s + 1 < t ? d[n][2 * h + 1] : s + 1 == t ? own : 0.f;
            *(uint32_t *)(c.a + t * 32 + 2 * s) = rw_pack2<T>(x, y);
        }
    }
}

__device__ __forceinline__ bool all_below(const float (*l)[2], float limit) {
    float largest = 0.f;
#pragma unroll
    for (int t = 0; t < CHUNK; t++) largest = fmaxf(largest, fmaxf(-l[t][0], -l[t][1]));
    return __all_sync(~0u, largest <= limit);
}

/* -- forward --------------------------------------------------------------------------------------------- */

/* One warp makes Rt, Kb (in place of r, k), A and w^total of its chunk. l holds log w of the lane's two channels. */
template <class T> __device__ __forceinline__ void prepare(const tiles &c, const float (*l)[2], float2 u, int lane) {
    float mid0 = 0.f, mid1 = 0.f;
#pragma unroll
    for (int t = 0; t < CHUNK / 2; t++) mid0 += l[t][0], mid1 += l[t][1];
    const bool mild = all_below(l, LIMIT<T>);
    if (!mild) exact_matrix<T>(c, l, u, lane);
    float p0 = 0.f, p1 = 0.f, own[CHUNK];
#pragma unroll
    for (int t = 0; t < CHUNK; t++) { /* p = pre_t, then cum_t */
        uint32_t *rw = (uint32_t *)(c.r + word_at(t, lane));
        const float2 r = unpack<T>(*rw), k = unpack_at<T>(c.k + word_at(t, lane));
        own[t] = r.x * u.x * k.x + r.y * u.y * k.y;
        *rw = rw_pack2<T>(r.x * rw_exp2_fast(p0), r.y * rw_exp2_fast(p1));
        if (mild)
            *(uint32_t *)(c.left + word_at(t, lane)) =
                rw_pack2<T>(r.x * rw_exp2_fast(p0 - mid0), r.y * rw_exp2_fast(p1 - mid1));
        p0 += l[t][0], p1 += l[t][1];
        if (mild)
            *(uint32_t *)(c.right + word_at(t, lane)) =
                rw_pack2<T>(k.x * rw_exp2_fast(mid0 - p0), k.y * rw_exp2_fast(mid1 - p1));
    }
    *(float2 *)(c.total + 2 * lane) = make_float2(rw_exp2_fast(p0), rw_exp2_fast(p1));
    float q0 = 0.f, q1 = 0.f;
#pragma unroll
    for (int t = CHUNK - 1; t >= 0; t--) { /* q = suf_t */
        uint32_t *kw = (uint32_t *)(c.k + word_at(t, lane));
        const float2 k = unpack<T>(*kw);
        *kw = rw_pack2<T>(k.x * rw_exp2_fast(q0), k.y * rw_exp2_fast(q1));
        q0 += l[t][0], q1 += l[t][1];
    }
    if (mild) {
        const float diag = sum16(own, lane);
        __syncwarp(); /* the operands are there */
        factored_matrix<T>(c, diag, lane);
    }
}

/* shared memory: the operands scaled by w^-1, A, w^total, then r, k, v, ww (the left operands take the place of ww) */
constexpr int FWD_A = TENSOR, FWD_TOTAL = FWD_A + WARPS * MATRIX, FWD_INPUTS = FWD_TOTAL + WARPS * HEAD * 4;
constexpr int FORWARD_BYTES = FWD_INPUTS + 4 * TENSOR;
__device__ __forceinline__ tiles tiles_at(char *smem, int c) {
    char *p = smem + FWD_INPUTS + c * CHUNK_TILE;
    return tiles{p,
                 p + TENSOR,
                 p + 3 * TENSOR,
                 smem + c * CHUNK_TILE,
                 smem + FWD_A + c * MATRIX,
                 (float *)(smem + FWD_TOTAL) + c * HEAD};
}

/* Where this thread's part of a state begins: value rows 16 warp + g, + 8; key columns 8n + 2q, +1. */
__device__ __forceinline__ int corner() {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    return (16 * warp + (lane >> 2)) * HEAD + 2 * (lane & 3);
}
__device__ __forceinline__ void load_wide(float (*s)[4], const float *from) { /* NULL: zeros */
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float2 x = make_float2(0.f, 0.f);
            if (from) x = *(const float2 *)(from + corner() + 8 * h * HEAD + 8 * n);
            s[n][2 * h] = x.x, s[n][2 * h + 1] = x.y;
        }
}
__device__ __forceinline__ void store_wide(float *to, bool add, const float (*s)[4]) {
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float2 *at = (float2 *)(to + corner() + 8 * h * HEAD + 8 * n);
            float2 x = make_float2(s[n][2 * h], s[n][2 * h + 1]);
            if (add) x.x += at->x, x.y += at->y;
            *at = x;
        }
}
template <class T> __device__ __forceinline__ void store_narrow(T *to, const float (*s)[4]) {
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint32_t *)(to + corner() + 8 * h * HEAD + 8 * n) = rw_pack2<T>(s[n][2 * h], s[n][2 * h + 1]);
}
template <class T> __device__ __forceinline__ void load_narrow(float (*s)[4], const T *from) {
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 x = unpack<T>(*(const uint32_t *)(from + corner() + 8 * h * HEAD + 8 * n));
            s[n][2 * h] = x.x, s[n][2 * h + 1] = x.y;
        }
}
/* S before the segment, or G behind it; x0: of the whole sequence */
template <class T>
__device__ __forceinline__ const float *cut_state(const inputs<T> &p, const place &x, const float *x0) {
    return p.segments > 1 ? p.state + (x.head * p.segments + x.segment) * HEAD * HEAD : x0;
}
template <class T> __device__ __forceinline__ const float *initial_state(const inputs<T> &p, const place &x) {
    return p.s0 ? p.s0 + x.seq * p.s0_stride + (int64_t)x.h * HEAD * HEAD : nullptr;
}

/* The warp's value rows of a chunk: y, and S to its end. */
template <class T>
__device__ __forceinline__ void forward_chunk(float (*s)[4], char *smem, int c, T *y, int64_t stride, int valid) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, c2 = 2 * (lane & 3);
    const tiles t = tiles_at(smem, c);
    float d[2][4] = {}; /* [16 t][16 i] */
    const rw_fragment v = rw_ldmatrix_trans(block_at(rw_shared_address(t.k + TENSOR), warp));
#pragma unroll
    for (int q = 0; q < 4; q++) mma_nk<T>(d, rw_ldmatrix(block_at(rw_shared_address(t.r), q)), rw_as_a<T>(s + 2 * q));
    mma_kn<T>(d, rw_ldmatrix(matrix_at(rw_shared_address(t.a))), v);
    const rw_fragment vt = rw_swap(v);
#pragma unroll
    for (int q = 0; q < 4; q++) {
#pragma unroll
        for (int n = 2 * q; n < 2 * q + 2; n++) {
            const float2 f = *(const float2 *)(t.total + 8 * n + c2);
            s[n][0] *= f.x, s[n][1] *= f.y, s[n][2] *= f.x, s[n][3] *= f.y;
        }
        mma_kn<T>(s + 2 * q, vt, rw_ldmatrix_trans(block_at(rw_shared_address(t.k), q)));
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = c * CHUNK + g + 8 * h;
        T *to = y + row * stride + 16 * warp + c2;
        if (row < valid) {
            *(uint32_t *)to = rw_pack2<T>(d[0][2 * h], d[0][2 * h + 1]);
            *(uint32_t *)(to + 8) = rw_pack2<T>(d[1][2 * h], d[1][2 * h + 1]);
        }
    }
}

/* grid n_seq * H * segments, THREADS threads, FORWARD_BYTES; other blocks of the SM hide the loads */
template <class T> __global__ void __launch_bounds__(THREADS, 4) forward_kernel(const inputs<T> p, const outputs<T> o) {
    extern __shared__ __align__(1024) char smem[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const place x = place_of(p, blockIdx.x / p.segments, blockIdx.x % p.segments);
    const float2 u = *(const float2 *)(p.u + x.h * HEAD + 2 * lane), w0 = own_w0(p, x.h, lane);
    const float2 fixed = log_decay(w0, make_float2(0.f, 0.f));
    float s[8][4];
    load_wide(s, cut_state(p, x, initial_state(p, x)));
    for (int block = x.begin; block < x.end; block++) {
        const int64_t at = element_of(x, block);
        const int valid = rows_of(x, block);
        __syncthreads(); /* the steps before are done with the tiles */
        copy_inputs(rw_shared_address(smem + FWD_INPUTS), p, at, x.stride, valid);
        copies_done();
        __syncthreads(); /* the tiles are there */
        {
            const tiles mine = tiles_at(smem, warp);
            float l[CHUNK][2];
#pragma unroll
            for (int t = 0; t < CHUNK; t++) {
                float2 z = fixed;
                if (p.ww) z = log_decay(w0, unpack_at<T>(mine.left + word_at(t, lane)));
                l[t][0] = z.x, l[t][1] = z.y;
            }
            if (valid < (warp + 1) * CHUNK)
#pragma unroll
                for (int t = 0; t < CHUNK; t++)
                    if (warp * CHUNK + t >= valid) l[t][0] = l[t][1] = 0.f;
            prepare<T>(mine, l, u, lane);
        }
        __syncthreads(); /* all four chunks are prepared */
        if (p.states && block > 0)
            store_narrow(p.states + saved_at<HEAD>(p.rows, x.first + (int64_t)block * BLOCK, x.h), s);
#pragma unroll 1
        for (int c = 0; c < WARPS; c++) forward_chunk<T>(s, smem, c, o.y + at, x.stride, valid);
    }
    if (o.s_out && x.segment == p.segments - 1) store_wide(o.s_out + x.head * HEAD * HEAD, false, s);
}

/* -- backward: shared memory, one chunk ------------------------------------------------------------------ */

/* Seven tensors of 64 steps, S at the four chunk starts, G of two chunks, A, w^total, the flags. SMALL, for cards with
 * 99 KB a block: S of two chunks; that of the first two is made again when their turn comes. */
constexpr int AT_R = 0, AT_K = TENSOR, AT_V = 2 * TENSOR, AT_W = 3 * TENSOR, AT_DY = 4 * TENSOR, AT_RT = 5 * TENSOR;
constexpr int AT_KS = 6 * TENSOR;
template <bool SMALL> struct layout {
    static constexpr int STATES = SMALL ? 2 : 4, S = 7 * TENSOR, G = S + STATES * STATE_TILE;
    static constexpr int A = G + 2 * STATE_TILE, TOTAL = A + WARPS * MATRIX, FLAG = TOTAL + WARPS * HEAD * 4;
    static constexpr int BYTES = FLAG + WARPS * 4;
};

/* one chunk; p: + AT_R and so on; rt: r w^pre; ks: k w^-cum in a mild chunk, else k w^suf */
struct chunk {
    char *p, *s, *g, *a;
    float *total;
    int *mild;
};
template <bool SMALL> __device__ __forceinline__ chunk chunk_at(char *smem, int c) {
    using at = layout<SMALL>;
    return chunk{
        smem + c * CHUNK_TILE,     smem + at::S + c % at::STATES * STATE_TILE, smem + at::G + (c & 1) * STATE_TILE,
        smem + at::A + c * MATRIX, (float *)(smem + at::TOTAL) + c * HEAD,     (int *)(smem + at::FLAG) + c};
}
struct lane_of { /* with offsets for ldmatrix: columns 16q.., the warp's columns */
    int warp, lane;
    uint32_t wide[4], own;
};
__device__ __forceinline__ lane_of this_lane() {
    lane_of z;
    z.warp = threadIdx.x >> 5, z.lane = threadIdx.x & 31;
#pragma unroll
    for (int q = 0; q < 4; q++) z.wide[q] = block_at(0, q);
    z.own = block_at(0, z.warp);
    return z;
}
/* row t of a lane's element, from the offsets of its first 8 rows */
__device__ __forceinline__ uint32_t row_at(const uint32_t *first, int t) {
    return first[t & 7] + (t >> 3) * 8 * ROW;
}

/* One warp makes rt, ks, a, total and the flag of its chunk; r, k, ww stay. Lane = channels 2 lane, +1. */
template <class T>
__device__ __forceinline__ void prepare_back(const chunk &c, const float (*l)[2], float2 u, int lane,
                                             const uint32_t *rows) {
    const tiles m{c.p + AT_R, c.p + AT_K, c.p + AT_RT, c.p + AT_KS, c.a, c.total};
    float p0 = 0.f, p1 = 0.f, own[CHUNK];
    const bool mild = all_below(l, LIMIT_BACK<T>);
    if (!mild) exact_matrix<T>(m, l, u, lane);
    float2 k[CHUNK];
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
        char *at = c.p + row_at(rows, t);
        const float2 r = unpack_at<T>(at + AT_R);
        k[t] = unpack_at<T>(at + AT_K);
        own[t] = r.x * u.x * k[t].x + r.y * u.y * k[t].y;
        *(uint32_t *)(at + AT_RT) = rw_pack2<T>(r.x * rw_exp2_fast(p0), r.y * rw_exp2_fast(p1));
        p0 += l[t][0], p1 += l[t][1];
        if (mild) *(uint32_t *)(at + AT_KS) = rw_pack2<T>(k[t].x * rw_exp2_fast(-p0), k[t].y * rw_exp2_fast(-p1));
    }
    *(float2 *)(c.total + 2 * lane) = make_float2(rw_exp2_fast(p0), rw_exp2_fast(p1));
    if (lane == 0) *c.mild = mild;
    if (mild) {
        const float diag = sum16(own, lane);
        __syncwarp(); /* rt and ks are there */
        factored_matrix<T>(m, diag, lane);
    } else {
        float q0 = 0.f, q1 = 0.f;
#pragma unroll
        for (int t = CHUNK - 1; t >= 0; t--) {
            *(uint32_t *)(c.p + row_at(rows, t) + AT_KS) =
                rw_pack2<T>(k[t].x * rw_exp2_fast(q0), k[t].y * rw_exp2_fast(q1));
            q0 += l[t][0], q1 += l[t][1];
        }
    }
}

/* columns 16q.. of the accumulators times their w^total */
__device__ __forceinline__ void scale(float (*s)[4], int q, const float *total, int lane) {
#pragma unroll
    for (int n = 2 * q; n < 2 * q + 2; n++) {
        const float2 f = *(const float2 *)(total + 8 * n + 2 * (lane & 3));
        s[n][0] *= f.x, s[n][1] *= f.y, s[n][2] *= f.x, s[n][3] *= f.y;
    }
}
/* the warp's 16 value rows into a state tile */
template <class T> __device__ __forceinline__ void store_rows(char *tile, const float (*s)[4], const lane_of &z) {
    char *row = tile + (16 * z.warp + (z.lane >> 2)) * ROW + ((z.lane & 3) << 2);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const int piece = (n ^ (z.lane >> 2)) << 4;
        *(uint32_t *)(row + piece) = rw_pack2<T>(s[n][0], s[n][1]);
        *(uint32_t *)(row + piece + 8 * ROW) = rw_pack2<T>(s[n][2], s[n][3]);
    }
}

/* S of the chunk's start -> S of its end */
template <class T, bool MILD> __device__ __forceinline__ void advance(float (*s)[4], const chunk &c, const lane_of &z) {
    const uint32_t p = rw_shared_address(c.p);
    const rw_fragment v = rw_swap(rw_ldmatrix_trans(p + z.own + AT_V));
#pragma unroll
    for (int q = 0; q < 4; q++) {
        if (!MILD) scale(s, q, c.total, z.lane);
        mma_kn<T>(s + 2 * q, v, rw_ldmatrix_trans(p + z.wide[q] + AT_KS));
        if (MILD) scale(s, q, c.total, z.lane);
    }
}

template <class T> __device__ __forceinline__ void store2(T *to, bool add, float x, float y) {
    if (add) {
        const float2 old = unpack<T>(*(const uint32_t *)to);
        x += old.x, y += old.y;
    }
    *(uint32_t *)to = rw_pack2<T>(x, y);
}

/* G of the chunk's end -> G of its start; leaves G (mild: times w^total) in a tile, writes dv */
template <class T, bool MILD>
__device__ __forceinline__ void chain_g(float (*g)[4], const chunk &c, T *dv, bool add, int64_t stride, int valid,
                                        const lane_of &z) {
    const uint32_t p = rw_shared_address(c.p);
    const rw_fragment dy = rw_ldmatrix_trans(p + z.own + AT_DY), dyt = rw_swap(dy);
    float d[2][4] = {}, e[2][4] = {};
    mma_kn<T>(e, rw_swap(rw_ldmatrix_trans(matrix_at(rw_shared_address(c.a)))), dy);
    if (MILD)
#pragma unroll
        for (int q = 0; q < 4; q++) scale(g, q, c.total, z.lane);
#pragma unroll
    for (int q = 0; q < 4; q++) mma_nk<T>(q & 1 ? e : d, rw_ldmatrix(p + z.wide[q] + AT_KS), rw_as_a<T>(g + 2 * q));
    store_rows<T>(c.g, g, z);
#pragma unroll
    for (int q = 0; q < 4; q++) {
        if (!MILD) scale(g, q, c.total, z.lane);
        mma_kn<T>(g + 2 * q, dyt, rw_ldmatrix_trans(p + z.wide[q] + AT_RT));
    }
    if (!dv) return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int t = (z.lane >> 2) + 8 * h;
        T *to = dv + t * stride + 16 * z.warp + 2 * (z.lane & 3);
        if (t < valid) {
            store2(to, add, d[0][2 * h] + e[0][2 * h], d[0][2 * h + 1] + e[0][2 * h + 1]);
            store2(to + 8, add, d[1][2 * h] + e[1][2 * h], d[1][2 * h + 1] + e[1][2 * h + 1]);
        }
    }
}

/* -- backward: what sums over value rows ----------------------------------------------------------------- */

/* Half of a state tile (32 columns), once read, holds two fp32 matrices [16 t x 32 channels]. The bits of t are spread
 * over the rows so that both accumulators (pairs) and whole rows are free of bank conflicts. t + 8 lies STEP8 further
 * on, the second matrix SECOND. */
constexpr int STEP8 = 16 * ROW, SECOND = 32 * ROW;
__device__ __forceinline__ uint32_t product_at(int half, int t, int ch) { /* t < 8 */
    const int row = (t >> 2) | (t & 1) << 1 | ((ch >> 4) ^ ((t >> 1) & 1)) << 2 | ((t >> 1) & 1) << 3;
    return row * ROW + (((4 * half + ((ch >> 2) & 3)) ^ (row & 7)) << 4) + (ch & 3) * 4;
}

struct shares { /* delta[h]: of step g + 8h, in lane 4g + g/2; end: sum_i G S of the lane's channel */
    float delta[2], end;
};

/* For 32 key channels of one chunk. Leaves in the tile of S: dY S (mild: + rho), kappa (mild only); in the tile of G:
 * V G, Om (not mild; as 8 rows of 2 x 16). */
template <class T, bool MILD> __device__ __forceinline__ shares products(const chunk &c, int half, const lane_of &z) {
    const uint32_t p = rw_shared_address(c.p), as = rw_shared_address(c.s), ag = rw_shared_address(c.g);
    const int lane = z.lane, g = lane >> 2, c2 = 2 * (lane & 3);
    const uint32_t wide[2] = {half ? z.wide[2] : z.wide[0], half ? z.wide[3] : z.wide[1]}; /* the half's columns */
    float om[2][4] = {}, pr[4][4] = {}, pk[4][4] = {}, e[4][4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const rw_fragment v = rw_ldmatrix(p + z.wide[i] + AT_V), dy = rw_ldmatrix(p + z.wide[i] + AT_DY);
        mma_nk<T>(om, dy, v);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const rw_fragment sf = rw_ldmatrix_trans(as + wide[n] + i * CHUNK_TILE);
            const rw_fragment gf = rw_ldmatrix_trans(ag + wide[n] + i * CHUNK_TILE);
            mma_kn<T>(pr + 2 * n, dy, sf);
            mma_kn<T>(pk + 2 * n, v, gf);
            mma_kn<T>(e + 2 * n, rw_swap(sf), gf); /* only its diagonal is used */
        }
    }
    shares out;
    float end[4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        out.delta[h] = g & 1 ? om[h][2 * h + 1] : om[h][2 * h];
        end[h] = g & 1 ? e[h][2 * h + 1] : e[h][2 * h];
        end[2 + h] = g & 1 ? e[2 + h][2 * h + 1] : e[2 + h][2 * h];
    }
    out.end = 0.f;
#pragma unroll
    for (int x = 0; x < 4; x++) { /* channel 8x + i of the half lies in lane 4i + i/2 */
        const float f = __shfl_sync(~0u, end[x], 4 * (lane & 7) + ((lane & 7) >> 1));
        if (lane >> 3 == x) out.end = f;
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int x = 0; x < 4; x++)
            if (8 * n + c2 + (x & 1) >= g + 8 * (x >> 1)) om[n][x] = 0.f;
    float kappa[4][4] = {};
    if (MILD) {
        const rw_fragment o = rw_as_a<T>(om), ot = rw_transposed(o);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            mma_kn<T>(pr + 2 * n, o, rw_ldmatrix_trans(p + wide[n] + AT_KS));
            mma_kn<T>(kappa + 2 * n, ot, rw_ldmatrix_trans(p + wide[n] + AT_RT));
        }
    }
    __syncwarp(); /* all lanes have read the warp's columns */
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const uint32_t at = product_at(half, g, 8 * n + c2);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            *(float2 *)(c.s + at + h * STEP8) = make_float2(pr[n][2 * h], pr[n][2 * h + 1]);
            *(float2 *)(c.g + at + h * STEP8) = make_float2(pk[n][2 * h], pk[n][2 * h + 1]);
            if (MILD) *(float2 *)(c.s + at + h * STEP8 + SECOND) = make_float2(kappa[n][2 * h], kappa[n][2 * h + 1]);
        }
    }
    if (!MILD)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2 *)(c.g + product_at(half, 4 * h + (g >> 1), 16 * (g & 1) + 8 * n + c2) + SECOND) =
                    make_float2(om[n][2 * h], om[n][2 * h + 1]);
    __syncwarp(); /* the products are there */
    return out;
}

/* -- backward: the elementwise part
 * -------------------------------------------------------------------------------------- */

struct sums { /* of the lane's channel: w0, u, and what is summed over time */
    float w0, u, du, dw0;
};

template <class T> __device__ __forceinline__ float read_narrow(const char *p) {
    return rw_to_float(*(const T *)p);
}
__device__ __forceinline__ float read_wide(const char *p) {
    return *(const float *)p;
}

/* 32 key channels of one chunk, lane = channel: dr, dk, dww replace r, k, ww in their tiles. */
template <class T, bool MILD>
__device__ __forceinline__ void elementwise(const chunk &c, int half, const shares &x, sums &sum, bool has_ww,
                                            int valid, int lane) {
    uint32_t rows[8], slots[8]; /* of the lane's channel in a tile, in the products */
#pragma unroll
    for (int i = 0; i < 8; i++)
        rows[i] = word_at(i, (32 * half + lane) >> 1) + (lane & 1) * 2, slots[i] = product_at(half, i, lane);

    float l[CHUNK], w[CHUNK], ks[CHUNK], pk[CHUNK], pre[CHUNK], dl[CHUNK], k[CHUNK], q[CHUNK];
    const float fixed = log_decay(sum.w0);
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
        const char *at = c.p + row_at(rows, t);
        l[t] = has_ww ? log_decay(sum.w0 + read_narrow<T>(at + AT_W)) : fixed;
        if (t >= valid) l[t] = 0.f;
        ks[t] = read_narrow<T>(at + AT_KS);
        pk[t] = read_wide(c.g + slots[t & 7] + (t >> 3) * STEP8);
        if (!MILD) k[t] = read_narrow<T>(at + AT_K), q[t] = 0.f;
        w[t] = rw_exp2_fast(l[t]);
    }
    float p = 1.f;
#pragma unroll
    for (int t = 0; t < CHUNK; t++) pre[t] = p, p *= w[t];
    float crossing = MILD ? x.end : x.end * p; /* paths from before the step to beyond the chunk */
#pragma unroll
    for (int t = 0; t < CHUNK; t++) dl[t] = crossing, crossing += ks[t] * pk[t];
    float f = MILD ? __fdividef(1.f, p) : 1.f, inside = 0.f; /* f: w^-cum or w^suf; inside: paths from later steps */
#pragma unroll
    for (int upper = 1; upper >= 0; upper--) {
        float r[8], rt[8], pr[8], kappa[8], ku[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const char *at = c.p + rows[i] + upper * 8 * ROW, *prod = c.s + slots[i] + upper * STEP8;
            r[i] = read_narrow<T>(at + AT_R), rt[i] = read_narrow<T>(at + AT_RT), pr[i] = read_wide(prod);
            if (MILD) kappa[i] = read_wide(prod + SECOND);
            ku[i] = MILD ? read_narrow<T>(at + AT_K) : k[8 * upper + i];
        }
#pragma unroll
        for (int i = 7; i >= 0; i--) {
            const int t = 8 * upper + i;
            const float delta = __shfl_sync(~0u, x.delta[upper], 4 * i + (i >> 1)), du = delta * sum.u;
            float dr = pre[t] * pr[i], dk;
            if (MILD) {
                inside -= ks[t] * kappa[i];
                dl[t] += inside;
                dk = f * (pk[t] + kappa[i]);
            } else { /* q[s] = sum_{t' > t} Om[t',s] r_t' w_{t+1} .. w_{t'-1} */
                float rho = 0.f, pairs = 0.f, kp = 1.f, om[CHUNK];
#pragma unroll
                for (int s = 0; s < t; s += 4) {
                    const float4 o = *(const float4 *)(c.g + product_at(half, t >> 1, 16 * (t & 1) + s) + SECOND);
                    om[s] = o.x, om[s + 1] = o.y, om[s + 2] = o.z, om[s + 3] = o.w;
                }
#pragma unroll
                for (int s = t - 1; s >= 0; s--) {
                    const float path = k[s] * kp;
                    kp *= w[s];
                    rho += om[s] * path;
                    pairs += q[s] * path;
                    q[s] = q[s] * w[t] + om[s] * r[i];
                }
                dl[t] += inside + w[t] * pairs;
                dr += rho;
                dk = f * pk[t] + q[t];
            }
            inside += rt[i] * pr[i];
            f *= w[t];
            sum.du += delta * r[i] * ku[i];
            pr[i] = dr + du * ku[i];
            pk[t] = dk + du * r[i];
            dl[t] = l[t] < GONE ? 0.f : dl[t] * (l[t] * (1.f / LOG2E));
            sum.dw0 += dl[t]; /* l = 0 in rows past the end */
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            char *at = c.p + rows[i] + upper * 8 * ROW;
            *(T *)(at + AT_R) = rw_from_float<T>(pr[i]);
            *(T *)(at + AT_K) = rw_from_float<T>(pk[8 * upper + i]);
            if (has_ww) *(T *)(at + AT_W) = rw_from_float<T>(dl[8 * upper + i]);
        }
    }
    __syncwarp(); /* the gradients are in their tiles */
}

/* 32 columns of 16 rows of a tile to global memory */
template <class T>
__device__ __forceinline__ void flush(T *to, bool add, const char *tile, int half, int64_t stride, int valid,
                                      int lane) {
    if (!to) return;
#pragma unroll
    for (int x = 0; x < 2; x++) {
        const int row = 8 * x + ((lane & 4) | lane >> 3), piece = 4 * half + (lane & 3);
        if (row >= valid) continue;
        uint4 *at = (uint4 *)(to + row * stride + 8 * piece);
        uint4 v = *(const uint4 *)(tile + row * ROW + ((piece ^ (row & 7)) << 4));
        if (add) {
            const uint4 old = *at;
            uint32_t *out[4] = {&v.x, &v.y, &v.z, &v.w};
            const uint32_t was[4] = {old.x, old.y, old.z, old.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 a = unpack<T>(*out[i]), b = unpack<T>(was[i]);
                *out[i] = rw_pack2<T>(a.x + b.x, a.y + b.y);
            }
        }
        *at = v;
    }
}

/* Bring 64 full steps of the inputs, and the saved state in front of them, into L2 ahead of time. */
template <class T>
__device__ __forceinline__ void prefetch_block(const inputs<T> &p, const T *dy, const place &x, int block) {
    const int64_t row = threadIdx.x & 63, to = element_of(x, block) + row * x.stride;
    if (threadIdx.x < 64) {
        rw_prefetch_l2(p.r + to), rw_prefetch_l2(p.k + to), rw_prefetch_l2(p.v + to);
        return;
    }
    if (p.ww) rw_prefetch_l2(p.ww + to);
    rw_prefetch_l2(dy + to);
    if (block > 0)
        rw_prefetch_l2(p.states + saved_at<HEAD>(p.rows, x.first + (int64_t)block * BLOCK, x.h) + row * HEAD);
}

/* S in front of a block of 64 rows */
template <class T>
__device__ __forceinline__ void load_state(float (*s)[4], const inputs<T> &p, const place &x, int block) {
    if (block > 0)
        load_narrow(s, p.states + saved_at<HEAD>(p.rows, x.first + (int64_t)block * BLOCK, x.h));
    else
        load_wide(s, initial_state(p, x));
}
/* S at the start of chunks `from` .. `to` into their tiles; s: that of chunk `first` */
template <class T, bool SMALL>
__device__ __forceinline__ void chain_s(float (*s)[4], char *smem, int first, int from, int to, const lane_of &z) {
#pragma unroll 1
    for (int c = first; c <= to; c++) {
        const chunk t = chunk_at<SMALL>(smem, c);
        if (c >= from) store_rows<T>(t.s, s, z);
        if (c == to) break;
        if (*t.mild)
            advance<T, true>(s, t, z);
        else
            advance<T, false>(s, t, z);
    }
}

/* grid n_seq * H * segments, THREADS threads, layout<SMALL>::BYTES; p: inputs and states of the forward */
template <class T, bool SMALL>
__global__ void __launch_bounds__(THREADS, SMALL ? 1 : 2) backward_kernel(const inputs<T> p, const gradients<T> o) {
    extern __shared__ __align__(1024) char smem[];
    const lane_of z = this_lane();
    const int warp = z.warp, lane = z.lane, half = warp & 1, ch = 32 * half + lane;
    const place x = place_of(p, blockIdx.x / p.segments, blockIdx.x % p.segments);
    const float2 u = *(const float2 *)(p.u + x.h * HEAD + 2 * lane), w0 = own_w0(p, x.h, lane);
    const float2 fixed = log_decay(w0, make_float2(0.f, 0.f));
    sums sum = {p.w0 ? p.w0[x.h * HEAD + ch] : 0.f, p.u[x.h * HEAD + ch], 0.f, 0.f};
    float g[8][4];
    load_wide(g, cut_state(p, x, o.ds_out ? o.ds_out + x.head * HEAD * HEAD : nullptr));
    for (int block = x.end - 1; block >= x.begin; block--) {
        const int64_t at = element_of(x, block);
        const int valid = rows_of(x, block);
        __syncthreads(); /* the steps after are done with the tiles */
        copy_inputs(rw_shared_address(smem), p, at, x.stride, valid);
        copy_tile(rw_shared_address(smem + AT_DY), o.dy + at, x.stride, valid);
        float s[8][4];
        load_state(s, p, x, block);
        copies_done();
        __syncthreads(); /* the tiles are there */
        {
            const chunk mine = chunk_at<SMALL>(smem, warp);
            uint32_t rows[8];
            float l[CHUNK][2];
#pragma unroll
            for (int i = 0; i < 8; i++) rows[i] = word_at(i, lane);
#pragma unroll
            for (int t = 0; t < CHUNK; t++) {
                float2 y = fixed;
                if (p.ww) y = log_decay(w0, unpack_at<T>(mine.p + row_at(rows, t) + AT_W));
                const bool real = warp * CHUNK + t < valid;
                l[t][0] = real ? y.x : 0.f, l[t][1] = real ? y.y : 0.f;
            }
            prepare_back<T>(mine, l, u, lane, rows);
        }
        if (block > x.begin) prefetch_block(p, o.dy, x, block - 1);
        __syncthreads(); /* all four chunks are prepared */
        chain_s<T, SMALL>(s, smem, 0, SMALL ? 2 : 0, 3, z);
#pragma unroll 1
        for (int pair = 1; pair >= 0; pair--) {
            if (pair == 0) __syncthreads(); /* the tiles of G (SMALL: of S too) are free again */
            if (SMALL && pair == 0) {
                load_state(s, p, x, block);
                chain_s<T, SMALL>(s, smem, 0, 0, 1, z);
            }
#pragma unroll 1
            for (int c = 2 * pair + 1; c >= 2 * pair; c--) {
                const chunk t = chunk_at<SMALL>(smem, c);
                T *dv = o.dv ? o.dv + at + c * CHUNK * x.stride : nullptr;
                if (*t.mild)
                    chain_g<T, true>(g, t, dv, o.add_v, x.stride, valid - c * CHUNK, z);
                else
                    chain_g<T, false>(g, t, dv, o.add_v, x.stride, valid - c * CHUNK, z);
            }
            __syncthreads(); /* S and G of all value rows are in their tiles */
            const int c = 2 * pair + (warp >> 1), left = valid - c * CHUNK;
            const chunk mine = chunk_at<SMALL>(smem, c);
            if (*mine.mild)
                elementwise<T, true>(mine, half, products<T, true>(mine, half, z), sum, p.ww, left, lane);
            else
                elementwise<T, false>(mine, half, products<T, false>(mine, half, z), sum, p.ww, left, lane);
            const int64_t to = at + c * CHUNK * x.stride;
            flush(o.dr ? o.dr + to : nullptr, o.add_r, mine.p + AT_R, half, x.stride, left, lane);
            flush(o.dk ? o.dk + to : nullptr, o.add_k, mine.p + AT_K, half, x.stride, left, lane);
            if (p.ww) flush(o.dww ? o.dww + to : nullptr, o.add_w, mine.p + AT_W, half, x.stride, left, lane);
        }
    }
    if (o.ds0 && x.segment == 0) store_wide(o.ds0 + x.head * HEAD * HEAD, o.add_s0, g);
    __syncthreads();              /* the tiles are free */
    float *other = (float *)smem; /* warps 2, 3 hold the sums of the odd chunks */
    if (warp >= 2) other[ch] = sum.du, other[HEAD + ch] = sum.dw0;
    __syncthreads(); /* their sums are there */
    if (warp < 2) {
        float *to = o.parts + (x.seq * p.segments + x.segment) * 2 * x.stride + x.h * HEAD + ch;
        to[0] = sum.du + other[ch], to[x.stride] = sum.dw0 + other[HEAD + ch];
    }
}

/* -- segments
 * ---------------------------------------------------------------------------------------------------------- X = S and
 * the walk is forward, or X = dL/dS and it is backward; one segment changes X to X diag(decay) + state. */

constexpr int SEGMENT_BYTES = 3 * TENSOR + WARPS * HEAD * 4;

/* state and decay of a segment, from X = 0; not of the one where the walk ends, whose X nobody asks for.
 * grid n_seq * H * (segments - 1), THREADS threads, SEGMENT_BYTES */
template <class T, bool FORWARD>
__global__ void __launch_bounds__(THREADS, 4) segment_sums(const inputs<T> p, const T *dy) {
    extern __shared__ __align__(1024) char smem[];
    const lane_of z = this_lane();
    const int m = blockIdx.x % (p.segments - 1);
    const place x = place_of(p, blockIdx.x / (p.segments - 1), FORWARD ? m : m + 1);
    const float2 w0 = own_w0(p, x.h, z.lane), fixed = log_decay(w0, make_float2(0.f, 0.f));
    float2 sum = make_float2(0.f, 0.f);
    uint32_t rows[8];
#pragma unroll
    for (int i = 0; i < 8; i++) rows[i] = word_at(i, z.lane);
    float s[8][4] = {};
    for (int n = 0; n < x.end - x.begin; n++) {
        const int block = FORWARD ? x.begin + n : x.end - 1 - n, valid = rows_of(x, block);
        const int64_t at = element_of(x, block);
        __syncthreads(); /* the steps before are done with the tiles */
        copy_tile(rw_shared_address(smem), (FORWARD ? p.k : p.r) + at, x.stride, valid);
        copy_tile(rw_shared_address(smem + TENSOR), (FORWARD ? p.v : dy) + at, x.stride, valid);
        if (p.ww) copy_tile(rw_shared_address(smem + 2 * TENSOR), p.ww + at, x.stride, valid);
        copies_done();
        __syncthreads(); /* the tiles are there */
        float p0 = 0.f, p1 = 0.f;
        char *mine = smem + z.warp * CHUNK_TILE;
#pragma unroll
        for (int i = 0; i < CHUNK; i++) { /* k w^suf or r w^pre, in place */
            const int t = FORWARD ? CHUNK - 1 - i : i;
            char *to = mine + row_at(rows, t);
            float2 l = fixed;
            if (p.ww) l = log_decay(w0, unpack_at<T>(to + 2 * TENSOR));
            const float2 e = unpack_at<T>(to);
            *(uint32_t *)to = rw_pack2<T>(e.x * rw_exp2_fast(p0), e.y * rw_exp2_fast(p1));
            if (z.warp * CHUNK + t < valid) p0 += l.x, p1 += l.y;
        }
        *(float2 *)(smem + 3 * TENSOR + (z.warp * HEAD + 2 * z.lane) * 4) =
            make_float2(rw_exp2_fast(p0), rw_exp2_fast(p1));
        sum.x += p0, sum.y += p1;
        __syncthreads(); /* all four chunks are prepared */
#pragma unroll 1
        for (int i = 0; i < WARPS; i++) {
            const int c = FORWARD ? i : WARPS - 1 - i;
            const uint32_t tile = rw_shared_address(smem) + c * CHUNK_TILE;
            const rw_fragment y = rw_swap(rw_ldmatrix_trans(tile + z.own + TENSOR));
#pragma unroll
            for (int q = 0; q < 4; q++) {
                scale(s, q, (const float *)(smem + 3 * TENSOR) + c * HEAD, z.lane);
                mma_kn<T>(s + 2 * q, y, rw_ldmatrix_trans(tile + z.wide[q]));
            }
        }
    }
    const int64_t slot = x.head * p.segments + x.segment;
    store_wide(p.state + slot * HEAD * HEAD, false, s);
    __syncthreads(); /* log decays of the four warps (chunks) add up to the segment's; the tiles are free */
    float *part = (float *)smem;
    *(float2 *)(part + z.warp * HEAD + 2 * z.lane) = sum;
    __syncthreads(); /* they are there */
    if (threadIdx.x < HEAD) {
        const int j = threadIdx.x;
        p.decay[slot * HEAD + j] = rw_exp2_fast((part[j] + part[HEAD + j]) + (part[2 * HEAD + j] + part[3 * HEAD + j]));
    }
}

/* X where the walk enters each segment, in place of the segments' own parts. x0: [n_seq,H,64,64] by stride, S_0 or
 * dL/dS_T, or NULL. grid (64 * 64 / THREADS, n_seq * H), THREADS threads */
template <class T, bool FORWARD>
__global__ void __launch_bounds__(THREADS) join_segments(const inputs<T> p, const float *x0, int64_t stride) {
    const int at = blockIdx.x * THREADS + threadIdx.x;
    const int64_t head = blockIdx.y, seq = head / p.rows.H, h = head % p.rows.H;
    float x = x0 ? x0[seq * stride + h * HEAD * HEAD + at] : 0.f;
    for (int n = 0; n < p.segments; n++) {
        const int64_t m = head * p.segments + (FORWARD ? n : p.segments - 1 - n);
        float *slot = p.state + m * HEAD * HEAD + at;
        const bool last = n == p.segments - 1;
        const float next = last ? 0.f : x * p.decay[m * HEAD + at % HEAD] + *slot;
        *slot = x;
        x = next;
    }
}

} // namespace wkv6

#endif
