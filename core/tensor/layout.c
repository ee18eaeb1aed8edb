/* Layout and flat buffers of parameters: see layout.h. */
#include "core/tensor/layout.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"

#include <stdlib.h>
#include <string.h>

/* -- layout ------------------------------------------------------------------------------------------- */

rw_status rw_layout_add(rw_layout *l, const char *name, rw_param_class cls, int ndim, const int64_t *shape, int bucket,
                        int place, rw_error *err) {
    if (!name || !rw_grow((void **)&l->segments, &l->cap, l->n_segments + 1, sizeof *l->segments))
        return rw_fail_memory(err, sizeof *l->segments);
    rw_segment *s = &l->segments[l->n_segments++];
    *s = (rw_segment){.name = name, .cls = cls, .ndim = ndim, .n = 1, .bucket = bucket, .place = place};
    s->trainable = true;
    s->lr_scale = 1;
    for (int i = 0; i < ndim; i++) {
        s->shape[i] = shape[i];
        s->n *= shape[i];
    }
    l->n_params += s->n;
    if (bucket >= l->n_buckets) l->n_buckets = bucket + 1;
    return RW_OK;
}

rw_status rw_layout_add_buffer(rw_layout *l, const rw_buffer *buffer, rw_error *err) {
    if (l->n_buffers == RW_MAX_BUFFERS)
        return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "a model has more than %d buffers", RW_MAX_BUFFERS);
    l->buffers[l->n_buffers++] = *buffer;
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

/* The segments of one bucket and class, from `at` on; returns the next bucket's beginning. */
static int64_t place_bucket(rw_segment **order, size_t n, int bucket, rw_param_class cls, bool trainable, int64_t at) {
    for (size_t i = 0; i < n; i++) {
        rw_segment *s = order[i];
        if (s->bucket != bucket || s->cls != cls || s->trainable != trainable) continue;
        s->offset = at;
        at = round_up(at + s->n, RW_SEGMENT_ALIGN);
    }
    return round_up(at, RW_BUCKET_ALIGN);
}

static void place_all(rw_layout *l, rw_segment **order, rw_param_class cls) {
    for (int b = 0; b < l->n_buckets; b++) {
        rw_flat_range *range = &l->buckets[b].part[cls];
        range->first = l->n_trainable[cls];
        l->n_trainable[cls] = place_bucket(order, l->n_segments, b, cls, true, range->first);
        range->n = l->n_trainable[cls] - range->first;
        l->n_frozen[cls] = place_bucket(order, l->n_segments, b, cls, false, l->n_frozen[cls]);
    }
}

rw_status rw_layout_place(rw_layout *l, rw_error *err) {
    rw_segment **order = rw_alloc_array(l->n_segments, sizeof *order);
    l->buckets = rw_alloc_array((size_t)l->n_buckets, sizeof *l->buckets);
    if (!order || !l->buckets) {
        rw_free(order);
        return rw_fail_memory(err, l->n_segments * sizeof *order);
    }
    for (size_t i = 0; i < l->n_segments; i++) order[i] = &l->segments[i];
    qsort(order, l->n_segments, sizeof *order, by_place);
    for (int c = 0; c < RW_PARAM_CLASSES; c++) place_all(l, order, (rw_param_class)c);
    rw_free(order);
    return RW_OK;
}

int rw_layout_find(const rw_layout *l, const char *name) {
    for (size_t i = 0; i < l->n_segments; i++)
        if (strcmp(l->segments[i].name, name) == 0) return (int)i;
    return -1;
}

bool rw_layout_has_buffer(const rw_layout *l, const char *name) {
    for (int i = 0; i < l->n_buffers; i++)
        if (strcmp(l->buffers[i].name, name) == 0) return true;
    return false;
}

void rw_layout_done(rw_layout *l) {
    rw_free(l->segments);
    rw_free(l->buckets);
    *l = (rw_layout){0};
}

/* -- buffers -------------------------------------------------------------------------------------------- */

static rw_dtype or_else(rw_dtype d, rw_dtype otherwise) {
    return d == RW_DTYPE_NONE ? otherwise : d;
}

/* dtype and grid of one kind of matrices. What ops read and write is of the compute dtype; a device that is narrow
 * itself may also have wide gradients (sums over micro batches). */
static void set_dtypes(rw_flat *f, rw_param_kind kind, const rw_storage *s, rw_dtype compute) {
    rw_dtype wide = rw_wide(compute);
    bool imitate = compute == wide;
    switch (kind) {
    case RW_PARAM_VALUE:
    case RW_PARAM_FROZEN:
        f->grid = or_else(s->value, compute);
        f->dtype = compute;
        return;
    case RW_PARAM_GRAD:
        f->grid = or_else(s->gradient, compute);
        f->dtype = imitate ? compute : f->grid;
        return;
    case RW_PARAM_M:
    case RW_PARAM_V:
        f->dtype = f->grid = or_else(s->moment, wide);
        return;
    default:
        f->dtype = f->grid = wide;
    }
}

static int64_t elements(const rw_layout *l, rw_param_kind kind, rw_param_class cls, bool master, bool train) {
    if (kind == RW_PARAM_VALUE) return l->n_trainable[cls];
    if (kind == RW_PARAM_FROZEN) return l->n_frozen[cls];
    if (!train || (kind == RW_PARAM_MASTER && (!master || cls == RW_VECTOR))) return 0;
    return l->n_trainable[cls];
}

static int64_t flat_bytes(const rw_flat *f) {
    return f->n * rw_dtype_bytes(f->dtype);
}

static char *element(const rw_flat *f, int64_t i) {
    return f->data ? (char *)f->data + i * rw_dtype_bytes(f->dtype) : NULL;
}

static rw_status make_flat(rw_params *p, rw_param_kind kind, rw_param_class cls, const rw_storage *s, bool train,
                           rw_error *err) {
    rw_flat *f = &p->flat[kind][cls];
    const rw_storage plain = {0};
    rw_dtype compute = p->device->compute;
    f->device = p->device;
    if (cls == RW_MATRIX)
        set_dtypes(f, kind, s, compute);
    else
        set_dtypes(f, kind, &plain, rw_wide(compute));
    f->n = elements(&p->layout, kind, cls, s->master, train);
    if (f->n == 0) return RW_OK;
    f->data = f->device->alloc(f->device, flat_bytes(f));
    return f->data ? RW_OK : rw_fail_memory(err, (size_t)flat_bytes(f));
}

static rw_status make_table(rw_params *p, rw_error *err) {
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        int64_t n_bytes = p->n_ranges[c] * (int64_t)sizeof **p->ranges;
        if (n_bytes == 0) continue;
        p->ranges[c] = p->device->alloc(p->device, n_bytes);
        if (!p->ranges[c]) return rw_fail_memory(err, (size_t)n_bytes);
    }
    return RW_OK;
}

static rw_status make_buffers(rw_params *p, const rw_storage *storage, bool train, rw_error *err) {
    for (int k = 0; k < RW_PARAM_KINDS; k++)
        for (int c = 0; c < RW_PARAM_CLASSES; c++)
            RW_TRY(make_flat(p, (rw_param_kind)k, (rw_param_class)c, storage, train, err));
    if (!train) return RW_OK;
    for (size_t i = 0; i < p->layout.n_segments; i++)
        p->n_ranges[p->layout.segments[i].cls] += p->layout.segments[i].trainable;
    return make_table(p, err);
}

static void make_tensors(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        const rw_flat *value = &p->flat[s->trainable ? RW_PARAM_VALUE : RW_PARAM_FROZEN][s->cls];
        const rw_flat *grad = &p->flat[RW_PARAM_GRAD][s->cls];
        rw_tensor *x = &p->tensors[i];
        *x = (rw_tensor){.dtype = value->dtype, .ndim = s->ndim, .name = s->name, .is_param = true};
        memcpy(x->shape, s->shape, sizeof x->shape);
        x->share = x->grad_share = -1;
        x->data = element(value, s->offset);
        x->requires_grad = s->trainable && grad->data;
        x->grad = x->requires_grad ? element(grad, s->offset) : NULL;
    }
}

/* Conversions go through pieces: on a CPU small ones that need no memory; to a device elsewhere, where each copy waits
 * for its end, large ones in host memory that was set aside. */
enum { PIECE = 4096, STAGED = 1 << 18 };

static int64_t piece_of(const rw_params *p) {
    return p->staging ? STAGED : PIECE;
}

static rw_status make_staging(rw_params *p, rw_error *err) {
    if (p->device->kind == RW_DEVICE_CPU || p->device->kind == RW_DEVICE_META) return RW_OK;
    p->staging = rw_alloc_pages(2 * STAGED * sizeof(double));
    return p->staging ? RW_OK : rw_fail_memory(err, 2 * STAGED * sizeof(double));
}

rw_status rw_params_new(rw_params **out, rw_device *device, rw_layout *layout, const rw_storage *storage, bool train,
                        rw_error *err) {
    rw_params *p = *out = rw_alloc(sizeof *p);
    if (!p) return rw_fail_memory(err, sizeof *p);
    p->device = device;
    p->tensors = rw_alloc_array(layout->n_segments, sizeof *p->tensors);
    p->layout = *layout;
    *layout = (rw_layout){0};
    rw_status status = p->tensors ? make_buffers(p, storage, train, err) : rw_fail_memory(err, sizeof *p->tensors);
    if (status == RW_OK) status = make_staging(p, err);
    if (status != RW_OK) {
        rw_params_free(p);
        *out = NULL;
        return status;
    }
    make_tensors(p);
    if (train) rw_params_upload_ranges(p);
    return RW_OK;
}

void rw_params_free(rw_params *p) {
    if (!p) return;
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        for (int k = 0; k < RW_PARAM_KINDS; k++) {
            rw_flat *f = &p->flat[k][c];
            if (f->data) f->device->free(f->device, f->data, flat_bytes(f));
        }
        int64_t n_bytes = p->n_ranges[c] * (int64_t)sizeof **p->ranges;
        if (p->ranges[c]) p->device->free(p->device, p->ranges[c], n_bytes);
    }
    rw_layout_done(&p->layout);
    if (p->staging) rw_free_pages(p->staging, 2 * STAGED * sizeof(double));
    rw_free(p->tensors);
    rw_free(p);
}

int64_t rw_params_bytes(const rw_params *p, rw_param_kind kind) {
    return flat_bytes(&p->flat[kind][RW_MATRIX]) + flat_bytes(&p->flat[kind][RW_VECTOR]);
}

int64_t rw_params_table_bytes(const rw_params *p) {
    return (p->n_ranges[RW_MATRIX] + p->n_ranges[RW_VECTOR]) * (int64_t)sizeof **p->ranges;
}

rw_tensor *rw_params_find(rw_params *p, const char *name) {
    int i = rw_layout_find(&p->layout, name);
    return i < 0 ? NULL : &p->tensors[i];
}

void rw_params_upload_ranges(rw_params *p) {
    int64_t next[RW_PARAM_CLASSES] = {0};
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (!s->trainable) continue;
        rw_adamw_range a = {.offset = s->offset, .n = s->n, .lr_scale = s->lr_scale, .decay = s->decay};
        a.stream = rw_hash_name(s->name);
        p->device->upload(p->device, p->ranges[s->cls] + next[s->cls]++, &a, sizeof a);
    }
}

/* -- gradients of a step --------------------------------------------------------------------------------- */

void rw_params_begin_step(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) p->tensors[i].grad_written = false;
}

static void zero_unwritten(rw_params *p) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        rw_tensor *x = &p->tensors[i];
        if (!x->requires_grad || x->grad_written) continue;
        p->device->zero(p->device, x->grad, s->n * rw_dtype_bytes(p->flat[RW_PARAM_GRAD][s->cls].dtype));
        x->grad_written = true;
    }
}

void rw_params_finish_grads(rw_params *p) {
    zero_unwritten(p);
    const rw_flat *f = &p->flat[RW_PARAM_GRAD][RW_MATRIX];
    rw_round_args a = {.dtype = f->dtype, .to = f->grid, .n = f->n, .x = f->data};
    if (f->grid != f->dtype) p->device->kernels->round_to(&a, &p->device->exec);
}

/* -- to and from host memory ------------------------------------------------------------------------------- */

static rw_flat *flat_of(rw_params *p, rw_param_kind kind, size_t i) {
    const rw_segment *s = &p->layout.segments[i];
    if (kind == RW_PARAM_VALUE && !s->trainable) kind = RW_PARAM_FROZEN;
    if (kind == RW_PARAM_VALUE && p->flat[RW_PARAM_MASTER][s->cls].data) kind = RW_PARAM_MASTER;
    return &p->flat[kind][s->cls];
}

static void read_piece(const rw_flat *f, int64_t at, int64_t n, rw_dtype dtype, void *host, void *piece) {
    f->device->download(f->device, piece, element(f, at), n * rw_dtype_bytes(f->dtype));
    rw_convert(host, dtype, piece, f->dtype, n);
}

void rw_params_get(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, rw_dtype dtype, void *host) {
    const rw_flat *f = flat_of(p, kind, i);
    const int64_t at = p->layout.segments[i].offset + first;
    if (f->dtype == dtype) {
        f->device->download(f->device, host, element(f, at), n * rw_dtype_bytes(dtype));
        return;
    }
    double small[PIECE];
    const int64_t most = piece_of(p);
    void *piece = p->staging ? p->staging : small;
    for (int64_t k = 0; k < n; k += most)
        read_piece(f, at + k, n - k < most ? n - k : most, dtype, (char *)host + k * rw_dtype_bytes(dtype), piece);
}

/* host dtype -> grid -> the buffer's dtype; room for two pieces */
static void write_piece(const rw_flat *f, int64_t at, int64_t n, rw_dtype dtype, const void *host, double *room,
                        int64_t most) {
    void *on_grid = room, *piece = f->grid == f->dtype ? on_grid : room + most;
    rw_convert(on_grid, f->grid, host, dtype, n);
    if (piece != on_grid) rw_convert(piece, f->dtype, on_grid, f->grid, n);
    f->device->upload(f->device, element(f, at), piece, n * rw_dtype_bytes(f->dtype));
}

static void write_flat(const rw_params *p, const rw_flat *f, int64_t at, int64_t n, rw_dtype dtype, const void *host) {
    if (f->dtype == dtype && f->grid == dtype) {
        if (element(f, at) != host) f->device->upload(f->device, element(f, at), host, n * rw_dtype_bytes(dtype));
        return;
    }
    double small[2 * PIECE];
    const int64_t most = piece_of(p);
    double *room = p->staging ? p->staging : small;
    for (int64_t k = 0; k < n; k += most)
        write_piece(f, at + k, n - k < most ? n - k : most, dtype, (const char *)host + k * rw_dtype_bytes(dtype), room,
                    most);
}

void rw_params_set(rw_params *p, rw_param_kind kind, size_t i, int64_t first, int64_t n, rw_dtype dtype,
                   const void *host) {
    const rw_segment *s = &p->layout.segments[i];
    const rw_flat *best = flat_of(p, kind, i);
    write_flat(p, best, s->offset + first, n, dtype, host);
    if (best == &p->flat[RW_PARAM_MASTER][s->cls])
        write_flat(p, &p->flat[RW_PARAM_VALUE][s->cls], s->offset + first, n, dtype, host);
}

void *rw_params_host(rw_params *p, rw_param_kind kind, size_t i, rw_dtype *dtype) {
    const rw_flat *f = flat_of(p, kind, i);
    if (f->device->kind != RW_DEVICE_CPU) return NULL;
    *dtype = f->dtype;
    return element(f, p->layout.segments[i].offset);
}
