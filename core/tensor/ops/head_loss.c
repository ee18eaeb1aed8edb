/* head_loss: logits, loss and gradient, a chunk of rows at a time. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { HL_HIDDEN, HL_Q, HL_K, HL_WEIGHT, HL_IN };
enum { HL_LOSS = HL_IN - 1, HL_OUT };

/* The gradients of activations were made in the forward pass and wait as those of as many outputs. */
static void head_loss_backward(rw_tape *t, rw_node *n) {
    for (int i = HL_HIDDEN; i <= HL_K; i++)
        if (n->out[i]) rw_grad_move(t, n->in[i], n->out[i]);
}

typedef struct {
    rw_tensor *hidden, *weight, *loss;
    void *dhidden, *dweight, *logits;
    rw_dtype dweight_dtype;
    bool add_weight;
    const int32_t *targets;
    const float *mask;
    rw_copy_head_args copy; /* q NULL: none */
} head_pass;

/* -- head_qk ------------------------------------------------------------------------------------------ */

static bool copy_args(rw_tape *t, const rw_copy_head_in *in, const rw_tensor *hidden, rw_copy_head_args *a) {
    int64_t R = rw_rows_of(hidden), Q = in->q ? rw_last_dim(in->q) : 0;
    if (!rw_op_narrow(t, "copy_head", "q", in->q, R * Q) || !rw_op_narrow(t, "copy_head", "k", in->k, R * Q) ||
        !rw_op_check_rows(t, "copy_head", in->rows, hidden))
        return false;
    *a = (rw_copy_head_args){.dtype = hidden->dtype, .R = R, .Q = Q, .n_seq = in->rows.n_seq, .scale = 1 / (double)Q};
    a->cu_seqlens = in->rows.cu_seqlens;
    a->tokens = in->tokens;
    a->q = in->q->data;
    a->k = in->k->data;
    return true;
}

static rw_copy_head_args copy_chunk(const head_pass *p, int64_t first, int64_t rows) {
    rw_copy_head_args a = p->copy;
    a.V = rw_rows_of(p->weight);
    a.first = first;
    a.n = rows;
    a.logits = p->logits;
    a.dlogits = p->logits;
    a.add = first > 0 ? RW_COPY_HEAD_ADD_K : 0;
    return a;
}

/* -- a chunk ------------------------------------------------------------------------------------------ */

static char *elements(const void *base, rw_dtype dtype, int64_t i) {
    return (char *)base + i * rw_dtype_bytes(dtype);
}

/* Rows [first, first+rows): logits, loss, and the gradients while the logits are at hand. */
static void head_chunk(rw_tape *t, const head_pass *p, int64_t first, int64_t rows) {
    rw_dtype d = p->hidden->dtype;
    int64_t C = rw_last_dim(p->hidden), V = rw_rows_of(p->weight);
    const void *h = elements(p->hidden->data, d, first * C);
    rw_matmul_args mm = {
        .dtype = d, .M = rows, .N = V, .K = C, .a = h, .b = p->weight->data, .out = p->logits, .trans_b = true};
    KERN(t)->matmul(&mm, EXEC(t));
    rw_copy_head_args copy = copy_chunk(p, first, rows);
    if (copy.q) KERN(t)->copy_head_forward(&copy, EXEC(t));
    rw_head_loss_args hl = {.dtype = d, .R = rows, .V = V, .logits = p->logits, .targets = p->targets + first};
    hl.mask = p->mask ? p->mask + first : NULL;
    hl.loss = elements(p->loss->data, p->loss->dtype, first);
    hl.want_grad = p->dhidden || p->dweight || copy.dq || copy.dk;
    KERN(t)->head_loss(&hl, EXEC(t));
    if (copy.dq || copy.dk) KERN(t)->copy_head_backward(&copy, EXEC(t));
    if (p->dhidden) {
        rw_matmul_args g = {.dtype = d, .M = rows, .N = C, .K = V, .a = p->logits, .b = p->weight->data};
        g.out = elements(p->dhidden, d, first * C);
        KERN(t)->matmul(&g, EXEC(t));
    }
    if (p->dweight) {
        rw_matmul_args g = {
            .dtype = d, .M = V, .N = C, .K = rows, .a = p->logits, .trans_a = true, .b = h, .out = p->dweight};
        g.out_dtype = p->dweight_dtype;
        g.c = p->add_weight || first > 0 ? p->dweight : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
}

/* -- the weight's gradient ------------------------------------------------------------------------------ */

/* A sum over chunks is wide while it grows, as one over micro batches is: a narrow gradient is rounded once, at the
 * end. Returns the share to give back, -1: the gradient itself is the sum. */
static int32_t widen(rw_tape *t, head_pass *p, int64_t n_chunks) {
    int32_t share = -1;
    p->dweight_dtype = rw_grad_dtype(p->weight);
    const rw_dtype wide = rw_wide(p->dweight_dtype);
    if (!p->dweight || n_chunks == 1 || p->add_weight || wide == p->dweight_dtype) return share;
    void *sum = rw_scratch_take(t, rw_tensor_count(p->weight) * rw_dtype_bytes(wide), &share);
    if (!sum) return share;
    p->dweight = sum;
    p->dweight_dtype = wide;
    return share;
}

static void narrow(rw_tape *t, const head_pass *p, void *dweight, int32_t share) {
    if (share < 0) return;
    rw_cast_args a = {.n = rw_tensor_count(p->weight), .from = p->dweight_dtype, .to = rw_grad_dtype(p->weight)};
    a.src = p->dweight;
    a.dst = dweight;
    if (!rw_tape_failed(t)) KERN(t)->cast(&a, EXEC(t));
    rw_share_release(t, share);
}

/* -- the op ------------------------------------------------------------------------------------------- */

/* An output whose gradient is where that of x waits for the backward pass. */
static rw_tensor *waiting(rw_tape *t, const rw_tensor *x, bool record, void **grad) {
    if (!record || !x || !x->requires_grad) return NULL;
    int32_t share = rw_share_take(t, x->room * rw_dtype_bytes(x->dtype), grad);
    rw_tensor *y = rw_tape_wrap(t, x->dtype, x->ndim, x->shape, NULL);
    if (!y) return NULL;
    y->grad = *grad;
    y->grad_share = share;
    return y;
}

rw_tensor *rw_head_loss_copy(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const rw_copy_head_in *copy,
                             const int32_t *targets, const float *mask, int64_t chunk) {
    if (!rw_op_narrow(t, "head_loss", "hidden", hidden, -1)) return NULL;
    int64_t R = rw_rows_of(hidden);
    if (!rw_op_narrow(t, "head_loss", "weight", weight, -1) ||
        !rw_op_narrow(t, "head_loss", "hidden", hidden, R * rw_last_dim(weight)))
        return NULL;
    head_pass p = {.hidden = hidden, .weight = weight, .targets = targets, .mask = mask};
    if (copy && !copy_args(t, copy, hidden, &p.copy)) return NULL;
    int64_t most = rw_room_rows(hidden), V = rw_rows_of(weight);
    if (chunk < 1 || chunk > most) chunk = most;
    rw_tensor *in[HL_IN] = {hidden, copy ? copy->q : NULL, copy ? copy->k : NULL, weight}, *out[HL_OUT] = {NULL};
    out[HL_LOSS] = p.loss = rw_tape_tensor(t, rw_wide(hidden->dtype), 1, &R, most);
    bool record = rw_op_records(t, in, LEN(in));
    int32_t logits_share;
    p.logits = rw_scratch_take(t, chunk * V * rw_dtype_bytes(hidden->dtype), &logits_share);
    out[HL_HIDDEN] = waiting(t, hidden, record, &p.dhidden);
    out[HL_Q] = waiting(t, in[HL_Q], record, &p.copy.dq);
    out[HL_K] = waiting(t, in[HL_K], record, &p.copy.dk);
    if (record) {
        uint32_t add = 0;
        p.dweight = rw_grad_into(t, weight, 1, &add);
        p.add_weight = add;
    }
    void *dweight = p.dweight;
    int32_t sum_share = widen(t, &p, (most + chunk - 1) / chunk);
    for (int64_t first = 0; first < R && !rw_tape_failed(t); first += chunk)
        head_chunk(t, &p, first, R - first < chunk ? R - first : chunk);
    rw_share_release(t, logits_share);
    narrow(t, &p, dweight, sum_share);
    if (rw_tape_failed(t)) return NULL;
    if (record) rw_node_new(t, head_loss_backward, in, LEN(in), out, LEN(out), 0, 0);
    return out[HL_LOSS];
}

rw_tensor *rw_head_loss(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const int32_t *targets, const float *mask,
                        int64_t chunk) {
    return rw_head_loss_copy(t, hidden, weight, NULL, targets, mask, chunk);
}
