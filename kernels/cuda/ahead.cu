/* Copies beside the kernels: page-locked host memory, a stream of its own for uploads, events as marks. An event that
 * was never recorded counts as passed, which is what the contract asks of a mark. */
#include "kernels/cuda/device.cuh"

#include <string.h>

struct rw_mark; /* is a cudaEvent_t */

namespace {

cudaEvent_t event_of(rw_mark *m) {
    return reinterpret_cast<cudaEvent_t>(m);
}

cudaStream_t stream_of(const rw_cuda_state *s, rw_queue q) {
    return q == RW_QUEUE_COPIES ? s->copies : s->stream;
}

void *host_alloc(rw_device *d, int64_t n_bytes) {
    void *p = nullptr;
    rw_cuda_enter(d);
    if (n_bytes < 0 || cudaHostAlloc(&p, n_bytes ? (size_t)n_bytes : 1, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError(); /* lack of memory is an answer, not a failure to report later */
        return nullptr;
    }
    memset(p, 0, (size_t)n_bytes);
    return p;
}

void host_free(rw_device *d, void *p, int64_t n_bytes) {
    (void)n_bytes;
    if (p) rw_cuda_check(rw_cuda_enter(d), "free", cudaFreeHost(p));
}

void upload(rw_device *d, void *dst, const void *host, int64_t n_bytes) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "copy", cudaMemcpyAsync(dst, host, (size_t)n_bytes, cudaMemcpyHostToDevice, s->copies));
}

void move(rw_device *d, void *dst, const void *src, int64_t n_bytes) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "copy", cudaMemcpyAsync(dst, src, (size_t)n_bytes, cudaMemcpyDeviceToDevice, s->stream));
}

void download(rw_device *d, void *host, const void *src, int64_t n_bytes) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "copy", cudaMemcpyAsync(host, src, (size_t)n_bytes, cudaMemcpyDeviceToHost, s->stream));
}

rw_mark *mark_new(rw_device *d) {
    cudaEvent_t e = nullptr;
    rw_cuda_enter(d);
    if (cudaEventCreateWithFlags(&e, cudaEventDisableTiming) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
    }
    return reinterpret_cast<rw_mark *>(e);
}

void mark_free(rw_device *d, rw_mark *m) {
    if (m) rw_cuda_check(rw_cuda_enter(d), "mark", cudaEventDestroy(event_of(m)));
}

void mark_set(rw_device *d, rw_mark *m, rw_queue q) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "mark", cudaEventRecord(event_of(m), stream_of(s, q)));
}

void mark_wait(rw_device *d, rw_mark *m, rw_queue q) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "mark", cudaStreamWaitEvent(stream_of(s, q), event_of(m), 0));
}

/* After an error nothing passes any more: what lies behind the mark is not to be read. mark_sync reports it. */
bool mark_passed(rw_device *d, rw_mark *m) {
    rw_cuda_state *s = rw_cuda_enter(d);
    const cudaError_t e = cudaEventQuery(event_of(m));
    if (e == cudaErrorNotReady)
        cudaGetLastError(); /* or the next launch would find it */
    else
        rw_cuda_check(s, "mark", e);
    return e == cudaSuccess;
}

rw_status mark_sync(rw_device *d, rw_mark *m, rw_error *err) {
    rw_cuda_state *s = rw_cuda_enter(d);
    rw_cuda_check(s, "mark", cudaEventSynchronize(event_of(m)));
    return rw_cuda_report(s, err);
}

} // namespace

const rw_device_ahead rw_cuda_ahead = {host_alloc, host_free, upload,    move,        download, mark_new,
                                       mark_free,  mark_set,  mark_wait, mark_passed, mark_sync};
