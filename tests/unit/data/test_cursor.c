/* A cursor goes through its names and through JSON without loss. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/data/cursor.h"
#include "tests/unit/data/fixture.h"

static const rw_cursor sample = {
    .seed = UINT64_MAX, .step = 12345, .data_hash = UINT64_C(0x8000000000000001), .n_tokens = 1498226207};

static void test_names(void **state) {
    (void)state;
    rw_cursor c = {0};
    for (int i = 0; i < RW_CURSOR_N_FIELDS; i++)
        assert_true(rw_cursor_set(&c, rw_cursor_field_name(i), rw_cursor_get(&sample, i)));
    assert_true(rw_cursor_equal(&c, &sample));
    assert_int_equal(sizeof(rw_cursor), RW_CURSOR_N_FIELDS * sizeof(uint64_t)); /* no field without a name */
    assert_false(rw_cursor_set(&c, "other", 1));
    for (int i = 0; i < RW_CURSOR_N_FIELDS; i++) {
        c = sample;
        rw_cursor_set(&c, rw_cursor_field_name(i), 77);
        assert_false(rw_cursor_equal(&c, &sample));
    }
}

static void test_json(void **state) {
    (void)state;
    rw_str s = {0};
    rw_error err = {0};
    rw_cursor c = {0};
    rw_cursor_append_json(&sample, &s);
    assert_string_equal(s.data, "{\"seed\":\"18446744073709551615\",\"step\":\"12345\","
                                "\"data_hash\":\"9223372036854775809\",\"n_tokens\":\"1498226207\"}");
    assert_int_equal(rw_cursor_parse_json(&c, s.data, s.len, RW_AT_FILE("state"), &err), RW_OK);
    assert_true(rw_cursor_equal(&c, &sample));
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\"}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\",\"tokens\":\"4\"}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\",\"n_tokens\":4}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\",\"n_tokens\":\"-4\"}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\",\"n_tokens\":\"4x\"}",
        "{\"seed\":\"1\",\"step\":\"2\",\"data_hash\":\"3\",\"n_tokens\":\"18446744073709551616\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(rw_cursor_parse_json(&c, bad[i], strlen(bad[i]), RW_AT_FILE("state"), &err), RW_E_FORMAT);
        assert_mentions(&err, "state");
    }
    rw_str_done(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_json)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
