/* The pages that are made of the table of keys: the reference in Markdown and the JSON Schema for editors. */
#include "core/base/json.h"
#include "core/recipe/keys.h"

#include <math.h>
#include <string.h>

static const char *help_of(const rw_key *k) {
    return k->help[strcmp(rw_language(), "zh") == 0];
}

/* -- Markdown -------------------------------------------------------------------------------------------- */

static void print_default(rw_str *out, const rw_key *k) {
    if (k->required)
        rw_str_append(out, rw_message("required"));
    else if (k->value)
        rw_str_appendf(out, "`%s`", k->value);
    else
        rw_str_append(out, k->when ? rw_message(k->when) : "");
}

static void print_row(rw_str *out, const rw_key *k) {
    char expects[256];
    rw_str_appendf(out, "| `%s` | %s%s%s | ", k->path, rw_key_expects(k, expects, sizeof expects),
                   k->unit[0] ? ", " : "", rw_message(k->unit));
    print_default(out, k);
    rw_str_appendf(out, " | %s | %s |\n", rw_message(k->resume_same ? "same" : "free"), help_of(k));
}

void rw_keys_print_markdown(rw_str *out) {
    const char *section = NULL;
    for (const rw_key *k = rw_keys; k < rw_keys + RW_KEY_COUNT; k++) {
        if (!section || strcmp(section, k->section) != 0) {
            section = k->section;
            if (k != rw_keys) rw_str_append(out, "\n");
            if (section[0]) rw_str_appendf(out, "### %s\n\n", section);
            rw_str_appendf(out, "| %s | %s | %s | %s | %s |\n|---|---|---|---|---|\n", rw_message("key"),
                           rw_message("value"), rw_message("default"), rw_message("resume"), rw_message("meaning"));
        }
        print_row(out, k);
    }
}

/* -- JSON Schema ------------------------------------------------------------------------------------------ */

static void print_choices(rw_str *out, const rw_key *k, bool quoted) {
    rw_str_append(out, "\"enum\": [");
    for (const char *p = k->choices; *p;) {
        size_t n = strcspn(p, "|");
        rw_str_appendf(out, quoted ? "%s\"%.*s\"" : "%s%.*s", p == k->choices ? "" : ", ", (int)n, p);
        p += n + (p[n] != '\0');
    }
    rw_str_append(out, "]");
}

static void print_bounds(rw_str *out, const rw_range *r) {
    if (!isinf(r->low)) {
        rw_str_appendf(out, ", \"%s\": ", r->above_low ? "exclusiveMinimum" : "minimum");
        rw_json_append_number(out, r->low);
    }
    if (!isinf(r->high)) {
        rw_str_appendf(out, ", \"%s\": ", r->below_high ? "exclusiveMaximum" : "maximum");
        rw_json_append_number(out, r->high);
    }
}

static void print_type(rw_str *out, const rw_key *k) {
    switch (k->type) {
    case RW_TYPE_STRING:
    case RW_TYPE_PATH:
    case RW_TYPE_SIZE:
        rw_str_append(out, "\"type\": \"string\"");
        break;
    case RW_TYPE_PATHS:
        rw_str_append(out, "\"type\": [\"array\", \"string\"], \"items\": {\"type\": \"string\"}");
        break;
    case RW_TYPE_INT:
    case RW_TYPE_NUMBER:
        rw_str_appendf(out, "\"type\": \"%s\"", k->type == RW_TYPE_INT ? "integer" : "number");
        print_bounds(out, &k->range);
        break;
    case RW_TYPE_BOOL:
        rw_str_append(out, "\"type\": \"boolean\"");
        break;
    case RW_TYPE_FLAG:
        rw_str_append(out, "\"enum\": [true, false, 1, 0]");
        break;
    case RW_TYPE_ENUM:
    case RW_TYPE_CHOICE:
    case RW_TYPE_DTYPE:
        print_choices(out, k, true);
        break;
    case RW_TYPE_INT_CHOICE:
        print_choices(out, k, false);
        break;
    }
}

static bool is_text(const rw_key *k) {
    return k->type == RW_TYPE_STRING || k->type == RW_TYPE_PATH || k->type == RW_TYPE_ENUM ||
           k->type == RW_TYPE_CHOICE || k->type == RW_TYPE_DTYPE;
}

static void print_property(rw_str *out, const rw_key *k, const char *indent, bool last) {
    rw_str_appendf(out, "%s\"%s\": {", indent, k->key);
    print_type(out, k);
    if (k->value) rw_str_appendf(out, is_text(k) ? ", \"default\": \"%s\"" : ", \"default\": %s", k->value);
    rw_str_append(out, ", \"description\": ");
    rw_json_append_string(out, help_of(k), strlen(help_of(k)));
    rw_str_append(out, last ? "}\n" : "},\n");
}

/* The rows of a section are together in keys.def. Nothing is "required" here: an included file may hold it. */
void rw_keys_print_schema(rw_str *out) {
    rw_str_append(out, "{\n  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n"
                       "  \"title\": \"rwkv-run recipe\",\n  \"type\": \"object\",\n"
                       "  \"additionalProperties\": false,\n  \"properties\": {\n");
    const rw_key *end = rw_keys + RW_KEY_COUNT;
    for (const rw_key *k = rw_keys; k < end; k++) {
        bool first = k == rw_keys || strcmp(k[-1].section, k->section) != 0;
        bool last = k + 1 == end || strcmp(k[1].section, k->section) != 0;
        if (!k->section[0]) {
            print_property(out, k, "    ", false);
            continue;
        }
        if (first)
            rw_str_appendf(out,
                           "    \"%s\": {\"type\": [\"object\", \"null\"], \"additionalProperties\": false, "
                           "\"properties\": {\n",
                           k->section);
        print_property(out, k, "      ", last);
        if (last) rw_str_append(out, k + 1 == end ? "    }}\n" : "    }},\n");
    }
    rw_str_append(out, "  }\n}\n");
}
