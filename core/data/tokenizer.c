/* World tokenizer: a vocabulary file turned into a double-array trie, and the greedy walk over it.
 *
 * The trie is one array of 8-byte cells. The child of a cell by byte c is at `base ^ c` and carries c as
 * its label, so that a step is one xor, one load and one compare. Bases are unique, therefore the label alone
 * tells whose child a cell is. The nodes with several children are placed first, breadth first: the beginnings of
 * tokens, which every walk visits, share few cache lines; chains fill the holes.
 *
 * Limits: ids below 65536, entries of at most 1024 bytes, files of at most 32 MB. */
#include "core/data/tokenizer.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/rng.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ID    65535
#define MAX_ENTRY 1024
#define MAX_FILE  (32 << 20)
#define MAX_CELLS (1 << 24)
#define MAX_TRIES 512 /* free cells looked at for one node */
#define NO_LABEL  0xffffu

/* base: where the children are; label: the byte that leads here, or NO_LABEL; id: token that ends here, or 0. */
typedef struct {
    uint32_t base;
    uint16_t label;
    uint16_t id;
} cell;

typedef struct {
    uint32_t offset; /* into `bytes` */
    uint32_t n;      /* 0: no such id */
} entry;

struct rw_tokenizer {
    bool is_byte;
    uint64_t hash;
    int64_t vocab_size;
    size_t longest; /* bytes of the longest entry */
    entry *entries; /* [vocab_size] */
    size_t entries_cap;
    char *bytes; /* of all entries, back to back */
    size_t bytes_len, bytes_cap;
    cell *cells;
    size_t n_cells, cells_cap;
};

/* -- reading a line ------------------------------------------------------------------------------- */

/* A line of the file while it is read. */
typedef struct {
    rw_where at;
    const char *p, *end;
} cursor;

static rw_status bad_line(const cursor *c, rw_error *err, const char *what) {
    return rw_fail(err, RW_E_FORMAT, c->at, "not a line of a World vocabulary (id 'text' length): %s",
                   rw_message(what));
}

static bool read_number(cursor *c, int64_t *x) {
    const char *start = c->p;
    *x = 0;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9' && *x < 1000000000) *x = *x * 10 + (*c->p++ - '0');
    return c->p > start;
}

static int hex_digit(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    if (ch >= 'a' && ch <= 'f') return ch - 'a' + 10;
    return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

static bool read_hex(cursor *c, int n_digits, uint32_t *x) {
    *x = 0;
    for (int i = 0; i < n_digits; i++) {
        int d = c->p < c->end ? hex_digit(*c->p) : -1;
        if (d < 0) return false;
        *x = *x << 4 | (uint32_t)d;
        c->p++;
    }
    return true;
}

/* Room for one entry and what is too long for one. */
typedef struct {
    char bytes[MAX_ENTRY + 4];
    size_t n;
} literal;

static bool put_byte(literal *l, uint32_t b) {
    if (b > 255 || l->n >= MAX_ENTRY) return false;
    l->bytes[l->n++] = (char)b;
    return true;
}

static bool put_utf8(literal *l, uint32_t u) {
    if (u > 0x10ffff || (u >= 0xd800 && u < 0xe000)) return false;
    if (u < 0x80) return put_byte(l, u);
    if (u < 0x800) return put_byte(l, 0xc0 | u >> 6) && put_byte(l, 0x80 | (u & 63));
    if (u < 0x10000)
        return put_byte(l, 0xe0 | u >> 12) && put_byte(l, 0x80 | (u >> 6 & 63)) && put_byte(l, 0x80 | (u & 63));
    return put_byte(l, 0xf0 | u >> 18) && put_byte(l, 0x80 | (u >> 12 & 63)) && put_byte(l, 0x80 | (u >> 6 & 63)) &&
           put_byte(l, 0x80 | (u & 63));
}

static bool read_octal(cursor *c, uint32_t *x) {
    *x = 0;
    for (int i = 0; i < 3 && c->p < c->end && *c->p >= '0' && *c->p <= '7'; i++)
        *x = *x * 8 + (uint32_t)(*c->p++ - '0');
    return true;
}

/* What follows a backslash, as Python reads it; an unknown escape keeps its backslash. */
static bool read_escape(cursor *c, literal *l, bool is_bytes) {
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    if (c->p >= c->end) return false;
    char ch = *c->p;
    const char *simple = ch ? strchr(names, ch) : NULL;
    if (simple) {
        c->p++;
        return put_byte(l, (uint8_t)values[simple - names]);
    }
    uint32_t x;
    if (ch >= '0' && ch <= '7') {
        read_octal(c, &x);
        return is_bytes ? put_byte(l, x & 255) : put_utf8(l, x);
    }
    int n_digits = ch == 'x' ? 2 : is_bytes ? 0 : ch == 'u' ? 4 : ch == 'U' ? 8 : 0;
    if (n_digits) {
        c->p++;
        return read_hex(c, n_digits, &x) && (is_bytes ? put_byte(l, x) : put_utf8(l, x));
    }
    if (ch == 'N' && !is_bytes) return false; /* names of characters are not known here */
    return put_byte(l, '\\');
}

/* A literal with its quotes; c->p is after it then. */
static bool read_literal(cursor *c, literal *l) {
    l->n = 0;
    bool is_bytes = c->p < c->end && (*c->p == 'b' || *c->p == 'B');
    if (is_bytes || (c->p < c->end && (*c->p == 'u' || *c->p == 'U'))) c->p++;
    if (c->p >= c->end || (*c->p != '\'' && *c->p != '"')) return false;
    char quote = *c->p++;
    while (c->p < c->end && *c->p != quote) {
        char ch = *c->p++;
        if (is_bytes && (uint8_t)ch >= 0x80) return false;
        if (ch == '\\' ? !read_escape(c, l, is_bytes) : !put_byte(l, (uint8_t)ch)) return false;
    }
    return c->p < c->end && *c->p++ == quote;
}

static bool skip_space(cursor *c) {
    const char *start = c->p;
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t')) c->p++;
    return c->p > start;
}

/* -- entries -------------------------------------------------------------------------------------- */

static rw_status add_entry(rw_tokenizer *t, const cursor *c, int64_t id, const literal *l, rw_error *err) {
    if (id < 1 || id > MAX_ID)
        return rw_fail(err, RW_E_FORMAT, c->at, "id %lld: expected 1 .. %d (0 ends a document)", (long long)id, MAX_ID);
    if (!rw_grow((void **)&t->entries, &t->entries_cap, (size_t)id + 1, sizeof(entry)) ||
        !rw_grow((void **)&t->bytes, &t->bytes_cap, t->bytes_len + l->n, 1))
        return rw_fail_memory(err, t->bytes_len + l->n);
    for (; t->vocab_size <= id; t->vocab_size++) t->entries[t->vocab_size] = (entry){0};
    if (t->entries[id].n) return rw_fail(err, RW_E_FORMAT, c->at, "id %lld occurs twice", (long long)id);
    t->entries[id] = (entry){(uint32_t)t->bytes_len, (uint32_t)l->n};
    memcpy(t->bytes + t->bytes_len, l->bytes, l->n);
    if (l->n > t->longest) t->longest = l->n;
    t->bytes_len += l->n;
    return RW_OK;
}

static rw_status read_line(rw_tokenizer *t, cursor *c, rw_error *err) {
    int64_t id, n_bytes;
    literal l;
    if (!read_number(c, &id) || !skip_space(c)) return bad_line(c, err, "expected an id and a space");
    size_t left = (size_t)(c->end - c->p);
    if (rw_utf8_valid_prefix(c->p, left) != left) return bad_line(c, err, "it is not valid UTF-8");
    if (!read_literal(c, &l)) return bad_line(c, err, "the text is not a Python string or bytes literal");
    if (!skip_space(c) || !read_number(c, &n_bytes)) return bad_line(c, err, "expected the length in bytes");
    skip_space(c);
    if (c->p != c->end) return bad_line(c, err, "there is more after the length");
    if (n_bytes != (int64_t)l.n || l.n == 0)
        return rw_fail(err, RW_E_FORMAT, c->at, "id %lld has %zu bytes, but the line says %lld", (long long)id, l.n,
                       (long long)n_bytes);
    return add_entry(t, c, id, &l, err);
}

static rw_status read_lines(rw_tokenizer *t, const char *name, const char *text, size_t n, rw_error *err) {
    const char *p = text, *end = text + n;
    for (int line = 1; p < end; line++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *next = eol ? eol + 1 : end;
        if (!eol) eol = end;
        if (eol > p && eol[-1] == '\r') eol--;
        cursor c = {{.file = name, .line = line}, p, eol};
        if (eol > p) RW_TRY(read_line(t, &c, err));
        p = next;
    }
    if (t->vocab_size == 0) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(name), "the vocabulary is empty");
    return RW_OK;
}

/* -- the trie ------------------------------------------------------------------------------------- */

/* An entry under sorting; equal beginnings are neighbours, so a node of the trie is a range of these. */
typedef struct {
    const char *p;
    uint32_t n;
    uint32_t id;
} item;

typedef struct {
    uint32_t lo, hi; /* items below this node, longer than depth */
    uint32_t depth;
    uint32_t at; /* its cell */
} node;

typedef struct {
    node *nodes;
    size_t n, cap, first;
} queue;

/* What only the building knows of a cell. */
typedef struct {
    uint32_t prev, next; /* in the list of free cells */
    bool base_used;      /* some node has its children at this base */
} slot;

typedef struct {
    rw_tokenizer *t;
    item *items;
    slot *slots; /* [n_cells] */
    size_t slots_cap;
    queue wide, narrow; /* nodes with several children, with one */
} builder;

static int compare_items(const void *va, const void *vb) {
    const item *a = va, *b = vb;
    int d = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (d) return d;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Appends 256 free cells to the array and to the end of the list of free ones, whose anchor is cell 0. */
static bool add_block(builder *b) {
    size_t n = b->t->n_cells + 256;
    if (n > MAX_CELLS) return false;
    if (!rw_grow((void **)&b->t->cells, &b->t->cells_cap, n, sizeof(cell)) ||
        !rw_grow((void **)&b->slots, &b->slots_cap, n, sizeof(slot)))
        return false;
    if (b->t->n_cells == 0) b->slots[0] = (slot){0};
    for (size_t i = b->t->n_cells; i < n; i++) {
        b->t->cells[i] = (cell){0, NO_LABEL, 0};
        b->slots[i].base_used = false;
        if (i < 256) continue; /* the root's children are never free */
        b->slots[i].next = 0;
        b->slots[i].prev = b->slots[0].prev;
        b->slots[b->slots[0].prev].next = (uint32_t)i;
        b->slots[0].prev = (uint32_t)i;
    }
    b->t->n_cells = n;
    return true;
}

static void take_cell(builder *b, uint32_t i) {
    slot *s = b->slots;
    s[s[i].prev].next = s[i].next;
    s[s[i].next].prev = s[i].prev;
}

static bool fits(const builder *b, uint32_t base, const uint8_t *labels, int n) {
    if (b->slots[base].base_used) return false;
    for (int i = 0; i < n; i++)
        if (b->t->cells[base ^ labels[i]].label != NO_LABEL) return false;
    return true;
}

/* A base under which all labels fall on free cells. Several children are looked for from the end and with a bound,
 * so that the time stays linear; the holes that this leaves take the single ones. A fresh block always fits. */
static bool find_base(builder *b, const uint8_t *labels, int n, uint32_t *base) {
    int tries = MAX_TRIES;
    uint32_t i = n > 1 ? b->slots[0].prev : b->slots[0].next;
    for (; i && tries > 0; tries--) {
        *base = i ^ labels[0];
        if (fits(b, *base, labels, n)) return true;
        i = n > 1 ? b->slots[i].prev : b->slots[i].next;
    }
    *base = (uint32_t)b->t->n_cells;
    return add_block(b);
}

/* The different next bytes of a node, in order, and where the items of each begin. Returns how many. */
static int children_of(const builder *b, const node *v, uint8_t *labels, uint32_t *starts) {
    int n = 0;
    for (uint32_t i = v->lo; i < v->hi; i++) {
        uint8_t c = (uint8_t)b->items[i].p[v->depth];
        if (n && labels[n - 1] == c) continue;
        labels[n] = c;
        starts[n++] = i;
    }
    starts[n] = v->hi;
    return n;
}

static bool push(builder *b, node v) {
    bool wide = b->items[v.lo].p[v.depth] != b->items[v.hi - 1].p[v.depth];
    queue *q = wide ? &b->wide : &b->narrow;
    if (!rw_grow((void **)&q->nodes, &q->cap, q->n + 1, sizeof(node))) return false;
    q->nodes[q->n++] = v;
    return true;
}

/* Gives the children of a node their cells; those with children of their own wait in the queues. */
static bool place(builder *b, const node *v) {
    uint8_t labels[256];
    uint32_t starts[257], base = 0;
    int n = children_of(b, v, labels, starts);
    bool root = v->depth == 0;
    if (!root && !find_base(b, labels, n, &base)) return false;
    b->slots[base].base_used = true;
    if (!root) b->t->cells[v->at].base = base;
    for (int i = 0; i < n; i++) {
        node child = {starts[i], starts[i + 1], v->depth + 1, base ^ labels[i]};
        cell *c = &b->t->cells[child.at];
        c->label = labels[i];
        if (!root) take_cell(b, child.at);
        if (b->items[child.lo].n == child.depth) c->id = (uint16_t)b->items[child.lo++].id;
        if (child.lo < child.hi && !push(b, child)) return false;
    }
    return true;
}

static bool place_all(builder *b, uint32_t n_items) {
    node root = {0, n_items, 0, 0}, v;
    if (!add_block(b) || !place(b, &root)) return false;
    for (;;) {
        if (b->wide.first < b->wide.n)
            v = b->wide.nodes[b->wide.first++];
        else if (b->narrow.n > 0)
            v = b->narrow.nodes[--b->narrow.n];
        else
            return true;
        if (!place(b, &v)) return false;
    }
}

static rw_status sort_items(rw_tokenizer *t, item *items, uint32_t *n_items, const char *name, rw_error *err) {
    uint32_t n = 0;
    for (int64_t id = 0; id < t->vocab_size; id++)
        if (t->entries[id].n) items[n++] = (item){t->bytes + t->entries[id].offset, t->entries[id].n, (uint32_t)id};
    qsort(items, n, sizeof *items, compare_items);
    for (uint32_t i = 1; i < n; i++)
        if (items[i].n == items[i - 1].n && !memcmp(items[i].p, items[i - 1].p, items[i].n))
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(name), "ids %u and %u have the same text", items[i - 1].id,
                           items[i].id);
    *n_items = n;
    return RW_OK;
}

static rw_status check_bytes(const rw_tokenizer *t, const char *name, rw_error *err) {
    for (int b = 0; b < 256; b++)
        if (t->cells[b].id == 0)
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(name),
                           "no entry for the single byte 0x%02x: some texts could not be encoded", b);
    return RW_OK;
}

/* The cells of the root are found without a look at their labels. Without labels they are nobody's children,
 * so that base 0, which every leaf has, leads to no match. */
static void clear_root_labels(rw_tokenizer *t) {
    for (int b = 0; b < 256; b++) t->cells[b].label = NO_LABEL;
}

static rw_status build(rw_tokenizer *t, const char *name, rw_error *err) {
    builder b = {.t = t};
    uint32_t n = 0;
    b.items = rw_alloc_array((size_t)t->vocab_size, sizeof(item));
    rw_status s =
        b.items ? sort_items(t, b.items, &n, name, err) : rw_fail_memory(err, (size_t)t->vocab_size * sizeof(item));
    if (s == RW_OK && !place_all(&b, n))
        s = rw_fail(err, RW_E_MEMORY, RW_AT_FILE(name), "not enough memory for the trie (%zu cells)", t->n_cells);
    if (s == RW_OK) s = check_bytes(t, name, err);
    if (s == RW_OK) clear_root_labels(t);
    rw_free(b.wide.nodes);
    rw_free(b.narrow.nodes);
    rw_free(b.slots);
    rw_free(b.items);
    return s;
}

/* -- opening -------------------------------------------------------------------------------------- */

/* Gives back what the doubling of the arrays left over; keeps them as they are when memory is short. */
static void shrink(void **p, size_t *cap, size_t n, size_t size) {
    void *small = n ? rw_realloc(*p, n * size) : NULL;
    if (!small) return;
    *p = small;
    *cap = n;
}

rw_status rw_tokenizer_parse(rw_tokenizer **out, const char *name, const char *text, size_t n, rw_error *err) {
    *out = NULL;
    if (n > MAX_FILE) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(name), "too large for a vocabulary");
    rw_tokenizer *t = rw_alloc(sizeof *t);
    if (!t) return rw_fail_memory(err, sizeof *t);
    rw_status s = read_lines(t, name, text, n, err);
    if (s == RW_OK) s = build(t, name, err);
    if (s != RW_OK) {
        rw_tokenizer_close(t);
        return s;
    }
    t->hash = rw_hash64(t->bytes, t->bytes_len, rw_hash64(t->entries, (uint64_t)t->vocab_size * sizeof(entry), 0));
    shrink((void **)&t->bytes, &t->bytes_cap, t->bytes_len, 1);
    shrink((void **)&t->cells, &t->cells_cap, t->n_cells, sizeof(cell));
    shrink((void **)&t->entries, &t->entries_cap, (size_t)t->vocab_size, sizeof(entry));
    *out = t;
    return RW_OK;
}

static rw_status open_world(rw_tokenizer **out, const char *path, rw_error *err) {
    char *text;
    int64_t n;
    if (!path) return rw_fail(err, RW_E_RECIPE, RW_AT_NONE, "the world tokenizer needs a vocabulary file");
    RW_TRY(rw_file_slurp(path, MAX_FILE, &text, &n, err));
    rw_status s = rw_tokenizer_parse(out, path, text, (size_t)n, err);
    rw_free(text);
    return s;
}

static rw_status open_byte(rw_tokenizer **out, rw_error *err) {
    rw_tokenizer *t = rw_alloc(sizeof *t);
    if (!t) return rw_fail_memory(err, sizeof *t);
    t->is_byte = true;
    t->longest = 1;
    t->vocab_size = 257;
    t->hash = rw_hash_name("byte");
    *out = t;
    return RW_OK;
}

rw_status rw_tokenizer_open(rw_tokenizer **out, rw_tokenizer_choice kind, const char *vocab_file, rw_error *err) {
    *out = NULL;
    switch (kind) {
    case RW_TOKENIZER_WORLD:
        return open_world(out, vocab_file, err);
    case RW_TOKENIZER_BYTE:
        return open_byte(out, err);
    case RW_TOKENIZER_NONE:
        break;
    }
    return rw_fail(err, RW_E_UNSUPPORTED, (rw_where){.key = "data.tokenizer"}, "text needs a tokenizer: world or byte");
}

void rw_tokenizer_close(rw_tokenizer *t) {
    if (!t) return;
    rw_free(t->cells);
    rw_free(t->bytes);
    rw_free(t->entries);
    rw_free(t);
}

const char *rw_tokenizer_kind(const rw_tokenizer *t) {
    return t->is_byte ? "byte" : "world";
}
int64_t rw_tokenizer_vocab_size(const rw_tokenizer *t) {
    return t->vocab_size;
}

int64_t rw_tokenizer_host_bytes(const rw_tokenizer *t) {
    return (int64_t)(sizeof *t + t->entries_cap * sizeof(entry) + t->bytes_cap + t->cells_cap * sizeof(cell));
}
uint64_t rw_tokenizer_hash(const rw_tokenizer *t) {
    return t->hash;
}

/* -- encoding ------------------------------------------------------------------------------------- */

/* The longest entry at p, which is at least one byte long. */
static inline const uint8_t *longest_match(const cell *cells, const uint8_t *p, const uint8_t *end, uint32_t *id) {
    cell c = cells[*p++];
    const uint8_t *last = p;
    *id = c.id;
    for (; p < end; p++) {
        c = cells[c.base ^ *p];
        if (c.label != *p) break;
        if (!c.id) continue;
        *id = c.id;
        last = p + 1;
    }
    return last;
}

#define ENCODE(name, type)                                                                                             \
    static size_t name(const rw_tokenizer *t, const uint8_t *p, const uint8_t *end, type *ids) {                       \
        type *out = ids;                                                                                               \
        if (t->is_byte) {                                                                                              \
            while (p < end) *out++ = (type)(*p++ + 1);                                                                 \
            return (size_t)(out - ids);                                                                                \
        }                                                                                                              \
        const cell *cells = t->cells;                                                                                  \
        for (uint32_t id; p < end;) {                                                                                  \
            p = longest_match(cells, p, end, &id);                                                                     \
            *out++ = (type)id;                                                                                         \
        }                                                                                                              \
        return (size_t)(out - ids);                                                                                    \
    }
ENCODE(encode_i32, int32_t)
ENCODE(encode_u16, uint16_t)

size_t rw_tokenizer_encode(const rw_tokenizer *t, const void *bytes, size_t n, int32_t *ids) {
    return n ? encode_i32(t, bytes, (const uint8_t *)bytes + n, ids) : 0;
}

size_t rw_tokenizer_encode_u16(const rw_tokenizer *t, const void *bytes, size_t n, uint16_t *ids) {
    return n ? encode_u16(t, bytes, (const uint8_t *)bytes + n, ids) : 0;
}

size_t rw_tokenizer_encode_part(const rw_tokenizer *t, const void *bytes, size_t n, uint16_t *ids, size_t *n_ids) {
    const uint8_t *start = bytes, *p = start, *end = start + n;
    *n_ids = 0;
    while ((size_t)(end - p) > t->longest) {
        uint32_t id = *p + 1u;
        p = t->is_byte ? p + 1 : longest_match(t->cells, p, end, &id);
        ids[(*n_ids)++] = (uint16_t)id;
    }
    return (size_t)(p - start);
}

/* -- decoding ------------------------------------------------------------------------------------- */

/* All bytes in order, for the byte tokenizer to hand out. */
#define BYTES4(b)  (char)(b), (char)((b) + 1), (char)((b) + 2), (char)((b) + 3)
#define BYTES16(b) BYTES4(b), BYTES4((b) + 4), BYTES4((b) + 8), BYTES4((b) + 12)
#define BYTES64(b) BYTES16(b), BYTES16((b) + 16), BYTES16((b) + 32), BYTES16((b) + 48)
static const char single_bytes[256] = {BYTES64(0), BYTES64(64), BYTES64(128), BYTES64(192)};

const char *rw_tokenizer_token_at(const rw_tokenizer *t, int64_t id, size_t *n) {
    *n = 0;
    if (id <= 0 || id >= t->vocab_size) return NULL;
    *n = t->is_byte ? 1 : t->entries[id].n;
    if (t->is_byte) return single_bytes + (id - 1);
    return *n ? t->bytes + t->entries[id].offset : NULL;
}

void rw_tokenizer_decode(const rw_tokenizer *t, const int32_t *ids, size_t n, rw_str *out) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = rw_tokenizer_token_at(t, ids[i], &len);
        if (bytes) rw_str_append_n(out, bytes, len);
    }
}
