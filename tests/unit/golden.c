/* Golden files and scratch folders for tests; see golden.h. Paths go through a ring of static buffers, so
 * that a test can use a few at once without freeing any. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/golden.h"

#include <dirent.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *join(const char *dir, const char *name) {
    static char ring[16][4096];
    static unsigned next;
    char *path = ring[next++ % 16];
    int n = snprintf(path, sizeof ring[0], "%s%s%s", dir, name[0] ? "/" : "", name);
    if (n >= (int)sizeof ring[0]) fail_msg("path too long: %s", name);
    return path;
}

const char *rw_golden_dir(void) {
    const char *dir = getenv("RWKV_GOLDEN");
    if (!dir || !dir[0]) dir = RW_SOURCE_DIR "/../shared/golden";
    return access(dir, R_OK) == 0 ? dir : NULL;
}

static void missing(const char *relative) {
    const char *require = getenv("RWKV_REQUIRE_GOLDEN");
    printf("skipped: golden file '%s' is not here (set RWKV_GOLDEN to the folder)\n", relative);
    if (require && strcmp(require, "1") == 0) fail_msg("RWKV_REQUIRE_GOLDEN=1 and no golden file '%s'", relative);
    skip();
}

const char *rw_golden_path(const char *relative) {
    const char *dir = rw_golden_dir();
    if (!dir) missing(relative);
    const char *path = join(dir ? dir : "", relative);
    if (access(path, R_OK) != 0) missing(relative);
    return path;
}

void rw_golden_each(const char *folder, void (*fn)(void *ctx, const char *name), void *ctx) {
    struct dirent **names;
    int n = scandir(rw_golden_path(folder), &names, NULL, alphasort);
    if (n < 0) missing(folder);
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') fn(ctx, names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

/* A new file for each run of a program. */
static FILE *open_log(void) {
    static bool begun;
    const char *path = getenv("RWKV_GOLDEN_LOG");
    if (!path || !path[0]) return NULL;
    FILE *log = fopen(path, begun ? "a" : "w");
    if (!log) fail_msg("%s cannot be written", path);
    begun = true;
    return log;
}

void rw_golden_report(const char *root, const char *folder, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_message("  %s: %s\n", folder, text);
    const char *big = rw_golden_dir();
    FILE *log = big && strcmp(root, big) == 0 ? open_log() : NULL;
    if (!log) return;
    fprintf(log, "%s: %s\n", folder, text);
    fclose(log);
}

const char *rw_golden_vocab(void) {
    const char *dir = rw_golden_dir(), *own = getenv("RWKV_VOCAB");
    const char *beside = dir ? join(dir, "../data/rwkv_vocab_v20230424.txt") : NULL;
    if (beside && access(beside, R_OK) == 0) return beside;
    if (own && access(own, R_OK) == 0) return own;
    const char *shared = join(RW_SOURCE_DIR, "../shared/data/rwkv_vocab_v20230424.txt");
    if (access(shared, R_OK) != 0) missing("the vocabulary (set RWKV_VOCAB)");
    return shared;
}

const char *rw_own_golden_path(const char *relative) {
    const char *path = join(RW_SOURCE_DIR "/tests/golden", relative);
    if (access(path, R_OK) != 0) fail_msg("'%s' is missing: make it with tests/golden/make_golden.py", path);
    return path;
}

const char *rw_source_path(const char *relative) {
    return join(RW_SOURCE_DIR, relative);
}

/* -- scratch folder --------------------------------------------------------------------------------- */

static char scratch[2048];
static pid_t scratch_owner; /* a forked child must not remove its parent's folder */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_scratch(void) {
    if (scratch[0] && getpid() == scratch_owner) nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *rw_test_folder(void) {
    if (scratch[0]) return scratch;
    const char *tmp = getenv("TMPDIR");
    int n = snprintf(scratch, sizeof scratch, "%s/rwkv-test-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (n >= (int)sizeof scratch || !mkdtemp(scratch)) fail_msg("cannot make a folder like '%s'", scratch);
    scratch_owner = getpid();
    atexit(remove_scratch);
    return scratch;
}

const char *rw_test_path(const char *name) {
    return join(rw_test_folder(), name);
}
