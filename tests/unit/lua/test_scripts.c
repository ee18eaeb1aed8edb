/* Runs tests/lua/test_*.lua in the sandbox, so that they are checked without the program too; and compares our
 * patterns with the library's own on random texts. */
#include "core/recipe/keys.h"
#include "lua/open.h"
#include "tests/unit/lua/lua_test.h"

#include <stdlib.h>

static int n_run;

static rw_status run_one(void *ctx, const char *name, rw_error *err) {
    const char *dir = ctx;
    const size_t n = strlen(name);
    if (n < 5 || strcmp(name + n - 4, ".lua") != 0) return RW_OK;
    bench b = {.plan = {.budget_ms = 20000, .memory_bytes = 64 << 20}};
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(rw_lua_new(&b.lua, &b.plan, err), RW_OK);
    if (rw_lua_run_file(b.lua, path, NULL, 0, &b.err) != RW_OK) fail_msg("%s\n%s", error_of(&b), b.err.detail);
    close_hooks(&b);
    n_run++;
    return RW_OK;
}

static void test_lua_files(void **state) {
    (void)state;
    rw_error err = {0};
    char dir[600];
    snprintf(dir, sizeof dir, "%s", rw_source_path("tests/lua"));
    assert_int_equal(rw_dir_list(dir, run_one, dir, &err), RW_OK);
    print_message("%d files of tests/lua\n", n_run);
    assert_true(n_run >= 2);
}

/* With trust, `string` is the library's own, and ours is at hand by the sandbox's: so one script writes answers
 * in each of two states and the texts are compared. */
static const char answers[] = "local seed = 12345\n"
                              "local function random(n) seed = (seed * 1103515245 + 12345) % 2147483648 return "
                              "math.floor(seed / 65536) % n + 1 end\n"
                              "local parts = { 'a', 'b', '.', '%a', '%d', '[ab]', '[^a]', '(', ')', 'a*', 'b-', '.-', "
                              "'.*', 'a+', 'b?', '%s', '^', '$',\n"
                              "  '%1', '%b()', '%f[a]', '()', '[%w_]', '-', ' ', '%%' }\n"
                              "local letters = { 'a', 'b', 'c', '1', ' ', '(', ')', '-', '%', '_' }\n"
                              "local hash, count = 5381, 0\n"
                              "local function note(...)\n"
                              "  for i = 1, select('#', ...) do\n"
                              "    local text = tostring((select(i, ...)))\n"
                              "    for j = 1, #text do hash = (hash * 33 + text:byte(j)) % 4294967296 end\n"
                              "  end\n"
                              "  count = count + 1\n"
                              "end\n"
                              "local function try(f, ...)\n"
                              "  local function catch(ok, ...) if ok then note('ok', ...) else note('error') end end\n"
                              "  catch(pcall(f, ...))\n"
                              "end\n"
                              "for _ = 1, 20000 do\n"
                              "  local p, s = '', ''\n"
                              "  for _ = 1, random(6) do p = p .. parts[random(#parts)] end\n"
                              "  for _ = 1, random(12) - 1 do s = s .. letters[random(#letters)] end\n"
                              "  try(string.find, s, p, random(5) - 3)\n"
                              "  try(string.match, s, p)\n"
                              "  try(string.gsub, s, p, '<%0>')\n"
                              "  try(function() for a, b in string.gmatch(s, p) do note(a, b) end end)\n"
                              "end\n"
                              "error(('hash %.0f of %d'):format(hash, count), 0)\n";

static void run_answers(bool trust, char *text, size_t size) {
    bench b = {.plan = {.trust = trust, .budget_ms = 60000, .memory_bytes = 64 << 20}};
    const char *path = write_script("answers.lua", answers);
    assert_int_equal(rw_lua_new(&b.lua, &b.plan, &b.err), RW_OK);
    assert_int_equal(rw_lua_run_file(b.lua, path, NULL, 0, &b.err), RW_E_LUA);
    const char *hash = strstr(error_of(&b), "hash ");
    if (!hash) fail_msg("%s", b.text);
    snprintf(text, size, "%s", hash);
    close_hooks(&b);
}

static void test_patterns_answer_as_the_library(void **state) {
    (void)state;
    char ours[100], library[100];
    run_answers(false, ours, sizeof ours);
    run_answers(true, library, sizeof library);
    print_message("%s\n", ours);
    assert_string_equal(ours, library);
}

/* lua/README.md has a row for each hook, in the words of hooks.def. */
static void test_readme_lists_the_hooks(void **state) {
    (void)state;
    rw_error err = {0};
    char *text = NULL;
    int64_t n = 0;
    assert_int_equal(rw_file_slurp(rw_source_path("lua/README.md"), 1 << 20, &text, &n, &err), RW_OK);
#define RW_HOOK(name, kind, args, result, default_file, doc)                                                           \
    assert_contains(text, "| `" #name "` | " #kind " | `" args "` | " result " |");
#include "core/hooks/hooks.def"
#undef RW_HOOK
    rw_free(text);
}

static void test_arguments(void **state) {
    (void)state;
    bench b = {.plan = {.budget_ms = 20000, .memory_bytes = 64 << 20}};
    char one[] = "one", empty[] = "", three[] = "--three=3";
    char *const args[] = {one, empty, three};
    const char *path = write_script("args.lua", "local a, b, c = ...\n"
                                                "assert(select('#', ...) == 3 and a == 'one' and b == '')\n"
                                                "assert(c == '--three=3')");
    assert_int_equal(rw_lua_new(&b.lua, &b.plan, &b.err), RW_OK);
    assert_ok(&b, rw_lua_run_file(b.lua, path, args, 3, &b.err));
    close_hooks(&b);
}

/* A file that cannot be read is named once, as a script and beside the line of another that asks for it. */
static void test_a_file_is_named_once(void **state) {
    (void)state;
    static const struct {
        const char *script, *says;
    } rows[] = {{NULL, "cannot open: No such file or directory"}, {"\033x", "this is compiled code"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bench b = {.plan = {.budget_ms = 20000, .memory_bytes = 64 << 20}};
        char want[700];
        const char *path = rows[i].script ? write_script("once.lua", rows[i].script) : rw_test_path("none.lua");
        assert_int_equal(rw_lua_new(&b.lua, &b.plan, &b.err), RW_OK);
        assert_int_equal(rw_lua_run_file(b.lua, path, NULL, 0, &b.err), RW_E_LUA);
        snprintf(want, sizeof want, "%s: %s", path, rows[i].says);
        if (strncmp(error_of(&b), want, strlen(want)) != 0) fail_msg("expected '%s', got '%s'", want, b.text);
        close_hooks(&b);
    }
}

/* "lua.budget_ms" in a text is a key, or a module's file. */
static void check_names(const char *file) {
    rw_error err = {0};
    char *text = NULL;
    int64_t n = 0;
    assert_int_equal(rw_file_slurp(rw_source_path(file), 1 << 20, &text, &n, &err), RW_OK);
    for (const char *p = strstr(text, "lua."); p; p = strstr(p + 1, "lua.")) {
        char name[40];
        snprintf(name, sizeof name, "%.*s", (int)strspn(p + 4, "abcdefghijklmnopqrstuvwxyz_"), p + 4);
        const bool begins = p == text || !strchr("/_.-", p[-1]);
        if (begins && name[0] && !rw_key_find("lua", name)) fail_msg("%s: there is no key lua.%s", file, name);
    }
    rw_free(text);
}

static void test_keys_that_are_named_exist(void **state) {
    (void)state;
    check_names("lua/README.md");
    check_names("lua/messages.def");
    check_names("recipes/README.md");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lua_files),
        cmocka_unit_test(test_a_file_is_named_once),
        cmocka_unit_test(test_patterns_answer_as_the_library),
        cmocka_unit_test(test_readme_lists_the_hooks),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_keys_that_are_named_exist),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
