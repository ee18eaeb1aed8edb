/* The step arena: see step_arena.h. Pieces are slots of one array, linked by address; slots are reused, so after the
 * first steps the array does not grow any more. */
#include "core/tensor/step_arena.h"

#include "core/base/alloc.h"

#include <string.h>

#define META_BASE ((unsigned char *)(uintptr_t)0x100000000u) /* never read or written */

static int32_t new_slot(rw_step_arena *a) {
    if (a->free_slot >= 0) {
        int32_t s = a->free_slot;
        a->free_slot = a->pieces[s].next;
        return s;
    }
    if (!rw_grow((void **)&a->pieces, &a->pieces_cap, a->n_pieces + 1, sizeof *a->pieces)) return -1;
    return (int32_t)a->n_pieces++;
}

static void drop_slot(rw_step_arena *a, int32_t s) {
    a->pieces[s].next = a->free_slot;
    a->free_slot = s;
}

rw_status rw_step_arena_init(rw_step_arena *a, rw_device *device, int64_t capacity, rw_error *err) {
    *a = (rw_step_arena){.device = device, .capacity = capacity, .free_slot = -1};
    if (device->kind == RW_DEVICE_META) {
        a->base = META_BASE;
        if (capacity == 0) a->capacity = INT64_MAX / 2;
    } else {
        a->base = device->alloc(device, capacity);
        if (!a->base) return rw_fail_memory(err, (size_t)capacity);
    }
    int32_t s = new_slot(a);
    if (s < 0) {
        rw_step_arena_done(a);
        return rw_fail_memory(err, sizeof *a->pieces);
    }
    a->pieces[s] = (rw_arena_piece){.offset = 0, .n_bytes = a->capacity, .prev = -1, .next = -1}; /* slot 0: lowest */
    return RW_OK;
}

void rw_step_arena_done(rw_step_arena *a) {
    if (a->device && a->device->kind != RW_DEVICE_META && a->base) a->device->free(a->device, a->base, a->capacity);
    rw_free(a->pieces);
    *a = (rw_step_arena){0};
}

/* Cuts the first n bytes off the free piece p; the rest stays free behind it. */
static int32_t cut(rw_step_arena *a, int32_t p, int64_t n) {
    if (a->pieces[p].n_bytes > n) {
        int32_t rest = new_slot(a);
        if (rest < 0) return -1;
        rw_arena_piece *piece = &a->pieces[p];
        a->pieces[rest] = (rw_arena_piece){piece->offset + n, piece->n_bytes - n, p, piece->next, false};
        if (piece->next >= 0) a->pieces[piece->next].prev = rest;
        piece->next = rest;
        piece->n_bytes = n;
    }
    a->pieces[p].used = true;
    return p;
}

int32_t rw_step_arena_take(rw_step_arena *a, int64_t n_bytes) {
    int64_t n = n_bytes <= 0 ? RW_ARENA_ALIGN : (n_bytes + RW_ARENA_ALIGN - 1) / RW_ARENA_ALIGN * RW_ARENA_ALIGN;
    for (int32_t p = 0; p >= 0; p = a->pieces[p].next) {
        if (a->pieces[p].used || a->pieces[p].n_bytes < n) continue;
        p = cut(a, p, n);
        if (p < 0) return -1;
        a->live += n;
        int64_t end = a->pieces[p].offset + n;
        if (end > a->high_water) a->high_water = end;
        return p;
    }
    return -1;
}

/* Joins free piece b into free piece a, its neighbour below. */
static void join(rw_step_arena *a, int32_t low, int32_t high) {
    rw_arena_piece *l = &a->pieces[low], *h = &a->pieces[high];
    l->n_bytes += h->n_bytes;
    l->next = h->next;
    if (h->next >= 0) a->pieces[h->next].prev = low;
    drop_slot(a, high);
}

void rw_step_arena_give(rw_step_arena *a, int32_t p) {
    a->live -= a->pieces[p].n_bytes;
    a->pieces[p].used = false;
    int32_t next = a->pieces[p].next, prev = a->pieces[p].prev;
    if (next >= 0 && !a->pieces[next].used) join(a, p, next);
    if (prev >= 0 && !a->pieces[prev].used) join(a, prev, p);
}
