/* Initial values of parameters, made on the host in double and stored as the parameters are.
 * Random values are Philox numbers of (seed, hash of the parameter's name, element): the same on every device, for
 * any number of threads, and for a parameter alone. */
#ifndef RW_TENSOR_INIT_H
#define RW_TENSOR_INIT_H

#include "core/tensor/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_INIT_CONSTANT,
    RW_INIT_UNIFORM,
    RW_INIT_ORTHOGONAL,
    RW_INIT_ORTHOGONAL_TALL, /* the gain times sqrt(rows / cols) where there are more rows than columns */
    RW_INIT_FORMULA
} rw_init_kind;

typedef struct {
    rw_init_kind kind;
    double value;                                  /* constant; uniform in [-value, value); orthogonal: the gain */
    double (*formula)(const void *ctx, int64_t i); /* element i, in double                                        */
    const void *ctx;
} rw_init;

/* Fills parameter i with `threads` threads. Orthogonal: rows or columns (the shorter side) orthonormal times the gain,
 * uniform over such matrices (Haar), as torch.nn.init.orthogonal_; the host holds the matrix once more meanwhile, and
 * what orthogonal.h says. Errors: those of rw_orthogonal(). */
rw_status rw_init_param(rw_params *p, size_t i, const rw_init *init, uint64_t seed, int threads, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
