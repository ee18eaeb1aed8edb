/* Loops over the elements of tensors: packs of 16 bytes, and one by one what does not fill a pack. */
#ifndef RW_KERNELS_CUDA_POINTWISE_CUH
#define RW_KERNELS_CUDA_POINTWISE_CUH

#include "kernels/cuda/common.cuh"

#include <initializer_list>
#include <type_traits>

template <class T> constexpr int rw_pack_of = 16 / sizeof(T);

/* f(i, std::integral_constant<int, width>) for all n elements, over the whole grid. Without `aligned` (rw_aligned() of
 * all tensors, on the host) every element goes alone. */
template <int N, class F> static __device__ __forceinline__ void rw_over(int64_t n, bool aligned, F f) {
    const int64_t packs = aligned ? n / N : 0;
    for (int64_t i = rw_thread_index(); i < packs; i += rw_thread_count()) f(i * N, std::integral_constant<int, N>{});
    for (int64_t i = packs * N + rw_thread_index(); i < n; i += rw_thread_count())
        f(i, std::integral_constant<int, 1>{});
}

/* Do all begin on 16 bytes? Views may not; NULL does. */
static inline bool rw_aligned(std::initializer_list<const void *> pointers) {
    uintptr_t bits = 0;
    for (const void *p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
    return bits % 16 == 0;
}

/* Argument pointers as the type that they point to. */
template <class T> static inline const T *rw_in(const void *p) {
    return static_cast<const T *>(p);
}
template <class T> static inline T *rw_out(void *p) {
    return static_cast<T *>(p);
}

#endif
