/* embedding, layer_norm, group_norm. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

static void embedding_backward(rw_tape *t, rw_node *n) {
    rw_embedding_args a = *(const rw_embedding_args *)n->args;
    a.dout = n->out[0]->grad;
    a.dweight = rw_grad_into(t, n->in[0], RW_EMBEDDING_ADD_WEIGHT, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_EMBEDDING_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_EMBEDDING_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->embedding_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->embedding_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_embedding(rw_tape *t, rw_tensor *weight, const int32_t *tokens, int64_t n_rows, rw_tensor *gamma,
                        rw_tensor *beta, double eps) {
    if (!rw_op_check(t, "embedding", "weight", weight, -1)) return NULL;
    int64_t C = rw_last_dim(weight), V = rw_rows_of(weight);
    if (!rw_op_check_pair(t, "embedding", "gamma", gamma, "beta", beta, C)) return NULL;
    rw_tensor *y = rw_op_matrix(t, n_rows, C), *in[] = {weight, gamma, beta};
    rw_op_saved stat =
        rw_op_save(t, 2 * n_rows * rw_dtype_bytes(weight->dtype), gamma && rw_op_records(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_embedding_args a = {.dtype = y->dtype, .R = n_rows, .C = C, .V = V, .tokens = tokens, .weight = weight->data};
    a.gamma = rw_data_of(gamma);
    a.beta = rw_data_of(beta);
    a.eps = eps;
    a.out = y->data;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + n_rows * rw_dtype_bytes(y->dtype) : NULL;
    KERN(t)->embedding_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, embedding_backward, in, LEN(in), &y, 1, 0, 0);
    if (!n) return y;
    rw_node_args(t, n, &a, sizeof a);
    n->kept[0] = stat.block;
    return y;
}

static void layer_norm_backward(rw_tape *t, rw_node *n) {
    rw_layer_norm_args a = *(const rw_layer_norm_args *)n->args;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_NORM_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->layer_norm_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->layer_norm_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_layer_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, double eps) {
    if (!rw_op_check(t, "layer_norm", "x", x, -1)) return NULL;
    int64_t C = rw_last_dim(x), R = rw_rows_of(x), each = R * rw_dtype_bytes(x->dtype);
    if (!rw_op_check(t, "layer_norm", "gamma", gamma, C) || !rw_op_check(t, "layer_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = rw_op_like(t, x), *in[] = {x, gamma, beta};
    rw_op_saved stat = rw_op_save(t, 2 * each, rw_op_records(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_layer_norm_args a = {.dtype = x->dtype, .R = R, .C = C, .x = x->data, .gamma = gamma->data, .beta = beta->data};
    a.eps = eps;
    a.out = y->data;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    KERN(t)->layer_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, layer_norm_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    if (!n) return y;
    rw_node_args(t, n, &a, sizeof a);
    n->kept[0] = stat.block;
    return y;
}

static void group_norm_backward(rw_tape *t, rw_node *n) {
    rw_group_norm_args a = *(const rw_group_norm_args *)n->args;
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[0], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[1], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[2], RW_NORM_ADD_BETA, &a.add);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->group_norm_backward_scratch(&a, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->group_norm_backward(&a, EXEC(t));
    rw_block_release(t, b);
}

rw_tensor *rw_group_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, int64_t n_head, double eps) {
    if (!rw_op_check(t, "group_norm", "x", x, -1)) return NULL;
    int64_t C = rw_last_dim(x), R = rw_rows_of(x), each = R * n_head * rw_dtype_bytes(x->dtype);
    if (n_head < 1 || C % n_head) {
        rw_tape_fail(t, RW_E_SHAPE, "group_norm: %lld channels cannot be cut into %lld heads", (long long)C,
                     (long long)n_head);
        return NULL;
    }
    if (!rw_op_check(t, "group_norm", "gamma", gamma, C) || !rw_op_check(t, "group_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = rw_op_like(t, x), *in[] = {x, gamma, beta};
    rw_op_saved stat = rw_op_save(t, 2 * each, rw_op_records(t, in, LEN(in)));
    if (!y || rw_tape_failed(t)) return NULL;
    rw_group_norm_args a = {.dtype = x->dtype, .R = R, .H = n_head, .N = C / n_head, .x = x->data, .out = y->data};
    a.gamma = gamma->data;
    a.beta = beta->data;
    a.eps = eps;
    a.mean = stat.data;
    a.rstd = stat.data ? (char *)stat.data + each : NULL;
    KERN(t)->group_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, group_norm_backward, in, LEN(in), &y, 1, KEEP(0) | KEEP(1), 0);
    if (!n) return y;
    rw_node_args(t, n, &a, sizeof a);
    n->kept[0] = stat.block;
    return y;
}
