/* How long the initial values of a model take, with all threads.
 *
 *   bench_init [0.1B | 1.5B | matrix ROWS COLS | 7B]      default 0.1B
 *
 * 0.1B and 1.5B: all values of an x060 of that size. matrix: one orthogonal matrix, and how orthogonal it is. 7B: one
 * matrix of each shape of that size (the largest needs 4 GB), and from them the time of all. Not a test: it judges
 * nothing. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status == RW_OK) return;
    fprintf(stderr, "bench_init: %s\n", text);
    exit(1);
}

static double since(int64_t ns) {
    return (double)(rw_now_ns() - ns) * 1e-9;
}

static double peak_gb(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)r.ru_maxrss * 1024e-9;
}

static void whole(const char *name, int64_t n_layer, int64_t n_embd, rw_device *device) {
    rw_error err = {0};
    rw_plan_model shape = {.arch = "x060", .head_size_divisor = 8};
    shape.n_layer = n_layer;
    shape.n_embd = n_embd;
    shape.vocab_size = 65536;
    shape.head_size = 64;
    shape.n_head = n_embd / 64;
    shape.dim_ffn = n_embd * 7 / 2 / 32 * 32;
    shape.lora_mix = 32;
    shape.lora_decay = 64;
    rw_model *m;
    must(rw_model_new(&m, &shape, device, NULL, &err), &err);
    int64_t ns = rw_now_ns();
    must(rw_model_init(m, 1, &err), &err);
    double seconds = since(ns), n = (double)m->params->layout.n_params;
    printf("%s: x060 L%lld D%lld, %.0f M parameters: %.2f s; peak memory %.2f GB, of it parameters %.2f GB\n", name,
           (long long)n_layer, (long long)n_embd, n * 1e-6, seconds, peak_gb(), n * 4e-9);
    rw_model_free(m);
}

/* The largest difference of a scalar product from 0 or 1 among up to 256 of the rows, or columns when they are fewer.
 */
static double worst_product(const float *a, int64_t rows, int64_t cols, rw_device *host64) {
    const int64_t k = rows < cols ? rows : cols, n = rows < cols ? cols : rows, some = k < 256 ? k : 256;
    double *x = rw_alloc_pages((size_t)(some * n) * 8), *g = rw_alloc_pages((size_t)(some * some) * 8), worst = 0;
    if (!x || !g) exit(1);
    for (int64_t s = 0; s < some; s++)
        for (int64_t i = 0, r = s * k / some; i < n; i++) x[s * n + i] = rows < cols ? a[r * n + i] : a[i * k + r];
    rw_matmul_args mm = {.dtype = RW_F64, .M = some, .N = some, .K = n, .a = x, .b = x, .out = g, .trans_b = true};
    host64->kernels->matmul(&mm, &host64->exec);
    for (int64_t i = 0; i < some * some; i++) worst = fmax(worst, fabs(g[i] - (i / some == i % some)));
    rw_free_pages(x, (size_t)(some * n) * 8);
    rw_free_pages(g, (size_t)(some * some) * 8);
    return worst;
}

static double matrix(rw_init_kind kind, int64_t rows, int64_t cols, rw_device *device, rw_device *host64) {
    rw_error err = {0};
    rw_layout l = {0};
    rw_params *p;
    must(rw_layout_add(&l, "matrix", RW_MATRIX, 2, (int64_t[]){rows, cols}, 0, 0, &err), &err);
    must(rw_layout_place(&l, &err), &err);
    must(rw_params_new(&p, device, &l, &(rw_storage){0}, false, &err), &err);
    rw_init init = {.kind = kind, .value = 1};
    int64_t ns = rw_now_ns();
    must(rw_init_param(p, 0, &init, 1, rw_cpu_count(), &err), &err);
    double seconds = since(ns);
    printf("%-10s %6lld x %5lld: %7.2f s; peak memory %.2f GB, of it the matrix %.2f GB",
           kind == RW_INIT_UNIFORM ? "uniform" : "orthogonal", (long long)rows, (long long)cols, seconds, peak_gb(),
           (double)(rows * cols) * 4e-9);
    if (kind == RW_INIT_ORTHOGONAL) printf("; |Q^T Q - I| %.1e", worst_product(p->tensors[0].data, rows, cols, host64));
    printf("\n");
    rw_params_free(p);
    return seconds;
}

/* L32 D4096: in each block receptance, key, value, gate and the first matrix of the channel mix; then head and
 * embedding. What starts as zeros is not counted. */
static void estimate_7b(rw_device *device, rw_device *host64) {
    double square = matrix(RW_INIT_ORTHOGONAL, 4096, 4096, device, host64);
    double wide = matrix(RW_INIT_ORTHOGONAL, 14336, 4096, device, host64);
    double emb = matrix(RW_INIT_UNIFORM, 65536, 4096, device, host64);
    double head = matrix(RW_INIT_ORTHOGONAL, 65536, 4096, device, host64);
    printf("7B: x060 L32 D4096: 32 x (4 x %.2f + %.2f) + %.2f + %.2f = %.0f s\n", square, wide, emb, head,
           32 * (4 * square + wide) + emb + head);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "0.1B";
    rw_error err = {0};
    rw_device *device, *host64;
    must(rw_device_open_cpu(&device, RW_F32, rw_cpu_count(), &err), &err);
    must(rw_device_open_cpu(&host64, RW_F64, rw_cpu_count(), &err), &err);
    printf("%s\n", device->detail);
    if (strcmp(what, "0.1B") == 0)
        whole(what, 12, 768, device);
    else if (strcmp(what, "1.5B") == 0)
        whole(what, 24, 2048, device);
    else if (strcmp(what, "7B") == 0)
        estimate_7b(device, host64);
    else if (strcmp(what, "matrix") == 0 && argc == 4)
        matrix(RW_INIT_ORTHOGONAL, atoll(argv[2]), atoll(argv[3]), device, host64);
    else
        return 2;
    rw_device_close(host64);
    rw_device_close(device);
    return 0;
}
