/* What the best bf16 device could give: a CPU that computes in fp64 (or fp32) but keeps in bf16 what such a device
 * keeps in bf16. After each kernel every narrow buffer that it wrote is rounded: activations and their gradients; those
 * of matrices and the matrices themselves are rounded by the parameters (storage A16). Vectors, statistics, states and
 * losses stay wide. So the errors of this device are those of the number format alone, and a model that amplifies them
 * does so on every device.
 *
 * One run is one draw of these errors, and of a gradient that amplifies them much, another draw may be twice as far off
 * or right by accident. `unit` gives other draws of the same size: numbers are kept in multiples of it, round(x * unit)
 * / unit, whose errors have the same distribution and are not those of unit 1. */
#ifndef RW_TESTS_UNIT_PLAN_NARROW_DEVICE_H
#define RW_TESTS_UNIT_PLAN_NARROW_DEVICE_H

#include "core/base/alloc.h"
#include "kernels/device.h"

typedef struct {
    rw_device base; /* first: the device is this struct */
    rw_device *inner;
    double unit;
} narrow_device;

static inline const narrow_device *narrow_of(const rw_exec *ex) {
    return ex->impl;
}

/* -- rounding ----------------------------------------------------------------------------------------------- */

static inline double narrow_number(double x, double unit) {
    return (double)rw_f32_from_bf16(rw_bf16_from_f32((float)(x * unit))) / unit;
}

/* n numbers of the device's type; NULL: nothing was written. */
static inline void narrow_at(const rw_exec *ex, void *x, int64_t n) {
    const narrow_device *d = narrow_of(ex);
    double *f64 = x;
    float *f32 = x;
    if (!x) return;
    if (d->base.compute == RW_F64)
        for (int64_t i = 0; i < n; i++) f64[i] = narrow_number(f64[i], d->unit);
    else
        for (int64_t i = 0; i < n; i++) f32[i] = (float)narrow_number((double)f32[i], d->unit);
}

static inline void *narrow_element(const rw_exec *ex, void *x, int64_t i) {
    return (char *)x + i * rw_dtype_bytes(narrow_of(ex)->base.compute);
}

/* -- what each kernel writes narrow --------------------------------------------------------------------------- */

/* Where out_dtype is given it is a gradient of weights, or wide. */
static inline void narrow_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    const int64_t pitch = a->ldo ? a->ldo : a->N, batch = a->batch ? a->batch : 1;
    if (a->out_dtype != RW_DTYPE_NONE) return;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t row = 0; row < a->M; row++)
            narrow_at(ex, narrow_element(ex, a->out, b * a->stride_o + row * pitch), a->N);
}
static inline void narrow_embedding_forward(const rw_embedding_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->R * a->C);
}
static inline void narrow_embedding_backward(const rw_embedding_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}
static inline void narrow_layer_norm_forward(const rw_layer_norm_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->R * a->C);
}
static inline void narrow_layer_norm_backward(const rw_layer_norm_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dx, a->R * a->C);
}
static inline void narrow_group_norm_forward(const rw_group_norm_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->R * a->H * a->N);
}
static inline void narrow_group_norm_backward(const rw_group_norm_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dx, a->R * a->H * a->N);
}
static inline void narrow_token_shift_forward(const rw_token_shift_args *a, const rw_exec *ex) {
    for (int i = 0; i < a->n_mix; i++) narrow_at(ex, a->out[i], a->R * a->C);
    narrow_at(ex, a->xn, a->R * a->C);
}
static inline void narrow_token_shift_backward(const rw_token_shift_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dx, a->R * a->C);
}
static inline void narrow_ddlerp_forward(const rw_ddlerp_args *a, const rw_exec *ex) {
    for (int i = 0; i < RW_DDLERP_MIX; i++) narrow_at(ex, a->out[i], a->R * a->C);
    if (a->h) narrow_at(ex, a->tanh_h, a->R * RW_DDLERP_MIX * a->rank);
}
static inline void narrow_ddlerp_backward(const rw_ddlerp_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dxn, a->R * a->C);
    narrow_at(ex, a->dh, a->R * RW_DDLERP_MIX * a->rank);
}
static inline void narrow_wkv6_forward(const rw_wkv6_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->R * a->H * a->N);
}
static inline void narrow_wkv6_backward(const rw_wkv6_args *a, const rw_exec *ex) {
    void *const grads[] = {a->dr, a->dk, a->dv, a->dw_raw, a->dgate};
    for (size_t i = 0; i < sizeof grads / sizeof *grads; i++) narrow_at(ex, grads[i], a->R * a->H * a->N);
}
static inline void narrow_wkv7_forward(const rw_wkv7_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->R * a->H * a->N);
}
static inline void narrow_wkv7_backward(const rw_wkv7_args *a, const rw_exec *ex) {
    void *const grads[] = {a->dr, a->dw_raw, a->dk0, a->dv, a->da_up, a->dv_up, a->dv_first, a->dg};
    for (size_t i = 0; i < sizeof grads / sizeof *grads; i++) narrow_at(ex, grads[i], a->R * a->H * a->N);
}
static inline void narrow_relu_sq_forward(const rw_relu_sq_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->n);
}
static inline void narrow_relu_sq_backward(const rw_relu_sq_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dx, a->n);
}
static inline void narrow_rgate_forward(const rw_rgate_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->n);
}
static inline void narrow_rgate_backward(const rw_rgate_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dq, a->n);
    narrow_at(ex, a->dp, a->n);
}
static inline void narrow_unary_forward(const rw_unary_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->n);
}
static inline void narrow_unary_backward(const rw_unary_args *a, const rw_exec *ex) {
    narrow_at(ex, a->dx, a->n);
}
static inline void narrow_binary_forward(const rw_binary_args *a, const rw_exec *ex) {
    narrow_at(ex, a->out, a->n);
}
static inline void narrow_binary_backward(const rw_binary_args *a, const rw_exec *ex) {
    narrow_at(ex, a->da, a->n);
    narrow_at(ex, a->db, a->period ? a->period : a->n);
}
static inline void narrow_cast(const rw_cast_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}
static inline void narrow_round_to(const rw_round_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}
static inline void narrow_sum(const rw_sum_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}
static inline void narrow_clip_coef(const rw_clip_coef_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}
static inline void narrow_head_loss(const rw_head_loss_args *a, const rw_exec *ex) {
    if (a->want_grad) narrow_at(ex, a->logits, a->R * a->V);
}
static inline void narrow_copy_head_forward(const rw_copy_head_args *a, const rw_exec *ex) {
    narrow_at(ex, a->logits, a->n * a->V);
}
static inline void narrow_copy_head_backward(const rw_copy_head_args *a, const rw_exec *ex) {
    if (a->dq) narrow_at(ex, narrow_element(ex, a->dq, a->first * a->Q), a->n * a->Q);
    narrow_at(ex, a->dk, a->R * a->Q);
}
static inline void narrow_adamw(const rw_adamw_args *a, const rw_exec *ex) {
    (void)a, (void)ex;
}

/* -- the table: a row of ops.def without a function above does not compile --------------------------------------- */

#define RW_KERNEL(op, type)                                                                                            \
    static void narrowed_##op(const type *a, const rw_exec *ex) {                                                      \
        narrow_of(ex)->inner->kernels->op(a, ex);                                                                      \
        narrow_##op(a, ex);                                                                                            \
    }
#define RW_QUERY(op, type)                                                                                             \
    static int64_t narrowed_##op(const type *a, const rw_exec *ex) {                                                   \
        return narrow_of(ex)->inner->kernels->op(a, ex);                                                               \
    }
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

static const rw_kernels narrow_table = {
    .name = "narrow",
#define RW_KERNEL(op, type) .op = narrowed_##op,
#define RW_QUERY(op, type)  .op = narrowed_##op,
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};

static inline void narrow_close(rw_device *d) {
    rw_device_close(((narrow_device *)d)->inner);
    rw_free(d);
}

/* compute: F64, or F32 for an ordinary device that stores bf16. */
static inline rw_status narrow_open(rw_device **out, rw_dtype compute, double unit, rw_error *err) {
    narrow_device *d = rw_alloc(sizeof *d);
    *out = NULL;
    if (!d) return rw_fail_memory(err, sizeof *d);
    rw_status status = rw_device_open_cpu(&d->inner, compute, 2, err);
    if (status != RW_OK) {
        rw_free(d);
        return status;
    }
    d->base = *d->inner;
    d->unit = unit;
    d->base.kernels = &narrow_table;
    d->base.exec.impl = d;
    d->base.close = narrow_close;
    *out = &d->base;
    return RW_OK;
}

#endif
