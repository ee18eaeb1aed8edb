/* What every CUDA kernel file shares: the state behind rw_exec.impl, number types, wide loads and stores, sums in a
 * fixed order, launches. Launchers cannot return an error; the first failure is kept here and reported by the device's
 * synchronize().
 *
 * Narrow numbers are float, __nv_bfloat16 or __half (rw_exec's device has one of them as `compute`), wide ones are
 * always float. Arithmetic is done in float; narrow types are only how numbers are stored. */
#ifndef RW_KERNELS_CUDA_COMMON_CUH
#define RW_KERNELS_CUDA_COMMON_CUH

#include "kernels/cuda/cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

struct rw_cuda_blas; /* blas.cu */

struct rw_cuda_state {
    int index;
    int n_sm;
    int capability;      /* 75, 80, 90, ... */
    int shared_bytes;    /* of shared memory that one block may take */
    size_t total_bytes;  /* memory of the card */
    bool tf32;           /* products of fp32 may use tf32 */
    bool timed;          /* algorithms of products are chosen by time */
    cudaStream_t stream; /* kernels, zero, upload, download, move */
    cudaStream_t copies; /* uploads ahead */
    rw_cuda_blas *blas;
    char failure[256]; /* first error since the last synchronize; "" when none */
};

static inline rw_cuda_state *rw_cuda_of(const rw_exec *ex) {
    return (rw_cuda_state *)ex->impl;
}

/* Remember what failed, with the name of the call. */
void rw_cuda_note(rw_cuda_state *s, const char *what, const char *why);
static inline void rw_cuda_check(rw_cuda_state *s, const char *what, cudaError_t e) {
    if (e != cudaSuccess) rw_cuda_note(s, what, cudaGetErrorString(e));
}
/* After each launch. */
static inline void rw_cuda_launched(rw_cuda_state *s, const char *what) {
    rw_cuda_check(s, what, cudaGetLastError());
}

/* -- elementwise launches ---------------------------------------------------------------------------------- */

enum { RW_CUDA_THREADS = 256 };
/* Blocks for n elements in a grid-stride loop: enough to fill the chip, the same for the same n. */
static inline int rw_cuda_blocks(const rw_cuda_state *s, int64_t n) {
    int64_t wanted = (n + RW_CUDA_THREADS - 1) / RW_CUDA_THREADS, most = (int64_t)s->n_sm * 8;
    return (int)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}
static __device__ __forceinline__ int64_t rw_thread_index() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
static __device__ __forceinline__ int64_t rw_thread_count() {
    return (int64_t)gridDim.x * blockDim.x;
}

/* -- number types -------------------------------------------------------------------------------------------- */

/* Runs the statement with T = the type that `dtype` (F32, BF16, F16) stands for; any other is noted as a failure. */
#define RW_CUDA_NARROW(s, what, dtype, T, ...)                                                                         \
    switch (dtype) {                                                                                                   \
    case RW_F32: {                                                                                                     \
        using T = float;                                                                                               \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case RW_BF16: {                                                                                                    \
        using T = __nv_bfloat16;                                                                                       \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case RW_F16: {                                                                                                     \
        using T = __half;                                                                                              \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    default:                                                                                                           \
        rw_cuda_note(s, what, "no such number type on a GPU");                                                         \
    }

static __device__ __forceinline__ float rw_to_float(float x) {
    return x;
}
static __device__ __forceinline__ float rw_to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
static __device__ __forceinline__ float rw_to_float(__half x) {
    return __half2float(x);
}
/* To nearest, ties to even. */
template <class T> static __device__ __forceinline__ T rw_from_float(float x);
template <> __device__ __forceinline__ float rw_from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ __nv_bfloat16 rw_from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ __half rw_from_float<__half>(float x) {
    return __float2half_rn(x);
}

/* N neighbours as one access of up to 16 bytes; p must be a multiple of N * sizeof(T) (of 16, when that is larger). */
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) rw_pack { T at[N]; };
template <int N, class T> static __device__ __forceinline__ void rw_load(const T *p, float (&x)[N]) {
    const rw_pack<T, N> v = *reinterpret_cast<const rw_pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = rw_to_float(v.at[i]);
}
template <int N, class T> static __device__ __forceinline__ void rw_store(T *p, const float (&x)[N]) {
    rw_pack<T, N> v;
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = rw_from_float<T>(x[i]);
    *reinterpret_cast<rw_pack<T, N> *>(p) = v;
}

/* -- sums in a fixed order ------------------------------------------------------------------------------------- */

/* Every lane gets the sum over the warp: the same tree for all, so the same bits. */
template <class T> static __device__ __forceinline__ T rw_warp_sum(T x) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
static __device__ __forceinline__ float rw_warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}
/* Every thread gets the sum over the block (a multiple of 32 threads). `room`: 32 numbers of shared memory, free to be
 * used again after the next __syncthreads(). */
template <class T> static __device__ __forceinline__ T rw_block_sum(T x, T *room) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = rw_warp_sum(x);
    if (lane == 0) room[warp] = x;
    __syncthreads(); /* the parts of all warps are there */
    return rw_warp_sum(lane < warps ? room[lane] : T(0));
}

static __device__ __forceinline__ float rw_sigmoid(float x) {
    return 1.0f / (1.0f + __expf(-x));
}

/* Row of a sequence's first token: rw_seq_row() of device.h, on the device. */
static __device__ __forceinline__ int64_t rw_first_row(const int32_t *cu_seqlens, int64_t n_seq, int64_t R, int64_t i) {
    return cu_seqlens ? cu_seqlens[i] : R / n_seq * i;
}

/* Prototypes of all kernels. */
#define RW_KERNEL(name, args) void rw_cuda_##name(const args *a, const rw_exec *ex);
#define RW_QUERY(name, args)  int64_t rw_cuda_##name(const args *a, const rw_exec *ex);
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

#endif
