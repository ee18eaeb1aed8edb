/* What every CUDA kernel file shares: the state behind rw_exec.impl and the launch of elementwise kernels. Launchers
 * cannot return an error; the first failure is kept here and reported by the device's synchronize(). */
#ifndef RW_KERNELS_CUDA_COMMON_CUH
#define RW_KERNELS_CUDA_COMMON_CUH

#include "kernels/cuda/cuda.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

struct rw_cuda_state {
    int index;
    int n_sm;
    size_t total_bytes; /* memory of the card */
    cudaStream_t stream;
    cublasHandle_t blas;
    void *workspace;   /* of cuBLAS: one, fixed, so that a product takes the same way every time */
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

enum { RW_CUDA_THREADS = 256 };
/* Blocks for n elements in a grid-stride loop: enough to fill the chip, the same for the same n. */
static inline int rw_cuda_blocks(const rw_cuda_state *s, int64_t n) {
    int64_t wanted = (n + RW_CUDA_THREADS - 1) / RW_CUDA_THREADS, most = (int64_t)s->n_sm * 8;
    return (int)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

/* Prototypes of the kernels that exist. */
#define RW_KERNEL(name, args) void rw_cuda_##name(const args *a, const rw_exec *ex);
#define RW_QUERY(name, args)  int64_t rw_cuda_##name(const args *a, const rw_exec *ex);
#include "kernels/cuda/cuda_ops.def"
#undef RW_KERNEL
#undef RW_QUERY

#endif
