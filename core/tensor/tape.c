/* The tape: blocks, tensors, scopes, nodes and the walk back. See tensor.h for what it promises.
 *
 * All tables are arrays that keep their size over a reset, tensors and nodes lie in chunks that never move; so after
 * the first two steps nothing is allocated any more. */
#include "core/base/alloc.h"
#include "core/tensor/tape_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK      256
#define ARGS_CHUNK ((size_t)1 << 16)
#define ARGS_ALIGN ((size_t)16)

typedef struct {
    int32_t piece; /* of the arena */
    int32_t refs;
} block;

typedef struct {
    void **chunks; /* owned, each of CHUNK items */
    size_t n_chunks, chunks_cap;
    size_t n, item;
} pool;

/* Arguments of nodes, end to end; given back in reverse order, so they never move while a node may read them. */
typedef struct {
    char **chunks; /* owned, each of ARGS_CHUNK bytes */
    size_t n_chunks, chunks_cap;
    size_t used; /* bytes of all chunks in order */
} args_stack;

struct rw_tape {
    rw_device *device;
    rw_step_arena *arena;
    int64_t most_rows, most_seq; /* see rw_tape_at_most() */
    bool recording;
    pool tensors, nodes;
    args_stack args;
    block *blocks;
    size_t n_blocks, blocks_cap;
    int32_t *free_blocks;
    size_t n_free, free_cap;
    rw_tensor **scope; /* tensors whose memory an open scope holds */
    size_t n_scope, scope_cap;
    rw_error error;
};

/* -- pools ----------------------------------------------------------------------------------------- */

static void *pool_at(pool *p, size_t i) {
    return (char *)p->chunks[i / CHUNK] + i % CHUNK * p->item;
}

static void *pool_next(pool *p) {
    if (p->n == p->n_chunks * CHUNK) {
        if (!rw_grow((void **)&p->chunks, &p->chunks_cap, p->n_chunks + 1, sizeof(void *))) return NULL;
        void *chunk = rw_alloc_array(CHUNK, p->item);
        if (!chunk) return NULL;
        p->chunks[p->n_chunks++] = chunk;
    }
    void *item = pool_at(p, p->n++);
    memset(item, 0, p->item);
    return item;
}

static void pool_done(pool *p) {
    for (size_t i = 0; i < p->n_chunks; i++) rw_free(p->chunks[i]);
    rw_free(p->chunks);
}

/* -- arguments of nodes ------------------------------------------------------------------------------- */

static void *args_push(args_stack *a, size_t n_bytes) {
    size_t n = (n_bytes + ARGS_ALIGN - 1) / ARGS_ALIGN * ARGS_ALIGN, in_chunk = a->used % ARGS_CHUNK;
    assert(n <= ARGS_CHUNK);
    if (in_chunk + n > ARGS_CHUNK) a->used += ARGS_CHUNK - in_chunk;
    if (a->used == a->n_chunks * ARGS_CHUNK) {
        if (!rw_grow((void **)&a->chunks, &a->chunks_cap, a->n_chunks + 1, sizeof(char *))) return NULL;
        char *chunk = rw_alloc(ARGS_CHUNK);
        if (!chunk) return NULL;
        a->chunks[a->n_chunks++] = chunk;
    }
    void *p = a->chunks[a->used / ARGS_CHUNK] + a->used % ARGS_CHUNK;
    a->used += n;
    return p;
}

static void args_done(args_stack *a) {
    for (size_t i = 0; i < a->n_chunks; i++) rw_free(a->chunks[i]);
    rw_free(a->chunks);
}

/* -- life of a tape --------------------------------------------------------------------------------- */

rw_status rw_tape_new(rw_tape **out, rw_device *device, rw_step_arena *arena, rw_error *err) {
    rw_tape *t = rw_alloc(sizeof *t);
    *out = t;
    if (!t) return rw_fail_memory(err, sizeof *t);
    t->device = device;
    t->arena = arena;
    t->recording = true;
    t->tensors.item = sizeof(rw_tensor);
    t->nodes.item = sizeof(rw_node);
    return RW_OK;
}

void rw_tape_free(rw_tape *t) {
    if (!t) return;
    rw_tape_reset(t);
    pool_done(&t->tensors);
    pool_done(&t->nodes);
    args_done(&t->args);
    rw_free(t->blocks);
    rw_free(t->free_blocks);
    rw_free(t->scope);
    rw_free(t);
}

void rw_tape_reset(rw_tape *t) {
    for (size_t i = 0; i < t->n_blocks; i++)
        if (t->blocks[i].refs > 0) rw_step_arena_give(t->arena, t->blocks[i].piece);
    t->n_blocks = t->n_free = t->n_scope = t->tensors.n = t->nodes.n = 0;
    t->args.used = 0;
    rw_error_clear(&t->error);
}

bool rw_tape_record(rw_tape *t, bool on) {
    bool was = t->recording;
    t->recording = on;
    return was;
}

bool rw_tape_recording(const rw_tape *t) {
    return t->recording;
}
rw_device *rw_tape_device(rw_tape *t) {
    return t->device;
}
void rw_tape_at_most(rw_tape *t, int64_t rows, int64_t sequences) {
    t->most_rows = rows;
    t->most_seq = sequences;
}
int64_t rw_most_rows(const rw_tape *t, int64_t now) {
    return t->most_rows ? t->most_rows : now;
}
int64_t rw_most_seq(const rw_tape *t, int64_t now) {
    return t->most_seq ? t->most_seq : now;
}
bool rw_tape_failed(const rw_tape *t) {
    return t->error.code != RW_OK;
}

void rw_tape_fail(rw_tape *t, rw_status code, const char *fmt, ...) {
    if (rw_tape_failed(t)) return;
    va_list ap;
    va_start(ap, fmt);
    rw_vfail(&t->error, code, RW_AT_NONE, fmt, ap);
    va_end(ap);
}

rw_status rw_tape_error(const rw_tape *t, rw_error *err) {
    if (err && rw_tape_failed(t)) {
        *err = t->error;
        err->detail = NULL; /* owned by the tape's copy */
    }
    return t->error.code;
}

/* -- blocks ------------------------------------------------------------------------------------------ */

static int32_t new_block(rw_tape *t) {
    if (t->n_free) return t->free_blocks[--t->n_free];
    if (!rw_grow((void **)&t->blocks, &t->blocks_cap, t->n_blocks + 1, sizeof *t->blocks)) return -1;
    /* room to free every block, so that releasing never fails */
    if (!rw_grow((void **)&t->free_blocks, &t->free_cap, t->blocks_cap, sizeof *t->free_blocks)) return -1;
    return (int32_t)t->n_blocks++;
}

int32_t rw_block_take(rw_tape *t, int64_t n_bytes, void **data) {
    *data = NULL;
    if (rw_tape_failed(t)) return -1;
    int32_t piece = rw_step_arena_take(t->arena, n_bytes);
    int32_t b = piece < 0 ? -1 : new_block(t);
    if (b < 0) {
        if (piece >= 0) rw_step_arena_give(t->arena, piece);
        rw_tape_fail(t, RW_E_MEMORY, "the step arena of %lld bytes has no room for %lld more",
                     (long long)t->arena->capacity, (long long)n_bytes);
        return -1;
    }
    t->blocks[b] = (block){piece, 1};
    *data = rw_step_arena_at(t->arena, piece);
    return b;
}

void rw_block_retain(rw_tape *t, int32_t b) {
    if (b >= 0) t->blocks[b].refs++;
}

void rw_block_release(rw_tape *t, int32_t b) {
    if (b < 0 || --t->blocks[b].refs > 0) return;
    rw_step_arena_give(t->arena, t->blocks[b].piece);
    t->free_blocks[t->n_free++] = b;
}

void *rw_block_data(rw_tape *t, int32_t b) {
    return b < 0 ? NULL : rw_step_arena_at(t->arena, t->blocks[b].piece);
}

void *rw_scratch_take(rw_tape *t, int64_t n_bytes, int32_t *b) {
    void *data;
    *b = n_bytes > 0 ? rw_block_take(t, n_bytes, &data) : -1;
    return *b < 0 ? NULL : data;
}

/* -- tensors and scopes ------------------------------------------------------------------------------- */

rw_tensor *rw_tensor_over(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, int32_t b, void *data) {
    rw_tensor *x = rw_tape_failed(t) ? NULL : pool_next(&t->tensors);
    if (!x || !rw_grow((void **)&t->scope, &t->scope_cap, t->n_scope + 1, sizeof *t->scope)) {
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
        rw_block_release(t, b);
        return NULL;
    }
    x->dtype = dtype;
    x->ndim = ndim;
    for (int i = 0; i < ndim; i++) x->shape[i] = shape[i];
    x->room = rw_tensor_count(x);
    x->data = data;
    x->block = b;
    x->grad_block = -1;
    if (b >= 0) t->scope[t->n_scope++] = x;
    return x;
}

rw_tensor *rw_tape_wrap(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, void *data) {
    return rw_tensor_over(t, dtype, ndim, shape, -1, data);
}

rw_tensor *rw_tape_tensor(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, int64_t room) {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    assert(room == 0 || room >= n);
    if (room == 0) room = n;
    void *data;
    int32_t b = rw_block_take(t, room * rw_dtype_bytes(dtype), &data);
    if (b < 0) return NULL;
    rw_tensor *x = rw_tensor_over(t, dtype, ndim, shape, b, data);
    if (x) x->room = room;
    return x;
}

rw_scope rw_scope_begin(rw_tape *t) {
    return (rw_scope)t->n_scope;
}

void rw_scope_end(rw_tape *t, rw_scope s, rw_tensor *const *keep, int n_keep) {
    size_t kept = (size_t)s;
    for (size_t i = (size_t)s; i < t->n_scope; i++) {
        rw_tensor *x = t->scope[i];
        bool stays = false;
        for (int k = 0; k < n_keep && !stays; k++) stays = keep[k] == x;
        if (stays)
            t->scope[kept++] = x;
        else
            rw_block_release(t, x->block);
    }
    t->n_scope = kept;
}

void rw_tape_drop(rw_tape *t, rw_tensor *x) {
    for (size_t i = t->n_scope; x && i-- > 0;) {
        if (t->scope[i] != x) continue;
        memmove(&t->scope[i], &t->scope[i + 1], (t->n_scope - i - 1) * sizeof *t->scope);
        t->n_scope--;
        rw_block_release(t, x->block);
        return;
    }
}

/* -- nodes -------------------------------------------------------------------------------------------- */

static bool any_requires_grad(rw_tensor *const *in, int n_in) {
    for (int i = 0; i < n_in; i++)
        if (in[i] && in[i]->requires_grad) return true;
    return false;
}

static rw_node *add_node(rw_tape *t, void (*backward)(rw_tape *, rw_node *), rw_tensor *const *in, int n_in,
                         rw_tensor *const *out, int n_out, uint32_t keep_in, uint32_t keep_out) {
    if (rw_tape_failed(t) || !t->recording) return NULL;
    if (n_in > RW_NODE_IN || n_out > RW_NODE_OUT) {
        rw_tape_fail(t, RW_E_SHAPE, "an op has %d inputs and %d outputs; the tape holds %d and %d", n_in, n_out,
                     RW_NODE_IN, RW_NODE_OUT);
        return NULL;
    }
    rw_node *n = pool_next(&t->nodes);
    if (!n) {
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
        return NULL;
    }
    n->backward = backward;
    n->args_begin = t->args.used;
    n->n_in = n_in;
    n->n_out = n_out;
    for (size_t k = 0; k < sizeof n->kept / sizeof *n->kept; k++) n->kept[k] = -1;
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i];
        if (in[i]) in[i]->n_uses++;
        if (in[i] && keep_in >> i & 1) rw_block_retain(t, in[i]->block);
    }
    for (int i = 0; i < n_out; i++) {
        n->out[i] = out[i];
        if (!out[i]) continue;
        out[i]->requires_grad = true;
        if (keep_out >> i & 1) rw_block_retain(t, out[i]->block);
    }
    n->keep_in = keep_in;
    n->keep_out = keep_out;
    return n;
}

rw_node *rw_node_new(rw_tape *t, void (*backward)(rw_tape *, rw_node *), rw_tensor *const *in, int n_in,
                     rw_tensor *const *out, int n_out, uint32_t keep_in, uint32_t keep_out) {
    return any_requires_grad(in, n_in) ? add_node(t, backward, in, n_in, out, n_out, keep_in, keep_out) : NULL;
}

void rw_node_args(rw_tape *t, rw_node *n, const void *args, size_t n_bytes) {
    if (!n) return;
    void *copy = args_push(&t->args, n_bytes);
    if (copy)
        memcpy(copy, args, n_bytes);
    else
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
    n->args = copy;
}

static void drop_grad(rw_tape *t, rw_tensor *x) {
    if (!x || x->is_param || x->grad_block < 0) return;
    rw_block_release(t, x->grad_block);
    x->grad_block = -1;
    x->grad = NULL;
}

static void let_go(rw_tape *t, rw_node *n) {
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] && n->keep_in >> i & 1) rw_block_release(t, n->in[i]->block);
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        if (n->keep_out >> i & 1) rw_block_release(t, n->out[i]->block);
        drop_grad(t, n->out[i]);
    }
    for (size_t k = 0; k < sizeof n->kept / sizeof *n->kept; k++) rw_block_release(t, n->kept[k]);
}

static bool any_grad(const rw_node *n) {
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && n->out[i]->grad) return true;
    return false;
}

/* Undoes the nodes from the last down to `first`. */
static void walk_back(rw_tape *t, size_t first) {
    while (t->nodes.n > first && !rw_tape_failed(t)) {
        rw_node *n = pool_at(&t->nodes, t->nodes.n - 1);
        size_t here = t->nodes.n;
        if (any_grad(n)) n->backward(t, n);
        let_go(t, n);
        t->args.used = n->args_begin;
        t->nodes.n = here - 1;
    }
}

rw_status rw_tape_backward(rw_tape *t, rw_error *err) {
    bool was = rw_tape_record(t, false);
    walk_back(t, 0);
    rw_tape_record(t, was);
    return rw_tape_error(t, err);
}

/* -- gradients ------------------------------------------------------------------------------------------ */

void *rw_grad_into(rw_tape *t, rw_tensor *x, uint32_t bit, uint32_t *add) {
    *add &= ~bit;
    if (!x || !x->requires_grad) return NULL;
    if (x->is_param) {
        if (x->grad_written) *add |= bit;
        x->grad_written = true;
        return x->grad;
    }
    if (x->grad) {
        *add |= bit;
        return x->grad;
    }
    x->grad_block = rw_block_take(t, x->room * rw_dtype_bytes(x->dtype), &x->grad);
    return x->grad;
}

static void add_into(rw_tape *t, rw_tensor *x, void *to, const void *from) {
    rw_binary_args a = {.dtype = x->dtype, .op = RW_BINARY_ADD, .n = rw_tensor_count(x), .a = to, .b = from, .out = to};
    t->device->kernels->binary_forward(&a, &t->device->exec);
}

static void copy_into(rw_tape *t, rw_tensor *x, void *to, const void *from) {
    rw_unary_args a = {.dtype = x->dtype, .op = RW_UNARY_COPY, .n = rw_tensor_count(x), .x = from, .out = to};
    t->device->kernels->unary_forward(&a, &t->device->exec);
}

void rw_grad_move(rw_tape *t, rw_tensor *x, rw_tensor *y) {
    if (!x || !x->requires_grad || !y->grad) return;
    if (!x->is_param && !x->grad) {
        x->grad = y->grad;
        x->grad_block = y->grad_block;
        y->grad = NULL;
        y->grad_block = -1;
        return;
    }
    rw_tape_seed_grad(t, x, y->grad);
}

void rw_tape_seed_grad(rw_tape *t, rw_tensor *x, const void *grad) {
    uint32_t add = 0;
    void *to = x ? rw_grad_into(t, x, 1, &add) : NULL;
    if (!to) return;
    if (add)
        add_into(t, x, to, grad);
    else
        copy_into(t, x, to, grad);
}

static void reshape_backward(rw_tape *t, rw_node *n) {
    rw_grad_move(t, n->in[0], n->out[0]);
}

rw_tensor *rw_tape_reshape(rw_tape *t, rw_tensor *x, int ndim, const int64_t *shape) {
    if (!x || rw_tape_failed(t)) return NULL;
    rw_block_retain(t, x->block);
    rw_tensor *y = rw_tensor_over(t, x->dtype, ndim, shape, x->block, x->data);
    if (!y) return NULL;
    y->room = x->room;
    if (rw_tensor_count(x) != rw_tensor_count(y)) {
        rw_tape_fail(t, RW_E_SHAPE, "reshape: %lld elements cannot become %lld", (long long)rw_tensor_count(x),
                     (long long)rw_tensor_count(y));
        return NULL;
    }
    rw_node_new(t, reshape_backward, &x, 1, &y, 1, 0, 0);
    return y;
}

/* -- segments --------------------------------------------------------------------------------------------- */

typedef struct {
    rw_segment_fn fn;
    int64_t ctx[RW_SEGMENT_CTX / sizeof(int64_t)]; /* a copy */
} segment_args;

static void segment_backward(rw_tape *t, rw_node *n) {
    const segment_args *a = n->args;
    size_t first = t->nodes.n;
    rw_scope s = rw_scope_begin(t);
    rw_tensor *again[RW_SEGMENT_MAX] = {0};
    rw_tape_record(t, true);
    a->fn(t, a->ctx, n->in, again);
    rw_tape_record(t, false);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && again[i] && again[i]->requires_grad) rw_grad_move(t, again[i], n->out[i]);
    rw_scope_end(t, s, NULL, 0);
    walk_back(t, first);
}

/* Recorded in any case: parameters that fn uses may want a gradient when no input does. */
void rw_tape_segment(rw_tape *t, rw_segment_fn fn, const void *ctx, size_t n_ctx, rw_tensor *const *in, int n_in,
                     rw_tensor **out, int n_out) {
    if (rw_tape_failed(t)) return;
    assert(n_ctx <= RW_SEGMENT_CTX && n_out <= RW_SEGMENT_MAX);
    rw_scope s = rw_scope_begin(t);
    bool was = rw_tape_record(t, false);
    fn(t, ctx, in, out);
    rw_tape_record(t, was);
    rw_scope_end(t, s, out, n_out);
    rw_node *n = add_node(t, segment_backward, in, n_in, out, n_out, ~0u, 0);
    segment_args a = {.fn = fn};
    if (n_ctx) memcpy(a.ctx, ctx, n_ctx);
    rw_node_args(t, n, &a, sizeof a);
}
