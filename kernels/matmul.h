/* matmul: out = f(alpha * op(a) op(b) + c), row-major, optionally for `batch` equal problems at constant strides.
 * y = x W^T of a Linear layer: trans_b with b = W [out, in]. c == out accumulates; c elsewhere is added out of place
 * (the residual connection); c == NULL overwrites. out may not alias a or b.
 *
 * f is an activation, or, in a backward pass, the slope of one: then the product p is the gradient of act, and out that
 * of what the activation got. Slopes are written in terms of act, so nothing else has to be kept; c is NULL with them.
 *     relu_sq    max(y, 0)^2          its slope    p * 2 sqrt(act)
 *     tanh       tanh(y)                           p * (1 - act^2)
 *     sigmoid    1 / (1 + e^-y)                    p * act (1 - act) */
#ifndef RW_KERNELS_MATMUL_H
#define RW_KERNELS_MATMUL_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_EPILOGUE_NONE,
    RW_EPILOGUE_RELU_SQ,
    RW_EPILOGUE_TANH,
    RW_EPILOGUE_SIGMOID,
    RW_EPILOGUE_D_RELU_SQ, /* the slopes, in the same order */
    RW_EPILOGUE_D_TANH,
    RW_EPILOGUE_D_SIGMOID,
} rw_epilogue;

static inline rw_epilogue rw_epilogue_slope(rw_epilogue f) {
    return f == RW_EPILOGUE_NONE ? f : (rw_epilogue)(f + RW_EPILOGUE_D_RELU_SQ - RW_EPILOGUE_RELU_SQ);
}

typedef struct {
    rw_dtype dtype;     /* of a, b and act */
    rw_dtype out_dtype; /* of c and out: dtype (NONE stands for it) or rw_wide(dtype); the CPU has both equal */
    int64_t M, N, K;    /* op(a) [M,K], op(b) [K,N], out [M,N]; K = 0 gives f(c) or f(0) */
    const void *a, *b, *c;
    void *out;
    int64_t lda, ldb, ldc, ldo;                     /* elements from row to row; 0: tight */
    bool trans_a, trans_b;                          /* a is stored [K,M]; b is stored [N,K] */
    double alpha;                                   /* 0 stands for 1 */
    int64_t batch;                                  /* 0 stands for 1 */
    int64_t stride_a, stride_b, stride_c, stride_o; /* elements from problem to problem */
    rw_epilogue epilogue;
    const void *act; /* [M,N] with the pitch and stride of out; not out; only slopes read it */
} rw_matmul_args;

#ifdef __cplusplus
}
#endif
#endif
