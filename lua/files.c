/* Files of scripts: they may append to files in the folder `lua` of the run, and to no other.
 *
 * Each append opens the file anew, so a script that is killed leaves nothing open. No link is followed below the folder
 * of the run, and only regular files with one name are written: a folder that somebody prepared leads nowhere. */
#include "lua/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPEND_LIMIT (256 << 20) /* bytes in one process; a script is no way to fill a disk */

static int open_folder(const char *dir) {
    const int base = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0) return -1;
    if (mkdirat(base, "lua", 0777) != 0 && errno != EEXIST) {
        close(base);
        return -1;
    }
    const int folder = openat(base, "lua", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    close(base);
    return folder;
}

/* -1 with errno. Does not wait for the other end of a FIFO. */
static int open_file(const char *dir, const char *name) {
    const int folder = open_folder(dir);
    if (folder < 0) return -1;
    const int fd = openat(folder, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    const int error = errno;
    close(folder);
    struct stat st;
    if (fd >= 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)) {
        close(fd);
        errno = ELOOP;
        return -1;
    }
    errno = error;
    return fd;
}

static bool write_all(int fd, const char *text, size_t n) {
    while (n > 0) {
        const ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        text += done;
        n -= (size_t)done;
    }
    return true;
}

void rw_lua_append_file(lua_State *L, const char *dir, const char *name, const char *text, size_t n) {
    rw_lua *lua = rw_lua_of(L);
    rw_lua_check_time(L);
    if (lua->appended + (int64_t)n > APPEND_LIMIT)
        luaL_error(L, rw_message("trainer:append: the scripts have written %d MiB, more than a run may"),
                   APPEND_LIMIT >> 20);
    const int fd = open_file(dir, name);
    const bool fine = fd >= 0 && write_all(fd, text, n);
    const int error = errno;
    if (fd >= 0) close(fd);
    if (fine)
        lua->appended += (int64_t)n;
    else
        luaL_error(L, rw_message("trainer:append: cannot write %s/lua/%s: %s"), dir, name,
                   error == ELOOP ? rw_message("it is a link, or no file of its own") : strerror(error));
}
