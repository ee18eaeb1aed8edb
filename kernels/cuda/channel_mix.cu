/* relu squared and the gate of the channel mix on the GPU (formulas: kernels/channel_mix.h). Bytes: each tensor
 * once. No __restrict__: outputs may be their inputs. */
#include "kernels/cuda/pointwise.cuh"

namespace {

template <class T> __global__ void relu_sq(const T *x, T *out, int64_t n, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        float v[width.value];
        rw_load(x + i, v);
        for (float &y : v) y = y < 0 ? 0 : y * y; /* this way round NaN passes */
        rw_store(out + i, v);
    });
}

template <class T> __global__ void relu_sq_back(const T *out, const T *dout, T *dx, int64_t n, bool add, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float y[N], d[N] = {}, old[N] = {};
        rw_load(out + i, y);
        if (dout) rw_load(dout + i, d);
        if (add) rw_load(dx + i, old);
        for (int j = 0; j < N; j++) d[j] = old[j] + 2 * d[j] * sqrtf(y[j]);
        rw_store(dx + i, d);
    });
}

template <class T> __global__ void rgate(const T *q, const T *p, const T *residual, T *out, int64_t n, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float a[N], b[N], x[N] = {};
        rw_load(q + i, a);
        rw_load(p + i, b);
        if (residual) rw_load(residual + i, x);
        for (int j = 0; j < N; j++) x[j] += rw_sigmoid(a[j]) * b[j];
        rw_store(out + i, x);
    });
}

/* add: RW_RGATE_ADD_Q | RW_RGATE_ADD_P */
template <class T>
__global__ void rgate_back(const T *q, const T *p, const T *dout, T *dq, T *dp, int64_t n, uint32_t add, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float a[N], b[N], d[N] = {}, to_q[N] = {}, to_p[N] = {};
        rw_load(q + i, a);
        rw_load(p + i, b);
        if (dout) rw_load(dout + i, d);
        if (dq && (add & RW_RGATE_ADD_Q)) rw_load(dq + i, to_q);
        if (dp && (add & RW_RGATE_ADD_P)) rw_load(dp + i, to_p);
        for (int j = 0; j < N; j++) {
            const float s = rw_sigmoid(a[j]);
            to_q[j] += d[j] * b[j] * s * (1 - s);
            to_p[j] += d[j] * s;
        }
        if (dq) rw_store(dq + i, to_q);
        if (dp) rw_store(dp + i, to_p);
    });
}

} // namespace

void rw_cuda_relu_sq_forward(const rw_relu_sq_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0) return;
    const bool wide = rw_aligned({a->x, a->out});
    RW_CUDA_NARROW(s, "relu_sq_forward", a->dtype, T,
                   relu_sq<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
                       rw_in<T>(a->x), rw_out<T>(a->out), a->n, wide));
    rw_cuda_launched(s, "relu_sq_forward");
}

void rw_cuda_relu_sq_backward(const rw_relu_sq_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0 || !a->dx || (!a->dout && a->add)) return;
    const bool wide = rw_aligned({a->out, a->dout, a->dx});
    RW_CUDA_NARROW(s, "relu_sq_backward", a->dtype, T,
                   relu_sq_back<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
                       rw_in<T>(a->out), rw_in<T>(a->dout), rw_out<T>(a->dx), a->n, a->add, wide));
    rw_cuda_launched(s, "relu_sq_backward");
}

void rw_cuda_rgate_forward(const rw_rgate_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0) return;
    const bool wide = rw_aligned({a->q, a->p, a->residual, a->out});
    RW_CUDA_NARROW(s, "rgate_forward", a->dtype, T,
                   rgate<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
                       rw_in<T>(a->q), rw_in<T>(a->p), rw_in<T>(a->residual), rw_out<T>(a->out), a->n, wide));
    rw_cuda_launched(s, "rgate_forward");
}

void rw_cuda_rgate_backward(const rw_rgate_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0 || (!a->dq && !a->dp)) return;
    const bool wide = rw_aligned({a->q, a->p, a->dout, a->dq, a->dp});
    RW_CUDA_NARROW(
        s, "rgate_backward", a->dtype, T,
        rgate_back<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
            rw_in<T>(a->q), rw_in<T>(a->p), rw_in<T>(a->dout), rw_out<T>(a->dq), rw_out<T>(a->dp), a->n, a->add, wide));
    rw_cuda_launched(s, "rgate_backward");
}
