/* Where parameters lie, and what reads and writes them. */
#include "core/tensor/layout.h"
#include "tests/unit/tensor/tape_test.h"

static const struct {
    const char *name;
    rw_param_class cls;
    int ndim;
    int64_t shape[2];
    int bucket, place;
} declared[] = {{"emb", RW_MATRIX, 2, {5, 8}, 0, 0},    {"a.ln", RW_VECTOR, 1, {8, 0}, 1, 10},
                {"a.key", RW_MATRIX, 2, {8, 9}, 1, 1},  {"a.value", RW_MATRIX, 2, {8, 8}, 1, 2},
                {"a.mix", RW_VECTOR, 1, {9, 0}, 1, 10}, {"b.ln", RW_VECTOR, 1, {8, 0}, 2, 10},
                {"b.key", RW_MATRIX, 2, {8, 8}, 2, 1}};
enum { N_DECLARED = sizeof declared / sizeof *declared, MOST = 72 };

static rw_status declare_some(rw_layout *l, int n, bool freeze, rw_error *err) {
    for (int i = 0; i < n; i++)
        RW_TRY(rw_layout_add(l, declared[i].name, declared[i].cls, declared[i].ndim, declared[i].shape,
                             declared[i].bucket, declared[i].place, err));
    if (freeze) l->segments[1].trainable = l->segments[6].trainable = false;
    return rw_layout_place(l, err);
}

static void declare(rw_layout *l, bool freeze) {
    rw_error err = {0};
    must(declare_some(l, N_DECLARED, freeze, &err), &err);
}

static void check_range(const rw_layout *l, int bucket, rw_param_class cls, int64_t first, int64_t n) {
    assert_int_equal(l->buckets[bucket].part[cls].first, first);
    assert_int_equal(l->buckets[bucket].part[cls].n, n);
}

static void places(void **state) {
    (void)state;
    rw_layout l = {0};
    declare(&l, false);
    assert_int_equal(l.n_params, 40 + 8 + 72 + 64 + 9 + 8 + 64);
    assert_int_equal(rw_layout_find(&l, "a.value"), 3);
    assert_int_equal(rw_layout_find(&l, "a.valu"), -1);
    static const int64_t offsets[] = {0, 0, 256, 256 + 128, 64, 256, 512};
    for (int i = 0; i < N_DECLARED; i++) assert_int_equal(l.segments[i].offset, offsets[i]);
    assert_int_equal(l.n_buckets, 3);
    for (int b = 0; b < 3; b++) check_range(&l, b, RW_MATRIX, 256 * b, 256);
    check_range(&l, 0, RW_VECTOR, 0, 0);
    check_range(&l, 1, RW_VECTOR, 0, 256);
    check_range(&l, 2, RW_VECTOR, 256, 256);
    assert_int_equal(l.n_trainable[RW_MATRIX], 768);
    assert_int_equal(l.n_trainable[RW_VECTOR], 512);
    assert_int_equal(l.n_frozen[RW_MATRIX] + l.n_frozen[RW_VECTOR], 0);
    rw_layout_done(&l);
    declare(&l, true); /* frozen ones leave no hole */
    static const int64_t with_frozen[] = {0, 0, 256, 256 + 128, 0, 256, 0};
    for (int i = 0; i < N_DECLARED; i++) assert_int_equal(l.segments[i].offset, with_frozen[i]);
    check_range(&l, 2, RW_MATRIX, 512, 0);
    assert_int_equal(l.n_trainable[RW_MATRIX], 512);
    assert_int_equal(l.n_trainable[RW_VECTOR], 512);
    assert_int_equal(l.n_frozen[RW_MATRIX], 256);
    assert_int_equal(l.n_frozen[RW_VECTOR], 256);
    rw_layout_done(&l);
}

/* -- parameters ------------------------------------------------------------------------------------------- */

static rw_params *new_params(rw_device *d, const rw_storage *storage, bool train) {
    rw_error err = {0};
    rw_layout l = {0};
    rw_params *p;
    declare(&l, true);
    must(rw_params_new(&p, d, &l, storage, train, &err), &err);
    assert_null(l.segments);
    return p;
}

static void parameters(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d;
    must(rw_device_open_cpu(&d, RW_F64, 1, &err), &err);
    for (int train = 0; train < 2; train++) {
        rw_params *p = new_params(d, &(rw_storage){0}, train);
        assert_int_equal(p->n_ranges[RW_MATRIX], train ? 3 : 0);
        assert_int_equal(p->n_ranges[RW_VECTOR], train ? 2 : 0);
        assert_null(rw_params_find(p, "none"));
        rw_tensor *key = rw_params_find(p, "a.key"), *ln = rw_params_find(p, "a.ln");
        assert_int_equal(key->requires_grad, train);
        assert_false(ln->requires_grad);
        assert_null(ln->grad);
        double in[MOST], out[MOST];
        for (int i = 0; i < MOST; i++) in[i] = i + 1;
        for (size_t i = 0; i < N_DECLARED; i++)
            rw_params_set(p, RW_PARAM_VALUE, i, 0, p->layout.segments[i].n, RW_F64, in);
        for (size_t i = 0; i < N_DECLARED; i++) {
            rw_params_get(p, RW_PARAM_VALUE, i, 3, 4, RW_F64, out);
            assert_memory_equal(out, in + 3, 4 * sizeof *in);
            assert_memory_equal(p->tensors[i].data, in, (size_t)p->layout.segments[i].n * sizeof *in);
        }
        if (train) {
            rw_params_set(p, RW_PARAM_M, 2, 70, 2, RW_F64, in);
            rw_params_set(p, RW_PARAM_V, 2, 0, 2, RW_F64, in + 5);
            rw_params_get(p, RW_PARAM_M, 2, 70, 2, RW_F64, out);
            assert_memory_equal(out, in, 2 * sizeof *in);
            rw_params_get(p, RW_PARAM_V, 2, 0, 2, RW_F64, out);
            assert_memory_equal(out, in + 5, 2 * sizeof *in);
            rw_params_set(p, RW_PARAM_GRAD, 2, 0, MOST, RW_F64, in); /* of the last step */
            rw_params_begin_step(p);
            rw_params_finish_grads(p);
            assert_true(key->grad_written);
            for (int i = 0; i < MOST; i++) assert_true(((double *)key->grad)[i] == 0);
            assert_int_equal(p->ranges[RW_MATRIX][1].offset, 256);
            assert_int_equal(p->ranges[RW_MATRIX][1].n, 72);
            assert_int_equal(p->ranges[RW_VECTOR][1].offset, 256);
        }
        rw_params_free(p);
        assert_int_equal(d->live_bytes, 0);
    }
    rw_device_close(d);
}

/* -- forms --------------------------------------------------------------------------------------------------- */

/* 1 + 2^-10 is no bf16: its neighbours are 1 and 1 + 2^-7. */
#define BETWEEN (1 + 0x1p-10)

static const rw_storage a16 = {.value = RW_BF16, .gradient = RW_BF16, .master = true},
                        b8 = {.value = RW_BF16, .gradient = RW_BF16, .moment = RW_BF16};

static double read_one(rw_params *p, rw_param_kind kind, size_t i) {
    double x;
    rw_params_get(p, kind, i, 5, 1, RW_F64, &x);
    return x;
}

/* What each kind of matrix and vector can hold on a CPU that computes in fp32; what it takes is 4 bytes, but for
 * moments in bf16. */
static void forms(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d;
    must(rw_device_open_cpu(&d, RW_F32, 2, &err), &err);
    enum { KEY = 2, MIX = 4, FROZEN_LN = 1, FROZEN_KEY = 6 };
    for (int form = 0; form < 3; form++) {
        const rw_storage plain = {0}, *s = form == 0 ? &plain : form == 1 ? &a16 : &b8;
        rw_params *p = new_params(d, s, true);
        float values[MOST];
        for (int i = 0; i < MOST; i++) values[i] = (float)BETWEEN;
        for (size_t i = 0; i < N_DECLARED; i++)
            rw_params_set(p, RW_PARAM_VALUE, i, 0, p->layout.segments[i].n, RW_F32, values);
        const float *key = p->tensors[KEY].data, *mix = p->tensors[MIX].data;
        assert_true((double)key[5] == (form == 0 ? BETWEEN : 1));
        assert_true(read_one(p, RW_PARAM_VALUE, KEY) == (form == 2 ? 1 : BETWEEN)); /* the master, where there is one */
        assert_true(read_one(p, RW_PARAM_VALUE, FROZEN_KEY) == (form == 0 ? BETWEEN : 1));
        assert_true((double)mix[5] == BETWEEN); /* vectors stay wide */
        assert_true(read_one(p, RW_PARAM_VALUE, FROZEN_LN) == BETWEEN);
        static const rw_param_kind moments[] = {RW_PARAM_M, RW_PARAM_V};
        for (int k = 0; k < 2; k++) {
            rw_params_set(p, moments[k], KEY, 0, MOST, RW_F32, values);
            rw_params_set(p, moments[k], MIX, 0, 9, RW_F32, values);
            assert_true(read_one(p, moments[k], KEY) == (form == 2 ? 1 : BETWEEN));
            assert_true(read_one(p, moments[k], MIX) == BETWEEN);
            assert_int_equal(rw_params_bytes(p, moments[k]), 512 * (form == 2 ? 2 : 4) + 512 * 4);
        }
        for (int i = 0; i < MOST; i++) ((float *)p->tensors[KEY].grad)[i] = (float)BETWEEN;
        for (int i = 0; i < 9; i++) ((float *)p->tensors[MIX].grad)[i] = (float)BETWEEN;
        p->tensors[KEY].grad_written = p->tensors[MIX].grad_written = true;
        rw_params_finish_grads(p);
        assert_true(read_one(p, RW_PARAM_GRAD, KEY) == (form == 0 ? BETWEEN : 1));
        assert_true(read_one(p, RW_PARAM_GRAD, MIX) == BETWEEN);
        assert_int_equal(rw_params_bytes(p, RW_PARAM_VALUE) + rw_params_bytes(p, RW_PARAM_FROZEN), 4 * 1536);
        assert_int_equal(rw_params_bytes(p, RW_PARAM_MASTER), form == 1 ? 512 * 4 : 0);
        rw_params_free(p);
        assert_int_equal(d->live_bytes, 0);
    }
    rw_device_close(d);
}

/* A file is read straight into the buffer; setting it from there rounds it and fills the rest. */
static void read_in_place(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d, *meta;
    rw_dtype dtype;
    must(rw_device_open_cpu(&d, RW_F32, 2, &err), &err);
    must(rw_device_open_meta(&meta, d, &err), &err);
    for (int form = 0; form < 3; form++) {
        const rw_storage plain = {0}, *s = form == 0 ? &plain : form == 1 ? &a16 : &b8;
        rw_params *p = new_params(d, s, true), *elsewhere = new_params(meta, s, true);
        float *there = rw_params_host(p, RW_PARAM_VALUE, 2, &dtype);
        assert_int_equal(dtype, RW_F32);
        for (int i = 0; i < MOST; i++) there[i] = (float)(BETWEEN * i);
        rw_params_set(p, RW_PARAM_VALUE, 2, 0, MOST, dtype, there);
        for (int i = 0; i < MOST; i++) {
            float exact = (float)(BETWEEN * i), rounded = rw_f32_from_bf16(rw_bf16_from_f32(exact));
            assert_true(((float *)p->tensors[2].data)[i] == (form == 0 ? exact : rounded));
            assert_true(there[i] == (form == 2 ? rounded : exact));
        }
        assert_non_null(rw_params_host(p, RW_PARAM_M, 2, &dtype));
        assert_int_equal(dtype, form == 2 ? RW_BF16 : RW_F32);
        assert_null(rw_params_host(elsewhere, RW_PARAM_VALUE, 2, &dtype));
        rw_params_free(p);
        rw_params_free(elsewhere);
    }
    rw_device_close(meta);
    rw_device_close(d);
}

/* More than a piece of the conversion, from any type into any. */
static void long_conversions(void **state) {
    (void)state;
    enum { LONG = 10000 };
    rw_error err = {0};
    rw_device *d;
    rw_layout l = {0};
    rw_params *p;
    must(rw_device_open_cpu(&d, RW_F32, 1, &err), &err);
    must(rw_layout_add(&l, "long", RW_MATRIX, 2, (int64_t[]){100, 100}, 0, 0, &err), &err);
    must(rw_layout_place(&l, &err), &err);
    must(rw_params_new(&p, d, &l, &b8, true, &err), &err);
    static double in[LONG];
    static uint16_t narrow[LONG], out[LONG];
    for (int i = 0; i < LONG; i++) narrow[i] = (uint16_t)(0x3000 + i);
    rw_convert(in, RW_F64, narrow, RW_BF16, LONG);
    rw_params_set(p, RW_PARAM_VALUE, 0, 0, LONG, RW_F64, in);
    rw_params_set(p, RW_PARAM_V, 0, 0, LONG, RW_F64, in);
    rw_params_get(p, RW_PARAM_VALUE, 0, 0, LONG, RW_BF16, out);
    assert_memory_equal(out, narrow, sizeof narrow);
    rw_params_get(p, RW_PARAM_V, 0, 3, LONG - 3, RW_BF16, out);
    assert_memory_equal(out, narrow + 3, sizeof narrow - 3 * sizeof *narrow);
    rw_params_free(p);
    rw_device_close(d);
}

static void out_of_memory(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d;
    must(rw_device_open_cpu(&d, RW_F64, 1, &err), &err);
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_layout l = {0};
        rw_params *p = NULL;
        rw_alloc_fail_after(n);
        rw_status status = declare_some(&l, N_DECLARED, false, &err);
        if (status == RW_OK) status = rw_params_new(&p, d, &l, &a16, true, &err);
        rw_alloc_fail_after(0);
        rw_params_free(p);
        rw_layout_done(&l);
        assert_int_equal(rw_alloc_live(), live);
        assert_int_equal(d->live_bytes, 0);
        if (status == RW_OK) {
            assert_true(n > 15);
            break;
        }
        assert_int_equal(status, RW_E_MEMORY);
    }
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),        cmocka_unit_test(parameters),       cmocka_unit_test(forms),
        cmocka_unit_test(read_in_place), cmocka_unit_test(long_conversions), cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
