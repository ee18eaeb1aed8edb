/* Everything is read from the names in the folder, so there is no list that could disagree with it. */
#include "core/checkpoint/retention.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/metadata_json.h"

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

static bool begins_and_ends(const char *name, const char *begin, const char *end) {
    size_t n = strlen(name), a = strlen(begin), b = strlen(end);
    return n > a + b && strncmp(name, begin, a) == 0 && strcmp(name + n - b, end) == 0;
}

rw_name_kind rw_checkpoint_name(const char *name) {
    static const char *const logs[] = {"plan.yaml", "metrics.jsonl", "train_log.txt"};
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++)
        if (strcmp(name, logs[i]) == 0) return RW_NAME_LOG;
    if (strcmp(name, "rwkv-init.pth") == 0) return RW_NAME_INIT;
    if (begins_and_ends(name, pth_names.prefix, pth_names.suffix) || begins_and_ends(name, "save-", ".pth"))
        return RW_NAME_PTH;
    return number_of(state_names, name) >= 0 ? RW_NAME_STATE : RW_NAME_NONE;
}

bool rw_checkpoint_writes(const char *name) {
    if (rw_checkpoint_name(name) != RW_NAME_PTH) return rw_checkpoint_name(name) != RW_NAME_NONE;
    return number_of(pth_names, name) >= 0 || strcmp(name, "rwkv-final.pth") == 0 || strncmp(name, "save-", 5) == 0;
}

static bool has_marker(const char *dir) {
    char *marker = rw_path_join(dir, RW_RUN_MARKER);
    bool has = marker && rw_exists(marker);
    rw_free(marker);
    return has;
}

static bool is_dated(const char *dir) {
    return strncmp(rw_path_base(dir), "old-", 4) == 0;
}

bool rw_checkpoint_is_save(const char *path) {
    rw_name_kind kind = rw_checkpoint_name(rw_path_base(path));
    if (kind == RW_NAME_STATE) return true;
    if (kind != RW_NAME_PTH && kind != RW_NAME_INIT) return false;
    char *dir = rw_path_dir(path), *above = dir && is_dated(dir) ? rw_path_dir(dir) : NULL;
    bool marked = (dir && has_marker(dir)) || (above && has_marker(above));
    rw_free(above);
    rw_free(dir);
    return marked;
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

/* A file that somebody else left under the name of a state is none (saved_run.h). */
static rw_status tells_of_a_run(const rw_tensor_file *f, const char *path, rw_error *err) {
    static const char *const keys[] = {"recipe", "choices"};
    for (int i = 0; i < 2; i++) {
        json_t *object;
        RW_TRY(rw_metadata_json(f, path, keys[i], &object, err));
        json_decref(object);
    }
    return RW_OK;
}

/* RW_OK with *whole; an error only for a lack of memory. */
static rw_status is_whole(const char *path, bool *whole, rw_error *err) {
    rw_tensor_file *f;
    rw_error why = {0};
    char text[1200];
    rw_status status = rw_tensor_file_open(&f, path, &why);
    if (status == RW_OK) {
        status = tells_of_a_run(f, path, &why);
        rw_tensor_file_close(f);
    }
    *whole = status == RW_OK;
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

/* Of one kind: what may go, and how much of it stays. */
typedef struct {
    const char *dir;
    name_pattern pattern;
    int64_t keep, newest;
    bool drop_beyond; /* also those that are larger than `newest` */
    bool (*wrote)(void *ctx, const char *name);
    void *ctx;
} keeping;

static bool is_ours(const keeping *k, const char *path) {
    return !k->wrote || k->wrote(k->ctx, rw_path_base(path));
}

/* Deletes the file of that number unless it stays; *kept counts those that do. */
static rw_status keep_one(const keeping *k, int64_t number, int64_t *kept, rw_error *err) {
    bool beyond = k->drop_beyond && k->newest >= 0 && number > k->newest;
    char *path = path_of(k->dir, k->pattern, number);
    if (!path) return rw_fail_memory(err, strlen(k->dir));
    bool ours = is_ours(k, path), stays = !beyond && (*kept < k->keep || number == k->newest);
    if (ours && !beyond) (*kept)++;
    rw_status status = !ours || stays ? RW_OK : delete_path(path, err);
    rw_free(path);
    return status;
}

static rw_status keep_of(const keeping *k, rw_error *err) {
    listing l;
    int64_t kept = 0;
    rw_status status = list_numbers(&l, k->dir, k->pattern, err);
    for (size_t i = 0; i < l.n && status == RW_OK; i++) status = keep_one(k, l.numbers[i], &kept, err);
    rw_free(l.numbers);
    return status;
}

rw_status rw_checkpoint_keep(const char *proj_dir, int64_t keep, int64_t newest_pth, int64_t newest_state,
                             bool (*wrote)(void *ctx, const char *name), void *ctx, rw_error *err) {
    keeping pth = {proj_dir, pth_names, keep, newest_pth, false, wrote, ctx};
    keeping states = {proj_dir, state_names, keep > 0 ? keep : 1, newest_state, true, wrote, ctx};
    if (keep > 0) RW_TRY(keep_of(&pth, err));
    return keep_of(&states, err);
}

/* -- leftovers ----------------------------------------------------------------------------------------- */

/* The process number in NAME.tmp-<pid>, NAME being one that this program writes; -1 for any other name. */
static int64_t pid_of(const char *name) {
    static const char mark[] = ".tmp-";
    const char *at = strstr(name, mark);
    char stem[64];
    if (!at || (size_t)(at - name) >= sizeof stem) return -1;
    snprintf(stem, sizeof stem, "%.*s", (int)(at - name), name);
    const char *digits = at + sizeof mark - 1;
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 9 || digits[n] || rw_checkpoint_name(stem) == RW_NAME_NONE) return -1;
    return strtoll(digits, NULL, 10);
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
