/* The list of architectures, and how their tables are read: see arch.h. */
#include "core/model/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- the list ------------------------------------------------------------------------------------------------- */

static const rw_arch *const built_in[] = {
#define RW_ARCH(name, what, zh) &rw_arch_##name,
#include "core/recipe/archs.def"
#undef RW_ARCH
};
enum { N_BUILT_IN = sizeof built_in / sizeof *built_in };

static const rw_arch *registered[RW_MAX_REGISTERED];
static int n_registered;

const rw_arch *rw_arch_at(int i) {
    if (i < N_BUILT_IN) return built_in[i];
    return i < N_BUILT_IN + n_registered ? registered[i - N_BUILT_IN] : NULL;
}

static const rw_arch *find(const char *name) {
    for (int i = 0; rw_arch_at(i); i++)
        if (strcmp(rw_arch_at(i)->name, name) == 0) return rw_arch_at(i);
    return NULL;
}

const rw_arch *rw_arch_find(const char *name, rw_error *err) {
    const rw_arch *a = find(name);
    if (a) return a;
    rw_str names = {0};
    for (int i = 0; rw_arch_at(i); i++) rw_str_appendf(&names, i ? ", %s" : "%s", rw_arch_at(i)->name);
    rw_fail(err, RW_E_UNSUPPORTED, RW_AT_NONE, "no model of architecture '%s' in this build; there is %s", name,
            names.data ? names.data : "");
    rw_str_done(&names);
    return NULL;
}

static rw_status check_tables(const rw_arch *a, rw_error *err) {
    rw_shape_word words[RW_MAX_DIM];
    for (int i = 0; i < a->n_roles; i++)
        if (rw_shape_words(a->roles[i].shape, words) < 0)
            return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "architecture '%s': '%s' is not a valid shape of parameter %s",
                           a->name, a->roles[i].shape, a->roles[i].name);
    if (a->n_fields > RW_MAX_FIELDS)
        return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "architecture '%s': %d state fields; the limit is %d", a->name,
                       a->n_fields, RW_MAX_FIELDS);
    for (int i = 0; i < a->n_fields; i++) {
        int n = rw_shape_words(a->fields[i].shape, words);
        if (n < 1 || n > RW_MAX_DIM - 1) /* a state has one dimension more: sequences */
            return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "architecture '%s': '%s' is not a valid shape of state %s",
                           a->name, a->fields[i].shape, a->fields[i].name);
    }
    return RW_OK;
}

rw_status rw_arch_register(const rw_arch *arch, rw_error *err) {
    if (find(arch->name))
        return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "there is an architecture '%s' already", arch->name);
    if (n_registered == RW_MAX_REGISTERED)
        return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "scripts define more than %d architectures", RW_MAX_REGISTERED);
    RW_TRY(check_tables(arch, err));
    registered[n_registered++] = arch;
    return RW_OK;
}

void rw_arch_default_shape(const rw_arch *arch, rw_plan_model *shape) {
    if (!shape->head_size) shape->head_size = 64;
    if (!shape->n_head) shape->n_head = shape->n_embd / shape->head_size;
    if (arch->default_shape) arch->default_shape(shape);
}

/* -- shapes --------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *word;
} dims[RW_DIM_COUNT] = {
#define RW_DIM(name, word) {#name, word},
#include "core/recipe/dims.def"
#undef RW_DIM
};

/* The size whose word is the n bytes at `word`; RW_DIM_COUNT: none. */
static rw_dim dim_of(const char *word, size_t n) {
    int d = 0;
    while (d < RW_DIM_COUNT && (strlen(dims[d].word) != n || memcmp(dims[d].word, word, n) != 0)) d++;
    return (rw_dim)d;
}

int rw_shape_words(const char *shape, rw_shape_word words[RW_MAX_DIM]) {
    int n = 0;
    for (const char *p = shape; *p; p += *p == ' ') {
        char *name;
        long factor = strtol(p, &name, 10);
        size_t length = strcspn(name, " ");
        rw_dim dim = length ? dim_of(name, length) : RW_DIM_COUNT;
        bool number = name > p;
        if (n == RW_MAX_DIM || (number && factor < 1) || (length ? dim == RW_DIM_COUNT : !number)) return -1;
        words[n++] = (rw_shape_word){number ? factor : 1, dim};
        p = name + length;
    }
    return n ? n : -1;
}

int rw_shape_sizes(const char *shape, const rw_plan_model *model, int64_t sizes[RW_MAX_DIM]) {
    rw_shape_word words[RW_MAX_DIM];
    int n = rw_shape_words(shape, words);
    for (int i = 0; i < n; i++)
        sizes[i] = words[i].factor * (words[i].dim < RW_DIM_COUNT ? model->dim[words[i].dim] : 1);
    return n;
}

const char *rw_dim_name(rw_dim dim) {
    return dims[dim].name;
}

void rw_dims_print(const rw_plan_model *model, rw_str *out) {
    for (int d = 0; d < RW_DIM_COUNT; d++)
        if (model->dim[d]) rw_str_appendf(out, d ? ", %s %lld" : "%s %lld", dims[d].name, (long long)model->dim[d]);
}

bool rw_arch_has_part(const rw_arch *arch, rw_dim dim) {
    for (int i = 0; i < arch->n_roles; i++)
        if (arch->roles[i].needs == dim) return true;
    return false;
}

void rw_role_name(const rw_role *role, int64_t layer, char name[RW_PARAM_NAME]) {
    bool block = role->where != RW_WHERE_BEFORE && role->where != RW_WHERE_AFTER;
    if (block)
        snprintf(name, RW_PARAM_NAME, "blocks.%lld.%s", (long long)layer, role->name);
    else
        snprintf(name, RW_PARAM_NAME, "%s", role->name);
}

/* -- walking -------------------------------------------------------------------------------------------------- */

rw_role_walk rw_role_walk_of(const rw_arch *arch, const rw_plan_model *shape) {
    return (rw_role_walk){.arch = arch, .shape = shape, .layer = -1, .index = -1};
}

static bool present(const rw_role *role, const rw_plan_model *shape, int layer) {
    if (shape->dim[role->needs] == 0) return false;
    switch (role->where) {
    case RW_WHERE_BEFORE:
        return layer < 0;
    case RW_WHERE_EVERY:
        return layer >= 0 && layer < shape->n_layer;
    case RW_WHERE_ENTRY:
    case RW_WHERE_FIRST:
        return layer == 0;
    case RW_WHERE_TIME_MIX:
        return layer >= (shape->pre_ffn ? 1 : 0) && layer < shape->n_layer;
    case RW_WHERE_AFTER:
        return layer == shape->n_layer;
    }
    return false;
}

bool rw_role_walk_next(rw_role_walk *w) {
    for (; w->layer <= w->shape->n_layer; w->layer++) {
        while (++w->index < w->arch->n_roles) {
            w->role = &w->arch->roles[w->index];
            if (!present(w->role, w->shape, w->layer)) continue;
            rw_role_name(w->role, w->layer, w->name);
            return true;
        }
        w->index = -1;
    }
    return false;
}
