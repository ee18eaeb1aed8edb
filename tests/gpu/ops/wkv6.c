/* The recurrence of x052 and x060: lengths around a tile and a chunk, sizes of heads, decays from none to total, NULL
 * for what may be, adding, packed sequences with empty ones, states in and out, in place. */
#include "tests/gpu/ops/ops.h"

#include <stddef.h>

enum { N_GRADS = 10, MAX_SEQ = 8 };

/* How strong the decays are: ww around this, and 0.8 to each side. MIXED: another one for each channel. CHANGING: for
 * each 16 tokens, so that tiles of weak and of strong decays follow each other. */
enum { MIXED = 100, CHANGING = 101 };
static const double levels[] = {-20, -6, 0, 1, 3, 8};
typedef struct {
    int64_t C;
    double level;
} decays;

static double noise(int64_t i) {
    const uint64_t x = (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u;
    return (double)((x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u >> 11) * 0x1p-53;
}
static double decay_value(const void *ctx, int64_t i) {
    const decays *d = ctx;
    double level = d->level;
    if (level == MIXED) level = levels[i % d->C % 6];
    if (level == CHANGING) level = i / d->C / 16 % 2 ? 3 : -3;
    return level + 1.2 * noise(i) - 0.6;
}

/* Norm with weak decays only: with strong ones y is nearly one v, and v . dy, with dy at right angles to y, the
 * difference of large terms. */
typedef struct {
    int64_t T, B, H, N;
    double level;
    bool constant;                            /* w_raw NULL                            */
    bool no_w0, no_s0, no_norm, no_gate;      /* NULL                                  */
    bool no_bias, no_dout, no_ds_out, shared; /* shared: one s0 for all sequences      */
    uint32_t skip, add;                       /* gradients not wanted, added to (bits of add) */
    const int32_t *lengths;                   /* of B sequences, instead of T          */
} setup;

static const int32_t *pack(op_side *s, const setup *p, int64_t *R) {
    int32_t cu[MAX_SEQ + 1] = {0};
    *R = p->B * p->T;
    if (!p->lengths) return NULL;
    for (int64_t i = 0; i < p->B; i++) cu[i + 1] = cu[i] + p->lengths[i];
    *R = cu[p->B];
    return op_ints(s, cu, p->B + 1);
}

static void inputs(op_side *s, const setup *p, rw_wkv6_args *a) {
    const int64_t C = p->H * p->N, S = C * p->N;
    *a = (rw_wkv6_args){.dtype = s->narrow, .H = p->H, .N = p->N, .n_seq = p->B, .eps = 64e-5};
    a->cu_seqlens = pack(s, p, &a->R);
    a->r = op_in(s, "r", OP_NARROW, a->R * C, -1, 1);
    a->k = op_in(s, "k", OP_NARROW, a->R * C, -1, 1);
    a->v = op_in(s, "v", OP_NARROW, a->R * C, -1, 1);
    const decays d = {C, p->level};
    if (!p->constant) a->w_raw = op_in_of(s, "w_raw", OP_NARROW, a->R * C, decay_value, &d);
    if (p->constant) a->w0 = op_in_of(s, "w0", OP_WIDE, C, decay_value, &d);
    if (!p->constant && !p->no_w0) a->w0 = op_in(s, "w0", OP_WIDE, C, -0.2, 0.2);
    a->u = op_in(s, "u", OP_WIDE, C, -1, 1);
    a->s0_stride = p->no_s0 || p->shared ? 0 : S;
    if (!p->no_s0) a->s0 = op_in(s, "s0", OP_WIDE, p->shared ? S : p->B * S, -1, 1);
    if (!p->no_gate) a->gate = op_in(s, "gate", OP_NARROW, a->R * C, -3, 3);
    if (!p->no_norm) a->ln_w = op_in(s, "ln_w", OP_WIDE, C, 0.5, 1.5);
    if (!p->no_norm && !p->no_bias) a->ln_b = op_in(s, "ln_b", OP_WIDE, C, -0.5, 0.5);
}

/* A gradient: NULL, NaN before, or numbers to be added to. */
static void *grad(op_side *s, const setup *p, const char *name, op_class cls, int64_t n, uint32_t bit, double factor) {
    if (p->skip & bit) return NULL;
    void *x = p->add & bit ? op_both(s, name, cls, n, -1, 1) : op_out(s, name, cls, n);
    op_factor(s, s->grid == RW_F32 && factor < 3 ? 3 : factor);
    return x;
}

/* fp32: the rounding of w counts as often as a token is remembered, 1 / (1 - w) times. w = exp(-e), e = exp(w0 +
 * w_raw): an error of e is worth e times as much in w, and dw_raw is dw e w; at ww = 3 it is 20 roundings. In 16 bits
 * dw_raw is a sum of products of rounded numbers over both states. */
static double decay_factor(const op_side *s, const setup *p) {
    if (s->grid == RW_F32) return p->level >= 1 ? 8 : 3;
    return s->grid == RW_F16 && p->level == 3 ? 6 : 1.5; /* fp16 is coarse below 6e-5, and w is smaller still */
}

static void backward(op_side *s, const setup *p, rw_wkv6_args *a) {
    const int64_t C = p->H * p->N, S = C * p->N, n = a->R * C;
    const double f = decay_factor(s, p);
    a->add = p->add;
    if (!p->no_dout) a->dout = op_in(s, "dout", OP_NARROW, n, -1, 1);
    if (!p->no_ds_out) a->ds_out = op_in(s, "ds_out", OP_WIDE, p->B * S, -1, 1);
    a->dr = grad(s, p, "dr", OP_NARROW, n, RW_WKV6_ADD_R, 1);
    a->dk = grad(s, p, "dk", OP_NARROW, n, RW_WKV6_ADD_K, 1);
    a->dv = grad(s, p, "dv", OP_NARROW, n, RW_WKV6_ADD_V, 1);
    if (a->w_raw) a->dw_raw = grad(s, p, "dw_raw", OP_NARROW, n, RW_WKV6_ADD_W, f);
    if (a->w0) a->dw0 = grad(s, p, "dw0", OP_WIDE, C, RW_WKV6_ADD_W0, f);
    /* dy is rounded behind the norm, which leaves it at right angles to y: v . dy cancels in part */
    a->du = grad(s, p, "du", OP_WIDE, C, RW_WKV6_ADD_U, a->ln_w ? 1.5 : 1);
    if (a->s0) a->ds0 = grad(s, p, "ds0", OP_WIDE, p->shared ? S : p->B * S, RW_WKV6_ADD_S0, 1);
    if (a->gate) a->dgate = grad(s, p, "dgate", OP_NARROW, n, RW_WKV6_ADD_GATE, 1);
    if (a->ln_w) a->dln_w = grad(s, p, "dln_w", OP_WIDE, C, RW_WKV6_ADD_LN_W, 1);
    if (a->ln_b) a->dln_b = grad(s, p, "dln_b", OP_WIDE, C, RW_WKV6_ADD_LN_B, 1);
    a->scratch = OP_SCRATCH(s, wkv6_backward_scratch, a);
    OP_RUN(s, wkv6_backward, a);
}

/* An output of the forward pass; see decay_factor. */
static void *output(op_side *s, const char *name, op_class cls, int64_t n) {
    void *x = op_out(s, name, cls, n);
    op_factor(s, s->grid == RW_F32 ? 3 : 1);
    return x;
}

static void both_ways(op_side *s, const setup *p) {
    const int64_t C = p->H * p->N;
    rw_wkv6_args a;
    inputs(s, p, &a);
    a.out = output(s, "out", OP_NARROW, a.R * C);
    a.s_out = output(s, "s_out", OP_WIDE, p->B * C * p->N);
    a.saved = OP_SCRATCH(s, wkv6_saved, &a);
    a.scratch = OP_SCRATCH(s, wkv6_forward_scratch, &a);
    OP_RUN(s, wkv6_forward, &a);
    backward(s, p, &a);
}

/* -- lengths, sizes -------------------------------------------------------------------------------------- */

static const setup shapes[] = {
    {.T = 1, .B = 1, .H = 1, .N = 64, .level = -4, .no_norm = true},
    {.T = 2, .B = 3, .H = 5, .N = 64, .level = -4},
    {.T = 15, .B = 1, .H = 5, .N = 64, .level = -4},
    {.T = 16, .B = 3, .H = 1, .N = 64, .level = -3, .no_norm = true},
    {.T = 17, .B = 1, .H = 5, .N = 64, .level = -4},
    {.T = 63, .B = 3, .H = 1, .N = 64, .level = -1, .no_norm = true},
    {.T = 64, .B = 1, .H = 5, .N = 64, .level = -4},
    {.T = 65, .B = 3, .H = 2, .N = 64, .level = -2, .no_norm = true},
    {.T = 127, .B = 1, .H = 5, .N = 64, .level = -4},
    {.T = 300, .B = 1, .H = 2, .N = 64, .level = -4},
    {.T = 1, .B = 3, .H = 5, .N = 32, .level = -4},
    {.T = 17, .B = 1, .H = 2, .N = 32, .level = -4},
    {.T = 65, .B = 3, .H = 1, .N = 32, .level = -4},
    {.T = 127, .B = 1, .H = 5, .N = 32, .level = MIXED, .no_norm = true},
    {.T = 1, .B = 1, .H = 1, .N = 128, .level = -4},
    {.T = 16, .B = 3, .H = 2, .N = 128, .level = -4},
    {.T = 65, .B = 1, .H = 3, .N = 128, .level = -4},
    {.T = 127, .B = 1, .H = 1, .N = 128, .level = MIXED, .no_norm = true},
    {.T = 700, .B = 1, .H = 2, .N = 64, .level = -4},
    {.T = 515, .B = 2, .H = 1, .N = 64, .level = 0, .no_norm = true},
};
static void lengths(op_side *s) {
    both_ways(s, &shapes[s->variant]);
}

/* -- decays ---------------------------------------------------------------------------------------------- */

static void decay_levels(op_side *s) {
    static const double level[] = {-20, -6, 0, 1, 3, 8, MIXED, CHANGING};
    static const int64_t N[] = {64, 64, 32, 128};
    setup p = {.T = 130, .B = 2, .H = 2, .level = level[s->variant % 8]};
    p.N = N[s->variant / 8];
    p.constant = s->variant / 8 == 1 && p.level != CHANGING;
    p.no_norm = p.level > -4;
    if (s->grid == RW_F16 && p.level == -20) p.skip = RW_WKV6_ADD_W; /* e^-20 is too small a number for fp16 */
    both_ways(s, &p);
}

/* -- NULL, adding ---------------------------------------------------------------------------------------- */

static void nulls(op_side *s) {
    static const int64_t N[] = {64, 32, 128};
    setup p = {.T = 70, .B = 2, .H = 1, .N = N[s->variant / 22], .level = -4};
    const uint64_t v = s->variant % 22;
    if (v < N_GRADS) p.skip = 1u << v;
    if (v == 10) p.skip = ~0u;
    if (v == 11) p.skip = ~(uint32_t)RW_WKV6_ADD_V;
    if (v == 12) p.skip = ~(uint32_t)RW_WKV6_ADD_GATE;
    p.no_w0 = v == 13;
    p.no_s0 = v == 14;
    p.no_norm = v == 15 || v == 16;
    p.no_gate = v == 15 || v == 17;
    p.no_bias = v == 18;
    p.no_dout = v == 19 || v == 20;
    p.no_norm |= v == 20, p.no_gate |= v == 20;
    p.no_ds_out = v == 21;
    both_ways(s, &p);
}

static void adds(op_side *s) {
    static const int64_t N[] = {64, 32, 128};
    setup p = {.T = 20, .B = 2, .H = 2, .N = N[s->variant / 12], .level = -4, .shared = s->variant % 2};
    const uint64_t v = s->variant % 12;
    p.add = v < N_GRADS ? 1u << v : (1u << N_GRADS) - 1;
    p.constant = v == 11;
    both_ways(s, &p);
}

/* -- packed sequences ------------------------------------------------------------------------------------ */

static void packed(op_side *s) {
    static const int32_t cuts[][MAX_SEQ] = {{17, 0, 64, 1, 0, 65, 0, 0},
                                            {0, 130, 3, 0, 16, 15, 200, 0},
                                            {1, 1, 1, 2, 63, 1, 1, 1},
                                            {0, 0, 0, 0, 0, 0, 0, 9},
                                            {300, 0, 0, 7, 400, 0, 0, 0}};
    static const int64_t N[] = {64, 64, 32, 128};
    setup p = {.B = MAX_SEQ, .H = 2, .level = -4, .lengths = cuts[s->variant % 5]};
    p.N = N[s->variant / 5];
    p.shared = s->variant % 2;
    if (s->variant / 5 == 1) p.level = MIXED, p.no_norm = true;
    both_ways(s, &p);
}

/* -- without `saved`: the state in place, and one sequence in two pieces --------------------------------- */

static void in_place(op_side *s) {
    static const int64_t N[] = {64, 32, 128}, T[] = {1, 5, 64, 600};
    setup p = {.T = T[s->variant % 4], .B = 2, .H = 3, .N = N[s->variant / 4], .level = -2};
    const int64_t C = p.H * p.N;
    rw_wkv6_args a;
    inputs(s, &p, &a);
    a.s0 = a.s_out = op_both(s, "state", OP_WIDE, p.B * C * p.N, -1, 1);
    a.out = output(s, "out", OP_NARROW, a.R * C);
    a.scratch = OP_SCRATCH(s, wkv6_forward_scratch, &a);
    OP_RUN(s, wkv6_forward, &a);
    a.out = output(s, "out again", OP_NARROW, a.R * C);
    OP_RUN(s, wkv6_forward, &a);
}

OP_CASES(wkv6) = {{"wkv6.lengths", lengths, sizeof shapes / sizeof *shapes, 0},
                  {"wkv6.decays", decay_levels, 32, 0},
                  {"wkv6.nulls", nulls, 66, 0},
                  {"wkv6.adds", adds, 36, 0},
                  {"wkv6.packed", packed, 20, 0},
                  {"wkv6.in_place", in_place, 12, 0},
                  OP_END};
