/* Where parameters lie, and what reads and writes them. */
#include "core/tensor/layout.h"
#include "tests/unit/tensor/tape_test.h"

static const struct {
    const char *name;
    int ndim;
    int64_t shape[2];
    int bucket, place;
} declared[] = {{"emb", 2, {5, 8}, 0, 0},     {"a.ln", 1, {8, 0}, 1, 10}, {"a.key", 2, {8, 9}, 1, 1},
                {"a.value", 2, {8, 8}, 1, 2}, {"b.ln", 1, {8, 0}, 2, 10}, {"b.key", 2, {8, 8}, 2, 1}};
enum { N_DECLARED = sizeof declared / sizeof *declared };

static void declare(rw_layout *l, bool freeze) {
    rw_error err = {0};
    for (int i = 0; i < N_DECLARED; i++)
        must(rw_layout_add(l, declared[i].name, declared[i].ndim, declared[i].shape, declared[i].bucket,
                           declared[i].place, &err),
             &err);
    if (freeze) l->segments[1].trainable = l->segments[5].trainable = false;
    must(rw_layout_place(l, &err), &err);
}

static void places(void **state) {
    (void)state;
    rw_layout l = {0};
    declare(&l, false);
    assert_int_equal(l.n_params, 40 + 8 + 72 + 64 + 8 + 64);
    assert_int_equal(l.n_frozen, 0);
    assert_int_equal(l.n_trainable % RW_BUCKET_ALIGN, 0);
    assert_int_equal(rw_layout_find(&l, "a.value"), 3);
    assert_int_equal(rw_layout_find(&l, "a.valu"), -1);
    static const int64_t offsets[] = {0, 256 + 128 + 64, 256, 256 + 128, 512 + 64, 512};
    for (int i = 0; i < N_DECLARED; i++) assert_int_equal(l.segments[i].offset, offsets[i]);
    rw_layout_done(&l);
    declare(&l, true); /* frozen ones leave no hole */
    static const int64_t with_frozen[] = {0, 0, 256, 256 + 128, 512, 256};
    for (int i = 0; i < N_DECLARED; i++) assert_int_equal(l.segments[i].offset, with_frozen[i]);
    assert_int_equal(l.n_trainable, 768);
    assert_int_equal(l.n_frozen, 512);
    rw_layout_done(&l);
}

static void parameters(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *d;
    must(rw_device_open_cpu(&d, RW_F64, 1, &err), &err);
    for (int train = 0; train < 2; train++) {
        rw_layout l = {0};
        rw_params *p;
        declare(&l, true);
        must(rw_params_new(&p, d, &l, train, &err), &err);
        assert_null(l.segments);
        assert_int_equal(p->n_segments, N_DECLARED - 2);
        assert_null(rw_params_find(p, "none"));
        rw_tensor *key = rw_params_find(p, "a.key"), *ln = rw_params_find(p, "a.ln");
        assert_int_equal(key->requires_grad, train);
        assert_false(ln->requires_grad);
        assert_null(ln->grad);
        double in[72], out[72];
        for (int i = 0; i < 72; i++) in[i] = i + 1;
        for (size_t i = 0; i < N_DECLARED; i++) rw_params_set(p, RW_PARAM_VALUE, i, 0, p->layout.segments[i].n, in);
        for (size_t i = 0; i < N_DECLARED; i++) {
            rw_params_get(p, RW_PARAM_VALUE, i, 3, 4, out);
            assert_memory_equal(out, in + 3, 4 * sizeof *in);
            assert_memory_equal(p->tensors[i].data, in, (size_t)p->layout.segments[i].n * sizeof *in);
        }
        if (train) {
            rw_params_set(p, RW_PARAM_M, 2, 70, 2, in);
            rw_params_set(p, RW_PARAM_V, 2, 0, 2, in + 5);
            rw_params_get(p, RW_PARAM_M, 2, 70, 2, out);
            assert_memory_equal(out, in, 2 * sizeof *in);
            rw_params_get(p, RW_PARAM_V, 2, 0, 2, out);
            assert_memory_equal(out, in + 5, 2 * sizeof *in);
            rw_params_set(p, RW_PARAM_GRAD, 2, 0, 72, in); /* of the last step */
            rw_params_begin_step(p);
            rw_params_finish_grads(p);
            assert_true(key->grad_written);
            for (int i = 0; i < 72; i++) assert_true(((double *)key->grad)[i] == 0);
            assert_int_equal(p->segments[1].offset, 256);
            assert_int_equal(p->segments[1].n, 72);
        }
        rw_params_free(p);
        assert_int_equal(d->live_bytes, 0);
    }
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
        rw_status status = RW_OK;
        rw_alloc_fail_after(n);
        for (int i = 0; i < N_DECLARED && status == RW_OK; i++)
            status = rw_layout_add(&l, declared[i].name, declared[i].ndim, declared[i].shape, declared[i].bucket,
                                   declared[i].place, &err);
        if (status == RW_OK) status = rw_layout_place(&l, &err);
        if (status == RW_OK) status = rw_params_new(&p, d, &l, true, &err);
        rw_alloc_fail_after(0);
        rw_params_free(p);
        rw_layout_done(&l);
        assert_int_equal(rw_alloc_live(), live);
        assert_int_equal(d->live_bytes, 0);
        if (status == RW_OK) {
            assert_true(n > 7);
            break;
        }
        assert_int_equal(status, RW_E_MEMORY);
    }
    rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(places), cmocka_unit_test(parameters),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
