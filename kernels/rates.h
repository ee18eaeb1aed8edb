/* How fast a device copies and multiplies: the yardsticks of what measures others. */
#ifndef RW_KERNELS_RATES_H
#define RW_KERNELS_RATES_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes a second, read and written, of a copy that is larger than any cache: 512 MiB on a GPU, 64 MiB on a CPU. */
rw_status rw_copy_rate(rw_device *d, double *bytes_per_second, rw_error *err);
/* Operations a second of one square product in what the device computes: 8192^3 on a GPU, 1536^3 on a CPU; the fastest
 * within two seconds. The numbers are random, since constant ones take less current and so run faster. */
rw_status rw_product_rate(rw_device *d, double *flops_per_second, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
