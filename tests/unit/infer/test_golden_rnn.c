/* Generation against the official RNN code: each rnn/<name>/case.json of x060: the prompt token by token and in one
 * piece, 64 greedy tokens, the logits of every position and the state at the end. */
#include "core/infer/generate.h"
#include "core/infer/sampling.h"
#include "tests/unit/plan/golden_model.h"

#define GREEDY 64

static int32_t *json_ids(const json_t *list, int64_t *n) {
    *n = (int64_t)json_array_size(list);
    int32_t *ids = rw_alloc_array((size_t)*n, sizeof *ids);
    for (int64_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

static void check_state(rw_generator *g, const char *path, int layers, double tolerance) {
    rw_error err = {0};
    rw_tensor_file *f;
    must(rw_tensor_file_open(&f, path, &err), &err);
    const rw_plan_model *m = rw_generator_model(g);
    int64_t C = m->n_embd, N = m->head_size, H = m->n_head;
    float *att = rw_alloc_array((size_t)C, 4), *ffn = rw_alloc_array((size_t)C, 4),
          *wkv = rw_alloc_array((size_t)(C * N), 4);
    double worst = 0;
    for (int l = 0; l < layers; l++) {
        must(rw_generator_state(g, l, att, ffn, wkv, &err), &err);
        const char *parts[] = {"att_x_prev", "ffn_x_prev", "wkv"};
        for (int p = 0; p < 3; p++) {
            const rw_file_tensor *t = NULL;
            for (int64_t i = 0; i < rw_tensor_file_count(f) && !t; i++) {
                const rw_file_tensor *x = rw_tensor_file_at(f, i);
                char layer[16];
                snprintf(layer, sizeof layer, ".%d.", l);
                if (strstr(x->name, parts[p]) && strstr(x->name, layer)) t = x;
            }
            if (!t) fail_msg("%s: no %s of layer %d", path, parts[p], l);
            int64_t n;
            double *want = read_tensor(f, t, &n);
            for (int64_t i = 0; i < n; i++) {
                /* the file has [head][key][value], ours is [head][value][key] */
                int64_t h = i / (N * N), key = i / N % N, value = i % N;
                double have = p == 0 ? att[i] : p == 1 ? ffn[i] : wkv[(h * N + value) * N + key];
                assert_true(p == 2 ? n == H * N * N : n == C);
                if (!(fabs(have - want[i]) <= worst)) worst = fabs(have - want[i]);
            }
            rw_free(want);
        }
    }
    print_message("  state after all tokens: largest difference %.1e\n", worst);
    assert_true(worst <= tolerance);
    rw_free(att);
    rw_free(ffn);
    rw_free(wkv);
    rw_tensor_file_close(f);
}

static void greedy(rw_generator *g, const int32_t *prompt, int64_t n_prompt, const int32_t *want, int64_t n_want,
                   const double *golden, int64_t piece) {
    rw_error err = {0};
    int64_t V = rw_generator_model(g)->vocab_size;
    float *logits = rw_alloc_array((size_t)V, 4), *all = rw_alloc_array((size_t)(n_prompt * V), 4);
    double *wide = rw_alloc_array((size_t)(n_prompt * V), sizeof *wide);
    rw_generator_reset(g);
    for (int64_t at = 0; at < n_prompt; at += piece) {
        int64_t n = n_prompt - at < piece ? n_prompt - at : piece;
        must(rw_generator_feed(g, prompt + at, n, logits, all + at * V, &err), &err);
    }
    to_double(all, RW_F32, n_prompt * V, wide);
    double worst = 0;
    rel_error(wide, golden, n_prompt * V, &worst);
    for (int64_t i = 0; i < n_want; i++) {
        int32_t id = rw_sample(logits, V, &(rw_sampling){0, 1}, NULL, (rw_candidates){0});
        if (id != want[i]) fail_msg("token %lld is %d, the official code says %d", (long long)i, id, want[i]);
        must(rw_generator_feed(g, &id, 1, logits, NULL, &err), &err);
        double each;
        to_double(logits, RW_F32, V, wide);
        rel_error(wide, golden + (n_prompt + i) * V, V, &each);
        if (!(each <= worst)) worst = each;
    }
    print_message("  prompt in pieces of %lld: %lld greedy tokens equal, logits within %.1e\n", (long long)piece,
                  (long long)n_want, worst);
    assert_true(worst <= 1e-4);
    rw_free(logits);
    rw_free(all);
    rw_free(wide);
}

static void run_case(const char *root, const char *dir) {
    rw_error err = {0};
    char path[512];
    json_t *c = read_json(format_path(path, dir, "case.json"));
    int64_t n_prompt, n_want, n;
    json_t *prompt_json = json_object_get(c, "prompt"), *want_json = json_object_get(c, "continuation");
    int32_t *prompt = json_ids(prompt_json, &n_prompt), *want = json_ids(want_json, &n_want);
    assert_true(n_prompt > 0 && n_want > 0);
    weights_path(path, root, dir, c, "model");
    rw_device *device;
    rw_generator *g;
    must(rw_device_open_cpu(&device, RW_F32, 2, &err), &err);
    must(rw_generator_open(&g, path, device, &err), &err);
    double *golden = read_npy(format_path(path, dir, "all_logits.npy"), &n);
    assert_true(n >= (n_prompt + n_want) * rw_generator_model(g)->vocab_size);
    greedy(g, prompt, n_prompt, want, n_want, golden, 1);
    greedy(g, prompt, n_prompt, want, n_want, golden, 7);
    greedy(g, prompt, n_prompt, want, n_want, golden, 1000);
    check_state(g, format_path(path, dir, "final_state.safetensors"), (int)rw_generator_model(g)->n_layer, 1e-4);
    rw_generator_close(g);
    rw_device_close(device);
    rw_free(golden);
    rw_free(prompt);
    rw_free(want);
    json_decref(c);
}

static void one_folder(void *ctx, const char *name) {
    int *n = ctx;
    char dir[512], path[600];
    snprintf(dir, sizeof dir, "%s/rnn/%s", rw_golden_dir(), name);
    snprintf(path, sizeof path, "%s/case.json", dir);
    if (!rw_exists(path)) return;
    json_t *c = read_json(path);
    bool x060 = strcmp(json_text(c, "arch", ""), "x060") == 0;
    json_decref(c);
    if (!x060) return;
    run_case(rw_golden_dir(), dir);
    ++*n;
}

static void official(void **state) {
    (void)state;
    int n = 0;
    rw_golden_each("rnn", one_folder, &n);
    assert_true(n > 0);
}

static void own(void **state) {
    (void)state;
    run_case(rw_own_golden_path("."), rw_own_golden_path("rnn/x060"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official), cmocka_unit_test(own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
