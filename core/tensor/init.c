/* Initial values: see init.h.
 *
 * Orthogonal matrices come from a Gaussian A [n,k], n >= k, by Cholesky QR done twice: A^T A = L L^T, Q = A L^-T. With
 * a positive diagonal of L this is the Q of the QR decomposition with a positive diagonal of R, so Haar distributed. In
 * double and twice, Q^T Q is the identity to 1e-13 at the sizes of RWKV. */
#include "core/tensor/init.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"

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

/* -- writing ------------------------------------------------------------------------------------------------- */

#define PIECE 4096

typedef struct {
    rw_params *p;
    size_t index;
    int64_t at;
    int n;
    union {
        double f64[PIECE];
        float f32[PIECE];
    } buf;
} sink;

static void flush(sink *s) {
    if (s->n) rw_params_set(s->p, RW_PARAM_VALUE, s->index, s->at, s->n, &s->buf);
    s->at += s->n;
    s->n = 0;
}

/* Values pass through float first: the official code builds them in float32. */
static void put(sink *s, double x) {
    if (s->p->device->compute == RW_F64)
        s->buf.f64[s->n++] = (double)(float)x;
    else
        s->buf.f32[s->n++] = (float)x;
    if (s->n == PIECE) flush(s);
}

static rw_status put_orthogonal(sink *s, const rw_segment *seg, const rw_init *init, uint64_t seed, rw_device *host64,
                                rw_error *err) {
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
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) put(s, gain * (rows > cols ? a[i * k + j] : a[j * k + i]));
    rw_free_pages(a, (size_t)n_doubles * sizeof *a);
    return RW_OK;
}

rw_status rw_init_param(rw_params *p, size_t i, const rw_init *init, uint64_t seed, rw_device *host64, rw_error *err) {
    const rw_segment *seg = &p->layout.segments[i];
    sink *s = rw_alloc(sizeof *s);
    if (!s) return rw_fail_memory(err, sizeof *s);
    s->p = p;
    s->index = i;
    rw_rng r = {seed, rw_hash_name(seg->name), 0};
    rw_status status = RW_OK;
    bool orthogonal = init->kind == RW_INIT_ORTHOGONAL || init->kind == RW_INIT_ORTHOGONAL_TALL;
    if (orthogonal) status = put_orthogonal(s, seg, init, seed, host64, err);
    for (int64_t e = 0; e < seg->n && !orthogonal; e++) {
        if (init->kind == RW_INIT_UNIFORM)
            put(s, init->value * (2 * rw_rng_uniform(&r) - 1));
        else
            put(s, init->kind == RW_INIT_FORMULA ? init->formula(init->ctx, e) : init->value);
    }
    flush(s);
    rw_free(s);
    return status;
}
