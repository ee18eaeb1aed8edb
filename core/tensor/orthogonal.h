/* Random matrices with orthonormal rows, on the host. */
#ifndef RW_TENSOR_ORTHOGONAL_H
#define RW_TENSOR_ORTHOGONAL_H

#include "core/base/error.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* q [k,n], k <= n, zeros coming in: k orthonormal rows, uniform over all such matrices (Haar), |Q Q^T - I| < 1e-6. A
 * function of seed and stream, with the same bits for any number of threads. Needs beside q
 * 128 * (n + (k + 128) * ceil(n / 4096)) floats: 70 MB for 4096 x 65536. Errors: E_MEMORY; E_DEVICE: no BLAS. */
rw_status rw_orthogonal(float *q, int64_t k, int64_t n, uint64_t seed, uint64_t stream, int threads, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
