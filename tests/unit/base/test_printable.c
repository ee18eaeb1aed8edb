/* What comes from outside is shown as what it is; formats do what printf() does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/error.h"
#include "core/base/printable.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static size_t format(char *buf, size_t size, const char *fmt, ...) RW_PRINTF(3, 4);
static size_t format(char *buf, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    size_t n = rw_printable_format(buf, size, fmt, ap);
    va_end(ap);
    return n;
}

static const struct {
    const char *text, *line, *lines;
} texts[] = {
    {"", "", ""},
    {"plain \\ text", "plain \\ text", "plain \\ text"},
    {"a\nb\tc\rd", "a\\nb\\tc\\rd", "a\nb\tc\\rd"},
    {"\x1b[2J\x07\x7f", "\\x1b[2J\\x07\\x7f", "\\x1b[2J\\x07\\x7f"},
    {"\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0", "\\u0080\\u009b\\u009f\xc2\xa0", "\\u0080\\u009b\\u009f\xc2\xa0"},
    {"\xe2\x80\xae\xe2\x81\xa6\xe2\x80\xa8", "\\u202e\\u2066\\u2028", "\\u202e\\u2066\\u2028"},
    {"\xe4\xb8\xad\xf0\x9f\x99\x82", "\xe4\xb8\xad\xf0\x9f\x99\x82", "\xe4\xb8\xad\xf0\x9f\x99\x82"},
    {"\xff\x9b\xe4\xb8\xc0\xaf\xed\xa0\x80", "\\xff\\x9b\\xe4\\xb8\\xc0\\xaf\\xed\\xa0\\x80",
     "\\xff\\x9b\\xe4\\xb8\\xc0\\xaf\\xed\\xa0\\x80"},
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

static void controls_are_shown(void **state) {
    (void)state;
    char buf[200], again[200];
    for (int i = 0; i < N_TEXTS; i++) {
        assert_int_equal(rw_printable(buf, sizeof buf, texts[i].text), strlen(texts[i].line));
        assert_string_equal(buf, texts[i].line);
        rw_printable(again, sizeof again, buf);
        assert_string_equal(again, buf);
        assert_int_equal(rw_printable_lines(buf, sizeof buf, texts[i].text), strlen(texts[i].lines));
        assert_string_equal(buf, texts[i].lines);
        rw_str s = {0};
        rw_str_append_printable(&s, texts[i].text);
        assert_string_equal(s.data, texts[i].line);
        rw_str_clear(&s);
        rw_str_append_printable_bytes(&s, texts[i].text, strlen(texts[i].text));
        assert_string_equal(s.data ? s.data : "", texts[i].lines);
        rw_str_done(&s);
    }
}

static void bytes_may_be_zero(void **state) {
    (void)state;
    static const char bytes[] = {'a', 0, 'b', '\n', 0, 'c'};
    rw_str s = {0};
    rw_str_append_printable_bytes(&s, bytes, 5);
    assert_string_equal(s.data, "a\\x00b\n\\x00");
    rw_str_append_printable_bytes(&s, bytes, 0);
    assert_int_equal(s.len, 11);
    rw_str_done(&s);
}

static void a_cut_leaves_whole_characters(void **state) {
    (void)state;
    static const char text[] = "a\x1b\xe4\xb8\xad"
                               "b";
    static const char *const cut[] = {"", "a", "a", "a", "a", "a\\x1b", "a\\x1b", "a\\x1b", "a\\x1b\xe4\xb8\xad"};
    char buf[20];
    for (size_t size = 1; size < 10; size++) {
        memset(buf, '#', sizeof buf);
        assert_int_equal(rw_printable(buf, size, text), 9);
        assert_string_equal(buf, cut[size - 1]);
        assert_int_equal(format(buf, size, "%s%s", "a\x1b",
                                "\xe4\xb8\xad"
                                "b"),
                         9);
        assert_string_equal(buf, cut[size - 1]);
        assert_int_equal(buf[size], '#');
    }
    char longer[3000];
    memset(longer, 'x', sizeof longer);
    longer[2999] = '\0';
    longer[2000] = '\n';
    rw_str s = {0};
    rw_str_append_printable(&s, longer);
    assert_int_equal(s.len, 3000);
    rw_alloc_fail_after(1);
    rw_str_append_printable(&s, longer);
    rw_alloc_fail_after(0);
    assert_true(s.failed);
    rw_str_done(&s);
}

#define SAME(...)                                                                                                      \
    do {                                                                                                               \
        char ours[600], theirs[600];                                                                                   \
        int n = snprintf(theirs, sizeof theirs, __VA_ARGS__);                                                          \
        assert_int_equal(format(ours, sizeof ours, __VA_ARGS__), n);                                                   \
        assert_string_equal(ours, theirs);                                                                             \
    } while (0)

static void formats_as_printf(void **state) {
    (void)state;
    SAME("nothing");
    SAME("100 %% of %d and %d", 5, -7);
    SAME("%5d|%-5d|%05d|%+d|% d|%.3d|%*d|%-*d", 1, 2, 3, 4, 5, 6, 7, 8, 6, 9);
    SAME("%ld %lld %zd %td %jd", -1L, -2LL, (ssize_t)-3, (ptrdiff_t)-4, (intmax_t)-5);
    SAME("%u %lu %llu %zu %ju %x %08x %X %#x %o", 1u, 2ul, ~0ull, (size_t)4, (uintmax_t)5, 255u, 0xabcu, 255u, 255u,
         8u);
    SAME("%hhd %hd %hhu %hu %02x", (signed char)-1, (short)-2, (unsigned char)255, (unsigned short)65535, 5u);
    SAME("%lld %lld", INT64_MIN + 0LL, INT64_MAX + 0LL);
    SAME("%f %.2f %10.3f %-10.1f| %e %g %.9g %G", 1.5, 2.25, 3.0, 4.5, 1e300, 1e-7, 0.1, 1e20);
    SAME("%f %g %f", (double)INFINITY, (double)NAN, 1e300);
    SAME("%s|%10s|%-10s|%.2s|%10.3s|%.*s|%c", "a", "b", "c", "def", "ghij", 2, "klm", 'n');
    SAME("%p", (void *)&texts);
    SAME("%.0f %.17g", 2.5, 0.1);
}

static void arguments_are_from_outside(void **state) {
    (void)state;
    static const char hostile[] = "x\n\x1b";
    char buf[200];
    format(buf, sizeof buf, "say:\n\t'%s' %c", hostile, '\r');
    assert_string_equal(buf, "say:\n\t'x\\n\\x1b' \\r");
    format(buf, sizeof buf, "differs:\n%s.", "a\n\tb\x1b\n");
    assert_string_equal(buf, "differs:\na\n\tb\\x1b\n.");
    format(buf, sizeof buf, "%s", "a\nb");
    assert_string_equal(buf, "a\nb");
    format(buf, sizeof buf, "%s: %s", "a\nb", "c\nd");
    assert_string_equal(buf, "a\\nb: c\\nd");
    format(buf, sizeof buf, "'%.4s' '%-6s' '%6s'", "ab\xe4\xb8\xad", "\n", "\n"); /* the cut character goes */
    assert_string_equal(buf, "'ab' '\\n    ' '    \\n'");
}

/* What bash reads back is the word again. */
static void words_for_a_shell(void **state) {
    (void)state;
    static const char *const rows[][2] = {{"out/a-1.yaml", "out/a-1.yaml"},
                                          {"", "''"},
                                          {"my out", "'my out'"},
                                          {"it's", "'it'\\''s'"},
                                          {"$(rm x)", "'$(rm x)'"},
                                          {"\xe4\xb8\xad", "'\xe4\xb8\xad'"},
                                          {"a\x1b'\\\n\xff", "$'a\\x1b\\'\\\\\\n\\xff'"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_str s = {0};
        rw_str_append_quoted(&s, rows[i][0]);
        assert_string_equal(s.data, rows[i][1]);
        rw_str_done(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(controls_are_shown),
        cmocka_unit_test(bytes_may_be_zero),
        cmocka_unit_test(a_cut_leaves_whole_characters),
        cmocka_unit_test(formats_as_printf),
        cmocka_unit_test(arguments_are_from_outside),
        cmocka_unit_test(words_for_a_shell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
