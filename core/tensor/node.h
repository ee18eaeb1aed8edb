/* What the tape shares with the ops: nodes, and how gradients are asked for. */
#ifndef RW_TENSOR_NODE_H
#define RW_TENSOR_NODE_H

#include "core/tensor/tensor.h"

#define RW_NODE_IN  24
#define RW_NODE_OUT 8

struct rw_node {
    void (*backward)(rw_tape *t, rw_node *n);
    void (*again)(rw_tape *t, rw_node *n, void *const *to); /* see rw_node_again(); or NULL                */
    const void *args;          /* a copy of what the op gave to rw_node_args(), on the tape */
    size_t args_begin;         /* where the tape's arguments ended before it                */
    rw_tensor *in[RW_NODE_IN]; /* may hold NULL */
    rw_tensor *out[RW_NODE_OUT];
    int n_in, n_out;            /* no outputs: backward is called in any case */
    int bucket;                 /* see rw_tape_marker()                       */
    uint32_t keep_in, keep_out; /* bits of in and out whose memory this node holds */
    bool wants_lazy;            /* some of these are lazy                          */
    int32_t kept[6];            /* shares that forward saved for this node alone, -1 ends */
};

/* A node for an op whose forward ran; NULL when nothing is to be recorded. Inputs named in `keep_in` and outputs
 * in `keep_out` (bit masks) stay in memory until the node's backward ran. */
rw_node *rw_node_new(rw_tape *t, void (*backward)(rw_tape *, rw_node *), rw_tensor *const *in, int n_in,
                     rw_tensor *const *out, int n_out, uint32_t keep_in, uint32_t keep_out);
/* Keeps a copy of what the op knows (sizes, options), n->args. No addresses of activations: they may have moved when
 * the backward pass comes. Nothing for NULL. */
void rw_node_args(rw_tape *t, rw_node *n, const void *args, size_t n_bytes);
/* The node can make its outputs again from the inputs that it keeps and what it saved: again() writes output i to
 * to[i], where that is not NULL, with the bits of the forward pass. Nothing for NULL. */
void rw_node_again(rw_node *n, void (*again)(rw_tape *t, rw_node *n, void *const *to));
bool rw_tape_recording(const rw_tape *t);
bool rw_tape_failed(const rw_tape *t);
void rw_tape_fail(rw_tape *t, rw_status code, const char *fmt, ...) RW_PRINTF(3, 4);

/* Rows and sequences that memory is taken for in a pass that has `now`. */
int64_t rw_most_rows(const rw_tape *t, int64_t now);
int64_t rw_most_seq(const rw_tape *t, int64_t now);

/* Counted shares of the arena. take: one reference; NULL data and -1 when memory is short (the tape failed). */
int32_t rw_share_take(rw_tape *t, int64_t n_bytes, void **data);
void rw_share_retain(rw_tape *t, int32_t share);
void rw_share_release(rw_tape *t, int32_t share);
void *rw_share_data(rw_tape *t, int32_t share); /* NULL for -1 */

/* Scratch for one kernel: taken from the arena, given back at once after the launch (the device works in order). */
void *rw_scratch_take(rw_tape *t, int64_t n_bytes, int32_t *share);

/* Where a node's backward writes the gradient of x: NULL when it is not wanted. *add tells whether the kernel must
 * add (set `bit` in *add) or overwrite. Counts as written. */
void *rw_grad_into(rw_tape *t, rw_tensor *x, uint32_t bit, uint32_t *add);
/* x's gradient becomes that of y, which is used up (the residual connection); added when x has one already. */
void rw_grad_move(rw_tape *t, rw_tensor *x, rw_tensor *y);
/* n matrices [rows of x, cols] in one share, at one stride; so are their gradients, later. place[i]: where out[i] is
 * among them; NULL: in order. False when memory is short. */
bool rw_tape_slab(rw_tape *t, int n, const int *place, const rw_tensor *x, int64_t cols, rw_tensor **out);
/* A tensor over a share; the open scope owns the reference that the caller gives. */
rw_tensor *rw_tensor_over(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, int32_t share, void *data);

#endif
