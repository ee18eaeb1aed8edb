/* What norms, shifts and the embedding share: the sequence that a row belongs to, sums along a row by a whole block,
 * sums over rows in a fixed order (one partial a block of rows, then one sum over the blocks). */
#ifndef RW_KERNELS_CUDA_ROWS_CUH
#define RW_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/pointwise.cuh"

/* -- sequences ----------------------------------------------------------------------------------------------- */

/* The sequence that holds a row, and its rows [first, last). Empty sequences are passed over. Rows are counted in 32
 * bits, as cu_seqlens counts them. */
struct rw_row_walk {
    const int32_t *cu;
    int n_seq, length; /* length: of each, without cu */
    int index, first, last;

    __device__ __forceinline__ int begin(int i) const { return cu ? cu[i] : length * i; }
    /* The last sequence that begins at or before `row`, which lies in one. */
    __device__ __forceinline__ rw_row_walk(const int32_t *cu, int64_t n_seq, int64_t R, int row)
        : cu(cu), n_seq((int)n_seq), length(cu ? 0 : (int)R / (int)n_seq) {
        int low = 0, high = (int)n_seq - 1;
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (begin(middle) <= row)
                low = middle;
            else
                high = middle - 1;
        }
        index = low, first = begin(low), last = begin(low + 1);
    }
    __device__ __forceinline__ void up(int row) {
        while (row >= last && index + 1 < n_seq) index++, first = last, last = begin(index + 1);
    }
    __device__ __forceinline__ void down(int row) {
        while (row < first && index > 0) index--, last = first, first = begin(index);
    }
};

/* -- sums along a row ---------------------------------------------------------------------------------------- */

enum { RW_MAX_WARPS = 20 };
typedef float4 rw_sum_room[2][RW_MAX_WARPS];

/* Four sums over a block of up to 20 warps; every thread gets them. `slot` alternates between 0 and 1 from call to
 * call: then the one barrier also separates what is written from what was read two calls ago. */
static __device__ __forceinline__ float4 rw_block_sum4(float4 a, rw_sum_room &room, int slot) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        a.x += __shfl_xor_sync(0xffffffffu, a.x, d);
        a.y += __shfl_xor_sync(0xffffffffu, a.y, d);
        a.z += __shfl_xor_sync(0xffffffffu, a.z, d);
        a.w += __shfl_xor_sync(0xffffffffu, a.w, d);
    }
    if (threadIdx.x % 32 == 0) room[slot][threadIdx.x / 32] = a;
    __syncthreads(); /* the parts of all warps are there */
    float4 s = room[slot][0];
    const int warps = blockDim.x / 32;
    for (int w = 1; w < warps; w++) {
        const float4 b = room[slot][w];
        s.x += b.x, s.y += b.y, s.z += b.z, s.w += b.w;
    }
    return s;
}

/* Mean and 1 / sqrt(variance + eps) of the C channels at x, by the whole block, W at a time. */
template <int W, class T>
static __device__ __forceinline__ float2 rw_row_stats(const T *x, int64_t C, float eps, rw_sum_room &room) {
    float sum = 0, squares = 0, v[W];
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += (int64_t)blockDim.x * W) {
        rw_load(x + c, v);
#pragma unroll
        for (int i = 0; i < W; i++) sum += v[i];
    }
    const float mean = rw_block_sum4(make_float4(sum, 0, 0, 0), room, 0).x / C;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += (int64_t)blockDim.x * W) {
        rw_load(x + c, v);
#pragma unroll
        for (int i = 0; i < W; i++) squares += (v[i] - mean) * (v[i] - mean);
    }
    return make_float2(mean, rsqrtf(rw_block_sum4(make_float4(squares, 0, 0, 0), room, 1).x / C + eps));
}

/* -- sums over rows -------------------------------------------------------------------------------------------- */

/* Rows that a block owns, when `most` blocks fill the chip: never fewer than RW_MIN_ROWS. */
enum { RW_MIN_ROWS = 4 };
static inline int64_t rw_rows_per_block(int64_t R, int64_t most) {
    const int64_t rows = (R + most - 1) / most;
    return rows < RW_MIN_ROWS ? RW_MIN_ROWS : rows;
}
/* The blocks that come of it are no more than this, which only grows with R. */
static inline int64_t rw_most_row_blocks(int64_t R, int64_t most) {
    const int64_t blocks = (R + RW_MIN_ROWS - 1) / RW_MIN_ROWS;
    return blocks < most ? blocks : most;
}

/* Where sums over rows go; NULL: not wanted. */
enum { RW_MAX_SUMS = 8 };
struct rw_row_sums {
    float *to[RW_MAX_SUMS];
    bool add[RW_MAX_SUMS];
};
static inline bool rw_any_sum(const rw_row_sums &s, int n) {
    for (int i = 0; i < n; i++)
        if (s.to[i]) return true;
    return false;
}

/* to[i][c] = sum over blocks of partial[block][i][c]: in block order within each of 16 slices, then over the slices. */
enum { RW_SUM_COLUMNS = 32, RW_SUM_SLICES = 16 };
static __global__ void rw_add_partials(const float *partial, int blocks, int64_t C,
                                       const __grid_constant__ rw_row_sums sums) {
    __shared__ float slice[RW_SUM_SLICES][RW_SUM_COLUMNS];
    const int i = blockIdx.y, n = gridDim.y;
    float *to = sums.to[i];
    if (!to) return; /* the same for the whole block */
    const int64_t c = (int64_t)blockIdx.x * RW_SUM_COLUMNS + threadIdx.x;
    float s = 0;
    if (c < C)
        for (int b = threadIdx.y; b < blocks; b += RW_SUM_SLICES) s += partial[((int64_t)b * n + i) * C + c];
    slice[threadIdx.y][threadIdx.x] = s;
    __syncthreads(); /* all slices are there */
    if (threadIdx.y > 0 || c >= C) return;
    for (int k = 1; k < RW_SUM_SLICES; k++) s += slice[k][threadIdx.x];
    to[c] = sums.add[i] ? to[c] + s : s;
}

/* n sums of C columns; without blocks they are zero. */
static inline void rw_launch_sums(rw_cuda_state *s, const char *what, const float *partial, int64_t blocks, int64_t C,
                                  const rw_row_sums &sums, int n) {
    if (!rw_any_sum(sums, n) || C == 0) return;
    const dim3 grid((unsigned)((C + RW_SUM_COLUMNS - 1) / RW_SUM_COLUMNS), (unsigned)n);
    rw_add_partials<<<grid, dim3(RW_SUM_COLUMNS, RW_SUM_SLICES), 0, s->stream>>>(partial, (int)blocks, C, sums);
    rw_cuda_launched(s, what);
}

/* -- gamma and beta of any norm -------------------------------------------------------------------------------- */

/* What a norm over groups of N channels gives to gamma and beta: partial[blockIdx.y][2][C]. A thread owns W channels
 * of one group and a block's rows; nothing crosses threads. Row r of x is row index[r], where there is an index. */
template <class T> struct rw_affine {
    const T *x;
    const int32_t *index;
    const T *dout;
    const float *mean, *rstd; /* [R,C/N] */
    int64_t R, C, N;
};
template <class T, int W>
static __global__ void rw_affine_sums(const __grid_constant__ rw_affine<T> a, int64_t rows_per_block, float *partial) {
    const int64_t c = rw_thread_index() * W;
    const int64_t first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, a.R);
    if (c >= a.C) return;
    const int64_t groups = a.C / a.N, group = c / a.N;
    float dgamma[W] = {}, dbeta[W] = {};
#pragma unroll 4
    for (int64_t row = first; row < last; row++) {
        float x[W], d[W];
        rw_load(a.x + (a.index ? a.index[row] : row) * a.C + c, x);
        rw_load(a.dout + row * a.C + c, d);
        const float mean = a.mean[row * groups + group], rstd = a.rstd[row * groups + group];
#pragma unroll
        for (int i = 0; i < W; i++) {
            dgamma[i] += d[i] * ((x[i] - mean) * rstd);
            dbeta[i] += d[i];
        }
    }
    float *to = partial + blockIdx.y * 2 * a.C + c;
#pragma unroll
    for (int i = 0; i < W; i++) to[i] = dgamma[i], to[a.C + i] = dbeta[i];
}

/* Scratch in bytes for R rows, and both stages. */
enum { RW_AFFINE_BLOCKS_PER_SM = 4, RW_AFFINE_THREADS = 128 };
static inline int64_t rw_affine_bytes(const rw_cuda_state *s, int64_t R, int64_t C) {
    return rw_most_row_blocks(R, (int64_t)s->n_sm * RW_AFFINE_BLOCKS_PER_SM) * 2 * C * (int64_t)sizeof(float);
}
template <class T>
static void rw_launch_affine(rw_cuda_state *s, const char *what, const rw_affine<T> &a, float *partial,
                             const rw_row_sums &sums) {
    int64_t blocks = 0;
    if (!rw_any_sum(sums, 2)) return;
    if (a.R > 0 && a.dout) {
        const bool wide = rw_aligned({a.x, a.dout}) && a.N % 4 == 0;
        const int64_t threads = wide ? a.C / 4 : a.C;
        const int64_t rows = rw_rows_per_block(a.R, (int64_t)s->n_sm * RW_AFFINE_BLOCKS_PER_SM);
        blocks = (a.R + rows - 1) / rows;
        const dim3 grid((unsigned)((threads + RW_AFFINE_THREADS - 1) / RW_AFFINE_THREADS), (unsigned)blocks);
        if (wide)
            rw_affine_sums<T, 4><<<grid, RW_AFFINE_THREADS, 0, s->stream>>>(a, rows, partial);
        else
            rw_affine_sums<T, 1><<<grid, RW_AFFINE_THREADS, 0, s->stream>>>(a, rows, partial);
        rw_cuda_launched(s, what);
    }
    rw_launch_sums(s, what, partial, blocks, a.C, sums, 2);
}

#endif
