/* The CUDA device: plain device memory, one stream, one cuBLAS handle with a workspace of its own. Everything is
 * queued on that stream, so kernels, copies and recorded graphs run in the order of the calls. */
#include "kernels/cuda/common.cuh"

#include "core/base/alloc.h"

#include <stdio.h>
#include <string.h>

struct rw_graph {
    cudaGraphExec_t exec;
    size_t n_nodes;
};

namespace {

struct cuda_device {
    rw_device base; /* first: the device is this struct */
    rw_cuda_state state;
    rw_kernels table;
    void *scalars; /* both kinds, one behind the other */
    char detail[320];
};

const size_t workspace_bytes = 64u << 20;

rw_status fail(rw_error *err, rw_status code, const char *what, const char *why) {
    rw_where nowhere = {};
    return rw_fail(err, code, nowhere, "cuda: %s: %s", rw_message(what), why);
}

cuda_device *self(rw_device *d) {
    return reinterpret_cast<cuda_device *>(d);
}

/* -- memory ---------------------------------------------------------------------------------------- */

void *device_alloc(rw_device *d, int64_t n_bytes) {
    void *p = nullptr;
    if (n_bytes < 0 || (uint64_t)n_bytes > self(d)->state.total_bytes) return nullptr;
    if (cudaMalloc(&p, n_bytes ? (size_t)n_bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* lack of memory is an answer, not a failure to report later */
        return nullptr;
    }
    rw_cuda_check(&self(d)->state, "memset", cudaMemsetAsync(p, 0, (size_t)n_bytes, self(d)->state.stream));
    d->live_bytes += n_bytes;
    if (d->live_bytes > d->peak_bytes) d->peak_bytes = d->live_bytes;
    return p;
}

void device_free(rw_device *d, void *p, int64_t n_bytes) {
    if (!p) return;
    rw_cuda_check(&self(d)->state, "free", cudaFree(p)); /* waits for what still uses it */
    d->live_bytes -= n_bytes;
}

void device_zero(rw_device *d, void *p, int64_t n_bytes) {
    rw_cuda_check(&self(d)->state, "memset", cudaMemsetAsync(p, 0, (size_t)n_bytes, self(d)->state.stream));
}

/* Both copies return when the host memory may be used again. */
void copy(rw_device *d, void *dst, const void *src, int64_t n_bytes, cudaMemcpyKind kind) {
    rw_cuda_state *s = &self(d)->state;
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
    rw_cuda_state *s = &self(d)->state;
    rw_cuda_check(s, "synchronize", cudaStreamSynchronize(s->stream));
    if (!s->failure[0]) return RW_OK;
    rw_where nowhere = {};
    rw_status status = rw_fail(err, RW_E_DEVICE, nowhere, "cuda: %s", s->failure);
    s->failure[0] = 0;
    return status;
}

void device_close(rw_device *d) {
    cuda_device *c = self(d);
    if (c->state.blas) cublasDestroy(c->state.blas);
    if (c->state.stream) cudaStreamDestroy(c->state.stream);
    cudaFree(c->state.workspace);
    cudaFree(c->scalars);
    rw_free(c);
}

/* -- graphs ---------------------------------------------------------------------------------------- */

rw_status graph_begin(rw_device *d, rw_error *err) {
    cudaError_t e = cudaStreamBeginCapture(self(d)->state.stream, cudaStreamCaptureModeThreadLocal);
    return e == cudaSuccess ? RW_OK : fail(err, RW_E_DEVICE, "recording a step", cudaGetErrorString(e));
}

rw_status graph_make(rw_graph **out, cudaGraph_t graph, rw_error *err) {
    rw_graph *g = static_cast<rw_graph *>(rw_alloc(sizeof *g));
    if (!g) return rw_fail_memory(err, sizeof *g);
    cudaError_t e = cudaGraphGetNodes(graph, nullptr, &g->n_nodes);
    if (e == cudaSuccess) e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (e == cudaSuccess) {
        *out = g;
        return RW_OK;
    }
    rw_free(g);
    return fail(err, RW_E_DEVICE, "recording a step", cudaGetErrorString(e));
}

rw_status graph_end(rw_device *d, rw_graph **out, rw_error *err) {
    cudaGraph_t graph = nullptr;
    cudaError_t e = cudaStreamEndCapture(self(d)->state.stream, &graph);
    rw_status status = RW_OK;
    if (out) *out = nullptr;
    if (e != cudaSuccess)
        status = fail(err, RW_E_DEVICE, "recording a step", cudaGetErrorString(e));
    else if (out)
        status = graph_make(out, graph, err);
    if (graph) cudaGraphDestroy(graph);
    return status;
}

rw_status graph_replay(rw_device *d, rw_graph *g, rw_error *err) {
    cudaError_t e = cudaGraphLaunch(g->exec, self(d)->state.stream);
    return e == cudaSuccess ? RW_OK : fail(err, RW_E_DEVICE, "replaying a step", cudaGetErrorString(e));
}

void graph_free(rw_device *d, rw_graph *g) {
    (void)d;
    if (!g) return;
    cudaGraphExecDestroy(g->exec);
    rw_free(g);
}

const rw_device_record graphs = {graph_begin, graph_end, graph_replay, graph_free};

/* -- opening --------------------------------------------------------------------------------------- */

void fill_table(rw_kernels *t) {
    t->name = "cuda_f32";
#define RW_KERNEL(name, args) t->name = rw_cuda_##name;
#define RW_QUERY(name, args)  t->name = rw_cuda_##name;
#include "kernels/cuda/cuda_ops.def"
#undef RW_KERNEL
#undef RW_QUERY
}

rw_status open_parts(cuda_device *c, int index, rw_error *err) {
    rw_cuda_state *s = &c->state;
    cudaDeviceProp prop;
    cudaError_t e = cudaSetDevice(index);
    if (e == cudaSuccess) e = cudaGetDeviceProperties(&prop, index);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMalloc(&s->workspace, workspace_bytes);
    const size_t scalar_bytes = sizeof(rw_step_scalars) + sizeof(rw_device_scalars);
    if (e == cudaSuccess) e = cudaMalloc(&c->scalars, scalar_bytes);
    if (e == cudaSuccess) e = cudaMemset(c->scalars, 0, scalar_bytes);
    if (e != cudaSuccess) return fail(err, RW_E_DEVICE, "opening the GPU", cudaGetErrorString(e));
    cublasStatus_t b = cublasCreate(&s->blas);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetStream(s->blas, s->stream);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetWorkspace(s->blas, s->workspace, workspace_bytes);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetMathMode(s->blas, CUBLAS_PEDANTIC_MATH); /* true fp32 */
    if (b != CUBLAS_STATUS_SUCCESS) return fail(err, RW_E_DEVICE, "opening cuBLAS", cublasGetStatusString(b));
    c->base.exec.scalars = static_cast<rw_step_scalars *>(c->scalars);
    c->base.exec.own = reinterpret_cast<rw_device_scalars *>(c->base.exec.scalars + 1);
    s->index = index;
    s->n_sm = prop.multiProcessorCount;
    s->total_bytes = prop.totalGlobalMem;
    /* not the context and the modules (some hundred MiB): the runtime does not say what they take */
    c->base.own_bytes = (int64_t)(workspace_bytes + sizeof(rw_step_scalars));
    snprintf(c->detail, sizeof c->detail, "%s, compute capability %d.%d", prop.name, prop.major, prop.minor);
    return RW_OK;
}

} // namespace

void rw_cuda_note(rw_cuda_state *s, const char *what, const char *why) {
    if (!s->failure[0]) snprintf(s->failure, sizeof s->failure, "%s: %s", what, why);
}

int rw_cuda_missing_kernels(void) {
    rw_kernels t = {};
    int n = 0;
    fill_table(&t);
#define RW_KERNEL(name, args) n += t.name == nullptr;
#define RW_QUERY(name, args)  n += t.name == nullptr;
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    return n;
}

rw_status rw_cuda_open(rw_device **out, rw_dtype compute, int index, rw_error *err) {
    int count = 0;
    *out = nullptr;
    if (compute != RW_F32) return fail(err, RW_E_UNSUPPORTED, "dtype", rw_message("only f32 so far"));
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) return fail(err, RW_E_DEVICE, "no GPU can be used", cudaGetErrorString(e));
    if (index < 0 || index >= count)
        return fail(err, RW_E_DEVICE, "no GPU with that number", rw_message("see nvidia-smi -L"));
    cuda_device *c = static_cast<cuda_device *>(rw_alloc(sizeof *c));
    if (!c) return rw_fail_memory(err, sizeof *c);
    rw_device *d = &c->base;
    fill_table(&c->table);
    d->kind = RW_DEVICE_CUDA;
    d->compute = compute;
    d->name = "cuda";
    d->detail = c->detail;
    d->kernels = &c->table;
    d->exec.threads = 1;
    d->exec.impl = &c->state;
    d->alloc = device_alloc;
    d->free = device_free;
    d->zero = device_zero;
    d->upload = device_upload;
    d->download = device_download;
    d->synchronize = device_synchronize;
    d->close = device_close;
    d->record = &graphs;
    rw_status status = open_parts(c, index, err);
    if (status != RW_OK) {
        device_close(d);
        return status;
    }
    *out = d;
    return RW_OK;
}

rw_status rw_device_open_cuda(rw_device **out, rw_dtype compute, int index, rw_error *err) {
    rw_where nowhere = {};
    *out = nullptr;
    if (rw_cuda_missing_kernels() > 0)
        return rw_fail(err, RW_E_DEVICE, nowhere,
                       "training on a GPU is not ready in this version (%d kernels are missing); set device: cpu",
                       rw_cuda_missing_kernels());
    return rw_cuda_open(out, compute, index, err);
}

int64_t rw_cuda_graph_nodes(const rw_graph *g) {
    return (int64_t)g->n_nodes;
}
