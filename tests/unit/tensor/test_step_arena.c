/* The step arena: the same requests give the same addresses, neighbours join, the marks are right, a full arena says
 * so; and a long random sequence against a map of all units. */
#include "tests/unit/tensor/tape_test.h"

enum { UNIT = RW_ARENA_ALIGN };

static int64_t offset(const rw_step_arena *a, int32_t piece) {
    return a->pieces[piece].offset / UNIT;
}

static rw_device *device;

static int open_device(void **state) {
    (void)state;
    rw_error err = {0};
    must(rw_device_open_cpu(&device, RW_F64, 1, &err), &err);
    return 0;
}
static int close_device(void **state) {
    (void)state;
    rw_device_close(device);
    return 0;
}

static void joins_neighbours(void **state) {
    (void)state;
    rw_error err = {0};
    rw_step_arena a;
    must(rw_step_arena_init(&a, device, 8 * UNIT, &err), &err);
    assert_int_equal((uintptr_t)a.base % UNIT, 0);
    int32_t p[4];
    for (int i = 0; i < 4; i++) p[i] = rw_step_arena_take(&a, i == 1 ? UNIT + 1 : UNIT);
    assert_int_equal(offset(&a, p[2]), 3); /* the second took two units */
    assert_int_equal(a.live, 5 * UNIT);
    assert_int_equal(a.high_water, 5 * UNIT);
    rw_step_arena_give(&a, p[1]);
    assert_int_equal(rw_step_arena_take(&a, 4 * UNIT), -1); /* 2 and 3 units are free, not 4 in a row */
    rw_step_arena_give(&a, p[2]);                           /* joins below */
    int32_t q = rw_step_arena_take(&a, 3 * UNIT);
    assert_int_equal(offset(&a, q), 1); /* first fit by address */
    rw_step_arena_give(&a, p[0]);
    rw_step_arena_give(&a, p[3]); /* joins above */
    rw_step_arena_give(&a, q);    /* joins both */
    assert_int_equal(a.live, 0);
    int32_t all = rw_step_arena_take(&a, 8 * UNIT);
    assert_int_equal(offset(&a, all), 0);
    assert_ptr_equal(rw_step_arena_at(&a, all), a.base);
    assert_int_equal(rw_step_arena_take(&a, 1), -1);
    assert_int_equal(a.high_water, 8 * UNIT);
    rw_step_arena_give(&a, all);
    int32_t least = rw_step_arena_take(&a, 0);
    assert_int_equal(a.pieces[least].n_bytes, UNIT);
    rw_step_arena_done(&a);
}

static void meta_is_unlimited(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *meta;
    rw_step_arena a;
    must(rw_device_open_meta(&meta, device, &err), &err);
    must(rw_step_arena_init(&a, meta, 0, &err), &err);
    int32_t p = rw_step_arena_take(&a, (int64_t)1 << 60), q = rw_step_arena_take(&a, 1);
    assert_true(p >= 0 && q >= 0);
    assert_int_equal(a.high_water, ((int64_t)1 << 60) + UNIT);
    rw_step_arena_done(&a);
    rw_device_close(meta);
}

static void out_of_memory(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    for (int64_t n = 1;; n++) {
        rw_error err = {0};
        rw_step_arena a;
        rw_alloc_fail_after(n);
        rw_status status = rw_step_arena_init(&a, device, 4 * UNIT, &err);
        rw_alloc_fail_after(0);
        if (status == RW_OK) {
            rw_step_arena_done(&a);
            assert_true(n > 1);
            break;
        }
        assert_int_equal(status, RW_E_MEMORY);
        rw_step_arena_done(&a);
        assert_int_equal(rw_alloc_live(), live);
    }
    assert_int_equal(rw_alloc_live(), live);
}

/* -- against a map of units ------------------------------------------------------------------------------------- */

enum { UNITS = 97, HELD = 40, ROUNDS = 20000 };

typedef struct {
    int32_t piece;
    int64_t first, n; /* units */
} held;

static int64_t first_fit(const bool *used, int64_t n) {
    for (int64_t at = 0; at + n <= UNITS; at++) {
        int64_t k = 0;
        while (k < n && !used[at + k]) k++;
        if (k == n) return at;
    }
    return -1;
}

static void mark(bool *used, const held *h, bool on) {
    for (int64_t k = 0; k < h->n; k++) {
        assert_int_equal(used[h->first + k], !on);
        used[h->first + k] = on;
    }
}

static void random_sequence(void **state) {
    (void)state;
    rw_error err = {0};
    rw_step_arena a;
    bool used[UNITS] = {false};
    held list[HELD];
    int n = 0, refused = 0;
    int64_t live = 0, top = 0;
    rw_rng rng = {5, 1, 0};
    must(rw_step_arena_init(&a, device, UNITS * UNIT, &err), &err);
    for (int round = 0; round < ROUNDS; round++) {
        if (n == HELD || (n > 0 && rw_rng_below(&rng, 100) < 48)) {
            int i = (int)rw_rng_below(&rng, (uint64_t)n);
            rw_step_arena_give(&a, list[i].piece);
            mark(used, &list[i], false);
            live -= list[i].n;
            list[i] = list[--n];
        } else {
            held h = {.n = 1 + (int64_t)rw_rng_below(&rng, 9)};
            h.first = first_fit(used, h.n);
            h.piece = rw_step_arena_take(&a, (h.n - 1) * UNIT + 1 + (int64_t)rw_rng_below(&rng, UNIT));
            assert_int_equal(h.piece < 0, h.first < 0);
            refused += h.piece < 0;
            if (h.piece < 0) continue;
            assert_int_equal(offset(&a, h.piece), h.first);
            mark(used, &h, true);
            live += h.n;
            if (h.first + h.n > top) top = h.first + h.n;
            list[n++] = h;
        }
        assert_int_equal(a.live, live * UNIT);
        assert_int_equal(a.high_water, top * UNIT);
    }
    assert_true(refused > 10);
    assert_true(a.n_pieces <= 2 * HELD + 2); /* slots are used again */
    while (n > 0) rw_step_arena_give(&a, list[--n].piece);
    assert_int_equal(a.live, 0);
    assert_int_equal(offset(&a, rw_step_arena_take(&a, UNITS * UNIT)), 0);
    rw_step_arena_done(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(joins_neighbours), cmocka_unit_test(meta_is_unlimited),
                                       cmocka_unit_test(out_of_memory), cmocka_unit_test(random_sequence)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}
