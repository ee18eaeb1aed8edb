/* ddlerp: mixes that depend on the token (x060). */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { DL_XN, DL_SHIFT, DL_H, DL_W2, DL_MU, DL_IN = DL_MU + RW_DDLERP_MIX };

/* In memory the outputs of k, v, r, g lie in the order r k v g, as the weights that they meet do. */
static const int place[RW_DDLERP_MIX - 1] = {1, 2, 0, 3};

/* The largest pass, for the queries. */
static rw_ddlerp_args largest(rw_tape *t, rw_ddlerp_args a, rw_tensor *const *in) {
    a.R = rw_room_rows(in[DL_XN]);
    a.n_seq = rw_most_seq(t, a.n_seq);
    return a;
}

static void point(rw_ddlerp_args *a, rw_tensor *const *in, rw_tensor *const *out) {
    a->xn = in[DL_XN]->data;
    a->shift_in = rw_data_of(in[DL_SHIFT]);
    a->h = a->tanh_h = in[DL_H]->data;
    a->w2 = in[DL_W2]->data;
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        a->mu[i] = in[DL_MU + i]->data;
        a->out[i] = rw_data_of(out[i]);
    }
}

static void run_forward(rw_tape *t, rw_ddlerp_args *a, rw_tensor *const *in) {
    rw_ddlerp_args most = largest(t, *a, in);
    int32_t b;
    a->scratch = rw_scratch_take(t, KERN(t)->ddlerp_forward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->ddlerp_forward(a, EXEC(t));
    rw_share_release(t, b);
}

/* h holds its tanh already. */
static void ddlerp_again(rw_tape *t, rw_node *n, void *const *to) {
    rw_ddlerp_args a = *(const rw_ddlerp_args *)n->args;
    point(&a, n->in, n->out);
    a.h = NULL;
    for (int i = 0; i < RW_DDLERP_MIX; i++) a.out[i] = to[i];
    run_forward(t, &a, n->in);
}

static void ddlerp_backward(rw_tape *t, rw_node *n) {
    rw_ddlerp_args a = *(const rw_ddlerp_args *)n->args;
    point(&a, n->in, n->out);
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        a.dout[i] = rw_grad_of(n->out[i]);
        a.dmu[i] = rw_grad_into(t, n->in[DL_MU + i], (uint32_t)RW_DDLERP_ADD_MU << i, &a.add);
    }
    a.dxn = rw_grad_into(t, n->in[DL_XN], RW_DDLERP_ADD_XN, &a.add);
    a.dshift_in = rw_grad_into(t, n->in[DL_SHIFT], RW_DDLERP_ADD_SHIFT_IN, &a.add);
    a.dh = rw_grad_into(t, n->in[DL_H], RW_DDLERP_ADD_H, &a.add);
    a.dw2_dtype = rw_grad_dtype(n->in[DL_W2]);
    a.dw2 = rw_grad_into(t, n->in[DL_W2], RW_DDLERP_ADD_W2, &a.add);
    rw_ddlerp_args most = largest(t, a, n->in);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->ddlerp_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->ddlerp_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

static bool ddlerp_check(rw_tape *t, rw_rows rows, rw_tensor *const *in) {
    if (!rw_op_narrow(t, "ddlerp", "xn", in[DL_XN], -1) || !rw_op_narrow(t, "ddlerp", "h", in[DL_H], -1) ||
        !rw_op_check_rows(t, "ddlerp", rows, in[DL_XN]))
        return false;
    int64_t C = rw_last_dim(in[DL_XN]), R = rows.n_rows, rank = rw_last_dim(in[DL_H]) / RW_DDLERP_MIX;
    bool ok = rw_op_narrow(t, "ddlerp", "h", in[DL_H], R * rank * RW_DDLERP_MIX) &&
              rw_op_narrow(t, "ddlerp", "w2", in[DL_W2], RW_DDLERP_MIX * rank * C) &&
              rw_op_wide_opt(t, "ddlerp", "shift_in", in[DL_SHIFT], -1);
    for (int i = 0; ok && i < RW_DDLERP_MIX; i++) ok = rw_op_wide(t, "ddlerp", "mu", in[DL_MU + i], C);
    return ok;
}

void rw_ddlerp(rw_tape *t, rw_rows rows, rw_tensor *xn, rw_tensor *shift_in, rw_tensor *h, rw_tensor *w2,
               rw_tensor *const mu[RW_DDLERP_MIX], rw_tensor *out[RW_DDLERP_MIX]) {
    rw_op_forget(out, RW_DDLERP_MIX);
    rw_tensor *in[DL_IN] = {xn, shift_in, h, w2};
    for (int i = 0; i < RW_DDLERP_MIX; i++) in[DL_MU + i] = mu[i];
    if (!ddlerp_check(t, rows, in)) return;
    int64_t C = rw_last_dim(xn), rank = rw_last_dim(h) / RW_DDLERP_MIX;
    rw_ddlerp_args sizes = {.dtype = xn->dtype, .R = rows.n_rows, .C = C, .rank = rank, .n_seq = rows.n_seq};
    sizes.cu_seqlens = rows.cu_seqlens;
    sizes.shift_in_stride = rw_op_state_stride(t, "ddlerp", shift_in, rows, C);
    out[0] = rw_op_matrix(t, xn, C);
    rw_tape_slab(t, LEN(place), place, xn, C, out + 1);
    rw_ddlerp_args a = sizes;
    point(&a, in, out);
    run_forward(t, &a, in);
    if (rw_tape_failed(t)) {
        rw_op_forget(out, RW_DDLERP_MIX);
        return;
    }
    rw_node *n = rw_node_new(t, ddlerp_backward, in, LEN(in), out, RW_DDLERP_MIX, ~0u, 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    rw_node_again(n, ddlerp_again);
    for (int i = 0; i < RW_DDLERP_MIX; i++) rw_tape_forget(t, out[i], RW_FORGET_MIX);
}
