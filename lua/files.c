/* Files of scripts: they may append to files in the folder `lua` of the run, and to no other.
 *
 * Each append opens the file anew, so a script that is killed leaves nothing open. What core/base/folder.h says of
 * links, pipes and second names holds here too. */
#include "lua/bind.h"

#include "core/base/folder.h"
#include "core/hooks/hooks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define APPEND_LIMIT (256 << 20) /* bytes in one process; a script is no way to fill a disk */

static rw_status open_file(const char *dir, const char *name, int *fd, rw_error *err) {
    char path[128];
    rw_folder folder = {0};
    snprintf(path, sizeof path, RW_SCRIPTS_FOLDER "/%s", name);
    RW_TRY(rw_folder_open(&folder, dir, err));
    rw_status status = rw_folder_mkdir(&folder, RW_SCRIPTS_FOLDER, err);
    if (status == RW_OK) status = rw_folder_append(&folder, path, fd, err);
    rw_folder_close(&folder);
    return status;
}

static rw_status write_all(int fd, const char *text, size_t n, const char *name, rw_error *err) {
    while (n > 0) {
        const ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return rw_fail(err, RW_E_IO, RW_AT_NONE, "lua/%s: %s", name, strerror(errno));
        text += done;
        n -= (size_t)done;
    }
    return RW_OK;
}

static rw_status append(const char *dir, const char *name, const char *text, size_t n, rw_error *err) {
    int fd = -1;
    RW_TRY(open_file(dir, name, &fd, err));
    const rw_status status = write_all(fd, text, n, name, err);
    close(fd);
    return status;
}

void rw_lua_append_file(lua_State *L, const char *dir, const char *name, const char *text, size_t n) {
    rw_lua *lua = rw_lua_of(L);
    rw_error error = {0};
    char why[600];
    rw_lua_check_time(L);
    if (lua->appended + (int64_t)n > APPEND_LIMIT)
        luaL_error(L, rw_message("trainer:append: the scripts have written %d MiB, more than a run may"),
                   APPEND_LIMIT >> 20);
    if (append(dir, name, text, n, &error) == RW_OK) {
        lua->appended += (int64_t)n;
        return;
    }
    rw_error_format(&error, why, sizeof why);
    rw_error_clear(&error);
    luaL_error(L, rw_message("trainer:append: %s"), why);
}
