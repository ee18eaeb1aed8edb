/* Choosing the next token from logits. */
#ifndef RW_INFER_SAMPLING_H
#define RW_INFER_SAMPLING_H

#include "core/base/rng.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double temperature; /* 0 (below 1e-6): the likeliest token, the first on ties */
    double top_p;       /* 1: all tokens; else the smallest set of likeliest tokens with this probability */
} rw_sampling;

/* Scratch of the caller, [V] each. */
typedef struct {
    float *weight;
    int32_t *id;
} rw_candidates;

/* logits [V]. NaN logits are never chosen while there are others; an infinite one is taken at once. Draws one number
 * from rng unless greedy. */
int32_t rw_sample(const float *logits, int64_t V, const rw_sampling *s, rw_rng *rng, rw_candidates scratch);

#ifdef __cplusplus
}
#endif
#endif
