/* rwkv-bench: every op, first checked (fp32 against fp64 on the same numbers), then timed at the size of a real step.
 *
 *     rwkv-bench [NAME...] [--threads N] [--rows R] [--embd C] [--vocab V] [--repeats K]
 *     rwkv-bench gemm [--threads N] ...       the matrix products of an x060 step, alone
 *     rwkv-bench gemm M,N,K,ta,tb[,count] ... your own shapes
 *
 * NAME selects rows whose name begins so: "wkv6" both directions, "adamw". GB/s counts each input once and each output
 * once; what is read and written counts twice. It is a tool for people; no test depends on its figures. */
#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"
#include "kernels/bench/gemm_rate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- one case: buffers and arguments --------------------------------------------------------------- */

enum { MAX_BUFFERS = 80 };

typedef struct {
    void *p;
    int64_t n, n_bytes;
    bool is_output;
} buffer;

typedef struct {
    rw_device *d;
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

static void *raw(bench *b, int64_t n, int64_t n_bytes, bool is_output) {
    void *p = b->n < MAX_BUFFERS ? b->d->alloc(b->d, n_bytes) : NULL;
    if (!p) {
        b->failed = true;
        return NULL;
    }
    b->buffers[b->n++] = (buffer){p, n, n_bytes, is_output};
    return p;
}

static void *numbers(bench *b, int64_t n, double lo, double hi, bool is_output) {
    void *p = raw(b, n, n * rw_dtype_bytes(b->d->compute), is_output);
    const uint64_t stream = (uint64_t)b->n * 0x9e3779b97f4a7c15u;
    for (int64_t i = 0; p && i < n; i++) {
        uint64_t h = ((uint64_t)i + stream) * 0xd1342543de82ef95u;
        double x = (double)(float)(lo + (hi - lo) * (double)((h ^ h >> 32) >> 11 & ((1ull << 42) - 1)) * 0x1p-42);
        if (b->d->compute == RW_F64)
            ((double *)p)[i] = x;
        else
            ((float *)p)[i] = (float)x;
    }
    return p;
}

static void *in(bench *b, int64_t n) { /* read once */
    b->bytes += (double)(n * rw_dtype_bytes(b->d->compute));
    return numbers(b, n, -1, 1, false);
}
static void *out(bench *b, int64_t n) { /* written once */
    b->bytes += (double)(n * rw_dtype_bytes(b->d->compute));
    return numbers(b, n, 0, 0, true);
}
static void *both(bench *b, int64_t n, double lo, double hi) { /* read and written */
    b->bytes += 2.0 * (double)(n * rw_dtype_bytes(b->d->compute));
    return numbers(b, n, lo, hi, true);
}
static void *scratch(bench *b, int64_t n_bytes) {
    return raw(b, 0, n_bytes, false);
}

static int32_t *tokens(bench *b) {
    int32_t *p = raw(b, 0, b->R * 4, false);
    for (int64_t i = 0; p && i < b->R; i++) p[i] = (int32_t)(rw_rng_u64_at(1, 1, (uint64_t)i) % (uint64_t)b->V);
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
    b->a.matmul = (rw_matmul_args){.M = b->R,
                                   .N = b->C,
                                   .K = b->C,
                                   .trans_b = true,
                                   .a = in(b, b->R * b->C),
                                   .b = in(b, b->C * b->C),
                                   .out = out(b, b->R * b->C)};
    b->flops = 2.0 * (double)b->R * (double)b->C * (double)b->C;
}

static void make_embedding(bench *b) {
    rw_embedding_args *a = &b->a.embedding_forward;
    *a = (rw_embedding_args){.R = b->R, .C = b->C, .V = b->V, .eps = 1e-5};
    a->tokens = tokens(b);
    a->weight = numbers(b, b->V * b->C, -1, 1, false);
    b->bytes += (double)(b->R * b->C * rw_dtype_bytes(b->d->compute)); /* the rows that are used */
    a->gamma = in(b, b->C), a->beta = in(b, b->C);
    a->mean = numbers(b, b->R, 0, 0, false), a->rstd = numbers(b, b->R, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, b->R * b->C);
        return;
    }
    a->dout = in(b, b->R * b->C);
    a->dweight = out(b, b->V * b->C), a->dgamma = out(b, b->C), a->dbeta = out(b, b->C);
    a->scratch = scratch(b, QUERY(embedding_backward_scratch, a));
}

static void make_layer_norm(bench *b) {
    rw_layer_norm_args *a = &b->a.layer_norm_forward;
    *a = (rw_layer_norm_args){
        .R = b->R, .C = b->C, .eps = 1e-5, .x = in(b, b->R * b->C), .gamma = in(b, b->C), .beta = in(b, b->C)};
    a->mean = numbers(b, b->R, 0, 0, false), a->rstd = numbers(b, b->R, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, b->R * b->C);
        return;
    }
    a->dout = in(b, b->R * b->C);
    a->dx = out(b, b->R * b->C), a->dgamma = out(b, b->C), a->dbeta = out(b, b->C);
    a->scratch = scratch(b, QUERY(layer_norm_backward_scratch, a));
}

static void make_group_norm(bench *b) {
    rw_group_norm_args *a = &b->a.group_norm_forward;
    const int64_t H = b->C / 64;
    *a = (rw_group_norm_args){
        .R = b->R, .H = H, .N = 64, .eps = 64e-5, .x = in(b, b->R * b->C), .gamma = in(b, b->C), .beta = in(b, b->C)};
    a->mean = numbers(b, b->R * H, 0, 0, false), a->rstd = numbers(b, b->R * H, 1, 1, false);
    if (!b->backward) {
        a->out = out(b, b->R * b->C);
        return;
    }
    a->dout = in(b, b->R * b->C);
    a->dx = out(b, b->R * b->C), a->dgamma = out(b, b->C), a->dbeta = out(b, b->C);
    a->scratch = scratch(b, QUERY(group_norm_backward_scratch, a));
}

static void make_token_shift(bench *b) {
    rw_token_shift_args *a = &b->a.token_shift_forward;
    *a = (rw_token_shift_args){.R = b->R,
                               .C = b->C,
                               .n_seq = sequences(b),
                               .n_mix = 2,
                               .eps = 1e-5,
                               .x = in(b, b->R * b->C),
                               .gamma = in(b, b->C),
                               .beta = in(b, b->C)};
    a->mean = numbers(b, b->R, 0, 0, false), a->rstd = numbers(b, b->R, 1, 1, false);
    for (int i = 0; i < a->n_mix; i++) {
        a->mu[i] = in(b, b->C);
        if (!b->backward) a->out[i] = out(b, b->R * b->C);
        if (b->backward) a->dout[i] = in(b, b->R * b->C), a->dmu[i] = out(b, b->C);
    }
    if (!b->backward) return;
    a->dx = both(b, b->R * b->C, 0, 0), a->dgamma = out(b, b->C), a->dbeta = out(b, b->C);
    a->add = RW_TOKEN_SHIFT_ADD_X;
    a->scratch = scratch(b, QUERY(token_shift_backward_scratch, a));
}

static void make_ddlerp(bench *b) {
    rw_ddlerp_args *a = &b->a.ddlerp_forward;
    *a = (rw_ddlerp_args){.R = b->R,
                          .C = b->C,
                          .rank = 32,
                          .n_seq = sequences(b),
                          .xn = in(b, b->R * b->C),
                          .h = in(b, b->R * 160),
                          .w2 = in(b, 160 * b->C)};
    a->tanh_h = numbers(b, b->R * 160, -0.9, 0.9, false);
    for (int i = 0; i < 5; i++) {
        a->mu[i] = in(b, b->C);
        if (!b->backward) a->out[i] = out(b, b->R * b->C);
        if (b->backward) a->dout[i] = in(b, b->R * b->C), a->dmu[i] = out(b, b->C);
    }
    b->flops = 2.0 * 160 * (double)b->R * (double)b->C * (b->backward ? 2 : 1);
    if (b->backward) a->dxn = out(b, b->R * b->C), a->dh = out(b, b->R * 160), a->dw2 = out(b, 160 * b->C);
    a->scratch = scratch(b, b->backward ? QUERY(ddlerp_backward_scratch, a) : QUERY(ddlerp_forward_scratch, a));
}

static void make_wkv6(bench *b) {
    rw_wkv6_args *a = &b->a.wkv6_forward;
    const int64_t n = b->R * b->C;
    *a = (rw_wkv6_args){.R = b->R,
                        .H = b->C / 64,
                        .N = 64,
                        .n_seq = sequences(b),
                        .r = in(b, n),
                        .k = in(b, n),
                        .v = in(b, n),
                        .w_raw = in(b, n),
                        .gate = in(b, n),
                        .w0 = in(b, b->C),
                        .u = in(b, b->C),
                        .ln_w = in(b, b->C),
                        .ln_b = in(b, b->C),
                        .eps = 64e-5};
    a->saved = scratch(b, QUERY(wkv6_saved, a));
    b->flops = (double)n * 64 * (b->backward ? 30 : 6);
    void *forward_scratch = scratch(b, QUERY(wkv6_forward_scratch, a));
    a->scratch = forward_scratch;
    a->out = b->backward ? numbers(b, n, 0, 0, false) : out(b, n);
    if (!b->backward || b->failed) return;
    b->d->kernels->wkv6_forward(a, &b->d->exec); /* fills `saved` */
    a->dout = in(b, n);
    a->dr = out(b, n), a->dk = out(b, n), a->dv = out(b, n), a->dw_raw = out(b, n), a->dgate = out(b, n);
    a->dw0 = out(b, b->C), a->du = out(b, b->C), a->dln_w = out(b, b->C), a->dln_b = out(b, b->C);
    a->scratch = scratch(b, QUERY(wkv6_backward_scratch, a));
}

static void make_wkv7(bench *b) {
    rw_wkv7_args *a = &b->a.wkv7_forward;
    const int64_t n = b->R * b->C;
    *a = (rw_wkv7_args){.R = b->R,
                        .H = b->C / 64,
                        .N = 64,
                        .n_seq = sequences(b),
                        .r = in(b, n),
                        .w_raw = in(b, n),
                        .k0 = in(b, n),
                        .v = in(b, n),
                        .a_up = in(b, n),
                        .v_up = in(b, n),
                        .v_first = in(b, n),
                        .g = in(b, n),
                        .w0 = in(b, b->C),
                        .a0 = in(b, b->C),
                        .v0 = in(b, b->C),
                        .k_k = in(b, b->C),
                        .k_a = in(b, b->C),
                        .r_k = in(b, b->C),
                        .ln_w = in(b, b->C),
                        .ln_b = in(b, b->C),
                        .eps = 64e-5};
    a->saved = scratch(b, QUERY(wkv7_saved, a));
    b->flops = (double)n * 64 * (b->backward ? 32 : 10);
    void *forward_scratch = scratch(b, QUERY(wkv7_forward_scratch, a));
    a->scratch = forward_scratch;
    a->out = b->backward ? numbers(b, n, 0, 0, false) : out(b, n);
    if (!b->backward || b->failed) return;
    b->d->kernels->wkv7_forward(a, &b->d->exec); /* fills `saved` */
    a->dout = in(b, n);
    void **const rows[] = {&a->dr, &a->dw_raw, &a->dk0, &a->dv, &a->da_up, &a->dv_up, &a->dv_first, &a->dg};
    void **const vectors[] = {&a->dw0, &a->da0, &a->dv0, &a->dk_k, &a->dk_a, &a->dr_k, &a->dln_w, &a->dln_b};
    for (int i = 0; i < 8; i++) *rows[i] = out(b, n);
    for (int i = 0; i < 8; i++) *vectors[i] = out(b, b->C);
    a->scratch = scratch(b, QUERY(wkv7_backward_scratch, a));
}

static void make_relu_sq(bench *b) {
    const int64_t n = b->R * (b->C * 7 / 2);
    rw_relu_sq_args *a = &b->a.relu_sq_forward;
    *a = (rw_relu_sq_args){.n = n};
    if (!b->backward) a->x = in(b, n), a->out = out(b, n);
    if (b->backward) a->out = numbers(b, n, 0, 1, false), a->dout = in(b, n), a->dx = out(b, n);
    if (b->backward) b->bytes += (double)(n * rw_dtype_bytes(b->d->compute));
}

static void make_rgate(bench *b) {
    const int64_t n = b->R * b->C;
    rw_rgate_args *a = &b->a.rgate_forward;
    *a = (rw_rgate_args){.n = n, .q = in(b, n), .p = in(b, n)};
    if (!b->backward) a->residual = in(b, n), a->out = out(b, n);
    if (b->backward) a->dout = in(b, n), a->dq = out(b, n), a->dp = out(b, n);
}

static void make_unary(bench *b) {
    const int64_t n = b->R * b->C;
    rw_unary_args *a = &b->a.unary_forward;
    *a = (rw_unary_args){.op = RW_UNARY_TANH, .n = n};
    if (!b->backward) a->x = in(b, n), a->out = out(b, n);
    if (b->backward) a->out = in(b, n), a->dout = in(b, n), a->dx = out(b, n);
}

static void make_binary(bench *b) {
    const int64_t n = b->R * b->C;
    rw_binary_args *a = &b->a.binary_forward;
    *a = (rw_binary_args){.op = RW_BINARY_MUL, .n = n, .period = b->C, .a = in(b, n), .b = in(b, b->C)};
    if (!b->backward) a->out = out(b, n);
    if (b->backward) a->dout = in(b, n), a->da = out(b, n), a->db = out(b, b->C);
}

static void make_cast(bench *b) {
    const int64_t n = b->R * b->C;
    b->a.cast =
        (rw_cast_args){.n = n, .from = b->d->compute, .to = RW_BF16, .src = in(b, n), .dst = raw(b, 0, 2 * n, false)};
    b->bytes += 2.0 * (double)n;
}

static void make_round_to(bench *b) {
    const int64_t n = b->R * b->C;
    b->a.round_to = (rw_round_args){.to = RW_BF16, .n = n, .x = both(b, n, -1, 1)};
}

static void make_sum(bench *b) {
    const int64_t n = b->R * b->C * 10;
    rw_sum_args *a = &b->a.sum;
    *a = (rw_sum_args){.n = n, .x = in(b, n), .out = raw(b, 0, 8, false)};
    a->scratch = scratch(b, QUERY(sum_scratch, a));
}

static void make_clip_coef(bench *b) {
    b->a.clip_coef = (rw_clip_coef_args){.max_norm = 1};
}

/* Of a chunk of the step. */
static int64_t head_rows(const bench *b) {
    return b->R < 256 ? b->R : 256;
}

static void make_head_loss(bench *b) {
    const int64_t rows = head_rows(b);
    b->a.head_loss = (rw_head_loss_args){.R = rows,
                                         .V = b->V,
                                         .logits = both(b, rows * b->V, -4, 4),
                                         .targets = tokens(b),
                                         .loss = out(b, rows),
                                         .want_grad = true};
}

static void make_copy_head(bench *b) {
    const int64_t rows = head_rows(b), Q = 256;
    rw_copy_head_args *a = &b->a.copy_head_forward;
    *a = (rw_copy_head_args){.R = rows,
                             .Q = Q,
                             .V = b->V,
                             .n_seq = 1,
                             .n = rows,
                             .scale = 1 / (double)Q,
                             .tokens = tokens(b),
                             .q = in(b, rows * Q),
                             .k = in(b, rows * Q)};
    b->flops = (double)(rows * (rows + 1) * Q) * (b->backward ? 2 : 1);
    if (!b->backward) a->logits = numbers(b, rows * b->V, -4, 4, true); /* few of them are touched */
    if (b->backward) a->dlogits = numbers(b, rows * b->V, -1, 1, false);
    if (b->backward) a->dq = out(b, rows * Q), a->dk = out(b, rows * Q);
}

static void make_adamw(bench *b) {
    const int64_t n = b->R * b->C * 10;
    rw_adamw_range *range = raw(b, 0, sizeof *range, false);
    if (range) *range = (rw_adamw_range){.n = n, .lr_scale = 1, .decay = 1};
    b->a.adamw = (rw_adamw_args){.n_ranges = 1,
                                 .ranges = range,
                                 .p = both(b, n, -1, 1),
                                 .grad = in(b, n),
                                 .m = both(b, n, -1, 1),
                                 .v = both(b, n, 0, 1),
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
    b->backward = strstr(kernels[k].name, "backward") != NULL;
    b->bytes = b->flops = 0;
    *b->d->exec.scalars =
        (rw_step_scalars){.step = 3, .lr = 1e-3, .weight_decay = 0.1, .normaliser = 1.0 / 256, .l2wrap_mask = 1e-6};
    *b->d->exec.own = (rw_device_scalars){.updates = 3, .grad_scale = 1};
    maker_of(k)(b);
}

/* Largest difference of an output of `f` from that of `d`, over the largest number there. */
static double difference(const bench *f, const bench *d) {
    double worst = 0;
    for (int i = 0; i < f->n; i++) {
        double largest = 0, error = 0;
        for (int64_t j = 0; f->buffers[i].is_output && j < f->buffers[i].n; j++) {
            double x = (double)((const float *)f->buffers[i].p)[j], y = ((const double *)d->buffers[i].p)[j];
            largest = fmax(largest, fabs(y));
            error = fmax(error, isnan(x) || isnan(y) ? INFINITY : fabs(x - y));
        }
        if (largest > 0) worst = fmax(worst, error / largest);
    }
    return worst;
}

/* fp32 against fp64 at a small size. */
static double check(rw_device *f32, rw_device *f64, int k) {
    bench f = {.d = f32, .R = 96, .C = 128, .V = 300, .T = 48}, d = f;
    d.d = f64;
    prepare(&f, k), prepare(&d, k);
    double error = INFINITY;
    if (!f.failed && !d.failed) {
        kernels[k].run(&f), kernels[k].run(&d);
        error = difference(&f, &d);
    }
    release(&f), release(&d);
    return error;
}

static double median_ns(bench *b, int k, int repeats) {
    double t[64];
    for (int i = -1; i < repeats; i++) {
        int64_t start = rw_now_ns();
        kernels[k].run(b);
        if (i >= 0) t[i] = (double)(rw_now_ns() - start);
    }
    for (int i = 1; i < repeats; i++) /* sorted by insertion */
        for (int j = i; j > 0 && t[j] < t[j - 1]; j--) {
            double x = t[j];
            t[j] = t[j - 1], t[j - 1] = x;
        }
    return t[repeats / 2];
}

static bool bench_one(rw_device *f32, rw_device *f64, const bench *size, int repeats, int k) {
    if (!maker_of(k)) {
        printf("%-22s has no case here\n", kernels[k].name);
        return false;
    }
    double error = check(f32, f64, k);
    bench b = *size;
    prepare(&b, k);
    if (b.failed) {
        printf("%-22s not enough memory\n", kernels[k].name);
    } else {
        double ns = median_ns(&b, k, repeats);
        printf("%-22s %10.3f ms %8.1f GB/s %8.1f GFLOP/s   fp32 error %.1e%s\n", kernels[k].name, ns * 1e-6,
               b.bytes / ns, b.flops / ns, error, error < 1e-4 ? "" : "  WRONG");
    }
    release(&b);
    return error < 1e-4;
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

static int run_all(rw_device *f32, rw_device *f64, const bench *size, int repeats, int n_names, char **names) {
    bool right = true;
    for (int k = 0; k < N_KERNELS; k++)
        if (selected(kernels[k].name, n_names, names)) right &= bench_one(f32, f64, size, repeats, k);
    return right ? 0 : 1;
}

int main(int argc, char **argv) {
    bench size = {.R = 2048, .C = 768, .V = 65536, .T = 512};
    int threads = rw_cpu_count(), repeats = 5, n_names = 0;
    for (int i = 1; i < argc; i++) {
        int64_t value = i + 1 < argc ? atoll(argv[i + 1]) : 0;
        if (strncmp(argv[i], "--", 2) != 0) {
            argv[n_names++] = argv[i];
            continue;
        }
        if (value < 1) return fprintf(stderr, "rwkv-bench: %s needs a number of at least 1\n", argv[i]), 2;
        if (strcmp(argv[i], "--threads") == 0)
            threads = (int)value;
        else if (strcmp(argv[i], "--rows") == 0)
            size.R = value;
        else if (strcmp(argv[i], "--embd") == 0)
            size.C = value;
        else if (strcmp(argv[i], "--vocab") == 0)
            size.V = value;
        else if (strcmp(argv[i], "--repeats") == 0)
            repeats = value > 64 ? 64 : (int)value;
        else
            return fprintf(stderr, "rwkv-bench: unknown option %s\n", argv[i]), 2;
        i++;
    }
    rw_error err = {0};
    rw_device *f32 = NULL, *f64 = NULL;
    int status = 1;
    if (rw_device_open_cpu(&f32, RW_F32, threads, &err) == RW_OK &&
        rw_device_open_cpu(&f64, RW_F64, threads, &err) == RW_OK) {
        size.d = f32;
        printf("%s: %lld rows, %lld channels, vocabulary %lld\n", f32->detail, (long long)size.R, (long long)size.C,
               (long long)size.V);
        status = n_names > 0 && strcmp(argv[0], "gemm") == 0 ? gemm(f32, &size, repeats, n_names, argv)
                                                             : run_all(f32, f64, &size, repeats, n_names, argv);
    } else {
        fprintf(stderr, "rwkv-bench: %s\n", err.msg);
    }
    rw_device_close(f64);
    rw_device_close(f32);
    return status;
}
