/* The time of every kernel: a table of kernels that wraps another one, calls it and keeps the seconds. Of several equal
 * runs the fastest is printed, the one that nothing disturbed. For programs that measure; not thread-safe. */
#ifndef RW_KERNELS_BENCH_OP_TIMES_H
#define RW_KERNELS_BENCH_OP_TIMES_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The wrapped table; `plain` must outlive its use. */
rw_kernels rw_op_times_wrap(const rw_kernels *plain);
/* Forgets the runs so far: the next ones are of something else. */
void rw_op_times_clear(void);
/* Around each run; `seconds`: what it took in all. */
void rw_op_times_begin(void);
void rw_op_times_end(double seconds);
/* Calls, milliseconds and share of each kernel in the fastest run, and what passed between kernels. */
void rw_op_times_print(void);

#ifdef __cplusplus
}
#endif
#endif
