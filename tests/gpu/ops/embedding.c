/* embedding: tokens that occur never, once, often and always; with the norm and without; narrow and wide gradients. */
#include "tests/gpu/ops/ops.h"

enum { NORM = 1, WIDE = 2, ADD = 4, NO_DOUT = 8, NO_DWEIGHT = 16, NO_PARAMS = 32, SKEWED = 64 /* half is token 1 */ };

static const struct {
    int64_t R, C, V;
    unsigned flags;
} shapes[] = {
    {1, 64, 50, NORM},
    {2, 320, 1, 0},
    {17, 320, 50, NORM | WIDE},
    {65, 320, 50, NORM | ADD},
    {127, 320, 257, WIDE | ADD},
    {300, 320, 257, NORM | SKEWED},
    {300, 64, 1, NORM | WIDE | ADD},
    {300, 64, 3, WIDE},
    {128, 64, 2, 0},
    {1000, 64, 40, NORM | WIDE | SKEWED},
    {640, 2056, 3, NORM | SKEWED},
    {64, 64, 3000, NORM},
    {200, 64, 1024, 0},
    {33, 4096, 20, NORM | WIDE | ADD},
    {40, 37, 20, NORM | ADD},
    {150, 37, 2, WIDE},
    {33, 320, 20, NORM | NO_DOUT},
    {33, 320, 20, NORM | NO_DOUT | ADD | WIDE},
    {33, 320, 20, NORM | NO_DWEIGHT},
    {33, 320, 20, NORM | NO_PARAMS},
    {0, 64, 20, NORM},
};

static void tokens(op_side *s, rw_embedding_args *a, bool skewed) {
    int32_t x[1000];
    if (!skewed) {
        a->tokens = op_random_ints(s, "tokens", a->R, (int32_t)a->V);
        return;
    }
    for (int64_t i = 0; i < a->R; i++) x[i] = i * 2654435761u % 1000 < 500 ? 1 : (int32_t)(i * i % a->V);
    a->tokens = op_ints(s, x, a->R);
}

static void *exact(op_side *s, const char *name, int64_t n, bool add) {
    void *p = add ? op_both(s, name, OP_WIDE, n, -1, 1) : op_out(s, name, OP_WIDE, n);
    op_exact(s);
    return p;
}

static void table_gradient(op_side *s, rw_embedding_args *a, bool wide, bool add) {
    const int64_t n = a->V * a->C;
    a->dweight_dtype = wide ? rw_wide(s->narrow) : s->variant % 2 ? s->narrow : RW_DTYPE_NONE;
    if (wide)
        a->dweight = exact(s, "dweight", n, add);
    else
        a->dweight = add ? op_both(s, "dweight", OP_NARROW, n, -1, 1) : op_out(s, "dweight", OP_NARROW, n);
}

static void embedding(op_side *s) {
    const int64_t R = shapes[s->variant].R, C = shapes[s->variant].C;
    const unsigned flags = shapes[s->variant].flags;
    const bool add = flags & ADD;
    rw_embedding_args a = {.dtype = s->narrow, .R = R, .C = C, .V = shapes[s->variant].V, .eps = 1e-5};
    tokens(s, &a, flags & SKEWED);
    a.weight = op_in(s, "weight", OP_NARROW, a.V * C, -1, 3);
    if (flags & NORM) {
        a.gamma = op_in(s, "gamma", OP_WIDE, C, 0.5, 1.5);
        a.beta = op_in(s, "beta", OP_WIDE, C, -0.5, 0.5);
        a.mean = exact(s, "mean", R, false);
        a.rstd = exact(s, "rstd", R, false);
    }
    a.out = op_out(s, "out", OP_NARROW, R * C);
    OP_RUN(s, embedding_forward, &a);

    if (add) a.add = RW_EMBEDDING_ADD_WEIGHT | RW_EMBEDDING_ADD_GAMMA | RW_EMBEDDING_ADD_BETA;
    if (!(flags & NO_DOUT)) a.dout = op_in(s, "dout", OP_NARROW, R * C, -1, 1);
    if (!(flags & NO_DWEIGHT)) table_gradient(s, &a, flags & WIDE, add);
    if ((flags & NORM) && !(flags & NO_PARAMS)) {
        a.dgamma = exact(s, "dgamma", C, add);
        a.dbeta = exact(s, "dbeta", C, add);
    }
    a.scratch = OP_SCRATCH(s, embedding_backward_scratch, &a);
    OP_RUN(s, embedding_backward, &a);
}

OP_CASES(embedding) = {{"embedding", embedding, sizeof shapes / sizeof *shapes, 0}, OP_END};
