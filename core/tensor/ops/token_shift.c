/* token_shift: layer norm and the mixes with the token before. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

/* inputs: x gamma beta shift_in mu[6]; outputs: out[6] xn shift_out */
enum { TS_X, TS_GAMMA, TS_BETA, TS_SHIFT, TS_MU, TS_IN = TS_MU + RW_MAX_MIX };
enum { TS_XN = RW_MAX_MIX, TS_SHIFT_OUT, TS_OUT };

static void point(rw_token_shift_args *a, rw_tensor *const *in, rw_tensor *const *out, const rw_op_saved *stats) {
    a->x = in[TS_X]->data;
    a->gamma = in[TS_GAMMA]->data;
    a->beta = in[TS_BETA]->data;
    a->shift_in = rw_data_of(in[TS_SHIFT]);
    for (int i = 0; i < a->n_mix; i++) {
        a->mu[i] = in[TS_MU + i]->data;
        a->out[i] = rw_data_of(out[i]);
    }
    a->xn = rw_data_of(out[TS_XN]);
    a->shift_out = rw_data_of(out[TS_SHIFT_OUT]);
    rw_op_stats(stats, in[TS_X], 1, &a->mean, &a->rstd);
}

static void token_shift_backward(rw_tape *t, rw_node *n) {
    rw_token_shift_args a = *(const rw_token_shift_args *)n->args;
    rw_op_saved stats = rw_op_kept(t, n, 0);
    point(&a, n->in, n->out, &stats);
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
    rw_token_shift_args most = a;
    most.R = rw_room_rows(n->in[TS_X]);
    most.n_seq = rw_most_seq(t, a.n_seq);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->token_shift_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->token_shift_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

/* Mean and deviation are there already. */
static void token_shift_again(rw_tape *t, rw_node *n, void *const *to) {
    rw_token_shift_args a = *(const rw_token_shift_args *)n->args;
    point(&a, n->in, n->out, &(rw_op_saved){-1, NULL});
    for (int i = 0; i < a.n_mix; i++) a.out[i] = to[i];
    a.xn = to[TS_XN];
    a.shift_out = to[TS_SHIFT_OUT];
    KERN(t)->token_shift_forward(&a, EXEC(t));
}

static bool token_shift_check(rw_tape *t, const rw_token_shift_in *in, int64_t C) {
    bool ok = rw_op_wide(t, "token_shift", "gamma", in->gamma, C) && rw_op_wide(t, "token_shift", "beta", in->beta, C);
    for (int i = 0; ok && i < in->n_mix; i++) ok = rw_op_wide(t, "token_shift", "mu", in->mu[i], C);
    return ok && rw_op_wide_opt(t, "token_shift", "shift_in", in->shift_in, -1) &&
           rw_op_check_rows(t, "token_shift", in->rows, in->x);
}

/* What the caller asked for; NULL where it did not, and all of it after an error. */
static void hand_out(const rw_token_shift_in *p, rw_tensor *const *made, rw_tensor **out, rw_tensor **xn,
                     rw_tensor **shift_out) {
    for (int i = 0; i < p->n_mix; i++) out[i] = made[i];
    if (xn) *xn = made[TS_XN];
    if (shift_out) *shift_out = made[TS_SHIFT_OUT];
}

static void make_outputs(rw_tape *t, const rw_token_shift_in *p, bool xn, bool shift_out, rw_tensor **made) {
    int64_t C = rw_last_dim(p->x);
    int first = p->n_slab > 1 && rw_tape_slab(t, p->n_slab, NULL, p->x, C, made) ? p->n_slab : 0;
    for (int i = first; i < p->n_mix; i++) made[i] = rw_op_matrix(t, p->x, C);
    if (xn) made[TS_XN] = rw_op_matrix(t, p->x, C);
    if (shift_out) made[TS_SHIFT_OUT] = rw_op_state_out(t, "token_shift", p->shift_to, p->rows, 1, &C);
}

void rw_token_shift(rw_tape *t, const rw_token_shift_in *p, rw_tensor **out, rw_tensor **xn, rw_tensor **shift_out) {
    rw_tensor *in[TS_IN] = {p->x, p->gamma, p->beta, p->shift_in}, *made[TS_OUT] = {NULL};
    hand_out(p, made, out, xn, shift_out);
    if (!rw_op_narrow(t, "token_shift", "x", p->x, -1) || !token_shift_check(t, p, rw_last_dim(p->x))) return;
    int64_t C = rw_last_dim(p->x);
    rw_token_shift_args sizes = {.dtype = p->x->dtype, .R = p->rows.n_rows, .C = C, .n_seq = p->rows.n_seq};
    sizes.n_mix = p->n_mix;
    sizes.cu_seqlens = p->rows.cu_seqlens;
    sizes.times_current = p->times_current;
    sizes.eps = p->eps;
    sizes.shift_in_stride = rw_op_state_stride(t, "token_shift", p->shift_in, p->rows, C);
    for (int i = 0; i < p->n_mix; i++) in[TS_MU + i] = p->mu[i];
    make_outputs(t, p, xn != NULL, shift_out != NULL, made);
    rw_op_saved stats = rw_op_save_stats(t, p->x, 1, rw_op_records(t, in, LEN(in)));
    if (rw_tape_failed(t)) return;
    rw_token_shift_args a = sizes;
    point(&a, in, made, &stats);
    KERN(t)->token_shift_forward(&a, EXEC(t));
    hand_out(p, made, out, xn, shift_out);
    rw_node *n = rw_node_new(t, token_shift_backward, in, LEN(in), made, LEN(made), ~0u, 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    rw_op_keep(n, 0, stats);
    rw_node_again(n, token_shift_again);
    for (int i = 0; i < p->n_mix; i++) rw_tape_forget(t, made[i], RW_FORGET_MIX);
    rw_tape_forget(t, made[TS_XN], RW_FORGET_MIX);
}
