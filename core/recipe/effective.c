/* The effective recipe as YAML: every key that has a value, with the place it came from. It can be read again as
 * a recipe; paths are as seen from the working directory. */
#include "core/base/json.h"
#include "core/recipe/recipe.h"

#include <string.h>

/* Plain when that is safe beyond doubt, else in double quotes: a JSON string is also YAML. */
static void print_text(rw_str *out, const char *text) {
    static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-+";
    bool plain = text[0] && text[0] != '-' && text[strspn(text, safe)] == '\0';
    if (plain)
        rw_str_append(out, text);
    else
        rw_json_append_string(out, text, strlen(text));
}

static void print_value(rw_str *out, const rw_key *key, const rw_value *v) {
    if (key->type == RW_TYPE_PATHS) {
        rw_str_append(out, "[");
        for (int i = 0; i < v->list.n; i++) {
            if (i) rw_str_append(out, ", ");
            print_text(out, v->list.items[i]);
        }
        rw_str_append(out, "]");
    } else if (key->type == RW_TYPE_PATH || key->type == RW_TYPE_STRING) {
        print_text(out, v->s);
    } else {
        rw_str_append(out, v->text);
    }
}

static void print_origin(rw_str *out, const rw_value *v, size_t begin) {
    size_t width = out->len - begin;
    rw_str_appendf(out, "%*s# ", width < 46 ? (int)(46 - width) : 1, "");
    if (!v->at.file)
        rw_str_append(out, rw_message("default"));
    else if (v->at.line > 0)
        rw_str_appendf(out, "%s:%d", v->at.file, v->at.line);
    else
        rw_str_append(out, v->at.file);
    rw_str_append(out, "\n");
}

void rw_recipe_print(const rw_recipe *r, rw_str *out) {
    const char *section = "";
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        const rw_key *key = &rw_keys[i];
        const rw_value *v = &r->values[i];
        if (!v->text || i == RW_KEY_top_include || i == RW_KEY_train_checkpoint) continue;
        if (strcmp(section, key->section) != 0) rw_str_appendf(out, "%s:\n", section = key->section);
        size_t begin = out->len;
        rw_str_appendf(out, "%s%s: ", section[0] ? "  " : "", key->key);
        print_value(out, key, v);
        print_origin(out, v, begin);
    }
}
