/* Products against three plain loops: every layout, pitches wider than a row, batches, a residual elsewhere, empty
 * sums, every epilogue, several thread counts; and that nothing outside of the result is written. */
#include "tests/unit/kernels/device_test.h"

#include "kernels/cpu/blas.h"

typedef struct {
    int64_t M, N, K, batch, pad;
    int c; /* 0: none, 1: c == out, 2: elsewhere */
    double alpha;
} shape;

static const shape shapes[] = {
    {1, 1, 1, 0, 0, 0, 0},       {3, 5, 7, 0, 3, 0, 0},    {3, 5, 7, 0, 3, 1, 2.5},   {3, 5, 7, 2, 3, 2, -1},
    {4, 6, 0, 0, 0, 0, 0},       {4, 6, 0, 0, 2, 1, 0},    {4, 6, 0, 3, 2, 2, 0},     {0, 6, 4, 0, 0, 0, 0},
    {1, 5, 0, 0, 0, 2, 0},       {1, 70, 90, 0, 0, 0, 1},  {1, 64, 33, 0, 3, 2, -2},  {1, 200, 100, 3, 5, 1, 0.5},
    {1, 300, 257, 0, 1, 1, 0},   {65, 33, 17, 0, 1, 2, 0}, {130, 70, 90, 0, 0, 0, 1}, {64, 200, 100, 2, 5, 1, 1},
    {17, 32, 100, 9, 0, 2, 0.5},
};

/* Stored elements of a matrix of rows x cols with a pitch, and of all problems. */
static int64_t pitch(int64_t cols, int64_t pad) {
    return cols + pad;
}

static double at(const void *x, rw_dtype t, int64_t i) {
    return t == RW_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

static void *random_numbers(rw_dtype t, int64_t n, uint64_t stream) {
    void *x = test_memory((size_t)(n * rw_dtype_bytes(t)));
    if (t == RW_F64)
        test_fill_f64(x, n, stream, -1, 1);
    else
        test_fill_f32(x, n, stream, -1, 1);
    return x;
}

/* In (0, 1): such as every activation may give. */
static void *random_acts(rw_dtype t, int64_t n) {
    void *x = test_memory((size_t)(n * rw_dtype_bytes(t)));
    if (t == RW_F64)
        test_fill_f64(x, n, 5, 0, 1);
    else
        test_fill_f32(x, n, 5, 0, 1);
    return x;
}

typedef struct {
    rw_matmul_args a;
    int64_t n_out;
    void *before, *c_copy, *act;
} problem;

/* y: the product with c; a: what the forward epilogue wrote. */
static double finished(rw_epilogue f, double y, double a) {
    switch (f) {
    case RW_EPILOGUE_NONE:
        return y;
    case RW_EPILOGUE_RELU_SQ:
        return y > 0 ? y * y : 0;
    case RW_EPILOGUE_TANH:
        return tanh(y);
    case RW_EPILOGUE_SIGMOID:
        return 1 / (1 + exp(-y));
    case RW_EPILOGUE_D_RELU_SQ:
        return 2 * y * sqrt(a);
    case RW_EPILOGUE_D_TANH:
        return y * (1 - a * a);
    case RW_EPILOGUE_D_SIGMOID:
        return y * a * (1 - a);
    }
    return NAN;
}

static double expected(const problem *p, int64_t b, int64_t i, int64_t j) {
    const rw_matmul_args *a = &p->a;
    double sum = 0;
    for (int64_t k = 0; k < a->K; k++) {
        int64_t ia = b * a->stride_a + (a->trans_a ? k * a->lda + i : i * a->lda + k);
        int64_t ib = b * a->stride_b + (a->trans_b ? j * a->ldb + k : k * a->ldb + j);
        sum += at(a->a, a->dtype, ia) * at(a->b, a->dtype, ib);
    }
    sum *= a->alpha == 0 ? 1 : a->alpha;
    if (a->c == a->out && a->c) sum += at(p->before, a->dtype, b * a->stride_o + i * a->ldo + j);
    if (a->c != a->out && a->c) sum += at(p->c_copy, a->dtype, b * a->stride_c + i * a->ldc + j);
    return finished(a->epilogue, sum, at(p->act, a->dtype, b * a->stride_o + i * a->ldo + j));
}

static void compare(const problem *p) {
    const rw_matmul_args *a = &p->a;
    double tolerance = (a->dtype == RW_F64 ? 1e-14 : 2e-6) * (double)(a->K + 2);
    if (a->epilogue == RW_EPILOGUE_RELU_SQ) tolerance *= 2 * sqrt((double)a->K + 1); /* the slope at a large product */
    for (int64_t n = 0; n < p->n_out; n++) {
        int64_t b = n / (a->stride_o ? a->stride_o : 1), rest = n % (a->stride_o ? a->stride_o : 1);
        int64_t i = rest / a->ldo, j = rest % a->ldo;
        if (i < a->M && j < a->N)
            assert_true(fabs(at(a->out, a->dtype, n) - expected(p, b, i, j)) <= tolerance);
        else
            assert_memory_equal((char *)a->out + n * rw_dtype_bytes(a->dtype),
                                (char *)p->before + n * rw_dtype_bytes(a->dtype), (size_t)rw_dtype_bytes(a->dtype));
    }
}

static void run_case(rw_dtype t, int threads, const shape *s, bool ta, bool tb, rw_epilogue f) {
    rw_device *d = test_device(t, threads);
    int64_t batch = s->batch ? s->batch : 1;
    problem p = {.a = {.dtype = t,
                       .M = s->M,
                       .N = s->N,
                       .K = s->K,
                       .trans_a = ta,
                       .trans_b = tb,
                       .alpha = s->alpha,
                       .epilogue = f}};
    rw_matmul_args *a = &p.a;
    a->batch = s->batch;
    a->lda = pitch(ta ? s->M : s->K, s->pad), a->ldb = pitch(tb ? s->K : s->N, s->pad);
    a->ldc = pitch(s->N, 2 * s->pad), a->ldo = s->c == 1 ? a->ldc : pitch(s->N, s->pad);
    a->stride_a = (ta ? s->K : s->M) * a->lda + 3, a->stride_b = (tb ? s->N : s->K) * a->ldb + 1;
    a->stride_c = s->M * a->ldc + 4, a->stride_o = s->c == 1 ? a->stride_c : s->M * a->ldo + 2;
    p.n_out = batch * a->stride_o;
    void *xa = random_numbers(t, batch * a->stride_a, 1), *xb = random_numbers(t, batch * a->stride_b, 2);
    void *out = random_numbers(t, p.n_out, 3);
    p.c_copy = random_numbers(t, batch * a->stride_c, 4);
    p.before = random_numbers(t, p.n_out, 3);
    p.act = random_acts(t, p.n_out);
    a->act = f >= RW_EPILOGUE_D_RELU_SQ ? p.act : NULL;
    a->a = xa, a->b = xb, a->out = out;
    a->c = s->c == 0 ? NULL : s->c == 1 ? out : p.c_copy;
    if (s->c == 0 && s->pad == 0) memset(out, 0xFF, (size_t)(p.n_out * rw_dtype_bytes(t))); /* beta 0 reads nothing */
    if (s->c == 0 && s->pad == 0) memset(p.before, 0xFF, (size_t)(p.n_out * rw_dtype_bytes(t)));
    if (s->pad == 0 && s->batch == 0) a->lda = a->ldb = 0; /* 0 stands for tight */
    rw_matmul_args with_pitches = *a;
    d->kernels->matmul(a, &d->exec);
    if (a->lda == 0) with_pitches.lda = ta ? s->M : s->K, with_pitches.ldb = tb ? s->K : s->N;
    p.a = with_pitches;
    compare(&p);
    free(xa), free(xb), free(out), free(p.c_copy), free(p.before), free(p.act);
    rw_device_close(d);
}

static void test_all_layouts(void **state) {
    (void)state;
    static const rw_dtype types[] = {RW_F32, RW_F64};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int way = 0; way < 16; way++)
            run_case(types[way & 1], way & 2 ? 3 : 1, &shapes[s], way & 4, way & 8, RW_EPILOGUE_NONE);
}

static void test_epilogues(void **state) {
    (void)state;
    static const rw_dtype types[] = {RW_F32, RW_F64};
    for (rw_epilogue f = RW_EPILOGUE_RELU_SQ; f <= RW_EPILOGUE_D_SIGMOID; f++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int way = 0; way < 16; way++)
                if (f < RW_EPILOGUE_D_RELU_SQ || shapes[s].c == 0) /* slopes have no c */
                    run_case(types[way & 1], way & 2 ? 3 : 1, &shapes[s], way & 4, way & 8, f);
    assert_int_equal(rw_epilogue_slope(RW_EPILOGUE_NONE), RW_EPILOGUE_NONE);
    assert_int_equal(rw_epilogue_slope(RW_EPILOGUE_RELU_SQ), RW_EPILOGUE_D_RELU_SQ);
    assert_int_equal(rw_epilogue_slope(RW_EPILOGUE_SIGMOID), RW_EPILOGUE_D_SIGMOID);
}

/* An epilogue gives the bits of the kernel that does the same alone. */
static void test_same_bits(void **state) {
    (void)state;
    enum { M = 70, N = 130, K = 40 };
    rw_device *d = test_device(RW_F32, 3);
    float *a = random_numbers(RW_F32, M * K, 1), *b = random_numbers(RW_F32, K * N, 2);
    float *fused = test_memory(sizeof(float) * M * N), *alone = test_memory(sizeof(float) * M * N);
    float *act = random_acts(RW_F32, M * N);
    for (rw_epilogue f = RW_EPILOGUE_RELU_SQ; f <= RW_EPILOGUE_D_SIGMOID; f++) {
        rw_matmul_args p = {.dtype = RW_F32, .M = M, .N = N, .K = K, .a = a, .b = b, .out = alone};
        rw_unary_op op = f == RW_EPILOGUE_TANH || f == RW_EPILOGUE_D_TANH ? RW_UNARY_TANH : RW_UNARY_SIGMOID;
        rw_relu_sq_args relu = {.n = M * N, .x = alone, .out = alone};
        rw_unary_args other = {.op = op, .n = M * N, .x = alone, .out = alone};
        d->kernels->matmul(&p, &d->exec);
        if (f >= RW_EPILOGUE_D_RELU_SQ) {
            relu.out = other.out = act;
            relu.dx = other.dx = alone;
            relu.dout = other.dout = alone;
        }
        if (f == RW_EPILOGUE_RELU_SQ) d->kernels->relu_sq_forward(&relu, &d->exec);
        if (f == RW_EPILOGUE_D_RELU_SQ) d->kernels->relu_sq_backward(&relu, &d->exec);
        if (f == RW_EPILOGUE_TANH || f == RW_EPILOGUE_SIGMOID) d->kernels->unary_forward(&other, &d->exec);
        if (f == RW_EPILOGUE_D_TANH || f == RW_EPILOGUE_D_SIGMOID) d->kernels->unary_backward(&other, &d->exec);
        p.out = fused;
        p.epilogue = f;
        p.act = f >= RW_EPILOGUE_D_RELU_SQ ? act : NULL;
        d->kernels->matmul(&p, &d->exec);
        assert_memory_equal(fused, alone, sizeof(float) * M * N);
    }
    free(a), free(b), free(fused), free(alone), free(act);
    rw_device_close(d);
}

/* The same bits every time, and inside a parallel region too. */
static void test_deterministic(void **state) {
    (void)state;
    enum { M = 150, N = 170, K = 300 };
    rw_device *d = test_device(RW_F32, 4);
    float *a = random_numbers(RW_F32, M * K, 1), *b = random_numbers(RW_F32, K * N, 2);
    float *first = test_memory(sizeof(float) * M * N), *again = test_memory(sizeof(float) * M * N);
    rw_matmul_args args = {.dtype = RW_F32, .M = M, .N = N, .K = K, .a = a, .b = b, .out = first};
    d->kernels->matmul(&args, &d->exec);
    for (int i = 0; i < 20; i++) {
        args.out = again;
        d->kernels->matmul(&args, &d->exec);
        assert_memory_equal(first, again, sizeof(float) * M * N);
    }
    free(a), free(b), free(first), free(again);
    rw_device_close(d);
}

/* One row of a decoding model: any number of threads gives the same bits, with b as [N,K] and as [K,N]. */
static void test_one_row(void **state) {
    (void)state;
    enum { N = 515, K = 301 };
    float *a = random_numbers(RW_F32, K, 1), *b = random_numbers(RW_F32, K * N, 2), *c = random_numbers(RW_F32, N, 3);
    float first[N], again[N];
    for (int way = 0; way < 4; way++)
        for (int threads = 1; threads <= 5; threads++) {
            rw_device *d = test_device(RW_F32, threads);
            rw_matmul_args args = {.dtype = RW_F32, .M = 1, .N = N, .K = K, .a = a, .b = b, .trans_b = way & 1};
            args.c = way & 2 ? c : NULL;
            args.out = threads == 1 ? first : again;
            d->kernels->matmul(&args, &d->exec);
            if (threads > 1) assert_memory_equal(first, again, sizeof first);
            rw_device_close(d);
        }
    free(a), free(b), free(c);
}

static void test_which_kernels(void **state) {
    (void)state;
    assert_true(rw_blas_core_is_slow("Prescott", true));
    assert_true(rw_blas_core_is_slow("Core2", true));
    assert_true(rw_blas_core_is_slow("generic", true));
    assert_false(rw_blas_core_is_slow("Prescott", false));
    assert_false(rw_blas_core_is_slow("Zen", true));
    rw_device_close(test_device(RW_F32, 1));
    assert_true(strlen(rw_blas_path()) > 0);
    assert_string_not_equal(rw_blas_corename(), "none");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_layouts),   cmocka_unit_test(test_epilogues), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_one_row),   cmocka_unit_test(test_which_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
