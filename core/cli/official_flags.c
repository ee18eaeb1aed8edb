/* The flags of the official trainer -> the recipe that they mean.
 *
 * Most keep their names as keys; foreign.def knows what the others are here. What is empty ("--wandb ''") or has no
 * meaning here becomes a comment, so that nothing of the command line is lost in silence. */
#include "core/cli/official_flags.h"

#include "core/base/json.h"
#include "core/recipe/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *values[RW_KEY_COUNT]; /* as written; the last one counts, as officially */
    rw_str notes;                     /* comments                                       */
} meaning;

static const rw_key *find_key(const char *name) {
    static const struct {
        const char *flag;
        rw_key_id key;
    } renamed[] = {{"my_testing", RW_KEY_model_arch},
                   {"head_size_a", RW_KEY_model_head_size},
                   {"accumulate_grad_batches", RW_KEY_train_accumulate},
                   {"gradient_clip_val", RW_KEY_train_grad_clip}};
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++)
        if (strcmp(renamed[i].flag, name) == 0) return &rw_keys[renamed[i].key];
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (strcmp(rw_keys[i].key, name) == 0 && rw_keys[i].section[0]) return &rw_keys[i];
    return NULL;
}

/* The name of "--name" or "--name=value", into buf; NULL: not one of theirs. */
static const char *name_of(const char *word, char *buf, size_t size) {
    rw_foreign f;
    size_t n = strcspn(word, "=");
    if (n < 3 || n - 2 >= size || strncmp(word, "--", 2) != 0) return NULL;
    memcpy(buf, word + 2, n - 2);
    buf[n - 2] = '\0';
    return find_key(buf) || rw_key_gone(buf) || rw_foreign_find(buf, "1", &f) ? buf : NULL;
}

bool rw_official_flag(const char *word) {
    char name[64];
    return name_of(word, name, sizeof name) != NULL;
}

bool rw_official_flag_key(const char *word, const char **path) {
    char name[64];
    const rw_key *key = name_of(word, name, sizeof name) ? find_key(name) : NULL;
    *path = key ? key->path : NULL;
    return key != NULL;
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

/* A word that begins with "--" is the next flag; "-1" is a value. */
static bool is_value(const char *word) {
    return word && strncmp(word, "--", 2) != 0 && strcmp(word, "\\") != 0;
}

/* The text on one line: it becomes part of a comment. */
static void append_plain(rw_str *out, const char *text) {
    for (; *text; text++) rw_str_append_n(out, (unsigned char)*text < 0x20 || *text == 0x7f ? "?" : text, 1);
}

static void note(meaning *m, const char *name, const char *value, const char *what) {
    rw_str_append(&m->notes, "# --");
    append_plain(&m->notes, name);
    rw_str_append(&m->notes, *value ? " " : "");
    append_plain(&m->notes, value);
    rw_str_appendf(&m->notes, ": %s\n", what);
}

static void take(meaning *m, const char *name, const char *value) {
    const rw_key *key = find_key(name);
    rw_foreign f;
    if (key && !rw_value_automatic(key, value)) {
        bool none = !*value || (key == &rw_keys[RW_KEY_model_load_model] && strcmp(value, "0") == 0);
        m->values[key - rw_keys] = none ? NULL : value;
    } else if (key) {
        note(m, name, value, rw_value_automatic(key, value));
    } else if (rw_foreign_find(name, value, &f)) {
        note(m, name, value, f.what);
        if (f.sets) m->values[f.sets - rw_keys] = f.to;
    } else {
        const char *gone = rw_key_gone(name);
        note(m, name, value, gone ? gone : rw_message("unknown here; leave it out"));
    }
}

static void read_flags(meaning *m, char **argv) {
    for (char **word = argv; *word; word++) {
        char name[64];
        const char *flag = *word, *equals = strchr(flag, '='), *value = equals ? equals + 1 : "";
        if (strncmp(flag, "--", 2) != 0) continue; /* "train.py", "\\" */
        snprintf(name, sizeof name, "%.*s", (int)strcspn(flag + 2, "="), flag + 2);
        if (!equals && is_value(word[1])) value = *++word;
        take(m, name, value);
    }
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

static bool is_plain(const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/+-";
    return *text && text[strspn(text, plain)] == '\0' && *text != '-';
}

static bool is_number(const char *text) {
    return *text && text[strspn(text, "0123456789.eE+-")] == '\0';
}

static void print_value(rw_str *out, const rw_key *key, const char *text) {
    const char *dot_slash = strncmp(text, "./", 2) == 0 ? text + 2 : text; /* paths: the recipe's folder */
    if (key->type == RW_TYPE_PATH) text = dot_slash;
    if (is_plain(text) || is_number(text))
        rw_str_append(out, text);
    else
        rw_json_append_string(out, text, strlen(text));
}

/* The keys of a section are together in keys.def, those without one come first. */
static void print_keys(const meaning *m, rw_str *out) {
    const char *section = "";
    for (const rw_key *k = rw_keys; k < rw_keys + RW_KEY_COUNT; k++) {
        const char *value = m->values[k - rw_keys];
        if (!value) continue;
        if (strcmp(section, k->section) != 0) rw_str_appendf(out, "%s:\n", k->section);
        section = k->section;
        rw_str_appendf(out, "%s%s: ", section[0] ? "  " : "", k->key);
        print_value(out, k, value);
        rw_str_append(out, "\n");
    }
}

void rw_official_recipe(char **argv, rw_str *out) {
    meaning m = {0};
    read_flags(&m, argv);
    print_keys(&m, out);
    if (m.notes.len) rw_str_append_n(out, m.notes.data, m.notes.len);
    out->failed = out->failed || m.notes.failed;
    rw_str_done(&m.notes);
}
