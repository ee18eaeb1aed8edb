/* Plain operations, conversions, rounding. Variants: every operation, sizes that fill packs and that do not, in place,
 * NULL for what may be, adding. */
#include "tests/gpu/ops/ops.h"

#include <math.h>

/* -- one argument -------------------------------------------------------------------------------------------- */

enum { UNARY_SIZES = 4 };

static void unary(op_side *s) {
    static const int64_t sizes[UNARY_SIZES] = {1, 77, 4096, 20011};
    const int turn = (int)(s->variant / RW_UNARY_COUNT);
    const int64_t n = sizes[turn];
    rw_unary_args a = {.dtype = s->narrow, .op = (rw_unary_op)(s->variant % RW_UNARY_COUNT), .n = n, .alpha = -1.25};
    const bool positive = a.op == RW_UNARY_LOG || a.op == RW_UNARY_SQRT;
    const bool flat = a.op == RW_UNARY_TANH || a.op == RW_UNARY_SIGMOID || a.op == RW_UNARY_SILU;
    const double high = flat && turn == 3 ? 90 : 4, low = positive ? 0.125 : -high;
    a.x = a.out = op_both(s, "in place", OP_NARROW, n, low, high);
    OP_RUN(s, unary_forward, &a);
    a.x = op_in(s, "x", OP_NARROW, n, low, high);
    a.out = op_out(s, "out", OP_NARROW, n);
    OP_RUN(s, unary_forward, &a);

    a.out = op_in(s, "kept", OP_NARROW, n, positive ? 0.25 : -1, 1);
    if (a.op == RW_UNARY_COPY || a.op == RW_UNARY_SCALE) a.x = a.out = NULL;
    a.add = turn & 1;
    a.dx = op_both(s, "dx", OP_NARROW, n, -1, 1);
    a.dout = turn == 2 ? NULL : op_in(s, "dout", OP_NARROW, n, -1, 1);
    OP_RUN(s, unary_backward, &a);
    a.add = false;
    a.dout = a.dx = op_both(s, "dx in place", OP_NARROW, n, -1, 1);
    OP_RUN(s, unary_backward, &a);
}

/* -- two arguments ------------------------------------------------------------------------------------------- */

static const struct {
    int64_t n, period;
} binary_shapes[] = {{1, 0},      {1000, 0},     {20011, 0},       {17 * 320, 320}, {200, 1},
                     {90 * 7, 7}, {65 * 63, 63}, {3 * 4096, 4096}, {2 * 36, 36},    {20 * 1031, 1031}};
enum { BINARY_SHAPES = sizeof binary_shapes / sizeof *binary_shapes };

static void binary(op_side *s) {
    const int shape = (int)(s->variant / 4);
    const int64_t n = binary_shapes[shape].n, period = binary_shapes[shape].period, nb = period ? period : n;
    rw_binary_args a = {.dtype = s->narrow, .op = (rw_binary_op)(s->variant % 4), .n = n, .period = period};
    a.a = a.out = op_both(s, "in place", OP_NARROW, n, -2, 2);
    a.b = op_in(s, "b", OP_NARROW, nb, 0.5, 2);
    OP_RUN(s, binary_forward, &a);
    a.a = op_in(s, "a", OP_NARROW, n, -2, 2);
    a.out = op_out(s, "out", OP_NARROW, n);
    OP_RUN(s, binary_forward, &a);

    a.dout = shape == 4 ? NULL : op_in(s, "dout", OP_NARROW, n, -1, 2);
    for (a.add = 0; a.add < 4; a.add++) {
        a.da = a.add == 1 ? NULL : op_both(s, "da", OP_NARROW, n, -1, 1);
        a.db = a.add == 2 ? NULL : op_both(s, "db", OP_NARROW, nb, -1, 1);
        if (a.db) op_factor(s, 3); /* sums of up to 200, plainly in order on a CPU */
        OP_RUN(s, binary_backward, &a);
    }
    if (period || !a.dout) return;
    a.b = a.a = op_in(s, "both", OP_NARROW, n, 0.5, 2); /* one tensor on both sides: one gradient */
    a.add = RW_BINARY_ADD_B;
    a.da = a.db = op_out(s, "dboth", OP_NARROW, n);
    op_factor(s, 100); /* a narrow sum in between; x - x and x / x cancel */
    if (a.op == RW_BINARY_ADD || a.op == RW_BINARY_MUL)
        OP_RUN(s, binary_backward, &a);
    else
        s->d->zero(s->d, a.da, n * rw_dtype_bytes(s->narrow));
}

/* -- conversion ------------------------------------------------------------------------------------------------ */

/* All magnitudes, and numbers that would be rounded twice by way of f32: a tie of a narrow type and a little more. */
static double awkward(const void *ctx, int64_t i) {
    (void)ctx;
    const double sign = i % 2 ? -1 : 1, step = (double)(i % 613) + 1;
    switch (i % 5) {
    case 0:
        return sign * ldexp(step / 613, (int)(i % 37) - 26);
    case 1:
        return sign * (1 + step * 0x1p-8 + 0x1p-9 + sign * 0x1p-40);
    case 2:
        return sign * (1 + step * 0x1p-10 + 0x1p-11 + sign * 0x1p-40);
    case 3:
        return sign * ldexp(step + 0.5 + sign * 0x1p-30, -24); /* subnormal halves */
    default:
        return i % 3 ? sign * ldexp(step, 10) : sign * ldexp(step, 128); /* beyond halves; beyond floats */
    }
}

static void convert(op_side *s, void *dst, rw_dtype to, const void *src, rw_dtype from, int64_t n) {
    const rw_cast_args a = {.n = n, .from = from, .to = to, .src = src, .dst = dst};
    OP_RUN(s, cast, &a);
}

/* f64 -> one -> another -> f64, bit by bit. */
static void cast(op_side *s) {
    static const rw_dtype types[] = {RW_F32, RW_F64, RW_BF16, RW_F16};
    static const int64_t sizes[] = {1, 100, 4096, 9999};
    const rw_dtype one = types[s->variant % 4], another = types[s->variant / 4];
    const int64_t n = sizes[(s->variant + s->variant / 4) % 4];
    void *x = op_in_of(s, "x", OP_DOUBLE, n, awkward, NULL), *y = op_room(s, n * rw_dtype_bytes(one));
    void *z = op_room(s, n * rw_dtype_bytes(another));
    convert(s, y, one, x, RW_F64, n);
    convert(s, z, another, y, one, n);
    convert(s, op_out(s, "out", OP_DOUBLE, n), RW_F64, z, another, n);
    op_factor(s, 1e-9);
}

static void round_to(op_side *s) {
    static const int64_t sizes[] = {1, 100, 20011};
    rw_round_args a = {.dtype = s->narrow, .to = s->variant % 2 ? RW_BF16 : RW_F16, .n = sizes[s->variant / 2]};
    a.x = op_both(s, "x", OP_NARROW, a.n, -3, 3);
    OP_RUN(s, round_to, &a);
    op_factor(s, 1e-9);
}

OP_CASES(elementwise) = {{"unary", unary, RW_UNARY_COUNT *UNARY_SIZES, 0},
                         {"binary", binary, 4 * BINARY_SHAPES, 0},
                         {"cast", cast, 16, 0},
                         {"round_to", round_to, 6, 0},
                         OP_END};
