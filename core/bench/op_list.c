/* Calls of kernels, kept and made again: see op_list.h. */
#include "core/bench/op_list.h"

#include "core/base/alloc.h"
#include "core/base/thread.h"

#include <stdlib.h>
#include <string.h>

enum {
#define RW_KERNEL(name, args) OP_##name,
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    N_OPS
};

static const char *const op_names[] = {
#define RW_KERNEL(name, args) #name,
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};

/* One call; `given` is as long as its kernel's struct. */
typedef struct {
    int op;
    union {
#define RW_KERNEL(name, args) args name;
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    } given;
} call;

struct rw_op_list {
    rw_device *device;
    const rw_kernels *inner;
    rw_kernels table;
    call *calls;           /* owned                                */
    rw_device_scalars own; /* the device's, as the last call left them */
    size_t n, cap;
    bool failed;
};

enum { REPEATS = 7 };

static rw_op_list *now; /* wrappers get no context of their own */

static void keep(int op, const void *args, size_t n_bytes) {
    if (!rw_grow((void **)&now->calls, &now->cap, now->n + 1, sizeof *now->calls)) {
        now->failed = true;
        return;
    }
    call *c = &now->calls[now->n++];
    c->op = op;
    memcpy(&c->given, args, n_bytes);
}

#define RW_KERNEL(name, args)                                                                                          \
    static void kept_##name(const args *a, const rw_exec *ex) {                                                        \
        keep(OP_##name, a, sizeof *a);                                                                                 \
        now->inner->name(a, ex);                                                                                       \
    }
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

rw_op_list *rw_op_list_begin(rw_device *device) {
    rw_op_list *l = rw_alloc(sizeof *l);
    if (!l) return NULL;
    l->device = device;
    l->inner = device->kernels;
    l->table = *device->kernels;
#define RW_KERNEL(name, args) l->table.name = kept_##name;
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    device->kernels = &l->table;
    now = l;
    return l;
}

bool rw_op_list_end(rw_op_list *l) {
    rw_device *d = l->device;
    d->kernels = l->inner;
    d->download(d, &l->own, d->exec.own, sizeof l->own);
    now = NULL;
    return !l->failed;
}

void rw_op_list_free(rw_op_list *l) {
    if (!l) return;
    rw_free(l->calls);
    rw_free(l);
}

int rw_op_list_kernels(void) {
    return N_OPS;
}

const char *rw_op_list_name(int kernel) {
    return op_names[kernel];
}

int64_t rw_op_list_calls(const rw_op_list *l, int kernel) {
    int64_t n = 0;
    for (size_t i = 0; i < l->n; i++) n += l->calls[i].op == kernel;
    return n;
}

/* -- again ------------------------------------------------------------------------------------------------------- */

static void make_call(const rw_op_list *l, const call *c) {
    switch (c->op) {
#define RW_KERNEL(name, args)                                                                                          \
    case OP_##name:                                                                                                    \
        l->inner->name(&c->given.name, &l->device->exec);                                                              \
        break;
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    default:
        break;
    }
}

static void make_calls(const rw_op_list *l, int kernel, bool plain) {
    for (size_t i = 0; i < l->n; i++) {
        call c = l->calls[i];
        if (c.op != kernel) continue;
        if (plain && kernel == OP_matmul) {
            c.given.matmul.epilogue = RW_EPILOGUE_NONE;
            c.given.matmul.c = NULL;
        }
        make_call(l, &c);
    }
}

static rw_status record(rw_op_list *l, int kernel, bool plain, rw_graph **graph, rw_error *err) {
    const rw_device_record *r = l->device->record;
    *graph = NULL;
    if (!r) return RW_OK;
    RW_TRY(r->begin(l->device, err));
    make_calls(l, kernel, plain);
    return r->end(l->device, graph, err);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

rw_status rw_op_list_seconds(rw_op_list *l, int kernel, bool plain, double *seconds, rw_error *err) {
    double each[REPEATS];
    rw_graph *graph;
    rw_device *d = l->device;
    *seconds = 0;
    if (rw_op_list_calls(l, kernel) == 0) return RW_OK;
    d->upload(d, d->exec.own, &l->own, sizeof l->own);
    make_calls(l, kernel, plain); /* libraries load their kernels */
    RW_TRY(d->synchronize(d, err));
    RW_TRY(record(l, kernel, plain, &graph, err));
    rw_status status = RW_OK;
    for (int i = 0; i < REPEATS && status == RW_OK; i++) {
        const int64_t ns = rw_now_ns();
        if (graph)
            status = d->record->replay(d, graph, err);
        else
            make_calls(l, kernel, plain);
        if (status == RW_OK) status = d->synchronize(d, err);
        each[i] = (double)(rw_now_ns() - ns) * 1e-9;
    }
    if (graph) d->record->free(d, graph);
    if (status != RW_OK) return status;
    qsort(each, REPEATS, sizeof *each, by_size);
    *seconds = each[REPEATS / 2];
    return RW_OK;
}

double rw_op_list_product_flops(const rw_op_list *l) {
    double flops = 0;
    for (size_t i = 0; i < l->n; i++) {
        const rw_matmul_args *m = &l->calls[i].given.matmul;
        if (l->calls[i].op == OP_matmul)
            flops += 2.0 * (double)m->M * (double)m->N * (double)m->K * (double)(m->batch ? m->batch : 1);
    }
    return flops;
}
