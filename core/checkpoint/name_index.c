/* Open addressing with linear steps; at most half full, so that a search ends soon. */
#include "core/checkpoint/name_index.h"

#include "core/base/alloc.h"
#include "core/base/rng.h"

#include <string.h>

rw_status rw_name_index_init(rw_name_index *x, int64_t n, rw_error *err) {
    *x = (rw_name_index){0};
    int64_t slots = 8;
    while (slots < 2 * n) slots *= 2;
    x->names = rw_alloc_array((size_t)slots, sizeof *x->names);
    x->position = rw_alloc_array((size_t)slots, sizeof *x->position);
    if (!x->names || !x->position) {
        rw_name_index_done(x);
        return rw_fail_memory(err, (size_t)slots * (sizeof *x->names + sizeof *x->position));
    }
    x->n_slots = slots;
    return RW_OK;
}

/* The slot that holds `name`, or the free one where it belongs. */
static int64_t slot_of(const rw_name_index *x, const char *name) {
    int64_t i = (int64_t)(rw_hash_name(name) & (uint64_t)(x->n_slots - 1));
    while (x->names[i] && strcmp(x->names[i], name)) i = (i + 1) & (x->n_slots - 1);
    return i;
}

int64_t rw_name_index_add(rw_name_index *x, const char *name, int64_t position) {
    int64_t i = slot_of(x, name);
    if (x->names[i]) return x->position[i];
    x->names[i] = name;
    x->position[i] = position;
    return -1;
}

int64_t rw_name_index_find(const rw_name_index *x, const char *name) {
    if (!x->n_slots) return -1;
    int64_t i = slot_of(x, name);
    return x->names[i] ? x->position[i] : -1;
}

void rw_name_index_done(rw_name_index *x) {
    rw_free(x->names);
    rw_free(x->position);
    *x = (rw_name_index){0};
}
