/* What a token costs when a model generates, against reading its weights once: each token needs every weight but the
 * embedding, whose one row is nothing, so memory sets the limit. The yardstick is a plain sum, with the same threads,
 * over a buffer as large as the weights that a token reads; the two are timed in turn.
 *
 *   bench_decode [tokens [n_layer n_embd vocab]]      default 40 12 768 65536
 *
 * The model is x060 with small random weights, written to $TMPDIR (or /tmp) and read back. Prints the time of every
 * kernel in the fastest token, of a token, of the choice of the next one. Not a test: it judges nothing. */
#include "core/base/alloc.h"
#include "core/base/rng.h"
#include "core/base/thread.h"
#include "core/checkpoint/weights.h"
#include "core/infer/generate.h"
#include "core/infer/sampling.h"
#include "core/model/model.h"
#include "kernels/bench/op_times.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_TOKENS 1000

static void must(rw_status status, const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (status == RW_OK) return;
    fprintf(stderr, "bench_decode: %s\n", text);
    exit(1);
}

/* -- the model ------------------------------------------------------------------------------------------------ */

static rw_plan_model shape_of(const int64_t size[3]) {
    rw_plan_model m = {.arch = "x060", .n_layer = size[0], .n_embd = size[1], .vocab_size = size[2]};
    rw_arch_default_shape(&rw_arch_x060, &m);
    m.head_size_divisor = 8;
    return m;
}

/* The speed of a token does not depend on the weights. Bytes that a token reads. */
static double write_model(const char *path, const rw_plan_model *shape, rw_device *device) {
    rw_error err = {0};
    rw_model *m;
    must(rw_model_new(&m, shape, device, NULL, &err), &err);
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        const rw_flat *values = &m->params->flat[RW_PARAM_VALUE][c];
        float *w = values->data;
        for (int64_t i = 0; i < values->n; i++) w[i] = (float)((double)(i * 2654435761u % 2001) - 1000.0) * 2e-5f;
    }
    must(rw_weights_save_pth(m->params, path, RW_F32, &err), &err);
    double n = (double)(m->params->layout.n_params - rw_tensor_count(m->emb));
    rw_model_free(m);
    return n * 4;
}

static rw_generator *open_model(const int64_t size[3], rw_device *device, double *bytes) {
    rw_error err = {0};
    char path[512];
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/bench_decode-%ld.pth", folder && *folder ? folder : "/tmp", (long)getpid());
    rw_plan_model shape = shape_of(size);
    *bytes = write_model(path, &shape, device);
    rw_generator *g;
    rw_status status = rw_generator_open(&g, path, NULL, device, &err);
    unlink(path);
    must(status, &err);
    return g;
}

/* -- the yardstick -------------------------------------------------------------------------------------------- */

enum { LANES = 64 };

static float sum_of(const float *x, int64_t n) {
    float lane[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += x[i + l];
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

static float sum_in_parallel(const float *x, int64_t n, int threads) {
    float sum = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : sum)
    for (int i = 0; i < threads; i++) {
        int64_t first = n * i / threads, last = n * (i + 1) / threads;
        sum += sum_of(x + first, last - first);
    }
    return sum;
}

/* -- measuring ------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n) {
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

static double since(int64_t ns) {
    return (double)(rw_now_ns() - ns) * 1e-9;
}

static double choose(const float *logits, int64_t V, double temperature, double top_p, int repeats) {
    rw_candidates scratch = {rw_alloc_array((size_t)V, 4), rw_alloc_array((size_t)V, 4)};
    double t[MAX_TOKENS];
    rw_rng rng = {1, 2, 0};
    if (!scratch.weight || !scratch.id) exit(1);
    for (int i = 0; i < repeats; i++) {
        int64_t ns = rw_now_ns();
        rw_sample(logits, V, &(rw_sampling){temperature, top_p}, &rng, scratch);
        t[i] = since(ns);
    }
    rw_free(scratch.weight);
    rw_free(scratch.id);
    return median(t, repeats);
}

/* Logits of a trained model are far apart: a normal distribution, 3 wide. */
static void spread(float *logits, int64_t V) {
    rw_rng rng = {3, 4, 0};
    for (int64_t i = 0; i < V; i++) logits[i] = (float)(3 * rw_rng_normal(&rng));
}

static void print_choice(const char *what, const float *logits, int64_t V, int repeats, double token) {
    static const double how[][2] = {{0, 1}, {1, 1}, {0.8, 1}, {1, 0.7}, {0.8, 0.7}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        double t = choose(logits, V, how[i][0], how[i][1], repeats);
        printf("choice %6.3f ms, %4.1f %% of a token (%s, temperature %g, top_p %g)\n", t * 1e3, 100 * t / token, what,
               how[i][0], how[i][1]);
    }
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 40;
    int64_t size[3] = {12, 768, 65536};
    for (int i = 0; i < 3 && argc > 2 + i; i++) size[i] = atoll(argv[2 + i]);
    if (n < 1 || n > MAX_TOKENS) return 2;
    rw_error err = {0};
    rw_device *device;
    int threads = rw_cpu_count();
    double bytes, token[MAX_TOKENS], sum[MAX_TOKENS];
    must(rw_device_open_cpu(&device, RW_F32, threads, &err), &err);
    rw_generator *g = open_model(size, device, &bytes);
    int64_t V = size[2], n_sum = (int64_t)(bytes / 4);
    float *logits = rw_alloc_array((size_t)V, 4), *buffer = rw_alloc_pages((size_t)bytes);
    if (!logits || !buffer) return 1;
    for (int64_t i = 0; i < n_sum; i++) buffer[i] = 1;
    const rw_kernels *plain = device->kernels;
    rw_kernels timed = rw_op_times_wrap(plain);
    device->kernels = &timed;
    volatile float total;
    for (int i = -3; i < n; i++) {
        int32_t id = (int32_t)((i + 3) * 7919 % V);
        rw_op_times_begin();
        int64_t ns = rw_now_ns();
        must(rw_generator_feed(g, &id, 1, logits, NULL, &err), &err);
        if (i >= 0) rw_op_times_end(token[i] = since(ns));
        ns = rw_now_ns();
        total = sum_in_parallel(buffer, n_sum, threads);
        if (i >= 0) sum[i] = since(ns);
    }
    (void)total;
    device->kernels = plain;
    printf("x060 L%lld D%lld V%lld, fp32, %s\n", (long long)size[0], (long long)size[1], (long long)V, device->detail);
    rw_op_times_print();
    double each = median(token, n), reading = median(sum, n);
    printf("token  %6.2f ms, median of %d (best %.2f): %.1f MB of weights, %.1f GB/s\n", each * 1e3, n, token[0] * 1e3,
           bytes * 1e-6, bytes / each * 1e-9);
    printf("sum    %6.2f ms (best %.2f): %.1f GB/s\n", reading * 1e3, sum[0] * 1e3, bytes / reading * 1e-9);
    printf("ratio  %6.1f %% (best against best %.1f %%)\n", 100 * reading / each, 100 * sum[0] / token[0]);
    print_choice("this model", logits, V, n, each);
    spread(logits, V);
    print_choice("logits 3 wide", logits, V, n, each);
    rw_generator_close(g);
    rw_device_close(device);
    rw_free(logits);
    rw_free_pages(buffer, (size_t)bytes);
    return 0;
}
