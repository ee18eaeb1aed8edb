/* layer_norm and group_norm on a CPU. Both are one routine: H groups of N channels in each row (layer norm: H = 1),
 * gamma and beta one per channel. Rows are read once; a row stays in the first cache between its passes.
 *
 * A NULL dout counts as zeros. */
#include "kernels/norm.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"

#include <string.h>

typedef struct {
    int64_t R, H, N;
    const real *x, *gamma, *beta;
    double eps;
    real *out, *mean, *rstd;
    const real *dout;
    real *dx, *dgamma, *dbeta;
    uint32_t add;
    real *scratch; /* [rw_row_blocks(R)][2][H*N] */
} norm;

static norm of_layer(const rw_layer_norm_args *a) {
    return (norm){a->R,    1,       a->C,    a->x,  a->gamma,  a->beta,  a->eps, a->out,
                  a->mean, a->rstd, a->dout, a->dx, a->dgamma, a->dbeta, a->add, a->scratch};
}

static norm of_group(const rw_group_norm_args *a) {
    return (norm){a->R,    a->H,    a->N,    a->x,  a->gamma,  a->beta,  a->eps, a->out,
                  a->mean, a->rstd, a->dout, a->dx, a->dgamma, a->dbeta, a->add, a->scratch};
}

/* -- forward ---------------------------------------------------------------------------------------------- */

RW_CLONES static void forward_rows(const norm *p, int64_t first, int64_t last) {
    const int64_t N = p->N;
    for (int64_t row = first; row < last; row++)
        for (int64_t h = 0; h < p->H; h++) {
            const int64_t q = row * p->H + h;
            real mean, rstd;
            rw_norm_stats(p->x + q * N, N, p->eps, &mean, &rstd);
            rw_norm_apply(p->x + q * N, mean, rstd, p->gamma + h * N, p->beta + h * N, N, p->out + q * N);
            if (p->mean) p->mean[q] = mean;
            if (p->rstd) p->rstd[q] = rstd;
        }
}

static void forward(const norm *p, const rw_exec *ex) {
#pragma omp parallel num_threads(ex->threads)
    {
        int64_t first, last;
        rw_split(p->R, omp_get_num_threads(), omp_get_thread_num(), &first, &last);
        forward_rows(p, first, last);
    }
}

/* -- backward --------------------------------------------------------------------------------------------- */

/* Rows of one block; its sums go to partial[2][H*N]. */
RW_CLONES static void backward_rows(const norm *p, const real *dout, int64_t stride, int64_t first, int64_t last,
                                    real *partial) {
    const int64_t N = p->N, C = p->H * N;
    memset(partial, 0, (size_t)(2 * C) * sizeof(real));
    for (int64_t row = first; row < last; row++)
        for (int64_t h = 0; h < p->H; h++) {
            const int64_t q = row * p->H + h;
            rw_norm_row_backward(p->x + q * N, p->mean[q], p->rstd[q], p->gamma + h * N, dout + row * stride + h * N, N,
                                 p->add & RW_NORM_ADD_X, p->dx ? p->dx + q * N : NULL, partial + h * N,
                                 partial + C + h * N);
        }
}

static int64_t scratch_bytes(int64_t R, int64_t C) {
    return (rw_row_blocks(R) * 2 + 1) * C * (int64_t)sizeof(real);
}

static void backward(const norm *p, const rw_exec *ex) {
    const int64_t C = p->H * p->N, blocks = rw_row_blocks(p->R);
    real *zeros = p->scratch + blocks * 2 * C;
    memset(zeros, 0, (size_t)C * sizeof(real));
    const real *dout = p->dout ? p->dout : zeros;
#pragma omp parallel for num_threads(ex->threads) schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first, last;
        rw_split(p->R, blocks, b, &first, &last);
        backward_rows(p, dout, p->dout ? C : 0, first, last, p->scratch + b * 2 * C);
    }
    rw_add_partials(p->dgamma, p->add & RW_NORM_ADD_GAMMA, p->scratch, blocks, 2 * C, C);
    rw_add_partials(p->dbeta, p->add & RW_NORM_ADD_BETA, p->scratch + C, blocks, 2 * C, C);
}

/* -- the table's entries ---------------------------------------------------------------------------------- */

void RW_CPU_NAME(layer_norm_forward)(const rw_layer_norm_args *a, const rw_exec *ex) {
    const norm p = of_layer(a);
    forward(&p, ex);
}

void RW_CPU_NAME(layer_norm_backward)(const rw_layer_norm_args *a, const rw_exec *ex) {
    const norm p = of_layer(a);
    backward(&p, ex);
}

int64_t RW_CPU_NAME(layer_norm_backward_scratch)(const rw_layer_norm_args *a, const rw_exec *ex) {
    (void)ex;
    return scratch_bytes(a->R, a->C);
}

void RW_CPU_NAME(group_norm_forward)(const rw_group_norm_args *a, const rw_exec *ex) {
    const norm p = of_group(a);
    forward(&p, ex);
}

void RW_CPU_NAME(group_norm_backward)(const rw_group_norm_args *a, const rw_exec *ex) {
    const norm p = of_group(a);
    backward(&p, ex);
}

int64_t RW_CPU_NAME(group_norm_backward_scratch)(const rw_group_norm_args *a, const rw_exec *ex) {
    (void)ex;
    return scratch_bytes(a->R, a->H * a->N);
}
