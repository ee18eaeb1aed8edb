/* Finite differences in fp64 for the gradients of an op, and the buffers for it.
 *
 *     gc g = {.seed = 1};
 *     args.x   = gc_input(&g, "x", n, -1, 1);   uniform random numbers, differentiated numerically
 *     args.out = gc_output(&g, "out", n);       NaN before each forward; enters the functional L = sum dout * out
 *     args.dout = gc_dout(&g, "out");           random; or call gc_dout never: the output is not in L
 *     args.dx  = gc_grad(&g, "x");              NaN before each backward; must become dL/dx
 *     args.scratch = gc_scratch(&g, n_bytes);   0xFF bytes before each call of either function
 *     args.saved   = gc_saved(&g, n_bytes);     0xFF bytes before each forward, kept for the backward
 *     gc_check(&g, forward, backward, &args);   fails the cmocka test with names and figures
 *     gc_check_slots(&g, backward, &args, slots, n, &args.add);   NULL gradients, one at a time; add bits
 *     gc_done(&g);
 *
 * Differences are of fourth order with h = 1e-4 max(1, |x|): truncation and rounding both below 1e-10 for smooth
 * functions. Every buffer lies between canaries; inputs must come back unchanged; nothing but the wanted outputs may
 * be NaN-free by accident: what is not written stays NaN and fails. Outputs that are views of inputs (in place) are
 * not supported here: test those by comparing with the out-of-place result. */
#ifndef RW_TESTS_GRADCHECK_H
#define RW_TESTS_GRADCHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"

enum { GC_MAX = 48, GC_GUARD = 64 };
typedef enum { GC_INPUT, GC_OUTPUT, GC_DOUT, GC_GRAD, GC_SCRATCH, GC_SAVED, GC_FIXED } gc_kind;

typedef struct {
    const char *name;
    gc_kind kind;
    int64_t n; /* doubles; of scratch, saved, fixed: bytes */
    unsigned char *base;
    void *data;
    void *copy; /* what an input held; the analytic gradient after gc_check */
} gc_buffer;

typedef struct {
    uint64_t seed;
    int64_t samples;  /* coordinates per input; 0: 60; negative: all */
    double step;      /* 0: 1e-4 */
    double tolerance; /* 0: 1e-6 */
    int n;
    gc_buffer buffers[GC_MAX];
    double worst; /* largest figure of gc_check */
} gc;

typedef void (*gc_fn)(void *ctx);
/* One gradient of the args struct: whose, where its pointer is, and its add bit (0: none). */
typedef struct {
    const char *name;
    void **slot;
    uint32_t bit;
} gc_slot;

static inline size_t gc_bytes(const gc_buffer *b) {
    return b->kind >= GC_SCRATCH ? (size_t)b->n : (size_t)b->n * sizeof(double);
}

static inline gc_buffer *gc_add(gc *g, const char *name, gc_kind kind, int64_t n) {
    assert_true(g->n < GC_MAX);
    gc_buffer *b = &g->buffers[g->n++];
    *b = (gc_buffer){.name = name, .kind = kind, .n = n};
    size_t bytes = gc_bytes(b);
    b->base = aligned_alloc(64, (bytes + 2 * GC_GUARD + 63) / 64 * 64);
    b->copy = malloc(bytes + 1);
    assert_true(b->base && b->copy);
    b->data = b->base + GC_GUARD;
    memset(b->base, 0xA5, GC_GUARD);
    memset(b->data, 0xFF, bytes);
    memset(b->base + GC_GUARD + bytes, 0xA5, GC_GUARD);
    return b;
}

static inline void gc_randomise(gc *g, gc_buffer *b, double lo, double hi) {
    double *x = b->data;
    for (int64_t i = 0; i < b->n; i++) {
        double u = (double)(rw_rng_u64_at(g->seed, (uint64_t)g->n, (uint64_t)i) >> 11) * 0x1p-53;
        x[i] = lo + (hi - lo) * u;
    }
}

static inline gc_buffer *gc_find(gc *g, const char *name, gc_kind kind) {
    for (int i = 0; i < g->n; i++)
        if (g->buffers[i].kind == kind && strcmp(g->buffers[i].name, name) == 0) return &g->buffers[i];
    return NULL;
}

static inline double *gc_input(gc *g, const char *name, int64_t n, double lo, double hi) {
    gc_buffer *b = gc_add(g, name, GC_INPUT, n);
    gc_randomise(g, b, lo, hi);
    return b->data;
}
static inline double *gc_output(gc *g, const char *name, int64_t n) {
    return gc_add(g, name, GC_OUTPUT, n)->data;
}
static inline double *gc_dout(gc *g, const char *output) {
    gc_buffer *b = gc_add(g, output, GC_DOUT, gc_find(g, output, GC_OUTPUT)->n);
    gc_randomise(g, b, -1, 1);
    return b->data;
}
static inline double *gc_grad(gc *g, const char *input) {
    return gc_add(g, input, GC_GRAD, gc_find(g, input, GC_INPUT)->n)->data;
}
static inline void *gc_scratch(gc *g, int64_t n_bytes) {
    return gc_add(g, "scratch", GC_SCRATCH, n_bytes)->data;
}
static inline void *gc_saved(gc *g, int64_t n_bytes) {
    return gc_add(g, "saved", GC_SAVED, n_bytes)->data;
}
/* A constant input of any type (tokens, cu_seqlens, a mask): copied, must not be changed. */
static inline void *gc_fixed(gc *g, const char *name, const void *bytes, int64_t n_bytes) {
    gc_buffer *b = gc_add(g, name, GC_FIXED, n_bytes);
    memcpy(b->data, bytes, (size_t)n_bytes);
    return b->data;
}

static inline void gc_poison(gc *g, gc_kind kind) {
    for (int i = 0; i < g->n; i++)
        if (g->buffers[i].kind == kind) memset(g->buffers[i].data, 0xFF, gc_bytes(&g->buffers[i]));
}

static inline void gc_check_guards(const gc *g) {
    for (int i = 0; i < g->n; i++) {
        const gc_buffer *b = &g->buffers[i];
        size_t bytes = gc_bytes(b);
        for (int k = 0; k < GC_GUARD; k++)
            if (b->base[k] != 0xA5 || b->base[GC_GUARD + bytes + (size_t)k] != 0xA5)
                fail_msg("written outside of '%s' (kind %d, %zu bytes)", b->name, (int)b->kind, bytes);
    }
}

static inline void gc_no_nan(const gc *g, gc_kind kind) {
    for (int i = 0; i < g->n; i++) {
        const gc_buffer *b = &g->buffers[i];
        const double *x = b->data;
        for (int64_t k = 0; b->kind == kind && k < b->n; k++)
            if (isnan(x[k]))
                fail_msg("%s of '%s': element %lld of %lld is NaN or was not written",
                         kind == GC_GRAD ? "gradient" : "output", b->name, (long long)k, (long long)b->n);
    }
}

static inline void gc_keep_inputs(gc *g) {
    for (int i = 0; i < g->n; i++)
        if (g->buffers[i].kind != GC_GRAD) memcpy(g->buffers[i].copy, g->buffers[i].data, gc_bytes(&g->buffers[i]));
}

static inline void gc_inputs_unchanged(const gc *g) {
    for (int i = 0; i < g->n; i++) {
        const gc_buffer *b = &g->buffers[i];
        if (b->kind != GC_INPUT && b->kind != GC_DOUT && b->kind != GC_FIXED) continue;
        if (memcmp(b->copy, b->data, gc_bytes(b)) != 0) fail_msg("input '%s' was changed", b->name);
    }
}

static inline long double gc_functional(gc *g, gc_fn forward, void *ctx) {
    gc_poison(g, GC_OUTPUT), gc_poison(g, GC_SCRATCH), gc_poison(g, GC_SAVED);
    forward(ctx);
    long double sum = 0;
    for (int i = 0; i < g->n; i++) {
        const gc_buffer *d = &g->buffers[i];
        if (d->kind != GC_DOUT) continue;
        const double *w = d->data, *y = gc_find(g, d->name, GC_OUTPUT)->data;
        for (int64_t k = 0; k < d->n; k++) sum += (long double)w[k] * y[k];
    }
    return sum;
}

static inline double gc_difference(gc *g, gc_fn forward, void *ctx, double *x) {
    double x0 = *x, h = (g->step > 0 ? g->step : 1e-4) * fmax(1, fabs(x0));
    static const double at[4] = {-2, -1, 1, 2}, weight[4] = {1, -8, 8, -1};
    long double sum = 0;
    for (int i = 0; i < 4; i++) {
        *x = x0 + at[i] * h;
        sum += weight[i] * gc_functional(g, forward, ctx);
    }
    *x = x0;
    return (double)(sum / (12 * (long double)h));
}

static inline double gc_check_input(gc *g, gc_fn forward, void *ctx, const gc_buffer *in, const gc_buffer *grad) {
    const double *an = grad->copy;
    double largest = 0, error = 0;
    for (int64_t k = 0; k < in->n; k++) largest = fmax(largest, fabs(an[k]));
    int64_t samples = g->samples == 0 ? 60 : g->samples < 0 ? in->n : g->samples;
    if (samples > in->n) samples = in->n;
    for (int64_t s = 0; s < samples; s++) {
        int64_t k = samples == in->n ? s : (int64_t)(rw_rng_u64_at(g->seed, 77, (uint64_t)s) % (uint64_t)in->n);
        double fd = gc_difference(g, forward, ctx, (double *)in->data + k);
        error = fmax(error, isnan(fd) ? INFINITY : fabs(fd - an[k]));
    }
    return error / fmax(largest, 1e-8);
}

/* forward, backward, then differences for every input that has a gc_grad. */
static inline void gc_check(gc *g, gc_fn forward, gc_fn backward, void *ctx) {
    gc_keep_inputs(g);
    gc_functional(g, forward, ctx);
    gc_check_guards(g);
    gc_no_nan(g, GC_OUTPUT);
    gc_poison(g, GC_SCRATCH), gc_poison(g, GC_GRAD);
    backward(ctx);
    gc_check_guards(g), gc_inputs_unchanged(g), gc_no_nan(g, GC_GRAD);
    for (int i = 0; i < g->n; i++)
        if (g->buffers[i].kind == GC_GRAD) memcpy(g->buffers[i].copy, g->buffers[i].data, gc_bytes(&g->buffers[i]));
    for (int i = 0; i < g->n; i++) {
        if (g->buffers[i].kind != GC_GRAD) continue;
        double e = gc_check_input(g, forward, ctx, gc_find(g, g->buffers[i].name, GC_INPUT), &g->buffers[i]);
        g->worst = fmax(g->worst, e);
        if (!(e <= (g->tolerance > 0 ? g->tolerance : 1e-6)))
            fail_msg("gradient of '%s': max|fd - an| / max|an| = %.3g", g->buffers[i].name, e);
    }
    gc_functional(g, forward, ctx); /* what was saved, for gc_check_slots */
}

static inline void gc_expect_grads(gc *g, const char *but, const double *shift, const char *what) {
    for (int i = 0; i < g->n; i++) {
        const gc_buffer *b = &g->buffers[i];
        const double *got = b->data, *want = b->copy;
        bool chosen = strcmp(b->name, but) == 0;
        if (b->kind != GC_GRAD || (chosen && !shift)) continue;
        for (int64_t k = 0; k < b->n; k++) {
            double w = want[k] + (chosen ? shift[k] : 0);
            if (!(fabs(got[k] - w) <= 1e-12 * fmax(1, fabs(w))))
                fail_msg("%s of '%s': gradient of '%s' at %lld is %.17g instead of %.17g", what, but, b->name,
                         (long long)k, got[k], w);
        }
    }
}

/* After gc_check: each gradient of `slots` once NULL (its buffer must stay poisoned, the others right), and once added
 * to known numbers when it has a bit in *add. */
static inline void gc_check_slots(gc *g, gc_fn backward, void *ctx, const gc_slot *slots, int n, uint32_t *add) {
    for (int i = 0; i < n; i++) {
        gc_buffer *b = gc_find(g, slots[i].name, GC_GRAD);
        void *kept = *slots[i].slot;
        gc_poison(g, GC_SCRATCH), gc_poison(g, GC_GRAD);
        *slots[i].slot = NULL;
        backward(ctx);
        *slots[i].slot = kept;
        for (int64_t k = 0; k < b->n; k++)
            if (!isnan(((double *)b->data)[k])) fail_msg("NULL gradient of '%s' was written", b->name);
        gc_expect_grads(g, b->name, NULL, "NULL gradient");
        gc_check_guards(g);
        if (!slots[i].bit) continue;

        double *shift = malloc((size_t)b->n * sizeof(double) + 1);
        assert_non_null(shift);
        gc_poison(g, GC_SCRATCH), gc_poison(g, GC_GRAD);
        for (int64_t k = 0; k < b->n; k++) shift[k] = ((double *)b->data)[k] = (double)(k % 7) - 3.25;
        *add |= slots[i].bit;
        backward(ctx);
        *add &= ~slots[i].bit;
        gc_expect_grads(g, b->name, shift, "add bit");
        free(shift);
    }
    gc_inputs_unchanged(g);
}

static inline void gc_done(gc *g) {
    for (int i = 0; i < g->n; i++) {
        free(g->buffers[i].base);
        free(g->buffers[i].copy);
    }
    g->n = 0;
}

#endif
