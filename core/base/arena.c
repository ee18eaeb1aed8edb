/* A bump allocator over a list of chunks. Chunks double from 4 KiB to 1 MiB, so that few names cost little and
 * many names cost few requests; a larger item gets a chunk of its own. */
#include "core/base/arena.h"

#include "core/base/alloc.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 16, FIRST_CHUNK = 4096, LARGEST_CHUNK = 1 << 20 };

struct rw_arena_chunk {
    rw_arena_chunk *next;
    size_t size, used; /* bytes of data[] */
    _Alignas(ALIGN) char data[];
};

static rw_arena_chunk *add_chunk(rw_arena *a, size_t need) {
    size_t size = a->head ? a->head->size * 2 : FIRST_CHUNK;
    if (size > LARGEST_CHUNK) size = LARGEST_CHUNK;
    if (size < need) size = need;
    rw_arena_chunk *chunk = rw_alloc(sizeof *chunk + size);
    if (!chunk) return NULL;
    chunk->size = size;
    chunk->next = a->head;
    return a->head = chunk;
}

void *rw_arena_alloc(rw_arena *a, size_t n_bytes) {
    if (n_bytes > SIZE_MAX / 2) return NULL;
    size_t need = (n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (need == 0) need = ALIGN;
    rw_arena_chunk *chunk = a->head;
    if (!chunk || chunk->size - chunk->used < need) chunk = add_chunk(a, need);
    if (!chunk) return NULL;
    void *p = chunk->data + chunk->used;
    chunk->used += need;
    return p;
}

char *rw_arena_strndup(rw_arena *a, const char *s, size_t n) {
    if (!s || n > SIZE_MAX / 2) return NULL;
    char *copy = rw_arena_alloc(a, n + 1);
    if (copy) memcpy(copy, s, n);
    return copy;
}

char *rw_arena_strdup(rw_arena *a, const char *s) {
    return s ? rw_arena_strndup(a, s, strlen(s)) : NULL;
}

char *rw_arena_printf(rw_arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *text = n < 0 ? NULL : rw_arena_alloc(a, (size_t)n + 1);
    if (!text) return NULL;
    va_start(ap, fmt);
    vsnprintf(text, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return text;
}

void rw_arena_done(rw_arena *a) {
    for (rw_arena_chunk *chunk = a->head, *next; chunk; chunk = next) {
        next = chunk->next;
        rw_free(chunk);
    }
    a->head = NULL;
}
