/* save.keep, the newest whole state, leftovers of dead processes. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/retention.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *dir;

static char *in_dir(const char *name) {
    static char path[8192];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name) {
    put_file(in_dir(name), "x", 1);
}
static bool there(const char *name) {
    return rw_exists(in_dir(name));
}

static void put_state(int64_t step) {
    static float x = 1;
    rw_save_tensor t = {.name = "w",
                        .ndim = 1,
                        .shape = {1},
                        .src_dtype = RW_F32,
                        .dtype = RW_F32,
                        .fetch = rw_save_fetch_contiguous,
                        .data = &x};
    char *path = rw_checkpoint_state_path(dir, step);
    rw_error err = {0};
    static const char *const metadata[][2] = {{"recipe", "{}"}, {"choices", "{}"}};
    assert_int_equal(rw_safetensors_write(path, &t, 1, metadata, 2, &err), RW_OK);
    rw_free(path);
}

static int fresh_folder(void **state) {
    static int n;
    static char path[4096];
    (void)state;
    snprintf(path, sizeof path, "%s/project-%d", rw_test_folder(), n++);
    dir = path;
    return mkdir(path, 0777);
}

static void old_saves_go(void **state) {
    (void)state;
    static const char *const stay[] = {"rwkv-init.pth",
                                       "rwkv-final.pth",
                                       "rwkv-9.pth",
                                       "rwkv-10.pth",
                                       "rwkv-.pth",
                                       "rwkv-011.pth",
                                       "rwkv-1.pth.bak",
                                       "rwkv-1x.pth",
                                       "my-3.pth",
                                       "train_log.txt",
                                       "state-100.safetensors",
                                       "state-90.safetensors",
                                       "state-x.safetensors",
                                       "rwkv--1.pth",
                                       "rwkv-99999999999999999999.pth"};
    static const char *const go[] = {"rwkv-0.pth", "rwkv-1.pth", "rwkv-2.pth", "state-9.safetensors",
                                     "state-0.safetensors"};
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++) put(stay[i]);
    for (size_t i = 0; i < sizeof go / sizeof *go; i++) put(go[i]);
    assert_int_equal(rw_checkpoint_keep(dir, 2, 10, 100, NULL, NULL, NULL), RW_OK);
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++)
        if (!there(stay[i])) fail_msg("%s was deleted", stay[i]);
    for (size_t i = 0; i < sizeof go / sizeof *go; i++)
        if (there(go[i])) fail_msg("%s was kept", go[i]);
}

/* Larger numbers of an older run must not cost the save just written. */
static void the_newest_stays(void **state) {
    (void)state;
    put("rwkv-500.pth");
    put("rwkv-0.pth");
    put("rwkv-1.pth");
    put("state-5000.safetensors");
    put("state-10.safetensors");
    assert_int_equal(rw_checkpoint_keep(dir, 1, 1, 10, NULL, NULL, NULL), RW_OK);
    assert_true(there("rwkv-500.pth"));
    assert_true(there("rwkv-1.pth"));
    assert_false(there("rwkv-0.pth"));
    assert_false(there("state-5000.safetensors")); /* of a run that was given up */
    assert_true(there("state-10.safetensors"));
}

/* keep 0: every .pth, and of the states the newest alone. */
static void zero_keeps_every_pth(void **state) {
    (void)state;
    put("rwkv-0.pth");
    put("rwkv-1.pth");
    put("state-20.safetensors");
    put("state-40.safetensors");
    assert_int_equal(rw_checkpoint_keep(dir, 0, 1, 40, NULL, NULL, NULL), RW_OK);
    assert_true(there("rwkv-0.pth"));
    assert_true(there("rwkv-1.pth"));
    assert_false(there("state-20.safetensors"));
    assert_true(there("state-40.safetensors"));
}

static void the_latest_whole_state_is_found(void **state) {
    (void)state;
    char *path;
    int64_t step;
    rw_error err = {0};
    assert_int_equal(rw_checkpoint_latest(dir, &path, &step, &err), RW_OK);
    assert_null(path);
    assert_int_equal(rw_checkpoint_latest(in_dir("none"), &path, &step, &err), RW_OK);
    assert_null(path);
    put_state(9);
    put_state(100);
    put("state-1000.safetensors"); /* broken */
    assert_int_equal(rw_checkpoint_latest(dir, &path, &step, &err), RW_OK);
    assert_int_equal(step, 100);
    assert_string_equal(rw_path_base(path), "state-100.safetensors");
    rw_free(path);
    int64_t live = rw_alloc_live();
    for (int64_t k = 1;; k++) {
        rw_alloc_fail_after(k);
        rw_status status = rw_checkpoint_latest(dir, &path, &step, &err);
        rw_alloc_fail_after(0);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_null(path);
        assert_int_equal(rw_alloc_live(), live);
        assert_true(k < 1000);
    }
    assert_int_equal(step, 100);
    rw_free(path);
}

static void leftovers_of_dead_processes_go(void **state) {
    (void)state;
    char dead[64], alive[64];
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    waitpid(pid, NULL, 0);
    snprintf(dead, sizeof dead, "rwkv-1.pth.tmp-%ld", (long)pid);
    snprintf(alive, sizeof alive, "rwkv-1.pth.tmp-%ld", (long)getpid());
    put(dead);
    put(alive);
    put("notes.tmp-");
    put("notes.tmp-12x");
    put("rwkv-1.pth");
    assert_int_equal(rw_checkpoint_clean(dir, NULL), RW_OK);
    assert_false(there(dead));
    assert_true(there(alive));
    assert_true(there("notes.tmp-"));
    assert_true(there("notes.tmp-12x"));
    assert_true(there("rwkv-1.pth"));
    assert_int_equal(rw_checkpoint_clean(in_dir("none"), NULL), RW_OK);
}

/* Who wrote a .pth is told by its name and its place; a training state by its name alone. */
static void saves_are_known_by_name_and_place(void **state) {
    (void)state;
    static const char *const saves[] = {"rwkv-0.pth", "rwkv-init.pth", "rwkv-final.pth", "save-best.pth"};
    for (size_t i = 0; i < sizeof saves / sizeof *saves; i++) assert_false(rw_checkpoint_is_save(in_dir(saves[i])));
    assert_true(rw_checkpoint_is_save(in_dir("state-3.safetensors")));
    assert_int_equal(mkdir(in_dir("old-2026-01-31-235959"), 0777), 0);
    assert_int_equal(mkdir(in_dir("mine"), 0777), 0);
    put(".rwkv-run");
    for (size_t i = 0; i < sizeof saves / sizeof *saves; i++) assert_true(rw_checkpoint_is_save(in_dir(saves[i])));
    assert_true(rw_checkpoint_is_save(in_dir("old-2026-01-31-235959/rwkv-0.pth")));
    assert_false(rw_checkpoint_is_save(in_dir("mine/rwkv-0.pth")));
    assert_false(rw_checkpoint_is_save(in_dir("RWKV-x070-World.pth")));
    assert_false(rw_checkpoint_is_save("rwkv-0.pth"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(old_saves_go, fresh_folder),
        cmocka_unit_test_setup(the_newest_stays, fresh_folder),
        cmocka_unit_test_setup(zero_keeps_every_pth, fresh_folder),
        cmocka_unit_test_setup(the_latest_whole_state_is_found, fresh_folder),
        cmocka_unit_test_setup(leftovers_of_dead_processes_go, fresh_folder),
        cmocka_unit_test_setup(saves_are_known_by_name_and_place, fresh_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
