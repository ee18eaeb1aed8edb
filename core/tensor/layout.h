/* Where each parameter lies: one layout for values, gradients and moments.
 *
 * A model declares its parameters in the official order (the order of a saved file). The layout then places them:
 * by bucket (the embedding, each block, the head), inside a bucket by `place`, so that what is multiplied together
 * lies together. Trainable parameters share flat buffers for values, gradients and moments; frozen ones have a buffer
 * of values alone. Offsets are in elements of the compute dtype. */
#ifndef RW_TENSOR_LAYOUT_H
#define RW_TENSOR_LAYOUT_H

#include "core/base/arena.h"
#include "core/tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_SEGMENT_ALIGN 64  /* elements: parameters begin on cache lines                      */
#define RW_BUCKET_ALIGN  256 /* elements: a bucket cuts into equal shards for up to this many  */

typedef struct {
    const char *name; /* official                                                  */
    int ndim;
    int64_t shape[RW_MAX_DIM];  /* logical                                                   */
    int64_t n;                  /* elements                                                  */
    int bucket;                 /* 0 embedding, 1 + layer, 1 + L the rest                    */
    int place;                  /* order inside the bucket                                   */
    const struct rw_role *role; /* what it is to its model (core/model/arch.h); NULL: nobody said */
    bool trainable;
    double lr_scale; /* of its group (core/optim); 1                              */
    bool decay;      /* weight decay applies                                      */
    int64_t offset;  /* first element in its flat buffer                          */
} rw_segment;

typedef struct {
    rw_segment *segments; /* owned; official order                                     */
    size_t n_segments, cap;
    int64_t n_params;              /* elements of all tensors                                   */
    int64_t n_trainable, n_frozen; /* elements of the flat buffers, padding included            */
} rw_layout;

/* Appends a parameter, trainable, scale 1. `name` must outlive the layout. */
rw_status rw_layout_add(rw_layout *l, const char *name, int ndim, const int64_t *shape, int bucket, int place,
                        rw_error *err);
/* Sets the offsets; called once all are there and `trainable` is decided. */
rw_status rw_layout_place(rw_layout *l, rw_error *err);
int rw_layout_find(const rw_layout *l, const char *name); /* index, or -1 */
void rw_layout_done(rw_layout *l);

/* -- parameters: a layout's buffers on a device ------------------------------------------------------- */

typedef struct {
    rw_device *device;
    rw_layout layout;              /* owned                                                     */
    rw_tensor *tensors;            /* owned; tensors[i] is segments[i]                          */
    void *values, *frozen, *grads; /* owned flat buffers; grads NULL: not for training          */
    void *m, *v;                   /* Adam's moments; NULL: not for training                    */
    rw_adamw_segment *segments;    /* owned, on the device: the trainable ones                  */
    int64_t n_segments;
} rw_params;

/* Takes the layout over (placed; emptied on success). `train`: gradients and moments too. */
rw_status rw_params_new(rw_params **out, rw_device *device, rw_layout *layout, bool train, rw_error *err);
void rw_params_free(rw_params *p);
rw_tensor *rw_params_find(rw_params *p, const char *name); /* NULL: no such parameter */
/* Uploads segments (offset, scale, decay) again after a change of groups. */
void rw_params_upload_segments(rw_params *p);
/* Before the first micro batch of a step: no gradient is there yet. */
void rw_params_begin_step(rw_params *p);
/* After the last: gradients that nothing wrote become exactly 0. */
void rw_params_finish_grads(rw_params *p);

typedef enum { RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V, RW_PARAM_GRAD } rw_param_kind;
/* Elements [first, first+n) of parameter i in logical order, to or from host memory, in the device's compute dtype. */
void rw_params_get(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, void *host);
void rw_params_set(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, const void *host);

#ifdef __cplusplus
}
#endif
#endif
