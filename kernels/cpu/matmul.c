/* Matrix products: one call per problem with all threads, or, when there are many so small that a thread makes one
 * alone, one thread each. Either way a problem has the bits that it has alone.
 *
 * A product with one row (decoding) reads each weight once and is bound by memory. It has its own loops: an output is
 * the work of one thread and its sum has one order, so the bits are the same for any number of threads. A BLAS, made
 * for larger products, reached a third of the speed of memory here (586 MB of weights in 29 ms; now 11 ms).
 *
 * An epilogue is a pass of its own behind the product, by the kernels that do the same alone. */
#include "kernels/cpu/blas.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/span.h"

#include <assert.h>

static const double split_row_from = 16e3; /* multiply-adds per thread that pay for waking it, with one row */

enum { COLUMNS = 64 }; /* of a [K,N] that one thread sums at a time: 256 bytes of each row in float */

/* -- one row -------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t N, K, ldb;
    const real *a, *b, *c; /* c NULL: nothing is added */
    real *out, alpha;
} row_product;

static inline void put(const row_product *p, int64_t n, real sum) {
    p->out[n] = p->c ? p->alpha * sum + p->c[n] : p->alpha * sum;
}

/* b [N,K]: a sum along each row. */
RW_CLONES static void dots(const row_product *p, int64_t first, int64_t last) {
    for (int64_t n = first; n < last; n++) put(p, n, rw_row_dot(p->a, p->b + n * p->ldb, p->K));
}

/* b [K,N]: the sums of up to COLUMNS neighbours. */
RW_CLONES static void columns(const row_product *p, int64_t first) {
    const int64_t n = p->N - first < COLUMNS ? p->N - first : COLUMNS;
    real sum[COLUMNS] = {0};
    for (int64_t k = 0; k < p->K; k++) {
        const real *b = p->b + k * p->ldb + first, a = p->a[k];
#pragma omp simd
        for (int64_t j = 0; j < n; j++) sum[j] += a * b[j];
    }
    for (int64_t j = 0; j < n; j++) put(p, first + j, sum[j]);
}

static void dots_of_part(const row_product *p, int64_t parts, int64_t i) {
    int64_t first, last;
    rw_split(p->N, parts, i, &first, &last);
    dots(p, first, last);
}

static void one_row(const rw_exec *ex, const row_product *p, bool trans_b) {
    const int threads = (double)p->N * (double)p->K < split_row_from * ex->threads ? 1 : ex->threads;
    if (trans_b)
        RW_FOR(threads, i, threads, dots_of_part(p, threads, i));
    else
        RW_FOR(threads, i, (p->N + COLUMNS - 1) / COLUMNS, columns(p, i * COLUMNS));
}

/* -- several rows --------------------------------------------------------------------------------------------- */

/* out = c, when c lies elsewhere: then the product is added by the BLAS. */
static void copy_rows(const rw_exec *ex, const real *c, int64_t ldc, real *out, int64_t ldo, int64_t M, int64_t N) {
    if (c == out) return;
    const int threads = M * N > 1 << 15 ? ex->threads : 1;
    RW_FOR(threads, i, M, memcpy(out + i * ldo, c + i * ldc, (size_t)N * sizeof(real)));
}

/* -- epilogues ------------------------------------------------------------------------------------- */

static void activate(rw_unary_op op, const rw_exec *ex, real *out, int64_t n) {
    RW_CPU_NAME(unary_forward)(&(rw_unary_args){.op = op, .n = n, .x = out, .out = out}, ex);
}

static void slope(rw_unary_op op, const rw_exec *ex, real *out, const real *act, int64_t n) {
    RW_CPU_NAME(unary_backward)(&(rw_unary_args){.op = op, .n = n, .out = (real *)act, .dout = out, .dx = out}, ex);
}

static void finish(rw_epilogue f, const rw_exec *ex, real *out, const real *act, int64_t n) {
    rw_relu_sq_args relu = {.n = n, .x = out, .out = out}, d_relu = {.n = n, .out = (real *)act, .dout = out};
    d_relu.dx = out;
    switch (f) {
    case RW_EPILOGUE_NONE:
        break;
    case RW_EPILOGUE_RELU_SQ:
        RW_CPU_NAME(relu_sq_forward)(&relu, ex);
        break;
    case RW_EPILOGUE_TANH:
        activate(RW_UNARY_TANH, ex, out, n);
        break;
    case RW_EPILOGUE_SIGMOID:
        activate(RW_UNARY_SIGMOID, ex, out, n);
        break;
    case RW_EPILOGUE_D_RELU_SQ:
        RW_CPU_NAME(relu_sq_backward)(&d_relu, ex);
        break;
    case RW_EPILOGUE_D_TANH:
        slope(RW_UNARY_TANH, ex, out, act, n);
        break;
    case RW_EPILOGUE_D_SIGMOID:
        slope(RW_UNARY_SIGMOID, ex, out, act, n);
        break;
    }
}

static void finish_rows(const rw_matmul_args *p, const rw_exec *ex, real *out, const real *act, int64_t ldo) {
    if (p->epilogue == RW_EPILOGUE_NONE) return;
    if (ldo == p->N) {
        finish(p->epilogue, ex, out, act, p->M * p->N);
        return;
    }
    rw_exec alone = *ex;
    alone.threads = 1;
    RW_FOR(ex->threads, i, p->M, finish(p->epilogue, &alone, out + i * ldo, act ? act + i * ldo : NULL, p->N));
}

/* -- all of it -------------------------------------------------------------------------------------------- */

static void one(const rw_matmul_args *p, const rw_exec *ex, int64_t i) {
    int64_t lda = p->lda ? p->lda : p->trans_a ? p->M : p->K, ldb = p->ldb ? p->ldb : p->trans_b ? p->K : p->N;
    int64_t ldc = p->ldc ? p->ldc : p->N, ldo = p->ldo ? p->ldo : p->N;
    const real *a = (const real *)p->a + i * p->stride_a, *b = (const real *)p->b + i * p->stride_b;
    const real *c = p->c ? (const real *)p->c + i * p->stride_c : NULL;
    real *out = (real *)p->out + i * p->stride_o, alpha = p->alpha == 0 ? 1 : (real)p->alpha;
    if (p->M == 1 && !p->trans_a) {
        one_row(ex, &(row_product){p->N, p->K, ldb, a, b, c, out, alpha}, p->trans_b);
    } else {
        if (c) copy_rows(ex, c, ldc, out, ldo, p->M, p->N);
        RW_CPU_NAME(gemm)(ex, p->trans_a, p->trans_b, p->M, p->N, p->K, alpha, a, lda, b, ldb, c ? 1 : 0, out, ldo);
    }
    finish_rows(p, ex, out, p->act ? (const real *)p->act + i * p->stride_o : NULL, ldo);
}

void RW_CPU_NAME(matmul)(const rw_matmul_args *p, const rw_exec *ex) {
    int64_t batch = p->batch ? p->batch : 1;
    assert(!p->out_dtype || p->out_dtype == RW_REAL_DTYPE);
    assert(p->epilogue < RW_EPILOGUE_D_RELU_SQ || (p->act && !p->c));
    if (batch == 1 || (double)p->M * (double)p->N * (double)(p->K + 8) >= RW_GEMM_SERIAL_BELOW) {
        for (int64_t i = 0; i < batch; i++) one(p, ex, i);
        return;
    }
    rw_exec alone = *ex;
    alone.threads = 1;
    RW_FOR(ex->threads, i, batch, one(p, &alone, i));
}
