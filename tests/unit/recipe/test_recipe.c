/* Recipes: what reaches the plan, origins, the pairs for a resume, several mistakes at once, lack of memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/recipe/recipe.h"
#include "tests/unit/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "model: { arch: x060, n_layer: 2, n_embd: 64 }\n"
#define DATA  "data: { data_type: jsonl, data_file: d.jsonl, tokenizer: byte, ctx_len: 32 }\n"

static rw_status load_text(rw_recipe *r, const char *text, const char *override, rw_error *err) {
    rw_recipe_options o = {.path = "dir/r.yaml",
                           .text = text,
                           .n_text = strlen(text),
                           .overrides = &override,
                           .n_overrides = override != NULL};
    return rw_recipe_load(r, &o, err);
}

static void must_load(rw_recipe *r, const char *text, const char *override) {
    rw_error err = {0};
    char line[2048];
    if (load_text(r, text, override, &err) == RW_OK) return;
    rw_error_format(&err, line, sizeof line);
    fail_msg("%s", line);
}

static void choices_reach_the_plan(void **state) {
    (void)state;
    static const char text[] = "name: n\ndevice: cpu\nhooks: [a.lua, /b.lua]\n"
                               "model: { arch: x060, n_layer: 3, n_embd: 96, head_size: 32, dim_ffn: 128 }\n"
                               "data: { data_type: binidx, data_file: x/pile, valid_file: v, ctx_len: 64 }\n"
                               "train: { micro_bsz: 2, accumulate: 3, epoch_steps: 5, epoch_count: 7,\n"
                               "  lr_init: 3e-4, lr_final: 2e-5,\n"
                               "  grad_cp: 1, layerwise_lr: false, random_seed: 9007199254740991, beta2: 0.999,\n"
                               "  max_seconds: 1.5 }\n"
                               "save: { dtype: bf16, keep: 4 }\nlog: { every: 11 }\n"
                               "lua: { budget_ms: 10, memory_mb: 3 }\n";
    rw_recipe r;
    rw_plan p = {.threads = 5};
    must_load(&r, text, "lua.jit=true");
    rw_recipe_to_plan(&r, &p);
    assert_string_equal(p.name, "n");
    assert_int_equal(p.device, RW_ON_CPU);
    assert_int_equal(p.threads, 5);
    assert_string_equal(p.recipe_path, "dir/r.yaml");
    assert_string_equal(p.recipe_dir, "dir");
    assert_int_equal(p.lua.n_files, 2);
    assert_string_equal(p.lua.files[0], "dir/a.lua");
    assert_string_equal(p.lua.files[1], "/b.lua");
    assert_true(p.lua.jit);
    assert_false(p.lua.trust);
    assert_int_equal(p.lua.budget_ms, 10);
    assert_int_equal(p.lua.memory_bytes, 3 << 20);
    assert_string_equal(p.model.arch, "x060");
    assert_null(p.model.load_model);
    assert_int_equal(p.model.n_layer, 3);
    assert_int_equal(p.model.n_embd, 96);
    assert_int_equal(p.model.head_size, 32);
    assert_int_equal(p.model.dim_ffn, 128);
    assert_int_equal(p.model.vocab_size, 0); /* the plan decides */
    assert_true(p.model.head_size_divisor == 8);
    assert_int_equal(p.model.init, RW_INIT_TUTORIAL);
    assert_int_equal(p.data.data_type, RW_FORMAT_BINIDX);
    assert_string_equal(p.data.data_file, "dir/x/pile");
    assert_string_equal(p.data.valid_file, "dir/v");
    assert_false(rw_recipe_given(&r, RW_KEY_data_tokenizer));
    assert_null(p.data.vocab_file);
    assert_int_equal(p.data.sampler, RW_SAMPLER_RANDOM);
    assert_int_equal(p.data.ctx_len, 64);
    assert_int_equal(p.train.micro_bsz, 2);
    assert_int_equal(p.train.accumulate, 3);
    assert_int_equal(p.train.epoch_steps * p.train.epoch_count, 35);
    assert_int_equal(p.train.random_seed, 9007199254740991);
    assert_true(p.train.lr_init == 3e-4 && p.train.lr_final == 2e-5);
    assert_true(p.train.beta1 == 0.9 && p.train.beta2 == 0.999 && p.train.adam_eps == 1e-8);
    assert_true(p.train.grad_clip == 1 && p.train.max_seconds == 1.5);
    assert_false(p.train.layerwise_lr);
    assert_int_equal(p.train.checkpoint, RW_CHECKPOINT_BLOCK);
    assert_int_equal(p.train.warmup_steps, -1);
    assert_int_equal(p.train.schedule, RW_SCHEDULE_AUTO);
    assert_int_equal(p.train.precision, RW_PRECISION_BF16);
    assert_int_equal(p.train.l2wrap, RW_L2WRAP_V7);
    assert_int_equal(p.train.loss_norm, RW_LOSS_NORM_STEP);
    assert_string_equal(p.save.proj_dir, "dir/output");
    assert_int_equal(p.save.dtype, RW_BF16);
    assert_int_equal(p.save.epoch_save, 5);
    assert_int_equal(p.save.keep, 4);
    assert_int_equal(p.log.every, 11);
    assert_int_equal(rw_recipe_where(&r, RW_KEY_train_lr_init).line, 7);
    assert_string_equal(rw_recipe_where(&r, RW_KEY_lua_jit).file, "command line");
    assert_null(rw_recipe_where(&r, RW_KEY_train_beta1).file);
    rw_recipe_done(&r);
}

static void what_load_model_decides_stays_empty(void **state) {
    (void)state;
    rw_recipe r;
    rw_plan p = {0};
    must_load(&r, "model: { load_model: m.pth }\n" DATA, NULL);
    rw_recipe_to_plan(&r, &p);
    assert_string_equal(p.model.load_model, "dir/m.pth");
    assert_null(p.model.arch);
    assert_int_equal(p.model.n_layer + p.model.n_embd + p.model.vocab_size + p.model.head_size + p.model.dim_ffn, 0);
    assert_int_equal(p.save.dtype, RW_DTYPE_NONE);
    assert_string_equal(p.name, "r");
    rw_recipe_done(&r);
}

/* The pairs of a recipe, with a plan in which model.dim_ffn and data.tokenizer were decided. */
static rw_pairs pairs_of(rw_recipe *r, rw_plan *p) {
    rw_error err = {0};
    rw_pairs pairs;
    *p = (rw_plan){0};
    rw_recipe_to_plan(r, p);
    p->model.dim_ffn = 224;
    p->model.vocab_size = 257;
    assert_int_equal(rw_recipe_pairs(r, p, &r->arena, &pairs, &err), RW_OK);
    return pairs;
}

static void a_resume_names_what_differs(void **state) {
    (void)state;
    rw_recipe a, b;
    rw_plan plan;
    rw_str text = {0};
    must_load(&a, MODEL DATA, "train.lr_init=0.00001");
    rw_pairs saved = pairs_of(&a, &plan), now;
    /* how it is written, free keys, and saying what the plan decided do not matter */
    must_load(&b, MODEL DATA "train: { lr_init: 1e-5, epoch_count: 9 }\nlog: { every: 7 }\n", "model.vocab_size=257");
    now = pairs_of(&b, &plan);
    assert_int_equal(rw_recipe_differences(&saved, &now, &text), 0);
    rw_recipe_done(&b);
    must_load(&b,
              "model: { arch: x060, n_layer: 2, n_embd: 64, dim_ffn: 256 }\n" DATA
              "train: { lr_init: 2e-5, weight_decay: 0.1 }\n",
              NULL);
    now = pairs_of(&b, &plan);
    rw_pair longer[RW_KEY_COUNT + 1];
    memcpy(longer, saved.at, (size_t)saved.n * sizeof *longer);
    longer[saved.n] = (rw_pair){"train.old_key", "3"};
    assert_int_equal(rw_recipe_differences(&(rw_pairs){saved.n + 1, longer}, &now, &text), 4);
    assert_string_equal(text.data, "model.dim_ffn: was 224, now 256\n"
                                   "train.lr_init: was 1e-5, now 2e-5\n"
                                   "train.weight_decay: was 0, now 0.1\n"
                                   "train.old_key: was 3, now not given\n");
    rw_str_done(&text);
    rw_recipe_done(&a);
    rw_recipe_done(&b);
}

static void the_effective_recipe_reads_back(void **state) {
    (void)state;
    rw_recipe a, b;
    rw_str text = {0};
    must_load(&a, "name: 'a: \"b\" # c'\nhooks: [x.lua, 'y, z.lua']\n" MODEL DATA, "train.beta1=0.95");
    rw_recipe_print(&a, NULL, &text);
    assert_non_null(strstr(text.data, "  beta1: 0.95                                 # command line\n"));
    assert_non_null(strstr(text.data, "# dir/r.yaml:3\n"));
    rw_error err = {0};
    rw_recipe_options o = {.path = "again.yaml", .text = text.data, .n_text = text.len};
    assert_int_equal(rw_recipe_load(&b, &o, &err), RW_OK);
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        if (rw_keys[i].type == RW_TYPE_PATH || rw_keys[i].type == RW_TYPE_PATHS) continue;
        if (a.values[i].text) assert_string_equal(a.values[i].text, b.values[i].text);
    }
    assert_string_equal(a.values[RW_KEY_top_hooks].list.items[1], b.values[RW_KEY_top_hooks].list.items[1]);
    assert_string_equal(a.values[RW_KEY_data_data_file].s, b.values[RW_KEY_data_data_file].s);
    rw_str_done(&text);
    rw_recipe_done(&a);
    rw_recipe_done(&b);
}

static void many_mistakes_are_counted(void **state) {
    (void)state;
    rw_str text = {0};
    rw_str_append(&text, "train:\n");
    for (int i = 0; i < 50; i++) rw_str_appendf(&text, "  zzzzz%d: 1\n", i);
    rw_recipe r;
    rw_error err = {0};
    assert_int_equal(load_text(&r, text.data, NULL, &err), RW_E_RECIPE);
    assert_int_equal(err.at.line, 2);
    assert_non_null(err.detail);
    assert_non_null(strstr(err.detail, "... and 30 more mistakes"));
    rw_error_clear(&err);
    rw_recipe_done(&r);
    rw_str_done(&text);
}

static void no_recipe_is_a_wrong_command_line(void **state) {
    (void)state;
    rw_recipe r;
    rw_error err = {0};
    rw_recipe_options o = {.path = "there/is/none.yaml"};
    assert_int_equal(rw_recipe_load(&r, &o, &err), RW_E_USAGE);
    rw_recipe_done(&r);
    o.path = rw_test_folder();
    assert_int_equal(rw_recipe_load(&r, &o, &err), RW_E_USAGE);
    assert_non_null(strstr(err.msg, "/recipe.yaml"));
    rw_recipe_done(&r);
    rw_error_clear(&err);
}

/* A link that leads out of the folder is out of the folder. */
static void a_link_does_not_lead_out(void **state) {
    (void)state;
    char link[600], path[600], folder[512];
    snprintf(folder, sizeof folder, "%s", rw_test_path("inside"));
    snprintf(link, sizeof link, "%s/link", folder);
    snprintf(path, sizeof path, "%s/r.yaml", folder);
    rw_error err = {0};
    assert_int_equal(rw_mkdir_all(folder, &err), RW_OK);
    assert_int_equal(symlink("/", link), 0);
    static const struct {
        const char *dir;
        bool trust, allowed;
    } cases[] = {{"link/tmp/x", false, false},  {"link/tmp/x", true, true}, {"new/x", false, true},
                 {"new/../../x", false, false}, {".", false, true},         {"../inside/y", false, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        rw_recipe r;
        snprintf(text, sizeof text, MODEL DATA "save: { proj_dir: %s }\n", cases[i].dir);
        rw_recipe_options o = {.path = path, .text = text, .n_text = strlen(text), .trust = cases[i].trust};
        rw_status status = rw_recipe_load(&r, &o, &err);
        if ((status == RW_OK) != cases[i].allowed) fail_msg("proj_dir %s: %s", cases[i].dir, err.msg);
        rw_error_clear(&err);
        rw_recipe_done(&r);
    }
    unlink(link);
}

static void walk_lack_of_memory(const char *text, const char *override, bool right) {
    int64_t live = rw_alloc_live();
    int n = 0;
    for (bool injected = true; injected && n < 500; n++) {
        rw_recipe r;
        rw_error err = {0};
        int64_t before = rw_alloc_calls();
        rw_alloc_fail_after(n + 1);
        rw_status status = load_text(&r, text, override, &err);
        injected = rw_alloc_calls() - before >= n + 1;
        rw_alloc_fail_after(0);
        if (right) assert_int_equal(status, injected ? RW_E_MEMORY : RW_OK);
        if (!right) assert_int_not_equal(status, RW_OK);
        rw_error_clear(&err);
        rw_recipe_done(&r);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_true(n > 5 && n < 500);
}

static void every_lack_of_memory_is_reported(void **state) {
    (void)state;
    setenv("RWKV_NAME", "from the environment", 1);
    walk_lack_of_memory("name: ${env:RWKV_NAME}\nhooks: [a.lua, b.lua]\n" MODEL DATA, "hooks=[c.lua]", true);
    walk_lack_of_memory("name: ${env:RWKV_NAME}\n" MODEL "train: { lr_init: abc, lr_int: 3 }\nzzz: 1\n", "hooks=[c.lua",
                        false);
}

int main(void) {
    setenv("RWKV_LANG", "en", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_reach_the_plan),      cmocka_unit_test(what_load_model_decides_stays_empty),
        cmocka_unit_test(a_resume_names_what_differs), cmocka_unit_test(the_effective_recipe_reads_back),
        cmocka_unit_test(many_mistakes_are_counted),   cmocka_unit_test(no_recipe_is_a_wrong_command_line),
        cmocka_unit_test(a_link_does_not_lead_out),    cmocka_unit_test(every_lack_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
