/* wkv7: the formulas in plain loops, whole and with each part left out; gradients by differences for every input;
 * states handed on and updated in place; packed documents; keys of norm 0 and near-equal keys; decays at both ends; the
 * same bits for any number of threads and any choice of gradients; zeros that stay zeros. */
#include "tests/unit/kernels/device_test.h"

/* What a call has beyond the bare recurrence and its preparation. */
enum { MIX = 1, BONUS = 2, NORM = 4, GATE = 8, OWN_STATE = 16, SHARED_STATE = 32, S_OUT = 64, EXTREME = 128 };
enum { TAIL = BONUS | NORM | GATE, ALL = MIX | TAIL | OWN_STATE | S_OUT, STATE = OWN_STATE | SHARED_STATE };
enum { ROW, CHANNEL, HEAD_STATE };

/* Every differentiable input: where the args struct has it and its gradient. */
typedef struct {
    const char *name;
    size_t in, grad;
    uint32_t bit;
    int kind, part; /* part: one of these must be there; 0: always there */
    double lo, hi;
} field;

#define FIELD(x, bit, kind, part, lo, hi)                                                                              \
    { #x, offsetof(rw_wkv7_args, x), offsetof(rw_wkv7_args, d##x), RW_WKV7_ADD_##bit, kind, part, lo, hi }
enum { R_, W_RAW, K0, V_, A_UP, V_UP, V_FIRST, G_, W0, A0, V0, K_K, K_A, R_K, LN_W, LN_B, S0, FIELDS };
static const field fields[FIELDS] = {
    FIELD(r, R, ROW, 0, -1, 1),
    FIELD(w_raw, W_RAW, ROW, 0, -4, 4),
    FIELD(k0, K0, ROW, 0, -1, 1),
    FIELD(v, V, ROW, 0, -1, 1),
    FIELD(a_up, A_UP, ROW, 0, -2, 2),
    FIELD(v_up, V_UP, ROW, MIX, -2, 2),
    FIELD(v_first, V_FIRST, ROW, MIX, -1, 1),
    FIELD(g, G, ROW, GATE, -1.5, 1.5),
    FIELD(w0, W0, CHANNEL, 0, -1, 1),
    FIELD(a0, A0, CHANNEL, 0, -1, 1),
    FIELD(v0, V0, CHANNEL, MIX, -1, 1),
    FIELD(k_k, K_K, CHANNEL, 0, 0.5, 1.5),
    FIELD(k_a, K_A, CHANNEL, 0, 0, 1.5),
    FIELD(r_k, R_K, CHANNEL, BONUS, -1, 1),
    FIELD(ln_w, LN_W, CHANNEL, NORM, 0.5, 1.5),
    FIELD(ln_b, LN_B, CHANNEL, NORM, -1, 1),
    FIELD(s0, S0, HEAD_STATE, STATE, -1, 1),
};

static void **slot(rw_wkv7_args *a, size_t offset) {
    return (void **)(void *)((char *)a + offset);
}
static bool has(int parts, int f) {
    return !fields[f].part || (parts & fields[f].part);
}

/* Elements of field f. */
static int64_t count(const rw_wkv7_args *a, int parts, int f) {
    const int64_t C = a->H * a->N;
    if (fields[f].kind == ROW) return a->R * C;
    if (fields[f].kind == CHANNEL) return C;
    return (parts & SHARED_STATE ? 1 : a->n_seq) * C * a->N;
}

/* -- gradients -------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int64_t N, H, n_seq;
    int32_t cu[8]; /* cu[0] < 0: no table, R = -cu[0] */
    int parts;
    int64_t samples;
} shape;

static const shape shapes[] = {
    {"bare", 32, 2, 2, {-10}, 0, 20},
    {"first layer", 32, 2, 2, {-10}, TAIL, 20},
    {"one token", 32, 1, 1, {-1}, ALL, 24},
    {"packed, states", 32, 2, 4, {0, 1, 18, 18, 64}, OWN_STATE | S_OUT, 20},
    {"packed, all", 32, 2, 4, {0, 1, 18, 18, 64}, ALL, 20},
    {"packed, shared state", 32, 2, 5, {0, 0, 1, 18, 64, 64}, MIX | TAIL | SHARED_STATE | S_OUT, 20},
    {"chunks", 32, 1, 2, {0, 66, 101}, MIX | GATE | OWN_STATE | S_OUT, 20},
    {"head 64", 64, 3, 4, {0, 46, 46, 47, 64}, MIX | TAIL | SHARED_STATE | S_OUT, 12},
    {"head 64, norm", 64, 1, 1, {-70}, NORM | OWN_STATE | S_OUT, 12},
    {"head 64, bonus", 64, 1, 1, {-33}, MIX | BONUS, 12},
    {"head 128", 128, 1, 4, {0, 0, 1, 18, 34}, ALL, 16},
    {"extreme decays", 32, 2, 2, {0, 40, 81}, MIX | OWN_STATE | S_OUT | EXTREME, 24},
    {"empty only", 32, 1, 2, {0, 0, 0}, MIX | TAIL | SHARED_STATE | S_OUT, 10},
};

typedef struct {
    rw_device *d;
    rw_wkv7_args a;
    void *forward_scratch, *backward_scratch;
} wkv7_ctx;

static void forward(void *p) {
    wkv7_ctx *c = p;
    c->a.scratch = c->forward_scratch;
    c->d->kernels->wkv7_forward(&c->a, &c->d->exec);
}

static void backward(void *p) {
    wkv7_ctx *c = p;
    c->a.scratch = c->backward_scratch;
    c->d->kernels->wkv7_backward(&c->a, &c->d->exec);
}

static void make_buffers(gc *g, wkv7_ctx *c, const shape *s) {
    rw_wkv7_args *a = &c->a;
    if (s->cu[0] >= 0) a->cu_seqlens = gc_fixed(g, "cu_seqlens", s->cu, (a->n_seq + 1) * 4);
    for (int f = 0; f < FIELDS; f++)
        if (has(s->parts, f))
            *slot(a, fields[f].in) = gc_input(g, fields[f].name, count(a, s->parts, f), fields[f].lo, fields[f].hi);
    double *w = gc_find(g, "w_raw", GC_INPUT)->data;
    for (int64_t i = 0; (s->parts & EXTREME) && i < a->R * a->H * a->N; i++)
        if (i % 3 != 0) w[i] = i % 2 ? 30 : -30;
    if (s->parts & OWN_STATE) a->s0_stride = a->H * a->N * a->N;
    a->out = gc_output(g, "out", a->R * a->H * a->N);
    a->dout = gc_dout(g, "out");
    if (s->parts & S_OUT) {
        a->s_out = gc_output(g, "s_out", a->n_seq * a->H * a->N * a->N);
        a->ds_out = gc_dout(g, "s_out");
    }
    for (int f = 0; f < FIELDS; f++)
        if (has(s->parts, f)) *slot(a, fields[f].grad) = gc_grad(g, fields[f].name);
    const rw_kernels *k = c->d->kernels;
    a->saved = gc_saved(g, k->wkv7_saved(a, &c->d->exec));
    c->forward_scratch = gc_scratch(g, k->wkv7_forward_scratch(a, &c->d->exec));
    c->backward_scratch = gc_scratch(g, k->wkv7_backward_scratch(a, &c->d->exec));
}

static void check_gradients(const shape *s, int threads) {
    wkv7_ctx c = {.d = test_device(RW_F64, threads)};
    gc g = {.seed = 11, .samples = s->samples};
    const int64_t R = s->cu[0] < 0 ? -s->cu[0] : s->cu[s->n_seq];
    /* a large eps: the norm of one token's v * scalar is otherwise too curved for differences */
    c.a = (rw_wkv7_args){.dtype = RW_F64, .R = R, .H = s->H, .N = s->N, .n_seq = s->n_seq, .eps = 0.1};
    make_buffers(&g, &c, s);
    gc_check(&g, forward, backward, &c);
    gc_slot slots[FIELDS];
    int n = 0;
    for (int f = 0; f < FIELDS; f++)
        if (has(s->parts, f)) slots[n++] = (gc_slot){fields[f].name, slot(&c.a, fields[f].grad), fields[f].bit};
    gc_check_slots(&g, backward, &c, slots, n, &c.a.add);
    printf("wkv7 %-22s worst difference %.2g\n", s->name, g.worst);
    gc_done(&g);
    rw_device_close(c.d);
}

static void test_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gradients(&shapes[i], i % 2 ? 2 : 1);
}

/* -- whole calls ------------------------------------------------------------------------------------------ */

/* One call with memory of its own, made from the same fp64 numbers for both types. */
typedef struct {
    rw_device *d;
    rw_wkv7_args a;
    int parts;
    void *in[FIELDS], *grad[FIELDS], *out, *s_out, *dout, *ds_out;
} call;

static void *numbers(rw_dtype t, int64_t n, uint64_t stream, double lo, double hi) {
    char *x = test_memory((size_t)(n * rw_dtype_bytes(t)));
    for (int64_t i = 0; lo < hi && i < n; i++) {
        const double y = (float)test_random(stream, i, lo, hi);
        if (t == RW_F64) ((double *)(void *)x)[i] = y;
        if (t == RW_F32) ((float *)(void *)x)[i] = (float)y;
    }
    return x;
}

static void connect(call *c) {
    rw_wkv7_args *a = &c->a;
    for (int f = 0; f < FIELDS; f++) {
        *slot(a, fields[f].in) = has(c->parts, f) ? c->in[f] : NULL;
        *slot(a, fields[f].grad) = has(c->parts, f) ? c->grad[f] : NULL;
    }
    a->out = c->out, a->dout = c->dout;
    a->s_out = c->s_out, a->ds_out = c->ds_out;
}

static call call_new(rw_dtype t, int parts, int threads, int64_t R, int64_t H, int64_t N, int64_t n_seq,
                     const int32_t *cu) {
    call c = {.d = test_device(t, threads), .parts = parts};
    c.a = (rw_wkv7_args){.dtype = t, .R = R, .H = H, .N = N, .n_seq = n_seq, .cu_seqlens = cu, .eps = 64e-5};
    c.a.s0_stride = H * N * N;
    for (int f = 0; f < FIELDS; f++) {
        const int64_t n = count(&c.a, parts, f);
        c.in[f] = numbers(t, n, 100 + (uint64_t)f, fields[f].lo, fields[f].hi);
        c.grad[f] = numbers(t, n, 0, 0, 0);
    }
    c.out = numbers(t, R * H * N, 0, 0, 0), c.dout = numbers(t, R * H * N, 200, -1, 1);
    c.s_out = numbers(t, n_seq * H * N * N, 0, 0, 0), c.ds_out = numbers(t, n_seq * H * N * N, 201, -1, 1);
    connect(&c);
    return c;
}

static void call_forward(call *c) {
    const rw_kernels *k = c->d->kernels;
    c->a.scratch = test_memory((size_t)k->wkv7_forward_scratch(&c->a, &c->d->exec));
    k->wkv7_forward(&c->a, &c->d->exec);
    free(c->a.scratch);
}

static void call_run(call *c) {
    const rw_kernels *k = c->d->kernels;
    if (!c->a.saved) c->a.saved = test_memory((size_t)k->wkv7_saved(&c->a, &c->d->exec));
    call_forward(c);
    c->a.scratch = test_memory((size_t)k->wkv7_backward_scratch(&c->a, &c->d->exec));
    k->wkv7_backward(&c->a, &c->d->exec);
    free(c->a.scratch);
}

static void call_free(call *c) {
    for (int f = 0; f < FIELDS; f++) free(c->in[f]), free(c->grad[f]);
    free(c->out), free(c->s_out), free(c->dout), free(c->ds_out), free(c->a.saved);
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
static void put(call *c, int f, int64_t i, double x) {
    if (c->a.dtype == RW_F64) ((double *)c->in[f])[i] = x;
    if (c->a.dtype == RW_F32) ((float *)c->in[f])[i] = (float)x;
}

/* max |x - y| / max |y| */
static double distance(const call *cx, const void *x, const call *cy, const void *y, int64_t n) {
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs(get(cx, x, i) - get(cy, y, i));
        worst = isnan(d) ? INFINITY : fmax(worst, d);
        largest = fmax(largest, fabs(get(cy, y, i)));
    }
    return worst / largest;
}

/* Largest distance over all that a call writes. */
static double calls_distance(const call *x, const call *y) {
    const int64_t C = x->a.H * x->a.N;
    double worst =
        fmax(distance(x, x->out, y, y->out, x->a.R * C), distance(x, x->s_out, y, y->s_out, x->a.n_seq * C * x->a.N));
    for (int f = 0; f < FIELDS; f++)
        if (has(x->parts, f)) worst = fmax(worst, distance(x, x->grad[f], y, y->grad[f], count(&x->a, x->parts, f)));
    return worst;
}

/* -- the formulas of wkv7.h -------------------------------------------------------------------------------- */

static double sigma(double x) {
    return 1 / (1 + exp(-x));
}

/* One token of one head: arrays of N. */
typedef struct {
    double r[128], w[128], k[128], v[128], kk[128], a[128];
} token;

static double of(const call *c, int f, int64_t row, int64_t channel) {
    return get(c, c->in[f], fields[f].kind == ROW ? row * c->a.H * c->a.N + channel : channel);
}

static void plain_prepare(const call *c, int64_t row, int64_t h, token *x) {
    const int64_t N = c->a.N;
    double norm = 0;
    for (int64_t j = 0; j < N; j++) {
        const int64_t p = h * N + j;
        const double k0 = of(c, K0, row, p), v = of(c, V_, row, p);
        x->r[j] = of(c, R_, row, p);
        x->w[j] = exp(-exp(-0.5) * sigma(of(c, W0, row, p) + of(c, W_RAW, row, p)));
        x->a[j] = sigma(of(c, A0, row, p) + of(c, A_UP, row, p));
        x->k[j] = k0 * (1 + (x->a[j] - 1) * of(c, K_A, row, p));
        x->kk[j] = k0 * of(c, K_K, row, p);
        x->v[j] = v;
        if (c->parts & MIX) x->v[j] += (of(c, V_FIRST, row, p) - v) * sigma(of(c, V0, row, p) + of(c, V_UP, row, p));
        norm += x->kk[j] * x->kk[j];
    }
    for (int64_t j = 0; j < N; j++) x->kk[j] /= fmax(sqrt(norm), 1e-12);
}

static void plain_step(const token *x, int64_t N, double *S, double *y) {
    for (int64_t i = 0; i < N; i++) {
        double sa = 0;
        for (int64_t j = 0; j < N; j++) sa += S[i * N + j] * -x->kk[j];
        y[i] = 0;
        for (int64_t j = 0; j < N; j++) {
            S[i * N + j] = S[i * N + j] * x->w[j] + sa * x->kk[j] * x->a[j] + x->v[i] * x->k[j];
            y[i] += S[i * N + j] * x->r[j];
        }
    }
}

static void plain_tail(const call *c, int64_t row, int64_t h, const token *x, const double *y, double *out) {
    const int64_t N = c->a.N;
    double mean = 0, var = 0, bonus = 0;
    for (int64_t i = 0; i < N; i++) mean += y[i] / (double)N;
    for (int64_t i = 0; i < N; i++) var += (y[i] - mean) * (y[i] - mean) / (double)N;
    for (int64_t i = 0; i < N; i++) bonus += x->r[i] * x->k[i] * of(c, R_K, row, h * N + i);
    for (int64_t i = 0; i < N; i++) {
        const int64_t p = h * N + i;
        double z = y[i];
        if (c->parts & NORM) z = (z - mean) / sqrt(var + c->a.eps) * of(c, LN_W, row, p) + of(c, LN_B, row, p);
        if (c->parts & BONUS) z += bonus * x->v[i];
        if (c->parts & GATE) z *= of(c, G_, row, p);
        out[row * c->a.H * N + p] = z;
    }
}

/* One sequence in fp64. */
static void plain_forward(const call *c, double *out, double *s_out) {
    const int64_t N = c->a.N;
    for (int64_t h = 0; h < c->a.H; h++) {
        double *S = s_out + h * N * N, y[128];
        for (int64_t i = 0; i < N * N; i++) S[i] = c->parts & STATE ? get(c, c->in[S0], h * N * N + i) : 0;
        for (int64_t row = 0; row < c->a.R; row++) {
            token x;
            plain_prepare(c, row, h, &x);
            plain_step(&x, N, S, y);
            plain_tail(c, row, h, &x, y, out);
        }
    }
}

static void check_formula(int64_t N, int parts, int64_t R) {
    call c = call_new(RW_F64, parts, 2, R, 2, N, 1, NULL);
    const int64_t C = 2 * N;
    double *out = test_memory((size_t)(R * C) * 8), *s = test_memory((size_t)(C * N) * 8);
    call_forward(&c);
    plain_forward(&c, out, s);
    assert_true(distance(&c, c.out, &c, out, R * C) < 1e-13);
    assert_true(distance(&c, c.s_out, &c, s, C * N) < 1e-13);
    free(out), free(s);
    call_free(&c);
}

static void test_formula(void **state) {
    (void)state;
    for (int64_t N = 32; N <= 128; N *= 2) check_formula(N, ALL, 75);
    for (int parts = 0; parts < 2 * OWN_STATE; parts++) check_formula(32, parts, 19);
    check_formula(64, ALL, 1);
}

/* -- sequences and states ---------------------------------------------------------------------------------- */

/* Rows first .. first + n of `from` as a call of their own, with s0 and ds_out given. */
static call part_of(const call *from, int64_t first, int64_t n, const void *s0, const void *ds_out) {
    call c = call_new(from->a.dtype, from->parts, 2, n, from->a.H, from->a.N, 1, NULL);
    const size_t skip = (size_t)first * row_bytes(from), size = (size_t)n * row_bytes(from);
    for (int f = 0; f < FIELDS; f++)
        if (fields[f].kind == ROW) memcpy(c.in[f], (char *)from->in[f] + skip, size);
    memcpy(c.dout, (char *)from->dout + skip, size);
    memcpy(c.in[S0], s0, state_bytes(from));
    memcpy(c.ds_out, ds_out, state_bytes(from));
    return c;
}

static void same_rows(const call *part, const call *whole, int64_t first) {
    const size_t skip = (size_t)first * row_bytes(whole), size = (size_t)part->a.R * row_bytes(whole);
    assert_memory_equal(part->out, (char *)whole->out + skip, size);
    for (int f = 0; f < FIELDS; f++)
        if (fields[f].kind == ROW) assert_memory_equal(part->grad[f], (char *)whole->grad[f] + skip, size);
}

/* Documents of 1, 0, 17 and 46 tokens in one row of 64 equal each alone, to the bit. */
static void test_packed(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 1, 1, 18, 64};
    for (int f64 = 0; f64 < 2; f64++) {
        call whole = call_new(f64 ? RW_F64 : RW_F32, ALL, 2, 64, 3, 64, 4, cu);
        call_run(&whole);
        const size_t size = state_bytes(&whole);
        for (int s = 0; s < 4; s++) {
            char *s0 = (char *)whole.in[S0] + (size_t)s * size, *s_out = (char *)whole.s_out + (size_t)s * size;
            char *ds_out = (char *)whole.ds_out + (size_t)s * size, *ds0 = (char *)whole.grad[S0] + (size_t)s * size;
            if (cu[s] == cu[s + 1]) {
                assert_memory_equal(s_out, s0, size);
                assert_memory_equal(ds0, ds_out, size);
                continue;
            }
            call alone = part_of(&whole, cu[s], cu[s + 1] - cu[s], s0, ds_out);
            call_run(&alone);
            same_rows(&alone, &whole, cu[s]);
            assert_memory_equal(alone.s_out, s_out, size);
            assert_memory_equal(alone.grad[S0], ds0, size);
            call_free(&alone);
        }
        call_free(&whole);
    }
}

/* One long sequence against two pieces with the state handed on and its gradient handed back. */
static void test_pieces(void **state) {
    (void)state;
    call whole = call_new(RW_F64, ALL, 2, 150, 2, 32, 1, NULL);
    call_run(&whole);
    call one = part_of(&whole, 0, 67, whole.in[S0], whole.ds_out);
    call_run(&one);
    call two = part_of(&whole, 67, 83, one.s_out, whole.ds_out);
    call_run(&two);
    memcpy(one.ds_out, two.grad[S0], state_bytes(&whole));
    call_run(&one);
    assert_true(distance(&one, one.out, &whole, whole.out, 67 * 64) < 1e-13);
    assert_true(distance(&two, two.out, &whole, (double *)whole.out + 67 * 64, 83 * 64) < 1e-13);
    assert_true(distance(&two, two.s_out, &whole, whole.s_out, 2 * 32 * 32) < 1e-13);
    assert_true(distance(&one, one.grad[S0], &whole, whole.grad[S0], 2 * 32 * 32) < 1e-12);
    for (int f = 0; f < FIELDS; f++) {
        const double *all = whole.grad[f], *first = one.grad[f], *second = two.grad[f];
        for (int64_t i = 0; fields[f].kind == CHANNEL && i < 64; i++)
            assert_true(fabs(first[i] + second[i] - all[i]) < 1e-11 * fmax(1, fabs(all[i])));
        if (fields[f].kind != ROW) continue;
        assert_true(distance(&one, first, &whole, all, 67 * 64) < 1e-12);
        assert_true(distance(&two, second, &whole, all + 67 * 64, 83 * 64) < 1e-12);
    }
    call_free(&whole), call_free(&one), call_free(&two);
}

/* The state updated where it is: sequences of no token, one and many. */
static void test_in_place(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 0, 1, 40};
    call apart = call_new(RW_F32, ALL, 2, 40, 2, 64, 3, cu), in_place = call_new(RW_F32, ALL, 2, 40, 2, 64, 3, cu);
    in_place.a.s_out = in_place.in[S0];
    call_forward(&apart), call_forward(&in_place);
    assert_memory_equal(in_place.out, apart.out, 40 * row_bytes(&apart));
    assert_memory_equal(in_place.in[S0], apart.s_out, 3 * state_bytes(&apart));
    call_free(&apart), call_free(&in_place);
}

/* -- the same bits ----------------------------------------------------------------------------------------- */

static void same_calls(const call *x, const call *y) {
    assert_memory_equal(x->out, y->out, (size_t)x->a.R * row_bytes(x));
    assert_memory_equal(x->s_out, y->s_out, (size_t)x->a.n_seq * state_bytes(x));
    for (int f = 0; f < FIELDS; f++)
        if (*slot((rw_wkv7_args *)(uintptr_t)&x->a, fields[f].grad))
            assert_memory_equal(x->grad[f], y->grad[f],
                                (size_t)(count(&x->a, x->parts, f) * rw_dtype_bytes(x->a.dtype)));
}

static void test_threads(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 90, 91, 200};
    call one = call_new(RW_F32, ALL, 1, 200, 5, 64, 3, cu);
    call_run(&one);
    for (int threads = 2; threads <= 7; threads += 5) {
        call many = call_new(RW_F32, ALL, threads, 200, 5, 64, 3, cu);
        call_run(&many);
        same_calls(&many, &one);
        call_free(&many);
    }
    call_free(&one);
}

/* Any subset of the gradients: those that remain have the same bits. */
static void test_subsets(void **state) {
    (void)state;
    call all = call_new(RW_F32, ALL, 2, 70, 2, 32, 2, NULL), some = call_new(RW_F32, ALL, 2, 70, 2, 32, 2, NULL);
    call_run(&all);
    for (uint64_t choice = 0; choice < 60; choice++) {
        const uint64_t bits = rw_rng_u64_at(5, 5, choice) | (choice < FIELDS ? ~(1ull << choice) : 0);
        connect(&some);
        for (int f = 0; f < FIELDS; f++)
            if (bits >> f & 1) *slot(&some.a, fields[f].grad) = NULL;
        call_run(&some);
        same_calls(&some, &all);
    }
    call_free(&all), call_free(&some);
}

/* A NULL dout or ds_out counts as zeros; without `saved` and s_out forward gives the same. */
static void test_optional(void **state) {
    (void)state;
    call zero = call_new(RW_F64, ALL, 1, 30, 1, 32, 2, NULL), null = call_new(RW_F64, ALL, 1, 30, 1, 32, 2, NULL);
    memset(zero.dout, 0, 30 * row_bytes(&zero));
    null.a.dout = NULL;
    call_run(&zero), call_run(&null);
    assert_true(calls_distance(&zero, &null) == 0);
    memset(zero.ds_out, 0, 2 * state_bytes(&zero));
    null.a.dout = null.dout, null.a.ds_out = NULL;
    memcpy(zero.dout, null.dout, 30 * row_bytes(&zero));
    call_run(&zero), call_run(&null);
    assert_true(calls_distance(&zero, &null) == 0);
    call_free(&zero), call_free(&null);

    call full = call_new(RW_F32, ALL, 1, 80, 1, 64, 1, NULL), bare = call_new(RW_F32, ALL, 1, 80, 1, 64, 1, NULL);
    call_run(&full);
    bare.a.s_out = NULL;
    call_forward(&bare);
    assert_memory_equal(bare.out, full.out, 80 * row_bytes(&full));
    call_free(&full), call_free(&bare);
}

/* -- zeros, and numbers at the edges ----------------------------------------------------------------------- */

static void all_zero(const call *c, const void *x, int64_t first, int64_t n) {
    for (int64_t i = first; i < first + n; i++) assert_true(get(c, x, i) == 0);
}

/* What the loss does not depend on has a gradient of exactly zero: with Adam's eps of 1e-18 anything else would move.
 */
static void test_exact_zeros(void **state) {
    (void)state;
    static const int32_t cu[] = {0, 20, 50};
    for (int f64 = 0; f64 < 2; f64++) {
        call c = call_new(f64 ? RW_F64 : RW_F32, ALL, 2, 50, 2, 32, 2, cu);
        const int64_t C = 64, size = C * 32;
        memset((char *)c.dout + 20 * row_bytes(&c), 0, 30 * row_bytes(&c)); /* the second sequence is not in the loss */
        memset((char *)c.ds_out + state_bytes(&c), 0, state_bytes(&c));
        memset((char *)c.dout + 7 * row_bytes(&c), 0, row_bytes(&c)); /* nor what token 7 gives */
        call_run(&c);
        for (int f = 0; f < FIELDS; f++)
            if (fields[f].kind == ROW) all_zero(&c, c.grad[f], 20 * C, 30 * C);
        all_zero(&c, c.grad[S0], size, size);
        all_zero(&c, c.grad[R_], 7 * C, C);
        all_zero(&c, c.grad[G_], 7 * C, C);
        c.a.dout = NULL, c.a.ds_out = NULL;
        call_run(&c);
        for (int f = 0; f < FIELDS; f++) all_zero(&c, c.grad[f], 0, count(&c.a, c.parts, f));
        call_free(&c);
    }
}

/* Keys of norm 0, and so small that the norm is raised to 1e-12: no NaN. */
static void test_zero_keys(void **state) {
    (void)state;
    for (int f64 = 0; f64 < 2; f64++) {
        call c = call_new(f64 ? RW_F64 : RW_F32, ALL, 1, 40, 1, 64, 1, NULL);
        for (int64_t i = 0; i < 64; i++) {
            put(&c, K0, 5 * 64 + i, 0);
            put(&c, K0, 6 * 64 + i, 0);
            put(&c, K0, 39 * 64 + i, i == 3 ? 1e-14 : 0);
        }
        call_run(&c);
        assert_true(calls_distance(&c, &c) == 0); /* INFINITY with a NaN */
        call_free(&c);
    }
}

static double one_token_loss(call *c) {
    call_forward(c);
    double sum = 0;
    for (int i = 0; i < c->a.H * c->a.N; i++) sum += ((double *)c->out)[i] * ((double *)c->dout)[i];
    return sum;
}

/* The gradient of a key whose norm is raised, by differences: one token is quadratic in it. */
static void test_raised_norm(void **state) {
    (void)state;
    call c = call_new(RW_F64, OWN_STATE, 1, 1, 1, 32, 1, NULL);
    double *k0 = c.in[K0], worst = 0, largest = 0;
    c.a.ds_out = NULL;
    for (int i = 0; i < 32; i++) k0[i] = 1e-14 * (i - 15);
    call_run(&c);
    for (int j = 0; j < 32; j++) {
        const double kept = k0[j], h = 1e-14, want = ((double *)c.grad[K0])[j];
        k0[j] = kept + h;
        double fd = one_token_loss(&c);
        k0[j] = kept - h;
        fd = (fd - one_token_loss(&c)) / (2 * h);
        k0[j] = kept;
        worst = fmax(worst, fabs(fd - want));
        largest = fmax(largest, fabs(want));
    }
    assert_true(largest > 1e10 && worst < 1e-9 * largest);
    call_free(&c);
}

/* fp32 against fp64 on the same numbers. */
static void check_precision(const char *what, int64_t N, void (*change)(call *c), double tolerance) {
    call f32 = call_new(RW_F32, ALL, 2, 300, 1, N, 1, NULL), f64 = call_new(RW_F64, ALL, 2, 300, 1, N, 1, NULL);
    f32.a.eps = f64.a.eps = 0.1;
    change(&f32), change(&f64);
    call_run(&f32), call_run(&f64);
    const double e = calls_distance(&f32, &f64);
    printf("wkv7 fp32 against fp64, N %3lld, %s: %.2g of the largest\n", (long long)N, what, e);
    assert_true(e < tolerance);
    call_free(&f32), call_free(&f64);
}

static void ordinary(call *c) {
    (void)c;
}
static void slow_decays(call *c) {
    for (int64_t i = 0; i < count(&c->a, c->parts, W_RAW); i++) put(c, W_RAW, i, -30);
}
static void fast_decays(call *c) {
    for (int64_t i = 0; i < count(&c->a, c->parts, W_RAW); i++) put(c, W_RAW, i, 30);
}
static void mixed_decays(call *c) {
    for (int64_t i = 0; i < count(&c->a, c->parts, W_RAW); i++) put(c, W_RAW, i, i % 3 ? 30 : -1000);
}
/* Almost the same key again and again, and a near 1: the state unlearns what it has just learnt. */
static void near_equal_keys(call *c) {
    const int64_t C = c->a.H * c->a.N;
    for (int64_t i = 0; i < count(&c->a, c->parts, K0); i++) {
        const double base = test_random(50, i % C, -1, 1), noise = test_random(51, i, -1, 1);
        put(c, K0, i, (float)(base + 1e-3 * noise));
        put(c, A_UP, i, 9);
    }
}

static void test_precision(void **state) {
    (void)state;
    for (int64_t N = 32; N <= 128; N *= 2) {
        check_precision("ordinary numbers", N, ordinary, 2e-5);
        check_precision("decays at 1", N, slow_decays, 2e-5);
        check_precision("decays at 0.545", N, fast_decays, 2e-5);
        check_precision("both", N, mixed_decays, 2e-5);
        check_precision("near-equal keys", N, near_equal_keys, 2e-5);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),   cmocka_unit_test(test_gradients),   cmocka_unit_test(test_packed),
        cmocka_unit_test(test_pieces),    cmocka_unit_test(test_in_place),    cmocka_unit_test(test_threads),
        cmocka_unit_test(test_subsets),   cmocka_unit_test(test_optional),    cmocka_unit_test(test_exact_zeros),
        cmocka_unit_test(test_zero_keys), cmocka_unit_test(test_raised_norm), cmocka_unit_test(test_precision),
    };
    return cmocka_run_group_tests_name("wkv7", tests, NULL, NULL);
}
