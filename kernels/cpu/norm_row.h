/* One row (or head) of layer norm, shared by norm.c and token_shift.c. Two passes: the mean first, so that the
 * variance does not cancel. */
#ifndef RW_KERNELS_CPU_NORM_ROW_H
#define RW_KERNELS_CPU_NORM_ROW_H

#include "kernels/cpu/lanes.h"

RW_INLINE void rw_norm_stats(const real *x, int64_t n, double eps, real *mean, real *rstd) {
    *mean = rw_row_sum(x, n) / (real)n;
    *rstd = 1 / (real)sqrt(rw_row_sum_sq(x, *mean, n) / (real)n + (real)eps);
}

RW_INLINE void rw_norm_apply(const real *restrict x, real mean, real rstd, const real *restrict gamma,
                             const real *restrict beta, int64_t n, real *restrict out) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) out[c] = (x[c] - mean) * rstd * gamma[c] + beta[c];
}

/* dx of one row from dout, and what the row adds to dgamma and dbeta. */
RW_INLINE void rw_norm_row_backward(const real *restrict x, real mean, real rstd, const real *restrict gamma,
                                    const real *restrict dout, int64_t n, bool add, real *restrict dx,
                                    real *restrict dgamma, real *restrict dbeta) {
    rw_vec sum = {0}, dot = {0};
    int64_t c = 0;
    for (; c + RW_VL <= n; c += RW_VL) {
        const rw_vec dy = *(const rw_vec *)(dout + c), xhat = (*(const rw_vec *)(x + c) - mean) * rstd;
        const rw_vec d = dy * *(const rw_vec *)(gamma + c);
        *(rw_vec *)(dgamma + c) += dy * xhat;
        *(rw_vec *)(dbeta + c) += dy;
        sum += d;
        dot += d * xhat;
    }
    real total = rw_lane_total((const real *)&sum), total_dot = rw_lane_total((const real *)&dot);
    for (; c < n; c++) {
        const real xhat = (x[c] - mean) * rstd, d = dout[c] * gamma[c];
        dgamma[c] += dout[c] * xhat;
        dbeta[c] += dout[c];
        total += d;
        total_dot += d * xhat;
    }
    if (!dx) return;
    total /= (real)n;
    total_dot /= (real)n;
    if (add) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) dx[i] += rstd * (dout[i] * gamma[i] - total - (x[i] - mean) * rstd * total_dot);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = rstd * (dout[i] * gamma[i] - total - (x[i] - mean) * rstd * total_dot);
}

#endif
