/* The heap: libc's allocator and mmap behind counters, so that a test can make the n-th request fail and can
 * see that a loop asks for nothing. The counters are process-wide because the heap is. */
#include "core/base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_FROM = 8 << 20 }; /* below this, rounding to 2 MiB pages would show in the memory figures */

static _Atomic int64_t n_calls, n_live, fail_at; /* fail_at: the value of n_calls that fails; 0: none */

static bool refused(void) {
    int64_t call = atomic_fetch_add_explicit(&n_calls, 1, memory_order_relaxed) + 1;
    return call == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

static void *counted(void *p) {
    if (p) atomic_fetch_add_explicit(&n_live, 1, memory_order_relaxed);
    return p;
}

static void uncount(void) {
    atomic_fetch_sub_explicit(&n_live, 1, memory_order_relaxed);
}

void *rw_alloc(size_t n_bytes) {
    if (refused()) return NULL;
    return counted(calloc(1, n_bytes ? n_bytes : 1));
}

void *rw_alloc_array(size_t n, size_t size) {
    size_t n_bytes;
    if (refused() || __builtin_mul_overflow(n, size, &n_bytes)) return NULL;
    return counted(calloc(1, n_bytes ? n_bytes : 1));
}

void *rw_realloc(void *p, size_t n_bytes) {
    if (refused()) return NULL;
    void *q = realloc(p, n_bytes ? n_bytes : 1);
    return p ? q : counted(q);
}

void rw_free(void *p) {
    if (!p) return;
    uncount();
    free(p);
}

char *rw_strdup(const char *s) {
    if (!s) return NULL;
    size_t n = strlen(s) + 1;
    char *copy = rw_alloc(n);
    return copy ? memcpy(copy, s, n) : NULL;
}

void *rw_alloc_pages(size_t n_bytes) {
    if (refused()) return NULL;
    if (n_bytes == 0) n_bytes = 1;
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (n_bytes >= HUGE_PAGE_FROM) madvise(p, n_bytes, MADV_HUGEPAGE); /* fewer TLB misses; only a wish */
    return counted(p);
}

void rw_free_pages(void *p, size_t n_bytes) {
    if (!p) return;
    uncount();
    munmap(p, n_bytes ? n_bytes : 1);
}

bool rw_grow(void **items, size_t *capacity, size_t need, size_t item_size) {
    if (need <= *capacity) return true;
    size_t n = *capacity < 8 ? 8 : *capacity, n_bytes;
    while (n < need)
        if (__builtin_mul_overflow(n, (size_t)2, &n)) return false;
    if (__builtin_mul_overflow(n, item_size, &n_bytes)) return false;
    void *grown = rw_realloc(*items, n_bytes);
    if (!grown) return false;
    *items = grown;
    *capacity = n;
    return true;
}

void rw_alloc_fail_after(int64_t n) {
    atomic_store(&fail_at, n > 0 ? atomic_load(&n_calls) + n : 0);
}
int64_t rw_alloc_calls(void) {
    return atomic_load(&n_calls);
}
int64_t rw_alloc_live(void) {
    return atomic_load(&n_live);
}
