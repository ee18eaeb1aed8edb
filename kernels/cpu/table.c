/* The table of this build, one row of ops.def after the other: a kernel that was not written fails to link. */
#include "kernels/cpu/table.h"

#include "kernels/cpu/cpu.h"

const rw_kernels RW_CPU_NAME(table) = {
#if defined(RW_REAL_F64)
    .name = "cpu_f64",
#else
    .name = "cpu_f32",
#endif
#define RW_KERNEL(op, args) .op = RW_CPU_NAME(op),
#define RW_QUERY(op, args)  .op = RW_CPU_NAME(op),
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};
