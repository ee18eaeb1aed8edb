/* linear_group: several products of the same sizes as one batched call, forward, for the factors' gradients and for the
 * weights' gradients.
 *
 * A device with many processors is badly filled by a small product alone. The batch needs factors and results at
 * constant strides: slabs (rw_tape_slab()), and weights that the layout placed side by side. What does not lie so is
 * done in single calls, with the same bits. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

/* One factor or result of each product of a group. */
typedef struct {
    void *at[RW_GROUP_MAX];
    int64_t n_bytes; /* of each */
} operands;

/* Elements from each to the next. False: not constant, one is missing, or (apart) they overlap. */
static bool one_stride(const operands *p, int n, rw_dtype dtype, bool apart, int64_t *elements) {
    int64_t d = (char *)p->at[1] - (char *)p->at[0];
    for (int i = 0; i < n; i++)
        if (!p->at[i] || (char *)p->at[i] - (char *)p->at[0] != i * d) return false;
    *elements = d / rw_dtype_bytes(dtype);
    return d >= (apart ? p->n_bytes : 0);
}

/* n products of the same sizes: one call where everything lies at constant strides, else one call each. add: bit i: to
 * what is at out i already. */
static void products(rw_tape *t, rw_matmul_args g, int n, const operands *a, const operands *b, const operands *out,
                     uint32_t add) {
    rw_dtype out_dtype = g.out_dtype ? g.out_dtype : g.dtype;
    bool same_add = add == 0 || add == (1u << n) - 1;
    if (n > 1 && same_add && one_stride(a, n, g.dtype, false, &g.stride_a) &&
        one_stride(b, n, g.dtype, false, &g.stride_b) && one_stride(out, n, out_dtype, true, &g.stride_o)) {
        g.batch = n;
        g.a = a->at[0];
        g.b = b->at[0];
        g.out = out->at[0];
        g.c = add ? g.out : NULL;
        g.stride_c = g.stride_o;
        KERN(t)->matmul(&g, EXEC(t));
        return;
    }
    g.stride_a = g.stride_b = g.stride_o = 0;
    for (int i = 0; i < n; i++) {
        if (!out->at[i]) continue;
        g.a = a->at[i];
        g.b = b->at[i];
        g.out = out->at[i];
        g.c = add >> i & 1 ? g.out : NULL;
        KERN(t)->matmul(&g, EXEC(t));
    }
}

static operands data_of(rw_tensor *const *x, int n) {
    operands p = {.n_bytes = rw_tensor_bytes(x[0])};
    for (int i = 0; i < n; i++) p.at[i] = x[i]->data;
    return p;
}

/* Gradients of x to be written, those whose product has one coming in. */
static operands grads_into(rw_tape *t, rw_tensor *const *x, int n, const operands *dout, uint32_t *add) {
    operands p = {.n_bytes = rw_tensor_count(x[0]) * rw_dtype_bytes(rw_grad_dtype(x[0]))};
    for (int i = 0; i < n; i++)
        if (dout->at[i]) p.at[i] = rw_grad_into(t, x[i], 1u << i, add);
    return p;
}

static void group_backward(rw_tape *t, rw_node *node) {
    const rw_matmul_args *f = node->args;
    int n = node->n_out;
    rw_tensor *const *x = node->in, *const *w = node->in + n;
    operands dout = {.n_bytes = rw_tensor_bytes(node->out[0])}, xs = data_of(x, n), ws = data_of(w, n);
    for (int i = 0; i < n; i++) dout.at[i] = node->out[i]->grad;
    uint32_t add = 0;
    operands dx = grads_into(t, x, n, &dout, &add);
    rw_matmul_args g = {.dtype = f->dtype, .M = f->M, .N = f->K, .K = f->N, .trans_b = !f->trans_b};
    if (!rw_tape_failed(t)) products(t, g, n, &dout, &ws, &dx, add);
    add = 0;
    operands dw = grads_into(t, w, n, &dout, &add);
    g = (rw_matmul_args){.dtype = f->dtype, .out_dtype = rw_grad_dtype(w[0]), .K = f->M, .trans_a = true};
    g.M = f->trans_b ? f->N : f->K;
    g.N = f->trans_b ? f->K : f->N;
    if (!rw_tape_failed(t)) products(t, g, n, f->trans_b ? &dout : &xs, f->trans_b ? &xs : &dout, &dw, add);
}

static bool group_fits(rw_tape *t, int n, rw_tensor *const *x, rw_tensor *const *w, bool trans_w) {
    if (n < 1 || n > RW_GROUP_MAX) {
        rw_tape_fail(t, RW_E_SHAPE, "linear_group: %d products, expected 1 to %d", n, RW_GROUP_MAX);
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (!rw_product_fits(t, x[i], w[i], trans_w)) return false;
        if (!rw_op_narrow(t, "linear_group", "x", x[i], rw_tensor_count(x[0])) ||
            !rw_op_narrow(t, "linear_group", "w", w[i], rw_tensor_count(w[0])))
            return false;
    }
    return true;
}

void rw_linear_group(rw_tape *t, int n, rw_tensor *const *x, rw_tensor *const *w, bool trans_w, rw_tensor **y) {
    rw_op_forget(y, n);
    if (!group_fits(t, n, x, w, trans_w)) return;
    rw_matmul_args sizes = rw_product_sizes(x[0], w[0], trans_w);
    rw_tensor *made[RW_GROUP_MAX], *in[2 * RW_GROUP_MAX];
    if (!rw_tape_slab(t, n, NULL, x[0], sizes.N, made)) return;
    uint32_t keep = 0;
    for (int i = 0; i < n; i++) {
        in[i] = x[i];
        in[n + i] = w[i];
        y[i] = made[i];
        keep |= (w[i]->requires_grad ? KEEP(i) : 0) | (x[i]->requires_grad ? KEEP(n + i) : 0);
    }
    operands xs = data_of(x, n), ws = data_of(w, n), ys = data_of(made, n);
    products(t, sizes, n, &xs, &ws, &ys, 0);
    rw_node *node = rw_node_new(t, group_backward, in, 2 * n, made, n, keep, 0);
    rw_node_args(t, node, &sizes, sizeof sizes);
}
