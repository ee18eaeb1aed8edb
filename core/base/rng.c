/* Philox 4x32-10 and what is drawn from it. The 128-bit counter is (index, stream), the 64-bit key is the seed;
 * one call gives one 64-bit number (the first two words), so that index i alone names a number. */
#include "core/base/rng.h"

#include <math.h>
#include <string.h>

static const double TWO_PI = 6.283185307179586476925;

void rw_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; /* golden ratio and sqrt(3) - 1: the constants of the paper */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t rw_rng_u64_at(uint64_t seed, uint64_t stream, uint64_t index) {
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    rw_philox4x32(counter, key, out);
    return (uint64_t)out[1] << 32 | out[0];
}

uint64_t rw_rng_u64(rw_rng *r) {
    return rw_rng_u64_at(r->seed, r->stream, r->index++);
}

double rw_rng_uniform(rw_rng *r) {
    return (double)(rw_rng_u64(r) >> 11) * 0x1p-53;
}

/* Box-Muller; 1 - u keeps the logarithm's argument above 0. */
double rw_rng_normal(rw_rng *r) {
    double radius = sqrt(-2 * log(1 - rw_rng_uniform(r)));
    return radius * cos(TWO_PI * rw_rng_uniform(r));
}

/* The high half of x * n; the few x that would make some results more frequent are drawn again. */
uint64_t rw_rng_below(rw_rng *r, uint64_t n) {
    uint64_t reject_below = (0 - n) % n;
    for (;;) {
        unsigned __int128 product = (unsigned __int128)rw_rng_u64(r) * n;
        if ((uint64_t)product >= reject_below) return (uint64_t)(product >> 64);
    }
}

uint64_t rw_hash64(const void *bytes, uint64_t n, uint64_t seed) {
    const unsigned char *p = bytes;
    uint64_t h = 0xcbf29ce484222325ull ^ (seed * 0x9e3779b97f4a7c15ull);
    for (uint64_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3ull;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdull; /* spread the last bytes over all bits */
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 33;
}

uint64_t rw_hash_name(const char *name) {
    return rw_hash64(name, strlen(name), 0);
}
