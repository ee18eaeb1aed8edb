/* A stack machine over immutable-looking values in an arena: an opcode makes at most one value, references are
 * shared, nothing recurses, so that memory and time are bounded by the length of the pickle. */
#include "core/checkpoint/pickle.h"

#include "core/base/alloc.h"
#include "core/base/dtype.h"
#include "core/checkpoint/little_endian.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef enum { MARK, NONE, BOOLEAN, INTEGER, FLOAT, STRING, TUPLE, LIST, DICT, GLOBAL, STORAGE, TENSOR } value_kind;

static const char *const kind_names[] = {"a mark",    "None",    "a boolean", "an integer",   "a float",
                                         "a string",  "a tuple", "a list",    "a dictionary", "a class or function",
                                         "a storage", "a tensor"};

static const char *name_of(value_kind kind) {
    return rw_message(kind_names[kind]);
}

typedef enum { ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, STORAGE_TYPE } known_global;

struct rw_pickle_value {
    value_kind kind;
    union {
        int64_t integer;
        const char *string; /* no NUL inside */
        struct {
            rw_pickle_value **items; /* DICT: key, value, key, value, ... */
            int64_t n, cap;
        } seq;
        struct {
            known_global what;
            rw_dtype dtype; /* STORAGE_TYPE */
        } global;
        struct {
            const char *key;
            rw_dtype dtype;
            int64_t numel;
        } storage;
        rw_pickle_tensor *tensor; /* without a name */
    } u;
};

typedef rw_pickle_value value;

#define MAX_VALUES ((int64_t)2 << 20)

typedef struct {
    const uint8_t *bytes;
    int64_t n, at; /* length; next byte */
    int64_t op;    /* where the present opcode is */
    rw_where where;
    rw_arena *arena; /* borrowed */
    rw_error *err;
    value **stack; /* owned */
    size_t n_stack, cap_stack;
    value **memo; /* owned */
    size_t n_memo, cap_memo;
    int64_t n_values;
    bool stopped;
} machine;

/* -- errors ------------------------------------------------------------------------------------------ */

static rw_status bad(const machine *m, const char *fmt, ...) RW_PRINTF(2, 3);
static rw_status bad(const machine *m, const char *fmt, ...) {
    char what[600];
    va_list ap;
    va_start(ap, fmt);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(what, sizeof what, rw_message(fmt), ap);
#pragma GCC diagnostic pop
    va_end(ap);
    return rw_fail(m->err, RW_E_FORMAT, m->where, "pickle, byte %lld: %s", (long long)m->op, what);
}

/* -- values and the stack ---------------------------------------------------------------------------- */

static value *make(machine *m, value_kind kind) {
    if (m->n_values >= MAX_VALUES) {
        bad(m, "more than %lld values; this is not a dictionary of tensors", (long long)MAX_VALUES);
        return NULL;
    }
    value *v = rw_arena_alloc(m->arena, sizeof *v);
    if (!v) rw_fail_memory(m->err, sizeof *v);
    if (v) v->kind = kind;
    m->n_values++;
    return v;
}

/* What make() or a pop has left in the error. */
static rw_status failed(const machine *m) {
    return m->err && m->err->code ? m->err->code : RW_E_FORMAT;
}

static rw_status push(machine *m, value *v) {
    if (!v) return failed(m);
    if (!rw_grow((void **)&m->stack, &m->cap_stack, m->n_stack + 1, sizeof *m->stack))
        return rw_fail_memory(m->err, (m->n_stack + 1) * sizeof *m->stack);
    m->stack[m->n_stack++] = v;
    return RW_OK;
}

static rw_status push_integer(machine *m, value_kind kind, int64_t x) {
    value *v = make(m, kind);
    if (v) v->u.integer = x;
    return push(m, v);
}

/* The top value, or NULL with an error when there is none above the last mark. */
static value *pop(machine *m) {
    if (m->n_stack && m->stack[m->n_stack - 1]->kind != MARK) return m->stack[--m->n_stack];
    bad(m, "the stack is empty");
    return NULL;
}

/* How many values are above the last mark; -1 with an error when there is no mark. */
static int64_t above_mark(machine *m) {
    for (size_t i = m->n_stack; i-- > 0;)
        if (m->stack[i]->kind == MARK) return (int64_t)(m->n_stack - 1 - i);
    bad(m, "no mark on the stack");
    return -1;
}

static rw_status add(machine *m, value *to, value *x) {
    if (to->u.seq.n == to->u.seq.cap) {
        int64_t cap = to->u.seq.cap ? 2 * to->u.seq.cap : 8;
        value **items = rw_arena_alloc(m->arena, (size_t)cap * sizeof *items);
        if (!items) return rw_fail_memory(m->err, (size_t)cap * sizeof *items);
        if (to->u.seq.n) memcpy(items, to->u.seq.items, (size_t)to->u.seq.n * sizeof *items);
        to->u.seq.items = items;
        to->u.seq.cap = cap;
    }
    to->u.seq.items[to->u.seq.n++] = x;
    return RW_OK;
}

/* -- reading bytes ----------------------------------------------------------------------------------- */

/* The next n bytes, or NULL with an error. */
static const uint8_t *take(machine *m, int64_t n) {
    if (n > m->n - m->at) {
        bad(m, "ends in the middle of an opcode");
        return NULL;
    }
    m->at += n;
    return m->bytes + m->at - n;
}

static rw_status push_string(machine *m, int64_t n) {
    const uint8_t *p = take(m, n);
    if (!p) return failed(m);
    if (memchr(p, 0, (size_t)n)) return bad(m, "a string with a NUL in it");
    if (rw_utf8_valid_prefix((const char *)p, (size_t)n) != (size_t)n) return bad(m, "a string that is not UTF-8");
    value *v = make(m, STRING);
    if (!v) return failed(m);
    v->u.string = rw_arena_strndup(m->arena, (const char *)p, (size_t)n);
    if (!v->u.string) return rw_fail_memory(m->err, (size_t)n);
    return push(m, v);
}

/* A line up to '\n', at most 200 bytes, into out[201]. */
static rw_status take_line(machine *m, char *out) {
    int64_t n = 0;
    while (m->at < m->n && m->bytes[m->at] != '\n' && n < 200) out[n++] = (char)m->bytes[m->at++];
    out[n] = 0;
    if (m->at >= m->n || m->bytes[m->at] != '\n') return bad(m, "a name without an end of line");
    m->at++;
    if (strlen(out) != (size_t)n || rw_utf8_valid_prefix(out, (size_t)n) != (size_t)n)
        return bad(m, "a name that is not text");
    return RW_OK;
}

/* -- opcodes: plain values --------------------------------------------------------------------------- */

static rw_status op_mark(machine *m) {
    return push(m, make(m, MARK));
}
static rw_status op_none(machine *m) {
    return push(m, make(m, NONE));
}
static rw_status op_newtrue(machine *m) {
    return push_integer(m, BOOLEAN, 1);
}
static rw_status op_newfalse(machine *m) {
    return push_integer(m, BOOLEAN, 0);
}
static rw_status op_empty_tuple(machine *m) {
    return push(m, make(m, TUPLE));
}
static rw_status op_empty_list(machine *m) {
    return push(m, make(m, LIST));
}
static rw_status op_empty_dict(machine *m) {
    return push(m, make(m, DICT));
}

static rw_status op_stop(machine *m) {
    m->stopped = true;
    return RW_OK;
}

static rw_status op_proto(machine *m) {
    const uint8_t *p = take(m, 1);
    if (!p) return failed(m);
    if (*p <= 3) return RW_OK; /* 3 adds bytes, which a dictionary of tensors has not */
    return bad(m,
               "protocol %d; expected 2, torch.save's default. Load the file in Python and save it again without "
               "pickle_protocol",
               *p);
}

static rw_status op_binfloat(machine *m) {
    return take(m, 8) ? push_integer(m, FLOAT, 0) : failed(m);
}

static rw_status op_binint(machine *m) {
    const uint8_t *p = take(m, 4);
    return p ? push_integer(m, INTEGER, (int32_t)rw_le32(p)) : failed(m);
}

static rw_status op_binint1(machine *m) {
    const uint8_t *p = take(m, 1);
    return p ? push_integer(m, INTEGER, *p) : failed(m);
}

static rw_status op_binint2(machine *m) {
    const uint8_t *p = take(m, 2);
    return p ? push_integer(m, INTEGER, rw_le16(p)) : failed(m);
}

/* Two's complement, little-endian, 0 to 8 bytes: wider ones do not occur in a dictionary of tensors. */
static rw_status op_long1(machine *m) {
    const uint8_t *p = take(m, 1);
    int n = p ? *p : 0;
    if (!p || !(p = take(m, n))) return failed(m);
    if (n > 8) return bad(m, "opcode LONG1 with an integer of %d bytes refused", n);
    uint64_t x = n && p[n - 1] & 0x80 ? UINT64_MAX : 0;
    for (int i = n; i-- > 0;) x = x << 8 | p[i];
    return push_integer(m, INTEGER, (int64_t)x);
}

static rw_status op_binunicode(machine *m) {
    const uint8_t *p = take(m, 4);
    return p ? push_string(m, rw_le32(p)) : failed(m);
}

static rw_status op_short_binstring(machine *m) {
    const uint8_t *p = take(m, 1);
    return p ? push_string(m, *p) : failed(m);
}

/* -- opcodes: containers ----------------------------------------------------------------------------- */

static rw_status make_tuple(machine *m, int64_t n) {
    if (n < 0 || (int64_t)m->n_stack < n) return n < 0 ? failed(m) : bad(m, "the stack is empty");
    value *t = make(m, TUPLE);
    if (!t) return failed(m);
    for (int64_t i = 0; i < n; i++) {
        value *x = m->stack[m->n_stack - (size_t)(n - i)];
        if (x->kind == MARK) return bad(m, "a mark inside a tuple");
        RW_TRY(add(m, t, x));
    }
    m->n_stack -= (size_t)n;
    return push(m, t);
}

static rw_status op_tuple1(machine *m) {
    return make_tuple(m, 1);
}
static rw_status op_tuple2(machine *m) {
    return make_tuple(m, 2);
}
static rw_status op_tuple3(machine *m) {
    return make_tuple(m, 3);
}

static rw_status op_tuple(machine *m) {
    int64_t n = above_mark(m);
    RW_TRY(make_tuple(m, n));
    m->stack[m->n_stack - 2] = m->stack[m->n_stack - 1]; /* the tuple takes the place of the mark */
    m->n_stack--;
    return RW_OK;
}

/* Adds the n topmost values (and drops `marks` marks below them) to the container under them. */
static rw_status add_items(machine *m, value_kind kind, int64_t n, size_t marks) {
    if (n < 0) return failed(m);
    size_t below = (size_t)n + marks;
    if (m->n_stack <= below) return bad(m, "the stack is empty");
    value *to = m->stack[m->n_stack - below - 1];
    if (to->kind != kind) return bad(m, "items for %s, but the stack has %s", name_of(kind), name_of(to->kind));
    if (kind == DICT && n % 2) return bad(m, "a key without a value");
    for (int64_t i = n; i-- > 0;) {
        value *x = m->stack[m->n_stack - 1 - (size_t)i];
        if (x->kind == MARK) return bad(m, "a mark among the items");
        RW_TRY(add(m, to, x));
    }
    m->n_stack -= below;
    return RW_OK;
}

static rw_status op_append(machine *m) {
    return add_items(m, LIST, 1, 0);
}
static rw_status op_appends(machine *m) {
    return add_items(m, LIST, above_mark(m), 1);
}
static rw_status op_setitem(machine *m) {
    return add_items(m, DICT, 2, 0);
}
static rw_status op_setitems(machine *m) {
    return add_items(m, DICT, above_mark(m), 1);
}

/* -- opcodes: the memo ------------------------------------------------------------------------------- */

static rw_status memo_put(machine *m, uint32_t i) {
    if (!m->n_stack || m->stack[m->n_stack - 1]->kind == MARK) return bad(m, "nothing to remember");
    if (i >= m->at) return bad(m, "memo number %u is too large", i); /* they count up from 0: more bytes than numbers */
    if (!rw_grow((void **)&m->memo, &m->cap_memo, (size_t)i + 1, sizeof *m->memo))
        return rw_fail_memory(m->err, ((size_t)i + 1) * sizeof *m->memo);
    while (m->n_memo <= i) m->memo[m->n_memo++] = NULL;
    m->memo[i] = m->stack[m->n_stack - 1];
    return RW_OK;
}

static rw_status memo_get(machine *m, uint32_t i) {
    if (i >= m->n_memo || !m->memo[i]) return bad(m, "memo number %u was never set", i);
    return push(m, m->memo[i]);
}

static rw_status op_binput(machine *m) {
    const uint8_t *p = take(m, 1);
    return p ? memo_put(m, *p) : failed(m);
}

static rw_status op_long_binput(machine *m) {
    const uint8_t *p = take(m, 4);
    return p ? memo_put(m, rw_le32(p)) : failed(m);
}

static rw_status op_binget(machine *m) {
    const uint8_t *p = take(m, 1);
    return p ? memo_get(m, *p) : failed(m);
}

static rw_status op_long_binget(machine *m) {
    const uint8_t *p = take(m, 4);
    return p ? memo_get(m, rw_le32(p)) : failed(m);
}

/* -- opcodes: names, storages, tensors ---------------------------------------------------------------- */

static const struct {
    const char *module, *name;
    known_global what;
} known_globals[] = {
    {"collections", "OrderedDict", ORDERED_DICT},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER},
};

/* Tensors that are no plain numbers in a storage, and what makes plain ones of them in Python. */
static const struct {
    const char *name, *what;
} other_tensors[] = {
    {"_rebuild_tensor_v3", "a tensor of a type that torch has no storage class for, such as float8; load the file in "
                           "Python, convert its tensors with .to(torch.bfloat16) and save them again"},
    {"_rebuild_qtensor",
     "a quantized tensor; load the file in Python, call .dequantize() and save it again, or take the "
     "bf16 or fp16 file of the model"},
    {"_rebuild_sparse_tensor", "a sparse tensor; load the file in Python, call .to_dense() and save it again"},
    {"_rebuild_meta_tensor_no_storage", "a tensor of the meta device, which has no numbers; save the real weights"},
};

static rw_status refuse_global(machine *m, const char *module, const char *name) {
    for (size_t i = 0; i < sizeof other_tensors / sizeof *other_tensors; i++)
        if (!strcmp(module, "torch._utils") && !strcmp(name, other_tensors[i].name))
            return bad(m, "%s", rw_message(other_tensors[i].what));
    return bad(m,
               "opcode GLOBAL of %s.%s refused: a model file needs only tensors, and this name could run a program; "
               "if you trust the file, load it in Python and save its plain state_dict()",
               module, name);
}

static rw_status op_global(machine *m) {
    char module[201], name[201];
    RW_TRY(take_line(m, module));
    RW_TRY(take_line(m, name));
    value *v = make(m, GLOBAL);
    if (!v) return failed(m);
    for (size_t i = 0; i < sizeof known_globals / sizeof *known_globals; i++)
        if (!strcmp(module, known_globals[i].module) && !strcmp(name, known_globals[i].name)) {
            v->u.global.what = known_globals[i].what;
            return push(m, v);
        }
    rw_dtype dtype =
        strcmp(module, "torch") && strcmp(module, "torch.cuda") ? RW_DTYPE_NONE : rw_dtype_from_torch_storage(name);
    if (dtype == RW_DTYPE_NONE) return refuse_global(m, module, name);
    v->u.global.what = STORAGE_TYPE;
    v->u.global.dtype = dtype;
    return push(m, v);
}

/* Item i of a tuple, when it has this kind; NULL otherwise. */
static const value *item(const value *t, int64_t i, value_kind kind) {
    return t->kind == TUPLE && i < t->u.seq.n && t->u.seq.items[i]->kind == kind ? t->u.seq.items[i] : NULL;
}

/* ('storage', type, key, location, elements[, None]) */
static rw_status op_binpersid(machine *m) {
    const value *t = pop(m);
    if (!t) return failed(m);
    const value *word = item(t, 0, STRING), *type = item(t, 1, GLOBAL), *key = item(t, 2, STRING);
    const value *numel = item(t, 4, INTEGER);
    if (!word || strcmp(word->u.string, "storage") || !type || type->u.global.what != STORAGE_TYPE || !key || !numel ||
        numel->u.integer < 0 || (t->u.seq.n == 6 && !item(t, 5, NONE)) || t->u.seq.n > 6)
        return bad(m, "opcode BINPERSID refused: its argument is not a storage");
    value *v = make(m, STORAGE);
    if (!v) return failed(m);
    v->u.storage.key = key->u.string;
    v->u.storage.dtype = type->u.global.dtype;
    v->u.storage.numel = numel->u.integer;
    return push(m, v);
}

static bool read_sizes(const value *t, int64_t *out, int ndim) {
    for (int i = 0; i < ndim; i++) {
        const value *x = item(t, i, INTEGER);
        if (!x || x->u.integer < 0) return false;
        out[i] = x->u.integer;
    }
    return true;
}

static bool numel_overflows(const rw_pickle_tensor *t) {
    int64_t n = 16; /* bytes of an element, at most */
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] == 0) return false;
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n)) return true;
    return false;
}

static bool says_negative(const value *key, const value *x, rw_dtype dtype) {
    return key->kind == STRING && !strcmp(key->u.string, "neg") && x->kind == BOOLEAN && rw_dtype_is_float(dtype);
}

/* What torch adds to a view whose numbers are not those in the storage: {"neg": True}, {"conj": True}. Numbers are real
 * here, so only the first has a meaning; whatever else it may say is refused, since the storage has other numbers. */
static rw_status read_metadata(machine *m, const value *args, rw_dtype dtype, bool *negative) {
    const value *d = args->u.seq.n > 6 ? args->u.seq.items[6] : NULL;
    if (args->u.seq.n > 7) return bad(m, "_rebuild_tensor_v2 with %lld arguments; at most 7", (long long)args->u.seq.n);
    if (!d || d->kind == NONE) return RW_OK;
    if (d->kind != DICT) return bad(m, "_rebuild_tensor_v2 with %s as metadata", name_of(d->kind));
    for (int64_t i = 0; i + 1 < d->u.seq.n; i += 2) {
        const value *key = d->u.seq.items[i], *x = d->u.seq.items[i + 1];
        if (x->kind == BOOLEAN && !x->u.integer) continue;
        *negative = says_negative(key, x, dtype);
        if (*negative) continue;
        return bad(m,
                   "a lazy view ('%.40s'), whose numbers differ from the stored ones; load the file in Python, call "
                   ".resolve_neg().resolve_conj() on its tensors and save them again",
                   key->kind == STRING ? key->u.string : "?");
    }
    return RW_OK;
}

/* (storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static rw_status rebuild_tensor(machine *m, const value *args) {
    const value *storage = item(args, 0, STORAGE), *offset = item(args, 1, INTEGER);
    const value *size = item(args, 2, TUPLE), *stride = item(args, 3, TUPLE);
    if (!storage || !offset || !size || !stride || size->u.seq.n != stride->u.seq.n || offset->u.integer < 0)
        return bad(m, "_rebuild_tensor_v2 with arguments other than (storage, offset, size, stride, ...)");
    if (size->u.seq.n > RW_CHECKPOINT_MAX_DIM)
        return bad(m, "a tensor with %lld dimensions; at most %d", (long long)size->u.seq.n, RW_CHECKPOINT_MAX_DIM);
    bool negative = false;
    RW_TRY(read_metadata(m, args, storage->u.storage.dtype, &negative));
    value *v = make(m, TENSOR);
    rw_pickle_tensor *t = v ? rw_arena_alloc(m->arena, sizeof *t) : NULL;
    if (!v) return failed(m);
    if (!t) return rw_fail_memory(m->err, sizeof *t);
    *t = (rw_pickle_tensor){.storage = storage->u.storage.key,
                            .dtype = storage->u.storage.dtype,
                            .storage_numel = storage->u.storage.numel,
                            .offset = offset->u.integer,
                            .negative = negative,
                            .ndim = (int)size->u.seq.n};
    if (!read_sizes(size, t->shape, t->ndim) || !read_sizes(stride, t->stride, t->ndim) || numel_overflows(t))
        return bad(m, "a tensor with an impossible size or stride");
    v->u.tensor = t;
    return push(m, v);
}

static rw_status op_reduce(machine *m) {
    value *args = pop(m);
    value *f = args ? pop(m) : NULL;
    if (!f) return failed(m);
    if (f->kind != GLOBAL || args->kind != TUPLE) return bad(m, "opcode REDUCE of %s refused", name_of(f->kind));
    switch (f->u.global.what) {
    case ORDERED_DICT:
        if (args->u.seq.n) return bad(m, "opcode REDUCE of collections.OrderedDict with arguments refused");
        return push(m, make(m, DICT));
    case REBUILD_TENSOR:
        return rebuild_tensor(m, args);
    case REBUILD_PARAMETER:
        if (!item(args, 0, TENSOR)) return bad(m, "_rebuild_parameter of something other than a tensor");
        return push(m, args->u.seq.items[0]);
    default:
        return bad(m, "opcode REDUCE of a storage type refused");
    }
}

/* Attributes of an OrderedDict: torch keeps version numbers of modules there. */
static rw_status op_build(machine *m) {
    const value *state = pop(m);
    if (!state) return failed(m);
    if (!m->n_stack || m->stack[m->n_stack - 1]->kind != DICT || state->kind != DICT)
        return bad(m, "opcode BUILD of %s refused",
                   m->n_stack ? name_of(m->stack[m->n_stack - 1]->kind) : rw_message("an empty stack"));
    return RW_OK;
}

/* -- the machine ------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    rw_status (*run)(machine *m);
} opcodes[256] = {
#define RW_PICKLE(byte, name, run) [byte] = {#name, run},
#define RW_REFUSED(byte, name)     [byte] = {#name, NULL},
#include "core/checkpoint/pickle_opcodes.def"
#undef RW_PICKLE
#undef RW_REFUSED
};

static rw_status step(machine *m) {
    m->op = m->at;
    const uint8_t *p = take(m, 1);
    if (!p) return failed(m);
    if (opcodes[*p].run) return opcodes[*p].run(m);
    if (opcodes[*p].name)
        return bad(m, "opcode %s refused: torch.save does not use it for a dictionary of tensors", opcodes[*p].name);
    return bad(m, "byte 0x%02x is not an opcode; the file is damaged or not a torch file", *p);
}

rw_status rw_pickle_read(const void *bytes, int64_t n, rw_where at, rw_arena *a, const rw_pickle_value **root,
                         int64_t *used, rw_error *err) {
    rw_error unwanted = {0};
    machine m = {.bytes = bytes, .n = n, .where = at, .arena = a, .err = err ? err : &unwanted};
    rw_status status = RW_OK;
    *root = NULL;
    while (status == RW_OK && !m.stopped) status = step(&m);
    if (status == RW_OK) {
        *root = pop(&m);
        if (!*root) status = failed(&m);
    }
    if (used) *used = m.at;
    rw_free(m.stack);
    rw_free(m.memo);
    return status;
}

/* -- what was read ----------------------------------------------------------------------------------- */

static const value *dict_value(const value *d, const char *key) {
    for (int64_t i = 0; i + 1 < d->u.seq.n; i += 2)
        if (d->u.seq.items[i]->kind == STRING && !strcmp(d->u.seq.items[i]->u.string, key))
            return d->u.seq.items[i + 1];
    return NULL;
}

/* The dictionary of tensors itself: wrappers are taken off, three deep at most. */
static const value *unwrap(const value *d) {
    static const char *const wrappers[] = {"state_dict", "module", "model"};
    for (int depth = 0; depth < 3; depth++) {
        const value *inner = NULL;
        for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers && !inner; i++) {
            inner = dict_value(d, wrappers[i]);
            if (inner && inner->kind != DICT) inner = NULL;
        }
        if (!inner) return d;
        d = inner;
    }
    return d;
}

rw_status rw_pickle_tensors(const rw_pickle_value *root, rw_where at, rw_arena *a, rw_pickle_tensor **tensors,
                            int64_t *n, rw_error *err) {
    if (root->kind != DICT)
        return rw_fail(err, RW_E_FORMAT, at, "expected a dictionary of tensors, found %s", name_of(root->kind));
    const value *d = unwrap(root);
    int64_t count = d->u.seq.n / 2;
    *n = 0;
    *tensors = rw_arena_alloc(a, (size_t)(count ? count : 1) * sizeof **tensors);
    if (!*tensors) return rw_fail_memory(err, (size_t)count * sizeof **tensors);
    for (int64_t i = 0; i < count; i++) {
        const value *key = d->u.seq.items[2 * i], *x = d->u.seq.items[2 * i + 1];
        if (key->kind != STRING)
            return rw_fail(err, RW_E_FORMAT, at, "expected names as keys of the dictionary, found %s",
                           name_of(key->kind));
        if (x->kind != TENSOR)
            return rw_fail(err, RW_E_FORMAT, at,
                           "'%.200s' holds %s, expected a tensor; load the file in Python, keep only the weights and "
                           "save them again",
                           key->u.string, name_of(x->kind));
        (*tensors)[i] = *x->u.tensor;
        (*tensors)[i].name = key->u.string;
    }
    *n = count;
    return RW_OK;
}

rw_status rw_pickle_strings(const rw_pickle_value *root, rw_where at, rw_arena *a, const char ***strings, int64_t *n,
                            rw_error *err) {
    int64_t count = root->kind == LIST ? root->u.seq.n : -1;
    if (count < 0)
        return rw_fail(err, RW_E_FORMAT, at, "expected the list of storage keys, found %s", name_of(root->kind));
    *strings = rw_arena_alloc(a, (size_t)(count ? count : 1) * sizeof **strings);
    if (!*strings) return rw_fail_memory(err, (size_t)count * sizeof **strings);
    for (int64_t i = 0; i < count; i++) {
        const value *x = root->u.seq.items[i];
        if (x->kind != STRING)
            return rw_fail(err, RW_E_FORMAT, at, "expected storage keys, found %s", name_of(x->kind));
        (*strings)[i] = x->u.string;
    }
    *n = count;
    return RW_OK;
}
