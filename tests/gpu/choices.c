/* The algorithms of products, from process to process: what one chose, another takes over, be it another one than it
 * would choose by itself; and what is chosen by time gives right results, keeps what is in `out`, and is taken over
 * like any other. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "kernels/cuda/cuda.h"
#include "tests/unit/kernels/device_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { M = 512, N = 768, K = 2048, MOST_TEXT = 1 << 16, NO_GPU = 77 };

/* -- products of one device ------------------------------------------------------------------------------------ */

/* out = 0 + a b^T, and then once more on top of it. For free(). */
static float *products(rw_device *d) {
    const int64_t width = rw_dtype_bytes(d->compute);
    const struct {
        int64_t n;
        uint64_t seed;
    } shapes[] = {{M * K, 1}, {N * K, 2}};
    void *in[2], *out = d->alloc(d, M * N * width);
    for (int i = 0; i < 2; i++) {
        float *x = test_memory((size_t)shapes[i].n * 4);
        void *raw = test_memory((size_t)(shapes[i].n * width));
        in[i] = d->alloc(d, shapes[i].n * width);
        test_fill_f32(x, shapes[i].n, shapes[i].seed, -1, 1);
        rw_convert(raw, d->compute, x, RW_F32, shapes[i].n);
        d->upload(d, in[i], raw, shapes[i].n * width);
        free(x), free(raw);
    }
    rw_matmul_args a = {.dtype = d->compute, .M = M, .N = N, .K = K, .a = in[0], .b = in[1], .out = out};
    a.trans_b = true;
    a.c = out; /* zeros: were a trial to write there, its product would stay */
    d->kernels->matmul(&a, &d->exec);
    d->kernels->matmul(&a, &d->exec);
    void *raw = test_memory((size_t)(M * N * width));
    float *y = test_memory(M * N * 4);
    d->download(d, raw, out, M * N * width);
    rw_convert(y, RW_F32, raw, d->compute, M * N);
    d->free(d, in[0], M * K * width), d->free(d, in[1], N * K * width), d->free(d, out, M * N * width);
    free(raw);
    return y;
}

/* -- another process -------------------------------------------------------------------------------------------- */

typedef struct {
    const char *preset; /* taken over first; NULL: none */
    int rank;
    bool timed, no_work;
    char text[MOST_TEXT]; /* what was chosen */
} job;

/* A device, the two products, its list to `to`; the exit status. */
static int work(const job *j, int to) {
    rw_error err = {0};
    rw_device *d = NULL;
    const rw_gpu_choice choice = {.compute = RW_F16, .timed = j->timed};
    if (rw_device_open_cuda(&d, &choice, &err) != RW_OK) return printf("SKIPPED: %s\n", err.msg), NO_GPU;
    rw_cuda_rank_products(d, j->rank);
    if (j->preset && d->choices->preset(d, j->preset, &err) != RW_OK) return 1;
    if (!j->no_work) free(products(d));
    char *list = d->choices->list(d);
    const bool right = d->synchronize(d, &err) == RW_OK && write(to, list, strlen(list)) == (ssize_t)strlen(list);
    rw_free(list);
    rw_device_close(d);
    return right ? 0 : 1;
}

/* CUDA does not survive a fork: this process must not have opened it. */
static void in_a_process(job *j) {
    int ends[2], status;
    size_t n = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int result = work(j, ends[1]);
        fflush(stdout);
        _exit(result);
    }
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], j->text + n, MOST_TEXT - 1 - n)) > 0;) n += (size_t)got;
    j->text[n] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_GPU) skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* -- tests -------------------------------------------------------------------------------------------------------- */

static void test_another_algorithm_is_taken_over(void **state) {
    (void)state;
    static job first, second, resumed, plain;
    second.rank = 1;
    in_a_process(&first);
    in_a_process(&second);
    printf("%s%s", first.text, second.text);
    assert_string_not_equal(first.text, second.text);
    resumed.preset = second.text;
    in_a_process(&resumed);
    assert_string_equal(resumed.text, second.text);
    resumed.no_work = true; /* nor is a line lost whose shape was not met */
    in_a_process(&resumed);
    assert_string_equal(resumed.text, second.text);
    in_a_process(&plain); /* by itself it would not have */
    assert_string_equal(plain.text, first.text);
}

static void test_what_time_chose_is_taken_over(void **state) {
    (void)state;
    static job timed = {.timed = true}, resumed, again = {.timed = true};
    in_a_process(&timed);
    printf("%s", timed.text);
    resumed.preset = again.preset = timed.text;
    in_a_process(&resumed);
    assert_string_equal(resumed.text, timed.text);
    in_a_process(&again); /* the list goes before the clock */
    assert_string_equal(again.text, timed.text);
}

static rw_device *gpu(bool timed) {
    rw_device *d = NULL;
    rw_error err = {0};
    if (rw_device_open_cuda(&d, &(rw_gpu_choice){.compute = RW_F16, .timed = timed}, &err) == RW_OK) return d;
    printf("SKIPPED: %s\n", err.msg);
    skip();
    return NULL;
}

/* Trials write nowhere but into memory of their own, which goes back. */
static void test_time_changes_no_result(void **state) {
    (void)state;
    rw_device *plain = gpu(false), *timed = gpu(true);
    float *x = products(plain), *y = products(timed);
    double error = 0, size = 0;
    for (int i = 0; i < M * N; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)x[i] * (double)x[i];
    }
    printf("  rms of the difference %.1e\n", sqrt(error / size));
    assert_true(sqrt(error / size) < 1e-3);
    assert_int_equal(timed->live_bytes, 0);
    free(x), free(y);
    rw_device_close(plain);
    rw_device_close(timed);
}

/* A shape that is met while work is recorded gets the first algorithm: nothing is timed there. */
static void test_nothing_is_timed_in_a_recording(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *plain = gpu(false), *d = gpu(true);
    rw_graph *g = NULL;
    const int64_t n_bytes = 256 * 256 * 2;
    void *in = d->alloc(d, n_bytes), *out = d->alloc(d, n_bytes);
    const rw_matmul_args a = {.dtype = RW_F16, .M = 256, .N = 256, .K = 256, .a = in, .b = in, .out = out};
    plain->kernels->matmul(&a, &plain->exec); /* its kernel is loaded: no recording may contain that */
    assert_int_equal(plain->synchronize(plain, &err), RW_OK);
    assert_int_equal(d->record->begin(d, &err), RW_OK);
    d->kernels->matmul(&a, &d->exec);
    if (d->record->end(d, &g, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(d->record->replay(d, g, &err), RW_OK);
    assert_int_equal(d->synchronize(d, &err), RW_OK);
    d->record->free(d, g);
    char *first = plain->choices->list(plain), *list = d->choices->list(d);
    assert_string_equal(list, first);
    rw_free(first), rw_free(list);
    d->free(d, in, n_bytes), d->free(d, out, n_bytes);
    rw_device_close(plain);
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        /* first those that leave CUDA to other processes */
        cmocka_unit_test(test_another_algorithm_is_taken_over),
        cmocka_unit_test(test_what_time_chose_is_taken_over),
        cmocka_unit_test(test_time_changes_no_result),
        cmocka_unit_test(test_nothing_is_timed_in_a_recording),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
