/* The command line: every command, wrong options with their messages, the size of the help. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/str.h"
#include "core/cli/official_flags.h"
#include "core/cli/options.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 32 };

/* Splits at blanks. */
static int split(const char *line, char *copy, char **argv) {
    int argc = 0;
    strcpy(copy, line);
    static char name[] = "rwkv-run";
    argv[argc++] = name;
    for (char *save, *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    argv[argc] = NULL;
    return argc;
}

static char words[512], *arguments[MOST];

static rw_status parse(const char *line, rw_options *o, rw_error *err) {
    int argc = split(line, words, arguments);
    return rw_options_parse(o, argc, arguments, err);
}

static void must_parse(const char *line, rw_options *o) {
    rw_error err = {0};
    if (parse(line, o, &err) != RW_OK) fail_msg("%s: %s", line, err.msg);
}

static void trains(void **state) {
    (void)state;
    rw_options o;
    must_parse("r.yaml train.lr_init=1e-5 --dry-run name=a=b --env A --resume never --env=B --trust", &o);
    assert_int_equal(o.command, RW_COMMAND_TRAIN);
    assert_string_equal(o.train.recipe.path, "r.yaml");
    assert_int_equal(o.train.recipe.n_overrides, 2);
    assert_string_equal(o.train.recipe.overrides[1], "name=a=b");
    assert_int_equal(o.train.recipe.n_env_names, 2);
    assert_string_equal(o.train.recipe.env_names[1], "B");
    assert_string_equal(o.train.resume, "never");
    assert_true(o.train.dry_run && o.train.recipe.trust && o.train.recipe.check_files);
    rw_options_done(&o);
    must_parse("--dry-run r.yaml", &o);
    assert_string_equal(o.train.recipe.path, "r.yaml");
    assert_string_equal(o.train.resume, "auto");
    rw_options_done(&o);
    must_parse("-- -odd-name.yaml", &o);
    assert_string_equal(o.train.recipe.path, "-odd-name.yaml");
    rw_options_done(&o);
}

static void other_commands(void **state) {
    (void)state;
    rw_options o;
    must_parse(
        "generate m.pth --prompt -x --temperature 0.5 --top-p=0.9 --tokens 10 --seed 7 --vocab v --tokenizer byte", &o);
    assert_int_equal(o.command, RW_COMMAND_GENERATE);
    assert_string_equal(o.generate.model, "m.pth");
    assert_string_equal(o.generate.prompt, "-x");
    assert_true(o.generate.temperature == 0.5 && o.generate.top_p == 0.9);
    assert_int_equal(o.generate.tokens, 10);
    assert_int_equal(o.generate.seed, 7);
    assert_string_equal(o.vocab_file, "v");
    assert_string_equal(o.tokenizer, "byte");
    rw_options_done(&o);
    must_parse("generate --prompt= m.pth", &o);
    assert_string_equal(o.generate.prompt, "");
    assert_true(o.generate.temperature == 1 && o.generate.top_p == 1);
    rw_options_done(&o);
    must_parse("inspect a.pth", &o);
    assert_string_equal(o.inspect.file, "a.pth");
    rw_options_done(&o);
    must_parse("tokenize a.jsonl out --dtype uint16", &o);
    assert_string_equal(o.tokenize.input, "a.jsonl");
    assert_string_equal(o.tokenize.output, "out");
    assert_string_equal(o.tokenize.dtype, "uint16");
    rw_options_done(&o);
    must_parse("train r.yaml train.lr_init=1e-5 --dry-run", &o);
    assert_int_equal(o.command, RW_COMMAND_TRAIN);
    assert_string_equal(o.train.recipe.path, "r.yaml");
    assert_int_equal(o.train.recipe.n_overrides, 1);
    rw_options_done(&o);
    must_parse("generate m.pth --prompt a --device cuda --precision=tf32", &o);
    assert_string_equal(o.generate.device, "cuda");
    assert_string_equal(o.generate.precision, "tf32");
    rw_options_done(&o);
    must_parse("bench r.yaml train.lr_init=1e-5 --steps 3 --json", &o);
    assert_int_equal(o.command, RW_COMMAND_BENCH);
    assert_string_equal(o.train.recipe.path, "r.yaml");
    assert_int_equal(o.train.recipe.n_overrides, 1);
    assert_int_equal(o.bench.steps, 3);
    assert_true(o.bench.json);
    rw_options_done(&o);
    must_parse("doctor", &o);
    assert_int_equal(o.command, RW_COMMAND_DOCTOR);
    rw_options_done(&o);
    must_parse("lua s.lua --any -thing", &o);
    assert_string_equal(o.lua.file, "s.lua");
    assert_int_equal(o.lua.n_args, 2);
    rw_options_done(&o);
}

/* The command of the official tutorial, but for its first two words. */
static void official_arguments_of_tokenize(void **state) {
    (void)state;
    rw_options o;
    must_parse("tokenize --input ./a.jsonl --output-prefix ./a --vocab ./v.txt --dataset-impl mmap --tokenizer-type "
               "RWKVTokenizer --append-eod",
               &o);
    assert_int_equal(o.command, RW_COMMAND_TOKENIZE);
    assert_string_equal(o.tokenize.input, "./a.jsonl");
    assert_string_equal(o.tokenize.output, "./a");
    assert_string_equal(o.vocab_file, "./v.txt");
    assert_string_equal(o.tokenize.dtype, "int32");
    assert_true(o.tokenize.append_eod);
    rw_options_done(&o);
    must_parse("tokenize a.jsonl --output-prefix b --workers 8 --num-docs=3 --jsonl-keys text --log-interval 1", &o);
    assert_string_equal(o.tokenize.input, "a.jsonl");
    assert_string_equal(o.tokenize.output, "b");
    rw_options_done(&o);
}

/* The flags of the tutorial's demo-training-run.sh mean a recipe that loads. */
static void official_flags_are_a_recipe(void **state) {
    (void)state;
    static const char *const argv[] = {"rwkv-run",
                                       "--load_model",
                                       "model/base.pth",
                                       "--wandb",
                                       "",
                                       "--proj_dir",
                                       "my output",
                                       "--data_file",
                                       "./data/sample_text_document",
                                       "--data_type",
                                       "binidx",
                                       "--vocab_size",
                                       "0",
                                       "--ctx_len",
                                       "512",
                                       "--epoch_steps=1000",
                                       "--warmup_steps",
                                       "-1",
                                       "--lr_init",
                                       "1e-5",
                                       "--accelerator",
                                       "gpu",
                                       "--devices",
                                       "1",
                                       "--strategy",
                                       "deepspeed_stage_1",
                                       "--my_testing",
                                       "x060",
                                       "--dropout",
                                       "0",
                                       "--never_heard_of",
                                       "1",
                                       "--micro_bsz",
                                       "1",
                                       "--micro_bsz",
                                       "2",
                                       NULL};
    static const char recipe[] = "device: auto\n"
                                 "model:\n  load_model: model/base.pth\n  arch: x060\n"
                                 "data:\n  data_type: binidx\n  data_file: data/sample_text_document\n  ctx_len: 512\n"
                                 "train:\n  micro_bsz: 2\n  epoch_steps: 1000\n  lr_init: 1e-5\n  warmup_steps: -1\n"
                                 "save:\n  proj_dir: \"my output\"\n";
    int argc = (int)(sizeof argv / sizeof *argv) - 1;
    rw_options o;
    rw_error err = {0};
    assert_int_equal(rw_options_parse(&o, argc, (char **)argv, &err), RW_OK);
    assert_int_equal(o.command, RW_COMMAND_OFFICIAL);
    rw_str text = {0};
    rw_official_recipe(o.official.words, &text);
    char *notes = strstr(text.data, "# ");
    assert_non_null(notes);
    assert_non_null(strstr(notes, "# --strategy deepspeed_stage_1: there is no DeepSpeed here"));
    assert_non_null(strstr(notes, "# --vocab_size 0: automatic"));
    assert_non_null(strstr(notes, "# --wandb: metrics go to metrics.jsonl"));
    assert_non_null(strstr(notes, "# --dropout 0: not supported"));
    assert_non_null(strstr(notes, "# --never_heard_of 1: unknown here; leave it out"));
    *notes = 0;
    assert_string_equal(text.data, recipe);
    rw_recipe r;
    rw_recipe_options recipe_options = {.path = "my.yaml", .text = recipe, .n_text = sizeof recipe - 1};
    assert_int_equal(rw_recipe_load(&r, &recipe_options, &err), RW_OK);
    rw_recipe_done(&r);
    rw_str_done(&text);
    rw_options_done(&o);
}

static void general_options_work_anywhere(void **state) {
    (void)state;
    static const struct {
        const char *line;
        rw_command command, topic;
    } cases[] = {{"--help", RW_COMMAND_HELP, RW_COMMAND_HELP},
                 {"-h", RW_COMMAND_HELP, RW_COMMAND_HELP},
                 {"help", RW_COMMAND_HELP, RW_COMMAND_HELP},
                 {"help --help", RW_COMMAND_HELP, RW_COMMAND_HELP},
                 {"r.yaml --help", RW_COMMAND_HELP, RW_COMMAND_TRAIN},
                 {"train --help", RW_COMMAND_HELP, RW_COMMAND_TRAIN},
                 {"generate --help", RW_COMMAND_HELP, RW_COMMAND_GENERATE},
                 {"inspect a.pth -h", RW_COMMAND_HELP, RW_COMMAND_INSPECT},
                 {"help tokenize", RW_COMMAND_HELP, RW_COMMAND_TOKENIZE},
                 {"lua --help", RW_COMMAND_HELP, RW_COMMAND_LUA},
                 {"r.yaml --version", RW_COMMAND_VERSION, 0},
                 {"--schema", RW_COMMAND_SCHEMA, 0},
                 {"--keys", RW_COMMAND_KEYS, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rw_options o;
        must_parse(cases[i].line, &o);
        assert_int_equal(o.command, cases[i].command);
        if (o.command == RW_COMMAND_HELP) assert_int_equal(o.topic, cases[i].topic);
        rw_options_done(&o);
    }
}

static void mistakes_have_messages(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "command line: the recipe is missing; see rwkv-run --help"},
        {"r.yaml --dry-rum", "command line: --dry-rum: unknown option (did you mean '--dry-run'?)"},
        {"r.yaml --my_own", "command line: --my_own: unknown option; rwkv-run --help shows them all"},
        {"r.yaml --micro_bsz 8",
         "command line: --micro_bsz: a flag of the official trainer; here: train.micro_bsz=VALUE"},
        {"r.yaml --my_testing x060",
         "command line: --my_testing: a flag of the official trainer; here: model.arch=VALUE"},
        {"r.yaml --strategy x",
         "command line: --strategy: a flag of the official trainer: it has no counterpart; leave it out"},
        {"r.yaml --prompt x", "command line: --prompt: not an option of this command; see rwkv-run --help"},
        {"r.yaml --resume", "command line: --resume: needs a value"},
        {"r.yaml --resume=", "command line: --resume: expected auto, never or a path, got ''"},
        {"r.yaml --dry-run=yes", "command line: --dry-run: takes no value, got 'yes'"},
        {"r.yaml --env A=3", "command line: --env: expected the name of a variable, got 'A=3'"},
        {"r.yaml s.yaml", "command line: s.yaml: expected KEY=VALUE after the recipe, such as train.lr_init=2e-5"},
        {"genrate", "command line: genrate: neither a command nor a recipe (did you mean 'generate'?)"},
        {"generate", "command line: generate: the model (.pth) is missing; see rwkv-run --help"},
        {"generate m.pth", "command line: generate: --prompt TEXT is missing; see rwkv-run --help"},
        {"generate m.pth --top-p 2", "command line: --top-p: expected a number from 0 to 1, got '2'"},
        {"generate m.pth --tokens 1.5", "command line: --tokens: expected an integer >= 1, got '1.5'"},
        {"generate m.pth --temperature nan", "command line: --temperature: expected a number from 0 to 100, got 'nan'"},
        {"generate m.pth --tokenizer gpt", "command line: --tokenizer: expected world or byte, got 'gpt'"},
        {"generate m.pth --temprature 1", "command line: --temprature: unknown option (did you mean '--temperature'?)"},
        {"generate m.pth --device gpu", "command line: --device: expected auto, cpu or cuda, got 'gpu'"},
        {"generate m.pth --precision fp8", "command line: --precision: expected bf16, fp16, tf32 or fp32, got 'fp8'"},
        {"bench", "command line: the recipe is missing; see rwkv-run --help"},
        {"bench r.yaml --steps 65", "command line: --steps: expected an integer from 1 to 64, got '65'"},
        {"bench r.yaml --dry-run", "command line: --dry-run: not an option of this command; see rwkv-run --help"},
        {"doctor now", "command line: now: one argument too many; see rwkv-run --help"},
        {"inspect", "command line: inspect: the file is missing; see rwkv-run --help"},
        {"inspect a b", "command line: b: one argument too many; see rwkv-run --help"},
        {"tokenize a", "command line: tokenize: the prefix of the output is missing; see rwkv-run --help"},
        {"tokenize --input a --output-prefix b c", "command line: c: one argument too many; see rwkv-run --help"},
        {"tokenize a b --dataset-impl lazy", "command line: --dataset-impl: expected mmap, got 'lazy'"},
        {"tokenize a b --tokenizer-type GPT2BPETokenizer",
         "command line: --tokenizer-type: expected RWKVTokenizer, got 'GPT2BPETokenizer'"},
        {"tokenize a b --jsonl-keys content", "command line: --jsonl-keys: expected text, got 'content'"},
        {"tokenize a b --ftfy",
         "command line: --ftfy: texts are taken as they are; leave this out, and repair the file before"},
        {"help me", "command line: me: not a command; rwkv-run --help names them all"},
        {"lua", "command line: lua: the script is missing; see rwkv-run --help"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rw_options o;
        rw_error err = {0};
        char text[2048];
        assert_int_equal(parse(cases[i][0], &o, &err), RW_E_USAGE);
        rw_error_format(&err, text, sizeof text);
        assert_string_equal(text, cases[i][1]);
        rw_options_done(&o);
        rw_error_clear(&err);
    }
}

static void help_fits_a_screen(void **state) {
    (void)state;
    static const rw_command topics[] = {RW_COMMAND_HELP,     RW_COMMAND_TRAIN, RW_COMMAND_GENERATE, RW_COMMAND_INSPECT,
                                        RW_COMMAND_TOKENIZE, RW_COMMAND_BENCH, RW_COMMAND_DOCTOR,   RW_COMMAND_LUA};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        int lines = 0;
        const char *text = rw_options_help(topics[i]);
        for (size_t k = 0; k < i; k++) assert_string_not_equal(text, rw_options_help(topics[k]));
        for (const char *p = text, *end; *p; p = end + 1, lines++) {
            end = strchr(p, '\n');
            assert_non_null(end);
            assert_true(rw_utf8_columns(p, (size_t)(end - p)) <= 79);
        }
        assert_true(lines <= 24);
    }
}

int main(void) {
    setenv("RWKV_LANG", "en", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains),
        cmocka_unit_test(other_commands),
        cmocka_unit_test(official_arguments_of_tokenize),
        cmocka_unit_test(official_flags_are_a_recipe),
        cmocka_unit_test(general_options_work_anywhere),
        cmocka_unit_test(mistakes_have_messages),
        cmocka_unit_test(help_fits_a_screen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
