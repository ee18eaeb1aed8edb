/* Scripts that overflow the C stack or loop where nothing interrupts: each of tests/hostile/hooks must end with the
 * error of its first line, soon after its time is up, with 8 MiB of stack, whatever the shell's `ulimit -s` says. */
#include "tests/unit/lua/lua_test.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#define BUDGET_MS 250
#define LATE_MS   2500 /* a look at the clock may be one pass over 256 MiB away */

static int n_run;

/* "-- expect: TEXT", or "-- expect: TEXT|TEXT" where the machine decides which comes first */
static void read_expectation(const char *path, char expected[200]) {
    static const char head[] = "-- expect: ";
    char *text = NULL;
    int64_t n = 0;
    rw_error err = {0};
    assert_int_equal(rw_file_slurp(path, 1 << 20, &text, &n, &err), RW_OK);
    if (strncmp(text, head, sizeof head - 1) != 0) fail_msg("%s: begins without '%s'", path, head);
    const char *from = text + sizeof head - 1;
    snprintf(expected, 200, "%.*s", (int)strcspn(from, "\n"), from);
    rw_free(text);
}

static bool contains_one(const char *text, const char *choices) {
    char copy[200];
    char *rest = NULL;
    snprintf(copy, sizeof copy, "%s", choices);
    for (char *part = strtok_r(copy, "|", &rest); part; part = strtok_r(NULL, "|", &rest))
        if (strstr(text, part)) return true;
    return false;
}

static void ends_with(const char *path, const char *expected) {
    bench b = {.plan = {.budget_ms = BUDGET_MS, .memory_bytes = 256 << 20}};
    const clock_t begin = clock();
    if (getenv("RWKV_TEST_VERBOSE")) fprintf(stderr, "%s\n", path);
    if (open_hooks(&b, path, NULL) == RW_OK) fail_msg("%s: no error", path);
    const int64_t ms = (int64_t)(clock() - begin) * 1000 / CLOCKS_PER_SEC; /* of the processor: others use it too */
    if (!contains_one(error_of(&b), expected)) fail_msg("%s: expected '%s', got: %s", path, expected, b.text);
    if (ms > BUDGET_MS + LATE_MS) fail_msg("%s: took %lld ms", path, (long long)ms);
    if (getenv("RWKV_TEST_VERBOSE")) fprintf(stderr, "  %lld ms: %s\n", (long long)ms, b.text);
    close_hooks(&b);
    n_run++;
}

/* From a copy, beside which the test has written more. */
static rw_status run_one(void *ctx, const char *name, rw_error *err) {
    char from[700], expected[200];
    char *text = NULL;
    int64_t n = 0;
    snprintf(from, sizeof from, "%s/%s", (const char *)ctx, name);
    read_expectation(from, expected);
    assert_int_equal(rw_file_slurp(from, 1 << 20, &text, &n, err), RW_OK);
    const char *path = write_script(name, text);
    rw_free(text);
    ends_with(path, expected);
    return RW_OK;
}

/* -- what is too large for a file -------------------------------------------------------------------- */

static void write_long_expression(void) {
    enum { TERMS = 120000 };
    char *text = malloc(TERMS * 6 + 100);
    char *at = text + sprintf(text, "local a\nreturn a");
    for (int i = 1; i < TERMS; i++) at += sprintf(at, " or a");
    write_script("or_terms_text.lua", text);
    free(text);
}

static void write_chain(void) {
    for (int i = 1; i <= 3000; i++) {
        char name[40], text[60];
        snprintf(name, sizeof name, "chain_%d.lua", i);
        snprintf(text, sizeof text, "local x = require 'chain_%d' return x", i + 1);
        write_script(name, text);
    }
}

static void test_hostile_hooks(void **state) {
    (void)state;
    rw_error err = {0};
    char dir[600];
    write_long_expression();
    write_chain();
    snprintf(dir, sizeof dir, "%s", rw_source_path("tests/hostile/hooks"));
    assert_int_equal(rw_dir_list(dir, run_one, dir, &err), RW_OK);
    print_message("%d hostile hooks\n", n_run);
    assert_true(n_run > 10);
}

int main(void) {
    struct rlimit stack;
    getrlimit(RLIMIT_STACK, &stack);
    stack.rlim_cur = 8 << 20;
    setrlimit(RLIMIT_STACK, &stack);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hostile_hooks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
