/* Embedding: gradients by finite differences with and without the norm, rows that no token touches, sums in the order
 * of rows, and the same bits for any number of threads. */
#include "tests/unit/kernels/device_test.h"

TEST_OP(embedding, rw_embedding_args)

static void check(int64_t R, int64_t C, int64_t V, const int32_t *tokens, bool norm) {
    gc g = {.seed = (uint64_t)(R * 31 + C)};
    embedding_ctx c = {.d = test_device(RW_F64, 2), .a = {.dtype = RW_F64, .R = R, .C = C, .V = V, .eps = 1e-5}};
    rw_embedding_args *a = &c.a;
    a->tokens = gc_fixed(&g, "tokens", tokens, R * 4);
    a->weight = gc_input(&g, "weight", V * C, -1, 1);
    a->out = gc_output(&g, "out", R * C);
    if (norm) {
        a->gamma = gc_input(&g, "gamma", C, 0.5, 1.5);
        a->beta = gc_input(&g, "beta", C, -1, 1);
        a->mean = gc_output(&g, "mean", R);
        a->rstd = gc_output(&g, "rstd", R);
    }
    a->dout = gc_dout(&g, "out");
    a->dweight = gc_grad(&g, "weight");
    if (norm) a->dgamma = gc_grad(&g, "gamma"), a->dbeta = gc_grad(&g, "beta");
    a->scratch = gc_scratch(&g, c.d->kernels->embedding_backward_scratch(a, &c.d->exec));
    gc_check(&g, embedding_forward_fn, embedding_backward_fn, &c);
    const gc_slot slots[] = {{"weight", &a->dweight, RW_EMBEDDING_ADD_WEIGHT},
                             {"gamma", &a->dgamma, RW_EMBEDDING_ADD_GAMMA},
                             {"beta", &a->dbeta, RW_EMBEDDING_ADD_BETA}};
    gc_check_slots(&g, embedding_backward_fn, &c, slots, norm ? 3 : 1, &a->add);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    static const int32_t tokens[] = {3, 0, 3, 3, 4, 0, 1, 3, 4, 4, 4, 4, 4};
    for (int norm = 0; norm < 2; norm++) {
        check(13, 20, 5, tokens, norm);
        check(13, 33, 7, tokens, norm);
        check(1, 16, 5, tokens, norm);
        check(3, 5, 4, tokens, norm);
    }
}

enum { R = 700, C = 24, V = 66000 };

static void backward(int threads, bool norm, const int32_t *tokens, float *dweight, float *dgamma) {
    rw_device *d = test_device(RW_F32, threads);
    float *weight = test_memory(sizeof(float) * V * C), *dout = test_memory(sizeof(float) * R * C);
    float *out = test_memory(sizeof(float) * R * C), *mean = test_memory(sizeof(float) * R),
          *rstd = test_memory(sizeof(float) * R), gamma[C], beta[C] = {0};
    test_fill_f32(weight, V * C, 1, -1, 1);
    test_fill_f32(dout, R * C, 2, -1, 1);
    test_fill_f32(gamma, C, 3, 0.5, 2);
    rw_embedding_args a = {.dtype = RW_F32,
                           .R = R,
                           .C = C,
                           .V = V,
                           .tokens = tokens,
                           .weight = weight,
                           .eps = 1e-5,
                           .out = out,
                           .mean = mean,
                           .rstd = rstd,
                           .dout = dout,
                           .dweight = dweight};
    if (norm) a.gamma = gamma, a.beta = beta, a.dgamma = dgamma;
    a.scratch = test_memory((size_t)d->kernels->embedding_backward_scratch(&a, &d->exec));
    d->kernels->embedding_forward(&a, &d->exec);
    d->kernels->embedding_backward(&a, &d->exec);
    if (!norm)
        for (int64_t r = 0; r < R; r++)
            assert_memory_equal(out + r * C, weight + (int64_t)tokens[r] * C, C * sizeof(float));
    free(a.scratch), free(weight), free(dout), free(out), free(mean), free(rstd);
    rw_device_close(d);
}

/* A big table with ids over 16 bits, most rows untouched: exactly zero there, and 1, 2 or 5 threads give equal bits. */
static void test_threads_and_zeros(void **state) {
    (void)state;
    static int32_t tokens[R];
    for (int i = 0; i < R; i++) tokens[i] = i % 3 == 0 ? 65999 : (int32_t)(rw_rng_u64_at(1, 2, (uint64_t)i) % V);
    size_t bytes = sizeof(float) * V * C;
    float *one = test_memory(bytes), *other = test_memory(bytes), dgamma[2][C];
    static const int counts[] = {2, 5};
    for (int norm = 0; norm < 2; norm++) {
        memset(one, 0xFF, bytes);
        backward(1, norm, tokens, one, dgamma[0]);
        for (int i = 0; i < 2; i++) {
            memset(other, 0xFF, bytes);
            backward(counts[i], norm, tokens, other, dgamma[1]);
            assert_memory_equal(one, other, bytes);
            if (norm) assert_memory_equal(dgamma[0], dgamma[1], sizeof dgamma[0]);
        }
        static char touched[V];
        for (int i = 0; i < R; i++) touched[tokens[i]] = 1;
        for (int64_t v = 0; v < V; v++)
            for (int64_t j = 0; j < C && !touched[v]; j++) assert_true(one[v * C + j] == 0 && !signbit(one[v * C + j]));
    }
    free(one), free(other);
}

/* No rows at all: zeros, or untouched with the add bit. */
static void test_no_rows(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F64, 2);
    double weight[6] = {1, 2, 3, 4, 5, 6}, dweight[6] = {9, 9, 9, 9, 9, 9};
    rw_embedding_args a = {
        .dtype = RW_F64, .R = 0, .C = 2, .V = 3, .weight = weight, .dweight = dweight, .add = RW_EMBEDDING_ADD_WEIGHT};
    d->kernels->embedding_forward(&a, &d->exec);
    d->kernels->embedding_backward(&a, &d->exec);
    for (int i = 0; i < 6; i++) assert_true(dweight[i] == 9);
    a.add = 0;
    d->kernels->embedding_backward(&a, &d->exec);
    for (int i = 0; i < 6; i++) assert_true(dweight[i] == 0);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_threads_and_zeros),
        cmocka_unit_test(test_no_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
