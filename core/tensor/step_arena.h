/* The step arena: memory of activations and their gradients, one stretch of memory of the device, cut by an allocator
 * whose decisions depend on nothing but the sequence of requests. So the addresses repeat from step to step, and the
 * same step on the meta device (unlimited) tells beforehand, to the byte, how large it must be.
 *
 * First fit by address, neighbours joined on free. A step makes some hundred live pieces, so lists are walked.
 *
 * First fit has no bound for other sizes: smaller requests in the same order may need a larger arena. So a pass of
 * fewer rows does not ask for less: rw_tape_at_most(). */
#ifndef RW_TENSOR_STEP_ARENA_H
#define RW_TENSOR_STEP_ARENA_H

#include "core/base/error.h"
#include "kernels/device.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_ARENA_ALIGN 256

typedef struct {
    int64_t offset, n_bytes; /* of the piece; free pieces lie between used ones */
    int32_t prev, next;      /* neighbours by address, -1: none                */
    bool used;
} rw_arena_piece;

typedef struct {
    rw_device *device;
    int64_t capacity;       /* bytes; INT64_MAX / 2 on meta */
    unsigned char *base;    /* device memory, owned         */
    rw_arena_piece *pieces; /* owned                        */
    size_t n_pieces, pieces_cap;
    int32_t free_slot;        /* list of unused slots of `pieces`, by next */
    int64_t live, high_water; /* bytes in use; largest end of a used piece */
} rw_step_arena;

/* capacity 0 on a meta device: unlimited. */
rw_status rw_step_arena_init(rw_step_arena *a, rw_device *device, int64_t capacity, rw_error *err);
void rw_step_arena_done(rw_step_arena *a);

/* A piece of at least n bytes (0 gives one of the smallest size), or -1 when it does not fit. Not zeroed. */
int32_t rw_step_arena_take(rw_step_arena *a, int64_t n_bytes);
void rw_step_arena_give(rw_step_arena *a, int32_t piece);
static inline void *rw_step_arena_at(const rw_step_arena *a, int32_t piece) {
    return a->base + a->pieces[piece].offset;
}

#ifdef __cplusplus
}
#endif
#endif
