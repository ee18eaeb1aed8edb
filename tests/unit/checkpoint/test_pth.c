/* .pth files: written, predicted, read back; files that are something else; damaged files; failures on the way. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/inspect.h"

#include <errno.h>
#include <math.h>

#define P(text) (text), sizeof(text) - 1

static float values[6] = {0.0f, 1.0f, -2.5f, 3.14159f, 1e-8f, 65504.0f};

static void make_tensors(rw_save_tensor t[3], rw_dtype dtype) {
    t[0] = (rw_save_tensor){.name = "emb.weight",
                            .ndim = 2,
                            .shape = {2, 3},
                            .src_dtype = RW_F32,
                            .dtype = dtype,
                            .fetch = rw_save_fetch_contiguous,
                            .data = values};
    t[1] = (rw_save_tensor){.name = "\xe5\xb1\x82.0 \"x\"",
                            .ndim = 3,
                            .shape = {1, 1, 6},
                            .src_dtype = RW_F32,
                            .dtype = dtype,
                            .fetch = rw_save_fetch_contiguous,
                            .data = values};
    t[2] = (rw_save_tensor){.name = "none",
                            .ndim = 1,
                            .shape = {0},
                            .src_dtype = RW_F32,
                            .dtype = dtype,
                            .fetch = rw_save_fetch_contiguous,
                            .data = values};
}

static void check_values(const rw_tensor_file *f, rw_dtype dtype) {
    float expected[6], back[6];
    uint16_t half[6];
    rw_error err = {0};
    assert_int_equal(rw_tensor_file_count(f), 3);
    assert_string_equal(rw_tensor_file_at(f, 0)->name, "emb.weight");
    if (dtype == RW_F32) {
        memcpy(expected, values, sizeof values);
    } else {
        rw_convert(half, dtype, values, RW_F32, 6);
        rw_convert(expected, RW_F32, half, dtype, 6);
    }
    for (int i = 0; i < 2; i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        assert_int_equal(t->dtype, dtype);
        if (rw_tensor_file_read(f, t, back, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
        assert_memory_equal(back, expected, sizeof back);
        assert_int_equal(t->file_offset % 64, 0);
    }
    assert_ptr_equal(rw_tensor_file_find(f, "none"), rw_tensor_file_at(f, 2));
    assert_null(rw_tensor_file_find(f, "other"));
    assert_int_equal(rw_tensor_file_read(f, rw_tensor_file_at(f, 2), NULL, RW_F32, &err), RW_OK);
}

static void written_is_read_and_predicted(void **state) {
    (void)state;
    static const rw_dtype dtypes[] = {RW_F32, RW_BF16, RW_F16};
    static const char *const names[][2] = {
        {"rwkv-1.pth", "rwkv-1/data.pkl"},
        {"\xe6\xa8\xa1\xe5\x9e\x8b.pth", "\xe6\xa8\xa1\xe5\x9e\x8b/data.pkl"},
        {".pth", "archive/data.pkl"},
        {"no-extension", "no-extension/data.pkl"},
        {"bad\xff.pth", "archive/data.pkl"},
        {"a-long-name-as-people-have-them-20260101-ctx4096.final.pth",
         "a-long-name-as-people-have-them-20260101-ctx4096.final/data.pkl"},
    };
    for (int d = 0; d < 3; d++)
        for (int k = 0; k < 6; k++) {
            const char *path = rw_test_path(names[k][0]);
            rw_save_tensor t[3];
            rw_error err = {0};
            int64_t n;
            make_tensors(t, dtypes[d]);
            if (rw_pth_write(path, t, 3, &err) != RW_OK) fail_msg("%s", err.msg);
            char *bytes = take_file(path, &n);
            assert_memory_equal(bytes + 30, names[k][1], strlen(names[k][1])); /* the first record's name */
            rw_free(bytes);
            assert_int_equal(rw_pth_bytes(path, t, 3), n);
            rw_tensor_file *f = open_good(path);
            assert_string_equal(rw_tensor_file_kind(f), "pth");
            assert_int_equal(rw_tensor_file_bytes(f), n);
            check_values(f, dtypes[d]);
            rw_tensor_file_close(f);
        }
}

/* More than one piece of 4 MiB, through a fetch that must be called in order. */
static rw_status fetch_squares(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    int64_t *next = (int64_t *)(uintptr_t)t->data;
    (void)err;
    assert_int_equal(first, *next);
    for (int64_t i = 0; i < n; i++) ((float *)buf)[i] = (float)((first + i) % 251);
    *next = first + n;
    return RW_OK;
}

static void large_tensors_go_in_pieces(void **state) {
    (void)state;
    const char *path = rw_test_path("large.pth");
    int64_t next = 0, rows = 3001, cols = 1024;
    rw_save_tensor t = {.name = "w",
                        .ndim = 2,
                        .shape = {rows, cols},
                        .src_dtype = RW_F32,
                        .dtype = RW_BF16,
                        .fetch = fetch_squares,
                        .data = &next};
    rw_error err = {0};
    if (rw_pth_write(path, &t, 1, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(next, rows * cols);
    rw_tensor_file *f = open_good(path);
    float *out = malloc((size_t)(rows * cols) * sizeof *out);
    if (rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
    for (int64_t i = 0; i < rows * cols; i++) assert_true(out[i] == (float)(i % 251));
    free(out);
    rw_tensor_file_close(f);
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    const char *path = rw_test_path("bad.pth");
    rw_save_tensor t[3];
    rw_error err = {0};
    make_tensors(t, RW_F32);
    t[1].name = t[0].name;
    assert_int_equal(rw_pth_write(path, t, 3, &err), RW_E_INTERNAL);
    assert_non_null(strstr(err.msg, "saved twice"));
    t[1].name = "\xff";
    assert_int_equal(rw_pth_write(path, t, 3, &err), RW_E_INTERNAL);
    make_tensors(t, RW_I32);
    assert_int_equal(rw_pth_write(path, t, 3, &err), RW_E_INTERNAL);
    assert_non_null(strstr(err.msg, "cannot be saved as i32"));
    assert_false(rw_exists(path));
}

/* -- files that are something else ------------------------------------------------------------------- */

static const struct {
    const char *bytes;
    size_t n;
    const char *says;
} others[] = {
    {P(""), "the file is empty"},
    {P("<!doctype html><html>"), "replace /blob/ in the link with /resolve/"},
    {P("\n\n  <!DOCTYPE HTML>\n<html>"), "web page (HTML"},
    {P("<html><head></head></html>"), "web page"},
    {P("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3200000000\n"),
     "not the model of 3200000000 bytes"},
    {P("{\"error\":\"Repository not found\"}"), "this is JSON"},
    {P("\0\0\0\0\0\0\0\0\0\0\0\0"), "begins with zeros"},
    {P("GGUF\3\0\0\0"), "GGUF file"},
    {P("fmgg\x65\0\0\0"), "rwkv.cpp"},
    {P("\x1f\x8b\x08\0"), "gzip"},
    {P("MMIDIDX\0\0"), ".idx of a data set"},
    {P("\x80\x04}."), "Python pickle"},
    {P("Entry not found"), "this is 15 bytes of text, not a model: 'Entry not found'"},
    {P("\1\2\3\4"), "neither a .pth"},
    {P("PK\3\4"), "cut short: 4 bytes are here"},
    {P("PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "a zip without data.pkl"},
};

static void other_files_are_named(void **state) {
    (void)state;
    const char *path = rw_test_path("other.pth");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        put_file(path, others[i].bytes, others[i].n);
        expect_refused(path, others[i].says);
    }
    expect_refused(rw_test_path("missing.pth"), "cannot open");
    expect_refused(rw_test_folder(), "found a folder");
}

/* A cut file says how much is there, of how much, wherever it was cut. */
static void cut_files_say_so(void **state) {
    (void)state;
    const char *whole = rw_test_path("whole.pth"), *cut = rw_test_path("cut.pth");
    static float big[50000];
    rw_save_tensor t = {.name = "w",
                        .ndim = 1,
                        .shape = {50000},
                        .src_dtype = RW_F32,
                        .dtype = RW_F32,
                        .fetch = rw_save_fetch_contiguous,
                        .data = big};
    rw_error err = {0};
    int64_t n;
    assert_int_equal(rw_pth_write(whole, &t, 1, &err), RW_OK);
    char *bytes = take_file(whole, &n);
    put_file(cut, bytes, 100000);
    expect_refused(cut, "cut short: 100000 of about 200000 bytes are here; continue the download with `wget -c URL`");
    put_file(cut, bytes, 1000);
    expect_refused(cut, "cut short: 1000 of about 200000 bytes");
    put_file(cut, bytes, 70);
    expect_refused(cut, "cut short: 70 bytes are here and the end of the archive is missing");
    for (int64_t k = 4; k < n; k += k < 1000 || k > n - 1000 ? 1 : 5000) {
        put_file(cut, bytes, (size_t)k);
        expect_refused(cut, "cut short");
    }
    rw_free(bytes);
}

static void damage_is_found(void **state) {
    (void)state;
    const char *path = rw_test_path("damaged.pth");
    rw_save_tensor t[3];
    rw_error err = {0};
    float out[6];
    int64_t n;
    make_tensors(t, RW_F32);
    assert_int_equal(rw_pth_write(path, t, 3, &err), RW_OK);
    rw_tensor_file *f = open_good(path);
    int64_t at = rw_tensor_file_at(f, 0)->file_offset;
    rw_tensor_file_close(f);
    char *bytes = take_file(path, &n);
    bytes[at + 5] ^= 1;
    put_file(path, bytes, (size_t)n);
    f = open_good(path);
    assert_int_equal(rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, &err), RW_E_FORMAT);
    assert_non_null(strstr(err.msg, "damaged: its CRC32"));
    assert_int_equal(rw_tensor_file_read(f, rw_tensor_file_at(f, 1), out, RW_F32, &err), RW_OK);
    rw_tensor_file_close(f);
    bytes[at + 5] ^= 1;
    bytes[70] ^= 1; /* in data.pkl */
    put_file(path, bytes, (size_t)n);
    expect_refused(path, "data.pkl' is damaged");
    for (int64_t k = 0; k < n; k++) { /* any byte at all: no crash, and never other values than the right ones */
        bytes[70] ^= k == 0;
        bytes[k] ^= (char)0x84;
        put_file(path, bytes, (size_t)n);
        read_everything(path);
        bytes[k] ^= (char)0x84;
    }
    rw_free(bytes);
}

/* -- archives that lie ------------------------------------------------------------------------------- */

#define STORAGE(numel)                                                                                                 \
    "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"                                                            \
    "0X\x03\0\0\0cpuK" numel "tQ"
#define SEEN(numel, offset, shape, stride, metadata)                                                                   \
    "\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" STORAGE(numel) offset shape stride                      \
        "\x89"                                                                                                         \
        "ccollections\nOrderedDict\n)R" metadata "tRs."
#define VIEW(numel, offset, shape, stride) SEEN(numel, offset, shape, stride, "")
#define NEGATED                            "}X\x03\0\0\0neg\x88s"

static void put_archive(const char *path, const char *pickle, size_t n, const void *data, size_t n_data,
                        const char *order) {
    const test_record records[] = {
        {"a/data.pkl", pickle, n}, {"a/byteorder", order, strlen(order)}, {"a/data/0", data, n_data}, {0}};
    put_zip(path, records);
}

static const struct {
    const char *pickle;
    size_t n;
    const char *says;
} views[] = {
    {P(VIEW("\x07", "K\0", "K\x06\x85", "K\x01\x85")), "should have 7 elements of 4 bytes, but has 24"},
    {P(VIEW("\x06", "K\1", "K\x06\x85", "K\x01\x85")), "reaches beyond its storage"},
    {P(VIEW("\x06", "K\7", "K\0\x85", "K\x01\x85")), "reaches beyond its storage"},
    {P(VIEW("\x06", "K\0", "K\2K\2\x86", "K\5K\1\x86")), "reaches beyond its storage"},
    {P(VIEW("\x06", "K\0", "K\2K\2\x86", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\1\x86")),
     "reaches beyond its storage"},
    {P(VIEW("\x06", "K\0", "K\3\x85", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85")), "reaches beyond its storage"},
    {P(VIEW("\x06", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "K\3\x85", "K\1\x85")), "reaches beyond its storage"},
};

static void views_outside_are_refused(void **state) {
    (void)state;
    const char *path = rw_test_path("view.pth");
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
        put_archive(path, views[i].pickle, views[i].n, values, sizeof values, "little");
        expect_refused(path, views[i].says);
    }
    put_archive(path, P(VIEW("\x06", "K\0", "K\6\x85", "K\1\x85")), values, sizeof values, "big");
    expect_refused(path, "big-endian");
}

static void views_inside_are_read(void **state) {
    (void)state;
    const char *path = rw_test_path("inside.pth");
    float out[12];
    rw_error err = {0};
    /* [3,2] with strides (1,3): a transposed [2,3] */
    put_archive(path, P(VIEW("\x06", "K\0", "K\3K\2\x86", "K\1K\3\x86")), values, sizeof values, "little");
    rw_tensor_file *f = open_good(path);
    if (rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++) assert_true(out[i * 2 + j] == values[i + 3 * j]);
    rw_tensor_file_close(f);
    /* [2,6] with strides (0,1): one row seen twice */
    put_archive(path, P(VIEW("\x06", "K\0", "K\2K\6\x86", "K\0K\1\x86")), values, sizeof values, "little");
    f = open_good(path);
    if (rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_memory_equal(out, values, sizeof values);
    assert_memory_equal(out + 6, values, sizeof values);
    rw_tensor_file_close(f);
}

/* torch's lazy negative bit: in the order of the file (whole and in part) and in another, with and without conversion.
 */
static void negated_views_are_negated(void **state) {
    (void)state;
    const char *path = rw_test_path("negated.pth");
    static const struct {
        const char *pickle;
        size_t n;
        int order[6];
    } rows[] = {{P(SEEN("\x06", "K\0", "K\6\x85", "K\1\x85", NEGATED)), {0, 1, 2, 3, 4, 5}},
                {P(SEEN("\x06", "K\0", "K\3K\2\x86", "K\1K\3\x86", NEGATED)), {0, 3, 1, 4, 2, 5}}};
    for (size_t i = 0; i < 2; i++) {
        float narrow[6];
        double wide[6];
        rw_error err = {0};
        put_archive(path, rows[i].pickle, rows[i].n, values, sizeof values, "little");
        rw_tensor_file *f = open_good(path);
        const rw_file_tensor *t = rw_tensor_file_at(f, 0);
        if (rw_tensor_file_read(f, t, narrow, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
        if (rw_tensor_file_read(f, t, wide, RW_F64, &err) != RW_OK) fail_msg("%s", err.msg);
        for (int k = 0; k < 6; k++) {
            float x = values[rows[i].order[k]];
            assert_true(narrow[k] == -x && signbit(narrow[k]) != signbit(x));
            assert_true(wide[k] == -(double)x);
        }
        rw_tensor_file_close(f);
    }
}

static rw_status read_first(const char *path, rw_error *err) {
    float out[12];
    rw_tensor_file *f = open_good(path);
    rw_status status = rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, err);
    rw_tensor_file_close(f);
    return status;
}

static rw_status verify(const char *path, rw_str *said, rw_error *err) {
    rw_tensor_file *f = open_good(path);
    rw_status status = rw_inspect_verify(f, said, err);
    rw_tensor_file_close(f);
    return status;
}

/* A view of a part of a record, or in another order: all of the record is compared, parts that no view reads too. */
static void damage_beside_a_view_is_found(void **state) {
    (void)state;
    static const struct {
        const char *pickle;
        size_t n;
    } rows[] = {{P(VIEW("\x06", "K\0", "K\2\x85", "K\1\x85"))}, {P(VIEW("\x06", "K\0", "K\3K\2\x86", "K\1K\3\x86"))}};
    const char *path = rw_test_path("shared.pth");
    for (size_t i = 0; i < 2; i++) {
        rw_error err = {0};
        rw_str said = {0};
        int64_t n;
        put_archive(path, rows[i].pickle, rows[i].n, values, sizeof values, "little");
        assert_int_equal(read_first(path, &err), RW_OK);
        assert_int_equal(verify(path, &said, &err), RW_OK);
        assert_string_equal(said.data, "verified: the checksums of 3 of 3 records are right\n");
        char *bytes = take_file(path, &n);
        char *data = memmem(bytes, (size_t)n, values, sizeof values);
        assert_non_null(data);
        data[sizeof values - 1] ^= 1;
        put_file(path, bytes, (size_t)n);
        assert_int_equal(read_first(path, &err), RW_E_FORMAT);
        assert_non_null(strstr(err.msg, "record 'a/data/0' is damaged"));
        assert_int_equal(verify(path, &said, &err), RW_E_FORMAT);
        rw_str_done(&said);
        rw_free(bytes);
    }
}

static void missing_records_are_named(void **state) {
    (void)state;
    const char *path = rw_test_path("missing-record.pth");
    const test_record records[] = {{"a/data.pkl", P(VIEW("\x06", "K\0", "K\6\x85", "K\1\x85"))}, {0}};
    put_zip(path, records);
    expect_refused(path, "should be in record 'a/data/0', which is not in the archive");
}

/* -- failures on the way ----------------------------------------------------------------------------- */

/* Each write, fsync and rename fails once: the old file stands unchanged, nothing is left over. After the rename the
 * new file may stand: then only the fsync of the folder has failed. */
static void write_failures_leave_the_old_file(void **state) {
    (void)state;
    const char *path = rw_test_path("kept.pth");
    rw_save_tensor t[3];
    int64_t n_old, n, live = rw_alloc_live();
    make_tensors(t, RW_F32);
    put_file(path, "old", 3);
    for (int64_t k = 1;; k++) {
        rw_error err = {0};
        rw_fs_fail_after(k, ENOSPC);
        rw_status status = rw_pth_write(path, t, 3, &err);
        rw_fs_fail_after(0, 0);
        if (status == RW_OK) break;
        assert_non_null(strstr(err.msg, "kept.pth"));
        assert_non_null(strstr(err.msg, strerror(ENOSPC)));
        char *bytes = take_file(path, &n_old);
        if (n_old != 3) read_everything(path);
        assert_true((n_old == 3 && !memcmp(bytes, "old", 3)) || read_everything(path));
        rw_free(bytes);
        assert_true(k < 100);
    }
    rw_free(take_file(path, &n));
    assert_int_equal(n, rw_pth_bytes(path, t, 3));
    assert_int_equal(rw_alloc_live(), live);
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    const char *path = rw_test_path("alloc.pth");
    rw_save_tensor t[3];
    int64_t live = rw_alloc_live();
    make_tensors(t, RW_BF16);
    for (int64_t k = 1;; k++) {
        rw_error err = {0};
        rw_alloc_fail_after(k);
        rw_status status = rw_pth_write(path, t, 3, &err);
        rw_alloc_fail_after(0);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(k < 1000);
    }
    for (int64_t k = 1;; k++) {
        rw_tensor_file *f;
        float out[6];
        rw_error err = {0};
        rw_alloc_fail_after(k);
        rw_status status = rw_tensor_file_open(&f, path, &err);
        if (status == RW_OK) status = rw_tensor_file_read(f, rw_tensor_file_at(f, 0), out, RW_F32, &err);
        rw_alloc_fail_after(0);
        rw_tensor_file_close(f);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(k < 1000);
    }
    for (int64_t k = 1; rw_alloc_fail_after(k), rw_pth_bytes(path, t, 3) < 0; k++) assert_true(k < 1000);
    rw_alloc_fail_after(0);
    assert_int_equal(rw_alloc_live(), live);
}

static rw_status fetch_fails(const rw_save_tensor *t, int64_t first, int64_t n, void *buf, rw_error *err) {
    (void)t, (void)first, (void)n, (void)buf;
    return rw_fail(err, RW_E_DEVICE, RW_AT_NONE, "the device is gone");
}

static void fetch_failures_are_passed_on(void **state) {
    (void)state;
    const char *path = rw_test_path("fetch.pth");
    rw_save_tensor t[3];
    rw_error err = {0};
    make_tensors(t, RW_BF16);
    t[1].fetch = fetch_fails;
    assert_int_equal(rw_pth_write(path, t, 3, &err), RW_E_DEVICE);
    assert_string_equal(err.msg, "the device is gone");
    assert_false(rw_exists(path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_is_read_and_predicted),
        cmocka_unit_test(large_tensors_go_in_pieces),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(cut_files_say_so),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(views_outside_are_refused),
        cmocka_unit_test(views_inside_are_read),
        cmocka_unit_test(negated_views_are_negated),
        cmocka_unit_test(damage_beside_a_view_is_found),
        cmocka_unit_test(missing_records_are_named),
        cmocka_unit_test(write_failures_leave_the_old_file),
        cmocka_unit_test(allocation_failures_are_reported),
        cmocka_unit_test(fetch_failures_are_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
