/* How many processors and how much memory this process may really use: in a container the number of cores of
 * the machine is not the answer. */
#include "core/base/thread.h"

#include "core/base/cgroup.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CPUS = 8192 };

static int affinity_count(void) {
    unsigned char set[MOST_CPUS / 8] = {0};
    if (sched_getaffinity(0, sizeof set, (cpu_set_t *)(void *)set) != 0) return (int)sysconf(_SC_NPROCESSORS_ONLN);
    int n = 0;
    for (size_t i = 0; i < sizeof set; i++) n += __builtin_popcount(set[i]);
    return n;
}

static void read_self(char *text, size_t size) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    size_t n = f ? fread(text, 1, size - 1, f) : 0;
    text[n] = '\0';
    if (f) fclose(f);
}

int rw_cpu_count(void) {
    const char *wanted = getenv("RWKV_THREADS");
    int n = wanted ? atoi(wanted) : 0;
    if (n >= 1 && n <= MOST_CPUS) return n;
    char self[4096];
    read_self(self, sizeof self);
    n = affinity_count();
    int quota = rw_cgroup_cpus(self, "/sys/fs/cgroup");
    if (quota > 0 && quota < n) n = quota;
    return n > 0 ? n : 1;
}

int64_t rw_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t rw_memory_limit(void) {
    char self[4096];
    read_self(self, sizeof self);
    int64_t physical = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    int64_t quota = rw_cgroup_memory(self, "/sys/fs/cgroup");
    return quota > 0 && quota < physical ? quota : physical;
}
