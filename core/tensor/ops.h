/* Differentiable ops: one function for each row of kernels/ops.def that a model uses.
 *
 * Activations and matrices are narrow (the device's compute dtype), vectors, states and losses wide (rw_wide()); plain
 * elementwise ops take either. Each checks shapes and dtypes, makes its outputs on the tape, runs the kernel and
 * records itself. A mistake becomes the tape's error and the result NULL; NULL inputs give NULL, except where a
 * parameter is marked "or NULL". Formulas: the header of the kernel of the same name. R = rows, C = channels; leading
 * dimensions are joined.
 *
 * A state that goes out (*shift_out, *s_out) is made on the tape, or written over memory of the caller (shift_to,
 * s_to). That must be other memory than the state's that came in, and nothing may be recorded. */
#ifndef RW_TENSOR_OPS_H
#define RW_TENSOR_OPS_H

#include "core/tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* a [R,K] times b: [N,K] with trans_b (a Linear layer's weight), else [K,N]; + c [R,N] or NULL. -> [R,N] */
rw_tensor *rw_matmul(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_tensor *c);
/* The same without c, through an activation: relu_sq, tanh or sigmoid. */
rw_tensor *rw_matmul_act(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b, rw_epilogue act);
/* y[i] = x[i] w[i]^T (trans_w, w[i] [N,K]) or x[i] w[i] (w[i] [K,N]), all of the same sizes, n <= RW_GROUP_MAX. In one
 * call where everything lies at constant strides, as outputs of token_shift (n_slab) and ddlerp and weights of
 * neighbouring places do; else in one call each. The results lie at one stride. */
#define RW_GROUP_MAX 8
void rw_linear_group(rw_tape *t, int n, rw_tensor *const *x, rw_tensor *const *w, bool trans_w, rw_tensor **y);
/* A wide result (logits); no backward pass. */
rw_tensor *rw_matmul_wide(rw_tape *t, rw_tensor *a, rw_tensor *b, bool trans_b);

/* weight [V,C]; gamma, beta [C] or both NULL. tokens: R ids on the device. -> [R,C] */
rw_tensor *rw_embedding(rw_tape *t, rw_tensor *weight, const int32_t *tokens, int64_t n_rows, rw_tensor *gamma,
                        rw_tensor *beta, double eps);

/* x [R,C], gamma and beta [C] -> [R,C]; group_norm: n_head groups of C / n_head. */
rw_tensor *rw_layer_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, double eps);
rw_tensor *rw_group_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, int64_t n_head, double eps);

/* Layer norm and token shift with n_mix mixes. mu[i]: C elements each. shift_in [n_seq,C], [C] (shared) or NULL.
 * out[n_mix] receives [R,C] each; *xn (or NULL: not wanted) [R,C]; *shift_out (or NULL) [n_seq,C]. */
typedef struct {
    rw_rows rows;
    rw_tensor *x, *gamma, *beta;
    double eps;
    int n_mix;
    int n_slab; /* the first so many outputs lie at one stride, for rw_linear_group() */
    bool times_current;
    rw_tensor *mu[RW_MAX_MIX];
    rw_tensor *shift_in; /* or NULL */
    rw_tensor *shift_to; /* or NULL */
} rw_token_shift_in;
void rw_token_shift(rw_tape *t, const rw_token_shift_in *in, rw_tensor **out, rw_tensor **xn, rw_tensor **shift_out);

/* xn [R,C], h [R,5*rank] (used up: holds tanh(h) afterwards), w2 [5,rank,C], mu[5]: C elements each. -> out[5], those
 * of r, k, v, g in this order at one stride */
void rw_ddlerp(rw_tape *t, rw_rows rows, rw_tensor *xn, rw_tensor *shift_in, rw_tensor *h, rw_tensor *w2,
               rw_tensor *const mu[RW_DDLERP_MIX], rw_tensor *out[RW_DDLERP_MIX]);

/* r, k, v, w_raw, gate [R,C], u [H,N], w0, ln_w, ln_b: C elements. s0 [n_seq,H,N,N], [H,N,N] (shared) or NULL.
 * w0, s_to, gate, ln_w with ln_b: or NULL; w_raw too when there is w0 (a decay that is the same for all rows). ->
 * [R,C]; *s_out (or NULL: not wanted) [n_seq,H,N,N]. */
typedef struct {
    rw_rows rows;
    int64_t n_head, head_size;
    rw_tensor *r, *k, *v, *w_raw, *w0, *u, *s0, *s_to, *gate, *ln_w, *ln_b;
    double eps;
} rw_wkv6_in;
rw_tensor *rw_wkv6(rw_tape *t, const rw_wkv6_in *in, rw_tensor **s_out);

/* r, w_raw, k0, v, a_up, v_up, v_first, g [R,C], r_k [H,N], the other vectors: C elements. s0 [n_seq,H,N,N], [H,N,N]
 * (shared) or NULL. v_up with v_first (v0 is then needed), g, r_k, ln_w with ln_b, s_to: or NULL. -> [R,C]; *s_out (or
 * NULL: not wanted) [n_seq,H,N,N]. */
typedef struct {
    rw_rows rows;
    int64_t n_head, head_size;
    rw_tensor *r, *w_raw, *k0, *v, *a_up, *v_up, *v_first, *g;
    rw_tensor *w0, *a0, *v0, *k_k, *k_a, *r_k, *ln_w, *ln_b;
    rw_tensor *s0, *s_to;
    double eps;
} rw_wkv7_in;
rw_tensor *rw_wkv7(rw_tape *t, const rw_wkv7_in *in, rw_tensor **s_out);

rw_tensor *rw_relu_sq(rw_tape *t, rw_tensor *x); /* in place: x must not be needed by others */
rw_tensor *rw_rgate(rw_tape *t, rw_tensor *q, rw_tensor *p, rw_tensor *residual /* or NULL */);

rw_tensor *rw_unary(rw_tape *t, rw_unary_op op, rw_tensor *x, double alpha);
/* b has a's shape, or the shape of a's last dimensions (then it repeats). */
rw_tensor *rw_binary(rw_tape *t, rw_binary_op op, rw_tensor *a, rw_tensor *b);

/* Cross entropy of hidden [R,C] under weight [V,C] (both used by the head alone), `chunk` rows of logits at a time.
 * Returns the loss of each row, [R], not multiplied by the mask. When recording, the gradient of
 * sum(mask * loss) * normaliser (+ L2Wrap; step scalars) is computed in the same pass: weight's at once, hidden's when
 * the tape walks back. targets [R], mask [R] or NULL on the device. */
rw_tensor *rw_head_loss(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const int32_t *targets, const float *mask,
                        int64_t chunk);

/* The same with what head_qk adds to the logits: q, k [R,Q], the ids of the rows on the device, a scale of 1 / Q. Their
 * gradients too are computed in the same pass. copy: or NULL. */
typedef struct {
    rw_rows rows;
    const int32_t *tokens;
    rw_tensor *q, *k;
} rw_copy_head_in;
rw_tensor *rw_head_loss_copy(rw_tape *t, rw_tensor *hidden, rw_tensor *weight, const rw_copy_head_in *copy,
                             const int32_t *targets, const float *mask, int64_t chunk);

#ifdef __cplusplus
}
#endif
#endif
