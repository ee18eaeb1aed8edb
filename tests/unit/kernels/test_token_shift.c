/* token_shift: gradients by differences for every number of mixes, both forms and all kinds of state; the formulas in
 * plain loops; packed documents equal each alone; a state handed on, and written in place; the same bits for
 * any number of threads. */
#include "tests/unit/kernels/device_test.h"

TEST_OP(token_shift, rw_token_shift_args)

enum { STATE_NONE, STATE_OWN, STATE_SHARED };

typedef struct {
    int64_t C, n_seq;
    int32_t cu[8]; /* cu[0] < 0: no table, R = -cu[0] */
    int n_mix, state;
    bool times_current, xn, shift_out;
} shape;

static const shape shapes[] = {
    {8, 1, {-5}, 1, STATE_NONE, false, false, false},
    {20, 2, {-6}, 2, STATE_OWN, true, false, true},
    {70, 4, {0, 1, 18, 18, 64}, 6, STATE_OWN, false, true, true},
    {33, 5, {0, 0, 1, 18, 64, 64}, 5, STATE_SHARED, false, true, true},
    {33, 5, {0, 0, 1, 18, 64, 64}, 4, STATE_SHARED, true, true, true},
    {16, 3, {0, 46, 46, 47}, 0, STATE_NONE, false, true, true},
    {129, 1, {-1}, 3, STATE_OWN, true, true, true},
    {9, 3, {0, 300, 301, 700}, 2, STATE_OWN, false, false, true},
    {12, 2, {0, 0, 0}, 2, STATE_OWN, false, false, true},
};

static const char *const mu_names[] = {"mu0", "mu1", "mu2", "mu3", "mu4", "mu5"};
static const char *const out_names[] = {"out0", "out1", "out2", "out3", "out4", "out5"};

static void make(gc *g, token_shift_ctx *c, const shape *s) {
    rw_token_shift_args *a = &c->a;
    const int64_t C = s->C, n = a->R * C, states = s->state == STATE_SHARED ? 1 : a->n_seq;
    if (s->cu[0] >= 0) a->cu_seqlens = gc_fixed(g, "cu_seqlens", s->cu, (a->n_seq + 1) * 4);
    a->x = gc_input(g, "x", n, -2, 3);
    a->gamma = gc_input(g, "gamma", C, -1, 2), a->beta = gc_input(g, "beta", C, -1, 1);
    if (s->state != STATE_NONE) a->shift_in = gc_input(g, "shift_in", states * C, -1, 1);
    if (s->state == STATE_OWN) a->shift_in_stride = C;
    for (int i = 0; i < s->n_mix; i++) {
        a->mu[i] = gc_input(g, mu_names[i], C, -0.5, 1.5);
        a->out[i] = gc_output(g, out_names[i], n), a->dout[i] = gc_dout(g, out_names[i]);
        a->dmu[i] = gc_grad(g, mu_names[i]);
    }
    if (s->xn) a->xn = gc_output(g, "xn", n), a->dxn = gc_dout(g, "xn");
    if (s->shift_out) a->shift_out = gc_output(g, "shift_out", a->n_seq * C), a->dshift_out = gc_dout(g, "shift_out");
    a->mean = gc_output(g, "mean", a->R), a->rstd = gc_output(g, "rstd", a->R);
    a->dx = gc_grad(g, "x"), a->dgamma = gc_grad(g, "gamma"), a->dbeta = gc_grad(g, "beta");
    if (a->shift_in) a->dshift_in = gc_grad(g, "shift_in");
    a->scratch = gc_scratch(g, c->d->kernels->token_shift_backward_scratch(a, &c->d->exec));
}

static void check_gradients(const shape *s, int threads) {
    token_shift_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 21, .samples = 50};
    rw_token_shift_args *a = &c.a;
    *a = (rw_token_shift_args){.dtype = RW_F64,
                               .R = s->cu[0] < 0 ? -s->cu[0] : s->cu[s->n_seq],
                               .C = s->C,
                               .n_seq = s->n_seq,
                               .n_mix = s->n_mix,
                               .times_current = s->times_current,
                               .eps = 1e-5};
    make(&g, &c, s);
    gc_check(&g, token_shift_forward_fn, token_shift_backward_fn, &c);
    gc_slot slots[10] = {{"x", &a->dx, RW_TOKEN_SHIFT_ADD_X},
                         {"gamma", &a->dgamma, RW_TOKEN_SHIFT_ADD_GAMMA},
                         {"beta", &a->dbeta, RW_TOKEN_SHIFT_ADD_BETA}};
    int n = 3;
    if (a->shift_in) slots[n++] = (gc_slot){"shift_in", &a->dshift_in, RW_TOKEN_SHIFT_ADD_SHIFT_IN};
    for (int i = 0; i < s->n_mix; i++)
        slots[n++] = (gc_slot){mu_names[i], &a->dmu[i], (uint32_t)RW_TOKEN_SHIFT_ADD_MU << i};
    gc_check_slots(&g, token_shift_backward_fn, &c, slots, n, &a->add);
    printf("token_shift R %lld C %lld mixes %d: worst difference %.2g\n", (long long)a->R, (long long)a->C, s->n_mix,
           g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gradients(&shapes[i], 1 + (int)i % 3);
}

/* -- values ----------------------------------------------------------------------------------------------- */

enum { R = 64, C = 48, MIXES = 3 };

/* A call on static memory. */
typedef struct {
    double x[R * C], gamma[C], beta[C], mu[MIXES][C], state[5 * C];
    double out[MIXES][R * C], xn[R * C], shift_out[5 * C];
} values;

static void fill(values *v) {
    test_fill_f64(v->x, R * C, 1, -1, 1), test_fill_f64(v->gamma, C, 2, -1, 1), test_fill_f64(v->beta, C, 3, -1, 1);
    test_fill_f64(v->mu[0], MIXES * C, 4, 0, 1), test_fill_f64(v->state, 5 * C, 5, -1, 1);
}

static rw_token_shift_args args_of(values *v, int64_t first, int64_t rows, int64_t n_seq, const int32_t *cu) {
    rw_token_shift_args a = {.dtype = RW_F64,
                             .R = rows,
                             .C = C,
                             .n_seq = n_seq,
                             .cu_seqlens = cu,
                             .n_mix = MIXES,
                             .eps = 1e-5,
                             .x = v->x + first * C,
                             .gamma = v->gamma,
                             .beta = v->beta,
                             .shift_in_stride = C,
                             .xn = v->xn + first * C};
    for (int i = 0; i < MIXES; i++) a.mu[i] = v->mu[i], a.out[i] = v->out[i] + first * C;
    return a;
}

static void run(const rw_token_shift_args *a, int threads) {
    rw_device *d = test_device(RW_F64, threads);
    d->kernels->token_shift_forward(a, &d->exec);
    rw_device_close(d);
}

/* out against xn and the row before, by the two formulas. */
static void test_formula(void **state) {
    (void)state;
    static values v;
    static const int32_t cu[] = {0, 1, 1, 18, 64};
    fill(&v);
    for (int form = 0; form < 2; form++) {
        rw_token_shift_args a = args_of(&v, 0, R, 4, cu);
        a.times_current = form, a.shift_in = v.state;
        run(&a, 2);
        for (int s = 0; s < 4; s++)
            for (int t = cu[s]; t < cu[s + 1]; t++)
                for (int i = 0; i < MIXES; i++)
                    for (int c = 0; c < C; c++) {
                        double now = v.xn[t * C + c], mu = v.mu[i][c];
                        double prev = t > cu[s] ? v.xn[(t - 1) * C + c] : v.state[s * C + c];
                        double want = form ? now * mu + prev * (1 - mu) : now + (prev - now) * mu;
                        assert_true(fabs(v.out[i][t * C + c] - want) < 1e-14);
                    }
    }
}

/* Documents of 1, 0, 17 and 46 rows equal each alone; the state is the last row, or what came in. */
static void test_packed(void **state) {
    (void)state;
    static values whole, alone;
    static const int32_t cu[] = {0, 1, 1, 18, 64};
    fill(&whole), fill(&alone);
    rw_token_shift_args a = args_of(&whole, 0, R, 4, cu);
    a.shift_in = whole.state, a.shift_out = whole.shift_out;
    run(&a, 3);
    for (int s = 0; s < 4; s++) {
        const int64_t first = cu[s], n = cu[s + 1] - cu[s];
        rw_token_shift_args b = args_of(&alone, first, n, 1, NULL);
        b.shift_in = alone.state + s * C, b.shift_out = alone.shift_out + s * C;
        run(&b, 1);
        const double *last = n ? whole.xn + (cu[s + 1] - 1) * C : whole.state + s * C;
        assert_memory_equal(whole.shift_out + s * C, last, C * 8);
    }
    assert_memory_equal(whole.out, alone.out, sizeof whole.out);
    assert_memory_equal(whole.xn, alone.xn, sizeof whole.xn);
    assert_memory_equal(whole.shift_out, alone.shift_out, 4 * C * 8);
}

static void test_pieces(void **state) {
    (void)state;
    static values whole, pieces;
    fill(&whole), fill(&pieces);
    rw_token_shift_args a = args_of(&whole, 0, R, 1, NULL);
    run(&a, 2);
    rw_token_shift_args first = args_of(&pieces, 0, 23, 1, NULL), second = args_of(&pieces, 23, R - 23, 1, NULL);
    first.shift_out = pieces.shift_out, second.shift_in = pieces.shift_out;
    run(&first, 1), run(&second, 2);
    assert_memory_equal(whole.out, pieces.out, sizeof whole.out);
}

static void test_threads(void **state) {
    (void)state;
    static float x[R * C], dout[R * C], out[R * C], gamma[C], beta[C], mu[C], mean[R], rstd[R];
    static float dx[2][R * C], sums[2][3][C];
    test_fill_f32(x, R * C, 1, -1, 1), test_fill_f32(dout, R * C, 2, -1, 1);
    test_fill_f32(gamma, C, 3, -1, 1), test_fill_f32(beta, C, 4, -1, 1), test_fill_f32(mu, C, 5, 0, 1);
    for (int i = 0; i < 2; i++) {
        rw_device *d = test_device(RW_F32, i ? 7 : 1);
        rw_token_shift_args a = {.dtype = RW_F32,
                                 .R = R,
                                 .C = C,
                                 .n_seq = 2,
                                 .n_mix = 1,
                                 .eps = 1e-5,
                                 .x = x,
                                 .gamma = gamma,
                                 .beta = beta,
                                 .mu = {mu},
                                 .out = {out},
                                 .mean = mean,
                                 .rstd = rstd,
                                 .dout = {dout},
                                 .dx = dx[i],
                                 .dgamma = sums[i][0],
                                 .dbeta = sums[i][1],
                                 .dmu = {sums[i][2]}};
        a.scratch = test_memory((size_t)d->kernels->token_shift_backward_scratch(&a, &d->exec));
        d->kernels->token_shift_forward(&a, &d->exec);
        d->kernels->token_shift_backward(&a, &d->exec);
        free(a.scratch);
        rw_device_close(d);
    }
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
    assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
}

/* The new state in place of the old one: the same bits, several tokens at a time and one. */
static void check_in_place(const int32_t *cu, int64_t n_seq, int n_mix, int threads) {
    static values apart, same;
    rw_device *d = test_device(RW_F64, threads);
    fill(&apart), fill(&same);
    rw_token_shift_args a = args_of(&apart, 0, cu[n_seq], n_seq, cu), b = args_of(&same, 0, cu[n_seq], n_seq, cu);
    a.n_mix = b.n_mix = n_mix;
    a.shift_in = apart.state, a.shift_out = apart.shift_out;
    b.shift_in = same.state, b.shift_out = same.state;
    d->kernels->token_shift_forward(&a, &d->exec);
    d->kernels->token_shift_forward(&b, &d->exec);
    assert_memory_equal(apart.shift_out, same.state, (size_t)n_seq * C * 8);
    for (int i = 0; i < n_mix; i++) assert_memory_equal(apart.out[i], same.out[i], (size_t)cu[n_seq] * C * 8);
    rw_device_close(d);
}

static void test_in_place(void **state) {
    (void)state;
    static const int32_t one[] = {0, 1}, several[] = {0, 20, 20, 21, R};
    for (int threads = 1; threads <= 4; threads++)
        for (int n_mix = 0; n_mix <= MIXES; n_mix++) {
            check_in_place(one, 1, n_mix, threads);
            check_in_place(several, 4, n_mix, threads);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_formula), cmocka_unit_test(test_packed),
        cmocka_unit_test(test_pieces),    cmocka_unit_test(test_threads), cmocka_unit_test(test_in_place),
    };
    return cmocka_run_group_tests_name("token_shift", tests, NULL, NULL);
}
