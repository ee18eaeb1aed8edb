/* A translation is used only when it has the same conversions in the same order, so that a slip in a messages.def can
 * never read a wrong argument. The rows are searched one by one: a message is said once, not in a loop. */
#include "core/base/messages.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* -- language ---------------------------------------------------------------------------------------- */

static const char *language_from_environment(void) {
    static const char *const names[] = {"RWKV_LANG", "LC_ALL", "LC_MESSAGES", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i]);
        if (value && value[0]) return strncmp(value, "zh", 2) == 0 ? "zh" : "en";
    }
    return "en";
}

const char *rw_language(void) {
    static const char *_Atomic language; /* read once: the answer may not change within a run */
    const char *found = atomic_load(&language);
    if (!found) {
        found = language_from_environment();
        atomic_store(&language, found);
    }
    return found;
}

/* -- translation ------------------------------------------------------------------------------------- */

/* Finds the next conversion at or after *s ("%-5d"), steps *s past it and returns its length, 0 at the end. */
static size_t next_conversion(const char **s, const char **start) {
    for (const char *p = strchr(*s, '%'); p; p = strchr(p + 2, '%')) {
        if (p[1] == '%') continue;
        size_t n = 1 + strspn(p + 1, "-+ #0123456789.*hlLqjzt");
        n += p[n] != '\0';
        *start = p;
        *s = p + n;
        return n;
    }
    return 0;
}

bool rw_message_fits(const char *a, const char *b) {
    for (;;) {
        const char *start_a = a, *start_b = b;
        size_t n_a = next_conversion(&a, &start_a), n_b = next_conversion(&b, &start_b);
        if (n_a != n_b || memcmp(start_a, start_b, n_a) != 0) return false;
        if (n_a == 0) return true;
    }
}

static const char *translate(const char *english) {
    for (const struct rw_message_row *m = rw_message_rows; m->english; m++)
        if (strcmp(m->english, english) == 0) return rw_message_fits(english, m->chinese) ? m->chinese : english;
    return english;
}

const char *rw_message(const char *english) {
    return strcmp(rw_language(), "zh") == 0 ? translate(english) : english;
}

int rw_messages_check(void) {
    for (const struct rw_message_row *m = rw_message_rows; m->english; m++)
        if (!rw_message_fits(m->english, m->chinese)) return (int)(m - rw_message_rows) + 1;
    return 0;
}
