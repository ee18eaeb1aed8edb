/* Files: reading beyond the end, atomic writing under every single failure, names and folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/str.h"
#include "tests/unit/golden.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put_file(const char *path, const char *text) {
    rw_error err = {0};
    if (rw_write_file(path, text, (int64_t)strlen(text), &err) != RW_OK) fail_msg("%s", err.msg);
}

static char *get_file(const char *path) {
    rw_error err = {0};
    char *data;
    int64_t n;
    if (rw_file_slurp(path, 1 << 24, &data, &n, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(strlen(data), n);
    return data;
}

static void assert_file(const char *path, const char *text) {
    char *found = get_file(path);
    assert_string_equal(found, text);
    rw_free(found);
}

/* -- reading ----------------------------------------------------------------------------------------- */

static void reads_at_an_offset(void **state) {
    (void)state;
    const char *path = rw_test_path("read");
    put_file(path, "0123456789");
    rw_error err = {0};
    rw_file f = {0};
    char buf[16] = "";
    assert_int_equal(rw_file_open(&f, path, &err), RW_OK);
    assert_int_equal(f.n_bytes, 10);
    assert_int_equal(rw_file_read_at(&f, 3, buf, 4, &err), RW_OK);
    assert_memory_equal(buf, "3456", 5);
    assert_int_equal(rw_file_read_at(&f, 10, buf, 0, &err), RW_OK);
    assert_int_equal(rw_file_read_at(&f, 8, buf, 5, &err), RW_E_IO);
    assert_string_equal(err.msg, "the file is cut short: it has 10 of 13 bytes");
    assert_string_equal(err.at.file, path);
    rw_file_close(&f);
    rw_file_close(&f);
    rw_file zero = {0};
    int kept = dup(0);
    rw_file_close(&zero); /* must not close descriptor 0, which it never opened */
    int next = dup(kept);
    assert_int_not_equal(next, 0);
    close(next);
    close(kept);
}

static void opens_regular_files_only(void **state) {
    (void)state;
    rw_error err = {0};
    rw_file f;
    assert_int_equal(rw_file_open(&f, rw_test_path("nothing"), &err), RW_E_IO);
    assert_string_equal(err.msg, "cannot open: No such file or directory");
    assert_int_equal(rw_file_open(&f, rw_test_folder(), &err), RW_E_IO);
    assert_string_equal(err.msg, "expected a file, found a folder");
    const char *pipe_path = rw_test_path("pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(rw_file_open(&f, pipe_path, &err), RW_E_IO); /* and does not wait for a writer */
    assert_string_equal(err.msg, "expected a regular file, found a device, pipe or socket");
    assert_int_equal(f.fd, -1);
}

static void slurps_up_to_a_limit(void **state) {
    (void)state;
    const char *path = rw_test_path("slurp");
    put_file(path, "0123456789");
    rw_error err = {0};
    char *data;
    int64_t n, live = rw_alloc_live();
    assert_int_equal(rw_file_slurp(path, 9, &data, &n, &err), RW_E_IO);
    assert_string_equal(err.msg, "too large: 10 bytes; the limit here is 9");
    assert_null(data);
    rw_alloc_fail_after(1);
    assert_int_equal(rw_file_slurp(path, 10, &data, &n, &err), RW_E_MEMORY);
    assert_int_equal(rw_alloc_live(), live);
    assert_file(path, "0123456789");
    put_file(path, "");
    assert_file(path, "");
}

/* -- writing ----------------------------------------------------------------------------------------- */

enum { LARGE = 700000 };

/* Puts, prints and patches so that the buffer is flushed on the way; the same bytes each time. */
static rw_status write_sample(const char *path, rw_error *err) {
    static char large[LARGE];
    memset(large, 'x', sizeof large);
    rw_writer w;
    RW_TRY(rw_writer_open(&w, path, err));
    rw_writer_put(&w, "????", 4);
    for (int i = 0; i < 30000; i++) rw_writer_printf(&w, "line %06d\n", i);
    rw_writer_put(&w, large, LARGE);
    rw_writer_printf(&w, "%0600d", 7);
    rw_writer_patch(&w, 0, "head", 4);
    rw_writer_patch(&w, w.offset - 1, "8", 1);
    rw_writer_patch(&w, w.offset - 602, "[==]", 4); /* half of it written, half still in the buffer */
    assert_true(w.error.code != RW_OK || w.offset == 4 + 30000 * 12 + LARGE + 600);
    return rw_writer_commit(&w, err);
}

static void check_sample(const char *path) {
    char *found = get_file(path);
    assert_int_equal(strlen(found), 4 + 30000 * 12 + LARGE + 600);
    assert_memory_equal(found, "headline 000000\nline 000001\n", 28);
    assert_memory_equal(found + 4 + 29999 * 12, "line 029999\nxxx", 15);
    assert_string_equal(found + strlen(found) - 4, "0008");
    assert_memory_equal(found + strlen(found) - 603, "x[==]0", 6);
    rw_free(found);
}

static rw_status count_name(void *ctx, const char *name, rw_error *err) {
    (void)err;
    *(int *)ctx += strstr(name, ".tmp-") != NULL;
    return RW_OK;
}

static int temporary_files(void) {
    int n = 0;
    assert_int_equal(rw_dir_list(rw_test_folder(), count_name, &n, NULL), RW_OK);
    return n;
}

static void writes_what_was_put(void **state) {
    (void)state;
    rw_error err = {0};
    const char *path = rw_test_path("sample");
    int64_t live = rw_alloc_live();
    assert_int_equal(write_sample(path, &err), RW_OK);
    assert_int_equal(rw_alloc_live(), live);
    check_sample(path);
    assert_int_equal(temporary_files(), 0);
}

/* Each write, fsync and rename fails in turn: the old file must stay whole until the new one is. Only the fsync
 * of the folder comes after the rename. */
static void each_failure_leaves_a_whole_file(void **state) {
    (void)state;
    const char *path = rw_test_path("faults");
    put_file(path, "old");
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_fs_fail_after(n, ENOSPC);
        rw_status status = write_sample(path, &err);
        rw_fs_fail_after(0, 0);
        assert_int_equal(rw_alloc_live(), live);
        assert_int_equal(temporary_files(), 0);
        if (status == RW_OK) {
            assert_true(n >= 7); /* three flushes, the large block, a patch, fsync, rename, fsync */
            break;
        }
        assert_int_equal(status, RW_E_IO);
        assert_non_null(strstr(err.msg, path));
        assert_non_null(strstr(err.msg, ": No space left on device"));
        char *found = get_file(path);
        if (found[0] == 'o')
            assert_string_equal(found, "old");
        else
            check_sample(path);
        rw_free(found);
    }
    check_sample(path);
}

static void each_lack_of_memory_leaves_the_old_file(void **state) {
    (void)state;
    const char *path = rw_test_path("memory");
    put_file(path, "old");
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_alloc_fail_after(n);
        rw_status status = write_sample(path, &err);
        rw_alloc_fail_after(0);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(n < 10);
    }
    check_sample(path);
    assert_int_equal(temporary_files(), 0);
}

static void abort_is_always_fine(void **state) {
    (void)state;
    rw_writer w = {0};
    rw_writer_abort(&w);
    rw_writer_put(&w, "x", 1);
    assert_int_not_equal(rw_writer_commit(&w, NULL), RW_OK);
    const char *path = rw_test_path("aborted");
    assert_int_equal(rw_writer_open(&w, path, NULL), RW_OK);
    rw_writer_put(&w, "x", 1);
    rw_writer_patch(&w, 5, "y", 1);
    assert_int_equal(w.error.code, RW_E_INTERNAL);
    rw_writer_abort(&w);
    rw_writer_abort(&w);
    assert_false(rw_exists(path));
    assert_int_equal(temporary_files(), 0);
}

static void refuses_a_folder_that_is_not_there(void **state) {
    (void)state;
    rw_error err = {0};
    rw_writer w;
    const char *path = rw_test_path("no/such/file");
    assert_int_equal(rw_writer_open(&w, path, &err), RW_E_IO);
    assert_non_null(strstr(err.msg, path));
    rw_writer_abort(&w);
}

/* -- folders and names ------------------------------------------------------------------------------- */

static void makes_folders(void **state) {
    (void)state;
    rw_error err = {0};
    const char *path = rw_test_path("a/b//c");
    assert_int_equal(rw_mkdir_all(path, &err), RW_OK);
    assert_int_equal(rw_mkdir_all(path, &err), RW_OK);
    assert_true(rw_is_dir(path));
    put_file(rw_test_path("a/file"), "x");
    assert_int_equal(rw_mkdir_all(rw_test_path("a/file"), &err), RW_E_IO);
    assert_non_null(strstr(err.msg, "there is a file of that name"));
    assert_int_equal(rw_mkdir_all(rw_test_path("a/file/d"), &err), RW_E_IO);
    assert_false(rw_is_dir(rw_test_path("a/file")));
    assert_true(rw_exists(rw_test_path("a/file")));
    assert_true(rw_disk_free(rw_test_path("not/yet/there")) > 0);
    assert_true(rw_disk_free("relative-and-not-there") > 0);
}

static void joins_and_splits_names(void **state) {
    (void)state;
    static const char *const joined[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"},
                                            {"a", "/b", "/b"}, {"", "b", "b"},     {"a//", "b/c", "a/b/c"},
                                            {".", "b", "./b"}};
    for (size_t i = 0; i < sizeof joined / sizeof joined[0]; i++) {
        char *path = rw_path_join(joined[i][0], joined[i][1]);
        assert_string_equal(path, joined[i][2]);
        rw_free(path);
    }
    static const char *const split[][3] = {
        {"a/b", "a", "b"}, {"a", ".", "a"}, {"/a", "/", "a"}, {"a/b/c.txt", "a/b", "c.txt"}, {"a//b", "a", "b"}};
    for (size_t i = 0; i < sizeof split / sizeof split[0]; i++) {
        char *dir = rw_path_dir(split[i][0]);
        assert_string_equal(dir, split[i][1]);
        assert_string_equal(rw_path_base(split[i][0]), split[i][2]);
        rw_free(dir);
    }
}

static rw_status collect(void *ctx, const char *name, rw_error *err) {
    rw_str_appendf(ctx, "%s ", name);
    return strcmp(name, "stop") == 0 ? rw_fail(err, RW_E_DATA, RW_AT_NONE, "stopped") : RW_OK;
}

static void lists_in_order(void **state) {
    (void)state;
    static const char *const names[] = {"list/b", "list/a", "list/stop", "list/z", "list/B"};
    rw_mkdir_all(rw_test_path("list"), NULL);
    for (int i = 0; i < 5; i++) put_file(rw_test_path(names[i]), "");
    rw_error err = {0};
    rw_str found = {0};
    int64_t live = rw_alloc_live();
    assert_int_equal(rw_dir_list(rw_test_path("list"), collect, &found, &err), RW_E_DATA);
    assert_string_equal(found.data, "B a b stop ");
    assert_int_equal(rw_alloc_live(), live + 1);
    assert_int_equal(rw_dir_list(rw_test_path("none"), collect, &found, &err), RW_E_IO);
    rw_str_done(&found);
    for (int64_t n = 1; n <= 6; n++) { /* the array of names, then five names */
        rw_alloc_fail_after(n);
        assert_int_equal(rw_dir_list(rw_test_path("list"), count_name, &(int){0}, &err), RW_E_MEMORY);
        assert_int_equal(rw_alloc_live(), live);
    }
    rw_alloc_fail_after(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_at_an_offset),
        cmocka_unit_test(opens_regular_files_only),
        cmocka_unit_test(slurps_up_to_a_limit),
        cmocka_unit_test(writes_what_was_put),
        cmocka_unit_test(each_failure_leaves_a_whole_file),
        cmocka_unit_test(each_lack_of_memory_leaves_the_old_file),
        cmocka_unit_test(abort_is_always_fine),
        cmocka_unit_test(refuses_a_folder_that_is_not_there),
        cmocka_unit_test(makes_folders),
        cmocka_unit_test(joins_and_splits_names),
        cmocka_unit_test(lists_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
