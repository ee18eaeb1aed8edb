/* Reading and writing of binidx. The reader believes nothing: every size in the index is compared with the two
 * files before it is used, and the index is read in pieces. The writer keeps 4 bytes a document in memory. */
#include "core/data/binidx.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <string.h>

#define HEADER 34
#define PIECE  4096 /* items read at a time */

static const char magic[9] = "MMIDIDX\0";

static rw_status fail_at(const char *name, rw_error *err, const char *fmt, ...) RW_PRINTF(3, 4);
static rw_status fail_at(const char *name, rw_error *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rw_status s = rw_vfail(err, RW_E_FORMAT, RW_AT_FILE(name), fmt, ap);
    va_end(ap);
    return s;
}

static uint64_t get_u64(const unsigned char *p) {
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static uint32_t get_u32(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* -- reading -------------------------------------------------------------------------------------- */

/* What reading needs; the error's place is always `name`, which the caller owns. */
typedef struct {
    const char *name;
    rw_file idx, bin;
    int64_t n_borders;
    int64_t end; /* in the .bin, of the item before; while they are walked */
    rw_binidx_info info;
} reader;

static char *join(const char *name, const char *suffix) {
    size_t n = strlen(name);
    if (n > 4 && (!strcmp(name + n - 4, ".bin") || !strcmp(name + n - 4, ".idx"))) n -= 4;
    char *path = rw_alloc(n + strlen(suffix) + 1);
    if (!path) return NULL;
    memcpy(path, name, n);
    strcpy(path + n, suffix);
    return path;
}

/* Opens PREFIX<suffix>. The path is ours, so an error about it is told again at `name`. */
static rw_status open_one(rw_file *f, const char *name, const char *suffix, rw_error *err) {
    rw_error why = {0};
    char *path = join(name, suffix);
    if (!path) return rw_fail_memory(err, strlen(name) + 5);
    rw_status s = rw_file_open(f, path, &why);
    if (s != RW_OK)
        s = rw_fail(err, s, RW_AT_FILE(name), "binidx: %s: %s (expected a pair, .bin and .idx)", rw_path_base(path),
                    why.msg);
    f->path = name;
    rw_error_clear(&why);
    rw_free(path);
    return s;
}

static const char *type_name(int code) {
    static const char *const names[] = {"?",     "uint8",   "int8",    "int16", "int32",
                                        "int64", "float32", "float64", "uint16"};
    return code >= 1 && code <= 8 ? names[code] : "unknown";
}

static rw_status read_type(reader *r, int code, rw_error *err) {
    if (code != RW_BINIDX_I32 && code != RW_BINIDX_U16)
        return fail_at(r->name, err, "binidx: ids of type %d (%s); expected 4 (int32) or 8 (uint16)", code,
                       type_name(code));
    r->info.dtype_code = code;
    r->info.id_bytes = code == RW_BINIDX_I32 ? 4 : 2;
    return RW_OK;
}

/* The counts, compared with the size of the .idx. Megatron's multimodal writer adds one byte an item at the end. */
static rw_status read_counts(reader *r, const unsigned char *h, rw_error *err) {
    uint64_t n_items = get_u64(h + 18), n_borders = get_u64(h + 26), n = (uint64_t)r->idx.n_bytes;
    bool possible = n_items <= n / 12 && n_borders <= n / 8;
    uint64_t expected = possible ? HEADER + 12 * n_items + 8 * n_borders : 0;
    if (!possible || (n != expected && n != expected + n_items))
        return fail_at(
            r->name, err,
            "binidx: the .idx has %llu bytes, which does not fit the %llu items that it lists; is it cut short?",
            (unsigned long long)n, (unsigned long long)n_items);
    r->info.n_items = (int64_t)n_items;
    r->n_borders = (int64_t)n_borders;
    return RW_OK;
}

static rw_status read_header(reader *r, rw_error *err) {
    unsigned char h[HEADER] = {0};
    int64_t n = r->idx.n_bytes < HEADER ? r->idx.n_bytes : HEADER;
    RW_TRY(rw_file_read_at(&r->idx, 0, h, n, err));
    if (n < 9 || memcmp(h, magic, 9) != 0)
        return fail_at(r->name, err, "binidx: the .idx does not begin with 'MMIDIDX'; is it really an index?");
    if (n < HEADER) return fail_at(r->name, err, "binidx: the .idx ends within its header (%lld bytes)", (long long)n);
    if (get_u64(h + 9) != 1)
        return fail_at(r->name, err, "binidx: version %llu, expected 1", (unsigned long long)get_u64(h + 9));
    RW_TRY(read_type(r, h[17], err));
    return read_counts(r, h, err);
}

/* Items follow each other: trainers read the .bin as one stream. */
static rw_status check_item(reader *r, int64_t i, int32_t size, int64_t pointer, rw_error *err) {
    int64_t n = r->bin.n_bytes;
    if (size < 0 || pointer < 0 || pointer > n || size > (n - pointer) / r->info.id_bytes)
        return fail_at(r->name, err, "binidx: item %lld (%d tokens from byte %lld) is outside the .bin (%lld bytes)",
                       (long long)i, size, (long long)pointer, (long long)n);
    if (pointer != r->end)
        return fail_at(r->name, err, "binidx: item %lld begins at byte %lld, but the items before it end at byte %lld",
                       (long long)i, (long long)pointer, (long long)r->end);
    r->end = pointer + size * (int64_t)r->info.id_bytes;
    r->info.n_tokens += size;
    return RW_OK;
}

static rw_status check_items(reader *r, rw_error *err) {
    unsigned char sizes[PIECE * 4], pointers[PIECE * 8];
    int64_t n = r->info.n_items;
    for (int64_t first = 0; first < n; first += PIECE) {
        int64_t m = n - first < PIECE ? n - first : PIECE;
        RW_TRY(rw_file_read_at(&r->idx, HEADER + 4 * first, sizes, 4 * m, err));
        RW_TRY(rw_file_read_at(&r->idx, HEADER + 4 * n + 8 * first, pointers, 8 * m, err));
        for (int64_t i = 0; i < m; i++)
            RW_TRY(check_item(r, first + i, (int32_t)get_u32(sizes + 4 * i), (int64_t)get_u64(pointers + 8 * i), err));
    }
    return RW_OK;
}

/* Borders never fall and never pass the last item. */
static rw_status check_borders(reader *r, rw_error *err) {
    unsigned char borders[PIECE * 8];
    int64_t before = 0, n = r->n_borders, begin = HEADER + 12 * r->info.n_items;
    for (int64_t first = 0; first < n; first += PIECE) {
        int64_t m = n - first < PIECE ? n - first : PIECE;
        RW_TRY(rw_file_read_at(&r->idx, begin + 8 * first, borders, 8 * m, err));
        for (int64_t i = 0; i < m; i++) {
            int64_t border = (int64_t)get_u64(borders + 8 * i);
            if (border < before || border > r->info.n_items)
                return fail_at(
                    r->name, err,
                    "binidx: document border %lld is %lld; expected %lld to %lld (the items before it and all "
                    "of them)",
                    (long long)(first + i), (long long)border, (long long)before, (long long)r->info.n_items);
            before = border;
        }
    }
    /* Some old mergers left the borders of the first file alone: then they count nothing. */
    r->info.n_documents = n > 1 && before == r->info.n_items ? n - 1 : r->info.n_items;
    return RW_OK;
}

static rw_status check_bin(reader *r, rw_error *err) {
    r->info.n_bytes = r->bin.n_bytes;
    if (r->bin.n_bytes % r->info.id_bytes == 0 && r->info.n_tokens == r->bin.n_bytes / r->info.id_bytes) return RW_OK;
    return fail_at(r->name, err,
                   "binidx: the .idx lists %lld tokens (%s), but the .bin has %lld bytes; do the two belong together?",
                   (long long)r->info.n_tokens, type_name(r->info.dtype_code), (long long)r->bin.n_bytes);
}

rw_status rw_binidx_open(int *fd, rw_binidx_info *info, const char *name, rw_error *err) {
    reader r = {.name = name};
    *fd = -1;
    RW_TRY(open_one(&r.idx, name, ".idx", err));
    rw_status s = open_one(&r.bin, name, ".bin", err);
    if (s == RW_OK) {
        s = read_header(&r, err);
        if (s == RW_OK) s = check_items(&r, err);
        if (s == RW_OK) s = check_borders(&r, err);
        if (s == RW_OK) s = check_bin(&r, err);
        if (s == RW_OK)
            *fd = r.bin.fd;
        else
            rw_file_close(&r.bin);
    }
    rw_file_close(&r.idx);
    *info = r.info;
    return s;
}

/* -- writing -------------------------------------------------------------------------------------- */

struct rw_binidx_writer {
    int dtype_code, id_bytes;
    rw_writer bin, idx;
    int32_t *sizes; /* owned, [n] tokens of each document */
    size_t n, cap;
};

static void put_u64(rw_writer *w, uint64_t x) {
    unsigned char b[8];
    for (int i = 0; i < 8; i++) b[i] = (unsigned char)(x >> 8 * i);
    rw_writer_put(w, b, 8);
}

static rw_status open_writer(rw_writer *w, const char *prefix, const char *suffix, rw_error *err) {
    char *path = rw_alloc(strlen(prefix) + strlen(suffix) + 1);
    if (!path) return rw_fail_memory(err, strlen(prefix));
    strcat(strcpy(path, prefix), suffix);
    rw_status s = rw_writer_open(w, path, err);
    rw_free(path);
    return s;
}

rw_status rw_binidx_create(rw_binidx_writer **out, const char *prefix, int dtype_code, rw_error *err) {
    *out = NULL;
    rw_binidx_writer *w = rw_alloc(sizeof *w);
    if (!w) return rw_fail_memory(err, sizeof *w);
    w->dtype_code = dtype_code;
    w->id_bytes = dtype_code == RW_BINIDX_I32 ? 4 : 2;
    rw_status s = open_writer(&w->bin, prefix, ".bin", err);
    if (s == RW_OK) s = open_writer(&w->idx, prefix, ".idx", err);
    if (s == RW_OK)
        *out = w;
    else
        rw_binidx_abort(w);
    return s;
}

static void put_ids(rw_binidx_writer *w, const uint16_t *ids, int64_t n) {
    unsigned char b[4096];
    size_t used = 0;
    for (int64_t i = 0; i < n; i++) {
        b[used++] = (unsigned char)ids[i];
        b[used++] = (unsigned char)(ids[i] >> 8);
        for (int k = 2; k < w->id_bytes; k++) b[used++] = 0;
        if (used < sizeof b && i < n - 1) continue;
        rw_writer_put(&w->bin, b, (int64_t)used);
        used = 0;
    }
}

rw_status rw_binidx_write(rw_binidx_writer *w, const uint16_t *ids, int64_t n, rw_error *err) {
    if (n > INT32_MAX) return rw_fail(err, RW_E_DATA, RW_AT_NONE, "a document of more than 2^31-1 tokens");
    void *p = w->sizes;
    bool ok = rw_grow(&p, &w->cap, w->n + 1, sizeof *w->sizes);
    w->sizes = p;
    if (!ok) return rw_fail_memory(err, (w->n + 1) * sizeof *w->sizes);
    w->sizes[w->n++] = (int32_t)n;
    put_ids(w, ids, n);
    const rw_error *e = &w->bin.error;
    return e->code == RW_OK ? RW_OK : rw_fail(err, e->code, RW_AT_NONE, "%s", e->msg);
}

static void put_index(rw_binidx_writer *w) {
    unsigned char code = (unsigned char)w->dtype_code;
    rw_writer_put(&w->idx, magic, 9);
    put_u64(&w->idx, 1);
    rw_writer_put(&w->idx, &code, 1);
    put_u64(&w->idx, w->n);
    put_u64(&w->idx, w->n + 1);
    for (size_t i = 0; i < w->n; i++) {
        uint32_t x = (uint32_t)w->sizes[i];
        unsigned char b[4] = {(unsigned char)x, (unsigned char)(x >> 8), (unsigned char)(x >> 16),
                              (unsigned char)(x >> 24)};
        rw_writer_put(&w->idx, b, 4);
    }
    uint64_t pointer = 0;
    for (size_t i = 0; i < w->n; i++) {
        put_u64(&w->idx, pointer);
        pointer += (uint64_t)w->sizes[i] * (uint64_t)w->id_bytes;
    }
    for (size_t i = 0; i <= w->n; i++) put_u64(&w->idx, i);
}

rw_status rw_binidx_commit(rw_binidx_writer *w, rw_error *err) {
    put_index(w);
    /* An index that failed is committed first: that reports its error and leaves the .bin alone. */
    rw_writer *order[2] = {&w->bin, &w->idx};
    if (w->idx.error.code != RW_OK) order[0] = &w->idx;
    rw_status s = rw_writer_commit(order[0], err);
    if (s == RW_OK) s = rw_writer_commit(order[1], err);
    rw_binidx_abort(w);
    return s;
}

void rw_binidx_abort(rw_binidx_writer *w) {
    if (!w) return;
    rw_writer_abort(&w->bin);
    rw_writer_abort(&w->idx);
    rw_free(w->sizes);
    rw_free(w);
}
