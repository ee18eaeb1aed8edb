/* matmul: out = alpha * op(a) op(b) + c, row-major, optionally for `batch` equal problems at constant strides.
 * y = x W^T of a Linear layer: trans_b with b = W [out, in]. c == out accumulates; c elsewhere is added out of place
 * (the residual connection); c == NULL overwrites. out may not alias a or b. */
#ifndef RW_KERNELS_MATMUL_H
#define RW_KERNELS_MATMUL_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    rw_dtype dtype;
    int64_t M, N, K; /* op(a) [M,K], op(b) [K,N], out [M,N]; K = 0 gives c or zeros */
    const void *a, *b, *c;
    void *out;
    int64_t lda, ldb, ldc, ldo;                     /* elements from row to row; 0: tight */
    bool trans_a, trans_b;                          /* a is stored [K,M]; b is stored [N,K] */
    double alpha;                                   /* 0 stands for 1 */
    int64_t batch;                                  /* 0 stands for 1 */
    int64_t stride_a, stride_b, stride_c, stride_o; /* elements from problem to problem */
} rw_matmul_args;

#ifdef __cplusplus
}
#endif
#endif
