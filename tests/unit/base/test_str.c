/* Strings: growing, edit distance, numbers for people, strict UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static void appends(void **state) {
    (void)state;
    rw_str s = {0};
    for (int i = 0; i < 100; i++) rw_str_appendf(&s, "%d,", i);
    rw_str_append(&s, "end");
    rw_str_append_n(&s, "\0z", 2);
    assert_int_equal(s.len, 10 * 2 + 90 * 3 + 3 + 2);
    assert_memory_equal(s.data + s.len - 5, "end\0z", 6);
    rw_str_clear(&s);
    assert_string_equal(s.data, "");
    rw_str_done(&s);
    assert_null(s.data);
}

static void lack_of_memory_is_sticky(void **state) {
    (void)state;
    rw_str s = {0};
    rw_str_append(&s, "before");
    rw_alloc_fail_after(1);
    rw_str_append(&s, "a text that needs more room than there is now");
    rw_str_append(&s, "x");
    assert_true(s.failed);
    assert_string_equal(s.data, "before");
    rw_str_done(&s);
}

static void edit_distances(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        int d;
    } cases[] = {{"", "", 0},        {"abc", "abc", 0},        {"abc", "", 3},
                 {"", "abc", 3},     {"lr_int", "lr_init", 1}, {"crx_len", "ctx_len", 1},
                 {"tcx", "ctx", 1},  {"kitten", "sitting", 3}, {"ca", "abc", 3},
                 {"flaw", "lawn", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(rw_edit_distance(cases[i].a, cases[i].b, 9), cases[i].d);
        assert_int_equal(rw_edit_distance(cases[i].b, cases[i].a, 9), cases[i].d);
    }
    assert_int_equal(rw_edit_distance("kitten", "sitting", 2), 3);
    char longer[500];
    memset(longer, 'x', sizeof longer - 1);
    longer[499] = 0;
    assert_int_equal(rw_edit_distance(longer, longer, 2), 0);
    assert_int_equal(rw_edit_distance(longer, "x", 2), 3);
}

static void suggests(void **state) {
    (void)state;
    static const char *const names[] = {"ctx_len", "lr_init", "lr_final", "n", "micro_bsz", NULL};
    assert_string_equal(rw_did_you_mean("lr_int", names), "lr_init");
    assert_string_equal(rw_did_you_mean("micro_bzs", names), "micro_bsz");
    assert_string_equal(rw_did_you_mean("ctxlen", names), "ctx_len");
    assert_null(rw_did_you_mean("epoch_steps", names));
    assert_null(rw_did_you_mean("x", names));
    assert_null(rw_did_you_mean("", names));
    static const char *const twins[] = {"beta1", "beta2", NULL};
    assert_string_equal(rw_did_you_mean("beta3", twins), "beta1");
}

static void numbers_for_people(void **state) {
    (void)state;
    static const struct {
        int64_t n;
        const char *bytes, *count;
    } cases[] = {{0, "0 B", "0"},
                 {999, "999 B", "999"},
                 {1024, "1.00 KiB", "1,024"},
                 {1536, "1.50 KiB", "1,536"},
                 {15360, "15.0 KiB", "15,360"},
                 {1048575, "1.00 MiB", "1,048,575"},
                 {-2048, "-2.00 KiB", "-2,048"},
                 {1234567890, "1.15 GiB", "1,234,567,890"},
                 {INT64_MAX, "8.00 EiB", "9,223,372,036,854,775,807"},
                 {INT64_MIN, "-8.00 EiB", "-9,223,372,036,854,775,808"}};
    char text[40];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(rw_format_bytes(text, sizeof text, cases[i].n), cases[i].bytes);
        assert_string_equal(rw_format_count(text, sizeof text, cases[i].n), cases[i].count);
    }
}

static void two_sizes_differ(void **state) {
    (void)state;
    static const struct {
        int64_t n, m;
        const char *a, *b;
    } cases[] = {{1048577, 1048576, "1048577 B", "1048576 B"},
                 {1048576, 1048576, "1.00 MiB", "1.00 MiB"},
                 {INT64_MAX, INT64_MAX - 1, "9223372036854775807 B", "9223372036854775806 B"},
                 {1 << 30, 1 << 20, "1.00 GiB", "1.00 MiB"}};
    char a[32], b[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rw_format_two_sizes(a, cases[i].n, b, cases[i].m);
        assert_string_equal(a, cases[i].a);
        assert_string_equal(b, cases[i].b);
    }
}

static void times_for_people(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0.0s"},     {8.14, "8.1s"},     {59.94, "59.9s"}, {59.96, "1m 00s"},
                 {252, "4m 12s"}, {3599.7, "1h 00m"}, {7380, "2h 03m"}, {200000, "2d 07h"},
                 {-1, "?"},       {NAN, "?"},         {INFINITY, "?"}};
    char text[40];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(rw_format_seconds(text, sizeof text, cases[i].seconds), cases[i].text);
}

/* Length of the encoding of one code point, the definition turned round. */
static size_t encode(uint32_t c, char *s) {
    if (c < 0x80) return s[0] = (char)c, 1;
    if (c < 0x800) return s[0] = (char)(0xc0 | c >> 6), s[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return s[0] = (char)(0xe0 | c >> 12), s[1] = (char)(0x80 | (c >> 6 & 63)), s[2] = (char)(0x80 | (c & 63)), 3;
    s[0] = (char)(0xf0 | c >> 18), s[1] = (char)(0x80 | (c >> 12 & 63));
    s[2] = (char)(0x80 | (c >> 6 & 63)), s[3] = (char)(0x80 | (c & 63));
    return 4;
}

static void accepts_each_code_point(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 0x110800; c++) {
        char s[5] = {0};
        size_t n = encode(c, s);
        bool valid = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
        if (rw_utf8_valid_prefix(s, n) != (valid ? n : 0)) fail_msg("U+%04X", c);
        if (n > 1 && rw_utf8_valid_prefix(s, n - 1) != 0) fail_msg("U+%04X cut short", c);
    }
}

static void refuses_broken_utf8(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",         "\xe4\xb8("};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(rw_utf8_valid_prefix(bad[i], strlen(bad[i])), 0);
    assert_int_equal(rw_utf8_valid_prefix("0123456789abcdef\xff", 17), 16);
    assert_int_equal(rw_utf8_valid_prefix("01234567\xe4\xb8\xad", 10), 8);
    assert_int_equal(rw_utf8_valid_prefix("", 0), 0);
}

static int columns(const char *s) {
    return rw_utf8_columns(s, strlen(s));
}

static void counts_columns(void **state) {
    (void)state;
    assert_int_equal(columns("abc\t"), 4);
    assert_int_equal(columns("\xe4\xb8\xad\xe6\x96\x87"), 4); /* two Han characters */
    assert_int_equal(columns("\xef\xbc\x9f"), 2);             /* fullwidth question mark */
    assert_int_equal(columns("e\xcc\x81"), 1);                /* e + combining acute */
    assert_int_equal(columns("\xf0\x9f\x98\x80"), 2);         /* an emoji */
    assert_int_equal(columns("\xff\xe4"), 2);                 /* broken bytes */
    assert_int_equal(columns("\xe2\x96\x88\xe2\x94\x80"), 2); /* block and line drawing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends),
        cmocka_unit_test(lack_of_memory_is_sticky),
        cmocka_unit_test(edit_distances),
        cmocka_unit_test(suggests),
        cmocka_unit_test(numbers_for_people),
        cmocka_unit_test(two_sizes_differ),
        cmocka_unit_test(times_for_people),
        cmocka_unit_test(accepts_each_code_point),
        cmocka_unit_test(refuses_broken_utf8),
        cmocka_unit_test(counts_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
