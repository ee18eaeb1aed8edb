/* wkv7: preparation, recurrence, norm, bonus and gate of x070. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { WK_R, WK_W_RAW, WK_K0, WK_V, WK_A_UP, WK_V_UP, WK_V_FIRST, WK_G, WK_VECTORS };
enum { WK_W0 = WK_VECTORS, WK_A0, WK_V0, WK_K_K, WK_K_A, WK_R_K, WK_LN_W, WK_LN_B, WK_S0, WK_IN };
enum { WK_OUT, WK_S_OUT, WK_OUTS };

/* The largest pass, for the queries. */
static rw_wkv7_args largest(rw_tape *t, rw_wkv7_args a, rw_tensor *const *in) {
    a.R = rw_room_rows(in[WK_R]);
    a.n_seq = rw_most_seq(t, a.n_seq);
    return a;
}

static void point(rw_wkv7_args *a, rw_tensor *const *in, rw_tensor *const *out) {
    a->r = in[WK_R]->data;
    a->w_raw = in[WK_W_RAW]->data;
    a->k0 = in[WK_K0]->data;
    a->v = in[WK_V]->data;
    a->a_up = in[WK_A_UP]->data;
    a->v_up = rw_data_of(in[WK_V_UP]);
    a->v_first = rw_data_of(in[WK_V_FIRST]);
    a->g = rw_data_of(in[WK_G]);
    a->w0 = in[WK_W0]->data;
    a->a0 = in[WK_A0]->data;
    a->v0 = rw_data_of(in[WK_V0]);
    a->k_k = in[WK_K_K]->data;
    a->k_a = in[WK_K_A]->data;
    a->r_k = rw_data_of(in[WK_R_K]);
    a->ln_w = rw_data_of(in[WK_LN_W]);
    a->ln_b = rw_data_of(in[WK_LN_B]);
    a->s0 = rw_data_of(in[WK_S0]);
    a->out = rw_data_of(out[WK_OUT]);
    a->s_out = rw_data_of(out[WK_S_OUT]);
}

static void point_gradients(rw_tape *t, const rw_node *n, rw_wkv7_args *a) {
    a->dr = rw_grad_into(t, n->in[WK_R], RW_WKV7_ADD_R, &a->add);
    a->dw_raw = rw_grad_into(t, n->in[WK_W_RAW], RW_WKV7_ADD_W_RAW, &a->add);
    a->dk0 = rw_grad_into(t, n->in[WK_K0], RW_WKV7_ADD_K0, &a->add);
    a->dv = rw_grad_into(t, n->in[WK_V], RW_WKV7_ADD_V, &a->add);
    a->da_up = rw_grad_into(t, n->in[WK_A_UP], RW_WKV7_ADD_A_UP, &a->add);
    a->dv_up = rw_grad_into(t, n->in[WK_V_UP], RW_WKV7_ADD_V_UP, &a->add);
    a->dv_first = rw_grad_into(t, n->in[WK_V_FIRST], RW_WKV7_ADD_V_FIRST, &a->add);
    a->dg = rw_grad_into(t, n->in[WK_G], RW_WKV7_ADD_G, &a->add);
    a->dw0 = rw_grad_into(t, n->in[WK_W0], RW_WKV7_ADD_W0, &a->add);
    a->da0 = rw_grad_into(t, n->in[WK_A0], RW_WKV7_ADD_A0, &a->add);
    a->dv0 = rw_grad_into(t, n->in[WK_V0], RW_WKV7_ADD_V0, &a->add);
    a->dk_k = rw_grad_into(t, n->in[WK_K_K], RW_WKV7_ADD_K_K, &a->add);
    a->dk_a = rw_grad_into(t, n->in[WK_K_A], RW_WKV7_ADD_K_A, &a->add);
    a->dr_k = rw_grad_into(t, n->in[WK_R_K], RW_WKV7_ADD_R_K, &a->add);
    a->dln_w = rw_grad_into(t, n->in[WK_LN_W], RW_WKV7_ADD_LN_W, &a->add);
    a->dln_b = rw_grad_into(t, n->in[WK_LN_B], RW_WKV7_ADD_LN_B, &a->add);
    a->ds0 = rw_grad_into(t, n->in[WK_S0], RW_WKV7_ADD_S0, &a->add);
}

static void wkv7_backward(rw_tape *t, rw_node *n) {
    rw_wkv7_args a = *(const rw_wkv7_args *)n->args;
    point(&a, n->in, n->out);
    a.saved = rw_op_kept(t, n, 0).data;
    a.dout = rw_grad_of(n->out[WK_OUT]);
    a.ds_out = rw_grad_of(n->out[WK_S_OUT]);
    point_gradients(t, n, &a);
    rw_wkv7_args most = largest(t, a, n->in);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv7_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv7_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

/* The value mix: both of its activations, with their vector, or neither. */
static bool check_value_mix(rw_tape *t, const rw_wkv7_in *p, int64_t n, int64_t C) {
    return (!p->v_up && !p->v_first) ||
           (rw_op_narrow(t, "wkv7", "v_up", p->v_up, n) && rw_op_narrow(t, "wkv7", "v_first", p->v_first, n) &&
            rw_op_wide(t, "wkv7", "v0", p->v0, C));
}

static bool check_activations(rw_tape *t, const rw_wkv7_in *p, int64_t n) {
    return rw_op_narrow(t, "wkv7", "r", p->r, n) && rw_op_narrow(t, "wkv7", "w_raw", p->w_raw, n) &&
           rw_op_narrow(t, "wkv7", "k0", p->k0, n) && rw_op_narrow(t, "wkv7", "v", p->v, n) &&
           rw_op_narrow(t, "wkv7", "a_up", p->a_up, n) && rw_op_narrow_opt(t, "wkv7", "g", p->g, n);
}

static bool check_vectors(rw_tape *t, const rw_wkv7_in *p, int64_t C) {
    return rw_op_wide(t, "wkv7", "w0", p->w0, C) && rw_op_wide(t, "wkv7", "a0", p->a0, C) &&
           rw_op_wide(t, "wkv7", "k_k", p->k_k, C) && rw_op_wide(t, "wkv7", "k_a", p->k_a, C) &&
           rw_op_wide_opt(t, "wkv7", "r_k", p->r_k, C) &&
           rw_op_wide_pair(t, "wkv7", "ln_w", p->ln_w, "ln_b", p->ln_b, C);
}

static bool wkv7_check(rw_tape *t, const rw_wkv7_in *p) {
    int64_t C = p->n_head * p->head_size, n = p->rows.n_rows * C;
    if (p->head_size != 32 && p->head_size != 64 && p->head_size != 128) {
        rw_tape_fail(t, RW_E_SHAPE, "wkv7: head size %lld, expected 32, 64 or 128", (long long)p->head_size);
        return false;
    }
    return check_activations(t, p, n) && check_value_mix(t, p, n, C) && check_vectors(t, p, C) &&
           rw_op_wide_opt(t, "wkv7", "s0", p->s0, -1) && rw_op_check_rows(t, "wkv7", p->rows, p->r);
}

/* Memory that the kernel asks for, then the kernel. Returns what is kept for the backward pass. */
static rw_op_saved run_forward(rw_tape *t, const rw_wkv7_args *sizes, rw_tensor *const *in, rw_tensor *const *out) {
    rw_wkv7_args a = *sizes;
    point(&a, in, out);
    rw_wkv7_args most = largest(t, a, in);
    rw_op_saved keep = rw_op_save(t, KERN(t)->wkv7_saved(&most, EXEC(t)), rw_op_records(t, in, WK_IN));
    a.saved = keep.data;
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->wkv7_forward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->wkv7_forward(&a, EXEC(t));
    rw_share_release(t, b);
    return keep;
}

rw_tensor *rw_wkv7(rw_tape *t, const rw_wkv7_in *p, rw_tensor **s_out) {
    if (s_out) *s_out = NULL;
    if (!wkv7_check(t, p)) return NULL;
    int64_t H = p->n_head, N = p->head_size, C = H * N;
    rw_wkv7_args sizes = {.dtype = p->r->dtype, .R = p->rows.n_rows, .H = H, .N = N, .n_seq = p->rows.n_seq};
    sizes.eps = p->eps;
    sizes.cu_seqlens = p->rows.cu_seqlens;
    sizes.s0_stride = rw_op_state_stride(t, "wkv7", p->s0, p->rows, C * N);
    rw_tensor *in[WK_IN] = {p->r,  p->w_raw, p->k0,  p->v,   p->a_up, p->v_up, p->v_first, p->g, p->w0,
                            p->a0, p->v0,    p->k_k, p->k_a, p->r_k,  p->ln_w, p->ln_b,    p->s0};
    if (!p->v_up) in[WK_V0] = NULL; /* unused: no gradient */
    rw_tensor *out[WK_OUTS] = {rw_op_matrix(t, p->r, C)};
    if (s_out) out[WK_S_OUT] = rw_op_state_out(t, "wkv7", p->s_to, p->rows, 3, (int64_t[]){H, N, N});
    rw_op_saved keep = run_forward(t, &sizes, in, out);
    if (rw_tape_failed(t)) return NULL;
    if (s_out) *s_out = out[WK_S_OUT];
    rw_node *n = rw_node_new(t, wkv7_backward, in, LEN(in), out, LEN(out), ~0u, 0);
    rw_node_args(t, n, &sizes, sizeof sizes);
    rw_op_keep(n, 0, keep);
    return out[WK_OUT];
}
