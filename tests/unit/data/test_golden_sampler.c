/* Magic primes and the offsets of the cubic sampler, as the official trainers compute them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/json.h"
#include "core/data/sampler.h"
#include "tests/unit/data/fixture.h"

static json_t *read_json(const char *path, const char *text, size_t n, int line) {
    rw_error err = {0};
    json_t *value;
    assert_int_equal(rw_json_parse(text, n, (rw_where){.file = path, .line = line}, &value, &err), RW_OK);
    return value;
}

static int64_t number(json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static void test_magic_prime(void **state) {
    (void)state;
    rw_error err = {0};
    char *text;
    int64_t n;
    const char *path = rw_golden_path("sampler/magic_prime.json");
    assert_int_equal(rw_file_slurp(path, 1 << 20, &text, &n, &err), RW_OK);
    json_t *list = read_json(path, text, (size_t)n, 1), *row;
    size_t i;
    json_array_foreach(list, i, row) {
        assert_int_equal(rw_sampler_magic_prime(number(row, "data_len"), number(row, "ctx_len")),
                         number(row, "magic_prime"));
    }
    rw_golden_report(rw_golden_dir(), "sampler", "%zu primes equal", json_array_size(list));
    assert_true(json_array_size(list) > 0);
    json_decref(list);
    rw_free(text);
}

static int check_offsets(json_t *row) {
    int64_t rank = number(row, "rank"), world = number(row, "world_size"), ctx_len = number(row, "ctx_len");
    json_t *offsets = json_object_get(row, "offsets"), *offset;
    size_t i;
    json_array_foreach(offsets, i, offset) {
        uint64_t ii = (uint64_t)(1 + number(row, "epoch") * 40320 + (int64_t)i * world + rank);
        int64_t at = rw_sampler_cubic(number(row, "magic_prime"), ctx_len, ii) + number(row, "my_pile_shift");
        assert_int_equal(at, json_integer_value(offset));
    }
    return (int)json_array_size(offsets);
}

static void test_offsets(void **state) {
    (void)state;
    rw_error err = {0};
    char *text;
    int64_t n;
    int line = 0, total = 0;
    const char *path = rw_golden_path("sampler/offsets.jsonl");
    assert_int_equal(rw_file_slurp(path, 1 << 20, &text, &n, &err), RW_OK);
    for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n")) {
        json_t *row = read_json(path, p, strlen(p), ++line);
        total += check_offsets(row);
        json_decref(row);
    }
    rw_golden_report(rw_golden_dir(), "sampler", "%d offsets of %d runs equal", total, line);
    assert_true(total > 0);
    rw_free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_magic_prime), cmocka_unit_test(test_offsets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
