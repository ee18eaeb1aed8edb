/* The table of recipe keys: built from keys.def, looked up by name, described in words. */
#include "core/recipe/keys.h"

#include "core/base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* -- the table ------------------------------------------------------------------------------------------- */

#define ANY                                                                                                            \
    { -INFINITY, INFINITY, false, false }
#define GE(a)                                                                                                          \
    { (a), INFINITY, false, false }
#define GT(a)                                                                                                          \
    { (a), INFINITY, true, false }
#define IN(a, b)                                                                                                       \
    { (a), (b), false, false }
#define BELOW(a, b)                                                                                                    \
    { (a), (b), false, true }

/* The column `choices` for a set of choices.def; the row's macro puts it after `.choices =`. */
#define OF(set) set##_bars + 1, .words = set##_words

#define RW_CHOICES(set)     static const char set##_bars[] = ""
#define RW_CHOICE(id, word) "|" word
#define RW_CHOICES_END(set) ;
#include "core/recipe/choices.def"
#undef RW_CHOICES
#undef RW_CHOICE
#undef RW_CHOICES_END

// clang-format off
#define RW_CHOICES(set)     static const char *const set##_words[] = {
#define RW_CHOICE(id, word) word,
#define RW_CHOICES_END(set) NULL};
// clang-format on
#include "core/recipe/choices.def"
#undef RW_CHOICES
#undef RW_CHOICE
#undef RW_CHOICES_END

#define VALUE(text) .value = (text)
#define REQUIRED    .required = true
#define WHEN(words) .when = (words)

/* model.arch: "x052|x060" and "architecture; x052 is RWKV-5; x060 is RWKV-6", from the rows of archs.def. */
static const char arch_choices[] =
#define RW_ARCH(name, what, zh) "|" #name
#include "core/recipe/archs.def"
#undef RW_ARCH
    ;
static const char arch_help[] = "architecture"
#define RW_ARCH(name, what, zh) "; " #name " is " what
#include "core/recipe/archs.def"
#undef RW_ARCH
    ;
static const char arch_help_zh[] = "模型架构"
#define RW_ARCH(name, what, zh) "；" #name " 即 " zh
#include "core/recipe/archs.def"
#undef RW_ARCH
    ;
#define ARCH_CHOICES (arch_choices + 1)
#define ARCH_HELP    arch_help
#define ARCH_HELP_ZH arch_help_zh

/* `top` is no section: its keys are at the top level of a recipe. */
#define SECTION(name)   (sizeof name == 4 && name[0] == 't' && name[1] == 'o' && name[2] == 'p' ? "" : name)
#define PATH_IN(s, key) (sizeof s == 4 && s[0] == 't' && s[1] == 'o' && s[2] == 'p' ? key : s "." key)

#define RW_KEY(section_, key_, type_, range_, choices_, default_, unit_, resume_, dest, help_, zh)                     \
    [RW_KEY_##section_##_##key_] = {.section = SECTION(#section_),                                                     \
                                    .key = #key_,                                                                      \
                                    .path = PATH_IN(#section_, #key_),                                                 \
                                    .type = RW_TYPE_##type_,                                                           \
                                    .range = range_,                                                                   \
                                    .choices = choices_,                                                               \
                                    default_,                                                                          \
                                    .unit = unit_,                                                                     \
                                    .resume_same = RESUME_##resume_,                                                   \
                                    .offset = (ptrdiff_t)offsetof(rw_plan, dest),                                      \
                                    .size = sizeof((rw_plan *)0)->dest,                                                \
                                    .help = {help_, zh}},
#define RW_KEY_ONLY(section_, key_, type_, range_, choices_, default_, unit_, resume_, help_, zh)                      \
    [RW_KEY_##section_##_##key_] = {.section = SECTION(#section_),                                                     \
                                    .key = #key_,                                                                      \
                                    .path = PATH_IN(#section_, #key_),                                                 \
                                    .type = RW_TYPE_##type_,                                                           \
                                    .range = range_,                                                                   \
                                    .choices = choices_,                                                               \
                                    default_,                                                                          \
                                    .unit = unit_,                                                                     \
                                    .resume_same = RESUME_##resume_,                                                   \
                                    .offset = -1,                                                                      \
                                    .help = {help_, zh}},
#define RESUME_SAME true
#define RESUME_FREE false

const rw_key rw_keys[RW_KEY_COUNT] = {
#include "core/recipe/keys.def"
};
#undef RW_KEY
#undef RW_KEY_ONLY

/* -- names ----------------------------------------------------------------------------------------------- */

static const char *const sections[] = {"model", "data", "train", "engine", "save", "log", "lua"};

static const char *const section_names[] = {"model", "data",   "train", "engine",  "save",          "log", "lua",
                                            "name",  "device", "hooks", "include", "device_memory", NULL};

static const char *const paths[] = {
#define RW_KEY(section, key, type, range, choices, dflt, unit, resume, dest, help, zh) PATH_IN(#section, #key),
#define RW_KEY_ONLY(section, key, type, range, choices, dflt, unit, resume, help, zh)  PATH_IN(#section, #key),
#include "core/recipe/keys.def"
#undef RW_KEY
#undef RW_KEY_ONLY
    NULL};

const rw_key *rw_key_find(const char *section, const char *key) {
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (strcmp(rw_keys[i].section, section) == 0 && strcmp(rw_keys[i].key, key) == 0) return &rw_keys[i];
    return NULL;
}

bool rw_section_known(const char *section) {
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
        if (strcmp(sections[i], section) == 0) return true;
    return false;
}

const char *const *rw_section_names(void) {
    return section_names;
}

const char *const *rw_key_paths(void) {
    return paths;
}

/* -- choices --------------------------------------------------------------------------------------------- */

const char *rw_choice_word(rw_key_id id, int value) {
    return rw_keys[id].words[value];
}

int rw_choice_find(rw_key_id id, const char *word) {
    const char *const *words = rw_keys[id].words;
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0) return i;
    return -1;
}

bool rw_format_holds_ids(rw_format_choice format) {
    enum { TEXT, IDS };
    static const bool ids[] = {
#define RW_FORMAT(id, word, file, holds) [RW_FORMAT_##id] = holds == IDS,
#include "core/recipe/formats.def"
#undef RW_FORMAT
    };
    return ids[format];
}

/* -- what a key expects, in words ------------------------------------------------------------------------- */

/* "auto, cpu or cuda" */
static void list_choices(const char *choices, char *buf, size_t size) {
    size_t used = 0;
    for (const char *p = choices; *p && used < size;) {
        size_t n = strcspn(p, "|");
        const char *rest = p + n + (p[n] != '\0');
        const char *join = p == choices ? "" : *rest ? ", " : rw_message(" or ");
        used += (size_t)snprintf(buf + used, size - used, "%s%.*s", join, (int)n, p);
        p = rest;
    }
}

static void describe_range(const rw_range *r, bool whole, char *buf, size_t size) {
    const char *what = rw_message(whole ? "an integer" : "a number");
    if (isinf(r->low))
        snprintf(buf, size, "%s", what);
    else if (isinf(r->high))
        snprintf(buf, size, "%s %s %.16g", what, r->above_low ? ">" : ">=", r->low);
    else if (r->below_high)
        snprintf(buf, size, "%s >= %.16g %s < %.16g", what, r->low, rw_message("and"), r->high);
    else
        snprintf(buf, size, "%s %s %.16g %s %.16g", what, rw_message("from"), r->low, rw_message("to"), r->high);
}

const char *rw_key_expects(const rw_key *key, char *buf, size_t size) {
    buf[0] = '\0';
    switch (key->type) {
    case RW_TYPE_STRING:
        snprintf(buf, size, "%s", rw_message("a string"));
        break;
    case RW_TYPE_PATH:
        snprintf(buf, size, "%s", rw_message("a path"));
        break;
    case RW_TYPE_PATHS:
        snprintf(buf, size, "%s", rw_message("a list of paths"));
        break;
    case RW_TYPE_INT:
        describe_range(&key->range, true, buf, size);
        break;
    case RW_TYPE_NUMBER:
        describe_range(&key->range, false, buf, size);
        break;
    case RW_TYPE_SIZE:
        snprintf(buf, size, "%s", rw_message("a size such as 22GiB or 800MiB"));
        break;
    case RW_TYPE_BOOL:
    case RW_TYPE_FLAG:
        snprintf(buf, size, "%s", rw_message("true or false"));
        break;
    case RW_TYPE_ENUM:
    case RW_TYPE_CHOICE:
    case RW_TYPE_INT_CHOICE:
    case RW_TYPE_DTYPE:
        list_choices(key->choices, buf, size);
        break;
    }
    return buf;
}
