/* What the GPU backend says and does beyond kernels/device.h. Built without CUDA, kernels/cuda_stub.c has
 * rw_device_open_cuda() and rw_cuda_look(); the others exist only with it. */
#ifndef RW_KERNELS_CUDA_CUDA_H
#define RW_KERNELS_CUDA_CUDA_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

int64_t rw_cuda_graph_nodes(const rw_graph *g);

/* -- which algorithm makes which product ---------------------------------------------------------------------- */

/* The device's `choices` (kernels/device.h): one line for each shape that cuBLASLt was asked for so far or that a
 * preset names, behind a line that names library and chip. A line of a preset that cannot run here is warned of. */
char *rw_cuda_products(rw_device *d);
rw_status rw_cuda_preset_products(rw_device *d, const char *text, rw_error *err);
/* For tests: shapes that come from now on get the algorithm that the library's heuristic ranks so (0: first), or the
 * last one that it names. */
void rw_cuda_rank_products(rw_device *d, int rank);

/* -- what there is -------------------------------------------------------------------------------------------- */

typedef struct {
    char name[256];
    int capability;                  /* 75, 80, 90, ...         */
    int64_t total_bytes, free_bytes; /* free: -1 when not known */
    bool bf16;
} rw_cuda_gpu;

enum { RW_CUDA_MOST_GPUS = 16 };
typedef struct {
    char why[1024];   /* no GPU can be used: the reason, and what to do; "" when one can */
    char driver[32];  /* "580.65.06"; "" when not known                                   */
    int driver_cuda;  /* newest CUDA that the driver knows, 13000: 13.0; 0: no driver     */
    int runtime_cuda; /* that this program was built with; 0: without CUDA                */
    char blas[512];   /* cuBLASLt: its file; "": see why_no_blas                          */
    int blas_version; /* 130100: 13.1.0                                                   */
    char why_no_blas[1024];
    int n_gpus; /* of which the first RW_CUDA_MOST_GPUS stand here */
    rw_cuda_gpu gpus[RW_CUDA_MOST_GPUS];
} rw_cuda_facts;

/* Opens no GPU: takes no memory of one. */
void rw_cuda_look(rw_cuda_facts *f);

#ifdef __cplusplus
}
#endif
#endif
