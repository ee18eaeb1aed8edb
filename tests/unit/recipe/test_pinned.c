/* The recipes of tests/cli: each file of bad/ pins its messages, each file of good/ some of its values.
 *
 *   # expect: 12:5: train.lr_init: ...     one line of the message; a digit first: this file's name goes before it
 *   # value: train.lr_init = 1e-5          canonical value of a key
 *   # with: train.lr_init=2e-5             an override, as on the command line
 *   # env: NAME                            --env NAME
 *   # set: NAME=VALUE                      the environment
 *   # plan:                                not the recipe but the plan says so: for test_recipes.sh alone
 *
 * tests/cli/test_recipes.sh asks the program the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/recipe/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16 };

typedef struct {
    const char *expect[MOST], *value[MOST], *with[MOST], *env[MOST];
    int n_expect, n_value, n_with, n_env;
    bool by_plan;
    char *text; /* the lines point into it */
} pins;

static void set_variable(const char *text) {
    char name[64];
    const char *equals = strchr(text, '=');
    assert_non_null(equals);
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    setenv(name, equals + 1, 1);
}

static void read_pins(const char *path, pins *p) {
    int64_t n;
    rw_error err = {0};
    *p = (pins){0};
    assert_int_equal(rw_file_slurp(path, 1 << 20, &p->text, &n, &err), RW_OK);
    for (char *save, *line = strtok_r(p->text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        if (strncmp(line, "\xef\xbb\xbf", 3) == 0) line += 3;
        if (strncmp(line, "# expect: ", 10) == 0) p->expect[p->n_expect++] = line + 10;
        if (strncmp(line, "# value: ", 9) == 0) p->value[p->n_value++] = line + 9;
        if (strncmp(line, "# with: ", 8) == 0) p->with[p->n_with++] = line + 8;
        if (strncmp(line, "# env: ", 7) == 0) p->env[p->n_env++] = line + 7;
        if (strncmp(line, "# set: ", 7) == 0) set_variable(line + 7);
        if (strncmp(line, "# plan:", 7) == 0) p->by_plan = true;
    }
}

static rw_status load(rw_recipe *r, const char *path, const pins *p, rw_error *err) {
    rw_recipe_options o = {.path = path,
                           .overrides = p->with,
                           .n_overrides = p->n_with,
                           .env_names = p->env,
                           .n_env_names = p->n_env,
                           .check_files = true};
    return rw_recipe_load(r, &o, err);
}

/* Removes the folder wherever it stands in the text. */
static void remove_folder(char *text, const char *folder) {
    size_t n = strlen(folder);
    for (char *p = text; (p = strstr(p, folder));) memmove(p, p + n, strlen(p + n) + 1);
}

static int n_bad, n_good, n_failed;

static void failed(const char *name, const char *what, const char *wanted, const char *got) {
    n_failed++;
    fprintf(stderr, "%s: %s\n  wanted: %s\n  got:    %s\n", name, what, wanted, got);
}

static rw_status check_bad(void *ctx, const char *name, rw_error *unused) {
    (void)ctx, (void)unused;
    if (strlen(name) < 5 || strcmp(name + strlen(name) - 5, ".yaml") != 0) return RW_OK;
    char path[512], got[16384], wanted[8192];
    size_t used = 0;
    pins p;
    rw_recipe r;
    rw_error err = {0};
    snprintf(path, sizeof path, "tests/cli/bad/%s", name);
    read_pins(path, &p);
    n_bad++;
    for (int i = 0; i < p.n_expect; i++) {
        bool digit = p.expect[i][0] >= '0' && p.expect[i][0] <= '9';
        used += (size_t)snprintf(wanted + used, sizeof wanted - used, "%s%s%s%s", i ? "\n" : "", digit ? name : "",
                                 digit ? ":" : "", p.expect[i]);
    }
    if (p.n_expect == 0) failed(name, "has no line '# expect:'", "", "");
    rw_status status = load(&r, path, &p, &err);
    rw_error_format(&err, got, sizeof got);
    if (err.detail) snprintf(got + strlen(got), sizeof got - strlen(got), "\n%s", err.detail);
    remove_folder(got, "tests/cli/bad/");
    if (p.by_plan) {
        if (status != RW_OK) failed(name, "refused by the recipe", wanted, got);
        rw_recipe_done(&r);
        rw_free(p.text);
        return RW_OK;
    }
    if (status == RW_OK || strcmp(got, wanted) != 0) failed(name, "another message", wanted, got);
    if (rw_status_exit_code(status) != 2) failed(name, "another status", "2", rw_status_name(status));
    rw_error_clear(&err);
    rw_recipe_done(&r);
    rw_free(p.text);
    return RW_OK;
}

static const char *value_of(const rw_recipe *r, const char *path) {
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (strcmp(rw_keys[i].path, path) == 0) return r->values[i].text ? r->values[i].text : "";
    return "no such key";
}

static rw_status check_good(void *ctx, const char *name, rw_error *unused) {
    (void)ctx, (void)unused;
    if (strlen(name) < 5 || strcmp(name + strlen(name) - 5, ".yaml") != 0) return RW_OK;
    char path[512], got[4096];
    pins p;
    rw_recipe r;
    rw_error err = {0};
    snprintf(path, sizeof path, "tests/cli/good/%s", name);
    read_pins(path, &p);
    n_good++;
    if (load(&r, path, &p, &err) != RW_OK) {
        rw_error_format(&err, got, sizeof got);
        failed(name, "refused", "no message", got);
    }
    for (int i = 0; i < p.n_value && err.code == RW_OK; i++) {
        char key[128];
        const char *equals = strstr(p.value[i], " = ");
        assert_non_null(equals);
        snprintf(key, sizeof key, "%.*s", (int)(equals - p.value[i]), p.value[i]);
        if (strcmp(value_of(&r, key), equals + 3) != 0) failed(name, key, equals + 3, value_of(&r, key));
    }
    if (p.n_value == 0) failed(name, "has no line '# value:'", "", "");
    rw_error_clear(&err);
    rw_recipe_done(&r);
    rw_free(p.text);
    return RW_OK;
}

static void bad_recipes_say_what_they_pin(void **state) {
    (void)state;
    rw_error err = {0};
    n_failed = 0;
    assert_int_equal(rw_dir_list("tests/cli/bad", check_bad, NULL, &err), RW_OK);
    printf("%d bad recipes\n", n_bad);
    assert_true(n_bad >= 80);
    assert_int_equal(n_failed, 0);
}

static void good_recipes_hold_what_they_pin(void **state) {
    (void)state;
    rw_error err = {0};
    n_failed = 0;
    assert_int_equal(rw_dir_list("tests/cli/good", check_good, NULL, &err), RW_OK);
    printf("%d good recipes\n", n_good);
    assert_true(n_good >= 10);
    assert_int_equal(n_failed, 0);
}

/* recipes/<name>/recipe.yaml: what the project itself offers is in order, down to the files it names. */
static rw_status check_own(void *ctx, const char *name, rw_error *unused) {
    (void)unused;
    char path[512], got[4096];
    rw_recipe r;
    rw_error err = {0};
    snprintf(path, sizeof path, "recipes/%s/recipe.yaml", name);
    if (!rw_exists(path)) return RW_OK;
    if (load(&r, path, &(pins){0}, &err) != RW_OK) {
        rw_error_format(&err, got, sizeof got);
        failed(path, "refused", "no message", got);
    }
    ++*(int *)ctx;
    rw_error_clear(&err);
    rw_recipe_done(&r);
    return RW_OK;
}

static void own_recipes_are_in_order(void **state) {
    (void)state;
    rw_error err = {0};
    int n = 0;
    n_failed = 0;
    assert_int_equal(rw_dir_list("recipes", check_own, &n, &err), RW_OK);
    assert_true(n >= 1);
    assert_int_equal(n_failed, 0);
}

int main(void) {
    setenv("RWKV_LANG", "en", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_recipes_say_what_they_pin),
        cmocka_unit_test(good_recipes_hold_what_they_pin),
        cmocka_unit_test(own_recipes_are_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
