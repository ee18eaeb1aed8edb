/* Stands in for kernels/cuda where the program was built without a CUDA compiler. */
#include "kernels/device.h"

rw_status rw_device_open_cuda(rw_device **out, rw_dtype compute, int index, rw_error *err) {
    (void)compute, (void)index;
    *out = NULL;
    return rw_fail(
        err, RW_E_DEVICE, RW_AT_NONE,
        "training on a GPU is not ready in this version, and this program was built without CUDA; set device: "
        "cpu or auto");
}
