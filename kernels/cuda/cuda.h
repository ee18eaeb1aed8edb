/* What a CUDA device can do beyond kernels/device.h: run with an incomplete table, and say how large a graph is. */
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

int64_t rw_cuda_graph_nodes(const rw_graph *g);

#ifdef __cplusplus
}
#endif
#endif
