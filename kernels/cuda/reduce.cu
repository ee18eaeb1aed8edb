/* Sums in a fixed order and what becomes of a step (kernels/reduce.h). One block sums BLOCK neighbouring elements in
 * double, a thread every 256th pack, then a tree over the block; one more block adds those sums, again each thread
 * every 1024th, then the tree. So the order depends on n alone. Bytes: x once, and 8 for each BLOCK elements. */
#include "kernels/cuda/pointwise.cuh"

namespace {

enum { BLOCK = 1 << 14, LAST_THREADS = 1024 };

int64_t block_count(int64_t n) {
    return (n + BLOCK - 1) / BLOCK;
}

/* Elements [i, i + N) */
template <int N, bool WEIGHTED, class T>
__device__ __forceinline__ double terms(const T *x, const float *weight, int64_t i, bool squares) {
    float v[N], w[N];
    rw_load(x + i, v);
    if (WEIGHTED) rw_load(weight + i, w);
    double sum = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const double term = WEIGHTED ? (double)w[j] * (double)v[j] : (double)v[j];
        sum += term * (squares ? (double)v[j] : 1.0);
    }
    return sum;
}

template <bool WEIGHTED, class T>
__global__ void sum_blocks(const T *x, const float *weight, int64_t n, bool squares, double *partial, bool aligned) {
    __shared__ double room[32];
    constexpr int N = rw_pack_of<T>;
    const int64_t first = (int64_t)blockIdx.x * BLOCK, last = first + BLOCK < n ? first + BLOCK : n;
    const int64_t packed = aligned ? first + (last - first) / N * N : first;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = first + (int64_t)threadIdx.x * N; i < packed; i += RW_CUDA_THREADS * N)
        sum += terms<N, WEIGHTED>(x, weight, i, squares);
    for (int64_t i = packed + threadIdx.x; i < last; i += RW_CUDA_THREADS)
        sum += terms<1, WEIGHTED>(x, weight, i, squares);
    sum = rw_block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(LAST_THREADS) sum_last(const double *partial, int64_t n, double *out, bool add) {
    __shared__ double room[32];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += LAST_THREADS) sum += partial[i];
    sum = rw_block_sum(sum, room);
    if (threadIdx.x == 0) *out = add ? *out + sum : sum;
}

/* -- a step -------------------------------------------------------------------------------------------------- */

__device__ double clip_coefficient(double norm, double max_norm) {
    if (max_norm <= 0) return 1;
    if (!isfinite(norm)) return NAN;
    const double c = max_norm / (norm + 1e-6);
    return c < 1 ? c : 1;
}

__device__ void adapt_scale(rw_device_scalars *s, double scale, bool finite) {
    s->good_steps = finite ? s->good_steps + 1 : 0;
    s->loss_scale = finite ? scale : scale / 2 > 1 ? scale / 2 : 1;
    if (s->good_steps < RW_LOSS_SCALE_STEPS) return;
    s->good_steps = 0;
    s->loss_scale = scale * 2;
}

/* One thread. */
__global__ void clip(double max_norm, bool dynamic_scale, const rw_step_scalars *scalars, rw_device_scalars *s) {
    const double scale = s->loss_scale == 0 ? 1 : s->loss_scale;
    s->step = scalars->step;
    s->grad_norm = sqrt(s->grad_sumsq) / scale;
    s->clip_coef = clip_coefficient(s->grad_norm, max_norm);
    s->grad_scale = s->clip_coef / scale;
    const bool finite = isfinite(s->grad_norm) && isfinite(s->loss);
    s->updates += finite;
    s->skipped += !finite;
    s->skipped_in_row = finite ? 0 : s->skipped_in_row + 1;
    if (dynamic_scale) adapt_scale(s, scale, finite);
}

template <bool WEIGHTED, class T> void launch_blocks(const rw_sum_args *a, rw_cuda_state *s, int64_t blocks) {
    const bool wide = rw_aligned({a->x, a->weight});
    sum_blocks<WEIGHTED><<<(unsigned)blocks, RW_CUDA_THREADS, 0, s->stream>>>(
        rw_in<T>(a->x), a->weight, a->n, a->squares, rw_out<double>(a->scratch), wide);
}

} // namespace

int64_t rw_cuda_sum_scratch(const rw_sum_args *a, const rw_exec *) {
    return block_count(a->n) * (int64_t)sizeof(double);
}

void rw_cuda_sum(const rw_sum_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const int64_t blocks = block_count(a->n);
    if (blocks > 0)
        RW_CUDA_NARROW(s, "sum", a->dtype, T,
                       a->weight ? launch_blocks<true, T>(a, s, blocks) : launch_blocks<false, T>(a, s, blocks));
    if (blocks > 0 || !a->add)
        sum_last<<<1, LAST_THREADS, 0, s->stream>>>(rw_in<double>(a->scratch), blocks, a->out, a->add);
    rw_cuda_launched(s, "sum");
}

void rw_cuda_clip_coef(const rw_clip_coef_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    clip<<<1, 1, 0, s->stream>>>(a->max_norm, a->dynamic_scale, ex->scalars, ex->own);
    rw_cuda_launched(s, "clip_coef");
}
