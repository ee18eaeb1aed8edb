/* All heap memory of the engine goes through here, so that tests can count it and make it fail.
 *
 * rw_alloc() zeroes. A size of 0 gives a valid pointer. Free with rw_free(); NULL is fine. */
#ifndef RW_BASE_ALLOC_H
#define RW_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *rw_alloc(size_t n_bytes);              /* zeroed; NULL when there is none */
void *rw_alloc_array(size_t n, size_t size); /* zeroed; NULL also on overflow */
void *rw_realloc(void *p, size_t n_bytes);   /* new bytes are not zeroed */
void rw_free(void *p);
char *rw_strdup(const char *s); /* NULL in, NULL out */

/* Large page-aligned blocks (parameters, arenas): anonymous mmap, zero pages until touched. */
void *rw_alloc_pages(size_t n_bytes);
void rw_free_pages(void *p, size_t n_bytes);

/* Grows an array to hold at least `need` items (doubling). Returns false when memory is short and
 * leaves the array as it was. */
bool rw_grow(void **items, size_t *capacity, size_t need, size_t item_size);

/* -- fault injection and counting, for tests ------------------------------------------------------ */

/* The n-th call from now (1 = the next) fails, then all later ones succeed again; 0 switches it off.
 * Counts calls of rw_alloc, rw_alloc_array, rw_realloc, rw_strdup and rw_alloc_pages. */
void rw_alloc_fail_after(int64_t n);
int64_t rw_alloc_calls(void); /* calls so far in this process */
int64_t rw_alloc_live(void);  /* blocks not yet freed */

#ifdef __cplusplus
}
#endif
#endif
