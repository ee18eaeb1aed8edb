/* The elementwise parts of the channel mix: one pass over memory each, vectors of any width, spans per thread. No
 * `restrict`: outputs may be their inputs, element for element. */
#include "kernels/cpu/span.h"
#include "kernels/cpu/vmath.h"

/* -- relu squared ---------------------------------------------------------------------------------- */

static RW_CLONES void relu_sq_span(const real *x, real *out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        real v = x[i] < 0 ? 0 : x[i]; /* this way round NaN passes */
        out[i] = v * v;
    }
}

static RW_CLONES void relu_sq_back_span(const real *out, const real *dout, real *dx, int64_t n, bool add) {
    if (!add) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) dx[i] = 2 * dout[i] * RW_SQRT(out[i]);
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] += 2 * dout[i] * RW_SQRT(out[i]);
}

void RW_CPU_NAME(relu_sq_forward)(const rw_relu_sq_args *a, const rw_exec *ex) {
    const real *x = a->x;
    real *out = a->out;
    RW_SPANS(ex, a->n, relu_sq_span(x + first, out + first, last - first));
}

void RW_CPU_NAME(relu_sq_backward)(const rw_relu_sq_args *a, const rw_exec *ex) {
    const real *out = a->out, *dout = a->dout;
    real *dx = a->dx;
    if (!dx) return;
    if (!dout) {
        if (!a->add) RW_SPANS(ex, a->n, rw_zero_span(dx + first, last - first));
        return;
    }
    RW_SPANS(ex, a->n, relu_sq_back_span(out + first, dout + first, dx + first, last - first, a->add));
}

/* -- receptance gate ------------------------------------------------------------------------------- */

static RW_CLONES void rgate_span(const real *q, const real *p, const real *residual, real *out, int64_t n) {
    if (!residual) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) out[i] = rw_sigmoid(q[i]) * p[i];
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = residual[i] + rw_sigmoid(q[i]) * p[i];
}

static RW_CLONES void rgate_dq_span(const real *q, const real *p, const real *dout, real *dq, int64_t n, bool add) {
    if (!add) rw_zero_span(dq, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        real s = rw_sigmoid(q[i]);
        dq[i] += dout[i] * p[i] * (s * (1 - s));
    }
}

static RW_CLONES void rgate_dp_span(const real *q, const real *dout, real *dp, int64_t n, bool add) {
    if (!add) rw_zero_span(dp, n);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dp[i] += dout[i] * rw_sigmoid(q[i]);
}

/* The usual case: both gradients, overwritten, one sigmoid. */
static RW_CLONES void rgate_both_span(const real *q, const real *p, const real *dout, real *dq, real *dp, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        real s = rw_sigmoid(q[i]), d = dout[i] * s;
        dq[i] = d * p[i] * (1 - s);
        dp[i] = d;
    }
}

void RW_CPU_NAME(rgate_forward)(const rw_rgate_args *a, const rw_exec *ex) {
    const real *q = a->q, *p = a->p, *residual = a->residual;
    real *out = a->out;
    RW_SPANS(ex, a->n, rgate_span(q + first, p + first, residual ? residual + first : NULL, out + first, last - first));
}

static void rgate_back_span(const rw_rgate_args *a, int64_t first, int64_t n) {
    const real *q = (const real *)a->q + first, *p = (const real *)a->p + first;
    const real *dout = a->dout ? (const real *)a->dout + first : NULL;
    real *dq = a->dq ? (real *)a->dq + first : NULL, *dp = a->dp ? (real *)a->dp + first : NULL;
    bool add_q = a->add & RW_RGATE_ADD_Q, add_p = a->add & RW_RGATE_ADD_P;
    if (!dout) {
        if (dq && !add_q) rw_zero_span(dq, n);
        if (dp && !add_p) rw_zero_span(dp, n);
    } else if (dq && dp && !a->add) {
        rgate_both_span(q, p, dout, dq, dp, n);
    } else {
        if (dq) rgate_dq_span(q, p, dout, dq, n, add_q);
        if (dp) rgate_dp_span(q, dout, dp, n, add_p);
    }
}

void RW_CPU_NAME(rgate_backward)(const rw_rgate_args *a, const rw_exec *ex) {
    RW_SPANS(ex, a->n, rgate_back_span(a, first, last - first));
}
