/* The effective recipe as YAML: every key that has a value, with the place it came from. It can be read again as
 * a recipe; paths are as seen from the working directory. */
#include "core/base/json.h"
#include "core/base/printable.h"
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

static void print_list(rw_str *out, const rw_value *v) {
    rw_str_append(out, "[");
    for (int i = 0; i < v->list.n; i++) {
        if (i) rw_str_append(out, ", ");
        print_text(out, v->list.items[i]);
    }
    rw_str_append(out, "]");
}

static void print_value(rw_str *out, const rw_recipe *r, const rw_plan *plan, rw_key_id id) {
    const rw_key_type type = rw_keys[id].type;
    const rw_value *v = &r->values[id];
    char buf[32];
    const char *value = rw_recipe_value(r, plan, id, buf);
    if (type == RW_TYPE_PATHS)
        print_list(out, v);
    else if (type == RW_TYPE_PATH || type == RW_TYPE_STRING)
        print_text(out, v->text ? v->s : value); /* v->s: as seen from here, not as written */
    else
        rw_str_append(out, value);
}

static void print_origin(rw_str *out, const rw_value *v, size_t begin) {
    size_t width = out->len - begin;
    rw_str_appendf(out, "%*s# ", width < 46 ? (int)(46 - width) : 1, "");
    if (!v->text)
        rw_str_append(out, rw_message("chosen by the plan"));
    else if (!v->at.file)
        rw_str_append(out, rw_message("default"));
    else
        rw_str_append_printable(out, v->at.file);
    if (v->text && v->at.file && v->at.line > 0) rw_str_appendf(out, ":%d", v->at.line);
    rw_str_append(out, "\n");
}

static void print_section(rw_str *out, const char **section, const char *next) {
    if (strcmp(*section, next) == 0) return;
    rw_str_appendf(out, "%s:\n", next);
    *section = next;
}

void rw_recipe_print(const rw_recipe *r, const rw_plan *plan, rw_str *out) {
    const char *section = "";
    char buf[32];
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        const rw_key *key = &rw_keys[i];
        if (!rw_recipe_value(r, plan, (rw_key_id)i, buf)[0] && !r->values[i].text) continue;
        /* the files are read already; train.checkpoint says what grad_cp says */
        if (i == RW_KEY_top_include || i == RW_KEY_train_grad_cp) continue;
        print_section(out, &section, key->section);
        size_t begin = out->len;
        rw_str_appendf(out, "%s%s: ", section[0] ? "  " : "", key->key);
        print_value(out, r, plan, (rw_key_id)i);
        print_origin(out, &r->values[i], begin);
    }
}
