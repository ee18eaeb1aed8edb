/* JSON through jansson, with our errors. Reading is strict: valid UTF-8, no duplicate keys. A string may
 * hold \u0000 (keys may not): use json_string_length() where that matters. */
#ifndef RW_BASE_JSON_H
#define RW_BASE_JSON_H

#include "core/base/error.h"
#include "core/base/str.h"

#include <jansson.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Parses one value that must fill the text (white space around it allowed). `at` names the file and the
 * line on which the text begins; the error's line and column are counted from there. Free with json_decref. */
rw_status rw_json_parse(const char *text, size_t n, rw_where at, json_t **out, rw_error *err);

/* Appends `text` as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void rw_json_append_string(rw_str *s, const char *text, size_t n);
/* Appends a number that reads back to the same double; NaN and infinities as null. */
void rw_json_append_number(rw_str *s, double x);

#ifdef __cplusplus
}
#endif
#endif
