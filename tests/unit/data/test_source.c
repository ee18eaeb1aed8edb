/* The list of formats; text and jsonl become the tokens that they should; what is wrong is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/data/source.h"
#include "tests/unit/data/fixture.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static rw_plan_data plan_for(rw_format_choice type, rw_tokenizer_choice tokenizer) {
    return (rw_plan_data){.data_type = type, .tokenizer = tokenizer, .vocab_size = 300};
}

static void expect_ids(const rw_plan_data *plan, const char *file, const int32_t *want, int64_t n) {
    rw_source s;
    rw_error err = {0};
    if (rw_source_open(&s, plan, file, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(s.n_tokens, n);
    int32_t ids[64];
    char scratch[256];
    assert_int_equal(rw_source_read(&s, 0, n, ids, scratch, &err), RW_OK);
    assert_memory_equal(ids, want, (size_t)n * 4);
    assert_int_equal(rw_source_read(&s, 1, n - 1, ids, scratch, &err), RW_OK);
    assert_memory_equal(ids, want + 1, (size_t)(n - 1) * 4);
    assert_int_equal(rw_source_read(&s, 1, n, ids, scratch, &err), RW_E_IO);
    rw_source_close(&s);
}

static void test_jsonl(void **state) {
    (void)state;
    const char *file = write_text("s.jsonl", "{\"text\": \"ab\"}\n\n{\"text\": \"\"}\n{\"text\": \"hello\"}\n");
    rw_plan_data plan = plan_for(RW_FORMAT_JSONL, RW_TOKENIZER_BYTE);
    expect_ids(&plan, write_text("e.jsonl", "{\"text\": \"\"}\n{\"text\": \"ab\"}\n"), (int32_t[]){0, 98, 99, 0}, 4);
    expect_ids(&plan, file, (int32_t[]){98, 99, 0, 0, 105, 102, 109, 109, 112, 0}, 10);
    plan.tokenizer = RW_TOKENIZER_WORLD;
    plan.vocab_file = write_small_vocab("vocab.txt");
    expect_ids(&plan, file, (int32_t[]){257, 0, 0, 264, 0}, 5);
}

static void test_text(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(RW_FORMAT_UTF8, RW_TOKENIZER_BYTE);
    expect_ids(&plan, write_text("t.txt", "ab\r\n"), (int32_t[]){98, 99, 14, 11, 0}, 5);
    expect_ids(&plan,
               write_text("t.txt", "\xef\xbb\xbf"
                                   "a"),
               (int32_t[]){98, 0}, 2);
    plan.tokenizer = RW_TOKENIZER_WORLD;
    plan.vocab_file = write_small_vocab("vocab.txt");
    expect_ids(&plan, write_text("t.txt", "abcdx\xe4\xbd\xa0\xe5\xa5\xbd"), (int32_t[]){259, 121, 270, 0}, 4);
}

/* Several MB, so that pieces cut characters and tokens: the same ids as in one go. */
static void test_text_in_pieces(void **state) {
    (void)state;
    static const char *const parts[] = {"hello world", "abcd", "\xe4\xbd\xa0\xe5\xa5\xbd", "\xf0\x9f\x98\x80", "x",
                                        "        ",    "\n"};
    rw_rng r = {.seed = 1};
    rw_str text = {0};
    rw_error err = {0};
    while (text.len < 3300000) rw_str_append(&text, parts[rw_rng_below(&r, 7)]);
    rw_plan_data plan = plan_for(RW_FORMAT_UTF8, RW_TOKENIZER_WORLD);
    plan.vocab_file = write_small_vocab("vocab.txt");
    rw_tokenizer *t;
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, plan.vocab_file, &err), RW_OK);
    int32_t *want = rw_alloc_array(text.len, 4), *got = rw_alloc_array(text.len, 4);
    char *scratch = rw_alloc_array(text.len, 4);
    size_t n = rw_tokenizer_encode(t, text.data, text.len, want);
    rw_source s;
    assert_int_equal(rw_source_open(&s, &plan, write_bytes("big.txt", text.data, text.len), &err), RW_OK);
    assert_int_equal(s.n_tokens, n + 1);
    assert_int_equal(s.n_documents, 1);
    assert_int_equal(s.n_bytes, text.len);
    assert_int_equal(rw_source_read(&s, 0, (int64_t)n + 1, got, scratch, &err), RW_OK);
    assert_memory_equal(got, want, n * 4);
    assert_int_equal(got[n], 0);
    rw_source_close(&s);
    rw_tokenizer_close(t);
    rw_free(want);
    rw_free(got);
    rw_free(scratch);
    rw_str_done(&text);
}

static void expect_failure(const rw_plan_data *plan, const char *file, rw_status code, const char *says) {
    rw_source s;
    rw_error err = {0};
    assert_int_equal(rw_source_open(&s, plan, file, &err), code);
    assert_mentions(&err, says);
}

static void test_bad_text(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(RW_FORMAT_UTF8, RW_TOKENIZER_BYTE);
    expect_failure(&plan,
                   write_text("e.txt", "one\ntwo\nthr\xe9"
                                       "e\n"),
                   RW_E_DATA, "byte 11 (0xe9) is not valid UTF-8");
    expect_failure(&plan,
                   write_text("e.txt", "one\ntwo\nthr\xe9"
                                       "e\n"),
                   RW_E_DATA, "e.txt:3:");
    expect_failure(&plan, write_text("e.txt", "cut \xe4\xbd"), RW_E_DATA, "byte 4 (0xe4)");
    expect_failure(&plan, write_text("e.txt", ""), RW_E_DATA, "no tokens");
    expect_failure(&plan, write_text("e.txt", "\xef\xbb\xbf"), RW_E_DATA, "no tokens");
    expect_failure(&plan, rw_test_path("absent.txt"), RW_E_IO, "absent.txt");
    expect_failure(&plan, rw_test_folder(), RW_E_IO, "folder");
    plan.vocab_size = 256;
    expect_failure(&plan, write_text("e.txt", "a"), RW_E_DATA, "ids up to 256, but the model's vocab_size is 256");
    plan.tokenizer = RW_TOKENIZER_NONE;
    expect_failure(&plan, write_text("e.txt", "a"), RW_E_UNSUPPORTED, "text needs a tokenizer");
}

/* Ids must be in 0 .. vocab_size-1; a negative one of an int32 file is none. */
static void test_ids(void **state) {
    (void)state;
    static const unsigned char idx[] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0,
                                        0,   0,   0,   0,   0,   2,   0,   0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
                                        0,   0,   0,   0,   0,   0,   0,   0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    rw_plan_data plan = plan_for(RW_FORMAT_BINIDX, RW_TOKENIZER_NONE);
    rw_error err = {0};
    rw_source s;
    int32_t ids[3] = {5, 299, 0}, got[3], scratch[3];
    write_bytes("ids.idx", idx, sizeof idx);
    for (int32_t bad = -1; bad <= 301; bad++) {
        ids[2] = bad;
        write_bytes("ids.bin", ids, sizeof ids);
        assert_int_equal(rw_source_open(&s, &plan, rw_test_path("ids"), &err), RW_OK);
        rw_status status = rw_source_read(&s, 0, 3, got, scratch, &err);
        assert_int_equal(status, bad >= 0 && bad < 300 ? RW_OK : RW_E_DATA);
        if (status == RW_OK) assert_memory_equal(got, ids, sizeof ids);
        rw_source_close(&s);
    }
    assert_mentions(&err, "token 2 has the id 301");
}

/* The temporary file: its folder may be missing, or full. */
static void test_no_room(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(RW_FORMAT_UTF8, RW_TOKENIZER_BYTE);
    rw_str text = {0};
    for (int i = 0; i < 200000; i++) rw_str_append(&text, "abc");
    const char *file = write_bytes("room.txt", text.data, text.len);
    setenv("TMPDIR", "/nowhere/at/all", 1);
    expect_failure(&plan, file, RW_E_IO, "/nowhere/at/all");
    unsetenv("TMPDIR");
    struct rlimit old, small = {100000, 100000};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    rw_source s;
    rw_error err = {0};
    rw_status status = rw_source_open(&s, &plan, file, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, RW_E_IO);
    assert_mentions(&err, "TMPDIR");
    rw_str_done(&text);
}

static void test_no_memory(void **state) {
    (void)state;
    rw_plan_data plans[2] = {plan_for(RW_FORMAT_UTF8, RW_TOKENIZER_WORLD),
                             plan_for(RW_FORMAT_JSONL, RW_TOKENIZER_WORLD)};
    plans[0].vocab_file = plans[1].vocab_file = write_small_vocab("vocab.txt");
    const char *files[2] = {write_text("m.txt", "hello world"), write_text("m.jsonl", "{\"text\": \"hello\"}\n")};
    for (int k = 0; k < 2; k++) {
        int64_t live = rw_alloc_live();
        int n = 0;
        for (rw_status status = RW_E_MEMORY; status != RW_OK;) {
            rw_source s;
            rw_error err = {0};
            rw_alloc_fail_after(++n);
            status = rw_source_open(&s, &plans[k], files[k], &err);
            rw_alloc_fail_after(0);
            if (status == RW_OK)
                rw_source_close(&s);
            else
                assert_int_equal(status, RW_E_MEMORY);
            assert_int_equal(rw_alloc_live(), live);
        }
        assert_true(n > 5);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jsonl),     cmocka_unit_test(test_text), cmocka_unit_test(test_text_in_pieces),
        cmocka_unit_test(test_bad_text),  cmocka_unit_test(test_ids),  cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
