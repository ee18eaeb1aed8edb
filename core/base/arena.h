/* The run arena: a bump allocator for what lives as long as the run (plan, names, tables).
 * Nothing is freed singly; rw_arena_done() frees all. Addresses never move. */
#ifndef RW_BASE_ARENA_H
#define RW_BASE_ARENA_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rw_arena_chunk rw_arena_chunk;
typedef struct {
    rw_arena_chunk *head; /* owned list, newest first */
} rw_arena;

/* All return NULL when memory is short. rw_arena_alloc zeroes and aligns to 16 bytes. */
void *rw_arena_alloc(rw_arena *a, size_t n_bytes);
char *rw_arena_strdup(rw_arena *a, const char *s);
char *rw_arena_strndup(rw_arena *a, const char *s, size_t n);
char *rw_arena_printf(rw_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rw_arena_done(rw_arena *a);

#ifdef __cplusplus
}
#endif
#endif
