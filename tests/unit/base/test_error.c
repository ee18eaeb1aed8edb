/* Errors: their text, the place, translations, hostile bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void formats_what_is_known(void **state) {
    (void)state;
    static const struct {
        rw_where at;
        const char *text;
    } cases[] = {
        {{"a.yaml", 12, 5, "train.lr"}, "a.yaml:12:5: train.lr: expected 1, got 'x'"},
        {{"a.yaml", 12, 0, NULL}, "a.yaml:12: expected 1, got 'x'"},
        {{"a.yaml", 0, 0, "k"}, "a.yaml: k: expected 1, got 'x'"},
        {{NULL, 3, 4, "k"}, "k: expected 1, got 'x'"},
        {{0}, "expected 1, got 'x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rw_error err = {0};
        char text[200];
        assert_int_equal(rw_fail(&err, RW_E_RECIPE, cases[i].at, "expected %d, got '%s'", 1, "x"), RW_E_RECIPE);
        assert_int_equal(rw_error_format(&err, text, sizeof text), strlen(cases[i].text));
        assert_string_equal(text, cases[i].text);
        assert_int_equal(rw_error_format(&err, NULL, 0), strlen(cases[i].text));
        rw_error_format(&err, text, 7);
        assert_int_equal(strlen(text), 6);
        rw_error_settle(&err); /* the place is text now, and borrows nothing */
        assert_string_equal(err.msg, cases[i].text);
        assert_null(err.at.file);
        assert_null(err.at.key);
    }
    assert_int_equal(rw_fail(NULL, RW_E_IO, RW_AT_NONE, "nobody listens"), RW_E_IO);
}

static void hostile_bytes_are_harmless(void **state) {
    (void)state;
    rw_error err = {0};
    rw_fail(&err, RW_E_DATA, RW_AT_NONE, "%s", "a\x1b[2Jb\xff\xe4\xb8\xad\x7f\n\tc");
    assert_string_equal(err.msg, "a\\x1b[2Jb\\xff\xe4\xb8\xad\\x7f\n\tc");
    rw_fail(&err, RW_E_DATA, (rw_where){"a\nb.yaml", 3, 0, "k\x1b"}, "got '%s'", "x\ndone: 3 steps\xc2\x9b");
    char text[200];
    rw_error_format(&err, text, sizeof text);
    assert_string_equal(text, "a\\nb.yaml:3: k\\x1b: got 'x\\ndone: 3 steps\\u009b'");
    rw_error_set_detail(&err, "stack\n\tfile\x1b\xc2\x85");
    assert_string_equal(err.detail, "stack\n\tfile\\x1b\\u0085");
    rw_error_clear(&err);
    char longer[5000];
    memset(longer, 'x', sizeof longer);
    strcpy(longer + 1021, "\xe4\xb8\xad\xe4\xb8\xad"); /* the end of msg cuts this character */
    rw_fail(&err, RW_E_DATA, RW_AT_NONE, "%s", longer);
    assert_int_equal(strlen(err.msg), 1021);
}

static void wraps_its_own_text(void **state) {
    (void)state;
    rw_error err = {0};
    rw_fail(&err, RW_E_DATA, RW_AT_NONE, "inner");
    rw_error_set_detail(&err, "a traceback");
    int64_t live = rw_alloc_live();
    rw_fail(&err, RW_E_DATA, RW_AT_NONE, "outer: %s", err.msg);
    assert_string_equal(err.msg, "outer: inner");
    assert_null(err.detail);
    assert_int_equal(rw_alloc_live(), live - 1);
    rw_error_clear(&err);
    assert_int_equal(err.code, RW_OK);
}

static void names_the_system_error(void **state) {
    (void)state;
    rw_error err = {0};
    errno = ENOSPC;
    assert_int_equal(rw_fail_errno(&err, RW_AT_FILE("x.pth"), "cannot write %d bytes", 5), RW_E_IO);
    assert_string_equal(err.msg, "cannot write 5 bytes: No space left on device");
}

static void exit_codes(void **state) {
    (void)state;
    assert_int_equal(rw_status_exit_code(RW_OK), 0);
    assert_int_equal(rw_status_exit_code(RW_E_IO), 1);
    assert_int_equal(rw_status_exit_code(RW_E_RECIPE), 2);
    assert_int_equal(rw_status_exit_code(RW_E_STOPPED), 3);
    assert_int_equal(rw_status_exit_code((rw_status)999), 1);
    assert_string_equal(rw_status_name(RW_E_FORMAT), "E_FORMAT");
}

static void translations_fit(void **state) {
    (void)state;
    assert_int_equal(rw_messages_check(), 0);
    assert_true(rw_message_fits("%d of 100%% in '%s'", "100%%: %d ... %s"));
    assert_true(rw_message_fits("%5.2f%s", "%5.2f, %s"));
    assert_false(rw_message_fits("%d %s", "%s %d"));
    assert_false(rw_message_fits("%ld", "%d"));
    assert_false(rw_message_fits("%d", "%d %d"));
    assert_false(rw_message_fits("%d", "100%%"));
    assert_false(rw_message_fits("x", "x %"));
}

/* The language is read once, so each case runs in a process of its own, which says by its exit status whether
 * a message came out in Chinese. */
static int speaks_chinese(const char *rwkv_lang, const char *lc_all, const char *lang) {
    pid_t pid = fork();
    if (pid == 0) {
        unsetenv("LC_MESSAGES");
        rwkv_lang ? setenv("RWKV_LANG", rwkv_lang, 1) : unsetenv("RWKV_LANG");
        lc_all ? setenv("LC_ALL", lc_all, 1) : unsetenv("LC_ALL");
        lang ? setenv("LANG", lang, 1) : unsetenv("LANG");
        rw_error err = {0};
        rw_fail(&err, RW_E_MEMORY, RW_AT_NONE, "not enough memory for %s", "5 B");
        _exit(strcmp(err.msg, "not enough memory for 5 B") != 0 && strstr(err.msg, "5 B") != NULL);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void chooses_the_language(void **state) {
    (void)state;
    assert_int_equal(speaks_chinese("zh", NULL, NULL), 1);
    assert_int_equal(speaks_chinese("en", "zh_CN.UTF-8", NULL), 0);
    assert_int_equal(speaks_chinese(NULL, NULL, "zh_CN.UTF-8"), 1);
    assert_int_equal(speaks_chinese(NULL, "C", "zh_CN.UTF-8"), 0);
    assert_int_equal(speaks_chinese(NULL, NULL, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chooses_the_language), /* first: nothing has read the language yet */
        cmocka_unit_test(formats_what_is_known),
        cmocka_unit_test(hostile_bytes_are_harmless),
        cmocka_unit_test(wraps_its_own_text),
        cmocka_unit_test(names_the_system_error),
        cmocka_unit_test(exit_codes),
        cmocka_unit_test(translations_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
