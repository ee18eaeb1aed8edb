/* Timing of matrix products alone, each in buffers of its own so that no call finds the operands of the last. */
#include "kernels/bench/gemm_rate.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"

static void *random_operand(rw_device *d, int64_t n, uint64_t seed) {
    int64_t n_bytes = n * rw_dtype_bytes(d->compute);
    void *host = rw_alloc_pages((size_t)n_bytes), *p = d->alloc(d, n_bytes);
    for (int64_t i = 0; host && i < n; i++) {
        double x = (double)(int32_t)(uint32_t)((uint64_t)i * 2654435761u + seed) * 0x1p-31;
        if (d->compute == RW_F64)
            ((double *)host)[i] = x;
        else
            ((float *)host)[i] = (float)x;
    }
    if (host && p) d->upload(d, p, host, n_bytes);
    rw_free_pages(host, (size_t)n_bytes);
    return p;
}

/* The fastest call is the one that nothing disturbed. */
static double fastest_time(rw_device *d, const rw_matmul_args *a, int repeats) {
    double fastest = 0;
    for (int i = -1; i < repeats; i++) {
        const int64_t start = rw_now_ns();
        d->kernels->matmul(a, &d->exec);
        d->synchronize(d, NULL);
        const double seconds = (double)(rw_now_ns() - start) * 1e-9;
        if (i == 0 || (i > 0 && seconds < fastest)) fastest = seconds;
    }
    return fastest;
}

static rw_status time_shape(rw_device *d, rw_gemm_shape *s, int repeats, rw_error *err) {
    int64_t width = rw_dtype_bytes(d->compute),
            bytes[3] = {s->M * s->K * width, s->K * s->N * width, s->M * s->N * width};
    void *a = random_operand(d, s->M * s->K, 1), *b = random_operand(d, s->K * s->N, 2), *out = d->alloc(d, bytes[2]);
    rw_status status = RW_OK;
    if (a && b && out) {
        rw_matmul_args args = {.dtype = d->compute,
                               .M = s->M,
                               .N = s->N,
                               .K = s->K,
                               .a = a,
                               .b = b,
                               .out = out,
                               .trans_a = s->trans_a,
                               .trans_b = s->trans_b};
        s->seconds = fastest_time(d, &args, repeats);
    } else {
        status = rw_fail_memory(err, (size_t)(bytes[0] + bytes[1] + bytes[2]));
    }
    d->free(d, a, bytes[0]);
    d->free(d, b, bytes[1]);
    d->free(d, out, bytes[2]);
    return status;
}

rw_status rw_gemm_rate(rw_device *d, rw_gemm_shape *shapes, int n, int repeats, double *flops_per_second,
                       rw_error *err) {
    if (repeats < 1) repeats = 1;
    double flops = 0, seconds = 0;
    for (int i = 0; i < n; i++) {
        rw_gemm_shape *s = &shapes[i];
        RW_TRY(time_shape(d, s, repeats, err));
        flops += 2.0 * (double)s->M * (double)s->N * (double)s->K * (double)s->count;
        seconds += s->seconds * (double)s->count;
    }
    *flops_per_second = seconds > 0 ? flops / seconds : 0;
    return RW_OK;
}
