/* Where each parameter lies: one layout for values, gradients and moments.
 *
 * A model declares its parameters in the official order (the order of a saved file). The layout then places them:
 * by bucket (the embedding, each block, the head), inside a bucket by `place`, so that what is multiplied together
 * lies together. Matrices and vectors have flat buffers of their own, because a device that computes in bf16 keeps its
 * matrices narrow and its vectors wide; so a bucket is a range of matrices and a range of vectors. Trainable parameters
 * share flat buffers for values, gradients and moments; frozen ones have buffers of values alone. Offsets are in
 * elements. */
#ifndef RW_TENSOR_LAYOUT_H
#define RW_TENSOR_LAYOUT_H

#include "core/base/arena.h"
#include "core/tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_SEGMENT_ALIGN 64  /* elements: parameters begin on cache lines                      */
#define RW_BUCKET_ALIGN  256 /* elements: both ranges of a bucket cut into equal shards, for up to this many */

/* Matrices are operands of products. Vectors are everything small that moves by less than a bf16 ulp: mixes, decays,
 * norms, and what kernels want wide whatever its shape (time_faaaa [H,N]). */
typedef enum { RW_MATRIX, RW_VECTOR, RW_PARAM_CLASSES } rw_param_class;

typedef struct {
    const char *name; /* official                                                  */
    rw_param_class cls;
    int ndim;
    int64_t shape[RW_MAX_DIM];  /* logical                                                   */
    int64_t n;                  /* elements                                                  */
    int bucket;                 /* 0 embedding, 1 + layer, 1 + L the rest                    */
    int place;                  /* order inside the bucket                                   */
    const struct rw_role *role; /* what it is to its model (core/model/arch.h); NULL: nobody said */
    bool trainable;
    double lr_scale; /* of its group (core/optim); 1                              */
    bool decay;      /* weight decay applies                                      */
    int64_t offset;  /* first element in the flat buffers of its class            */
} rw_segment;

/* What official files hold beside parameters (copy_mask): element i is value(ctx, i). It takes no memory, and is
 * written before the parameters. */
typedef struct {
    const char *name;
    int ndim;
    int64_t shape[RW_MAX_DIM];
    double (*value)(const void *ctx, int64_t i);
    const void *ctx;
} rw_buffer;
#define RW_MAX_BUFFERS 2

/* Elements [first, first + n) of the flat buffers of trainable parameters; multiples of RW_BUCKET_ALIGN. */
typedef struct {
    int64_t first, n;
} rw_flat_range;

typedef struct {
    rw_flat_range part[RW_PARAM_CLASSES];
} rw_bucket;

typedef struct {
    rw_segment *segments; /* owned; official order                                     */
    size_t n_segments, cap;
    rw_bucket *buckets; /* owned; after rw_layout_place()                            */
    int n_buckets;
    rw_buffer buffers[RW_MAX_BUFFERS];
    int n_buffers;
    int64_t n_params;                                                  /* elements of all tensors */
    int64_t n_trainable[RW_PARAM_CLASSES], n_frozen[RW_PARAM_CLASSES]; /* of the flat buffers, padding included */
} rw_layout;

/* Appends a parameter, trainable, scale 1. `name` must outlive the layout. */
rw_status rw_layout_add(rw_layout *l, const char *name, rw_param_class cls, int ndim, const int64_t *shape, int bucket,
                        int place, rw_error *err);
/* Appends a buffer; what it points to must outlive the layout. */
rw_status rw_layout_add_buffer(rw_layout *l, const rw_buffer *buffer, rw_error *err);
/* Sets the offsets; called once all are there and `trainable` is decided. */
rw_status rw_layout_place(rw_layout *l, rw_error *err);
int rw_layout_find(const rw_layout *l, const char *name); /* index, or -1 */
bool rw_layout_has_buffer(const rw_layout *l, const char *name);
void rw_layout_done(rw_layout *l);

/* -- parameters: a layout's buffers on a device ------------------------------------------------------- */

typedef enum {
    RW_PARAM_VALUE,  /* of trainable parameters: what the ops read                             */
    RW_PARAM_FROZEN, /* values of the others                                                   */
    RW_PARAM_MASTER, /* wide copies of matrices that the optimizer moves                       */
    RW_PARAM_GRAD,
    RW_PARAM_M, /* Adam's moments */
    RW_PARAM_V,
    RW_PARAM_KINDS
} rw_param_kind;

/* How matrices are stored. All-zero: everything in the device's compute dtype, optimizer state wide. Vectors are always
 * wide and need no master. */
typedef struct {
    rw_dtype value;    /* the numbers that a value can be; NONE: all of the compute dtype       */
    rw_dtype gradient; /* the same of a gradient                                                */
    rw_dtype moment;   /* NONE: wide                                                            */
    bool master;
} rw_storage;

/* One kind of one class. The CPU computes in fp32 whatever the storage says; there a value or a gradient lies in
 * `dtype` but is always a number of `grid`, so that a run on the CPU is the reference for a device that has bf16. */
typedef struct {
    rw_device *device; /* where `data` lies */
    rw_dtype dtype, grid;
    int64_t n;  /* elements; 0: there is no such buffer */
    void *data; /* owned */
} rw_flat;

typedef struct {
    rw_device *device;
    rw_layout layout;   /* owned                                                     */
    rw_tensor *tensors; /* owned; tensors[i] is segments[i]                          */
    rw_flat flat[RW_PARAM_KINDS][RW_PARAM_CLASSES];
    rw_adamw_range *ranges[RW_PARAM_CLASSES]; /* owned, on the device: the trainable ones */
    int64_t n_ranges[RW_PARAM_CLASSES];
    void *staging; /* owned, on the host; NULL where the device's memory is the host's */
} rw_params;

/* Takes the layout over (placed; emptied on success). `train`: gradients, moments and master copies too. */
rw_status rw_params_new(rw_params **out, rw_device *device, rw_layout *layout, const rw_storage *storage, bool train,
                        rw_error *err);
void rw_params_free(rw_params *p);
rw_tensor *rw_params_find(rw_params *p, const char *name); /* NULL: no such parameter */
/* Bytes of a kind, both classes, and of the table of ranges. */
int64_t rw_params_bytes(const rw_params *p, rw_param_kind kind);
int64_t rw_params_table_bytes(const rw_params *p);
/* Uploads the ranges (offset, scale, decay) again after a change of groups. */
void rw_params_upload_ranges(rw_params *p);
/* Before the first micro batch of a step: no gradient is there yet. */
void rw_params_begin_step(rw_params *p);
/* After the last: gradients that nothing wrote become exactly 0, and all are rounded to the grid. */
void rw_params_finish_grads(rw_params *p);

/* Elements [first, first+n) of parameter i in logical order, to or from host memory that holds `dtype`. VALUE means
 * what is known best: reading takes the master where there is one, or the frozen value; writing sets value and master.
 * Conversions round to nearest. */
void rw_params_get(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, rw_dtype dtype, void *host);
void rw_params_set(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, rw_dtype dtype,
                   const void *host);
/* Where the host can write what is known best of parameter i, in *dtype; NULL: the buffer lies elsewhere. Afterwards
 * rw_params_set() from that very address puts the rest in order. So a file is read without memory for a second copy. */
void *rw_params_host(rw_params *p, rw_param_kind kind, size_t i, rw_dtype *dtype);

#ifdef __cplusplus
}
#endif
#endif
