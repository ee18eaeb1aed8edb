/* Hook files: names, order, answers, errors with their places. */
#include "tests/unit/lua/lua_test.h"

#include <sys/stat.h>
#include <unistd.h>

static void open_one(bench *b, const char *text) {
    assert_ok(b, open_hooks(b, write_script("mine.lua", text), NULL));
}

static double number_at(bench *b, rw_hook_id id, int64_t step) {
    rw_hook_trainer t = a_trainer(step);
    double value = -1;
    bool given = false;
    assert_ok(b, b->hooks.number(b->hooks.ctx, id, &t, &value, &given, &b->err));
    assert_true(given);
    return value;
}

static bool saves_at(bench *b, rw_hook_trainer t, int64_t step) {
    bool value = false, given = false;
    t.step = step;
    assert_ok(b, b->hooks.boolean(b->hooks.ctx, RW_HOOK_should_save, &t, NULL, &value, &given, &b->err));
    assert_true(given);
    return value;
}

static rw_status event(bench *b, rw_hook_id id, rw_hook_trainer *t, double loss) {
    rw_hook_metrics m = some_metrics(loss);
    rw_error_clear(&b->err);
    return b->hooks.event(b->hooks.ctx, id, t, &m, &b->err);
}

/* -- defaults -------------------------------------------------------------------------------------- */

static void test_defaults_answer_without_files(void **state) {
    (void)state;
    bench b = {0};
    assert_ok(&b, open_hooks(&b, NULL, NULL));
    assert_true(fabs(number_at(&b, RW_HOOK_lr, 0) - 2e-4) < 1e-12);
    assert_true(number_at(&b, RW_HOOK_weight_decay, 3) == 0.1);
    assert_true(rw_lua_bytes(b.lua) > 0);
    close_hooks(&b);
}

static void test_default_should_save_is_official(void **state) {
    (void)state;
    bench b = {0};
    assert_ok(&b, open_hooks(&b, NULL, NULL));
    rw_hook_trainer t = a_trainer(0);
    t.epoch_steps = 10;
    t.epoch_count = 6;
    t.epoch_save = 3;
    for (int64_t step = 0; step < 60; step++) {
        const bool expected = step == 9 || step == 39 || step == 59; /* epochs 0, 3 and the last */
        assert_int_equal(saves_at(&b, t, step), expected);
    }
    t.epoch_save = 0;
    t.save_every = 7;
    assert_false(saves_at(&b, t, 9));
    assert_false(saves_at(&b, t, 0));
    assert_true(saves_at(&b, t, 6));
    assert_true(saves_at(&b, t, 13));
    close_hooks(&b);
}

static void test_default_log_line(void **state) {
    (void)state;
    bench b = {0};
    assert_ok(&b, open_hooks(&b, NULL, NULL));
    rw_hook_trainer t = a_trainer(119);
    rw_hook_metrics m = some_metrics(3.21084);
    char line[200];
    bool given = false;
    assert_ok(&b, b.hooks.text(b.hooks.ctx, RW_HOOK_log, &t, &m, line, sizeof line, &given, &b.err));
    assert_true(given);
    assert_string_equal(line, "step 120/1000  epoch 1/2  loss 3.2108  lr 1.00e-03  12.3 kt/s  left 2h 03m");
    /* a short buffer cuts */
    assert_ok(&b, b.hooks.text(b.hooks.ctx, RW_HOOK_log, &t, &m, line, 9, &given, &b.err));
    assert_string_equal(line, "step 120");
    close_hooks(&b);
}

/* -- order ----------------------------------------------------------------------------------------- */

static void test_later_file_wins_and_nil_asks_the_one_before(void **state) {
    (void)state;
    bench b = {0};
    const char *first = write_script("first.lua", "return { lr = function(t) if t.step < 20 then return 0.5 end end }");
    const char *second =
        write_script("second.lua", "return { lr = function(t) if t.step < 10 then return 0.25 end end }");
    assert_ok(&b, open_hooks(&b, first, second));
    assert_true(number_at(&b, RW_HOOK_lr, 5) == 0.25);
    assert_true(number_at(&b, RW_HOOK_lr, 15) == 0.5);
    const double from_keys = number_at(&b, RW_HOOK_lr, 25);
    assert_true(from_keys < 1e-3 && from_keys > 9e-4);
    close_hooks(&b);
}

static void test_events_go_to_every_file_in_order(void **state) {
    (void)state;
    bench b = {0};
    const char *first = write_script("first.lua", "return { on_train_end = function(t) t:stop('one') end }");
    const char *second = write_script("second.lua", "return { on_train_end = function(t) t:save() t:stop('two') end }");
    assert_ok(&b, open_hooks(&b, first, second));
    rw_hook_trainer t = a_trainer(1);
    assert_ok(&b, event(&b, RW_HOOK_on_train_end, &t, 1));
    assert_true(t.ask_stop && t.ask_save);
    assert_string_equal(t.stop_reason, "two");
    close_hooks(&b);
}

static void test_example_of_the_design(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "local schedule = require \"rwkv.schedule\"\n"
                 "return {\n"
                 "  lr = schedule.warmup(200, schedule.cosine{ from = 3e-5, to = 1e-6 }),\n"
                 "  should_save = function(trainer) return trainer.step % 500 == 0 end,\n"
                 "  on_train_batch_end = function(trainer, metrics)\n"
                 "    if metrics.loss ~= metrics.loss then trainer:stop(\"loss is not a number\") end\n"
                 "  end,\n"
                 "}\n");
    assert_true(fabs(number_at(&b, RW_HOOK_lr, 0) - 6e-6) < 1e-15);
    assert_true(fabs(number_at(&b, RW_HOOK_lr, 200) - 3e-5) < 1e-15);
    assert_true(fabs(number_at(&b, RW_HOOK_lr, 1000) - 1e-6) < 1e-15);
    rw_hook_trainer t = a_trainer(7);
    assert_true(saves_at(&b, t, 500));
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 1.5));
    assert_false(t.ask_stop);
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, NAN));
    assert_true(t.ask_stop);
    assert_string_equal(t.stop_reason, "loss is not a number");
    close_hooks(&b);
}

static void test_early_stop_by_name(void **state) {
    (void)state;
    bench b = {0};
    assert_ok(&b, open_hooks(&b, "recipes/rwkv.early_stop", NULL));
    rw_hook_trainer t = a_trainer(0);
    rw_hook_metrics m = some_metrics(1);
    const double losses[] = {2.0, 1.5, 1.6, 1.7};
    for (int i = 0; i < 4; i++) {
        m.val_loss = losses[i];
        assert_ok(&b, b.hooks.event(b.hooks.ctx, RW_HOOK_on_validation_end, &t, &m, &b.err));
        assert_false(t.ask_stop);
    }
    m.val_loss = 1.55;
    assert_ok(&b, b.hooks.event(b.hooks.ctx, RW_HOOK_on_validation_end, &t, &m, &b.err));
    assert_true(t.ask_stop);
    assert_contains(t.stop_reason, "did not fall below 1.5000");
    close_hooks(&b);
}

static void test_random_depends_on_step_only(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "return { lr = function() return math.random() end }");
    const double at_3 = number_at(&b, RW_HOOK_lr, 3), at_4 = number_at(&b, RW_HOOK_lr, 4);
    assert_true(at_3 != at_4);
    close_hooks(&b);
    open_one(&b, "return { lr = function() return math.random() end }");
    assert_true(number_at(&b, RW_HOOK_lr, 4) == at_4); /* as after a resume */
    close_hooks(&b);
}

/* -- errors in files ------------------------------------------------------------------------------- */

static void fails_to_open(const char *script, const char *message) {
    bench b = {0};
    const char *path = write_script("mine.lua", script);
    assert_int_equal(open_hooks(&b, path, NULL), RW_E_LUA);
    assert_null(b.lua);
    char expected[1200];
    snprintf(expected, sizeof expected, "%s%s", path, message);
    const char *text = error_of(&b);
    if (strncmp(text, expected, strlen(expected)) != 0) fail_msg("expected: %s\n     got: %s", expected, text);
    assert_ptr_equal(b.err.at.file, path); /* the plan's own text: it outlives the state */
    close_hooks(&b);
}

static void test_errors_of_loading(void **state) {
    (void)state;
    fails_to_open("return { on_train_batch_ned = function() end }",
                  ": unknown hook 'on_train_batch_ned' (did you mean 'on_train_batch_end'?)");
    fails_to_open("return { qqqqqqqqqqqqq = function() end }",
                  ": unknown hook 'qqqqqqqqqqqqq' (known: lr, weight_decay, should_save, log, on_train_start, "
                  "on_train_batch_end, on_validation_end, on_train_end, state_dict, load_state_dict)");
    fails_to_open("return { lr = 1e-4 }", ": hook 'lr' must be a function, got a number");
    fails_to_open("return { function() end }", ": the names of hooks must be strings, got a number");
    fails_to_open("local x = 1", ": must return a table of hooks, got nil (end the file with: return { ");
    fails_to_open("local x = 1\nreturn { lr = function( }", ":2: ");
    fails_to_open("local x = 1\nerror('no')", ":2: no");
    fails_to_open("\n\ncount = 0\nreturn {}", ":3: assignment to undeclared global 'count'; write 'local count'");
    fails_to_open("#!/usr/bin/env rwkv-run\n\nlocal x = nil + 1", ":3: attempt to perform arithmetic on a nil value");
    fails_to_open("local s = require 'rwkv.schedule'\nreturn { lr = s.cosine{ frm = 1, to = 2 } }",
                  ":2: schedule.cosine: unknown option 'frm'");
    fails_to_open("local s = require 'rwkv.schedule'\nreturn { lr = s.warmup(10) }",
                  ":2: schedule.warmup: expected a schedule after the steps, got nil");
}

static void test_missing_file(void **state) {
    (void)state;
    bench b = {0};
    assert_int_equal(open_hooks(&b, "no/such/file.lua", NULL), RW_E_LUA);
    assert_contains(error_of(&b), "no/such/file.lua");
    close_hooks(&b);
}

static void test_require_beside_the_hook(void **state) {
    (void)state;
    bench b = {0};
    rw_error err = {0};
    char lib[600];
    snprintf(lib, sizeof lib, "%s/lib", rw_test_folder());
    assert_int_equal(rw_mkdir_all(lib, &err), RW_OK);
    write_script("lib/words.lua", "return { half = 0.5, deep = require 'lib.more' }");
    write_script("lib/more.lua", "return 7");
    open_one(&b, "local w = require 'lib.words'\nassert(w.deep == 7 and require 'lib.words' == w)\n"
                 "return { lr = function() return w.half end }");
    assert_true(number_at(&b, RW_HOOK_lr, 0) == 0.5);
    close_hooks(&b);
    fails_to_open("require '../etc/passwd'", ":1: require '../etc/passwd': expected a name");
    fails_to_open("require 'lib..words'", ":1: require 'lib..words': expected a name");
    fails_to_open("require ''", ":1: require: the name is empty");
    fails_to_open("require 'lib.none'", ":1: require 'lib.none': neither");
    write_script("lib/loop.lua", "local again = require 'lib.loop'\nreturn again");
    char path[600];
    snprintf(path, sizeof path, "%s", rw_test_path("lib/loop.lua"));
    assert_int_equal(open_hooks(&b, write_script("mine.lua", "require 'lib.loop'"), NULL), RW_E_LUA);
    assert_contains(error_of(&b), "it requires itself");
    assert_contains(error_of(&b), "lib/loop.lua:1: ");
    close_hooks(&b);
}

/* -- errors in calls ------------------------------------------------------------------------------- */

static void fails_to_call(const char *script, rw_hook_id id, const char *message) {
    bench b = {0};
    const char *path = write_script("mine.lua", script);
    assert_ok(&b, open_hooks(&b, path, NULL));
    rw_hook_trainer t = a_trainer(120);
    rw_hook_metrics m = some_metrics(1);
    double number;
    bool given, flag;
    char line[64];
    rw_status status;
    if (id == RW_HOOK_lr || id == RW_HOOK_weight_decay)
        status = b.hooks.number(b.hooks.ctx, id, &t, &number, &given, &b.err);
    else if (id == RW_HOOK_should_save)
        status = b.hooks.boolean(b.hooks.ctx, id, &t, NULL, &flag, &given, &b.err);
    else if (id == RW_HOOK_log)
        status = b.hooks.text(b.hooks.ctx, id, &t, &m, line, sizeof line, &given, &b.err);
    else
        status = b.hooks.event(b.hooks.ctx, id, &t, &m, &b.err);
    assert_int_equal(status, RW_E_LUA);
    char expected[1200];
    snprintf(expected, sizeof expected, "%s%s", path, message);
    assert_string_equal(error_of(&b), expected);
    close_hooks(&b);
}

static void test_errors_of_calls(void **state) {
    (void)state;
    fails_to_call("return {\n  on_train_batch_end = function(trainer, metrics)\n\n\n    local x = nil .. 'a' end }",
                  RW_HOOK_on_train_batch_end, ":5: on_train_batch_end at step 121: attempt to concatenate a nil value");
    fails_to_call("local function f()\n error('deep') end\nreturn { lr = function()\n f()\nend }", RW_HOOK_lr,
                  ":2: lr at step 121: deep");
    fails_to_call("return {\n lr = function() return 'fast' end }", RW_HOOK_lr,
                  ":2: lr at step 121: lr must return a number, got string");
    fails_to_call("return { lr = function() return 0/0 end }", RW_HOOK_lr,
                  ":1: lr at step 121: lr must return a number >= 0, got nan");
    fails_to_call("return { lr = function() return -1 end }", RW_HOOK_lr,
                  ":1: lr at step 121: lr must return a number >= 0, got -1");
    fails_to_call("return { weight_decay = function() return 1/0 end }", RW_HOOK_weight_decay,
                  ":1: weight_decay at step 121: weight_decay must return a number >= 0, got inf");
    fails_to_call("return { should_save = function() return 1 end }", RW_HOOK_should_save,
                  ":1: should_save at step 121: should_save must return a boolean, got number");
    fails_to_call("return { log = function() return {} end }", RW_HOOK_log,
                  ":1: log at step 121: log must return a string, got table");
    fails_to_call("return { lr = function(t)\n return t.lr_int end }", RW_HOOK_lr,
                  ":2: lr at step 121: trainer has no field 'lr_int' (did you mean 'lr_init'?)");
    fails_to_call("return { on_train_end = function(t, m)\n return m.los end }", RW_HOOK_on_train_end,
                  ":2: on_train_end at step 121: metrics has no field 'los' (did you mean 'loss'?)");
    fails_to_call(
        "return { on_train_end = function(t)\n t.step = 3 end }", RW_HOOK_on_train_end,
        ":2: on_train_end at step 121: trainer and metrics are read-only; a hook answers with its return value");
    fails_to_call("return { on_train_end = function(t)\n total = 3 end }", RW_HOOK_on_train_end,
                  ":2: on_train_end at step 121: assignment to undeclared global 'total'; write 'local total'");
    fails_to_call("return { on_train_end = function(t)\n error({}) end }", RW_HOOK_on_train_end,
                  ":2: on_train_end at step 121: (the error is a table, not a string)");
    fails_to_call("return { on_train_end = function(t)\n t.stop('enough') end }", RW_HOOK_on_train_end,
                  ":2: on_train_end at step 121: call stop with a colon: trainer:stop(...)");
}

/* Lua shortens long chunk names; the messages do not. */
static void test_long_paths(void **state) {
    (void)state;
    bench b = {0};
    rw_error err = {0};
    char dir[700];
    snprintf(dir, sizeof dir, "%s/a-folder-with-a-name-that-is-longer-than-the-sixty-bytes-of-a-chunk-name",
             rw_test_folder());
    assert_int_equal(rw_mkdir_all(dir, &err), RW_OK);
    static const char *const scripts[] = {"local x =\n= 1", "local x\nx = nil + 1", "local x\nundeclared = 1"};
    for (int i = 0; i < 3; i++) {
        char file[800], expected[900];
        snprintf(file, sizeof file, "%s/mine.lua", dir);
        assert_int_equal(rw_write_file(file, scripts[i], (int64_t)strlen(scripts[i]), &err), RW_OK);
        assert_int_equal(open_hooks(&b, file, NULL), RW_E_LUA);
        snprintf(expected, sizeof expected, "%s:2: ", file);
        assert_int_equal(strncmp(error_of(&b), expected, strlen(expected)), 0);
        assert_null(strstr(b.text, "..."));
        close_hooks(&b);
    }
}

static void test_traceback_is_the_detail(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "local function inner() error('x') end\nreturn { on_train_end = function() inner() end }");
    rw_hook_trainer t = a_trainer(1);
    assert_int_equal(event(&b, RW_HOOK_on_train_end, &t, 1), RW_E_LUA);
    assert_non_null(b.err.detail);
    assert_contains(b.err.detail, "stack traceback");
    assert_contains(b.err.detail, "in function 'inner'");
    assert_null(strstr(b.err.detail, "[C]: at"));
    close_hooks(&b);
}

static void test_a_failed_hook_leaves_the_state_usable(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "return { on_train_end = function(t) if t.step == 1 then error('once') end t:save() end }");
    for (int i = 0; i < 300; i++) {
        rw_hook_trainer bad = a_trainer(1), good = a_trainer(2);
        assert_int_equal(event(&b, RW_HOOK_on_train_end, &bad, 1), RW_E_LUA);
        assert_ok(&b, event(&b, RW_HOOK_on_train_end, &good, 1));
        assert_true(good.ask_save);
    }
    close_hooks(&b);
}

static void test_objects_expire(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "local kept, kept_m\nreturn {\n"
                 " on_train_batch_end = function(t, m) kept, kept_m = t, m end,\n"
                 " on_train_end = function() return kept.step end,\n"
                 " on_train_start = function() return kept_m.loss end,\n"
                 " should_save = function() kept:save() return true end }");
    rw_hook_trainer t = a_trainer(3);
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 1));
    assert_int_equal(event(&b, RW_HOOK_on_train_end, &t, 1), RW_E_LUA);
    assert_contains(error_of(&b), ":4: on_train_end at step 4: 'trainer' was used after its hook returned");
    assert_int_equal(event(&b, RW_HOOK_on_train_start, &t, 1), RW_E_LUA);
    assert_contains(error_of(&b), ":5: on_train_start at step 4: 'metrics' was used after its hook returned");
    bool value, given;
    rw_error_clear(&b.err);
    assert_int_equal(b.hooks.boolean(b.hooks.ctx, RW_HOOK_should_save, &t, NULL, &value, &given, &b.err), RW_E_LUA);
    assert_contains(error_of(&b), ":6: ");
    assert_false(t.ask_save);
    close_hooks(&b);
}

static void test_every_field_can_be_read(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b,
             "return { on_train_batch_end = function(t, m)\n"
             " for _, k in ipairs{'step','step_begin','n_steps','epoch','epoch_steps','epoch_count','epoch_begin',"
             "'epoch_save','tokens','ctx_len','micro_bsz','accumulate','real_bsz','lr_init','lr_final','weight_decay',"
             "'weight_decay_final','warmup_steps','save_every','log_every','elapsed'} do\n"
             "  assert(type(t[k]) == 'number', k) end\n"
             " for _, k in ipairs{'schedule','proj_dir','name','arch'} do assert(type(t[k]) == 'string', k) end\n"
             " for _, k in "
             "ipairs{'step','epoch','tokens','skipped','loss','loss_epoch','val_loss','lr','weight_decay','grad_norm',"
             "'clip_coef','tokens_per_second','seconds_left','elapsed'} do assert(type(m[k]) == 'number', k) end\n"
             " assert(t.ctx_len == 64 and t.lr_init == 1e-3 and t.arch == 'x060' and m.loss == 2.5)\n"
             " assert(tostring(t) == 'trainer (step 3 of 1000)' and tostring(m) == 'metrics')\n"
             "end }");
    rw_hook_trainer t = a_trainer(3);
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 2.5));
    close_hooks(&b);
}

/* -- memory of hooks, files, named saves -------------------------------------------------------------- */

static void test_what_hooks_remember_comes_back(void **state) {
    (void)state;
    static const char script[] =
        "local kept = { n = 1/3, big = 2^53, minus = -0.0, inf = 1/0, low = -1/0, nan = 0/0, yes = true, no = false,\n"
        "  text = 'a\\0\\n\"\xe4\xbd\xa0', list = { 1, { x = 2 }, 'c' }, empty = {}, deep = { a = { b = { 5e-324 } } } "
        "}\n"
        "local got\nreturn { state_dict = function() return got or kept end,\n"
        "  load_state_dict = function(s) got = s end,\n"
        "  on_train_end = function()\n"
        "    for _, k in ipairs{'n','big','inf','low','yes','no','text'} do assert(got[k] == kept[k], k) end\n"
        "    assert(got.nan ~= got.nan and 1 / got.minus == -1/0 and next(got.empty) == nil)\n"
        "    assert(#got.list == 3 and got.list[2].x == 2 and got.deep.a.b[1] == 5e-324) end }";
    bench b = {0};
    rw_str json = {0}, again = {0};
    rw_hook_trainer t = a_trainer(3);
    open_one(&b, script);
    assert_ok(&b, b.hooks.save_memory(b.hooks.ctx, &t, &json, &b.err));
    close_hooks(&b);
    open_one(&b, script);
    assert_ok(&b, b.hooks.load_memory(b.hooks.ctx, &t, json.data, json.len, &b.err));
    assert_ok(&b, event(&b, RW_HOOK_on_train_end, &t, 1));
    assert_ok(&b, b.hooks.save_memory(b.hooks.ctx, &t, &again, &b.err));
    assert_string_equal(json.data, again.data);
    close_hooks(&b);
    rw_str_done(&json);
    rw_str_done(&again);
}

static void cannot_be_remembered(const char *value, const char *message) {
    char script[400];
    bench b = {0};
    rw_str json = {0};
    rw_hook_trainer t = a_trainer(3);
    snprintf(script, sizeof script, "local t = {}\nreturn { state_dict = function() return %s end }", value);
    open_one(&b, script);
    assert_int_equal(b.hooks.save_memory(b.hooks.ctx, &t, &json, &b.err), RW_E_LUA);
    assert_contains(error_of(&b), message);
    close_hooks(&b);
    rw_str_done(&json);
}

static void test_what_cannot_be_remembered(void **state) {
    (void)state;
    cannot_be_remembered("3", "state_dict must return a table, got number");
    cannot_be_remembered("{ f = print }", "state_dict: a function cannot be saved");
    cannot_be_remembered("{ [2] = 1 }", "the keys of a table must be 1 to n or strings, got a number");
    cannot_be_remembered("{ 1, x = 2 }", "the keys of a table must be 1 to n or strings, got a number");
    cannot_be_remembered("{ s = '\\255' }", "a string is not UTF-8");
    cannot_be_remembered("{ s = ('x'):rep(2e6), t = 1 }", "more than 1048576 bytes");
    cannot_be_remembered("(function() t.t = t return t end)()", "tables in more than 20 levels");
}

/* Two files of one name are told apart; a file without memory gets nothing. */
static void test_memory_goes_to_its_file(void **state) {
    (void)state;
    static const char counts[] = "local n = 0 return { state_dict = function() return { n = n } end,\n"
                                 "load_state_dict = function(s) n = s.n end,\n"
                                 "on_train_batch_end = function() n = n + 1 end, lr = function() return n end }";
    bench b = {0};
    rw_error err = {0};
    rw_str json = {0};
    char dir[600];
    rw_hook_trainer t = a_trainer(3);
    snprintf(dir, sizeof dir, "%s/other", rw_test_folder());
    assert_int_equal(rw_mkdir_all(dir, &err), RW_OK);
    assert_ok(&b, open_hooks(&b, write_script("mine.lua", counts), write_script("other/mine.lua", counts)));
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 1));
    assert_ok(&b, b.hooks.save_memory(b.hooks.ctx, &t, &json, &b.err));
    assert_string_equal(json.data, "{\"mine.lua\":{\"n\":1},\"mine.lua#2\":{\"n\":1}}");
    static const char saved[] = "{\"mine.lua#2\":{\"n\":7},\"gone.lua\":{}}";
    assert_ok(&b, b.hooks.load_memory(b.hooks.ctx, &t, saved, strlen(saved), &b.err));
    assert_true(number_at(&b, RW_HOOK_lr, 3) == 7);
    close_hooks(&b);
    rw_str_done(&json);
}

static void test_saves_with_a_name(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "return { on_train_end = function(t) t:save('best') t:save('best') t:save('last-2.x') end,\n"
                 "on_train_batch_end = function(t) for i = 1, 5 do t:save('n' .. i) end end,\n"
                 "on_train_start = function(t) t:save('../up') end }");
    rw_hook_trainer t = a_trainer(3);
    assert_ok(&b, event(&b, RW_HOOK_on_train_end, &t, 1));
    assert_int_equal(t.n_save_names, 2);
    assert_string_equal(t.save_names[0], "best");
    assert_string_equal(t.save_names[1], "last-2.x");
    assert_false(t.ask_save);
    t.n_save_names = 0;
    assert_int_equal(event(&b, RW_HOOK_on_train_batch_end, &t, 1), RW_E_LUA);
    assert_contains(error_of(&b), "more than 4 names in one step");
    assert_int_equal(event(&b, RW_HOOK_on_train_start, &t, 1), RW_E_LUA);
    assert_contains(error_of(&b), ":3: on_train_start at step 4: trainer:save: expected a name of letters");
    close_hooks(&b);
}

/* trainer:append follows no link, opens nothing but a file of its own, and has an end. */
static void test_appends_stay_in_the_folder(void **state) {
    (void)state;
    rw_error err = {0};
    char dir[500], path[600], outside[600];
    char *text = NULL;
    int64_t n = 0;
    snprintf(dir, sizeof dir, "%s/run", rw_test_folder());
    snprintf(path, sizeof path, "%s/lua", dir);
    assert_int_equal(rw_mkdir_all(path, &err), RW_OK);
    snprintf(outside, sizeof outside, "%s", rw_test_path("outside.txt"));
    assert_int_equal(rw_write_file(outside, "mine", 4, &err), RW_OK);
    snprintf(path, sizeof path, "%s/lua/soft", dir);
    assert_int_equal(symlink(outside, path), 0);
    snprintf(path, sizeof path, "%s/lua/hard", dir);
    assert_int_equal(link(outside, path), 0);
    snprintf(path, sizeof path, "%s/lua/fifo", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    bench b = {.plan = {.memory_bytes = INT64_C(1) << 30}};
    open_one(&b,
             "return { on_train_batch_end = function(t, m) t:append('log.csv', m.loss .. ',' .. 2 .. '\\n') end,\n"
             "on_train_end = function(t)\n"
             "  for _, name in ipairs{'soft','hard','fifo','../x','a/b','.hidden',''} do\n"
             "    assert(not pcall(t.append, t, name, 'x'), name) end\n"
             "  local ok, e = pcall(t.append, t, 'big', ('x'):rep(2.7e8)) assert(not ok and e:find('256 MiB')) end }");
    rw_hook_trainer t = a_trainer(3);
    t.proj_dir = dir;
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 1.5));
    assert_ok(&b, event(&b, RW_HOOK_on_train_batch_end, &t, 2.5));
    assert_ok(&b, event(&b, RW_HOOK_on_train_end, &t, 1));
    close_hooks(&b);
    snprintf(path, sizeof path, "%s/lua/log.csv", dir);
    assert_int_equal(rw_file_slurp(path, 100, &text, &n, &err), RW_OK);
    assert_string_equal(text, "1.5,2\n2.5,2\n");
    rw_free(text);
    assert_int_equal(rw_file_slurp(outside, 100, &text, &n, &err), RW_OK);
    assert_string_equal(text, "mine");
    rw_free(text);
    snprintf(path, sizeof path, "%s/lua", dir);
    char moved[600];
    snprintf(moved, sizeof moved, "%s/elsewhere", dir);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(symlink(moved, path), 0);
    open_one(&b, "return { on_train_end = function(t) t:append('log.csv', 'x') end }");
    assert_int_equal(event(&b, RW_HOOK_on_train_end, &t, 1), RW_E_LUA);
    assert_contains(error_of(&b), "trainer:append: ");
    close_hooks(&b);
}

static void test_log_text_is_made_harmless(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, "return { log = function() return 'a\\27[2Jb\\nc' end }");
    rw_hook_trainer t = a_trainer(3);
    rw_hook_metrics m = some_metrics(1);
    char line[64];
    bool given;
    assert_ok(&b, b.hooks.text(b.hooks.ctx, RW_HOOK_log, &t, &m, line, sizeof line, &given, &b.err));
    assert_string_equal(line, "a?[2Jb c");
    close_hooks(&b);
}

/* -- memory ---------------------------------------------------------------------------------------- */

static const char walked[] =
    "local s = require 'rwkv.schedule'\n"
    "return { lr = s.warmup(3, s.auto(1e-3, 1e-4)), on_train_end = function(t, m) t:stop('x') end }";

static void test_lua_out_of_memory_everywhere(void **state) {
    (void)state;
    const char *path = write_script("mine.lua", walked);
    int64_t n = 0;
    for (rw_status status = RW_E_LUA; status != RW_OK;) {
        bench b = {0};
        rw_lua_alloc_fail_after(++n);
        status = open_hooks(&b, path, NULL);
        if (status == RW_OK) {
            double value;
            bool given;
            rw_hook_trainer t = a_trainer(1);
            status = b.hooks.number(b.hooks.ctx, RW_HOOK_lr, &t, &value, &given, &b.err);
            if (status == RW_OK) status = event(&b, RW_HOOK_on_train_end, &t, 1);
        }
        rw_lua_alloc_fail_after(0);
        if (status != RW_OK) assert_contains(error_of(&b), "memory");
        close_hooks(&b);
        assert_true(n < 100000);
    }
    print_message("walked %lld requests of Lua\n", (long long)n);
    assert_true(n > 100);
}

static void test_heap_out_of_memory_everywhere(void **state) {
    (void)state;
    const char *path = write_script("mine.lua", walked);
    const int64_t live = rw_alloc_live();
    int64_t n = 0;
    for (rw_status status = RW_E_LUA; status != RW_OK;) {
        bench b = {0};
        rw_alloc_fail_after(++n);
        status = open_hooks(&b, path, NULL);
        rw_alloc_fail_after(0);
        close_hooks(&b);
        assert_int_equal(rw_alloc_live(), live);
        assert_true(n < 1000);
    }
    print_message("walked %lld requests of the heap\n", (long long)n);
    assert_true(n > 2);
}

static void test_calls_do_not_use_the_heap(void **state) {
    (void)state;
    bench b = {0};
    open_one(&b, walked);
    number_at(&b, RW_HOOK_lr, 0);
    const int64_t calls = rw_alloc_calls();
    for (int64_t step = 0; step < 2000; step++) number_at(&b, RW_HOOK_lr, step);
    assert_int_equal(rw_alloc_calls(), calls);
    print_message("Lua holds %lld bytes, at most %lld\n", (long long)rw_lua_bytes(b.lua),
                  (long long)rw_lua_peak(b.lua));
    assert_true(rw_lua_peak(b.lua) < 1 << 20);
    close_hooks(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_answer_without_files),
        cmocka_unit_test(test_default_should_save_is_official),
        cmocka_unit_test(test_default_log_line),
        cmocka_unit_test(test_later_file_wins_and_nil_asks_the_one_before),
        cmocka_unit_test(test_events_go_to_every_file_in_order),
        cmocka_unit_test(test_example_of_the_design),
        cmocka_unit_test(test_early_stop_by_name),
        cmocka_unit_test(test_random_depends_on_step_only),
        cmocka_unit_test(test_errors_of_loading),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_require_beside_the_hook),
        cmocka_unit_test(test_errors_of_calls),
        cmocka_unit_test(test_long_paths),
        cmocka_unit_test(test_traceback_is_the_detail),
        cmocka_unit_test(test_a_failed_hook_leaves_the_state_usable),
        cmocka_unit_test(test_objects_expire),
        cmocka_unit_test(test_every_field_can_be_read),
        cmocka_unit_test(test_what_hooks_remember_comes_back),
        cmocka_unit_test(test_what_cannot_be_remembered),
        cmocka_unit_test(test_memory_goes_to_its_file),
        cmocka_unit_test(test_saves_with_a_name),
        cmocka_unit_test(test_appends_stay_in_the_folder),
        cmocka_unit_test(test_log_text_is_made_harmless),
        cmocka_unit_test(test_lua_out_of_memory_everywhere),
        cmocka_unit_test(test_heap_out_of_memory_everywhere),
        cmocka_unit_test(test_calls_do_not_use_the_heap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
