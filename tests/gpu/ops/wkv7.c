/* wkv7. Lengths around the tiles and chunks of 8, 16 and 32 tokens; every head size; packed sequences with empty ones;
 * states of their own and shared; each part left out; each gradient not wanted; overwriting and adding; incoming
 * gradients that are not there; decays at both ends, keys of norm 0, near-equal keys; decoding in place. */
#include "tests/gpu/ops/ops.h"

enum { MIX = 1, BONUS = 2, NORM = 4, GATE = 8, OWN_STATE = 16, SHARED_STATE = 32, S_OUT = 64, ALL = 95 };
enum { TAIL = BONUS | NORM | GATE, MOST_SEQ = 8 };
enum { PLAIN, DECAYS, ZERO_KEYS, NEAR_KEYS };

typedef struct {
    int64_t N, H, n_seq;
    int32_t cu[MOST_SEQ + 1]; /* cu[0] < 0: no table, R = -cu[0] */
    int parts, values;
    int without;         /* gradient 1 .. that is not wanted; 0: all are */
    bool no_dout, no_ds; /* incoming gradients that are not there */
    uint32_t add;
} shape;

static int64_t rows_of(const shape *p) {
    return p->cu[0] < 0 ? -p->cu[0] : p->cu[p->n_seq];
}

/* -- inputs ------------------------------------------------------------------------------------------------ */

/* w_raw of +30, -30 or between. */
static double end_decay(const void *ctx, int64_t i) {
    (void)ctx;
    const int64_t q = (i * 2654435761) >> 8 & 1023;
    return q < 256 ? 30 : q < 512 ? -30 : (double)(q - 768) / 100;
}
/* Every other head of every third token has no key. ctx: N */
static double some_zero(const void *ctx, int64_t i) {
    const int64_t N = *(const int64_t *)ctx, head = i / N;
    return head % 3 == 0 ? 0 : (double)((i * 2654435761 >> 9 & 1023) - 511) / 512;
}
/* The same key for all tokens and a few per cent of another. ctx: N */
static double near_equal(const void *ctx, int64_t i) {
    const int64_t N = *(const int64_t *)ctx, j = i % N;
    const double common = (double)((j * 2654435761 >> 7 & 1023) - 511) / 512;
    return common + 0.15 * (double)((i * 2654435761 >> 9 & 1023) - 511) / 512;
}

static void rows_in(op_side *s, const shape *p, rw_wkv7_args *a) {
    const int64_t n = a->R * a->H * a->N;
    a->r = op_in(s, "r", OP_NARROW, n, -1, 1);
    a->w_raw = p->values == DECAYS ? op_in_of(s, "w_raw", OP_NARROW, n, end_decay, NULL)
                                   : op_in(s, "w_raw", OP_NARROW, n, p->values == NEAR_KEYS ? -7 : -4, 4);
    a->k0 = p->values == ZERO_KEYS   ? op_in_of(s, "k0", OP_NARROW, n, some_zero, &a->N)
            : p->values == NEAR_KEYS ? op_in_of(s, "k0", OP_NARROW, n, near_equal, &a->N)
                                     : op_in(s, "k0", OP_NARROW, n, -1, 1);
    a->v = op_in(s, "v", OP_NARROW, n, -1, 1);
    a->a_up = p->values == NEAR_KEYS ? op_in(s, "a_up", OP_NARROW, n, 4, 6) : op_in(s, "a_up", OP_NARROW, n, -2, 2);
    if (p->parts & MIX) {
        a->v_up = op_in(s, "v_up", OP_NARROW, n, -2, 2);
        a->v_first = op_in(s, "v_first", OP_NARROW, n, -1, 1);
    }
    if (p->parts & GATE) a->g = op_in(s, "g", OP_NARROW, n, -1.5, 1.5);
}

static void vectors_in(op_side *s, const shape *p, rw_wkv7_args *a) {
    const int64_t C = a->H * a->N;
    a->w0 = op_in(s, "w0", OP_WIDE, C, -1, 1);
    a->a0 = op_in(s, "a0", OP_WIDE, C, -1, 1);
    if (p->parts & MIX) a->v0 = op_in(s, "v0", OP_WIDE, C, -1, 1);
    a->k_k = op_in(s, "k_k", OP_WIDE, C, 0.5, 1.5);
    a->k_a = op_in(s, "k_a", OP_WIDE, C, 0, 1.5);
    if (p->parts & BONUS) a->r_k = op_in(s, "r_k", OP_WIDE, C, -1, 1);
    if (p->parts & NORM) {
        a->ln_w = op_in(s, "ln_w", OP_WIDE, C, 0.5, 1.5);
        a->ln_b = op_in(s, "ln_b", OP_WIDE, C, -1, 1);
    }
}

static rw_wkv7_args arguments(op_side *s, const shape *p) {
    rw_wkv7_args a = {.dtype = s->narrow, .R = rows_of(p), .H = p->H, .N = p->N, .n_seq = p->n_seq};
    const int64_t state = a.H * a.N * a.N;
    /* narrow: one token whose y happens to be small would be blown up by the norm, with the error that the products
     * gave it, and decide over the whole comparison */
    a.eps = s->grid == RW_F32 ? 64e-5 : 0.1;
    if (p->cu[0] >= 0) a.cu_seqlens = op_ints(s, p->cu, p->n_seq + 1);
    rows_in(s, p, &a);
    vectors_in(s, p, &a);
    if (p->parts & (OWN_STATE | SHARED_STATE))
        a.s0 = op_in(s, "s0", OP_WIDE, state * (p->parts & OWN_STATE ? p->n_seq : 1), -1, 1);
    if (p->parts & OWN_STATE) a.s0_stride = state;
    return a;
}

/* -- gradients ----------------------------------------------------------------------------------------------- */

/* What rounds on the way, beside the result, when numbers are narrow. Rms in bf16, with all parts: the products of 16
 * tokens 3.5e-3 in y (4.8e-3 in the gradients of A and B, 8e-3 with near-equal keys); k, v', A, B, y, dy and their
 * gradients, stored between the kernels, another 4e-3 if all else is exact; and y's error goes through the norm into
 * every gradient, which the norm makes small beside dout. Together up to 6.3e-3, 7e-3 for what belongs to the keys and
 * decays (1e-2 from ds_out alone), 1.3e-2 with near-equal keys. The steps (fp32, heads of 32 and 128) are exact to the
 * last rounding. */
static double limits(const op_side *s, const shape *p, bool keys) {
    if (s->grid == RW_F32 || p->N != 64) return 1;
    return p->values == NEAR_KEYS ? 3.2 : keys ? 2.4 : 1.6;
}

/* Gradient number i, of n numbers, unless it is left out. */
static void *gradient(op_side *s, const shape *p, int i, const char *name, op_class cls, int64_t n, uint32_t bit) {
    if (p->without == i + 1) return NULL;
    void *x = p->add & bit ? op_both(s, name, cls, n, -1, 1) : op_out(s, name, cls, n);
    const bool keys = bit & (RW_WKV7_ADD_K0 | RW_WKV7_ADD_A_UP | RW_WKV7_ADD_W_RAW | RW_WKV7_ADD_K_K | RW_WKV7_ADD_A0 |
                             RW_WKV7_ADD_W0 | RW_WKV7_ADD_K_A);
    op_factor(s, limits(s, p, keys));
    return x;
}

enum { GRADIENTS = 17 };
static void gradients(op_side *s, const shape *p, rw_wkv7_args *a) {
    const int64_t C = a->H * a->N, n = a->R * C, state = C * a->N * (p->parts & OWN_STATE ? p->n_seq : 1);
    a->add = p->add;
    a->dr = gradient(s, p, 0, "dr", OP_NARROW, n, RW_WKV7_ADD_R);
    a->dw_raw = gradient(s, p, 1, "dw_raw", OP_NARROW, n, RW_WKV7_ADD_W_RAW);
    a->dk0 = gradient(s, p, 2, "dk0", OP_NARROW, n, RW_WKV7_ADD_K0);
    a->dv = gradient(s, p, 3, "dv", OP_NARROW, n, RW_WKV7_ADD_V);
    a->da_up = gradient(s, p, 4, "da_up", OP_NARROW, n, RW_WKV7_ADD_A_UP);
    if (a->v_up) a->dv_up = gradient(s, p, 5, "dv_up", OP_NARROW, n, RW_WKV7_ADD_V_UP);
    if (a->v_up) a->dv_first = gradient(s, p, 6, "dv_first", OP_NARROW, n, RW_WKV7_ADD_V_FIRST);
    if (a->g) a->dg = gradient(s, p, 7, "dg", OP_NARROW, n, RW_WKV7_ADD_G);
    a->dw0 = gradient(s, p, 8, "dw0", OP_WIDE, C, RW_WKV7_ADD_W0);
    a->da0 = gradient(s, p, 9, "da0", OP_WIDE, C, RW_WKV7_ADD_A0);
    if (a->v_up) a->dv0 = gradient(s, p, 10, "dv0", OP_WIDE, C, RW_WKV7_ADD_V0);
    a->dk_k = gradient(s, p, 11, "dk_k", OP_WIDE, C, RW_WKV7_ADD_K_K);
    a->dk_a = gradient(s, p, 12, "dk_a", OP_WIDE, C, RW_WKV7_ADD_K_A);
    if (a->r_k) a->dr_k = gradient(s, p, 13, "dr_k", OP_WIDE, C, RW_WKV7_ADD_R_K);
    if (a->ln_w) a->dln_w = gradient(s, p, 14, "dln_w", OP_WIDE, C, RW_WKV7_ADD_LN_W);
    if (a->ln_w) a->dln_b = gradient(s, p, 15, "dln_b", OP_WIDE, C, RW_WKV7_ADD_LN_B);
    if (a->s0) a->ds0 = gradient(s, p, 16, "ds0", OP_WIDE, state, RW_WKV7_ADD_S0);
}

/* -- both ways ------------------------------------------------------------------------------------------------- */

static void both_ways(op_side *s, const shape *p) {
    rw_wkv7_args a = arguments(s, p);
    const int64_t n = a.R * a.H * a.N, states = p->n_seq * a.H * a.N * a.N;
    a.out = op_out(s, "out", OP_NARROW, n);
    op_factor(s, limits(s, p, false));
    if (p->parts & S_OUT) a.s_out = op_out(s, "s_out", OP_WIDE, states);
    if (p->parts & S_OUT) op_factor(s, limits(s, p, false));
    a.saved = op_room(s, OP_QUERY(s, wkv7_saved, &a));
    a.scratch = OP_SCRATCH(s, wkv7_forward_scratch, &a);
    OP_RUN(s, wkv7_forward, &a);
    if (!p->no_dout) a.dout = op_in(s, "dout", OP_NARROW, n, -1, 1);
    if ((p->parts & S_OUT) && !p->no_ds) a.ds_out = op_in(s, "ds_out", OP_WIDE, states, -1, 1);
    gradients(s, p, &a);
    a.scratch = OP_SCRATCH(s, wkv7_backward_scratch, &a);
    OP_RUN(s, wkv7_backward, &a);
}

static void lengths(op_side *s) {
    static const int32_t T[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 300};
    const bool many = s->variant % 3 == 1; /* sequences */
    shape p = {64, s->variant % 2 ? 5 : 1, many ? 3 : 1, {-T[s->variant]}, .parts = ALL};
    if (many) p.cu[0] *= 3;
    both_ways(s, &p);
}

static const shape shapes[] = {
    {32, 5, 1, {-1}, .parts = ALL},
    {32, 2, 5, {0, 0, 1, 34, 34, 131}, .parts = ALL},
    {32, 1, 4, {0, 66, 101, 101, 101}, .parts = MIX | TAIL | SHARED_STATE | S_OUT},
    {32, 3, 3, {-99}, .parts = TAIL},
    {128, 1, 1, {-1}, .parts = ALL},
    {128, 2, 4, {0, 0, 41, 75, 75}, .parts = ALL},
    {128, 3, 3, {0, 7, 8, 73}, .parts = MIX | TAIL | SHARED_STATE | S_OUT},
    {128, 1, 2, {-130}, .parts = TAIL},
    {64, 5, 8, {0, 0, 1, 33, 33, 98, 130, 130, 130}, .parts = ALL},
    {64, 2, 6, {0, 17, 17, 50, 114, 115, 115}, .parts = MIX | TAIL | SHARED_STATE | S_OUT},
    {64, 9, 1, {-300}, .parts = TAIL},
    {64, 2, 3, {-99}, .parts = 0},
    {64, 2, 2, {-66}, .parts = MIX},
    {64, 2, 2, {-66}, .parts = BONUS | S_OUT},
    {64, 2, 2, {-66}, .parts = NORM | OWN_STATE},
    {64, 2, 2, {-66}, .parts = GATE},
    {64, 2, 2, {-66}, .parts = MIX | GATE | SHARED_STATE},
    {64, 2, 2, {-66}, .parts = ALL, .no_dout = true},
    {64, 2, 2, {-66}, .parts = ALL, .no_ds = true},
    {64, 50, 8, {-320}, .parts = MIX | GATE}, /* more heads than a GPU has places */
    {64, 2, 3, {0, 0, 0, 0}, .parts = ALL},   /* states pass through, sums are zeros */
};
static void shapes_of(op_side *s) {
    both_ways(s, &shapes[s->variant]);
}

/* Variant i: without gradient i, others added to; every other adding. Then all added, and shared state added. */
static void wanted(op_side *s) {
    const int v = (int)s->variant;
    shape p = {64, 2, 3, {0, 20, 20, 61}, .parts = ALL, .without = v < GRADIENTS ? v + 1 : 0};
    p.add = v >= GRADIENTS ? ~0u : v % 2 ? 0xAAAAAAAAu : 0x55555555u;
    if (v > GRADIENTS) p.parts = MIX | TAIL | SHARED_STATE | S_OUT;
    both_ways(s, &p);
}

static void one_only(op_side *s) { /* gradient that alone is wanted: the kernels before it may be left out */
    static const shape p = {64, 2, 2, {0, 20, 61}, .parts = ALL};
    rw_wkv7_args a = arguments(s, &p);
    const int64_t C = a.H * a.N, n = a.R * C;
    a.out = op_room(s, n * 8);
    a.saved = op_room(s, OP_QUERY(s, wkv7_saved, &a));
    a.scratch = OP_SCRATCH(s, wkv7_forward_scratch, &a);
    OP_RUN(s, wkv7_forward, &a);
    a.dout = op_in(s, "dout", OP_NARROW, n, -1, 1);
    if (s->variant == 0) a.ds0 = op_out(s, "ds0", OP_WIDE, 2 * C * a.N);
    if (s->variant == 1) a.dg = op_out(s, "dg", OP_NARROW, n);
    if (s->variant == 2) a.dr_k = op_out(s, "dr_k", OP_WIDE, C);
    if (s->variant == 3) a.dln_w = op_out(s, "dln_w", OP_WIDE, C);
    op_factor(s, limits(s, &p, false));
    a.scratch = OP_SCRATCH(s, wkv7_backward_scratch, &a);
    OP_RUN(s, wkv7_backward, &a);
}

static void values(op_side *s) {
    static const shape p[] = {
        {64, 2, 2, {-130}, .parts = ALL, .values = DECAYS},
        {64, 2, 2, {-200}, .parts = ALL, .values = NEAR_KEYS},
        {32, 2, 2, {-130}, .parts = ALL, .values = DECAYS},
        {128, 2, 1, {-70}, .parts = ALL, .values = NEAR_KEYS},
    };
    both_ways(s, &p[s->variant]);
}
/* dk0 of a key of norm 0 is that of its direction times 1e12: too much for fp16. */
static void zero_keys(op_side *s) {
    static const shape p[] = {
        {64, 3, 2, {-100}, .parts = ALL, .values = ZERO_KEYS},
        {32, 3, 1, {-40}, .parts = ALL, .values = ZERO_KEYS},
    };
    both_ways(s, &p[s->variant]);
}

/* Token after token, the state in place; at last a few at once. */
static void decode(op_side *s) {
    static const int64_t heads[] = {64, 32, 128};
    const shape p = {heads[s->variant], 3, 2, {-2}, .parts = OWN_STATE | MIX | TAIL};
    rw_wkv7_args a = arguments(s, &p);
    const int64_t C = a.H * a.N;
    a.s_out = op_both(s, "state", OP_WIDE, 2 * C * a.N, -1, 1);
    a.s0 = a.s_out;
    op_factor(s, limits(s, &p, false));
    for (int t = 0; t < 5; t++) {
        a.out = op_out(s, "out", OP_NARROW, 2 * C);
        op_factor(s, limits(s, &p, false));
        a.scratch = OP_SCRATCH(s, wkv7_forward_scratch, &a);
        OP_RUN(s, wkv7_forward, &a);
    }
}

OP_CASES(wkv7) = {
    {"wkv7.lengths", lengths, 13, 0},
    {"wkv7.shapes", shapes_of, sizeof shapes / sizeof *shapes, 0},
    {"wkv7.wanted", wanted, GRADIENTS + 2, 0},
    {"wkv7.one_only", one_only, 4, 0},
    {"wkv7.values", values, 4, 0},
    {"wkv7.zero_keys", zero_keys, 2, OP_F32 | OP_BF16},
    {"wkv7.decode", decode, 3, 0},
    OP_END,
};
