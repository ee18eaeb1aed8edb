/* Log lines: levels, prefixes, and the calls around each line. Standard error goes to a file meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "tests/unit/golden.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void before(void *ctx) {
    fprintf(stderr, "<%s", (const char *)ctx);
}
static void after(void *ctx) {
    fprintf(stderr, "%s>\n", (const char *)ctx);
}

static void write_lines(void) {
    rw_debug("not at this level");
    rw_info("%d tokens", 5);
    rw_log_set_level(RW_LOG_WARN);
    rw_info("not now");
    rw_warn("careful");
    char name[] = "bar";
    rw_log_set_around(before, after, name);
    rw_log(RW_LOG_ERROR, "%s", "bad");
    rw_log_set_around(NULL, NULL, NULL);
}

static void lines(void **state) {
    (void)state;
    const char *path = rw_test_path("stderr");
    fflush(stderr);
    int old = dup(2), fd = open(path, O_WRONLY | O_CREAT, 0600);
    dup2(fd, 2);
    write_lines();
    dup2(old, 2);
    close(fd);
    close(old);
    char *text;
    int64_t n;
    assert_int_equal(rw_file_slurp(path, 1000, &text, &n, NULL), RW_OK);
    assert_string_equal(text, "5 tokens\nwarning: careful\n<barerror: bad\nbar>\n");
    rw_free(text);
}

int main(void) {
    unsetenv("RWKV_LOG");
    const struct CMUnitTest tests[] = {cmocka_unit_test(lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
