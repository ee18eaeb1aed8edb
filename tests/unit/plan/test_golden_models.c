/* Every architecture against the official code: logits, loss and every gradient of each folder models/<arch>-*, in fp64
 * and fp32, plain and with L2Wrap. */
#include "tests/unit/plan/golden_model.h"

#define MAX_TENSORS 65536

typedef struct {
    const char *name;
    double logits, loss, grad;
    double each[MAX_TENSORS]; /* relative error of every gradient tensor compared */
    int n_each, folders;
} worst;

typedef struct {
    char dir[512], root[512];
    json_t *config;
    rw_tensor_file *weights, *batch;
    rw_device *device;
    rw_plan plan;
    rw_engine engine;
    rw_batch b;
    int32_t cu[65];
    float *mask;
    bool fp64;
} folder;

/* -- setting up ------------------------------------------------------------------------------------------- */

static void make_batch(folder *f) {
    int64_t n, B = json_int(f->config, "B", 1), T = json_int(f->config, "T", 1);
    rw_error err = {0};
    f->b.n_rows = B * T;
    f->b.n_seq = B;
    f->b.tokens = read_ids(f->batch, "idx", &n);
    assert_int_equal(n, B * T);
    f->b.targets = read_ids(f->batch, "targets", &n);
    f->mask = rw_alloc_array((size_t)n, sizeof *f->mask);
    const rw_file_tensor *mask = rw_tensor_file_find(f->batch, "mask");
    for (int64_t i = 0; i < n && !mask; i++) f->mask[i] = 1;
    if (mask) must(rw_tensor_file_read(f->batch, mask, f->mask, RW_F32, &err), &err);
    for (int64_t i = 0; i < n; i++) f->b.mask_sum += f->mask[i];
    for (int64_t i = 0; i <= B; i++) f->cu[i] = (int32_t)(i * T);
    f->b.mask = f->mask;
    f->b.cu_seqlens = f->cu;
}

static void open_folder(folder *f, const char *root, const char *name, bool fp64) {
    rw_error err = {0};
    char path[512];
    *f = (folder){.fp64 = fp64};
    snprintf(f->root, sizeof f->root, "%s", root);
    snprintf(f->dir, sizeof f->dir, "%s/models/%s", root, name);
    f->config = read_json(format_path(path, f->dir, "config.json"));
    weights_path(path, root, f->dir, f->config, "model");
    must(rw_tensor_file_open(&f->weights, path, &err), &err);
    char batch_path[512];
    must(rw_tensor_file_open(&f->batch, format_path(batch_path, f->dir, "batch.safetensors"), &err), &err);
    make_batch(f);
    plan_from_weights(&f->plan, f->config, f->weights);
    f->plan.train.micro_bsz = f->plan.data.max_seq = f->b.n_seq;
    f->plan.train.ctx_len = f->b.n_rows / f->b.n_seq;
    must(rw_device_open_cpu(&f->device, fp64 ? RW_F64 : RW_F32, 2, &err), &err);
    must(rw_engine_open(&f->engine, &f->plan, f->device, true, &err), &err);
    must(rw_weights_load(f->engine.model->params, RW_PARAM_VALUE, f->weights, path, "", &err), &err);
}

static void close_folder(folder *f) {
    rw_engine_close(&f->engine);
    rw_device_close(f->device);
    rw_tensor_file_close(f->weights);
    rw_tensor_file_close(f->batch);
    rw_free((void *)f->b.tokens);
    rw_free((void *)f->b.targets);
    rw_free(f->mask);
    json_decref(f->config);
}

/* -- comparing ---------------------------------------------------------------------------------------------- */

/* Training adds this to a chunk of logits; here they are all in one. */
static void add_copies(rw_engine *e, rw_tensor *hidden, const rw_tensor *logits) {
    rw_model *m = e->model;
    if (!m->head_q) return;
    rw_copy_head_args a = {.dtype = logits->dtype, .R = e->rows.n_rows, .Q = m->shape.head_qk, .n = e->rows.n_rows};
    a.V = m->shape.vocab_size;
    a.cu_seqlens = e->rows.cu_seqlens;
    a.n_seq = e->rows.n_seq;
    a.scale = 1 / (double)a.Q;
    a.tokens = e->in.tokens;
    a.q = rw_matmul(e->tape, hidden, m->head_q, true, NULL)->data;
    a.k = rw_matmul(e->tape, hidden, m->head_k, true, NULL)->data;
    a.logits = logits->data;
    e->device->kernels->copy_head_forward(&a, &e->device->exec);
}

static void check_logits(folder *f, worst *w) {
    char path[512];
    int64_t n;
    double *golden = read_npy(format_path(path, f->dir, "logits.npy"), &n), abs_error;
    rw_engine *e = &f->engine;
    e->device->upload(e->device, e->in.tokens, f->b.tokens, f->b.n_rows * 4);
    e->device->upload(e->device, e->in.cu_seqlens, f->cu, (f->b.n_seq + 1) * 4);
    rw_tape_reset(e->tape);
    rw_tape_record(e->tape, false);
    rw_tensor *hidden = rw_model_forward(e->model, e->tape, e->rows, e->in.tokens, NULL, NULL, 0);
    rw_tensor *logits = rw_model_logits(e->model, e->tape, hidden);
    rw_error err = {0};
    must(rw_tape_error(e->tape, &err), &err);
    add_copies(e, hidden, logits);
    assert_int_equal(rw_tensor_count(logits), n);
    double *ours = rw_alloc_array((size_t)n, sizeof *ours);
    to_double(logits->data, logits->dtype, n, ours);
    double rel = rel_error(ours, golden, n, &abs_error), figure = f->fp64 ? rel : abs_error;
    if (!(figure <= w->logits)) w->logits = figure;
    rw_free(golden);
    rw_free(ours);
    rw_tape_reset(e->tape);
}

static double compare_grad(folder *f, const rw_tensor_file *golden, const rw_file_tensor *t) {
    rw_params *p = f->engine.model->params;
    int i = rw_layout_find(&p->layout, t->name);
    if (i < 0) fail_msg("no parameter %s", t->name);
    int64_t n;
    double *want = read_tensor(golden, t, &n), *have = rw_alloc_array((size_t)n, sizeof *have);
    assert_int_equal(n, p->layout.segments[i].n);
    to_double(p->tensors[i].grad, p->device->compute, n, have);
    double rel = rel_error(have, want, n, NULL);
    rw_free(want);
    rw_free(have);
    return rel;
}

static void check_grads(folder *f, const char *file, rw_l2wrap_choice l2wrap, rw_checkpoint_choice level, worst *w) {
    rw_error err = {0};
    char path[512];
    rw_engine *e = &f->engine;
    f->plan.train.l2wrap = l2wrap;
    f->plan.train.checkpoint = level;
    double loss;
    rw_engine_begin_step(e, 0, 0, 0, f->b.mask_sum);
    must(rw_engine_micro_step(e, &f->b, &loss, &err), &err);
    rw_params_finish_grads(e->model->params);
    double loss_error = fabs(loss / f->b.mask_sum - json_num(f->config, "loss", NAN));
    if (!(loss_error <= w->loss)) w->loss = loss_error;

    rw_tensor_file *golden;
    must(rw_tensor_file_open(&golden, format_path(path, f->dir, file), &err), &err);
    assert_true(rw_tensor_file_count(golden) > 0 && w->n_each + rw_tensor_file_count(golden) <= MAX_TENSORS);
    for (int64_t i = 0; i < rw_tensor_file_count(golden); i++) {
        double rel = compare_grad(f, golden, rw_tensor_file_at(golden, i));
        if (!(rel <= w->grad)) w->grad = rel;
        w->each[w->n_each++] = rel;
    }
    rw_tensor_file_close(golden);
}

static void take_worst(worst *w, const worst *here) {
    w->folders++;
    if (!(here->logits <= w->logits)) w->logits = here->logits;
    if (!(here->loss <= w->loss)) w->loss = here->loss;
    if (!(here->grad <= w->grad)) w->grad = here->grad;
    assert_true(w->n_each + here->n_each <= MAX_TENSORS);
    for (int i = 0; i < here->n_each; i++) w->each[w->n_each++] = here->each[i];
}

typedef struct {
    const char *root;
    worst *w;
    bool fp64;
} walk;

static rw_status one_folder(void *ctx, const char *name, rw_error *err) {
    walk *k = ctx;
    (void)err;
    char path[512];
    snprintf(path, sizeof path, "%s/models/%s/config.json", k->root, name);
    if (!runs_here(path)) return RW_OK;
    folder f;
    open_folder(&f, k->root, name, k->fp64);
    worst *here = rw_alloc(sizeof *here);
    check_logits(&f, here);
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        check_grads(&f, "grads_ce.safetensors", RW_L2WRAP_OFF, level, here);
        check_grads(&f, "grads_l2wrap.safetensors", RW_L2WRAP_V5, level, here);
    }
    close_folder(&f);
    take_worst(k->w, here);
    snprintf(path, sizeof path, "models/%s", name);
    rw_golden_report(k->root, path, "%s logits %.1e loss %.1e gradient %.1e (median tensor %.1e)",
                     k->fp64 ? "fp64" : "fp32", here->logits, here->loss, here->grad, median(here->each, here->n_each));
    rw_free(here);
    return RW_OK;
}

static void all_folders(const char *root, bool fp64) {
    rw_error err = {0};
    char path[512];
    worst *w = rw_alloc(sizeof *w);
    walk k = {root, w, fp64};
    must(rw_dir_list(format_path(path, root, "models"), one_folder, &k, &err), &err);
    double mid = median(w->each, w->n_each);
    print_message(
        "%s, %d folders, %d gradient tensors: worst logits %.2e, loss %.2e, gradient %.2e; median tensor %.2e\n",
        fp64 ? "fp64" : "fp32", w->folders, w->n_each, w->logits, w->loss, w->grad, mid);
    assert_true(w->folders > 0);
    assert_true(w->logits <= (fp64 ? 1e-6 : 1e-4));
    assert_true(w->loss <= (fp64 ? 1e-6 : 1e-5));
    assert_true(w->grad <= (fp64 ? 1e-6 : 1e-3));
    assert_true(mid <= (fp64 ? 1e-6 : 1e-5));
    rw_free(w);
}

static void official_fp64(void **state) {
    (void)state;
    rw_golden_path("models");
    all_folders(rw_golden_dir(), true);
}

static void official_fp32(void **state) {
    (void)state;
    rw_golden_path("models");
    all_folders(rw_golden_dir(), false);
}

static void own_fp64(void **state) {
    (void)state;
    all_folders(rw_own_golden_path("."), true);
}

static void own_fp32(void **state) {
    (void)state;
    all_folders(rw_own_golden_path("."), false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official_fp64), cmocka_unit_test(official_fp32),
                                       cmocka_unit_test(own_fp64), cmocka_unit_test(own_fp32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
