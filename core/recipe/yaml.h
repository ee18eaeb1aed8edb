/* YAML text -> nodes that know their place.
 *
 * Recipes use a small part of YAML: maps, lists and scalars. Refused with a message of their own: duplicate
 * keys, anchors and aliases, `<<`, tags, several documents, keys that are not plain text. Scalars stay text:
 * what they mean is decided by the key (schema.h), so `no` and `6e-4` hold no surprise. */
#ifndef RW_RECIPE_YAML_H
#define RW_RECIPE_YAML_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/recipe/keyboard.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_YAML_MAX_BYTES  (1 << 20) /* of a file               */
#define RW_YAML_MAX_DEPTH  16        /* maps and lists in another */
#define RW_YAML_MAX_NODES  10000
#define RW_YAML_MAX_KEY    128   /* bytes of a key          */
#define RW_YAML_MAX_SCALAR 65536 /* bytes of a value        */

typedef enum { RW_NODE_SCALAR, RW_NODE_MAP, RW_NODE_LIST } rw_node_kind;

typedef struct rw_node rw_node;
struct rw_node {
    rw_node_kind kind;
    rw_where at;              /* of the value; at.key is the dotted path: "train.lr_init", "hooks[0]"   */
    rw_where name_at;         /* of the key, for a member of a map                                       */
    const char *name;         /* the key; NULL in a list and at the top                                  */
    const char *text;         /* scalar: never NULL, no NUL bytes inside                                 */
    const rw_slip *slip;      /* scalar without quotes: the first slip of the keyboard in it, or NULL   */
    const rw_slip *name_slip; /* the same of the key */
    rw_where slip_at, name_slip_at;
    bool quoted;    /* scalar: written in quotes or as a block, so an empty one is meant       */
    rw_node *child; /* first member                                                            */
    rw_node *next;  /* next member of the parent                                               */
    int n_child;
};

/* `file` names the text in messages. Nodes and strings live in the arena; `text` need not stay. An empty text
 * gives *root = NULL. Errors: E_RECIPE with line and column, E_MEMORY. */
rw_status rw_yaml_parse(rw_arena *arena, const char *file, const char *text, size_t n, rw_node **root, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
