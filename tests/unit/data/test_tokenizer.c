/* The tokenizer on vocabularies made here: escapes, errors with their line, the trie against the plain definition of
 * greedy longest match, text in pieces, and lack of memory at every call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "tests/unit/data/fixture.h"

#include <unistd.h>

static rw_status parse(rw_tokenizer **t, const char *text, rw_error *err) {
    return rw_tokenizer_parse(t, "vocab.txt", text, strlen(text), err);
}

static void check_entry(const rw_tokenizer *t, int64_t id, const char *bytes, size_t n) {
    size_t len;
    const char *p = rw_tokenizer_token_at(t, id, &len);
    if (!p || len != n || memcmp(p, bytes, n) != 0) fail_msg("id %d is not what it should be", (int)id);
}

/* -- reading ---------------------------------------------------------------------------------------- */

static void test_literals(void **state) {
    (void)state;
    static const struct {
        const char *line, *bytes;
        size_t n;
    } rows[] = {
        {"257 'plain text' 10", "plain text", 10},
        {"258 \"it's\" 4", "it's", 4},
        {"259 '\\'\"\\\\' 3", "'\"\\", 3},
        {"260 '\\n\\r\\t\\a\\b\\f\\v' 7", "\n\r\t\a\b\f\v", 7},
        {"261 '\\xe9x' 3", "\xc3\xa9x", 3}, /* in a string a code point */
        {"262 b'\\xe9x' 2", "\xe9x", 2},    /* in bytes a byte */
        {"263 '\\u4f60\\U0001f600' 7", "\xe4\xbd\xa0\xf0\x9f\x98\x80", 7},
        {"264 '\\101\\0z' 3", "A\0z", 3},
        {"265 '\\$\\d' 4", "\\$\\d", 4}, /* an unknown escape keeps its backslash */
        {"266 b'\\u12' 4", "\\u12", 4},
        {"267 '\xe4\xbd\xa0\xe5\xa5\xbd' 6", "\xe4\xbd\xa0\xe5\xa5\xbd", 6},
        {"268 ' a  b ' 6", " a  b ", 6},
        {"269 u'uu' 2\r", "uu", 2},
        {"270 '\\351' 2", "\xc3\xa9", 2},
        {"271 b'\\351y' 2", "\xe9y", 2},
    };
    rw_str s = {0};
    rw_error err = {0};
    rw_tokenizer *t;
    append_bytes_vocab(&s);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) rw_str_appendf(&s, "%s\n", rows[i].line);
    if (parse(&t, s.data, &err) != RW_OK) fail_msg("line %d: %s", err.at.line, err.msg);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_entry(t, 257 + (int64_t)i, rows[i].bytes, rows[i].n);
    for (int b = 0; b < 256; b++) check_entry(t, b + 1, (char[]){(char)b}, 1);
    assert_int_equal(rw_tokenizer_vocab_size(t), 272);
    size_t n;
    assert_null(rw_tokenizer_token_at(t, 0, &n));
    assert_null(rw_tokenizer_token_at(t, 272, &n));
    assert_null(rw_tokenizer_token_at(t, -1, &n));
    rw_tokenizer_close(t);
    rw_str_done(&s);
}

#define NOT_A_LINE "not a line of a World vocabulary (id 'text' length): "

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *line, *message;
    } rows[] = {
        {"x 'a' 1", "vocab.txt:2: " NOT_A_LINE "expected an id and a space"},
        {"7", "vocab.txt:2: " NOT_A_LINE "expected an id and a space"},
        {"7 a 1", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 'a 1", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 '\\xg0' 1", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 '\\ud800' 3", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 '\\N{BEL}' 1", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 b'\xc3\xa9' 2", "vocab.txt:2: " NOT_A_LINE "the text is not a Python string or bytes literal"},
        {"7 '\xff' 1", "vocab.txt:2: " NOT_A_LINE "it is not valid UTF-8"},
        {"7 'a'", "vocab.txt:2: " NOT_A_LINE "expected the length in bytes"},
        {"7 'a' 1 2", "vocab.txt:2: " NOT_A_LINE "there is more after the length"},
        {"7 'ab' 1", "vocab.txt:2: id 7 has 2 bytes, but the line says 1"},
        {"7 '' 0", "vocab.txt:2: id 7 has 0 bytes, but the line says 0"},
        {"0 'a' 1", "vocab.txt:2: id 0: expected 1 .. 65535 (0 ends a document)"},
        {"65536 'a' 1", "vocab.txt:2: id 65536: expected 1 .. 65535 (0 ends a document)"},
        {"99999999999999999999 'a' 1", "vocab.txt:2: " NOT_A_LINE "expected an id and a space"},
        {"300 'b' 1", "vocab.txt:2: id 300 occurs twice"},
        {"301 'a' 1", "vocab.txt: ids 300 and 301 have the same text"},
        {"301 'b' 1", "vocab.txt: no entry for the single byte 0x00: some texts could not be encoded"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[200];
        rw_error err = {0};
        rw_tokenizer *t;
        snprintf(text, sizeof text, "300 'a' 1\n%s\n", rows[i].line);
        assert_int_equal(parse(&t, text, &err), RW_E_FORMAT);
        assert_null(t);
        assert_message(&err, rows[i].message);
    }
    rw_error err = {0};
    rw_tokenizer *t;
    assert_int_equal(parse(&t, "\n\n", &err), RW_E_FORMAT);
    assert_message(&err, "vocab.txt: the vocabulary is empty");
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_NONE, NULL, &err), RW_E_UNSUPPORTED);
    assert_mentions(&err, "world or byte");
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, "/nowhere/vocab.txt", &err), RW_E_IO);
    assert_mentions(&err, "/nowhere/vocab.txt");
}

static void test_long_entry(void **state) {
    (void)state;
    rw_str s = {0};
    char long_text[1025];
    memset(long_text, 'x', sizeof long_text);
    rw_error err = {0};
    rw_tokenizer *t;
    append_bytes_vocab(&s);
    append_entry(&s, 300, long_text, 1024);
    assert_int_equal(parse(&t, s.data, &err), RW_OK);
    rw_tokenizer_close(t);
    append_entry(&s, 301, long_text, 1025);
    assert_int_equal(parse(&t, s.data, &err), RW_E_FORMAT);
    assert_int_equal(err.at.line, 258);
    rw_str_done(&s);
}

/* -- the trie against the definition ------------------------------------------------------------------ */

#define N_WORDS 400

typedef struct {
    char bytes[12];
    size_t n;
} word;

/* Words over few letters, so that they share beginnings and text meets them. */
static size_t random_words(rw_rng *r, word *words) {
    size_t n = 0;
    while (n < N_WORDS) {
        word w = {.n = 2 + rw_rng_below(r, 10)};
        for (size_t i = 0; i < w.n; i++) w.bytes[i] = "ab\xe4\xff"[rw_rng_below(r, 4)];
        size_t same = 0;
        while (same < n && (words[same].n != w.n || memcmp(words[same].bytes, w.bytes, w.n) != 0)) same++;
        if (same == n) words[n++] = w;
    }
    return n;
}

static int32_t longest(const word *words, const char *p, size_t left, size_t *n) {
    int32_t id = (unsigned char)*p + 1;
    *n = 1;
    for (int i = 0; i < N_WORDS; i++)
        if (words[i].n > *n && words[i].n <= left && memcmp(words[i].bytes, p, words[i].n) == 0)
            *n = words[i].n, id = 257 + i;
    return id;
}

static void check_text(const rw_tokenizer *t, const word *words, const char *text, size_t n) {
    int32_t ids[300];
    size_t n_ids = rw_tokenizer_encode(t, text, n, ids), at = 0, len;
    for (size_t i = 0; i < n_ids; i++, at += len) {
        assert_true(at < n);
        assert_int_equal(ids[i], longest(words, text + at, n - at, &len));
    }
    assert_int_equal(at, n);
}

static void test_longest_match(void **state) {
    (void)state;
    static word words[N_WORDS];
    rw_rng r = {.seed = 5};
    for (int round = 0; round < 4; round++) {
        rw_str s = {0};
        rw_error err = {0};
        rw_tokenizer *t;
        random_words(&r, words);
        append_bytes_vocab(&s);
        for (int i = 0; i < N_WORDS; i++) append_entry(&s, 257 + i, words[i].bytes, words[i].n);
        assert_int_equal(parse(&t, s.data, &err), RW_OK);
        for (int i = 0; i < 500; i++) {
            char text[300];
            size_t n = rw_rng_below(&r, sizeof text);
            for (size_t j = 0; j < n; j++) text[j] = "aabb\xe4\xff\x80z"[rw_rng_below(&r, 8)];
            check_text(t, words, text, n);
        }
        rw_tokenizer_close(t);
        rw_str_done(&s);
    }
}

/* Any cut of a text into pieces gives the ids of the whole. */
static void test_pieces(void **state) {
    (void)state;
    static const char text[] = "hello hello world abcdabcdeabc  \xe4\xbd\xa0\xe5\xa5\xbd          he";
    rw_error err = {0};
    rw_tokenizer *t;
    uint16_t whole[100], part[100];
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, write_small_vocab("vocab.txt"), &err), RW_OK);
    size_t n = sizeof text - 1, n_whole = rw_tokenizer_encode_u16(t, text, n, whole);
    for (size_t piece = 1; piece <= n; piece++) {
        size_t used = 0, n_part = 0, n_ids;
        for (size_t end = piece; end < n; end += piece) {
            used += rw_tokenizer_encode_part(t, text + used, end - used, part + n_part, &n_ids);
            n_part += n_ids;
        }
        n_part += rw_tokenizer_encode_u16(t, text + used, n - used, part + n_part);
        assert_int_equal(n_part, n_whole);
        assert_memory_equal(part, whole, n_whole * sizeof *whole);
    }
    rw_tokenizer_close(t);
}

static void test_byte(void **state) {
    (void)state;
    rw_error err = {0};
    rw_tokenizer *t;
    char text[256];
    int32_t ids[256];
    rw_str back = {0};
    for (int i = 0; i < 256; i++) text[i] = (char)i;
    assert_int_equal(rw_tokenizer_open(&t, RW_TOKENIZER_BYTE, NULL, &err), RW_OK);
    assert_int_equal(rw_tokenizer_vocab_size(t), 257);
    assert_int_equal(rw_tokenizer_encode(t, text, 256, ids), 256);
    for (int i = 0; i < 256; i++) assert_int_equal(ids[i], i + 1);
    rw_tokenizer_decode(t, ids, 256, &back);
    rw_tokenizer_decode(t, (int32_t[]){0, 257, 70000, -5}, 4, &back); /* these have no bytes */
    assert_int_equal(back.len, 256);
    assert_memory_equal(back.data, text, 256);
    assert_int_equal(rw_tokenizer_encode(t, NULL, 0, NULL), 0);
    rw_str_done(&back);
    rw_tokenizer_close(t);
}

static void test_no_memory(void **state) {
    (void)state;
    const char *path = write_small_vocab("vocab.txt");
    rw_tokenizer *t = NULL;
    int64_t live = rw_alloc_live();
    int n = 0;
    for (rw_status s = RW_E_MEMORY; s != RW_OK;) {
        rw_error err = {0};
        rw_alloc_fail_after(++n);
        s = rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, path, &err);
        rw_alloc_fail_after(0);
        if (s == RW_OK) break;
        assert_int_equal(s, RW_E_MEMORY);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_true(n > 5);
    rw_tokenizer_close(t);
    assert_int_equal(rw_alloc_live(), live);
}

/* -- where the vocabulary lies ------------------------------------------------------------------------ */

static void test_find(void **state) {
    (void)state;
    rw_error err = {0};
    char *path;
    unsetenv("RWKV_VOCAB");
    const char *folder = rw_test_folder();
    unlink(rw_test_path(RW_VOCAB_NAME));
    assert_int_equal(rw_vocab_find(NULL, folder, &path, &err), RW_E_RECIPE);
    assert_mentions(&err, "pip download");
    assert_mentions(&err, "RWKV-LM");
    assert_null(path);

    write_small_vocab(RW_VOCAB_NAME);
    assert_int_equal(rw_vocab_find(NULL, folder, &path, &err), RW_OK);
    assert_string_equal(path, rw_test_path(RW_VOCAB_NAME));
    rw_free(path);

    setenv("RWKV_VOCAB", write_small_vocab("from_env.txt"), 1);
    assert_int_equal(rw_vocab_find(NULL, folder, &path, &err), RW_OK);
    assert_string_equal(path, rw_test_path("from_env.txt"));
    rw_free(path);

    write_small_vocab("from_key.txt");
    assert_int_equal(rw_vocab_find("from_key.txt", folder, &path, &err), RW_OK);
    assert_string_equal(path, rw_test_path("from_key.txt"));
    rw_free(path);
    assert_int_equal(rw_vocab_find("absent.txt", folder, &path, &err), RW_E_RECIPE);
    assert_mentions(&err, "absent.txt");
    setenv("RWKV_VOCAB", "/nowhere/v.txt", 1);
    assert_int_equal(rw_vocab_find(NULL, folder, &path, &err), RW_E_RECIPE);
    assert_mentions(&err, "$RWKV_VOCAB");
    unsetenv("RWKV_VOCAB");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_literals), cmocka_unit_test(test_errors),        cmocka_unit_test(test_long_entry),
        cmocka_unit_test(test_pieces),   cmocka_unit_test(test_longest_match), cmocka_unit_test(test_byte),
        cmocka_unit_test(test_find),     cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
