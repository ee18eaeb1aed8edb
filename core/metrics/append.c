/* Appending whole lines: see append.h. */
#include "core/metrics/append.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"

#include <errno.h>
#include <unistd.h>

static rw_status end_cut_line(int fd, const char *path, rw_error *err) {
    char last = '\n';
    off_t size = lseek(fd, 0, SEEK_END);
    if (size > 0 && pread(fd, &last, 1, size - 1) != 1) return rw_fail_errno(err, RW_AT_FILE(path), "cannot read");
    return last == '\n' ? RW_OK : rw_append(fd, path, "\n", 1, err);
}

static rw_status open_file(int *fd, const char *proj_dir, const char *name, rw_error *err) {
    rw_folder folder;
    RW_TRY(rw_folder_open(&folder, proj_dir, err));
    rw_status status = rw_folder_append(&folder, name, fd, err);
    rw_folder_close(&folder);
    return status;
}

rw_status rw_append_open(int *fd, char **path, const char *proj_dir, const char *name, rw_error *err) {
    *fd = -1;
    *path = rw_path_join(proj_dir, name);
    if (!*path) return rw_fail_memory(err, 256);
    rw_status status = open_file(fd, proj_dir, name, err);
    if (status == RW_OK) status = end_cut_line(*fd, *path, err);
    if (status == RW_OK) return RW_OK;
    rw_error_settle(err); /* the path goes */
    if (*fd >= 0) close(*fd);
    rw_free(*path);
    *fd = -1;
    *path = NULL;
    return status;
}

rw_status rw_append(int fd, const char *path, const char *line, size_t n, rw_error *err) {
    while (n > 0) {
        ssize_t done = write(fd, line, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return rw_fail_errno(err, RW_AT_NONE, "cannot write %s", path);
        line += done;
        n -= (size_t)done;
    }
    return RW_OK;
}
