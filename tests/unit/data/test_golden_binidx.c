/* rw_tokenize_file() against the files of both official tools, byte by byte; and their files read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/data/binidx.h"
#include "core/data/sampler.h"
#include "core/data/tokenize.h"
#include "tests/unit/data/fixture.h"

#include <jansson.h>
#include <unistd.h>

static void same_files(const char *ours, const char *theirs) {
    rw_error err = {0};
    char *a, *b;
    int64_t n_a, n_b;
    assert_int_equal(rw_file_slurp(ours, 1 << 30, &a, &n_a, &err), RW_OK);
    assert_int_equal(rw_file_slurp(theirs, 1 << 30, &b, &n_b, &err), RW_OK);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, (size_t)n_a);
    printf("%s: %lld bytes equal\n", rw_path_base(theirs), (long long)n_b);
    rw_free(a);
    rw_free(b);
}

static int n_pairs;

/* Returns the tokens. */
static int64_t check(const char *jsonl, const char *official, rw_tokenize_layout layout, const char *suffix) {
    rw_error err = {0};
    rw_tokenize_progress done;
    char name[300], path[300];
    rw_tokenize_options options = {
        .tokenizer = RW_TOKENIZER_WORLD, .vocab_file = world_vocab(), .layout = layout, .force = true};
    snprintf(name, sizeof name, "binidx/%s", jsonl);
    rw_status s = rw_tokenize_file(rw_golden_path(name), rw_test_path("out"), &options, NULL, NULL, &done, &err);
    assert_int_equal(s, RW_OK);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "out%s%s", suffix, i ? ".idx" : ".bin");
        snprintf(name, sizeof name, "binidx/%s%s", official, i ? ".idx" : ".bin");
        same_files(rw_test_path(path), rw_golden_path(name));
    }
    snprintf(name, sizeof name, "binidx/%s.bin", official);
    int fd;
    rw_binidx_info info;
    assert_int_equal(rw_binidx_open(&fd, &info, rw_golden_path(name), &err), RW_OK);
    close(fd);
    assert_int_equal(info.n_tokens, done.n_tokens);
    assert_int_equal(info.n_items, done.n_documents);
    n_pairs++;
    return info.n_tokens;
}

static const char *text_of(const json_t *j, const char *key) {
    return json_string_value(json_object_get(j, key));
}

/* One entry of info.json: what make_data.py wrote names the order of its lines; its magic prime is ours. */
static void check_entry(const char *official, const json_t *entry) {
    const char *shuffled = text_of(entry, "shuffled"), *jsonl = text_of(entry, "jsonl");
    assert_non_null(jsonl);
    if (!shuffled) {
        check(jsonl, official, RW_LAYOUT_PREPROCESS, "_text_document");
        return;
    }
    int64_t n_tokens = check(shuffled, official, RW_LAYOUT_MAKE_DATA, "");
    assert_int_equal(rw_sampler_magic_prime(n_tokens, json_integer_value(json_object_get(entry, "ctx_len"))),
                     json_integer_value(json_object_get(entry, "magic_prime")));
}

static void test_official_files(void **state) {
    (void)state;
    json_t *info = json_load_file(rw_golden_path("binidx/info.json"), 0, NULL), *entry;
    const char *name;
    assert_non_null(info);
    json_object_foreach(info, name, entry) if (text_of(entry, "by")) check_entry(name, entry);
    json_decref(info);
    rw_golden_report(rw_golden_dir(), "binidx", "%d pairs equal to the byte", n_pairs);
    assert_true(n_pairs > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_official_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
