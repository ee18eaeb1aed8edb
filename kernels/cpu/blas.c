/* The product of two matrices, cut into tiles of equal size, one per thread. A tile is a plain call of the BLAS with
 * one thread; K is never cut, so the order of each sum does not depend on the number of threads. */
#include "kernels/cpu/blas.h"

#include "kernels/cpu/span.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, TILE_ALIGN = 16 };

typedef struct {
    bool ta, tb;
    int64_t M, N, K;
    real alpha;
    const real *a, *b;
    int64_t lda, ldb;
    real beta;
    real *c;
    int64_t ldc;
} product;

#if defined(RW_REAL_F64)
#define BLAS_GEMM rw_blas_dgemm
#else
#define BLAS_GEMM rw_blas_sgemm
#endif

static void scale(real *c, int64_t ldc, int64_t M, int64_t N, real beta) {
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

static void tile(const product *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    if (m1 <= m0 || n1 <= n0) return;
    real *c = p->c + m0 * p->ldc + n0;
    if (p->K == 0) {
        scale(c, p->ldc, m1 - m0, n1 - n0, p->beta);
        return;
    }
    const real *a = p->a + (p->ta ? m0 : m0 * p->lda), *b = p->b + (p->tb ? n0 * p->ldb : n0);
    BLAS_GEMM(ROW_MAJOR, p->ta ? TRANS : NO_TRANS, p->tb ? TRANS : NO_TRANS, (int)(m1 - m0), (int)(n1 - n0), (int)p->K,
              p->alpha, a, (int)p->lda, b, (int)p->ldb, p->beta, c, (int)p->ldc);
}

/* Part i of n of `total`, cut at multiples of TILE_ALIGN. */
static void cut(int64_t total, int64_t n, int64_t i, int64_t *first, int64_t *last) {
    int64_t blocks = (total + TILE_ALIGN - 1) / TILE_ALIGN;
    rw_split(blocks, n, i, first, last);
    *first *= TILE_ALIGN;
    *last = *last * TILE_ALIGN < total ? *last * TILE_ALIGN : total;
}

/* Rows of the grid of n tiles (a divisor of n) for which the tiles have the least edge. */
static int64_t grid_rows(int64_t M, int64_t N, int64_t n) {
    int64_t best = 1;
    double least = INFINITY;
    for (int64_t r = 1; r <= n; r++) {
        double edge = (double)M / (double)r + (double)N * (double)r / (double)n;
        if (n % r == 0 && edge < least) best = r, least = edge;
    }
    return best;
}

static void tile_of_grid(const product *p, int64_t rows, int64_t cols, int64_t i) {
    int64_t m0, m1, n0, n1;
    cut(p->M, rows, i / cols, &m0, &m1);
    cut(p->N, cols, i % cols, &n0, &n1);
    tile(p, m0, m1, n0, n1);
}

void RW_CPU_NAME(gemm)(const rw_exec *ex, bool ta, bool tb, int64_t M, int64_t N, int64_t K, real alpha, const real *a,
                       int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc) {
    product p = {ta, tb, M, N, K, alpha, a, b, lda, ldb, beta, c, ldc};
    int threads = ex ? ex->threads : 1;
    if (threads <= 1 || omp_in_parallel() || (double)M * (double)N * (double)(K + 8) < RW_GEMM_SERIAL_BELOW) {
        tile(&p, 0, M, 0, N);
        return;
    }
    int64_t rows = grid_rows(M, N, threads), cols = threads / rows;
    RW_FOR(threads, i, threads, tile_of_grid(&p, rows, cols, i));
}
