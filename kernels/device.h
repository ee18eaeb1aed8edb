/* A device: where tensors live and which kernels work on them.
 *
 * kernels/ops.def lists the kernels; from it come the table below and one instance per device (cpu_f32 and
 * cpu_f64 from the same files, meta, cuda), so that a missing kernel fails when the program is built. Kernels
 * take plain pointers and sizes in one struct. No kernel allocates: scratch and `saved` come from the caller, who
 * asks a query row of the same table how many bytes they need.
 *
 * The contract of every args struct
 * - dtype: of activations and matrices and of everything declared `void *` without another remark; the narrow one. What
 *   is marked wide (vectors, their gradients, statistics, states, losses) has rw_wide(dtype); sums run in it too.
 *   cpu_f32: F32, cpu_f64: F64, for both.
 * - rows are packed: R rows of n_seq sequences, cu_seqlens[n_seq + 1] on the device; NULL: n_seq of equal length.
 *   Empty sequences are allowed (so a fixed maximum can be padded); they pass their state through.
 * - a state comes in (NULL: zeros; stride 0: one state shared by all sequences) and another goes out (NULL: not
 * wanted).
 * - a NULL gradient pointer is not wanted and its work is skipped. A NULL incoming gradient counts as zeros.
 * - `add` has one bit per gradient (RW_<OP>_ADD_<name>): set: added to what is there; clear: overwritten.
 * - inputs may not alias outputs unless the header says so.
 * - a query never asks for less when R or n_seq grow: what it says for the largest pass is enough for all.
 * - numbers that change from step to step are read from rw_exec.scalars and rw_exec.own, on the device.
 * - the result does not depend on the order in which threads run. */
#ifndef RW_KERNELS_DEVICE_H
#define RW_KERNELS_DEVICE_H

#include "core/base/dtype.h"
#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the host writes, anew for each micro batch; kernels only read it. */
typedef struct {
    int64_t step; /* from 1 */
    double lr;    /* before the scale of a parameter's group */
    double weight_decay;
    double normaliser;  /* 1 / sum of the loss mask over the whole step */
    double l2wrap_mask; /* L2Wrap: factor on mask[i] * logit at the argmax (v7: 1e-4 * normaliser) */
    double l2wrap_rows; /* L2Wrap: factor for every row (v5: 1e-4 / rows of the micro batch) */
    uint64_t seed;
} rw_step_scalars;

/* What the device owns: kernels write it, and it stays from step to step. The host reads it after a step; it writes it
 * only where a run begins, never over the work of kernels. */
typedef struct {
    int64_t step;           /* that these numbers belong to, from 1; 0: none yet                       */
    int64_t updates;        /* steps that changed the weights: Adam's t                                */
    int64_t skipped;        /* steps that changed nothing, because loss or gradient were not finite    */
    int64_t skipped_in_row; /* the last of them without an update between; 0: this step was an update  */
    double loss;            /* sum of mask * loss over the micro batches of the step                   */
    double grad_sumsq;      /* sum of squares of all gradients, which still contain loss_scale         */
    double eval_loss;       /* sum of mask * loss of the batch evaluated last                          */
    double grad_norm;       /* without loss_scale                                                      */
    double clip_coef;       /* min(1, max_norm / (grad_norm + 1e-6)); 1 without clipping               */
    double grad_scale;      /* clip_coef / loss_scale: what adamw multiplies a gradient by             */
    double loss_scale;      /* head_loss multiplies its gradient by it; 0 stands for 1                 */
    int64_t good_steps;     /* updates since loss_scale changed last; counted where it is dynamic      */
} rw_device_scalars;

static inline double rw_loss_scale(const rw_device_scalars *s) {
    return s->loss_scale == 0 ? 1 : s->loss_scale;
}

typedef struct rw_device rw_device;

/* How a kernel runs. */
typedef struct {
    int threads;              /* CPU: OpenMP threads */
    rw_step_scalars *scalars; /* both on the device */
    rw_device_scalars *own;
    void *impl; /* the device's own: CUDA stream, cuBLASLt handle, ... */
} rw_exec;

#define RW_MAX_MIX 6

#include "kernels/adamw.h"
#include "kernels/channel_mix.h"
#include "kernels/copy_head.h"
#include "kernels/ddlerp.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/head_loss.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/reduce.h"
#include "kernels/token_shift.h"
#include "kernels/wkv6.h"
#include "kernels/wkv7.h"

typedef struct rw_kernels {
    const char *name;
#define RW_KERNEL(name, args) void (*name)(const args *a, const rw_exec *ex);
#define RW_QUERY(name, args)  int64_t (*name)(const args *a, const rw_exec *ex); /* bytes */
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
} rw_kernels;

/* -- working ahead: optional ------------------------------------------------------------------------------ */

/* A device that queues its work lets the host go on. Two queues, each in its own order: kernels, with zero, upload and
 * download of rw_device; and copies beside them. A mark is set in a queue and passed when all before it is done; a mark
 * that was never set has been passed. */
typedef struct rw_mark rw_mark;
typedef enum { RW_QUEUE_KERNELS, RW_QUEUE_COPIES } rw_queue;
typedef struct {
    /* Host memory for the copies below, zeroed. They return at once: leave the memory alone until a mark is passed that
     * was set behind the copy. */
    void *(*host_alloc)(rw_device *d, int64_t n_bytes);
    void (*host_free)(rw_device *d, void *p, int64_t n_bytes);
    /* in the queue of copies */
    void (*upload)(rw_device *d, void *dst, const void *host, int64_t n_bytes);
    /* in the queue of kernels; move: from device to device */
    void (*move)(rw_device *d, void *dst, const void *src, int64_t n_bytes);
    void (*download)(rw_device *d, void *host, const void *src, int64_t n_bytes);

    rw_mark *(*mark_new)(rw_device *d); /* NULL: no memory */
    void (*mark_free)(rw_device *d, rw_mark *m);
    void (*mark_set)(rw_device *d, rw_mark *m, rw_queue q);
    void (*mark_wait)(rw_device *d, rw_mark *m, rw_queue q); /* what comes into q from here on waits for m */
    bool (*mark_passed)(rw_device *d, rw_mark *m);
    rw_status (*mark_sync)(rw_device *d, rw_mark *m, rw_error *err); /* the host waits */
} rw_device_ahead;

/* A piece of work, recorded once and replayed. From begin to end kernels and zero are recorded and do not run; nothing
 * else may be called. A replay reads what the addresses hold then: numbers that change go through the scalars. */
typedef struct rw_graph rw_graph;
typedef struct {
    rw_status (*begin)(rw_device *d, rw_error *err);
    rw_status (*end)(rw_device *d, rw_graph **out, rw_error *err); /* out NULL: what was recorded is dropped */
    rw_status (*replay)(rw_device *d, rw_graph *g, rw_error *err); /* queued like a kernel */
    void (*free)(rw_device *d, rw_graph *g);
} rw_device_record;

/* What a device decides by itself for each shape that it meets, where that shows in the last bits: a list of lines, the
 * first of which names what the others hold for (a library's version, a chip). */
typedef struct {
    /* Of the shapes met so far, and what a preset says of others. For rw_free(); NULL: no memory. */
    char *(*list)(rw_device *d);
    /* Shapes that are met from now on are done as such a list says. E_UNSUPPORTED: it holds for something else, and
     * nothing is taken; the message says what differs. */
    rw_status (*preset)(rw_device *d, const char *list, rw_error *err);
} rw_device_choices;

/* -- a device ------------------------------------------------------------------------------------------------ */

typedef enum { RW_DEVICE_CPU, RW_DEVICE_META, RW_DEVICE_CUDA } rw_device_kind;

struct rw_device {
    rw_device_kind kind;
    rw_dtype compute;   /* dtype of activations and gradients */
    const char *name;   /* "cpu", "meta", "cuda" */
    const char *detail; /* e.g. BLAS kernels, GPU name; for people */
    const rw_kernels *kernels;
    rw_exec exec;
    /* Memory of the device, 256-byte aligned, zeroed. meta hands out addresses that must not be used. */
    void *(*alloc)(rw_device *d, int64_t n_bytes); /* NULL when there is none */
    void (*free)(rw_device *d, void *p, int64_t n_bytes);
    void (*zero)(rw_device *d, void *p, int64_t n_bytes);
    void (*upload)(rw_device *d, void *dst, const void *host, int64_t n_bytes);
    void (*download)(rw_device *d, void *host, const void *src, int64_t n_bytes);
    rw_status (*synchronize)(rw_device *d, rw_error *err); /* waits, reports what failed since the last */
    void (*close)(rw_device *d);
    const rw_device_ahead *ahead;     /* NULL: what is asked for is done when the call returns */
    const rw_device_record *record;   /* NULL: it cannot record                                */
    const rw_device_choices *choices; /* NULL: none to speak of                              */
    /* running state */
    int64_t own_bytes;              /* of the device, beside alloc: what the backend took for itself; CPU: 0 */
    int64_t memory_bytes;           /* of the device, own_bytes included, that this process can have; CPU: 0 */
    int64_t live_bytes, peak_bytes; /* through alloc */
    void *impl;
};

/* CPU with `threads` OpenMP threads, computing in F32 or F64. Chooses the BLAS kernels for the processor, then
 * opens OpenBLAS; E_DEVICE says what to install when it is not there. */
rw_status rw_device_open_cpu(rw_device **out, rw_dtype compute, int threads, rw_error *err);
/* Computes nothing, allocates nothing; its queries (scratch, saved) answer as those of `like`. */
rw_status rw_device_open_meta(rw_device **out, const rw_device *like, rw_error *err);
/* A GPU and how it computes. All zero: the first one, in f32. */
typedef struct {
    int index;        /* as nvidia-smi -L counts                                                      */
    rw_dtype compute; /* F32, BF16 or F16                                                             */
    bool tf32;        /* F32 only: products may round their factors to 10 bits behind the binary point */
    bool timed;       /* of the ways to make a product, the fastest one as measured where its shape is met first */
} rw_gpu_choice;
/* E_DEVICE with the reason and what to do (no driver, no GPU, no cuBLASLt, built without CUDA); E_UNSUPPORTED: this GPU
 * does not compute so. */
rw_status rw_device_open_cuda(rw_device **out, const rw_gpu_choice *choice, rw_error *err);

static inline void rw_device_close(rw_device *d) {
    if (d) d->close(d);
}

/* First row of sequence i (i = n_seq: R). */
static inline int64_t rw_seq_row(const int32_t *cu_seqlens, int64_t n_seq, int64_t R, int64_t i) {
    if (cu_seqlens) return cu_seqlens[i];
    return n_seq > 0 ? R / n_seq * i : 0;
}

#ifdef __cplusplus
}
#endif
#endif
