/* What both writers share: checking what is asked, and fetching, converting and passing on in pieces. */
#ifndef RW_CHECKPOINT_SAVE_INTERNAL_H
#define RW_CHECKPOINT_SAVE_INTERNAL_H

#include "core/base/fs.h"
#include "core/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Names are UTF-8, not empty, not twice; shapes fit; each type can be written. RW_E_INTERNAL, RW_E_MEMORY. */
rw_status rw_save_check(const rw_save_tensor *tensors, int64_t n, rw_error *err);

int64_t rw_save_tensor_bytes(const rw_save_tensor *t); /* in the file */

/* Room for one piece before and one after conversion. All-zero is empty. */
typedef struct {
    char *fetched, *converted; /* owned */
    int64_t n_bytes;           /* of each */
} rw_save_buffers;

rw_status rw_save_buffers_init(rw_save_buffers *b, const rw_save_tensor *tensors, int64_t n, rw_error *err);
void rw_save_buffers_done(rw_save_buffers *b);

/* Calls put(ctx, bytes, n_bytes) with the tensor's bytes, piece by piece; ends early when w (may be NULL) has failed:
 * that error is told by rw_writer_commit(). */
rw_status rw_save_stream(const rw_save_tensor *t, const rw_save_buffers *b, const rw_writer *w,
                         void (*put)(void *ctx, const void *bytes, int64_t n_bytes), void *ctx, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
