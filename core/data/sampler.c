/* Uniform starts from a counter, and the official cubic permutation in 128-bit arithmetic.
 *
 * Primality is decided by Miller-Rabin with the first twelve primes as bases, which is exact below 3.3e24. */
#include "core/data/sampler.h"

#include "core/base/rng.h"

#include <math.h>
#include <stdbool.h>

__extension__ typedef unsigned __int128 u128;

static uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t m) {
    return (uint64_t)((u128)a * b % m);
}

static uint64_t pow_mod(uint64_t a, uint64_t e, uint64_t m) {
    uint64_t x = 1 % m;
    for (a %= m; e; e >>= 1, a = mul_mod(a, a, m))
        if (e & 1) x = mul_mod(x, a, m);
    return x;
}

/* n odd, n - 1 = d * 2^r. */
static bool is_witness(uint64_t a, uint64_t n, uint64_t d, int r) {
    uint64_t x = pow_mod(a, d, n);
    if (x == 1 || x == n - 1) return false;
    for (int i = 1; i < r; i++) {
        x = mul_mod(x, x, n);
        if (x == n - 1) return false;
    }
    return true;
}

static bool is_prime(uint64_t n) {
    static const uint64_t bases[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
    const int n_bases = sizeof bases / sizeof *bases;
    if (n < 2) return false;
    for (int i = 0; i < n_bases; i++)
        if (n % bases[i] == 0) return n == bases[i];
    uint64_t d = n - 1;
    int r = 0;
    for (; d % 2 == 0; d /= 2) r++;
    for (int i = 0; i < n_bases; i++)
        if (is_witness(bases[i], n, d, r)) return false;
    return true;
}

/* The high half of a product maps 64 random bits to 0 .. n-1; the bias is below n / 2^64. */
int64_t rw_sampler_random(uint64_t seed, uint64_t step, int64_t rows, int64_t row, int64_t n_tokens, int64_t ctx_len) {
    uint64_t n = (uint64_t)(n_tokens - ctx_len - 1);
    uint64_t x = rw_rng_u64_at(seed, rw_hash_name("sampler"), step * (uint64_t)rows + (uint64_t)row);
    return (int64_t)((u128)x * n >> 64);
}

int64_t rw_sampler_magic_prime(int64_t n_tokens, int64_t ctx_len) {
    if (ctx_len < 1) return 0;
    for (int64_t p = n_tokens / ctx_len - 1; p > 1; p--)
        if (p % 3 == 2 && is_prime((uint64_t)p)) return p;
    return 0;
}

int64_t rw_sampler_cubic(int64_t magic_prime, int64_t ctx_len, uint64_t i) {
    uint64_t p = (uint64_t)magic_prime;
    uint64_t f = (uint64_t)((double)p * ((sqrt(5) - 1) / 2));
    uint64_t x = i % p;
    return (int64_t)mul_mod(f, mul_mod(mul_mod(x, x, p), x, p), p) * ctx_len;
}
