/* Stands in for kernels/cuda where the program was built without a CUDA compiler. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>

rw_status rw_device_open_cuda(rw_device **out, const rw_gpu_choice *choice, rw_error *err) {
    (void)choice;
    *out = NULL;
    return rw_fail(
        err, RW_E_DEVICE, RW_AT_NONE,
        "this program was built without CUDA; build it where nvcc is (cmake --preset cuda), or set device: cpu");
}

void rw_cuda_look(rw_cuda_facts *f) {
    rw_device *none;
    rw_error err = {0};
    *f = (rw_cuda_facts){0};
    rw_device_open_cuda(&none, NULL, &err);
    snprintf(f->why, sizeof f->why, "%s", err.msg);
    rw_error_clear(&err);
}
