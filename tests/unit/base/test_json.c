/* JSON: the place of mistakes, strictness, exact numbers, any bytes as a string. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void parses(void **state) {
    (void)state;
    const char *text = " {\"a\": [1, 2.5, null, \"\\u4e2d\"]}\n";
    rw_error err = {0};
    json_t *root;
    int64_t live = rw_alloc_live();
    assert_int_equal(rw_json_parse(text, strlen(text), RW_AT_NONE, &root, &err), RW_OK);
    json_t *a = json_object_get(root, "a");
    assert_int_equal(json_integer_value(json_array_get(a, 0)), 1);
    assert_string_equal(json_string_value(json_array_get(a, 3)), "\xe4\xb8\xad");
    assert_true(rw_alloc_live() > live); /* jansson's memory is ours */
    json_decref(root);
    assert_int_equal(rw_alloc_live(), live);
    assert_int_equal(rw_json_parse("\"a\\u0000b\"", 10, RW_AT_NONE, &root, &err), RW_OK);
    assert_int_equal(json_string_length(root), 3);
    json_decref(root);
}

static void places_mistakes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int line, col;
        const char *msg;
    } cases[] = {
        {"{\"a\": 1", 3, 0, "the JSON value is not complete; is a quote or a bracket missing?"},
        {"{\"text\": \"abc}", 3, 0, "the JSON value is not complete; is a quote or a bracket missing?"},
        {"{\n\"a\": 1,\n  x}", 5, 3, "not valid JSON: string or '}' expected near 'x'"},
        {"", 3, 0, "the JSON value is not complete; is a quote or a bracket missing?"},
        {"{} {}", 3, 0, "not valid JSON: end of file expected near '{'"},
        {"{\"a\": 1, \"a\": 2}", 3, 0, "not valid JSON: duplicate object key near '\"a\"'"},
        {"[\"\xff\"]", 3, 0, "not valid JSON: the bytes are not UTF-8"},
        {"[1e999]", 3, 0, "not valid JSON: real number overflow near '1e999'"},
        {"{\"\\u0000\": 1}", 3, 0, "not valid JSON: NUL byte in object key not supported near '\"\\u0000\"'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rw_error err = {0};
        json_t *root;
        rw_where at = {.file = "x.jsonl", .line = 3};
        assert_int_equal(rw_json_parse(cases[i].text, strlen(cases[i].text), at, &root, &err), RW_E_FORMAT);
        assert_null(root);
        assert_string_equal(err.msg, cases[i].msg);
        assert_int_equal(err.at.line, cases[i].line);
        if (cases[i].col) assert_int_equal(err.at.col, cases[i].col);
        assert_true(err.at.col >= 1);
    }
}

static void each_lack_of_memory(void **state) {
    (void)state;
    const char *text = "{\"a\": [1, 2.5, null, {\"b\": \"text\"}], \"c\": \"\\u4e2d\"}";
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        json_t *root;
        rw_alloc_fail_after(n);
        rw_status status = rw_json_parse(text, strlen(text), RW_AT_NONE, &root, &err);
        rw_alloc_fail_after(0);
        if (status == RW_OK) {
            json_decref(root);
            assert_true(n > 5);
            break;
        }
        assert_null(root);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_int_equal(rw_alloc_live(), live);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    char *text = malloc(1000000);
    memset(text, '[', 1000000);
    rw_error err = {0};
    json_t *root;
    assert_int_equal(rw_json_parse(text, 1000000, RW_AT_NONE, &root, &err), RW_E_FORMAT);
    free(text);
}

static void strings_read_back(void **state) {
    (void)state;
    char bytes[256 + 3];
    for (int i = 0; i < 128; i++) bytes[i] = (char)i;
    memcpy(bytes + 128, "\xe4\xb8\xad", 3);
    rw_str s = {0};
    rw_json_append_string(&s, bytes, 131);
    rw_error err = {0};
    json_t *root;
    assert_int_equal(rw_json_parse(s.data, s.len, RW_AT_NONE, &root, &err), RW_OK);
    assert_int_equal(json_string_length(root), 131);
    assert_memory_equal(json_string_value(root), bytes, 131);
    json_decref(root);
    rw_str_clear(&s);
    rw_json_append_string(&s, "a\xff\xe4\xb8z\"\\\n", 8);
    assert_string_equal(s.data, "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\\\"\\\\\\n\"");
    rw_str_done(&s);
}

static void numbers_read_back(void **state) {
    (void)state;
    static const double numbers[] = {
        0, 1, -1.5, 0.1, 1.0 / 3, 6e-4, 1e-310, 1.7976931348623157e308, 123456789012345678.0};
    rw_str s = {0};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        rw_str_clear(&s);
        rw_json_append_number(&s, numbers[i]);
        assert_true(strtod(s.data, NULL) == numbers[i]);
    }
    rw_str_clear(&s);
    rw_json_append_number(&s, 6e-4);
    rw_json_append_number(&s, NAN);
    rw_json_append_number(&s, -INFINITY);
    assert_string_equal(s.data, "0.0006nullnull");
    rw_str_done(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses),
        cmocka_unit_test(places_mistakes),
        cmocka_unit_test(each_lack_of_memory),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(strings_read_back),
        cmocka_unit_test(numbers_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
