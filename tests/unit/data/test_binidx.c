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
        {54, 6, "item 1 begins at byte 6, but the items before it end at byte 8"}, /* overlap */
        {54, 12, "item 1 begins at byte 12"},                                      /* a gap */
        {46, 2, "item 0 begins at byte 2"},
        {78, 3, "document border 2 is 2; expected 3 to 3"}, /* out of order: 0, 3, 2, 3 */
        {94, 4, "document border 3 is 4; expected 2 to 3"},
        {101, 0x80, "document border 3 is -"},
        {18, 4, "cut short"},
        {25, 0xff, "cut short"},
        {21, 0x80, "cut short"},
        {26, 5, "cut short"},
        {33, 0x80, "cut short"},
        {34, 200, "is outside the .bin"},
        {37, 0x80, "is outside the .bin"},
        {34, 3, "item 1 begins at byte 8, but the items before it end at byte 6"},
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

/* An .idx by hand: n sizes, the borders, and `more` bytes behind them; the ids 0, 1, 2, ... in the .bin. */
static void write_borders(const char *prefix, const int *sizes, int n, const int *borders, int n_borders, int more) {
    char name[64];
    rw_str idx = {0}, bin = {0};
    int64_t counts[2] = {n, n_borders}, pointer = 0, version = 1;
    rw_str_append_n(&idx, "MMIDIDX\0", 9);
    rw_str_append_n(&idx, (const char *)&version, 8);
    rw_str_append_n(&idx, "\x08", 1);
    rw_str_append_n(&idx, (const char *)counts, 16);
    for (int i = 0; i < n; i++) rw_str_append_n(&idx, (const char *)&(int32_t){sizes[i]}, 4);
    for (int i = 0; i < n; pointer += 2 * sizes[i++]) rw_str_append_n(&idx, (const char *)&pointer, 8);
    for (int i = 0; i < n_borders; i++) rw_str_append_n(&idx, (const char *)&(int64_t){borders[i]}, 8);
    for (int i = 0; i < more; i++) rw_str_append_n(&idx, "\1", 1);
    for (int i = 0; i < pointer / 2; i++) rw_str_append_n(&bin, (const char *)&(uint16_t){(uint16_t)i}, 2);
    snprintf(name, sizeof name, "%s.idx", prefix);
    write_bytes(name, idx.data, idx.len);
    snprintf(name, sizeof name, "%s.bin", prefix);
    write_bytes(name, bin.data, bin.len);
    rw_str_done(&idx);
    rw_str_done(&bin);
}

/* What other tools write: the stream of ids is the same whatever the borders are. */
static void test_borders(void **state) {
    (void)state;
    static const struct {
        int borders[6], n_borders, more, n_documents;
    } rows[] = {
        {{0, 2, 3}, 3, 0, 2},    /* a document of two items */
        {{0, 1, 2, 3}, 4, 0, 3}, /* as our writer has it */
        {{0, 1, 1, 3}, 4, 0, 3}, /* an empty document, or two files merged with a border twice */
        {{0, 1}, 2, 0, 3},       /* merged, and the borders of the first file alone */
        {{0}, 1, 0, 3},          /* merged, and no borders */
        {{0}, 0, 0, 3},          /* none at all */
        {{0, 1, 2, 3}, 4, 3, 3}, /* multimodal */
        {{0, 3}, 2, 3, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_binidx_info info;
        rw_error err = {0};
        int fd;
        write_borders("other", (int[]){40, 40, 40}, 3, rows[i].borders, rows[i].n_borders, rows[i].more);
        if (rw_binidx_open(&fd, &info, rw_test_path("other"), &err) != RW_OK) fail_msg("row %d: %s", (int)i, err.msg);
        close(fd);
        assert_int_equal(info.n_tokens, 120);
        assert_int_equal(info.n_items, 3);
        assert_int_equal(info.n_documents, rows[i].n_documents);
    }
    rw_error err = {0};
    write_borders("other", (int[]){40, 40, 40}, 3, rows[0].borders, 3, 2);
    assert_int_equal(open_pair("other", &err), RW_E_FORMAT);
    assert_mentions(&err, "cut short");
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
        cmocka_unit_test(test_bytes),   cmocka_unit_test(test_open),    cmocka_unit_test(test_missing),
        cmocka_unit_test(test_hostile), cmocka_unit_test(test_borders), cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
