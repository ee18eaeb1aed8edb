/* What a run must not change when it is resumed: the keys, with the values that took effect. */
#include "core/base/printable.h"
#include "core/recipe/recipe.h"

#include <stdio.h>
#include <string.h>

/* -- the value of a key ------------------------------------------------------------------------------------- */

static const char *whole_number(const void *field, size_t size, char buf[32]) {
    int64_t wide = 0;
    int small = 0;
    if (size == sizeof wide) {
        memcpy(&wide, field, sizeof wide);
    } else {
        memcpy(&small, field, sizeof small);
        wide = small;
    }
    snprintf(buf, 32, "%lld", (long long)wide);
    return buf;
}

static const char *text_at(const void *field) {
    const char *text;
    memcpy(&text, field, sizeof text);
    return text ? text : "";
}

static int enum_at(const void *field) {
    int value;
    memcpy(&value, field, sizeof value);
    return value;
}

/* Types of the keys that may be left to the plan and shape the run; other keys have a default, or are free. */
static const char *decided_value(const rw_plan *plan, rw_key_id id, char buf[32]) {
    const rw_key *key = &rw_keys[id];
    if (key->offset < 0) return "";
    const void *field = (const char *)plan + key->offset;
    switch (key->type) {
    case RW_TYPE_STRING:
    case RW_TYPE_PATH:
    case RW_TYPE_CHOICE:
        return text_at(field);
    case RW_TYPE_INT:
    case RW_TYPE_INT_CHOICE:
        return whole_number(field, key->size, buf);
    case RW_TYPE_ENUM:
        return rw_choice_word(id, enum_at(field));
    default:
        return "";
    }
}

const char *rw_recipe_value(const rw_recipe *r, const rw_plan *plan, rw_key_id id, char buf[32]) {
    if (r->values[id].text) return r->values[id].text;
    return plan ? decided_value(plan, id, buf) : "";
}

/* -- comparing ------------------------------------------------------------------------------------------------ */

rw_status rw_recipe_pairs(const rw_recipe *r, const rw_plan *plan, rw_arena *arena, rw_pairs *out, rw_error *err) {
    rw_pair *pairs = rw_arena_alloc(arena, sizeof *pairs * RW_KEY_COUNT);
    char buf[32];
    if (!pairs) return rw_fail_memory(err, sizeof *pairs * RW_KEY_COUNT);
    *out = (rw_pairs){.at = pairs};
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        if (!rw_keys[i].resume_same) continue;
        const char *value = rw_arena_strdup(arena, rw_recipe_value(r, plan, (rw_key_id)i, buf));
        if (!value) return rw_fail_memory(err, sizeof buf);
        pairs[out->n++] = (rw_pair){rw_keys[i].path, value};
    }
    return RW_OK;
}

static const char *value_in(const rw_pairs *pairs, const char *name) {
    for (int i = 0; i < pairs->n; i++)
        if (strcmp(pairs->at[i].name, name) == 0) return pairs->at[i].value;
    return NULL;
}

static int difference(const char *name, const char *was, const char *now, rw_str *out) {
    if (strcmp(was, now) == 0) return 0;
    const char *nothing = rw_message("not given");
    char texts[3][512];
    rw_printable(texts[0], sizeof texts[0], name);
    rw_printable(texts[1], sizeof texts[1], was[0] ? was : nothing);
    rw_printable(texts[2], sizeof texts[2], now[0] ? now : nothing);
    rw_str_appendf(out, rw_message("%s: was %s, now %s\n"), texts[0], texts[1], texts[2]);
    return 1;
}

int rw_recipe_differences(const rw_pairs *saved, const rw_pairs *now, rw_str *out) {
    int count = 0;
    for (int i = 0; i < now->n; i++) {
        const char *was = value_in(saved, now->at[i].name);
        count += difference(now->at[i].name, was ? was : "", now->at[i].value, out);
    }
    for (int i = 0; i < saved->n; i++)
        if (!value_in(now, saved->at[i].name)) count += difference(saved->at[i].name, saved->at[i].value, "", out);
    return count;
}
