/* Greedy, temperature and top-p: the frequencies of many draws against the probabilities, single draws
 * against a sorted list, and hostile logits. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/infer/sampling.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { V = 6, DRAWS = 20000, LONG = 3001 };
static const float logits[V] = {1, 2.5f, -1, 2.5f, 0, 2};

static float weights[LONG];
static int32_t ids[LONG];
static const rw_candidates scratch = {weights, ids};

static int32_t draw(const float *z, double temperature, double top_p, uint64_t seed) {
    rw_rng rng = {seed, 9, 0};
    return rw_sample(z, V, &(rw_sampling){temperature, top_p}, &rng, scratch);
}

static void greedy(void **state) {
    (void)state;
    float z[V];
    memcpy(z, logits, sizeof z);
    assert_int_equal(draw(z, 0, 1, 1), 1); /* the first of two equal ones */
    assert_int_equal(draw(z, 1e-9, 1, 1), 1);
    assert_int_equal(draw(z, 1, 0, 1), 1);
    assert_int_equal(draw(z, 5, 1e-9, 1), 1);
    z[0] = z[1] = NAN;
    assert_int_equal(draw(z, 0, 1, 1), 3);
    z[2] = INFINITY;
    assert_int_equal(draw(z, 0, 1, 1), 2);
}

/* Expected shares: probabilities cut at temperature 1, then to the power 1 / temperature. */
static void frequencies(double temperature, const double *p) {
    int count[V] = {0};
    rw_rng rng = {4, 2, 0};
    double top_p = 1, sum = 0, want[V];
    if (p == NULL) top_p = 0.6;
    double z[V], total = 0;
    for (int i = 0; i < V; i++) total += z[i] = exp((double)logits[i]);
    for (int i = 0; i < V; i++) {
        bool in = top_p == 1 || i == 1 || i == 3; /* these two hold 0.68 */
        sum += want[i] = in ? pow(z[i] / total, 1 / temperature) : 0;
    }
    for (int k = 0; k < DRAWS; k++) count[rw_sample(logits, V, &(rw_sampling){temperature, top_p}, &rng, scratch)]++;
    for (int i = 0; i < V; i++) {
        double share = want[i] / sum, deviation = sqrt(share * (1 - share) / DRAWS);
        assert_true(fabs((double)count[i] / DRAWS - share) <= 5 * deviation);
    }
}

static void shares(void **state) {
    (void)state;
    static const double all[V] = {0};
    frequencies(1, all);
    frequencies(0.5, all);
    frequencies(2, all);
    frequencies(1, NULL);
    frequencies(3, NULL);
}

/* -- against a plain sort --------------------------------------------------------------------------------------- */

typedef struct {
    double p;
    int32_t id;
} entry;

static int by_probability(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Probabilities, likeliest first; returns how many the cut leaves. */
static int64_t sorted(entry *e, const float *z, int64_t n, double temperature, double top_p) {
    double total = 0, covered = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += exp((double)z[i]);
    for (int64_t i = 0; i < n; i++) e[i] = (entry){exp((double)z[i]) / total, (int32_t)i};
    qsort(e, (size_t)n, sizeof *e, by_probability);
    int64_t kept = 0;
    while (kept < n && (kept == 0 || covered < top_p)) covered += e[kept++].p;
    for (int64_t i = 0; i < kept; i++) sum += e[i].p = pow(e[i].p, 1 / temperature);
    for (int64_t i = 0; i < kept; i++) e[i].p /= sum;
    return kept;
}

/* The token is the one in whose place the number fell, up to rounding of the sums. */
static void check_order(const float *z, int64_t n, double temperature, double top_p) {
    static entry e[LONG];
    int64_t kept = sorted(e, z, n, temperature, top_p);
    rw_rng rng = {5, 6, 0}, same = rng;
    for (int k = 0; k < 300; k++) {
        int32_t id = rw_sample(z, n, &(rw_sampling){temperature, top_p}, &rng, scratch);
        double u = rw_rng_uniform(&same), before = 0;
        int64_t i = 0;
        while (i < kept && e[i].id != id) before += e[i++].p;
        if (i == kept || u < before - 1e-5 || u > before + e[i].p + 1e-5)
            fail_msg("token %d for %.6f: place %lld of %lld, from %.6f to %.6f", id, u, (long long)i, (long long)kept,
                     before, before + e[i].p);
    }
}

/* Wide, narrow and equal logits, in steps of 1/8 so that many tokens tie. */
static void order(void **state) {
    (void)state;
    static const double how[][2] = {{1, 1}, {0.7, 1}, {1.5, 1}, {1, 0.3}, {1, 0.9}, {0.7, 0.9}, {2, 0.02}};
    static const double widths[] = {0, 0.2, 2, 20};
    static float z[LONG];
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        rw_rng rng = {7, w, 0};
        for (int i = 0; i < LONG; i++) z[i] = (float)(floor(8 * widths[w] * rw_rng_normal(&rng)) / 8);
        for (size_t h = 0; h < sizeof how / sizeof *how; h++) check_order(z, LONG, how[h][0], how[h][1]);
    }
}

static void repeats(void **state) {
    (void)state;
    rw_rng a = {1, 1, 0}, b = {1, 1, 0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(rw_sample(logits, V, &(rw_sampling){1, 1}, &a, scratch),
                         rw_sample(logits, V, &(rw_sampling){1, 1}, &b, scratch));
    assert_int_equal(a.index, 100); /* one number for each token */
}

static void hostile_logits(void **state) {
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 0};
    for (int code = 0; code < 6 * 6 * 6; code++) {
        float z[V];
        for (int i = 0; i < V; i++) z[i] = i < 3 ? odd[code / (i == 0 ? 1 : i == 1 ? 6 : 36) % 6] : i == 3 ? 1 : NAN;
        for (uint64_t seed = 0; seed < 8; seed++) {
            int32_t id = draw(z, seed % 2 ? 1 : 0.1, seed % 3 ? 1 : 0.5, seed);
            assert_in_range(id, 0, V - 1);
            if (isnan(z[id])) fail_msg("token %d with a logit that is not a number was chosen (case %d)", id, code);
        }
    }
    float nothing[V] = {NAN, NAN, NAN, NAN, NAN, NAN};
    assert_in_range(draw(nothing, 1, 1, 1), 0, V - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(greedy), cmocka_unit_test(shares), cmocka_unit_test(order),
                                       cmocka_unit_test(repeats), cmocka_unit_test(hostile_logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
