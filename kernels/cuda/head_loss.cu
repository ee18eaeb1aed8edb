/* Cross entropy and its gradient on the GPU, in place (formula: kernels/head_loss.h).
 *
 * A block takes a row, then every gridDim-th after it; a thread owns the packs (16 bytes) threadIdx + k * threads. On
 * the way in it keeps its maximum, where that stands first, and the sum of exp(x - maximum so far), and leaves the
 * packs in shared memory; then the block puts those together in one fixed tree; on the way out each thread makes its
 * own packs into the gradient. Only maxima and sums cross threads, so there is one barrier a row, and a thread that
 * is done begins with the next row. Bytes: each logit read once and written once. A row that is too large for the
 * shared memory (fp32 with 65536 tokens; bf16 before Ampere) is read twice, the second time from the cache as a rule.
 */
#include "kernels/cuda/pointwise.cuh"

#include <limits.h>

namespace {

enum { MOST_THREADS = 1024, AHEAD = 4 /* packs on their way to a thread */ };

template <class T> __device__ __forceinline__ float exp_of(float x) {
    if constexpr (sizeof(T) == 4)
        return expf(x);
    else
        return __expf(x);
}

/* Of a part of a row: largest number, index of the pack where it stands first, sum of exp(x - max). Where all is
 * -infinity, nothing is subtracted. NaN is no maximum, it shows in the sum. */
struct summary {
    float max, sum;
    int first;
};
const int NOWHERE = INT_MAX;

__device__ __forceinline__ float base_of(float max) {
    return max == -INFINITY ? 0.0f : max;
}

template <class T> __device__ __forceinline__ summary join(const summary &a, const summary &b) {
    summary c;
    c.max = fmaxf(a.max, b.max);
    c.sum = a.sum * exp_of<T>(a.max - base_of(c.max)) + b.sum * exp_of<T>(b.max - base_of(c.max));
    c.first = a.max == b.max ? (a.first < b.first ? a.first : b.first) : a.max > b.max ? a.first : b.first;
    return c;
}

template <class T, int N> __device__ __forceinline__ void take(summary &s, const rw_pack<T, N> &x, int pack) {
    float v[N], max = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < N; j++) max = fmaxf(max, v[j] = rw_to_float(x.at[j]));
    if (max > s.max) {
        s.sum *= exp_of<T>(s.max - max);
        s.max = max;
        s.first = pack;
    }
    const float base = base_of(s.max);
#pragma unroll
    for (int j = 0; j < N; j++) sum += exp_of<T>(v[j] - base);
    s.sum += sum;
}

/* The same for all threads: the same tree. `room` is free again after the next barrier. */
template <class T> __device__ __forceinline__ summary over_warp(summary s) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        const bool upper = threadIdx.x & d;
        const summary other = {__shfl_xor_sync(0xffffffffu, s.max, d), __shfl_xor_sync(0xffffffffu, s.sum, d),
                               __shfl_xor_sync(0xffffffffu, s.first, d)};
        s = upper ? join<T>(other, s) : join<T>(s, other);
    }
    return s;
}
template <class T> __device__ __forceinline__ summary over_block(summary s, summary *room) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    s = over_warp<T>(s);
    if (lane == 0) room[warp] = s;
    __syncthreads(); /* the parts of all warps are there, and the target's logit was read */
    return over_warp<T>(lane < warps ? room[lane] : summary{-INFINITY, 0, NOWHERE});
}

/* What a row's gradient is made of. */
struct gradient {
    float max, factor, weight, l2;
    int target, top_pack;
};

/* x becomes its gradient; the pack begins at element `at`. The top is the first in its pack that equals the maximum. */
template <class T, int N>
__device__ __forceinline__ rw_pack<T, N> gradient_of(const rw_pack<T, N> &x, const gradient &g, int at, bool top) {
    rw_pack<T, N> y;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float v = rw_to_float(x.at[j]);
        float d = g.weight != 0 ? exp_of<T>(v - g.max) * g.factor : 0.0f;
        if (at + j == g.target) d -= g.weight;
        if (top && v == g.max) {
            d += g.l2 * v;
            top = false;
        }
        y.at[j] = rw_from_float<T>(d);
    }
    return y;
}

struct arguments {
    int64_t R, V;
    const int32_t *targets;
    const float *mask;
    float *loss;
    bool want_grad;
    const rw_step_scalars *scalars;
    const rw_device_scalars *own;
};

/* Of a row's mask in its gradient, of its mask in L2Wrap, and what L2Wrap does to every row; with loss_scale. */
struct factors {
    float mask, l2_mask, l2_rows;
};
__device__ factors factors_of(const arguments &a) {
    const double scale = a.own->loss_scale == 0 ? 1 : a.own->loss_scale;
    return {(float)(a.scalars->normaliser * scale), (float)(a.scalars->l2wrap_mask * scale),
            (float)(a.scalars->l2wrap_rows * scale)};
}

/* KEPT: the row stays in shared memory. N: a pack. */
template <class T, int N, bool KEPT> struct row_of {
    using pack = rw_pack<T, N>;
    pack *global, *shared;
    int packs;

    __device__ summary read() const {
        summary s = {-INFINITY, 0, NOWHERE};
        for (int i = threadIdx.x; i < packs; i += AHEAD * blockDim.x) {
            pack x[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                if (i + k * (int)blockDim.x < packs) x[k] = global[i + k * (int)blockDim.x];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                const int at = i + k * (int)blockDim.x;
                if (at >= packs) break;
                if (KEPT) shared[at] = x[k];
                take<T, N>(s, x[k], at);
            }
        }
        return s;
    }

    __device__ void write(const gradient &g) const {
#pragma unroll 4
        for (int i = threadIdx.x; i < packs; i += blockDim.x)
            global[i] = gradient_of<T, N>(KEPT ? shared[i] : global[i], g, i * N, i == g.top_pack);
    }

    __device__ void zero() const {
        pack none;
#pragma unroll
        for (int j = 0; j < N; j++) none.at[j] = rw_from_float<T>(0.0f);
        for (int i = threadIdx.x; i < packs; i += blockDim.x) global[i] = none;
    }
};

template <class T, int N, bool KEPT> __global__ void __launch_bounds__(MOST_THREADS) head_loss(T *logits, arguments a) {
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ summary room[2][32]; /* by turns: the slower threads may still read the last row's */
    const factors f = factors_of(a);
    int turn = 0;
    for (int64_t r = blockIdx.x; r < a.R; r += gridDim.x, turn ^= 1) {
        using pack = rw_pack<T, N>;
        T *x = logits + r * a.V;
        const row_of<T, N, KEPT> row = {reinterpret_cast<pack *>(x), reinterpret_cast<pack *>(shared), (int)(a.V / N)};
        const float mask = a.mask ? a.mask[r] : 1.0f;
        const int target = a.targets[r];
        const float at_target = threadIdx.x == 0 ? rw_to_float(x[target]) : 0.0f;

        const summary s = over_block<T>(row.read(), room[turn]);
        if (threadIdx.x == 0) a.loss[r] = (s.max - at_target) + logf(s.sum);
        if (!a.want_grad) continue;
        const float weight = mask * f.mask, l2 = mask * f.l2_mask + f.l2_rows;
        if (weight == 0 && l2 == 0) /* also of a row that is not finite: it does not count */
            row.zero();
        else
            row.write({s.max, weight / s.sum, weight, l2, target, l2 == 0 ? NOWHERE : s.first});
    }
}

/* -- launcher --------------------------------------------------------------------------------------------------- */

template <class T, int N, bool KEPT> void launch(const rw_head_loss_args *a, const rw_exec *ex, int64_t shared_bytes) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const int64_t packs = a->V / N, wanted = (packs + 31) / 32 * 32;
    const int threads = (int)(wanted < MOST_THREADS ? wanted : MOST_THREADS);
    const int64_t most = (int64_t)s->n_sm * 2 * (MOST_THREADS / threads), blocks = a->R < most ? a->R : most;
    static bool asked; /* once: more than 48 KiB must be asked for */
    if (KEPT && !asked)
        rw_cuda_check(s, "head_loss",
                      cudaFuncSetAttribute(head_loss<T, N, KEPT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           s->shared_bytes - (int)sizeof(summary) * 64));
    asked = true;
    const arguments args = {a->R,         a->V,        a->targets, a->mask, static_cast<float *>(a->loss),
                            a->want_grad, ex->scalars, ex->own};
    head_loss<T, N, KEPT><<<(unsigned)blocks, threads, (size_t)shared_bytes, s->stream>>>(rw_out<T>(a->logits), args);
    rw_cuda_launched(s, "head_loss");
}

/* Whole packs need rows that begin on 16 bytes. */
template <class T, bool KEPT> void launch_packs(const rw_head_loss_args *a, const rw_exec *ex, int64_t shared_bytes) {
    if (a->V % rw_pack_of<T> == 0 && rw_aligned({a->logits}))
        launch<T, rw_pack_of<T>, KEPT>(a, ex, shared_bytes);
    else
        launch<T, 1, KEPT>(a, ex, shared_bytes);
}

template <class T> void launch_kept(const rw_head_loss_args *a, const rw_exec *ex) {
    const int64_t row = a->V * (int64_t)sizeof(T);
    const bool fits = row <= rw_cuda_of(ex)->shared_bytes - (int64_t)sizeof(summary) * 64;
    if (a->want_grad && fits)
        launch_packs<T, true>(a, ex, row);
    else
        launch_packs<T, false>(a, ex, 0);
}

} // namespace

void rw_cuda_head_loss(const rw_head_loss_args *a, const rw_exec *ex) {
    if (a->R == 0) return;
    RW_CUDA_NARROW(rw_cuda_of(ex), "head_loss", a->dtype, T, launch_kept<T>(a, ex));
}
