/* Architectures as data: how shapes are read, that every table is sound, and the list that scripts can add to. */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/model/arch.h"

#include <string.h>

static void shapes(void **state) {
    (void)state;
    rw_plan_model m = {.n_embd = 64, .n_head = 2, .head_size = 32, .lora_mix = 7};
    static const struct {
        const char *shape;
        int ndim; /* -1: no shape */
        int64_t sizes[RW_MAX_DIM];
    } rows[] = {{"C", 1, {64}},
                {"1 1 C", 3, {1, 1, 64}},
                {"C 5Rm", 2, {64, 35}},
                {"5 Rm C", 3, {5, 7, 64}},
                {"H N N", 3, {2, 32, 32}},
                {"2C 3C 4C 5", 4, {128, 192, 256, 5}},
                {"", -1, {0}},
                {"C C C C C", -1, {0}},
                {"c", -1, {0}},
                {"R", -1, {0}},
                {"Rmm", -1, {0}},
                {"0C", -1, {0}},
                {"-1", -1, {0}},
                {"C5", -1, {0}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_shape_word words[RW_MAX_DIM];
        int64_t sizes[RW_MAX_DIM] = {0};
        if (rw_shape_words(rows[i].shape, words) != rows[i].ndim) fail_msg("'%s'", rows[i].shape);
        if (rows[i].ndim < 0) continue;
        assert_int_equal(rw_shape_sizes(rows[i].shape, &m, sizes), rows[i].ndim);
        assert_memory_equal(sizes, rows[i].sizes, (size_t)rows[i].ndim * sizeof *sizes);
    }
}

/* Which sizes the parameters of a role give when a file is read. */
static void sizes_given(const rw_role *role, bool given[RW_DIM_COUNT]) {
    rw_shape_word words[RW_MAX_DIM];
    int n = rw_shape_words(role->shape, words);
    if (n < 0) fail_msg("%s: no shape: '%s'", role->name, role->shape);
    for (int i = 0; i < n; i++)
        if (words[i].factor == 1 && words[i].dim < RW_DIM_COUNT) given[words[i].dim] = true;
}

static void sizes_used(const rw_arch *a, const rw_role *role, const bool given[RW_DIM_COUNT]) {
    rw_shape_word words[RW_MAX_DIM];
    int n = rw_shape_words(role->shape, words);
    for (int i = 0; i < n; i++)
        if (words[i].dim < RW_DIM_COUNT && !given[words[i].dim])
            fail_msg("%s: no parameter tells the size %s of %s", a->name, rw_dim_name(words[i].dim), role->name);
}

static void tables(void **state) {
    (void)state;
    for (int i = 0; rw_arch_at(i); i++) {
        const rw_arch *a = rw_arch_at(i);
        bool given[RW_DIM_COUNT] = {false};
        for (int r = 0; r < a->n_roles; r++) sizes_given(&a->roles[r], given);
        for (int r = 0; r < a->n_roles; r++) {
            sizes_used(a, &a->roles[r], given);
            assert_int_equal(a->roles[r].init.kind == RW_INIT_FORMULA, a->roles[r].init.formula != NULL);
            for (int k = 0; k < r; k++) assert_string_not_equal(a->roles[k].name, a->roles[r].name);
        }
        assert_in_range(a->n_fields, 1, RW_MAX_FIELDS);
        rw_shape_word words[RW_MAX_DIM];
        for (int k = 0; k < a->n_fields; k++) assert_in_range(rw_shape_words(a->fields[k].shape, words), 1, 3);
    }
}

/* Official sizes of x060 and x070; a size that is given stays. */
static void default_shapes(void **state) {
    (void)state;
    for (int i = 0; rw_arch_at(i); i++) {
        rw_plan_model m = {.n_layer = 3, .n_embd = 512, .vocab_size = 99}, given = m;
        rw_arch_default_shape(rw_arch_at(i), &m);
        assert_true(m.n_layer == 3 && m.n_embd == 512 && m.vocab_size == 99 && m.n_head == 8 && m.head_size == 64);
        for (int d = 0; d < RW_DIM_COUNT; d++)
            if (m.dim[d]) given.dim[d] = m.dim[d] + 1;
        rw_plan_model again = given;
        rw_arch_default_shape(rw_arch_at(i), &again);
        assert_memory_equal(again.dim, given.dim, sizeof again.dim);
    }
    rw_plan_model small = {.n_embd = 96}, large = {.n_embd = 4096};
    rw_arch_default_shape(&rw_arch_x060, &small);
    rw_arch_default_shape(&rw_arch_x060, &large);
    assert_true(small.dim_ffn == 320 && small.lora_mix == 32 && small.lora_decay == 64);
    assert_true(large.dim_ffn == 14336 && large.lora_mix == 64 && large.lora_decay == 128);
    static const int64_t ranks[][5] = {
        {64, 32, 32, 32, 32}, {768, 64, 64, 32, 128}, {2048, 128, 128, 64, 224}, {4096, 160, 160, 96, 320}};
    for (int i = 0; i < 4; i++) {
        rw_plan_model m = {.n_embd = ranks[i][0]};
        rw_arch_default_shape(&rw_arch_x070, &m);
        assert_int_equal(m.dim_ffn, 4 * m.n_embd);
        assert_int_equal(m.lora_w, ranks[i][1]);
        assert_int_equal(m.lora_a, ranks[i][2]);
        assert_int_equal(m.lora_v, ranks[i][3]);
        assert_int_equal(m.lora_g, ranks[i][4]);
    }
}

/* -- the walk ------------------------------------------------------------------------------------------------- */

static const rw_role few[] = {{.name = "emb.weight", .shape = "V C", .where = RW_WHERE_BEFORE},
                              {.name = "ln.weight", .shape = "C", .where = RW_WHERE_EVERY},
                              {.name = "ln0.weight", .shape = "C", .where = RW_WHERE_FIRST},
                              {.name = "mix", .shape = "1 1 C", .where = RW_WHERE_EVERY},
                              {.name = "head.weight", .shape = "V C", .where = RW_WHERE_AFTER}};
static const rw_arch mine = {.name = "mine", .roles = few, .n_roles = 5};

static void official_order(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int layer, index;
    } want[] = {{"emb.weight", -1, 0},  {"blocks.0.ln.weight", 0, 1}, {"blocks.0.ln0.weight", 0, 2},
                {"blocks.0.mix", 0, 3}, {"blocks.1.ln.weight", 1, 1}, {"blocks.1.mix", 1, 3},
                {"head.weight", 2, 4}};
    rw_plan_model m = {.n_layer = 2};
    size_t n = 0;
    for (rw_role_walk w = rw_role_walk_of(&mine, &m); rw_role_walk_next(&w); n++) {
        assert_true(n < sizeof want / sizeof *want);
        assert_string_equal(w.name, want[n].name);
        assert_int_equal(w.layer, want[n].layer);
        assert_int_equal(w.index, want[n].index);
        assert_ptr_equal(w.role, &few[w.index]);
    }
    assert_int_equal(n, sizeof want / sizeof *want);
}

/* -- the list ------------------------------------------------------------------------------------------------- */

static void registered(void **state) {
    (void)state;
    rw_error err = {0};
    const rw_role wrong[] = {{.name = "emb.weight", .shape = "V Y"}};
    const rw_state_field wide[] = {{.name = "wkv", .shape = "H N N N"}};
    const rw_arch taken = {.name = "x060"}, no_shape = {.name = "wrong", .roles = wrong, .n_roles = 1},
                  no_state = {.name = "wrong", .fields = wide, .n_fields = 1},
                  many_states = {.name = "wrong", .fields = wide, .n_fields = RW_MAX_FIELDS + 1};
    assert_null(rw_arch_find("mine", &err));
    assert_int_equal(err.code, RW_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "no model of architecture 'mine' in this build; there is x0"));
    rw_error_clear(&err);
    assert_int_equal(rw_arch_register(&taken, &err), RW_E_USAGE);
    assert_string_equal(err.msg, "there is an architecture 'x060' already");
    assert_int_equal(rw_arch_register(&no_shape, &err), RW_E_USAGE);
    assert_string_equal(err.msg, "architecture 'wrong': 'V Y' is not a valid shape of parameter emb.weight");
    assert_int_equal(rw_arch_register(&no_state, &err), RW_E_USAGE);
    assert_string_equal(err.msg, "architecture 'wrong': 'H N N N' is not a valid shape of state wkv");
    assert_int_equal(rw_arch_register(&many_states, &err), RW_E_USAGE);
    assert_string_equal(err.msg, "architecture 'wrong': 5 state fields; the limit is 4");
    assert_int_equal(rw_arch_register(&mine, &err), RW_OK);
    assert_ptr_equal(rw_arch_find("mine", &err), &mine);
    static rw_arch many[RW_MAX_REGISTERED];
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    for (int i = 0; i < RW_MAX_REGISTERED; i++) {
        many[i].name = names[i];
        assert_int_equal(rw_arch_register(&many[i], &err), i + 1 < RW_MAX_REGISTERED ? RW_OK : RW_E_USAGE);
    }
    assert_string_equal(err.msg, "scripts define more than 8 architectures");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shapes), cmocka_unit_test(tables),
                                       cmocka_unit_test(default_shapes), cmocka_unit_test(official_order),
                                       cmocka_unit_test(registered)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
