/* The command line: a first word that names a command, or else a recipe. One table holds every option, so that a
 * wrong one can be suggested and an option of another command is refused by name. */
#include "core/cli/options.h"

#include "core/base/alloc.h"
#include "core/base/printable.h"
#include "core/cli/official_flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- the options --------------------------------------------------------------------------------------------- */

enum { TRAIN = 1, GENERATE = 2, INSPECT = 4, TOKENIZE = 8, BENCH = 16 };
/* NOTHING: taken with its value, which must be one of `expect` ("": any), and changes nothing. REFUSED: `expect` says
 * what to do instead. */
typedef enum { SWITCH, TEXT, NUMBER, COUNT, WORD, NAMES, PATHS, NOTHING, REFUSED } option_type;

typedef struct {
    const char *name;
    int commands; /* bits of the commands that take it          */
    option_type type;
    size_t offset;      /* of the field in rw_options                 */
    double low, high;   /* of a number                                */
    const char *expect; /* words, or the choices "a|b" of a WORD      */
} option;

#define FIELD(f) offsetof(rw_options, f)

static const option options[] = {
    {"--dry-run", TRAIN, SWITCH, FIELD(train.dry_run), 0, 0, ""},
    {"--resume", TRAIN, TEXT, FIELD(train.resume), 0, 0, "auto, never or a path"},
    {"--restart", TRAIN, SWITCH, FIELD(train.restart), 0, 0, ""},
    {"--trust", TRAIN | BENCH, SWITCH, FIELD(train.recipe.trust), 0, 0, ""},
    {"--allow-read", TRAIN | BENCH, PATHS, 0, 0, 0, "a file or a folder"},
    {"--env", TRAIN | BENCH, NAMES, 0, 0, 0, "the name of a variable"},
    {"--steps", BENCH, COUNT, FIELD(bench.steps), 1, 64, "an integer from 1 to 64"},
    {"--json", BENCH, SWITCH, FIELD(bench.json), 0, 0, ""},
    {"--prompt", GENERATE, TEXT, FIELD(generate.prompt), 0, 0, "a string"},
    {"--state", GENERATE, TEXT, FIELD(generate.state), 0, 0, "a file"},
    {"--device", GENERATE, WORD, FIELD(generate.device), 0, 0, "auto|cpu|cuda"},
    {"--precision", GENERATE, WORD, FIELD(generate.precision), 0, 0, "bf16|fp16|tf32|fp32"},
    {"--temperature", GENERATE, NUMBER, FIELD(generate.temperature), 0, 100, "a number from 0 to 100"},
    {"--top-p", GENERATE, NUMBER, FIELD(generate.top_p), 0, 1, "a number from 0 to 1"},
    {"--tokens", GENERATE, COUNT, FIELD(generate.tokens), 1, 1e9, "an integer >= 1"},
    {"--seed", GENERATE, COUNT, FIELD(generate.seed), 0, 9007199254740991, "an integer >= 0"},
    {"--tokenizer", GENERATE | TOKENIZE, WORD, FIELD(tokenizer), 0, 0, "world|byte"},
    {"--vocab", GENERATE | TOKENIZE, TEXT, FIELD(vocab_file), 0, 0, "a file"},
    {"--verify", INSPECT, SWITCH, FIELD(inspect.verify), 0, 0, ""},
    {"--dtype", TOKENIZE, WORD, FIELD(tokenize.dtype), 0, 0, "int32|uint16"},
    {"--force", TOKENIZE, SWITCH, FIELD(tokenize.force), 0, 0, ""},
    /* tools/preprocess_data.py of the official tutorial */
    {"--input", TOKENIZE, TEXT, FIELD(tokenize.input), 0, 0, "a file"},
    {"--output-prefix", TOKENIZE, TEXT, FIELD(tokenize.output), 0, 0, "a path"},
    {"--vocab-file", TOKENIZE, TEXT, FIELD(vocab_file), 0, 0, "a file"},
    {"--append-eod", TOKENIZE, SWITCH, FIELD(tokenize.append_eod), 0, 0, ""},
    {"--dataset-impl", TOKENIZE, NOTHING, 0, 0, 0, "mmap"},
    {"--tokenizer-type", TOKENIZE, NOTHING, 0, 0, 0, "RWKVTokenizer"},
    {"--jsonl-keys", TOKENIZE, NOTHING, 0, 0, 0, "text"},
    {"--num-docs", TOKENIZE, NOTHING, 0, 0, 0, ""},
    {"--workers", TOKENIZE, NOTHING, 0, 0, 0, ""},
    {"--log-interval", TOKENIZE, NOTHING, 0, 0, 0, ""},
    {"--merge-file", TOKENIZE, REFUSED, 0, 0, 0, "the World tokenizer has no merges; leave this out"},
    {"--ftfy", TOKENIZE, REFUSED, 0, 0, 0, "texts are taken as they are; leave this out, and repair the file before"},
};

enum { N_OPTIONS = sizeof options / sizeof options[0] };

static const char *const command_names[] = {"train",  "generate", "inspect", "tokenize", "bench",
                                            "doctor", "lua",      "help",    NULL};
static const rw_command commands[] = {RW_COMMAND_TRAIN, RW_COMMAND_GENERATE, RW_COMMAND_INSPECT, RW_COMMAND_TOKENIZE,
                                      RW_COMMAND_BENCH, RW_COMMAND_DOCTOR,   RW_COMMAND_LUA,     RW_COMMAND_HELP};

static const option *find_option(const char *name, size_t n) {
    for (int i = 0; i < N_OPTIONS; i++)
        if (strlen(options[i].name) == n && memcmp(options[i].name, name, n) == 0) return &options[i];
    return NULL;
}

static int command_bit(rw_command c) {
    return c == RW_COMMAND_TRAIN      ? TRAIN
           : c == RW_COMMAND_GENERATE ? GENERATE
           : c == RW_COMMAND_INSPECT  ? INSPECT
           : c == RW_COMMAND_TOKENIZE ? TOKENIZE
           : c == RW_COMMAND_BENCH    ? BENCH
                                      : 0;
}

/* -- reading -------------------------------------------------------------------------------------------------- */

typedef struct {
    rw_options *o;
    int argc, next; /* of the word to read */
    char **argv;
    const char **overrides, **env_names; /* in the arena, room for argc each */
    const char **read_paths;             /* the same */
    int n_overrides, n_env_names, n_read_paths, n_names;
    const char *names[3]; /* words that are no options */
    rw_error *err;
} reader;

static rw_where on_line(const char *what) {
    return (rw_where){.file = rw_message("command line"), .key = what};
}

static rw_status unknown_option(const reader *r, const char *word) {
    static const char *const general[] = {"--help", "--version", "--schema", "--keys"};
    const char *names[N_OPTIONS + 5];
    int n = 0, bit = command_bit(r->o->command);
    for (int i = 0; i < N_OPTIONS; i++)
        if (options[i].commands & bit) names[n++] = options[i].name;
    for (int i = 0; i < 4; i++) names[n++] = general[i];
    names[n] = NULL;
    const char *near = rw_did_you_mean(word, names);
    if (near) return rw_fail(r->err, RW_E_USAGE, on_line(word), "unknown option (did you mean '%s'?)", near);
    return rw_fail(r->err, RW_E_USAGE, on_line(word), "unknown option; rwkv-run --help shows them all");
}

/* Beside a recipe it is one key too many in the wrong form, else the whole command line is the official trainer's. */
static rw_status official_flag(reader *r, const char *word) {
    const char *path;
    if (r->n_names == 0) {
        r->o->command = RW_COMMAND_OFFICIAL;
        r->o->official.words = r->argv + r->next - 1;
        r->next = r->argc;
        return RW_OK;
    }
    if (rw_official_flag_key(word, &path))
        return rw_fail(r->err, RW_E_USAGE, on_line(word), "a flag of the official trainer; here: %s=VALUE", path);
    return rw_fail(r->err, RW_E_USAGE, on_line(word), "a flag of the official trainer: %s",
                   rw_message("it has no counterpart; leave it out"));
}

static rw_status wrong_value(const reader *r, const option *opt, const char *text) {
    char words[128] = "";
    if (!strchr(opt->expect, '|'))
        return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "expected %s, got '%s'", rw_message(opt->expect), text);
    for (const char *p = opt->expect; *p; p += strcspn(p, "|"), p += *p != '\0') { /* "a, b or c" */
        const size_t used = strlen(words), n = strcspn(p, "|");
        const char *join = used == 0 ? "" : p[n] ? ", " : rw_message(" or ");
        snprintf(words + used, sizeof words - used, "%s%.*s", join, (int)n, p);
    }
    return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "expected %s, got '%s'", words, text);
}

static bool parse_number(const char *text, double *x) {
    char *end;
    if (!*text || text[strspn(text, "0123456789.eE+-")]) return false;
    *x = strtod(text, &end);
    return *end == '\0' && end != text && isfinite(*x);
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *p = choices; n && *p; p += strcspn(p, "|"), p += *p != '\0')
        if (strcspn(p, "|") == n && memcmp(p, text, n) == 0) return true;
    return false;
}

static rw_status set_option(reader *r, const option *opt, const char *text) {
    char *field = (char *)r->o + opt->offset;
    double x = 0;
    switch (opt->type) {
    case SWITCH:
        *(bool *)field = true;
        return RW_OK;
    case TEXT:
        if (!text[0] && opt->offset != FIELD(generate.prompt)) return wrong_value(r, opt, text);
        *(const char **)field = text;
        return RW_OK;
    case WORD:
        if (!is_choice(opt->expect, text)) return wrong_value(r, opt, text);
        *(const char **)field = text;
        return RW_OK;
    case NOTHING:
        return !opt->expect[0] || is_choice(opt->expect, text) ? RW_OK : wrong_value(r, opt, text);
    case REFUSED:
        return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "%s", rw_message(opt->expect));
    case NAMES:
        if (!text[0] || strchr(text, '=')) return wrong_value(r, opt, text);
        r->env_names[r->n_env_names++] = text;
        return RW_OK;
    case PATHS:
        if (!text[0]) return wrong_value(r, opt, text);
        r->read_paths[r->n_read_paths++] = text;
        return RW_OK;
    case NUMBER:
    case COUNT:
        if (!parse_number(text, &x) || x < opt->low || x > opt->high) return wrong_value(r, opt, text);
        if (opt->type == COUNT && x != floor(x)) return wrong_value(r, opt, text);
        if (opt->type == COUNT)
            *(int64_t *)field = (int64_t)x;
        else
            *(double *)field = x;
        return RW_OK;
    }
    return RW_OK;
}

/* "--name value" or "--name=value". */
static rw_status read_option(reader *r, const char *word) {
    size_t n = strcspn(word, "=");
    const option *opt = find_option(word, n);
    if (!opt)
        return r->o->command == RW_COMMAND_TRAIN && rw_official_flag(word) ? official_flag(r, word)
                                                                           : unknown_option(r, word);
    if (!(opt->commands & command_bit(r->o->command)))
        return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "not an option of this command; see rwkv-run --help");
    if (opt->type == REFUSED) return set_option(r, opt, NULL);
    if (opt->type == SWITCH && word[n])
        return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "takes no value, got '%s'", word + n + 1);
    if (opt->type == SWITCH) return set_option(r, opt, NULL);
    if (word[n]) return set_option(r, opt, word + n + 1);
    if (r->next >= r->argc) return rw_fail(r->err, RW_E_USAGE, on_line(opt->name), "needs a value");
    return set_option(r, opt, r->argv[r->next++]);
}

static bool is_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Help is about the command that was named; without one, and before anything else, it is the general one. */
static bool ask_help(reader *r) {
    rw_options *o = r->o;
    bool nothing_else = o->command == RW_COMMAND_TRAIN && r->n_names == 0 && r->next == 2;
    o->topic = nothing_else ? RW_COMMAND_HELP : o->command;
    o->command = RW_COMMAND_HELP;
    return true;
}

/* The options that end the reading, wherever they come. */
static bool general_option(reader *r, const char *word) {
    rw_options *o = r->o;
    if (is_help(word)) return ask_help(r);
    if (strcmp(word, "--version") == 0)
        o->command = RW_COMMAND_VERSION;
    else if (strcmp(word, "--schema") == 0)
        o->command = RW_COMMAND_SCHEMA;
    else if (strcmp(word, "--keys") == 0)
        o->command = RW_COMMAND_KEYS;
    else
        return false;
    return true;
}

/* A word that is no option: an override of the recipe, or a name. */
static rw_status read_name(reader *r, const char *word) {
    static const int most[RW_COMMAND_LUA + 1] = {[RW_COMMAND_TRAIN] = 1,
                                                 [RW_COMMAND_GENERATE] = 1,
                                                 [RW_COMMAND_INSPECT] = 1,
                                                 [RW_COMMAND_TOKENIZE] = 2,
                                                 [RW_COMMAND_BENCH] = 1};
    const bool recipe = r->o->command == RW_COMMAND_TRAIN || r->o->command == RW_COMMAND_BENCH;
    if (recipe && r->n_names == 1 && strchr(word, '=')) {
        r->overrides[r->n_overrides++] = word;
        return RW_OK;
    }
    if (r->n_names < most[r->o->command]) {
        r->names[r->n_names++] = word;
        return RW_OK;
    }
    if (recipe)
        return rw_fail(r->err, RW_E_USAGE, on_line(word),
                       "expected KEY=VALUE after the recipe, such as train.lr_init=2e-5");
    return rw_fail(r->err, RW_E_USAGE, on_line(word), "one argument too many; see rwkv-run --help");
}

static rw_status read_words(reader *r) {
    bool names_only = false; /* after "--" */
    while (r->next < r->argc) {
        const char *word = r->argv[r->next++];
        if (!names_only && strcmp(word, "--") == 0)
            names_only = true;
        else if (!names_only && general_option(r, word))
            return RW_OK;
        else if (!names_only && word[0] == '-' && word[1])
            RW_TRY(read_option(r, word));
        else
            RW_TRY(read_name(r, word));
    }
    return RW_OK;
}

/* -- what must be there ---------------------------------------------------------------------------------------- */

static rw_status missing(const reader *r, const char *command, const char *what) {
    return rw_fail(r->err, RW_E_USAGE, on_line(command), "%s is missing; see rwkv-run --help", rw_message(what));
}

static rw_status finish_train(reader *r) {
    rw_options *o = r->o;
    if (r->n_names < 1) return missing(r, NULL, "the recipe");
    const char *near =
        strchr(r->names[0], '.') || strchr(r->names[0], '/') ? NULL : rw_did_you_mean(r->names[0], command_names);
    if (near && access(r->names[0], F_OK) != 0)
        return rw_fail(r->err, RW_E_USAGE, on_line(r->names[0]), "neither a command nor a recipe (did you mean '%s'?)",
                       near);
    if (o->train.restart && strcmp(o->train.resume, "auto") != 0)
        return rw_fail(r->err, RW_E_USAGE, on_line("--restart"), "begins anew; leave --resume out");
    o->train.recipe.path = r->names[0];
    o->train.recipe.overrides = r->overrides;
    o->train.recipe.n_overrides = r->n_overrides;
    o->train.recipe.env_names = r->env_names;
    o->train.recipe.n_env_names = r->n_env_names;
    o->train.recipe.read_paths = r->read_paths;
    o->train.recipe.n_read_paths = r->n_read_paths;
    return RW_OK;
}

/* By name or by place; what is not named comes in order. */
static rw_status finish_tokenize(reader *r) {
    rw_options *o = r->o;
    int n = 0;
    o->tokenize.by_name = o->tokenize.input != NULL;
    if (!o->tokenize.input && n < r->n_names) o->tokenize.input = r->names[n++];
    if (!o->tokenize.output && n < r->n_names) o->tokenize.output = r->names[n++];
    if (n < r->n_names)
        return rw_fail(r->err, RW_E_USAGE, on_line(r->names[n]), "one argument too many; see rwkv-run --help");
    if (!o->tokenize.input) return missing(r, "tokenize", "the input (.jsonl)");
    return o->tokenize.output ? RW_OK : missing(r, "tokenize", "the prefix of the output");
}

static rw_status finish(reader *r) {
    rw_options *o = r->o;
    switch (o->command) {
    case RW_COMMAND_TRAIN:
    case RW_COMMAND_BENCH:
        return finish_train(r);
    case RW_COMMAND_GENERATE:
        if (r->n_names < 1) return missing(r, "generate", "the model (.pth)");
        if (!o->generate.prompt) return missing(r, "generate", "--prompt TEXT");
        o->generate.model = r->names[0];
        return RW_OK;
    case RW_COMMAND_INSPECT:
        if (r->n_names < 1) return missing(r, "inspect", "the file");
        o->inspect.file = r->names[0];
        return RW_OK;
    case RW_COMMAND_TOKENIZE:
        return finish_tokenize(r);
    default:
        return RW_OK;
    }
}

/* -- all of it -------------------------------------------------------------------------------------------------- */

/* The command that a word names; false: none, it is a recipe. */
static bool find_command(const char *word, rw_command *command) {
    for (int i = 0; command_names[i]; i++)
        if (strcmp(command_names[i], word) == 0) {
            *command = commands[i];
            return true;
        }
    return false;
}

/* rwkv-run help [COMMAND] */
static rw_status read_help(rw_options *o, int argc, char **argv, rw_error *err) {
    if (argc < 3 || is_help(argv[2]) || find_command(argv[2], &o->topic)) return RW_OK;
    return rw_fail(err, RW_E_USAGE, on_line(argv[2]), "not a command; rwkv-run --help names them all");
}

static rw_status read_lua(rw_options *o, int argc, char **argv, rw_error *err) {
    if (argc >= 3 && is_help(argv[2])) {
        o->command = RW_COMMAND_HELP;
        o->topic = RW_COMMAND_LUA;
        return RW_OK;
    }
    if (argc < 3)
        return rw_fail(err, RW_E_USAGE, on_line("lua"), "%s is missing; see rwkv-run --help", rw_message("the script"));
    o->lua.file = argv[2];
    o->lua.args = argv + 3;
    o->lua.n_args = argc - 3;
    return RW_OK;
}

rw_status rw_options_parse(rw_options *o, int argc, char **argv, rw_error *err) {
    *o = (rw_options){.command = RW_COMMAND_HELP};
    o->train.recipe.check_files = true;
    o->train.resume = "auto";
    o->generate.temperature = 1;
    o->generate.top_p = 1;
    o->generate.tokens = 256;
    o->tokenize.dtype = "int32";
    o->argc = argc;
    o->argv = argv;
    if (argc < 2) return missing(&(reader){.o = o, .err = err}, NULL, "the recipe");
    o->command = RW_COMMAND_TRAIN;
    bool named = find_command(argv[1], &o->command);
    if (o->command == RW_COMMAND_LUA) return read_lua(o, argc, argv, err);
    if (o->command == RW_COMMAND_HELP) return read_help(o, argc, argv, err);
    reader r = {.o = o, .argc = argc, .argv = argv, .err = err, .next = named ? 2 : 1};
    r.overrides = rw_arena_alloc(&o->arena, sizeof *r.overrides * (size_t)argc);
    r.env_names = rw_arena_alloc(&o->arena, sizeof *r.env_names * (size_t)argc);
    r.read_paths = rw_arena_alloc(&o->arena, sizeof *r.read_paths * (size_t)argc);
    if (!r.overrides || !r.env_names || !r.read_paths) return rw_fail_memory(err, sizeof *r.overrides * (size_t)argc);
    RW_TRY(read_words(&r));
    return finish(&r);
}

void rw_options_done(rw_options *o) {
    rw_arena_done(&o->arena);
    *o = (rw_options){0};
}

/* -- the same again ----------------------------------------------------------------------------------------------- */

static bool repeats(const char *word, const char *but) {
    static const char *const dropped[] = {"--resume=", "--restart", "--dry-run"};
    for (int i = 0; i < 3; i++)
        if (strncmp(word, dropped[i], strlen(dropped[i])) == 0) return false;
    size_t n = but ? strlen(but) : 0;
    return !n || strncmp(word, but, n) != 0 || word[n] != '=';
}

void rw_options_again(const rw_options *o, const char *but, rw_str *out) {
    for (int i = 0; i < o->argc; i++) {
        if (i > 0 && strcmp(o->argv[i], "--resume") == 0) {
            i++; /* and its value */
            continue;
        }
        if (i > 0 && !repeats(o->argv[i], but)) continue;
        if (i > 0) rw_str_append(out, " ");
        rw_str_append_quoted(out, o->argv[i]);
    }
}
