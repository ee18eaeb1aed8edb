/* relu_sq and rgate: the elementwise parts of the channel mix. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

static void relu_sq_backward(rw_tape *t, rw_node *n) {
    rw_relu_sq_args a = *(const rw_relu_sq_args *)n->args;
    uint32_t add = 0;
    a.out = n->out[0]->data;
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
    if (!rw_op_narrow(t, "relu_sq", "x", x, -1)) return NULL;
    rw_share_retain(t, x->share);
    rw_tensor *y = rw_tensor_over(t, x->dtype, x->ndim, x->shape, x->share, x->data);
    if (!y) return NULL;
    y->room = x->room;
    rw_relu_sq_args sizes = {.dtype = x->dtype, .n = rw_tensor_count(x)}, a = sizes;
    a.x = x->data;
    a.out = y->data;
    KERN(t)->relu_sq_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, relu_sq_backward, &x, 1, &y, 1, 0, KEEP(0));
    rw_node_args(t, n, &sizes, sizeof sizes);
    return y;
}

enum { RG_Q, RG_P, RG_RES };

static void rgate_backward(rw_tape *t, rw_node *n) {
    rw_rgate_args a = *(const rw_rgate_args *)n->args;
    a.q = n->in[RG_Q]->data;
    a.p = n->in[RG_P]->data;
    a.dout = n->out[0]->grad;
    a.dq = rw_grad_into(t, n->in[RG_Q], RW_RGATE_ADD_Q, &a.add);
    a.dp = rw_grad_into(t, n->in[RG_P], RW_RGATE_ADD_P, &a.add);
    if (!rw_tape_failed(t)) KERN(t)->rgate_backward(&a, EXEC(t));
    rw_grad_move(t, n->in[RG_RES], n->out[0]);
}

rw_tensor *rw_rgate(rw_tape *t, rw_tensor *q, rw_tensor *p, rw_tensor *residual) {
    if (!rw_op_narrow(t, "rgate", "q", q, -1)) return NULL;
    int64_t n_elems = rw_tensor_count(q);
    if (!rw_op_narrow(t, "rgate", "p", p, n_elems) || !rw_op_narrow_opt(t, "rgate", "residual", residual, n_elems))
        return NULL;
    rw_tensor *y = rw_op_like(t, q), *in[] = {q, p, residual};
    if (!y) return NULL;
    rw_rgate_args sizes = {.dtype = q->dtype, .n = n_elems}, a = sizes;
    a.q = q->data;
    a.p = p->data;
    a.residual = rw_data_of(residual);
    a.out = y->data;
    KERN(t)->rgate_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, rgate_backward, in, LEN(in), &y, 1, KEEP(RG_Q) | KEEP(RG_P), 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    return y;
}
