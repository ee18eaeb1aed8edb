/* Matrix products by cuBLAS. It stores by columns: a row-major [M,N] is its [N,M], so operands change places and
 * nothing is transposed. fp32 without tf32; one stream and one workspace, so the same call gives the same bits.
 * Epilogues and results of another dtype are errors. */
#include "kernels/cuda/common.cuh"

static cublasOperation_t op(bool trans) {
    return trans ? CUBLAS_OP_T : CUBLAS_OP_N;
}

/* out = c where c lies elsewhere; problem by problem, so that pitches and strides may differ. */
static void copy_residual(const rw_matmul_args *p, rw_cuda_state *s, int64_t batch, int64_t ldc, int64_t ldo) {
    if (!p->c || p->c == p->out) return;
    for (int64_t i = 0; i < batch; i++)
        rw_cuda_check(s, "matmul",
                      cudaMemcpy2DAsync(static_cast<float *>(p->out) + i * p->stride_o, (size_t)ldo * sizeof(float),
                                        static_cast<const float *>(p->c) + i * p->stride_c, (size_t)ldc * sizeof(float),
                                        (size_t)p->N * sizeof(float), (size_t)p->M, cudaMemcpyDeviceToDevice,
                                        s->stream));
}

/* The empty sum: c, or zeros. */
static void without_product(const rw_matmul_args *p, rw_cuda_state *s, int64_t batch, int64_t ldo) {
    if (p->c) return;
    for (int64_t i = 0; i < batch; i++)
        rw_cuda_check(s, "matmul",
                      cudaMemset2DAsync(static_cast<float *>(p->out) + i * p->stride_o, (size_t)ldo * sizeof(float), 0,
                                        (size_t)p->N * sizeof(float), (size_t)p->M, s->stream));
}

void rw_cuda_matmul(const rw_matmul_args *p, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const int64_t batch = p->batch ? p->batch : 1;
    const int64_t lda = p->lda ? p->lda : p->trans_a ? p->M : p->K, ldb = p->ldb ? p->ldb : p->trans_b ? p->K : p->N;
    const int64_t ldc = p->ldc ? p->ldc : p->N, ldo = p->ldo ? p->ldo : p->N;
    if (p->epilogue != RW_EPILOGUE_NONE) return rw_cuda_note(s, "matmul", "no epilogues here yet");
    if (p->out_dtype && p->out_dtype != p->dtype) return rw_cuda_note(s, "matmul", "the result has another dtype");
    if (p->M == 0 || p->N == 0) return;
    copy_residual(p, s, batch, ldc, ldo);
    if (p->K == 0) return without_product(p, s, batch, ldo);
    const float alpha = p->alpha == 0 ? 1.0f : (float)p->alpha, beta = p->c ? 1.0f : 0.0f;
    cublasStatus_t e = cublasSgemmStridedBatched(
        s->blas, op(p->trans_b), op(p->trans_a), (int)p->N, (int)p->M, (int)p->K, &alpha,
        static_cast<const float *>(p->b), (int)ldb, p->stride_b, static_cast<const float *>(p->a), (int)lda,
        p->stride_a, &beta, static_cast<float *>(p->out), (int)ldo, p->stride_o, (int)batch);
    if (e != CUBLAS_STATUS_SUCCESS) rw_cuda_note(s, "matmul", cublasGetStatusString(e));
}
