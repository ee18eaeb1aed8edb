/* label: gpu
 * test_gpu_ops [NAME...]: see ops.h. */
#include "tests/gpu/ops/ops.h"

#include "core/base/rng.h"
#include "core/base/thread.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256, SKIPPED = 77 };

/* kernels.md's numerics policy: a rounding of the result, and few more on the way. */
static const struct {
    rw_dtype grid;
    double rms, max;
} limits[] = {{RW_F32, 1e-6, 1e-5}, {RW_BF16, 4.5e-3, 1e-2}, {RW_F16, 6e-4, 1.5e-3}};

/* -- buffers ------------------------------------------------------------------------------------------------ */

static rw_dtype dtype_of(const op_side *s, op_class cls) {
    switch (cls) {
    case OP_NARROW:
        return s->narrow;
    case OP_WIDE:
        return rw_wide(s->narrow);
    case OP_FLOAT:
        return RW_F32;
    case OP_DOUBLE:
        return RW_F64;
    default:
        return RW_I32;
    }
}

static void *memory(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) abort();
    return p;
}

/* Guard, buffer, guard, all 0xFF. */
static op_buffer *add(op_side *s, const char *name, op_class cls, int64_t n, int64_t n_bytes, bool compared) {
    if (s->n == OP_MAX_BUFFERS) abort();
    op_buffer *b = &s->buffers[s->n++];
    *b = (op_buffer){.name = name, .cls = cls, .n = n, .n_bytes = n_bytes, .compared = compared, .factor = 1};
    const size_t whole = (size_t)(n_bytes + 2 * GUARD);
    b->block = s->d->alloc(s->d, (int64_t)whole);
    if (!b->block) {
        fprintf(stderr, "no memory for %s\n", name);
        exit(1);
    }
    void *ones = memory(whole);
    memset(ones, 0xFF, whole);
    s->d->upload(s->d, b->block, ones, (int64_t)whole);
    free(ones);
    return b;
}

static void *data_of(const op_buffer *b) {
    return (char *)b->block + GUARD;
}

static op_buffer *plain(op_side *s, const char *name, op_class cls, int64_t n, bool compared) {
    return add(s, name, cls, n, n * rw_dtype_bytes(dtype_of(s, cls)), compared);
}

/* Numbers that both sides can hold: f64 rounded to the grid of the device under test. */
static void put(op_side *s, op_buffer *b, double *x) {
    const rw_dtype grid = b->cls == OP_NARROW ? s->grid : b->cls == OP_DOUBLE ? RW_F64 : RW_F32;
    const rw_dtype to = dtype_of(s, b->cls);
    void *rounded = memory((size_t)b->n * 8), *raw = memory((size_t)b->n * 8);
    rw_convert(rounded, grid, x, RW_F64, b->n);
    rw_convert(raw, to, rounded, grid, b->n);
    s->d->upload(s->d, data_of(b), raw, b->n * rw_dtype_bytes(to));
    free(rounded);
    free(raw);
}

static uint64_t stream_of(const op_side *s, const char *name) {
    uint64_t h = s->variant + 1;
    while (*name) h = h * 1099511628211u + (unsigned char)*name++;
    return h;
}

typedef struct {
    uint64_t stream;
    double lo, hi;
} uniform;
static double uniform_value(const void *ctx, int64_t i) {
    const uniform *u = ctx;
    return u->lo + (u->hi - u->lo) * (double)(rw_rng_u64_at(7, u->stream, (uint64_t)i) >> 11) * 0x1p-53;
}

static void *fill(op_side *s, op_buffer *b, op_value *value, const void *ctx) {
    double *x = memory((size_t)b->n * 8);
    for (int64_t i = 0; i < b->n; i++) x[i] = value(ctx, i);
    put(s, b, x);
    free(x);
    return data_of(b);
}

void *op_in_of(op_side *s, const char *name, op_class cls, int64_t n, op_value *value, const void *ctx) {
    return fill(s, plain(s, name, cls, n, false), value, ctx);
}

void *op_in(op_side *s, const char *name, op_class cls, int64_t n, double lo, double hi) {
    return op_in_of(s, name, cls, n, uniform_value, &(uniform){stream_of(s, name), lo, hi});
}

void *op_both(op_side *s, const char *name, op_class cls, int64_t n, double lo, double hi) {
    return fill(s, plain(s, name, cls, n, true), uniform_value, &(uniform){stream_of(s, name), lo, hi});
}

void *op_out(op_side *s, const char *name, op_class cls, int64_t n) {
    return data_of(plain(s, name, cls, n, true));
}

void *op_room(op_side *s, int64_t n_bytes) {
    return data_of(add(s, "room", OP_INT, 0, n_bytes, false));
}

int32_t *op_ints(op_side *s, const int32_t *x, int64_t n) {
    op_buffer *b = plain(s, "ints", OP_INT, n, false);
    s->d->upload(s->d, data_of(b), x, n * 4);
    return data_of(b);
}

int32_t *op_random_ints(op_side *s, const char *name, int64_t n, int32_t most) {
    int32_t *x = memory((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        x[i] = (int32_t)(rw_rng_u64_at(7, stream_of(s, name), (uint64_t)i) % (uint64_t)most);
    int32_t *p = op_ints(s, x, n);
    free(x);
    return p;
}

void op_factor(op_side *s, double factor) {
    s->buffers[s->n - 1].factor = factor;
}

void op_exact(op_side *s) {
    s->buffers[s->n - 1].factor = 0;
}

void op_scalars(op_side *s, rw_step_scalars scalars, rw_device_scalars own) {
    s->d->upload(s->d, s->d->exec.scalars, &scalars, sizeof scalars);
    s->d->upload(s->d, s->d->exec.own, &own, sizeof own);
}

void op_own_out(op_side *s) {
    rw_device_scalars own;
    s->d->download(s->d, &own, s->d->exec.own, sizeof own);
    const double x[] = {(double)own.step, (double)own.updates, (double)own.skipped, (double)own.skipped_in_row,
                        own.loss,         own.grad_sumsq,      own.eval_loss,       own.grad_norm,
                        own.clip_coef,    own.grad_scale,      own.loss_scale,      (double)own.good_steps};
    op_buffer *b = plain(s, "own", OP_DOUBLE, sizeof x / sizeof *x, true);
    s->d->upload(s->d, data_of(b), x, sizeof x);
}

/* -- reading back --------------------------------------------------------------------------------------------- */

static bool guards_hold(const op_buffer *b, const unsigned char *block) {
    for (int64_t i = 0; i < GUARD; i++)
        if (block[i] != 0xFF || block[GUARD + b->n_bytes + i] != 0xFF) return false;
    return true;
}

/* Everything back to the host and freed. False: a guard was written. */
static bool collect(op_side *s) {
    bool right = true;
    for (int i = 0; i < s->n; i++) {
        op_buffer *b = &s->buffers[i];
        const int64_t whole = b->n_bytes + 2 * GUARD;
        unsigned char *block = memory((size_t)whole);
        s->d->download(s->d, block, b->block, whole);
        if (!guards_hold(b, block)) {
            printf("    %s: written outside its bounds\n", b->name);
            right = false;
        }
        if (b->compared) {
            b->values = memory((size_t)b->n * 8);
            rw_convert(b->values, RW_F64, block + GUARD, dtype_of(s, b->cls), b->n);
        }
        free(block);
        s->d->free(s->d, b->block, whole);
    }
    return right;
}

static void forget(op_side *s) {
    for (int i = 0; i < s->n; i++) free(s->buffers[i].values);
    s->n = 0;
}

/* -- comparison ------------------------------------------------------------------------------------------------ */

typedef struct {
    double rms, max;
} distance;

static distance distance_of(const op_buffer *b, const op_buffer *reference) {
    double error2 = 0, size2 = 0, error = 0, size = 0;
    for (int64_t i = 0; i < b->n; i++) {
        const double r = reference->values[i], e = b->values[i] == r ? 0 : fabs(b->values[i] - r);
        if (isnan(b->values[i]) || isnan(r)) return (distance){INFINITY, INFINITY};
        error2 += e * e;
        size2 += r * r;
        error = fmax(error, e);
        size = fmax(size, fabs(r));
    }
    if (error == 0) return (distance){0, 0};
    return size == 0 ? (distance){INFINITY, INFINITY} : (distance){sqrt(error2 / size2), error / size};
}

/* The reference in the device's own numbers: what it could answer at best. */
static void round_to_grid(const op_side *s, op_buffer *b) {
    if (b->cls != OP_NARROW) return;
    void *rounded = memory((size_t)b->n * 8);
    rw_convert(rounded, s->grid, b->values, RW_F64, b->n);
    rw_convert(b->values, RW_F64, rounded, s->grid, b->n);
    free(rounded);
}

typedef struct {
    double share; /* of the limit */
    distance d;
    const char *buffer;
    uint64_t variant;
} worst;

static bool compare(const op_side *s, const op_buffer *b, op_buffer *reference, worst *w) {
    size_t k = 0;
    while (limits[k].grid != s->grid) k++;
    if (b->factor == 0 || b->cls == OP_FLOAT || b->cls == OP_DOUBLE) k = 0; /* fp32 on the way */
    round_to_grid(s, reference);
    const distance d = distance_of(b, reference);
    const double factor = b->factor == 0 ? 1 : b->factor;
    const double share = fmax(d.rms / limits[k].rms, d.max / limits[k].max) / factor;
    if (share > w->share) *w = (worst){share, d, b->name, s->variant};
    if (share <= 1) return true;
    printf("    variant %llu, %s: rms %.2e max %.2e, allowed %.1e %.1e\n", (unsigned long long)s->variant, b->name,
           d.rms, d.max, limits[k].rms * factor, limits[k].max * factor);
    return false;
}

static bool equal_bits(const op_side *a, const op_side *b) {
    bool same = a->n == b->n;
    for (int i = 0; same && i < a->n; i++) {
        const op_buffer *x = &a->buffers[i], *y = &b->buffers[i];
        if (x->compared && memcmp(x->values, y->values, (size_t)x->n * 8) != 0) {
            printf("    variant %llu, %s: another run gave other bits\n", (unsigned long long)a->variant, x->name);
            same = false;
        }
    }
    return same;
}

/* -- running --------------------------------------------------------------------------------------------------- */

static bool run_side(op_side *s, const op_case *c, rw_device *d, rw_dtype grid, uint64_t variant) {
    rw_error err = {0};
    *s = (op_side){.d = d, .narrow = d->compute, .grid = grid, .variant = variant};
    c->run(s);
    bool right = d->synchronize(d, &err) == RW_OK;
    if (!right) printf("    variant %llu: %s\n", (unsigned long long)variant, err.msg);
    rw_error_clear(&err);
    return collect(s) && right;
}

static bool run_variant(const op_case *c, rw_device *d, rw_device *reference, uint64_t variant, worst *w) {
    static op_side r, x, again;
    bool right = run_side(&r, c, reference, d->compute, variant);
    right &= run_side(&x, c, d, d->compute, variant);
    right &= run_side(&again, c, d, d->compute, variant);
    for (int i = 0; i < x.n; i++)
        if (x.buffers[i].compared) right &= compare(&x, &x.buffers[i], &r.buffers[i], w);
    right &= equal_bits(&x, &again);
    forget(&r), forget(&x), forget(&again);
    return right;
}

/* $RWKV_OPS_MOST: so many variants of each case, spread over all of them; for checkers that are slow. */
static uint64_t stride_of(const op_case *c) {
    const char *text = getenv("RWKV_OPS_MOST");
    const uint64_t most = text && atoi(text) > 0 ? (uint64_t)atoi(text) : c->n_variants;
    return (c->n_variants + most - 1) / most;
}

static bool run_case(const op_case *c, rw_device *d, rw_device *reference) {
    worst w = {.share = -1, .buffer = "-"};
    bool right = true;
    for (uint64_t v = 0; v < c->n_variants; v += stride_of(c)) right &= run_variant(c, d, reference, v, &w);
    printf("%-6s %-28s %3llu variants, worst %-10s rms %.2e max %.2e (variant %llu)  %s\n", rw_dtype_name(d->compute),
           c->name, (unsigned long long)c->n_variants, w.buffer, w.d.rms, w.d.max, (unsigned long long)w.variant,
           right ? "ok" : "FAILED");
    fflush(stdout);
    return right;
}

#define OP_FILE(name) extern OP_CASES(name);
#include "tests/gpu/ops/cases.def"
#undef OP_FILE

static const op_case *const files[] = {
#define OP_FILE(name) op_cases_##name,
#include "tests/gpu/ops/cases.def"
#undef OP_FILE
};

static bool selected(const char *name, int n, char **names) {
    for (int i = 0; i < n; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0) return true;
    return n == 0;
}

static int run_all(rw_device *d, rw_device *reference, int n_names, char **names) {
    const unsigned bit = d->compute == RW_F32 ? OP_F32 : d->compute == RW_BF16 ? OP_BF16 : OP_F16;
    int n_failed = 0;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        for (const op_case *c = files[f]; c->name; c++)
            if (selected(c->name, n_names, names) && (!c->dtypes || (c->dtypes & bit)))
                n_failed += !run_case(c, d, reference);
    return n_failed;
}

static rw_status open_tested(rw_device **d, rw_dtype compute, rw_error *err) {
    const char *which = getenv("RWKV_OPS_DEVICE");
    if (which && strcmp(which, "cpu") == 0) return rw_device_open_cpu(d, RW_F32, rw_cpu_count(), err);
    return rw_device_open_cuda(d, &(rw_gpu_choice){.compute = compute}, err);
}

int main(int argc, char **argv) {
    static const rw_dtype types[] = {RW_F32, RW_BF16, RW_F16};
    rw_error err = {0};
    rw_device *reference = NULL, *d = NULL;
    int n_failed = 0;
    if (rw_device_open_cpu(&reference, RW_F64, rw_cpu_count(), &err) != RW_OK) return printf("%s\n", err.msg), 1;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (open_tested(&d, types[i], &err) != RW_OK) {
            printf("SKIPPED: %s\n", err.msg);
            return i == 0 ? SKIPPED : 1;
        }
        if (i == 0) printf("%s\n", d->detail);
        const bool cpu = d->kind == RW_DEVICE_CPU;
        n_failed += run_all(d, reference, argc - 1, argv + 1);
        rw_device_close(d);
        if (cpu) break;
    }
    rw_device_close(reference);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
