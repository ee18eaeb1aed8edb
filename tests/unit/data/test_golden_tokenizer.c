/* All tokenizer cases of the official implementations: ids equal, and decoding gives the text back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/json.h"
#include "tests/unit/data/fixture.h"

static int base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = strchr(digits, c);
    return c && p ? (int)(p - digits) : -1;
}

static void decode_base64(const char *text, rw_str *out) {
    uint32_t bits = 0;
    int n = 0;
    for (; *text && *text != '='; text++) {
        bits = bits << 6 | (uint32_t)base64_digit(*text);
        if ((n += 6) < 8) continue;
        n -= 8;
        char b = (char)(bits >> n);
        rw_str_append_n(out, &b, 1);
    }
}

static void check_case(const rw_tokenizer *t, const char *text, size_t n, json_t *want, int line) {
    int32_t *ids = rw_alloc_array(n + 1, sizeof *ids);
    uint16_t *short_ids = rw_alloc_array(n + 1, sizeof *short_ids);
    size_t n_ids = rw_tokenizer_encode(t, text, n, ids);
    if (n_ids != json_array_size(want)) fail_msg("line %d: %zu ids, expected %zu", line, n_ids, json_array_size(want));
    assert_int_equal(rw_tokenizer_encode_u16(t, text, n, short_ids), n_ids);
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("line %d: id %zu is %d, expected %lld", line, i, ids[i],
                     (long long)json_integer_value(json_array_get(want, i)));
        assert_int_equal(short_ids[i], ids[i]);
    }
    rw_str back = {0};
    rw_tokenizer_decode(t, ids, n_ids, &back);
    assert_int_equal(back.len, n);
    if (n) assert_memory_equal(back.data, text, n);
    rw_str_done(&back);
    rw_free(short_ids);
    rw_free(ids);
}

static void check_file(const char *name, const char *key) {
    rw_error err = {0};
    rw_tokenizer *t;
    char *data;
    int64_t n;
    const char *path = rw_golden_path(name);
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, world_vocab(), &err), RW_OK);
    assert_int_equal(rw_file_slurp(path, 1 << 30, &data, &n, &err), RW_OK);
    int line = 0;
    size_t n_bytes = 0;
    for (char *p = data, *next; p < data + n; p = next) {
        char *eol = memchr(p, '\n', (size_t)(data + n - p));
        next = eol ? eol + 1 : data + n;
        json_t *object;
        rw_where at = {.file = path, .line = ++line};
        assert_int_equal(rw_json_parse(p, (size_t)((eol ? eol : next) - p), at, &object, &err), RW_OK);
        json_t *value = json_object_get(object, key);
        rw_str text = {0};
        if (strcmp(key, "b64") == 0)
            decode_base64(json_string_value(value), &text);
        else
            rw_str_append_n(&text, json_string_value(value), json_string_length(value));
        check_case(t, text.len ? text.data : "", text.len, json_object_get(object, "ids"), line);
        n_bytes += text.len;
        rw_str_done(&text);
        json_decref(object);
    }
    rw_golden_report(rw_golden_dir(), "tokenizer", "%s %d cases, %zu bytes, all ids equal", rw_path_base(name), line,
                     n_bytes);
    assert_true(line > 0);
    rw_free(data);
    rw_tokenizer_close(t);
}

static void test_texts(void **state) {
    (void)state;
    check_file("tokenizer/cases.jsonl", "text");
}

static void test_bytes(void **state) {
    (void)state;
    check_file("tokenizer/cases_bytes.jsonl", "b64");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_texts), cmocka_unit_test(test_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
