/* The fields of a cursor by name; one table serves reading, writing and comparing. */
#include "core/data/cursor.h"

#include "core/base/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t offset;
} fields[RW_CURSOR_N_FIELDS] = {
    {"seed", offsetof(rw_cursor, seed)},
    {"step", offsetof(rw_cursor, step)},
    {"data_hash", offsetof(rw_cursor, data_hash)},
    {"n_tokens", offsetof(rw_cursor, n_tokens)},
};

static uint64_t *field(rw_cursor *c, int i) {
    return (uint64_t *)(void *)((char *)c + fields[i].offset);
}

const char *rw_cursor_field_name(int i) {
    return fields[i].name;
}

uint64_t rw_cursor_get(const rw_cursor *c, int i) {
    uint64_t x;
    memcpy(&x, (const char *)c + fields[i].offset, sizeof x);
    return x;
}

bool rw_cursor_set(rw_cursor *c, const char *name, uint64_t value) {
    int i = 0;
    while (i < RW_CURSOR_N_FIELDS && strcmp(name, fields[i].name) != 0) i++;
    if (i == RW_CURSOR_N_FIELDS) return false;
    *field(c, i) = value;
    return true;
}

bool rw_cursor_equal(const rw_cursor *a, const rw_cursor *b) {
    for (int i = 0; i < RW_CURSOR_N_FIELDS; i++)
        if (rw_cursor_get(a, i) != rw_cursor_get(b, i)) return false;
    return true;
}

void rw_cursor_append_json(const rw_cursor *c, rw_str *s) {
    for (int i = 0; i < RW_CURSOR_N_FIELDS; i++)
        rw_str_appendf(s, "%s\"%s\":\"%" PRIu64 "\"", i ? "," : "{", fields[i].name, rw_cursor_get(c, i));
    rw_str_append(s, "}");
}

static bool parse_u64(const char *text, uint64_t *x) {
    char *end;
    errno = 0;
    *x = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0;
}

static rw_status read_fields(rw_cursor *c, json_t *object, rw_where at, rw_error *err) {
    if (!json_is_object(object) || json_object_size(object) != RW_CURSOR_N_FIELDS)
        return rw_fail(err, RW_E_FORMAT, at, "cursor: expected an object of %d fields", RW_CURSOR_N_FIELDS);
    for (int i = 0; i < RW_CURSOR_N_FIELDS; i++) {
        const char *text = json_string_value(json_object_get(object, fields[i].name));
        uint64_t x;
        if (!text || !parse_u64(text, &x))
            return rw_fail(err, RW_E_FORMAT, at, "cursor: '%s' is missing or not a number", fields[i].name);
        *field(c, i) = x;
    }
    return RW_OK;
}

rw_status rw_cursor_parse_json(rw_cursor *c, const char *text, size_t n, rw_where at, rw_error *err) {
    json_t *object;
    RW_TRY(rw_json_parse(text, n, at, &object, err));
    rw_status s = read_fields(c, object, at, err);
    json_decref(object);
    return s;
}
