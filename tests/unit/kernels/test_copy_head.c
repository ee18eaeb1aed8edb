/* head_qk: finite differences for sequences of many lengths, one chunk and several, which give the same; and the plain
 * sum by hand. */
#include "tests/unit/kernels/device_test.h"

enum { V = 11, Q = 5, MAX_ROWS = 40 };

typedef struct {
    rw_device *d;
    rw_copy_head_args a;
} ctx;

/* In place, so that the logits of before are zeros here. */
static void forward(void *p) {
    ctx *c = p;
    memset(c->a.logits, 0, (size_t)(c->a.n * V) * sizeof(double));
    c->d->kernels->copy_head_forward(&c->a, &c->d->exec);
}
static void backward(void *p) {
    ctx *c = p;
    c->d->kernels->copy_head_backward(&c->a, &c->d->exec);
}

static rw_copy_head_args sizes(int64_t R, int64_t n_seq, const int32_t *cu, const int32_t *tokens) {
    return (rw_copy_head_args){.dtype = RW_F64,
                               .R = R,
                               .Q = Q,
                               .V = V,
                               .cu_seqlens = cu,
                               .n_seq = n_seq,
                               .n = R,
                               .scale = 1.0 / Q,
                               .tokens = tokens};
}

static void fill_tokens(int32_t *tokens, int64_t n) {
    for (int64_t i = 0; i < n; i++) tokens[i] = (int32_t)(rw_rng_u64_at(3, 4, (uint64_t)i) % V);
}

static void differences(int64_t R, int64_t n_seq, const int32_t *cu) {
    gc g = {.seed = (uint64_t)R, .samples = -1};
    int32_t tokens[MAX_ROWS];
    fill_tokens(tokens, R);
    ctx c = {test_device(RW_F64, 3), sizes(R, n_seq, cu, gc_fixed(&g, "tokens", tokens, R * (int64_t)sizeof *tokens))};
    c.a.q = gc_input(&g, "q", R * Q, -2, 2);
    c.a.k = gc_input(&g, "k", R * Q, -2, 2);
    c.a.logits = gc_output(&g, "logits", R * V);
    c.a.dlogits = gc_dout(&g, "logits");
    c.a.dq = gc_grad(&g, "q");
    c.a.dk = gc_grad(&g, "k");
    gc_check(&g, forward, backward, &c);
    const gc_slot slots[] = {{"q", &c.a.dq, 0}, {"k", &c.a.dk, RW_COPY_HEAD_ADD_K}};
    gc_check_slots(&g, backward, &c, slots, 2, &c.a.add);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_differences(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 1, 1, 9, 14}, one[] = {0, 7};
    differences(1, 1, NULL);
    differences(12, 3, NULL);
    differences(14, 4, cu);
    differences(7, 1, one);
}

/* Chunk by chunk is the same as all at once, bit for bit where nothing is summed over chunks. */
static void chunks(int64_t chunk) {
    enum { R = 21 };
    static const int32_t cu[] = {0, 8, 21};
    double q[R * Q], k[R * Q], whole[R * V], part[R * V], dq[2][R * Q], dk[2][R * Q];
    int32_t tokens[R];
    fill_tokens(tokens, R);
    test_fill_f64(q, R * Q, 1, -1, 1);
    test_fill_f64(k, R * Q, 2, -1, 1);
    test_fill_f64(whole, R * V, 3, -1, 1);
    memcpy(part, whole, sizeof whole);
    ctx c = {test_device(RW_F64, 2), sizes(R, 2, cu, tokens)};
    c.a.q = q;
    c.a.k = k;
    c.a.logits = whole;
    c.d->kernels->copy_head_forward(&c.a, &c.d->exec);
    c.a.dlogits = whole;
    c.a.dq = dq[0];
    c.a.dk = dk[0];
    backward(&c);
    c.a.dq = dq[1];
    c.a.dk = dk[1];
    for (c.a.first = 0; c.a.first < R; c.a.first += chunk) {
        c.a.n = R - c.a.first < chunk ? R - c.a.first : chunk;
        c.a.logits = part + c.a.first * V;
        c.a.dlogits = part + c.a.first * V;
        c.a.add = c.a.first > 0 ? RW_COPY_HEAD_ADD_K : 0;
        c.d->kernels->copy_head_forward(&c.a, &c.d->exec);
        backward(&c);
    }
    assert_memory_equal(part, whole, sizeof whole);
    assert_memory_equal(dq[0], dq[1], sizeof dq[0]);
    for (int i = 0; i < R * Q; i++) assert_true(fabs(dk[0][i] - dk[1][i]) < 1e-13);
    rw_device_close(c.d);
}

static void test_chunks(void **state) {
    (void)state;
    for (int64_t chunk = 1; chunk < 23; chunk += 3) chunks(chunk);
}

/* Two rows: the second copies from both, the first from itself alone; equal tokens add up. */
static void test_by_hand(void **state) {
    (void)state;
    const double q[] = {2, 3}, k[] = {5, 7};
    double logits[2 * V] = {0};
    int32_t tokens[] = {4, 4};
    rw_device *d = test_device(RW_F64, 1);
    rw_copy_head_args a = sizes(2, 1, NULL, tokens);
    a.Q = 1;
    a.scale = 0.5;
    a.q = q;
    a.k = k;
    a.logits = logits;
    d->kernels->copy_head_forward(&a, &d->exec);
    for (int i = 0; i < 2 * V; i++) assert_true(logits[i] == (i == 4 ? 5 : i == V + 4 ? 18 : 0));
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_differences), cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_by_hand)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
