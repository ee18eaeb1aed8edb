/* Generation against the official RNN code: each rnn/<name>/case.json: the prompt token by token and in one
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

/* The files call a field by their own name, and have wkv as [head][key][value]; x070's and ours is
 * [head][value][key]. */
static const struct {
    const char *field, *name;
} golden_names[] = {{"att_shift", "att_x_prev"}, {"ffn_shift", "ffn_x_prev"}, {"wkv", "wkv"}};

static const rw_file_tensor *find_state(const rw_tensor_file *f, const char *field, int layer) {
    char block[16];
    snprintf(block, sizeof block, ".%d.", layer);
    for (size_t k = 0; k < sizeof golden_names / sizeof *golden_names; k++)
        for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
            const rw_file_tensor *t = rw_tensor_file_at(f, i);
            if (strcmp(golden_names[k].field, field) == 0 && strstr(t->name, golden_names[k].name) &&
                strstr(t->name, block))
                return t;
        }
    fail_msg("no %s of layer %d", field, layer);
    return NULL;
}

static double state_error(const float *have, const double *want, int64_t n, int64_t N, bool transposed) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = transposed ? (i / (N * N) * N + i % N) * N + i / N % N : i;
        if (!(fabs(have[at] - want[i]) <= worst)) worst = fabs(have[at] - want[i]);
    }
    return worst;
}

/* The largest difference. */
static double check_state(rw_generator *g, const char *path, double tolerance) {
    rw_error err = {0};
    rw_tensor_file *f;
    must(rw_tensor_file_open(&f, path, &err), &err);
    const rw_plan_model *m = rw_generator_model(g);
    const rw_arch *arch = rw_arch_find(m->arch, &err);
    float *have = rw_alloc_array((size_t)(m->n_embd * m->head_size), sizeof *have);
    double worst = 0;
    for (int l = 0; l < m->n_layer; l++)
        for (int k = 0; k < arch->n_fields; k++) {
            const char *field = arch->fields[k].name;
            int64_t n, shape[RW_MAX_DIM], count = 1;
            int ndim = rw_shape_sizes(arch->fields[k].shape, m, shape);
            for (int i = 0; i < ndim; i++) count *= shape[i];
            double *want = read_tensor(f, find_state(f, field, l), &n);
            assert_int_equal(n, count);
            must(rw_generator_state(g, l, k, have, &err), &err);
            bool transposed = strcmp(field, "wkv") == 0 && strcmp(m->arch, "x070") != 0;
            worst = fmax(worst, state_error(have, want, n, m->head_size, transposed));
            rw_free(want);
        }
    if (!(worst <= tolerance)) fail_msg("state after all tokens: largest difference %.1e", worst);
    rw_free(have);
    rw_tensor_file_close(f);
    return worst;
}

/* The largest difference of a logit. */
static double greedy(rw_generator *g, const int32_t *prompt, int64_t n_prompt, const int32_t *want, int64_t n_want,
                     const double *golden, int64_t piece) {
    rw_error err = {0};
    int64_t V = rw_generator_model(g)->vocab_size;
    float *logits = rw_alloc_array((size_t)V, 4), *all = rw_alloc_array((size_t)(n_prompt * V), 4);
    double *wide = rw_alloc_array((size_t)(n_prompt * V), sizeof *wide);
    must(rw_generator_reset(g, &err), &err);
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
    if (!(worst <= 1e-4 * fp32_way()->slack))
        fail_msg("prompt in pieces of %lld: logits within %.1e", (long long)piece, worst);
    rw_free(logits);
    rw_free(all);
    rw_free(wide);
    return worst;
}

/* The arena was sized by a piece of RW_PREFILL tokens; shorter ones must fit it. */
static void every_length(rw_generator *g) {
    rw_error err = {0};
    int64_t V = rw_generator_model(g)->vocab_size;
    float *logits = rw_alloc_array((size_t)V, 4);
    int32_t ids[RW_PREFILL];
    for (int i = 0; i < RW_PREFILL; i++) ids[i] = (int32_t)(i * 7 % V);
    for (int64_t n = 1; n <= RW_PREFILL; n++) {
        must(rw_generator_reset(g, &err), &err);
        must(rw_generator_feed(g, ids, n, logits, NULL, &err), &err);
    }
    rw_free(logits);
}

static void run_case(const char *root, const char *folder) {
    const golden_way *way = fp32_way();
    rw_error err = {0};
    char path[512], dir[512];
    format_path(dir, root, folder);
    json_t *c = read_json(format_path(path, dir, "case.json"));
    int64_t n_prompt, n_want, n;
    json_t *prompt_json = json_object_get(c, "prompt"), *want_json = json_object_get(c, "continuation");
    int32_t *prompt = json_ids(prompt_json, &n_prompt), *want = json_ids(want_json, &n_want);
    assert_true(n_prompt > 0 && n_want > 0);
    weights_path(path, root, dir, c, "model");
    rw_device *device;
    rw_generator *g;
    device = open_way(way);
    must(rw_generator_open(&g, path, NULL, device, &err), &err);
    double *golden = read_npy(format_path(path, dir, "all_logits.npy"), &n);
    assert_true(n >= (n_prompt + n_want) * rw_generator_model(g)->vocab_size);
    double worst = fmax(greedy(g, prompt, n_prompt, want, n_want, golden, 1),
                        greedy(g, prompt, n_prompt, want, n_want, golden, 7));
    every_length(g);
    worst = fmax(worst, greedy(g, prompt, n_prompt, want, n_want, golden, 1000));
    double state = check_state(g, format_path(path, dir, "final_state.safetensors"), 1e-4 * way->slack);
    rw_golden_report(root, folder, "%lld greedy tokens equal, logits within %.1e, state within %.1e", (long long)n_want,
                     worst, state);
    rw_generator_close(g);
    rw_device_close(device);
    rw_free(golden);
    rw_free(prompt);
    rw_free(want);
    json_decref(c);
}

static void one_folder(void *ctx, const char *name) {
    int *n = ctx;
    char folder[300], path[600];
    snprintf(folder, sizeof folder, "rnn/%s", name);
    snprintf(path, sizeof path, "%s/%s/case.json", rw_golden_dir(), folder);
    if (!runs_here(path)) return;
    run_case(rw_golden_dir(), folder);
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
    run_case(rw_own_golden_path("."), "rnn/x060");
    run_case(rw_own_golden_path("."), "rnn/x070");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official), cmocka_unit_test(own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
