/* Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A value is a pure function of (seed, stream, index), so any element can be made
 * alone, in any order, on any device, and a generator's state is two integers. */
#ifndef RW_BASE_RNG_H
#define RW_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t seed;
    uint64_t stream; /* what the numbers are for: a hash of a name, a step, ... */
    uint64_t index;  /* next number */
} rw_rng;

void rw_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

uint64_t rw_rng_u64_at(uint64_t seed, uint64_t stream, uint64_t index);
uint64_t rw_rng_u64(rw_rng *r);
double rw_rng_uniform(rw_rng *r);             /* [0, 1), 53 bits */
double rw_rng_normal(rw_rng *r);              /* mean 0, deviation 1; uses two numbers */
uint64_t rw_rng_below(rw_rng *r, uint64_t n); /* 0 .. n-1 without bias; n > 0 */

uint64_t rw_hash64(const void *bytes, uint64_t n, uint64_t seed); /* FNV-1a, finalised; not cryptographic */
uint64_t rw_hash_name(const char *name);

#ifdef __cplusplus
}
#endif
#endif
