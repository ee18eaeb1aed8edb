/* Every row of schedule/schedule.jsonl, computed by the official trainers, against lua/rwkv/schedule.lua.
 *
 * Each line of the file becomes a hook file that composes the schedule which its flags mean; the rows are then
 * asked for as the training loop asks. Where the keys of a recipe can say the same (no my_pile_edecay, no
 * my_exit_tokens), the defaults are asked too, without any script. Bound: 1e-12 relative, which is a few
 * roundings of a double; both sides compute in doubles. */
#include "tests/unit/lua/lua_test.h"

#include "core/base/json.h"

#define BOUND 1e-12

typedef struct {
    bench b;
    json_t *flags;
    bool official_keys; /* the recipe's keys can say it */
    bool by_tokens;
    double worst_lr, worst_decay, worst_default;
    int n_rows;
} golden_case;

static double flag(const golden_case *c, const char *name) {
    json_t *v = json_object_get(c->flags, name);
    assert_non_null(v);
    return json_number_value(v);
}

static rw_hook_trainer trainer_of(const golden_case *c) {
    return (rw_hook_trainer){.n_steps = (int64_t)(flag(c, "epoch_count") * flag(c, "epoch_steps")),
                             .epoch_steps = (int64_t)flag(c, "epoch_steps"),
                             .epoch_count = (int64_t)flag(c, "epoch_count"),
                             .epoch_begin = (int64_t)flag(c, "epoch_begin"),
                             .ctx_len = (int64_t)flag(c, "ctx_len"),
                             .micro_bsz = (int64_t)flag(c, "micro_bsz"),
                             .accumulate = 1,
                             .real_bsz = (int64_t)flag(c, "real_bsz"),
                             .lr_init = flag(c, "lr_init"),
                             .lr_final = flag(c, "lr_final"),
                             .weight_decay = flag(c, "weight_decay"),
                             .weight_decay_final = flag(c, "weight_decay_final"),
                             .warmup_steps = (int64_t)flag(c, "warmup_steps"),
                             .schedule = "auto"};
}

/* The flags as a user would write them in a hook file. should_save answers whether the run has ended by tokens. */
static const char script[] = "local s = require 'rwkv.schedule'\n"
                             "local begin = %.17g * %.17g\n" /* my_pile_edecay, epoch_steps */
                             "local tokens, w, start = %.17g, %.17g, %.17g\n"
                             "local from, to, decay, decay_final = %.17g, %.17g, %.17g, %.17g\n"
                             "local lr = s.auto(from, to, { begin = begin })\n"
                             "local by_tokens = { tokens = math.abs(tokens) }\n"
                             "if tokens ~= 0 then\n"
                             "  local wave = s.cosine{ from = from, to = to, tokens = math.abs(tokens) }\n"
                             "  lr = tokens > 0 and wave or s.mean(lr, wave)\n"
                             "end\n"
                             "local moving = s.auto(decay, decay_final > 0 and decay_final or decay, tokens ~= 0 and "
                             "by_tokens or { begin = begin })\n"
                             "local ended = s.delay(w, s.progress(by_tokens))\n"
                             "return { lr = s.warmup(w, lr, { start = start }), weight_decay = s.delay(w, moving),\n"
                             "  should_save = function(trainer) return tokens ~= 0 and ended(trainer) >= 1 end }\n";

static void open_case(golden_case *c, const char *source) {
    char text[2000];
    snprintf(text, sizeof text, script, flag(c, "my_pile_edecay"), flag(c, "epoch_steps"), flag(c, "my_exit_tokens"),
             flag(c, "warmup_steps"), strcmp(source, "fork") == 0 ? 0.2 : 0.01, flag(c, "lr_init"), flag(c, "lr_final"),
             flag(c, "weight_decay"), flag(c, "weight_decay_final"));
    c->by_tokens = flag(c, "my_exit_tokens") != 0;
    c->official_keys = strcmp(source, "fork") == 0 && !c->by_tokens && flag(c, "my_pile_edecay") == 0;
    assert_ok(&c->b, open_hooks(&c->b, write_script("schedule.lua", text), NULL));
}

static double relative(double got, double expected) {
    if (got == expected) return 0;
    return fabs(got - expected) / fabs(expected); /* expected 0: infinite, as it should be */
}

static double ask(bench *b, rw_hook_id id, rw_hook_trainer *t) {
    double value = NAN;
    bool given = false;
    assert_ok(b, b->hooks.number(b->hooks.ctx, id, t, &value, &given, &b->err));
    assert_true(given);
    return value;
}

static void check_row(golden_case *c, bench *defaults, json_t *row) {
    rw_hook_trainer t = trainer_of(c);
    t.step = json_integer_value(json_array_get(row, 0));
    const double lr = json_number_value(json_array_get(row, 1));
    const double decay = json_number_value(json_array_get(row, 2));
    const double lr_5 = json_number_value(json_array_get(row, 3));
    const double group_decay = json_number_value(json_array_get(row, 4));
    const double got_lr = ask(&c->b, RW_HOOK_lr, &t), got_decay = ask(&c->b, RW_HOOK_weight_decay, &t);
    const double factor = flag(c, "layerwise_lr") > 0 ? 5 : 1; /* the scales of groups count with layerwise_lr alone */
    c->worst_lr = fmax(c->worst_lr, fmax(relative(got_lr, lr), relative(factor * got_lr, lr_5)));
    c->worst_decay = fmax(c->worst_decay, fmax(relative(got_decay, decay), relative(got_decay, group_decay)));
    bool ended = false, given = false;
    assert_ok(&c->b, c->b.hooks.boolean(c->b.hooks.ctx, RW_HOOK_should_save, &t, NULL, &ended, &given, &c->b.err));
    assert_int_equal(ended, json_is_true(json_array_get(row, 5)));
    if (c->official_keys) {
        c->worst_default = fmax(c->worst_default, relative(ask(defaults, RW_HOOK_lr, &t), lr));
        c->worst_default = fmax(c->worst_default, relative(ask(defaults, RW_HOOK_weight_decay, &t), decay));
    }
    c->n_rows++;
}

/* One line of the file. Returns its rows. */
static int check_line(const char *text, size_t n, int line, const char *only, double *worst) {
    rw_error err = {0};
    json_t *root = NULL;
    rw_where at = {.file = "schedule.jsonl", .line = line};
    assert_int_equal(rw_json_parse(text, n, at, &root, &err), RW_OK);
    const char *source = json_string_value(json_object_get(root, "source"));
    golden_case c = {.flags = json_object_get(root, "flags")};
    if (strcmp(source, only) != 0) {
        json_decref(root);
        return 0;
    }
    bench defaults = {0};
    open_case(&c, source);
    assert_ok(&defaults, open_hooks(&defaults, NULL, NULL));
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(root, "rows"), i, row) check_row(&c, &defaults, row);
    print_message("  line %2d %-9s %3d rows: lr %.2e  weight_decay %.2e%s", line, source, c.n_rows, c.worst_lr,
                  c.worst_decay, c.official_keys ? "" : "\n");
    if (c.official_keys) print_message("  by keys %.2e\n", c.worst_default);
    close_hooks(&c.b);
    close_hooks(&defaults);
    json_decref(root);
    *worst = fmax(*worst, fmax(c.worst_lr, fmax(c.worst_decay, c.worst_default)));
    return c.n_rows;
}

static void check_source(const char *source, int least_rows) {
    const char *path = rw_golden_path("schedule/schedule.jsonl");
    rw_error err = {0};
    char *data = NULL;
    int64_t n = 0;
    assert_int_equal(rw_file_slurp(path, 64 << 20, &data, &n, &err), RW_OK);
    double worst = 0;
    int rows = 0, line = 0;
    for (char *p = data, *end; p < data + n; p = end + 1) {
        end = strchr(p, '\n');
        if (!end) end = data + n;
        if (end > p) rows += check_line(p, (size_t)(end - p), ++line, source, &worst);
    }
    rw_free(data);
    rw_golden_report(rw_golden_dir(), "schedule", "%s %d rows, worst relative difference %.3e (bound %.0e)", source,
                     rows, worst, BOUND);
    assert_true(rows >= least_rows);
    assert_true(worst <= BOUND);
}

static void test_fork(void **state) {
    (void)state;
    check_source("fork", 1);
}

static void test_newest(void **state) {
    (void)state;
    check_source("newest-v7", 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fork), cmocka_unit_test(test_newest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
