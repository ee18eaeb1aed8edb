/* Loading a recipe: included files first, then the file itself, then the command line; later keys win. Defaults
 * last. Then the rules over several keys (check.c). */
#include "core/recipe/recipe.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/recipe/recipe_internal.h"
#include "core/recipe/yaml.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    rw_recipe *recipe;
    const rw_recipe_options *options;
    rw_problems problems;
    const char *open_files[RW_MAX_INCLUDE_DEPTH + 1]; /* real paths of the files that include each other now */
    rw_where from[RW_MAX_INCLUDE_DEPTH + 1];          /* where each is included                              */
    int depth, n_files;
} loader;

/* -- one file --------------------------------------------------------------------------------------------- */

static const char *folder_of(rw_arena *arena, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return ".";
    return slash == path ? "/" : rw_arena_strndup(arena, path, (size_t)(slash - path));
}

static rw_schema schema_for(loader *l, const char *dir) {
    return (rw_schema){.arena = &l->recipe->arena,
                       .problems = &l->problems,
                       .values = l->recipe->values,
                       .dir = dir,
                       .env_names = l->options->env_names,
                       .n_env_names = l->options->n_env_names};
}

/* "included from base.yaml:1:11", line by line, for mistakes in included files. */
static void add_chain(loader *l, rw_error *err) {
    if (l->depth < 2 || err->code == RW_E_MEMORY) return;
    rw_str chain = {0};
    if (err->detail) rw_str_append(&chain, err->detail);
    for (int i = l->depth - 1; i > 0; i--)
        rw_str_appendf(&chain, "%s  %s %s:%d:%d", chain.len ? "\n" : "", rw_message("included from"), l->from[i].file,
                       l->from[i].line, l->from[i].col);
    if (!chain.failed) rw_error_set_detail(err, chain.data);
    rw_str_done(&chain);
}

static rw_status load_file(loader *l, const char *path, rw_error *err);

static rw_status include_one(loader *l, const rw_value *v, int i, rw_error *err) {
    rw_where at = v->list.at[i];
    const char *path = v->list.items[i];
    if (!rw_exists(path)) {
        rw_recipe_missing_file(&l->problems, at, path);
        return RW_OK;
    }
    if (l->depth > RW_MAX_INCLUDE_DEPTH) {
        rw_problems_add(&l->problems, at, "included files are nested deeper than %d", RW_MAX_INCLUDE_DEPTH);
        return RW_OK;
    }
    l->from[l->depth] = at;
    return load_file(l, path, err);
}

static rw_status include_all(loader *l, rw_schema *s, const rw_node *root, rw_error *err) {
    const rw_key *key = &rw_keys[RW_KEY_top_include];
    const rw_node *node = root->child;
    while (node && strcmp(node->name, key->key) != 0) node = node->next;
    if (!node) return RW_OK;
    RW_TRY(rw_schema_read_value(s, key, node, err));
    rw_value v = s->values[RW_KEY_top_include];
    for (int i = 0; v.text && i < v.list.n; i++) RW_TRY(include_one(l, &v, i, err));
    s->values[RW_KEY_top_include] = v;
    return RW_OK;
}

static rw_status read_root(loader *l, const char *path, const rw_node *root, rw_error *err) {
    if (!root || root->kind != RW_NODE_MAP) {
        rw_where at = root ? root->at : RW_AT_FILE(path);
        if (root && root->slip) {
            rw_problems_add(&l->problems, root->slip_at, "%s", root->slip->text);
            return RW_OK;
        }
        rw_problems_add(&l->problems, at, "expected keys such as 'model:' and 'train:', found none");
        return RW_OK;
    }
    const char *dir = folder_of(&l->recipe->arena, path);
    if (!dir) return rw_fail_memory(err, strlen(path));
    rw_schema s = schema_for(l, dir);
    RW_TRY(include_all(l, &s, root, err));
    return rw_schema_read(&s, root, err);
}

static rw_status read_text(loader *l, const char *path, const char *text, size_t n, rw_error *err) {
    rw_node *root = NULL;
    rw_error e = {0};
    rw_status status = rw_yaml_parse(&l->recipe->arena, path, text, n, &root, &e);
    if (status == RW_OK) return read_root(l, path, root, err);
    add_chain(l, &e);
    if (status != RW_E_RECIPE) {
        if (err) *err = e;
        return status;
    }
    rw_problems_take(&l->problems, &e);
    return RW_OK;
}

static rw_status read_file(loader *l, const char *path, rw_error *err) {
    char *text = NULL;
    int64_t n = 0;
    if (l->depth == 1 && l->options->text) return read_text(l, path, l->options->text, l->options->n_text, err);
    RW_TRY(rw_file_slurp(path, RW_YAML_MAX_BYTES, &text, &n, err));
    rw_status status = read_text(l, path, text, (size_t)n, err);
    rw_free(text);
    return status;
}

/* Is this file being read already, further out? */
static bool in_a_circle(const loader *l, const char *real) {
    for (int i = 0; i < l->depth; i++)
        if (strcmp(l->open_files[i], real) == 0) return true;
    return false;
}

static rw_status load_file(loader *l, const char *path, rw_error *err) {
    char real[PATH_MAX];
    if ((l->depth == 0 && l->options->text) || !realpath(path, real)) {
        if (strlen(path) >= sizeof real) return rw_fail(err, RW_E_IO, RW_AT_FILE(path), "the path is too long");
        memcpy(real, path, strlen(path) + 1);
    }
    if (in_a_circle(l, real)) {
        rw_problems_add(&l->problems, l->from[l->depth], "'%s' includes itself, directly or through other files", path);
        return RW_OK;
    }
    if (++l->n_files > RW_MAX_INCLUDE_FILES) {
        rw_problems_add(&l->problems, l->from[l->depth], "more than %d included files", RW_MAX_INCLUDE_FILES);
        return RW_OK;
    }
    l->open_files[l->depth] = rw_arena_strdup(&l->recipe->arena, real);
    if (!l->open_files[l->depth]) return rw_fail_memory(err, strlen(real));
    l->depth++;
    rw_status status = read_file(l, path, err);
    l->depth--;
    return status;
}

/* -- the command line -------------------------------------------------------------------------------------- */

/* A list is written as in a file, [a.lua, b.lua]; all else is taken as it is. */
static rw_status override_list(loader *l, rw_schema *s, const rw_key *key, rw_where at, const char *text,
                               rw_error *err) {
    rw_node *node = NULL;
    rw_error e = {0};
    rw_status status = rw_yaml_parse(&l->recipe->arena, at.file, text, strlen(text), &node, &e);
    if (status == RW_E_RECIPE) {
        e.at = at;
        rw_problems_take(&l->problems, &e);
        return RW_OK;
    }
    if (status != RW_OK) {
        if (err) *err = e;
        return status;
    }
    rw_node empty = {.kind = RW_NODE_LIST};
    if (!node) node = &empty;
    node->at = at;
    for (rw_node *c = node->child; c; c = c->next) c->at = at;
    return rw_schema_read_value(s, key, node, err);
}

static rw_status apply_override(loader *l, const char *text, rw_error *err) {
    rw_arena *arena = &l->recipe->arena;
    const char *equals = strchr(text, '=');
    rw_where at = {.file = rw_message("command line"), .key = rw_arena_strdup(arena, text)};
    if (!at.key) return rw_fail_memory(err, strlen(text));
    if (!equals || equals == text || equals - text > RW_YAML_MAX_KEY) {
        rw_problems_add(&l->problems, at, "expected KEY=VALUE, such as train.lr_init=2e-5");
        return RW_OK;
    }
    at.key = rw_arena_strndup(arena, text, (size_t)(equals - text));
    if (!at.key) return rw_fail_memory(err, strlen(text));
    rw_schema s = schema_for(l, ".");
    rw_node node = {.kind = RW_NODE_SCALAR, .at = at, .text = equals + 1};
    const char *dot = strchr(at.key, '.');
    bool taken;
    RW_TRY(rw_schema_take_foreign(&s, dot ? dot + 1 : at.key, &node, &taken, err));
    const rw_key *key = taken ? NULL : rw_schema_find(&s, at, at.key);
    if (!key) return RW_OK;
    if (key == &rw_keys[RW_KEY_top_include]) {
        rw_problems_add(&l->problems, at, "include belongs in a recipe file, not on the command line");
        return RW_OK;
    }
    if (key->type == RW_TYPE_PATHS) return override_list(l, &s, key, at, equals + 1, err);
    return rw_schema_read_value(&s, key, &node, err);
}

/* -- defaults ---------------------------------------------------------------------------------------------- */

/* "recipe.yaml" is called after its folder. */
static const char *default_name(rw_recipe *r) {
    const char *base = rw_path_base(r->path);
    size_t n = strcspn(base, ".");
    if (n == 6 && memcmp(base, "recipe", 6) == 0 && strcmp(r->dir, ".") != 0 && strcmp(r->dir, "/") != 0)
        return rw_arena_strdup(&r->arena, rw_path_base(r->dir));
    return rw_arena_strndup(&r->arena, n ? base : "run", n ? n : 3);
}

void rw_recipe_set_text(rw_recipe *r, rw_key_id id, const char *text) {
    r->values[id].text = r->values[id].s = text;
}

void rw_recipe_set_int(rw_recipe *r, rw_key_id id, int64_t value, const char *text) {
    r->values[id].text = text;
    r->values[id].i = value;
}

static rw_status fill_defaults(loader *l, rw_error *err) {
    rw_recipe *r = l->recipe;
    rw_schema s = schema_for(l, r->dir);
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        const rw_key *key = &rw_keys[i];
        if (r->values[i].given) continue;
        rw_node node = {.kind = RW_NODE_SCALAR, .at = {.key = key->path}, .text = key->value};
        if (key->value) RW_TRY(rw_schema_read_value(&s, key, &node, err));
        r->values[i].given = false;
        r->values[i].at = node.at;
    }
    if (!r->values[RW_KEY_top_name].given) {
        const char *name = default_name(r);
        if (!name) return rw_fail_memory(err, 0);
        rw_recipe_set_text(r, RW_KEY_top_name, name);
    }
    return RW_OK;
}

static void check_required(loader *l) {
    for (int i = 0; i < RW_KEY_COUNT; i++) {
        char expects[256];
        if (!rw_keys[i].required || l->recipe->values[i].given) continue;
        rw_where at = {.file = l->recipe->path, .key = rw_keys[i].path};
        rw_key_expects(&rw_keys[i], expects, sizeof expects);
        rw_problems_add(&l->problems, at, "missing; expected %s", expects);
    }
}

/* -- all of it --------------------------------------------------------------------------------------------- */

static rw_status find_recipe(const rw_recipe_options *o, rw_error *err) {
    if (o->text) return RW_OK;
    rw_where at = RW_AT_FILE(o->path);
    if (rw_is_dir(o->path))
        return rw_fail(err, RW_E_USAGE, at, "this is a folder; name the recipe in it: %s/recipe.yaml", o->path);
    if (!rw_exists(o->path))
        return rw_fail(err, RW_E_USAGE, at,
                       "no such recipe; a recipe is a YAML file such as recipes/quickstart/recipe.yaml of the source; "
                       "see rwkv-run --help");
    return RW_OK;
}

static rw_status load_all(loader *l, rw_error *err) {
    RW_TRY(load_file(l, l->recipe->path, err));
    for (int i = 0; i < l->options->n_overrides; i++) RW_TRY(apply_override(l, l->options->overrides[i], err));
    int in_the_text = l->problems.n;
    RW_TRY(fill_defaults(l, err));
    /* After a syntax error half of the keys are missing: say only what was written wrongly. */
    if (in_the_text == 0) check_required(l);
    if (l->problems.n == 0) rw_recipe_check(l->recipe, l->options, &l->problems);
    return RW_OK;
}

rw_status rw_recipe_load(rw_recipe *r, const rw_recipe_options *options, rw_error *err) {
    *r = (rw_recipe){.trust = options->trust};
    RW_TRY(find_recipe(options, err));
    r->path = rw_arena_strdup(&r->arena, options->path);
    r->dir = r->path ? folder_of(&r->arena, r->path) : NULL;
    if (!r->dir) return rw_fail_memory(err, strlen(options->path));
    loader l = {.recipe = r, .options = options};
    rw_status status = load_all(&l, err);
    rw_error first = {0};
    rw_status mistakes = rw_problems_end(&l.problems, status == RW_OK ? err : &first);
    rw_error_clear(&first);
    return status != RW_OK ? status : mistakes;
}

void rw_recipe_done(rw_recipe *r) {
    rw_arena_done(&r->arena);
    *r = (rw_recipe){0};
}

/* -- into the plan ------------------------------------------------------------------------------------------ */

static void store(rw_plan *plan, const rw_key *key, const rw_value *v) {
    char *field = (char *)plan + key->offset;
    switch (key->type) {
    case RW_TYPE_NUMBER:
        memcpy(field, &v->x, sizeof v->x);
        break;
    case RW_TYPE_INT:
    case RW_TYPE_ENUM:
    case RW_TYPE_INT_CHOICE:
    case RW_TYPE_DTYPE:
        if (key->size == sizeof(int64_t)) {
            memcpy(field, &v->i, sizeof v->i);
        } else {
            int small = (int)v->i;
            memcpy(field, &small, sizeof small);
        }
        break;
    case RW_TYPE_BOOL:
    case RW_TYPE_FLAG: {
        bool yes = v->i != 0;
        memcpy(field, &yes, sizeof yes);
        break;
    }
    case RW_TYPE_PATHS: /* two fields of rw_plan_lua; see below */
        break;
    default:
        memcpy(field, &v->s, sizeof v->s);
    }
}

_Static_assert(sizeof(rw_dtype) == sizeof(int) && sizeof(rw_format_choice) == sizeof(int), "stored as an int");

void rw_recipe_to_plan(const rw_recipe *r, rw_plan *plan) {
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (rw_keys[i].offset >= 0) store(plan, &rw_keys[i], &r->values[i]);
    const rw_value *hooks = &r->values[RW_KEY_top_hooks];
    plan->lua.files = hooks->text ? hooks->list.items : NULL;
    plan->lua.n_files = hooks->text ? hooks->list.n : 0;
    plan->lua.memory_bytes *= 1 << 20;
    plan->lua.trust = r->trust;
    plan->recipe_path = r->path;
    plan->recipe_dir = r->dir;
}

rw_plan_lua rw_recipe_lua(const rw_recipe *r) {
    rw_plan plan = {0};
    rw_recipe_to_plan(r, &plan);
    return plan.lua;
}

rw_where rw_recipe_where(const rw_recipe *r, rw_key_id id) {
    return r->values[id].at;
}

bool rw_recipe_given(const rw_recipe *r, rw_key_id id) {
    return r->values[id].given;
}
