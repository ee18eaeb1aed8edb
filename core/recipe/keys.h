/* The table of recipe keys (keys.def) as data, and the pages that are printed from it. */
#ifndef RW_RECIPE_KEYS_H
#define RW_RECIPE_KEYS_H

#include "core/base/str.h"
#include "core/recipe/plan.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* RW_KEY_train_lr_init, RW_KEY_top_hooks, ... */
typedef enum {
#define RW_KEY(section, key, type, range, choices, dflt, unit, resume, dest, help, zh) RW_KEY_##section##_##key,
#define RW_KEY_ONLY(section, key, type, range, choices, dflt, unit, resume, help, zh)  RW_KEY_##section##_##key,
#include "core/recipe/keys.def"
#undef RW_KEY
#undef RW_KEY_ONLY
    RW_KEY_COUNT
} rw_key_id;

typedef enum {
    RW_TYPE_STRING,
    RW_TYPE_PATH,
    RW_TYPE_PATHS, /* a list of paths; one path is a list of one */
    RW_TYPE_INT,
    RW_TYPE_NUMBER,
    RW_TYPE_SIZE,       /* bytes, written with a unit: 22GiB        */
    RW_TYPE_BOOL,       /* true, false                              */
    RW_TYPE_FLAG,       /* true, false, 1, 0: official flags        */
    RW_TYPE_ENUM,       /* one of `choices`, stored as its number   */
    RW_TYPE_CHOICE,     /* one of `choices`, stored as text         */
    RW_TYPE_INT_CHOICE, /* one of `choices`, stored as an integer   */
    RW_TYPE_DTYPE       /* one of `choices`, stored as an rw_dtype  */
} rw_key_type;

typedef struct {
    double low, high; /* infinite: no bound       */
    bool above_low;   /* low itself is not in it  */
    bool below_high;  /* high itself is not in it */
} rw_range;

typedef struct {
    const char *section; /* "" at the top                                        */
    const char *key;
    const char *path; /* "train.lr_init", "hooks"                             */
    rw_key_type type;
    rw_range range;
    const char *choices;      /* "a|b|c" or ""                                        */
    const char *const *words; /* the same of type ENUM, by number, NULL after the last; else NULL */
    const char *value;        /* default as a user would write it; NULL: none         */
    const char *when;         /* default in words, where it is not one value; or NULL */
    bool required;            /* in every recipe                                      */
    const char *unit;         /* or ""                                                */
    bool resume_same;         /* a run continues only with the same value             */
    ptrdiff_t offset;         /* of the field in rw_plan; -1: none                    */
    size_t size;              /* of that field                                        */
    const char *help[2];      /* English, Chinese                                     */
} rw_key;

extern const rw_key rw_keys[RW_KEY_COUNT];

const rw_key *rw_key_find(const char *section, const char *key); /* NULL: no such key */
bool rw_section_known(const char *section);
/* NULL-terminated names, for suggestions. */
const char *const *rw_section_names(void);
const char *const *rw_key_paths(void);

/* The word of a value of an ENUM key, and the value of a word (-1: no such word). */
const char *rw_choice_word(rw_key_id id, int value);
int rw_choice_find(rw_key_id id, const char *word);
/* Does this format of data hold token ids, or text? */
bool rw_format_holds_ids(rw_format_choice format);

/* -- what recipes of other programs say (foreign.def); texts in the user's language ------------------------------ */

/* A key of another program that is accepted with this value. */
typedef struct {
    const rw_key *sets; /* NULL: it changes nothing */
    const char *to;     /* the value that it sets   */
    const char *what;   /* what it does here        */
} rw_foreign;
bool rw_foreign_find(const char *name, const char *value, rw_foreign *found);

/* What to do instead of a key that other trainers have; NULL: never heard of. */
const char *rw_key_gone(const char *key);
/* What to do instead of a value that is known and refused; NULL: nothing to say. */
const char *rw_value_refused(const rw_key *key, const char *value);
/* What a value that stands for the default means; NULL: it is a value like others. */
const char *rw_value_automatic(const rw_key *key, const char *value);

/* ---------------------------------------------------------------------------------------------------------------- */

/* "a number >= 0", "auto, cpu or cuda": what this key expects, in the user's language. Returns buf. */
const char *rw_key_expects(const rw_key *key, char *buf, size_t size);

void rw_keys_print_markdown(rw_str *out); /* the reference in recipes/README.md and of --keys */
void rw_keys_print_schema(rw_str *out);   /* JSON Schema (draft 2020-12), of --schema         */

#ifdef __cplusplus
}
#endif
#endif
