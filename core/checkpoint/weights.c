/* Parameters to and from files: see weights.h. */
#include "core/checkpoint/weights.h"

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHECKED ((int64_t)1 << 18) /* values looked at in one piece */

/* -- loading ------------------------------------------------------------------------------------------------ */

static bool same_shape(const rw_segment *s, const rw_file_tensor *t) {
    if (s->ndim != t->ndim) return false;
    for (int i = 0; i < s->ndim; i++)
        if (s->shape[i] != t->shape[i]) return false;
    return true;
}

static const char *shape_text(const int64_t *shape, int ndim, char *buf, size_t size) {
    size_t at = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < ndim && at < size; i++)
        at += (size_t)snprintf(buf + at, size - at, i ? ", %lld" : "%lld", (long long)shape[i]);
    if (at < size) snprintf(buf + at, size - at, "]");
    return buf;
}

static rw_status shape_error(const rw_segment *s, const rw_file_tensor *t, const char *path, rw_error *err) {
    char have[96], want[96];
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "%s has shape %s, the model expects %s", s->name,
                   shape_text(t->shape, t->ndim, have, sizeof have), shape_text(s->shape, s->ndim, want, sizeof want));
}

/* A host device is read into directly; others through one tensor's worth of host memory. */
static rw_status load_one(rw_params *p, rw_param_kind kind, size_t i, const rw_tensor_file *f, const rw_file_tensor *t,
                          rw_error *err) {
    rw_dtype dtype = rw_wide(p->device->compute);
    void *there = rw_params_host(p, kind, i, &dtype), *host = there;
    int64_t n = p->layout.segments[i].n, n_bytes = n * rw_dtype_bytes(dtype);
    if (!there) host = rw_alloc_pages((size_t)n_bytes);
    if (!host) return rw_fail_memory(err, (size_t)n_bytes);
    rw_status status = rw_tensor_file_read(f, t, host, dtype, err);
    if (status == RW_OK) rw_params_set(p, kind, i, 0, n, dtype, host);
    if (!there) rw_free_pages(host, (size_t)n_bytes);
    return status;
}

static bool knows(const rw_params *p, const char *name) {
    return rw_layout_find(&p->layout, name) >= 0 || rw_layout_has_buffer(&p->layout, name);
}

static rw_status refuse_unknown(const rw_params *p, const rw_tensor_file *f, const char *path, rw_error *err) {
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
        const char *name = rw_tensor_file_at(f, i)->name;
        if (!knows(p, name))
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "tensor '%s' does not belong to this model", name);
    }
    return RW_OK;
}

static bool is_state(const rw_segment *s) {
    return s->role && s->role->group == RW_GROUP_STATE;
}

/* Bucket 1 is block 0. A training state has them all. */
static bool may_lack(const rw_segment *s, const char *prefix) {
    return !*prefix && s->role && (rw_role_optional(s->role, s->bucket - 1) || is_state(s));
}

rw_status rw_weights_load(rw_params *p, rw_param_kind kind, const rw_tensor_file *f, const char *path,
                          const char *prefix, rw_error *err) {
    char name[256];
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (*prefix && !s->trainable) continue;
        snprintf(name, sizeof name, "%s%s", prefix, s->name);
        const rw_file_tensor *t = rw_tensor_file_find(f, name);
        if (!t && may_lack(s, prefix)) continue;
        if (!t) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "tensor '%s' is missing", name);
        if (!same_shape(s, t)) return shape_error(s, t, path, err);
        RW_TRY(load_one(p, kind, i, f, t, err));
    }
    return *prefix ? RW_OK : refuse_unknown(p, f, path, err);
}

rw_status rw_weights_load_partial(rw_params *p, const rw_tensor_file *f, const char *path, rw_error *err) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        const rw_file_tensor *t = rw_tensor_file_find(f, s->name);
        if (t && !same_shape(s, t)) return shape_error(s, t, path, err);
        if (t)
            RW_TRY(load_one(p, RW_PARAM_VALUE, i, f, t, err));
        else
            rw_info("%s lacks '%s': initial values", path, s->name);
    }
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++)
        if (!knows(p, rw_tensor_file_at(f, i)->name))
            rw_info("%s has '%s', which this model has not: ignored", path, rw_tensor_file_at(f, i)->name);
    return RW_OK;
}

static rw_status load_states(rw_params *p, const rw_tensor_file *f, const char *path, rw_error *err) {
    int64_t n = 0;
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (!is_state(s)) continue;
        const rw_file_tensor *t = rw_tensor_file_find(f, s->name);
        if (!t) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "tensor '%s' is missing", s->name);
        if (!same_shape(s, t)) return shape_error(s, t, path, err);
        RW_TRY(load_one(p, RW_PARAM_VALUE, i, f, t, err));
        n++;
    }
    if (rw_tensor_file_count(f) == n) return RW_OK;
    return rw_fail(
        err, RW_E_FORMAT, RW_AT_FILE(path),
        "expected the initial states (time_state) of %lld blocks alone, found %lld tensors; a whole model is "
        "loaded as one",
        (long long)n, (long long)rw_tensor_file_count(f));
}

rw_status rw_weights_load_states(rw_params *p, const char *path, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    rw_status status = load_states(p, f, path, err);
    rw_tensor_file_close(f);
    return status;
}

/* Pieces, so that a device elsewhere needs little host memory. */
static rw_status check_segment(rw_params *p, size_t i, void *piece, const char *path, rw_error *err) {
    const rw_segment *s = &p->layout.segments[i];
    rw_dtype dtype = rw_wide(p->device->compute);
    for (int64_t first = 0; first < s->n; first += CHECKED) {
        int64_t n = s->n - first < CHECKED ? s->n - first : CHECKED;
        rw_params_get(p, RW_PARAM_VALUE, i, first, n, dtype, piece);
        int64_t bad = rw_first_nonfinite(piece, dtype, n);
        if (bad == n) continue;
        double x = dtype == RW_F32 ? (double)((float *)piece)[bad] : ((double *)piece)[bad];
        return rw_fail(err, RW_E_NUMERIC, RW_AT_FILE(path),
                       "tensor '%s' has %s at element %lld: the file is damaged, or its training diverged; take an "
                       "earlier one (a recipe with model.allow_nonfinite: true loads it all the same)",
                       s->name, isnan(x) ? "NaN" : "Infinity", (long long)(first + bad));
    }
    return RW_OK;
}

/* On a device elsewhere one sum over each buffer says whether there is anything to look for. True too where it can't be
 * asked: then every value is looked at. */
static bool may_be_nonfinite(rw_params *p, rw_param_kind kind, rw_param_class c, double *sum) {
    rw_device *d = p->device;
    const rw_flat *f = &p->flat[kind][c];
    rw_sum_args a = {.dtype = f->dtype, .n = f->n, .x = f->data, .squares = true};
    if (f->n == 0) return false;
    const int64_t n_scratch = d->kernels->sum_scratch(&a, &d->exec), n_bytes = n_scratch + RW_ARENA_ALIGN;
    char *room = d->alloc(d, n_bytes);
    if (!room) return true;
    a.out = (double *)room;
    a.scratch = room + RW_ARENA_ALIGN;
    d->kernels->sum(&a, &d->exec);
    d->download(d, sum, a.out, sizeof *sum);
    d->free(d, room, n_bytes);
    return !isfinite(*sum);
}

static bool all_finite_at_once(rw_params *p) {
    static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_FROZEN, RW_PARAM_MASTER};
    double sum;
    if (p->device->kind == RW_DEVICE_CPU) return false;
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < RW_PARAM_CLASSES; c++)
            if (may_be_nonfinite(p, kinds[k], (rw_param_class)c, &sum)) return false;
    return true;
}

rw_status rw_weights_check_finite(rw_params *p, const char *path, rw_error *err) {
    if (all_finite_at_once(p)) return RW_OK;
    void *piece = rw_alloc((size_t)CHECKED * sizeof(double));
    if (!piece) return rw_fail_memory(err, (size_t)CHECKED * sizeof(double));
    rw_status status = RW_OK;
    for (size_t i = 0; i < p->layout.n_segments && status == RW_OK; i++) status = check_segment(p, i, piece, path, err);
    rw_free(piece);
    return status;
}

rw_status rw_weights_finite(rw_params *p, bool *finite, rw_error *err) {
    *finite = true;
    if (all_finite_at_once(p)) return RW_OK;
    void *piece = rw_alloc((size_t)CHECKED * sizeof(double));
    if (!piece) return rw_fail_memory(err, (size_t)CHECKED * sizeof(double));
    *finite = true;
    for (size_t i = 0; i < p->layout.n_segments && *finite; i++)
        if (p->layout.segments[i].trainable) *finite = check_segment(p, i, piece, "", NULL) == RW_OK;
    rw_free(piece);
    return RW_OK;
}

/* -- saving --------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_params *p;
    rw_param_kind kind;
    size_t index;
} source;

static rw_status fetch(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    const source *s = t->data;
    (void)err;
    rw_params_get(s->p, s->kind, s->index, first, n, t->src_dtype, buf);
    return RW_OK;
}

static rw_status fetch_buffer(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    const rw_buffer *b = t->data;
    (void)err;
    for (int64_t i = 0; i < n; i++) ((double *)buf)[i] = b->value(b->ctx, first + i);
    return RW_OK;
}

/* An official file has them, a training state does not need them. */
static void fill_buffers(rw_weights_list *list, const rw_params *p, rw_dtype dtype) {
    for (int i = 0; i < p->layout.n_buffers; i++) {
        const rw_buffer *b = &p->layout.buffers[i];
        rw_save_tensor *t = &list->tensors[list->n++];
        *t = (rw_save_tensor){.name = b->name, .ndim = b->ndim, .src_dtype = RW_F64, .fetch = fetch_buffer, .data = b};
        memcpy(t->shape, b->shape, sizeof b->shape);
        t->dtype = dtype == RW_DTYPE_NONE ? rw_wide(p->device->compute) : dtype;
    }
}

static size_t name_bytes(const rw_params *p, const char *const *prefixes, int n_kinds) {
    size_t n = 0;
    for (int k = 0; k < n_kinds; k++)
        for (size_t i = 0; i < p->layout.n_segments; i++)
            n += strlen(prefixes[k]) + strlen(p->layout.segments[i].name) + 1;
    return n;
}

static void fill(rw_weights_list *list, rw_params *p, rw_param_kind kind, const char *prefix, rw_dtype dtype,
                 char **name) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (!s->trainable) continue;
        source *src = (source *)list->sources + list->n;
        rw_save_tensor *t = &list->tensors[list->n++];
        *src = (source){p, kind, i};
        t->name = *name;
        size_t n = strlen(prefix) + strlen(s->name) + 1;
        snprintf(*name, n, "%s%s", prefix, s->name);
        *name += n;
        t->ndim = s->ndim;
        for (int d = 0; d < s->ndim; d++) t->shape[d] = s->shape[d];
        t->src_dtype = rw_wide(p->device->compute);
        t->dtype = dtype == RW_DTYPE_NONE ? t->src_dtype : dtype;
        t->fetch = fetch;
        t->data = src;
    }
}

rw_status rw_weights_list_new(rw_weights_list *list, rw_params *p, const rw_param_kind *kinds,
                              const char *const *prefixes, int n_kinds, rw_dtype dtype, rw_error *err) {
    size_t n = p->layout.n_segments * (size_t)n_kinds + (size_t)p->layout.n_buffers;
    *list = (rw_weights_list){0};
    list->tensors = rw_alloc_array(n, sizeof *list->tensors);
    list->sources = rw_alloc_array(n, sizeof(source));
    list->names = rw_alloc(name_bytes(p, prefixes, n_kinds));
    if (!list->tensors || !list->sources || !list->names) {
        rw_weights_list_done(list);
        return rw_fail_memory(err, n * sizeof *list->tensors);
    }
    char *name = list->names;
    if (!*prefixes[0]) fill_buffers(list, p, dtype);
    for (int k = 0; k < n_kinds; k++) fill(list, p, kinds[k], prefixes[k], dtype, &name);
    return RW_OK;
}

void rw_weights_list_done(rw_weights_list *list) {
    rw_free(list->tensors);
    rw_free(list->sources);
    rw_free(list->names);
    *list = (rw_weights_list){0};
}

rw_status rw_weights_save_pth(rw_params *p, const char *path, rw_dtype dtype, rw_error *err) {
    rw_weights_list list;
    RW_TRY(rw_weights_list_new(&list, p, (rw_param_kind[]){RW_PARAM_VALUE}, (const char *[]){""}, 1, dtype, err));
    rw_status status = rw_pth_write(path, list.tensors, list.n, err);
    rw_weights_list_done(&list);
    return status;
}
