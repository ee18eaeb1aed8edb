/* What a CUDA device can do beyond kernels/device.h: run with an incomplete table, and record a step as a graph. */
#ifndef RW_KERNELS_CUDA_CUDA_H
#define RW_KERNELS_CUDA_CUDA_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As rw_device_open_cuda(), but also while kernels are missing (their rows are NULL): for tests of the others. */
rw_status rw_cuda_open(rw_device **out, rw_dtype compute, int index, rw_error *err);
/* Rows of ops.def that CUDA lacks. */
int rw_cuda_missing_kernels(void);

/* One step, recorded once and replayed. Between begin and end every kernel launched through the device is recorded and
 * none runs; alloc, free, upload, download and synchronize are not allowed there. A replay reads what the addresses
 * hold then: numbers that change go through the step scalars. */
typedef struct rw_cuda_graph rw_cuda_graph;
rw_status rw_cuda_graph_begin(rw_device *d, rw_error *err);
rw_status rw_cuda_graph_end(rw_device *d, rw_cuda_graph **out, rw_error *err);
rw_status rw_cuda_graph_replay(rw_device *d, const rw_cuda_graph *g, rw_error *err); /* returns before it has run */
int64_t rw_cuda_graph_nodes(const rw_cuda_graph *g);
void rw_cuda_graph_free(rw_cuda_graph *g);

#ifdef __cplusplus
}
#endif
#endif
