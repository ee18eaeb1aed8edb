/* Stochastic rounding to bf16, the same bits in C and in CUDA.
 *
 * Of its two neighbours in bf16 a number becomes the upper one with probability (x - lower) / (upper - lower): the
 * expectation is x, so updates far below half an ulp, which rounding to nearest would lose every time, add up over the
 * steps (arXiv:1502.02551). The random bits are a hash of (seed, step, parameter, element): no state, and the same for
 * any layout, device, number of threads or of processes. The hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable
 * pseudorandom number generators", OOPSLA 2014): element i is the i-th number of the generator that starts at the key.
 */
#ifndef RW_KERNELS_ROUNDING_H
#define RW_KERNELS_ROUNDING_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define RW_EVERYWHERE static __host__ __device__ inline
#else
#define RW_EVERYWHERE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

RW_EVERYWHERE uint64_t rw_mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* `stream` names the parameter (rw_adamw_range). */
RW_EVERYWHERE uint64_t rw_round_key(uint64_t seed, uint64_t step, uint64_t stream) {
    return rw_mix64(rw_mix64(rw_mix64(seed) + step) + stream);
}

/* 64 bits for element i: 16 for each number that is rounded there, see rw_round_use. */
RW_EVERYWHERE uint64_t rw_round_bits(uint64_t key, uint64_t i) {
    return rw_mix64(key + (i + 1) * 0x9e3779b97f4a7c15ull);
}

typedef enum { RW_ROUND_VALUE, RW_ROUND_M, RW_ROUND_V } rw_round_use;
RW_EVERYWHERE uint32_t rw_round_bits_of(uint64_t bits, rw_round_use use) {
    return (uint32_t)(bits >> (16 * use)) & 0xffffu;
}

/* x with 16 random bits. Never 0 unless x is: Adam divides by the root of a second moment, with an eps as small as
 * 1e-18, and a moment below the smallest bf16 (2^-133) must not vanish. NaN stays NaN. */
RW_EVERYWHERE uint16_t rw_bf16_stochastic(float x, uint32_t random) {
    uint32_t u, magnitude, rounded;
    memcpy(&u, &x, 4);
    magnitude = u & 0x7fffffffu;
    rounded = (magnitude + random) >> 16;
    if (magnitude > 0x7f800000u) rounded = 0x7fc0u;
    if (magnitude != 0 && rounded == 0) rounded = 1;
    return (uint16_t)((u >> 16 & 0x8000u) | rounded);
}

#ifdef __cplusplus
}
#endif
#endif
