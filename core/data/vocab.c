/* Where the World vocabulary is: the recipe's key, the environment, the folder of the recipe. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/data/tokenizer.h"

#include <stdlib.h>

static rw_status found(char *path, char **out, rw_error *err) {
    *out = path;
    return path ? RW_OK : rw_fail_memory(err, 0);
}

/* The key relative to the recipe; as it is when there is no such file (a caller may have joined it already). */
static rw_status find_key(const char *key, const char *recipe_dir, char **path, rw_error *err) {
    char *joined = rw_path_join(recipe_dir ? recipe_dir : ".", key);
    if (!joined) return rw_fail_memory(err, 0);
    if (rw_exists(joined)) return found(joined, path, err);
    rw_free(joined);
    if (rw_exists(key)) return found(rw_strdup(key), path, err);
    return rw_fail(err, RW_E_RECIPE, (rw_where){.key = "data.vocab_file"}, "no vocabulary at '%s'", key);
}

rw_status rw_vocab_find(const char *key, const char *recipe_dir, char **path, rw_error *err) {
    *path = NULL;
    if (key) return find_key(key, recipe_dir, path, err);
    const char *env = getenv("RWKV_VOCAB");
    if (env && *env) {
        if (rw_exists(env)) return found(rw_strdup(env), path, err);
        return rw_fail(err, RW_E_RECIPE, (rw_where){.key = "$RWKV_VOCAB"}, "no vocabulary at '%s'", env);
    }
    char *beside = rw_path_join(recipe_dir ? recipe_dir : ".", RW_VOCAB_NAME);
    if (!beside) return rw_fail_memory(err, 0);
    if (rw_exists(beside)) return found(beside, path, err);
    rw_free(beside);
    return rw_fail(err, RW_E_RECIPE, (rw_where){.key = "data.tokenizer"},
                   "the world tokenizer needs the file " RW_VOCAB_NAME ": put it beside the recipe (%s), or name it "
                   "with data.vocab_file or $RWKV_VOCAB. It is in the Python package rwkv (pip download --no-deps "
                   "rwkv; unzip it) and in the RWKV-LM repository (RWKV-v5/tokenizer)",
                   recipe_dir ? recipe_dir : ".");
}
