/* A CPU device that behaves as a GPU does: what is asked of it is queued, with a copy of the arguments, and runs as
 * late as it can: when somebody waits, reads, or a mark must be passed. Pieces are recorded and replayed. So whoever
 * reads a number before it is there, changes memory that a copy still needs, or lets a kernel see what belongs to the
 * host, gets other bits than on the plain CPU.
 *
 *     lazy_device l;
 *     lazy_open(&l, cpu, LAZY_AHEAD | LAZY_RECORD);      0: nothing is queued, calls are counted alone
 *     rw_engine_open(&e, plan, &l.base, ...);
 *     lazy_close(&l);                                     the CPU device stays */
#ifndef RW_TESTS_UNIT_ENGINE_LAZY_DEVICE_H
#define RW_TESTS_UNIT_ENGINE_LAZY_DEVICE_H

#include "core/base/alloc.h"
#include "kernels/device.h"

#include <stdlib.h>
#include <string.h>

enum { LAZY_AHEAD = 1, LAZY_RECORD = 2 };

struct rw_mark {
    int64_t set, passed; /* tickets */
};

typedef enum { LAZY_KERNEL, LAZY_ZERO, LAZY_COPY, LAZY_SET, LAZY_WAIT } lazy_kind;

typedef struct {
    lazy_kind kind;
    void (*run)(const rw_kernels *k, const void *args, const rw_exec *ex);
    void *args; /* owned by the queue, or by the graph */
    bool borrowed;
    rw_exec exec;
    void *dst;
    const void *src;
    int64_t n_bytes; /* or the ticket of a mark */
    rw_mark *mark;
} lazy_entry;

typedef struct {
    lazy_entry *entries; /* owned */
    size_t n, cap, done;
} lazy_queue;

struct rw_graph {
    lazy_queue pieces;
};

typedef struct {
    rw_device base; /* first: the device is this struct */
    rw_device *inner;
    int mode;
    lazy_queue queues[2];
    rw_graph *recording; /* not NULL between begin and end */
    /* calls so far */
    int64_t allocs, uploads, downloads, waits, kernels, recordings, replays;
} lazy_device;

static inline lazy_device *lazy_of(rw_device *d) {
    return (lazy_device *)d;
}

/* -- queues -------------------------------------------------------------------------------------------------------- */

static inline void lazy_push(lazy_queue *q, lazy_entry e) {
    assert_true(rw_grow((void **)&q->entries, &q->cap, q->n + 1, sizeof e));
    q->entries[q->n++] = e;
}

static inline void lazy_run_one(lazy_device *l, rw_queue which);

static inline void lazy_pass(lazy_device *l, const lazy_entry *e) {
    while (e->mark->passed < e->n_bytes) { /* what sets it is in one of the queues */
        lazy_queue *copies = &l->queues[RW_QUEUE_COPIES];
        lazy_run_one(l, copies->done < copies->n ? RW_QUEUE_COPIES : RW_QUEUE_KERNELS);
    }
}

static inline void lazy_run_entry(lazy_device *l, lazy_entry e) {
    switch (e.kind) {
    case LAZY_KERNEL:
        e.run(l->inner->kernels, e.args, &e.exec);
        l->kernels++;
        break;
    case LAZY_ZERO:
        memset(e.dst, 0, (size_t)e.n_bytes);
        break;
    case LAZY_COPY:
        memcpy(e.dst, e.src, (size_t)e.n_bytes);
        break;
    case LAZY_SET:
        e.mark->passed = e.n_bytes;
        break;
    case LAZY_WAIT:
        lazy_pass(l, &e);
        break;
    }
    if (!e.borrowed) free(e.args);
}

static inline void lazy_run_one(lazy_device *l, rw_queue which) {
    lazy_queue *q = &l->queues[which];
    assert_true(q->done < q->n);
    lazy_run_entry(l, q->entries[q->done++]);
    if (q->done == q->n) q->done = q->n = 0;
}

static inline void lazy_drain(lazy_device *l) {
    assert_null(l->recording); /* nothing may wait in a recording */
    for (int q = 0; q < 2; q++)
        while (l->queues[q].done < l->queues[q].n) lazy_run_one(l, q);
}

/* Into the queue, into the recording, or at once. */
static inline void lazy_submit(lazy_device *l, rw_queue q, lazy_entry e) {
    if (l->recording)
        lazy_push(&l->recording->pieces, e);
    else if (l->mode & LAZY_AHEAD)
        lazy_push(&l->queues[q], e);
    else
        lazy_run_entry(l, e);
}

/* -- kernels ---------------------------------------------------------------------------------------------------------
 */

#define RW_KERNEL(op, type)                                                                                            \
    static void lazy_run_##op(const rw_kernels *k, const void *a, const rw_exec *ex) {                                 \
        k->op(a, ex);                                                                                                  \
    }                                                                                                                  \
    static void lazy_##op(const type *a, const rw_exec *ex) {                                                          \
        lazy_entry e = {.kind = LAZY_KERNEL, .run = lazy_run_##op, .args = malloc(sizeof *a), .exec = *ex};            \
        memcpy(e.args, a, sizeof *a);                                                                                  \
        lazy_submit(ex->impl, RW_QUEUE_KERNELS, e);                                                                    \
    }
#define RW_QUERY(op, type)                                                                                             \
    static int64_t lazy_##op(const type *a, const rw_exec *ex) {                                                       \
        return ((lazy_device *)ex->impl)->inner->kernels->op(a, ex);                                                   \
    }
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

static const rw_kernels lazy_table = {
    .name = "lazy",
#define RW_KERNEL(op, type) .op = lazy_##op,
#define RW_QUERY(op, type)  .op = lazy_##op,
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};

/* -- memory and copies ------------------------------------------------------------------------------------------------
 */

static inline void *lazy_alloc(rw_device *d, int64_t n_bytes) {
    assert_null(lazy_of(d)->recording);
    lazy_of(d)->allocs++;
    return lazy_of(d)->inner->alloc(d, n_bytes);
}
static inline void lazy_free(rw_device *d, void *p, int64_t n_bytes) {
    lazy_drain(lazy_of(d));
    lazy_of(d)->inner->free(d, p, n_bytes);
}
static inline void lazy_zero(rw_device *d, void *p, int64_t n_bytes) {
    lazy_submit(lazy_of(d), RW_QUEUE_KERNELS, (lazy_entry){.kind = LAZY_ZERO, .dst = p, .n_bytes = n_bytes});
}
static inline void lazy_upload(rw_device *d, void *dst, const void *host, int64_t n_bytes) {
    lazy_drain(lazy_of(d));
    lazy_of(d)->uploads++;
    memcpy(dst, host, (size_t)n_bytes);
}
static inline void lazy_download(rw_device *d, void *host, const void *src, int64_t n_bytes) {
    lazy_drain(lazy_of(d));
    lazy_of(d)->downloads++;
    memcpy(host, src, (size_t)n_bytes);
}
static inline rw_status lazy_synchronize(rw_device *d, rw_error *err) {
    lazy_drain(lazy_of(d));
    lazy_of(d)->waits++;
    return lazy_of(d)->inner->synchronize(d, err);
}

/* -- ahead
 * ------------------------------------------------------------------------------------------------------------- */

static inline void *lazy_host_alloc(rw_device *d, int64_t n_bytes) {
    (void)d;
    return rw_alloc_pages((size_t)n_bytes);
}
static inline void lazy_host_free(rw_device *d, void *p, int64_t n_bytes) {
    lazy_drain(lazy_of(d));
    if (p) rw_free_pages(p, (size_t)n_bytes);
}
static inline void lazy_copy(rw_device *d, rw_queue q, void *dst, const void *src, int64_t n_bytes) {
    assert_null(lazy_of(d)->recording);
    lazy_submit(lazy_of(d), q, (lazy_entry){.kind = LAZY_COPY, .dst = dst, .src = src, .n_bytes = n_bytes});
}
static inline void lazy_ahead_upload(rw_device *d, void *dst, const void *host, int64_t n_bytes) {
    lazy_copy(d, RW_QUEUE_COPIES, dst, host, n_bytes);
}
static inline void lazy_ahead_copy(rw_device *d, void *dst, const void *src, int64_t n_bytes) {
    lazy_copy(d, RW_QUEUE_KERNELS, dst, src, n_bytes);
}
static inline rw_mark *lazy_mark_new(rw_device *d) {
    (void)d;
    return rw_alloc(sizeof(rw_mark));
}
static inline void lazy_mark_free(rw_device *d, rw_mark *m) {
    lazy_drain(lazy_of(d));
    rw_free(m);
}
static inline void lazy_mark_set(rw_device *d, rw_mark *m, rw_queue q) {
    lazy_submit(lazy_of(d), q, (lazy_entry){.kind = LAZY_SET, .mark = m, .n_bytes = ++m->set});
}
static inline void lazy_mark_wait(rw_device *d, rw_mark *m, rw_queue q) {
    lazy_submit(lazy_of(d), q, (lazy_entry){.kind = LAZY_WAIT, .mark = m, .n_bytes = m->set});
}
static inline bool lazy_mark_passed(rw_device *d, rw_mark *m) {
    (void)d;
    return m->passed == m->set;
}
static inline rw_status lazy_mark_sync(rw_device *d, rw_mark *m, rw_error *err) {
    (void)err;
    assert_null(lazy_of(d)->recording);
    lazy_of(d)->waits += m->passed < m->set;
    lazy_pass(lazy_of(d), &(lazy_entry){.mark = m, .n_bytes = m->set});
    return RW_OK;
}

static const rw_device_ahead lazy_ahead = {
    .host_alloc = lazy_host_alloc,
    .host_free = lazy_host_free,
    .upload = lazy_ahead_upload,
    .move = lazy_ahead_copy,
    .download = lazy_ahead_copy,
    .mark_new = lazy_mark_new,
    .mark_free = lazy_mark_free,
    .mark_set = lazy_mark_set,
    .mark_wait = lazy_mark_wait,
    .mark_passed = lazy_mark_passed,
    .mark_sync = lazy_mark_sync,
};

/* -- recording
 * ---------------------------------------------------------------------------------------------------------- */

static inline void lazy_graph_free(rw_device *d, rw_graph *g) {
    if (!g) return;
    lazy_drain(lazy_of(d)); /* the queue borrows from it */
    for (size_t i = 0; i < g->pieces.n; i++) free(g->pieces.entries[i].args);
    rw_free(g->pieces.entries);
    rw_free(g);
}
static inline rw_status lazy_begin(rw_device *d, rw_error *err) {
    lazy_device *l = lazy_of(d);
    assert_null(l->recording);
    l->recording = rw_alloc(sizeof *l->recording);
    return l->recording ? RW_OK : rw_fail_memory(err, sizeof *l->recording);
}
static inline rw_status lazy_end(rw_device *d, rw_graph **out, rw_error *err) {
    lazy_device *l = lazy_of(d);
    (void)err;
    assert_non_null(l->recording);
    rw_graph *g = l->recording;
    l->recording = NULL;
    l->recordings += out != NULL;
    if (out)
        *out = g;
    else
        lazy_graph_free(d, g);
    return RW_OK;
}
static inline rw_status lazy_replay(rw_device *d, rw_graph *g, rw_error *err) {
    lazy_device *l = lazy_of(d);
    (void)err;
    assert_null(l->recording);
    l->replays++;
    for (size_t i = 0; i < g->pieces.n; i++) {
        lazy_entry e = g->pieces.entries[i];
        e.borrowed = true;
        lazy_submit(l, RW_QUEUE_KERNELS, e);
    }
    return RW_OK;
}

static const rw_device_record lazy_record = {lazy_begin, lazy_end, lazy_replay, lazy_graph_free};

/* -- the device
 * ---------------------------------------------------------------------------------------------------------- */

static inline void lazy_open(lazy_device *l, rw_device *inner, int mode) {
    *l = (lazy_device){.base = *inner, .inner = inner, .mode = mode};
    l->base.kernels = &lazy_table;
    l->base.exec.impl = l;
    l->base.alloc = lazy_alloc;
    l->base.free = lazy_free;
    l->base.zero = lazy_zero;
    l->base.upload = lazy_upload;
    l->base.download = lazy_download;
    l->base.synchronize = lazy_synchronize;
    l->base.ahead = mode & LAZY_AHEAD ? &lazy_ahead : NULL;
    l->base.record = mode & LAZY_RECORD ? &lazy_record : NULL;
}

static inline void lazy_close(lazy_device *l) {
    lazy_drain(l);
    assert_int_equal(l->base.live_bytes, 0);
    for (int q = 0; q < 2; q++) rw_free(l->queues[q].entries);
}

#endif
