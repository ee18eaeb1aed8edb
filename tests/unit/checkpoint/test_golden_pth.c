/* Every container of the golden set against its expected values, bit for bit; official initial models by name. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/model_shape.h"

static const char *const containers[] = {
    "state_dict_f32",       "state_dict_bf16",    "state_dict_f16",
    "plain_dict_f32",       "flat_views_bf16",    "strided_f32",
    "parameters_f32",       "cuda_tag_bf16",      "forward_module_prefix_bf16",
    "newer_container_bf16", "legacy_nonzip_bf16",
};

static float *read_f32(const rw_tensor_file *f, const rw_file_tensor *t, int64_t *n) {
    rw_error err = {0};
    *n = 1;
    for (int d = 0; d < t->ndim; d++) *n *= t->shape[d];
    float *out = malloc((size_t)*n * sizeof *out + 1);
    if (rw_tensor_file_read(f, t, out, RW_F32, &err) != RW_OK) fail_msg("%s", err.msg);
    return out;
}

static void compare(const char *container) {
    char path[128];
    snprintf(path, sizeof path, "pth/%s.pth", container);
    rw_tensor_file *f = open_good(rw_golden_path(path));
    snprintf(path, sizeof path, "pth/expected_%s.safetensors", strrchr(container, '_') + 1);
    rw_tensor_file *e = open_good(rw_golden_path(path));
    assert_int_equal(rw_tensor_file_count(f), rw_tensor_file_count(e));
    int64_t n_values = 0;
    for (int64_t i = 0; i < rw_tensor_file_count(e); i++) {
        const rw_file_tensor *want = rw_tensor_file_at(e, i), *got = rw_tensor_file_find(f, want->name);
        int64_t n, n_want;
        if (!got) fail_msg("%s: %s is missing", container, want->name);
        assert_int_equal(got->ndim, want->ndim);
        for (int d = 0; d < want->ndim; d++) assert_int_equal(got->shape[d], want->shape[d]);
        float *a = read_f32(f, got, &n), *b = read_f32(e, want, &n_want);
        if (memcmp(a, b, (size_t)n * sizeof *a)) fail_msg("%s: %s differs", container, want->name);
        n_values += n;
        free(a);
        free(b);
    }
    print_message("%-28s %d tensors, %d values equal\n", container, (int)rw_tensor_file_count(f), (int)n_values);
    rw_tensor_file_close(f);
    rw_tensor_file_close(e);
}

static void containers_are_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) compare(containers[i]);
}

static void official_models_are_recognised(void **state) {
    (void)state;
    static const struct {
        const char *path, *arch;
        int64_t n_layer, n_embd, vocab, head_size, n_head, dim_ffn, mix, decay;
        rw_dtype dtype;
    } models[] = {
        {"init/x052-a/pth/rwkv-init.pth", "x052", 4, 64, 320, 64, 1, 224, 0, 0, RW_BF16},
        {"init/x060-a/pth/rwkv-init.pth", "x060", 4, 64, 320, 64, 1, 224, 32, 64, RW_BF16},
        {"init/x070-a/pth/rwkv-init.pth", "x070", 4, 64, 320, 64, 1, 256, 0, 0, RW_BF16},
        {"models/x060-base/model.pth", "x060", 2, 64, 320, 64, 1, 224, 32, 64, RW_F32},
        {"models/x060-h32/model.pth", "x060", 2, 64, 300, 32, 2, 96, 32, 64, RW_F32},
        {"models/x060-c128/model.pth", "x060", 2, 128, 160, 64, 2, 32, 32, 64, RW_F32},
        {"models/x060-bf16/model.pth", "x060", 2, 64, 300, 64, 1, 256, 32, 64, RW_BF16},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        rw_tensor_file *f = open_good(rw_golden_path(models[i].path));
        rw_plan_model m = {0};
        rw_arena a = {0};
        rw_error err = {0};
        if (rw_model_shape_from_file(f, &m, &a, &err) != RW_OK) fail_msg("%s: %s", models[i].path, err.msg);
        assert_string_equal(m.arch, models[i].arch);
        assert_int_equal(m.n_layer, models[i].n_layer);
        assert_int_equal(m.n_embd, models[i].n_embd);
        assert_int_equal(m.vocab_size, models[i].vocab);
        assert_int_equal(m.head_size, models[i].head_size);
        assert_int_equal(m.n_head, models[i].n_head);
        assert_int_equal(m.dim_ffn, models[i].dim_ffn);
        assert_int_equal(m.lora_mix, models[i].mix);
        assert_int_equal(m.lora_decay, models[i].decay);
        assert_int_equal(m.file_dtype, models[i].dtype);
        assert_true(read_everything(rw_golden_path(models[i].path)));
        rw_arena_done(&a);
        rw_tensor_file_close(f);
    }
}

static void other_variants_are_named(void **state) {
    (void)state;
    static const char *const models[][2] = {
        {"models/x060-headqk/model.pth", "trained with head_qk"},
        {"models/x060-preffn/model.pth", "trained with pre_ffn"},
        {"models/x060-states/model.pth", "trained with train_type states"},
        {"train/x060-states/final.pth", "holds only initial states"},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        rw_tensor_file *f = open_good(rw_golden_path(models[i][0]));
        rw_plan_model m = {0};
        rw_arena a = {0};
        rw_error err = {0};
        assert_int_equal(rw_model_shape_from_file(f, &m, &a, &err), RW_E_UNSUPPORTED);
        if (!strstr(err.msg, models[i][1])) fail_msg("%s: %s", models[i][0], err.msg);
        rw_arena_done(&a);
        rw_tensor_file_close(f);
    }
}

/* Every cut of a real file gives a message, never a crash; so does every single wrong byte. */
static void damaged_official_files(void **state) {
    (void)state;
    const char *cut = rw_test_path("cut.pth");
    static const char *const names[] = {"pth/flat_views_bf16.pth", "pth/legacy_nonzip_bf16.pth",
                                        "pth/expected_f32.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int64_t n;
        char *bytes = take_file(rw_golden_path(names[i]), &n);
        for (int64_t k = 0; k < n; k++) {
            put_file(cut, bytes, (size_t)k);
            expect_refused(cut, "");
        }
        for (int64_t k = 0; k < n; k++) {
            bytes[k] ^= (char)(k % 2 ? 0x81 : 0xff);
            put_file(cut, bytes, (size_t)n);
            read_everything(cut);
            bytes[k] ^= (char)(k % 2 ? 0x81 : 0xff);
        }
        rw_free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(containers_are_read),
        cmocka_unit_test(official_models_are_recognised),
        cmocka_unit_test(other_variants_are_named),
        cmocka_unit_test(damaged_official_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
