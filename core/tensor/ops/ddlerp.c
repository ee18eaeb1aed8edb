/* ddlerp: mixes that depend on the token (x060). */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { DL_XN, DL_SHIFT, DL_H, DL_W2, DL_MU, DL_IN = DL_MU + RW_DDLERP_MIX };

static void ddlerp_backward(rw_tape *t, rw_node *n) {
    rw_ddlerp_args a = *(const rw_ddlerp_args *)n->args;
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        a.dout[i] = rw_grad_of(n->out[i]);
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
    rw_op_forget(out, RW_DDLERP_MIX);
    if (!rw_op_check(t, "ddlerp", "xn", xn, -1) || !rw_op_check(t, "ddlerp", "h", h, -1) ||
        !rw_op_check_rows(t, "ddlerp", rows, xn))
        return;
    int64_t C = rw_last_dim(xn), R = rows.n_rows, rank = rw_last_dim(h) / RW_DDLERP_MIX;
    if (!rw_op_check(t, "ddlerp", "h", h, R * rank * RW_DDLERP_MIX) ||
        !rw_op_check(t, "ddlerp", "w2", w2, RW_DDLERP_MIX * rank * C) ||
        !rw_op_check_opt(t, "ddlerp", "shift_in", shift_in, -1))
        return;
    rw_ddlerp_args a = {.dtype = xn->dtype, .R = R, .C = C, .rank = rank, .n_seq = rows.n_seq, .xn = xn->data};
    a.cu_seqlens = rows.cu_seqlens;
    a.shift_in = rw_data_of(shift_in);
    a.shift_in_stride = rw_op_state_stride(t, "ddlerp", shift_in, rows.n_seq, C);
    a.h = a.tanh_h = h->data;
    a.w2 = w2->data;
    rw_tensor *in[DL_IN] = {xn, shift_in, h, w2};
    for (int i = 0; i < RW_DDLERP_MIX; i++)
        if (!rw_op_check(t, "ddlerp", "mu", mu[i], C)) return;
    for (int i = 0; i < RW_DDLERP_MIX; i++) {
        in[DL_MU + i] = mu[i];
        a.mu[i] = mu[i]->data;
        out[i] = rw_op_matrix(t, R, C);
        a.out[i] = rw_data_of(out[i]);
    }
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->ddlerp_forward_scratch(&a, EXEC(t)), &b);
    if (rw_tape_failed(t))
        rw_op_forget(out, RW_DDLERP_MIX);
    else
        KERN(t)->ddlerp_forward(&a, EXEC(t));
    rw_block_release(t, b);
    rw_node *n = rw_node_new(t, ddlerp_backward, in, LEN(in), out, RW_DDLERP_MIX, ~0u, 0);
    rw_node_args(t, n, &a, sizeof a);
}
