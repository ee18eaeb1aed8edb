/* Shared by recipe.c and check.c. */
#ifndef RW_RECIPE_RECIPE_INTERNAL_H
#define RW_RECIPE_RECIPE_INTERNAL_H

#include "core/recipe/recipe.h"

/* The rules that look at more than one key, then the files. Mistakes go to `p`. */
void rw_recipe_check(rw_recipe *r, const rw_recipe_options *options, rw_problems *p);

/* Says that a file is not there, and what may be the reason. */
void rw_recipe_missing_file(rw_problems *p, rw_where at, const char *path);

/* Sets a value that follows from others and is not given; `text` is canonical. */
void rw_recipe_set_text(rw_recipe *r, rw_key_id id, const char *text);
void rw_recipe_set_int(rw_recipe *r, rw_key_id id, int64_t value, const char *text);

#endif
