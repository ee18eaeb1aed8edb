/* wkv6: the formulas in plain loops; gradients by differences; states handed on; packed documents; decays from 0 to 1;
 * fused norm and gate against the plain ops; the same bits for any number of threads and any choice of gradients; a
 * state updated in place. All of it with a decay for each token (x060) and with a constant one (x052). */
#include "tests/unit/kernels/device_test.h"

enum { STATE_NONE, STATE_OWN, STATE_SHARED };
enum { W0 = 1, NORM = 2, GATE = 4, S_OUT = 8, EXTREME = 16, CONSTANT = 32 };

typedef struct {
    const char *name;
    int64_t N, H, n_seq;
    int32_t cu[8]; /* cu[0] < 0: no table, R = -cu[0] */
    int state;
    int parts;
    int64_t samples;
} shape;

static const shape shapes[] = {
    {"plain", 32, 2, 2, {-10}, STATE_NONE, 0, 20},
    {"one token", 32, 1, 1, {-1}, STATE_OWN, W0 | NORM | GATE | S_OUT, 24},
    {"packed, states", 32, 2, 4, {0, 1, 18, 18, 64}, STATE_OWN, W0 | S_OUT, 20},
    {"packed, shared state", 32, 2, 5, {0, 0, 1, 18, 64, 64}, STATE_SHARED, W0 | NORM | GATE | S_OUT, 20},
    {"chunks", 32, 1, 2, {0, 130, 201}, STATE_OWN, GATE | S_OUT, 20},
    {"head 64", 64, 3, 4, {0, 46, 46, 47, 64}, STATE_SHARED, W0 | NORM | GATE | S_OUT, 14},
    {"head 64, norm", 64, 1, 1, {-70}, STATE_OWN, W0 | NORM | S_OUT, 14},
    {"head 128", 128, 1, 4, {0, 0, 1, 18, 34}, STATE_OWN, W0 | NORM | GATE | S_OUT, 20},
    {"extreme decays", 32, 2, 2, {0, 40, 81}, STATE_OWN, W0 | S_OUT | EXTREME, 24},
    {"empty only", 32, 1, 2, {0, 0, 0}, STATE_SHARED, W0 | NORM | GATE | S_OUT, 10},
    {"constant decay", 32, 2, 2, {-10}, STATE_NONE, W0 | CONSTANT, 20},
    {"constant, one token", 32, 1, 1, {-1}, STATE_OWN, W0 | NORM | GATE | S_OUT | CONSTANT, 24},
    {"constant, shared state", 32, 2, 5, {0, 0, 1, 18, 64, 64}, STATE_SHARED, W0 | NORM | GATE | S_OUT | CONSTANT, 20},
    {"constant, chunks", 32, 1, 2, {0, 130, 201}, STATE_OWN, W0 | GATE | S_OUT | CONSTANT, 20},
    {"constant, head 64", 64, 3, 4, {0, 46, 46, 47, 64}, STATE_OWN, W0 | NORM | GATE | S_OUT | CONSTANT, 14},
    {"constant, head 128", 128, 1, 4, {0, 0, 1, 18, 34}, STATE_OWN, W0 | NORM | GATE | S_OUT | CONSTANT, 20},
    {"constant, extreme", 32, 2, 2, {0, 40, 81}, STATE_OWN, W0 | S_OUT | EXTREME | CONSTANT, -1},
    {"constant, empty only", 32, 1, 2, {0, 0, 0}, STATE_SHARED, W0 | NORM | GATE | S_OUT | CONSTANT, 10},
};

static int64_t rows_of(const shape *s) {
    return s->cu[0] < 0 ? -s->cu[0] : s->cu[s->n_seq];
}

/* -- gradients -------------------------------------------------------------------------------------------- */

typedef struct {
    rw_device *d;
    rw_wkv6_args a;
    void *forward_scratch, *backward_scratch;
} wkv6_ctx;

static void forward(void *p) {
    wkv6_ctx *c = p;
    c->a.scratch = c->forward_scratch;
    c->d->kernels->wkv6_forward(&c->a, &c->d->exec);
}

static void backward(void *p) {
    wkv6_ctx *c = p;
    c->a.scratch = c->backward_scratch;
    c->d->kernels->wkv6_backward(&c->a, &c->d->exec);
}

static void make_inputs(gc *g, rw_wkv6_args *a, const shape *s) {
    const int64_t n = a->R * a->H * a->N, C = a->H * a->N, states = s->state == STATE_SHARED ? 1 : a->n_seq;
    if (s->cu[0] >= 0) a->cu_seqlens = gc_fixed(g, "cu_seqlens", s->cu, (a->n_seq + 1) * 4);
    a->r = gc_input(g, "r", n, -1, 1), a->k = gc_input(g, "k", n, -1, 1), a->v = gc_input(g, "v", n, -1, 1);
    double *w = (s->parts & CONSTANT) ? gc_input(g, "w0", C, -4, 1) : gc_input(g, "w_raw", n, -4, 1);
    static const double extremes[] = {-30, -20, 3, 8, 30, 500, 2000};
    for (int64_t i = 0; (s->parts & EXTREME) && i < (s->parts & CONSTANT ? C : n); i++)
        if (i % 3 != 0) w[i] = extremes[i % 7];
    a->u = gc_input(g, "u", C, -1, 1);
    if (s->parts & CONSTANT) {
        a->w0 = w;
    } else {
        a->w_raw = w;
        if (s->parts & W0) a->w0 = gc_input(g, "w0", C, -1, 1);
    }
    if (s->parts & NORM) a->ln_w = gc_input(g, "ln_w", C, 0.5, 1.5), a->ln_b = gc_input(g, "ln_b", C, -1, 1);
    if (s->parts & GATE) a->gate = gc_input(g, "gate", n, -3, 3);
    if (s->state != STATE_NONE) a->s0 = gc_input(g, "s0", states * C * a->N, -1, 1);
    if (s->state == STATE_OWN) a->s0_stride = C * a->N;
}

static void make_outputs(gc *g, wkv6_ctx *c, const shape *s) {
    rw_wkv6_args *a = &c->a;
    const int64_t n = a->R * a->H * a->N;
    a->out = gc_output(g, "out", n);
    a->dout = gc_dout(g, "out");
    if (s->parts & S_OUT) {
        a->s_out = gc_output(g, "s_out", a->n_seq * a->H * a->N * a->N);
        a->ds_out = gc_dout(g, "s_out");
    }
    a->dr = gc_grad(g, "r"), a->dk = gc_grad(g, "k"), a->dv = gc_grad(g, "v");
    if (a->w_raw) a->dw_raw = gc_grad(g, "w_raw");
    a->du = gc_grad(g, "u");
    if (a->w0) a->dw0 = gc_grad(g, "w0");
    if (a->ln_w) a->dln_w = gc_grad(g, "ln_w"), a->dln_b = gc_grad(g, "ln_b");
    if (a->gate) a->dgate = gc_grad(g, "gate");
    if (a->s0) a->ds0 = gc_grad(g, "s0");
    const rw_kernels *k = c->d->kernels;
    a->saved = gc_saved(g, k->wkv6_saved(a, &c->d->exec));
    c->forward_scratch = gc_scratch(g, k->wkv6_forward_scratch(a, &c->d->exec));
    c->backward_scratch = gc_scratch(g, k->wkv6_backward_scratch(a, &c->d->exec));
}

static void check_gradients(const shape *s, int threads) {
    wkv6_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 11, .samples = s->samples};
    /* a large eps: the norm of one token's v * scalar is otherwise too curved for differences */
    c.a = (rw_wkv6_args){.dtype = RW_F64, .R = rows_of(s), .H = s->H, .N = s->N, .n_seq = s->n_seq, .eps = 0.1};
    make_inputs(&g, &c.a, s);
    make_outputs(&g, &c, s);
    gc_check(&g, forward, backward, &c);
    rw_wkv6_args *a = &c.a;
    const gc_slot all[] = {
        {"r", &a->dr, RW_WKV6_ADD_R},          {"k", &a->dk, RW_WKV6_ADD_K},
        {"v", &a->dv, RW_WKV6_ADD_V},          {"w_raw", &a->dw_raw, RW_WKV6_ADD_W},
        {"u", &a->du, RW_WKV6_ADD_U},          {"w0", &a->dw0, RW_WKV6_ADD_W0},
        {"s0", &a->ds0, RW_WKV6_ADD_S0},       {"gate", &a->dgate, RW_WKV6_ADD_GATE},
        {"ln_w", &a->dln_w, RW_WKV6_ADD_LN_W}, {"ln_b", &a->dln_b, RW_WKV6_ADD_LN_B},
    };
    gc_slot slots[10];
    int n = 0;
    for (int i = 0; i < 10; i++)
        if (*all[i].slot) slots[n++] = all[i];
    gc_check_slots(&g, backward, &c, slots, n, &a->add);
    printf("wkv6 %-22s worst difference %.2g\n", s->name, g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gradients(&shapes[i], i % 2 ? 2 : 1);
}

/* -- whole calls ------------------------------------------------------------------------------------------ */

enum { R_, K_, V_, W_, GATE_, DOUT_, OUT_, DR_, DK_, DV_, DW_, DGATE_, ROW_BUFFERS };
enum { W0_, U_, LN_W_, LN_B_, DW0_, DU_, DLN_W_, DLN_B_, CHANNEL_BUFFERS };
enum { S0_, DS_OUT_, S_OUT_, DS0_, STATE_BUFFERS };

/* Which decay the calls below have; the tests run with both. */
static bool constant_decay;

static int with_x060(void **state) {
    (void)state;
    constant_decay = false;
    return 0;
}
static int with_x052(void **state) {
    (void)state;
    constant_decay = true;
    return 0;
}

/* One call with everything in it; `bytes` wide numbers, made from the same fp64 numbers for both types. */
typedef struct {
    rw_device *d;
    rw_wkv6_args a;
    void *rows[ROW_BUFFERS], *channels[CHANNEL_BUFFERS], *states[STATE_BUFFERS];
} call;

static void *numbers(rw_dtype t, int64_t n, uint64_t stream, double lo, double hi, bool filled) {
    char *x = test_memory((size_t)(n * rw_dtype_bytes(t)));
    for (int64_t i = 0; filled && i < n; i++) {
        double y = (float)test_random(stream, i, lo, hi);
        if (t == RW_F64) ((double *)(void *)x)[i] = y;
        if (t == RW_F32) ((float *)(void *)x)[i] = (float)y;
    }
    return x;
}

static void connect(call *c) {
    rw_wkv6_args *a = &c->a;
    void **r = c->rows, **p = c->channels, **s = c->states;
    a->r = r[R_], a->k = r[K_], a->v = r[V_], a->w_raw = r[W_], a->gate = r[GATE_], a->dout = r[DOUT_];
    a->out = r[OUT_], a->dr = r[DR_], a->dk = r[DK_], a->dv = r[DV_], a->dw_raw = r[DW_], a->dgate = r[DGATE_];
    a->w0 = p[W0_], a->u = p[U_], a->ln_w = p[LN_W_], a->ln_b = p[LN_B_];
    a->dw0 = p[DW0_], a->du = p[DU_], a->dln_w = p[DLN_W_], a->dln_b = p[DLN_B_];
    a->s0 = s[S0_], a->ds_out = s[DS_OUT_], a->s_out = s[S_OUT_], a->ds0 = s[DS0_];
    if (constant_decay) a->w_raw = a->dw_raw = NULL;
}

static call call_new(rw_dtype t, int threads, int64_t R, int64_t H, int64_t N, int64_t n_seq, const int32_t *cu) {
    call c = {.d = test_device(t, threads)};
    c.a = (rw_wkv6_args){.dtype = t, .R = R, .H = H, .N = N, .n_seq = n_seq, .cu_seqlens = cu, .eps = 64e-5};
    c.a.s0_stride = H * N * N;
    const double lo[ROW_BUFFERS] = {[W_] = -6, -3, -1, -1}, hi[ROW_BUFFERS] = {[W_] = 1, 3, 1, 1};
    for (int i = 0; i < ROW_BUFFERS; i++)
        c.rows[i] = numbers(t, R * H * N, 100 + (uint64_t)i, i < W_ ? -1 : lo[i], i < W_ ? 1 : hi[i], i < OUT_);
    for (int i = 0; i < CHANNEL_BUFFERS; i++) c.channels[i] = numbers(t, H * N, 200 + (uint64_t)i, -1, 1, i < DW0_);
    for (int i = 0; i < STATE_BUFFERS; i++)
        c.states[i] = numbers(t, n_seq * H * N * N, 300 + (uint64_t)i, -1, 1, i < S_OUT_);
    if (constant_decay) memset(c.rows[DW_], 0, (size_t)(R * H * N * rw_dtype_bytes(t))); /* must stay so */
    connect(&c);
    return c;
}

static void call_run(call *c) {
    const rw_kernels *k = c->d->kernels;
    if (!c->a.saved) c->a.saved = test_memory((size_t)k->wkv6_saved(&c->a, &c->d->exec));
    c->a.scratch = test_memory((size_t)k->wkv6_forward_scratch(&c->a, &c->d->exec));
    k->wkv6_forward(&c->a, &c->d->exec);
    free(c->a.scratch);
    c->a.scratch = test_memory((size_t)k->wkv6_backward_scratch(&c->a, &c->d->exec));
    k->wkv6_backward(&c->a, &c->d->exec);
    free(c->a.scratch);
}

static void call_free(call *c) {
    for (int i = 0; i < ROW_BUFFERS; i++) free(c->rows[i]);
    for (int i = 0; i < CHANNEL_BUFFERS; i++) free(c->channels[i]);
    for (int i = 0; i < STATE_BUFFERS; i++) free(c->states[i]);
    free(c->a.saved);
    rw_device_close(c->d);
}

static size_t row_bytes(const call *c) {
    return (size_t)(c->a.H * c->a.N * rw_dtype_bytes(c->a.dtype));
}
static size_t state_bytes(const call *c) {
    return row_bytes(c) * (size_t)c->a.N;
}

static double get(const call *c, const void *x, int64_t i) {
    return c->a.dtype == RW_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

/* max |x - y| / max |y| */
static double distance(const call *cx, const void *x, const call *cy, const void *y, int64_t n) {
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(get(cx, x, i) - get(cy, y, i));
        worst = isnan(d) ? INFINITY : fmax(worst, d);
        largest = fmax(largest, fabs(get(cy, y, i)));
    }
    return worst / largest;
}

/* Largest distance over all that a call writes. */
static double calls_distance(const call *x, const call *y) {
    double worst = 0;
    const int64_t C = x->a.H * x->a.N;
    for (int i = OUT_; i < ROW_BUFFERS; i++) worst = fmax(worst, distance(x, x->rows[i], y, y->rows[i], x->a.R * C));
    for (int i = DW0_; i < CHANNEL_BUFFERS; i++) worst = fmax(worst, distance(x, x->channels[i], y, y->channels[i], C));
    for (int i = S_OUT_; i < STATE_BUFFERS; i++)
        worst = fmax(worst, distance(x, x->states[i], y, y->states[i], x->a.n_seq * C * x->a.N));
    return worst;
}

/* The formulas of wkv6.h for one sequence without gate and norm. */
static void plain_forward(const call *c, double *y, double *s_out) {
    const rw_wkv6_args *a = &c->a;
    const int64_t N = a->N, C = a->H * N;
    for (int64_t h = 0; h < a->H; h++) {
        double *S = s_out + h * N * N;
        for (int64_t i = 0; i < N * N; i++) S[i] = get(c, a->s0, h * N * N + i);
        for (int64_t t = 0; t < a->R; t++)
            for (int64_t i = 0; i < N; i++) {
                double sum = 0, bonus = 0;
                const int64_t o = t * C + h * N;
                for (int64_t j = 0; j < N; j++) {
                    double ww = get(c, a->w0, h * N + j) + (a->w_raw ? get(c, a->w_raw, o + j) : 0);
                    double w = exp(-exp(ww));
                    double v = get(c, a->v, o + i), k = get(c, a->k, o + j), r = get(c, a->r, o + j);
                    sum += S[i * N + j] * r;
                    bonus += r * get(c, a->u, h * N + j) * k * v;
                    S[i * N + j] = S[i * N + j] * w + v * k;
                }
                y[o + i] = sum + bonus;
            }
    }
}

static void test_formula(void **state) {
    (void)state;
    static const int64_t sizes[] = {32, 64, 128};
    for (int q = 0; q < 3; q++) {
        call c = call_new(RW_F64, 2, 75, 2, sizes[q], 1, NULL);
        c.a.ln_w = c.a.ln_b = c.a.gate = NULL;
        call_run(&c);
        const int64_t C = 2 * sizes[q];
        double *y = test_memory((size_t)(75 * C) * 8), *s = test_memory((size_t)(C * sizes[q]) * 8);
        plain_forward(&c, y, s);
        assert_true(distance(&c, c.a.out, &c, y, 75 * C) < 1e-13);
        assert_true(distance(&c, c.a.s_out, &c, s, C * sizes[q]) < 1e-13);
        free(y), free(s);
        call_free(&c);
    }
}

/* Fused norm and gate against group_norm and silu. */
static void test_fused_tail(void **state) {
    (void)state;
    call fused = call_new(RW_F64, 1, 21, 3, 64, 1, NULL), plain = call_new(RW_F64, 1, 21, 3, 64, 1, NULL);
    call_run(&fused);
    plain.a.ln_w = plain.a.ln_b = plain.a.gate = NULL;
    call_run(&plain);
    const int64_t n = 21 * 3 * 64;
    double *normed = test_memory((size_t)n * 8);
    rw_group_norm_args g = {.dtype = RW_F64, .R = 21, .H = 3, .N = 64, .eps = 64e-5};
    g.x = plain.a.out, g.gamma = plain.channels[LN_W_], g.beta = plain.channels[LN_B_], g.out = normed;
    plain.d->kernels->group_norm_forward(&g, &plain.d->exec);
    const double *gate = plain.rows[GATE_];
    for (int64_t i = 0; i < n; i++) normed[i] *= gate[i] / (1 + exp(-gate[i]));
    assert_true(distance(&fused, fused.a.out, &plain, normed, n) < 1e-13);
    free(normed);
    call_free(&fused), call_free(&plain);
}

/* Rows first .. first + n of `from` as a call of their own, with s0 and ds_out given. */
static call part_of(const call *from, int64_t first, int64_t n, const void *s0, const void *ds_out) {
    call c = call_new(from->a.dtype, 2, n, from->a.H, from->a.N, 1, NULL);
    for (int i = 0; i < OUT_; i++)
        memcpy(c.rows[i], (char *)from->rows[i] + (size_t)first * row_bytes(from), (size_t)n * row_bytes(from));
    memcpy(c.states[S0_], s0, state_bytes(from));
    memcpy(c.states[DS_OUT_], ds_out, state_bytes(from));
    return c;
}

static void same_rows(const call *part, const call *whole, int64_t first, bool forward_only) {
    for (int i = OUT_; i < (forward_only ? DR_ : ROW_BUFFERS); i++)
        assert_memory_equal(part->rows[i], (char *)whole->rows[i] + (size_t)first * row_bytes(whole),
                            (size_t)part->a.R * row_bytes(whole));
}

/* Documents of 1, 17 and 46 tokens in one row of 64 equal each alone, to the bit. */
static void test_packed(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 1, 1, 18, 64};
    for (int f64 = 0; f64 < 2; f64++) {
        call whole = call_new(f64 ? RW_F64 : RW_F32, 2, 64, 3, 64, 4, cu);
        call_run(&whole);
        const size_t size = state_bytes(&whole);
        for (int s = 0; s < 4; s++) {
            const size_t at = (size_t)s * size;
            if (cu[s] == cu[s + 1]) {
                assert_memory_equal((char *)whole.a.s_out + at, (const char *)whole.a.s0 + at, size);
                assert_memory_equal((char *)whole.a.ds0 + at, (const char *)whole.a.ds_out + at, size);
                continue;
            }
            call alone = part_of(&whole, cu[s], cu[s + 1] - cu[s], (const char *)whole.a.s0 + at,
                                 (const char *)whole.a.ds_out + at);
            call_run(&alone);
            same_rows(&alone, &whole, cu[s], false);
            assert_memory_equal(alone.a.s_out, (char *)whole.a.s_out + at, size);
            assert_memory_equal(alone.a.ds0, (char *)whole.a.ds0 + at, size);
            call_free(&alone);
        }
        call_free(&whole);
    }
}

/* One long sequence against two pieces with the state handed on and its gradient handed back. */
static void test_pieces(void **state) {
    (void)state;
    call whole = call_new(RW_F64, 2, 150, 2, 32, 1, NULL);
    call_run(&whole);
    call one = part_of(&whole, 0, 67, whole.a.s0, whole.a.ds_out);
    call_run(&one);
    call two = part_of(&whole, 67, 83, one.a.s_out, whole.a.ds_out);
    call_run(&two);
    memcpy(one.states[DS_OUT_], two.a.ds0, state_bytes(&whole));
    call_run(&one);
    same_rows(&one, &whole, 0, true);
    same_rows(&two, &whole, 67, true);
    assert_memory_equal(two.a.s_out, whole.a.s_out, state_bytes(&whole));
    assert_true(distance(&one, one.a.ds0, &whole, whole.a.ds0, 2 * 32 * 32) < 1e-12);
    for (int i = DR_; i < ROW_BUFFERS; i++) {
        assert_true(distance(&one, one.rows[i], &whole, whole.rows[i], 67 * 64) < 1e-12);
        assert_true(distance(&two, two.rows[i], &whole, (double *)whole.rows[i] + 67 * 64, 83 * 64) < 1e-12);
    }
    call_free(&whole), call_free(&one), call_free(&two);
}

static void test_threads(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 90, 91, 200};
    call one = call_new(RW_F32, 1, 200, 5, 64, 3, cu);
    call_run(&one);
    for (int threads = 2; threads <= 7; threads += 5) {
        call many = call_new(RW_F32, threads, 200, 5, 64, 3, cu);
        call_run(&many);
        same_rows(&many, &one, 0, false);
        for (int i = DW0_; i < CHANNEL_BUFFERS; i++) assert_memory_equal(many.channels[i], one.channels[i], 5 * 64 * 4);
        for (int i = S_OUT_; i < STATE_BUFFERS; i++)
            assert_memory_equal(many.states[i], one.states[i], 3 * state_bytes(&one));
        call_free(&many);
    }
    call_free(&one);
}

/* Any subset of the gradients: those that remain have the same bits. */
static void test_subsets(void **state) {
    (void)state;
    call all = call_new(RW_F32, 2, 70, 2, 32, 2, NULL), some = call_new(RW_F32, 2, 70, 2, 32, 2, NULL);
    call_run(&all);
    for (uint64_t choice = 0; choice < 40; choice++) {
        const uint64_t bits = rw_rng_u64_at(5, 5, choice);
        connect(&some);
        void **grads[] = {&some.a.dr, &some.a.dk,  &some.a.dv,  &some.a.dw_raw, &some.a.dgate,
                          &some.a.du, &some.a.dw0, &some.a.ds0, &some.a.dln_w,  &some.a.dln_b};
        void *const want[] = {all.a.dr, all.a.dk,  all.a.dv,  all.a.dw_raw, all.a.dgate,
                              all.a.du, all.a.dw0, all.a.ds0, all.a.dln_w,  all.a.dln_b};
        for (int i = 0; i < 10; i++)
            if (bits >> i & 1) *grads[i] = NULL;
        call_run(&some);
        for (int i = 0; i < 10; i++) {
            const size_t n = i < 5 ? 70 * 64 : i == 7 ? 2 * 64 * 32 : 64;
            if (*grads[i]) assert_memory_equal(*grads[i], want[i], n * 4);
        }
    }
    call_free(&all), call_free(&some);
}

/* A NULL dout or ds_out counts as zeros; without `saved` and s_out forward gives the same. */
static void test_optional(void **state) {
    (void)state;
    call zero = call_new(RW_F64, 1, 30, 1, 32, 2, NULL), null = call_new(RW_F64, 1, 30, 1, 32, 2, NULL);
    memset(zero.rows[DOUT_], 0, 30 * row_bytes(&zero));
    null.a.dout = NULL;
    call_run(&zero), call_run(&null);
    assert_true(calls_distance(&zero, &null) == 0);
    call_free(&zero), call_free(&null);

    call full = call_new(RW_F32, 1, 80, 1, 64, 1, NULL), bare = call_new(RW_F32, 1, 80, 1, 64, 1, NULL);
    call_run(&full);
    bare.a.s_out = NULL;
    bare.a.scratch = test_memory((size_t)bare.d->kernels->wkv6_forward_scratch(&bare.a, &bare.d->exec));
    bare.d->kernels->wkv6_forward(&bare.a, &bare.d->exec);
    free(bare.a.scratch);
    same_rows(&bare, &full, 0, true);
    call_free(&full), call_free(&bare);
}

/* The state updated where it is: sequences of no token, one and many. */
static void test_in_place(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 0, 1, 40};
    call apart = call_new(RW_F32, 2, 40, 2, 64, 3, cu), in_place = call_new(RW_F32, 2, 40, 2, 64, 3, cu);
    call *both[] = {&apart, &in_place};
    in_place.a.s_out = in_place.states[S0_];
    for (int i = 0; i < 2; i++) {
        rw_wkv6_args *a = &both[i]->a;
        a->scratch = test_memory((size_t)both[i]->d->kernels->wkv6_forward_scratch(a, &both[i]->d->exec));
        both[i]->d->kernels->wkv6_forward(a, &both[i]->d->exec);
        free(a->scratch);
    }
    same_rows(&in_place, &apart, 0, true);
    assert_memory_equal(in_place.a.s_out, apart.a.s_out, 3 * state_bytes(&apart));
    call_free(&apart), call_free(&in_place);
}

/* fp32 against fp64 on the same numbers: ordinary decays, then decays near 0, near 1 and mixed. */
static void test_precision(void **state) {
    (void)state;
    static const double decays[][2] = {{-6, 1}, {-25, -20}, {3, 8}, {90, 1000}, {-30, 10}};
    for (int64_t N = 32; N <= 128; N *= 2)
        for (int q = 0; q < 5; q++) {
            call f32 = call_new(RW_F32, 2, 300, 1, N, 1, NULL), f64 = call_new(RW_F64, 2, 300, 1, N, 1, NULL);
            float *w32 = constant_decay ? f32.channels[W0_] : f32.rows[W_];
            double *w64 = constant_decay ? f64.channels[W0_] : f64.rows[W_];
            for (int64_t i = 0; i < (constant_decay ? N : 300 * N); i++)
                w64[i] = w32[i] = (float)test_random(9, i, decays[q][0], decays[q][1]);
            f32.a.eps = f64.a.eps = 0.1;
            call_run(&f32), call_run(&f64);
            const double e = calls_distance(&f32, &f64);
            printf("wkv6 fp32 against fp64, N %3lld, ww %g .. %g: %.2g of the largest\n", (long long)N, decays[q][0],
                   decays[q][1], e);
            assert_true(e < 3e-5);
            call_free(&f32), call_free(&f64);
        }
}

#define BOTH(test) cmocka_unit_test_setup(test, with_x060), cmocka_unit_test_setup(test, with_x052)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        BOTH(test_formula),
        BOTH(test_fused_tail),
        BOTH(test_packed),
        BOTH(test_pieces),
        BOTH(test_threads),
        BOTH(test_subsets),
        BOTH(test_optional),
        BOTH(test_in_place),
        BOTH(test_precision),
    };
    return cmocka_run_group_tests_name("wkv6", tests, NULL, NULL);
}
