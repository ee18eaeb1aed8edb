/* The CPU device: pages straight from the system, cleared and copied by all threads, and the table of its number type.
 * A device is used by one thread at a time; the byte counters rely on it. Small blocks take no team of threads: a team
 * of one between larger ones would make the OpenMP runtime allocate. */
#include "kernels/device.h"

#include "core/base/alloc.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/table.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    rw_device base; /* first: the device is this struct */
    rw_step_scalars scalars;
    rw_device_scalars own;
    char detail[128];
} cpu_device;

enum { SERIAL_BELOW = 1 << 20, MAX_THREADS = 1024 };

static void *cpu_alloc(rw_device *d, int64_t n_bytes) {
    void *p = n_bytes < 0 ? NULL : rw_alloc_pages((size_t)n_bytes);
    if (!p) return NULL;
    d->live_bytes += n_bytes;
    if (d->live_bytes > d->peak_bytes) d->peak_bytes = d->live_bytes;
    return p;
}

static void cpu_free(rw_device *d, void *p, int64_t n_bytes) {
    if (!p) return;
    d->live_bytes -= n_bytes;
    rw_free_pages(p, (size_t)n_bytes);
}

/* Parts of a block, cut at pages so that no page is shared. */
static int64_t part(int64_t n_bytes, int i, int n) {
    return i == n ? n_bytes : n_bytes / n * i / 4096 * 4096;
}

static void cpu_zero(rw_device *d, void *p, int64_t n_bytes) {
    if (n_bytes < SERIAL_BELOW || d->exec.threads == 1) {
        memset(p, 0, (size_t)n_bytes);
        return;
    }
    const int n = d->exec.threads;
#pragma omp parallel for num_threads(n) schedule(static, 1)
    for (int i = 0; i < n; i++) {
        int64_t first = part(n_bytes, i, n), last = part(n_bytes, i + 1, n);
        memset((char *)p + first, 0, (size_t)(last - first));
    }
}

static void copy(rw_device *d, void *dst, const void *src, int64_t n_bytes) {
    if (n_bytes < SERIAL_BELOW || d->exec.threads == 1) {
        memcpy(dst, src, (size_t)n_bytes);
        return;
    }
    const int n = d->exec.threads;
#pragma omp parallel for num_threads(n) schedule(static, 1)
    for (int i = 0; i < n; i++) {
        int64_t first = part(n_bytes, i, n), last = part(n_bytes, i + 1, n);
        memcpy((char *)dst + first, (const char *)src + first, (size_t)(last - first));
    }
}

static rw_status cpu_synchronize(rw_device *d, rw_error *err) {
    (void)d, (void)err;
    return RW_OK;
}

static void cpu_close(rw_device *d) {
    rw_free(d);
}

rw_status rw_device_open_cpu(rw_device **out, rw_dtype compute, int threads, rw_error *err) {
    *out = NULL;
    if (compute != RW_F32 && compute != RW_F64)
        return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_NONE, "the CPU computes in f32 or f64, not in %s",
                       rw_dtype_name(compute));
    if (threads < 1 || threads > MAX_THREADS)
        return rw_fail(err, RW_E_DEVICE, RW_AT_NONE, "expected 1 to %d threads, got %d", (int)MAX_THREADS, threads);
    RW_TRY(rw_blas_open(err));
    cpu_device *c = rw_alloc(sizeof *c);
    if (!c) return rw_fail_memory(err, sizeof *c);
    snprintf(c->detail, sizeof c->detail, "OpenBLAS %s, %d thread%s", rw_blas_corename(), threads,
             threads == 1 ? "" : "s");
    c->base = (rw_device){
        .kind = RW_DEVICE_CPU,
        .compute = compute,
        .name = "cpu",
        .detail = c->detail,
        .kernels = compute == RW_F64 ? &rw_cpu_f64_table : &rw_cpu_f32_table,
        .exec = {.threads = threads, .scalars = &c->scalars, .own = &c->own},
        .alloc = cpu_alloc,
        .free = cpu_free,
        .zero = cpu_zero,
        .upload = copy,
        .download = copy,
        .synchronize = cpu_synchronize,
        .close = cpu_close,
    };
    *out = &c->base;
    return RW_OK;
}
