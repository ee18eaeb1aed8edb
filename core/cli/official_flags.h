/* What to answer to the flags of the official trainer: they are a recipe here. */
#ifndef RW_CLI_OFFICIAL_FLAGS_H
#define RW_CLI_OFFICIAL_FLAGS_H

#include "core/base/str.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Is this word ("--load_model", "--devices=1") a flag of the official trainer? */
bool rw_official_flag(const char *word);
/* The key of a recipe that it is, such as "train.micro_bsz"; false: it is none. */
bool rw_official_flag_key(const char *word, const char **path);
/* Appends the recipe that the words of argv, up to NULL, mean. */
void rw_official_recipe(char **argv, rw_str *out);

#ifdef __cplusplus
}
#endif
#endif
