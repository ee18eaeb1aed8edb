/* Temperature and nucleus (top-p) sampling: Holtzman et al., arXiv:1904.09751. The set is cut on the probabilities at
 * temperature 1, as the official demos do, and the temperature is applied to what is left.
 *
 * Tokens have an order, by weight and then by id, but are never sorted: the cut and the draw only ask at which token
 * the sum of the likeliest reaches a share of the whole. The bits of a positive float order as the float does, so sums
 * for each value of the leading bits say in which range that token is, and the next bits narrow it down. */
#include "core/infer/sampling.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const double greedy_below = 1e-6; /* there, a logit 1e-4 lower weighs e^-100 */

static int32_t likeliest(const float *logits, int64_t V) {
    int32_t best = 0;
    for (int64_t i = 1; i < V; i++)
        if (logits[i] > logits[best] || isnan(logits[best])) best = (int32_t)i;
    return best;
}

/* -- weights -------------------------------------------------------------------------------------------------- */

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* e^x for x <= 0, within 3e-7: x = n ln 2 + r, a polynomial in r, then n added to the exponent. 0 where that would be
 * subnormal, and for NaN. No branch, no call: the compiler makes vectors of it, three times as fast as expf. */
static inline float exp_below_zero(float x) {
    const float most = 88.02969f, magic = 12582912; /* 127 ln 2; 1.5 * 2^23 rounds into the low bits */
    uint32_t size = bits_of(x) & 0x7fffffff;        /* of |x|; NaN is above all numbers */
    x = -float_of(size < bits_of(most) ? size : bits_of(most));
    float shifted = x * 1.44269504f + magic, n = shifted - magic;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts: the first product is exact */
    float p = 1 + r * (1 + r * (0.5f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f))))));
    return p * float_of((bits_of(shifted) + 127) << 23);
}

/* weight = (probability / highest probability)^power of all tokens. */
static void weigh(float *restrict weight, const float *restrict logits, int64_t V, float top, float power) {
    for (int64_t i = 0; i < V; i++) weight[i] = exp_below_zero((logits[i] - top) * power);
}

/* The same when only those of the list matter: few are done one by one, many by vectors, the others with them. */
static void weigh_listed(float *weight, const int32_t *list, int64_t n, const float *logits, int64_t V, float top,
                         float power) {
    if (n > V / 4) {
        weigh(weight, logits, V, top, power);
        return;
    }
    for (int64_t i = 0; i < n; i++) weight[list[i]] = exp_below_zero((logits[list[i]] - top) * power);
}

/* -- the token at a place of the order ------------------------------------------------------------------------ */

enum { DIGIT = 10, BINS = 1 << DIGIT, FIRST_SHIFT = 20 }; /* weights up to 1 have 30 bits: three digits */

static uint32_t digit_of(float weight, int shift) {
    return (bits_of(weight) >> shift) % BINS;
}

/* The sum of all weights of the list, and those of each value of a digit. Neighbours often share a digit: two tables
 * in turn keep them from waiting for each other. */
static double sums_by_digit(const float *weight, const int32_t *list, int64_t n, int shift, double sums[BINS]) {
    double part[2][BINS] = {{0}}, all = 0;
    for (int64_t i = 0; i < n; i++) part[i & 1][digit_of(weight[list[i]], shift)] += weight[list[i]];
    for (int bin = 0; bin < BINS; bin++) all += sums[bin] = part[0][bin] + part[1][bin];
    return all;
}

/* Keeps the tokens of the list that have this digit; returns how many. */
static int64_t keep_digit(const float *weight, int32_t *list, int64_t n, int shift, uint32_t digit) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t id = list[i];
        list[kept] = id;
        kept += digit_of(weight[id], shift) == digit;
    }
    return kept;
}

/* The first token, likeliest first, with which the sum of weights reaches `share` of the sum of all in the list, one
 * with a weight above 0. The list, ids in order, is used up. */
static int32_t reach(const float *weight, int32_t *list, int64_t n, double share) {
    double sums[BINS], mass = 0, before = 0; /* before: of all that are likelier than those still in the list */
    for (int shift = FIRST_SHIFT; shift >= 0; shift -= DIGIT) {
        double all = sums_by_digit(weight, list, n, shift, sums);
        if (shift == FIRST_SHIFT) mass = share * all;
        int bin = BINS - 1, last = 0;
        while (sums[last] == 0) last++;
        for (; bin > last && (sums[bin] == 0 || before + sums[bin] < mass); bin--) before += sums[bin];
        n = keep_digit(weight, list, n, shift, (uint32_t)bin);
    }
    int64_t i = 0; /* the rest are equal */
    for (; i + 1 < n && before + weight[list[i]] < mass; i++) before += weight[list[i]];
    return list[i];
}

static int64_t list_all(int32_t *list, int64_t V) {
    for (int64_t i = 0; i < V; i++) list[i] = (int32_t)i;
    return V;
}

/* Orders tokens by weight, the lower id first among equals. */
static uint64_t rank_of(const float *weight, int32_t id) {
    return (uint64_t)bits_of(weight[id]) << 32 | ~(uint32_t)id;
}

/* Lists `last` and all tokens that are likelier; returns how many. */
static int64_t list_from(int32_t *list, const float *weight, int64_t V, int32_t last) {
    const uint64_t lowest = rank_of(weight, last);
    int64_t n = 0;
    for (int32_t i = 0; i < V; i++) {
        list[n] = i;
        n += rank_of(weight, i) >= lowest;
    }
    return n;
}

int32_t rw_sample(const float *logits, int64_t V, const rw_sampling *s, rw_rng *rng, rw_candidates c) {
    int32_t best = likeliest(logits, V);
    float top = logits[best], power = (float)(1 / s->temperature);
    if (s->temperature < greedy_below || !isfinite(top)) return best;
    weigh(c.weight, logits, V, top, s->top_p < 1 ? 1 : power);
    int64_t n = list_all(c.id, V);
    if (s->top_p < 1) {
        n = list_from(c.id, c.weight, V, reach(c.weight, c.id, n, s->top_p));
        if (power != 1) weigh_listed(c.weight, c.id, n, logits, V, top, power);
    }
    return reach(c.weight, c.id, n, rw_rng_uniform(rng));
}
