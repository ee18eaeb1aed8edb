/* The limits that control groups set for this process, v1 or v2. Used by thread.c; apart so that tests can give
 * it a folder of their own. */
#ifndef RW_BASE_CGROUP_H
#define RW_BASE_CGROUP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `self` is the text of /proc/self/cgroup, `root` the mount point (/sys/fs/cgroup). The strictest limit of the
 * process's group and of all groups above it counts. */
int rw_cgroup_cpus(const char *self, const char *root);       /* quota rounded up; 0: no limit */
int64_t rw_cgroup_memory(const char *self, const char *root); /* bytes; 0: no limit            */

#ifdef __cplusplus
}
#endif
#endif
