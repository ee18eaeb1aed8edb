/* Temperature and nucleus (top-p) sampling: Holtzman et al., arXiv:1904.09751. The set is cut on the probabilities at
 * temperature 1, as the official demos do, and the temperature is applied to what is left. */
#include "core/infer/sampling.h"

#include <math.h>
#include <stdlib.h>

static int32_t likeliest(const float *logits, int64_t V) {
    int32_t best = 0;
    for (int64_t i = 1; i < V; i++)
        if (logits[i] > logits[best] || isnan(logits[best])) best = (int32_t)i;
    return best;
}

static int by_probability(const void *a, const void *b) {
    const rw_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Probabilities of all tokens, likeliest first. */
static void softmax(const float *logits, int64_t V, rw_candidate *c) {
    double top = logits[likeliest(logits, V)], sum = 0;
    for (int64_t i = 0; i < V; i++) {
        double e = isnan(logits[i]) ? 0 : logits[i] == top ? 1 : exp(logits[i] - top); /* infinity is no NaN */
        sum += e;
        c[i] = (rw_candidate){(float)e, (int32_t)i};
    }
    if (sum == 0) sum = 1; /* nothing but NaN */
    for (int64_t i = 0; i < V; i++) c[i].p = (float)(c[i].p / sum);
    qsort(c, (size_t)V, sizeof *c, by_probability);
}

int32_t rw_sample(const float *logits, int64_t V, const rw_sampling *s, rw_rng *rng, rw_candidate *c) {
    if (s->temperature <= 0) return likeliest(logits, V);
    softmax(logits, V, c);
    int64_t n = 0;
    double covered = 0;
    while (n < V && (n == 0 || covered < s->top_p)) covered += c[n++].p;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += c[i].p = (float)pow(c[i].p, 1 / s->temperature);
    double at = rw_rng_uniform(rng) * sum;
    for (int64_t i = 0; i < n; i++)
        if ((at -= c[i].p) < 0) return c[i].id;
    return c[0].id;
}
