/* What a step asks of its kernels: a table that keeps each call with its arguments and passes it on. Afterwards all
 * calls of one kernel are made again, alone, and timed: on a device that can record in one recording, so that neither
 * the host nor other kernels are in the figure. Results are lost thereby; the device's own scalars, by which kernels
 * decide what to do, are put back each time. What the calls read and write is the memory of the step, so nothing of it
 * may be given back before. For programs that measure; not thread-safe. */
#ifndef RW_BENCH_OP_LIST_H
#define RW_BENCH_OP_LIST_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rw_op_list rw_op_list;

/* Puts itself in place of device->kernels; NULL: no memory. */
rw_op_list *rw_op_list_begin(rw_device *device);
/* The device has its own table again; what was called stays here. False: not all of it, for lack of memory. */
bool rw_op_list_end(rw_op_list *l);
void rw_op_list_free(rw_op_list *l);

int rw_op_list_kernels(void); /* rows of ops.def that compute */
const char *rw_op_list_name(int kernel);
int64_t rw_op_list_calls(const rw_op_list *l, int kernel);
/* Seconds of all calls of a kernel, the median of some repetitions. `plain`: products without activation and without a
 * summand, as a library makes them. */
rw_status rw_op_list_seconds(rw_op_list *l, int kernel, bool plain, double *seconds, rw_error *err);
/* Floating-point operations of all products. */
double rw_op_list_product_flops(const rw_op_list *l);

#ifdef __cplusplus
}
#endif
#endif
