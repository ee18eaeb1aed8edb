/* The way in and the way out. What the host writes for a micro batch is one block, so that it goes over in one copy.
 *
 * Without device->ahead a copy is done when it returns: stage writes where the kernels read. With it, stage packs the
 * batch into one of two slots of the host, from which a queue of its own copies it to a slot on the device while
 * kernels run; run then moves it to the place that kernels know. Reports come back through two slots in the same way.
 */
#include "core/engine/engine_internal.h"

#include "core/base/alloc.h"

#include <assert.h>
#include <string.h>

#define L2WRAP 1e-4

static int64_t rows_of(const rw_plan *p) {
    return p->train.micro_bsz * p->train.ctx_len;
}

static int64_t aligned(int64_t n) {
    return (n + RW_ARENA_ALIGN - 1) / RW_ARENA_ALIGN * RW_ARENA_ALIGN;
}

/* -- sizes ------------------------------------------------------------------------------------------------ */

/* Points into the block at `base`, or nowhere; returns its bytes. */
static int64_t cut_inputs(rw_engine_inputs *in, const rw_plan *p, char *base) {
    int64_t R = rows_of(p), at = 0;
    struct {
        void **pointer;
        int64_t n_bytes;
    } parts[] = {{(void **)&in->scalars, sizeof *in->scalars},
                 {(void **)&in->tokens, R * (int64_t)sizeof *in->tokens},
                 {(void **)&in->targets, R * (int64_t)sizeof *in->targets},
                 {(void **)&in->mask, R * (int64_t)sizeof *in->mask},
                 {(void **)&in->cu_seqlens, (p->data.max_seq + 1) * (int64_t)sizeof *in->cu_seqlens}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].pointer = base ? base + at : NULL;
        at += aligned(parts[i].n_bytes);
    }
    return at;
}

static int64_t input_bytes(const rw_plan *p) {
    rw_engine_inputs in;
    return cut_inputs(&in, p, NULL);
}

enum { OWN_BYTES = (sizeof(rw_device_scalars) + RW_ARENA_ALIGN - 1) / RW_ARENA_ALIGN * RW_ARENA_ALIGN };

int64_t rw_engine_batch_bytes(const rw_plan *plan, const rw_device *device) {
    return OWN_BYTES + input_bytes(plan) * (device->ahead ? 1 + RW_ENGINE_AHEAD : 1);
}

int64_t rw_engine_host_bytes(const rw_plan *plan, const rw_device *device) {
    return device->ahead ? RW_ENGINE_AHEAD * (input_bytes(plan) + OWN_BYTES) : 0;
}

/* -- opening ---------------------------------------------------------------------------------------------- */

static rw_status new_mark(rw_device *d, rw_mark **m, rw_error *err) {
    *m = d->ahead->mark_new(d);
    return *m ? RW_OK : rw_fail_memory(err, 64);
}

static rw_status open_slots(rw_engine *e, char *device, rw_error *err) {
    rw_device *d = e->device;
    int64_t each = input_bytes(e->plan), n_bytes = rw_engine_host_bytes(e->plan, d);
    char *host = e->host_block = d->ahead->host_alloc(d, n_bytes);
    if (!host) return rw_fail_memory(err, (size_t)n_bytes);
    for (int i = 0; i < RW_ENGINE_AHEAD; i++) {
        rw_engine_slot *s = &e->slots[i];
        host += cut_inputs(&s->host, e->plan, host);
        s->device = device + i * each;
        RW_TRY(new_mark(d, &s->copied, err));
        RW_TRY(new_mark(d, &s->taken, err));
        e->reports[i].host = (rw_device_scalars *)host;
        host += OWN_BYTES;
        RW_TRY(new_mark(d, &e->reports[i].copied, err));
    }
    return RW_OK;
}

rw_status rw_engine_open_transfer(rw_engine *e, rw_error *err) {
    rw_device *d = e->device;
    int64_t n_bytes = rw_engine_batch_bytes(e->plan, d);
    char *base = e->block = d->alloc(d, n_bytes);
    if (!base) return rw_fail_memory(err, (size_t)n_bytes);
    e->before = d->exec;
    d->exec.own = (rw_device_scalars *)base;
    int64_t n_in = cut_inputs(&e->in, e->plan, base + OWN_BYTES);
    d->exec.scalars = e->in.scalars;
    e->rows = (rw_rows){rows_of(e->plan), e->plan->data.max_seq, e->in.cu_seqlens};
    return d->ahead ? open_slots(e, base + OWN_BYTES + n_in, err) : RW_OK;
}

static void close_slots(rw_engine *e) {
    const rw_device_ahead *a = e->device->ahead;
    for (int i = 0; i < RW_ENGINE_AHEAD; i++) {
        a->mark_free(e->device, e->slots[i].copied);
        a->mark_free(e->device, e->slots[i].taken);
        a->mark_free(e->device, e->reports[i].copied);
    }
    a->host_free(e->device, e->host_block, rw_engine_host_bytes(e->plan, e->device));
}

/* The device may still be at work on what is given back here. */
void rw_engine_close_transfer(rw_engine *e) {
    rw_device *d = e->device;
    if (!e->block) return;
    d->synchronize(d, NULL);
    if (d->ahead) close_slots(e);
    d->exec.scalars = e->before.scalars;
    d->exec.own = e->before.own;
    d->free(d, e->block, rw_engine_batch_bytes(e->plan, d));
}

/* -- in ------------------------------------------------------------------------------------------------------ */

/* The factor of one batch: a share of the whole step, or with loss_norm "micro" the mean of the batches' means. */
static void set_normaliser(const rw_engine *e, rw_step_scalars *s, const rw_batch *b) {
    const rw_plan_train *p = &e->plan->train;
    double sum = p->loss_norm == RW_LOSS_NORM_MICRO ? b->mask_sum * (double)p->accumulate : e->mask_sum;
    s->normaliser = sum > 0 ? 1 / sum : 0;
    s->l2wrap_mask = p->l2wrap == RW_L2WRAP_V7 ? L2WRAP * s->normaliser : 0;
    s->l2wrap_rows = p->l2wrap == RW_L2WRAP_V5 ? L2WRAP / (double)e->rows.n_rows : 0;
}

typedef void (*put_fn)(rw_device *d, void *dst, const void *src, int64_t n_bytes);

static void put_batch(const rw_engine *e, const rw_engine_inputs *to, const rw_batch *b, put_fn put) {
    int64_t R = e->rows.n_rows;
    rw_step_scalars s = e->scalars;
    set_normaliser(e, &s, b);
    put(e->device, to->scalars, &s, sizeof s);
    put(e->device, to->tokens, b->tokens, R * (int64_t)sizeof *b->tokens);
    put(e->device, to->targets, b->targets, R * (int64_t)sizeof *b->targets);
    put(e->device, to->mask, b->mask, R * (int64_t)sizeof *b->mask);
    put(e->device, to->cu_seqlens, b->cu_seqlens, (e->rows.n_seq + 1) * (int64_t)sizeof *b->cu_seqlens);
}

static void put_on_host(rw_device *d, void *dst, const void *src, int64_t n_bytes) {
    (void)d;
    memcpy(dst, src, (size_t)n_bytes);
}

static rw_status stage_ahead(rw_engine *e, rw_engine_slot *s, const rw_batch *b, rw_error *err) {
    rw_device *d = e->device;
    RW_TRY(d->ahead->mark_sync(d, s->taken, err));
    put_batch(e, &s->host, b, put_on_host);
    d->ahead->upload(d, s->device, s->host.scalars, input_bytes(e->plan));
    d->ahead->mark_set(d, s->copied, RW_QUEUE_COPIES);
    return RW_OK;
}

rw_status rw_engine_stage(rw_engine *e, const rw_batch *b, rw_error *err) {
    if (b->n_rows != e->rows.n_rows || b->n_seq < 1 || b->n_seq > e->rows.n_seq)
        return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE,
                       "a batch of %lld rows in %lld sequences; the engine takes %lld rows in at most %lld",
                       (long long)b->n_rows, (long long)b->n_seq, (long long)e->rows.n_rows, (long long)e->rows.n_seq);
    assert(e->n_staged - e->n_taken < (e->device->ahead ? RW_ENGINE_AHEAD : 1));
    rw_engine_slot *s = &e->slots[e->n_staged++ % RW_ENGINE_AHEAD];
    if (e->device->ahead) return stage_ahead(e, s, b, err);
    put_batch(e, &e->in, b, e->device->upload);
    return RW_OK;
}

void rw_engine_take(rw_engine *e) {
    rw_device *d = e->device;
    assert(e->n_taken < e->n_staged);
    rw_engine_slot *s = &e->slots[e->n_taken++ % RW_ENGINE_AHEAD];
    if (!d->ahead) return;
    d->ahead->mark_wait(d, s->copied, RW_QUEUE_KERNELS);
    d->ahead->move(d, e->in.scalars, s->device, input_bytes(e->plan));
    d->ahead->mark_set(d, s->taken, RW_QUEUE_KERNELS);
}

void rw_engine_set_counts(rw_engine *e, const rw_device_scalars *counts) {
    e->device->upload(e->device, e->device->exec.own, counts, sizeof *counts);
}

/* -- out ----------------------------------------------------------------------------------------------------- */

/* The slot's last copy need not be waited for: both are in one queue. */
void rw_engine_send_report(rw_engine *e) {
    rw_device *d = e->device;
    rw_engine_report *r = &e->reports[e->n_updates++ % RW_ENGINE_AHEAD];
    if (!d->ahead) return;
    d->ahead->download(d, r->host, d->exec.own, sizeof *r->host);
    d->ahead->mark_set(d, r->copied, RW_QUEUE_KERNELS);
}

/* The newest report that has come, or NULL. */
static const rw_engine_report *newest(const rw_engine *e) {
    for (int64_t i = e->n_updates - 1; i >= 0 && i >= e->n_updates - RW_ENGINE_AHEAD; i--) {
        const rw_engine_report *r = &e->reports[i % RW_ENGINE_AHEAD];
        if (e->device->ahead->mark_passed(e->device, r->copied)) return r;
    }
    return NULL;
}

static rw_status collect_ahead(rw_engine *e, bool wait, rw_device_scalars *report, rw_error *err) {
    const rw_engine_report *last = &e->reports[(e->n_updates + RW_ENGINE_AHEAD - 1) % RW_ENGINE_AHEAD];
    if (wait) RW_TRY(e->device->ahead->mark_sync(e->device, last->copied, err));
    const rw_engine_report *r = newest(e);
    if (r) *report = *r->host;
    return RW_OK;
}

rw_status rw_engine_collect(rw_engine *e, bool wait, rw_device_scalars *report, rw_error *err) {
    rw_device *d = e->device;
    *report = (rw_device_scalars){0};
    if (d->ahead) return collect_ahead(e, wait, report, err);
    RW_TRY(d->synchronize(d, err));
    if (e->n_updates > 0) d->download(d, report, d->exec.own, sizeof *report);
    return RW_OK;
}
