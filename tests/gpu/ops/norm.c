/* layer_norm and group_norm: rows and groups that fill packs and warps and that do not; NULL in turn; adding. */
#include "tests/gpu/ops/ops.h"

enum { ADD_X = 1, ADD_GAMMA = 2, ADD_BETA = 4, NO_DX = 8, NO_PARAMS = 16, NO_DOUT = 32, NO_DGAMMA = 64, FLAT = 128 };

static double flat_or_not(const void *ctx, int64_t i) {
    const int64_t N = *(const int64_t *)ctx, group = i / N;
    return group % 3 == 0 ? 2 : (double)((i * 7919 + group * 104729) % 4001) / 1000 - 1;
}

static void *input(op_side *s, int64_t n, const int64_t *group, unsigned flags) {
    return flags & FLAT ? op_in_of(s, "x", OP_NARROW, n, flat_or_not, group) : op_in(s, "x", OP_NARROW, n, -1, 3);
}
static void *stats(op_side *s, const char *name, int64_t n) {
    void *p = op_out(s, name, OP_WIDE, n);
    op_exact(s);
    return p;
}
static void *gradient(op_side *s, const char *name, op_class cls, int64_t n, bool add) {
    void *p = add ? op_both(s, name, cls, n, -1, 1) : op_out(s, name, cls, n);
    if (cls == OP_WIDE) op_exact(s);
    return p;
}

/* -- layer norm ------------------------------------------------------------------------------------------ */

static const struct {
    int64_t R, C;
    unsigned flags;
} layers[] = {
    {1, 64, 0},
    {2, 320, ADD_X},
    {15, 320, ADD_GAMMA | FLAT},
    {17, 768, ADD_BETA},
    {65, 1024, NO_DX},
    {127, 320, NO_PARAMS},
    {300, 768, ADD_X | ADD_GAMMA | ADD_BETA},
    {300, 320, NO_DGAMMA},
    {33, 320, NO_DOUT},
    {33, 320, NO_DOUT | ADD_X | ADD_GAMMA},
    {40, 2048, 0},
    {20, 4096, ADD_X},
    {9, 8192, ADD_X},
    {33, 37, ADD_X},
    {64, 20, NO_DX},
    {0, 64, 0},
};

static void layer_norm(op_side *s) {
    const int64_t R = layers[s->variant].R, C = layers[s->variant].C;
    const unsigned flags = layers[s->variant].flags;
    rw_layer_norm_args a = {.dtype = s->narrow, .R = R, .C = C, .eps = 1e-5, .add = flags & 7};
    a.x = input(s, R * C, &C, flags);
    a.gamma = op_in(s, "gamma", OP_WIDE, C, 0.5, 1.5);
    a.beta = op_in(s, "beta", OP_WIDE, C, -0.5, 0.5);
    a.out = op_out(s, "plain", OP_NARROW, R * C);
    OP_RUN(s, layer_norm_forward, &a);
    a.out = op_out(s, "out", OP_NARROW, R * C);
    a.mean = stats(s, "mean", R);
    a.rstd = stats(s, "rstd", R);
    OP_RUN(s, layer_norm_forward, &a);
    if (!(flags & NO_DOUT)) a.dout = op_in(s, "dout", OP_NARROW, R * C, -1, 1);
    if (!(flags & NO_DX)) a.dx = gradient(s, "dx", OP_NARROW, R * C, flags & ADD_X);
    if (!(flags & (NO_PARAMS | NO_DGAMMA))) a.dgamma = gradient(s, "dgamma", OP_WIDE, C, flags & ADD_GAMMA);
    if (!(flags & NO_PARAMS)) a.dbeta = gradient(s, "dbeta", OP_WIDE, C, flags & ADD_BETA);
    a.scratch = OP_SCRATCH(s, layer_norm_backward_scratch, &a);
    OP_RUN(s, layer_norm_backward, &a);
}

/* -- group norm ------------------------------------------------------------------------------------------ */

static const struct {
    int64_t R, H, N;
    unsigned flags;
} groups[] = {
    {1, 1, 64, 0},
    {2, 5, 64, ADD_X},
    {15, 5, 32, ADD_GAMMA | FLAT},
    {17, 12, 64, ADD_BETA | FLAT},
    {65, 5, 128, NO_DX},
    {127, 5, 64, NO_PARAMS},
    {300, 12, 64, ADD_X | ADD_GAMMA | ADD_BETA},
    {300, 3, 32, NO_DGAMMA},
    {33, 5, 64, NO_DOUT},
    {33, 5, 64, NO_DOUT | ADD_X | ADD_BETA},
    {64, 40, 64, ADD_X},
    {16, 32, 128, 0},
    {63, 1, 256, 0},
    {63, 3, 8, ADD_X},
    /* groups that are no power of two of packs */
    {65, 5, 24, ADD_X | ADD_GAMMA},
    {17, 3, 5, NO_DX},
    {16, 2, 320, 0},
    {0, 5, 64, 0},
};

static void group_norm(op_side *s) {
    const int64_t R = groups[s->variant].R, H = groups[s->variant].H, N = groups[s->variant].N, C = H * N;
    const unsigned flags = groups[s->variant].flags;
    rw_group_norm_args a = {.dtype = s->narrow, .R = R, .H = H, .N = N, .eps = 64e-5, .add = flags & 7};
    a.x = input(s, R * C, &N, flags);
    a.gamma = op_in(s, "gamma", OP_WIDE, C, 0.5, 1.5);
    a.beta = op_in(s, "beta", OP_WIDE, C, -0.5, 0.5);
    a.out = op_out(s, "plain", OP_NARROW, R * C);
    OP_RUN(s, group_norm_forward, &a);
    a.out = op_out(s, "out", OP_NARROW, R * C);
    a.mean = stats(s, "mean", R * H);
    a.rstd = stats(s, "rstd", R * H);
    OP_RUN(s, group_norm_forward, &a);
    if (!(flags & NO_DOUT)) a.dout = op_in(s, "dout", OP_NARROW, R * C, -1, 1);
    if (!(flags & NO_DX)) a.dx = gradient(s, "dx", OP_NARROW, R * C, flags & ADD_X);
    if (!(flags & (NO_PARAMS | NO_DGAMMA))) a.dgamma = gradient(s, "dgamma", OP_WIDE, C, flags & ADD_GAMMA);
    if (!(flags & NO_PARAMS)) a.dbeta = gradient(s, "dbeta", OP_WIDE, C, flags & ADD_BETA);
    a.scratch = OP_SCRATCH(s, group_norm_backward_scratch, &a);
    OP_RUN(s, group_norm_backward, &a);
}

OP_CASES(norm) = {{"layer_norm", layer_norm, sizeof layers / sizeof *layers, 0},
                  {"group_norm", group_norm, sizeof groups / sizeof *groups, 0},
                  OP_END};
