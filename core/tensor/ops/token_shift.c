/* token_shift: layer norm and the mixes with the token before. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

/* inputs: x gamma beta shift_in mu[6]; outputs: out[6] xn shift_out */
enum { TS_X, TS_GAMMA, TS_BETA, TS_SHIFT, TS_MU, TS_IN = TS_MU + RW_MAX_MIX };
enum { TS_XN = RW_MAX_MIX, TS_SHIFT_OUT, TS_OUT };

static void token_shift_backward(rw_tape *t, rw_node *n) {
    rw_token_shift_args a = *(const rw_token_shift_args *)n->args;
    for (int i = 0; i < a.n_mix; i++) {
        a.dout[i] = rw_grad_of(n->out[i]);
        a.dmu[i] = rw_grad_into(t, n->in[TS_MU + i], (uint32_t)RW_TOKEN_SHIFT_ADD_MU << i, &a.add);
    }
    a.dxn = rw_grad_of(n->out[TS_XN]);
    a.dshift_out = rw_grad_of(n->out[TS_SHIFT_OUT]);
    a.dx = rw_grad_into(t, n->in[TS_X], RW_TOKEN_SHIFT_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[TS_GAMMA], RW_TOKEN_SHIFT_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[TS_BETA], RW_TOKEN_SHIFT_ADD_BETA, &a.add);
    a.dshift_in = rw_grad_into(t, n->in[TS_SHIFT], RW_TOKEN_SHIFT_ADD_SHIFT_IN, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->token_shift_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->token_shift_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

static bool token_shift_check(rw_tape *t, const rw_token_shift_in *in, int64_t C) {
    bool ok =
        rw_op_check(t, "token_shift", "gamma", in->gamma, C) && rw_op_check(t, "token_shift", "beta", in->beta, C);
    for (int i = 0; ok && i < in->n_mix; i++) ok = rw_op_check(t, "token_shift", "mu", in->mu[i], C);
    return ok && rw_op_check_opt(t, "token_shift", "shift_in", in->shift_in, -1) &&
           rw_op_check_rows(t, "token_shift", in->rows, in->x);
}

void rw_token_shift(rw_tape *t, const rw_token_shift_in *p, rw_tensor **out, rw_tensor **xn, rw_tensor **shift_out) {
    rw_op_forget(out, p->n_mix);
    if (xn) *xn = NULL;
    if (shift_out) *shift_out = NULL;
    if (!rw_op_check(t, "token_shift", "x", p->x, -1) || !token_shift_check(t, p, rw_last_dim(p->x))) return;
    int64_t C = rw_last_dim(p->x), R = p->rows.n_rows, each = R * rw_dtype_bytes(p->x->dtype);
    rw_token_shift_args a = {.dtype = p->x->dtype, .R = R, .C = C, .n_seq = p->rows.n_seq, .n_mix = p->n_mix};
    a.cu_seqlens = p->rows.cu_seqlens;
    a.times_current = p->times_current;
    a.x = p->x->data;
    a.gamma = p->gamma->data;
    a.beta = p->beta->data;
    a.eps = p->eps;
    a.shift_in = rw_data_of(p->shift_in);
    a.shift_in_stride = rw_op_state_stride(t, "token_shift", p->shift_in, p->rows.n_seq, C);

    rw_tensor *in[TS_IN] = {p->x, p->gamma, p->beta, p->shift_in}, *outs[TS_OUT] = {NULL};
    for (int i = 0; i < p->n_mix; i++) {
        in[TS_MU + i] = p->mu[i];
        a.mu[i] = p->mu[i]->data;
        outs[i] = out[i] = rw_op_matrix(t, R, C);
        a.out[i] = rw_data_of(out[i]);
    }
    if (xn) outs[TS_XN] = *xn = rw_op_matrix(t, R, C);
    if (shift_out)
        outs[TS_SHIFT_OUT] = *shift_out =
            rw_op_state_out(t, "token_shift", p->shift_to, 2, (int64_t[]){p->rows.n_seq, C});
    a.xn = rw_data_of(outs[TS_XN]);
    a.shift_out = rw_data_of(outs[TS_SHIFT_OUT]);
    rw_op_saved stat = rw_op_save(t, 2 * each, rw_op_records(t, in, LEN(in)));
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    if (rw_tape_failed(t)) {
        rw_op_forget(out, p->n_mix);
        if (xn) *xn = NULL;
        if (shift_out) *shift_out = NULL;
        return;
    }
    KERN(t)->token_shift_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, token_shift_backward, in, LEN(in), outs, LEN(outs), ~0u, 0);
    if (!n) return;
    rw_node_args(t, n, &a, sizeof a);
    n->kept[0] = stat.block;
}
