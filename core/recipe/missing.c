/* What to say of a file that is not there: the most likely reason. */
#include "core/base/fs.h"
#include "core/recipe/recipe_internal.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *wanted;
    int least;               /* a name that differs less than this is nearer */
    char near[NAME_MAX + 1]; /* the nearest so far, "": none */
} search;

static rw_status compare(void *ctx, const char *name, rw_error *err) {
    search *s = ctx;
    int distance = rw_edit_distance(s->wanted, name, s->least - 1);
    (void)err;
    if (distance >= s->least) return RW_OK;
    s->least = distance;
    snprintf(s->near, sizeof s->near, "%s", name);
    return RW_OK;
}

/* The name in the folder of `path` that it may have meant; NULL: none. */
static const char *similar_name(search *s, const char *path) {
    char folder[PATH_MAX];
    rw_error ignored = {0};
    s->wanted = rw_path_base(path);
    size_t n = (size_t)(s->wanted - path);
    if (n >= sizeof folder) return NULL;
    size_t stem = strcspn(s->wanted, "."); /* endings are alike in any folder */
    s->least = stem < 8 ? 2 : (int)(stem / 4) + 1;
    snprintf(folder, sizeof folder, "%.*s", n ? (int)n : 1, n ? path : ".");
    rw_dir_list(folder, compare, s, &ignored);
    rw_error_clear(&ignored);
    return s->near[0] ? s->near : NULL;
}

void rw_recipe_missing_file(rw_problems *p, rw_where at, const char *path) {
    size_t n = strlen(path);
    search s = {0};
    const char *near = similar_name(&s, path);
    if (n && isspace((unsigned char)path[n - 1]))
        rw_problems_add(p, at, "no such file: '%s'; remove the space at the end of the name", path);
    else if (near)
        rw_problems_add(p, at, "no such file: '%s' (did you mean '%s'?)", path, near);
    else if (path[0] != '/' && at.line > 0)
        rw_problems_add(p, at, "no such file: '%s'; paths in a recipe begin at the folder of the recipe", path);
    else
        rw_problems_add(p, at, "no such file: '%s'", path);
}
