/* Slips of the keyboard in a recipe: full-width characters of a Chinese input method where YAML wants those of ASCII, a
 * missing space after ':', a comma at the end of a line. Each is legal somewhere (in a name, in a path), so this only
 * finds them; whoever has found a value wrong says the slip in its place. */
#ifndef RW_RECIPE_KEYBOARD_H
#define RW_RECIPE_KEYBOARD_H

#include "core/base/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_SLIP_NONE,
    RW_SLIP_WIDE,  /* a full-width character, or the wide space   */
    RW_SLIP_QUOTE, /* a Chinese quotation mark                    */
    RW_SLIP_SPACE, /* "key:value"                                 */
    RW_SLIP_COMMA  /* ',' or ';' at the end                       */
} rw_slip_kind;

typedef struct {
    rw_slip_kind kind;
    size_t offset;  /* of its first byte in the text                                   */
    bool edge;      /* the first or the last character of what was searched            */
    char text[160]; /* what to do, in the user's language                             */
} rw_slip;

/* The first slip in bytes [from, to) of valid UTF-8 text; quoted strings and comments are passed over. */
bool rw_slip_find(const char *text, size_t from, size_t to, rw_slip *slip);

#ifdef __cplusplus
}
#endif
#endif
