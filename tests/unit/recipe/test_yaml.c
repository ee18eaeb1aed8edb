/* YAML -> nodes: places, limits, hostile sizes, and a lack of memory at every allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/str.h"
#include "core/recipe/yaml.h"

#include <stdlib.h>
#include <string.h>

static rw_status parse(rw_arena *a, const char *text, size_t n, rw_node **root, rw_error *err) {
    return rw_yaml_parse(a, "r.yaml", text, n, root, err);
}

static void nodes_know_their_places(void **state) {
    (void)state;
    static const char text[] = "# first line\n"
                               "a:   1\n"
                               "模型: { b: [x, 'y z'], c: |\n"; /* the block scalar is wrong in a flow map */
    static const char good[] = "# first line\n"
                               "a:   1\n"
                               "模型: { b: [x, 'y z'], c: }\n";
    rw_arena arena = {0};
    rw_node *root = NULL;
    rw_error err = {0};
    assert_int_equal(parse(&arena, text, strlen(text), &root, &err), RW_E_RECIPE);
    assert_int_equal(err.at.line, 3);
    assert_int_equal(parse(&arena, good, strlen(good), &root, &err), RW_OK);
    assert_int_equal(root->n_child, 2);
    const rw_node *a = root->child, *m = a->next, *b = m->child, *c = b->next;
    assert_string_equal(a->at.key, "a");
    assert_int_equal(a->name_at.col, 1);
    assert_int_equal(a->at.col, 6);
    assert_int_equal(a->at.line, 2);
    assert_string_equal(b->at.key, "模型.b");
    assert_int_equal(b->name_at.col, 7); /* characters, not bytes */
    assert_string_equal(b->child->next->at.key, "模型.b[1]");
    assert_string_equal(b->child->next->text, "y z");
    assert_true(b->child->next->quoted);
    assert_string_equal(c->text, "");
    assert_false(c->quoted);
    rw_error_clear(&err);
    rw_arena_done(&arena);
}

static void repeat(rw_str *s, const char *text, int n) {
    for (int i = 0; i < n; i++) rw_str_append(s, text);
}

static void refuses(const rw_str *s, const char *message) {
    rw_arena arena = {0};
    rw_node *root = NULL;
    rw_error err = {0};
    assert_int_equal(parse(&arena, s->data, s->len, &root, &err), RW_E_RECIPE);
    if (!strstr(err.msg, message)) fail_msg("expected '%s' in '%s'", message, err.msg);
    rw_error_clear(&err);
    rw_arena_done(&arena);
}

static void limits_hold(void **state) {
    (void)state;
    rw_str s = {0};
    repeat(&s, "[", 300000);
    refuses(&s, "nested deeper than 16");
    rw_str_clear(&s);
    repeat(&s, "{a: ", 200000);
    refuses(&s, "nested deeper than 16");
    rw_str_clear(&s);
    rw_str_append(&s, "a: [");
    repeat(&s, "x,", 20000);
    rw_str_append(&s, "x]\n");
    refuses(&s, "more than 10000 values");
    rw_str_clear(&s);
    rw_str_append(&s, "a: ");
    repeat(&s, "x", 70000);
    refuses(&s, "a value of 70000 bytes");
    rw_str_clear(&s);
    repeat(&s, "k", 129);
    rw_str_append(&s, ": 1\n");
    refuses(&s, "a key of more than 128 bytes");
    rw_str_clear(&s);
    repeat(&s, "# comment\n", 120000);
    refuses(&s, "the limit is 1048576");
    rw_str_clear(&s);
    rw_str_append(&s, "a: \"x\\0y\"\n");
    refuses(&s, "a NUL byte");
    rw_str_clear(&s);
    rw_str_append_n(&s,
                    "\xff\xfe"
                    "a\0:\0",
                    6);
    refuses(&s, "UTF-16");
    rw_str_done(&s);
}

static void empty_texts_give_no_node(void **state) {
    (void)state;
    static const char *const texts[] = {"", "\xef\xbb\xbf", "# only a comment\n", "\n\n"};
    for (size_t i = 0; i < 4; i++) {
        rw_arena arena = {0};
        rw_node *root = (rw_node *)&arena;
        assert_int_equal(parse(&arena, texts[i], strlen(texts[i]), &root, NULL), RW_OK);
        assert_null(root);
        rw_arena_done(&arena);
    }
}

static void every_lack_of_memory_is_reported(void **state) {
    (void)state;
    rw_str s = {0};
    for (int i = 0; i < 200; i++) rw_str_appendf(&s, "key%d: { a: [one, two], b: '%d' }\n", i, i);
    int64_t live = rw_alloc_live();
    rw_status status = RW_E_MEMORY;
    int n = 0;
    while (status != RW_OK && ++n < 1000) {
        rw_arena arena = {0};
        rw_node *root = NULL;
        rw_error err = {0};
        rw_alloc_fail_after(n);
        status = parse(&arena, s.data, s.len, &root, &err);
        rw_alloc_fail_after(0);
        assert_true(status == RW_OK || status == RW_E_MEMORY);
        rw_error_clear(&err);
        rw_arena_done(&arena);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_true(n > 3 && n < 1000);
    rw_str_done(&s);
}

int main(void) {
    setenv("RWKV_LANG", "en", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_know_their_places),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(empty_texts_give_no_node),
        cmocka_unit_test(every_lack_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
