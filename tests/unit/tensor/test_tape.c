/* The tape: who holds which memory how long, what is recorded, how gradients meet, and segments. */
#include "tests/unit/tensor/tape_test.h"

enum { ROWS = 4, WIDE = 32, BYTES = ROWS * WIDE * (int)sizeof(double) }; /* a tensor is a multiple of an arena unit */

static bench b;
static double values[ROWS * WIDE], weight[WIDE * WIDE], gradient[WIDE * WIDE];
static const int64_t shape[] = {ROWS, WIDE};

static int open_bench(void **state) {
    (void)state;
    bench_open(&b);
    for (int i = 0; i < ROWS * WIDE; i++) values[i] = noise(1, i);
    for (int i = 0; i < WIDE * WIDE; i++) weight[i] = noise(2, i) / 8;
    return 0;
}
static int close_bench(void **state) {
    (void)state;
    bench_close(&b);
    return 0;
}

static rw_tensor *leaf(void) {
    rw_tensor *x = rw_tape_wrap(b.tape, RW_F64, 2, shape, values);
    x->requires_grad = true;
    return x;
}
static rw_tensor *tanh_of(rw_tensor *x) {
    return rw_unary(b.tape, RW_UNARY_TANH, x, 0);
}
static void seed(rw_tensor *x) {
    double ones[ROWS * WIDE];
    for (int i = 0; i < ROWS * WIDE; i++) ones[i] = 1 + noise(3, i) / 2;
    rw_tape_seed_grad(b.tape, x, ones);
}
static void back(void) {
    rw_error err = {0};
    must(rw_tape_backward(b.tape, &err), &err);
}
static void reset(void) {
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
}

/* -- memory ------------------------------------------------------------------------------------------------------- */

static void scopes(void **state) {
    (void)state;
    rw_tape_record(b.tape, false);
    rw_scope outer = rw_scope_begin(b.tape);
    rw_tensor *a = tanh_of(leaf());
    rw_scope inner = rw_scope_begin(b.tape);
    rw_tensor *c = tanh_of(a), *d = tanh_of(c);
    assert_int_equal(b.arena.live, 3 * BYTES);
    rw_scope_end(b.tape, inner, &d, 1);
    assert_int_equal(b.arena.live, 2 * BYTES);
    rw_tape_drop(b.tape, a);
    rw_tape_drop(b.tape, a); /* twice does no harm */
    rw_tape_drop(b.tape, NULL);
    assert_int_equal(b.arena.live, BYTES);
    assert_true(((double *)d->data)[0] != 0);
    rw_tensor *view = rw_tape_reshape(b.tape, d, 1, (int64_t[]){ROWS * WIDE});
    rw_tape_drop(b.tape, d);
    assert_int_equal(b.arena.live, BYTES); /* the view holds it */
    rw_scope_end(b.tape, outer, NULL, 0);
    assert_int_equal(b.arena.live, 0);
    (void)view;
    rw_tape_record(b.tape, true);
    reset();
}

static void recording_keeps(void **state) {
    (void)state;
    for (int on = 0; on < 2; on++) {
        bool was = rw_tape_record(b.tape, on);
        assert_true(was);
        rw_scope s = rw_scope_begin(b.tape);
        rw_tensor *y = tanh_of(tanh_of(leaf()));
        rw_scope_end(b.tape, s, NULL, 0);
        assert_int_equal(b.arena.live, on ? 2 * BYTES : 0); /* tanh keeps its output */
        assert_int_equal(y->requires_grad, on);
        rw_tape_record(b.tape, true);
        reset();
    }
    rw_tensor *plain = rw_tape_wrap(b.tape, RW_F64, 2, shape, values); /* wants no gradient: nothing to record */
    rw_scope s = rw_scope_begin(b.tape);
    assert_false(tanh_of(plain)->requires_grad);
    rw_scope_end(b.tape, s, NULL, 0);
    assert_int_equal(b.arena.live, 0);
    reset();
}

static void backward_gives_back(void **state) {
    (void)state;
    rw_tensor *x = leaf();
    rw_scope s = rw_scope_begin(b.tape);
    rw_tensor *y = x;
    for (int i = 0; i < 10; i++) y = tanh_of(y);
    rw_scope_end(b.tape, s, &y, 1);
    assert_int_equal(b.arena.live, 10 * BYTES);
    seed(y);
    back();
    assert_int_equal(b.arena.live, 2 * BYTES); /* y, and the gradient of the leaf */
    assert_non_null(x->grad);
    reset();
}

/* The same step twice: the same addresses, and no allocation in the second. */
static void addresses_repeat(void **state) {
    (void)state;
    void *first[5];
    int64_t calls = 0;
    for (int round = 0; round < 3; round++) {
        calls = rw_alloc_calls();
        rw_tensor *x = leaf(), *y = x;
        for (int i = 0; i < 5; i++) {
            y = tanh_of(y);
            if (round == 0) first[i] = y->data;
            assert_ptr_equal(y->data, first[i]);
        }
        seed(y);
        back();
        reset();
    }
    assert_int_equal(rw_alloc_calls(), calls);
}

static void full_arena(void **state) {
    (void)state;
    rw_error err = {0};
    rw_step_arena small;
    rw_tape *t;
    must(rw_step_arena_init(&small, b.device, 3 * BYTES, &err), &err);
    must(rw_tape_new(&t, b.device, &small, &err), &err);
    rw_tensor *x = rw_tape_wrap(t, RW_F64, 2, shape, values), *y = x;
    x->requires_grad = true;
    for (int i = 0; i < 4; i++) y = rw_unary(t, RW_UNARY_TANH, y, 0);
    assert_null(y);
    assert_int_equal(rw_tape_error(t, &err), RW_E_MEMORY);
    assert_string_equal(err.msg, "the step arena of 3072 bytes has no room for 1024 more");
    assert_int_equal(rw_tape_backward(t, NULL), RW_E_MEMORY);
    rw_tape_reset(t);
    assert_int_equal(small.live, 0);
    x = rw_tape_wrap(t, RW_F64, 2, shape, values);
    x->requires_grad = true;
    y = x;
    for (int i = 0; i < 3; i++) y = rw_unary(t, RW_UNARY_TANH, y, 0); /* fits, but no gradient beside it */
    assert_non_null(y);
    rw_tape_seed_grad(t, y, values);
    assert_int_equal(rw_tape_backward(t, NULL), RW_E_MEMORY);
    rw_tape_free(t);
    assert_int_equal(small.live, 0);
    rw_step_arena_done(&small);
}

/* -- gradients -------------------------------------------------------------------------------------------------------
 */

static rw_tensor parameter(void) {
    rw_tensor p = {.dtype = RW_F64, .ndim = 2, .shape = {WIDE, WIDE}, .data = weight, .grad = gradient, .name = "w"};
    p.requires_grad = p.is_param = true;
    p.share = p.grad_share = -1;
    return p;
}

static void parameters_overwrite_then_add(void **state) {
    (void)state;
    double once[WIDE * WIDE];
    rw_tensor p = parameter();
    for (int i = 0; i < WIDE * WIDE; i++) gradient[i] = NAN; /* of the last step */
    for (int pass = 0; pass < 2; pass++) {
        seed(rw_matmul(b.tape, leaf(), &p, true, NULL));
        back();
        reset();
        assert_true(p.grad_written);
        if (pass == 0) memcpy(once, gradient, sizeof once);
    }
    for (int i = 0; i < WIDE * WIDE; i++) assert_true(fabs(gradient[i] - 2 * once[i]) <= 1e-15 * fabs(once[i]) * 4);
    p.grad_written = false; /* twice in one graph: the first overwrites, the second adds */
    gradient[0] = NAN;
    rw_tensor *y = rw_matmul(b.tape, rw_matmul(b.tape, leaf(), &p, true, NULL), &p, true, NULL);
    seed(y);
    back();
    reset();
    for (int i = 0; i < WIDE * WIDE; i++) assert_false(isnan(gradient[i]));
    p.requires_grad = false; /* frozen */
    p.grad = NULL;
    rw_tensor *x = leaf();
    seed(rw_matmul(b.tape, x, &p, true, NULL));
    back();
    assert_non_null(x->grad);
    reset();
}

/* y = c + a x with x also the residual of another product: the moved gradient must not be shared. */
static void build_residuals(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx) {
    (void)ctx;
    rw_tensor *x = rw_unary(t, RW_UNARY_TANH, in[0], 0);
    rw_tensor *y = rw_matmul(t, x, in[1], true, x); /* x as a and as c */
    rw_tensor *z = rw_rgate(t, y, x, y);            /* y as q and as residual */
    rw_tensor *flat = rw_tape_reshape(t, z, 2, (int64_t[]){ROWS / 2, 8});
    rw_tensor *twice = rw_binary(t, RW_BINARY_MUL, flat, flat);
    out[0] = rw_matmul(t, x, in[1], true, rw_tape_reshape(t, twice, 2, (int64_t[]){ROWS, 4}));
    out[1] = x; /* its gradient is seeded before others arrive */
    out[2] = rw_binary(t, RW_BINARY_ADD, z, x);
}

static void residuals(void **state) {
    (void)state;
    const tc_input in[] = {{"x", 2, {ROWS, 4}, -1, 1}, {"w", 2, {4, 4}, -1, 1}};
    tc_check(&b, "residuals", build_residuals, NULL, in, 2);
    reset();
}

static void leaves(void **state) {
    (void)state;
    rw_tensor *x = leaf(), *y = rw_tape_reshape(b.tape, x, 1, (int64_t[]){ROWS * WIDE});
    seed(y);
    seed(y); /* adds */
    back();
    for (int i = 0; i < ROWS * WIDE; i++) assert_true(((double *)x->grad)[i] == 2 * (1 + noise(3, i) / 2));
    reset();
    x = leaf();
    rw_tensor *unused = tanh_of(x); /* nobody asks: no gradient */
    (void)unused;
    back();
    assert_null(x->grad);
    reset();
}

/* -- segments -------------------------------------------------------------------------------------------------------
 */

typedef struct {
    int depth, times;
    bool checkpoint;
} nest;

/* `times` layers tanh(x w + x), each of which is computed again on its own while depth > 0. out[1]: a second output. */
static void layers(rw_tape *t, const void *ctx, rw_tensor *const *in, rw_tensor **out) {
    const nest *n = ctx;
    rw_tensor *x = in[0], *side = NULL;
    for (int i = 0; i < n->times; i++) {
        rw_scope s = rw_scope_begin(t);
        rw_tensor *next[2] = {NULL};
        nest below = {n->depth - 1, n->times, n->checkpoint};
        if (n->depth == 0)
            next[0] = rw_unary(t, RW_UNARY_TANH, rw_matmul(t, x, in[1], true, x), 0);
        else if (n->checkpoint)
            rw_tape_recompute(t, layers, &below, sizeof below, (rw_tensor *[]){x, in[1], NULL}, 3, next, 2);
        else
            layers(t, &below, (rw_tensor *[]){x, in[1], NULL}, next);
        below.depth = below.times = 99; /* the tape has a copy */
        rw_scope_end(t, s, next, 2);
        x = next[0];
        side = next[1];
    }
    out[0] = x;
    out[1] = n->depth == 0 ? rw_unary(t, RW_UNARY_SQUARE, in[0], 0) : side;
}

static void nested_recomputes(void **state) {
    (void)state;
    int64_t peak[2] = {0};
    double dx[2][ROWS * WIDE], dw[2][WIDE * WIDE];
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        rw_tensor p = parameter(), *x = leaf(), *out[2];
        nest n = {2, 3, checkpoint != 0};
        b.arena.high_water = 0;
        rw_scope s = rw_scope_begin(b.tape);
        layers(b.tape, &n, (rw_tensor *[]){x, &p}, out);
        rw_scope_end(b.tape, s, out, 2);
        assert_non_null(out[1]);
        seed(out[0]);
        seed(out[1]);
        back();
        memcpy(dx[checkpoint], x->grad, sizeof dx[0]);
        memcpy(dw[checkpoint], gradient, sizeof dw[0]);
        peak[checkpoint] = b.arena.high_water;
        reset();
    }
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    assert_memory_equal(dw[0], dw[1], sizeof dw[0]);
    print_message("  27 layers: %lld bytes, as nested segments %lld\n", (long long)peak[0], (long long)peak[1]);
    assert_true(peak[1] * 2 < peak[0]);
}

/* No input wants a gradient, but a parameter inside does. */
static void product(rw_tape *t, const void *ctx, rw_tensor *const *in, rw_tensor **out) {
    rw_tensor *const *p = ctx;
    out[0] = rw_matmul(t, in[0], *p, true, NULL);
}

static void recompute_of_parameters(void **state) {
    (void)state;
    rw_tensor p = parameter(), *pointer = &p, *y[1];
    rw_tensor *x = rw_tape_wrap(b.tape, RW_F64, 2, shape, values);
    rw_tape_recompute(b.tape, product, &pointer, sizeof pointer, &x, 1, y, 1);
    seed(y[0]);
    back();
    assert_true(p.grad_written);
    assert_null(x->grad);
    reset();
    rw_tape_record(b.tape, false);
    x = rw_tape_wrap(b.tape, RW_F64, 2, shape, values);
    rw_tape_recompute(b.tape, product, &pointer, sizeof pointer, &x, 1, y, 1);
    assert_false(y[0]->requires_grad);
    rw_tape_record(b.tape, true);
    reset();
}

static void out_of_memory(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    int failures = 0;
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_tape *t = NULL;
        rw_alloc_fail_after(n);
        rw_status status = rw_tape_new(&t, b.device, &b.arena, &err);
        if (status == RW_OK) {
            rw_tensor *x = rw_tape_wrap(t, RW_F64, 2, shape, values), *y = x;
            if (x) x->requires_grad = true;
            for (int i = 0; i < 300; i++) y = rw_unary(t, RW_UNARY_TANH, y, 0); /* more than a chunk of nodes */
            if (y) rw_tape_seed_grad(t, y, values);
            status = rw_tape_backward(t, &err);
        }
        rw_alloc_fail_after(0);
        rw_tape_free(t);
        assert_int_equal(b.arena.live, 0);
        assert_in_range(rw_alloc_live() - live, 0, 1); /* the arena's own table may have grown */
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        failures++;
    }
    assert_true(failures > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(scopes),
                                       cmocka_unit_test(recording_keeps),
                                       cmocka_unit_test(backward_gives_back),
                                       cmocka_unit_test(addresses_repeat),
                                       cmocka_unit_test(full_arena),
                                       cmocka_unit_test(parameters_overwrite_then_add),
                                       cmocka_unit_test(residuals),
                                       cmocka_unit_test(leaves),
                                       cmocka_unit_test(nested_recomputes),
                                       cmocka_unit_test(recompute_of_parameters),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, open_bench, close_bench);
}
