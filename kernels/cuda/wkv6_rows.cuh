/* What the two forms of wkv6 share: rows of packed sequences, and where a state is saved. Both save S every 64 rows, in
 * the same place and number type, so either backward can follow either forward. */
#ifndef RW_KERNELS_CUDA_WKV6_ROWS_CUH
#define RW_KERNELS_CUDA_WKV6_ROWS_CUH

#include "kernels/cuda/pointwise.cuh"

namespace wkv6 {

enum { SAVE_EVERY = 64 };

struct packed {
    const int32_t *cu_seqlens;
    int64_t R, n_seq;
    int H;
};
__device__ __forceinline__ int64_t first_row(const packed &p, int64_t seq) {
    return rw_first_row(p.cu_seqlens, p.n_seq, p.R, seq);
}
/* S before row `row` of the whole batch is saved when that is row 64, 128, ... of its sequence: those lie 64 apart at
 * least, so none shares its number. */
template <int N> __device__ __forceinline__ int64_t saved_at(const packed &p, int64_t row, int h) {
    return ((row / SAVE_EVERY - 1) * p.H + h) * N * N;
}

} // namespace wkv6

#endif
