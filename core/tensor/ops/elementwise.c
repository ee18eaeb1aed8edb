/* unary and binary: plain elementwise ops. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

static void unary_backward(rw_tape *t, rw_node *n) {
    rw_unary_args a = *(const rw_unary_args *)n->args;
    uint32_t add = 0;
    a.x = n->in[0]->data;
    a.out = n->out[0]->data;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], 1, &add);
    a.add = add;
    if (a.dx) KERN(t)->unary_backward(&a, EXEC(t));
}

rw_tensor *rw_unary(rw_tape *t, rw_unary_op op, rw_tensor *x, double alpha) {
    if (!rw_op_either(t, "unary", "x", x)) return NULL;
    rw_tensor *y = rw_op_like(t, x);
    if (!y) return NULL;
    rw_unary_args sizes = {.dtype = x->dtype, .op = op, .n = rw_tensor_count(x), .alpha = alpha}, a = sizes;
    a.x = x->data;
    a.out = y->data;
    KERN(t)->unary_forward(&a, EXEC(t));
    bool reads_x = rw_unary_reads_x(op);
    rw_node *n = rw_node_new(t, unary_backward, &x, 1, &y, 1, reads_x ? KEEP(0) : 0, reads_x ? 0 : KEEP(0));
    rw_node_args(t, n, &sizes, sizeof sizes);
    return y;
}

static void binary_backward(rw_tape *t, rw_node *n) {
    rw_binary_args a = *(const rw_binary_args *)n->args;
    a.a = n->in[0]->data;
    a.b = n->in[1]->data;
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
    if (!rw_op_either(t, "binary", "a", a) || !rw_op_typed(t, "binary", "b", b, a->dtype, -1)) return NULL;
    int64_t na = rw_tensor_count(a), nb = rw_tensor_count(b);
    if (!repeats_in(b, a)) {
        char sa[RW_SHAPE_TEXT], sb[RW_SHAPE_TEXT];
        rw_tape_fail(t, RW_E_SHAPE, "binary: shape %s does not match %s", rw_shape_text(a, sa), rw_shape_text(b, sb));
        return NULL;
    }
    rw_tensor *y = rw_op_like(t, a), *in[] = {a, b};
    if (!y) return NULL;
    rw_binary_args sizes = {.dtype = a->dtype, .op = op, .n = na, .period = nb == na ? 0 : nb}, args = sizes;
    args.a = a->data;
    args.b = b->data;
    args.out = y->data;
    KERN(t)->binary_forward(&args, EXEC(t));
    rw_node *n = rw_node_new(t, binary_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    return y;
}
