/* The spool of tokens. Written once, front to back; read through the source afterwards. */
#include "core/data/store.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FLUSH_IDS ((size_t)1 << 17)

/* Space is looked at again after so many bytes; as many are left to others. */
#define SPACE_STEP ((int64_t)64 << 20)

/* A file without a name; where the file system cannot, a named one that is unlinked at once. */
static int open_nameless(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/rwkv-run-XXXXXX", folder);
    if (n < 0 || (size_t)n >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    return fd;
}

static rw_status open_file(rw_store *st, rw_error *err) {
    const char *env = getenv("TMPDIR");
    const char *folders[] = {env && *env ? env : "/var/tmp", "/tmp"};
    int n = env && *env ? 1 : 2;
    for (int i = 0; i < n && !st->is_open; i++) {
        st->folder = folders[i];
        st->fd = open_nameless(folders[i]);
        st->is_open = st->fd >= 0;
    }
    if (st->is_open) return RW_OK;
    return rw_fail_errno(err, RW_AT_FILE(st->file),
                         "cannot keep the tokens in a temporary file in %s (set TMPDIR to another folder)", st->folder);
}

/* -- space -------------------------------------------------------------------------------------------------- */

static int64_t free_bytes(const rw_store *st) {
    struct statvfs fs;
    if (fstatvfs(st->fd, &fs) != 0) return INT64_MAX;
    return (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
}

static rw_status no_space(const rw_store *st, int64_t need, int64_t have, rw_error *err) {
    char a[32], b[32];
    rw_format_two_sizes(a, need, b, have);
    return rw_fail(err, RW_E_IO, RW_AT_FILE(st->file),
                   "its tokens need %s in a temporary file in %s, which has %s free (set TMPDIR to another folder)", a,
                   st->folder, b);
}

/* Before any work. The byte tokenizer makes 2 bytes of each; World, of most texts, one of two. */
static rw_status check_space(const rw_store *st, const rw_plan_data *plan, rw_error *err) {
    struct stat in;
    if (stat(st->file, &in) != 0) return RW_OK;
    int64_t n = (int64_t)in.st_size, have = free_bytes(st);
    int64_t need = plan->tokenizer == RW_TOKENIZER_BYTE ? (n < INT64_MAX / 2 ? 2 * n : INT64_MAX) : n / 2;
    return need > have ? no_space(st, need, have, err) : RW_OK;
}

/* While it grows beyond what was expected, the disk is not filled to its last byte. */
static rw_status watch_space(rw_store *st, rw_error *err) {
    if (st->n_tokens * 2 < st->next_look) return RW_OK;
    st->next_look = st->n_tokens * 2 + SPACE_STEP;
    int64_t have = free_bytes(st);
    return have < SPACE_STEP ? no_space(st, SPACE_STEP, have, err) : RW_OK;
}

static rw_status check_vocab(const rw_store *st, const rw_plan_data *plan, rw_error *err) {
    int64_t n = rw_tokenizer_vocab_size(st->tokenizer);
    if (n <= plan->vocab_size) return RW_OK;
    return rw_fail(err, RW_E_DATA, (rw_where){.key = "data.tokenizer"},
                   "the %s tokenizer makes ids up to %lld, but the model's vocab_size is %lld",
                   rw_tokenizer_kind(st->tokenizer), (long long)n - 1, (long long)plan->vocab_size);
}

rw_status rw_store_open(rw_store *st, const rw_plan_data *plan, const char *file, rw_error *err) {
    *st = (rw_store){.file = file, .next_look = SPACE_STEP};
    RW_TRY(rw_tokenizer_open(&st->tokenizer, plan->tokenizer, plan->vocab_file, err));
    rw_status s = check_vocab(st, plan, err);
    if (s == RW_OK) s = open_file(st, err);
    if (s == RW_OK) s = check_space(st, plan, err);
    if (s != RW_OK) rw_store_close(st);
    return s;
}

rw_status rw_store_reserve(rw_store *st, size_t n, rw_error *err) {
    void *p = st->ids;
    bool ok = rw_grow(&p, &st->cap, st->used + n, sizeof *st->ids);
    st->ids = p;
    return ok ? RW_OK : rw_fail_memory(err, (st->used + n) * sizeof *st->ids);
}

static rw_status flush(rw_store *st, rw_error *err) {
    RW_TRY(watch_space(st, err));
    const char *p = (const char *)st->ids;
    for (size_t left = st->used * sizeof *st->ids; left > 0;) {
        ssize_t n = write(st->fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return rw_fail_errno(err, RW_AT_FILE(st->file),
                                 "cannot write the tokens to a temporary file in %s (set TMPDIR to another folder)",
                                 st->folder);
        p += n;
        left -= (size_t)n;
    }
    st->used = 0;
    return RW_OK;
}

rw_status rw_store_add(rw_store *st, size_t n, rw_error *err) {
    st->used += n;
    st->n_tokens += (int64_t)n;
    return st->used >= FLUSH_IDS ? flush(st, err) : RW_OK;
}

rw_status rw_store_end_document(rw_store *st, rw_error *err) {
    RW_TRY(rw_store_reserve(st, 1, err));
    st->ids[st->used] = RW_TOKEN_END_OF_DOCUMENT;
    return rw_store_add(st, 1, err);
}

rw_status rw_store_finish(rw_store *st, rw_source *s, rw_error *err) {
    RW_TRY(flush(st, err));
    s->fd = st->fd;
    s->id_bytes = 2;
    s->n_tokens = st->n_tokens;
    st->is_open = false;
    return RW_OK;
}

void rw_store_close(rw_store *st) {
    if (st->is_open) close(st->fd);
    rw_tokenizer_close(st->tokenizer);
    rw_free(st->ids);
    *st = (rw_store){0};
}
