/* Each part of a name is opened with O_NOFOLLOW beneath the folder before it, as openat2() with RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS would in one call; that call is missing in kernels before 5.6 and in many containers.
 * O_NONBLOCK: a pipe without a reader must not hang the run; fstat() refuses it afterwards. */
#include "core/base/folder.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INSIDE (O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

rw_status rw_folder_open(rw_folder *f, const char *path, rw_error *err) {
    *f = (rw_folder){.fd = -1};
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return rw_fail_errno(err, RW_AT_NONE, "cannot open the folder %s", path);
    f->path = rw_strdup(path);
    f->fd = fd;
    if (f->path) return RW_OK;
    close(fd);
    return rw_fail_memory(err, strlen(path));
}

void rw_folder_close(rw_folder *f) {
    if (f->path) close(f->fd);
    rw_free(f->path);
    *f = (rw_folder){.fd = -1};
}

/* -- the folder of a name ------------------------------------------------------------------------------ */

static rw_status cannot_write(const rw_folder *f, const char *name, rw_error *err) {
    return rw_fail_errno(err, RW_AT_NONE, "cannot write %s/%s", f->path, name);
}

static rw_status leads_out(const rw_folder *f, const char *name, rw_error *err) {
    return rw_fail(err, RW_E_IO, RW_AT_NONE, "'%s' is not the name of a file in the folder %s", name, f->path);
}

static bool is_name(const char *part, size_t n) {
    return n > 0 && !(n == 1 && part[0] == '.') && !(n == 2 && part[0] == '.' && part[1] == '.');
}

/* Where the last part of `name` belongs: *fd is f's own, or else for close(). */
typedef struct {
    int fd;
    const char *last;
} place;

static void leave(const rw_folder *f, place *p) {
    if (p->fd >= 0 && p->fd != f->fd) close(p->fd);
}

static rw_status find_place(const rw_folder *f, const char *name, place *p, rw_error *err) {
    char part[256];
    *p = (place){f->fd, name};
    for (size_t n; p->last[n = strcspn(p->last, "/")] == '/'; p->last += n + 1) {
        if (!is_name(p->last, n) || n >= sizeof part) break;
        memcpy(part, p->last, n);
        part[n] = '\0';
        int next = openat(p->fd, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), reason = errno;
        leave(f, p);
        errno = reason;
        p->fd = next;
        if (next < 0) return cannot_write(f, name, err);
    }
    if (is_name(p->last, strlen(p->last)) && !strchr(p->last, '/')) return RW_OK;
    leave(f, p);
    return leads_out(f, name, err);
}

/* -- what is there -------------------------------------------------------------------------------------- */

static const char *kind_of(const struct stat *st) {
    if (S_ISLNK(st->st_mode)) return rw_message("a symbolic link");
    if (S_ISDIR(st->st_mode)) return rw_message("a folder");
    if (S_ISFIFO(st->st_mode)) return rw_message("a pipe");
    return rw_message("a device or socket");
}

static rw_status check_kind(const rw_folder *f, const char *name, const struct stat *st, rw_error *err) {
    if (S_ISREG(st->st_mode)) return RW_OK;
    return rw_fail(err, RW_E_IO, RW_AT_NONE,
                   "cannot write %s/%s: expected a regular file or nothing of that name, found %s; move it away",
                   f->path, name, kind_of(st));
}

static rw_status check_place(const rw_folder *f, const char *name, const place *p, rw_error *err) {
    struct stat st;
    if (fstatat(p->fd, p->last, &st, AT_SYMLINK_NOFOLLOW) == 0) return check_kind(f, name, &st, err);
    return errno == ENOENT ? RW_OK : cannot_write(f, name, err);
}

rw_status rw_folder_check(const rw_folder *f, const char *name, rw_error *err) {
    place p;
    RW_TRY(find_place(f, name, &p, err));
    rw_status status = check_place(f, name, &p, err);
    leave(f, &p);
    return status;
}

/* What was opened may be another file than the one that was looked at before. */
static rw_status check_opened(const rw_folder *f, const char *name, int fd, rw_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return cannot_write(f, name, err);
    RW_TRY(check_kind(f, name, &st, err));
    if (st.st_nlink == 1) return RW_OK;
    return rw_fail(err, RW_E_IO, RW_AT_NONE,
                   "cannot write %s/%s: the file has %lld names (hard links), and the others would change too; put a "
                   "copy in its place",
                   f->path, name, (long long)st.st_nlink);
}

/* -- opening ---------------------------------------------------------------------------------------------- */

static rw_status open_at(const rw_folder *f, const char *name, const place *p, int flags, int *fd, rw_error *err) {
    RW_TRY(check_place(f, name, p, err));
    *fd = openat(p->fd, p->last, flags | INSIDE, 0666);
    if (*fd < 0) return cannot_write(f, name, err);
    rw_status status = check_opened(f, name, *fd, err);
    if (status == RW_OK) return RW_OK;
    close(*fd);
    *fd = -1;
    return status;
}

rw_status rw_folder_append(const rw_folder *f, const char *name, int *fd, rw_error *err) {
    place p;
    *fd = -1;
    RW_TRY(find_place(f, name, &p, err));
    rw_status status = open_at(f, name, &p, O_RDWR | O_CREAT | O_APPEND, fd, err);
    leave(f, &p);
    return status;
}

rw_status rw_folder_create(const rw_folder *f, const char *name, int *fd, rw_error *err) {
    place p;
    *fd = -1;
    RW_TRY(find_place(f, name, &p, err));
    unlinkat(p.fd, p.last, 0); /* O_EXCL refuses what is there still, or again */
    rw_status status = open_at(f, name, &p, O_RDWR | O_CREAT | O_EXCL, fd, err);
    leave(f, &p);
    return status;
}

/* -- names -------------------------------------------------------------------------------------------------- */

static rw_status rename_at(const rw_folder *f, const char *name, const place *from, const place *to, rw_error *err) {
    RW_TRY(check_place(f, name, to, err));
    if (renameat(from->fd, from->last, to->fd, to->last) == 0) return RW_OK;
    return rw_fail_errno(err, RW_AT_NONE, "cannot rename to %s/%s", f->path, name);
}

rw_status rw_folder_rename(const rw_folder *f, const char *from, const char *to, rw_error *err) {
    place a, b;
    RW_TRY(find_place(f, from, &a, err));
    rw_status status = find_place(f, to, &b, err);
    if (status == RW_OK) {
        status = rename_at(f, to, &a, &b, err);
        leave(f, &b);
    }
    leave(f, &a);
    return status;
}

rw_status rw_folder_unlink(const rw_folder *f, const char *name, rw_error *err) {
    place p;
    RW_TRY(find_place(f, name, &p, err));
    bool gone = unlinkat(p.fd, p.last, 0) == 0 || errno == ENOENT;
    rw_status status = gone ? RW_OK : rw_fail_errno(err, RW_AT_NONE, "cannot delete %s/%s", f->path, name);
    leave(f, &p);
    return status;
}

static rw_status mkdir_at(const rw_folder *f, const char *name, const place *p, rw_error *err) {
    struct stat st;
    if (mkdirat(p->fd, p->last, 0777) == 0) return RW_OK;
    int reason = errno;
    if (fstatat(p->fd, p->last, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) return RW_OK;
    errno = reason;
    return rw_fail_errno(err, RW_AT_NONE, "cannot create the folder %s/%s", f->path, name);
}

rw_status rw_folder_mkdir(const rw_folder *f, const char *name, rw_error *err) {
    place p;
    RW_TRY(find_place(f, name, &p, err));
    rw_status status = mkdir_at(f, name, &p, err);
    leave(f, &p);
    return status;
}

rw_status rw_folder_sync(const rw_folder *f, rw_error *err) {
    int fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return RW_OK; /* one that we may not read: the names hold anyway */
    bool fine = fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP;
    rw_status status = fine ? RW_OK : rw_fail_errno(err, RW_AT_NONE, "cannot write %s", f->path);
    close(fd);
    return status;
}
