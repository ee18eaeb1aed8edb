/* What a stranger's script may try: ways out, endless loops, floods of memory. */
#include "tests/unit/lua/lua_test.h"

#include "core/base/thread.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static rw_status run_with(bench *b, const char *script) {
    rw_error_clear(&b->err);
    b->err = (rw_error){0};
    char text[4096];
    snprintf(text, sizeof text, "%s\nreturn {}", script);
    const rw_status status = open_hooks(b, write_script("mine.lua", text), NULL);
    error_of(b);
    rw_lua_hooks_close(b->lua);
    rw_error_clear(&b->err);
    b->lua = NULL;
    return status;
}

static void passes(const char *script) {
    bench b = {0};
    if (run_with(&b, script) != RW_OK) fail_msg("%s\n -> %s", script, b.text);
}

static void fails(const char *script, const char *message) {
    bench b = {0};
    if (run_with(&b, script) != RW_E_LUA) fail_msg("ran without an error: %s", script);
    assert_contains(b.text, message);
}

/* -- ways out -------------------------------------------------------------------------------------- */

static void test_absent_names(void **state) {
    (void)state;
    passes("for _, name in ipairs{'io','debug','package','ffi','jit','load','loadstring','dofile','loadfile','getfenv',"
           "'setfenv','module','newproxy','gcinfo'} do assert(_G[name] == nil, name) end");
    passes("for k in pairs(os) do assert(k == 'time' or k == 'clock' or k == 'date' or k == 'difftime', k) end");
    passes("assert(string.dump == nil and ('').dump == nil)");
    fails("io.open('/etc/passwd')",
          ":1: attempt to index global 'io' (a nil value); scripts of a recipe may not use it");
    fails("os.execute('true')",
          ":1: attempt to call field 'execute' (a nil value); scripts of a recipe may not use it");
    fails("require 'ffi'", ":1: require 'ffi': neither");
    fails("require 'os'", ":1: require 'os': neither");
    fails("require 'jit.util'", ":1: require 'jit.util': neither");
    fails("undefined_function()", ":1: attempt to call global 'undefined_function' (a nil value)");
}

static void test_metatables_are_closed(void **state) {
    (void)state;
    passes("assert(getmetatable('') == 'string' and getmetatable(_G) == 'globals')");
    fails("setmetatable(_G, nil)", "cannot change a protected metatable");
    fails("getmetatable('').__index = nil", "attempt to index");
    passes("assert(('abc'):upper() == 'ABC' and ('x'):rep(3) == 'xxx' and ('abc'):find('b') == 2)");
}

static void test_bytecode_is_refused(void **state) {
    (void)state;
    bench b = {0};
    /* the head of a LuaJIT dump; and the head of a PUC one */
    for (int i = 0; i < 2; i++) {
        const char *path = write_script("mine.lua", i == 0 ? "\033LJ\002\n\001\002" : "\033Lua\121");
        assert_int_equal(open_hooks(&b, path, NULL), RW_E_LUA);
        assert_contains(error_of(&b), "this is compiled code");
        close_hooks(&b);
    }
}

static void test_require_stays_in_the_folder(void **state) {
    (void)state;
    rw_error err = {0};
    char outside[600], inside[600];
    snprintf(inside, sizeof inside, "%s/recipe", rw_test_folder());
    assert_int_equal(rw_mkdir_all(inside, &err), RW_OK);
    snprintf(outside, sizeof outside, "%s", write_script("outside.lua", "return 1"));
    snprintf(inside, sizeof inside, "%s/recipe/way_out.lua", rw_test_folder());
    assert_int_equal(symlink(outside, inside), 0);
    bench b = {0};
    const char *path = write_script("recipe/mine.lua", "require 'way_out'");
    assert_int_equal(open_hooks(&b, path, NULL), RW_E_LUA);
    assert_contains(error_of(&b), "is outside the folder");
    close_hooks(&b);
}

static void test_trust_lifts_it(void **state) {
    (void)state;
    bench b = {.plan = {.trust = true}};
    if (run_with(&b, "assert(io.open and os.execute and debug and load and require 'ffi')\n"
                     "new_global = 1\nlocal s = require 'rwkv.schedule' assert(s.cosine)") != RW_OK)
        fail_msg("%s", b.text);
}

/* -- globals --------------------------------------------------------------------------------------- */

static void test_globals(void **state) {
    (void)state;
    fails("local a = 1\nb = 2", ":2: assignment to undeclared global 'b'; write 'local b'");
    fails("local function f()\n\n  total = 1\nend\nf()", ":3: assignment to undeclared global 'total'");
    fails("function helper() end", ":1: assignment to undeclared global 'helper'");
    passes("assert(no_such_name == nil)");
    passes("rawset(_G, 'declared', 1) declared = 2 assert(declared == 2)");
    passes("assert(rwkv.version and rwkv.log and rwkv == require 'rwkv')");
}

/* -- time ------------------------------------------------------------------------------------------ */

static void stops_in_time(const char *script) {
    bench b = {.plan = {.budget_ms = 150}};
    const clock_t begin = clock();
    if (getenv("RWKV_TEST_VERBOSE")) fprintf(stderr, "%s\n", script);
    if (run_with(&b, script) != RW_E_LUA) fail_msg("ran to its end: %s", script);
    const int64_t ms = (int64_t)(clock() - begin) * 1000 / CLOCKS_PER_SEC; /* of the processor: others use it too */
    if (!strstr(b.text, "stopped after running for 150 ms") && !strstr(b.text, "memory") &&
        !strstr(b.text, "too complex"))
        fail_msg("%s\n -> %s", script, b.text);
    if (ms > 5000) fail_msg("took %lld ms: %s", (long long)ms, script);
}

static void test_endless_loops(void **state) {
    (void)state;
    stops_in_time("while true do end");
    stops_in_time("local function f() return f() end f()");
    stops_in_time("repeat until false");
    stops_in_time("while true do pcall(function() while true do end end) end");
    stops_in_time("local function f() while true do end end while true do pcall(pcall, pcall, f) end");
    stops_in_time("while true do xpcall(function() while true do end end, function() while true do end end) end");
    stops_in_time("while true do coroutine.resume(coroutine.create(function() while true do end end)) end");
    stops_in_time("local t = setmetatable({}, {__index = function(t, k) while true do end end}) local y = t.x");
    stops_in_time("for i = 1, 1e12 do local s = ('x'):rep(2e7) end");
    stops_in_time("local s = ('x'):rep(1e7) for i = 1, 1e12 do local r = s .. i end");
    stops_in_time("local s = ('x'):rep(1e7) for i = 1, 1e12 do s:upper() end");
    stops_in_time("local t = {} for i = 1, 1e6 do t[i] = i end for i = 1, 1e12 do table.insert(t, 1, 0) end");
    stops_in_time("local t = {} for i = 1, 1e6 do t[i] = 'x' end for i = 1, 1e12 do table.concat(t) end");
    stops_in_time("for i = 1, 1e12 do collectgarbage() end");
    stops_in_time("for i = 1, 1e12 do os.date('%c') end");
}

static void test_the_place_of_an_endless_loop(void **state) {
    (void)state;
    bench b = {.plan = {.budget_ms = 100}};
    assert_int_equal(run_with(&b, "local x = 0\n\nwhile true do x = x + 1 end"), RW_E_LUA);
    assert_contains(b.text, "mine.lua:3: stopped after running for 100 ms");
}

static void test_patterns_are_bounded(void **state) {
    (void)state;
    stops_in_time("local s = ('a'):rep(50000) s:find(('.-'):rep(20) .. 'b')");
    stops_in_time("local s = ('a'):rep(50000) s:match(('a*'):rep(20) .. 'b')");
    stops_in_time("local s = ('a'):rep(300000) s:gsub('a*a*a*b', '')");
    stops_in_time("local s = ('('):rep(1000000) s:find('%b()')");
    stops_in_time("for x in (('a'):rep(100000)):gmatch('.-.-.-b') do end");
    stops_in_time("(('a'):rep(40)):find(('a?'):rep(40) .. ('a'):rep(41))");
    stops_in_time("local s = ('a'):rep(400000) s:find('(a*)%1b')");
}

static void test_sort_is_bounded(void **state) {
    (void)state;
    stops_in_time("local t = {} for i = 1, 1e6 do t[i] = (i * 7919) % 1000003 end for i = 1, 1e6 do table.sort(t) end");
    stops_in_time("table.sort({3, 2, 1}, function(a, b) while true do end end)");
    passes("local t = {} for i = 1, 3000 do t[i] = 1 end table.sort(t, function() return true end)");
}

/* Compiled loops run no count hooks: the watchdog has to end the process, and says so. */
static void test_the_jit_and_the_watchdog(void **state) {
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        close(2);
        rw_lua_set_grace(200);
        bench b = {.plan = {.budget_ms = 100, .jit = true}};
        run_with(&b, "local x = 0 for i = 1, 1e14 do x = x + i end");
        _exit(77);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), rw_status_exit_code(RW_E_LUA));
}

/* Called from the watchdog's thread: leaves a mark in the exit status of the child. */
static bool leave_a_mark(void *ctx) {
    rw_error err = {0};
    return rw_write_file(ctx, "saved", 5, &err) == RW_OK;
}

static void test_the_watchdog_saves_first(void **state) {
    (void)state;
    char mark[600];
    snprintf(mark, sizeof mark, "%s", rw_test_path("mark"));
    const pid_t child = fork();
    if (child == 0) {
        close(2);
        rw_lua_set_grace(200);
        bench b = {.plan = {.budget_ms = 100, .jit = true}};
        const char *path = write_script(
            "mine.lua", "return { on_train_end = function() local x = 0 for i = 1, 1e14 do x = x + i end end }");
        rw_hook_trainer t = a_trainer(1);
        rw_hook_metrics m = some_metrics(1);
        if (open_hooks(&b, path, NULL) != RW_OK) _exit(78);
        b.hooks.set_rescue(b.hooks.ctx, leave_a_mark, mark);
        b.hooks.event(b.hooks.ctx, RW_HOOK_on_train_end, &t, &m, &b.err);
        _exit(77);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), rw_status_exit_code(RW_E_LUA));
    assert_true(rw_exists(mark));
}

/* -- memory ---------------------------------------------------------------------------------------- */

static void test_memory_is_bounded(void **state) {
    (void)state;
    static const char *const bombs[] = {
        "local s = ('x'):rep(2^31 - 1)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
        "local s = ('x'):rep(1e7) s = table.concat({s, s, s, s, s, s, s, s}, s)",
        "local s = ('x'):rep(1e7):gsub('x', ('y'):rep(100))",
        "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end",
        "local t = {} for i = 1, 1e9 do t['k' .. i] = i end",
        "local s = 'ab' for i = 1, 30 do s = ('%s%s'):format(s, s) end",
    };
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++) {
        bench b = {.plan = {.memory_bytes = 16 << 20, .budget_ms = 20000}};
        if (run_with(&b, bombs[i]) != RW_E_LUA) fail_msg("ran to its end: %s", bombs[i]);
        assert_contains(b.text, "lua.memory_mb allows (16");
    }
}

static void test_memory_comes_back(void **state) {
    (void)state;
    bench b = {.plan = {.memory_bytes = 16 << 20}};
    const char *path = write_script("mine.lua", "return { on_train_end = function(t)\n"
                                                "  if t.step == 1 then local s = 'x' while true do s = s .. s end end\n"
                                                "  local ok = ('y'):rep(4e6) t:save() end }");
    assert_ok(&b, open_hooks(&b, path, NULL));
    for (int i = 0; i < 5; i++) {
        rw_hook_trainer bad = a_trainer(1), good = a_trainer(2);
        rw_hook_metrics m = some_metrics(1);
        assert_int_equal(b.hooks.event(b.hooks.ctx, RW_HOOK_on_train_end, &bad, &m, &b.err), RW_E_LUA);
        assert_contains(error_of(&b), "on_train_end at step 2: the scripts need more memory");
        rw_error_clear(&b.err);
        assert_ok(&b, b.hooks.event(b.hooks.ctx, RW_HOOK_on_train_end, &good, &m, &b.err));
        assert_true(good.ask_save);
        assert_true(rw_lua_peak(b.lua) <= 16 << 20);
    }
    close_hooks(&b);
}

/* -- one script and the others ---------------------------------------------------------------------- */

static double lr_with(const char *first, const char *second) {
    bench b = {0};
    rw_hook_trainer t = a_trainer(50);
    double value = -1;
    bool given = false;
    assert_ok(&b, open_hooks(&b, write_script("first.lua", first), second ? write_script("second.lua", second) : NULL));
    assert_ok(&b, b.hooks.number(b.hooks.ctx, RW_HOOK_lr, &t, &value, &given, &b.err));
    assert_true(given);
    close_hooks(&b);
    return value;
}

static void test_a_script_changes_nothing_for_others(void **state) {
    (void)state;
    static const char vandal[] =
        "string.find = function() return 7 end\nstring.format = nil\nmath.min = function() return 0 end\n"
        "math.exp = nil\ntable.concat = nil\nrawset(_G, 'type', nil)\nrawset(_G, 'leak', 1)\n"
        "rwkv.message = function() error('no') end\n"
        "local s = require 'rwkv.schedule'\nfor k in pairs(s) do s[k] = function() return 1 end end\nreturn {}";
    const double untouched = lr_with("return {}", NULL);
    assert_true(lr_with(vandal, NULL) == untouched); /* the default schedule */
    static const char honest[] =
        "assert(('abc'):find('b') == 2 and string.find('abc', 'b') == 2 and ('%d'):format(3) == '3')\n"
        "assert(math.min(2, 1) == 1 and type(1) == 'number' and leak == nil and table.concat{'a'} == 'a')\n"
        "local s = require 'rwkv.schedule'\nassert(rwkv.message('x') == 'x')\n"
        "return { lr = s.warmup(10, s.auto(1e-3, 1e-4)) }";
    assert_true(lr_with(vandal, honest) == untouched);
    assert_true(lr_with("string.find = nil return {}", "return { lr = function() return ('ab'):find('b') end }") == 2);
}

/* A tail call leaves no caller on the stack. */
static void test_require_as_the_last_word(void **state) {
    (void)state;
    rw_error err = {0};
    char lib[600];
    snprintf(lib, sizeof lib, "%s/lib", rw_test_folder());
    assert_int_equal(rw_mkdir_all(lib, &err), RW_OK);
    write_script("lib/whole.lua", "return { lr = function() return 0.25 end }");
    write_script("lib/next.lua", "return require('lib.whole')");
    assert_true(lr_with("return require('lib.whole')", NULL) == 0.25);
    assert_true(lr_with("return require 'lib.next'", NULL) == 0.25);
    assert_true(lr_with("local r = require return { lr = function() return coroutine.wrap(r)('lib.whole').lr() end }",
                        NULL) == 0.25);
}

/* -- depth ------------------------------------------------------------------------------------------ */

static void test_coroutines_answer_as_the_library(void **state) {
    (void)state;
    passes("local co = coroutine.create(function(a, b) local c = coroutine.yield(a + b) error('x' .. c, 0) end)\n"
           "local ok, n = coroutine.resume(co, 1, 2) assert(ok and n == 3 and coroutine.status(co) == 'suspended')\n"
           "local ok, e = coroutine.resume(co, 'y') assert(not ok and e == 'xy' and coroutine.status(co) == 'dead')\n"
           "local ok, e = coroutine.resume(co) assert(not ok and e == 'cannot resume dead coroutine')");
    passes("local co co = coroutine.create(function() return coroutine.resume(co) end)\n"
           "local ok, inner, e = coroutine.resume(co)\n"
           "assert(ok and inner == false and e == 'cannot resume non-suspended coroutine')");
    passes("local outer outer = coroutine.create(function()\n"
           "  return coroutine.wrap(function() return coroutine.resume(outer, 1, 2) end)() end)\n"
           "local ok, inner, e = coroutine.resume(outer)\n"
           "assert(ok and inner == false and e == 'cannot resume non-suspended coroutine')");
    passes("local sum = 0 for i in coroutine.wrap(function() for i = 1, 10 do coroutine.yield(i) end end) do\n"
           "sum = sum + i end assert(sum == 55)");
    passes("local w = coroutine.wrap(function(...) return select('#', ...), ... end)\n"
           "local n, a, b = w(nil, 2) assert(n == 2 and a == nil and b == 2)\n"
           "local ok, e = pcall(w) assert(not ok and e:find('dead'))");
    fails("coroutine.wrap(function() error('inside') end)()", "mine.lua:1: inside");
    fails("coroutine.resume(1)", "coroutine expected");
}

static void test_deep_recursion(void **state) {
    (void)state;
    fails("local function f() return 1 + f() end f()", "stack overflow");
    fails("local s = 'x' for i = 1, 300 do s = '(' .. s end (('x'):rep(300)):find(s)", "pattern");
    fails("local function f() error(setmetatable({}, {__tostring = f})) end f()", "the error is a table");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_names),
        cmocka_unit_test(test_metatables_are_closed),
        cmocka_unit_test(test_bytecode_is_refused),
        cmocka_unit_test(test_require_stays_in_the_folder),
        cmocka_unit_test(test_trust_lifts_it),
        cmocka_unit_test(test_globals),
        cmocka_unit_test(test_endless_loops),
        cmocka_unit_test(test_the_place_of_an_endless_loop),
        cmocka_unit_test(test_patterns_are_bounded),
        cmocka_unit_test(test_sort_is_bounded),
        cmocka_unit_test(test_the_jit_and_the_watchdog),
        cmocka_unit_test(test_the_watchdog_saves_first),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_memory_comes_back),
        cmocka_unit_test(test_a_script_changes_nothing_for_others),
        cmocka_unit_test(test_require_as_the_last_word),
        cmocka_unit_test(test_coroutines_answer_as_the_library),
        cmocka_unit_test(test_deep_recursion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
