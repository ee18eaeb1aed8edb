/* A tape on the fp64 CPU device, and finite differences through it.
 *
 *     bench b;
 *     bench_open(&b);
 *     tc_input in[] = {{"x", 2, {4, 6}, -1, 1}, ...};
 *     tc_check(&b, build, ctx, in, n);     build: inputs -> outputs, with ops of the tape
 *     bench_close(&b);
 *
 * L = sum of fixed random weights times all outputs. Differences are of fourth order with h = 1e-4 max(1, |x|). The
 * gradient of every input must agree to max|fd - an| / max|an| <= 1e-6, and the arena must be empty in the end. */
#ifndef RW_TESTS_UNIT_TENSOR_TAPE_TEST_H
#define RW_TESTS_UNIT_TENSOR_TAPE_TEST_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline void must(rw_status status, const rw_error *err) {
    if (status == RW_OK) return;
    char text[2048];
    rw_error_format(err, text, sizeof text);
    fail_msg("%s", text);
}

typedef struct {
    rw_device *device;
    rw_step_arena arena;
    rw_tape *tape;
    rw_step_scalars scalars;
} bench;

static inline void bench_open(bench *b) {
    rw_error err = {0};
    *b = (bench){.device = NULL};
    must(rw_device_open_cpu(&b->device, RW_F64, 2, &err), &err);
    b->scalars = (rw_step_scalars){.step = 1, .normaliser = 1};
    b->device->exec.scalars = &b->scalars;
    must(rw_step_arena_init(&b->arena, b->device, (int64_t)32 << 20, &err), &err);
    must(rw_tape_new(&b->tape, b->device, &b->arena, &err), &err);
}

static inline void bench_close(bench *b) {
    rw_tape_free(b->tape);
    assert_int_equal(b->arena.live, 0);
    rw_step_arena_done(&b->arena);
    rw_device_close(b->device);
}

static inline double noise(uint64_t stream, int64_t i) {
    return 2 * ((double)(rw_rng_u64_at(7, stream, (uint64_t)i) >> 11) * 0x1p-53) - 1;
}

static inline double *noise_array(uint64_t stream, int64_t n, double lo, double hi) {
    double *x = rw_alloc_array((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = lo + (hi - lo) * (0.5 + 0.5 * noise(stream, i));
    return x;
}

/* -- finite differences --------------------------------------------------------------------------------------- */

enum { TC_OUT = 8, TC_IN = 20, TC_SAMPLES = 40 };

typedef struct {
    const char *name;
    int ndim;
    int64_t shape[RW_MAX_DIM];
    double lo, hi;
} tc_input;

typedef void (*tc_build)(rw_tape *t, rw_tensor *const *in, rw_tensor **out, const void *ctx);

typedef struct {
    bench *b;
    tc_build build;
    const void *ctx;
    const tc_input *in;
    int n_in;
    const double *loss_weight; /* not NULL: of output 0, whose gradient the op makes by itself */
    double *data[TC_IN], *grad[TC_IN];
    int64_t n[TC_IN];
} tc_case;

static inline double tc_weight(const tc_case *c, int out, int64_t i) {
    return c->loss_weight ? c->loss_weight[i] : noise((uint64_t)(100 + out), i);
}

static inline void tc_outputs(const tc_case *c, rw_tensor **in, rw_tensor **out) {
    rw_error err = {0};
    rw_tape_reset(c->b->tape);
    memset(c->b->arena.base, 0xff, (size_t)c->b->arena.high_water); /* NaN: what is not written shows */
    for (int i = 0; i < c->n_in; i++) {
        in[i] = rw_tape_wrap(c->b->tape, RW_F64, c->in[i].ndim, c->in[i].shape, c->data[i]);
        in[i]->requires_grad = true;
    }
    for (int i = 0; i < TC_OUT; i++) out[i] = NULL;
    c->build(c->b->tape, in, out, c->ctx);
    must(rw_tape_error(c->b->tape, &err), &err);
}

static inline long double tc_functional(const tc_case *c) {
    rw_tensor *in[TC_IN], *out[TC_OUT];
    rw_tape_record(c->b->tape, false);
    tc_outputs(c, in, out);
    rw_tape_record(c->b->tape, true);
    long double sum = 0;
    for (int o = 0; o < TC_OUT && out[o]; o++) {
        const double *y = out[o]->data;
        for (int64_t i = 0; i < rw_tensor_count(out[o]); i++) sum += (long double)tc_weight(c, o, i) * y[i];
    }
    return sum;
}

/* The inputs lie elsewhere when the backward pass comes: no op may remember where they were. */
static inline void tc_move(const tc_case *c, rw_tensor *const *in, double **moved) {
    for (int i = 0; i < c->n_in; i++) {
        size_t n_bytes = (size_t)c->n[i] * sizeof(double);
        moved[i] = rw_alloc(n_bytes);
        memcpy(moved[i], c->data[i], n_bytes);
        memset(c->data[i], 0xff, n_bytes);
        in[i]->data = moved[i];
    }
}

static inline void tc_move_back(const tc_case *c, double **moved) {
    for (int i = 0; i < c->n_in; i++) {
        memcpy(c->data[i], moved[i], (size_t)c->n[i] * sizeof(double));
        rw_free(moved[i]);
    }
}

static inline void tc_backward(const tc_case *c) {
    rw_error err = {0};
    rw_tensor *in[TC_IN], *out[TC_OUT];
    double *moved[TC_IN];
    tc_outputs(c, in, out);
    tc_move(c, in, moved);
    for (int o = 0; o < TC_OUT && out[o] && !c->loss_weight; o++) {
        int64_t n = rw_tensor_count(out[o]);
        double *seed = rw_alloc_array((size_t)n, sizeof *seed);
        for (int64_t i = 0; i < n; i++) seed[i] = tc_weight(c, o, i);
        rw_tape_seed_grad(c->b->tape, out[o], seed);
        rw_free(seed);
    }
    must(rw_tape_backward(c->b->tape, &err), &err);
    for (int i = 0; i < c->n_in; i++) {
        if (!in[i]->grad) fail_msg("'%s' has no gradient", c->in[i].name);
        memcpy(c->grad[i], in[i]->grad, (size_t)c->n[i] * sizeof(double));
    }
    tc_move_back(c, moved);
    rw_tape_reset(c->b->tape);
    assert_int_equal(c->b->arena.live, 0);
}

static inline double tc_difference(const tc_case *c, double *x) {
    static const double at[4] = {-2, -1, 1, 2}, weight[4] = {1, -8, 8, -1};
    double x0 = *x, h = 1e-4 * fmax(1, fabs(x0));
    long double sum = 0;
    for (int i = 0; i < 4; i++) {
        *x = x0 + at[i] * h;
        sum += weight[i] * tc_functional(c);
    }
    *x = x0;
    return (double)(sum / (12 * (long double)h));
}

static inline double tc_check_input(const tc_case *c, int i) {
    double top = 1e-8, error = 0, *x = c->data[i];
    const double *an = c->grad[i];
    for (int64_t k = 0; k < c->n[i]; k++) top = fmax(top, fabs(an[k]));
    int64_t samples = c->n[i] < TC_SAMPLES ? c->n[i] : TC_SAMPLES;
    for (int64_t s = 0; s < samples; s++) {
        int64_t k = samples == c->n[i] ? s : (int64_t)(rw_rng_u64_at(3, 77, (uint64_t)s) % (uint64_t)c->n[i]);
        double fd = tc_difference(c, x + k);
        error = fmax(error, isnan(fd - an[k]) ? INFINITY : fabs(fd - an[k]));
    }
    return error / top;
}

static inline void tc_run(tc_case *c, const char *what) {
    double worst = 0;
    for (int i = 0; i < c->n_in; i++) {
        c->n[i] = 1;
        for (int d = 0; d < c->in[i].ndim; d++) c->n[i] *= c->in[i].shape[d];
        c->data[i] = noise_array((uint64_t)(i + 1), c->n[i], c->in[i].lo, c->in[i].hi);
        c->grad[i] = rw_alloc_array((size_t)c->n[i], sizeof(double));
    }
    tc_backward(c);
    for (int i = 0; i < c->n_in; i++) {
        double e = tc_check_input(c, i);
        if (!(e <= 1e-6)) fail_msg("%s: gradient of '%s': max|fd - an| / max|an| = %.3g", what, c->in[i].name, e);
        worst = fmax(worst, e);
    }
    rw_tape_reset(c->b->tape);
    print_message("  %-32s %.1e\n", what, worst);
    for (int i = 0; i < c->n_in; i++) {
        rw_free(c->data[i]);
        rw_free(c->grad[i]);
    }
}

static inline void tc_check(bench *b, const char *what, tc_build build, const void *ctx, const tc_input *in, int n) {
    tc_case c = {.b = b, .build = build, .ctx = ctx, .in = in, .n_in = n};
    tc_run(&c, what);
}

#endif
