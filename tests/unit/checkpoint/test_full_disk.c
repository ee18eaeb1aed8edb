/* A full disk: a small tmpfs, mounted in a mount namespace of a child (root only; else skipped). */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/retention.h"

#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, SMALL = 10000, LARGE = 1000000 };

static rw_status fetch(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    (void)t, (void)err;
    for (int64_t i = 0; i < n; i++) ((float *)buf)[i] = (float)((first + i) % 1000);
    return RW_OK;
}

static rw_save_tensor tensor(int64_t n) {
    return (rw_save_tensor){.name = "w", .ndim = 1, .shape = {n}, .src_dtype = RW_F32, .dtype = RW_F32, .fetch = fetch};
}

/* In the child: 0, or the number of the check that failed. */
static int fill_the_disk(const char *dir) {
    rw_save_tensor small = tensor(SMALL), large = tensor(LARGE);
    char *pth = rw_path_join(dir, "rwkv-1.pth"), *state = rw_checkpoint_state_path(dir, 1);
    rw_error err = {0};
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", dir, "tmpfs", 0, "size=2m"))
        return SKIPPED;
    if (rw_pth_write(pth, &small, 1, &err) != RW_OK) return 1;
    if (rw_safetensors_write(state, &small, 1, NULL, 0, &err) != RW_OK) return 2;
    if (rw_pth_write(pth, &large, 1, &err) != RW_E_IO) return 3;
    if (!strstr(err.msg, pth) || !strstr(err.msg, strerror(ENOSPC))) return 4;
    printf("%s\n", err.msg);
    if (rw_safetensors_write(state, &large, 1, NULL, 0, &err) != RW_E_IO) return 5;
    if (!strstr(err.msg, state) || !strstr(err.msg, strerror(ENOSPC))) return 6;
    printf("%s\n", err.msg);
    if (!read_everything(pth) || !read_everything(state)) return 7; /* the old saves stand */
    if (rw_disk_free(dir) < 1 << 20) return 8;                      /* and nothing is left over */
    rw_free(pth);
    rw_free(state);
    return 0;
}

static void a_full_disk_names_the_file_and_leaves_the_old(void **state) {
    (void)state;
    char *dir = rw_path_join(rw_test_folder(), "disk");
    int status = 0;
    assert_int_equal(rw_mkdir_all(dir, NULL), RW_OK);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int failed = fill_the_disk(dir);
        fflush(NULL);
        _exit(failed);
    }
    waitpid(pid, &status, 0);
    rw_free(dir);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == SKIPPED) {
        print_message("skipped: mounting a tmpfs needs root\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_full_disk_names_the_file_and_leaves_the_old)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
