/* Lines that are documents, lines that are not and what is said about them, and the quick reader against jansson. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/json.h"
#include "core/base/rng.h"
#include "core/data/jsonl.h"
#include "tests/unit/data/fixture.h"

/* Reads all documents, each followed by '|' in *out, until the end or an error. */
static rw_status read_all(rw_jsonl *r, rw_str *out, rw_error *err) {
    const char *text;
    size_t n;
    for (;;) {
        RW_TRY(rw_jsonl_next(r, &text, &n, err));
        if (!text) return RW_OK;
        rw_str_append_n(out, text, n);
        rw_str_append(out, "|");
    }
}

static void expect_documents(const char *jsonl, size_t n, const char *documents, size_t n_documents) {
    rw_jsonl r;
    rw_error err = {0};
    rw_str out = {0};
    assert_int_equal(rw_jsonl_open_memory(&r, "in.jsonl", jsonl, n, &err), RW_OK);
    if (read_all(&r, &out, &err) != RW_OK) fail_msg("%d:%d: %s", err.at.line, err.at.col, err.msg);
    assert_int_equal(out.len, n_documents);
    if (out.len) assert_memory_equal(out.data, documents, n_documents);
    rw_str_done(&out);
    rw_jsonl_close(&r);
}

#define DOCUMENTS(jsonl, documents) expect_documents(jsonl, sizeof(jsonl) - 1, documents, sizeof(documents) - 1)

static void test_good(void **state) {
    (void)state;
    DOCUMENTS("", "");
    DOCUMENTS("\n \n\t\r\n", "");
    DOCUMENTS("{\"text\": \"a\"}", "a|");
    DOCUMENTS("{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "a|b|");
    DOCUMENTS("\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n{\"text\": \"\"}\r\n", "a||");
    DOCUMENTS(" { \"text\" : \"a\" } \t\n", "a|");
    DOCUMENTS("{\"text\": \"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "\"\\/\b\f\n\r\t|");
    DOCUMENTS("{\"text\": \"\\u00e9\\u4f60\\ud83d\\ude00\\uD83D\\uDE00\"}",
              "\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\xf0\x9f\x98\x80|");
    DOCUMENTS("{\"text\": \"a\\u0000b\"}", "a\0b|");
    DOCUMENTS("{\"text\": \"\xe4\xbd\xa0 long enough to be read eight at a time \xe5\xa5\xbd\"}",
              "\xe4\xbd\xa0 long enough to be read eight at a time \xe5\xa5\xbd|");
    DOCUMENTS("{\"id\": 7, \"text\": \"a\", \"meta\": {\"text\": \"no\"}}", "a|"); /* not the quick reader's */
    DOCUMENTS("{\"text\": \"a\", \"id\": [1, 2]}", "a|");
    DOCUMENTS("{\"n\": 9223372036854775808, \"text\": \"a\"}", "a|"); /* as Python writes them */
    DOCUMENTS("{\"n\": 1e999, \"m\": [NaN, Infinity, {\"x\": -Infinity}], \"text\": \"a\"}", "a|");
    DOCUMENTS("{\"text\": \"a\", \"half\": \"\\ud83d\", \"k\": \"\\\\\", \"k\": \"\xff } \\\" ]\"}", "a|");
    DOCUMENTS("{\"text\": \"a\", \"e\": {}, \"f\": [], \"t\": true, \"u\": null, \"v\": false}", "a|");
    DOCUMENTS("{\"\\u0074ext\": \"a\"}", "a|");
}

static void test_bad(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int col; /* 0: any */
        const char *says[3];
    } rows[] = {
        {"{\"text\": \"abc}", 0, {"quote", "near: {\"text\": \"abc}"}},
        {"{\"text\": \"a\" \"b\"}", 0, {"not valid JSON", "near"}},
        {"{\"text\": \"a\"} x", 0, {"not valid JSON"}},
        {"{'text': 'a'}", 0, {"not valid JSON", "near: {'text'"}},
        {"{\"text\": \"a\\ud800b\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\\udc00\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\\udc00\\udc00\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\\ud800\\ue000\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\\ud800\\ud800\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\\ud800\\u0041\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"tab\there\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"\\x41\"}", 0, {"not valid JSON"}},
        {"{\"text\": \"\xff\"}", 0, {"UTF-8"}},
        {"{\"text\": \"\xed\xa0\x80\"}", 0, {"UTF-8"}},
        {"{\"text\": \"a\", \"text\": \"b\"}", 0, {"duplicate"}},
        {"{\"text\": 5}", 1, {"'text' is not a string"}},
        {"{\"text\": null}", 1, {"'text' is not a string"}},
        {"{\"text\": \"a\", \"b\": [1, 2}}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\", \"b\": \"c}", 0, {"quote"}},
        {"{\"text\": \"a\", \"b\": [1, [2]}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\", \"b\": nil}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\", \"b\" 1}", 0, {"not valid JSON"}},
        {"{\"text\": \"a\", }", 0, {"not valid JSON"}},
        {"{\"text\": NaN}", 0, {"not valid JSON"}},
        {"[\"text\"]", 1, {"expected an object"}},
        {"\"text\"", 1, {"expected an object"}},
        {"{}", 1, {"no key 'text'", "none"}},
        {"{\"Text\": \"a\", \"id\": 1}", 1, {"'Text', 'id'", "should 'Text' be 'text'?"}},
        {"{\"prompt\": \"a\", \"answer\": \"b\"}", 1, {"'prompt', 'answer'", "whole document"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[300];
        rw_jsonl r;
        rw_error err = {0};
        rw_str out = {0};
        int n = snprintf(text, sizeof text, "{\"text\": \"a\"}\n\n%s\n{\"text\": \"b\"}\n", rows[i].line);
        assert_int_equal(rw_jsonl_open_memory(&r, "in.jsonl", text, (size_t)n, &err), RW_OK);
        if (read_all(&r, &out, &err) != RW_E_DATA) fail_msg("accepted or not E_DATA: %s", rows[i].line);
        assert_string_equal(err.at.file, "in.jsonl");
        assert_int_equal(err.at.line, 3);
        if (rows[i].col) assert_int_equal(err.at.col, rows[i].col);
        assert_true(err.at.col > 0);
        assert_string_equal(out.data, "a|");
        for (int k = 0; k < 3 && rows[i].says[k]; k++) assert_mentions(&err, rows[i].says[k]);
        rw_str_done(&out);
        rw_jsonl_close(&r);
    }
}

/* Files that are no lines of UTF-8: what they are, and the command that converts them. */
static void test_kinds(void **state) {
    (void)state;
#define BYTES(text) text, sizeof(text) - 1
    static const struct {
        const char *bytes;
        size_t n;
        const char *says[2];
    } rows[] = {
        {BYTES("\x1f\x8b\x08\0\0\0\0\0"), {"this is gzip", "first run: zcat < '"}},
        {BYTES("PK\3\4\x14\0\0\0"), {"this is zip", "funzip < '"}},
        {BYTES("\x28\xb5\x2f\xfd\0"), {"this is zstd", "zstd -dc < '"}},
        {BYTES("\xff\xfe{\0\"\0"), {"this is UTF-16", "iconv -f UTF-16 -t UTF-8 < '"}},
        {BYTES("{\0\"\0t\0"), {"this is UTF-16LE", "iconv -f UTF-16LE -t UTF-8"}},
        {BYTES("\0{\0\"\0t"), {"this is UTF-16BE", "iconv -f UTF-16BE -t UTF-8"}},
        {BYTES("\n [\n{\"text\": \"a\"},\n"), {"this is one JSON array", "python3 -c "}},
        {BYTES("[{\"text\": \"a\"}]"), {"one object a line", "json.load"}},
        {BYTES("{\"text\": \"\xc4\xe3\xba\xc3\xa3\xac\xca\xc0\xbd\xe7\"}\n"), {":1:11: byte 10 (0xc4)", "GB18030"}},
        {BYTES("{\"text\": \"caf\xe9\"}\n"), {"byte 13 (0xe9) is not valid UTF-8; if", "iconv converts it"}},
        {BYTES("{\"text\": \"\xe4\xbd\"}\n"), {"is not valid UTF-8; if"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_jsonl r;
        rw_error err = {0};
        rw_str out = {0};
        rw_status s = rw_jsonl_open(&r, write_bytes("kind.jsonl", rows[i].bytes, rows[i].n), &err);
        if (s == RW_OK) s = read_all(&r, &out, &err);
        assert_int_equal(s, RW_E_DATA);
        for (int k = 0; k < 2 && rows[i].says[k]; k++) assert_mentions(&err, rows[i].says[k]);
        rw_jsonl_close(&r);
        rw_str_done(&out);
    }
}

/* An excerpt is at most 40 characters about the place, in whole characters. */
static void test_excerpt(void **state) {
    (void)state;
    rw_str s = {0}, out = {0};
    rw_jsonl r;
    rw_error err = {0};
    rw_str_append(&s, "{\"text\": \"");
    for (int i = 0; i < 300; i++) rw_str_append(&s, "\xe4\xbd\xa0");
    rw_str_append(&s, "\\q");
    for (int i = 0; i < 300; i++) rw_str_append(&s, "\xe5\xa5\xbd");
    rw_str_append(&s, "\"}");
    assert_int_equal(rw_jsonl_open_memory(&r, "in.jsonl", s.data, s.len, &err), RW_OK);
    assert_int_equal(read_all(&r, &out, &err), RW_E_DATA);
    const char *near = strstr(err.msg, "near: ");
    assert_non_null(near);
    near += 6;
    assert_int_equal(rw_utf8_valid_prefix(near, strlen(near)), strlen(near));
    assert_true(strlen(near) <= 40 * 4 && strlen(near) > 40);
    assert_non_null(strstr(near, "\\q"));
    rw_jsonl_close(&r);
    rw_str_done(&s);
}

/* What the quick reader takes is what jansson makes of the same line. */
static void test_same_as_jansson(void **state) {
    (void)state;
    static const char *const parts[] = {
        "a",    "\\n",     "\\u00e9",      "\\ud83d\\ude00", "\\ud83d",           "\\u0000", "\\\"",
        "\\\\", "\\q",     "\xe4\xbd\xa0", "\xe4",           "\xed\xa0\x80",      "\x01",    "\x7f",
        "\"",   "},{",     "\\u12g4",      "\\u12",          "quitelongplainrun", "\\/",     "\\",
        " ",    "\xc0\x80"};
    rw_rng r = {.seed = 3};
    int n_good = 0;
    for (int round = 0; round < 20000; round++) {
        rw_str line = {0}, out = {0};
        rw_error err = {0}, ignored = {0};
        rw_jsonl in;
        json_t *value = NULL;
        rw_str_append(&line, "{\"text\": \"");
        int n = (int)rw_rng_below(&r, 6);
        for (int i = 0; i < n; i++) rw_str_append(&line, parts[rw_rng_below(&r, sizeof parts / sizeof *parts)]);
        rw_str_append(&line, "\"}");
        assert_int_equal(rw_jsonl_open_memory(&in, "in", line.data, line.len, &err), RW_OK);
        rw_status ours = read_all(&in, &out, &err);
        rw_status theirs = rw_json_parse(line.data, line.len, (rw_where){.line = 1}, &value, &ignored);
        json_t *text = json_object_get(value, "text");
        if ((ours == RW_OK) != (theirs == RW_OK)) fail_msg("they disagree about %s", line.data);
        if (ours == RW_OK) {
            assert_int_equal(out.len, json_string_length(text) + 1);
            assert_memory_equal(out.data, json_string_value(text), out.len - 1);
            n_good++;
        }
        json_decref(value);
        rw_jsonl_close(&in);
        rw_str_done(&line);
        rw_str_done(&out);
    }
    assert_in_range(n_good, 1000, 19000);
}

/* From a file, in pieces of 1 MB: lines across the borders, one of several MB, no line end at the end. */
static void test_pieces(void **state) {
    (void)state;
    rw_str file = {0}, want = {0}, got = {0};
    for (int i = 0; i < 300; i++) {
        size_t n = i == 150 ? 3000000 : (size_t)(i * 37) % 20000;
        rw_str_append(&file, i % 3 ? "{\"text\": \"" : "{\"n\": 1, \"text\": \"");
        for (size_t j = 0; j < n; j++) rw_str_append_n(&file, &"abcdefghij"[j % 10], 1);
        for (size_t j = 0; j < n; j++) rw_str_append_n(&want, &"abcdefghij"[j % 10], 1);
        rw_str_append(&file, i < 299 ? "\"}\n" : "\"}");
        rw_str_append(&want, "|");
    }
    rw_error err = {0};
    rw_jsonl r;
    assert_int_equal(rw_jsonl_open(&r, write_bytes("big.jsonl", file.data, file.len), &err), RW_OK);
    assert_int_equal(read_all(&r, &got, &err), RW_OK);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.data, want.data, want.len);
    assert_int_equal(rw_jsonl_position(&r), file.len);
    assert_int_equal(r.line, 300);
    rw_jsonl_close(&r);
    rw_str_done(&file);
    rw_str_done(&want);
    rw_str_done(&got);
}

static void test_no_memory(void **state) {
    (void)state;
    const char *path =
        write_text("m.jsonl", "{\"text\": \"a\"}\n{\"\\u0078\": [1, {}], \"text\": \"b\"}\n{\"text\": \"c\"}\n");
    int64_t live = rw_alloc_live();
    int n = 0;
    for (rw_status s = RW_E_MEMORY; s != RW_OK;) {
        rw_error err = {0};
        rw_jsonl r;
        const char *text;
        size_t len;
        rw_alloc_fail_after(++n);
        s = rw_jsonl_open(&r, path, &err);
        bool opened = s == RW_OK;
        for (int i = 0; i < 4 && s == RW_OK; i++) s = rw_jsonl_next(&r, &text, &len, &err);
        rw_alloc_fail_after(0);
        if (opened) rw_jsonl_close(&r);
        /* jansson calls a string that it found no memory for a syntax error */
        if (s != RW_OK && s != RW_E_MEMORY) assert_mentions(&err, "not valid JSON");
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_true(n > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_excerpt),
        cmocka_unit_test(test_same_as_jansson),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
