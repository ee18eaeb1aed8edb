/* Initial values: see init.h. */
#include "core/tensor/init.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/tensor/orthogonal.h"
#include "kernels/cpu/random.h"

#include <math.h>

/* -- writing --------------------------------------------------------------------------------------------------- */

enum { STAGE = 1 << 20, PIECE = 4096 }; /* elements: handed to the device at most at a time; made by one thread */

typedef struct {
    rw_params *p;
    size_t index;
    int threads;
    float *values; /* owned [STAGE]: the official code builds all values in float32 */
} stage;

/* Makes elements [first, first + n) of a parameter; called by several threads at once. */
typedef void maker(const void *ctx, int64_t first, int64_t n, float *out);

static void make_pieces(const stage *s, maker *make, const void *ctx, int64_t piece, int64_t first, int64_t n) {
    const int64_t pieces = (n + piece - 1) / piece;
#pragma omp parallel for num_threads(pieces > 1 ? s->threads : 1) schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t at = i * piece, m = n - at < piece ? n - at : piece;
        make(ctx, first + at, m, s->values + at);
    }
}

static void fill(stage *s, maker *make, const void *ctx, int64_t piece) {
    const int64_t all = s->p->layout.segments[s->index].n, step = STAGE / piece * piece;
    for (int64_t first = 0; first < all; first += step) {
        int64_t n = all - first < step ? all - first : step;
        make_pieces(s, make, ctx, piece, first, n);
        rw_params_set(s->p, RW_PARAM_VALUE, s->index, first, n, RW_F32, s->values);
    }
}

static rw_status open_stage(stage *s, rw_params *p, size_t i, int threads, rw_error *err) {
    int64_t all = p->layout.segments[i].n;
    size_t n = (size_t)(all < STAGE ? all : STAGE);
    *s = (stage){.p = p, .index = i, .threads = threads};
    s->values = rw_alloc_array(n, sizeof *s->values);
    return s->values ? RW_OK : rw_fail_memory(err, n * sizeof *s->values);
}

static void close_stage(stage *s) {
    rw_free(s->values);
}

/* -- kinds --------------------------------------------------------------------------------------------------- */

typedef struct {
    const rw_init *init;
    uint64_t seed, stream;
} elementwise;

static void uniform_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const elementwise *x = ctx;
    rw_cpu_f32_uniforms(x->seed, x->stream, (uint64_t)first, n, x->init->value, out);
}

static void constant_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const elementwise *x = ctx;
    (void)first;
    for (int64_t i = 0; i < n; i++) out[i] = (float)x->init->value;
}

static void formula_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const elementwise *x = ctx;
    for (int64_t i = 0; i < n; i++) out[i] = (float)x->init->formula(x->init->ctx, first + i);
}

/* The matrix [rows,cols] of a parameter from orthonormal rows q: q itself, or with more rows than columns its
 * transpose. That is made ROWS rows at a time, which are 128 bytes of a row of q. */
enum { ROWS = 16 };

typedef struct {
    const float *q;
    double gain;
    int64_t rows, cols;
} orthogonal;

static void wide_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const orthogonal *x = ctx;
    for (int64_t i = 0; i < n; i++) out[i] = (float)(x->gain * x->q[first + i]);
}

static void tall_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const orthogonal *x = ctx;
    const float *q = x->q + first / x->cols;
    for (int64_t j = 0; j < x->cols; j++)
        for (int64_t i = 0; i < n / x->cols; i++) out[i * x->cols + j] = (float)(x->gain * q[j * x->rows + i]);
}

static void fill_from(stage *s, const orthogonal *x) {
    if (x->rows <= x->cols)
        fill(s, wide_values, x, PIECE);
    else
        fill(s, tall_values, x, x->cols * (ROWS * x->cols <= STAGE ? ROWS : 1));
}

static rw_status fill_orthogonal(stage *s, const rw_init *init, uint64_t seed, rw_error *err) {
    const rw_segment *seg = &s->p->layout.segments[s->index];
    int64_t cols = seg->shape[seg->ndim - 1], rows = seg->n / cols;
    bool tall = init->kind == RW_INIT_ORTHOGONAL_TALL && rows > cols;
    double gain = tall ? init->value * sqrt((double)rows / (double)cols) : init->value;
    int64_t n = rows > cols ? rows : cols, k = rows > cols ? cols : rows;
    float *q = rw_alloc_array((size_t)seg->n, sizeof *q); /* not fresh pages for each: clearing them takes long */
    if (!q) return rw_fail_memory(err, (size_t)seg->n * sizeof *q);
    rw_status status = rw_orthogonal(q, k, n, seed, rw_hash_name(seg->name), s->threads, err);
    if (status == RW_OK) fill_from(s, &(orthogonal){q, gain, rows, cols});
    rw_free(q);
    return status;
}

static rw_status fill_by_kind(stage *s, const rw_init *init, uint64_t seed, rw_error *err) {
    const elementwise each = {init, seed, rw_hash_name(s->p->layout.segments[s->index].name)};
    switch (init->kind) {
    case RW_INIT_CONSTANT:
        fill(s, constant_values, &each, PIECE);
        break;
    case RW_INIT_UNIFORM:
        fill(s, uniform_values, &each, PIECE);
        break;
    case RW_INIT_FORMULA:
        s->threads = 1; /* vectors, and a formula need not be ready for threads */
        fill(s, formula_values, &each, PIECE);
        break;
    case RW_INIT_ORTHOGONAL:
    case RW_INIT_ORTHOGONAL_TALL:
        return fill_orthogonal(s, init, seed, err);
    }
    return RW_OK;
}

rw_status rw_init_param(rw_params *p, size_t i, const rw_init *init, uint64_t seed, int threads, rw_error *err) {
    stage s;
    rw_status status = open_stage(&s, p, i, threads, err);
    if (status == RW_OK) status = fill_by_kind(&s, init, seed, err);
    close_stage(&s);
    return status;
}
