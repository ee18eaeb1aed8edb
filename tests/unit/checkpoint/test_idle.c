/* Parameters that block 0 has and never uses (x070: v0 v1 v2), in an architecture made for this test: a file may lack
 * them there and nowhere else; they keep their initial values, and a save writes them. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/model_shape.h"
#include "core/checkpoint/weights.h"
#include "core/model/model.h"
#include "core/model/role_rows.h"

enum { L = 2, C = 32, V = 5 };

#define ROLES(X)                                                                                                       \
    RW_ROLES_BEFORE(X)                                                                                                 \
    X(LN0_W, "ln0.weight", "C", FIRST, 0, PLAIN, CONSTANT(1))                                                          \
    X(LN0_B, "ln0.bias", "C", FIRST, 0, PLAIN, CONSTANT(0))                                                            \
    X(R_K, "idle_test.r_k", "H N", EVERY, 0, PLAIN, CONSTANT(2))                                                       \
    X(V0, "idle_test.v0", "1 1 C", EVERY, 0, PLAIN, CONSTANT(0.75), .idle_first = true)                                \
    X(V2, "idle_test.v2", "Rm C", EVERY, 0, PLAIN, ORTHOGONAL(0.1), .idle_first = true)                                \
    RW_ROLES_AFTER(X)
enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};
static const rw_arch arch = {.name = "idle", .mark = "idle_test.", .roles = roles, .n_roles = N_ROLES};

static rw_device *device;

static void must(rw_status status, const rw_error *err) {
    if (status != RW_OK) fail_msg("%s", err->msg);
}

static bool file_has(const void *ctx, const char *name) {
    return rw_tensor_file_find(ctx, name) != NULL;
}

/* All initial values, or those that a file lacks. */
static rw_model *new_model(const rw_tensor_file *f) {
    rw_error err = {0};
    rw_model *m;
    rw_plan_model shape = {.arch = "idle", .n_layer = L, .n_embd = C, .vocab_size = V, .head_size = 32, .lora_mix = 3};
    rw_arch_default_shape(&arch, &shape);
    must(rw_model_new(&m, &shape, device, NULL, &err), &err);
    must(rw_model_init_lacking(m, 9, f ? file_has : NULL, f, &err), &err);
    return m;
}

/* Writes the model but for the two tensors of one block. */
static const char *save_without(rw_model *m, int block) {
    rw_error err = {0};
    rw_weights_list list;
    char v0[64], v2[64];
    const char *path = rw_test_path("idle.pth");
    const rw_param_kind kinds[] = {RW_PARAM_VALUE};
    must(rw_weights_list_new(&list, m->params, kinds, (const char *[]){""}, 1, RW_F32, &err), &err);
    snprintf(v0, sizeof v0, "blocks.%d.idle_test.v0", block);
    snprintf(v2, sizeof v2, "blocks.%d.idle_test.v2", block);
    int64_t n = 0;
    for (int64_t i = 0; i < list.n; i++)
        if (strcmp(list.tensors[i].name, v0) != 0 && strcmp(list.tensors[i].name, v2) != 0)
            list.tensors[n++] = list.tensors[i];
    assert_int_equal(n, list.n - 2);
    remove(path);
    must(rw_pth_write(path, list.tensors, n, &err), &err);
    rw_weights_list_done(&list);
    return path;
}

static void block_0_may_lack_them(void **state) {
    (void)state;
    rw_error err = {0};
    rw_arena names = {0};
    rw_plan_model shape = {0};
    rw_model *whole = new_model(NULL);
    const char *path = save_without(whole, 0);
    rw_tensor_file *f = open_good(path);
    rw_model *loaded = new_model(f);
    must(rw_model_shape_from_file(f, &shape, &names, &err), &err);
    assert_int_equal(shape.lora_mix, 3); /* told by block 1 */
    must(rw_weights_load(loaded->params, RW_PARAM_VALUE, f, path, "", &err), &err);
    for (int c = 0; c < RW_PARAM_CLASSES; c++) { /* the same seed */
        const rw_flat *a = &whole->params->flat[RW_PARAM_VALUE][c], *b = &loaded->params->flat[RW_PARAM_VALUE][c];
        if (a->n) assert_memory_equal(a->data, b->data, (size_t)a->n * sizeof(float));
    }
    assert_true(*(float *)rw_params_find(loaded->params, "blocks.0.idle_test.v0")->data == 0.75f);
    rw_tensor_file_close(f);

    const char *again = rw_test_path("again.pth");
    must(rw_weights_save_pth(loaded->params, again, RW_F32, &err), &err);
    f = open_good(again);
    assert_non_null(rw_tensor_file_find(f, "blocks.0.idle_test.v2"));
    rw_tensor_file_close(f);
    rw_arena_done(&names);
    rw_model_free(whole);
    rw_model_free(loaded);
}

static void other_blocks_must_have_them(void **state) {
    (void)state;
    rw_error err = {0};
    rw_arena names = {0};
    rw_plan_model shape = {0};
    rw_model *m = new_model(NULL);
    const char *path = save_without(m, 1);
    rw_tensor_file *f = open_good(path);
    assert_int_equal(rw_model_shape_from_file(f, &shape, &names, &err), RW_E_FORMAT);
    assert_string_equal(err.msg, "tensor 'blocks.1.idle_test.v0' is missing; is this the whole model? It lacks 2; "
                                 "model.load_partial: true gives them initial values");
    assert_string_equal(err.detail, "  blocks.1.idle_test.v2");
    rw_error_clear(&err);
    assert_int_equal(rw_weights_load(m->params, RW_PARAM_VALUE, f, path, "", &err), RW_E_FORMAT);
    assert_string_equal(err.msg, "tensor 'blocks.1.idle_test.v0' is missing");
    rw_tensor_file_close(f);
    rw_arena_done(&names);
    rw_model_free(m);
}

static int open_device(void **state) {
    (void)state;
    rw_error err = {0};
    must(rw_device_open_cpu(&device, RW_F32, 1, &err), &err);
    must(rw_arch_register(&arch, &err), &err);
    return 0;
}

static int close_device(void **state) {
    (void)state;
    rw_device_close(device);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(block_0_may_lack_them),
                                       cmocka_unit_test(other_blocks_must_have_them)};
    return cmocka_run_group_tests(tests, open_device, close_device);
}
