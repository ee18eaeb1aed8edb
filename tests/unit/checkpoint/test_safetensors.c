/* safetensors: written, predicted, read back; headers that lie; files cut short; failures on the way. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/little_endian.h"

#include <errno.h>

static float values[6] = {0.0f, 1.0f, -2.5f, 3.14159f, 1e-8f, 65504.0f};

static void make_tensors(rw_save_tensor t[2], rw_dtype dtype) {
    t[0] = (rw_save_tensor){.name = "b\xe5\xad\x97\"\n",
                            .ndim = 2,
                            .shape = {2, 3},
                            .src_dtype = RW_F32,
                            .dtype = dtype,
                            .fetch = rw_save_fetch_contiguous,
                            .data = values};
    t[1] = (rw_save_tensor){.name = "a",
                            .ndim = 0,
                            .src_dtype = RW_F32,
                            .dtype = RW_F32,
                            .fetch = rw_save_fetch_contiguous,
                            .data = values + 2};
}

static const char *const metadata[][2] = {
    {"step", "120"}, {"cursor", "{\"line\\u0000\": \"\xe5\xad\x97\"}"}, {"empty", ""}};

static void written_is_read_and_predicted(void **state) {
    (void)state;
    const char *path = rw_test_path("state-120.safetensors");
    static const rw_dtype dtypes[] = {RW_F32, RW_BF16, RW_F16, RW_F64};
    for (int d = 0; d < 4; d++) {
        rw_save_tensor t[2];
        rw_error err = {0};
        double back[6], expected[6];
        uint8_t raw[48];
        int64_t n;
        make_tensors(t, dtypes[d]);
        if (rw_safetensors_write(path, t, 2, metadata, 3, &err) != RW_OK) fail_msg("%s", err.msg);
        char *bytes = take_file(path, &n);
        assert_int_equal(n, rw_safetensors_bytes(t, 2, metadata, 3));
        assert_int_equal((8 + rw_le64((uint8_t *)bytes)) % 64, 0);
        rw_free(bytes);
        rw_tensor_file *f = open_good(path);
        assert_string_equal(rw_tensor_file_kind(f), "safetensors");
        for (int i = 0; i < 3; i++) assert_string_equal(rw_tensor_file_metadata(f, metadata[i][0]), metadata[i][1]);
        assert_string_equal(rw_tensor_file_metadata(f, "format"), "pt");
        assert_null(rw_tensor_file_metadata(f, "other"));
        assert_int_equal(rw_tensor_file_count(f), 2);
        assert_string_equal(rw_tensor_file_at(f, 0)->name, t[0].name);
        rw_convert(raw, dtypes[d], values, RW_F32, 6);
        rw_convert(expected, RW_F64, raw, dtypes[d], 6);
        assert_int_equal(rw_tensor_file_read(f, rw_tensor_file_at(f, 0), back, RW_F64, &err), RW_OK);
        assert_memory_equal(back, expected, sizeof back);
        assert_int_equal(rw_tensor_file_find(f, "a")->ndim, 0);
        assert_int_equal(rw_tensor_file_read(f, rw_tensor_file_find(f, "a"), back, RW_F64, &err), RW_OK);
        assert_true(back[0] == -2.5);
        rw_tensor_file_close(f);
    }
}

#define T(name, dtype, shape, begin, end)                                                                              \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* A header, bytes of data behind it, and what the reader says (NULL: accepted). */
static const struct {
    const char *header;
    int n;
    const char *says;
} headers[] = {
    {"{" T("a", "F32", "[2]", 0, 8) "}", 8, NULL},
    {"{" T("a", "F32", "[2]", 0, 8) "}      ", 8, NULL},
    {"{" T("b", "F32", "[2]", 8, 16) "," T("a", "F32", "[2]", 0, 8) "}", 16, NULL},
    {"{" T("a", "F32", "[0]", 0, 0) "," T("b", "F32", "[2]", 0, 8) "," T("c", "F32", "[0]", 8, 8) "}", 8, NULL},
    {"{}", 0, NULL},
    {"{\"__metadata__\":{\"k\":\"v\"}}", 0, NULL},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 7, "cut short: "},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 9, "1 bytes more than the header accounts for"},
    {"{" T("a", "F32", "[2]", 4, 12) "}", 12, "there is a gap before its bytes"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 4, 12) "}", 12, "overlaps"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 0, 8) "}", 8, "overlaps"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[2]", 12, 20) "}", 20, "a gap"},
    {"{" T("a", "F32", "[3]", 0, 8) "}", 8, "its shape needs 12 bytes, but data_offsets give it 8"},
    {"{" T("a", "F32", "[2]", 8, 0) "}", 8, "begin <= end"},
    {"{" T("a", "F32", "[2]", -8, 0) "}", 8, "begin <= end"},
    {"{" T("a", "F32", "[-2]", 0, 8) "}", 8, "integers >= 0"},
    {"{" T("a", "F32", "[2.0]", 0, 8) "}", 8, "integers >= 0"},
    {"{" T("a", "F32", "2", 0, 8) "}", 8, "expected a list as shape"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,2]", 0, 8) "}", 8, "more than 8 dimensions"},
    {"{" T("a", "F32", "[4611686018427387904,4611686018427387904]", 0, 8) "}", 8, "the shape is too large"},
    {"{" T("a", "F32", "[4611686018427387904]", 0, 8) "}", 8, "its shape needs"},
    {"{" T("a", "F8_E4M3", "[8]", 0, 8) "}", 8, "dtype F8_E4M3, which is not supported"},
    {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "expected a string as dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "exactly dtype, shape and data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, "exactly dtype"},
    {"{\"a\":7}", 8, "expected an object"},
    {"{\"__metadata__\":[]}", 0, "expected an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "expected strings"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("a", "F32", "[2]", 0, 8) "}", 8, "not valid JSON"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("_forward_module.a", "F32", "[2]", 8, 16) "}", 16, "'a' occurs twice"},
    {"{\"a\xff\":1}", 0, "not UTF-8"},
    {"{\"a\":", 0, "the JSON value is not complete"},
    {"{\"a\":1} x", 0, "not valid JSON"},
};

static void put_header(const char *path, const char *header, int n) {
    char file[1024] = {0};
    size_t length = strlen(header);
    rw_put_le64((uint8_t *)file, length);
    memcpy(file + 8, header, length);
    put_file(path, file, 8 + length + (size_t)n);
}

static void headers_are_checked(void **state) {
    (void)state;
    const char *path = rw_test_path("header.safetensors");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        put_header(path, headers[i].header, headers[i].n);
        if (headers[i].says)
            expect_refused(path, headers[i].says);
        else
            rw_tensor_file_close(open_good(path));
    }
}

static void length_is_checked(void **state) {
    (void)state;
    const char *path = rw_test_path("length.safetensors");
    uint8_t file[9] = {0};
    file[8] = '{';
    rw_put_le64(file, 100000001);
    put_file(path, file, 9);
    expect_refused(path, "a header of 100000001 bytes, but the limit is 100,000,000");
    rw_put_le64(file, 5000);
    put_file(path, file, 9);
    expect_refused(path, "cut short: 9 of 5008 bytes are here; continue the download");
    rw_put_le64(file, UINT64_MAX);
    put_file(path, file, 9);
    expect_refused(path, "neither");
}

static void cut_files_say_how_much_is_missing(void **state) {
    (void)state;
    const char *whole = rw_test_path("whole.safetensors"), *cut = rw_test_path("cut.safetensors");
    rw_save_tensor t[2];
    rw_error err = {0};
    int64_t n;
    char says[128];
    make_tensors(t, RW_F32);
    assert_int_equal(rw_safetensors_write(whole, t, 2, NULL, 0, &err), RW_OK);
    char *bytes = take_file(whole, &n);
    for (int64_t k = 0; k < n; k++) {
        put_file(cut, bytes, (size_t)k);
        expect_refused(cut, "");
    }
    put_file(cut, bytes, (size_t)n - 1);
    snprintf(says, sizeof says, "cut short: %lld of %lld bytes are here; continue the download with `wget -c URL`",
             (long long)n - 1, (long long)n);
    expect_refused(cut, says);
    rw_free(bytes);
}

static void failures_leave_the_old_file(void **state) {
    (void)state;
    const char *path = rw_test_path("kept.safetensors");
    rw_save_tensor t[2];
    int64_t live = rw_alloc_live(), n;
    make_tensors(t, RW_BF16);
    put_file(path, "old", 3);
    for (int64_t k = 1;; k++) {
        rw_error err = {0};
        rw_fs_fail_after(k, EIO);
        rw_status status = rw_safetensors_write(path, t, 2, metadata, 3, &err);
        rw_fs_fail_after(0, 0);
        if (status == RW_OK) break;
        char *bytes = take_file(path, &n);
        assert_true((n == 3 && !memcmp(bytes, "old", 3)) || read_everything(path));
        rw_free(bytes);
        assert_true(k < 100);
    }
    assert_true(read_everything(path));
    for (int64_t k = 1;; k++) {
        rw_error err = {0};
        rw_alloc_fail_after(k);
        rw_status status = rw_safetensors_write(path, t, 2, metadata, 3, &err);
        rw_alloc_fail_after(0);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(k < 1000);
    }
    for (int64_t k = 1;; k++) {
        rw_error err = {0};
        rw_tensor_file *f;
        rw_alloc_fail_after(k);
        rw_status status = rw_tensor_file_open(&f, path, &err);
        rw_alloc_fail_after(0);
        rw_tensor_file_close(f);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(k < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_is_read_and_predicted),
        cmocka_unit_test(headers_are_checked),
        cmocka_unit_test(length_is_checked),
        cmocka_unit_test(cut_files_say_how_much_is_missing),
        cmocka_unit_test(failures_leave_the_old_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
