/* relu squared and the gate. Variants: sizes that fill packs and that do not; NULL for what may be; adding. */
#include "tests/gpu/ops/ops.h"

static int64_t size_of(const op_side *s) {
    static const int64_t sizes[] = {1, 7, 8, 1000, 4096, 70001};
    return sizes[s->variant % 6];
}

static void relu_sq(op_side *s) {
    const int64_t n = size_of(s);
    rw_relu_sq_args a = {.dtype = s->narrow, .n = n, .add = s->variant & 1};
    a.x = op_in(s, "x", OP_NARROW, n, -2, 2);
    a.out = op_out(s, "out", OP_NARROW, n);
    OP_RUN(s, relu_sq_forward, &a);
    a.out = op_in(s, "act", OP_NARROW, n, 0, 4); /* what it kept */
    a.dout = s->variant == 5 ? NULL : op_in(s, "dout", OP_NARROW, n, -1, 1);
    a.dx = op_both(s, "dx", OP_NARROW, n, -1, 1);
    OP_RUN(s, relu_sq_backward, &a);
}

static void rgate(op_side *s) {
    const int64_t n = size_of(s);
    rw_rgate_args a = {.dtype = s->narrow, .n = n, .add = s->variant % 4};
    a.q = op_in(s, "q", OP_NARROW, n, -4, 4);
    a.p = op_in(s, "p", OP_NARROW, n, -2, 2);
    if (s->variant != 3) a.residual = op_in(s, "residual", OP_NARROW, n, -2, 2);
    a.out = op_out(s, "out", OP_NARROW, n);
    OP_RUN(s, rgate_forward, &a);
    a.dout = op_in(s, "dout", OP_NARROW, n, -1, 1);
    if (s->variant != 4) a.dq = op_both(s, "dq", OP_NARROW, n, -1, 1);
    if (s->variant != 5) a.dp = op_both(s, "dp", OP_NARROW, n, -1, 1);
    OP_RUN(s, rgate_backward, &a);
}

OP_CASES(channel_mix) = {{"relu_sq", relu_sq, 6, 0}, {"rgate", rgate, 6, 0}, OP_END};
