/* head_loss: logits, loss and gradient, a chunk of rows at a time. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

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
    int64_t C = rw_last_dim(p->hidden), V = rw_rows_of(p->weight);
    const void *h = elements(p->hidden->data, d, first * C);
    rw_matmul_args mm = {
        .dtype = d, .M = rows, .N = V, .K = C, .a = h, .b = p->weight->data, .out = p->logits, .trans_b = true};
    KERN(t)->matmul(&mm, EXEC(t));
    rw_head_loss_args hl = {.dtype = d, .R = rows, .V = V, .logits = p->logits, .targets = p->targets + first};
    hl.mask = p->mask ? p->mask + first : NULL;
    hl.loss = elements(p->loss->data, p->loss->dtype, first);
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
        g.out_dtype = rw_grad_dtype(p->weight);
        g.c = p->add_weight || first > 0 ? p->dweight : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
}

rw_tensor *rw_head_loss(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const int32_t *targets, const float *mask,
                        int64_t chunk) {
    if (!rw_op_narrow(t, "head_loss", "hidden", hidden, -1)) return NULL;
    int64_t R = rw_rows_of(hidden);
    if (!rw_op_narrow(t, "head_loss", "weight", weight, -1) ||
        !rw_op_narrow(t, "head_loss", "hidden", hidden, R * rw_last_dim(weight)))
        return NULL;
    int64_t most = rw_room_rows(hidden), V = rw_rows_of(weight);
    if (chunk < 1 || chunk > most) chunk = most;
    rw_tensor *in[] = {hidden, weight}, *out[2] = {rw_tape_tensor(t, rw_wide(hidden->dtype), 1, &R, most), NULL};
    bool record = rw_op_records(t, in, LEN(in));
    head_pass p = {.hidden = hidden, .weight = weight, .loss = out[0], .targets = targets, .mask = mask};
    int32_t logits_block, dh_block = -1;
    p.logits = rw_scratch_take(t, chunk * V * rw_dtype_bytes(hidden->dtype), &logits_block);
    if (record && hidden->requires_grad) {
        dh_block = rw_block_take(t, hidden->room * rw_dtype_bytes(hidden->dtype), &p.dhidden);
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
