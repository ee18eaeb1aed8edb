/* Matrix products: one call per problem with all threads, or, when there are many small ones, one thread each. */
#include "kernels/cpu/blas.h"
#include "kernels/cpu/span.h"

static const double split_from = 4e5; /* multiply-adds per thread that pay for waking it */

/* out = c, when c lies elsewhere: then the product is added by the BLAS. */
static void copy_rows(const rw_exec *ex, const real *c, int64_t ldc, real *out, int64_t ldo, int64_t M, int64_t N) {
    if (c == out) return;
    const int threads = M * N > 1 << 15 ? ex->threads : 1;
    RW_FOR(threads, i, M, memcpy(out + i * ldo, c + i * ldc, (size_t)N * sizeof(real)));
}

static void one(const rw_matmul_args *p, const rw_exec *ex, int64_t i) {
    int64_t lda = p->lda ? p->lda : p->trans_a ? p->M : p->K, ldb = p->ldb ? p->ldb : p->trans_b ? p->K : p->N;
    int64_t ldc = p->ldc ? p->ldc : p->N, ldo = p->ldo ? p->ldo : p->N;
    const real *a = (const real *)p->a + i * p->stride_a, *b = (const real *)p->b + i * p->stride_b;
    real *out = (real *)p->out + i * p->stride_o, alpha = p->alpha == 0 ? 1 : (real)p->alpha;
    if (p->c) copy_rows(ex, (const real *)p->c + i * p->stride_c, ldc, out, ldo, p->M, p->N);
    RW_CPU_NAME(gemm)(ex, p->trans_a, p->trans_b, p->M, p->N, p->K, alpha, a, lda, b, ldb, p->c ? 1 : 0, out, ldo);
}

void RW_CPU_NAME(matmul)(const rw_matmul_args *p, const rw_exec *ex) {
    int64_t batch = p->batch ? p->batch : 1;
    if (batch == 1 || (double)p->M * (double)p->N * (double)p->K > split_from * ex->threads) {
        for (int64_t i = 0; i < batch; i++) one(p, ex, i);
        return;
    }
    rw_exec alone = *ex;
    alone.threads = 1;
    RW_FOR(ex->threads, i, batch, one(p, &alone, i));
}
