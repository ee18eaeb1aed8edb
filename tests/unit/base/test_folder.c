/* Folders that are written to: what somebody put there is never written through, and the error says what it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "tests/unit/golden.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char *const kept = "kept as it is";

static void put_file(const char *path, const char *text) {
    rw_error err = {0};
    if (rw_write_file(path, text, (int64_t)strlen(text), &err) != RW_OK) fail_msg("%s", err.msg);
}

static void assert_file(const char *path, const char *text) {
    char *found;
    int64_t n;
    assert_int_equal(rw_file_slurp(path, 1 << 20, &found, &n, NULL), RW_OK);
    assert_string_equal(found, text);
    rw_free(found);
}

/* A folder with one of each: what a stranger may have put where a file is to be written. */
typedef struct {
    const char *name, *says;
} trap;
static const trap traps[] = {{"link", "a symbolic link"},      {"dangling", "a symbolic link"},
                             {"folder", "a folder"},           {"pipe", "a pipe"},
                             {"socket", "a device or socket"}, {"device", "a symbolic link"}};
enum { N_TRAPS = sizeof traps / sizeof *traps };

static void make_socket(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    assert_true(strlen(path) < sizeof at.sun_path);
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

/* Tests share the folder: a link may be there already. */
static void put_link(const char *target, const char *path) {
    assert_true(symlink(target, path) == 0 || errno == EEXIST);
}

static void set_traps(rw_folder *f) {
    rw_error err = {0};
    assert_int_equal(rw_mkdir_all(rw_test_path("traps/folder"), &err), RW_OK);
    put_file(rw_test_path("user"), kept);
    put_link(rw_test_path("user"), rw_test_path("traps/link"));
    put_link(rw_test_path("made"), rw_test_path("traps/dangling"));
    put_link("/dev/null", rw_test_path("traps/device"));
    mkfifo(rw_test_path("traps/pipe"), 0600);
    if (!rw_exists(rw_test_path("traps/socket"))) make_socket(rw_test_path("traps/socket"));
    assert_int_equal(rw_folder_open(f, rw_test_path("traps"), &err), RW_OK);
}

static void assert_untouched(void) {
    assert_file(rw_test_path("user"), kept);
    assert_false(rw_exists(rw_test_path("made")));
}

static void appends_to_nothing_but_a_file(void **state) {
    (void)state;
    rw_folder f;
    set_traps(&f);
    for (int i = 0; i < N_TRAPS; i++) {
        rw_error err = {0};
        int fd;
        assert_int_equal(rw_folder_append(&f, traps[i].name, &fd, &err), RW_E_IO);
        assert_int_equal(fd, -1);
        assert_non_null(strstr(err.msg, traps[i].says));
        assert_non_null(strstr(err.msg, traps[i].name));
    }
    rw_folder_close(&f);
    assert_untouched();
}

static void appends_to_no_second_name(void **state) {
    (void)state;
    rw_folder f;
    rw_error err = {0};
    int fd;
    set_traps(&f);
    assert_int_equal(link(rw_test_path("user"), rw_test_path("traps/second")), 0);
    assert_int_equal(rw_folder_append(&f, "second", &fd, &err), RW_E_IO);
    assert_non_null(strstr(err.msg, "the file has 2 names"));
    rw_folder_close(&f);
    assert_untouched();
}

static void replaces_nothing_but_a_file(void **state) {
    (void)state;
    rw_folder f;
    set_traps(&f);
    for (int i = 0; i < N_TRAPS; i++) {
        rw_error err = {0};
        char path[4096];
        struct stat before, after;
        snprintf(path, sizeof path, "%s/%s", f.path, traps[i].name);
        lstat(path, &before);
        assert_int_equal(rw_write_file(path, "x", 1, &err), RW_E_IO);
        assert_non_null(strstr(err.msg, traps[i].says));
        assert_int_equal(lstat(path, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
    }
    rw_folder_close(&f);
    assert_untouched();
}

/* The temporary name is known to anyone who knows our process number. */
static void a_temporary_file_is_always_new(void **state) {
    (void)state;
    rw_folder f;
    char name[64];
    set_traps(&f);
    snprintf(name, sizeof name, "traps/file.tmp-%ld", (long)getpid());
    put_link(rw_test_path("user"), rw_test_path(name));
    put_file(rw_test_path("traps/file"), "new");
    assert_file(rw_test_path("traps/file"), "new");
    assert_int_equal(link(rw_test_path("user"), rw_test_path(name)), 0);
    put_file(rw_test_path("traps/file"), "newer");
    rw_folder_close(&f);
    assert_untouched();
}

static void a_replaced_file_keeps_its_other_names(void **state) {
    (void)state;
    put_file(rw_test_path("weights"), "old");
    assert_int_equal(link(rw_test_path("weights"), rw_test_path("snapshot")), 0);
    put_file(rw_test_path("weights"), "new");
    assert_file(rw_test_path("snapshot"), "old");
}

static void no_part_of_a_name_leads_out(void **state) {
    (void)state;
    static const char *const names[] = {"",        ".",        "..",     "../made",  "/made", "folder/../../made",
                                        "folder/", "./folder", "//made", "folder//x"};
    rw_folder f;
    set_traps(&f);
    put_link(rw_test_folder(), rw_test_path("traps/up"));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        rw_error err = {0};
        int fd;
        assert_int_equal(rw_folder_append(&f, names[i], &fd, &err), RW_E_IO);
        assert_non_null(strstr(err.msg, "is not the name of a file"));
        assert_int_equal(rw_folder_unlink(&f, names[i], &err), RW_E_IO);
        assert_int_equal(rw_folder_mkdir(&f, names[i], &err), RW_E_IO);
        rw_error_clear(&err);
    }
    int fd;
    rw_error err = {0};
    assert_int_equal(rw_folder_append(&f, "up/made", &fd, &err), RW_E_IO);
    assert_int_equal(rw_folder_rename(&f, "pipe", "up/made", &err), RW_E_IO);
    assert_int_equal(rw_folder_unlink(&f, "up/user", &err), RW_E_IO);
    rw_folder_close(&f);
    assert_untouched();
}

static void writes_below_a_folder_of_its_own(void **state) {
    (void)state;
    rw_folder f;
    rw_error err = {0};
    int fd;
    set_traps(&f);
    assert_int_equal(rw_folder_mkdir(&f, "own", &err), RW_OK);
    assert_int_equal(rw_folder_mkdir(&f, "own", &err), RW_OK);
    assert_int_equal(rw_folder_mkdir(&f, "link", &err), RW_E_IO);
    assert_int_equal(rw_folder_append(&f, "own/log", &fd, &err), RW_OK);
    assert_int_equal(write(fd, "a", 1), 1);
    close(fd);
    assert_int_equal(rw_folder_append(&f, "own/log", &fd, &err), RW_OK);
    assert_int_equal(write(fd, "b", 1), 1);
    close(fd);
    assert_int_equal(rw_folder_rename(&f, "own/log", "log", &err), RW_OK);
    assert_int_equal(rw_folder_sync(&f, &err), RW_OK);
    assert_file(rw_test_path("traps/log"), "ab");
    assert_int_equal(rw_folder_unlink(&f, "log", &err), RW_OK);
    assert_int_equal(rw_folder_unlink(&f, "log", &err), RW_OK);
    rw_folder_close(&f);
}

static void a_lack_of_memory_opens_nothing(void **state) {
    (void)state;
    rw_folder f;
    rw_error err = {0};
    int before = dup(0);
    close(before);
    rw_alloc_fail_after(1);
    assert_int_equal(rw_folder_open(&f, rw_test_folder(), &err), RW_E_MEMORY);
    rw_alloc_fail_after(0);
    rw_folder_close(&f);
    int after = dup(0);
    close(after);
    assert_int_equal(before, after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_to_nothing_but_a_file),         cmocka_unit_test(appends_to_no_second_name),
        cmocka_unit_test(replaces_nothing_but_a_file),           cmocka_unit_test(a_temporary_file_is_always_new),
        cmocka_unit_test(a_replaced_file_keeps_its_other_names), cmocka_unit_test(no_part_of_a_name_leads_out),
        cmocka_unit_test(writes_below_a_folder_of_its_own),      cmocka_unit_test(a_lack_of_memory_opens_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
