/* What the two forms of ddlerp on a GPU share (ddlerp.cu, ddlerp_mma.cuh): the arguments with their types, and which
 * rows begin a sequence. */
#ifndef RW_KERNELS_CUDA_DDLERP_ARGS_CUH
#define RW_KERNELS_CUDA_DDLERP_ARGS_CUH

#include "kernels/cuda/pointwise.cuh"

namespace {

enum { MIX = RW_DDLERP_MIX };

/* Packed rows [0, R) with the beginnings of their sequences. */
struct packed {
    const int32_t *cu; /* NULL: equal lengths */
    int64_t R, length; /* rows; of each sequence, when equal */
    int n_seq;

    __device__ int64_t first(int i) const { return i >= n_seq ? R : cu ? cu[i] : length * i; }
    /* The sequence that holds `row` < R: the last that begins at or before it, so empty ones are passed over. */
    __device__ int holder(int64_t row) const {
        int below = 0, above = n_seq - 1;
        while (below < above) {
            const int middle = (below + above + 1) / 2;
            if (first(middle) <= row)
                below = middle;
            else
                above = middle - 1;
        }
        return below;
    }
};

template <class T> struct ddlerp {
    int64_t C, rank;
    packed rows;
    const T *xn;
    const float *shift_in;
    int64_t shift_in_stride;
    const T *t; /* tanh(h) */
    const T *w2;
    const float *mu[MIX];
    T *out[MIX];
    const T *dout[MIX];
    T *dxn, *dh;
    void *dw2;
    bool dw2_wide;
    float *dmu[MIX], *dshift_in;
    uint32_t add;
    T *dp_part;     /* ddlerp_mma.cuh */
    float *partial; /* ddlerp_mma.cuh */
    float *states;  /* [n_seq, C] what each sequence sends to the state that they share */

    __device__ bool adds(uint32_t bit) const { return add & bit; }
};

} // namespace

#endif
