/* A growable byte string, and small text helpers. */
#ifndef RW_BASE_STR_H
#define RW_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* data is NUL-terminated whenever it is not NULL. `failed` is sticky: appends after a lack of memory do
 * nothing, so a writer checks once at the end. */
typedef struct {
    char *data; /* owned */
    size_t len, cap;
    bool failed;
} rw_str;

void rw_str_append(rw_str *s, const char *text);
void rw_str_append_n(rw_str *s, const void *bytes, size_t n);
void rw_str_appendf(rw_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rw_str_clear(rw_str *s); /* keeps the memory */
void rw_str_done(rw_str *s);

/* Edit distance (insert, delete, replace, swap of neighbours), at most `limit` + 1. */
int rw_edit_distance(const char *a, const char *b, int limit);
/* The name of `names` (NULL-terminated) nearest to `word`, or NULL when none is near enough to suggest. */
const char *rw_did_you_mean(const char *word, const char *const *names);

/* "1.5 GiB", "312 kB"-like text for people: binary units, 3 digits. Returns buf. */
char *rw_format_bytes(char *buf, size_t size, int64_t n_bytes);
/* Two sizes of one message: in bytes where the short texts would be the same and the sizes are not. */
void rw_format_two_sizes(char a[32], int64_t n, char b[32], int64_t m);
/* "1,234,567". Returns buf. */
char *rw_format_count(char *buf, size_t size, int64_t n);
/* "2h 03m", "4m 12s", "8.1s". Returns buf. */
char *rw_format_seconds(char *buf, size_t size, double seconds);

/* Strict UTF-8. Returns the length of the valid prefix (== n when all of it is valid). */
size_t rw_utf8_valid_prefix(const char *s, size_t n);
/* Length of the character at s, 0 when it is not valid (overlong, surrogate, beyond U+10FFFF, cut short); its code. */
size_t rw_utf8_decode(const char *s, size_t n, uint32_t *code);
/* Columns a terminal gives this text (East Asian wide = 2), tabs counted as 1. */
int rw_utf8_columns(const char *s, size_t n);

#ifdef __cplusplus
}
#endif
#endif
