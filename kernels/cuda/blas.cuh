/* Products by cuBLASLt, with one plan for each shape that was asked for, and the device's own kernel for few rows. */
#ifndef RW_KERNELS_CUDA_BLAS_CUH
#define RW_KERNELS_CUDA_BLAS_CUH

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/lt.cuh"

/* All that the choice of an algorithm may depend on. No padding: compared and hashed as bytes. */
struct rw_product_key {
    int32_t dtype, out_dtype;
    int32_t trans; /* 1: a, 2: b */
    int32_t align; /* bytes to which a, b, c, out are aligned, 16 at most: a byte each, a lowest */
    int64_t M, N, K, lda, ldb, ldc, ldo, batch, stride_a, stride_b, stride_c, stride_o;
};

/* Opens cuBLASLt and takes the workspace: s->blas. */
rw_status rw_cuda_blas_open(rw_cuda_state *s, rw_error *err);
void rw_cuda_blas_close(rw_cuda_state *s);
/* Which algorithm makes which product: rw_cuda_products() and rw_cuda_preset_products(). */
extern const rw_device_choices rw_cuda_choices;

/* out = alpha op(a) op(b) + c; `p` complete (rw_cuda_matmul). False: cuBLASLt has nothing for this shape. */
bool rw_cuda_lt_product(rw_cuda_state *s, const rw_matmul_args *p);
/* The whole of it for any shape, epilogue included: fast for 8 rows or fewer of an a that is not transposed. */
void rw_cuda_few_rows(rw_cuda_state *s, const rw_matmul_args *p);

#endif
