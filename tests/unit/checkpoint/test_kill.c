/* kill -9 at random moments of saving: a whole checkpoint always stands and is found, and never an older one than
 * the last that was reported as saved. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/base/rng.h"
#include "core/checkpoint/retention.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N_KILLS = 50, NUMEL = 300000, KEEP = 2 };

/* Element i of the save of `step`, so that a mixture of two saves shows. */
static float value(int64_t step, int64_t i) {
    return (float)(step * 1000 + i % 1000);
}

static rw_status fetch(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    (void)err;
    int64_t step = *(const int64_t *)t->data;
    for (int64_t i = 0; i < n; i++) ((float *)buf)[i] = value(step, first + i);
    return RW_OK;
}

/* What the trainer does at a save: state, then weights, then old ones go. Says so in *saved (shared memory). */
static void save_once(const char *dir, int64_t step, volatile int64_t *saved) {
    char text[32];
    const char *const metadata[][2] = {{"step", text}, {"recipe", "{}"}, {"choices", "{}"}};
    rw_save_tensor t = {
        .name = "w", .ndim = 1, .shape = {NUMEL}, .src_dtype = RW_F32, .dtype = RW_F32, .fetch = fetch, .data = &step};
    char *state = rw_checkpoint_state_path(dir, step), *pth = rw_checkpoint_pth_path(dir, step);
    snprintf(text, sizeof text, "%lld", (long long)step);
    if (rw_safetensors_write(state, &t, 1, metadata, 3, NULL) != RW_OK) _exit(1);
    *saved = step;
    if (rw_pth_write(pth, &t, 1, NULL) != RW_OK) _exit(2);
    if (rw_checkpoint_keep(dir, KEEP, step, step, NULL, NULL, NULL) != RW_OK) _exit(3);
    rw_free(state);
    rw_free(pth);
}

/* Saves without end, from the step after the newest state. */
static void child(const char *dir, volatile int64_t *saved) {
    char *path;
    int64_t step;
    if (rw_checkpoint_clean(dir, NULL) != RW_OK) _exit(4);
    if (rw_checkpoint_latest(dir, &path, &step, NULL) != RW_OK) _exit(5);
    rw_free(path);
    for (;;) save_once(dir, ++step, saved);
}

static void check_file(const char *path, int64_t step) {
    rw_error err = {0};
    rw_tensor_file *f = open_good(path);
    float *out = malloc(NUMEL * sizeof *out);
    if (rw_tensor_file_read(f, rw_tensor_file_find(f, "w"), out, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
    for (int64_t i = 0; i < NUMEL; i++)
        if (out[i] != value(step, i)) fail_msg("%s: element %lld is of another save", path, (long long)i);
    free(out);
    rw_tensor_file_close(f);
}

static rw_status check_pth(void *dir, const char *name, rw_error *err) {
    long long n;
    char end;
    (void)err;
    if (sscanf(name, "rwkv-%lld.pt%c", &n, &end) != 2 || strstr(name, ".tmp-")) return RW_OK;
    char *path = rw_path_join(dir, name);
    check_file(path, n);
    rw_free(path);
    return RW_OK;
}

static void kill_once(char *dir, volatile int64_t *saved, rw_rng *rng) {
    struct timespec wait = {0, (long)(1000000 + rw_rng_below(rng, 60000000))};
    int status;
    pid_t pid = fork();
    if (pid == 0) child(dir, saved);
    while (*saved < 0 && waitpid(pid, &status, WNOHANG) == 0) nanosleep(&wait, NULL); /* the first has begun */
    nanosleep(&wait, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status)); /* it did not end by itself with an error */
}

static void a_whole_checkpoint_always_stands(void **state) {
    (void)state;
    char *dir = rw_path_join(rw_test_folder(), "project"), *path;
    volatile int64_t *saved = mmap(NULL, sizeof *saved, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    rw_rng rng = {.seed = (uint64_t)getpid()};
    int64_t step = -1;
    int found = 0;
    assert_int_equal(mkdir(dir, 0777), 0);
    *saved = -1;
    for (int k = 0; k < N_KILLS; k++) {
        kill_once(dir, saved, &rng);
        assert_int_equal(rw_checkpoint_latest(dir, &path, &step, NULL), RW_OK);
        assert_true(step >= *saved);
        if (path) {
            check_file(path, step);
            found++;
        }
        rw_free(path);
        assert_int_equal(rw_dir_list(dir, check_pth, dir, NULL), RW_OK);
    }
    print_message("%d kills, %lld saves, a whole state found after %d of them\n", N_KILLS, (long long)step + 1, found);
    assert_true(step > 0);
    rw_free(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_whole_checkpoint_always_stands)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
