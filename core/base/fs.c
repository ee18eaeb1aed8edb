/* Files. A write goes to a temporary name in the same folder, is synced, and is renamed over the old file, then
 * the folder is synced: whenever the process or the machine stops, PATH is the old file or the whole new one.
 * Writes, fsyncs and renames pass through one counter, so that tests can make the n-th fail. */
#include "core/base/fs.h"

#include "core/base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, LARGEST_CALL = 1 << 30 };

/* -- fault injection --------------------------------------------------------------------------------- */

static _Atomic int64_t n_calls, fail_at;
static _Atomic int fail_errno;

void rw_fs_fail_after(int64_t n, int error_number) {
    atomic_store(&fail_errno, error_number);
    atomic_store(&fail_at, n > 0 ? atomic_load(&n_calls) + n : 0);
}

int64_t rw_fs_calls(void) {
    return atomic_load(&n_calls);
}

static bool refused(void) {
    if (atomic_fetch_add(&n_calls, 1) + 1 != atomic_load(&fail_at)) return false;
    errno = atomic_load(&fail_errno);
    return true;
}

/* -- reading ----------------------------------------------------------------------------------------- */

static rw_status check_regular(rw_file *f, rw_error *err) {
    struct stat st;
    if (fstat(f->fd, &st) != 0) return rw_fail_errno(err, RW_AT_FILE(f->path), "cannot read");
    if (S_ISDIR(st.st_mode)) return rw_fail(err, RW_E_IO, RW_AT_FILE(f->path), "expected a file, found a folder");
    if (!S_ISREG(st.st_mode))
        return rw_fail(err, RW_E_IO, RW_AT_FILE(f->path), "expected a regular file, found a device, pipe or socket");
    f->n_bytes = st.st_size;
    return RW_OK;
}

rw_status rw_file_open(rw_file *f, const char *path, rw_error *err) {
    *f = (rw_file){.path = path};
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang on a pipe */
    if (f->fd < 0) return rw_fail_errno(err, RW_AT_FILE(path), "cannot open");
    rw_status status = check_regular(f, err);
    if (status != RW_OK) rw_file_close(f);
    return status;
}

rw_status rw_file_read_at(const rw_file *f, int64_t offset, void *buf, int64_t n, rw_error *err) {
    int64_t done = 0;
    while (done < n) {
        int64_t want = n - done < LARGEST_CALL ? n - done : LARGEST_CALL;
        ssize_t got = pread(f->fd, (char *)buf + done, (size_t)want, offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return rw_fail_errno(err, RW_AT_FILE(f->path), "cannot read");
        if (got == 0)
            return rw_fail(err, RW_E_IO, RW_AT_FILE(f->path), "the file is cut short: it has %lld of %lld bytes",
                           (long long)(offset + done), (long long)(offset + n));
        done += got;
    }
    return RW_OK;
}

void rw_file_close(rw_file *f) {
    if (f->path && f->fd >= 0) close(f->fd); /* a zero value was never opened: its fd 0 is not ours */
    f->fd = -1;
}

static rw_status slurp(const rw_file *f, int64_t limit, char **data, rw_error *err) {
    if (f->n_bytes > limit)
        return rw_fail(err, RW_E_IO, RW_AT_FILE(f->path), "too large: %lld bytes; the limit here is %lld",
                       (long long)f->n_bytes, (long long)limit);
    *data = rw_alloc((size_t)f->n_bytes + 1);
    if (!*data) return rw_fail_memory(err, (size_t)f->n_bytes);
    return rw_file_read_at(f, 0, *data, f->n_bytes, err);
}

rw_status rw_file_slurp(const char *path, int64_t limit, char **data, int64_t *n, rw_error *err) {
    rw_file f;
    *data = NULL;
    *n = 0;
    RW_TRY(rw_file_open(&f, path, err));
    rw_status status = slurp(&f, limit, data, err);
    rw_file_close(&f);
    if (status == RW_OK) {
        *n = f.n_bytes;
        return RW_OK;
    }
    rw_free(*data);
    *data = NULL;
    return status;
}

/* -- writing ----------------------------------------------------------------------------------------- */

/* w->tmp doubles as "is open": a zero writer has fd 0, which is somebody else's. */
static bool writer_fails(rw_writer *w) {
    return !w->tmp || w->error.code != RW_OK;
}

static void write_failed(rw_writer *w) {
    rw_fail_errno(&w->error, RW_AT_NONE, "cannot write %s", w->path);
}

/* All n bytes at `offset`; a short write is continued, so that the reason comes back as errno. */
static void write_all(rw_writer *w, int64_t offset, const char *p, int64_t n) {
    while (n > 0 && !writer_fails(w)) {
        ssize_t done = refused() ? -1 : pwrite(w->fd, p, (size_t)(n < LARGEST_CALL ? n : LARGEST_CALL), offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) {
            write_failed(w);
            return;
        }
        p += done;
        n -= done;
        offset += done;
    }
}

static void flush(rw_writer *w) {
    write_all(w, w->offset - w->used, w->buf, w->used);
    w->used = 0;
}

/* The temporary files of this process, for rw_fs_leave(). More at a time than there is room for are not known to it. */
static pthread_mutex_t unfinished_lock = PTHREAD_MUTEX_INITIALIZER;
static const rw_writer *unfinished[16];
enum { N_UNFINISHED = sizeof unfinished / sizeof *unfinished };

/* NULL in place of a writer that ends, a writer in place of NULL. The caller holds the lock. */
static void replace_unfinished(const rw_writer *old, const rw_writer *new) {
    int i = 0;
    while (i < N_UNFINISHED && unfinished[i] != old) i++;
    if (i < N_UNFINISHED) unfinished[i] = new;
}

/* Created and known under one lock: rw_fs_leave() misses none. */
static rw_status create_temporary(rw_writer *w, rw_error *err) {
    pthread_mutex_lock(&unfinished_lock);
    rw_status status = rw_folder_create(&w->folder, w->tmp, &w->fd, err);
    if (status == RW_OK) replace_unfinished(NULL, w);
    pthread_mutex_unlock(&unfinished_lock);
    return status;
}

static void forget_temporary(const rw_writer *w) {
    pthread_mutex_lock(&unfinished_lock);
    replace_unfinished(w, NULL);
    pthread_mutex_unlock(&unfinished_lock);
}

/* The lock is kept: nobody begins another file, or ends one. */
void rw_fs_leave(void) {
    pthread_mutex_lock(&unfinished_lock);
    for (int i = 0; i < N_UNFINISHED; i++)
        if (unfinished[i]) unlinkat(unfinished[i]->folder.fd, unfinished[i]->tmp, 0);
}

/* Copies of the path, the temporary name and the buffer. */
static rw_status make_names(rw_writer *w, const char *path, rw_error *err) {
    size_t n = strlen(path) + 32;
    w->path = rw_strdup(path);
    w->tmp = rw_alloc(n);
    w->buf = rw_alloc(BUFFER);
    if (!w->path || !w->tmp || !w->buf) return rw_fail_memory(err, n + BUFFER);
    snprintf(w->tmp, n, "%s.tmp-%ld", rw_path_base(path), (long)getpid());
    return RW_OK;
}

static rw_status open_temporary(rw_writer *w, rw_error *err) {
    char *dir = rw_path_dir(w->path);
    if (!dir) return rw_fail_memory(err, strlen(w->path));
    rw_status status = rw_folder_open(&w->folder, dir, err);
    if (status == RW_E_IO) status = rw_fail_errno(err, RW_AT_NONE, "cannot write %s", w->path);
    rw_free(dir);
    RW_TRY(status);
    RW_TRY(rw_folder_check(&w->folder, rw_path_base(w->path), err));
    return create_temporary(w, err);
}

rw_status rw_writer_open(rw_writer *w, const char *path, rw_error *err) {
    *w = (rw_writer){.fd = -1};
    rw_status status = make_names(w, path, err);
    if (status == RW_OK) status = open_temporary(w, err);
    if (status != RW_OK) rw_writer_abort(w);
    return status;
}

void rw_writer_put(rw_writer *w, const void *bytes, int64_t n) {
    if (writer_fails(w) || n <= 0) return;
    if (n > BUFFER - w->used) flush(w);
    if (n >= BUFFER)
        write_all(w, w->offset, bytes, n);
    else {
        memcpy(w->buf + w->used, bytes, (size_t)n);
        w->used += n;
    }
    w->offset += n;
}

void rw_writer_printf(rw_writer *w, const char *fmt, ...) {
    char small[512], *text = small;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof small) {
        text = rw_alloc((size_t)n + 1);
        if (!text) {
            if (!writer_fails(w)) rw_fail_memory(&w->error, (size_t)n);
            return;
        }
        va_start(ap, fmt);
        vsnprintf(text, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    rw_writer_put(w, text, n);
    if (text != small) rw_free(text);
}

void rw_writer_patch(rw_writer *w, int64_t offset, const void *bytes, int64_t n) {
    if (writer_fails(w) || n <= 0) return;
    if (offset < 0 || offset > w->offset - n) {
        rw_fail(&w->error, RW_E_INTERNAL, RW_AT_NONE, "patch of %lld bytes at %lld outside %s", (long long)n,
                (long long)offset, w->path);
        return;
    }
    int64_t in_buf = offset - (w->offset - w->used);
    if (in_buf >= 0)
        memcpy(w->buf + in_buf, bytes, (size_t)n);
    else {
        flush(w);
        write_all(w, offset, bytes, n);
    }
}

/* Closes the file and frees all but the error. */
static void release(rw_writer *w) {
    if (w->tmp && w->fd >= 0) {
        forget_temporary(w);
        close(w->fd);
    }
    rw_folder_close(&w->folder);
    rw_free(w->path);
    rw_free(w->tmp);
    rw_free(w->buf);
    rw_error_clear(&w->error);
    *w = (rw_writer){.fd = -1};
}

static rw_status give_error(rw_writer *w, rw_error *err) {
    rw_status code = w->error.code;
    if (err) {
        rw_error_clear(err);
        *err = w->error;
        w->error = (rw_error){0};
    }
    return code;
}

/* A call that may be told to fail; then it says so as the real one would. */
static rw_status refuse(rw_writer *w) {
    return refused() ? rw_fail_errno(&w->error, RW_AT_NONE, "cannot write %s", w->path) : RW_OK;
}

rw_status rw_writer_commit(rw_writer *w, rw_error *err) {
    if (!w->tmp) return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "commit of a file that is not open");
    flush(w);
    if (!writer_fails(w) && (refused() || fsync(w->fd) != 0)) write_failed(w);
    if (!writer_fails(w) && refuse(w) == RW_OK) rw_folder_rename(&w->folder, w->tmp, rw_path_base(w->path), &w->error);
    if (w->error.code != RW_OK) {
        rw_status code = give_error(w, err);
        rw_writer_abort(w);
        return code;
    }
    rw_status status = refuse(w) == RW_OK ? rw_folder_sync(&w->folder, err) : give_error(w, err);
    release(w);
    return status;
}

void rw_writer_abort(rw_writer *w) {
    if (w->tmp && w->fd >= 0) rw_folder_unlink(&w->folder, w->tmp, NULL);
    release(w);
}

rw_status rw_write_file(const char *path, const void *bytes, int64_t n, rw_error *err) {
    rw_writer w;
    RW_TRY(rw_writer_open(&w, path, err));
    rw_writer_put(&w, bytes, n);
    return rw_writer_commit(&w, err);
}

/* -- folders and names ------------------------------------------------------------------------------- */

/* Makes one folder; fine when it is there. */
static rw_status make_folder(const char *path, rw_error *err) {
    if (mkdir(path, 0777) == 0) return RW_OK;
    int reason = errno;
    if (rw_is_dir(path)) return RW_OK;
    if (reason == EEXIST)
        return rw_fail(err, RW_E_IO, RW_AT_NONE, "cannot create the folder %s: there is a file of that name", path);
    errno = reason;
    return rw_fail_errno(err, RW_AT_NONE, "cannot create the folder %s", path);
}

rw_status rw_mkdir_all(const char *path, rw_error *err) {
    char *copy = rw_strdup(path);
    if (!copy) return rw_fail_memory(err, strlen(path));
    rw_status status = RW_OK;
    for (char *p = copy + 1; copy[0] && status == RW_OK; p++) {
        if (*p != '/' && *p != '\0') continue;
        char end = *p;
        *p = '\0';
        status = make_folder(copy, err);
        *p = end;
        if (end == '\0') break;
    }
    rw_free(copy);
    return status;
}

bool rw_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool rw_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t rw_disk_free(const char *path) {
    char *at = rw_strdup(path);
    struct statvfs fs;
    int failed = -1;
    while (at && (failed = statvfs(at, &fs)) != 0 && errno == ENOENT && strcmp(at, ".") && strcmp(at, "/")) {
        char *parent = rw_path_dir(at);
        rw_free(at);
        at = parent;
    }
    rw_free(at);
    return failed ? -1 : (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
}

char *rw_path_join(const char *dir, const char *name) {
    if (!dir || !dir[0] || name[0] == '/') return rw_strdup(name);
    size_t n_dir = strlen(dir), n_name = strlen(name);
    while (n_dir > 1 && dir[n_dir - 1] == '/') n_dir--;
    char *path = rw_alloc(n_dir + n_name + 2);
    if (!path) return NULL;
    memcpy(path, dir, n_dir);
    if (path[n_dir - 1] != '/') path[n_dir++] = '/';
    memcpy(path + n_dir, name, n_name);
    return path;
}

char *rw_path_dir(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return rw_strdup(".");
    while (slash > path && slash[-1] == '/') slash--;
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    char *dir = rw_alloc(n + 1);
    if (dir) memcpy(dir, path, n);
    return dir;
}

const char *rw_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names but . and .. in a grown array; what was read is kept on a failure too. */
static rw_status read_names(DIR *dir, char ***names, size_t *n, rw_error *err) {
    size_t cap = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        void *items = *names;
        if (!rw_grow(&items, &cap, *n + 1, sizeof **names)) return rw_fail_memory(err, *n * sizeof **names);
        *names = items;
        char *name = rw_strdup(e->d_name);
        if (!name) return rw_fail_memory(err, strlen(e->d_name));
        (*names)[(*n)++] = name;
    }
    return RW_OK;
}

rw_status rw_dir_list(const char *path, rw_status (*fn)(void *ctx, const char *name, rw_error *err), void *ctx,
                      rw_error *err) {
    DIR *dir = opendir(path);
    if (!dir) return rw_fail_errno(err, RW_AT_NONE, "cannot list the folder %s", path);
    char **names = NULL;
    size_t n = 0;
    rw_status status = read_names(dir, &names, &n, err);
    closedir(dir);
    if (n > 0) qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n && status == RW_OK; i++) status = fn(ctx, names[i], err);
    for (size_t i = 0; i < n; i++) rw_free(names[i]);
    rw_free(names);
    return status;
}
