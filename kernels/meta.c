/* The meta device: a step on it allocates nothing and computes nothing, but asks for every buffer that the imitated
 * device would be asked for, so that the plan can count them. Addresses are numbers from a reserved range which no
 * process maps; whoever reads one crashes at once. */
#include "core/base/alloc.h"
#include "kernels/device.h"

typedef struct {
    rw_device base; /* first: the device is this struct */
    rw_step_scalars scalars;
    rw_device_scalars own;
    const rw_kernels *like;
    rw_exec like_exec;
    uintptr_t next; /* address of the next block */
} meta_device;

enum { ALIGN = 4096 };
static const uintptr_t first_address = 4096; /* low: the system keeps the bottom of the address space unmapped */

#define RW_KERNEL(op, args)                                                                                            \
    static void meta_##op(const args *a, const rw_exec *ex) {                                                          \
        (void)a, (void)ex;                                                                                             \
    }
#define RW_QUERY(op, args)                                                                                             \
    static int64_t meta_##op(const args *a, const rw_exec *ex) {                                                       \
        const meta_device *m = ex->impl;                                                                               \
        return m->like->op(a, &m->like_exec);                                                                          \
    }
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

static const rw_kernels meta_table = {
    .name = "meta",
#define RW_KERNEL(op, args) .op = meta_##op,
#define RW_QUERY(op, args)  .op = meta_##op,
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};

static void *meta_alloc(rw_device *d, int64_t n_bytes) {
    meta_device *m = (meta_device *)d;
    if (n_bytes < 0) return NULL;
    void *p = (void *)m->next;
    m->next += ((uintptr_t)n_bytes + ALIGN) / ALIGN * ALIGN; /* at least one step: addresses differ */
    d->live_bytes += n_bytes;
    if (d->live_bytes > d->peak_bytes) d->peak_bytes = d->live_bytes;
    return p;
}

static void meta_free(rw_device *d, void *p, int64_t n_bytes) {
    if (p) d->live_bytes -= n_bytes;
}

static void meta_zero(rw_device *d, void *p, int64_t n_bytes) {
    (void)d, (void)p, (void)n_bytes;
}
static void meta_copy(rw_device *d, void *dst, const void *src, int64_t n_bytes) {
    (void)d, (void)dst, (void)src, (void)n_bytes;
}
static rw_status meta_synchronize(rw_device *d, rw_error *err) {
    (void)d, (void)err;
    return RW_OK;
}
static void meta_close(rw_device *d) {
    rw_free(d);
}

rw_status rw_device_open_meta(rw_device **out, const rw_device *like, rw_error *err) {
    *out = NULL;
    meta_device *m = rw_alloc(sizeof *m);
    if (!m) return rw_fail_memory(err, sizeof *m);
    m->like = like->kernels;
    m->like_exec = like->exec;
    m->next = first_address;
    m->base = (rw_device){
        .kind = RW_DEVICE_META,
        .compute = like->compute,
        .name = "meta",
        .detail = "counts memory, computes nothing",
        .kernels = &meta_table,
        .exec = {.threads = like->exec.threads, .scalars = &m->scalars, .own = &m->own, .impl = m},
        .alloc = meta_alloc,
        .free = meta_free,
        .zero = meta_zero,
        .upload = meta_copy,
        .download = meta_copy,
        .synchronize = meta_synchronize,
        .close = meta_close,
    };
    *out = &m->base;
    return RW_OK;
}
