/* The pickle reader against good and hostile programs, and the writer against the reader. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/base/arena.h"
#include "core/checkpoint/pickle.h"

/* A pickle with NULs: text and length of a literal. */
#define P(text) (text), sizeof(text) - 1

#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define STORAGE                                                                                                        \
    "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"                                                            \
    "0X\x03\0\0\0cpuK\x08tQ"
#define HOOKS                                                                                                          \
    "\x89"                                                                                                             \
    "ccollections\nOrderedDict\n)R"
/* A tensor [2,3] at offset 1 of storage 0 of 8 elements. */
#define TENSOR REBUILD STORAGE "K\x01K\x02K\x03\x86K\x03K\x01\x86" HOOKS "tR"
/* The same up to the seventh argument. */
#define VIEW REBUILD STORAGE "K\x01K\x02K\x03\x86K\x03K\x01\x86" HOOKS
#define WHOLE_NUMBERS                                                                                                  \
    REBUILD                                                                                                            \
    "((X\x07\0\0\0storagectorch\nLongStorage\nX\x01\0\0\0"                                                             \
    "0X\x03\0\0\0cpuK\x08tQ"                                                                                           \
    "K\x01K\x02K\x03\x86K\x03K\x01\x86" HOOKS
#define NAME "X\x01\0\0\0w"

static rw_status read_tensors(const void *bytes, size_t n, rw_arena *a, rw_pickle_tensor **t, int64_t *count,
                              rw_error *err) {
    const rw_pickle_value *root;
    rw_status status = rw_pickle_read(bytes, (int64_t)n, RW_AT_NONE, a, &root, NULL, err);
    return status == RW_OK ? rw_pickle_tensors(root, RW_AT_NONE, a, t, count, err) : status;
}

static const struct {
    const char *bytes;
    size_t n;
    const char *says;
} refused[] = {
    {P(""), "ends in the middle"},
    {P("\x80"), "ends in the middle"},
    {P("\x80\x02"), "ends in the middle"},
    {P("\x80\x02."), "the stack is empty"},
    {P("\x80\x09}."), "protocol 9"},
    {P("\x80\x02]."), "expected a dictionary of tensors, found a list"},
    {P("\x80\x02"
       "cposix\nsystem\nX\x02\0\0\0ls\x85R."),
     "opcode GLOBAL of posix.system refused"},
    {P("\x80\x02"
       "cbuiltins\neval\nX\x01\0\0\0"
       "1\x85R."),
     "opcode GLOBAL of builtins.eval refused"},
    {P("\x80\x02"
       "cos\nsystem\n."),
     "opcode GLOBAL of os.system refused"},
    {P("\x80\x02"
       "ctorch\nload\n."),
     "opcode GLOBAL of torch.load refused"},
    {P("\x80\x02"
       "cnumpy\nFloatStorage\n."),
     "opcode GLOBAL of numpy.FloatStorage refused"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_tensor\n."),
     "opcode GLOBAL of torch._utils._rebuild_tensor refused"},
    {P("\x80\x04\x8c\x02os\x8c\x06system\x93."), "protocol 4; expected 2"},
    {P("\x80\x05}."), "save it again without pickle_protocol"},
    {P("\x8c\x02os\x8c\x06system\x93."), "opcode SHORT_BINUNICODE refused"},
    {P("X\x02\0\0\0osX\x06\0\0\0system\x93."), "opcode STACK_GLOBAL refused"},
    {P("\x80\x02}" NAME WHOLE_NUMBERS "}X\x03\0\0\0neg\x88stRs."), "a lazy view ('neg')"},
    {P("\x80\x02}" NAME VIEW "}X\x03\0\0\0negK\x01stRs."), "a lazy view ('neg')"},
    {P("\x80\x02}" NAME VIEW "}(X\x03\0\0\0neg\x89X\x04\0\0\0conj\x88utRs."), "a lazy view ('conj')"},
    {P("\x80\x02}" NAME VIEW "}X\x05\0\0\0scaleK\x02stRs."), "a lazy view ('scale')"},
    {P("\x80\x02}" NAME VIEW "K\x01tRs."), "an integer as metadata"},
    {P("\x80\x02}" NAME VIEW "NNtRs."), "8 arguments"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_tensor_v3\n."),
     "such as float8"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_qtensor\n."),
     "a quantized tensor"},
    {P("(X\x02\0\0\0lsios\nsystem\n."), "opcode INST refused"},
    {P("(cos\nsystem\no."), "opcode GLOBAL of os.system refused"},
    {P("\x80\x02)\x81."), "opcode NEWOBJ refused"},
    {P("\x80\x02"
       "ctorch\nFloatStorage\n)R."),
     "opcode REDUCE of a storage type refused"},
    {P("\x80\x02})R."), "opcode REDUCE of a dictionary refused"},
    {P("\x80\x02"
       "ccollections\nOrderedDict\n]\x85R."),
     "OrderedDict with arguments refused"},
    {P("\x80\x02K\x01}b."), "opcode BUILD of an integer refused"},
    {P("\x80\x02}b."), "opcode BUILD of an empty stack refused"},
    {P("\x80\x02}0."), "opcode POP refused"},
    {P("\x80\x02\xff."), "byte 0xff is not an opcode"},
    {P("\x80\x02h\x05."), "memo number 5 was never set"},
    {P("\x80\x02}r\xff\xff\xff\xff."), "memo number 4294967295 is too large"},
    {P("\x80\x02q\0."), "nothing to remember"},
    {P("\x80\x02"
       "u."),
     "no mark on the stack"},
    {P("\x80\x02(u."), "the stack is empty"},
    {P("\x80\x02](u."), "items for a dictionary"},
    {P("\x80\x02}(K\x01u."), "a key without a value"},
    {P("\x80\x02}s."), "the stack is empty"},
    {P("\x80\x02"
       "e."),
     "no mark"},
    {P("\x80\x02"
       "a."),
     "the stack is empty"},
    {P("\x80\x02\x87."), "the stack is empty"},
    {P("\x80\x02(K\x01\x86."), "a mark inside a tuple"},
    {P("\x80\x02X\xff\xff\xff\xffw."), "ends in the middle"},
    {P("\x80\x02X\x02\0\0\0\xc3(."), "not UTF-8"},
    {P("\x80\x02X\x02\0\0\0a\0."), "a NUL in it"},
    {P("\x80\x02\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09."), "opcode LONG1 with an integer of 9 bytes refused"},
    {P("\x80\x02"
       "cos"),
     "a name without an end"},
    {P("\x80\x02K\x01Q."), "its argument is not a storage"},
    {P("\x80\x02(X\x07\0\0\0storageK\x01K\x01K\x01K\x01tQ."), "its argument is not a storage"},
    {P("\x80\x02}(" NAME "K\x07u."), "'w' holds an integer, expected a tensor"},
    {P("\x80\x02}(K\x01K\x07u."), "expected names as keys of the dictionary, found an integer"},
    {P("\x80\x02}" NAME REBUILD ")Rs."), "_rebuild_tensor_v2 with arguments other than"},
    {P("\x80\x02}" NAME REBUILD STORAGE "K\0K\x01\x85K\x01K\x01\x86" HOOKS "tRs."),
     "_rebuild_tensor_v2 with arguments"},
    {P("\x80\x02}" NAME REBUILD STORAGE "J\xff\xff\xff\xffK\x01\x85K\x01\x85" HOOKS "tRs."),
     "with arguments other than"},
    {P("\x80\x02}" NAME REBUILD STORAGE "K\0J\xff\xff\xff\xff\x85K\x01\x85" HOOKS "tRs."), "impossible size or stride"},
    {P("\x80\x02}" NAME REBUILD STORAGE "K\0K\x01\x85J\xff\xff\xff\xff\x85" HOOKS "tRs."), "impossible size or stride"},
    {P("\x80\x02}" NAME REBUILD STORAGE "K\0(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft(K\0K\0K\0t" HOOKS
       "tRs."),
     "impossible size or stride"},
    {P("\x80\x02}" NAME REBUILD STORAGE "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t" HOOKS "tRs."),
     "9 dimensions"},
    {P("\x80\x02"
       "ctorch._utils\n_rebuild_parameter\n(K\x01\x88K\x01tR."),
     "_rebuild_parameter of something other than"},
};

static void hostile_programs_are_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        rw_arena a = {0};
        rw_error err = {0};
        rw_pickle_tensor *t;
        int64_t n;
        if (read_tensors(refused[i].bytes, refused[i].n, &a, &t, &n, &err) == RW_OK)
            fail_msg("program %d was accepted; expected: %s", (int)i, refused[i].says);
        if (!strstr(err.msg, refused[i].says))
            fail_msg("program %d: '%s' does not contain '%s'", (int)i, err.msg, refused[i].says);
        rw_arena_done(&a);
    }
}

static const struct {
    const char *bytes;
    size_t n;
} accepted[] = {
    {P("\x80\x02}" NAME TENSOR "s.")},
    {P("\x80\x02}" NAME VIEW "NtRs.")},
    {P("\x80\x02}" NAME VIEW "}tRs.")},
    {P("\x80\x02}" NAME VIEW "}X\x03\0\0\0neg\x89stRs.")},
    {P("\x80\x03}" NAME TENSOR "s.")},
    {P("\x80\x02}(" NAME TENSOR "u.")},
    {P("\x80\x02"
       "ccollections\nOrderedDict\nq\0)Rq\x01(" NAME TENSOR "u}X\x09\0\0\0_metadatah\0)Rsb.")},
    {P("\x80\x02}X\x0a\0\0\0state_dict}" NAME TENSOR "ss.")},
    {P("\x80\x02}(X\x05\0\0\0epochK\x03X\x0a\0\0\0state_dict}X\x05\0\0\0model}" NAME TENSOR "ssu.")},
    {P("\x80\x02}" NAME "ctorch._utils\n_rebuild_parameter\n(" TENSOR "\x88"
       "ccollections\nOrderedDict\n)RtRs.")},
};

static void good_programs_give_the_tensor(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        rw_arena a = {0};
        rw_error err = {0};
        rw_pickle_tensor *t;
        int64_t n = 0;
        if (read_tensors(accepted[i].bytes, accepted[i].n, &a, &t, &n, &err) != RW_OK)
            fail_msg("program %d: %s", (int)i, err.msg);
        assert_int_equal(n, 1);
        assert_string_equal(t->name, "w");
        assert_string_equal(t->storage, "0");
        assert_int_equal(t->dtype, RW_F32);
        assert_false(t->negative);
        assert_int_equal(t->storage_numel, 8);
        assert_int_equal(t->offset, 1);
        assert_int_equal(t->ndim, 2);
        assert_int_equal(t->shape[0], 2);
        assert_int_equal(t->shape[1], 3);
        assert_int_equal(t->stride[0], 3);
        assert_int_equal(t->stride[1], 1);
        rw_arena_done(&a);
    }
}

static bool is_negative(const char *bytes, size_t n) {
    rw_arena a = {0};
    rw_error err = {0};
    rw_pickle_tensor *t;
    int64_t count = 0;
    if (read_tensors(bytes, n, &a, &t, &count, &err) != RW_OK) fail_msg("%s", err.msg);
    bool negative = t->negative;
    rw_arena_done(&a);
    return negative;
}

static void the_negative_bit_is_handed_on(void **state) {
    (void)state;
    assert_true(is_negative(P("\x80\x02}" NAME VIEW "}X\x03\0\0\0neg\x88stRs.")));
    assert_true(is_negative(P("\x80\x02}" NAME VIEW "}(X\x04\0\0\0conj\x89X\x03\0\0\0neg\x88utRs.")));
    assert_true(is_negative(P("\x80\x02}" NAME VIEW "}(X\x03\0\0\0neg\x88X\x04\0\0\0conj\x89utRs.")));
    assert_false(is_negative(P("\x80\x02}" NAME WHOLE_NUMBERS "}X\x03\0\0\0neg\x89stRs.")));
}

/* Every prefix of a good program is an error, and none reads beyond its end (a sanitizer would see it). */
static void prefixes_are_errors(void **state) {
    (void)state;
    for (size_t n = 0; n < accepted[2].n; n++) {
        char *exact = malloc(n ? n : 1);
        rw_arena a = {0};
        rw_pickle_tensor *t;
        int64_t count;
        memcpy(exact, accepted[2].bytes, n);
        assert_int_not_equal(read_tensors(exact, n, &a, &t, &count, NULL), RW_OK);
        rw_arena_done(&a);
        free(exact);
    }
}

static void allocation_failures_are_reported(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    for (int64_t fail = 1;; fail++) {
        rw_arena a = {0};
        rw_error err = {0};
        rw_pickle_tensor *t;
        int64_t n;
        rw_alloc_fail_after(fail);
        rw_status status = read_tensors(accepted[4].bytes, accepted[4].n, &a, &t, &n, &err);
        rw_alloc_fail_after(0);
        rw_arena_done(&a);
        assert_int_equal(rw_alloc_live(), live);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(fail < 1000);
    }
}

/* A loop of values without end must stop at the limit, not at the end of the memory. */
static void floods_stop(void **state) {
    (void)state;
    size_t n = 3 << 20;
    char *bytes = malloc(n);
    rw_arena a = {0};
    rw_error err = {0};
    const rw_pickle_value *root;
    memset(bytes, '}', n);
    assert_int_equal(rw_pickle_read(bytes, (int64_t)n, RW_AT_NONE, &a, &root, NULL, &err), RW_E_FORMAT);
    assert_non_null(strstr(err.msg, "more than"));
    rw_arena_done(&a);
    free(bytes);
}

#define MANY 2500
static void what_is_written_is_read_back(void **state) {
    (void)state;
    static char names[MANY][40];
    static rw_save_tensor t[MANY];
    static const int64_t shapes[][8] = {{5},    {2, 3},         {70000, 300}, {1, 1, 64}, {1, 2, 3, 4, 5, 6, 7, 8},
                                        {0, 4}, {3000000000, 2}};
    static const int ndims[] = {1, 2, 2, 3, 8, 2, 2};
    rw_str s = {0};
    rw_arena a = {0};
    rw_pickle_tensor *back;
    rw_error err = {0};
    int64_t n = 0;
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "\xe5\xb1\x82.%d.w", i);
        t[i] = (rw_save_tensor){.name = names[i], .ndim = ndims[i % 7], .dtype = i % 3 ? RW_BF16 : RW_F32};
        memcpy(t[i].shape, shapes[i % 7], sizeof t[i].shape);
        if (i == 9) t[i].ndim = 0;
    }
    rw_pickle_write_state_dict(&s, t, MANY);
    assert_false(s.failed);
    if (read_tensors(s.data, s.len, &a, &back, &n, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_int_equal(n, MANY);
    for (int i = 0; i < MANY; i++) {
        char key[24];
        int64_t numel = 1;
        snprintf(key, sizeof key, "%d", i);
        assert_string_equal(back[i].name, names[i]);
        assert_string_equal(back[i].storage, key);
        assert_int_equal(back[i].dtype, t[i].dtype);
        assert_int_equal(back[i].ndim, t[i].ndim);
        for (int d = t[i].ndim; d-- > 0;) {
            assert_int_equal(back[i].shape[d], t[i].shape[d]);
            assert_int_equal(back[i].stride[d], numel ? numel : 4);
            numel *= t[i].shape[d];
        }
        assert_int_equal(back[i].storage_numel, numel);
    }
    rw_arena_done(&a);
    rw_str_done(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_programs_are_refused_by_name), cmocka_unit_test(good_programs_give_the_tensor),
        cmocka_unit_test(the_negative_bit_is_handed_on),        cmocka_unit_test(prefixes_are_errors),
        cmocka_unit_test(allocation_failures_are_reported),     cmocka_unit_test(floods_stop),
        cmocka_unit_test(what_is_written_is_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
