/* embedding, layer_norm, group_norm. */
#include "core/tensor/ops.h"

#include "core/tensor/ops/ops_internal.h"

enum { N_X, N_GAMMA, N_BETA, N_IN }; /* the embedding's x is its weight */

/* -- embedding ---------------------------------------------------------------------------------------- */

static void point_embedding(rw_embedding_args *a, rw_tensor *const *in, const rw_tensor *y, const rw_op_saved *stats) {
    a->weight = in[N_X]->data;
    a->gamma = rw_data_of(in[N_GAMMA]);
    a->beta = rw_data_of(in[N_BETA]);
    a->out = rw_data_of(y);
    rw_op_stats(stats, y, 1, &a->mean, &a->rstd);
}

static void embedding_backward(rw_tape *t, rw_node *n) {
    rw_embedding_args a = *(const rw_embedding_args *)n->args;
    rw_op_saved stats = rw_op_kept(t, n, 0);
    point_embedding(&a, n->in, n->out[0], &stats);
    a.dout = n->out[0]->grad;
    a.dweight_dtype = rw_grad_dtype(n->in[N_X]);
    a.dweight = rw_grad_into(t, n->in[N_X], RW_EMBEDDING_ADD_WEIGHT, &a.add);
    a.dgamma = rw_grad_into(t, n->in[N_GAMMA], RW_EMBEDDING_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[N_BETA], RW_EMBEDDING_ADD_BETA, &a.add);
    rw_embedding_args most = a;
    most.R = rw_room_rows(n->out[0]);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->embedding_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->embedding_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

rw_tensor *rw_embedding(rw_tape *t, rw_tensor *weight, const int32_t *tokens, int64_t n_rows, rw_tensor *gamma,
                        rw_tensor *beta, double eps) {
    if (!rw_op_narrow(t, "embedding", "weight", weight, -1)) return NULL;
    int64_t C = rw_last_dim(weight), most = rw_most_rows(t, n_rows);
    if (!rw_op_wide_pair(t, "embedding", "gamma", gamma, "beta", beta, C)) return NULL;
    if (n_rows > most) {
        rw_tape_fail(t, RW_E_SHAPE, "embedding: %lld rows, but memory is for %lld", (long long)n_rows, (long long)most);
        return NULL;
    }
    rw_tensor *y = rw_tape_tensor(t, rw_tape_device(t)->compute, 2, (int64_t[]){n_rows, C}, most * C);
    rw_tensor *in[N_IN] = {weight, gamma, beta};
    if (!y) return NULL;
    rw_op_saved stats = rw_op_save_stats(t, y, 1, gamma && rw_op_records(t, in, LEN(in)));
    if (rw_tape_failed(t)) return NULL;
    rw_embedding_args a = {.dtype = y->dtype, .R = n_rows, .C = C, .V = rw_rows_of(weight), .eps = eps};
    a.tokens = tokens;
    point_embedding(&a, in, y, &stats);
    KERN(t)->embedding_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, embedding_backward, in, LEN(in), &y, 1, 0, 0);
    rw_node_args(t, n, &a, sizeof a);
    rw_op_keep(n, 0, stats);
    return y;
}

/* -- layer norm ----------------------------------------------------------------------------------------- */

static void point_layer(rw_layer_norm_args *a, rw_tensor *const *in, const rw_tensor *y, const rw_op_saved *stats) {
    a->x = in[N_X]->data;
    a->gamma = in[N_GAMMA]->data;
    a->beta = in[N_BETA]->data;
    a->out = rw_data_of(y);
    rw_op_stats(stats, in[N_X], 1, &a->mean, &a->rstd);
}

static void layer_norm_backward(rw_tape *t, rw_node *n) {
    rw_layer_norm_args a = *(const rw_layer_norm_args *)n->args;
    rw_op_saved stats = rw_op_kept(t, n, 0);
    point_layer(&a, n->in, n->out[0], &stats);
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[N_X], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[N_GAMMA], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[N_BETA], RW_NORM_ADD_BETA, &a.add);
    rw_layer_norm_args most = a;
    most.R = rw_room_rows(n->in[N_X]);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->layer_norm_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->layer_norm_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

rw_tensor *rw_layer_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, double eps) {
    if (!rw_op_narrow(t, "layer_norm", "x", x, -1)) return NULL;
    int64_t C = rw_last_dim(x);
    if (!rw_op_wide(t, "layer_norm", "gamma", gamma, C) || !rw_op_wide(t, "layer_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = rw_op_like(t, x), *in[N_IN] = {x, gamma, beta};
    rw_op_saved stats = rw_op_save_stats(t, x, 1, rw_op_records(t, in, LEN(in)));
    if (rw_tape_failed(t)) return NULL;
    rw_layer_norm_args a = {.dtype = x->dtype, .R = rw_rows_of(x), .C = C, .eps = eps};
    point_layer(&a, in, y, &stats);
    KERN(t)->layer_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, layer_norm_backward, in, LEN(in), &y, 1, KEEP(N_X) | KEEP(N_GAMMA), 0);
    rw_node_args(t, n, &a, sizeof a);
    rw_op_keep(n, 0, stats);
    return y;
}

/* -- group norm ----------------------------------------------------------------------------------------- */

static void point_group(rw_group_norm_args *a, rw_tensor *const *in, const rw_tensor *y, const rw_op_saved *stats) {
    a->x = in[N_X]->data;
    a->gamma = in[N_GAMMA]->data;
    a->beta = in[N_BETA]->data;
    a->out = rw_data_of(y);
    rw_op_stats(stats, in[N_X], a->H, &a->mean, &a->rstd);
}

static void group_norm_backward(rw_tape *t, rw_node *n) {
    rw_group_norm_args a = *(const rw_group_norm_args *)n->args;
    rw_op_saved stats = rw_op_kept(t, n, 0);
    point_group(&a, n->in, n->out[0], &stats);
    a.dout = n->out[0]->grad;
    a.dx = rw_grad_into(t, n->in[N_X], RW_NORM_ADD_X, &a.add);
    a.dgamma = rw_grad_into(t, n->in[N_GAMMA], RW_NORM_ADD_GAMMA, &a.add);
    a.dbeta = rw_grad_into(t, n->in[N_BETA], RW_NORM_ADD_BETA, &a.add);
    rw_group_norm_args most = a;
    most.R = rw_room_rows(n->in[N_X]);
    int32_t b;
    a.scratch = rw_scratch_take(t, KERN(t)->group_norm_backward_scratch(&most, EXEC(t)), &b);
    if (!rw_tape_failed(t)) KERN(t)->group_norm_backward(&a, EXEC(t));
    rw_share_release(t, b);
}

rw_tensor *rw_group_norm(rw_tape *t, rw_tensor *x, rw_tensor *gamma, rw_tensor *beta, int64_t n_head, double eps) {
    if (!rw_op_narrow(t, "group_norm", "x", x, -1)) return NULL;
    int64_t C = rw_last_dim(x);
    if (n_head < 1 || C % n_head) {
        rw_tape_fail(t, RW_E_SHAPE, "group_norm: %lld channels cannot be cut into %lld heads", (long long)C,
                     (long long)n_head);
        return NULL;
    }
    if (!rw_op_wide(t, "group_norm", "gamma", gamma, C) || !rw_op_wide(t, "group_norm", "beta", beta, C)) return NULL;
    rw_tensor *y = rw_op_like(t, x), *in[N_IN] = {x, gamma, beta};
    rw_op_saved stats = rw_op_save_stats(t, x, n_head, rw_op_records(t, in, LEN(in)));
    if (rw_tape_failed(t)) return NULL;
    rw_group_norm_args a = {.dtype = x->dtype, .R = rw_rows_of(x), .H = n_head, .N = C / n_head, .eps = eps};
    point_group(&a, in, y, &stats);
    KERN(t)->group_norm_forward(&a, EXEC(t));
    rw_node *n = rw_node_new(t, group_norm_backward, in, LEN(in), &y, 1, KEEP(N_X) | KEEP(N_GAMMA), 0);
    rw_node_args(t, n, &a, sizeof a);
    rw_op_keep(n, 0, stats);
    return y;
}
