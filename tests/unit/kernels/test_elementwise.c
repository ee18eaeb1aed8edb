/* Every unary and binary operation: finite differences, repeats of the second argument, in place, and conversions. */
#include "tests/unit/kernels/device_test.h"

#include "core/base/dtype.h"

TEST_OP(unary, rw_unary_args)
TEST_OP(binary, rw_binary_args)

typedef struct {
    rw_unary_op op;
    double lo, hi;
} unary_case;

static const unary_case unaries[] = {
    {RW_UNARY_COPY, -1, 1}, {RW_UNARY_SCALE, -1, 1},  {RW_UNARY_TANH, -3, 3},     {RW_UNARY_SIGMOID, -5, 5},
    {RW_UNARY_SILU, -5, 5}, {RW_UNARY_RELU, 0.01, 1}, {RW_UNARY_RELU, -1, -0.01}, {RW_UNARY_EXP, -3, 3},
    {RW_UNARY_LOG, 0.1, 9}, {RW_UNARY_SQUARE, -2, 2}, {RW_UNARY_SQRT, 0.1, 4},
};

static void check_unary(const unary_case *u, int64_t n) {
    gc g = {.seed = (uint64_t)n, .samples = 20};
    unary_ctx c = {.d = test_device(RW_F64, 2), .a = {.dtype = RW_F64, .op = u->op, .n = n, .alpha = -1.75}};
    c.a.x = gc_input(&g, "x", n, u->lo, u->hi);
    c.a.out = gc_output(&g, "out", n);
    c.a.dout = gc_dout(&g, "out");
    c.a.dx = gc_grad(&g, "x");
    gc_check(&g, unary_forward_fn, unary_backward_fn, &c);
    uint32_t add = 0;
    const gc_slot slots[] = {{"x", &c.a.dx, 0}};
    gc_check_slots(&g, unary_backward_fn, &c, slots, 1, &add);

    double *dx = c.a.dx, *sum = test_memory(sizeof(double) * (size_t)n);
    unary_backward_fn(&c);
    for (int64_t i = 0; i < n; i++) sum[i] = 2;
    c.a.dx = sum, c.a.add = true;
    unary_backward_fn(&c);
    for (int64_t i = 0; i < n; i++) assert_true(fabs(sum[i] - 2 - dx[i]) < 1e-12);
    c.a.dout = NULL, c.a.add = false;
    unary_backward_fn(&c);
    for (int64_t i = 0; i < n; i++) assert_true(sum[i] == 0);

    memcpy(sum, c.a.x, sizeof(double) * (size_t)n);
    unary_forward_fn(&c);
    const double *out = c.a.out;
    c.a.x = sum, c.a.out = sum;
    unary_forward_fn(&c);
    assert_memory_equal(sum, out, sizeof(double) * (size_t)n);
    free(sum);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_unary(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof unaries / sizeof *unaries; i++) {
        check_unary(&unaries[i], 1);
        check_unary(&unaries[i], 67);
        check_unary(&unaries[i], 9000);
    }
}

static void check_binary(rw_binary_op op, int64_t n, int64_t period) {
    gc g = {.seed = (uint64_t)(n + op), .samples = 20};
    binary_ctx c = {.d = test_device(RW_F64, 3), .a = {.dtype = RW_F64, .op = op, .n = n, .period = period}};
    c.a.a = gc_input(&g, "a", n, -1, 1);
    c.a.b = gc_input(&g, "b", period ? period : n, 0.5, 2);
    c.a.out = gc_output(&g, "out", n);
    c.a.dout = gc_dout(&g, "out");
    c.a.da = gc_grad(&g, "a");
    c.a.db = gc_grad(&g, "b");
    gc_check(&g, binary_forward_fn, binary_backward_fn, &c);
    const gc_slot slots[] = {{"a", &c.a.da, RW_BINARY_ADD_A}, {"b", &c.a.db, RW_BINARY_ADD_B}};
    gc_check_slots(&g, binary_backward_fn, &c, slots, 2, &c.a.add);

    double *in_place = test_memory(sizeof(double) * (size_t)n);
    memcpy(in_place, c.a.a, sizeof(double) * (size_t)n);
    const double *out = c.a.out;
    c.a.a = in_place, c.a.out = in_place;
    binary_forward_fn(&c);
    assert_memory_equal(in_place, out, sizeof(double) * (size_t)n);
    free(in_place);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_binary(void **state) {
    (void)state;
    static const rw_binary_op ops[] = {RW_BINARY_ADD, RW_BINARY_SUB, RW_BINARY_MUL, RW_BINARY_DIV};
    for (size_t i = 0; i < 4; i++) {
        check_binary(ops[i], 1, 0);
        check_binary(ops[i], 40, 8);
        check_binary(ops[i], 12, 1);
        check_binary(ops[i], 9000, 0);
        check_binary(ops[i], 9000, 300);
    }
}

static void test_cast(void **state) {
    (void)state;
    enum { N = 9001 };
    rw_device *d = test_device(RW_F32, 2);
    float *x = test_memory(sizeof(float) * N), *back = test_memory(sizeof(float) * N);
    uint16_t *h = test_memory(sizeof(uint16_t) * N);
    test_fill_f32(x, N, 1, -100, 100);
    d->kernels->cast(&(rw_cast_args){.n = N, .from = RW_F32, .to = RW_BF16, .src = x, .dst = h}, &d->exec);
    d->kernels->cast(&(rw_cast_args){.n = N, .from = RW_BF16, .to = RW_F32, .src = h, .dst = back}, &d->exec);
    for (int i = 0; i < N; i++) {
        assert_int_equal(h[i], rw_bf16_from_f32(x[i]));
        assert_true(back[i] == rw_f32_from_bf16(h[i]));
    }
    free(x), free(back), free(h);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_cast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
