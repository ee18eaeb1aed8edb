/* AdamW on the GPU in one launch over all ranges (formula: kernels/adamw.h). The host knows neither the sizes of the
 * ranges nor the step's numbers: both are read on the device, so that a recorded graph stays right. Ranges are cut
 * into chunks, numbered through; a block takes every gridDim-th chunk. */
#include "kernels/cuda/common.cuh"

enum { CHUNK = 4096, BLOCKS_PER_SM = 4 };

struct coefficients {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
    float inv_correction1, inv_correction2, clip;
    double lr, weight_decay;
};

static __device__ coefficients coefficients_of(double beta1, double beta2, double eps, const rw_step_scalars *s,
                                               const rw_device_scalars *own) {
    coefficients c;
    const double t = (double)own->updates;
    c.beta1 = (float)beta1, c.one_minus_beta1 = (float)(1 - beta1);
    c.beta2 = (float)beta2, c.one_minus_beta2 = (float)(1 - beta2);
    c.eps = (float)eps;
    c.inv_correction1 = (float)(1 / (1 - pow(beta1, t)));
    c.inv_correction2 = (float)(1 / (1 - pow(beta2, t)));
    c.clip = (float)own->grad_scale;
    c.lr = s->lr, c.weight_decay = s->weight_decay;
    return c;
}

static __device__ void update(float *p, const float *grad, float *m, float *v, int64_t i, const coefficients &c,
                              float lr, float decay) {
    const float g = grad[i] * c.clip;
    const float m1 = c.beta1 * m[i] + c.one_minus_beta1 * g;
    const float v1 = c.beta2 * v[i] + c.one_minus_beta2 * g * g;
    const float step = m1 * c.inv_correction1 / (sqrtf(v1 * c.inv_correction2) + c.eps) + decay * p[i];
    m[i] = m1;
    v[i] = v1;
    p[i] -= lr * step;
}

static __global__ void adamw(const rw_adamw_range *ranges, int64_t n_ranges, float *p, const float *grad, float *m,
                             float *v, double beta1, double beta2, double eps, bool adam_w_mode,
                             const rw_step_scalars *scalars, const rw_device_scalars *own) {
    __shared__ coefficients c;
    if (own->skipped_in_row) return;
    if (threadIdx.x == 0) c = coefficients_of(beta1, beta2, eps, scalars, own);
    __syncthreads();
    int64_t chunk = blockIdx.x, before = 0; /* my next chunk; chunks of the ranges before k */
    for (int64_t k = 0; k < n_ranges; k++) {
        const rw_adamw_range s = ranges[k];
        const int64_t chunks = (s.n + CHUNK - 1) / CHUNK;
        const float lr = (float)(c.lr * s.lr_scale);
        const float decay = adam_w_mode && s.decay ? (float)c.weight_decay : 0.0f;
        for (; chunk < before + chunks; chunk += gridDim.x) {
            const int64_t first = (chunk - before) * CHUNK, last = first + CHUNK < s.n ? first + CHUNK : s.n;
            for (int64_t i = first + threadIdx.x; i < last; i += blockDim.x)
                update(p, grad, m, v, s.offset + i, c, lr, decay);
        }
        before += chunks;
    }
}

void rw_cuda_adamw(const rw_adamw_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->dtype != RW_F32 || a->p_grid == RW_BF16 || a->moment_dtype == RW_BF16) {
        rw_cuda_note(s, "adamw", "only fp32 weights and moments so far");
        return;
    }
    adamw<<<s->n_sm * BLOCKS_PER_SM, RW_CUDA_THREADS, 0, s->stream>>>(
        a->ranges, a->n_ranges, static_cast<float *>(a->p), static_cast<const float *>(a->grad),
        static_cast<float *>(a->m), static_cast<float *>(a->v), a->beta1, a->beta2, a->eps, a->adam_w_mode, ex->scalars,
        ex->own);
    rw_cuda_check(s, "adamw", cudaGetLastError());
}
