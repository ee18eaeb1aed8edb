/* The CUDA device's own parts, for the files that make it up. */
#ifndef RW_KERNELS_CUDA_DEVICE_CUH
#define RW_KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/common.cuh"

struct rw_cuda_device {
    rw_device base; /* first: the device is this struct */
    rw_cuda_state state;
    rw_kernels table;
    void *scalars; /* both kinds, one behind the other */
    char detail[320];
};

/* Its state, with the calling thread set to its GPU (a thread that others save from may never have been). */
static inline rw_cuda_state *rw_cuda_enter(rw_device *d) {
    rw_cuda_state *s = &reinterpret_cast<rw_cuda_device *>(d)->state;
    int now;
    if (cudaGetDevice(&now) != cudaSuccess || now != s->index) cudaSetDevice(s->index);
    return s;
}

/* What failed since the last call, then forgotten; an error of the card itself, which ends its context, stays. */
rw_status rw_cuda_report(rw_cuda_state *s, rw_error *err);

extern const rw_device_ahead rw_cuda_ahead;   /* ahead.cu */
extern const rw_device_record rw_cuda_graphs; /* graph.cu */

/* The newest CUDA that the driver knows (13000: 13.0), and how many GPUs it shows; or why there is none to use. */
rw_status rw_cuda_find(int *driver, int *n_gpus, rw_error *err); /* facts.cu */
/* Memory of a GPU that is free, asked without opening it; -1: the driver's library for that is not there. */
int64_t rw_cuda_free_bytes(int index);

#endif
