/* Random orthogonal matrices by reflections: G. W. Stewart, "The efficient generation of random orthogonal matrices
 * with an application to condition estimators", SIAM J. Numer. Anal. 17 (1980).
 *
 * The QR decomposition of a Gaussian matrix [n,k] by Householder's reflections gives Q = H_0 H_1 ... H_(k-1) D, where
 * H_j = I - v_j v_j^T reflects a Gaussian vector of the last n - j coordinates onto the first of them, and D holds the
 * signs that make the diagonal of R positive. These vectors are independent, whatever was reflected before, so neither
 * the matrix nor its decomposition is needed: v_j is drawn and the reflections are multiplied, from the last to the
 * first. That is a third of the work of a Cholesky QR done twice and cannot fail. All is float, which takes half the
 * time of double and leaves products of rows 1e-7 off, as long as |v|^2 is 2 to the last bit.
 *
 * A panel of BLOCK reflections acts as one, with V its vectors as rows [b,m] and L the lower triangle of V V^T with
 * ones on the diagonal (|v|^2 = 2): H_0 ... H_(b-1) = I - V^T L^-T V, so the rows C of Q^T become C - (C V^T) L^-1 V,
 * which is matrix products. They are cut into tiles of BLOCK rows and CHUNK columns, by the shape alone; a tile is one
 * call of the BLAS on one thread, and sums over chunks have a fixed order. */
#include "core/tensor/orthogonal.h"

#include "core/base/alloc.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/random.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 128, CHUNK = 4096, GRAM_ROWS = 32 };

typedef struct {
    int64_t k, n;
    int threads;
    uint64_t seed, stream;
    float *q;          /* [k,n]                                                      */
    float *v;          /* [b,m] the panel's vectors, from coordinate `first` on       */
    float *gram;       /* [n_chunks][b,b] V V^T; the first becomes their sum          */
    float *w;          /* [n_chunks][k,BLOCK] C V^T, then (C V^T) L^-1, in the same way */
    float sign[BLOCK]; /* D                                                          */
    /* the panel: reflections first .. first + b, coordinates first .. first + m */
    int64_t first, b, m, n_tiles, n_chunks;
} work;

static int64_t at_most(int64_t n, int64_t limit) {
    return n < limit ? n : limit;
}

static int64_t parts_of(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

static float *w_of(const work *x, int64_t tile, int64_t chunk) {
    return x->w + (chunk * x->k + tile * BLOCK) * BLOCK;
}

static int64_t tile_rows(const work *x, int64_t tile) {
    return at_most(x->k - x->first - tile * BLOCK, BLOCK);
}

static float *q_of(const work *x, int64_t tile, int64_t column) {
    return x->q + (x->first + tile * BLOCK) * x->n + x->first + column;
}

static double length_of(const float *v, int64_t n) {
    double part[8] = {0}, sum = 0; /* several sums: vectors, and less rounding than one long sum */
    for (int64_t i = 0; i < n; i++) part[i % 8] += (double)v[i] * v[i];
    for (int i = 0; i < 8; i++) sum += part[i];
    return sqrt(sum);
}

/* -- the steps of a panel, each for one task ------------------------------------------------------------------ */

/* v_j, from a Gaussian vector g: v = g + sign(g_0) |g| e_0, |v|^2 = 2. H_j g = -sign(g_0) |g| e_0 is the diagonal of R.
 */
static void draw(work *x, int64_t j) {
    const int64_t m = x->m - j, blocks = parts_of(x->n, RW_NORMAL_BLOCK);
    float *v = x->v + j * x->m + j;
    rw_cpu_f32_normals(x->seed, x->stream, (uint64_t)((x->first + j) * blocks), m, v);
    const double norm = length_of(v, m), scale = 1 / sqrt(norm * (norm + fabs(v[0])));
    x->sign[j] = v[0] < 0 ? 1 : -1;
    q_of(x, 0, j)[j * x->n] = x->sign[j];
    const double first = (v[0] - x->sign[j] * norm) * scale;
    for (int64_t i = 0; i < m; i++) v[i] = (float)(v[i] * scale);
    v[0] = (float)first;
    memset(v - j, 0, (size_t)j * sizeof *v);
}

/* GRAM_ROWS rows of V V^T up to the diagonal, the part of a chunk of coordinates. */
static void gram_task(const work *x, int64_t task) {
    const int64_t chunk = task % x->n_chunks, row = task / x->n_chunks * GRAM_ROWS, c = chunk * CHUNK;
    const int64_t rows = at_most(x->b - row, GRAM_ROWS), cols = row + rows;
    rw_cpu_f32_gemm(NULL, false, true, rows, cols, at_most(x->m - c, CHUNK), 1, x->v + row * x->m + c, x->m, x->v + c,
                    x->m, 0, x->gram + chunk * BLOCK * BLOCK + row * BLOCK, BLOCK);
}

/* C V^T of a tile, the part of a chunk. The first tile is new: its rows are those of D, so its product is a copy. */
static void project_task(const work *x, int64_t task) {
    const int64_t tile = task / x->n_chunks, chunk = task % x->n_chunks, c = chunk * CHUNK;
    float *w = w_of(x, tile, chunk);
    if (tile > 0) {
        rw_cpu_f32_gemm(NULL, false, true, tile_rows(x, tile), x->b, at_most(x->m - c, CHUNK), 1, q_of(x, tile, c),
                        x->n, x->v + c, x->m, 0, w, BLOCK);
        return;
    }
    for (int64_t i = 0; i < x->b; i++)
        for (int64_t j = 0; j < x->b; j++) w[i * BLOCK + j] = chunk == 0 ? x->sign[i] * x->v[j * x->m + i] : 0;
}

static void add_chunks(float *sum, int64_t count, int64_t n_chunks, int64_t stride) {
    for (int64_t chunk = 1; chunk < n_chunks; chunk++)
        for (int64_t i = 0; i < count; i++) sum[i] += sum[chunk * stride + i];
}

static void solve_task(const work *x, int64_t tile) {
    enum { ROW_MAJOR = 101, NO_TRANS = 111, LOWER = 122, UNIT = 132, RIGHT = 142 };
    const int64_t rows = tile_rows(x, tile);
    add_chunks(w_of(x, tile, 0), rows * BLOCK, x->n_chunks, x->k * BLOCK);
    rw_blas_strsm(ROW_MAJOR, RIGHT, LOWER, NO_TRANS, UNIT, (int)rows, (int)x->b, 1, x->gram, BLOCK, w_of(x, tile, 0),
                  BLOCK);
}

static void reflect_task(const work *x, int64_t task) {
    const int64_t tile = task / x->n_chunks, c = task % x->n_chunks * CHUNK;
    rw_cpu_f32_gemm(NULL, false, false, tile_rows(x, tile), at_most(x->m - c, CHUNK), x->b, -1, w_of(x, tile, 0), BLOCK,
                    x->v + c, x->m, 1, q_of(x, tile, c), x->n);
}

/* -- the whole ---------------------------------------------------------------------------------------------------- */

static void panel(work *x) {
    const int64_t tasks = x->n_tiles * x->n_chunks, gram_tasks = parts_of(x->b, GRAM_ROWS) * x->n_chunks;
#pragma omp parallel num_threads(x->threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t j = 0; j < x->b; j++) draw(x, j);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < gram_tasks; i++) gram_task(x, i);
#pragma omp single nowait
        add_chunks(x->gram, x->b * BLOCK, x->n_chunks, BLOCK * BLOCK);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) project_task(x, i);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < x->n_tiles; i++) solve_task(x, i);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) reflect_task(x, i);
    }
}

rw_status rw_orthogonal(float *q, int64_t k, int64_t n, uint64_t seed, uint64_t stream, int threads, rw_error *err) {
    RW_TRY(rw_blas_open(err));
    work x = {.k = k, .n = n, .threads = threads, .seed = seed, .stream = stream, .q = q};
    const int64_t chunks = parts_of(n, CHUNK), n_floats = BLOCK * (n + chunks * (BLOCK + k));
    float *memory = rw_alloc_array((size_t)n_floats, sizeof *memory);
    if (!memory) return rw_fail_memory(err, (size_t)n_floats * sizeof *memory);
    x.v = memory;
    x.gram = x.v + BLOCK * n;
    x.w = x.gram + chunks * BLOCK * BLOCK;
    for (x.first = (k - 1) / BLOCK * BLOCK; x.first >= 0; x.first -= BLOCK) {
        x.b = at_most(k - x.first, BLOCK);
        x.m = n - x.first;
        x.n_tiles = parts_of(k - x.first, BLOCK);
        x.n_chunks = parts_of(x.m, CHUNK);
        panel(&x);
    }
    rw_free(memory);
    return RW_OK;
}
