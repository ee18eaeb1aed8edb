/* binidx written and read back; indexes that lie; writes that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/data/binidx.h"
#include "tests/unit/data/fixture.h"

#include <errno.h>
#include <unistd.h>

static void write_pair(const char *name, int code) {
    rw_error err = {0};
    rw_binidx_writer *w;
    assert_int_equal(rw_binidx_create(&w, rw_test_path(name), code, &err), RW_OK);
    assert_int_equal(rw_binidx_write(w, (uint16_t[]){1, 2, 65535, 0}, 4, &err), RW_OK);
    assert_int_equal(rw_binidx_write(w, (uint16_t[]){0}, 1, &err), RW_OK);
    assert_int_equal(rw_binidx_write(w, (uint16_t[]){256, 0}, 2, &err), RW_OK);
    assert_int_equal(rw_binidx_commit(w, &err), RW_OK);
}

static void expect_file(const char *name, const void *bytes, size_t size) {
    rw_error err = {0};
    char *data;
    int64_t n;
    assert_int_equal(rw_file_slurp(rw_test_path(name), 1 << 20, &data, &n, &err), RW_OK);
    assert_int_equal(n, size);
    assert_memory_equal(data, bytes, size);
    rw_free(data);
}

/* The files of the layout table, written out by hand. */
static void test_bytes(void **state) {
    (void)state;
    static const unsigned char u16[] = {1, 0, 2, 0, 255, 255, 0, 0, 0, 0, 0, 1, 0, 0};
    static const unsigned char i32[] = {1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 0, 0, 0, 0,
                                        0, 0, 0, 0, 0, 0, 0, 1, 0,   0,   0, 0, 0, 0};
    static const unsigned char idx[] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 3, 0, 0,
                                        0,   0,   0,   0,   0,   4,   0,   0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0,
                                        2,   0,   0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 10,
                                        0,   0,   0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0,
                                        0,   0,   2,   0,   0,   0,   0,   0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0};
    write_pair("pair", RW_BINIDX_U16);
    expect_file("pair.bin", u16, sizeof u16);
    expect_file("pair.idx", idx, sizeof idx);
    write_pair("pair", RW_BINIDX_I32);
    expect_file("pair.bin", i32, sizeof i32);
}

static void test_open(void **state) {
    (void)state;
    for (int code = 4; code <= 8; code += 4) {
        write_pair("pair", code);
        static const char *const names[] = {"pair", "pair.bin", "pair.idx"};
        for (int i = 0; i < 3; i++) {
            rw_error err = {0};
            rw_binidx_info info;
            int fd;
            assert_int_equal(rw_binidx_open(&fd, &info, rw_test_path(names[i]), &err), RW_OK);
            close(fd);
            assert_int_equal(info.n_items, 3);
            assert_int_equal(info.n_tokens, 7);
            assert_int_equal(info.dtype_code, code);
            assert_int_equal(info.n_bytes, 7 * info.id_bytes);
        }
    }
}

static rw_status open_pair(const char *name, rw_error *err) {
    rw_binidx_info info;
    int fd;
    rw_status s = rw_binidx_open(&fd, &info, rw_test_path(name), err);
    if (s == RW_OK) close(fd);
    return s;
}

static void test_missing(void **state) {
    (void)state;
    rw_error err = {0};
    assert_int_equal(open_pair("absent", &err), RW_E_IO);
    assert_mentions(&err, "absent.idx");
    write_pair("half", RW_BINIDX_U16);
    unlink(rw_test_path("half.bin"));
    assert_int_equal(open_pair("half", &err), RW_E_IO);
    assert_mentions(&err, "half.bin");
}

static void test_hostile(void **state) {
    (void)state;
    static const struct {
        int at; /* byte of the .idx to overwrite; -1: cut to `value` bytes; -2: add to the .bin */
        unsigned value;
        const char *says;
    } rows[] = {
        {0, 'X', "MMIDIDX"},
        {9, 2, "version 2"},
        {17, 1, "uint8"},
        {17, 0, "unknown"},
        {17, 255, "type 255"},
        {17, 4, "is outside the .bin"},
        {18, 4, "cut short"},
        {25, 0xff, "cut short"},
        {21, 0x80, "cut short"},
        {26, 5, "cut short"},
        {33, 0x80, "cut short"},
        {34, 200, "is outside the .bin"},
        {37, 0x80, "is outside the .bin"},
        {34, 3, "do the two belong"},
        {46, 13, "is outside the .bin"},
        {53, 0x80, "is outside the .bin"},
        {53, 0x7f, "is outside the .bin"},
        {-1, 0, "MMIDIDX"},
        {-1, 5, "MMIDIDX"},
        {-1, 20, "within its header"},
        {-1, 60, "cut short"},
        {-2, 1, "do the two belong"},
        {-2, 2, "do the two belong"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_error err = {0};
        char *data;
        int64_t n;
        write_pair("evil", RW_BINIDX_U16);
        const char *name = rows[i].at == -2 ? "evil.bin" : "evil.idx";
        assert_int_equal(rw_file_slurp(rw_test_path(name), 1 << 20, &data, &n, &err), RW_OK);
        if (rows[i].at >= 0) data[rows[i].at] = (char)rows[i].value;
        char more[200] = {0};
        memcpy(more, data, (size_t)n);
        if (rows[i].at == -1) n = rows[i].value;
        if (rows[i].at == -2) n += rows[i].value;
        write_bytes(name, more, (size_t)n);
        rw_free(data);
        assert_int_equal(open_pair("evil", &err), RW_E_FORMAT);
        assert_string_equal(err.at.file, rw_test_path("evil"));
        assert_mentions(&err, rows[i].says);
    }
    /* No documents at all is a sound pair; whoever wants tokens says so. */
    rw_error err = {0};
    rw_binidx_writer *w;
    assert_int_equal(rw_binidx_create(&w, rw_test_path("none"), RW_BINIDX_U16, &err), RW_OK);
    assert_int_equal(rw_binidx_commit(w, &err), RW_OK);
    assert_int_equal(open_pair("none", &err), RW_OK);
}

static rw_status write_once(rw_error *err) {
    rw_binidx_writer *w;
    RW_TRY(rw_binidx_create(&w, rw_test_path("faulty"), RW_BINIDX_U16, err));
    rw_status s = rw_binidx_write(w, (uint16_t[]){1, 0}, 2, err);
    if (s == RW_OK) return rw_binidx_commit(w, err);
    rw_binidx_abort(w);
    return s;
}

/* Every write, fsync and rename fails once, then every request for memory: an error, nothing kept, nothing left. */
static void test_faults(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    int n_fs = 0, n_alloc = 0;
    for (rw_status s = RW_E_IO; s != RW_OK;) {
        rw_error err = {0};
        rw_fs_fail_after(++n_fs, ENOSPC);
        s = write_once(&err);
        rw_fs_fail_after(0, 0);
        if (s != RW_OK) assert_int_equal(s, RW_E_IO), assert_mentions(&err, "faulty");
        assert_int_equal(rw_alloc_live(), live);
    }
    for (rw_status s = RW_E_MEMORY; s != RW_OK;) {
        rw_error err = {0};
        rw_alloc_fail_after(++n_alloc);
        s = write_once(&err);
        rw_alloc_fail_after(0);
        if (s != RW_OK) assert_int_equal(s, RW_E_MEMORY);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_true(n_fs > 5 && n_alloc > 5);
    rw_error err = {0};
    assert_int_equal(open_pair("faulty", &err), RW_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),   cmocka_unit_test(test_open),   cmocka_unit_test(test_missing),
        cmocka_unit_test(test_hostile), cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
