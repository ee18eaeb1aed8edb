/* token_shift: every form of the kernels (channels a thread, mixes, with and without packs), sequences of all lengths,
 * empty ones and ones of a single row among them, states in and out, each pointer NULL in turn, every add bit. */
#include "tests/gpu/ops/ops.h"

enum {
    TIMES = 1,     /* x052's form                          */
    STATE = 2,     /* a state each comes in                */
    SHARED = 4,    /* one state comes in for all           */
    STATE_OUT = 8, /* and goes out; its gradient comes in  */
    XN = 16,       /* the second output and its gradient   */
    ADD = 32,      /* all add bits                         */
    NO_OUT = 64,   /* mix 0 is not wanted                  */
    NO_DOUT = 128, /* the last mix has no gradient         */
    NO_DX = 256,
    NO_PARAMS = 512, /* no gradient of gamma, beta, mu     */
    NO_STATS = 1024, /* forward only                       */
    FLAT = 2048,     /* some rows have no variance         */
    NO_DSTATE = 4096,
    IN_PLACE = 8192, /* the state goes out where it came in: forward only */
    ALONE = 16384,   /* of the gradients only that of the state */
};

typedef struct {
    int64_t C, T; /* T: rows of each of n_seq sequences, when there is no cu */
    int n_mix;
    unsigned flags;
    int64_t n_seq;
    int32_t cu[9];
} shape;

static const shape shapes[] = {
    {64, 1, 6, XN, 1, {0}},
    {64, 1, 6, STATE | STATE_OUT, 3, {0}},
    {320, 2, 4, TIMES, 3, {0}},
    {320, 15, 1, XN | ADD, 3, {0}},
    {320, 16, 2, TIMES | STATE | STATE_OUT | ADD, 3, {0}},
    {768, 17, 6, FLAT | STATE_OUT, 3, {0}},
    {768, 63, 6, XN | STATE | STATE_OUT | ADD, 1, {0}},
    {1024, 64, 4, NO_OUT | NO_DOUT, 1, {0}},
    {320, 65, 6, NO_DX | SHARED, 3, {0}},
    {320, 127, 1, NO_PARAMS | SHARED | ADD | STATE_OUT, 3, {0}},
    {128, 300, 6, SHARED | STATE_OUT | ADD | TIMES, 1, {0}},
    {256, 300, 6, 0, 3, {0}},
    /* packed */
    {320, 0, 6, STATE | STATE_OUT | XN, 8, {0, 1, 1, 17, 100, 199, 200, 200, 200}},
    {768, 0, 6, SHARED | STATE_OUT | ADD, 8, {0, 0, 0, 16, 32, 33, 33, 149, 150}},
    {1024, 0, 1, STATE | STATE_OUT | XN | ADD, 5, {0, 63, 64, 64, 130, 130}},
    {320, 0, 4, STATE | STATE_OUT | TIMES | NO_DSTATE, 4, {0, 0, 70, 71, 71}},
    {64, 0, 2, STATE | STATE_OUT, 3, {0, 0, 0, 0}}, /* no rows at all */
    {64, 0, 2, SHARED | STATE_OUT | ADD, 3, {0, 0, 0, 0}},
    /* wide rows: 8 channels a thread, fewer stages, mu outside shared memory, more than the fast form takes */
    {2048, 20, 6, STATE | STATE_OUT, 2, {0}},
    {2048, 33, 1, ADD, 1, {0}},
    {2560, 19, 6, XN | ADD, 2, {0}},
    {4096, 11, 6, 0, 2, {0}},
    {4096, 11, 6, XN | ADD | STATE | STATE_OUT | TIMES, 2, {0}},
    {4352, 9, 2, XN | ADD | STATE, 2, {0}},
    /* forms without a fast instance */
    {320, 0, 3, STATE | STATE_OUT | XN | ADD, 5, {0, 1, 1, 17, 50, 65}},
    {1032, 9, 5, TIMES | SHARED | NO_DOUT | NO_OUT, 2, {0}},
    {37, 0, 6, STATE | STATE_OUT | XN | ADD, 5, {0, 1, 1, 17, 50, 65}},
    {301, 13, 4, TIMES | SHARED | FLAT, 3, {0}},
    {66, 12, 1, NO_DX, 2, {0}},
    /* nothing but the norm */
    {320, 33, 0, XN | ADD, 1, {0}},
    {45, 33, 0, XN, 1, {0}},
    {768, 70, 0, XN | STATE | STATE_OUT, 2, {0}},
    /* forward only */
    {768, 1, 6, NO_STATS | STATE | IN_PLACE | STATE_OUT, 3, {0}},
    {320, 0, 4, NO_STATS | STATE | IN_PLACE | STATE_OUT | TIMES, 5, {0, 3, 3, 40, 41, 41}},
    {320, 0, 4, ALONE | STATE | STATE_OUT | TIMES, 5, {0, 3, 3, 40, 41, 41}},
};

static double flat_or_not(const void *ctx, int64_t i) {
    const int64_t C = *(const int64_t *)ctx, row = i / C;
    return row % 3 == 0 ? 2 : (double)((i * 7919 + row * 104729) % 4001) / 1000 - 1;
}

static void *gradient(op_side *s, const char *name, op_class cls, int64_t n, bool add) {
    return add ? op_both(s, name, cls, n, -1, 1) : op_out(s, name, cls, n);
}
static void *exact_gradient(op_side *s, const char *name, int64_t n, bool add) {
    void *p = gradient(s, name, OP_WIDE, n, add);
    op_exact(s);
    return p;
}

static void *wanted(op_side *s, const char *name, int64_t n) {
    void *p = op_out(s, name, OP_WIDE, n);
    op_exact(s);
    return p;
}

static const char *const mu_names[] = {"mu0", "mu1", "mu2", "mu3", "mu4", "mu5"};
static const char *const out_names[] = {"out0", "out1", "out2", "out3", "out4", "out5"};
static const char *const dout_names[] = {"dout0", "dout1", "dout2", "dout3", "dout4", "dout5"};
static const char *const dmu_names[] = {"dmu0", "dmu1", "dmu2", "dmu3", "dmu4", "dmu5"};

static void inputs(op_side *s, const shape *p, rw_token_shift_args *a) {
    const bool packed = p->T == 0;
    a->dtype = s->narrow, a->C = p->C, a->n_seq = p->n_seq, a->n_mix = p->n_mix, a->eps = 1e-5;
    a->R = packed ? p->cu[p->n_seq] : p->T * p->n_seq;
    a->times_current = p->flags & TIMES;
    if (packed) a->cu_seqlens = op_ints(s, p->cu, p->n_seq + 1);
    a->x = p->flags & FLAT ? op_in_of(s, "x", OP_NARROW, a->R * a->C, flat_or_not, &p->C)
                           : op_in(s, "x", OP_NARROW, a->R * a->C, -1, 3);
    a->gamma = op_in(s, "gamma", OP_WIDE, a->C, 0.5, 1.5);
    a->beta = op_in(s, "beta", OP_WIDE, a->C, -0.5, 0.5);
    for (int m = 0; m < p->n_mix; m++) a->mu[m] = op_in(s, mu_names[m], OP_WIDE, a->C, 0, 1);
    if (!(p->flags & (STATE | SHARED))) return;
    const int64_t states = p->flags & SHARED ? 1 : p->n_seq;
    a->shift_in_stride = p->flags & SHARED ? 0 : a->C;
    if (p->flags & IN_PLACE)
        a->shift_in = a->shift_out = op_both(s, "shift", OP_WIDE, states * a->C, -1, 1), op_exact(s);
    else
        a->shift_in = op_in(s, "shift_in", OP_WIDE, states * a->C, -1, 1);
}

static void forward(op_side *s, const shape *p, rw_token_shift_args *a) {
    for (int m = p->flags & NO_OUT ? 1 : 0; m < p->n_mix; m++)
        a->out[m] = op_out(s, out_names[m], OP_NARROW, a->R * a->C);
    if (p->flags & XN) a->xn = op_out(s, "xn", OP_NARROW, a->R * a->C);
    if ((p->flags & STATE_OUT) && !a->shift_out) a->shift_out = wanted(s, "shift_out", p->n_seq * a->C);
    if (!(p->flags & NO_STATS)) {
        a->mean = wanted(s, "mean", a->R);
        a->rstd = wanted(s, "rstd", a->R);
    }
    OP_RUN(s, token_shift_forward, a);
}

static void backward(op_side *s, const shape *p, rw_token_shift_args *a) {
    const bool add = p->flags & ADD;
    if (add) a->add = 2 * RW_TOKEN_SHIFT_ADD_MU * 32 - 1; /* all of them */
    for (int m = 0; m < p->n_mix; m++)
        if (!(p->flags & NO_DOUT) || m + 1 < p->n_mix)
            a->dout[m] = op_in(s, dout_names[m], OP_NARROW, a->R * a->C, -1, 1);
    if (p->flags & XN) a->dxn = op_in(s, "dxn", OP_NARROW, a->R * a->C, -1, 1);
    if ((p->flags & STATE_OUT) && !(p->flags & NO_DSTATE))
        a->dshift_out = op_in(s, "dshift_out", OP_WIDE, p->n_seq * a->C, -1, 1);
    if (a->shift_in && !(p->flags & NO_DSTATE))
        a->dshift_in = exact_gradient(s, "dshift_in", (p->flags & SHARED ? 1 : p->n_seq) * a->C, add);
    if (!(p->flags & (NO_DX | ALONE))) a->dx = gradient(s, "dx", OP_NARROW, a->R * a->C, add);
    for (int m = 0; m < p->n_mix && !(p->flags & (NO_PARAMS | ALONE)); m++)
        a->dmu[m] = exact_gradient(s, dmu_names[m], a->C, add);
    if (!(p->flags & (NO_PARAMS | ALONE))) {
        a->dgamma = exact_gradient(s, "dgamma", a->C, add);
        a->dbeta = exact_gradient(s, "dbeta", a->C, add);
    }
    a->scratch = OP_SCRATCH(s, token_shift_backward_scratch, a);
    OP_RUN(s, token_shift_backward, a);
}

static void token_shift(op_side *s) {
    const shape *p = &shapes[s->variant];
    rw_token_shift_args a = {0};
    inputs(s, p, &a);
    forward(s, p, &a);
    if (!(p->flags & NO_STATS)) backward(s, p, &a);
}

OP_CASES(token_shift) = {{"token_shift", token_shift, sizeof shapes / sizeof *shapes, 0}, OP_END};
