/* The scan, and its memory: one line of text a file, the newest at the end, at most MAX_FILES. */
#include "core/data/id_scan.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/str.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PIECE     ((int64_t)4 << 20) /* bytes */
#define MAX_FILES 256
#define MAX_LINE  160

/* -- the memory ------------------------------------------------------------------------------------- */

/* "device inode size seconds.nanoseconds " of the file behind a source; false: it cannot be told. */
static bool identity(const rw_source *s, char out[MAX_LINE]) {
    struct stat st;
    if (s->n_bytes < RW_ID_SCAN_REMEMBERED || fstat(s->fd, &st) != 0) return false;
    snprintf(out, MAX_LINE, "%llx %llx %lld %lld.%09ld %d ", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino, (long long)st.st_size, (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec,
             s->id_bytes);
    return true;
}

/* The file that remembers; NULL where there is no home. rw_free(). */
static char *memory_path(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache == '/') return rw_path_join(cache, "rwkv-run/largest-ids");
    return home && *home == '/' ? rw_path_join(home, ".cache/rwkv-run/largest-ids") : NULL;
}

/* Its text; NULL when there is none. rw_free(). */
static char *read_memory(const char *path) {
    char *text = NULL;
    int64_t n;
    if (!path || !rw_exists(path)) return NULL;
    return rw_file_slurp(path, MAX_FILES * MAX_LINE, &text, &n, NULL) == RW_OK ? text : NULL;
}

/* The line that begins with `key`, or NULL. */
static const char *find_line(const char *text, const char *key) {
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL)
        if (!strncmp(line, key, strlen(key))) return line;
    return NULL;
}

bool rw_id_scan_recall(const rw_source *s, int64_t *largest) {
    char key[MAX_LINE];
    if (!identity(s, key)) return false;
    char *path = memory_path(), *text = read_memory(path);
    const char *line = find_line(text, key);
    bool known = line && sscanf(line + strlen(key), "%" SCNd64, largest) == 1 && *largest >= 0;
    rw_free(text);
    rw_free(path);
    return known;
}

/* Without a place to write, nothing is remembered. */
static void write_memory(const char *path, const rw_str *text) {
    char *folder = rw_path_dir(path);
    if (folder && !text->failed && rw_mkdir_all(folder, NULL) == RW_OK)
        rw_write_file(path, text->data, (int64_t)text->len, NULL);
    rw_free(folder);
}

/* The last MAX_FILES - 1 lines of it. */
static const char *newest_lines(const char *text) {
    int n = 0;
    for (const char *p = text; *p; p++) n += *p == '\n';
    for (; n >= MAX_FILES; n--) text = strchr(text, '\n') + 1;
    return text;
}

static void remember(const rw_source *s, int64_t largest) {
    char key[MAX_LINE];
    if (!identity(s, key)) return;
    char *path = memory_path(), *before = read_memory(path);
    rw_str text = {0};
    if (before) rw_str_append(&text, newest_lines(before));
    rw_str_appendf(&text, "%s%lld\n", key, (long long)largest);
    if (path) write_memory(path, &text);
    rw_str_done(&text);
    rw_free(before);
    rw_free(path);
}

/* -- the scan ---------------------------------------------------------------------------------------- */

/* Negative ids are large as unsigned. Two loops without a branch: the compiler makes vectors of them. */
static uint32_t largest_of(const void *ids, int64_t n, int id_bytes) {
    const uint16_t *narrow = ids;
    const uint32_t *wide = ids;
    uint16_t a = 0;
    uint32_t b = 0;
    if (id_bytes == 2)
        for (int64_t i = 0; i < n; i++) a = narrow[i] > a ? narrow[i] : a;
    else
        for (int64_t i = 0; i < n; i++) b = wide[i] > b ? wide[i] : b;
    return id_bytes == 2 ? a : b;
}

static rw_status scan(const rw_source *s, void *piece, int64_t *largest, rw_id_scan_progress progress, void *ctx,
                      rw_error *err) {
    int64_t most = PIECE / s->id_bytes;
    *largest = 0;
    for (int64_t first = 0; first < s->n_tokens; first += most) {
        int64_t n = s->n_tokens - first < most ? s->n_tokens - first : most;
        RW_TRY(rw_source_read_raw(s, first, n, piece, err));
        uint32_t x = largest_of(piece, n, s->id_bytes);
        if (x >= s->vocab_size) return rw_source_fail_id(s, first, piece, n, err);
        if (x > *largest) *largest = x;
        if (progress && !progress(ctx, (first + n) * s->id_bytes, s->n_tokens * s->id_bytes))
            return rw_fail(err, RW_E_STOPPED, RW_AT_FILE(s->file), "the check of its ids was stopped");
    }
    return RW_OK;
}

rw_status rw_id_scan(const rw_source *s, int64_t *largest, rw_id_scan_progress progress, void *ctx, rw_error *err) {
    if (rw_id_scan_recall(s, largest) && *largest < s->vocab_size) return RW_OK;
    void *piece = rw_alloc((size_t)PIECE);
    if (!piece) return rw_fail_memory(err, (size_t)PIECE);
    rw_status status = scan(s, piece, largest, progress, ctx, err);
    if (status == RW_OK) remember(s, *largest);
    rw_free(piece);
    return status;
}
