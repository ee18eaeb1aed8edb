/* The tape's memory: shares, tensors, slabs, scopes. See tensor.h for what it promises, walk.c for the rest.
 *
 * All tables are arrays that keep their size over a reset, tensors and nodes lie in chunks that never move; so after
 * the first two steps nothing is allocated any more. */
#include "core/base/alloc.h"
#include "core/tensor/tape_state.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK      256
#define ARGS_CHUNK ((size_t)1 << 16)
#define ARGS_ALIGN ((size_t)16)

/* -- pools ----------------------------------------------------------------------------------------- */

void *rw_pool_at(rw_pool *p, size_t i) {
    return (char *)p->chunks[i / CHUNK] + i % CHUNK * p->item;
}

void *rw_pool_next(rw_pool *p) {
    if (p->n == p->n_chunks * CHUNK) {
        if (!rw_grow((void **)&p->chunks, &p->chunks_cap, p->n_chunks + 1, sizeof(void *))) return NULL;
        void *chunk = rw_alloc_array(CHUNK, p->item);
        if (!chunk) return NULL;
        p->chunks[p->n_chunks++] = chunk;
    }
    void *item = rw_pool_at(p, p->n++);
    memset(item, 0, p->item);
    return item;
}

static void pool_done(rw_pool *p) {
    for (size_t i = 0; i < p->n_chunks; i++) rw_free(p->chunks[i]);
    rw_free(p->chunks);
}

/* -- arguments of nodes ------------------------------------------------------------------------------- */

void *rw_args_push(rw_args_stack *a, size_t n_bytes) {
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

static void args_done(rw_args_stack *a) {
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
    t->needed = -1;
    t->tensors.item = sizeof(rw_tensor);
    t->slabs.item = sizeof(rw_slab);
    t->nodes.item = sizeof(rw_node);
    return RW_OK;
}

void rw_tape_free(rw_tape *t) {
    if (!t) return;
    rw_tape_reset(t);
    pool_done(&t->tensors);
    pool_done(&t->slabs);
    pool_done(&t->nodes);
    args_done(&t->args);
    rw_free(t->shares);
    rw_free(t->free_shares);
    rw_free(t->scope);
    rw_free(t);
}

void rw_tape_reset(rw_tape *t) {
    for (size_t i = 0; i < t->n_shares; i++)
        if (t->shares[i].refs > 0) rw_step_arena_give(t->arena, t->shares[i].piece);
    t->n_shares = t->n_free = t->n_scope = t->tensors.n = t->slabs.n = t->nodes.n = 0;
    t->args.used = 0;
    t->needed = -1;
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

/* -- shares ------------------------------------------------------------------------------------------ */

static int32_t new_share(rw_tape *t) {
    if (t->n_free) return t->free_shares[--t->n_free];
    if (!rw_grow((void **)&t->shares, &t->shares_cap, t->n_shares + 1, sizeof *t->shares)) return -1;
    /* room to free every share, so that releasing never fails */
    if (!rw_grow((void **)&t->free_shares, &t->free_cap, t->shares_cap, sizeof *t->free_shares)) return -1;
    return (int32_t)t->n_shares++;
}

int32_t rw_share_take(rw_tape *t, int64_t n_bytes, void **data) {
    *data = NULL;
    if (rw_tape_failed(t)) return -1;
    int32_t piece = rw_step_arena_take(t->arena, n_bytes);
    int32_t b = piece < 0 ? -1 : new_share(t);
    if (b < 0) {
        if (piece >= 0) rw_step_arena_give(t->arena, piece);
        rw_tape_fail(t, RW_E_MEMORY, "the step arena of %lld bytes has no room for %lld more",
                     (long long)t->arena->capacity, (long long)n_bytes);
        return -1;
    }
    t->shares[b] = (rw_share){piece, 1};
    *data = rw_step_arena_at(t->arena, piece);
    return b;
}

void rw_share_retain(rw_tape *t, int32_t b) {
    if (b >= 0) t->shares[b].refs++;
}

void rw_share_release(rw_tape *t, int32_t b) {
    if (b < 0 || --t->shares[b].refs > 0) return;
    rw_step_arena_give(t->arena, t->shares[b].piece);
    t->free_shares[t->n_free++] = b;
}

void *rw_share_data(rw_tape *t, int32_t b) {
    return b < 0 ? NULL : rw_step_arena_at(t->arena, t->shares[b].piece);
}

void *rw_scratch_take(rw_tape *t, int64_t n_bytes, int32_t *b) {
    void *data;
    *b = n_bytes > 0 ? rw_share_take(t, n_bytes, &data) : -1;
    return *b < 0 ? NULL : data;
}

/* -- tensors and scopes ------------------------------------------------------------------------------- */

rw_tensor *rw_tensor_over(rw_tape *t, rw_dtype dtype, int ndim, const int64_t *shape, int32_t b, void *data) {
    rw_tensor *x = rw_tape_failed(t) ? NULL : rw_pool_next(&t->tensors);
    if (!x || !rw_grow((void **)&t->scope, &t->scope_cap, t->n_scope + 1, sizeof *t->scope)) {
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
        rw_share_release(t, b);
        return NULL;
    }
    x->dtype = dtype;
    x->ndim = ndim;
    for (int i = 0; i < ndim; i++) x->shape[i] = shape[i];
    x->room = rw_tensor_count(x);
    x->data = data;
    x->share = b;
    x->grad_share = -1;
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
    int32_t b = rw_share_take(t, room * rw_dtype_bytes(dtype), &data);
    if (b < 0) return NULL;
    rw_tensor *x = rw_tensor_over(t, dtype, ndim, shape, b, data);
    if (x) x->room = room;
    return x;
}

bool rw_tape_slab(rw_tape *t, int n, const int *place, const rw_tensor *x, int64_t cols, rw_tensor **out) {
    rw_slab *s = rw_tape_failed(t) ? NULL : rw_pool_next(&t->slabs);
    int64_t rows = rw_tensor_count(x) / x->shape[x->ndim - 1], room = x->room / x->shape[x->ndim - 1] * cols;
    if (!s) {
        rw_tape_fail(t, RW_E_MEMORY, "not enough memory for the tape");
        return false;
    }
    *s = (rw_slab){.n = n, .grad_share = -1};
    s->pitch = (room * rw_dtype_bytes(x->dtype) + RW_ARENA_ALIGN - 1) / RW_ARENA_ALIGN * RW_ARENA_ALIGN;
    void *data;
    int32_t b = rw_share_take(t, n * s->pitch, &data);
    for (int i = 1; i < n; i++) rw_share_retain(t, b);
    for (int i = 0; i < n && b >= 0; i++) {
        int at = place ? place[i] : i;
        out[i] = rw_tensor_over(t, x->dtype, 2, (int64_t[]){rows, cols}, b, (char *)data + at * s->pitch);
        if (!out[i]) return false;
        out[i]->room = room;
        out[i]->slab = s;
        out[i]->slab_at = at;
    }
    return b >= 0;
}

/* A scope lets go of x. What can be made again is gone with it. */
static void let_go(rw_tape *t, rw_tensor *x) {
    rw_share_release(t, x->share);
    if (!x->lazy) return;
    x->data = NULL;
    x->share = -1;
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
            let_go(t, x);
    }
    t->n_scope = kept;
}

void rw_tape_drop(rw_tape *t, rw_tensor *x) {
    for (size_t i = t->n_scope; x && i-- > 0;) {
        if (t->scope[i] != x) continue;
        memmove(&t->scope[i], &t->scope[i + 1], (t->n_scope - i - 1) * sizeof *t->scope);
        t->n_scope--;
        let_go(t, x);
        return;
    }
}
