/* label: gpu
 * One small training step of matmul, relu squared and adamw, all buffers in one arena on the device:
 *     h = x W1^T;  a = max(h, 0)^2;  y = x + a W2^T;  L = |y|^2 / 2;  W1, W2 by AdamW with the step's own numbers.
 * Run 100 times kernel by kernel, and 100 times as one recorded graph: every buffer must hold the same bits. The same
 * code on the CPU in fp64 and fp32 is the reference. $RWKV_PROBE_STEPS: other than 100, for slow checkers.
 * Then what else the device promises: copies ahead and marks, calls from other threads, number types, the list of
 * products, errors. */
#include "tests/unit/kernels/device_test.h"

#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "kernels/cuda/cuda.h"

enum { R = 384, C = 256, F = 896, ALIGN = 256 };

static int step_count(void) {
    const char *text = getenv("RWKV_PROBE_STEPS");
    return text && atoi(text) > 0 ? atoi(text) : 100;
}

/* -- buffers in one arena -------------------------------------------------------------------------- */

enum { X, W, GRAD, MOMENT, VARIANCE, H, A, Y, DA, N_BUFFERS };
static const char *const buffer_names[N_BUFFERS] = {"x", "W", "grad", "m", "v", "h", "a", "y", "da"};
static const int64_t buffer_sizes[N_BUFFERS] = {R * C, 2 * F *C, 2 * F *C, 2 * F *C, 2 * F *C, R *F, R *F, R *C, R *F};
enum { N_RANGES = 2 };
static const rw_adamw_range ranges[N_RANGES] = {{.n = F * C, .lr_scale = 1, .decay = 1},
                                                {.offset = F * C, .n = F * C, .lr_scale = 2}};

typedef struct {
    rw_device *d;
    char *arena;
    int64_t arena_bytes;
    void *buffers[N_BUFFERS];
    rw_adamw_range *ranges;
} probe;

static int64_t aligned(int64_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Lays the buffers out from `arena`; returns the bytes that they need. */
static int64_t lay(probe *p, char *arena) {
    int64_t at = 0, width = rw_dtype_bytes(p->d->compute);
    for (int i = 0; i < N_BUFFERS; i++) {
        p->buffers[i] = arena ? arena + at : NULL;
        at += aligned(buffer_sizes[i] * width);
    }
    p->ranges = arena ? (rw_adamw_range *)(arena + at) : NULL;
    return at + aligned(sizeof ranges);
}

static void put(probe *p, int buffer, uint64_t stream, int64_t first, int64_t n, double scale) {
    const int64_t width = rw_dtype_bytes(p->d->compute);
    float *f = test_memory((size_t)(n * 8));
    double *wide = test_memory((size_t)(n * 8));
    test_fill_f32(f, n, stream, -scale, scale);
    for (int64_t i = 0; i < n; i++) wide[i] = (double)f[i];
    p->d->upload(p->d, (char *)p->buffers[buffer] + first * width, width == 8 ? (void *)wide : (void *)f, n * width);
    free(f), free(wide);
}

static void start(probe *p) {
    p->d->zero(p->d, p->arena, p->arena_bytes);
    put(p, X, 1, 0, R * C, 1);
    put(p, W, 2, 0, F * C, 0.1);
    put(p, W, 3, F * C, F * C, 0.1);
    p->d->upload(p->d, p->ranges, ranges, sizeof ranges);
}

static void open_probe(probe *p, rw_device *d) {
    p->d = d;
    p->arena_bytes = lay(p, NULL);
    p->arena = d->alloc(d, p->arena_bytes);
    assert_non_null(p->arena);
    lay(p, p->arena);
    start(p);
}

static void close_probe(probe *p) {
    p->d->free(p->d, p->arena, p->arena_bytes);
    assert_int_equal(p->d->live_bytes, 0);
    rw_device_close(p->d);
}

/* -- the step -------------------------------------------------------------------------------------- */

static void scalars_of(rw_device *d, int step) {
    rw_step_scalars s = {.step = step, .lr = 1e-3 / (1 + 0.05 * step), .weight_decay = 0.1};
    rw_device_scalars own = {.updates = step, .grad_scale = 0.5};
    d->upload(d, d->exec.scalars, &s, sizeof s);
    d->upload(d, d->exec.own, &own, sizeof own);
}

static void matmul(probe *p, rw_matmul_args a) {
    a.dtype = p->d->compute;
    p->d->kernels->matmul(&a, &p->d->exec);
}

static void one_step(probe *p) {
    const rw_kernels *k = p->d->kernels;
    const rw_exec *ex = &p->d->exec;
    const rw_dtype t = p->d->compute;
    const int64_t half = F * C * rw_dtype_bytes(t);
    void **b = p->buffers, *w1 = b[W], *w2 = (char *)b[W] + half, *dw1 = b[GRAD], *dw2 = (char *)b[GRAD] + half;
    rw_relu_sq_args act = {.dtype = t, .n = R * F, .x = b[H], .out = b[A], .dout = b[DA], .dx = b[DA]};

    matmul(p, (rw_matmul_args){.M = R, .N = F, .K = C, .a = b[X], .b = w1, .out = b[H], .trans_b = true});
    k->relu_sq_forward(&act, ex);
    matmul(p, (rw_matmul_args){.M = R, .N = C, .K = F, .a = b[A], .b = w2, .c = b[X], .out = b[Y], .trans_b = true});
    matmul(p, (rw_matmul_args){.M = C, .N = F, .K = R, .a = b[Y], .b = b[A], .out = dw2, .trans_a = true});
    matmul(p, (rw_matmul_args){.M = R, .N = F, .K = C, .a = b[Y], .b = w2, .out = b[DA]});
    k->relu_sq_backward(&act, ex);
    matmul(p, (rw_matmul_args){.M = F, .N = C, .K = R, .a = b[DA], .b = b[X], .out = dw1, .trans_a = true});
    rw_adamw_args adam = {.dtype = t,
                          .n_ranges = N_RANGES,
                          .ranges = p->ranges,
                          .p = b[W],
                          .grad = b[GRAD],
                          .m = b[MOMENT],
                          .v = b[VARIANCE],
                          .beta1 = 0.9,
                          .beta2 = 0.99,
                          .eps = 1e-8,
                          .adam_w_mode = true};
    k->adamw(&adam, ex);
}

static void report(const probe *p, const char *how, int n, int64_t began) {
    printf("  %-4s %3d steps %-16s %9.1f us a step\n", p->d->name, n, how, (double)(rw_now_ns() - began) * 1e-3 / n);
}

static void run_steps(probe *p, int n) {
    rw_error err = {0};
    start(p);
    const int64_t began = rw_now_ns();
    for (int step = 1; step <= n; step++) {
        scalars_of(p->d, step);
        one_step(p);
    }
    if (p->d->synchronize(p->d, &err) != RW_OK) fail_msg("%s", err.msg);
    report(p, "kernel by kernel", n, began);
}

/* The same with the step recorded once. */
static void replay_steps(probe *p, int n) {
    rw_error err = {0};
    rw_graph *g = NULL;
    start(p);
    if (p->d->record->begin(p->d, &err) != RW_OK) fail_msg("%s", err.msg);
    one_step(p);
    if (p->d->record->end(p->d, &g, &err) != RW_OK) fail_msg("%s", err.msg);
    const int64_t began = rw_now_ns();
    for (int step = 1; step <= n; step++) {
        scalars_of(p->d, step);
        if (p->d->record->replay(p->d, g, &err) != RW_OK) fail_msg("%s", err.msg);
    }
    if (p->d->synchronize(p->d, &err) != RW_OK) fail_msg("%s", err.msg);
    printf("graph of %lld nodes\n", (long long)rw_cuda_graph_nodes(g));
    report(p, "graph", n, began);
    p->d->record->free(p->d, g);
}

static double *numbers_of(probe *p, int buffer) {
    const int64_t n = buffer_sizes[buffer], width = rw_dtype_bytes(p->d->compute);
    double *x = test_memory((size_t)n * 8);
    void *raw = test_memory((size_t)(n * width));
    p->d->download(p->d, raw, p->buffers[buffer], n * width);
    for (int64_t i = 0; i < n; i++) x[i] = width == 8 ? ((double *)raw)[i] : (double)((float *)raw)[i];
    free(raw);
    return x;
}

/* Root of the mean square of the difference, over that of b. */
static double distance(probe *p, probe *q, int buffer) {
    double *a = numbers_of(p, buffer), *b = numbers_of(q, buffer), error = 0, size = 0;
    for (int64_t i = 0; i < buffer_sizes[buffer]; i++) {
        error += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    free(a), free(b);
    return sqrt(error / fmax(size, 1e-300));
}

static rw_device *gpu(void) {
    rw_device *d = NULL;
    rw_error err = {0};
    if (rw_device_open_cuda(&d, &(rw_gpu_choice){.compute = RW_F32}, &err) == RW_OK) return d;
    printf("SKIPPED: %s\n", err.msg);
    skip();
    return NULL;
}

/* -- tests ----------------------------------------------------------------------------------------- */

static void test_graph_gives_equal_bits(void **state) {
    (void)state;
    const int steps = step_count();
    probe p;
    open_probe(&p, gpu());
    printf("%s: arena of %lld bytes\n", p.d->detail, (long long)p.arena_bytes);
    char *eager = test_memory((size_t)p.arena_bytes), *again = test_memory((size_t)p.arena_bytes);
    run_steps(&p, steps);
    p.d->download(p.d, eager, p.arena, p.arena_bytes);
    run_steps(&p, steps);
    p.d->download(p.d, again, p.arena, p.arena_bytes);
    assert_memory_equal(eager, again, (size_t)p.arena_bytes);
    replay_steps(&p, steps);
    p.d->download(p.d, again, p.arena, p.arena_bytes);
    assert_memory_equal(eager, again, (size_t)p.arena_bytes);
    free(eager), free(again);
    close_probe(&p);
    printf("PASS: %d steps, with and without a graph, the same bits in every buffer\n", steps);
}

static void compare_with_cpu(int steps, double tolerance) {
    probe g, f, d;
    open_probe(&g, gpu());
    open_probe(&f, test_device(RW_F32, rw_cpu_count()));
    open_probe(&d, test_device(RW_F64, rw_cpu_count()));
    run_steps(&g, steps), run_steps(&f, steps), run_steps(&d, steps);
    printf("after %d steps, rms difference to fp64 over rms:   GPU        CPU fp32\n", steps);
    for (int i = 0; i < N_BUFFERS; i++) {
        double gpu_error = distance(&g, &d, i), cpu_error = distance(&f, &d, i);
        printf("  %-4s %45.2e %10.2e\n", buffer_names[i], gpu_error, cpu_error);
        assert_true(gpu_error <= tolerance);
    }
    close_probe(&g), close_probe(&f), close_probe(&d);
}

static void test_against_the_cpu(void **state) {
    (void)state;
    compare_with_cpu(1, 2e-6);            /* fp32 rounding of sums of 256 to 896 terms */
    compare_with_cpu(step_count(), 1e-3); /* a trajectory: m and v of small gradients drift apart */
}

/* -- copies ahead ---------------------------------------------------------------------------------- */

enum { N_AHEAD = 1 << 20 };

/* Host, its slot on the device, the place that kernels know, and back: each step waits for a mark of the one before. */
static void test_copies_ahead(void **state) {
    (void)state;
    rw_device *d = gpu();
    const rw_device_ahead *a = d->ahead;
    rw_error err = {0};
    int *host = a->host_alloc(d, N_AHEAD * 4), *back = a->host_alloc(d, N_AHEAD * 4);
    char *slot = d->alloc(d, N_AHEAD * 4), *place = d->alloc(d, N_AHEAD * 4);
    rw_mark *copied = a->mark_new(d), *done = a->mark_new(d);
    assert_true(host && back && slot && place && copied && done);
    assert_true(a->mark_passed(d, copied)); /* never set */
    assert_int_equal(a->mark_sync(d, copied, &err), RW_OK);
    for (int i = 0; i < N_AHEAD; i++) assert_int_equal(host[i], 0);
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < N_AHEAD; i++) host[i] = i * round;
        a->upload(d, slot, host, N_AHEAD * 4);
        a->mark_set(d, copied, RW_QUEUE_COPIES);
        a->mark_wait(d, copied, RW_QUEUE_KERNELS);
        a->move(d, place, slot, N_AHEAD * 4);
        a->download(d, back, place, N_AHEAD * 4);
        a->mark_set(d, done, RW_QUEUE_KERNELS);
        if (a->mark_sync(d, done, &err) != RW_OK) fail_msg("%s", err.msg);
        assert_true(a->mark_passed(d, done));
        assert_memory_equal(host, back, N_AHEAD * 4);
    }
    a->mark_free(d, copied), a->mark_free(d, done);
    a->host_free(d, host, N_AHEAD * 4), a->host_free(d, back, N_AHEAD * 4);
    d->free(d, slot, N_AHEAD * 4), d->free(d, place, N_AHEAD * 4);
    assert_int_equal(d->synchronize(d, &err), RW_OK);
    rw_device_close(d);
}

typedef struct {
    rw_device *d;
    void *on_device;
    int found;
} reader;

static void *read_there(void *p) {
    reader *r = p;
    r->d->download(r->d, &r->found, r->on_device, sizeof r->found);
    return NULL;
}

static void test_other_threads_may_read(void **state) {
    (void)state;
    const int put_there = 4711;
    pthread_t thread;
    reader r = {.d = gpu()};
    r.on_device = r.d->alloc(r.d, sizeof put_there);
    r.d->upload(r.d, r.on_device, &put_there, sizeof put_there);
    assert_int_equal(pthread_create(&thread, NULL, read_there, &r), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(r.found, put_there);
    r.d->free(r.d, r.on_device, sizeof put_there);
    rw_device_close(r.d);
}

/* -- products -------------------------------------------------------------------------------------- */

enum { PRODUCT = 256, N_PRODUCT = PRODUCT * PRODUCT };

static rw_device *gpu_with(rw_gpu_choice choice) {
    rw_device *d = NULL;
    rw_error err = {0};
    if (rw_device_open_cuda(&d, &choice, &err) == RW_OK) return d;
    printf("SKIPPED: %s\n", err.msg);
    skip();
    return NULL;
}

/* x x^T of equal numbers, in whatever the device computes. */
static double *square_of(rw_device *d) {
    const int64_t n_bytes = N_PRODUCT * rw_dtype_bytes(d->compute);
    float *x = test_memory(N_PRODUCT * 4);
    double *y = test_memory(N_PRODUCT * 8);
    void *raw = test_memory((size_t)n_bytes), *in = d->alloc(d, n_bytes), *out = d->alloc(d, n_bytes);
    test_fill_f32(x, N_PRODUCT, 5, -1, 1);
    assert_int_equal(rw_convert(raw, d->compute, x, RW_F32, N_PRODUCT), 0);
    d->upload(d, in, raw, n_bytes);
    rw_matmul_args a = {.dtype = d->compute, .M = PRODUCT, .N = PRODUCT, .K = PRODUCT, .a = in, .b = in, .out = out};
    a.trans_b = true;
    d->kernels->matmul(&a, &d->exec);
    d->download(d, raw, out, n_bytes);
    assert_int_equal(rw_convert(y, RW_F64, raw, d->compute, N_PRODUCT), 0);
    d->free(d, in, n_bytes), d->free(d, out, n_bytes);
    free(x), free(raw);
    return y;
}

/* The rounding that each way of computing brings, and no less: a way that is not taken would show. */
static void test_number_types(void **state) {
    (void)state;
    static const struct {
        rw_gpu_choice choice;
        double least, most;
    } ways[] = {{{.compute = RW_F32}, 0, 1e-6},
                {{.compute = RW_F32, .tf32 = true}, 1e-5, 1e-3},
                {{.compute = RW_BF16}, 5e-4, 1e-2},
                {{.compute = RW_F16}, 5e-5, 1.5e-3}};
    rw_device *cpu = test_device(RW_F64, rw_cpu_count());
    double *right = square_of(cpu);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        rw_device *d = gpu_with(ways[w].choice);
        double *y = square_of(d), error = 0, size = 0;
        for (int i = 0; i < N_PRODUCT; i++) error += (y[i] - right[i]) * (y[i] - right[i]), size += right[i] * right[i];
        error = sqrt(error / size);
        printf("  %s%s: rms %.2e; the device's own %.0f MiB\n", rw_dtype_name(d->compute),
               ways[w].choice.tf32 ? " with tf32" : "", error, (double)d->own_bytes / 1048576);
        assert_true(error >= ways[w].least && error <= ways[w].most);
        assert_true(d->own_bytes > 0);
        free(y);
        rw_device_close(d);
    }
    free(right);
    rw_device_close(cpu);
}

static void test_products_are_listed_and_taken_back(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d = gpu_with((rw_gpu_choice){.compute = RW_BF16});
    double *first = square_of(d);
    char *list = rw_cuda_products(d);
    printf("%s", list);
    assert_non_null(strstr(list, "bf16 bf16 nt 256x256x256"));
    rw_device_close(d);
    d = gpu_with((rw_gpu_choice){.compute = RW_BF16});
    if (rw_cuda_preset_products(d, list, &err) != RW_OK) fail_msg("%s", err.msg);
    double *again = square_of(d);
    char *list_again = rw_cuda_products(d);
    assert_string_equal(list, list_again);
    assert_memory_equal(first, again, N_PRODUCT * 8);
    assert_int_equal(rw_cuda_preset_products(d, "cublaslt 1 capability 90 multiprocessors 132\n", &err),
                     RW_E_UNSUPPORTED);
    assert_int_equal(rw_cuda_preset_products(d, "something else", &err), RW_E_FORMAT);
    *strstr(list, " words ") = 0;
    assert_int_equal(rw_cuda_preset_products(d, list, &err), RW_E_FORMAT);
    rw_free(list), rw_free(list_again);
    free(first), free(again);
    rw_device_close(d);
}

static void test_looking(void **state) {
    (void)state;
    rw_cuda_facts f;
    rw_device_close(gpu());
    rw_cuda_look(&f);
    printf("driver %s, CUDA %d, program's %d; %s, version %d; %s, %.1f of %.1f GiB free\n", f.driver, f.driver_cuda,
           f.runtime_cuda, f.blas, f.blas_version, f.gpus[0].name, (double)f.gpus[0].free_bytes / 1073741824,
           (double)f.gpus[0].total_bytes / 1073741824);
    assert_string_equal(f.why, "");
    assert_string_equal(f.why_no_blas, "");
    assert_true(f.n_gpus > 0 && f.gpus[0].capability >= 75 && f.gpus[0].total_bytes > 0);
}

/* -- errors ---------------------------------------------------------------------------------------- */

static void test_errors_are_reported(void **state) {
    (void)state;
    rw_device *d = gpu(), *none = NULL;
    rw_error err = {0};
    rw_matmul_args wrong = {.dtype = RW_F32, .M = 4, .N = 4, .K = 4, .lda = -1, .a = d, .b = d, .out = d};
    d->kernels->matmul(&wrong, &d->exec); /* the pitch is refused, nothing is launched */
    assert_int_equal(d->synchronize(d, &err), RW_E_DEVICE);
    assert_non_null(strstr(err.msg, "cuda: matmul"));
    assert_int_equal(d->synchronize(d, &err), RW_OK);
    assert_null(d->alloc(d, (int64_t)1 << 50));
    assert_int_equal(d->synchronize(d, &err), RW_OK);
    rw_device_close(d);
    assert_int_equal(rw_device_open_cuda(&none, &(rw_gpu_choice){.index = 99}, &err), RW_E_DEVICE);
    assert_int_equal(rw_device_open_cuda(&none, &(rw_gpu_choice){.compute = RW_F64}, &err), RW_E_UNSUPPORTED);
    assert_null(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_gives_equal_bits),
        cmocka_unit_test(test_against_the_cpu),
        cmocka_unit_test(test_copies_ahead),
        cmocka_unit_test(test_other_threads_may_read),
        cmocka_unit_test(test_number_types),
        cmocka_unit_test(test_products_are_listed_and_taken_back),
        cmocka_unit_test(test_looking),
        cmocka_unit_test(test_errors_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
