/* The heap and the arena: zeroing, counting, injected failures, overflow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/arena.h"
#include "core/base/error.h"

#include <stdlib.h>
#include <string.h>

static void counts_and_zeroes(void **state) {
    (void)state;
    int64_t live = rw_alloc_live(), calls = rw_alloc_calls();
    unsigned char *p = rw_alloc(1000);
    for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
    char *empty = rw_alloc(0), *copy = rw_strdup("abc");
    assert_non_null(empty);
    assert_string_equal(copy, "abc");
    assert_null(rw_strdup(NULL));
    assert_int_equal(rw_alloc_live(), live + 3);
    assert_int_equal(rw_alloc_calls(), calls + 3);
    p = rw_realloc(p, 2000);
    assert_int_equal(rw_alloc_live(), live + 3);
    rw_free(p);
    rw_free(empty);
    rw_free(copy);
    rw_free(NULL);
    assert_int_equal(rw_alloc_live(), live);
}

static void refuses_overflow(void **state) {
    (void)state;
    size_t half = SIZE_MAX / 2 + 1; /* not a constant to the compiler's size checks */
    assert_null(rw_alloc_array(half, 2));
    assert_null(rw_alloc_array(half, half));
    void *items = NULL;
    size_t cap = 0;
    assert_false(rw_grow(&items, &cap, SIZE_MAX, 16));
    assert_int_equal(cap, 0);
    rw_arena a = {0};
    assert_null(rw_arena_alloc(&a, SIZE_MAX - 3));
}

static void grows_by_doubling(void **state) {
    (void)state;
    int *items = NULL;
    size_t cap = 0, n = 10000;
    int64_t calls = rw_alloc_calls();
    for (size_t i = 0; i < n; i++) {
        void *p = items;
        assert_true(rw_grow(&p, &cap, i + 1, sizeof *items));
        items = p;
        items[i] = (int)i;
    }
    for (size_t i = 0; i < n; i++) assert_int_equal(items[i], (int)i);
    assert_true(rw_alloc_calls() - calls < 20);
    rw_free(items);
}

static void fails_when_told(void **state) {
    (void)state;
    rw_alloc_fail_after(2);
    void *a = rw_alloc(8), *b = rw_alloc(8), *c = rw_alloc(8);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    rw_alloc_fail_after(1);
    assert_null(rw_realloc(a, 100));
    rw_alloc_fail_after(1);
    assert_null(rw_strdup("x"));
    rw_alloc_fail_after(1);
    assert_null(rw_alloc_pages(100));
    rw_alloc_fail_after(1);
    assert_null(rw_alloc_array(1, 1));
    rw_alloc_fail_after(0);
    rw_free(a);
    rw_free(c);
}

static void gives_pages(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    size_t n = 20u << 20;
    char *p = rw_alloc_pages(n);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_int_equal(p[0] | p[n - 1], 0);
    p[n - 1] = 1;
    assert_int_equal(rw_alloc_live(), live + 1);
    rw_free_pages(p, n);
    assert_int_equal(rw_alloc_live(), live);
}

static void says_how_much(void **state) {
    (void)state;
    rw_error err = {0};
    assert_int_equal(rw_fail_memory(&err, (size_t)3 << 30), RW_E_MEMORY);
    assert_string_equal(err.msg, "not enough memory for 3.00 GiB");
}

static void arena_keeps_addresses(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    rw_arena a = {0};
    char *texts[3000];
    for (int i = 0; i < 3000; i++) {
        texts[i] = rw_arena_printf(&a, "name %d", i);
        assert_int_equal((uintptr_t)texts[i] % 16, 0);
    }
    char *big = rw_arena_alloc(&a, 5u << 20), *copy = rw_arena_strndup(&a, "abcdef", 3);
    assert_int_equal(big[0] | big[(5u << 20) - 1], 0);
    assert_string_equal(copy, "abc");
    assert_string_equal(rw_arena_strdup(&a, "x"), "x");
    assert_null(rw_arena_strdup(&a, NULL));
    for (int i = 0; i < 3000; i++) assert_int_equal(strtol(texts[i] + 5, NULL, 10), i);
    assert_true(rw_alloc_live() - live < 12);
    rw_arena_done(&a);
    assert_int_equal(rw_alloc_live(), live);
    rw_alloc_fail_after(1);
    assert_null(rw_arena_strdup(&a, "x"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_and_zeroes),     cmocka_unit_test(refuses_overflow),
        cmocka_unit_test(grows_by_doubling),     cmocka_unit_test(fails_when_told),
        cmocka_unit_test(gives_pages),           cmocka_unit_test(says_how_much),
        cmocka_unit_test(arena_keeps_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
