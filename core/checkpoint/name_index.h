/* Finding a name in a list: a hash table of positions, built once. */
#ifndef RW_CHECKPOINT_NAME_INDEX_H
#define RW_CHECKPOINT_NAME_INDEX_H

#include "core/base/error.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char **names; /* owned: one per slot, NULL when free; the strings are borrowed */
    int64_t *position;  /* owned: one per slot                                           */
    int64_t n_slots;    /* a power of two, at least twice the names; 0 when empty        */
} rw_name_index;

/* Room for n names. RW_E_MEMORY. */
rw_status rw_name_index_init(rw_name_index *x, int64_t n, rw_error *err);
/* Adds name -> position, and returns -1; when the name is there already, returns its position and adds nothing. */
int64_t rw_name_index_add(rw_name_index *x, const char *name, int64_t position);
int64_t rw_name_index_find(const rw_name_index *x, const char *name); /* -1: not there */
void rw_name_index_done(rw_name_index *x);

#ifdef __cplusplus
}
#endif
#endif
