/* matmul: the product with its activation, and both factors' gradients as two more products.
 *
 * The slope of an activation costs a pass over its gradient. When the only op that used the activation is a product,
 * the product that makes this gradient multiplies by the slope itself, and the pass is not needed. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { MM_A, MM_B, MM_C, MM_IN };

/* -- backward ----------------------------------------------------------------------------------------- */

/* y->grad becomes the gradient of what the activation got. */
static void through_activation(rw_tape *t, rw_tensor *y) {
    rw_relu_sq_args relu = {.dtype = y->dtype, .n = rw_tensor_count(y), .out = y->data, .dout = y->grad, .dx = y->grad};
    rw_unary_args other = {.dtype = y->dtype, .n = relu.n, .out = y->data, .dout = y->grad, .dx = y->grad};
    if (y->activation == RW_EPILOGUE_NONE || y->grad_inside) return;
    if (y->activation == RW_EPILOGUE_RELU_SQ) {
        KERN(t)->relu_sq_backward(&relu, EXEC(t));
        return;
    }
    other.op = y->activation == RW_EPILOGUE_TANH ? RW_UNARY_TANH : RW_UNARY_SIGMOID;
    KERN(t)->unary_backward(&other, EXEC(t));
}

/* da = dout b, or dout b^T; through a's own activation when nobody else used a. */
static void factor_a(rw_tape *t, const rw_matmul_args *f, const void *dout, rw_tensor *a, const rw_tensor *b) {
    bool inside = a->activation != RW_EPILOGUE_NONE && a->n_uses == 1 && !a->grad;
    uint32_t add = 0;
    rw_matmul_args g = {.dtype = f->dtype, .M = f->M, .N = f->K, .K = f->N, .a = dout, .trans_b = !f->trans_b};
    g.out = rw_grad_into(t, a, 1, &add);
    if (!g.out) return;
    g.b = b->data;
    g.c = add ? g.out : NULL;
    if (inside) {
        g.epilogue = rw_epilogue_slope(a->activation);
        g.act = a->data;
        a->grad_inside = true;
    }
    KERN(t)->matmul(&g, EXEC(t));
}

/* db = dout^T a, or a^T dout */
static void factor_b(rw_tape *t, const rw_matmul_args *f, const void *dout, const rw_tensor *a, rw_tensor *b) {
    uint32_t add = 0;
    rw_matmul_args g = {.dtype = f->dtype, .out_dtype = rw_grad_dtype(b), .K = f->M, .trans_a = true};
    g.out = rw_grad_into(t, b, 1, &add);
    if (!g.out) return;
    g.c = add ? g.out : NULL;
    g.M = f->trans_b ? f->N : f->K;
    g.N = f->trans_b ? f->K : f->N;
    g.a = f->trans_b ? dout : a->data;
    g.b = f->trans_b ? a->data : dout;
    KERN(t)->matmul(&g, EXEC(t));
}

static void matmul_backward(rw_tape *t, rw_node *n) {
    const rw_matmul_args *f = n->args;
    rw_tensor *y = n->out[0];
    through_activation(t, y);
    factor_a(t, f, y->grad, n->in[MM_A], n->in[MM_B]);
    factor_b(t, f, y->grad, n->in[MM_A], n->in[MM_B]);
    rw_grad_move(t, n->in[MM_C], y);
}

/* -- forward ------------------------------------------------------------------------------------------ */

bool rw_product_fits(rw_tape *t, const rw_tensor *a, const rw_tensor *b, bool trans_b) {
    char sa[RW_SHAPE_TEXT], sb[RW_SHAPE_TEXT];
    if (!rw_op_narrow(t, "matmul", "a", a, -1) || !rw_op_narrow(t, "matmul", "b", b, -1)) return false;
    if (rw_last_dim(a) == (trans_b ? rw_last_dim(b) : rw_rows_of(b))) return true;
    rw_tape_fail(t, RW_E_SHAPE, "matmul: shape %s does not fit %s%s", rw_shape_text(a, sa), rw_shape_text(b, sb),
                 trans_b ? " transposed" : "");
    return false;
}

rw_matmul_args rw_product_sizes(const rw_tensor *a, const rw_tensor *b, bool trans_b) {
    rw_matmul_args s = {.dtype = a->dtype, .M = rw_rows_of(a), .K = rw_last_dim(a), .trans_b = trans_b};
    s.N = trans_b ? rw_rows_of(b) : rw_last_dim(b);
    return s;
}

static void run(rw_tape *t, rw_matmul_args args, rw_tensor *const *in, void *out) {
    args.a = in[MM_A]->data;
    args.b = in[MM_B]->data;
    args.c = rw_data_of(in[MM_C]);
    args.out = out;
    KERN(t)->matmul(&args, EXEC(t));
}

static void matmul_again(rw_tape *t, rw_node *n, void *const *to) {
    run(t, *(const rw_matmul_args *)n->args, n->in, to[0]);
}

static rw_tensor *product(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_tensor *c, rw_epilogue act) {
    if (!rw_product_fits(t, a, b, trans_b)) return NULL;
    rw_matmul_args sizes = rw_product_sizes(a, b, trans_b);
    sizes.epilogue = act;
    if (!rw_op_narrow_opt(t, "matmul", "c", c, sizes.M * sizes.N)) return NULL;
    rw_tensor *y = rw_op_matrix(t, a, sizes.N), *in[MM_IN] = {a, b, c};
    if (!y) return NULL;
    y->activation = act;
    run(t, sizes, in, y->data);
    bool reads_a = b->requires_grad || a->activation != RW_EPILOGUE_NONE, reads_b = a->requires_grad;
    uint32_t keep_in = (reads_a ? KEEP(MM_A) : 0) | (reads_b ? KEEP(MM_B) : 0);
    rw_node *n = rw_node_new(t, matmul_backward, in, MM_IN, &y, 1, keep_in, act == RW_EPILOGUE_NONE ? 0 : KEEP(0));
    rw_node_args(t, n, &sizes, sizeof sizes);
    if (!c && (reads_a || a->share < 0) && (reads_b || b->share < 0)) rw_node_again(n, matmul_again);
    return y;
}

rw_tensor *rw_matmul(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_tensor *c) {
    return product(t, a, b, trans_b, c, RW_EPILOGUE_NONE);
}

rw_tensor *rw_matmul_act(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_epilogue act) {
    if (act < RW_EPILOGUE_D_RELU_SQ) return product(t, a, b, trans_b, NULL, act);
    rw_tape_fail(t, RW_E_SHAPE, "matmul: %d is no activation", (int)act);
    return NULL;
}

/* -- wide --------------------------------------------------------------------------------------------- */

rw_tensor *rw_matmul_wide(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b) {
    if (!rw_product_fits(t, a, b, trans_b)) return NULL;
    rw_matmul_args sizes = rw_product_sizes(a, b, trans_b);
    rw_tensor *in[MM_IN] = {a, b};
    if (rw_op_records(t, in, MM_IN)) {
        rw_tape_fail(t, RW_E_SHAPE, "matmul: a wide product has no backward pass");
        return NULL;
    }
    sizes.out_dtype = rw_wide(sizes.dtype);
    rw_tensor *y = rw_tape_tensor(t, sizes.out_dtype, 2, (int64_t[]){sizes.M, sizes.N}, rw_room_rows(a) * sizes.N);
    if (y) run(t, sizes, in, y->data);
    return y;
}
