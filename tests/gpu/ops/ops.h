/* Every op of the GPU against the same op of the CPU in fp64, on the same numbers.
 *
 * A case is a function that makes buffers, fills a struct of arguments and calls kernels. It runs on two sides: the
 * reference (the CPU in fp64) and the device under test, there twice. Inputs are rounded to what the device stores, and
 * the reference gets the rounded numbers. Then each output is compared, by order of creation:
 *
 *     rms(error) / rms(reference) and max|error| / max|reference|, against kernels' limits below;
 *     the second run must have the bits of the first;
 *     nothing but the buffer may have been written: each stands between guards.
 *
 * Whatever a kernel has to write is NaN before it runs. With RWKV_OPS_DEVICE=cpu the device under test is the CPU in
 * fp32: so a case can be tried where there is no GPU. RWKV_OPS_MOST=N: N variants of each case. */
#ifndef RW_TESTS_GPU_OPS_H
#define RW_TESTS_GPU_OPS_H

#include "kernels/device.h"

typedef enum {
    OP_NARROW, /* the device's compute dtype; f64 on the reference */
    OP_WIDE,   /* rw_wide() of it                                  */
    OP_FLOAT,  /* f32 on both sides                                */
    OP_DOUBLE, /* f64 on both sides                                */
    OP_INT,    /* int32 on both sides                              */
} op_class;

typedef struct {
    const char *name;
    op_class cls;
    int64_t n;
    bool compared;
    double factor; /* on the limits */
    void *block;   /* guards included */
    int64_t n_bytes;
    double *values; /* read back, compared ones only */
} op_buffer;

enum { OP_MAX_BUFFERS = 96 };

typedef struct {
    rw_device *d;
    rw_dtype narrow;  /* of the buffers on this side                                          */
    rw_dtype grid;    /* of the device under test: what NARROW inputs are rounded to          */
    uint64_t variant; /* the case's own number: the shape, which gradients are wanted, ...    */
    op_buffer buffers[OP_MAX_BUFFERS];
    int n;
} op_side;

/* -- buffers: device memory; n may be 0 ---------------------------------------------------------------- */

/* Uniform in [lo, hi), the same for the same name and variant on both sides. */
void *op_in(op_side *s, const char *name, op_class cls, int64_t n, double lo, double hi);
/* value(ctx, i) */
typedef double op_value(const void *ctx, int64_t i);
void *op_in_of(op_side *s, const char *name, op_class cls, int64_t n, op_value *value, const void *ctx);
/* Given numbers. */
int32_t *op_ints(op_side *s, const int32_t *x, int64_t n);
/* Uniform in 0 .. most-1. */
int32_t *op_random_ints(op_side *s, const char *name, int64_t n, int32_t most);
/* NaN before; compared after. */
void *op_out(op_side *s, const char *name, op_class cls, int64_t n);
/* Numbers in [lo, hi) before (`add`, in place); compared after. */
void *op_both(op_side *s, const char *name, op_class cls, int64_t n, double lo, double hi);
/* Scratch, saved: NaN before, not compared. */
void *op_room(op_side *s, int64_t n_bytes);
/* The limits of the buffer made last times `factor`; the caller says why. */
void op_factor(op_side *s, double factor);
/* A WIDE output of sums over narrow inputs that nothing rounds on the way: it gets the limits of fp32. */
void op_exact(op_side *s);

/* -- the step's numbers -------------------------------------------------------------------------------------- */

void op_scalars(op_side *s, rw_step_scalars scalars, rw_device_scalars own);
/* The device's own, compared. */
void op_own_out(op_side *s);

/* Runs a kernel and keeps in mind that some case did: main.c names those that none runs. */
#define OP_RUN(s, kernel, args) (op_runs(#kernel), (s)->d->kernels->kernel(args, &(s)->d->exec))
void op_runs(const char *kernel);
#define OP_QUERY(s, query, args)   (s)->d->kernels->query(args, &(s)->d->exec)
#define OP_SCRATCH(s, query, args) op_room(s, OP_QUERY(s, query, args))

/* -- the table ------------------------------------------------------------------------------------------------- */

enum { OP_F32 = 1, OP_BF16 = 2, OP_F16 = 4, OP_ALL = 7 };
typedef struct {
    const char *name; /* "wkv6.forward", ...: selected by its beginning */
    void (*run)(op_side *s);
    uint64_t n_variants; /* run with variant 0 .. n-1 */
    unsigned dtypes;     /* OP_F32 | ...; 0: all */
} op_case;

/* One list a file: OP_CASES(channel_mix) = {...}; and a row in cases.def. */
#define OP_CASES(file) const op_case op_cases_##file[]
#define OP_END                                                                                                         \
    { NULL, NULL, 0, 0 }

#endif
