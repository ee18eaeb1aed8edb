/* The rules of a recipe that look at more than one key, and at the files that it names. Each says which key, what
 * was expected, and what to do. Nothing is opened here: core/plan reads the headers. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/recipe/recipe_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    rw_recipe *r;
    const rw_recipe_options *options;
    rw_problems *p;
} checker;

static const rw_value *value(const checker *c, rw_key_id id) {
    return &c->r->values[id];
}

/* For keys of type ENUM: has it a value, and is it this one? */
static bool chosen(const checker *c, rw_key_id id, int choice) {
    return value(c, id)->text && value(c, id)->i == choice;
}

static bool given(const checker *c, rw_key_id id) {
    return value(c, id)->given;
}

/* A default has no place of its own: blame the file. */
static rw_where at(const checker *c, rw_key_id id) {
    rw_where w = value(c, id)->at;
    if (!w.file) w.file = c->r->path;
    return w;
}

/* -- model ------------------------------------------------------------------------------------------------- */

static void check_multiple_of_32(checker *c, rw_key_id id) {
    int64_t n = value(c, id)->i;
    if (given(c, id) && n % 32 != 0)
        rw_problems_add(c->p, at(c, id), "expected a multiple of %lld, got %lld", (long long)32, (long long)n);
}

static void check_from_scratch(checker *c, rw_key_id id) {
    static const rw_key_id needed[] = {RW_KEY_model_arch, RW_KEY_model_n_layer, RW_KEY_model_n_embd};
    if (given(c, id)) return;
    for (int i = 0; i < 3; i++)
        if (!given(c, needed[i]))
            rw_problems_add(c->p, at(c, needed[i]),
                            "missing; training from scratch needs it, or else name a checkpoint in model.load_model");
    if (given(c, RW_KEY_model_n_layer) && value(c, RW_KEY_model_n_layer)->i == 1)
        rw_problems_add(c->p, at(c, RW_KEY_model_n_layer),
                        "expected 2 or more from scratch, got 1: the official initial values divide by n_layer - 1");
}

static void check_states(checker *c, rw_key_id id) {
    if (chosen(c, id, RW_TRAIN_STATES) && !given(c, RW_KEY_model_load_model))
        rw_problems_add(c->p, at(c, id),
                        "states are trained for a model that was trained before; name it in model.load_model");
}

static void check_load_state(checker *c, rw_key_id id) {
    if (given(c, id) && !chosen(c, RW_KEY_train_train_type, RW_TRAIN_STATES))
        rw_problems_add(c->p, at(c, id), "needs train.train_type: states");
}

static void check_load_partial(checker *c, rw_key_id id) {
    if (value(c, id)->i && !given(c, RW_KEY_model_load_model))
        rw_problems_add(c->p, at(c, id), "needs model.load_model");
}

/* -- data -------------------------------------------------------------------------------------------------- */

static bool holds_ids(const checker *c) {
    return rw_format_holds_ids((rw_format_choice)value(c, RW_KEY_data_data_type)->i);
}

static void check_tokenizer(checker *c, rw_key_id id) {
    bool ids = holds_ids(c), none = chosen(c, id, RW_TOKENIZER_NONE);
    const char *type = value(c, RW_KEY_data_data_type)->text;
    if (ids && given(c, id) && !none)
        rw_problems_add(c->p, at(c, id), "expected none, got '%s': %s already holds token ids; leave this key out",
                        value(c, id)->text, type);
    else if (!ids && none)
        rw_problems_add(c->p, at(c, id), "expected world or byte, got 'none': %s is text", type);
}

static void check_vocab_file(checker *c, rw_key_id id) {
    bool tokenizer = given(c, RW_KEY_data_tokenizer);
    bool world = tokenizer ? chosen(c, RW_KEY_data_tokenizer, RW_TOKENIZER_WORLD) : !holds_ids(c);
    if (given(c, id) && !world)
        rw_problems_add(c->p, at(c, id),
                        "only for data.tokenizer: world, but the tokenizer is '%s'; leave this key out",
                        tokenizer ? value(c, RW_KEY_data_tokenizer)->text : "none");
}

/* -- training ---------------------------------------------------------------------------------------------- */

/* accumulate follows from batch_size, so together they can only contradict each other. */
static void check_batch_size(checker *c, rw_key_id id) {
    const rw_value *batch = value(c, id), *times = value(c, RW_KEY_train_accumulate);
    const bool equal = given(c, RW_KEY_train_micro_bsz) && batch->i == value(c, RW_KEY_train_micro_bsz)->i * times->i;
    if (given(c, id) && given(c, RW_KEY_train_accumulate) && !equal)
        rw_problems_add(c->p, at(c, id), "'%s' contradicts train.accumulate: %s; give only one of the two", batch->text,
                        times->text);
}

/* train.grad_cp is train.checkpoint in the words of the official trainer. */
static void check_grad_cp(checker *c, rw_key_id id) {
    const rw_value *grad_cp = value(c, RW_KEY_train_grad_cp), *checkpoint = value(c, id);
    int level = grad_cp->i ? RW_CHECKPOINT_BLOCK : RW_CHECKPOINT_NONE;
    if (!given(c, id)) {
        rw_recipe_set_int(c->r, id, level, rw_choice_word(id, level));
        c->r->values[id].at.file = grad_cp->at.file;
        c->r->values[id].at.line = grad_cp->at.line;
    } else if (given(c, RW_KEY_train_grad_cp) && checkpoint->i != level) {
        rw_problems_add(c->p, at(c, id), "'%s' contradicts train.grad_cp: %s; give only one of the two",
                        checkpoint->text, grad_cp->text);
    }
}

static void check_exponential(checker *c, rw_key_id id) {
    const rw_value *first = value(c, RW_KEY_train_lr_init), *last = value(c, RW_KEY_train_lr_final);
    if (chosen(c, id, RW_SCHEDULE_EXPONENTIAL) && (first->x == 0 || last->x == 0))
        rw_problems_add(c->p, value(c, id)->at,
                        "exponential needs lr_init and lr_final above 0, got %s and %s; write linear", first->text,
                        last->text);
}

static void check_constant(checker *c, rw_key_id id) {
    const rw_value *first = value(c, RW_KEY_train_lr_init), *last = value(c, RW_KEY_train_lr_final);
    if (chosen(c, id, RW_SCHEDULE_CONSTANT) && first->x != last->x && last->given)
        rw_problems_add(c->p, value(c, id)->at, "constant, but lr_init is %s and lr_final is %s; leave lr_final out",
                        first->text, last->text);
}

static void check_weight_decay_final(checker *c, rw_key_id id) {
    if (value(c, id)->x > 0 && value(c, RW_KEY_train_weight_decay)->x == 0)
        rw_problems_add(c->p, at(c, id), "needs train.weight_decay above 0, the value that the decay starts from");
}

static void check_needs_valid_file(checker *c, rw_key_id id) {
    if (given(c, id) && value(c, id)->i > 0 && !given(c, RW_KEY_data_valid_file))
        rw_problems_add(c->p, at(c, id), "needs data.valid_file, which is not given");
}

/* -- where it may write ------------------------------------------------------------------------------------ */

/* The real path of a file that need not exist: symbolic links of the part that does, then the rest with
 * '.' and '..' worked out. */
static bool real_path(const char *path, char real[PATH_MAX]) {
    char head[PATH_MAX], rest[PATH_MAX] = "";
    if (strlen(path) >= sizeof head - 2) return false;
    strcpy(head, path);
    while (!realpath(head, real)) {
        char *slash = strrchr(head, '/');
        const char *last = slash ? slash + 1 : head;
        char joined[PATH_MAX];
        if (strcmp(last, "..") == 0) return false; /* up out of a folder that does not exist */
        if (strlen(last) + strlen(rest) + 2 >= sizeof joined) return false;
        if (*last && strcmp(last, ".") != 0) {
            joined[0] = '/';
            strcpy(joined + 1, last);
            strcat(joined, rest);
            strcpy(rest, joined);
        }
        if (!slash)
            strcpy(head, ".");
        else
            slash[slash == head] = '\0'; /* "/name" -> "/" */
    }
    if (strcmp(real, "/") == 0) real[0] = '\0';
    if (strlen(real) + strlen(rest) >= PATH_MAX) return false;
    strcat(real, rest);
    return true;
}

static bool is_below(const char *path, const char *folder) {
    char real[PATH_MAX];
    if (!realpath(folder, real)) return false;
    size_t n = strlen(real);
    return strcmp(real, "/") == 0 || (strncmp(path, real, n) == 0 && (path[n] == '/' || path[n] == '\0'));
}

/* A recipe may come from a stranger: what it names may not be just anywhere on the disk. */
static void check_proj_dir(checker *c, rw_key_id id) {
    const rw_value *v = value(c, id);
    char real[PATH_MAX];
    bool by_file = v->given && v->at.line > 0;
    if (!by_file || c->r->trust) return;
    if (real_path(v->s, real) && (is_below(real, c->r->dir) || is_below(real, "."))) return;
    rw_problems_add(c->p, v->at,
                    "'%s' is outside the recipe's folder and the working directory; to write there, put "
                    "save.proj_dir=%s on the command line",
                    v->text, v->text);
}

/* -- where it may read --------------------------------------------------------------------------------------- */

/* What a recipe names is read into a model, which its author may get to see. In the working directory the user has put
 * recipe and data together; a recipe from elsewhere reads its own folder, and what the command line names. */
static bool may_read(const checker *c, const char *path) {
    char real[PATH_MAX];
    if (!real_path(path, real)) return false;
    if (is_below(real, c->r->dir)) return true;
    for (int i = 0; i < c->options->n_read_paths; i++)
        if (is_below(real, c->options->read_paths[i])) return true;
    return false;
}

static void check_read(checker *c, rw_key_id id, rw_where where, const char *path) {
    bool pair = id == RW_KEY_data_data_file || id == RW_KEY_data_valid_file;
    pair = pair && chosen(c, RW_KEY_data_data_type, RW_FORMAT_BINIDX);
    const char *const ends[] = {pair ? ".bin" : "", ".idx"};
    for (int i = 0; i < (pair ? 2 : 1); i++) {
        char name[PATH_MAX];
        if (strlen(path) + 5 > sizeof name) return;
        strcat(strcpy(name, path), ends[i]);
        if (may_read(c, name)) continue;
        rw_problems_add(c->p, where,
                        "'%s' is outside the folder of this recipe, which is not in the working directory; to let it "
                        "read that, add --allow-read %s",
                        name, name);
        return;
    }
}

static void check_reads(checker *c) {
    static const rw_key_id paths[] = {RW_KEY_model_load_model, RW_KEY_model_load_state, RW_KEY_data_data_file,
                                      RW_KEY_data_valid_file, RW_KEY_data_vocab_file};
    char real[PATH_MAX];
    if (c->r->trust || (realpath(c->r->dir, real) && is_below(real, "."))) return;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if (given(c, paths[i]) && at(c, paths[i]).line > 0)
            check_read(c, paths[i], at(c, paths[i]), value(c, paths[i])->s);
    const rw_value *hooks = value(c, RW_KEY_top_hooks);
    for (int i = 0; hooks->text && i < hooks->list.n; i++)
        if (hooks->list.at[i].line > 0) check_read(c, RW_KEY_top_hooks, hooks->list.at[i], hooks->list.items[i]);
}

/* Nor may it give its own scripts more than they have anyway. */
static void check_limit_of_scripts(checker *c, rw_key_id id) {
    const rw_value *v = value(c, id);
    const rw_key *key = &rw_keys[id];
    int64_t most = key->type == RW_TYPE_BOOL ? 0 : strtoll(key->value, NULL, 10);
    if (v->given && v->at.line > 0 && !c->r->trust && v->i > most)
        rw_problems_add(c->p, v->at,
                        "a recipe may lower this, not raise it above %s, got '%s'; to raise it, put %s=%s on the "
                        "command line",
                        key->value, v->text, key->path, v->text);
}

/* -- files that it names ----------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static void need_file(checker *c, rw_where where, const char *path) {
    if (!rw_exists(path))
        rw_recipe_missing_file(c->p, where, path);
    else if (rw_is_dir(path))
        rw_problems_add(c->p, where, "expected a file, but '%s' is a folder", path);
}

/* Has `rwkv-run tokenize` written the pair of this prefix, with the ending of the official tool? */
static bool tokenized(const char *prefix) {
    char name[PATH_MAX];
    int n = snprintf(name, sizeof name, "%s_text_document.bin", prefix);
    return n < (int)sizeof name && rw_exists(name);
}

/* "data/pile" means data/pile.bin and data/pile.idx. */
static void need_binidx(checker *c, rw_where where, const char *path) {
    static const char *const ends[] = {".bin", ".idx"};
    for (int i = 0; i < 2; i++) {
        char name[PATH_MAX];
        if (ends_with(path, ends[i])) {
            rw_problems_add(c->p, where, "'%s': write the name without %s", path, ends[i]);
            return;
        }
        if (strlen(path) + 5 > sizeof name) return;
        strcat(strcpy(name, path), ends[i]);
        if (rw_exists(name)) continue;
        if (rw_exists(path))
            rw_problems_add(c->p, where, "'%s' is a single file; binidx is a pair, %s.bin and %s.idx", path, path,
                            path);
        else if (tokenized(path))
            rw_problems_add(c->p, where, "no such file: '%s' (did you mean '%s_text_document'?)", name, path);
        else
            rw_recipe_missing_file(c->p, where, name);
        return;
    }
}

static void check_data_file(checker *c, rw_key_id id) {
    if (!given(c, id)) return;
    if (chosen(c, RW_KEY_data_data_type, RW_FORMAT_BINIDX))
        need_binidx(c, at(c, id), value(c, id)->s);
    else
        need_file(c, at(c, id), value(c, id)->s);
}

static void not_writable(checker *c, rw_key_id id, const char *folder) {
    rw_error err = {0};
    rw_fail_errno(&err, at(c, id), "choose another save.proj_dir: cannot write in '%s'", folder);
    err.code = RW_E_RECIPE;
    rw_problems_take(c->p, &err);
}

/* The part of the path that exists must be a folder that takes new files: found now, not after the plan. */
static void need_writable(checker *c, rw_key_id id) {
    char path[PATH_MAX];
    if (!value(c, id)->s || (size_t)snprintf(path, sizeof path, "%s", value(c, id)->s) >= sizeof path) return;
    while (!rw_exists(path)) {
        char *slash = strrchr(path, '/');
        if (!slash)
            strcpy(path, ".");
        else
            slash[slash == path] = '\0'; /* "/name" -> "/" */
    }
    if (!rw_is_dir(path))
        rw_problems_add(c->p, at(c, id), "'%s' is a file, not a folder; choose another save.proj_dir", path);
    else if (access(path, W_OK | X_OK) != 0)
        not_writable(c, id, path);
}

static void check_files(checker *c) {
    need_writable(c, RW_KEY_save_proj_dir);
    if (given(c, RW_KEY_model_load_model))
        need_file(c, at(c, RW_KEY_model_load_model), value(c, RW_KEY_model_load_model)->s);
    if (given(c, RW_KEY_model_load_state))
        need_file(c, at(c, RW_KEY_model_load_state), value(c, RW_KEY_model_load_state)->s);
    check_data_file(c, RW_KEY_data_data_file);
    check_data_file(c, RW_KEY_data_valid_file);
    /* Where it is not named, core/plan looks for it: core/data knows the places. */
    if (given(c, RW_KEY_data_vocab_file))
        need_file(c, at(c, RW_KEY_data_vocab_file), value(c, RW_KEY_data_vocab_file)->s);
    const rw_value *hooks = value(c, RW_KEY_top_hooks);
    for (int i = 0; hooks->text && i < hooks->list.n; i++) need_file(c, hooks->list.at[i], hooks->list.items[i]);
}

/* -- all of them ------------------------------------------------------------------------------------------- */

static const struct {
    rw_key_id key;
    void (*check)(checker *c, rw_key_id id);
} rules[] = {
#define RW_RULE(section, key, name) {RW_KEY_##section##_##key, check_##name},
#include "core/recipe/foreign.def"
#undef RW_RULE
};

void rw_recipe_check(rw_recipe *r, const rw_recipe_options *options, rw_problems *p) {
    checker c = {.r = r, .options = options, .p = p};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) rules[i].check(&c, rules[i].key);
    if (options->check_files) check_reads(&c);
    if (options->check_files) check_files(&c);
}
