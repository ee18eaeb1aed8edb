/* The differentiable ops: see ops.h. Each is a forward that checks, runs and records, and a backward that points the
 * kernel's arguments at gradients. What is kept for the backward pass stands in the masks given to rw_node_new(). */
#include "core/tensor/ops.h"

#include "core/tensor/tape_internal.h"

#include <stdio.h>

#define KEEP(i) (1u << (i))
#define EXEC(t) (&rw_tape_device(t)->exec)
#define KERN(t) (rw_tape_device(t)->kernels)
#define LEN(a)  ((int)(sizeof(a) / sizeof *(a)))

/* -- checks ------------------------------------------------------------------------------------------- */

static int64_t last_dim(const rw_tensor *x) {
    return x->ndim ? x->shape[x->ndim - 1] : 1;
}
static int64_t rows_of(const rw_tensor *x) {
    return last_dim(x) ? rw_tensor_count(x) / last_dim(x) : 0;
}

#define SHAPE_TEXT 96 /* four dimensions of any size fit */
static const char *shape_text(const rw_tensor *x, char buf[SHAPE_TEXT]) {
    int n = snprintf(buf, SHAPE_TEXT, "(");
    for (int i = 0; i < x->ndim; i++)
        n += snprintf(buf + n, SHAPE_TEXT - (size_t)n, i ? ",%lld" : "%lld", (long long)x->shape[i]);
    snprintf(buf + n, SHAPE_TEXT - (size_t)n, ")");
    return buf;
}

/* True when x is there, in the device's dtype, and has n elements (n < 0: any number). */
static bool check(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    if (rw_tape_failed(t)) return false;
    if (!x) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %s is missing", op, what);
        return false;
    }
    char buf[SHAPE_TEXT];
    if (x->dtype != rw_tape_device(t)->compute) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %s is %s, expected %s", op, what, rw_dtype_name(x->dtype),
                     rw_dtype_name(rw_tape_device(t)->compute));
        return false;
    }
    if (n >= 0 && rw_tensor_count(x) != n) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %s has shape %s, expected %lld elements", op, what, shape_text(x, buf),
                     (long long)n);
        return false;
    }
    return true;
}

static bool check_opt(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    return !x || check(t, op, what, x, n);
}

/* Two that belong together: both or none. */
static bool check_pair(rw_tape *t, const char *op, const char *what_a, const rw_tensor *a, const char *what_b,
                       const rw_tensor *b, int64_t n) {
    return (!a && !b) || (check(t, op, what_a, a, n) && check(t, op, what_b, b, n));
}

static bool check_rows(rw_tape *t, const char *op, rw_rows rows, const rw_tensor *x) {
    if (rw_tape_failed(t)) return false;
    if (rows.n_seq < 1 || rows.n_rows != rows_of(x) || (!rows.cu_seqlens && rows.n_rows % rows.n_seq)) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %lld rows in %lld sequences do not fit %lld rows", op, (long long)rows.n_rows,
                     (long long)rows.n_seq, (long long)rows_of(x));
        return false;
    }
    return true;
}

static rw_tensor *like(rw_tape *t, const rw_tensor *x) {
    return rw_tape_tensor(t, x->dtype, x->ndim, x->shape, false);
}

static rw_tensor *matrix(rw_tape *t, int64_t rows, int64_t cols) {
    return rw_tape_tensor(t, rw_tape_device(t)->compute, 2, (int64_t[]){rows, cols}, false);
}

static void forget(rw_tensor **out, int n) {
    for (int i = 0; i < n; i++) out[i] = NULL;
}
static void *data_of(const rw_tensor *x) {
    return x ? x->data : NULL;
}
static void *grad_of(const rw_tensor *x) {
    return x ? x->grad : NULL;
}

/* Memory that a node keeps for itself (statistics, checkpoints of a state): held as kept[i] of the node. */
typedef struct {
    int32_t block;
    void *data;
} saved;
static saved save_bytes(rw_tape *t, int64_t n_bytes, bool wanted) {
    saved s = {-1, NULL};
    if (wanted && n_bytes > 0) s.block = rw_block_take(t, n_bytes, &s.data);
    return s;
}
static bool will_record(rw_tape *t, rw_tensor *const *in, int n) {
    if (!rw_tape_recording(t)) return false;
    for (int i = 0; i < n; i++)
        if (in[i] && in[i]->requires_grad) return true;
    return false;
}

/* -- matmul --------------------------------------------------------------------------------------------- */

enum { MM_A, MM_B, MM_C };

/* da = dout b (or b^T);  db = dout^T a (or a^T dout);  dc = dout */
static void matmul_backward(rw_tape *t, rw_node *n) {
    const rw_matmul_args *f = &n->args.matmul;
    rw_tensor *y = n->out[0];
    uint32_t add = 0;
    void *da = rw_grad_into(t, n->in[MM_A], 1, &add);
    if (da) {
        rw_matmul_args g = {.dtype = f->dtype, .M = f->M, .N = f->K, .K = f->N, .a = y->grad, .b = f->b, .out = da};
        g.trans_b = !f->trans_b;
        g.c = add & 1 ? da : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
    void *db = rw_grad_into(t, n->in[MM_B], 2, &add);
    if (db) {
        rw_matmul_args g = {.dtype = f->dtype, .K = f->M, .trans_a = true, .out = db, .c = add & 2 ? db : NULL};
        g.M = f->trans_b ? f->N : f->K;
        g.N = f->trans_b ? f->K : f->N;
        g.a = f->trans_b ? y->grad : f->a;
        g.b = f->trans_b ? f->a : y->grad;
        KERN(t)->matmul(&g, EXEC(t));
    }
    rw_grad_move(t, n->in[MM_C], y);
}

rw_tensor *rw_matmul(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_tensor *c) {
    if (!check(t, "matmul", "a", a, -1) || !check(t, "matmul", "b", b, -1)) return NULL;
    int64_t M = rows_of(a), K = last_dim(a), N = trans_b ? rows_of(b) : last_dim(b);
    int64_t b_inner = trans_b ? last_dim(b) : rows_of(b);
    if (b_inner != K) {
        char sa[SHAPE_TEXT], sb[SHAPE_TEXT];
        rw_tape_fail(t, RW_E_SHAPE, "matmul: shape %s does not fit %s%s", shape_text(a, sa), shape_text(b, sb),
                     trans_b ? " transposed" : "");
        return NULL;
    }
    if (!check_opt(t, "matmul", "c", c, M * N)) return NULL;
    rw_tensor *y = matrix(t, M, N);
    if (!y) return NULL;
    rw_matmul_args args = {.dtype = y->dtype, .M = M, .N = N, .K = K, .a = a->data, .b = b->data, .c = data_of(c)};
    args.out = y->data;
    args.trans_b = trans_b;
    KERN(t)->matmul(&args, EXEC(t));
    rw_tensor *in[] = {a, b, c};
    rw_node *n = rw_node_new(t, matmul_backward, in, LEN(in), &y, 1, KEEP(MM_A) | KEEP(MM_B), 0);
    if (n) n->args.matmul = args;
    return y;
}

/* -- embedding and norms ----------------------------------------------------------------------------------- */

static void embedding_backward(rw_tape *t, rw_node *n) {
    rw_embedding_args a = n->args.embedding;
    a.dout = n->out[0]->grad;
    a.dweight = rw_grad_into(t, n->in[0], RW_EMBEDDING_ADD_WEIGHT, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_EMBEDDING_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_EMBEDDING_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->embedding_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->embedding_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_embedding(rw_tape *t, rw_tensor *weight, const int32_t *tokens, int64_t n_rows, rw_tensor *gamma,
                        rw_tensor *beta, double eps) {
    if (!check(t, "embedding", "weight", weight, -1)) return NULL;
    int64_t C = last_dim(weight), V = rows_of(weight);
    if (!check_pair(t, "embedding", "gamma", gamma, "beta", beta, C)) return NULL;
    rw_tensor *y = matrix(t, n_rows, C), *in[] = {weight, gamma, beta};
    saved stat = save_bytes(t, 2 * n_rows * rw_dtype_bytes(weight->dtype), gamma && will_record(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_embedding_args a = {.dtype = y->dtype, .R = n_rows, .C = C, .V = V, .tokens = tokens, .weight = weight->data};
    a.gamma = data_of(gamma);
    a.beta = data_of(beta);
    a.eps = eps;
    a.out = y->data;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + n_rows * rw_dtype_bytes(y->dtype) : NULL;
    KERN(t)->embedding_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, embedding_backward, in, LEN(in), &y, 1, 0, 0);
    if (!n) return y;
    n->args.embedding = a;
    n->kept[0] = stat.block;
    return y;
}

static void layer_norm_backward(rw_tape *t, rw_node *n) {
    rw_layer_norm_args a = n->args.layer_norm;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_NORM_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->layer_norm_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->layer_norm_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_layer_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, double eps) {
    if (!check(t, "layer_norm", "x", x, -1)) return NULL;
    int64_t C = last_dim(x), R = rows_of(x), each = R * rw_dtype_bytes(x->dtype);
    if (!check(t, "layer_norm", "gamma", gamma, C) || !check(t, "layer_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = like(t, x), *in[] = {x, gamma, beta};
    saved stat = save_bytes(t, 2 * each, will_record(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_layer_norm_args a = {.dtype = x->dtype, .R = R, .C = C, .x = x->data, .gamma = gamma->data, .beta = beta->data};
    a.eps = eps;
    a.out = y->data;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    KERN(t)->layer_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, layer_norm_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    if (!n) return y;
    n->args.layer_norm = a;
    n->kept[0] = stat.block;
    return y;
}

static void group_norm_backward(rw_tape *t, rw_node *n) {
    rw_group_norm_args a = n->args.group_norm;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_NORM_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->group_norm_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->group_norm_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_group_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, int64_t n_head, double eps) {
    if (!check(t, "group_norm", "x", x, -1)) return NULL;
    int64_t C = last_dim(x), R = rows_of(x), each = R * n_head * rw_dtype_bytes(x->dtype);
    if (n_head < 1 || C % n_head) {
        rw_tape_fail(t, RW_E_SHAPE, "group_norm: %lld channels cannot be cut into %lld heads", (long long)C,
                     (long long)n_head);
        return NULL;
    }
    if (!check(t, "group_norm", "gamma", gamma, C) || !check(t, "group_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = like(t, x), *in[] = {x, gamma, beta};
    saved stat = save_bytes(t, 2 * each, will_record(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_group_norm_args a = {.dtype = x->dtype, .R = R, .H = n_head, .N = C / n_head, .x = x->data, .out = y->data};
    a.gamma = gamma->data;
    a.beta = beta->data;
    a.eps = eps;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    KERN(t)->group_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, group_norm_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    if (!n) return y;
    n->args.group_norm = a;
    n->kept[0] = stat.block;
    return y;
}

/* -- token shift -------------------------------------------------------------------------------------------- */

/* inputs: x gamma beta shift_in mu[6]; outputs: out[6] xn shift_out */
enum { TS_X, TS_GAMMA, TS_BETA, TS_SHIFT, TS_MU, TS_IN = TS_MU + RW_MAX_MIX };
enum { TS_XN = RW_MAX_MIX, TS_SHIFT_OUT, TS_OUT };

static void token_shift_backward(rw_tape *t, rw_node *n) {
    rw_token_shift_args a = n->args.token_shift;
    for (int i = 0; i < a.n_mix; i++) {
        a.dout[i] = grad_of(n->out[i]);
        a.dmu[i] = rw_grad_into(t, n->in[TS_MU + i], (uint32_t)RW_TOKEN_SHIFT_ADD_MU << i, &a.add);
    }
    a.dxn = grad_of(n->out[TS_XN]);
    a.dshift_out = grad_of(n->out[TS_SHIFT_OUT]);
    a.dx = rw_grad_into(t, n->in[TS_X], RW_TOKEN_SHIFT_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[TS_GAMMA], RW_TOKEN_SHIFT_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[TS_BETA], RW_TOKEN_SHIFT_ADD_BETA, &a.add);
    a.dshift_in = rw_grad_into(t, n->in[TS_SHIFT], RW_TOKEN_SHIFT_ADD_SHIFT_IN, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->token_shift_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->token_shift_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

/* A carried state of n_seq rows of `each` elements, or one shared row. Returns the stride; -1: wrong. */
static int64_t state_stride(rw_tape *t, const char *op, const rw_tensor *s, int64_t n_seq, int64_t each) {
    if (!s) return 0;
    int64_t n = rw_tensor_count(s);
    if (n == n_seq * each) return each;
    if (n == each) return 0;
    rw_tape_fail(t, RW_E_SHAPE, "%s: a state of %lld elements does not fit %lld sequences of %lld", op, (long long)n,
                 (long long)n_seq, (long long)each);
    return -1;
}

static bool token_shift_check(rw_tape *t, const rw_token_shift_in *in, int64_t C) {
    bool ok = check(t, "token_shift", "gamma", in->gamma, C) && check(t, "token_shift", "beta", in->beta, C);
    for (int i = 0; ok && i < in->n_mix; i++) ok = check(t, "token_shift", "mu", in->mu[i], C);
    return ok && check_opt(t, "token_shift", "shift_in", in->shift_in, -1) &&
           check_rows(t, "token_shift", in->rows, in->x);
}

void rw_token_shift(rw_tape *t, const rw_token_shift_in *p, rw_tensor **out, rw_tensor **xn, rw_tensor **shift_out) {
    forget(out, p->n_mix);
    if (xn) *xn = NULL;
    if (shift_out) *shift_out = NULL;
    if (!check(t, "token_shift", "x", p->x, -1) || !token_shift_check(t, p, last_dim(p->x))) return;
    int64_t C = last_dim(p->x), R = p->rows.n_rows, each = R * rw_dtype_bytes(p->x->dtype);
    rw_token_shift_args a = {.dtype = p->x->dtype, .R = R, .C = C, .n_seq = p->rows.n_seq, .n_mix = p->n_mix};
    a.cu_seqlens = p->rows.cu_seqlens;
    a.times_current = p->times_current;
    a.x = p->x->data;
    a.gamma = p->gamma->data;
    a.beta = p->beta->data;
    a.eps = p->eps;
    a.shift_in = data_of(p->shift_in);
    a.shift_in_stride = state_stride(t, "token_shift", p->shift_in, p->rows.n_seq, C);

    rw_tensor *in[TS_IN] = {p->x, p->gamma, p->beta, p->shift_in}, *outs[TS_OUT] = {NULL};
    for (int i = 0; i < p->n_mix; i++) {
        in[TS_MU + i] = p->mu[i];
        a.mu[i] = p->mu[i]->data;
        outs[i] = out[i] = matrix(t, R, C);
        a.out[i] = data_of(out[i]);
    }
    if (xn) outs[TS_XN] = *xn = matrix(t, R, C);
    if (shift_out) outs[TS_SHIFT_OUT] = *shift_out = matrix(t, p->rows.n_seq, C);
    a.xn = data_of(outs[TS_XN]);
    a.shift_out = data_of(outs[TS_SHIFT_OUT]);
    saved stat = save_bytes(t, 2 * each, will_record(t, in, LEN(in)));
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    if (rw_tape_failed(t)) {
        forget(out, p->n_mix);
        if (xn) *xn = NULL;
        if (shift_out) *shift_out = NULL;
        return;
    }
    KERN(t)->token_shift_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, token_shift_backward, in, LEN(in), outs, LEN(outs), ~0u, 0);
    if (!n) return;
    n->args.token_shift = a;
    n->kept[0] = stat.block;
}

/* -- ddlerp --------------------------------------------------------------------------------------------------- */

enum { DL_XN, DL_SHIFT, DL_H, DL_W2, DL_MU, DL_IN = DL_MU + RW_DDLERP_MIX };

static void ddlerp_backward(rw_tape *t, rw_node *n) {
    rw_ddlerp_args a = n->args.ddlerp;
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        a.dout[i] = grad_of(n->out[i]);
        a.dmu[i] = rw_grad_into(t, n->in[DL_MU + i], (uint32_t)RW_DDLERP_ADD_MU << i, &a.add);
    }
    a.dxn = rw_grad_into(t, n->in[DL_XN], RW_DDLERP_ADD_XN, &a.add);
    a.dshift_in = rw_grad_into(t, n->in[DL_SHIFT], RW_DDLERP_ADD_SHIFT_IN, &a.add);
    a.dh = rw_grad_into(t, n->in[DL_H], RW_DDLERP_ADD_H, &a.add);
    a.dw2 = rw_grad_into(t, n->in[DL_W2], RW_DDLERP_ADD_W2, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->ddlerp_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->ddlerp_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

void rw_ddlerp(rw_tape *t, rw_rows rows, rw_tensor *xn, rw_tensor *shift_in, rw_tensor *h, rw_tensor *w2,
               rw_tensor *const mu[RW_DDLERP_MIX], rw_tensor *out[RW_DDLERP_MIX]) {
    forget(out, RW_DDLERP_MIX);
    if (!check(t, "ddlerp", "xn", xn, -1) || !check(t, "ddlerp", "h", h, -1) || !check_rows(t, "ddlerp", rows, xn))
        return;
    int64_t C = last_dim(xn), R = rows.n_rows, rank = last_dim(h) / RW_DDLERP_MIX;
    if (!check(t, "ddlerp", "h", h, R * rank * RW_DDLERP_MIX) ||
        !check(t, "ddlerp", "w2", w2, RW_DDLERP_MIX * rank * C) || !check_opt(t, "ddlerp", "shift_in", shift_in, -1))
        return;
    rw_ddlerp_args a = {.dtype = xn->dtype, .R = R, .C = C, .rank = rank, .n_seq = rows.n_seq, .xn = xn->data};
    a.cu_seqlens = rows.cu_seqlens;
    a.shift_in = data_of(shift_in);
    a.shift_in_stride = state_stride(t, "ddlerp", shift_in, rows.n_seq, C);
    a.h = a.tanh_h = h->data;
    a.w2 = w2->data;
    rw_tensor *in[DL_IN] = {xn, shift_in, h, w2};
    for (int i = 0; i < RW_DDLERP_MIX; i++)
        if (!check(t, "ddlerp", "mu", mu[i], C)) return;
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        in[DL_MU + i] = mu[i];
        a.mu[i] = mu[i]->data;
        out[i] = matrix(t, R, C);
        a.out[i] = data_of(out[i]);
    }
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->ddlerp_forward_scratch(&a, EXEC(t)), &b);
    if (rw_tape_failed(t))
        forget(out, RW_DDLERP_MIX);
    else
        KERN(t)->ddlerp_forward(&a, EXEC(t));
    rw_block_release(t, b);
    rw_node *n = rw_node_new(t, ddlerp_backward, in, LEN(in), out, RW_DDLERP_MIX, ~0u, 0);
    if (n) n->args.ddlerp = a;
}

/* -- wkv6 -------------------------------------------------------------------------------------------------------- */

enum { WK_R, WK_K, WK_V, WK_W, WK_W0, WK_U, WK_S0, WK_GATE, WK_LN_W, WK_LN_B, WK_IN };

static void wkv6_backward(rw_tape *t, rw_node *n) {
    rw_wkv6_args a = n->args.wkv6;
    a.dout = grad_of(n->out[0]);
    a.ds_out = grad_of(n->out[1]);
    a.dr = rw_grad_into(t, n->in[WK_R], RW_WKV6_ADD_R, &a.add);
    a.dk = rw_grad_into(t, n->in[WK_K], RW_WKV6_ADD_K, &a.add);
    a.dv = rw_grad_into(t, n->in[WK_V], RW_WKV6_ADD_V, &a.add);
    a.dw_raw = rw_grad_into(t, n->in[WK_W], RW_WKV6_ADD_W, &a.add);
    a.dw0 = rw_grad_into(t, n->in[WK_W0], RW_WKV6_ADD_W0, &a.add);
    a.du = rw_grad_into(t, n->in[WK_U], RW_WKV6_ADD_U, &a.add);
    a.ds0 = rw_grad_into(t, n->in[WK_S0], RW_WKV6_ADD_S0, &a.add);
    a.dgate = rw_grad_into(t, n->in[WK_GATE], RW_WKV6_ADD_GATE, &a.add);
    a.dln_w = rw_grad_into(t, n->in[WK_LN_W], RW_WKV6_ADD_LN_W, &a.add);
    a.dln_b = rw_grad_into(t, n->in[WK_LN_B], RW_WKV6_ADD_LN_B, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv6_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv6_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

static bool wkv6_check(rw_tape *t, const rw_wkv6_in *p) {
    int64_t C = p->n_head * p->head_size, n = p->rows.n_rows * C;
    if (p->head_size != 32 && p->head_size != 64 && p->head_size != 128) {
        rw_tape_fail(t, RW_E_SHAPE, "wkv6: head size %lld, expected 32, 64 or 128", (long long)p->head_size);
        return false;
    }
    return check(t, "wkv6", "r", p->r, n) && check(t, "wkv6", "k", p->k, n) && check(t, "wkv6", "v", p->v, n) &&
           check(t, "wkv6", "w_raw", p->w_raw, n) && check(t, "wkv6", "u", p->u, C) &&
           check_opt(t, "wkv6", "w0", p->w0, C) && check_opt(t, "wkv6", "gate", p->gate, n) &&
           check_pair(t, "wkv6", "ln_w", p->ln_w, "ln_b", p->ln_b, C) && check_opt(t, "wkv6", "s0", p->s0, -1) &&
           check_rows(t, "wkv6", p->rows, p->r);
}

rw_tensor *rw_wkv6(rw_tape *t, const rw_wkv6_in *p, rw_tensor **s_out) {
    if (s_out) *s_out = NULL;
    if (!wkv6_check(t, p)) return NULL;
    int64_t H = p->n_head, N = p->head_size, C = H * N;
    rw_wkv6_args a = {.dtype = p->r->dtype, .R = p->rows.n_rows, .H = H, .N = N, .n_seq = p->rows.n_seq, .eps = p->eps};
    a.cu_seqlens = p->rows.cu_seqlens;
    a.r = p->r->data;
    a.k = p->k->data;
    a.v = p->v->data;
    a.w_raw = p->w_raw->data;
    a.w0 = data_of(p->w0);
    a.u = p->u->data;
    a.s0 = data_of(p->s0);
    a.s0_stride = state_stride(t, "wkv6", p->s0, p->rows.n_seq, C * N);
    a.gate = data_of(p->gate);
    a.ln_w = data_of(p->ln_w);
    a.ln_b = data_of(p->ln_b);

    rw_tensor *in[WK_IN] = {p->r, p->k, p->v, p->w_raw, p->w0, p->u, p->s0, p->gate, p->ln_w, p->ln_b},
              *out[2] = {NULL};
    out[0] = matrix(t, a.R, C);
    if (s_out) out[1] = *s_out = rw_tape_tensor(t, a.dtype, 4, (int64_t[]){a.n_seq, H, N, N}, false);
    a.out = data_of(out[0]);
    a.s_out = data_of(out[1]);
    saved keep = save_bytes(t, KERN(t)->wkv6_saved(&a, EXEC(t)), will_record(t, in, LEN(in)));
    a.saved = keep.data;
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv6_forward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv6_forward(&a, EXEC(t));
    rw_block_release(t, b);
    if (rw_tape_failed(t)) {
        if (s_out) *s_out = NULL;
        return NULL;
    }
    rw_node *n = rw_node_new(t, wkv6_backward, in, LEN(in), out, LEN(out), ~0u, 0);
    if (!n) return out[0];
    n->args.wkv6 = a;
    n->kept[0] = keep.block;
    return out[0];
}

/* -- channel mix -----------------------------------------------------------------------------------------------------
 */

static void relu_sq_backward(rw_tape *t, rw_node *n) {
    rw_relu_sq_args a = n->args.relu_sq;
    uint32_t add = 0;
    a.dout = n->out[0]->grad;
    if (!n->in[0]->grad) { /* the gradient can be made in place */
        a.dx = n->out[0]->grad;
        KERN(t)->relu_sq_backward(&a, EXEC(t));
        rw_grad_move(t, n->in[0], n->out[0]);
        return;
    }
    a.dx = rw_grad_into(t, n->in[0], 1, &add);
    a.add = add;
    KERN(t)->relu_sq_backward(&a, EXEC(t));
}

rw_tensor *rw_relu_sq(rw_tape *t, rw_tensor *x) {
    if (!check(t, "relu_sq", "x", x, -1)) return NULL;
    rw_block_retain(t, x->block);
    rw_tensor *y = rw_tensor_over(t, x->dtype, x->ndim, x->shape, x->block, x->data);
    if (!y) return NULL;
    rw_relu_sq_args a = {.dtype = x->dtype, .n = rw_tensor_count(x), .x = x->data, .out = y->data};
    KERN(t)->relu_sq_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, relu_sq_backward, &x, 1, &y, 1, 0, KEEP(0));
    if (n) n->args.relu_sq = a;
    return y;
}

enum { RG_Q, RG_P, RG_RES };

static void rgate_backward(rw_tape *t, rw_node *n) {
    rw_rgate_args a = n->args.rgate;
    a.dout = n->out[0]->grad;
    a.dq = rw_grad_into(t, n->in[RG_Q], RW_RGATE_ADD_Q, &a.add);
    a.dp = rw_grad_into(t, n->in[RG_P], RW_RGATE_ADD_P, &a.add);
    if (!rw_tape_failed(t)) KERN(t)->rgate_backward(&a, EXEC(t));
    rw_grad_move(t, n->in[RG_RES], n->out[0]);
}

rw_tensor *rw_rgate(rw_tape *t, rw_tensor *q, rw_tensor *p, rw_tensor *residual) {
    if (!check(t, "rgate", "q", q, -1)) return NULL;
    int64_t n_elems = rw_tensor_count(q);
    if (!check(t, "rgate", "p", p, n_elems) || !check_opt(t, "rgate", "residual", residual, n_elems)) return NULL;
    rw_tensor *y = like(t, q), *in[] = {q, p, residual};
    if (!y) return NULL;
    rw_rgate_args a = {.dtype = q->dtype, .n = n_elems, .q = q->data, .p = p->data, .residual = data_of(residual)};
    a.out = y->data;
    KERN(t)->rgate_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, rgate_backward, in, LEN(in), &y, 1, KEEP(RG_Q) | KEEP(RG_P), 0);
    if (n) n->args.rgate = a;
    return y;
}

/* -- plain elementwise ops
 * ------------------------------------------------------------------------------------------------ */

static void unary_backward(rw_tape *t, rw_node *n) {
    rw_unary_args a = n->args.unary;
    uint32_t add = 0;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], 1, &add);
    a.add = add;
    if (a.dx) KERN(t)->unary_backward(&a, EXEC(t));
}

rw_tensor *rw_unary(rw_tape *t, rw_unary_op op, rw_tensor *x, double alpha) {
    if (!check(t, "unary", "x", x, -1)) return NULL;
    rw_tensor *y = like(t, x);
    if (!y) return NULL;
    rw_unary_args a = {
        .dtype = x->dtype, .op = op, .n = rw_tensor_count(x), .alpha = alpha, .x = x->data, .out = y->data};
    KERN(t)->unary_forward(&a, EXEC(t));
    bool reads_x = op == RW_UNARY_SILU || op == RW_UNARY_RELU || op == RW_UNARY_LOG || op == RW_UNARY_SQUARE;
    rw_node *n = rw_node_new(t, unary_backward, &x, 1, &y, 1, reads_x ? KEEP(0) : 0, reads_x ? 0 : KEEP(0));
    if (n) n->args.unary = a;
    return y;
}

static void binary_backward(rw_tape *t, rw_node *n) {
    rw_binary_args a = n->args.binary;
    a.dout = n->out[0]->grad;
    a.da = rw_grad_into(t, n->in[0], RW_BINARY_ADD_A, &a.add);
    a.db = rw_grad_into(t, n->in[1], RW_BINARY_ADD_B, &a.add);
    if (!rw_tape_failed(t)) KERN(t)->binary_backward(&a, EXEC(t));
}

/* Whether b has the shape of a's last dimensions; leading dimensions of 1 do not count, so (1) is a number. */
static bool repeats_in(const rw_tensor *b, const rw_tensor *a) {
    int first = 0;
    while (first < b->ndim && b->shape[first] == 1) first++;
    if (b->ndim - first > a->ndim) return false;
    for (int i = 1; i <= b->ndim - first; i++)
        if (b->shape[b->ndim - i] != a->shape[a->ndim - i]) return false;
    return rw_tensor_count(b) > 0;
}

rw_tensor *rw_binary(rw_tape *t, rw_binary_op op, rw_tensor *a, rw_tensor *b) {
    if (!check(t, "binary", "a", a, -1) || !check(t, "binary", "b", b, -1)) return NULL;
    int64_t na = rw_tensor_count(a), nb = rw_tensor_count(b);
    if (!repeats_in(b, a)) {
        char sa[SHAPE_TEXT], sb[SHAPE_TEXT];
        rw_tape_fail(t, RW_E_SHAPE, "binary: shape %s does not match %s", shape_text(a, sa), shape_text(b, sb));
        return NULL;
    }
    rw_tensor *y = like(t, a), *in[] = {a, b};
    if (!y) return NULL;
    rw_binary_args args = {
        .dtype = a->dtype, .op = op, .n = na, .period = nb == na ? 0 : nb, .a = a->data, .b = b->data};
    args.out = y->data;
    KERN(t)->binary_forward(&args, EXEC(t));
    rw_node *n = rw_node_new(t, binary_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    if (n) n->args.binary = args;
    return y;
}

/* -- head and loss
 * ------------------------------------------------------------------------------------------------------------ */

/* The gradient of hidden was made in the forward pass and waits as the gradient of out[1]. */
static void head_loss_backward(rw_tape *t, rw_node *n) {
    rw_grad_move(t, n->in[0], n->out[1]);
}

typedef struct {
    rw_tensor *hidden, *weight, *loss;
    void *dhidden, *dweight, *logits;
    bool add_weight;
    const int32_t *targets;
    const float *mask;
} head_pass;

static char *elements(const void *base, rw_dtype dtype, int64_t i) {
    return (char *)base + i * rw_dtype_bytes(dtype);
}

/* Rows [first, first+rows): logits, loss, and the gradients while the logits are at hand. */
static void head_chunk(rw_tape *t, const head_pass *p, int64_t first, int64_t rows) {
    rw_dtype d = p->hidden->dtype;
    int64_t C = last_dim(p->hidden), V = rows_of(p->weight);
    const void *h = elements(p->hidden->data, d, first * C);
    rw_matmul_args mm = {
        .dtype = d, .M = rows, .N = V, .K = C, .a = h, .b = p->weight->data, .out = p->logits, .trans_b = true};
    KERN(t)->matmul(&mm, EXEC(t));
    rw_head_loss_args hl = {.dtype = d, .R = rows, .V = V, .logits = p->logits, .targets = p->targets + first};
    hl.mask = p->mask ? p->mask + first : NULL;
    hl.loss = elements(p->loss->data, d, first);
    hl.want_grad = p->dhidden || p->dweight;
    KERN(t)->head_loss(&hl, EXEC(t));
    if (p->dhidden) {
        rw_matmul_args g = {.dtype = d, .M = rows, .N = C, .K = V, .a = p->logits, .b = p->weight->data};
        g.out = elements(p->dhidden, d, first * C);
        KERN(t)->matmul(&g, EXEC(t));
    }
    if (p->dweight) {
        rw_matmul_args g = {
            .dtype = d, .M = V, .N = C, .K = rows, .a = p->logits, .trans_a = true, .b = h, .out = p->dweight};
        g.c = p->add_weight || first > 0 ? p->dweight : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
}

rw_tensor *rw_head_loss(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const int32_t *targets, const float *mask,
                        int64_t chunk) {
    if (!check(t, "head_loss", "hidden", hidden, -1)) return NULL;
    int64_t R = rows_of(hidden), C = last_dim(hidden);
    if (!check(t, "head_loss", "weight", weight, -1) || !check(t, "head_loss", "hidden", hidden, R * last_dim(weight)))
        return NULL;
    if (chunk < 1 || chunk > R) chunk = R;
    rw_tensor *in[] = {hidden, weight}, *out[2] = {rw_tape_tensor(t, hidden->dtype, 1, &R, false), NULL};
    bool record = will_record(t, in, LEN(in));
    head_pass p = {.hidden = hidden, .weight = weight, .loss = out[0], .targets = targets, .mask = mask};
    int32_t logits_block, dh_block = -1;
    p.logits = rw_scratch_take(t, chunk * rows_of(weight) * rw_dtype_bytes(hidden->dtype), &logits_block);
    if (record && hidden->requires_grad) {
        dh_block = rw_block_take(t, R * C * rw_dtype_bytes(hidden->dtype), &p.dhidden);
        out[1] = rw_tape_wrap(t, hidden->dtype, hidden->ndim, hidden->shape, NULL);
    }
    if (record) {
        uint32_t add = 0;
        p.dweight = rw_grad_into(t, weight, 1, &add);
        p.add_weight = add;
    }
    for (int64_t first = 0; first < R && !rw_tape_failed(t); first += chunk)
        head_chunk(t, &p, first, R - first < chunk ? R - first : chunk);
    rw_block_release(t, logits_block);
    if (rw_tape_failed(t)) return NULL;
    if (out[1]) {
        out[1]->grad = p.dhidden;
        out[1]->grad_block = dh_block;
    }
    if (record) rw_node_new(t, head_loss_backward, in, LEN(in), out, LEN(out), 0, 0);
    return out[0];
}
