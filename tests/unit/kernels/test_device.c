/* The devices: complete tables, exact byte counts, alignment, copies, lack of memory, and the meta device that asks for
 * the same scratch as the device it imitates. */
#include "tests/unit/kernels/device_test.h"

#include "core/base/alloc.h"

static void check_table(const rw_kernels *t) {
#define RW_KERNEL(name, args) assert_non_null(t->name);
#define RW_QUERY(name, args)  assert_non_null(t->name);
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
}

static rw_device *meta_like(const rw_device *d) {
    rw_device *m = NULL;
    assert_int_equal(rw_device_open_meta(&m, d, NULL), RW_OK);
    return m;
}

static void test_tables_are_complete(void **state) {
    (void)state;
    rw_device *f32 = test_device(RW_F32, 2), *f64 = test_device(RW_F64, 1), *meta = meta_like(f32);
    check_table(f32->kernels), check_table(f64->kernels), check_table(meta->kernels);
    assert_string_equal(f32->kernels->name, "cpu_f32");
    assert_string_equal(f64->kernels->name, "cpu_f64");
    assert_int_equal(f32->exec.threads, 2);
    assert_int_equal(f64->compute, RW_F64);
    rw_device_close(meta), rw_device_close(f32), rw_device_close(f64);
    rw_device_close(NULL);
}

static void check_memory(rw_device *d) {
    void *a = d->alloc(d, 1000), *b = d->alloc(d, 5 << 20);
    assert_true(a && b && a != b);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    assert_int_equal(d->live_bytes, 1000 + (5 << 20));
    d->free(d, a, 1000);
    assert_int_equal(d->live_bytes, 5 << 20);
    assert_int_equal(d->peak_bytes, 1000 + (5 << 20));
    void *none = d->alloc(d, 0);
    assert_non_null(none);
    d->free(d, none, 0);
    assert_null(d->alloc(d, -1));
    d->free(d, NULL, 77);
    d->free(d, b, 5 << 20);
    assert_int_equal(d->live_bytes, 0);
    assert_int_equal(d->synchronize(d, NULL), RW_OK);
}

static void test_memory_is_counted(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 2), *meta = meta_like(d);
    int64_t live = rw_alloc_live();
    check_memory(d);
    assert_int_equal(rw_alloc_live(), live);
    int64_t calls = rw_alloc_calls();
    check_memory(meta);
    assert_int_equal(rw_alloc_calls(), calls); /* meta allocates nothing */
    rw_device_close(meta), rw_device_close(d);
}

static void test_zero_and_copies(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 4097, (3 << 20) + 17};
    rw_device *d = test_device(RW_F32, 3);
    for (int i = 0; i < 3; i++) {
        int64_t n = sizes[i];
        unsigned char *p = d->alloc(d, n + 1), *host = test_memory((size_t)n), *back = test_memory((size_t)n);
        for (int64_t k = 0; k <= n; k++) assert_int_equal(p[k], 0);
        for (int64_t k = 0; k < n; k++) host[k] = (unsigned char)(k * 7);
        p[n] = 9;
        d->upload(d, p, host, n);
        d->download(d, back, p, n);
        assert_memory_equal(host, back, (size_t)n);
        d->zero(d, p, n);
        for (int64_t k = 0; k < n; k++) assert_int_equal(p[k], 0);
        assert_int_equal(p[n], 9);
        d->free(d, p, n + 1);
        free(host), free(back);
    }
    rw_device_close(d);
}

static void test_lack_of_memory(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 1), *none = (rw_device *)&none;
    rw_error err = {0};
    rw_alloc_fail_after(1);
    assert_null(d->alloc(d, 100));
    assert_int_equal(d->live_bytes, 0);
    rw_alloc_fail_after(1);
    assert_int_equal(rw_device_open_cpu(&none, RW_F32, 1, &err), RW_E_MEMORY);
    assert_null(none);
    rw_alloc_fail_after(1);
    assert_int_equal(rw_device_open_meta(&none, d, &err), RW_E_MEMORY);
    assert_null(none);
    rw_alloc_fail_after(0);
    rw_device_close(d);
}

static void test_wrong_requests(void **state) {
    (void)state;
    rw_device *d = NULL;
    rw_error err = {0};
    assert_int_equal(rw_device_open_cpu(&d, RW_BF16, 1, &err), RW_E_UNSUPPORTED);
    assert_string_equal(err.msg, "the CPU computes in f32 or f64, not in bf16");
    assert_int_equal(rw_device_open_cpu(&d, RW_F32, 0, &err), RW_E_DEVICE);
    assert_string_equal(err.msg, "expected 1 to 1024 threads, got 0");
    assert_null(d);
}

/* Queries of meta are those of its model, for the threads of its model; its kernels do nothing. */
static void test_meta_asks_for_the_same(void **state) {
    (void)state;
    rw_device *d = test_device(RW_F32, 3), *meta = meta_like(d);
    rw_embedding_args e = {.dtype = RW_F32, .R = 100, .C = 64, .V = 500, .gamma = &e};
    assert_int_equal(meta->kernels->embedding_backward_scratch(&e, &meta->exec),
                     d->kernels->embedding_backward_scratch(&e, &d->exec));
    rw_wkv6_args w = {.dtype = RW_F32, .R = 100, .H = 2, .N = 64, .n_seq = 2};
    assert_int_equal(meta->kernels->wkv6_saved(&w, &meta->exec), d->kernels->wkv6_saved(&w, &d->exec));
    assert_int_equal(meta->kernels->wkv6_backward_scratch(&w, &meta->exec),
                     d->kernels->wkv6_backward_scratch(&w, &d->exec));
    void *p = meta->alloc(meta, 1 << 30);
    rw_sum_args c = {.dtype = RW_F32, .n = 1 << 28, .x = p, .squares = true, .scratch = p, .out = p};
    assert_true(meta->kernels->sum_scratch(&c, &meta->exec) == d->kernels->sum_scratch(&c, &d->exec));
    meta->kernels->sum(&c, &meta->exec);
    meta->kernels->clip_coef(&(rw_clip_coef_args){.max_norm = 1}, &meta->exec);
    meta->zero(meta, p, 1 << 30);
    meta->upload(meta, p, NULL, 1 << 30);
    assert_int_equal(meta->compute, RW_F32);
    rw_device_close(meta), rw_device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_complete), cmocka_unit_test(test_memory_is_counted),
        cmocka_unit_test(test_zero_and_copies),     cmocka_unit_test(test_lack_of_memory),
        cmocka_unit_test(test_wrong_requests),      cmocka_unit_test(test_meta_asks_for_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
