/* Any bytes as a recipe: it is read or refused with a message, and nothing is left behind. The first 0x00 byte
 * ends the recipe; what follows is an override of the command line. */
#include "core/recipe/recipe.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was accepted must print as a recipe that is accepted again. */
static void read_again(const rw_recipe *r) {
    rw_str text = {0};
    rw_recipe_print(r, NULL, &text);
    rw_recipe again;
    rw_error err = {0};
    rw_recipe_options o = {.path = "again.yaml", .text = text.data, .n_text = text.len, .trust = true};
    if (rw_recipe_load(&again, &o, &err) != RW_OK) abort();
    for (int i = 0; i < RW_KEY_COUNT; i++)
        if (r->values[i].text && !again.values[i].text && i != RW_KEY_top_include) abort();
    rw_error_clear(&err);
    rw_recipe_done(&again);
    rw_str_done(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    char *override = zero ? malloc(size - n) : NULL;
    if (override) {
        memcpy(override, zero + 1, size - n - 1);
        override[size - n - 1] = '\0';
    }
    const char *overrides[] = {override};
    rw_recipe r;
    rw_error err = {0};
    rw_recipe_options o = {.path = "fuzz.yaml",
                           .text = size ? (const char *)data : "",
                           .n_text = n,
                           .overrides = overrides,
                           .n_overrides = override != NULL,
                           .trust = true};
    rw_plan plan = {0};
    char line[256];
    if (rw_recipe_load(&r, &o, &err) == RW_OK) {
        rw_recipe_to_plan(&r, &plan);
        read_again(&r);
    } else if (rw_error_format(&err, line, sizeof line) == 0) {
        abort();
    }
    rw_error_clear(&err);
    rw_recipe_done(&r);
    free(override);
    return 0;
}
