/* head_qk on a CPU: plain loops over pairs of rows. Forward and dq belong to a row of logits, dk to the row that is
 * copied from, so that threads never write the same numbers. */
#include "kernels/copy_head.h"

#include "kernels/cpu/sequences.h"
#include "kernels/cpu/span.h"

static const real *row_of(const void *x, int64_t row, int64_t width) {
    return (const real *)x + row * width;
}

static rw_sequence sequence_of(const rw_copy_head_args *a, int64_t row) {
    return rw_sequence_at(a->cu_seqlens, a->n_seq, a->R, row);
}

static RW_CLONES real dot(const real *x, const real *y, int64_t n) {
    real sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static RW_CLONES void add_scaled(real *to, real factor, const real *x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] += factor * x[i];
}

static void forward_row(const rw_copy_head_args *a, int64_t t) {
    const real *q = row_of(a->q, t, a->Q), scale = (real)a->scale;
    real *logits = (real *)a->logits + (t - a->first) * a->V;
    for (int64_t s = sequence_of(a, t).first; s <= t; s++)
        logits[a->tokens[s]] += scale * dot(q, row_of(a->k, s, a->Q), a->Q);
}

static void dq_row(const rw_copy_head_args *a, int64_t t) {
    const real *dlogits = row_of(a->dlogits, t - a->first, a->V), scale = (real)a->scale;
    real *dq = (real *)a->dq + t * a->Q;
    rw_zero_span(dq, a->Q);
    for (int64_t s = sequence_of(a, t).first; s <= t; s++)
        add_scaled(dq, scale * dlogits[a->tokens[s]], row_of(a->k, s, a->Q), a->Q);
}

static void dk_row(const rw_copy_head_args *a, int64_t s) {
    const int64_t last = sequence_of(a, s).last, end = last < a->first + a->n ? last : a->first + a->n;
    real *dk = (real *)a->dk + s * a->Q, scale = (real)a->scale;
    if (!(a->add & RW_COPY_HEAD_ADD_K)) rw_zero_span(dk, a->Q);
    for (int64_t t = s > a->first ? s : a->first; t < end; t++)
        add_scaled(dk, scale * row_of(a->dlogits, t - a->first, a->V)[a->tokens[s]], row_of(a->q, t, a->Q), a->Q);
}

void RW_CPU_NAME(copy_head_forward)(const rw_copy_head_args *a, const rw_exec *ex) {
    RW_FOR(ex->threads, i, a->n, forward_row(a, a->first + i));
}

void RW_CPU_NAME(copy_head_backward)(const rw_copy_head_args *a, const rw_exec *ex) {
    if (a->dq) RW_FOR(ex->threads, i, a->n, dq_row(a, a->first + i));
    if (a->dk) RW_FOR(ex->threads, s, a->R, dk_row(a, s));
}
