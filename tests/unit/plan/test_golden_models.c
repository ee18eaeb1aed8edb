/* Every architecture against the official code: logits, loss and every gradient of each folder models/<arch>-*, plain
 * and with L2Wrap; in fp64 and fp32, or on a GPU in fp32 and bf16. */
#include "tests/unit/plan/golden_model.h"

#define MAX_TENSORS 65536

typedef struct {
    const char *name;
    double logits, loss, grad;
    double each[MAX_TENSORS]; /* relative error of every gradient tensor compared */
    int n_each, folders;
    double cosine, ratio; /* of bf16: the smallest cosine of a gradient, the largest |rms / rms - 1| */
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
    const golden_way *way;
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

static void open_folder(folder *f, const char *root, const char *name, const golden_way *way) {
    rw_error err = {0};
    char path[512];
    *f = (folder){.way = way};
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
    f->plan.train.compute = way->compute;
    f->device = open_way(way);
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
    read_device(e->device, logits->data, logits->dtype, n, ours);
    double rel = rel_error(ours, golden, n, &abs_error), figure = f->way->slack == 0 ? rel : abs_error;
    if (!(figure <= w->logits)) w->logits = figure;
    rw_free(golden);
    rw_free(ours);
    rw_tape_reset(e->tape);
}

/* Direction and length, for numbers of 8 bits: what a training step takes from a gradient. Tensors whose true gradient
 * is zero everywhere have neither. */
static void compare_direction(const double *have, const double *want, int64_t n, worst *w) {
    double dot = 0, a = 0, b = 0;
    for (int64_t i = 0; i < n; i++) {
        dot += have[i] * want[i];
        a += have[i] * have[i];
        b += want[i] * want[i];
    }
    if (b == 0) return;
    const double cosine = a > 0 ? dot / sqrt(a * b) : 0, ratio = fabs(sqrt(a / b) - 1);
    if (!(cosine >= w->cosine)) w->cosine = cosine;
    if (!(ratio <= w->ratio)) w->ratio = ratio;
}

static double compare_grad(folder *f, const rw_tensor_file *golden, const rw_file_tensor *t, worst *w) {
    rw_params *p = f->engine.model->params;
    int i = rw_layout_find(&p->layout, t->name);
    if (i < 0) fail_msg("no parameter %s", t->name);
    int64_t n;
    double *want = read_tensor(golden, t, &n), *have = rw_alloc_array((size_t)n, sizeof *have);
    assert_int_equal(n, p->layout.segments[i].n);
    read_device(p->device, p->tensors[i].grad, rw_grad_dtype(&p->tensors[i]), n, have);
    double rel = rel_error(have, want, n, NULL);
    compare_direction(have, want, n, w);
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
    if (f->way->compute == RW_BF16) loss_error /= json_num(f->config, "loss", NAN);
    if (!(loss_error <= w->loss)) w->loss = loss_error;

    rw_tensor_file *golden;
    must(rw_tensor_file_open(&golden, format_path(path, f->dir, file), &err), &err);
    assert_true(rw_tensor_file_count(golden) > 0 && w->n_each + rw_tensor_file_count(golden) <= MAX_TENSORS);
    for (int64_t i = 0; i < rw_tensor_file_count(golden); i++) {
        double rel = compare_grad(f, golden, rw_tensor_file_at(golden, i), w);
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
    if (!(here->cosine >= w->cosine)) w->cosine = here->cosine;
    if (!(here->ratio <= w->ratio)) w->ratio = here->ratio;
    assert_true(w->n_each + here->n_each <= MAX_TENSORS);
    for (int i = 0; i < here->n_each; i++) w->each[w->n_each++] = here->each[i];
}

typedef struct {
    const char *root;
    worst *w;
    const golden_way *way;
} walk;

static rw_status one_folder(void *ctx, const char *name, rw_error *err) {
    walk *k = ctx;
    (void)err;
    char path[512];
    snprintf(path, sizeof path, "%s/models/%s/config.json", k->root, name);
    if (!runs_here(path)) return RW_OK;
    folder f;
    open_folder(&f, k->root, name, k->way);
    worst *here = rw_alloc(sizeof *here);
    here->cosine = 1;
    check_logits(&f, here);
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++) {
        check_grads(&f, "grads_ce.safetensors", RW_L2WRAP_OFF, level, here);
        check_grads(&f, "grads_l2wrap.safetensors", RW_L2WRAP_V5, level, here);
    }
    close_folder(&f);
    take_worst(k->w, here);
    snprintf(path, sizeof path, "models/%s", name);
    rw_golden_report(k->root, path,
                     "%s logits %.1e loss %.1e gradient %.1e (median tensor %.1e, cosine %.5f, length %.1e)",
                     k->way->name, here->logits, here->loss, here->grad, median(here->each, here->n_each), here->cosine,
                     here->ratio);
    rw_free(here);
    return RW_OK;
}

/* kernels.md's numerics policy for whole models. */
static void within_limits(const golden_way *way, const worst *w, double mid) {
    const double slack = way->slack;
    if (way->compute == RW_BF16) {
        assert_true(w->loss <= 5e-3 && w->cosine >= 0.999 && w->ratio <= 0.02);
        return;
    }
    assert_true(w->logits <= (slack == 0 ? 1e-6 : 1e-4 * slack));
    assert_true(w->loss <= (slack == 0 ? 1e-6 : 1e-5 * slack));
    assert_true(w->grad <= (slack == 0 ? 1e-6 : 1e-3 * slack));
    assert_true(mid <= (slack == 0 ? 1e-6 : 1e-5 * slack));
}

static void all_folders(const char *root, const golden_way *way) {
    rw_error err = {0};
    char path[512];
    worst *w = rw_alloc(sizeof *w);
    walk k = {root, w, way};
    w->cosine = 1;
    must(rw_dir_list(format_path(path, root, "models"), one_folder, &k, &err), &err);
    double mid = median(w->each, w->n_each);
    print_message(
        "%s, %d folders, %d gradient tensors: worst logits %.2e, loss %.2e, gradient %.2e; median tensor %.2e; "
        "smallest cosine %.5f, length off by %.2e\n",
        way->name, w->folders, w->n_each, w->logits, w->loss, w->grad, mid, w->cosine, w->ratio);
    assert_true(w->folders > 0);
    within_limits(way, w, mid);
    rw_free(w);
}

static void official_first(void **state) {
    (void)state;
    rw_golden_path("models");
    all_folders(rw_golden_dir(), way_at(0));
}

static void official_second(void **state) {
    (void)state;
    rw_golden_path("models");
    all_folders(rw_golden_dir(), way_at(1));
}

static void own_first(void **state) {
    (void)state;
    all_folders(rw_own_golden_path("."), way_at(0));
}

static void own_second(void **state) {
    (void)state;
    all_folders(rw_own_golden_path("."), way_at(1));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official_first), cmocka_unit_test(official_second),
                                       cmocka_unit_test(own_first), cmocka_unit_test(own_second)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
