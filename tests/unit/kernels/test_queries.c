/* What a kernel asks for never shrinks when rows or sequences are added: memory for the largest pass is enough for any.
 * Both number types, one and several threads, each option that changes what is asked for. */
#include "tests/unit/kernels/device_test.h"

enum { MOST_ROWS = 1500, MOST_SEQ = 40, C = 64, H = 2, N = 32 };

static void not_less(int64_t now, int64_t *before) {
    assert_true(now >= *before);
    *before = now;
}

#define RW_KERNEL(name, args)
#define RW_QUERY(name, args) AT_##name,
enum {
#include "kernels/ops.def"
    N_QUERIES
};
#undef RW_KERNEL
#undef RW_QUERY

/* Every RW_QUERY of ops.def. */
static void ask(const rw_device *d, int64_t R, int64_t n_seq, bool option, int64_t *before) {
    int64_t *last = before;
    void *some = (void *)(uintptr_t)64; /* wanted; never read */
    void *wanted = option ? some : NULL;
    const rw_kernels *k = d->kernels;
    const rw_exec *ex = &d->exec;
    rw_embedding_args e = {.dtype = d->compute, .R = R, .C = C, .V = 300, .gamma = wanted};
    rw_layer_norm_args ln = {.dtype = d->compute, .R = R, .C = C};
    rw_group_norm_args gn = {.dtype = d->compute, .R = R, .H = H, .N = N};
    rw_token_shift_args ts = {.dtype = d->compute, .R = R, .C = C, .n_seq = n_seq, .n_mix = option ? 6 : 0};
    rw_ddlerp_args dl = {.dtype = d->compute, .R = R, .C = C, .rank = 8, .n_seq = n_seq, .tanh_h = wanted};
    dl.dw2 = wanted;
    rw_wkv6_args wk = {.dtype = d->compute, .R = R, .H = H, .N = N, .n_seq = n_seq, .ln_w = wanted, .gate = wanted};
    wk.s0_stride = option ? 0 : H * N * N;
    rw_wkv7_args w7 = {.dtype = d->compute, .R = R, .H = H, .N = N, .n_seq = n_seq, .ln_w = wanted, .g = wanted};
    w7.s0_stride = wk.s0_stride;
    w7.v_up = w7.v_first = w7.v0 = w7.r_k = wanted;
    rw_sum_args sum = {.dtype = d->compute, .n = R};
    not_less(k->embedding_backward_scratch(&e, ex), last++);
    not_less(k->layer_norm_backward_scratch(&ln, ex), last++);
    not_less(k->group_norm_backward_scratch(&gn, ex), last++);
    not_less(k->token_shift_backward_scratch(&ts, ex), last++);
    not_less(k->ddlerp_forward_scratch(&dl, ex), last++);
    not_less(k->ddlerp_backward_scratch(&dl, ex), last++);
    not_less(k->wkv6_forward_scratch(&wk, ex), last++);
    not_less(k->wkv6_backward_scratch(&wk, ex), last++);
    not_less(k->wkv6_saved(&wk, ex), last++);
    not_less(k->wkv7_forward_scratch(&w7, ex), last++);
    not_less(k->wkv7_backward_scratch(&w7, ex), last++);
    not_less(k->wkv7_saved(&w7, ex), last++);
    not_less(k->sum_scratch(&sum, ex), last++);
    assert_int_equal(last - before, N_QUERIES);
}

static void grow(rw_dtype compute, int threads, bool option) {
    rw_device *d = test_device(compute, threads);
    int64_t last[N_QUERIES] = {0};
    for (int64_t R = 1; R <= MOST_ROWS; R++) ask(d, R, 3, option, last);
    memset(last, 0, sizeof last);
    for (int64_t n_seq = 1; n_seq <= MOST_SEQ; n_seq++) ask(d, 700, n_seq, option, last);
    rw_device_close(d);
}

static void test_queries_grow(void **state) {
    (void)state;
    for (int k = 0; k < 8; k++) grow(k & 1 ? RW_F64 : RW_F32, k & 2 ? 5 : 1, k & 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_queries_grow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
