/* embedding: out[i] = LN(weight[tokens[i]]), the layer norm (ln0 of block 0) left out when gamma is NULL.
 * Backward writes the dense dweight [V,C]: rows of tokens that do not occur become exactly 0 (or keep what they had,
 * with add). The sum over equal tokens runs in the order of rows. */
#ifndef RW_KERNELS_EMBEDDING_H
#define RW_KERNELS_EMBEDDING_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { RW_EMBEDDING_ADD_WEIGHT = 1, RW_EMBEDDING_ADD_GAMMA = 2, RW_EMBEDDING_ADD_BETA = 4 };

typedef struct {
    rw_dtype dtype;
    int64_t R, C, V;
    const int32_t *tokens;    /* [R], each in 0 .. V-1 (checked by the loader) */
    const void *weight;       /* [V,C] */
    const void *gamma, *beta; /* [C] wide, or NULL: no norm */
    double eps;
    void *out;         /* [R,C] */
    void *mean, *rstd; /* [R] wide, saved; NULL without norm or without backward */
    /* backward */
    const void *dout;       /* [R,C] */
    void *dweight;          /* [V,C] */
    rw_dtype dweight_dtype; /* dtype (NONE stands for it) or wide */
    void *dgamma, *dbeta;   /* wide */
    uint32_t add;
    void *scratch; /* embedding_backward_scratch */
} rw_embedding_args;

#ifdef __cplusplus
}
#endif
#endif
