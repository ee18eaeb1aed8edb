/* Files: reading at an offset, and writing so that a kill at any moment leaves the old or the new file. */
#ifndef RW_BASE_FS_H
#define RW_BASE_FS_H

#include "core/base/error.h"
#include "core/base/folder.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- reading ------------------------------------------------------------------------------------- */

typedef struct {
    int fd;           /* -1: closed */
    int64_t n_bytes;  /* size when opened */
    const char *path; /* borrowed: must outlive the file and errors about it */
} rw_file;

rw_status rw_file_open(rw_file *f, const char *path, rw_error *err); /* regular files only */
/* Reads exactly n bytes at `offset`; a shorter file is E_IO "N of M bytes". Thread-safe (pread). */
rw_status rw_file_read_at(const rw_file *f, int64_t offset, void *buf, int64_t n, rw_error *err);
void rw_file_close(rw_file *f);
/* The whole file, NUL-terminated beyond *n; refuses more than `limit` bytes. Free with rw_free(). Errors borrow
 * `path`. */
rw_status rw_file_slurp(const char *path, int64_t limit, char **data, int64_t *n, rw_error *err);

/* -- writing: temporary name, fsync, rename, fsync of the folder ---------------------------------- */

/* Buffered sequential writer of PATH.tmp-<pid>, in the folder of PATH (folder.h): no link is followed there, and PATH
 * is free or a regular file. The error is sticky; rw_writer_commit() reports it. Zero is a valid empty value. On a
 * failure the temporary file is removed and PATH stays as it was. Errors of writers and of folders hold the path in
 * their text, so it need not outlive them. */
typedef struct {
    int fd;
    rw_folder folder;
    char *path, *tmp; /* owned */
    char *buf;        /* owned */
    int64_t used;     /* bytes in buf */
    int64_t offset;   /* bytes written so far, buf included */
    rw_error error;   /* first failure */
} rw_writer;

rw_status rw_writer_open(rw_writer *w, const char *path, rw_error *err);
void rw_writer_put(rw_writer *w, const void *bytes, int64_t n);
void rw_writer_printf(rw_writer *w, const char *fmt, ...) RW_PRINTF(2, 3);
/* Overwrites bytes already put (for a header known last). */
void rw_writer_patch(rw_writer *w, int64_t offset, const void *bytes, int64_t n);
/* flush, fsync, rename over PATH, fsync the folder, close. */
rw_status rw_writer_commit(rw_writer *w, rw_error *err);
void rw_writer_abort(rw_writer *w); /* removes the temporary file; fine after commit and on zero */

/* For who is about to end the process in the middle of everything: removes the temporary files of all writers that are
 * open, and lets no thread begin another. */
void rw_fs_leave(void);

rw_status rw_write_file(const char *path, const void *bytes, int64_t n, rw_error *err); /* all of the above */

/* -- folders and names ---------------------------------------------------------------------------- */

rw_status rw_mkdir_all(const char *path, rw_error *err);
bool rw_exists(const char *path);
bool rw_is_dir(const char *path);
int64_t rw_disk_free(const char *path); /* bytes a user may write where `path` (or its parent) is; -1 */
/* Joins with '/', unless `name` is absolute. Returns a string for rw_free(), NULL without memory. */
char *rw_path_join(const char *dir, const char *name);
char *rw_path_dir(const char *path);        /* "." when there is no '/'; rw_free() */
const char *rw_path_base(const char *path); /* points into path */
/* Calls fn for each name in the folder, sorted by bytes; stops when fn does not return RW_OK. */
rw_status rw_dir_list(const char *dir, rw_status (*fn)(void *ctx, const char *name, rw_error *err), void *ctx,
                      rw_error *err);

/* -- fault injection, for tests -------------------------------------------------------------------- */

/* The n-th write, fsync or rename from now fails with `error_number`; 0 switches it off. */
void rw_fs_fail_after(int64_t n, int error_number);
int64_t rw_fs_calls(void); /* writes, fsyncs and renames so far */

#ifdef __cplusplus
}
#endif
#endif
