/* AdamW on the GPU in one launch over all ranges (formula and forms: kernels/adamw.h).
 *
 * The host knows neither the sizes of the ranges nor the step's numbers: both are read on the device, so that a
 * recorded graph stays right. Ranges are cut into chunks, numbered through, and a block takes every gridDim-th of them.
 * It looks at RANGES ranges at a time: each thread reads one, a scan says which chunks they have, and a chunk finds its
 * range by bisection in shared memory.
 *
 * A thread works on packs: 16 bytes of the widest type, so 4 elements, or 8 where all is bf16. One pack of 8 or two
 * of 4 are on their way at once: 64 bytes a thread or more, and 24 warps an SM. Bytes each way: every buffer once,
 * padding not at all. What crosses threads is the table of ranges alone, so bits repeat. */
#include "kernels/cuda/pointwise.cuh"
#include "kernels/rounding.h"

namespace {

enum { CHUNK = 4096, RANGES = RW_CUDA_THREADS, BLOCKS_PER_SM = 3 };

/* What is the same for all elements. */
struct coefficients {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    float inv_correction1, inv_correction2, clip;
};

/* What is the same for all elements of a range. */
struct range {
    int64_t offset, n;
    uint64_t element; /* the number of the first, for rounding */
    uint64_t key;
    float lr, decay;
};

struct arguments {
    const rw_adamw_range *ranges;
    int64_t n_ranges;
    double beta1, beta2, eps;
    bool adam_w_mode;
    const rw_step_scalars *scalars;
    const rw_device_scalars *own;
};

/* By two threads, since pow() in double takes long. */
__device__ void set_coefficients(coefficients &c, const arguments &a) {
    const double t = (double)a.own->updates;
    if (threadIdx.x == 0) {
        c.beta1 = (float)a.beta1, c.one_minus_beta1 = (float)(1 - a.beta1);
        c.eps = (float)a.eps;
        c.inv_correction1 = (float)(1 / (1 - pow(a.beta1, t)));
    }
    if (threadIdx.x == 32) {
        c.beta2 = (float)a.beta2, c.one_minus_beta2 = (float)(1 - a.beta2);
        c.clip = (float)a.own->grad_scale;
        c.inv_correction2 = (float)(1 / (1 - pow(a.beta2, t)));
    }
}

/* -- elements ------------------------------------------------------------------------------------------------ */

/* How the new value becomes p: as it is; the nearest to master, which is what moves; at random. */
enum write { PLAIN, NEAREST, AT_RANDOM };

__device__ __forceinline__ void put(float &to, float x, bool bf16) {
    to = bf16 ? __bfloat162float(__float2bfloat16_rn(x)) : x;
}
__device__ __forceinline__ void put(__nv_bfloat16 &to, float x, bool) {
    to = __float2bfloat16_rn(x);
}
__device__ __forceinline__ void put(__half &to, float x, bool) {
    to = __float2half_rn(x);
}

__device__ __forceinline__ void put_random(__nv_bfloat16 &to, float x, uint64_t bits, rw_round_use use) {
    to = __ushort_as_bfloat16(rw_bf16_stochastic(x, rw_round_bits_of(bits, use)));
}
/* A wide buffer that holds numbers of bf16. */
__device__ __forceinline__ void put_random(float &to, float x, uint64_t bits, rw_round_use use) {
    to = __uint_as_float((uint32_t)rw_bf16_stochastic(x, rw_round_bits_of(bits, use)) << 16);
}

/* Root and quotient to 2 ulp, without the slow ways for numbers beyond 2^126: what is lost is far below an ulp of p. 0
 * and infinity are their own roots. */
__device__ __forceinline__ float step_of(float m, float v, float eps) {
    const float root = v > 0 && v < INFINITY ? v * rsqrtf(v) : v;
    return __fdividef(m, root + eps);
}

/* N elements as they lie in memory. W, G, M: types of what moves, of the gradient, of the moments. */
template <class W, class G, class M, int N> struct piece {
    rw_pack<W, N> w;
    rw_pack<G, N> g;
    rw_pack<M, N> m, v;
};

template <int N, class T> __device__ __forceinline__ rw_pack<T, N> pack_at(const T *p, int64_t i) {
    return *reinterpret_cast<const rw_pack<T, N> *>(p + i);
}
template <int N, class T> __device__ __forceinline__ void set_pack(T *p, int64_t i, const rw_pack<T, N> &x) {
    *reinterpret_cast<rw_pack<T, N> *>(p + i) = x;
}

template <class P, class G, class M, write HOW> struct buffers {
    using W = std::conditional_t<HOW == NEAREST, float, P>;
    P *p;
    const G *grad;
    float *master;
    M *m, *v;
    bool grid; /* p is wide, but holds numbers of bf16 */

    template <int N> __device__ __forceinline__ piece<W, G, M, N> load(int64_t i) const {
        if constexpr (HOW == NEAREST)
            return {pack_at<N>(master, i), pack_at<N>(grad, i), pack_at<N>(m, i), pack_at<N>(v, i)};
        else
            return {pack_at<N>(p, i), pack_at<N>(grad, i), pack_at<N>(m, i), pack_at<N>(v, i)};
    }

    template <int N> __device__ __forceinline__ void store(int64_t i, const piece<W, G, M, N> &x) const {
        if constexpr (HOW == NEAREST) {
            rw_pack<P, N> narrow;
#pragma unroll
            for (int j = 0; j < N; j++) put(narrow.at[j], x.w.at[j], grid);
            set_pack(p, i, narrow);
            set_pack(master, i, x.w);
        } else {
            set_pack(p, i, x.w);
        }
        set_pack(m, i, x.m);
        set_pack(v, i, x.v);
    }

    /* The N elements from number `element` of their parameter on. */
    template <int N>
    static __device__ __forceinline__ void update(piece<W, G, M, N> &x, const coefficients &c, const range &r,
                                                  uint64_t element) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float g = rw_to_float(x.g.at[j]) * c.clip, w = rw_to_float(x.w.at[j]);
            const float m1 = c.beta1 * rw_to_float(x.m.at[j]) + c.one_minus_beta1 * g;
            const float v1 = c.beta2 * rw_to_float(x.v.at[j]) + c.one_minus_beta2 * g * g;
            const float step = step_of(m1 * c.inv_correction1, v1 * c.inv_correction2, c.eps) + r.decay * w;
            const uint64_t bits = HOW == AT_RANDOM || sizeof(M) == 2 ? rw_round_bits(r.key, element + (uint64_t)j) : 0;
            if constexpr (HOW == AT_RANDOM)
                put_random(x.w.at[j], w - r.lr * step, bits, RW_ROUND_VALUE);
            else
                x.w.at[j] = w - r.lr * step;
            if constexpr (sizeof(M) == 2) {
                put_random(x.m.at[j], m1, bits, RW_ROUND_M);
                put_random(x.v.at[j], v1, bits, RW_ROUND_V);
            } else {
                x.m.at[j] = m1, x.v.at[j] = v1;
            }
        }
    }
};

/* Elements [first, last) of a range, N at a time. */
template <int N, class B>
__device__ __forceinline__ void do_packs(const B &b, const coefficients &c, const range &r, int64_t first,
                                         int64_t last) {
    const int64_t stride = (int64_t)RW_CUDA_THREADS * N, turn = N == 4 ? 2 * stride : stride;
    for (int64_t i = first + (int64_t)threadIdx.x * N; i < last; i += turn) {
        const int64_t k = i + stride;
        auto x = b.template load<N>(r.offset + i);
        decltype(x) y;
        if (N == 4 && k < last) y = b.template load<N>(r.offset + k);
        B::template update<N>(x, c, r, r.element + (uint64_t)i);
        b.template store<N>(r.offset + i, x);
        if (N != 4 || k >= last) continue;
        B::template update<N>(y, c, r, r.element + (uint64_t)k);
        b.template store<N>(r.offset + k, y);
    }
}

/* Packs, and one by one what does not fill one. */
template <int N, class B>
__device__ __forceinline__ void do_chunk(const B &b, const coefficients &c, const range &r, int64_t chunk,
                                         bool aligned) {
    const int64_t first = chunk * CHUNK, last = first + CHUNK < r.n ? first + CHUNK : r.n;
    const int64_t packed = aligned && r.offset % N == 0 ? first + (last - first) / N * N : first;
    do_packs<N>(b, c, r, first, packed);
    for (int64_t i = packed + threadIdx.x; i < last; i += RW_CUDA_THREADS) {
        auto x = b.template load<1>(r.offset + i);
        B::template update<1>(x, c, r, r.element + (uint64_t)i);
        b.template store<1>(r.offset + i, x);
    }
}

/* -- ranges -------------------------------------------------------------------------------------------------- */

struct table {
    range at[RANGES];
    int64_t end[RANGES]; /* chunks of the ranges up to this one, itself included */
    int64_t of_warp[RANGES / 32];
};

/* Every thread one range of [first, first + RANGES), then the running sum of their chunks. */
__device__ void fill(table &t, const arguments &a, int64_t first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t chunks = 0;
    if (first + threadIdx.x < a.n_ranges) {
        const rw_adamw_range s = a.ranges[first + threadIdx.x];
        range &r = t.at[threadIdx.x];
        r.offset = s.offset, r.n = s.n, r.element = (uint64_t)s.first;
        r.key = rw_round_key(a.scalars->seed, (uint64_t)a.scalars->step, s.stream);
        r.lr = (float)(a.scalars->lr * s.lr_scale);
        r.decay = a.adam_w_mode && s.decay ? (float)a.scalars->weight_decay : 0.0f;
        chunks = (s.n + CHUNK - 1) / CHUNK;
    }
    for (int d = 1; d < 32; d *= 2) {
        const int64_t left = __shfl_up_sync(0xffffffffu, chunks, d);
        if (lane >= d) chunks += left;
    }
    if (lane == 31) t.of_warp[warp] = chunks;
    __syncthreads(); /* the sums of all warps are there */
    for (int w = 0; w < warp; w++) chunks += t.of_warp[w];
    t.end[threadIdx.x] = chunks;
    __syncthreads(); /* the table is whole */
}

/* The first range whose end is beyond `chunk`; there is one. */
__device__ int find(const table &t, int64_t chunk) {
    int k = 0;
    for (int half = RANGES / 2; half > 0; half /= 2)
        if (t.end[k + half - 1] <= chunk) k += half;
    return k;
}

template <class P, class G, class M, write HOW>
__global__ void __launch_bounds__(RW_CUDA_THREADS, BLOCKS_PER_SM)
    adamw(arguments a, buffers<P, G, M, HOW> b, bool aligned) {
    constexpr int N = HOW != NEAREST && sizeof(P) + sizeof(G) + sizeof(M) == 6 ? 8 : 4;
    __shared__ coefficients c;
    __shared__ table t;
    if (a.own->skipped_in_row) return;
    set_coefficients(c, a);                 /* fill() has the barrier */
    int64_t chunk = blockIdx.x, before = 0; /* my next; chunks of the ranges of earlier tables */
    for (int64_t first = 0; first < a.n_ranges; first += RANGES) {
        fill(t, a, first);
        const int64_t end = before + t.end[RANGES - 1];
        for (; chunk < end; chunk += gridDim.x) {
            const int k = find(t, chunk - before);
            do_chunk<N>(b, c, t.at[k], chunk - before - (k > 0 ? t.end[k - 1] : 0), aligned);
        }
        before = end;
        __syncthreads(); /* the table may be filled anew */
    }
}

/* -- launchers ------------------------------------------------------------------------------------------------ */

template <class P, class G, class M, write HOW> void launch(const rw_adamw_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const buffers<P, G, M, HOW> b = {rw_out<P>(a->p), rw_in<G>(a->grad), rw_out<float>(a->master),
                                     rw_out<M>(a->m), rw_out<M>(a->v),   a->p_grid == RW_BF16};
    const arguments args = {a->ranges, a->n_ranges, a->beta1, a->beta2, a->eps, a->adam_w_mode, ex->scalars, ex->own};
    const bool aligned = rw_aligned({a->p, a->grad, a->master, a->m, a->v});
    adamw<P, G, M, HOW><<<s->n_sm * BLOCKS_PER_SM, RW_CUDA_THREADS, 0, s->stream>>>(args, b, aligned);
    rw_cuda_launched(s, "adamw");
}

/* p wide or in bf16, its gradient known: how it is written and what the moments are */
template <class P, class G> void launch_bf16(const rw_adamw_args *a, const rw_exec *ex) {
    const bool narrow = a->moment_dtype == RW_BF16;
    if (a->master && narrow) return launch<P, G, __nv_bfloat16, NEAREST>(a, ex);
    if (a->master) return launch<P, G, float, NEAREST>(a, ex);
    if (narrow) return launch<P, G, __nv_bfloat16, AT_RANDOM>(a, ex);
    launch<P, G, float, AT_RANDOM>(a, ex);
}

} // namespace

void rw_cuda_adamw(const rw_adamw_args *a, const rw_exec *ex) {
    const rw_dtype grad = a->grad_dtype ? a->grad_dtype : a->dtype;
    const bool same = grad == a->dtype, wide = grad == RW_F32;
    if (a->n_ranges == 0) return;
    if (a->dtype == RW_F32 && same && a->p_grid == RW_BF16) return launch_bf16<float, float>(a, ex);
    if (a->dtype == RW_F32 && same && a->moment_dtype != RW_BF16 && !a->master)
        return launch<float, float, float, PLAIN>(a, ex);
    if (a->dtype == RW_BF16 && same) return launch_bf16<__nv_bfloat16, __nv_bfloat16>(a, ex);
    if (a->dtype == RW_BF16 && wide) return launch_bf16<__nv_bfloat16, float>(a, ex);
    if (a->dtype == RW_F16 && a->master && a->moment_dtype != RW_BF16) {
        if (same) return launch<__half, __half, float, NEAREST>(a, ex);
        if (wide) return launch<__half, float, float, NEAREST>(a, ex);
    }
    rw_cuda_note(rw_cuda_of(ex), "adamw", "no such form on a GPU");
}
