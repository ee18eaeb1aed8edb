/* Tensor cores and copies in the background, behind plain names. All inline PTX of the kernels that use them is here.
 *
 * Matrices are of 16-bit numbers T (__nv_bfloat16, __half), sums of float. A warp works together; lane = 4 g + q.
 *
 *     A operand  16 x 16  x[0]: row g, columns 2q 2q+1; x[1]: row g + 8; x[2], x[3]: the same 8 columns further right
 *     B operand  16 x 8   b0: rows 2q 2q+1, column g; b1: 8 rows further down
 *     sums       16 x 8   d[0] d[1]: row g, columns 2q 2q+1; d[2] d[3]: row g + 8
 *
 * So the sums of two neighbouring 16 x 8 tiles, rounded, are an A operand (rw_as_a). rw_ldmatrix reads four 8 x 8
 * tiles, tile i from the 8 row addresses (16 bytes each, aligned) that lanes 8i .. 8i+7 give; into x[i] go of tile i:
 * row g, columns 2q 2q+1 (rw_ldmatrix) or rows 2q 2q+1, column g (rw_ldmatrix_trans). In a matrix stored by rows, with
 * lane's address = row lane % 16, columns 8 (lane / 16) ..:
 *
 *     rw_ldmatrix        A operand of the matrix;        B operands of its transpose: (x[0], x[2]), (x[1], x[3])
 *     rw_ldmatrix_trans  A operand of its transpose: x[0] x[2] x[1] x[3] (rw_swap); B operands: (x[0], x[1]), (x[2],
 * x[3])
 *
 * Below compute capability 8.0 there are no such products and no copies in the background: rw_mma traps there, a copy
 * is an ordinary one. A launcher asks rw_cuda_state.capability first. */
#ifndef RW_KERNELS_CUDA_MMA_CUH
#define RW_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/common.cuh"

#include <type_traits>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define RW_CUDA_HAS_MMA 1
#else
#define RW_CUDA_HAS_MMA 0
#endif

static __device__ __forceinline__ uint32_t rw_shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* -- two 16-bit numbers in a word, the first in the low half --------------------------------------------------------
 */

template <class T> static __device__ __forceinline__ uint32_t rw_pack2(float low, float high) {
    if constexpr (std::is_same_v<T, __half>) {
        const __half2 v = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&v);
    } else {
        const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&v);
    }
}
template <class T> static __device__ __forceinline__ float rw_low(uint32_t w) {
    if constexpr (std::is_same_v<T, __half>)
        return __half2float(__ushort_as_half((unsigned short)w));
    else
        return __uint_as_float(w << 16);
}
template <class T> static __device__ __forceinline__ float rw_high(uint32_t w) {
    if constexpr (std::is_same_v<T, __half>)
        return __half2float(__ushort_as_half((unsigned short)(w >> 16)));
    else
        return __uint_as_float(w & 0xffff0000u);
}

/* -- operands and products ------------------------------------------------------------------------------------------
 */

struct rw_fragment {
    uint32_t x[4];
};

static __device__ __forceinline__ rw_fragment rw_ldmatrix(uint32_t shared_address) {
    rw_fragment f;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
                 : "r"(shared_address)
                 : "memory");
    return f;
}
static __device__ __forceinline__ rw_fragment rw_ldmatrix_trans(uint32_t shared_address) {
    rw_fragment f;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(f.x[0]), "=r"(f.x[1]), "=r"(f.x[2]), "=r"(f.x[3])
                 : "r"(shared_address)
                 : "memory");
    return f;
}
/* Order of an A operand <-> order of two B operands. */
static __device__ __forceinline__ rw_fragment rw_swap(const rw_fragment &f) {
    return rw_fragment{{f.x[0], f.x[2], f.x[1], f.x[3]}};
}
/* An 8 x 8 tile, a word a lane, to its transpose. */
static __device__ __forceinline__ uint32_t rw_transpose8(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
/* A operand -> A operand of the transposed 16 x 16 matrix. */
static __device__ __forceinline__ rw_fragment rw_transposed(const rw_fragment &f) {
    return rw_fragment{{rw_transpose8(f.x[0]), rw_transpose8(f.x[2]), rw_transpose8(f.x[1]), rw_transpose8(f.x[3])}};
}
/* Sums of a 16 x 16 tile, rounded -> A operand. */
template <class T> static __device__ __forceinline__ rw_fragment rw_as_a(const float (*d)[4]) {
    return rw_fragment{{rw_pack2<T>(d[0][0], d[0][1]), rw_pack2<T>(d[0][2], d[0][3]), rw_pack2<T>(d[1][0], d[1][1]),
                        rw_pack2<T>(d[1][2], d[1][3])}};
}

/* d = a b + c, 16 x 8 x 16 */
template <class T>
static __device__ __forceinline__ void rw_mma_from(float *d, const rw_fragment &a, uint32_t b0, uint32_t b1, float c0,
                                                   float c1, float c2, float c3) {
#if RW_CUDA_HAS_MMA
    if constexpr (std::is_same_v<T, __half>)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
            "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
            : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
#else
    __trap();
#endif
}
/* d += a b */
template <class T>
static __device__ __forceinline__ void rw_mma(float *d, const rw_fragment &a, uint32_t b0, uint32_t b1) {
    rw_mma_from<T>(d, a, b0, b1, d[0], d[1], d[2], d[3]);
}

/* -- copies from global to shared memory in the background ------------------------------------------------------------
 */

/* 16 aligned bytes; zeros when not `there` (`from` must be an address all the same). The caller's own copies are seen
 * by itself after rw_copy_wait, by the others after a barrier behind that. */
static __device__ __forceinline__ void rw_copy_async(uint32_t to, const void *from, bool there) {
#if RW_CUDA_HAS_MMA
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
    const uint4 v = there ? *static_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
}
/* Closes a group of copies. */
static __device__ __forceinline__ void rw_copy_commit() {
#if RW_CUDA_HAS_MMA
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Until no more than the NEWER last groups are on their way. */
template <int NEWER> static __device__ __forceinline__ void rw_copy_wait() {
#if RW_CUDA_HAS_MMA
    asm volatile("cp.async.wait_group %0;" ::"n"(NEWER) : "memory");
#endif
}
static __device__ __forceinline__ void rw_prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* -- stores and numbers that the compiler would make otherwise --------------------------------------------------------
 */

/* 16 bytes to global memory: it was seen to cut the same store in C++ into four of 4 bytes. */
static __device__ __forceinline__ void rw_store16(void *to, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
/* 8 bytes to shared memory, for the same reason. */
static __device__ __forceinline__ void rw_store8_shared(uint32_t to, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(x), "f"(y) : "memory");
}
/* 2^x; results below 1e-38 become 0 */
static __device__ __forceinline__ float rw_exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* good to 2^-11: for what is rounded to bf16 afterwards, a quarter of its step */
static __device__ __forceinline__ float rw_tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* -- waiting for part of a block
 * ----------------------------------------------------------------------------------------- */

/* Barrier `id` (1 .. 15) of `threads` threads, a multiple of 32. */
static __device__ __forceinline__ void rw_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* A signal in shared memory (8 bytes): `count` threads arrive, others wait. The n-th round, from 0, has parity n & 1.
 * Compute capability 8.0 on. */
static __device__ __forceinline__ void rw_signal_init(uint32_t signal, int count) {
#if RW_CUDA_HAS_MMA
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(signal), "r"(count) : "memory");
#else
    __trap();
#endif
}
static __device__ __forceinline__ void rw_signal_arrive(uint32_t signal) {
#if RW_CUDA_HAS_MMA
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(signal) : "memory");
#else
    __trap();
#endif
}
static __device__ __forceinline__ void rw_signal_wait(uint32_t signal, int parity) {
#if RW_CUDA_HAS_MMA
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(signal), "r"(parity)
                     : "memory");
#else
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(signal), "r"(parity)
                     : "memory");
#endif
    } while (!done);
    __syncwarp();
#else
    __trap();
#endif
}

/* threadIdx.x, kept in a register: the compiler would read the special one again and again. */
static __device__ __forceinline__ int rw_thread_once() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* 8 bytes to global memory, for the reason of rw_store16. */
static __device__ __forceinline__ void rw_store8(void *to, uint2 v) {
    asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

#endif
