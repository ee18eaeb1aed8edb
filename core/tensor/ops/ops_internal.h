/* What the families of ops share: checks that turn a mistake into the tape's error, and small helpers around the tape.
 *
 * An op is a forward that checks, makes its outputs, runs the kernel and records itself, and a backward that points
 * the kernel's arguments at gradients. What is kept for the backward pass is named in the masks given to
 * rw_node_new(). The node keeps sizes, never addresses of activations: those are read from the tensors each time a
 * kernel runs. */
#ifndef RW_TENSOR_OPS_INTERNAL_H
#define RW_TENSOR_OPS_INTERNAL_H

#include "core/tensor/node.h"

#define KEEP(i) (1u << (i))
#define EXEC(t) (&rw_tape_device(t)->exec)
#define KERN(t) (rw_tape_device(t)->kernels)
#define LEN(a)  ((int)(sizeof(a) / sizeof *(a)))

/* -- shapes ----------------------------------------------------------------------------------------- */

static inline int64_t rw_last_dim(const rw_tensor *x) {
    return x->ndim ? x->shape[x->ndim - 1] : 1;
}
/* All leading dimensions joined. */
static inline int64_t rw_rows_of(const rw_tensor *x) {
    return rw_last_dim(x) ? rw_tensor_count(x) / rw_last_dim(x) : 0;
}
/* The same of the largest pass. */
static inline int64_t rw_room_rows(const rw_tensor *x) {
    return rw_last_dim(x) ? x->room / rw_last_dim(x) : 0;
}

#define RW_SHAPE_TEXT 96 /* four dimensions of any size fit */
const char *rw_shape_text(const rw_tensor *x, char buf[RW_SHAPE_TEXT]);

/* -- checks: false, with the tape failed, when something is wrong -------------------------------------- */

/* x is there, in this dtype, and has n elements (n < 0: any number). */
bool rw_op_typed(rw_tape *t, const char *op, const char *what, const rw_tensor *x, rw_dtype dtype, int64_t n);

/* Activations and matrices. */
static inline bool rw_op_narrow(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    return rw_op_typed(t, op, what, x, rw_tape_device(t)->compute, n);
}
/* Vectors and states. */
static inline bool rw_op_wide(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    return rw_op_typed(t, op, what, x, rw_wide(rw_tape_device(t)->compute), n);
}
/* Of plain elementwise ops. */
static inline bool rw_op_either(rw_tape *t, const char *op, const char *what, const rw_tensor *x) {
    rw_dtype narrow = rw_tape_device(t)->compute, wide = rw_wide(narrow);
    return rw_op_typed(t, op, what, x, x && x->dtype == wide ? wide : narrow, -1);
}
/* x may be missing. */
static inline bool rw_op_narrow_opt(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    return !x || rw_op_narrow(t, op, what, x, n);
}
static inline bool rw_op_wide_opt(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    return !x || rw_op_wide(t, op, what, x, n);
}
/* Two vectors that belong together: both or none. */
static inline bool rw_op_wide_pair(rw_tape *t, const char *op, const char *what_a, const rw_tensor *a,
                                   const char *what_b, const rw_tensor *b, int64_t n) {
    return (!a && !b) || (rw_op_wide(t, op, what_a, a, n) && rw_op_wide(t, op, what_b, b, n));
}
/* The borders fit the rows of x, and these are no more than were announced. */
bool rw_op_check_rows(rw_tape *t, const char *op, rw_rows rows, const rw_tensor *x);
/* Two factors of a product, b transposed or not. */
bool rw_product_fits(rw_tape *t, const rw_tensor *a, const rw_tensor *b, bool trans_b);
rw_matmul_args rw_product_sizes(const rw_tensor *a, const rw_tensor *b, bool trans_b);
/* A carried state of n_seq rows of `each` elements, or one shared row. Returns the stride; -1: wrong. */
int64_t rw_op_state_stride(rw_tape *t, const char *op, rw_tensor *s, rw_rows rows, int64_t each);

/* -- outputs: memory is taken for the largest pass, which x tells ------------------------------------------- */

rw_tensor *rw_op_like(rw_tape *t, const rw_tensor *x);
/* [rows of x, cols] */
rw_tensor *rw_op_matrix(rw_tape *t, const rw_tensor *x, int64_t cols);
/* Where a state, wide, [n_seq, each...] goes: `to`, over memory of the caller, or a new tensor when that is NULL. */
rw_tensor *rw_op_state_out(rw_tape *t, const char *op, rw_tensor *to, rw_rows rows, int ndim, const int64_t *each);

static inline void rw_op_forget(rw_tensor **out, int n) {
    for (int i = 0; i < n; i++) out[i] = NULL;
}
static inline void *rw_data_of(const rw_tensor *x) {
    return x ? x->data : NULL;
}
static inline void *rw_grad_of(const rw_tensor *x) {
    return x ? x->grad : NULL;
}

/* Memory that a node keeps for itself (statistics, checkpoints of a state): held as kept[i] of the node. */
typedef struct {
    int32_t share;
    void *data;
} rw_op_saved;
rw_op_saved rw_op_save(rw_tape *t, int64_t n_bytes, bool wanted);
/* Mean and 1 / deviation, wide, `each` of them per row of x. */
rw_op_saved rw_op_save_stats(rw_tape *t, const rw_tensor *x, int64_t each, bool wanted);
void rw_op_stats(const rw_op_saved *s, const rw_tensor *x, int64_t each, void **mean, void **rstd);
/* The node holds it from now on; nothing is recorded: n is NULL. */
void rw_op_keep(rw_node *n, int i, rw_op_saved s);
rw_op_saved rw_op_kept(rw_tape *t, const rw_node *n, int i);
/* Whether an op over these inputs will be recorded. */
bool rw_op_records(rw_tape *t, rw_tensor *const *in, int n);

#endif
