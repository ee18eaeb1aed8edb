/* Pieces of 4 MiB: large enough for the disk, small beside any model. */
#include "core/checkpoint/save_internal.h"

#include "core/base/alloc.h"
#include "core/base/str.h"
#include "core/checkpoint/name_index.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <string.h>

#define PIECE ((int64_t)4 << 20)

int64_t rw_save_tensor_bytes(const rw_save_tensor *t) {
    return rw_shape_bytes(t->shape, t->ndim, t->dtype);
}

static int64_t numel(const rw_save_tensor *t) {
    return rw_save_tensor_bytes(t) / rw_dtype_bytes(t->dtype);
}

rw_status rw_save_fetch_contiguous(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    int64_t item = rw_dtype_bytes(t->src_dtype);
    (void)err;
    memcpy(buf, (const char *)t->data + first * item, (size_t)(n * item));
    return RW_OK;
}

/* -- checking ----------------------------------------------------------------------------------------- */

static bool is_dtype(rw_dtype t) {
    return t > RW_DTYPE_NONE && t < RW_DTYPE_COUNT;
}

static bool shape_fits(const rw_save_tensor *t) {
    if (t->ndim < 0 || t->ndim > RW_CHECKPOINT_MAX_DIM) return false;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0) return false;
    return rw_shape_bytes(t->shape, t->ndim, RW_F64) >= 0;
}

static rw_status check_one(const rw_save_tensor *t, rw_error *err) {
    size_t n = t->name ? strlen(t->name) : 0;
    if (!n || rw_utf8_valid_prefix(t->name, n) != n)
        return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "the name of a tensor to be saved is empty or not UTF-8");
    if (!shape_fits(t) || !is_dtype(t->dtype) || !is_dtype(t->src_dtype))
        return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "tensor '%.200s' has no shape or type that can be saved",
                       t->name);
    return RW_OK;
}

rw_status rw_save_check(const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    rw_name_index names;
    RW_TRY(rw_name_index_init(&names, n, err));
    rw_status status = RW_OK;
    for (int64_t i = 0; i < n && status == RW_OK; i++) {
        status = check_one(&tensors[i], err);
        if (status == RW_OK && rw_name_index_add(&names, tensors[i].name, i) >= 0)
            status = rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "tensor '%.200s' is to be saved twice", tensors[i].name);
    }
    rw_name_index_done(&names);
    return status;
}

/* -- pieces ------------------------------------------------------------------------------------------- */

static int64_t larger_item(const rw_save_tensor *t) {
    int64_t a = rw_dtype_bytes(t->src_dtype), b = rw_dtype_bytes(t->dtype);
    return a > b ? a : b;
}

rw_status rw_save_buffers_init(rw_save_buffers *b, const rw_save_tensor *tensors, int64_t n, rw_error *err) {
    *b = (rw_save_buffers){0};
    for (int64_t i = 0; i < n; i++) {
        int64_t bytes = numel(&tensors[i]) * larger_item(&tensors[i]);
        if (bytes > b->n_bytes) b->n_bytes = bytes;
    }
    if (b->n_bytes > PIECE) b->n_bytes = PIECE;
    b->fetched = rw_alloc((size_t)b->n_bytes);
    b->converted = rw_alloc((size_t)b->n_bytes);
    if (b->fetched && b->converted) return RW_OK;
    int64_t wanted = 2 * b->n_bytes;
    rw_save_buffers_done(b);
    return rw_fail_memory(err, (size_t)wanted);
}

void rw_save_buffers_done(rw_save_buffers *b) {
    rw_free(b->fetched);
    rw_free(b->converted);
    *b = (rw_save_buffers){0};
}

/* The first value of a piece that is finite and is not once it is converted; -1: none. */
static int64_t find_overflow(const rw_save_tensor *t, const rw_save_buffers *b, int64_t n) {
    if (t->dtype != RW_F16 && t->dtype != RW_BF16) return -1;
    const uint16_t *narrow = (const uint16_t *)(void *)b->converted, infinite = t->dtype == RW_F16 ? 0x7c00 : 0x7f80;
    int64_t size = rw_dtype_bytes(t->src_dtype);
    unsigned any = 0;
    for (int64_t i = 0; i < n; i++) any |= (narrow[i] & infinite) == infinite;
    for (int64_t i = 0; any && i < n; i++)
        if ((narrow[i] & infinite) == infinite &&
            rw_first_nonfinite((const char *)b->fetched + i * size, t->src_dtype, 1) == 1)
            return i;
    return -1;
}

static rw_status fail_overflow(const rw_save_tensor *t, const rw_save_buffers *b, int64_t i, rw_error *err) {
    double x = t->src_dtype == RW_F32 ? (double)((const float *)(void *)b->fetched)[i]
                                      : ((const double *)(void *)b->fetched)[i];
    return rw_fail(err, RW_E_NUMERIC, RW_AT_NONE,
                   "tensor '%.200s' has the value %g, which becomes infinite as %s; save.dtype: fp32 keeps it", t->name,
                   x, rw_dtype_name(t->dtype));
}

rw_status rw_save_stream(const rw_save_tensor *t, const rw_save_buffers *b, const rw_writer *w,
                         void (*put)(void *ctx, const void *bytes, int64_t n_bytes), void *ctx, rw_error *err) {
    int64_t total = numel(t), most = b->n_bytes / larger_item(t), item = rw_dtype_bytes(t->dtype);
    bool same = t->src_dtype == t->dtype;
    for (int64_t first = 0; first < total && !(w && w->error.code);) {
        int64_t n = total - first < most ? total - first : most;
        RW_TRY(t->fetch(t, first, n, b->fetched, err));
        if (!same && rw_convert(b->converted, t->dtype, b->fetched, t->src_dtype, n))
            return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "tensor '%.200s' is %s and cannot be saved as %s", t->name,
                           rw_dtype_name(t->src_dtype), rw_dtype_name(t->dtype));
        int64_t overflow = same ? -1 : find_overflow(t, b, n);
        if (overflow >= 0) return fail_overflow(t, b, overflow, err);
        put(ctx, same ? b->fetched : b->converted, n * item);
        first += n;
    }
    return RW_OK;
}
