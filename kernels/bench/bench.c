/* rwkv-bench: every op, first checked (against the CPU in fp64, on the same numbers), then timed at the size of a real
 * step.
 *
 *     rwkv-bench [NAME...] [--threads N] [--rows R] [--embd C] [--vocab V] [--repeats K]
 *     rwkv-bench --device cuda [--dtype bf16|f16|f32] ...
 *     rwkv-bench gemm [--threads N] ...       the matrix products of an x060 step, alone
 *     rwkv-bench gemm M,N,K,ta,tb[,count] ... your own shapes
 *
 * NAME selects rows whose name begins so: "wkv6" both directions, "adamw". GB/s counts each input once and each output
 * once; what is read and written counts twice. It is a tool for people; no test depends on its figures.
 *
 * On a GPU a row also has its share of the roofline, max(bytes / copy rate, flops / product rate) / time, with both
 * rates measured in the same run. Launches are recorded and replayed, so the host is not in the figure, and go round
 * over several sets of buffers, so that none is found in the second-level cache. */
#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"
#include "kernels/bench/gemm_rate.h"
#include "kernels/rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- one case: buffers and arguments --------------------------------------------------------------- */

enum { MAX_BUFFERS = 80, PIECE = 1 << 20 };

/* What a buffer holds: activations and matrices are narrow, vectors of parameters and statistics wide. */
typedef enum { NARROW, WIDE } kind;

typedef struct {
    void *p;
    int64_t n, n_bytes;
    rw_dtype dtype; /* NONE: bytes that mean nothing to others */
    bool is_output;
} buffer;

typedef struct {
    rw_device *d;
    rw_dtype grid;      /* of the device that is measured: narrow numbers are on it, on both sides of a check */
    int64_t R, C, V, T; /* rows, channels, vocabulary, rows per sequence */
    bool backward;
    int n;
    bool failed;
    buffer buffers[MAX_BUFFERS];
    union {
#define RW_KERNEL(name, args) args name;
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    } a;
    double bytes, flops;
} bench;

static rw_dtype dtype_of(const bench *b, kind k) {
    return k == NARROW ? b->d->compute : rw_wide(b->d->compute);
}

static void *raw(bench *b, int64_t n, int64_t n_bytes, rw_dtype dtype, bool is_output) {
    void *p = b->n < MAX_BUFFERS ? b->d->alloc(b->d, n_bytes) : NULL;
    if (!p) {
        b->failed = true;
        return NULL;
    }
    b->buffers[b->n++] = (buffer){p, n, n_bytes, dtype, is_output};
    return p;
}

/* Element i, uniform between 0 and 1. */
static double random_number(uint64_t stream, int64_t i) {
    const uint64_t h = ((uint64_t)i + stream) * 0xd1342543de82ef95u;
    return (double)((h ^ h >> 32) >> 11 & ((1ull << 42) - 1)) * 0x1p-42;
}

/* The same numbers again after PIECE of them. */
static void fill(bench *b, void *p, kind k, int64_t n, double lo, double hi) {
    static double x[PIECE], rounded[PIECE], stored[PIECE];
    const rw_dtype dtype = dtype_of(b, k), grid = k == NARROW ? b->grid : RW_F32;
    const int64_t width = rw_dtype_bytes(dtype), most = n < PIECE ? n : PIECE;
    for (int64_t i = 0; i < most; i++) x[i] = lo + (hi - lo) * random_number((uint64_t)b->n * 0x9e3779b97f4a7c15u, i);
    rw_convert(rounded, grid, x, RW_F64, most);
    rw_convert(stored, dtype, rounded, grid, most);
    for (int64_t at = 0; at < n; at += PIECE)
        b->d->upload(b->d, (char *)p + at * width, stored, (n - at < PIECE ? n - at : PIECE) * width);
}

static void *numbers(bench *b, kind k, int64_t n, double lo, double hi, bool is_output) {
    const rw_dtype dtype = dtype_of(b, k);
    void *p = raw(b, n, n * rw_dtype_bytes(dtype), dtype, is_output);
    if (p) fill(b, p, k, n, lo, hi);
    return p;
}

static void count(bench *b, kind k, int64_t n) {
    b->bytes += (double)(n * rw_dtype_bytes(dtype_of(b, k)));
}

static void *in(bench *b, kind k, int64_t n) { /* read once */
    count(b, k, n);
    return numbers(b, k, n, -1, 1, false);
}
static void *out(bench *b, kind k, int64_t n) { /* written once */
    count(b, k, n);
    return numbers(b, k, n, 0, 0, true);
}
static void *both(bench *b, kind k, int64_t n, double lo, double hi) { /* read and written */
    count(b, k, 2 * n);
    return numbers(b, k, n, lo, hi, true);
}
static void *scratch(bench *b, int64_t n_bytes) {
    return raw(b, 0, n_bytes, RW_DTYPE_NONE, false);
}

static int32_t *tokens(bench *b) {
    int32_t *p = scratch(b, b->R * 4), *host = rw_alloc_array((size_t)b->R, sizeof *host);
    for (int64_t i = 0; host && i < b->R; i++) host[i] = (int32_t)(rw_rng_u64_at(1, 1, (uint64_t)i) % (uint64_t)b->V);
    if (p && host) b->d->upload(b->d, p, host, b->R * 4);
    b->failed |= !host;
    rw_free(host);
    return p;
}

static void release(bench *b) {
    while (b->n > 0) {
        buffer *x = &b->buffers[--b->n];
        b->d->free(b->d, x->p, x->n_bytes);
    }
}

/* -- the cases, one per pair of kernels ------------------------------------------------------------ */

#define QUERY(op, args) b->d->kernels->op(args, &b->d->exec)
static int64_t sequences(const bench *b) {
    return b->R > b->T ? b->R / b->T : 1;
}

static void make_matmul(bench *b) {
    b->a.matmul = (rw_matmul_args){.dtype = b->d->compute,
                                   .M = b->R,
                                   .N = b->C,
                                   .K = b->C,
                                   .trans_b = true,
                                   .a = in(b, NARROW, b->R * b->C),
                                   .b = in(b, NARROW, b->C * b->C),
                                   .out = out(b, NARROW, b->R * b->C)};
    b->flops = 2.0 * (double)b->R * (double)b->C * (double)b->C;
}

static void make_embedding(bench *b) {
    rw_embedding_args *a = &b->a.embedding_forward;
    *a = (rw_embedding_args){.dtype = b->d->compute, .R = b->R, .C = b->C, .V = b->V, .eps = 1e-5};
    a->tokens = tokens(b);
    a->weight = numbers(b, NARROW, b->V * b->C, -1, 1, false);
    b->bytes += (double)(b->R * b->C * rw_dtype_bytes(b->d->compute)); /* the rows that are used */
    a->gamma = in(b, WIDE, b->C), a->beta = in(b, WIDE, b->C);
    a->mean = numbers(b, WIDE, b->R, 0, 0, false), a->rstd = numbers(b, WIDE, b->R, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, NARROW, b->R * b->C);
        return;
    }
    a->dout = in(b, NARROW, b->R * b->C);
    a->dweight = out(b, NARROW, b->V * b->C), a->dgamma = out(b, WIDE, b->C), a->dbeta = out(b, WIDE, b->C);
    a->scratch = scratch(b, QUERY(embedding_backward_scratch, a));
}

static void make_layer_norm(bench *b) {
    rw_layer_norm_args *a = &b->a.layer_norm_forward;
    *a = (rw_layer_norm_args){.dtype = b->d->compute,
                              .R = b->R,
                              .C = b->C,
                              .eps = 1e-5,
                              .x = in(b, NARROW, b->R * b->C),
                              .gamma = in(b, WIDE, b->C),
                              .beta = in(b, WIDE, b->C)};
    a->mean = numbers(b, WIDE, b->R, 0, 0, false), a->rstd = numbers(b, WIDE, b->R, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, NARROW, b->R * b->C);
        return;
    }
    a->dout = in(b, NARROW, b->R * b->C);
    a->dx = out(b, NARROW, b->R * b->C), a->dgamma = out(b, WIDE, b->C), a->dbeta = out(b, WIDE, b->C);
    a->scratch = scratch(b, QUERY(layer_norm_backward_scratch, a));
}

static void make_group_norm(bench *b) {
    rw_group_norm_args *a = &b->a.group_norm_forward;
    const int64_t H = b->C / 64;
    *a = (rw_group_norm_args){.dtype = b->d->compute,
                              .R = b->R,
                              .H = H,
                              .N = 64,
                              .eps = 64e-5,
                              .x = in(b, NARROW, b->R * b->C),
                              .gamma = in(b, WIDE, b->C),
                              .beta = in(b, WIDE, b->C)};
    a->mean = numbers(b, WIDE, b->R * H, 0, 0, false), a->rstd = numbers(b, WIDE, b->R * H, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, NARROW, b->R * b->C);
        return;
    }
    a->dout = in(b, NARROW, b->R * b->C);
    a->dx = out(b, NARROW, b->R * b->C), a->dgamma = out(b, WIDE, b->C), a->dbeta = out(b, WIDE, b->C);
    a->scratch = scratch(b, QUERY(group_norm_backward_scratch, a));
}

static void make_token_shift(bench *b) {
    rw_token_shift_args *a = &b->a.token_shift_forward;
    *a = (rw_token_shift_args){.dtype = b->d->compute,
                               .R = b->R,
                               .C = b->C,
                               .n_seq = sequences(b),
                               .n_mix = 2,
                               .eps = 1e-5,
                               .x = in(b, NARROW, b->R * b->C),
                               .gamma = in(b, WIDE, b->C),
                               .beta = in(b, WIDE, b->C)};
    a->mean = numbers(b, WIDE, b->R, 0, 0, false), a->rstd = numbers(b, WIDE, b->R, 1, 1, false);
    for (int i = 0; i < a->n_mix; i++) {
        a->mu[i] = in(b, WIDE, b->C);
        if (!b->backward) a->out[i] = out(b, NARROW, b->R * b->C);
        if (b->backward) a->dout[i] = in(b, NARROW, b->R * b->C), a->dmu[i] = out(b, WIDE, b->C);
    }
    if (!b->backward) return;
    a->dx = both(b, NARROW, b->R * b->C, 0, 0), a->dgamma = out(b, WIDE, b->C), a->dbeta = out(b, WIDE, b->C);
    a->add = RW_TOKEN_SHIFT_ADD_X;
    a->scratch = scratch(b, QUERY(token_shift_backward_scratch, a));
}

static void make_ddlerp(bench *b) {
    rw_ddlerp_args *a = &b->a.ddlerp_forward;
    *a = (rw_ddlerp_args){.dtype = b->d->compute,
                          .R = b->R,
                          .C = b->C,
                          .rank = 32,
                          .n_seq = sequences(b),
                          .xn = in(b, NARROW, b->R * b->C),
                          .h = in(b, NARROW, b->R * 160),
                          .w2 = in(b, NARROW, 160 * b->C)};
    a->tanh_h = numbers(b, NARROW, b->R * 160, -0.9, 0.9, false);
    for (int i = 0; i < 5; i++) {
        a->mu[i] = in(b, WIDE, b->C);
        if (!b->backward) a->out[i] = out(b, NARROW, b->R * b->C);
        if (b->backward) a->dout[i] = in(b, NARROW, b->R * b->C), a->dmu[i] = out(b, WIDE, b->C);
    }
    b->flops = 2.0 * 160 * (double)b->R * (double)b->C * (b->backward ? 2 : 1);
    if (b->backward)
        a->dxn = out(b, NARROW, b->R * b->C), a->dh = out(b, NARROW, b->R * 160), a->dw2 = out(b, NARROW, 160 * b->C);
    a->scratch = scratch(b, b->backward ? QUERY(ddlerp_backward_scratch, a) : QUERY(ddlerp_forward_scratch, a));
}

static void make_wkv6(bench *b) {
    rw_wkv6_args *a = &b->a.wkv6_forward;
    const int64_t n = b->R * b->C;
    *a = (rw_wkv6_args){.dtype = b->d->compute,
                        .R = b->R,
                        .H = b->C / 64,
                        .N = 64,
                        .n_seq = sequences(b),
                        .r = in(b, NARROW, n),
                        .k = in(b, NARROW, n),
                        .v = in(b, NARROW, n),
                        .w_raw = in(b, NARROW, n),
                        .gate = in(b, NARROW, n),
                        .w0 = in(b, WIDE, b->C),
                        .u = in(b, WIDE, b->C),
                        .ln_w = in(b, WIDE, b->C),
                        .ln_b = in(b, WIDE, b->C),
                        .eps = 64e-5};
    a->saved = scratch(b, QUERY(wkv6_saved, a));
    b->flops = (double)n * 64 * (b->backward ? 30 : 6);
    void *forward_scratch = scratch(b, QUERY(wkv6_forward_scratch, a));
    a->scratch = forward_scratch;
    a->out = b->backward ? numbers(b, NARROW, n, 0, 0, false) : out(b, NARROW, n);
    if (!b->backward || b->failed) return;
    b->d->kernels->wkv6_forward(a, &b->d->exec); /* fills `saved` */
    a->dout = in(b, NARROW, n);
    a->dr = out(b, NARROW, n), a->dk = out(b, NARROW, n), a->dv = out(b, NARROW, n), a->dw_raw = out(b, NARROW, n),
    a->dgate = out(b, NARROW, n);
    a->dw0 = out(b, WIDE, b->C), a->du = out(b, WIDE, b->C), a->dln_w = out(b, WIDE, b->C),
    a->dln_b = out(b, WIDE, b->C);
    a->scratch = scratch(b, QUERY(wkv6_backward_scratch, a));
}

static void make_wkv7(bench *b) {
    rw_wkv7_args *a = &b->a.wkv7_forward;
    const int64_t n = b->R * b->C;
    *a = (rw_wkv7_args){.dtype = b->d->compute,
                        .R = b->R,
                        .H = b->C / 64,
                        .N = 64,
                        .n_seq = sequences(b),
                        .r = in(b, NARROW, n),
                        .w_raw = in(b, NARROW, n),
                        .k0 = in(b, NARROW, n),
                        .v = in(b, NARROW, n),
                        .a_up = in(b, NARROW, n),
                        .v_up = in(b, NARROW, n),
                        .v_first = in(b, NARROW, n),
                        .g = in(b, NARROW, n),
                        .w0 = in(b, WIDE, b->C),
                        .a0 = in(b, WIDE, b->C),
                        .v0 = in(b, WIDE, b->C),
                        .k_k = in(b, WIDE, b->C),
                        .k_a = in(b, WIDE, b->C),
                        .r_k = in(b, WIDE, b->C),
                        .ln_w = in(b, WIDE, b->C),
                        .ln_b = in(b, WIDE, b->C),
                        .eps = 64e-5};
    a->saved = scratch(b, QUERY(wkv7_saved, a));
    b->flops = (double)n * 64 * (b->backward ? 32 : 10);
    void *forward_scratch = scratch(b, QUERY(wkv7_forward_scratch, a));
    a->scratch = forward_scratch;
    a->out = b->backward ? numbers(b, NARROW, n, 0, 0, false) : out(b, NARROW, n);
    if (!b->backward || b->failed) return;
    b->d->kernels->wkv7_forward(a, &b->d->exec); /* fills `saved` */
    a->dout = in(b, NARROW, n);
    void **const rows[] = {&a->dr, &a->dw_raw, &a->dk0, &a->dv, &a->da_up, &a->dv_up, &a->dv_first, &a->dg};
    void **const vectors[] = {&a->dw0, &a->da0, &a->dv0, &a->dk_k, &a->dk_a, &a->dr_k, &a->dln_w, &a->dln_b};
    for (int i = 0; i < 8; i++) *rows[i] = out(b, NARROW, n);
    for (int i = 0; i < 8; i++) *vectors[i] = out(b, WIDE, b->C);
    a->scratch = scratch(b, QUERY(wkv7_backward_scratch, a));
}

static void make_relu_sq(bench *b) {
    const int64_t n = b->R * (b->C * 7 / 2);
    rw_relu_sq_args *a = &b->a.relu_sq_forward;
    *a = (rw_relu_sq_args){.dtype = b->d->compute, .n = n};
    if (!b->backward) a->x = in(b, NARROW, n), a->out = out(b, NARROW, n);
    if (b->backward) a->out = numbers(b, NARROW, n, 0, 1, false), a->dout = in(b, NARROW, n), a->dx = out(b, NARROW, n);
    if (b->backward) b->bytes += (double)(n * rw_dtype_bytes(b->d->compute));
}

static void make_rgate(bench *b) {
    const int64_t n = b->R * b->C;
    rw_rgate_args *a = &b->a.rgate_forward;
    *a = (rw_rgate_args){.dtype = b->d->compute, .n = n, .q = in(b, NARROW, n), .p = in(b, NARROW, n)};
    if (!b->backward) a->residual = in(b, NARROW, n), a->out = out(b, NARROW, n);
    if (b->backward) a->dout = in(b, NARROW, n), a->dq = out(b, NARROW, n), a->dp = out(b, NARROW, n);
}

static void make_unary(bench *b) {
    const int64_t n = b->R * b->C;
    rw_unary_args *a = &b->a.unary_forward;
    *a = (rw_unary_args){.dtype = b->d->compute, .op = RW_UNARY_TANH, .n = n};
    if (!b->backward) a->x = in(b, NARROW, n), a->out = out(b, NARROW, n);
    if (b->backward) a->out = in(b, NARROW, n), a->dout = in(b, NARROW, n), a->dx = out(b, NARROW, n);
}

static void make_binary(bench *b) {
    const int64_t n = b->R * b->C;
    rw_binary_args *a = &b->a.binary_forward;
    *a = (rw_binary_args){.dtype = b->d->compute,
                          .op = RW_BINARY_MUL,
                          .n = n,
                          .period = b->C,
                          .a = in(b, NARROW, n),
                          .b = in(b, NARROW, b->C)};
    if (!b->backward) a->out = out(b, NARROW, n);
    if (b->backward) a->dout = in(b, NARROW, n), a->da = out(b, NARROW, n), a->db = out(b, NARROW, b->C);
}

/* To the narrower type, from the narrower one back. */
static void make_cast(bench *b) {
    const int64_t n = b->R * b->C;
    const rw_dtype to = b->d->compute == RW_BF16 || b->d->compute == RW_F16 ? RW_F32 : RW_BF16;
    const int64_t n_bytes = n * rw_dtype_bytes(to);
    b->a.cast = (rw_cast_args){.n = n, .from = b->d->compute, .to = to, .src = in(b, NARROW, n)};
    b->a.cast.dst = raw(b, n, n_bytes, to, false);
    b->bytes += (double)n_bytes;
}

static void make_round_to(bench *b) {
    const int64_t n = b->R * b->C;
    b->a.round_to = (rw_round_args){.dtype = b->d->compute, .to = RW_BF16, .n = n, .x = both(b, NARROW, n, -1, 1)};
}

static void make_sum(bench *b) {
    const int64_t n = b->R * b->C * 10;
    rw_sum_args *a = &b->a.sum;
    *a = (rw_sum_args){.dtype = b->d->compute, .n = n, .x = in(b, NARROW, n), .out = raw(b, 1, 8, RW_F64, true)};
    a->scratch = scratch(b, QUERY(sum_scratch, a));
}

static void make_clip_coef(bench *b) {
    b->a.clip_coef = (rw_clip_coef_args){.max_norm = 1};
}

/* Of a chunk of the step. */
static int64_t head_rows(const bench *b) {
    const int64_t most = b->grid == RW_F32 ? 256 : 1024;
    return b->R < most ? b->R : most;
}

static void make_head_loss(bench *b) {
    const int64_t rows = head_rows(b);
    b->a.head_loss = (rw_head_loss_args){.dtype = b->d->compute,
                                         .R = rows,
                                         .V = b->V,
                                         .logits = both(b, NARROW, rows * b->V, -4, 4),
                                         .targets = tokens(b),
                                         .loss = out(b, WIDE, rows),
                                         .want_grad = true};
}

static void make_copy_head(bench *b) {
    const int64_t rows = head_rows(b), Q = 256;
    rw_copy_head_args *a = &b->a.copy_head_forward;
    *a = (rw_copy_head_args){.dtype = b->d->compute,
                             .R = rows,
                             .Q = Q,
                             .V = b->V,
                             .n_seq = 1,
                             .n = rows,
                             .scale = 1 / (double)Q,
                             .tokens = tokens(b),
                             .q = in(b, NARROW, rows * Q),
                             .k = in(b, NARROW, rows * Q)};
    b->flops = (double)(rows * (rows + 1) * Q) * (b->backward ? 2 : 1);
    if (!b->backward) a->logits = numbers(b, NARROW, rows * b->V, -4, 4, true); /* few of them are touched */
    if (b->backward) a->dlogits = numbers(b, NARROW, rows * b->V, -1, 1, false);
    if (b->backward) a->dq = out(b, NARROW, rows * Q), a->dk = out(b, NARROW, rows * Q);
}

/* The form that a run takes: fp32, or a16 where matrices are narrow. */
static void make_adamw(bench *b) {
    const int64_t n = b->R * b->C * 10;
    const bool a16 = b->grid != RW_F32;
    const rw_adamw_range range = {.n = n, .lr_scale = 1, .decay = 1};
    rw_adamw_range *ranges = scratch(b, sizeof range);
    if (ranges) b->d->upload(b->d, ranges, &range, sizeof range);
    b->a.adamw = (rw_adamw_args){.dtype = b->d->compute,
                                 .p_grid = a16 ? RW_BF16 : RW_DTYPE_NONE,
                                 .n_ranges = 1,
                                 .ranges = ranges,
                                 .p = a16 ? out(b, NARROW, n) : both(b, NARROW, n, -1, 1),
                                 .master = a16 ? both(b, WIDE, n, -1, 1) : NULL,
                                 .grad = in(b, NARROW, n),
                                 .m = both(b, WIDE, n, -1, 1),
                                 .v = both(b, WIDE, n, 0, 1),
                                 .beta1 = 0.9,
                                 .beta2 = 0.99,
                                 .eps = 1e-8,
                                 .adam_w_mode = true};
}

typedef void maker(bench *b);
static const struct {
    const char *op;
    maker *make;
} makers[] = {{"matmul", make_matmul},
              {"embedding", make_embedding},
              {"layer_norm", make_layer_norm},
              {"group_norm", make_group_norm},
              {"token_shift", make_token_shift},
              {"ddlerp", make_ddlerp},
              {"wkv6", make_wkv6},
              {"wkv7", make_wkv7},
              {"relu_sq", make_relu_sq},
              {"rgate", make_rgate},
              {"unary", make_unary},
              {"binary", make_binary},
              {"cast", make_cast},
              {"round_to", make_round_to},
              {"sum", make_sum},
              {"clip_coef", make_clip_coef},
              {"head_loss", make_head_loss},
              {"copy_head", make_copy_head},
              {"adamw", make_adamw}};

/* -- running --------------------------------------------------------------------------------------- */

#define RW_KERNEL(name, args)                                                                                          \
    static void run_##name(bench *b) {                                                                                 \
        b->d->kernels->name((const args *)&b->a, &b->d->exec);                                                         \
    }
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

static const struct {
    const char *name;
    void (*run)(bench *b);
} kernels[] = {
#define RW_KERNEL(name, args) {#name, run_##name},
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };

static maker *maker_of(int k) {
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        if (strncmp(kernels[k].name, makers[i].op, strlen(makers[i].op)) == 0) return makers[i].make;
    return NULL;
}

static void prepare(bench *b, int k) {
    const rw_step_scalars scalars = {
        .step = 3, .lr = 1e-3, .weight_decay = 0.1, .normaliser = 1.0 / 256, .l2wrap_mask = 1e-6};
    const rw_device_scalars own = {.updates = 3, .grad_scale = 1};
    b->backward = strstr(kernels[k].name, "backward") != NULL;
    b->bytes = b->flops = 0;
    b->d->upload(b->d, b->d->exec.scalars, &scalars, sizeof scalars);
    b->d->upload(b->d, b->d->exec.own, &own, sizeof own);
    maker_of(k)(b);
}

/* -- checking ---------------------------------------------------------------------------------------- */

/* Of the largest number of a result. tests/gpu/ops has the limits that mean something; this finds what is wrong. */
static double most_error(rw_dtype grid) {
    return grid == RW_BF16 ? 4e-2 : grid == RW_F16 ? 1e-2 : 1e-4;
}

static double *read_back(const bench *b, const buffer *x) {
    void *stored = rw_alloc((size_t)x->n_bytes + 1);
    double *values = rw_alloc_array((size_t)x->n + 1, sizeof *values);
    if (!stored || !values) exit(1);
    b->d->download(b->d, stored, x->p, x->n_bytes);
    rw_convert(values, RW_F64, stored, x->dtype, x->n);
    rw_free(stored);
    return values;
}

/* Largest difference of an output of `a` from that of `reference`, over the largest number there. */
static double difference(const bench *a, const bench *reference) {
    double worst = 0;
    for (int i = 0; i < a->n; i++) {
        if (!a->buffers[i].is_output) continue;
        double *x = read_back(a, &a->buffers[i]), *y = read_back(reference, &reference->buffers[i]);
        double largest = 0, error = 0;
        for (int64_t j = 0; j < a->buffers[i].n; j++) {
            largest = fmax(largest, fabs(y[j]));
            error = fmax(error, isnan(x[j]) || isnan(y[j]) ? INFINITY : fabs(x[j] - y[j]));
        }
        if (largest > 0) worst = fmax(worst, error / largest);
        rw_free(x);
        rw_free(y);
    }
    return worst;
}

/* The device against the CPU in fp64, at a small size. */
static double check(rw_device *d, rw_device *f64, int k) {
    static bench a, reference;
    rw_error err = {0};
    a = (bench){.d = d, .grid = d->compute, .R = 96, .C = 128, .V = 300, .T = 48};
    reference = a;
    reference.d = f64;
    prepare(&a, k), prepare(&reference, k);
    double error = INFINITY;
    if (!a.failed && !reference.failed) {
        kernels[k].run(&a), kernels[k].run(&reference);
        if (d->synchronize(d, &err) == RW_OK)
            error = difference(&a, &reference);
        else
            printf("%-22s %s\n", kernels[k].name, err.msg);
    }
    rw_error_clear(&err);
    release(&a), release(&reference);
    return error;
}

/* -- timing -------------------------------------------------------------------------------------------- */

static double median(double *t, int n) {
    for (int i = 1; i < n; i++) /* sorted by insertion */
        for (int j = i; j > 0 && t[j] < t[j - 1]; j--) {
            double x = t[j];
            t[j] = t[j - 1], t[j - 1] = x;
        }
    return t[n / 2];
}

static double median_ns(bench *b, int k, int repeats) {
    double t[64];
    for (int i = -1; i < repeats; i++) {
        int64_t start = rw_now_ns();
        kernels[k].run(b);
        if (i >= 0) t[i] = (double)(rw_now_ns() - start);
    }
    return median(t, repeats);
}

/* Several sets of buffers, used in turn: what one launch leaves in the cache is gone when its set comes again. */
enum { MOST_SETS = 16 };
#define CACHE_BYTES (50.0 * (1 << 20)) /* of an H100; smaller elsewhere */
typedef struct {
    bench set[MOST_SETS];
    int n;
} rotation;

static void release_sets(rotation *r) {
    while (r->n > 0) release(&r->set[--r->n]);
}

/* False: not even one set fits. */
static bool prepare_sets(rotation *r, const bench *size, int k) {
    int wanted = 1;
    for (r->n = 0; r->n < wanted; r->n++) {
        bench *b = &r->set[r->n];
        double held = 0;
        *b = *size;
        prepare(b, k);
        for (int i = 0; i < b->n; i++) held += (double)b->buffers[i].n_bytes;
        if (b->failed) {
            release(b);
            return r->n > 0;
        }
        while (wanted < MOST_SETS && held > 0 && wanted * held < 4 * CACHE_BYTES) wanted++;
    }
    return true;
}

static void launch(rotation *r, int k, int launches) {
    for (int i = 0; i < launches; i++) kernels[k].run(&r->set[i % r->n]);
}

/* As many launches as take some milliseconds, beside which the way to the device is nothing; each set equally often. */
static rw_status count_launches(rotation *r, int k, int *launches, rw_error *err) {
    enum { MOST = 512 };
    rw_device *d = r->set[0].d;
    launch(r, k, r->n); /* libraries load their kernels */
    RW_TRY(d->synchronize(d, err));
    const int64_t ns = rw_now_ns();
    launch(r, k, r->n);
    RW_TRY(d->synchronize(d, err));
    const double turn = (double)(rw_now_ns() - ns), turns = ceil(5e6 / turn);
    *launches = r->n * (int)fmin(turns, fmax(1, MOST / r->n));
    return RW_OK;
}

static rw_status replayed_ns(rotation *r, int k, int repeats, double *ns, rw_error *err) {
    rw_device *d = r->set[0].d;
    rw_graph *graph;
    double t[64];
    int launches;
    RW_TRY(count_launches(r, k, &launches, err));
    RW_TRY(d->record->begin(d, err));
    launch(r, k, launches);
    RW_TRY(d->record->end(d, &graph, err));
    rw_status status = RW_OK;
    for (int i = -1; i < repeats && status == RW_OK; i++) {
        const int64_t start = rw_now_ns();
        status = d->record->replay(d, graph, err);
        if (status == RW_OK) status = d->synchronize(d, err);
        if (i >= 0) t[i] = (double)(rw_now_ns() - start) / launches;
    }
    d->record->free(d, graph);
    if (status == RW_OK) *ns = median(t, repeats);
    return status;
}

/* -- one kernel ---------------------------------------------------------------------------------------- */

typedef struct {
    rw_device *d, *f64;
    bench size;
    int repeats;
    double copy_rate, product_rate; /* of a device that records: bytes, operations a second */
} job;

static const char *verdict(const job *j, double error) {
    return error < most_error(j->d->compute) ? "" : "  WRONG";
}

static void time_at_once(const job *j, int k, double error) {
    bench b = j->size;
    prepare(&b, k);
    if (b.failed) {
        printf("%-22s not enough memory\n", kernels[k].name);
    } else {
        double ns = median_ns(&b, k, j->repeats);
        printf("%-22s %10.3f ms %8.1f GB/s %8.1f GFLOP/s   fp32 error %.1e%s\n", kernels[k].name, ns * 1e-6,
               b.bytes / ns, b.flops / ns, error, verdict(j, error));
    }
    release(&b);
}

static bool time_replayed(const job *j, int k, double error) {
    static rotation r;
    rw_error err = {0};
    double ns = 0;
    rw_status status = RW_OK;
    if (prepare_sets(&r, &j->size, k)) {
        status = replayed_ns(&r, k, j->repeats, &ns, &err);
        const bench *b = &r.set[0];
        const double roofline = 1e9 * fmax(b->bytes / j->copy_rate, b->flops / j->product_rate);
        if (status == RW_OK)
            printf("%-22s %10.4f ms %8.0f GB/s %8.1f TFLOP/s %4.0f %% of the roofline   %s error %.1e%s\n",
                   kernels[k].name, ns * 1e-6, b->bytes / ns, b->flops / ns * 1e-3, 100 * roofline / ns,
                   rw_dtype_name(j->d->compute), error, verdict(j, error));
        else
            printf("%-22s %s\n", kernels[k].name, err.msg);
    } else {
        printf("%-22s not enough memory\n", kernels[k].name);
    }
    fflush(stdout);
    rw_error_clear(&err);
    release_sets(&r);
    return status == RW_OK;
}

static bool bench_one(const job *j, int k) {
    if (!maker_of(k)) {
        printf("%-22s has no case here\n", kernels[k].name);
        return false;
    }
    const double error = check(j->d, j->f64, k);
    bool right = true;
    if (j->d->record)
        right = time_replayed(j, k, error);
    else
        time_at_once(j, k, error);
    return right && error < most_error(j->d->compute);
}

/* -- the products of an x060 step ------------------------------------------------------------------ */

static int step_shapes(rw_gemm_shape *s, int64_t L, int64_t R, int64_t C, int64_t V) {
    const int64_t F = C * 7 / 2 / 32 * 32, rows = R < 512 ? R : 512;
    const int64_t weights[][3] = {/* out, in, how many per step */
                                  {C, C, L * 6}, {F, C, L}, {C, F, L}, {160, C, L}, {64, C, L}, {C, 64, L}};
    int n = 0;
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        int64_t o = weights[i][0], c = weights[i][1], count = weights[i][2];
        s[n++] = (rw_gemm_shape){R, o, c, false, true, count, 0};  /* y = x W^T */
        s[n++] = (rw_gemm_shape){R, c, o, false, false, count, 0}; /* dx = dy W */
        s[n++] = (rw_gemm_shape){o, c, R, true, false, count, 0};  /* dW = dy^T x */
    }
    int64_t chunks = (R + rows - 1) / rows;
    s[n++] = (rw_gemm_shape){rows, V, C, false, true, chunks, 0};
    s[n++] = (rw_gemm_shape){rows, C, V, false, false, chunks, 0};
    s[n++] = (rw_gemm_shape){V, C, rows, true, false, chunks, 0};
    return n;
}

static int gemm(rw_device *d, const bench *size, int repeats, int n_names, char **names) {
    rw_gemm_shape shapes[64];
    int n = 0;
    for (int i = 1; i < n_names && n < 64; i++) {
        long long v[6] = {0, 0, 0, 0, 0, 1};
        if (sscanf(names[i], "%lld,%lld,%lld,%lld,%lld,%lld", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5]) < 5) {
            fprintf(stderr, "rwkv-bench: expected M,N,K,ta,tb[,count], got '%s'\n", names[i]);
            return 2;
        }
        shapes[n++] = (rw_gemm_shape){v[0], v[1], v[2], v[3] != 0, v[4] != 0, v[5], 0};
    }
    if (n == 0) n = step_shapes(shapes, 12, size->R, size->C, size->V);
    double rate;
    rw_error err = {0};
    if (rw_gemm_rate(d, shapes, n, repeats, &rate, &err) != RW_OK) {
        fprintf(stderr, "rwkv-bench: %s\n", err.msg);
        return 1;
    }
    for (int i = 0; i < n; i++) {
        const rw_gemm_shape *s = &shapes[i];
        printf("%6lld x %6lld x %6lld  %c%c  %4lld times %10.3f ms %8.1f GFLOP/s\n", (long long)s->M, (long long)s->N,
               (long long)s->K, s->trans_a ? 'T' : 'N', s->trans_b ? 'T' : 'N', (long long)s->count, s->seconds * 1e3,
               2e-9 * (double)s->M * (double)s->N * (double)s->K / s->seconds);
    }
    printf("together %.1f GFLOP/s\n", rate * 1e-9);
    return 0;
}

/* -- command line ---------------------------------------------------------------------------------- */

static bool selected(const char *name, int n_names, char **names) {
    for (int i = 0; i < n_names; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0) return true;
    return n_names == 0;
}

static int run_all(const job *j, int n_names, char **names) {
    bool right = true;
    for (int k = 0; k < N_KERNELS; k++)
        if (selected(kernels[k].name, n_names, names)) right &= bench_one(j, k);
    return right ? 0 : 1;
}

/* Numbers that were not given stay 0. */
typedef struct {
    int64_t threads, rows, embd, vocab, repeats;
    const char *device, *dtype;
    int n_names;
    char **names;
} options;

static bool take_number(const char *name, const char *text, options *o) {
    const struct {
        const char *name;
        int64_t *to;
    } rows[] = {{"--threads", &o->threads},
                {"--rows", &o->rows},
                {"--embd", &o->embd},
                {"--vocab", &o->vocab},
                {"--repeats", &o->repeats}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(name, rows[i].name) != 0) continue;
        *rows[i].to = text ? atoll(text) : 0;
        if (*rows[i].to < 1) fprintf(stderr, "rwkv-bench: %s needs a number of at least 1\n", name);
        return *rows[i].to >= 1;
    }
    fprintf(stderr, "rwkv-bench: unknown option %s\n", name);
    return false;
}

static bool take_word(const char *name, const char *text, const char *choices, const char **to) {
    *to = text ? text : "";
    for (const char *at = choices; *at; at += strlen(at) + 1)
        if (strcmp(*to, at) == 0) return true;
    fprintf(stderr, "rwkv-bench: %s takes", name);
    for (const char *at = choices; *at; at += strlen(at) + 1) fprintf(stderr, " %s", at);
    fprintf(stderr, ", not '%s'\n", *to);
    return false;
}

static bool take_options(options *o, int argc, char **argv) {
    *o = (options){.device = "cpu", .names = argv};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool right;
        if (strncmp(name, "--", 2) != 0) {
            argv[o->n_names++] = argv[i];
            continue;
        }
        if (strcmp(name, "--device") == 0)
            right = take_word(name, value, "cpu\0cuda\0", &o->device);
        else if (strcmp(name, "--dtype") == 0)
            right = take_word(name, value, "bf16\0f16\0f32\0", &o->dtype);
        else
            right = take_number(name, value, o);
        if (!right) return false;
        i++;
    }
    const bool narrow = o->dtype && strcmp(o->dtype, "f32") != 0;
    if (narrow && strcmp(o->device, "cpu") == 0)
        fprintf(stderr, "rwkv-bench: the CPU computes in f32; --device cuda takes --dtype %s\n", o->dtype);
    return !narrow || strcmp(o->device, "cpu") != 0;
}

static rw_status open_device(const options *o, int threads, rw_device **d, rw_error *err) {
    if (strcmp(o->device, "cpu") == 0) return rw_device_open_cpu(d, RW_F32, threads, err);
    const rw_gpu_choice choice = {.compute = rw_dtype_from_name(o->dtype ? o->dtype : "bf16")};
    return rw_device_open_cuda(d, &choice, err);
}

/* Rates of the roofline first: the machine is as warm as later. */
static rw_status begin(job *j, const options *o, rw_error *err) {
    const int threads = o->threads ? (int)o->threads : rw_cpu_count();
    RW_TRY(open_device(o, threads, &j->d, err));
    RW_TRY(rw_device_open_cpu(&j->f64, RW_F64, threads, err));
    const bool replays = j->d->record != NULL;
    j->repeats = o->repeats > 64 ? 64 : o->repeats ? (int)o->repeats : 5;
    j->size = (bench){.d = j->d, .grid = j->d->compute, .R = replays ? 16384 : 2048, .C = 768, .V = 65536, .T = 512};
    if (o->rows) j->size.R = o->rows;
    if (o->embd) j->size.C = o->embd;
    if (o->vocab) j->size.V = o->vocab;
    printf("%s: %lld rows, %lld channels, vocabulary %lld\n", j->d->detail, (long long)j->size.R, (long long)j->size.C,
           (long long)j->size.V);
    if (!replays) return RW_OK;
    RW_TRY(rw_copy_rate(j->d, &j->copy_rate, err));
    RW_TRY(rw_product_rate(j->d, &j->product_rate, err));
    printf("a copy makes %.0f GB/s, a product of 8192^3 %.1f TFLOP/s\n", j->copy_rate * 1e-9, j->product_rate * 1e-12);
    return RW_OK;
}

int main(int argc, char **argv) {
    static job j;
    options o;
    rw_error err = {0};
    int status = 1;
    if (!take_options(&o, argc, argv)) return 2;
    if (begin(&j, &o, &err) != RW_OK)
        fprintf(stderr, "rwkv-bench: %s\n", err.msg);
    else if (o.n_names > 0 && strcmp(o.names[0], "gemm") == 0)
        status = gemm(j.d, &j.size, j.repeats, o.n_names, o.names);
    else
        status = run_all(&j, o.n_names, o.names);
    rw_device_close(j.f64);
    rw_device_close(j.d);
    return status;
}
