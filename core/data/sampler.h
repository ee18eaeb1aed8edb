/* Where in the token stream a row begins.
 *
 * "random": a start uniform in [0, n_tokens - ctx_len - 1), upper end excluded, as the official trainer draws it (the
 * last possible window is never read). Row r of micro batch s is number s * rows + r of one stream of
 * counter-based numbers: a pure function of the cursor.
 *
 * The cubic sampler visits each window of ctx_len tokens once per pass, in the official order: for a prime p of
 * the form 3k + 2, i -> i^3 mod p is a permutation. */
#ifndef RW_DATA_SAMPLER_H
#define RW_DATA_SAMPLER_H

#include "core/base/error.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Start of row `row` (0 .. rows-1) of micro batch `step`; n_tokens >= ctx_len + 2. */
int64_t rw_sampler_random(uint64_t seed, uint64_t step, int64_t rows, int64_t row, int64_t n_tokens, int64_t ctx_len);

/* Largest prime p <= n_tokens / ctx_len - 1 (integer division first) with p % 3 == 2; 0 when there is none. */
int64_t rw_sampler_magic_prime(int64_t n_tokens, int64_t ctx_len);

/* Offset in tokens of the i-th window (i = 1, 2, ...): ((f i^3) mod p) * ctx_len, f = (int)(p * (sqrt(5)-1)/2).
 * Exact for any i >= 0 and p < 2^62. */
int64_t rw_sampler_cubic(int64_t magic_prime, int64_t ctx_len, uint64_t i);

#ifdef __cplusplus
}
#endif
#endif
