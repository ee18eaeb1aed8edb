/* jsonl to binidx: what is written, what is reported, and that a failure leaves nothing behind. */
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

#include <errno.h>
#include <unistd.h>

static const char lines[] = "{\"text\": \"ab\"}\n{\"text\": \"\"}\n\n{\"id\": 1, \"text\": \"c\"}\n";

static void expect_ids(const char *bin, const void *bytes, size_t size) {
    rw_error err = {0};
    char *data;
    int64_t n;
    assert_int_equal(rw_file_slurp(rw_test_path(bin), 1 << 20, &data, &n, &err), RW_OK);
    assert_int_equal(n, size);
    assert_memory_equal(data, bytes, size);
    rw_free(data);
}

static void test_layouts(void **state) {
    (void)state;
    rw_error err = {0};
    rw_tokenize_progress done;
    rw_tokenize_options options = {.tokenizer = RW_TOKENIZER_BYTE};
    const char *in = write_text("in.jsonl", lines);
    assert_int_equal(rw_tokenize_file(in, rw_test_path("new"), &options, NULL, NULL, &done, &err), RW_OK);
    expect_ids("new.bin", (uint16_t[]){98, 99, 0, 0, 100, 0}, 12);
    assert_int_equal(done.n_documents, 3);
    assert_int_equal(done.n_dropped, 0);
    assert_int_equal(done.n_tokens, 6);
    assert_int_equal(done.n_bytes, sizeof lines - 1);
    assert_int_equal(done.n_bytes_total, sizeof lines - 1);
    options.layout = RW_LAYOUT_PREPROCESS;
    assert_int_equal(rw_tokenize_file(in, rw_test_path("old"), &options, NULL, NULL, &done, &err), RW_OK);
    expect_ids("old_text_document.bin", (int32_t[]){98, 99, 0, 100, 0}, 20);
    assert_int_equal(done.n_documents, 2);
    assert_int_equal(done.n_dropped, 1);
    int fd;
    rw_binidx_info info;
    assert_int_equal(rw_binidx_open(&fd, &info, rw_test_path("old_text_document"), &err), RW_OK);
    close(fd);
    assert_int_equal(info.n_items, 2);
}

static rw_status count_calls(void *ctx, const rw_tokenize_progress *p, rw_error *err) {
    int *calls = ctx;
    (void)err;
    assert_in_range(p->n_bytes, 0, p->n_bytes_total);
    ++*calls;
    return RW_OK;
}

static rw_status stop_now(void *ctx, const rw_tokenize_progress *p, rw_error *err) {
    (void)ctx;
    (void)p;
    return rw_fail(err, RW_E_STOPPED, RW_AT_NONE, "stopped");
}

static void test_progress(void **state) {
    (void)state;
    rw_error err = {0};
    rw_str s = {0};
    rw_tokenize_options options = {.tokenizer = RW_TOKENIZER_BYTE};
    int calls = 0;
    while (s.len < 5 << 20) rw_str_append(&s, "{\"text\": \"a document of some length, again and again\"}\n");
    const char *in = write_bytes("in.jsonl", s.data, s.len);
    assert_int_equal(rw_tokenize_file(in, rw_test_path("p"), &options, count_calls, &calls, NULL, &err), RW_OK);
    assert_in_range(calls, 5, 7);
    assert_int_equal(rw_tokenize_file(in, rw_test_path("q"), &options, stop_now, NULL, NULL, &err), RW_E_STOPPED);
    assert_false(rw_exists(rw_test_path("q.bin")));
    rw_str_done(&s);
}

static rw_status count_name(void *ctx, const char *name, rw_error *err) {
    (void)err;
    *(int *)ctx += strstr(name, "gone") != NULL;
    return RW_OK;
}

static void expect_nothing_left(void) {
    rw_error err = {0};
    int n = 0;
    assert_int_equal(rw_dir_list(rw_test_folder(), count_name, &n, &err), RW_OK);
    assert_int_equal(n, 0);
}

static void expect_failure(const char *in, const rw_tokenize_options *options, rw_status code, const char *says) {
    rw_error err = {0};
    assert_int_equal(rw_tokenize_file(in, rw_test_path("gone"), options, NULL, NULL, NULL, &err), code);
    assert_mentions(&err, says);
    expect_nothing_left();
}

static void test_errors(void **state) {
    (void)state;
    rw_tokenize_options options = {.tokenizer = RW_TOKENIZER_BYTE};
    expect_failure(write_text("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"c}\n"), &options,
                   RW_E_DATA, "bad.jsonl:3:");
    expect_failure(write_text("bad.jsonl", "\n"), &options, RW_E_DATA, "no documents");
    expect_failure(rw_test_path("absent.jsonl"), &options, RW_E_IO, "absent.jsonl");
    options.tokenizer = RW_TOKENIZER_WORLD;
    expect_failure(write_text("bad.jsonl", lines), &options, RW_E_RECIPE, "vocabulary");
    rw_error err = {0};
    options.tokenizer = RW_TOKENIZER_BYTE;
    const char *in = write_text("in.jsonl", lines);
    assert_int_equal(rw_tokenize_file(in, "/nowhere/out", &options, NULL, NULL, NULL, &err), RW_E_IO);
    assert_mentions(&err, "/nowhere/out.bin");
}

static void test_faults(void **state) {
    (void)state;
    rw_tokenize_options options = {.tokenizer = RW_TOKENIZER_BYTE};
    char in[4096], out[4096]; /* the paths of golden.h do not last this long */
    snprintf(in, sizeof in, "%s", write_text("in.jsonl", lines));
    snprintf(out, sizeof out, "%s", rw_test_path("gone"));
    int64_t live = rw_alloc_live();
    for (int n = 1;; n++) {
        rw_error err = {0};
        rw_alloc_fail_after(n);
        rw_status s = rw_tokenize_file(in, out, &options, NULL, NULL, NULL, &err);
        rw_alloc_fail_after(0);
        assert_int_equal(rw_alloc_live(), live);
        if (s == RW_OK) break;
        assert_int_equal(s, RW_E_MEMORY);
    }
    unlink(rw_test_path("gone.bin"));
    unlink(rw_test_path("gone.idx"));
    rw_error err = {0};
    rw_fs_fail_after(1, ENOSPC);
    assert_int_equal(rw_tokenize_file(in, out, &options, NULL, NULL, NULL, &err), RW_E_IO);
    rw_fs_fail_after(0, 0);
    expect_nothing_left();
    assert_int_equal(rw_alloc_live(), live);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
