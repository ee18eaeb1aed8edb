/* The tape's record: nodes, what is made again, gradients, the walk back, recomputing. See tensor.h for what it
 * promises.
 *
 * A node holds the memory of the inputs and outputs that its backward pass reads. Not that of lazy tensors: these are
 * counted as wanted, lose their memory with their scope, and get it back, made again by the node that made them, when
 * the walk back reaches the first node that wants them. The last of those lets go of it. */
#include "core/tensor/tape_state.h"

#include <assert.h>
#include <string.h>

/* -- what nodes want ---------------------------------------------------------------------------------- */

static void want(rw_tape *t, rw_node *n, rw_tensor *x) {
    if (x->lazy) {
        n->wants_lazy = true;
        x->n_wanted++;
    }
    if (!x->lazy || x->again) rw_share_retain(t, x->share);
}

static void want_no_more(rw_tape *t, rw_tensor *x) {
    if (x->lazy) x->n_wanted--;
    if (!x->lazy || x->again) rw_share_release(t, x->share);
    if (!x->again || x->n_wanted > 0) return;
    x->data = NULL;
    x->share = -1;
    x->again = false;
}

unsigned rw_tape_forgets(rw_tape *t, unsigned kinds) {
    unsigned were = t->forgets;
    t->forgets = kinds;
    return were;
}

void rw_tape_forget(rw_tape *t, rw_tensor *x, rw_forget kind) {
    rw_node *n = x ? x->maker : NULL;
    if (!n || !(t->forgets & kind) || x->n_uses > 0 || x->lazy) return;
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] != x || !(n->keep_out >> i & 1)) continue;
        rw_share_release(t, x->share); /* it counts as wanted now */
        n->wants_lazy = true;
        x->n_wanted++;
    }
    x->lazy = true;
}

/* -- making again ------------------------------------------------------------------------------------- */

static bool is_gone(const rw_tensor *x) {
    return x && x->lazy && !x->data && x->n_wanted > 0;
}

/* Memory for x, one reference for each node that wants it. Tensors of a slab have one in common. */
static void *memory_again(rw_tape *t, rw_tensor *x, int32_t *slab_share) {
    if (!x->slab) {
        x->share = rw_share_take(t, x->room * rw_dtype_bytes(x->dtype), &x->data);
    } else {
        void *data;
        if (*slab_share < 0) *slab_share = rw_share_take(t, x->slab->n * x->slab->pitch, &data);
        x->share = *slab_share;
        x->data = x->share < 0 ? NULL : (char *)rw_share_data(t, x->share) + x->slab_at * x->slab->pitch;
    }
    for (int i = x->slab ? 0 : 1; i < x->n_wanted; i++) rw_share_retain(t, x->share);
    x->again = x->data != NULL;
    return x->data;
}

static void need_bucket(rw_tape *t, int bucket) {
    if (bucket == t->needed) return;
    t->needed = bucket;
    if (t->calls.needed) t->calls.needed(t->calls.ctx, bucket);
}

static void need_inputs(rw_tape *t, const rw_node *n);

static void make_again(rw_tape *t, rw_node *n) {
    void *to[RW_NODE_OUT] = {NULL};
    int32_t slab_share = -1;
    need_bucket(t, n->bucket);
    need_inputs(t, n);
    for (int i = 0; i < n->n_out; i++)
        if (is_gone(n->out[i])) to[i] = memory_again(t, n->out[i], &slab_share);
    rw_share_release(t, slab_share);
    if (!rw_tape_failed(t)) n->again(t, n, to);
}

static void need(rw_tape *t, rw_tensor *x) {
    if (is_gone(x) && !rw_tape_failed(t)) make_again(t, x->maker);
}

static void need_inputs(rw_tape *t, const rw_node *n) {
    for (int i = 0; n->wants_lazy && i < n->n_in; i++)
        if (n->keep_in >> i & 1) need(t, n->in[i]);
}

static void need_outputs(rw_tape *t, const rw_node *n) {
    for (int i = 0; n->wants_lazy && i < n->n_out; i++)
        if (n->keep_out >> i & 1) need(t, n->out[i]);
}

/* -- nodes -------------------------------------------------------------------------------------------- */

static bool any_requires_grad(rw_tensor *const *in, int n_in) {
    for (int i = 0; i < n_in; i++)
        if (in[i] && in[i]->requires_grad) return true;
    return false;
}

static rw_node *add_node(rw_tape *t, void (*backward)(rw_tape *, rw_node *), rw_tensor *const *in, int n_in,
                         rw_tensor *const *out, int n_out, uint32_t keep_in, uint32_t keep_out) {
    if (rw_tape_failed(t) || !t->recording) return NULL;
    if (n_in > RW_NODE_IN || n_out > RW_NODE_OUT) {
        rw_tape_fail(t, RW_E_SHAPE, "an op has %d inputs and %d outputs; the tape holds %d and %d", n_in, n_out,
                     RW_NODE_IN, RW_NODE_OUT);
        return NULL;
    }
    rw_node *n = rw_pool_next(&t->nodes);
    if (!n) {
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
        return NULL;
    }
    n->backward = backward;
    n->bucket = t->bucket;
    n->args_begin = t->args.used;
    n->n_in = n_in;
    n->n_out = n_out;
    for (size_t k = 0; k < sizeof n->kept / sizeof *n->kept; k++) n->kept[k] = -1;
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i];
        if (in[i]) in[i]->n_uses++;
        if (in[i] && keep_in >> i & 1) want(t, n, in[i]);
    }
    for (int i = 0; i < n_out; i++) {
        n->out[i] = out[i];
        if (!out[i]) continue;
        out[i]->requires_grad = true;
        if (keep_out >> i & 1) rw_share_retain(t, out[i]->share);
    }
    n->keep_in = keep_in;
    n->keep_out = keep_out;
    return n;
}

rw_node *rw_node_new(rw_tape *t, void (*backward)(rw_tape *, rw_node *), rw_tensor *const *in, int n_in,
                     rw_tensor *const *out, int n_out, uint32_t keep_in, uint32_t keep_out) {
    return any_requires_grad(in, n_in) ? add_node(t, backward, in, n_in, out, n_out, keep_in, keep_out) : NULL;
}

void rw_node_args(rw_tape *t, rw_node *n, const void *args, size_t n_bytes) {
    if (!n) return;
    void *copy = rw_args_push(&t->args, n_bytes);
    if (copy)
        memcpy(copy, args, n_bytes);
    else
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
    n->args = copy;
}

void rw_node_again(rw_node *n, void (*again)(rw_tape *, rw_node *, void *const *)) {
    if (!n) return;
    n->again = again;
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i]) n->out[i]->maker = n;
}

/* The share of x's gradient is no longer one of its slab's gradients. */
static void leave_slab(rw_tensor *x) {
    rw_slab *s = x->slab;
    if (s && x->grad_share == s->grad_share && --s->n_grads == 0) s->grad_share = -1;
}

static void drop_grad(rw_tape *t, rw_tensor *x) {
    if (!x || x->is_param || x->grad_share < 0) return;
    leave_slab(x);
    rw_share_release(t, x->grad_share);
    x->grad_share = -1;
    x->grad = NULL;
}

static void let_go(rw_tape *t, rw_node *n) {
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] && n->keep_in >> i & 1) want_no_more(t, n->in[i]);
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        if (n->keep_out >> i & 1) want_no_more(t, n->out[i]);
        drop_grad(t, n->out[i]);
    }
    for (size_t k = 0; k < sizeof n->kept / sizeof *n->kept; k++) rw_share_release(t, n->kept[k]);
}

static bool any_grad(const rw_node *n) {
    if (n->n_out == 0) return true; /* a marker */
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && n->out[i]->grad) return true;
    return false;
}

static void undo(rw_tape *t, rw_node *n) {
    need_inputs(t, n);
    need_outputs(t, n);
    if (n->n_out > 0) need_bucket(t, n->bucket);
    if (!rw_tape_failed(t)) n->backward(t, n);
}

/* Undoes the nodes from the last down to `first`. */
static void walk_back(rw_tape *t, size_t first) {
    while (t->nodes.n > first && !rw_tape_failed(t)) {
        rw_node *n = rw_pool_at(&t->nodes, t->nodes.n - 1);
        size_t here = t->nodes.n;
        if (any_grad(n)) undo(t, n);
        let_go(t, n);
        t->args.used = n->args_begin;
        t->nodes.n = here - 1;
    }
}

rw_status rw_tape_backward(rw_tape *t, rw_error *err) {
    bool was = rw_tape_record(t, false);
    walk_back(t, 0);
    rw_tape_record(t, was);
    return rw_tape_error(t, err);
}

/* -- gradients ------------------------------------------------------------------------------------------ */

/* The first of a slab to get a gradient takes the memory of all. */
static void grad_in_slab(rw_tape *t, rw_tensor *x) {
    rw_slab *s = x->slab;
    if (s->n_grads == 0)
        s->grad_share = rw_share_take(t, s->n * s->pitch, &s->grads);
    else
        rw_share_retain(t, s->grad_share);
    if (s->grad_share < 0) return;
    s->n_grads++;
    x->grad_share = s->grad_share;
    x->grad = (char *)s->grads + x->slab_at * s->pitch;
}

void *rw_grad_into(rw_tape *t, rw_tensor *x, uint32_t bit, uint32_t *add) {
    *add &= ~bit;
    if (!x || !x->requires_grad) return NULL;
    if (x->is_param) {
        if (x->grad_written) *add |= bit;
        x->grad_written = true;
        return x->grad;
    }
    if (x->grad) {
        *add |= bit;
        return x->grad;
    }
    if (x->slab)
        grad_in_slab(t, x);
    else
        x->grad_share = rw_share_take(t, x->room * rw_dtype_bytes(x->dtype), &x->grad);
    return x->grad;
}

static void add_into(rw_tape *t, rw_tensor *x, void *to, const void *from) {
    rw_binary_args a = {.dtype = x->dtype, .op = RW_BINARY_ADD, .n = rw_tensor_count(x), .a = to, .b = from, .out = to};
    t->device->kernels->binary_forward(&a, &t->device->exec);
}

static void copy_into(rw_tape *t, rw_tensor *x, void *to, const void *from) {
    rw_unary_args a = {.dtype = x->dtype, .op = RW_UNARY_COPY, .n = rw_tensor_count(x), .x = from, .out = to};
    t->device->kernels->unary_forward(&a, &t->device->exec);
}

void rw_grad_move(rw_tape *t, rw_tensor *x, rw_tensor *y) {
    if (!x || !x->requires_grad || !y->grad) return;
    if (!x->is_param && !x->grad) {
        leave_slab(y);
        x->grad = y->grad;
        x->grad_share = y->grad_share;
        y->grad = NULL;
        y->grad_share = -1;
        return;
    }
    rw_tape_seed_grad(t, x, y->grad);
}

void rw_tape_seed_grad(rw_tape *t, rw_tensor *x, const void *grad) {
    uint32_t add = 0;
    void *to = x ? rw_grad_into(t, x, 1, &add) : NULL;
    if (!to) return;
    if (add)
        add_into(t, x, to, grad);
    else
        copy_into(t, x, to, grad);
}

static void reshape_backward(rw_tape *t, rw_node *n) {
    rw_grad_move(t, n->in[0], n->out[0]);
}

rw_tensor *rw_tape_reshape(rw_tape *t, rw_tensor *x, int ndim, const int64_t *shape) {
    if (!x || rw_tape_failed(t)) return NULL;
    rw_share_retain(t, x->share);
    rw_tensor *y = rw_tensor_over(t, x->dtype, ndim, shape, x->share, x->data);
    if (!y) return NULL;
    y->room = x->room;
    if (rw_tensor_count(x) != rw_tensor_count(y)) {
        rw_tape_fail(t, RW_E_SHAPE, "reshape: %lld elements cannot become %lld", (long long)rw_tensor_count(x),
                     (long long)rw_tensor_count(y));
        return NULL;
    }
    rw_node_new(t, reshape_backward, &x, 1, &y, 1, 0, 0);
    return y;
}

/* -- markers ---------------------------------------------------------------------------------------------- */

void rw_tape_on_buckets(rw_tape *t, rw_bucket_calls calls) {
    t->calls = calls;
}

static void marker_backward(rw_tape *t, rw_node *n) {
    if (t->calls.done) t->calls.done(t->calls.ctx, n->bucket);
}

void rw_tape_marker(rw_tape *t, int bucket) {
    if (rw_tape_failed(t)) return;
    t->bucket = bucket;
    need_bucket(t, bucket);
    add_node(t, marker_backward, NULL, 0, NULL, 0, 0, 0);
}

/* -- recompute --------------------------------------------------------------------------------------------- */

typedef struct {
    rw_recompute_fn fn;
    int64_t ctx[RW_RECOMPUTE_CTX / sizeof(int64_t)]; /* a copy */
} recompute_args;

static void recompute_backward(rw_tape *t, rw_node *n) {
    const recompute_args *a = n->args;
    size_t first = t->nodes.n;
    rw_scope s = rw_scope_begin(t);
    rw_tensor *again[RW_RECOMPUTE_MAX] = {0};
    rw_tape_record(t, true);
    a->fn(t, a->ctx, n->in, again);
    rw_tape_record(t, false);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && again[i] && again[i]->requires_grad) rw_grad_move(t, again[i], n->out[i]);
    rw_scope_end(t, s, NULL, 0);
    walk_back(t, first);
}

/* Recorded in any case: parameters that fn uses may want a gradient when no input does. */
void rw_tape_recompute(rw_tape *t, rw_recompute_fn fn, const void *ctx, size_t n_ctx, rw_tensor *const *in, int n_in,
                       rw_tensor **out, int n_out) {
    if (rw_tape_failed(t)) return;
    assert(n_ctx <= RW_RECOMPUTE_CTX && n_out <= RW_RECOMPUTE_MAX);
    rw_scope s = rw_scope_begin(t);
    bool was = rw_tape_record(t, false);
    fn(t, ctx, in, out);
    rw_tape_record(t, was);
    rw_scope_end(t, s, out, n_out);
    rw_node *n = add_node(t, recompute_backward, in, n_in, out, n_out, ~0u, 0);
    recompute_args a = {.fn = fn};
    if (n_ctx) memcpy(a.ctx, ctx, n_ctx);
    rw_node_args(t, n, &a, sizeof a);
}
