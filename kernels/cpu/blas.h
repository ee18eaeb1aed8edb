/* Matrix products on the CPU through OpenBLAS, which is opened by path when the first CPU device opens.
 *
 * OpenBLAS chooses its kernels in its constructor and, by version, mistakes newer processors for old ones (4.8 times
 * slower). So rw_blas_open() looks at the processor first, sets OPENBLAS_CORETYPE unless the user did, and only then
 * loads the library: $RWKV_BLAS, or the OpenMP flavour, the pthread flavour, the system's default.
 *
 * The library itself runs with one thread. rw_cpu_*_gemm cuts the product into ex->threads tiles and calls it once per
 * tile, so that there is one pool of threads whatever the flavour, no allocation per call, and no global state. */
#ifndef RW_KERNELS_CPU_BLAS_H
#define RW_KERNELS_CPU_BLAS_H

#include "kernels/device.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Loads the library once per process; later calls return the first result. E_DEVICE: not found. */
rw_status rw_blas_open(rw_error *err);
const char *rw_blas_corename(void); /* "Zen", "SkylakeX", ...; "none" before rw_blas_open; "unknown": not OpenBLAS */
const char *rw_blas_path(void);     /* file that was opened; "" before */
/* What OPENBLAS_CORETYPE should be on this processor; NULL: leave it to OpenBLAS. */
const char *rw_blas_coretype_wanted(void);
/* Are these kernels far below what the processor can do? */
bool rw_blas_core_is_slow(const char *corename, bool has_avx2);

/* cblas_sgemm, cblas_dgemm and cblas_strsm with 32-bit sizes; set by rw_blas_open. */
typedef void rw_sgemm_fn(int order, int ta, int tb, int M, int N, int K, float alpha, const float *a, int lda,
                         const float *b, int ldb, float beta, float *c, int ldc);
typedef void rw_dgemm_fn(int order, int ta, int tb, int M, int N, int K, double alpha, const double *a, int lda,
                         const double *b, int ldb, double beta, double *c, int ldc);
typedef void rw_strsm_fn(int order, int side, int triangle, int ta, int diagonal, int M, int N, float alpha,
                         const float *a, int lda, float *b, int ldb);
extern rw_sgemm_fn *rw_blas_sgemm;
extern rw_dgemm_fn *rw_blas_dgemm;
extern rw_strsm_fn *rw_blas_strsm;

/* c = alpha op(a) op(b) + beta c, row-major: op(a) [M,K], op(b) [K,N], c [M,N]. With ta, a is stored [K,M]; with tb,
 * b is stored [N,K]; ld*: elements from one stored row to the next. beta 0 overwrites c without reading it. K = 0
 * scales c. Uses ex->threads threads; called inside a parallel region it runs on the calling thread alone, which is
 * the way to do many small products at once. ex NULL: one thread. */
#define RW_GEMM_SERIAL_BELOW 1e5 /* M N (K + 8): below, one thread makes one tile of it */
void rw_cpu_f32_gemm(const rw_exec *ex, bool ta, bool tb, int64_t M, int64_t N, int64_t K, float alpha, const float *a,
                     int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
void rw_cpu_f64_gemm(const rw_exec *ex, bool ta, bool tb, int64_t M, int64_t N, int64_t K, double alpha,
                     const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);

#ifdef __cplusplus
}
#endif
#endif
