/* Text from outside (a recipe, a script, a file, the name of a tensor) on its way to a terminal or a log.
 *
 * Control characters, those of Unicode that turn the direction of a line among them, and bytes that are no UTF-8 are
 * shown as what they are: \n \t \x1b \u009b \xff. So they can neither steer a terminal, nor begin a line that the
 * program did not say, nor break a log. A backslash stays: what was made printable once may be so again.
 *
 * All functions write at most size - 1 bytes and a NUL, cut before a character or an escape that does not fit, and
 * return the length that the whole text has. */
#ifndef RW_BASE_PRINTABLE_H
#define RW_BASE_PRINTABLE_H

#include "core/base/str.h"

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

size_t rw_printable(char *buf, size_t size, const char *text);       /* one line */
size_t rw_printable_lines(char *buf, size_t size, const char *text); /* '\n' and '\t' stay */
void rw_str_append_printable(rw_str *s, const char *text);           /* one line */
/* n bytes, of which some may be NUL; '\n' and '\t' stay. */
void rw_str_append_printable_bytes(rw_str *s, const char *bytes, size_t n);

/* One word of a shell's command line, as a person may copy it; with control characters as $'...' has them (bash, zsh).
 */
void rw_str_append_quoted(rw_str *s, const char *text);

/* As vsnprintf(), for what is said to people: the format is the program's own, every %s and %c is from outside. A text
 * that the program composed of lines is a format "%s", or stands after a newline of the format ("it differs:\n%s"); it
 * keeps '\n' and '\t'. Conversions: d i u x X o c s p e f g (and capitals), of the lengths hh h l ll z t j. */
size_t rw_printable_format(char *buf, size_t size, const char *fmt, va_list ap);
void rw_str_appendf_printable(rw_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
