/* See rates.h. Both queue several pieces of work before they wait, so that the way to the device is not in the figure.
 */
#include "kernels/rates.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"

/* -- copying ------------------------------------------------------------------------------------------------- */

static void copy(rw_device *d, void *to, const void *from, int64_t n_bytes) {
    const rw_unary_args a = {.dtype = RW_F32, .op = RW_UNARY_COPY, .n = n_bytes / 4, .x = from, .out = to};
    if (d->ahead)
        d->ahead->move(d, to, from, n_bytes);
    else
        d->kernels->unary_forward(&a, &d->exec);
}

rw_status rw_copy_rate(rw_device *d, double *bytes_per_second, rw_error *err) {
    enum { ROUNDS = 4, COPIES = 8 };
    const int64_t n_bytes = (int64_t)(d->kind == RW_DEVICE_CPU ? 64 : 512) << 20;
    void *from = d->alloc(d, n_bytes), *to = d->alloc(d, n_bytes);
    rw_status status = from && to ? RW_OK : rw_fail_memory(err, (size_t)n_bytes);
    *bytes_per_second = 0;
    for (int i = 0; i < ROUNDS && status == RW_OK; i++) {
        const int64_t ns = rw_now_ns();
        for (int k = 0; k < COPIES; k++) copy(d, to, from, n_bytes);
        status = d->synchronize(d, err);
        const double rate = 2.0 * COPIES * (double)n_bytes / ((double)(rw_now_ns() - ns) * 1e-9);
        if (rate > *bytes_per_second) *bytes_per_second = rate;
    }
    if (from) d->free(d, from, n_bytes);
    if (to) d->free(d, to, n_bytes);
    return status;
}

/* -- multiplying --------------------------------------------------------------------------------------------- */

enum { PIECE = 1 << 20, MOST_ROUNDS = 16 };
#define PATIENCE_NS 2000000000ll

/* Numbers between -1 and 1, the same again after PIECE of them. */
static rw_status fill_randomly(rw_device *d, char *p, int64_t n, rw_error *err) {
    const int64_t width = rw_dtype_bytes(d->compute);
    double *x = rw_alloc_array(PIECE, sizeof *x), *narrow = rw_alloc_array(PIECE, sizeof *narrow);
    if (x && narrow) {
        for (int64_t i = 0; i < PIECE; i++) x[i] = (double)(rw_rng_u64_at(3, 3, (uint64_t)i) >> 11) * 0x1p-52 - 1;
        rw_convert(narrow, d->compute, x, RW_F64, PIECE);
        for (int64_t at = 0; at < n; at += PIECE)
            d->upload(d, p + at * width, narrow, (n - at < PIECE ? n - at : PIECE) * width);
    }
    rw_free(x);
    rw_free(narrow);
    return x && narrow ? RW_OK : rw_fail_memory(err, PIECE * sizeof *x);
}

static rw_status fastest_product(rw_device *d, const rw_matmul_args *a, double *rate, rw_error *err) {
    const int products = d->ahead ? 8 : 1;
    const int64_t began = rw_now_ns();
    d->kernels->matmul(a, &d->exec); /* libraries load their kernels */
    RW_TRY(d->synchronize(d, err));
    for (int i = 0; i == 0 || (i < MOST_ROUNDS && rw_now_ns() - began < PATIENCE_NS); i++) {
        const int64_t ns = rw_now_ns();
        for (int k = 0; k < products; k++) d->kernels->matmul(a, &d->exec);
        RW_TRY(d->synchronize(d, err));
        const double flops = 2.0 * products * (double)a->M * (double)a->N * (double)a->K;
        const double now = flops / ((double)(rw_now_ns() - ns) * 1e-9);
        if (now > *rate) *rate = now;
    }
    return RW_OK;
}

rw_status rw_product_rate(rw_device *d, double *flops_per_second, rw_error *err) {
    const int64_t n = d->kind == RW_DEVICE_CPU ? 1536 : 8192, n_bytes = n * n * rw_dtype_bytes(d->compute);
    void *in = d->alloc(d, n_bytes), *out = d->alloc(d, n_bytes);
    rw_status status = in && out ? fill_randomly(d, in, n * n, err) : rw_fail_memory(err, (size_t)n_bytes);
    const rw_matmul_args a = {.dtype = d->compute, .M = n, .N = n, .K = n, .a = in, .b = in, .out = out};
    *flops_per_second = 0;
    if (status == RW_OK) status = fastest_product(d, &a, flops_per_second, err);
    if (in) d->free(d, in, n_bytes);
    if (out) d->free(d, out, n_bytes);
    return status;
}
