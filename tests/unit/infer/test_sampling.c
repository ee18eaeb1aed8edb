/* Greedy, temperature and top-p: the frequencies of many draws against the probabilities, and hostile logits. */
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
#include <string.h>

enum { V = 6, DRAWS = 20000 };
static const float logits[V] = {1, 2.5f, -1, 2.5f, 0, 2};

static int32_t draw(const float *z, double temperature, double top_p, uint64_t seed) {
    rw_candidate scratch[V];
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
    rw_candidate scratch[V];
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

static void repeats(void **state) {
    (void)state;
    rw_candidate scratch[V];
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(greedy), cmocka_unit_test(shares), cmocka_unit_test(repeats),
                                       cmocka_unit_test(hostile_logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
