/* The CUDA device: plain device memory, a stream for everything that has an order (kernels, copies that the host waits
 * for, recorded graphs), and one for uploads ahead (ahead.cu).
 *
 * Any thread may call: each function sets the thread's GPU first. Kernels' launchers do not, they follow such a call.
 */
#include "kernels/cuda/device.cuh"

#include "core/base/alloc.h"
#include "kernels/cuda/blas.cuh"

#include <stdio.h>
#include <string.h>

namespace {

enum { LEAST_CAPABILITY = 75, LEAST_FOR_BF16 = 80 };

/* A guess at what a context takes, for where NVML does not tell. */
const int64_t usual_context_bytes = (int64_t)512 << 20;
/* More than this cannot be ours: another process took memory meanwhile. */
const int64_t most_own_bytes = (int64_t)3 << 30;

rw_cuda_device *self(rw_device *d) {
    return reinterpret_cast<rw_cuda_device *>(d);
}

/* -- memory ---------------------------------------------------------------------------------------- */

/* Cleared in the stream of copies, which kernels do not hold up, and waited for: then it is clear for both streams. */
void *device_alloc(rw_device *d, int64_t n_bytes) {
    void *p = nullptr;
    rw_cuda_state *s = rw_cuda_enter(d);
    if (n_bytes < 0 || (uint64_t)n_bytes > s->total_bytes) return nullptr;
    if (cudaMalloc(&p, n_bytes ? (size_t)n_bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* lack of memory is an answer, not a failure to report later */
        return nullptr;
    }
    rw_cuda_check(s, "memset", cudaMemsetAsync(p, 0, (size_t)n_bytes, s->copies));
    rw_cuda_check(s, "memset", cudaStreamSynchronize(s->copies));
    d->live_bytes += n_bytes;
    if (d->live_bytes > d->peak_bytes) d->peak_bytes = d->live_bytes;
    return p;
}

void device_free(rw_device *d, void *p, int64_t n_bytes) {
    if (!p) return;
    rw_cuda_check(rw_cuda_enter(d), "free", cudaFree(p)); /* waits for what still uses it */
    d->live_bytes -= n_bytes;
}

void device_zero(rw_device *d, void *p, int64_t n_bytes) {
    rw_cuda_state *s = rw_cuda_enter(d);
    if (n_bytes > 0) rw_cuda_check(s, "memset", cudaMemsetAsync(p, 0, (size_t)n_bytes, s->stream));
}

/* Both copies return when the host memory may be used again. */
void copy(rw_device *d, void *dst, const void *src, int64_t n_bytes, cudaMemcpyKind kind) {
    rw_cuda_state *s = rw_cuda_enter(d);
    if (n_bytes == 0) return;
    rw_cuda_check(s, "copy", cudaMemcpyAsync(dst, src, (size_t)n_bytes, kind, s->stream));
    rw_cuda_check(s, "copy", cudaStreamSynchronize(s->stream));
}
void device_upload(rw_device *d, void *dst, const void *host, int64_t n_bytes) {
    copy(d, dst, host, n_bytes, cudaMemcpyHostToDevice);
}
void device_download(rw_device *d, void *host, const void *src, int64_t n_bytes) {
    copy(d, host, src, n_bytes, cudaMemcpyDeviceToHost);
}

rw_status device_synchronize(rw_device *d, rw_error *err) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "synchronize", cudaStreamSynchronize(s->copies));
    rw_cuda_check(s, "synchronize", cudaStreamSynchronize(s->stream));
    return rw_cuda_report(s, err);
}

void device_close(rw_device *d) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_blas_close(s);
    if (s->stream) cudaStreamDestroy(s->stream);
    if (s->copies) cudaStreamDestroy(s->copies);
    cudaFree(self(d)->scalars);
    rw_free(self(d));
    cudaGetLastError(); /* of a lost card: nobody asks any more */
}

/* -- opening --------------------------------------------------------------------------------------- */

void fill_table(rw_kernels *t) {
    t->name = "cuda";
#define RW_KERNEL(name, args) t->name = rw_cuda_##name;
#define RW_QUERY(name, args)  t->name = rw_cuda_##name;
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
}

__global__ void nothing() {}

/* Can this GPU do what is asked, with the kernels that were built? */
rw_status check_choice(const rw_gpu_choice *choice, const cudaDeviceProp *prop, rw_error *err) {
    rw_where nowhere = {};
    cudaFuncAttributes attributes;
    const int capability = prop->major * 10 + prop->minor;
    if (capability < LEAST_CAPABILITY)
        return rw_fail(err, RW_E_UNSUPPORTED, nowhere, "%s has compute capability %d.%d; 7.5 is the least", prop->name,
                       prop->major, prop->minor);
    if (choice->compute == RW_BF16 && capability < LEAST_FOR_BF16)
        return rw_fail(err, RW_E_UNSUPPORTED, nowhere,
                       "bf16 needs compute capability 8.0, and %s has %d.%d; use fp16 there", prop->name, prop->major,
                       prop->minor);
    if (choice->tf32 && capability < LEAST_FOR_BF16)
        return rw_fail(err, RW_E_UNSUPPORTED, nowhere,
                       "tf32 needs compute capability 8.0, and %s has %d.%d; use fp32 there", prop->name, prop->major,
                       prop->minor);
    if (cudaFuncGetAttributes(&attributes, nothing) == cudaSuccess) return RW_OK;
    cudaGetLastError();
    return rw_fail(err, RW_E_UNSUPPORTED, nowhere,
                   "this program was built without kernels for compute capability %d.%d (%s)", prop->major, prop->minor,
                   prop->name);
}

void describe(rw_cuda_device *c, const cudaDeviceProp *prop, const rw_gpu_choice *choice) {
    rw_cuda_state *s = &c->state;
    s->n_sm = prop->multiProcessorCount;
    s->capability = prop->major * 10 + prop->minor;
    s->shared_bytes = (int)prop->sharedMemPerBlockOptin;
    s->total_bytes = prop->totalGlobalMem;
    s->tf32 = choice->tf32;
    s->timed = choice->timed;
    snprintf(c->detail, sizeof c->detail, "%s, compute capability %d.%d", prop->name, prop->major, prop->minor);
}

cudaError_t take_parts(rw_cuda_device *c) {
    rw_cuda_state *s = &c->state;
    const size_t scalar_bytes = sizeof(rw_step_scalars) + sizeof(rw_device_scalars);
    cudaError_t e = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&s->copies, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMalloc(&c->scalars, scalar_bytes);
    if (e == cudaSuccess) e = cudaMemset(c->scalars, 0, scalar_bytes);
    if (e == cudaSuccess) e = cudaDeviceSynchronize();
    c->base.exec.scalars = static_cast<rw_step_scalars *>(c->scalars);
    c->base.exec.own = reinterpret_cast<rw_device_scalars *>(c->base.exec.scalars + 1);
    return e;
}

/* What all this took. `before`: free memory before there was a context, -1 where nobody could say; `opened`: as soon as
 * there was one. Kernels are loaded when they first run and come on top, some tens of MiB. */
int64_t taken(int64_t before, size_t opened) {
    size_t now = 0, total;
    if (cudaMemGetInfo(&now, &total) != cudaSuccess) return usual_context_bytes;
    const int64_t parts = (int64_t)opened - (int64_t)now, all = before - (int64_t)now;
    if (before >= 0 && all > parts && all < most_own_bytes) return all;
    return usual_context_bytes + (parts > 0 ? parts : 0);
}

rw_status open_parts(rw_cuda_device *c, const rw_gpu_choice *choice, rw_error *err) {
    rw_where nowhere = {};
    cudaDeviceProp prop;
    size_t opened = 0, total;
    const int64_t before = rw_cuda_free_bytes(choice->index);
    cudaError_t e = cudaGetDeviceProperties(&prop, choice->index);
    if (e == cudaSuccess) e = cudaSetDevice(choice->index);
    if (e == cudaSuccess) e = cudaMemGetInfo(&opened, &total);
    if (e == cudaSuccess) RW_TRY(check_choice(choice, &prop, err));
    if (e == cudaSuccess) e = take_parts(c);
    if (e != cudaSuccess)
        return rw_fail(err, RW_E_DEVICE, nowhere, "cuda: %s: %s", rw_message("opening the GPU"), cudaGetErrorString(e));
    describe(c, &prop, choice);
    RW_TRY(rw_cuda_blas_open(&c->state, err));
    c->base.own_bytes = taken(before, opened);
    c->base.memory_bytes = c->base.own_bytes;
    if (cudaMemGetInfo(&opened, &total) == cudaSuccess) c->base.memory_bytes += (int64_t)opened;
    return RW_OK;
}

void fill_device(rw_cuda_device *c, rw_dtype compute) {
    rw_device *d = &c->base;
    fill_table(&c->table);
    d->kind = RW_DEVICE_CUDA;
    d->compute = compute;
    d->name = "cuda";
    d->detail = c->detail;
    d->kernels = &c->table;
    d->exec.threads = 0; /* what the host does beside it takes as many as there are */
    d->exec.impl = &c->state;
    d->alloc = device_alloc;
    d->free = device_free;
    d->zero = device_zero;
    d->upload = device_upload;
    d->download = device_download;
    d->synchronize = device_synchronize;
    d->close = device_close;
    d->ahead = &rw_cuda_ahead;
    d->record = &rw_cuda_graphs;
    d->choices = &rw_cuda_choices;
}

} // namespace

void rw_cuda_note(rw_cuda_state *s, const char *what, const char *why) {
    if (!s->failure[0]) snprintf(s->failure, sizeof s->failure, "%s: %s", what, why);
}

/* An error of the card ends the context: every later call gives it again. */
rw_status rw_cuda_report(rw_cuda_state *s, rw_error *err) {
    if (!s->failure[0]) return RW_OK;
    rw_where nowhere = {};
    const rw_status status = rw_fail(err, RW_E_DEVICE, nowhere, "cuda: %s", s->failure);
    cudaGetLastError();
    if (cudaStreamSynchronize(s->copies) == cudaSuccess) s->failure[0] = 0;
    return status;
}

rw_status rw_device_open_cuda(rw_device **out, const rw_gpu_choice *choice, rw_error *err) {
    rw_where nowhere = {};
    int driver, count;
    const rw_dtype compute = choice->compute ? choice->compute : RW_F32;
    *out = nullptr;
    if (compute != RW_F32 && compute != RW_BF16 && compute != RW_F16)
        return rw_fail(err, RW_E_UNSUPPORTED, nowhere, "a GPU computes in f32, bf16 or f16, not in %s",
                       rw_dtype_name(compute));
    RW_TRY(rw_cuda_find(&driver, &count, err));
    if (choice->index < 0 || choice->index >= count)
        return rw_fail(err, RW_E_DEVICE, nowhere, "there is no GPU %d, the last one is %d (nvidia-smi -L)",
                       choice->index, count - 1);
    rw_cuda_device *c = static_cast<rw_cuda_device *>(rw_alloc(sizeof *c));
    if (!c) return rw_fail_memory(err, sizeof *c);
    c->state.index = choice->index;
    fill_device(c, compute);
    const rw_status status = open_parts(c, choice, err);
    if (status == RW_OK)
        *out = &c->base;
    else
        device_close(&c->base);
    return status;
}
