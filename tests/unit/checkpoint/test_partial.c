/* A file that is not quite the model's: without load_partial each missing and each unknown tensor is named; with it the
 * missing ones get initial values, the unknown ones are ignored, and both are named in the log. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/model_shape.h"
#include "core/checkpoint/weights.h"
#include "core/model/model.h"

static rw_device *device;
static rw_tensor_file *file; /* lacks head.weight and blocks.1.ffn.*, and has two tensors more */

static void must(rw_status status, const rw_error *err) {
    if (status != RW_OK) fail_msg("%s", err->msg);
}

static rw_plan_model shape_of(void) {
    rw_plan_model shape = {.arch = "x060", .n_layer = 2, .n_embd = 64, .vocab_size = 50, .head_size = 32};
    rw_arch_default_shape(rw_arch_find("x060", NULL), &shape);
    return shape;
}

static rw_model *new_model(void) {
    rw_error err = {0};
    rw_model *m;
    rw_plan_model shape = shape_of();
    must(rw_model_new(&m, &shape, device, NULL, &err), &err);
    return m;
}

static bool left_out(const char *name) {
    return strcmp(name, "head.weight") == 0 || strncmp(name, "blocks.1.ffn.", 13) == 0;
}

static int write_file(void **state) {
    (void)state;
    rw_error err = {0};
    rw_weights_list list;
    static const float more[] = {1, 2};
    must(rw_device_open_cpu(&device, RW_F32, 1, &err), &err);
    rw_model *m = new_model();
    must(rw_model_init(m, 3, &err), &err);
    must(
        rw_weights_list_new(&list, m->params, (rw_param_kind[]){RW_PARAM_VALUE}, (const char *[]){""}, 1, RW_F32, &err),
        &err);
    rw_save_tensor kept[200];
    int64_t n = 0;
    for (int64_t i = 0; i < list.n; i++)
        if (!left_out(list.tensors[i].name)) kept[n++] = list.tensors[i];
    assert_int_equal(n, list.n - 6);
    for (int i = 0; i < 2; i++) {
        kept[n] = (rw_save_tensor){.name = i ? "blocks.0.att.more" : "more", .ndim = 1, .shape = {2}, .data = more};
        kept[n].src_dtype = kept[n].dtype = RW_F32;
        kept[n++].fetch = rw_save_fetch_contiguous;
    }
    remove(rw_test_path("partial.pth"));
    must(rw_pth_write(rw_test_path("partial.pth"), kept, n, &err), &err);
    rw_weights_list_done(&list);
    rw_model_free(m);
    file = open_good(rw_test_path("partial.pth"));
    return 0;
}

static int close_file(void **state) {
    (void)state;
    rw_tensor_file_close(file);
    rw_device_close(device);
    return 0;
}

static rw_status read_shape(rw_plan_model *out, rw_error *err) {
    rw_arena arena = {0};
    rw_status status = rw_model_shape_from_file(file, out, &arena, err);
    rw_arena_done(&arena);
    return status;
}

static void all_missing_are_named(void **state) {
    (void)state;
    rw_error err = {0};
    rw_plan_model out = {0};
    assert_int_equal(read_shape(&out, &err), RW_E_FORMAT);
    assert_string_equal(err.msg, "tensor 'blocks.1.ffn.time_maa_k' is missing; is this the whole model? It lacks 6; "
                                 "model.load_partial: true gives them initial values");
    assert_string_equal(err.detail, "  blocks.1.ffn.time_maa_r\n  blocks.1.ffn.key.weight\n"
                                    "  blocks.1.ffn.receptance.weight\n  blocks.1.ffn.value.weight\n  head.weight");
    rw_error_clear(&err);
}

static void shape_of_a_part(void **state) {
    (void)state;
    rw_error err = {0};
    rw_plan_model out = {.load_partial = true}, want = shape_of();
    must(read_shape(&out, &err), &err);
    assert_string_equal(out.arch, "x060");
    for (int d = 0; d < RW_DIM_COUNT; d++) assert_int_equal(out.dim[d], want.dim[d]);
    out = (rw_plan_model){.load_partial = true, .n_layer = 5};
    must(read_shape(&out, &err), &err);
    assert_int_equal(out.n_layer, 5);
}

static bool file_has(const void *ctx, const char *name) {
    return rw_tensor_file_find(ctx, name) != NULL;
}

/* The same seed: what is missing is made as it was, what is there is read. */
static void values(void **state) {
    (void)state;
    rw_error err = {0};
    rw_model *whole = new_model(), *part = new_model();
    must(rw_model_init(whole, 3, &err), &err);
    must(rw_model_init_lacking(part, 3, file_has, file, &err), &err);
    assert_true(*(float *)part->emb->data == 0); /* not made: it will be read */
    assert_int_equal(rw_weights_load(part->params, RW_PARAM_VALUE, file, "file", "", &err), RW_E_FORMAT);
    rw_error_clear(&err);
    must(rw_weights_load_partial(part->params, file, "file", &err), &err);
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        const rw_flat *a = &whole->params->flat[RW_PARAM_VALUE][c], *b = &part->params->flat[RW_PARAM_VALUE][c];
        assert_memory_equal(a->data, b->data, (size_t)a->n * sizeof(float));
    }
    rw_model_free(whole);
    rw_model_free(part);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_missing_are_named), cmocka_unit_test(shape_of_a_part),
                                       cmocka_unit_test(values)};
    return cmocka_run_group_tests(tests, write_file, close_file);
}
