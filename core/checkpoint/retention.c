/* Everything is read from the names in the folder, so there is no list that could disagree with it. */
#include "core/checkpoint/retention.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/checkpoint/checkpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *prefix, *suffix;
} name_pattern;

static const name_pattern pth_names = {"rwkv-", ".pth"}, state_names = {"state-", ".safetensors"};

/* -- names ------------------------------------------------------------------------------------------- */

/* The number in prefix<number>suffix as we write it (no leading zeros); -1 for any other name. */
static int64_t number_of(name_pattern p, const char *name) {
    size_t n = strlen(p.prefix);
    if (strncmp(name, p.prefix, n)) return -1;
    const char *digits = name + n;
    size_t n_digits = strspn(digits, "0123456789");
    if (n_digits == 0 || n_digits > 18 || (digits[0] == '0' && n_digits > 1)) return -1;
    return strcmp(digits + n_digits, p.suffix) ? -1 : strtoll(digits, NULL, 10);
}

static char *path_of(const char *dir, name_pattern p, int64_t number) {
    char name[64];
    snprintf(name, sizeof name, "%s%lld%s", p.prefix, (long long)number, p.suffix);
    return rw_path_join(dir, name);
}

char *rw_checkpoint_pth_path(const char *proj_dir, int64_t n) {
    return path_of(proj_dir, pth_names, n);
}
char *rw_checkpoint_state_path(const char *proj_dir, int64_t step) {
    return path_of(proj_dir, state_names, step);
}

/* -- the numbers in a folder -------------------------------------------------------------------------- */

typedef struct {
    name_pattern pattern;
    int64_t *numbers; /* owned */
    size_t n, cap;
} listing;

static rw_status collect(void *ctx, const char *name, rw_error *err) {
    listing *l = ctx;
    int64_t number = number_of(l->pattern, name);
    void *items = l->numbers;
    if (number < 0) return RW_OK;
    if (!rw_grow(&items, &l->cap, l->n + 1, sizeof *l->numbers)) return rw_fail_memory(err, l->n * sizeof *l->numbers);
    l->numbers = items;
    l->numbers[l->n++] = number;
    return RW_OK;
}

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* Largest first. rw_free(l->numbers) in any case. */
static rw_status list_numbers(listing *l, const char *dir, name_pattern pattern, rw_error *err) {
    *l = (listing){.pattern = pattern};
    if (!rw_exists(dir)) return RW_OK;
    RW_TRY(rw_dir_list(dir, collect, l, err));
    if (l->n) qsort(l->numbers, l->n, sizeof *l->numbers, descending);
    return RW_OK;
}

/* -- the newest state ---------------------------------------------------------------------------------- */

/* RW_OK with *whole; an error only for a lack of memory. */
static rw_status is_whole(const char *path, bool *whole, rw_error *err) {
    rw_tensor_file *f;
    rw_error why = {0};
    char text[1200];
    rw_status status = rw_tensor_file_open(&f, path, &why);
    *whole = status == RW_OK;
    if (*whole) rw_tensor_file_close(f);
    if (status != RW_OK && status != RW_E_MEMORY) {
        rw_error_format(&why, text, sizeof text);
        rw_warn("skipping a training state that cannot be read: %s", text);
    }
    rw_error_clear(&why);
    return status == RW_E_MEMORY ? rw_fail_memory(err, 0) : RW_OK;
}

rw_status rw_checkpoint_latest(const char *proj_dir, char **path, int64_t *step, rw_error *err) {
    listing l;
    bool whole = false;
    *path = NULL;
    *step = -1;
    rw_status status = list_numbers(&l, proj_dir, state_names, err);
    for (size_t i = 0; i < l.n && status == RW_OK && !whole; i++) {
        rw_free(*path);
        *path = rw_checkpoint_state_path(proj_dir, l.numbers[i]);
        status = *path ? is_whole(*path, &whole, err) : rw_fail_memory(err, strlen(proj_dir));
        *step = l.numbers[i];
    }
    rw_free(l.numbers);
    if (whole) return status;
    rw_free(*path);
    *path = NULL;
    *step = -1;
    return status;
}

/* -- deleting ------------------------------------------------------------------------------------------ */

static rw_status delete_path(const char *path, rw_error *err) {
    if (!path) return rw_fail_memory(err, 0);
    if (unlink(path) == 0 || errno == ENOENT) return RW_OK;
    return rw_fail_errno(err, RW_AT_NONE, "cannot delete the old save %s", path);
}

/* Deletes all but the `keep` largest up to `newest`, and with `drop_beyond` those that are larger than it. */
static rw_status keep_of(const char *dir, name_pattern pattern, int64_t keep, int64_t newest, bool drop_beyond,
                         rw_error *err) {
    listing l;
    int64_t kept = 0;
    rw_status status = list_numbers(&l, dir, pattern, err);
    for (size_t i = 0; i < l.n && status == RW_OK; i++) {
        bool beyond = drop_beyond && newest >= 0 && l.numbers[i] > newest;
        if (!beyond && (kept++ < keep || l.numbers[i] == newest)) continue;
        char *path = path_of(dir, pattern, l.numbers[i]);
        status = delete_path(path, err);
        rw_free(path);
    }
    rw_free(l.numbers);
    return status;
}

rw_status rw_checkpoint_keep(const char *proj_dir, int64_t keep, int64_t newest_pth, int64_t newest_state,
                             rw_error *err) {
    if (keep > 0) RW_TRY(keep_of(proj_dir, pth_names, keep, newest_pth, false, err));
    return keep_of(proj_dir, state_names, keep > 0 ? keep : 1, newest_state, true, err);
}

/* -- leftovers ----------------------------------------------------------------------------------------- */

/* The process number in NAME.tmp-<pid>; -1 for any other name. */
static int64_t pid_of(const char *name) {
    static const char mark[] = ".tmp-";
    const char *at = NULL;
    for (const char *p = name; (p = strstr(p, mark)); p++) at = p;
    if (!at || at == name) return -1;
    const char *digits = at + sizeof mark - 1;
    size_t n = strspn(digits, "0123456789");
    return n == 0 || n > 9 || digits[n] ? -1 : strtoll(digits, NULL, 10);
}

static bool is_dead(int64_t pid) {
    return pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static rw_status clean_one(void *dir, const char *name, rw_error *err) {
    if (!is_dead(pid_of(name))) return RW_OK;
    char *path = rw_path_join(dir, name);
    rw_status status = delete_path(path, err);
    rw_free(path);
    return status;
}

rw_status rw_checkpoint_clean(const char *proj_dir, rw_error *err) {
    char *dir = rw_strdup(proj_dir);
    if (!dir) return rw_fail_memory(err, strlen(proj_dir));
    rw_status status = rw_exists(dir) ? rw_dir_list(dir, clean_one, dir, err) : RW_OK;
    rw_free(dir);
    return status;
}
