/* relu squared on the GPU: grid-stride loops, one element a turn. No __restrict__: outputs may be their inputs. */
#include "kernels/cuda/common.cuh"

static __device__ int64_t first_of() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
static __device__ int64_t stride_of() {
    return (int64_t)gridDim.x * blockDim.x;
}

static __global__ void relu_sq(const float *x, float *out, int64_t n) {
    for (int64_t i = first_of(); i < n; i += stride_of()) {
        float v = x[i] < 0 ? 0 : x[i]; /* this way round NaN passes */
        out[i] = v * v;
    }
}

static __global__ void relu_sq_back(const float *out, const float *dout, float *dx, int64_t n, bool add) {
    for (int64_t i = first_of(); i < n; i += stride_of()) {
        float d = dout ? 2 * dout[i] * sqrtf(out[i]) : 0;
        dx[i] = add ? dx[i] + d : d;
    }
}

void rw_cuda_relu_sq_forward(const rw_relu_sq_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    relu_sq<<<rw_cuda_blocks(s, a->n), RW_CUDA_THREADS, 0, s->stream>>>(static_cast<const float *>(a->x),
                                                                        static_cast<float *>(a->out), a->n);
    rw_cuda_check(s, "relu_sq_forward", cudaGetLastError());
}

void rw_cuda_relu_sq_backward(const rw_relu_sq_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (!a->dx || (!a->dout && a->add)) return;
    relu_sq_back<<<rw_cuda_blocks(s, a->n), RW_CUDA_THREADS, 0, s->stream>>>(static_cast<const float *>(a->out),
                                                                             static_cast<const float *>(a->dout),
                                                                             static_cast<float *>(a->dx), a->n, a->add);
    rw_cuda_check(s, "relu_sq_backward", cudaGetLastError());
}
