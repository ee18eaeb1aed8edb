/* Every container of the golden set against its expected values, bit for bit; official initial models by name. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/base/fs.h"
#include "core/checkpoint/model_shape.h"
#include "core/model/arch.h"

#include <jansson.h>

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

static json_t *read_config(const char *path) {
    json_t *json = json_load_file(path, 0, NULL);
    if (!json) fail_msg("%s cannot be read", path);
    return json;
}

static int64_t whole(const json_t *c, const char *key) {
    return (int64_t)json_integer_value(json_object_get(c, key));
}
static bool text_is(const json_t *c, const char *key, const char *value) {
    const char *text = json_string_value(json_object_get(c, key));
    return text && strcmp(text, value) == 0;
}

static const char *arch_of(const json_t *c) {
    const char *arch = json_string_value(json_object_get(c, "arch"));
    return arch ? arch : json_string_value(json_object_get(c, "my_testing"));
}

static void compare_shape(const char *path, const json_t *c, rw_dtype dtype) {
    rw_tensor_file *f = open_good(path);
    rw_plan_model m = {0};
    rw_arena a = {0};
    rw_error err = {0};
    if (rw_model_shape_from_file(f, &m, &a, &err) != RW_OK) fail_msg("%s: %s", path, err.msg);
    int64_t N = whole(c, "head_size"), ffn = whole(c, "ffn_hidden");
    assert_string_equal(m.arch, arch_of(c));
    assert_int_equal(m.n_layer, whole(c, "n_layer"));
    assert_int_equal(m.n_embd, whole(c, "n_embd"));
    assert_int_equal(m.vocab_size, whole(c, "vocab_size"));
    assert_int_equal(m.head_size, N);
    assert_int_equal(m.n_head, whole(c, "n_embd") / N);
    if (ffn) assert_int_equal(m.dim_ffn, ffn);
    assert_int_equal(m.pre_ffn, whole(c, "pre_ffn"));
    assert_int_equal(m.file_dtype, dtype);
    assert_true(read_everything(path));
    rw_arena_done(&a);
    rw_tensor_file_close(f);
}

static void expect_named(const char *path, const char *words) {
    rw_tensor_file *f = open_good(path);
    rw_plan_model m = {0};
    rw_arena a = {0};
    rw_error err = {0};
    assert_int_equal(rw_model_shape_from_file(f, &m, &a, &err), RW_E_UNSUPPORTED);
    if (!strstr(err.msg, words)) fail_msg("%s: %s", path, err.msg);
    rw_arena_done(&a);
    rw_tensor_file_close(f);
}

/* Each folder with weights of its own: its sizes are read from them, or what it was trained with is named. */
static void one_model(void *ctx, const char *name) {
    int *n = ctx;
    char dir[512], config[600], weights[600];
    snprintf(dir, sizeof dir, "%s/models/%s", rw_golden_dir(), name);
    snprintf(config, sizeof config, "%s/config.json", dir);
    snprintf(weights, sizeof weights, "%s/model.pth", dir);
    if (!rw_exists(config) || !rw_exists(weights)) return;
    json_t *c = read_config(config);
    if (!rw_arch_find(arch_of(c), NULL))
        expect_named(weights, arch_of(c));
    else
        compare_shape(weights, c, text_is(c, "dtype", "bfloat16") ? RW_BF16 : RW_F32);
    json_decref(c);
    ++*n;
}

static void one_init(void *ctx, const char *name) {
    int *n = ctx;
    char stats[600], weights[600];
    snprintf(stats, sizeof stats, "%s/init/%s/stats.json", rw_golden_dir(), name);
    snprintf(weights, sizeof weights, "%s/init/%s/pth/rwkv-init.pth", rw_golden_dir(), name);
    if (!rw_exists(stats) || !rw_exists(weights)) return;
    json_t *c = read_config(stats), *config = json_object_get(c, "config");
    if (rw_arch_find(arch_of(config), NULL))
        compare_shape(weights, config, RW_BF16);
    else
        expect_named(weights, arch_of(config));
    json_decref(c);
    ++*n;
}

static void one_train(void *ctx, const char *name) {
    int *n = ctx;
    char config[600], weights[600];
    snprintf(config, sizeof config, "%s/train/%s/config.json", rw_golden_dir(), name);
    snprintf(weights, sizeof weights, "%s/train/%s/final.pth", rw_golden_dir(), name);
    if (!rw_exists(config) || !rw_exists(weights)) return;
    json_t *c = read_config(config);
    if (text_is(c, "train_type", "states")) {
        expect_named(weights, "holds only initial states");
        ++*n;
    }
    json_decref(c);
}

static void official_models_are_recognised(void **state) {
    (void)state;
    int models = 0, inits = 0;
    rw_golden_each("models", one_model, &models);
    rw_golden_each("init", one_init, &inits);
    print_message("%d models and %d initial files recognised\n", models, inits);
    assert_true(models > 0 && inits > 0);
}

static void other_variants_are_named(void **state) {
    (void)state;
    int n = 0;
    rw_golden_each("train", one_train, &n);
    assert_true(n > 0);
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
