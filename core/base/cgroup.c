/* Reads cgroup limits. In a container the path in /proc/self/cgroup may name a folder that is not visible inside;
 * then only the folders above it that do exist are asked, at last the mount point itself. */
#include "core/base/cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 4096 };

/* Finds the line of a controller ("cpu", "memory"; "" is the v2 line) and copies its path. */
static bool find_group(const char *self, const char *controller, char *path) {
    for (const char *line = self; *line;) {
        size_t n = strcspn(line, "\n");
        const char *names = memchr(line, ':', n);
        const char *group = names ? memchr(names + 1, ':', n - (size_t)(names + 1 - line)) : NULL;
        if (group) {
            char list[256];
            snprintf(list, sizeof list, ",%.*s,", (int)(group - names - 1), names + 1);
            char wanted[64];
            snprintf(wanted, sizeof wanted, ",%s,", controller);
            if (strstr(list, wanted)) {
                snprintf(path, PATH_SIZE, "%.*s", (int)(n - (size_t)(group + 1 - line)), group + 1);
                return true;
            }
        }
        line += n + (line[n] == '\n');
    }
    return false;
}

/* The first line of ROOT GROUP / FILE. */
static bool read_line(const char *root, const char *group, const char *file, char *line, int size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s%s/%s", root, group, file);
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    return ok;
}

/* -- one group --------------------------------------------------------------------------------------- */

static double cpus_v2(const char *root, const char *group) {
    char line[128];
    double quota, period;
    if (!read_line(root, group, "cpu.max", line, sizeof line)) return 0;
    return sscanf(line, "%lf %lf", &quota, &period) == 2 && period > 0 ? quota / period : 0; /* "max 100000" */
}

static double cpus_v1(const char *root, const char *group) {
    char quota[64], period[64];
    if (!read_line(root, group, "cpu.cfs_quota_us", quota, sizeof quota)) return 0;
    if (!read_line(root, group, "cpu.cfs_period_us", period, sizeof period)) return 0;
    return atof(quota) > 0 && atof(period) > 0 ? atof(quota) / atof(period) : 0; /* quota -1: none */
}

static double memory_v2(const char *root, const char *group) {
    char line[64];
    return read_line(root, group, "memory.max", line, sizeof line) ? atof(line) : 0; /* "max" reads as 0 */
}

static double memory_v1(const char *root, const char *group) {
    char line[64];
    if (!read_line(root, group, "memory.limit_in_bytes", line, sizeof line)) return 0;
    return atof(line) < 0x1p60 ? atof(line) : 0; /* "no limit" is a number near 2^63 */
}

/* -- the group and those above it -------------------------------------------------------------------- */

static double strictest(double (*limit_of)(const char *, const char *), const char *root, char *group) {
    double least = 0;
    for (;;) {
        size_t n = strlen(group);
        while (n > 0 && group[n - 1] == '/') group[--n] = '\0';
        double limit = limit_of(root, group);
        if (limit > 0 && (least == 0 || limit < least)) least = limit;
        char *slash = strrchr(group, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

static double limit(const char *self, const char *root, const char *controller,
                    double (*v1)(const char *, const char *), double (*v2)(const char *, const char *)) {
    char group[PATH_SIZE], v1_root[PATH_SIZE];
    double a = 0, b = 0;
    if (find_group(self, controller, group)) {
        snprintf(v1_root, sizeof v1_root, "%s/%s", root, controller);
        a = strictest(v1, v1_root, group);
    }
    if (find_group(self, "", group)) b = strictest(v2, root, group);
    return a > 0 && (b == 0 || a < b) ? a : b;
}

int rw_cgroup_cpus(const char *self, const char *root) {
    double cpus = limit(self, root, "cpu", cpus_v1, cpus_v2);
    int whole = cpus < 1e6 ? (int)cpus : 0;
    return whole + ((double)whole < cpus && cpus < 1e6);
}

int64_t rw_cgroup_memory(const char *self, const char *root) {
    return (int64_t)limit(self, root, "memory", memory_v1, memory_v2);
}
