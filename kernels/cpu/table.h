/* The two kernel tables of the CPU. */
#ifndef RW_KERNELS_CPU_TABLE_H
#define RW_KERNELS_CPU_TABLE_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const rw_kernels rw_cpu_f32_table, rw_cpu_f64_table;

#ifdef __cplusplus
}
#endif
#endif
