/* ddlerp. Variants: ranks and channels that fill the tiles of the tensor cores and that do not; sequences of every
 * length around a tile's, empty ones among them; states of their own, shared, none; tanh(h) kept apart, in place, not
 * kept, at hand already; each output and gradient left out in turn, each added to. */
#include "tests/gpu/ops/ops.h"

enum { MIX = RW_DDLERP_MIX, MOST_SEQ = 8 };

typedef struct {
    int64_t C, rank, n_seq;
    int32_t length[MOST_SEQ]; /* the first alone: of all, without cu_seqlens */
} shape;

/* The last two have so many rows that a block of an H100 works through several tiles; they come once. */
static const shape shapes[] = {
    {8, 32, 1, {1}},
    {64, 32, 3, {2}},
    {320, 32, 8, {0, 15, 16, 0, 17, 1, 31, 0}},
    {136, 32, 3, {65}},
    {768, 32, 6, {63, 0, 0, 64, 47, 126}},
    {64, 64, 1, {127}},
    {200, 64, 7, {1, 1, 63, 0, 64, 65, 0}},
    {512, 64, 2, {150}},
    {36, 32, 4, {5, 0, 40, 3}},
    {13, 5, 2, {17}},
    {264, 16, 5, {30, 1, 0, 70, 2}},
    {130, 100, 3, {33, 0, 16}},
    {64, 32, 2, {0, 0}},
    {2048, 32, 5, {300, 47, 1, 0, 252}},
    {2048, 64, 4, {190, 0, 2, 193}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static bool equal_lengths(const shape *z) {
    for (int64_t i = 1; i < z->n_seq; i++)
        if (z->length[i] != 0) return false;
    return z->length[0] != 0;
}

static int64_t sequences(op_side *s, const shape *z, const int32_t **cu_seqlens) {
    int32_t first[MOST_SEQ + 1] = {0};
    if (equal_lengths(z)) return z->length[0] * z->n_seq;
    for (int64_t i = 0; i < z->n_seq; i++) first[i + 1] = first[i] + z->length[i];
    *cu_seqlens = op_ints(s, first, z->n_seq + 1);
    return first[z->n_seq];
}

/* What both ways read beside h. `states`: 0 none, 1 one for each sequence, 2 shared */
static rw_ddlerp_args inputs(op_side *s, const shape *z, uint64_t states) {
    rw_ddlerp_args a = {.dtype = s->narrow, .C = z->C, .rank = z->rank, .n_seq = z->n_seq};
    a.R = sequences(s, z, &a.cu_seqlens);
    a.shift_in_stride = states == 2 ? 0 : z->C;
    a.xn = op_in(s, "xn", OP_NARROW, a.R * a.C, -2, 2);
    if (states) a.shift_in = op_in(s, "shift_in", OP_WIDE, states == 2 ? a.C : a.n_seq * a.C, -2, 2);
    a.w2 = op_in(s, "w2", OP_NARROW, MIX * a.rank * a.C, -0.3, 0.3);
    for (int i = 0; i < MIX; i++) a.mu[i] = op_in(s, "mu", OP_WIDE, a.C, -0.5 - i, 0.5 + i);
    return a;
}

static void forward(op_side *s) {
    static const char *const names[MIX] = {"out w", "out k", "out v", "out r", "out g"};
    const uint64_t v = s->variant, keep = v / 2 % 4;
    rw_ddlerp_args a = inputs(s, &shapes[v % SHAPES], v % 3);
    const int64_t n = a.R * MIX * a.rank;
    const double wide = v % 5 == 4 ? 40 : 3; /* tanh = 1 */
    if (keep == 0) a.tanh_h = op_in(s, "tanh_h", OP_NARROW, n, -1, 1);
    if (keep == 1) a.h = a.tanh_h = op_both(s, "h, tanh_h", OP_NARROW, n, -wide, wide);
    if (keep >= 2) a.h = op_in(s, "h", OP_NARROW, n, -wide, wide);
    if (keep == 2) a.tanh_h = op_out(s, "tanh_h", OP_NARROW, n);
    for (uint64_t i = 0; i < MIX; i++)
        if (v % 7 != i) a.out[i] = op_out(s, names[i], OP_NARROW, a.R * a.C);
    a.scratch = OP_SCRATCH(s, ddlerp_forward_scratch, &a);
    OP_RUN(s, ddlerp_forward, &a);
}

/* Two mixes, so many rows that a block of an H100 works through several tiles. */
static void forward_long(op_side *s) {
    const shape z = {2048, s->variant ? 64 : 32, 6, {1000, 63, 1, 0, 1100, 101}};
    rw_ddlerp_args a = inputs(s, &z, 1);
    a.h = op_in(s, "h", OP_NARROW, a.R * MIX * a.rank, -3, 3);
    a.tanh_h = op_out(s, "tanh_h", OP_NARROW, a.R * MIX * a.rank);
    a.out[1] = op_out(s, "out k", OP_NARROW, a.R * a.C);
    a.out[4] = op_out(s, "out g", OP_NARROW, a.R * a.C);
    a.scratch = OP_SCRATCH(s, ddlerp_forward_scratch, &a);
    OP_RUN(s, ddlerp_forward, &a);
}

enum { DXN, DH, DW2, DSHIFT, DMU, GRADIENTS = DMU + MIX };

static void *gradient(op_side *s, bool wanted, const char *name, op_class cls, int64_t n) {
    return wanted ? op_both(s, name, cls, n, -1, 1) : NULL;
}

/* wanted: bits of the gradients above */
static void backward_of(op_side *s, const shape *z, uint64_t states, uint32_t wanted, uint32_t add, bool wide_dw2,
                        uint32_t no_dout) {
    static const char *const names[MIX] = {"dmu w", "dmu k", "dmu v", "dmu r", "dmu g"};
    rw_ddlerp_args a = inputs(s, z, states);
    a.add = add;
    a.tanh_h = op_in(s, "tanh_h", OP_NARROW, a.R * MIX * a.rank, -1, 1);
    for (int i = 0; i < MIX; i++)
        if (!(no_dout >> i & 1)) a.dout[i] = op_in(s, "dout", OP_NARROW, a.R * a.C, -1, 1 + 0.25 * i);
    a.dxn = gradient(s, wanted & 1 << DXN, "dxn", OP_NARROW, a.R * a.C);
    a.dh = gradient(s, wanted & 1 << DH, "dh", OP_NARROW, a.R * MIX * a.rank);
    a.dw2_dtype = wide_dw2 ? rw_wide(s->narrow) : RW_DTYPE_NONE;
    a.dw2 = gradient(s, wanted & 1 << DW2, "dw2", wide_dw2 ? OP_WIDE : OP_NARROW, MIX * a.rank * a.C);
    if (states && wanted & 1 << DSHIFT) {
        a.dshift_in = gradient(s, true, "dshift_in", OP_WIDE, states == 2 ? a.C : a.n_seq * a.C);
        op_exact(s);
    }
    for (int i = 0; i < MIX; i++) {
        a.dmu[i] = gradient(s, wanted & 1 << (DMU + i), names[i], OP_WIDE, a.C);
        if (a.dmu[i]) op_exact(s);
    }
    a.scratch = OP_SCRATCH(s, ddlerp_backward_scratch, &a);
    OP_RUN(s, ddlerp_backward, &a);
}

/* Every shape, all gradients: overwritten, or added to in turn. */
static void backward(op_side *s) {
    const uint64_t v = s->variant;
    const uint32_t add = v < SHAPES ? 0 : (uint32_t)(v * 2654435761u >> 7) & ((RW_DDLERP_ADD_MU << MIX) - 1);
    backward_of(s, &shapes[v % SHAPES], v % 3, (1 << GRADIENTS) - 1, add, v / 2 % 2, 0);
}

/* Each gradient left out, each alone, with every way to lack a dout; small shapes of both forms. */
static void backward_parts(op_side *s) {
    static const shape small[] = {
        {72, 32, 4, {20, 0, 70, 1}}, {136, 64, 2, {67}}, {20, 7, 3, {1, 0, 34}}, {24, 40, 2, {9, 9}}};
    static const uint32_t no_dout[] = {0, 1, 2, 4, 8, 16, 5, 30, 31};
    const uint64_t v = s->variant, i = v / 4 % (2 * GRADIENTS + 1);
    const uint32_t all = (1u << GRADIENTS) - 1;
    const uint32_t wanted = i < GRADIENTS ? all & ~(1u << i) : i < 2 * GRADIENTS ? 1u << (i - GRADIENTS) : all;
    const uint32_t add = v % 5 < 2 ? 0 : v % 5 < 4 ? (RW_DDLERP_ADD_MU << MIX) - 1 : (uint32_t)(v * 40503);
    backward_of(s, &small[v % 4], (v / 3) % 3, wanted, add, v / 8 % 2, no_dout[v / 2 % 9]);
}

OP_CASES(ddlerp) = {{"ddlerp.forward", forward, 2 * SHAPES - 2, 0},
                    {"ddlerp.forward_long", forward_long, 2, 0},
                    {"ddlerp.backward", backward, 2 * SHAPES - 2, 0},
                    {"ddlerp.backward_parts", backward_parts, 4 * (2 * GRADIENTS + 1), 0},
                    OP_END};
