/* Products: every transposition, odd sizes, pitches and addresses; c in and out of place; batches; epilogues; results
 * in narrow and in wide numbers; few rows (which have a kernel of their own on the GPU) beside many; the empty sum. */
#include "tests/gpu/ops/ops.h"

enum { C_NONE, C_IN_PLACE, C_ELSEWHERE, C_WAYS };

/* What a variant is made of: sizes and pitches in `a`, the rest of it here. */
typedef struct {
    rw_matmul_args a;
    int c;
    bool wide;       /* out in wide numbers                                         */
    int64_t gap;     /* between rows, in elements                                   */
    int64_t odd;     /* elements that every operand begins behind an even address   */
    double act_from; /* of the range of act; it ends at from + act_range            */
    double act_range;
} product;

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static void *past(void *p, rw_dtype t, int64_t n) {
    return (char *)p + n * rw_dtype_bytes(t);
}

/* An operand of `rows` rows in each problem of the batch; sets its pitch, and its stride unless all share one. */
static void *operand(op_side *s, const char *name, const product *p, int64_t rows, int64_t columns, int64_t *ld,
                     int64_t *stride, bool shared) {
    *ld = columns + p->gap;
    *stride = shared ? 0 : rows * *ld + p->gap;
    const int64_t batch = shared ? 1 : larger(p->a.batch, 1);
    return past(op_in(s, name, OP_NARROW, p->odd + batch * (rows * *ld + p->gap), -1, 1), s->narrow, p->odd);
}

/* The gaps of out hold numbers, and must hold them still afterwards. */
static void *result(op_side *s, const product *p, rw_dtype t, bool rounded) {
    const op_class cls = p->wide ? OP_WIDE : OP_NARROW;
    const int64_t n = p->odd + larger(p->a.batch, 1) * (p->a.M * p->a.ldo + p->gap);
    const bool whole = p->gap == 0 && p->odd == 0 && p->c != C_IN_PLACE;
    void *out = whole ? op_out(s, "out", cls, n) : op_both(s, "out", cls, n, -1, 1);
    if (p->wide && !rounded) op_exact(s);
    if (rounded) op_factor(s, 2); /* an epilogue behind a product that is rounded already */
    return past(out, t, p->odd);
}

static void run(op_side *s, product p, bool shared_b) {
    rw_matmul_args *a = &p.a;
    const rw_dtype t = p.wide ? rw_wide(s->narrow) : s->narrow;
    int64_t ldo = a->N + p.gap;
    a->dtype = s->narrow;
    a->out_dtype = p.wide ? t : RW_DTYPE_NONE;
    a->a = operand(s, "a", &p, a->trans_a ? a->K : a->M, a->trans_a ? a->M : a->K, &a->lda, &a->stride_a, false);
    a->b = operand(s, "b", &p, a->trans_b ? a->N : a->K, a->trans_b ? a->K : a->N, &a->ldb, &a->stride_b, shared_b);
    a->ldo = ldo;
    a->stride_o = a->M * ldo + p.gap;
    if (p.act_range > 0) {
        const int64_t n = p.odd + larger(a->batch, 1) * a->stride_o;
        a->act = past(op_in(s, "act", OP_NARROW, n, p.act_from, p.act_from + p.act_range), s->narrow, p.odd);
    }
    if (p.c == C_ELSEWHERE) {
        a->ldc = ldo + p.gap;
        a->stride_c = a->M * a->ldc;
        const int64_t n = p.odd + larger(a->batch, 1) * a->stride_c;
        a->c = past(op_in(s, "c", p.wide ? OP_WIDE : OP_NARROW, n, -1, 1), t, p.odd);
    }
    a->out = result(s, &p, t, !p.wide && a->epilogue != RW_EPILOGUE_NONE);
    if (p.c == C_IN_PLACE) a->c = a->out, a->ldc = ldo, a->stride_c = a->stride_o;
    OP_RUN(s, matmul, a);
}

/* -- sizes, transpositions ------------------------------------------------------------------------------------- */

enum { N_SHAPES = 18 };
static const int64_t shapes[N_SHAPES][3] = {
    {1, 1, 1},      {1, 7, 5},     {2, 16, 64},  {3, 33, 17},    {5, 64, 96},    {8, 40, 128},
    {9, 40, 64},    {16, 16, 16},  {17, 65, 33}, {63, 127, 64},  {64, 64, 64},   {65, 31, 127},
    {128, 96, 320}, {300, 40, 65}, {40, 300, 8}, {1, 1000, 513}, {4, 256, 2048}, {130, 2, 3},
};

static void shape(op_side *s) {
    const int64_t *n = shapes[s->variant % N_SHAPES];
    const uint64_t flags = s->variant / N_SHAPES;
    product p = {.a = {.M = n[0], .N = n[1], .K = n[2], .trans_a = flags & 1, .trans_b = flags & 2}};
    p.wide = s->variant % 5 == 4;
    run(s, p, false);
}

/* -- few rows ------------------------------------------------------------------------------------------------- */

/* 1 to 9 rows; sizes that fill packs and that do not; c; a large sum, so that all threads of a block have a part. */
static void rows(op_side *s) {
    const uint64_t v = s->variant;
    const bool odd = v / 18 % 2;
    product p = {.a = {.M = 1 + (int64_t)(v % 9), .N = odd ? 97 : 96, .K = odd ? 323 : 320, .trans_b = v / 9 % 2}};
    if (v % 7 == 6) p.a.K = 2064;
    p.c = (int)(v / 36);
    p.wide = v % 4 == 3;
    p.a.alpha = v % 3 == 2 ? -0.5 : 0;
    run(s, p, false);
}

/* -- pitches and addresses -------------------------------------------------------------------------------------- */

static void pitch(op_side *s) {
    static const int64_t gaps[] = {8, 1, 3, 16}, odds[] = {0, 1, 2, 4};
    static const int64_t n[][3] = {{1, 48, 64}, {7, 40, 72}, {33, 48, 64}, {70, 65, 40}};
    const uint64_t v = s->variant;
    product p = {.gap = gaps[v % 4], .odd = odds[v / 4 % 4], .c = (int)(v % C_WAYS), .wide = v / 32 % 2};
    const int64_t *size = n[(v + v / 4) % 4];
    p.a = (rw_matmul_args){.M = size[0], .N = size[1], .K = size[2], .trans_a = v / 16 & 1, .trans_b = v / 8 & 1};
    run(s, p, false);
}

/* -- batches ---------------------------------------------------------------------------------------------------- */

static void batch(op_side *s) {
    const uint64_t v = s->variant;
    product p = {.gap = v % 4 == 3 ? 5 : 0, .c = (int)(v % C_WAYS), .wide = v / 4 % 2};
    p.a = (rw_matmul_args){.M = v % 2 ? 24 : 1 + (int64_t)(v % 5), .N = 40, .K = 32, .batch = 1 + (int64_t)(v % 7)};
    p.a.trans_a = v / 2 & 1;
    p.a.trans_b = v / 4 & 1;
    run(s, p, v / 8 & 1);
}

/* -- c and alpha ------------------------------------------------------------------------------------------------ */

static void add(op_side *s) {
    static const double alphas[] = {0, 0.125, -2};
    const uint64_t v = s->variant;
    product p = {.c = (int)(v % C_WAYS), .wide = v / 9 % 2, .a = {.M = 96, .N = 72, .K = 128}};
    p.a.alpha = alphas[v / 3 % 3];
    p.a.trans_a = v / 18 & 1; /* a gradient of weights */
    p.a.trans_b = !p.a.trans_a;
    run(s, p, false);
}

/* -- epilogues --------------------------------------------------------------------------------------------------- */

static void epilogue(op_side *s) {
    const uint64_t v = s->variant;
    const rw_epilogue f = (rw_epilogue)(1 + v % 6);
    product p = {.a = {.M = v / 6 % 2 ? 40 : 3, .N = 72, .K = 24, .epilogue = f, .trans_b = v / 12 % 2}};
    p.wide = v / 24 % 2;
    p.gap = v / 48 % 2 ? 3 : 0;
    p.a.batch = v % 5 == 4 ? 3 : 1;
    if (f < RW_EPILOGUE_D_RELU_SQ) p.c = (int)(v / 6 % C_WAYS);
    if (f == RW_EPILOGUE_D_RELU_SQ) p.act_range = 4;
    if (f == RW_EPILOGUE_D_TANH) p.act_from = -1, p.act_range = 2;
    if (f == RW_EPILOGUE_D_SIGMOID) p.act_range = 1;
    run(s, p, false);
}

/* Activations where exp leaves the range of float. */
static void far_out(op_side *s) {
    const rw_epilogue f = (rw_epilogue)(1 + s->variant % 3);
    product p = {.a = {.M = s->variant / 3 ? 40 : 2, .N = 64, .K = 24, .epilogue = f}};
    p.a.alpha = f == RW_EPILOGUE_RELU_SQ ? 10 : 60; /* a square stays within fp16 */
    run(s, p, false);
}

/* -- nothing to add up ------------------------------------------------------------------------------------------ */

static void empty(op_side *s) {
    static const int64_t n[][3] = {{5, 24, 0}, {40, 33, 0}, {0, 8, 8}, {8, 0, 8}, {9, 16, 0}};
    static const rw_epilogue f[] = {RW_EPILOGUE_NONE, RW_EPILOGUE_SIGMOID, RW_EPILOGUE_RELU_SQ, RW_EPILOGUE_D_TANH};
    const uint64_t v = s->variant;
    const int64_t *size = n[v % 5];
    product p = {.c = (int)(v % C_WAYS), .wide = v / 5 % 2, .gap = v / 10 % 2 ? 3 : 0};
    p.a =
        (rw_matmul_args){.M = size[0], .N = size[1], .K = size[2], .batch = 1 + (int64_t)(v % 2), .epilogue = f[v % 4]};
    if (p.a.epilogue == RW_EPILOGUE_D_TANH) p.c = C_NONE, p.act_from = -1, p.act_range = 2;
    run(s, p, false);
}

OP_CASES(matmul) = {{"matmul.shape", shape, 4 * N_SHAPES, 0},
                    {"matmul.rows", rows, 36 * C_WAYS, 0},
                    {"matmul.pitch", pitch, 64, 0},
                    {"matmul.batch", batch, 48, 0},
                    {"matmul.add", add, 36, 0},
                    {"matmul.epilogue", epilogue, 96, 0},
                    {"matmul.far_out", far_out, 6, 0},
                    {"matmul.empty", empty, 60, 0},
                    OP_END};
