/* Lazy tensors: their memory goes with the scope, the first reader of the backward pass has them made again, once, with
 * the same bits; the last one lets go of them. */
#include "tests/unit/tensor/tape_test.h"

enum { R = 24, C = 32, F = 40, N = 2, MATRIX = R * C * 8 };

static bench b;
static const rw_kernels *real_kernels;
static rw_kernels spied;
static int n_shifts, n_products;

static void spy_shift(const rw_token_shift_args *a, const rw_exec *ex) {
    n_shifts++;
    real_kernels->token_shift_forward(a, ex);
}
static void spy_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    n_products++;
    real_kernels->matmul(a, ex);
}

static int open_bench(void **state) {
    (void)state;
    bench_open(&b);
    spied = *(real_kernels = b.device->kernels);
    spied.token_shift_forward = spy_shift;
    spied.matmul = spy_matmul;
    b.device->kernels = &spied;
    return 0;
}
static int close_bench(void **state) {
    (void)state;
    b.device->kernels = real_kernels;
    bench_close(&b);
    return 0;
}

/* -- a channel mix: value(relu(key(mix0))^2) + gate(mix1), in a scope of its own ------------------------------------
 */

enum { KEY, VALUE, GATE, N_WEIGHTS };

typedef struct {
    double x[R * C], gamma[C], beta[C], mu[N][C];
    double w[N_WEIGHTS][F * C], dw[N_WEIGHTS][F * C], dx[R * C];
    rw_tensor params[N_WEIGHTS];
    rw_tensor *leaf, *mix[N], *inner, *y;
} layer;

static void weight(layer *l, int i, int64_t rows, int64_t cols) {
    for (int k = 0; k < F * C; k++) l->w[i][k] = noise((uint64_t)(20 + i), k) / 4;
    l->params[i] = (rw_tensor){.dtype = RW_F64, .ndim = 2, .shape = {rows, cols}, .room = rows * cols};
    l->params[i].data = l->w[i];
    l->params[i].grad = l->dw[i];
    l->params[i].requires_grad = l->params[i].is_param = true;
    l->params[i].share = l->params[i].grad_share = -1;
}

static void fill(layer *l) {
    for (int i = 0; i < R * C; i++) l->x[i] = noise(1, i);
    for (int i = 0; i < C; i++) {
        l->gamma[i] = 1 + noise(2, i) / 2;
        l->beta[i] = noise(3, i);
        for (int k = 0; k < N; k++) l->mu[k][i] = noise((uint64_t)(4 + k), i);
    }
    weight(l, KEY, F, C);
    weight(l, VALUE, C, F);
    weight(l, GATE, C, C);
}

static rw_tensor *vector(double *data) {
    return rw_tape_wrap(b.tape, RW_F64, 1, (int64_t[]){C}, data);
}

static void shift(layer *l) {
    rw_token_shift_in in = {.rows = {R, 1, NULL}, .eps = 1e-5, .n_mix = N, .n_slab = N};
    in.x = l->leaf = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, C}, l->x);
    in.x->requires_grad = true;
    in.gamma = vector(l->gamma);
    in.beta = vector(l->beta);
    for (int k = 0; k < N; k++) in.mu[k] = vector(l->mu[k]);
    rw_token_shift(b.tape, &in, l->mix, NULL, NULL);
}

static void forward(layer *l, unsigned forgets) {
    n_shifts = n_products = 0;
    unsigned were = rw_tape_forgets(b.tape, forgets);
    rw_scope s = rw_scope_begin(b.tape);
    shift(l);
    l->inner = rw_matmul_act(b.tape, l->mix[0], &l->params[KEY], true, RW_EPILOGUE_RELU_SQ);
    rw_tape_forget(b.tape, l->inner, RW_FORGET_FFN);
    rw_tensor *p = rw_matmul(b.tape, l->inner, &l->params[VALUE], true, NULL);
    l->y = rw_matmul(b.tape, l->mix[1], &l->params[GATE], true, p);
    rw_scope_end(b.tape, s, &l->y, 1);
    rw_tape_forgets(b.tape, were);
}

static void backward(layer *l) {
    rw_error err = {0};
    double seed[R * C];
    for (int i = 0; i < R * C; i++) seed[i] = noise(9, i);
    rw_tape_seed_grad(b.tape, l->y, seed);
    must(rw_tape_backward(b.tape, &err), &err);
    memcpy(l->dx, l->leaf->grad, sizeof l->dx);
}

static void finish(void) {
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
}

static void same_bits(const layer *a, const layer *c) {
    assert_memory_equal(a->dw, c->dw, sizeof a->dw);
    assert_memory_equal(a->dx, c->dx, sizeof a->dx);
}

/* -- tests ----------------------------------------------------------------------------------------------------------
 */

static void levels(void **state) {
    (void)state;
    static layer kept, l;
    fill(&kept);
    forward(&kept, 0);
    int64_t live = b.arena.live;
    backward(&kept);
    finish();
    assert_true(n_shifts == 1 && n_products == 9);

    fill(&l);
    forward(&l, RW_FORGET_MIX);
    assert_int_equal(b.arena.live, live - N * MATRIX);
    assert_true(l.mix[0]->lazy && !l.mix[0]->data && !l.inner->lazy && l.inner->data);
    backward(&l);
    assert_true(n_shifts == 2 && n_products == 9); /* once for all of its readers */
    finish();
    same_bits(&kept, &l);

    fill(&l);
    forward(&l, RW_FORGET_MIX | RW_FORGET_FFN);
    assert_int_equal(b.arena.live, live - N * MATRIX - R * F * 8);
    assert_true(!l.inner->data && !l.mix[0]->data);
    backward(&l);
    assert_true(n_shifts == 2 && n_products == 10); /* the product made again reads what was made again */
    finish();
    same_bits(&kept, &l);
}

/* In the forward pass everything is there until the scope ends; nobody else's data go. */
static void only_with_the_scope(void **state) {
    (void)state;
    static layer l;
    fill(&l);
    rw_tape_forgets(b.tape, RW_FORGET_MIX);
    rw_scope s = rw_scope_begin(b.tape);
    shift(&l);
    rw_tensor *y = rw_matmul(b.tape, l.mix[0], &l.params[KEY], true, NULL);
    assert_true(l.mix[0]->lazy && l.mix[0]->data);
    rw_tensor *keep[] = {y, l.mix[0]};
    rw_scope_end(b.tape, s, keep, 2);
    assert_non_null(l.mix[0]->data);
    assert_true(l.mix[1]->lazy && !l.mix[1]->data);
    rw_tape_drop(b.tape, l.mix[0]);
    assert_null(l.mix[0]->data);
    rw_tape_forgets(b.tape, 0);
    finish();
}

/* Nobody has a gradient for the products: nothing is made again. */
static void not_read(void **state) {
    (void)state;
    static layer l;
    rw_error err = {0};
    fill(&l);
    forward(&l, RW_FORGET_MIX | RW_FORGET_FFN);
    must(rw_tape_backward(b.tape, &err), &err);
    assert_true(n_shifts == 1 && n_products == 3);
    finish();
}

static void what_cannot_be_forgotten(void **state) {
    (void)state;
    static layer l;
    fill(&l);
    rw_tape_forgets(b.tape, RW_FORGET_FFN);
    shift(&l);
    assert_false(l.mix[0]->lazy); /* another kind */
    rw_tensor *used = rw_matmul(b.tape, l.mix[0], &l.params[GATE], true, NULL);
    rw_tensor *sum = rw_matmul(b.tape, l.mix[1], &l.params[GATE], true, used);
    rw_tape_forget(b.tape, used, RW_FORGET_FFN);
    assert_false(used->lazy); /* its memory may be kept by the reader already */
    rw_tape_forget(b.tape, sum, RW_FORGET_FFN);
    assert_false(sum->lazy); /* added to something that is not kept */
    rw_tensor *frozen = rw_tape_wrap(b.tape, RW_F64, 2, (int64_t[]){R, C}, l.x);
    rw_tensor *n = rw_layer_norm(b.tape, l.mix[0], vector(l.gamma), vector(l.beta), 1e-5);
    rw_tape_forget(b.tape, n, RW_FORGET_FFN);
    assert_false(n->lazy); /* an op that cannot */
    rw_tape_forget(b.tape, NULL, RW_FORGET_FFN);
    rw_tape_forget(b.tape, frozen, RW_FORGET_FFN);
    assert_false(frozen->lazy);
    rw_tape_record(b.tape, false);
    rw_tensor *alone = rw_matmul(b.tape, l.mix[0], &l.params[GATE], true, NULL);
    rw_tape_forget(b.tape, alone, RW_FORGET_FFN);
    assert_false(alone->lazy); /* not recorded */
    rw_tape_record(b.tape, true);
    rw_tape_forgets(b.tape, 0);
    finish();
}

/* An arena of any size that is too small: an error of the tape, and everything is given back. */
static void too_little_memory(void **state) {
    (void)state;
    static layer l;
    int failed = 0, passed = 0;
    for (int64_t size = 0; passed == 0; size += MATRIX / 2) {
        rw_error err = {0};
        rw_tape *tape = b.tape;
        rw_step_arena arena;
        must(rw_step_arena_init(&arena, b.device, size + RW_ARENA_ALIGN, &err), &err);
        must(rw_tape_new(&b.tape, b.device, &arena, &err), &err);
        fill(&l);
        forward(&l, RW_FORGET_MIX | RW_FORGET_FFN);
        if (l.y) rw_tape_seed_grad(b.tape, l.y, l.x);
        if (rw_tape_backward(b.tape, &err) == RW_OK)
            passed++;
        else
            failed += l.y != NULL;
        rw_tape_reset(b.tape);
        assert_int_equal(arena.live, 0);
        rw_tape_free(b.tape);
        rw_step_arena_done(&arena);
        b.tape = tape;
    }
    assert_true(failed > 0); /* in the backward pass */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels), cmocka_unit_test(only_with_the_scope),
                                       cmocka_unit_test(not_read), cmocka_unit_test(what_cannot_be_forgotten),
                                       cmocka_unit_test(too_little_memory)};
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
