/* Random numbers: Philox 4x32-10 for LANES counters side by side. Normal ones by Box-Muller on pairs of words: the
 * angle is made of two random bits and a value in [-pi/4, pi/4], where short polynomials give sine and cosine. 3 ns for
 * a normal number on a Zen 4, where one at a time through libm takes 26. */
#include "kernels/cpu/random.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vmath.h"

#include <string.h>

enum { LANES = 8, WORDS = 4 };

/* c[w][l]: word w of what rw_philox4x32() makes of counter + l, in the low half. */
RW_INLINE void philox(uint64_t c[WORDS][LANES], uint64_t seed, uint64_t stream, uint64_t counter) {
    uint64_t k0 = (uint32_t)seed, k1 = seed >> 32;
    for (int l = 0; l < LANES; l++) {
        c[0][l] = (uint32_t)(counter + (uint64_t)l);
        c[1][l] = (counter + (uint64_t)l) >> 32;
        c[2][l] = (uint32_t)stream;
        c[3][l] = stream >> 32;
    }
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < LANES; l++) {
            const uint64_t p0 = 0xD2511F53ull * c[0][l], p1 = 0xCD9E8D57ull * c[2][l];
            c[0][l] = (p1 >> 32) ^ c[1][l] ^ k0;
            c[2][l] = (p0 >> 32) ^ c[3][l] ^ k1;
            c[1][l] = (uint32_t)p1;
            c[3][l] = (uint32_t)p0;
        }
        k0 = (uint32_t)(k0 + 0x9E3779B9u);
        k1 = (uint32_t)(k1 + 0xBB67AE85u);
    }
}

/* -- normal ----------------------------------------------------------------------------------------------- */

/* sin and cos for |a| <= pi/4: Taylor terms, below 1e-16. */
RW_INLINE real sin_small(real a) {
    const real z = a * a;
    real p = (real)(-1.0 / 1307674368000.0);
    p = p * z + (real)(1.0 / 6227020800.0);
    p = p * z - (real)(1.0 / 39916800.0);
    p = p * z + (real)(1.0 / 362880.0);
    p = p * z - (real)(1.0 / 5040.0);
    p = p * z + (real)(1.0 / 120.0);
    p = p * z - (real)(1.0 / 6.0);
    return a + a * (z * p);
}

RW_INLINE real cos_small(real a) {
    const real z = a * a;
    real p = (real)(1.0 / 20922789888000.0);
    p = p * z - (real)(1.0 / 87178291200.0);
    p = p * z + (real)(1.0 / 479001600.0);
    p = p * z - (real)(1.0 / 3628800.0);
    p = p * z + (real)(1.0 / 40320.0);
    p = p * z - (real)(1.0 / 720.0);
    p = p * z + (real)(1.0 / 24.0);
    p = p * z - (real)(1.0 / 2.0);
    return 1 + z * p;
}

/* A signed 32-bit number is what every instruction set converts. */
RW_INLINE real centred(uint32_t word) {
    return (real)(int32_t)(word ^ 0x80000000u) + (real)0.5;
}

/* radius = sqrt(-2 log u), 0 < u <= 1; a point of the circle from the other word. */
RW_INLINE void box_muller(const uint64_t *a, const uint64_t *b, real *x, real *y) {
    const real half = (real)2147483648.0, quarter_turn = (real)1.57079632679489661923;
    const real least = 1 / (4 * half); /* where a float would round to 0 */
#pragma omp simd
    for (int l = 0; l < LANES; l++) {
        const uint32_t word = (uint32_t)b[l];
        real u = (centred((uint32_t)a[l]) + half) / (2 * half);
        u = u > least ? u : least;
        const real radius = (real)sqrt(-2 * rw_log(u));
        const real angle = centred(word & ~3u) / (2 * half) * quarter_turn;
        const real c = radius * cos_small(angle), s = radius * sin_small(angle);
        const real along = word & 1 ? -c : c;
        x[l] = word & 2 ? s : along;
        y[l] = word & 2 ? along : s;
    }
}

RW_CLONES static void normal_block(uint64_t seed, uint64_t stream, uint64_t block, real *x) {
    uint64_t c[WORDS][LANES];
    philox(c, seed, stream, block * LANES);
    box_muller(c[0], c[1], x, x + LANES);
    box_muller(c[2], c[3], x + 2 * LANES, x + 3 * LANES);
}

void RW_CPU_NAME(normals)(uint64_t seed, uint64_t stream, uint64_t block, int64_t n, real *x) {
    int64_t i = 0;
    for (; i + RW_NORMAL_BLOCK <= n; i += RW_NORMAL_BLOCK) normal_block(seed, stream, block++, x + i);
    if (i == n) return;
    real last[RW_NORMAL_BLOCK];
    normal_block(seed, stream, block, last);
    memcpy(x + i, last, (size_t)(n - i) * sizeof *x);
}

/* -- uniform -------------------------------------------------------------------------------------------------- */

RW_CLONES static void uniform_block(uint64_t seed, uint64_t stream, uint64_t first, double bound, real *x) {
    uint64_t c[WORDS][LANES];
    philox(c, seed, stream, first);
    for (int l = 0; l < LANES; l++) {
        const double u = (double)(int64_t)((c[1][l] << 32 | c[0][l]) >> 11) * 0x1p-53;
        x[l] = (real)(bound * (2 * u - 1));
    }
}

void RW_CPU_NAME(uniforms)(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, double bound, real *x) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) uniform_block(seed, stream, first + (uint64_t)i, bound, x + i);
    if (i == n) return;
    real last[LANES];
    uniform_block(seed, stream, first + (uint64_t)i, bound, last);
    memcpy(x + i, last, (size_t)(n - i) * sizeof *x);
}
