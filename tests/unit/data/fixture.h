/* What the tests of core/data share: a small vocabulary, files in the scratch folder, a plan.
 * Include after cmocka.h. */
#ifndef RW_TESTS_UNIT_DATA_FIXTURE_H
#define RW_TESTS_UNIT_DATA_FIXTURE_H

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/data/data.h"
#include "core/data/tokenizer.h"
#include "tests/unit/golden.h"

#include <string.h>

static inline const char *write_bytes(const char *name, const void *bytes, size_t n) {
    rw_error err = {0};
    const char *path = rw_test_path(name);
    assert_int_equal(rw_write_file(path, bytes, (int64_t)n, &err), RW_OK);
    return path;
}

static inline const char *write_text(const char *name, const char *text) {
    return write_bytes(name, text, strlen(text));
}

/* Appends the 256 single bytes as ids 1..256. */
static inline void append_bytes_vocab(rw_str *s) {
    for (int b = 0; b < 256; b++) rw_str_appendf(s, b < 128 ? "%d '\\x%02x' 1\n" : "%d b'\\x%02x' 1\n", b + 1, b);
}

/* Appends entry `id` with these bytes, as a bytes literal. */
static inline void append_entry(rw_str *s, int id, const char *bytes, size_t n) {
    rw_str_appendf(s, "%d b'", id);
    for (size_t i = 0; i < n; i++) rw_str_appendf(s, "\\x%02x", (unsigned char)bytes[i]);
    rw_str_appendf(s, "' %zu\n", n);
}

/* The vocabulary that most tests use: bytes, and the words below from id 257 on. */
static inline const char *write_small_vocab(const char *name) {
    static const char *const words[] = {
        "ab",    "abc",         "abcd",   "abcde", "bc",       "cde",          "he",
        "hello", "hello world", " world", "  ",    "        ", "\xe4\xbd\xa0", "\xe4\xbd\xa0\xe5\xa5\xbd"};
    rw_str s = {0};
    append_bytes_vocab(&s);
    for (int i = 0; i < (int)(sizeof words / sizeof *words); i++) append_entry(&s, 257 + i, words[i], strlen(words[i]));
    const char *path = write_bytes(name, s.data, s.len);
    rw_str_done(&s);
    return path;
}

static inline void assert_message(const rw_error *err, const char *expected) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    assert_string_equal(text, expected);
}

static inline void assert_mentions(const rw_error *err, const char *part) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    if (!strstr(text, part)) fail_msg("'%s' does not mention '%s'", text, part);
}

/* The World vocabulary, from $RWKV_VOCAB or beside the golden files; skips when there is none. */
static inline const char *world_vocab(void) {
    return rw_golden_vocab();
}

#endif
