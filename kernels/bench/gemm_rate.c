/* Timing of matrix products alone, each in buffers of its own so that no call finds the operands of the last. */
#include "kernels/bench/gemm_rate.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"

/* The same numbers again after PIECE of them. */
static void *random_operand(rw_device *d, int64_t n, uint64_t seed) {
    enum { PIECE = 1 << 20 };
    const int64_t width = rw_dtype_bytes(d->compute), most = n < PIECE ? n : PIECE;
    double *x = rw_alloc_array((size_t)most, sizeof *x), *narrow = rw_alloc_array((size_t)most, sizeof *narrow);
    char *p = d->alloc(d, n * width);
    for (int64_t i = 0; x && i < most; i++)
        x[i] = (double)(int32_t)(uint32_t)((uint64_t)i * 2654435761u + seed) * 0x1p-31;
    if (x && narrow && p) {
        rw_convert(narrow, d->compute, x, RW_F64, most);
        for (int64_t at = 0; at < n; at += most)
            d->upload(d, p + at * width, narrow, (n - at < most ? n - at : most) * width);
    }
    rw_free(x);
    rw_free(narrow);
    return p;
}

/* The fastest call is the one that nothing disturbed. On a device with a queue several wait for one another, so that
 * the way there is not in the figure. */
static double fastest_time(rw_device *d, const rw_matmul_args *a, int repeats) {
    const int calls = d->ahead ? 16 : 1;
    double fastest = 0;
    for (int i = -1; i < repeats; i++) {
        const int64_t start = rw_now_ns();
        for (int k = 0; k < calls; k++) d->kernels->matmul(a, &d->exec);
        d->synchronize(d, NULL);
        const double seconds = (double)(rw_now_ns() - start) * 1e-9 / calls;
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
