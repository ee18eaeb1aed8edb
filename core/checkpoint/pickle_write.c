/* The same opcodes that torch.save uses. The memo holds only what is used again: class, function, words and storage
 * types, so that the numbers stay below 256; readers do not care. */
#include "core/base/dtype.h"
#include "core/checkpoint/little_endian.h"
#include "core/checkpoint/pickle.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Memo numbers. A storage type has MEMO_TYPE + its dtype. */
enum { MEMO_DICT_CLASS, MEMO_DICT, MEMO_REBUILD, MEMO_WORD, MEMO_LOCATION, MEMO_TYPE };

#define BATCH 1000 /* pairs between MARK and SETITEMS, as Python's pickler has it */

static void put_byte(rw_str *s, int x) {
    rw_str_append_n(s, (const uint8_t[]){(uint8_t)x}, 1);
}

static void put_remember(rw_str *s, int memo) {
    put_byte(s, 'q');
    put_byte(s, memo);
}

static void put_recall(rw_str *s, int memo) {
    put_byte(s, 'h');
    put_byte(s, memo);
}

static void put_string(rw_str *s, const char *text) {
    uint8_t h[5] = {'X'};
    rw_put_le32(h + 1, (uint32_t)strlen(text));
    rw_str_append_n(s, h, 5);
    rw_str_append(s, text);
}

/* BININT1, BININT2, BININT or LONG1: the shortest. x >= 0. */
static void put_integer(rw_str *s, int64_t x) {
    uint8_t b[10] = {0x8a, 0};
    if (x < 256) {
        rw_str_append_n(s, (const uint8_t[]){'K', (uint8_t)x}, 2);
    } else if (x < 65536) {
        rw_str_append_n(s, (const uint8_t[]){'M', (uint8_t)x, (uint8_t)(x >> 8)}, 3);
    } else if (x <= INT32_MAX) {
        b[0] = 'J';
        rw_put_le32(b + 1, (uint32_t)x);
        rw_str_append_n(s, b, 5);
    } else {
        rw_put_le64(b + 2, (uint64_t)x);
        int n = 8;
        while (b[2 + n - 1] == 0) n--;
        if (b[2 + n - 1] & 0x80) n++; /* a further zero byte keeps it positive */
        b[1] = (uint8_t)n;
        rw_str_append_n(s, b, (size_t)(2 + n));
    }
}

static void put_integers(rw_str *s, const int64_t *x, int n) {
    static const char *const tuples[] = {")", "\x85", "\x86", "\x87"};
    if (n > 3) put_byte(s, '(');
    for (int i = 0; i < n; i++) put_integer(s, x[i]);
    rw_str_append(s, n > 3 ? "t" : tuples[n]);
}

/* A global the first time, its memo number afterwards. */
static void put_global(rw_str *s, const char *module, const char *name, int memo, bool *known) {
    if (*known) {
        put_recall(s, memo);
        return;
    }
    rw_str_appendf(s, "c%s\n%s\n", module, name);
    put_remember(s, memo);
    *known = true;
}

static void put_word(rw_str *s, const char *word, int memo, bool known) {
    if (known) {
        put_recall(s, memo);
        return;
    }
    put_string(s, word);
    put_remember(s, memo);
}

/* ('storage', type, key, 'cpu', elements), BINPERSID. `first`: the words have no memo number yet. */
static void put_storage(rw_str *s, rw_dtype dtype, int64_t key, int64_t numel, bool first, bool *type_known) {
    char text[24];
    assert(*rw_dtype_torch_storage(dtype));
    snprintf(text, sizeof text, "%lld", (long long)key);
    put_byte(s, '(');
    put_word(s, "storage", MEMO_WORD, !first);
    put_global(s, "torch", rw_dtype_torch_storage(dtype), MEMO_TYPE + (int)dtype, type_known);
    put_string(s, text);
    put_word(s, "cpu", MEMO_LOCATION, !first);
    put_integer(s, numel);
    rw_str_append(s, "tQ");
}

static void put_tensor(rw_str *s, const rw_save_tensor *t, int64_t key, bool *rebuild_known, bool *type_known) {
    int64_t stride[RW_CHECKPOINT_MAX_DIM], numel = 1, next = 1;
    for (int i = t->ndim; i-- > 0;) {
        stride[i] = next;
        next *= t->shape[i] > 1 ? t->shape[i] : 1;
        numel *= t->shape[i];
    }
    bool first = !*rebuild_known;
    put_global(s, "torch._utils", "_rebuild_tensor_v2", MEMO_REBUILD, rebuild_known);
    put_byte(s, '(');
    put_storage(s, t->dtype, key, numel, first, type_known);
    put_integer(s, 0);
    put_integers(s, t->shape, t->ndim);
    put_integers(s, stride, t->ndim);
    put_byte(s, 0x89);              /* requires_grad: False */
    put_recall(s, MEMO_DICT_CLASS); /* hooks: OrderedDict() */
    rw_str_append(s, ")RtR");
}

void rw_pickle_write_state_dict(rw_str *s, const rw_save_tensor *tensors, int64_t n) {
    bool rebuild_known = false, dict_known = false, type_known[RW_DTYPE_COUNT] = {false};
    rw_str_append(s, "\x80\x02");
    put_global(s, "collections", "OrderedDict", MEMO_DICT_CLASS, &dict_known);
    rw_str_append(s, ")R");
    put_remember(s, MEMO_DICT);
    for (int64_t i = 0; i < n; i++) {
        if (i % BATCH == 0) put_byte(s, '(');
        put_string(s, tensors[i].name);
        put_tensor(s, &tensors[i], i, &rebuild_known, &type_known[tensors[i].dtype]);
        if (i % BATCH == BATCH - 1 || i == n - 1) put_byte(s, 'u');
    }
    put_byte(s, '.');
}
