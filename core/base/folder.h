/* A folder that is written to. Every file that this program writes is opened, renamed or deleted through one.
 *
 * A folder may hold what somebody else put there, a recipe's author for example: train_log.txt as a link to a start-up
 * file of the shell, a pipe that nobody reads, a second name of the user's own data. So beneath a folder no symbolic
 * link is followed, ".." and names from the root are refused, and what is written is a regular file with one name.
 *
 * Names are relative, "a/b" at most: each part is opened by itself, beneath the one before. */
#ifndef RW_BASE_FOLDER_H
#define RW_BASE_FOLDER_H

#include "core/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int fd;
    char *path; /* owned, for messages; NULL: closed, so that zero is closed */
} rw_folder;

/* The path itself may go through links: whether it may be written to is decided before (core/recipe/check.c). Errors of
 * all functions here hold the path in their text. */
rw_status rw_folder_open(rw_folder *f, const char *path, rw_error *err);
void rw_folder_close(rw_folder *f);

/* To read, and to add at the end; made when it is not there. *fd for close(), -1 on an error. */
rw_status rw_folder_append(const rw_folder *f, const char *name, int *fd, rw_error *err);
/* To write a file that is not there yet. An old one of that name is deleted first. */
rw_status rw_folder_create(const rw_folder *f, const char *name, int *fd, rw_error *err);
/* Whether `name` is free, or a regular file: what a rename may replace. Without this a user's link or pipe would go. */
rw_status rw_folder_check(const rw_folder *f, const char *name, rw_error *err);
rw_status rw_folder_rename(const rw_folder *f, const char *from, const char *to, rw_error *err); /* checks `to` */
rw_status rw_folder_unlink(const rw_folder *f, const char *name, rw_error *err); /* fine when it is not there */
rw_status rw_folder_mkdir(const rw_folder *f, const char *name, rw_error *err);  /* one part; fine when it is there */
/* Names that were made or renamed are on the disk. Fine where a file system cannot. */
rw_status rw_folder_sync(const rw_folder *f, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
