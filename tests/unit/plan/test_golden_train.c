/* Twenty optimizer steps against the official code: each folder train/<arch>-*, with its own batches, learning rates
 * and weight decay. fp64 follows the losses of the official run in fp64; fp32 those too, and ends at its weights. The
 * parameter groups of the config are compared with ours. */
#include "tests/unit/plan/golden_model.h"

#define MAX_STEPS 64

typedef struct {
    double loss[MAX_STEPS], lr[MAX_STEPS], weight_decay[MAX_STEPS];
    int n;
} steps;

static void read_log(steps *s, const char *path) {
    rw_error err = {0};
    char *text;
    int64_t n;
    must(rw_file_slurp(path, 1 << 24, &text, &n, &err), &err);
    for (char *line = strtok(text, "\n"); line && s->n < MAX_STEPS; line = strtok(NULL, "\n")) {
        json_t *j;
        must(rw_json_parse(line, strlen(line), RW_AT_FILE(path), &j, &err), &err);
        s->loss[s->n] = json_num(j, "loss_fp64", NAN);
        s->lr[s->n] = json_num(j, "lr", NAN);
        s->weight_decay[s->n++] = json_num(j, "weight_decay", NAN);
        json_decref(j);
    }
    rw_free(text);
}

static void train_keys(rw_plan_train *t, const json_t *c) {
    t->train_type = trains_states(c) ? RW_TRAIN_STATES : RW_TRAIN_ALL;
    t->l2wrap = RW_L2WRAP_V5;
    t->beta1 = json_num(c, "beta1", 0.9);
    t->beta2 = json_num(c, "beta2", 0.99);
    t->adam_eps = json_num(c, "adam_eps", 1e-8);
    t->weight_decay = json_num(c, "weight_decay", 0);
    t->layerwise_lr = json_int(c, "layerwise_lr", 1) > 0;
    t->my_pile_stage = json_int(c, "my_pile_stage", 0);
    t->grad_clip = json_num(c, "grad_clip", 1);
}

static void check_groups(const rw_layout *l, const json_t *config) {
    size_t i, k;
    json_t *group, *name;
    json_array_foreach(json_object_get(config, "groups"), i, group) {
        double scale = json_num(group, "my_lr_scale", 1);
        bool decays = json_is_true(json_object_get(group, "decays"));
        json_array_foreach(json_object_get(group, "params"), k, name) {
            int at = rw_layout_find(l, json_string_value(name));
            if (at < 0) fail_msg("no parameter %s", json_string_value(name));
            if (l->segments[at].lr_scale != scale || l->segments[at].decay != decays)
                fail_msg("%s: lr scale %g decay %d, the official run has %g and %d", json_string_value(name),
                         l->segments[at].lr_scale, l->segments[at].decay, scale, decays);
        }
    }
}

/* rms of the difference to the final weights, worst tensor; *beyond: largest element in units of the last lr */
static double final_rms(rw_params *p, const char *path, double lr, double *beyond) {
    rw_error err = {0};
    rw_tensor_file *f;
    must(rw_tensor_file_open(&f, path, &err), &err);
    double worst = 0;
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        int64_t n;
        double *want = read_tensor(f, t, &n), *have = rw_alloc_array((size_t)n, sizeof *have), sum = 0, top = 0;
        rw_tensor *x = rw_params_find(p, t->name);
        assert_non_null(x);
        read_device(p->device, x->data, x->dtype, n, have);
        for (int64_t e = 0; e < n; e++) {
            double d = fabs(have[e] - want[e]);
            sum += d * d;
            if (!(d <= top)) top = d;
        }
        if (!(sqrt(sum / (double)n) <= worst)) worst = sqrt(sum / (double)n);
        if (!(top / lr <= *beyond)) *beyond = top / lr;
        rw_free(want);
        rw_free(have);
    }
    rw_tensor_file_close(f);
    return worst;
}

/* What does not learn keeps every bit; of matrices, those of bf16 where they are stored so. */
static void check_frozen(rw_params *p, const rw_tensor_file *init) {
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const rw_segment *s = &p->layout.segments[i];
        if (s->trainable) continue;
        int64_t n;
        double *want = read_tensor(init, rw_tensor_file_find(init, s->name), &n);
        double *have = rw_alloc_array((size_t)n, sizeof *have);
        rw_params_get(p, RW_PARAM_VALUE, i, 0, n, RW_F64, have);
        const rw_dtype stored = p->flat[RW_PARAM_FROZEN][s->cls].grid;
        void *rounded = rw_alloc_array((size_t)n, sizeof *have);
        rw_convert(rounded, stored, want, RW_F64, n);
        to_double(rounded, stored, n, want);
        rw_free(rounded);
        assert_memory_equal(have, want, (size_t)n * sizeof *have);
        assert_null(p->tensors[i].grad);
        rw_free(want);
        rw_free(have);
    }
}

/* The optimizer has these parameters and no others. */
static void check_trainable(const rw_layout *l, const json_t *config) {
    size_t n = 0, i, official = 0;
    json_t *group;
    json_array_foreach(json_object_get(config, "groups"), i, group) official +=
        json_array_size(json_object_get(group, "params"));
    for (i = 0; i < l->n_segments; i++) n += l->segments[i].trainable;
    assert_int_equal(n, official);
}

static void one_run(const char *root, const char *folder, const golden_way *way) {
    rw_error err = {0};
    char path[512], dir[512];
    format_path(dir, root, folder);
    json_t *config = read_json(format_path(path, dir, "config.json"));
    steps s = {.n = 0};
    read_log(&s, format_path(path, dir, "log.jsonl"));
    rw_tensor_file *weights, *batches;
    char init[512];
    weights_path(init, root, dir, config, "init");
    must(rw_tensor_file_open(&weights, init, &err), &err);
    must(rw_tensor_file_open(&batches, format_path(path, dir, "batches.safetensors"), &err), &err);
    rw_plan plan;
    plan_from_weights(&plan, config, weights);
    train_keys(&plan.train, config);
    const rw_file_tensor *idx = rw_tensor_file_find(batches, "idx");
    int64_t B = idx->shape[1], T = idx->shape[2], n;
    plan.train.micro_bsz = plan.data.max_seq = B;
    plan.train.ctx_len = T;
    plan.train.head_chunk = B * T;
    rw_device *device;
    rw_engine e;
    train_so(&plan.train, way);
    device = open_way(way);
    must(rw_engine_open(&e, &plan, device, true, &err), &err);
    must(rw_weights_load(e.model->params, RW_PARAM_VALUE, weights, init, "", &err), &err);
    check_groups(&e.model->params->layout, config);
    check_trainable(&e.model->params->layout, config);

    int32_t *ids = read_ids(batches, "idx", &n), *targets = read_ids(batches, "targets", &n), cu[65];
    float *mask = rw_alloc_array((size_t)(B * T), sizeof *mask);
    for (int64_t i = 0; i < B * T; i++) mask[i] = 1;
    for (int64_t i = 0; i <= B; i++) cu[i] = (int32_t)(i * T);
    double worst = 0;
    for (int i = 0; i < s.n; i++) {
        rw_batch b = {.n_rows = B * T, .n_seq = B, .mask = mask, .cu_seqlens = cu, .mask_sum = (double)(B * T)};
        b.tokens = ids + i * B * T;
        b.targets = targets + i * B * T;
        double loss;
        rw_engine_begin_step(&e, i, s.lr[i], s.weight_decay[i], b.mask_sum);
        must(rw_engine_micro_step(&e, &b, &loss, &err), &err);
        must(rw_engine_update(&e, &err), &err);
        double d = fabs(loss / b.mask_sum - s.loss[i]);
        if (way->bf16) d /= s.loss[i];
        if (!(d <= worst)) worst = d;
    }
    double beyond = 0, rms = final_rms(e.model->params, format_path(path, dir, "final.pth"), s.lr[s.n - 1], &beyond);
    rw_golden_report(root, folder, "%s %d steps, worst loss %.2e, final weights rms %.2e, largest difference %.2g lr",
                     way->name, s.n, worst, rms, beyond);
    assert_true(s.n > 0);
    if (way->bf16)
        assert_true(worst <= 5e-3);
    else
        assert_true(worst <= (way->slack == 0 ? 1e-6 : 1e-5 * way->slack));
    if (way->slack > 0) assert_true(rms <= 2e-6 * way->slack && beyond <= way->slack);
    check_frozen(e.model->params, weights);
    rw_engine_close(&e);
    rw_device_close(device);
    rw_tensor_file_close(weights);
    rw_tensor_file_close(batches);
    rw_free(ids);
    rw_free(targets);
    rw_free(mask);
    json_decref(config);
}

typedef struct {
    const char *root;
    int runs;
} walk;

static rw_status one_folder(void *ctx, const char *name, rw_error *err) {
    walk *w = ctx;
    char folder[300], path[600];
    (void)err;
    snprintf(folder, sizeof folder, "train/%s", name);
    snprintf(path, sizeof path, "%s/%s/config.json", w->root, folder);
    if (!runs_here(path)) return RW_OK;
    one_run(w->root, folder, way_at(0));
    one_run(w->root, folder, way_at(1));
    w->runs++;
    return RW_OK;
}

static void all_runs(const char *root) {
    rw_error err = {0};
    char path[512];
    walk w = {root, 0};
    must(rw_dir_list(format_path(path, root, "train"), one_folder, &w, &err), &err);
    assert_true(w.runs > 0);
}

static void official(void **state) {
    (void)state;
    rw_golden_path("train");
    all_runs(rw_golden_dir());
}

static void own(void **state) {
    (void)state;
    all_runs(rw_own_golden_path("."));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official), cmocka_unit_test(own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
