/* Stands in for kernels/cuda where the program was built without a CUDA compiler. */
#include "kernels/device.h"

rw_status rw_device_open_cuda(rw_device **out, rw_dtype compute, bool tf32, int index, rw_error *err) {
    (void)compute, (void)tf32, (void)index;
    *out = NULL;
    return rw_fail(
        err, RW_E_DEVICE, RW_AT_NONE,
        "this program was built without CUDA; build it where nvcc is (cmake --preset cuda), or set device: cpu");
}
