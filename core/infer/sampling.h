/* Choosing the next token from logits. */
#ifndef RW_INFER_SAMPLING_H
#define RW_INFER_SAMPLING_H

#include "core/base/rng.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double temperature; /* 0: the likeliest token, the first on ties */
    double top_p;       /* 1: all tokens; else the smallest set of likeliest tokens with this probability */
} rw_sampling;

/* logits [V]; scratch [V] of rw_candidate. NaN logits are never chosen. Draws one number from rng unless greedy. */
typedef struct {
    float p;
    int32_t id;
} rw_candidate;
int32_t rw_sample(const float *logits, int64_t V, const rw_sampling *s, rw_rng *rng, rw_candidate *scratch);

#ifdef __cplusplus
}
#endif
#endif
