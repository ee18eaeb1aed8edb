/* The zip reader and writer: layout, prediction, and archives that lie. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/little_endian.h"

static const test_record three[] = {{"r/a", "alpha", 5}, {"r/\xe5\xad\x97", "", 0}, {"r/c", "gamma!", 6}, {0}};

static rw_status open_zip(rw_zip *z, rw_file *f, const char *path, bool *cut, rw_error *err) {
    if (rw_file_open(f, path, err) != RW_OK) fail_msg("%s", err->msg);
    rw_status status = rw_zip_open(z, f, cut, err);
    if (status != RW_OK) rw_file_close(f);
    return status;
}

static void records_come_back_aligned(void **state) {
    (void)state;
    const char *path = rw_test_path("a.zip");
    rw_zip z;
    rw_file f;
    rw_error err = {0};
    put_zip(path, three);
    if (open_zip(&z, &f, path, NULL, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(z.n_records, 3);
    for (const test_record *r = three; r->name; r++) {
        const rw_zip_record *found = rw_zip_find(&z, r->name);
        int64_t offset = 0;
        char bytes[8] = {0};
        assert_non_null(found);
        assert_int_equal(found->n_bytes, r->n);
        assert_int_equal(rw_zip_data_offset(&z, found, &offset, &err), RW_OK);
        assert_int_equal(offset % RW_ZIP_ALIGNMENT, 0);
        uint8_t local[4];
        assert_int_equal(rw_file_read_at(&f, found->header_offset + 14, local, 4, &err), RW_OK);
        assert_int_equal(rw_le32(local), found->crc);
        assert_int_equal(rw_file_read_at(&f, offset, bytes, found->n_bytes, &err), RW_OK);
        assert_memory_equal(bytes, r->bytes, r->n);
    }
    assert_null(rw_zip_find(&z, "r/b"));
    rw_zip_close(&z);
    rw_file_close(&f);
}

/* Counting without a writer gives the size of the file, also with records and offsets beyond 4 GiB (counted only). */
static void sizes_are_predicted(void **state) {
    (void)state;
    int64_t n = 0;
    rw_zip_writer count = {0};
    const char *path = rw_test_path("b.zip");
    for (const test_record *r = three; r->name; r++) {
        rw_zip_writer_begin(&count, r->name, (int64_t)r->n);
        rw_zip_writer_end(&count);
    }
    assert_int_equal(rw_zip_writer_finish(&count, NULL), RW_OK);
    put_zip(path, three);
    rw_free(take_file(path, &n));
    assert_int_equal(n, count.offset);
    rw_zip_writer_done(&count);
}

/* One number of a good archive is replaced; what the reader says. `at` counts from the record's header in the
 * directory ('d'), from the end record ('e'), or from the first local header ('l'). */
static const struct {
    char where;
    int at, n;
    uint32_t value;
    const char *says;
} lies[] = {
    {'e', 0, 4, 0, "end record is missing"},
    {'e', 10, 2, 999, "more records than the directory has room for"},
    {'e', 10, 2, 4, "more records than the directory has room for"},
    {'e', 12, 4, 0x7fffffff, "directory beyond the file"},
    {'e', 16, 4, 0x7fffffff, "directory beyond the file"},
    {'e', 16, 4, 1, "without its signature"},
    {'d', 0, 4, 0, "without its signature"},
    {'d', 8, 2, 1, "is encrypted"},
    {'d', 10, 2, 8, "is compressed"},
    {'d', 20, 4, 4, "two different sizes"},
    {'d', 28, 2, 60000, "longer than the directory"},
    {'d', 30, 2, 60000, "longer than the directory"},
    {'d', 42, 4, 0x7fffffff, "cut short or damaged"},
    {'d', 47, 1, 0, "NUL in the name"},
    {'d', 48, 1, 'c', "occurs twice"},
    {'l', 0, 4, 0, "no local header"},
    {'l', 28, 2, 60000, "cut short or damaged"},
};

static void lies_are_refused(void **state) {
    (void)state;
    const char *good = rw_test_path("c.zip"), *bad = rw_test_path("d.zip");
    int64_t n;
    put_zip(good, three);
    uint8_t *bytes = (uint8_t *)take_file(good, &n);
    int64_t directory = rw_le32(bytes + n - 22 + 16);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        int64_t base = lies[i].where == 'e' ? n - 22 : lies[i].where == 'd' ? directory : 0;
        uint8_t *copy = malloc((size_t)n), number[4];
        rw_zip z;
        rw_file f;
        rw_error err = {0};
        memcpy(copy, bytes, (size_t)n);
        rw_put_le32(number, lies[i].value);
        memcpy(copy + base + lies[i].at, number, (size_t)lies[i].n);
        put_file(bad, copy, (size_t)n);
        rw_status status = open_zip(&z, &f, bad, NULL, &err);
        if (status == RW_OK) {
            int64_t offset;
            status = rw_zip_data_offset(&z, &z.records[0], &offset, &err);
            rw_zip_close(&z);
            rw_file_close(&f);
        }
        if (status == RW_OK) fail_msg("lie %d was believed; expected: %s", (int)i, lies[i].says);
        if (!strstr(err.msg, lies[i].says))
            fail_msg("lie %d: '%s' does not contain '%s'", (int)i, err.msg, lies[i].says);
        free(copy);
    }
    rw_free(bytes);
}

/* Every length of a cut file is an error, most of them with the mark that it was cut. */
static void cut_files_are_refused(void **state) {
    (void)state;
    const char *good = rw_test_path("e.zip"), *bad = rw_test_path("f.zip");
    int64_t n;
    put_zip(good, three);
    char *bytes = take_file(good, &n);
    for (int64_t k = 0; k < n; k++) {
        rw_zip z;
        rw_file f;
        bool cut;
        rw_error err = {0};
        put_file(bad, bytes, (size_t)k);
        assert_int_equal(open_zip(&z, &f, bad, &cut, &err), RW_E_FORMAT);
        assert_true(cut);
    }
    rw_free(bytes);
}

/* Each byte of an archive set to each of some values: an error or not, but no crash and no read outside. */
static void any_byte_may_be_wrong(void **state) {
    (void)state;
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    const char *good = rw_test_path("g.zip"), *bad = rw_test_path("h.zip");
    int64_t n, live = rw_alloc_live();
    put_zip(good, three);
    uint8_t *bytes = (uint8_t *)take_file(good, &n);
    for (int64_t k = 0; k < n; k++) {
        uint8_t was = bytes[k];
        bytes[k] = values[k % (int64_t)sizeof values];
        put_file(bad, bytes, (size_t)n);
        read_everything(bad);
        bytes[k] = was;
    }
    rw_free(bytes);
    assert_int_equal(rw_alloc_live(), live);
}

/* A zip64 archive made by hand: sizes and offsets of the directory stand in the extra fields and the zip64 end. */
static void zip64_is_read(void **state) {
    (void)state;
    static const char local[] = "PK\3\4\x2d\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0ahello";
    static const char rest[] = "PK\1\2\x2d\0\x2d\0\x08\x08\0\0\0\0\0\0\x86\xa6\x10\x36\xff\xff\xff\xff\xff\xff\xff\xff"
                               "\1\0\x21\0\0\0\0\0\0\0\0\0\0\0\xff\xff"
                               "\xff\xff"
                               "a\7\0\1\0x\1\0\x18\0\5\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                               "PK\6\6\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
                               "\x50\0\0\0\0\0\0\0\x24\0\0\0\0\0\0\0"
                               "PK\6\7\0\0\0\0\x74\0\0\0\0\0\0\0\1\0\0\0"
                               "PK\5\6\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0";
    char file[512];
    const char *path = rw_test_path("i.zip");
    rw_zip z;
    rw_file f;
    rw_error err = {0};
    int64_t offset = 0;
    memcpy(file, local, sizeof local - 1);
    memcpy(file + sizeof local - 1, rest, sizeof rest - 1);
    put_file(path, file, sizeof local + sizeof rest - 2);
    if (open_zip(&z, &f, path, NULL, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(z.records[0].n_bytes, 5);
    assert_int_equal(rw_zip_data_offset(&z, &z.records[0], &offset, &err), RW_OK);
    assert_int_equal(offset, 31);
    rw_zip_close(&z);
    rw_file_close(&f);
}

/* What is written beyond 4 GiB is found again: a file with a hole, so that it costs no disk. */
static void beyond_4_gib(void **state) {
    (void)state;
    const char *path = rw_test_path("big.zip");
    int64_t big = ((int64_t)4 << 30) + 12345, offset = 0;
    rw_error err = {0};
    rw_writer w;
    rw_zip_writer z = {.w = &w};
    char bytes[8] = {0};
    assert_int_equal(rw_writer_open(&w, path, &err), RW_OK);
    rw_zip_writer_begin(&z, "r/big", big);
    char *block = calloc(1, 1 << 20);
    rw_zip_writer_put(&z, block, 1 << 20); /* more than the writer's buffer, which is empty now */
    free(block);
    w.offset += z.to_come; /* the next write leaves a hole */
    z.offset += z.to_come;
    z.to_come = 0;
    rw_zip_writer_end(&z);
    rw_zip_writer_begin(&z, "r/last", 4);
    rw_zip_writer_put(&z, "last", 4);
    rw_zip_writer_end(&z);
    assert_int_equal(rw_zip_writer_finish(&z, &err), RW_OK);
    if (rw_writer_commit(&w, &err) != RW_OK) skip(); /* a file system without holes of this size */
    rw_zip_writer_done(&z);
    rw_zip r;
    rw_file f;
    if (open_zip(&r, &f, path, NULL, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(rw_zip_find(&r, "r/big")->n_bytes, big);
    assert_int_equal(rw_zip_data_offset(&r, rw_zip_find(&r, "r/last"), &offset, &err), RW_OK);
    assert_true(offset > big);
    assert_int_equal(rw_zip_data_offset(&r, rw_zip_find(&r, "r/big"), &offset, &err), RW_OK);
    assert_int_equal(offset, 64);
    assert_int_equal(rw_zip_data_offset(&r, rw_zip_find(&r, "r/last"), &offset, &err), RW_OK);
    assert_int_equal(rw_file_read_at(&f, offset, bytes, 4, &err), RW_OK);
    assert_string_equal(bytes, "last");
    rw_zip_close(&r);
    rw_file_close(&f);
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back_aligned),
        cmocka_unit_test(sizes_are_predicted),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(any_byte_may_be_wrong),
        cmocka_unit_test(zip64_is_read),
        cmocka_unit_test(beyond_4_gib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
