/* rw_tokenize_file() against the files of both official tools, byte by byte; and their files read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/data/binidx.h"
#include "core/data/tokenize.h"
#include "tests/unit/data/fixture.h"

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

static void check(const char *jsonl, const char *official, rw_tokenize_layout layout, const char *suffix) {
    rw_error err = {0};
    rw_tokenize_progress done;
    char name[300], path[300];
    rw_tokenize_options options = {.tokenizer = RW_TOKENIZER_WORLD, .vocab_file = world_vocab(), .layout = layout};
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
}

static void test_preprocess_data(void **state) {
    (void)state;
    check("docs.jsonl", "docs_text_document", RW_LAYOUT_PREPROCESS, "_text_document");
    check("sample.jsonl", "sample_text_document", RW_LAYOUT_PREPROCESS, "_text_document");
}

static void test_make_data(void **state) {
    (void)state;
    check("make1x.shuffled.jsonl", "make1x", RW_LAYOUT_MAKE_DATA, "");
    check("make3x.shuffled.jsonl", "make3x", RW_LAYOUT_MAKE_DATA, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_preprocess_data), cmocka_unit_test(test_make_data)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
