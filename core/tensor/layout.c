/* Layout and flat buffers of parameters: see layout.h. */
#include "core/tensor/layout.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"

#include <stdlib.h>
#include <string.h>

/* -- layout ------------------------------------------------------------------------------------------- */

rw_status rw_layout_add(rw_layout *l, const char *name, int ndim, const int64_t *shape, int bucket, int place,
                        rw_error *err) {
    if (!name || !rw_grow((void **)&l->segments, &l->cap, l->n_segments + 1, sizeof *l->segments))
        return rw_fail_memory(err, sizeof *l->segments);
    rw_segment *s = &l->segments[l->n_segments++];
    *s = (rw_segment){
        .name = name, .ndim = ndim, .n = 1, .bucket = bucket, .place = place, .trainable = true, .lr_scale = 1};
    for (int i = 0; i < ndim; i++) {
        s->shape[i] = shape[i];
        s->n *= shape[i];
    }
    l->n_params += s->n;
    return RW_OK;
}

static int by_place(const void *a, const void *b) {
    const rw_segment *x = *(rw_segment *const *)a, *y = *(rw_segment *const *)b;
    if (x->bucket != y->bucket) return x->bucket < y->bucket ? -1 : 1;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return x < y ? -1 : x > y; /* the official order */
}

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

static int64_t place_all(rw_segment **order, size_t n, bool trainable) {
    int64_t at = 0;
    int bucket = n ? order[0]->bucket : 0;
    for (size_t i = 0; i < n; i++) {
        rw_segment *s = order[i];
        if (s->bucket != bucket) at = round_up(at, RW_BUCKET_ALIGN);
        bucket = s->bucket;
        if (s->trainable != trainable) continue;
        s->offset = at;
        at = round_up(at + s->n, RW_SEGMENT_ALIGN);
    }
    return round_up(at, RW_BUCKET_ALIGN);
}

rw_status rw_layout_place(rw_layout *l, rw_error *err) {
    rw_segment **order = rw_alloc_array(l->n_segments, sizeof *order);
    if (!order) return rw_fail_memory(err, l->n_segments * sizeof *order);
    for (size_t i = 0; i < l->n_segments; i++) order[i] = &l->segments[i];
    qsort(order, l->n_segments, sizeof *order, by_place);
    l->n_trainable = place_all(order, l->n_segments, true);
    l->n_frozen = place_all(order, l->n_segments, false);
    rw_free(order);
    return RW_OK;
}

int rw_layout_find(const rw_layout *l, const char *name) {
    for (size_t i = 0; i < l->n_segments; i++)
        if (strcmp(l->segments[i].name, name) == 0) return (int)i;
    return -1;
}

void rw_layout_done(rw_layout *l) {
    rw_free(l->segments);
    *l = (rw_layout){0};
}

/* -- parameters ------------------------------------------------------------------------------------------ */

static char *element(const rw_params *p, void *base, int64_t i) {
    return base ? (char *)base + i * rw_dtype_bytes(p->device->compute) : NULL;
}

static rw_status take(rw_params *p, void **buffer, int64_t n, rw_error *err) {
    int64_t n_bytes = n * rw_dtype_bytes(p->device->compute);
    if (n == 0) return RW_OK;
    *buffer = p->device->alloc(p->device, n_bytes);
    return *buffer ? RW_OK : rw_fail_memory(err, (size_t)n_bytes);
}

static void give(rw_params *p, void *buffer, int64_t n) {
    if (buffer) p->device->free(p->device, buffer, n * rw_dtype_bytes(p->device->compute));
}

static void make_tensors(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        rw_tensor *x = &p->tensors[i];
        *x = (rw_tensor){.dtype = p->device->compute, .ndim = s->ndim, .name = s->name, .is_param = true};
        memcpy(x->shape, s->shape, sizeof x->shape);
        x->block = x->grad_block = -1;
        x->data = element(p, s->trainable ? p->values : p->frozen, s->offset);
        x->requires_grad = s->trainable && p->grads;
        x->grad = x->requires_grad ? element(p, p->grads, s->offset) : NULL;
    }
}

static rw_status make_buffers(rw_params *p, bool train, rw_error *err) {
    int64_t n = p->layout.n_trainable;
    RW_TRY(take(p, &p->values, n, err));
    RW_TRY(take(p, &p->frozen, p->layout.n_frozen, err));
    for (size_t i = 0; i < p->layout.n_segments; i++) p->n_segments += p->layout.segments[i].trainable;
    if (!train) return RW_OK;
    RW_TRY(take(p, &p->grads, n, err));
    RW_TRY(take(p, &p->m, n, err));
    RW_TRY(take(p, &p->v, n, err));
    p->segments = p->device->alloc(p->device, p->n_segments * (int64_t)sizeof *p->segments);
    return p->segments ? RW_OK : rw_fail_memory(err, (size_t)p->n_segments * sizeof *p->segments);
}

rw_status rw_params_new(rw_params **out, rw_device *device, rw_layout *layout, bool train, rw_error *err) {
    rw_params *p = *out = rw_alloc(sizeof *p);
    if (!p) return rw_fail_memory(err, sizeof *p);
    p->device = device;
    p->tensors = rw_alloc_array(layout->n_segments, sizeof *p->tensors);
    p->layout = *layout;
    *layout = (rw_layout){0};
    rw_status status = p->tensors ? make_buffers(p, train, err) : rw_fail_memory(err, sizeof *p->tensors);
    if (status != RW_OK) {
        rw_params_free(p);
        *out = NULL;
        return status;
    }
    make_tensors(p);
    if (train) rw_params_upload_segments(p);
    return RW_OK;
}

void rw_params_free(rw_params *p) {
    if (!p) return;
    give(p, p->values, p->layout.n_trainable);
    give(p, p->frozen, p->layout.n_frozen);
    give(p, p->grads, p->layout.n_trainable);
    give(p, p->m, p->layout.n_trainable);
    give(p, p->v, p->layout.n_trainable);
    if (p->segments) p->device->free(p->device, p->segments, p->n_segments * (int64_t)sizeof *p->segments);
    rw_layout_done(&p->layout);
    rw_free(p->tensors);
    rw_free(p);
}

rw_tensor *rw_params_find(rw_params *p, const char *name) {
    int i = rw_layout_find(&p->layout, name);
    return i < 0 ? NULL : &p->tensors[i];
}

void rw_params_upload_segments(rw_params *p) {
    int64_t k = 0;
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (!s->trainable) continue;
        rw_adamw_segment a = {.offset = s->offset, .n = s->n, .lr_scale = s->lr_scale, .decay = s->decay};
        a.stream = rw_hash_name(s->name);
        p->device->upload(p->device, p->segments + k++, &a, sizeof a);
    }
}

void rw_params_begin_step(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) p->tensors[i].grad_written = false;
}

void rw_params_finish_grads(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        rw_tensor *x = &p->tensors[i];
        if (!x->requires_grad || x->grad_written) continue;
        p->device->zero(p->device, x->grad, rw_tensor_bytes(x));
        x->grad_written = true;
    }
}

static char *where(rw_params *p, rw_param_kind kind, size_t i, int64_t first) {
    const rw_segment *s = &p->layout.segments[i];
    void *base = kind == RW_PARAM_M ? p->m : kind == RW_PARAM_V ? p->v : kind == RW_PARAM_GRAD ? p->grads : p->values;
    if (kind == RW_PARAM_VALUE && !s->trainable) base = p->frozen;
    return element(p, base, s->offset + first);
}

void rw_params_get(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, void *host) {
    p->device->download(p->device, host, where(p, kind, i, first), n * rw_dtype_bytes(p->device->compute));
}

void rw_params_set(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, const void *host) {
    p->device->upload(p->device, where(p, kind, i, first), host, n * rw_dtype_bytes(p->device->compute));
}
