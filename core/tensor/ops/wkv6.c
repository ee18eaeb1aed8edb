/* wkv6: the recurrence of x052 and x060 with its decay, norm and gate. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { WK_R, WK_K, WK_V, WK_W, WK_W0, WK_U, WK_S0, WK_GATE, WK_LN_W, WK_LN_B, WK_IN };
enum { WK_OUT, WK_S_OUT, WK_OUTS };

/* The largest pass, for the queries. */
static rw_wkv6_args largest(rw_tape *t, rw_wkv6_args a, rw_tensor *const *in) {
    a.R = rw_room_rows(in[WK_R]);
    a.n_seq = rw_most_seq(t, a.n_seq);
    return a;
}

static void point(rw_wkv6_args *a, rw_tensor *const *in, rw_tensor *const *out) {
    a->r = in[WK_R]->data;
    a->k = in[WK_K]->data;
    a->v = in[WK_V]->data;
    a->w_raw = rw_data_of(in[WK_W]);
    a->w0 = rw_data_of(in[WK_W0]);
    a->u = in[WK_U]->data;
    a->s0 = rw_data_of(in[WK_S0]);
    a->gate = rw_data_of(in[WK_GATE]);
    a->ln_w = rw_data_of(in[WK_LN_W]);
    a->ln_b = rw_data_of(in[WK_LN_B]);
    a->out = rw_data_of(out[WK_OUT]);
    a->s_out = rw_data_of(out[WK_S_OUT]);
}

static void wkv6_backward(rw_tape *t, rw_node *n) {
    rw_wkv6_args a = *(const rw_wkv6_args *)n->args;
    point(&a, n->in, n->out);
    a.saved = rw_op_kept(t, n, 0).data;
    a.dout = rw_grad_of(n->out[WK_OUT]);
    a.ds_out = rw_grad_of(n->out[WK_S_OUT]);
    a.dr = rw_grad_into(t, n->in[WK_R], RW_WKV6_ADD_R, &a.add);
    a.dk = rw_grad_into(t, n->in[WK_K], RW_WKV6_ADD_K, &a.add);
    a.dv = rw_grad_into(t, n->in[WK_V], RW_WKV6_ADD_V, &a.add);
    a.dw_raw = rw_grad_into(t, n->in[WK_W], RW_WKV6_ADD_W, &a.add);
    a.dw0 = rw_grad_into(t, n->in[WK_W0], RW_WKV6_ADD_W0, &a.add);
    a.du = rw_grad_into(t, n->in[WK_U], RW_WKV6_ADD_U, &a.add);
    a.ds0 = rw_grad_into(t, n->in[WK_S0], RW_WKV6_ADD_S0, &a.add);
    a.dgate = rw_grad_into(t, n->in[WK_GATE], RW_WKV6_ADD_GATE, &a.add);
    a.dln_w = rw_grad_into(t, n->in[WK_LN_W], RW_WKV6_ADD_LN_W, &a.add);
    a.dln_b = rw_grad_into(t, n->in[WK_LN_B], RW_WKV6_ADD_LN_B, &a.add);
    rw_wkv6_args most = largest(t, a, n->in);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv6_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv6_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

static bool wkv6_check(rw_tape *t, const rw_wkv6_in *p) {
    int64_t C = p->n_head * p->head_size, n = p->rows.n_rows * C;
    if (p->head_size != 32 && p->head_size != 64 && p->head_size != 128) {
        rw_tape_fail(t, RW_E_SHAPE, "wkv6: head size %lld, expected 32, 64 or 128", (long long)p->head_size);
        return false;
    }
    return rw_op_narrow(t, "wkv6", "r", p->r, n) && rw_op_narrow(t, "wkv6", "k", p->k, n) &&
           rw_op_narrow(t, "wkv6", "v", p->v, n) &&
           (p->w_raw ? rw_op_narrow(t, "wkv6", "w_raw", p->w_raw, n) : rw_op_wide(t, "wkv6", "w0", p->w0, C)) &&
           rw_op_wide(t, "wkv6", "u", p->u, C) && rw_op_wide_opt(t, "wkv6", "w0", p->w0, C) &&
           rw_op_narrow_opt(t, "wkv6", "gate", p->gate, n) &&
           rw_op_wide_pair(t, "wkv6", "ln_w", p->ln_w, "ln_b", p->ln_b, C) &&
           rw_op_wide_opt(t, "wkv6", "s0", p->s0, -1) && rw_op_check_rows(t, "wkv6", p->rows, p->r);
}

/* Memory that the kernel asks for, then the kernel. Returns what is kept for the backward pass. */
static rw_op_saved run_forward(rw_tape *t, const rw_wkv6_args *sizes, rw_tensor *const *in, rw_tensor *const *out) {
    rw_wkv6_args a = *sizes;
    point(&a, in, out);
    rw_wkv6_args most = largest(t, a, in);
    rw_op_saved keep = rw_op_save(t, KERN(t)->wkv6_saved(&most, EXEC(t)), rw_op_records(t, in, WK_IN));
    a.saved = keep.data;
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv6_forward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv6_forward(&a, EXEC(t));
    rw_share_release(t, b);
    return keep;
}

rw_tensor *rw_wkv6(rw_tape *t, const rw_wkv6_in *p, rw_tensor **s_out) {
    if (s_out) *s_out = NULL;
    if (!wkv6_check(t, p)) return NULL;
    int64_t H = p->n_head, N = p->head_size, C = H * N;
    rw_wkv6_args sizes = {.dtype = p->r->dtype, .R = p->rows.n_rows, .H = H, .N = N, .n_seq = p->rows.n_seq};
    sizes.eps = p->eps;
    sizes.cu_seqlens = p->rows.cu_seqlens;
    sizes.s0_stride = rw_op_state_stride(t, "wkv6", p->s0, p->rows, C * N);
    rw_tensor *in[WK_IN] = {p->r, p->k, p->v, p->w_raw, p->w0, p->u, p->s0, p->gate, p->ln_w, p->ln_b};
    rw_tensor *out[WK_OUTS] = {rw_op_matrix(t, p->r, C)};
    if (s_out) out[WK_S_OUT] = rw_op_state_out(t, "wkv6", p->s_to, p->rows, 3, (int64_t[]){H, N, N});
    rw_op_saved keep = run_forward(t, &sizes, in, out);
    if (rw_tape_failed(t)) return NULL;
    if (s_out) *s_out = out[WK_S_OUT];
    rw_node *n = rw_node_new(t, wkv6_backward, in, LEN(in), out, LEN(out), ~0u, 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    rw_op_keep(n, 0, keep);
    return out[WK_OUT];
}
