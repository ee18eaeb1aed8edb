/* Tensors and the tape.
 *
 * A tensor is a dense row-major view of device memory. Activations belong to a tape: their memory is a piece of the
 * step arena, counted, and given back when the last of these lets go of it: the open scope in which it was made,
 * nodes that keep it for the backward pass, other views of it. Parameters belong to their layout (layout.h); their
 * gradients lie in flat buffers.
 *
 * Ops (ops.h) check shapes, run a kernel and record themselves when an input needs a gradient. They do not ask where
 * they run. After an error the tape's ops return NULL and do nothing, and NULL inputs are passed through quietly, so
 * that a model is written as plain expressions and checks once: rw_tape_error(). */
#ifndef RW_TENSOR_TENSOR_H
#define RW_TENSOR_TENSOR_H

#include "core/base/error.h"
#include "core/tensor/step_arena.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_MAX_DIM 4

struct rw_node;
struct rw_slab;

typedef struct rw_tensor {
    rw_dtype dtype;
    int ndim;
    int64_t shape[RW_MAX_DIM];
    int64_t room;     /* elements that its memory and its gradient's have: the count of the largest pass */
    void *data;       /* on the device                                                        */
    void *grad;       /* same shape; NULL: none yet (an activation), or not trainable           */
    const char *name; /* parameters: the official name; else NULL                             */
    bool requires_grad;
    bool is_param; /* grad is a fixed buffer; grad_written says whether it holds this step's */
    bool grad_written;
    rw_dtype grad_dtype;    /* of grad; NONE: as dtype (matrices may sum theirs in a wide one)            */
    rw_epilogue activation; /* made by a product with it, see ops/matmul.c                            */
    bool grad_inside;       /* grad is that of what the activation got                                */
    int32_t n_uses;         /* recorded ops that have it as input                                     */
    bool lazy;              /* no node holds its memory: it is made again, see rw_tape_forget()       */
    bool again;             /* and that happened: its share has a reference for each node that wants it */
    int32_t n_wanted;       /* of a lazy one: nodes that will read it in the backward pass            */
    struct rw_node *maker;  /* can make it again; or NULL                                             */
    struct rw_slab *slab;   /* memory shared with others at one stride; or NULL                       */
    int slab_at;            /* which of them it is                                                    */
    int32_t share;          /* tape's counted share of the arena, of `data`; -1: memory of somebody else           */
    int32_t grad_share;     /* the same of an activation's `grad`                                    */
} rw_tensor;

static inline int64_t rw_tensor_count(const rw_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}
static inline int64_t rw_tensor_bytes(const rw_tensor *t) {
    return rw_tensor_count(t) * rw_dtype_bytes(t->dtype);
}

static inline rw_dtype rw_grad_dtype(const rw_tensor *t) {
    return t->grad_dtype != RW_DTYPE_NONE ? t->grad_dtype : t->dtype;
}

/* Equal lengths or borders on the device, of everything packed rows go through. */
typedef struct {
    int64_t n_rows, n_seq;
    const int32_t *cu_seqlens; /* [n_seq+1] on the device; NULL: n_seq sequences of n_rows / n_seq rows */
} rw_rows;

/* -- the tape -------------------------------------------------------------------------------------- */

typedef struct rw_tape rw_tape;
typedef struct rw_node rw_node;

/* Records on `device`; activations come from `arena`, which the caller keeps alive. */
rw_status rw_tape_new(rw_tape **out, rw_device *device, rw_step_arena *arena, rw_error *err);
void rw_tape_free(rw_tape *t);
/* Forgets everything recorded and gives all memory back to the arena. Keeps its own tables. */
void rw_tape_reset(rw_tape *t);
/* With recording off nothing is kept for a backward pass (evaluation, generation). Returns the old state. */
bool rw_tape_record(rw_tape *t, bool on);
rw_device *rw_tape_device(rw_tape *t);
/* Memory is taken for so many rows and sequences, however few a pass has; 0 (at first): for what it has. So all passes
 * make the same requests of the step arena in the same order: what the largest needs is enough for every other, and
 * addresses do not depend on the shape. A pass of more is an error. */
void rw_tape_at_most(rw_tape *t, int64_t rows, int64_t sequences);
/* RW_OK, or the first error of an op since the last reset. */
rw_status rw_tape_error(const rw_tape *t, rw_error *err);

/* Scopes: what is made inside and not kept by a node is given back at the end. `keep` survives into the
 * scope around. A forward pass opens one for each block of the model. */
typedef int32_t rw_scope;
rw_scope rw_scope_begin(rw_tape *t);
void rw_scope_end(rw_tape *t, rw_scope s, rw_tensor *const *keep, int n_keep);

/* Lets go of an activation before its scope ends; it must not be used by new ops any more. */
void rw_tape_drop(rw_tape *t, rw_tensor *x);

/* A new uninitialised activation; data on the device. room: elements to take memory for, at least its count; 0: its
 * count. */
rw_tensor *rw_tape_tensor(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, int64_t room);
/* A tensor over memory that somebody else owns (inputs, states). */
rw_tensor *rw_tape_wrap(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, void *data);
/* The same data with another shape; gradients flow through. */
rw_tensor *rw_tape_reshape(rw_tape *t, rw_tensor *x, int ndim, const int64_t *shape);

/* Adds `grad` (device memory of x's shape) to the gradient of x: where a backward pass starts. */
void rw_tape_seed_grad(rw_tape *t, rw_tensor *x, const void *grad);
/* Walks the nodes backwards; gradients of parameters are overwritten by their first and added to by later ones
 * (rw_tensor.grad_written). The tape is empty afterwards, except for gradients of leaves (wrapped tensors with
 * requires_grad), which stay until reset. */
rw_status rw_tape_backward(rw_tape *t, rw_error *err);

/* -- lazy tensors: forget what an op made, and make it again --------------------------------------------------- */

typedef enum {
    RW_FORGET_MIX = 1, /* the mixes of token_shift and ddlerp       */
    RW_FORGET_FFN = 2, /* the inner activation of a channel mix     */
} rw_forget;

/* Which kinds are forgotten from now on (bits); 0 at first. Returns what it was. */
unsigned rw_tape_forgets(rw_tape *t, unsigned kinds);
/* x, just made by an op and used by none yet, is of this kind. When that is forgotten, the memory of x goes with its
 * scope; the first node of the backward pass that reads x has its op run again. The gradients have the same bits. Does
 * nothing where the op cannot: token_shift and ddlerp can (and say so themselves), products without c can. */
void rw_tape_forget(rw_tape *t, rw_tensor *x, rw_forget kind);

/* -- buckets: whoever brings parameters and takes gradients away ------------------------------------------------- */

/* Parameters come in buckets (layout.h). A call may be NULL; each may put work of its own in the device's order. */
typedef struct {
    /* Parameters of the bucket are read from now on, until another bucket is needed; on the way back too. */
    void (*needed)(void *ctx, int bucket);
    /* The gradients of this pass are in place: no later node reads or writes the bucket. Of several forward passes that
     * one walk goes back over, each has its own; the last call counts. */
    void (*done)(void *ctx, int bucket);
    void *ctx;
} rw_bucket_calls;

void rw_tape_on_buckets(rw_tape *t, rw_bucket_calls calls);
/* What follows belongs to this bucket, up to the next marker. The bucket is needed; when the walk comes back here it is
 * done. */
void rw_tape_marker(rw_tape *t, int bucket);

/* -- recompute: forget and compute again ------------------------------------------------------------- */

/* Computes out[n_out] from in[n_in] with ops on `t`; pure: called again in the backward pass with the same inputs
 * and must do the same. Inputs and outputs may be NULL where the function allows it. */
typedef void (*rw_recompute_fn)(rw_tape *t, const void *ctx, rw_tensor *const *in, rw_tensor **out);
#define RW_RECOMPUTE_MAX 8
#define RW_RECOMPUTE_CTX 128

/* Gradient checkpointing: runs fn without recording, keeps only its inputs and outputs; the backward pass runs
 * it again, recording. The n_ctx <= RW_RECOMPUTE_CTX bytes at ctx are copied. Outputs must not be inputs. */
void rw_tape_recompute(rw_tape *t, rw_recompute_fn fn, const void *ctx, size_t n_ctx, rw_tensor *const *in, int n_in,
                       rw_tensor **out, int n_out);

#ifdef __cplusplus
}
#endif
#endif
