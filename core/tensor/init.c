/* Initial values: see init.h.
 *
 * Orthogonal matrices come from a Gaussian A [n,k], n >= k, by Cholesky QR done twice: A^T A = L L^T, Q = A L^-T. With
 * a positive diagonal of L this is the Q of the QR decomposition with a positive diagonal of R, so Haar distributed. In
 * double and twice, Q^T Q is the identity to 1e-13 at the sizes of RWKV. */
#include "core/tensor/init.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "kernels/cpu/random.h"

#include <math.h>
#include <string.h>

/* -- orthogonal -------------------------------------------------------------------------------------------- */

static void product(rw_device *d, int64_t M, int64_t N, int64_t K, const double *a, bool ta, const double *b, bool tb,
                    double *out) {
    rw_matmul_args mm = {.dtype = RW_F64, .M = M, .N = N, .K = K, .a = a, .b = b, .out = out};
    mm.trans_a = ta;
    mm.trans_b = tb;
    d->kernels->matmul(&mm, &d->exec);
}

/* The lower Cholesky factor in place; false when g is not positive definite. */
static bool cholesky(double *g, int64_t k) {
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double s = g[i * k + j];
            for (int64_t x = 0; x < j; x++) s -= g[i * k + x] * g[j * k + x];
            if (i == j && !(s > 0)) return false;
            g[i * k + j] = i == j ? sqrt(s) : s / g[j * k + j];
        }
    }
    return true;
}

/* inv = L^-1 of a lower triangle, row by row: a row of the inverse is a combination of the rows above it. */
static void invert_lower(double *inv, const double *l, int64_t k) {
    memset(inv, 0, (size_t)(k * k) * sizeof *inv);
    for (int64_t i = 0; i < k; i++) {
        double *row = inv + i * k;
        row[i] = 1;
        for (int64_t x = 0; x < i; x++)
            for (int64_t j = 0; j <= x; j++) row[j] -= l[i * k + x] * inv[x * k + j];
        for (int64_t j = 0; j <= i; j++) row[j] /= l[i * k + i];
    }
}

/* The columns of a [n,k] made orthonormal; the result ends up in a again. */
static bool orthonormal(rw_device *d, double *a, double *work, double *g, double *inv, int64_t n, int64_t k) {
    double *from = a, *to = work;
    for (int pass = 0; pass < 2; pass++) {
        product(d, k, k, n, from, true, from, false, g);
        if (!cholesky(g, k)) return false;
        invert_lower(inv, g, k);
        product(d, n, k, k, from, false, inv, true, to);
        double *swap = from;
        from = to;
        to = swap;
    }
    return true;
}

static void gaussian(double *a, int64_t count, uint64_t seed, uint64_t stream) {
    rw_rng r = {seed, stream, 0};
    for (int64_t i = 0; i < count; i++) a[i] = rw_rng_normal(&r);
}

/* -- writing --------------------------------------------------------------------------------------------------- */

enum { STAGE = 1 << 20, PIECE = 4096 }; /* elements: handed to the device at a time; made by one thread at a time */

typedef struct {
    rw_params *p;
    size_t index;
    float *values;   /* owned [STAGE]: the official code builds all values in float32 */
    void *converted; /* owned [STAGE] in the compute dtype; NULL: that is float32     */
} stage;

/* Makes elements [first, first + n) of a parameter; called by several threads at once. */
typedef void maker(const void *ctx, int64_t first, int64_t n, float *out);

static void make_pieces(maker *make, const void *ctx, int threads, int64_t first, int64_t n, float *out) {
    const int64_t pieces = (n + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(pieces > 1 ? threads : 1) schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t at = i * PIECE, m = n - at < PIECE ? n - at : PIECE;
        make(ctx, first + at, m, out + at);
    }
}

static void fill(stage *s, maker *make, const void *ctx, int threads) {
    const int64_t all = s->p->layout.segments[s->index].n;
    rw_dtype dtype = s->p->device->compute;
    for (int64_t first = 0; first < all; first += STAGE) {
        int64_t n = all - first < STAGE ? all - first : STAGE;
        make_pieces(make, ctx, threads, first, n, s->values);
        if (s->converted) rw_convert(s->converted, dtype, s->values, RW_F32, n);
        rw_params_set(s->p, RW_PARAM_VALUE, s->index, first, n, s->converted ? s->converted : s->values);
    }
}

static rw_status open_stage(stage *s, rw_params *p, size_t i, rw_error *err) {
    rw_dtype dtype = p->device->compute;
    int64_t all = p->layout.segments[i].n;
    size_t n = (size_t)(all < STAGE ? all : STAGE), converted = n * (size_t)rw_dtype_bytes(dtype);
    *s = (stage){.p = p, .index = i};
    s->values = rw_alloc_array(n, sizeof *s->values);
    s->converted = dtype == RW_F32 ? NULL : rw_alloc(converted);
    return s->values && (s->converted || dtype == RW_F32) ? RW_OK : rw_fail_memory(err, n * sizeof *s->values);
}

static void close_stage(stage *s) {
    rw_free(s->values);
    rw_free(s->converted);
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

/* The matrix of a parameter [rows,cols] from orthonormal columns a [n,k]. */
typedef struct {
    const double *a;
    double gain;
    int64_t rows, cols;
} orthogonal;

static void orthogonal_values(const void *ctx, int64_t first, int64_t n, float *out) {
    const orthogonal *x = ctx;
    for (int64_t e = first; e < first + n; e++) {
        int64_t i = e / x->cols, j = e % x->cols;
        *out++ = (float)(x->gain * (x->rows > x->cols ? x->a[i * x->cols + j] : x->a[j * x->rows + i]));
    }
}

static rw_status fill_orthogonal(stage *s, const rw_init *init, uint64_t seed, rw_device *host64, rw_error *err) {
    const rw_segment *seg = &s->p->layout.segments[s->index];
    int64_t cols = seg->shape[seg->ndim - 1], rows = seg->n / cols;
    bool tall = init->kind == RW_INIT_ORTHOGONAL_TALL && rows > cols;
    double gain = tall ? init->value * sqrt((double)rows / (double)cols) : init->value;
    int64_t n = rows > cols ? rows : cols, k = rows > cols ? cols : rows;
    int64_t n_doubles = 2 * (n * k + k * k);
    double *a = rw_alloc_pages((size_t)n_doubles * sizeof *a);
    if (!a) return rw_fail_memory(err, (size_t)n_doubles * sizeof *a);
    double *work = a + n * k, *g = work + n * k, *inv = g + k * k;
    uint64_t stream = rw_hash_name(seg->name);
    do gaussian(a, n * k, seed, stream++);
    while (!orthonormal(host64, a, work, g, inv, n, k)); /* a singular Gaussian: practically never */
    fill(s, orthogonal_values, &(orthogonal){a, gain, rows, cols}, host64->exec.threads);
    rw_free_pages(a, (size_t)n_doubles * sizeof *a);
    return RW_OK;
}

static rw_status fill_by_kind(stage *s, const rw_init *init, uint64_t seed, rw_device *host64, rw_error *err) {
    const elementwise each = {init, seed, rw_hash_name(s->p->layout.segments[s->index].name)};
    int threads = host64->exec.threads;
    switch (init->kind) {
    case RW_INIT_CONSTANT:
        fill(s, constant_values, &each, threads);
        break;
    case RW_INIT_UNIFORM:
        fill(s, uniform_values, &each, threads);
        break;
    case RW_INIT_FORMULA:
        fill(s, formula_values, &each, 1); /* vectors, and a formula need not be ready for threads */
        break;
    case RW_INIT_ORTHOGONAL:
    case RW_INIT_ORTHOGONAL_TALL:
        return fill_orthogonal(s, init, seed, host64, err);
    }
    return RW_OK;
}

rw_status rw_init_param(rw_params *p, size_t i, const rw_init *init, uint64_t seed, rw_device *host64, rw_error *err) {
    stage s;
    rw_status status = open_stage(&s, p, i, err);
    if (status == RW_OK) status = fill_by_kind(&s, init, seed, host64, err);
    close_stage(&s);
    return status;
}
