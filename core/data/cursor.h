/* rw_cursor (data.h) as named numbers, for the training state and for messages. */
#ifndef RW_DATA_CURSOR_H
#define RW_DATA_CURSOR_H

#include "core/base/str.h"
#include "core/data/data.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_CURSOR_N_FIELDS 4

const char *rw_cursor_field_name(int i);                            /* 0 .. RW_CURSOR_N_FIELDS-1: "seed", ...   */
uint64_t rw_cursor_get(const rw_cursor *c, int i);                  /* its value                               */
bool rw_cursor_set(rw_cursor *c, const char *name, uint64_t value); /* false: no such field       */
bool rw_cursor_equal(const rw_cursor *a, const rw_cursor *b);

/* One JSON object: {"seed":"1","step":"20",...}. Numbers are strings, since JSON readers lose 64 bits. */
void rw_cursor_append_json(const rw_cursor *c, rw_str *s);
/* Reads it back; all fields must be there and no others. Errors: E_FORMAT at `at`. */
rw_status rw_cursor_parse_json(rw_cursor *c, const char *text, size_t n, rw_where at, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
