/* A log file that is only ever appended to, whole lines at a time, so that a kill leaves whole lines. */
#ifndef RW_METRICS_APPEND_H
#define RW_METRICS_APPEND_H

#include "core/base/error.h"

/* Opens proj_dir/name. A last line that a kill cut short is ended first. path is for rw_free(). */
rw_status rw_append_open(int *fd, char **path, const char *proj_dir, const char *name, rw_error *err);
rw_status rw_append(int fd, const char *path, const char *line, size_t n, rw_error *err);

#endif
