/* What recipes of other programs say: foreign.def, looked up by name and value. */
#include "core/recipe/keys.h"

#include "core/base/messages.h"

#include <string.h>

#define NONE RW_KEY_COUNT

static const char *in_language(const char *english, const char *chinese) {
    return strcmp(rw_language(), "zh") == 0 ? chinese : english;
}

/* Is the text one of "a|b"? "" is the empty text alone. */
static bool among(const char *values, const char *text) {
    size_t n = strlen(text);
    if (!*values) return n == 0;
    for (const char *p = values; *p; p += strcspn(p, "|"), p += *p != '\0')
        if (strcspn(p, "|") == n && memcmp(p, text, n) == 0) return true;
    return false;
}

bool rw_foreign_find(const char *name, const char *value, rw_foreign *found) {
    static const struct {
        const char *name, *values;
        rw_key_id sets;
        const char *to, *english, *chinese;
    } rows[] = {
#define RW_TAKEN(name, values, key, to, en, zh) {#name, values, key, to, en, zh},
#include "core/recipe/foreign.def"
#undef RW_TAKEN
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].name, name) != 0 || !among(rows[i].values, value)) continue;
        const rw_key *key = rows[i].sets == NONE ? NULL : &rw_keys[rows[i].sets];
        *found = (rw_foreign){key, rows[i].to, in_language(rows[i].english, rows[i].chinese)};
        return true;
    }
    return false;
}

const char *rw_key_gone(const char *key) {
    static const struct {
        const char *key, *english, *chinese;
    } gone[] = {
#define RW_GONE(name, en, zh) {#name, en, zh},
#include "core/recipe/foreign.def"
#undef RW_GONE
    };
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        if (strcmp(gone[i].key, key) == 0) return in_language(gone[i].english, gone[i].chinese);
    return NULL;
}

typedef struct {
    rw_key_id id;
    const char *value, *english, *chinese;
} value_row;

static const char *find_value(const value_row *rows, size_t n, const rw_key *key, const char *value) {
    for (size_t i = 0; i < n; i++)
        if (&rw_keys[rows[i].id] == key && strcmp(rows[i].value, value) == 0)
            return in_language(rows[i].english, rows[i].chinese);
    return NULL;
}

const char *rw_value_refused(const rw_key *key, const char *value) {
    static const value_row refused[] = {
#define RW_NOT_YET(section, name, word, en, zh) {RW_KEY_##section##_##name, word, en, zh},
#include "core/recipe/foreign.def"
#undef RW_NOT_YET
    };
    return find_value(refused, sizeof refused / sizeof refused[0], key, value);
}

const char *rw_value_automatic(const rw_key *key, const char *value) {
    static const value_row automatic[] = {
#define RW_AUTOMATIC(section, name, word, en, zh) {RW_KEY_##section##_##name, word, en, zh},
#include "core/recipe/foreign.def"
#undef RW_AUTOMATIC
    };
    return find_value(automatic, sizeof automatic / sizeof automatic[0], key, value);
}
