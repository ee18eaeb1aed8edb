/* matmul: the product, and both factors' gradients as two more products. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { MM_A, MM_B, MM_C };

/* da = dout b (or b^T);  db = dout^T a (or a^T dout);  dc = dout */
static void matmul_backward(rw_tape *t, rw_node *n) {
    const rw_matmul_args *f = n->args;
    const void *a = n->in[MM_A]->data, *b = n->in[MM_B]->data;
    rw_tensor *y = n->out[0];
    uint32_t add = 0;
    void *da = rw_grad_into(t, n->in[MM_A], 1, &add);
    if (da) {
        rw_matmul_args g = {.dtype = f->dtype, .M = f->M, .N = f->K, .K = f->N, .a = y->grad, .b = b, .out = da};
        g.trans_b = !f->trans_b;
        g.c = add & 1 ? da : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
    void *db = rw_grad_into(t, n->in[MM_B], 2, &add);
    if (db) {
        rw_matmul_args g = {.dtype = f->dtype, .K = f->M, .trans_a = true, .out = db, .c = add & 2 ? db : NULL};
        g.M = f->trans_b ? f->N : f->K;
        g.N = f->trans_b ? f->K : f->N;
        g.a = f->trans_b ? y->grad : a;
        g.b = f->trans_b ? a : y->grad;
        KERN(t)->matmul(&g, EXEC(t));
    }
    rw_grad_move(t, n->in[MM_C], y);
}

rw_tensor *rw_matmul(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_tensor *c) {
    if (!rw_op_narrow(t, "matmul", "a", a, -1) || !rw_op_narrow(t, "matmul", "b", b, -1)) return NULL;
    int64_t M = rw_rows_of(a), K = rw_last_dim(a), N = trans_b ? rw_rows_of(b) : rw_last_dim(b);
    int64_t b_inner = trans_b ? rw_last_dim(b) : rw_rows_of(b);
    if (b_inner != K) {
        char sa[RW_SHAPE_TEXT], sb[RW_SHAPE_TEXT];
        rw_tape_fail(t, RW_E_SHAPE, "matmul: shape %s does not fit %s%s", rw_shape_text(a, sa), rw_shape_text(b, sb),
                     trans_b ? " transposed" : "");
        return NULL;
    }
    if (!rw_op_narrow_opt(t, "matmul", "c", c, M * N)) return NULL;
    rw_tensor *y = rw_op_matrix(t, a, N), *in[] = {a, b, c};
    if (!y) return NULL;
    rw_matmul_args sizes = {.dtype = y->dtype, .M = M, .N = N, .K = K, .trans_b = trans_b}, args = sizes;
    args.a = a->data;
    args.b = b->data;
    args.c = rw_data_of(c);
    args.out = y->data;
    KERN(t)->matmul(&args, EXEC(t));
    rw_node *n = rw_node_new(t, matmul_backward, in, LEN(in), &y, 1, KEEP(MM_A) | KEEP(MM_B), 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    return y;
}
