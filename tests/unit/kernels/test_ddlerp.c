/* ddlerp: gradients by differences (several tiles of rows included); the formula in plain loops; tanh_h in place of h;
 * packed documents equal each alone; NULL dout; the same bits for any number of threads. */
#include "tests/unit/kernels/device_test.h"

enum { STATE_NONE, STATE_OWN, STATE_SHARED };

typedef struct {
    int64_t C, rank, n_seq;
    int32_t cu[8]; /* cu[0] < 0: no table, R = -cu[0] */
    int state;
} shape;

static const shape shapes[] = {
    {8, 4, 1, {-5}, STATE_NONE},
    {20, 3, 2, {-6}, STATE_OWN},
    {70, 32, 4, {0, 1, 18, 18, 64}, STATE_OWN},
    {33, 5, 5, {0, 0, 1, 18, 64, 64}, STATE_SHARED},
    {17, 2, 3, {0, 299, 300, 600}, STATE_OWN},
    {9, 2, 3, {0, 255, 256, 800}, STATE_SHARED},
    {17, 2, 1, {-1}, STATE_SHARED},
    {12, 2, 2, {0, 0, 0}, STATE_OWN},
};

static const char *const mu_names[] = {"mu_w", "mu_k", "mu_v", "mu_r", "mu_g"};
static const char *const out_names[] = {"out_w", "out_k", "out_v", "out_r", "out_g"};

typedef struct {
    rw_device *d;
    rw_ddlerp_args a;
    void *forward_scratch, *backward_scratch;
} ddlerp_ctx;

static void forward(void *p) {
    ddlerp_ctx *c = p;
    c->a.scratch = c->forward_scratch;
    c->d->kernels->ddlerp_forward(&c->a, &c->d->exec);
}

static void backward(void *p) {
    ddlerp_ctx *c = p;
    c->a.scratch = c->backward_scratch;
    c->d->kernels->ddlerp_backward(&c->a, &c->d->exec);
}

static void make(gc *g, ddlerp_ctx *c, const shape *s) {
    rw_ddlerp_args *a = &c->a;
    const int64_t C = s->C, n = a->R * C, D = s->rank, states = s->state == STATE_SHARED ? 1 : a->n_seq;
    if (s->cu[0] >= 0) a->cu_seqlens = gc_fixed(g, "cu_seqlens", s->cu, (a->n_seq + 1) * 4);
    a->xn = gc_input(g, "xn", n, -1, 1);
    a->h = gc_input(g, "h", a->R * 5 * D, -2, 2), a->w2 = gc_input(g, "w2", 5 * D * C, -1, 1);
    if (s->state != STATE_NONE) a->shift_in = gc_input(g, "shift_in", states * C, -1, 1);
    if (s->state == STATE_OWN) a->shift_in_stride = C;
    for (int i = 0; i < 5; i++) {
        a->mu[i] = gc_input(g, mu_names[i], C, -0.5, 1.5);
        a->out[i] = gc_output(g, out_names[i], n), a->dout[i] = gc_dout(g, out_names[i]);
        a->dmu[i] = gc_grad(g, mu_names[i]);
    }
    a->tanh_h = gc_output(g, "tanh_h", a->R * 5 * D);
    a->dxn = gc_grad(g, "xn"), a->dh = gc_grad(g, "h"), a->dw2 = gc_grad(g, "w2");
    if (a->shift_in) a->dshift_in = gc_grad(g, "shift_in");
    c->forward_scratch = gc_scratch(g, c->d->kernels->ddlerp_forward_scratch(a, &c->d->exec));
    c->backward_scratch = gc_scratch(g, c->d->kernels->ddlerp_backward_scratch(a, &c->d->exec));
}

static void check_gradients(const shape *s, int threads) {
    ddlerp_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 31, .samples = 50};
    rw_ddlerp_args *a = &c.a;
    *a = (rw_ddlerp_args){.dtype = RW_F64,
                          .R = s->cu[0] < 0 ? -s->cu[0] : s->cu[s->n_seq],
                          .C = s->C,
                          .rank = s->rank,
                          .n_seq = s->n_seq};
    make(&g, &c, s);
    gc_check(&g, forward, backward, &c);
    gc_slot slots[9] = {
        {"xn", &a->dxn, RW_DDLERP_ADD_XN}, {"h", &a->dh, RW_DDLERP_ADD_H}, {"w2", &a->dw2, RW_DDLERP_ADD_W2}};
    int n = 3;
    if (a->shift_in) slots[n++] = (gc_slot){"shift_in", &a->dshift_in, RW_DDLERP_ADD_SHIFT_IN};
    for (int i = 0; i < 5; i++) slots[n++] = (gc_slot){mu_names[i], &a->dmu[i], (uint32_t)RW_DDLERP_ADD_MU << i};
    gc_check_slots(&g, backward, &c, slots, n, &a->add);
    printf("ddlerp R %lld C %lld rank %lld: worst difference %.2g\n", (long long)a->R, (long long)a->C,
           (long long)a->rank, g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gradients(&shapes[i], 1 + (int)i % 3);
}

/* -- values ----------------------------------------------------------------------------------------------- */

enum { R = 300, C = 40, D = 6 };

typedef struct {
    double xn[R * C], h[R * 5 * D], w2[5 * D * C], mu[5][C], state[4 * C], dout[5][R * C];
    double out[5][R * C], tanh_h[R * 5 * D];
    double dxn[R * C], dh[R * 5 * D], dw2[5 * D * C], dmu[5][C], dstate[4 * C];
} values;

static void fill(values *v) {
    test_fill_f64(v->xn, R * C, 1, -1, 1), test_fill_f64(v->h, R * 5 * D, 2, -2, 2);
    test_fill_f64(v->w2, 5 * D * C, 3, -1, 1), test_fill_f64(v->mu[0], 5 * C, 4, 0, 1);
    test_fill_f64(v->state, 4 * C, 5, -1, 1), test_fill_f64(v->dout[0], 5 * R * C, 6, -1, 1);
}

static rw_ddlerp_args args_of(values *v, int64_t first, int64_t rows, int64_t n_seq, const int32_t *cu) {
    rw_ddlerp_args a = {.dtype = RW_F64,
                        .R = rows,
                        .C = C,
                        .rank = D,
                        .n_seq = n_seq,
                        .cu_seqlens = cu,
                        .xn = v->xn + first * C,
                        .shift_in = v->state,
                        .shift_in_stride = C,
                        .h = v->h + first * 5 * D,
                        .w2 = v->w2,
                        .tanh_h = v->tanh_h + first * 5 * D,
                        .dxn = v->dxn + first * C,
                        .dshift_in = v->dstate,
                        .dh = v->dh + first * 5 * D,
                        .dw2 = v->dw2};
    for (int i = 0; i < 5; i++) {
        a.mu[i] = v->mu[i], a.out[i] = v->out[i] + first * C;
        a.dout[i] = v->dout[i] + first * C, a.dmu[i] = v->dmu[i];
    }
    return a;
}

static void run(rw_ddlerp_args *a, int threads, bool with_backward) {
    rw_device *d = test_device(RW_F64, threads);
    a->scratch = test_memory((size_t)d->kernels->ddlerp_forward_scratch(a, &d->exec));
    d->kernels->ddlerp_forward(a, &d->exec);
    free(a->scratch);
    a->scratch = test_memory((size_t)d->kernels->ddlerp_backward_scratch(a, &d->exec));
    if (with_backward) d->kernels->ddlerp_backward(a, &d->exec);
    free(a->scratch);
    rw_device_close(d);
}

static const int32_t documents[] = {0, 1, 1, 18, 300};

static void test_formula(void **state) {
    (void)state;
    static values v;
    fill(&v);
    rw_ddlerp_args a = args_of(&v, 0, R, 4, documents);
    run(&a, 2, false);
    for (int s = 0; s < 4; s++)
        for (int t = documents[s]; t < documents[s + 1]; t++)
            for (int i = 0; i < 5; i++)
                for (int c = 0; c < C; c++) {
                    double m = v.mu[i][c], now = v.xn[t * C + c];
                    double prev = t > documents[s] ? v.xn[(t - 1) * C + c] : v.state[s * C + c];
                    for (int k = 0; k < D; k++) m += tanh(v.h[(t * 5 + i) * D + k]) * v.w2[(i * D + k) * C + c];
                    assert_true(fabs(v.out[i][t * C + c] - (now + (prev - now) * m)) < 1e-13);
                }
}

/* tanh_h may be h itself, or not wanted. */
static void test_tanh_in_place(void **state) {
    (void)state;
    static values v, w;
    fill(&v), fill(&w);
    rw_ddlerp_args a = args_of(&v, 0, R, 4, documents), b = args_of(&w, 0, R, 4, documents);
    b.tanh_h = w.h;
    run(&a, 2, true), run(&b, 2, true);
    assert_memory_equal(v.out, w.out, sizeof v.out);
    assert_memory_equal(v.tanh_h, w.h, sizeof v.tanh_h);
    assert_memory_equal(v.dh, w.dh, sizeof v.dh);
    fill(&w);
    memset(w.out, 0xFF, sizeof w.out);
    b.tanh_h = NULL;
    run(&b, 2, false);
    assert_memory_equal(v.out, w.out, sizeof v.out);
}

static double distance(const double *x, const double *y, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) worst = isnan(x[i]) ? INFINITY : fmax(worst, fabs(x[i] - y[i]));
    return worst;
}

static void test_packed(void **state) {
    (void)state;
    static values whole, alone;
    fill(&whole), fill(&alone);
    rw_ddlerp_args a = args_of(&whole, 0, R, 4, documents);
    run(&a, 3, true);
    for (int s = 0; s < 4; s++) {
        rw_ddlerp_args b = args_of(&alone, documents[s], documents[s + 1] - documents[s], 1, NULL);
        b.shift_in = alone.state + s * C, b.dshift_in = alone.dstate + s * C;
        run(&b, 1, true);
    }
    assert_true(distance(whole.out[0], alone.out[0], sizeof whole.out / 8) < 1e-14);
    assert_true(distance(whole.dxn, alone.dxn, R * C) < 1e-12);
    assert_true(distance(whole.dh, alone.dh, R * 5 * D) < 1e-12);
    assert_true(distance(whole.dstate, alone.dstate, 4 * C) < 1e-12);
    for (int c = 0; c < C; c++) assert_true(whole.dstate[C + c] == 0); /* the empty one */
}

/* A NULL dout counts as zeros. */
static void test_null_dout(void **state) {
    (void)state;
    static values null, zero;
    fill(&null), fill(&zero);
    memset(zero.dout[2], 0, sizeof zero.dout[2]);
    rw_ddlerp_args a = args_of(&null, 0, R, 4, documents), b = args_of(&zero, 0, R, 4, documents);
    a.dout[2] = NULL;
    memset(null.dh, 0xFF, sizeof null.dh), memset(null.dw2, 0xFF, sizeof null.dw2);
    run(&a, 2, true), run(&b, 2, true);
    assert_true(distance(null.dxn, zero.dxn, R * C) == 0);
    assert_true(distance(null.dh, zero.dh, R * 5 * D) == 0);
    assert_true(distance(null.dw2, zero.dw2, 5 * D * C) == 0);
    assert_true(distance(null.dmu[0], zero.dmu[0], sizeof null.dmu / 8) == 0);
}

static void test_threads(void **state) {
    (void)state;
    static values one, many;
    fill(&one), fill(&many);
    rw_ddlerp_args a = args_of(&one, 0, R, 4, documents), b = args_of(&many, 0, R, 4, documents);
    run(&a, 1, true), run(&b, 3, true);
    assert_memory_equal(one.out, many.out, sizeof one.out);
    assert_memory_equal(one.dmu, many.dmu, sizeof one.dmu);
    assert_memory_equal(one.dxn, many.dxn, sizeof one.dxn);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_formula),   cmocka_unit_test(test_tanh_in_place),
        cmocka_unit_test(test_packed),    cmocka_unit_test(test_null_dout), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("ddlerp", tests, NULL, NULL);
}
