/* Work recorded as a CUDA graph. Only the stream of kernels is captured: nothing else may be called meanwhile. The mode
 * is thread-local, so what other threads do with the GPU (a copy for a save) neither enters nor ends a recording. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"

#include "core/base/alloc.h"

struct rw_graph {
    cudaGraphExec_t exec;
    size_t n_nodes;
};

namespace {

rw_status graph_failed(const char *what, cudaError_t e, rw_error *err) {
    rw_where nowhere = {};
    cudaGetLastError();
    return rw_fail(err, RW_E_DEVICE, nowhere, "cuda: %s: %s", rw_message(what), cudaGetErrorString(e));
}

rw_status begin(rw_device *d, rw_error *err) {
    rw_cuda_state *s = rw_cuda_enter(d);
    RW_TRY(rw_cuda_report(s, err));
    const cudaError_t e = cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    return e == cudaSuccess ? RW_OK : graph_failed("recording a step", e, err);
}

rw_status make(rw_graph **out, cudaGraph_t graph, rw_error *err) {
    rw_graph *g = static_cast<rw_graph *>(rw_alloc(sizeof *g));
    if (!g) return rw_fail_memory(err, sizeof *g);
    cudaError_t e = cudaGraphGetNodes(graph, nullptr, &g->n_nodes);
    if (e == cudaSuccess) e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (e == cudaSuccess) {
        *out = g;
        return RW_OK;
    }
    rw_free(g);
    return graph_failed("recording a step", e, err);
}

/* A launch that failed is not in the graph: then there is none. */
rw_status end(rw_device *d, rw_graph **out, rw_error *err) {
    rw_cuda_state *s = rw_cuda_enter(d);
    cudaGraph_t graph = nullptr;
    const cudaError_t e = cudaStreamEndCapture(s->stream, &graph);
    rw_status status = rw_cuda_report(s, err);
    if (out) *out = nullptr;
    if (status == RW_OK && e != cudaSuccess) status = graph_failed("recording a step", e, err);
    if (status == RW_OK && out) status = make(out, graph, err);
    if (graph) cudaGraphDestroy(graph);
    return status;
}

rw_status replay(rw_device *d, rw_graph *g, rw_error *err) {
    rw_cuda_state *s = rw_cuda_enter(d);
    const cudaError_t e = cudaGraphLaunch(g->exec, s->stream);
    return e == cudaSuccess ? RW_OK : graph_failed("replaying a step", e, err);
}

void forget(rw_device *d, rw_graph *g) {
    if (!g) return;
    rw_cuda_check(rw_cuda_enter(d), "graph", cudaGraphExecDestroy(g->exec));
    rw_free(g);
}

} // namespace

const rw_device_record rw_cuda_graphs = {begin, end, replay, forget};

int64_t rw_cuda_graph_nodes(const rw_graph *g) {
    return (int64_t)g->n_nodes;
}
