/* What a tape holds: for tape.c (memory: tensors, scopes, shares) and walk.c (what is recorded, and the walk back). */
#ifndef RW_TENSOR_TAPE_STATE_H
#define RW_TENSOR_TAPE_STATE_H

#include "core/tensor/node.h"

typedef struct {
    int32_t piece; /* of the arena */
    int32_t refs;
} rw_share;

/* Items in chunks that never move. */
typedef struct {
    void **chunks; /* owned */
    size_t n_chunks, chunks_cap;
    size_t n, item;
} rw_pool;

/* Arguments of nodes, end to end; given back in reverse order, so they never move while a node may read them. */
typedef struct {
    char **chunks; /* owned */
    size_t n_chunks, chunks_cap;
    size_t used; /* bytes of all chunks in order */
} rw_args_stack;

/* Tensors that have a share in common, `pitch` bytes apart, and do the same with their gradients. */
typedef struct rw_slab {
    int n;
    int64_t pitch;
    int32_t grad_share; /* -1: none of them has one                     */
    void *grads;
    int n_grads; /* of them have their gradient in grad_share    */
} rw_slab;

struct rw_tape {
    rw_device *device;
    rw_step_arena *arena;
    int64_t most_rows, most_seq; /* see rw_tape_at_most() */
    unsigned forgets;            /* see rw_tape_forgets() */
    rw_bucket_calls calls;
    int bucket; /* of the marker passed last    */
    int needed; /* announced last; -1: none since the reset */
    bool recording;
    rw_pool tensors, slabs, nodes;
    rw_args_stack args;
    rw_share *shares;
    size_t n_shares, shares_cap;
    int32_t *free_shares;
    size_t n_free, free_cap;
    rw_tensor **scope; /* tensors whose memory an open scope holds */
    size_t n_scope, scope_cap;
    rw_error error;
};

void *rw_pool_at(rw_pool *p, size_t i);
void *rw_pool_next(rw_pool *p); /* zeroed; NULL: no memory */
void *rw_args_push(rw_args_stack *a, size_t n_bytes);

#endif
