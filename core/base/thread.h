/* Threads, and how many of them this process may really use. */
#ifndef RW_BASE_THREAD_H
#define RW_BASE_THREAD_H

#include <pthread.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The smaller of the affinity mask and the cgroup quota (v1 or v2, rounded up), at least 1.
 * $RWKV_THREADS overrides. */
int rw_cpu_count(void);

int64_t rw_now_ns(void);       /* monotonic clock */
int64_t rw_memory_limit(void); /* bytes this process may use: physical memory or the cgroup's limit */

#ifdef __cplusplus
}
#endif
#endif
