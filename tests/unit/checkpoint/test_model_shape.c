/* What a file is, told from names and shapes; and what `inspect` prints. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/inspect.h"
#include "core/checkpoint/model_shape.h"

enum { MAX_TENSORS = 200, L = 2, C = 8, H = 2, N = 4, V = 10, F = 24, R = 3, D = 5 };

typedef struct {
    char names[MAX_TENSORS][64];
    rw_save_tensor t[MAX_TENSORS];
    int n;
} model;

static float zeros[C * F * 4];

static void put(model *m, const char *name, int ndim, int64_t a, int64_t b, int64_t c) {
    rw_save_tensor *t = &m->t[m->n];
    snprintf(m->names[m->n], sizeof m->names[0], "%s", name);
    *t = (rw_save_tensor){.name = m->names[m->n],
                          .ndim = ndim,
                          .shape = {a, b, c},
                          .src_dtype = RW_F32,
                          .dtype = RW_BF16,
                          .fetch = rw_save_fetch_contiguous,
                          .data = zeros};
    m->n++;
}

static void put_block(model *m, int i, const char *name, int ndim, int64_t a, int64_t b, int64_t c) {
    char full[64];
    snprintf(full, sizeof full, "blocks.%d.%s", i, name);
    put(m, full, ndim, a, b, c);
}

/* An x060, by hand. */
static model *make_model(void) {
    static const char *const vectors[] = {"ln1.weight", "ln1.bias",        "ln2.weight",
                                          "ln2.bias",   "att.ln_x.weight", "att.ln_x.bias"};
    static const char *const mixes[] = {"att.time_maa_x", "att.time_maa_w", "att.time_maa_k",
                                        "att.time_maa_v", "att.time_maa_r", "att.time_maa_g",
                                        "att.time_decay", "ffn.time_maa_k", "ffn.time_maa_r"};
    static const char *const squares[] = {"att.receptance.weight", "att.key.weight",  "att.value.weight",
                                          "att.output.weight",     "att.gate.weight", "ffn.receptance.weight"};
    static model m;
    memset(&m, 0, sizeof m);
    put(&m, "head.weight", 2, V, C, 0);
    for (int i = 0; i < L; i++) {
        for (int k = 0; k < 6; k++) put_block(&m, i, vectors[k], 1, C, 0, 0);
        for (int k = 0; k < 9; k++) put_block(&m, i, mixes[k], 3, 1, 1, C);
        for (int k = 0; k < 6; k++) put_block(&m, i, squares[k], 2, C, C, 0);
        put_block(&m, i, "att.time_maa_w1", 2, C, 5 * R, 0);
        put_block(&m, i, "att.time_maa_w2", 3, 5, R, C);
        put_block(&m, i, "att.time_decay_w1", 2, C, D, 0);
        put_block(&m, i, "att.time_decay_w2", 2, D, C, 0);
        put_block(&m, i, "att.time_faaaa", 2, H, N, 0);
        put_block(&m, i, "ffn.key.weight", 2, F, C, 0);
        put_block(&m, i, "ffn.value.weight", 2, C, F, 0);
    }
    put(&m, "blocks.0.ln0.weight", 1, C, 0, 0);
    put(&m, "blocks.0.ln0.bias", 1, C, 0, 0);
    put(&m, "ln_out.weight", 1, C, 0, 0);
    put(&m, "ln_out.bias", 1, C, 0, 0);
    put(&m, "emb.weight", 2, V, C, 0);
    return &m;
}

static rw_tensor_file *save(const model *m) {
    const char *path = rw_test_path("model.pth");
    rw_error err = {0};
    remove(path);
    if (rw_pth_write(path, m->t, m->n, &err) != RW_OK) fail_msg("%s", err.msg);
    return open_good(path);
}

static rw_save_tensor *find(model *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->names[i], name)) return &m->t[i];
    fail_msg("no %s", name);
    return NULL;
}

static void expect(model *m, rw_status code, const char *says) {
    rw_plan_model out = {0};
    rw_arena a = {0};
    rw_error err = {0};
    rw_tensor_file *f = save(m);
    rw_status status = rw_model_shape_from_file(f, &out, &a, &err);
    if (status != code) fail_msg("status %d: %s; expected: %s", (int)status, err.msg, says);
    if (!strstr(err.msg, says)) fail_msg("'%s' does not contain '%s'", err.msg, says);
    rw_error_clear(&err);
    rw_arena_done(&a);
    rw_tensor_file_close(f);
}

static void sizes_are_read(void **state) {
    (void)state;
    rw_plan_model m = {.load_model = "left alone"};
    rw_arena a = {0};
    rw_error err = {0};
    rw_tensor_file *f = save(make_model());
    if (rw_model_shape_from_file(f, &m, &a, &err) != RW_OK) fail_msg("%s", err.msg);
    assert_string_equal(m.arch, "x060");
    assert_int_equal(m.n_layer, L);
    assert_int_equal(m.n_embd, C);
    assert_int_equal(m.vocab_size, V);
    assert_int_equal(m.head_size, N);
    assert_int_equal(m.n_head, H);
    assert_int_equal(m.dim_ffn, F);
    assert_int_equal(m.lora_mix, R);
    assert_int_equal(m.lora_decay, D);
    assert_int_equal(m.file_dtype, RW_BF16);
    assert_string_equal(m.load_model, "left alone");
    assert_true(m.head_size_divisor == 8); /* no file says it */
    m.head_size_divisor = 4;
    assert_int_equal(rw_model_shape_from_file(f, &m, &a, &err), RW_OK);
    assert_true(m.head_size_divisor == 4);
    rw_arena_done(&a);
    rw_tensor_file_close(f);
}

static void mistakes_are_named(void **state) {
    (void)state;
    model *m = make_model();
    snprintf((char *)(uintptr_t)find(m, "blocks.1.att.gate.weight")->name, 64, "blocks.1.att.gaet.weight");
    expect(m, RW_E_FORMAT, "tensor 'blocks.1.att.gate.weight' is missing");
    m = make_model();
    put(m, "blocks.1.att.extra", 1, C, 0, 0);
    expect(m, RW_E_FORMAT, "tensor 'blocks.1.att.extra' is unknown (one of 1); a x060 model");
    m = make_model();
    find(m, "blocks.1.ffn.key.weight")->shape[0] = F - 1;
    expect(m, RW_E_SHAPE, "tensor 'blocks.1.ffn.key.weight': expected shape [24, 8], found [23, 8]");
    m = make_model();
    find(m, "blocks.1.ln1.weight")->ndim = 2;
    find(m, "blocks.1.ln1.weight")->shape[1] = 1;
    expect(m, RW_E_SHAPE, "tensor 'blocks.1.ln1.weight': expected shape [8], found [8, 1]");
    m = make_model();
    for (int i = 0; i < L; i++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.att.time_faaaa", i);
        find(m, name)->shape[0] = 3;
    }
    expect(m, RW_E_SHAPE, "3 heads of size 4 do not add up to n_embd 8");
    m = make_model();
    for (int i = 0; i < L; i++) { /* shapes that agree with each other, and nothing in them */
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.ffn.key.weight", i);
        find(m, name)->shape[0] = 0;
        snprintf(name, sizeof name, "blocks.%d.ffn.value.weight", i);
        find(m, name)->shape[1] = 0;
    }
    expect(m, RW_E_SHAPE, "tensor 'blocks.0.ffn.key.weight' is empty");
    m = make_model();
    find(m, "blocks.0.att.key.weight")->src_dtype = find(m, "blocks.0.att.key.weight")->dtype = RW_I8;
    expect(m, RW_E_UNSUPPORTED, "is i8: this file is quantized");
    m = make_model();
    snprintf((char *)(uintptr_t)find(m, "blocks.1.ln1.weight")->name, 64, "blocks.7.ln1.weight");
    expect(m, RW_E_FORMAT, "tensor 'blocks.1.ln1.weight' is missing");
    m = make_model();
    snprintf((char *)(uintptr_t)find(m, "blocks.1.ln1.weight")->name, 64, "blocks.9999.ln1.weight");
    expect(m, RW_E_FORMAT, "10000 blocks; expected 1 to 256");
    m = make_model();
    put(m, "head_q.weight", 2, 4, C, 0);
    expect(m, RW_E_FORMAT, "tensor 'head_k.weight' is missing");
    put(m, "head_k.weight", 2, 5, C, 0);
    expect(m, RW_E_SHAPE, "tensor 'head_k.weight': expected shape [4, 8], found [5, 8]");
    m = make_model();
    put(m, "copy_mask", 2, 4, 4, 0);
    expect(m, RW_E_FORMAT, "tensor 'head_q.weight' is missing");
    m->n = 0;
    put(m, "blocks.0.att.time_first", 1, C, 0, 0);
    expect(m, RW_E_UNSUPPORTED, "this is RWKV-4, 5.0 or 5.1; download a newer model");
    m->n = 0;
    put(m, "blocks.0.att.time_first", 1, C, 0, 0);
    put(m, "blocks.0.att.time_mix_w1", 2, C, 5 * R, 0);
    expect(m, RW_E_UNSUPPORTED, "converted for web-rwkv; download the official .pth");
    m->n = 0;
    put(m, "blocks.0.att.key.lora_A", 2, R, C, 0);
    expect(m, RW_E_UNSUPPORTED, "LoRA adapter");
    m->n = 0;
    put(m, "blocks.0.att.x_r", 3, 1, 1, C);
    expect(m, RW_E_FORMAT, "is missing; is this the whole model?");
    m->n = 0;
    put(m, "blocks.0.att.time_state", 3, H, N, N);
    expect(m, RW_E_UNSUPPORTED, "this file holds only initial states");
    m->n = 0;
    put(m, "model.embeddings.weight", 1, C, 0, 0);
    expect(m, RW_E_UNSUPPORTED, "Hugging Face's tensor names");
    m->n = 0;
    put(m, "w", 1, C, 0, 0);
    expect(m, RW_E_FORMAT,
           "not an RWKV model: expected tensors such as blocks.0.att.key.weight; the first of 1 here is 'w'");
    m->n = 0;
    expect(m, RW_E_FORMAT, "not an RWKV model");
}

static void inspect_tells_the_model(void **state) {
    (void)state;
    rw_tensor_file *f = save(make_model());
    rw_str s = {0};
    rw_error err = {0};
    assert_int_equal(rw_inspect_print(f, &s, &err), RW_OK);
    assert_non_null(strstr(s.data,
                           "RWKV x060, bf16: n_layer 2, n_embd 8, vocab_size 10, n_head 2, head_size 4, dim_ffn 24, "
                           "lora_mix 3, lora_decay 5\n"));
    assert_non_null(strstr(s.data, "\n  emb.weight                     bf16  [10, 8]\n"));
    int64_t live = rw_alloc_live();
    for (int64_t k = 1;; k++) {
        rw_str again = {0};
        rw_alloc_fail_after(k);
        rw_status status = rw_inspect_print(f, &again, &err);
        rw_alloc_fail_after(0);
        rw_str_done(&again);
        if (status == RW_OK) break;
        assert_int_equal(status, RW_E_MEMORY);
        assert_true(k < 1000);
    }
    assert_int_equal(rw_alloc_live(), live);
    rw_str_done(&s);
    rw_tensor_file_close(f);
}

static void inspect_tells_a_training_state(void **state) {
    (void)state;
    static char cursor[1000];
    const char *path = rw_test_path("state-7.safetensors");
    memset(cursor, 'x', sizeof cursor - 1);
    const char *const metadata[][2] = {{"progress", "{\"step\":7}"}, {"loss", "2.5"}, {"cursor", cursor}};
    model m = {0};
    rw_str s = {0};
    rw_error err = {0};
    put(&m, "emb.weight", 2, 3, 4, 0);
    assert_int_equal(rw_safetensors_write(path, m.t, m.n, metadata, 3, &err), RW_OK);
    rw_tensor_file *f = open_good(path);
    assert_int_equal(rw_inspect_print(f, &s, &err), RW_OK);
    assert_non_null(strstr(s.data, "a training state\n  progress: {\"step\":7}\n  loss: 2.5\n"));
    assert_non_null(strstr(s.data, "xxx... (999 bytes)\n"));
    rw_str_done(&s);
    rw_tensor_file_close(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(inspect_tells_the_model),
        cmocka_unit_test(inspect_tells_a_training_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
