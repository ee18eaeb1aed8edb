/* Every architecture against the official code: logits, loss and every gradient of each folder models/<arch>-*, plain
 * and with L2Wrap; in fp64 and fp32, or on a GPU in fp32 and bf16.
 *
 * bf16 has the limits of kernels.md, section 6: each gradient within 0.999 of the true direction and 2 % of its length.
 * Some of these tiny models amplify any rounding, so that nobody who stores bf16 meets them. Therefore a gradient
 * beyond them is compared with the best that bf16 could give (narrow_device.h): its error, |ours - true| / |true|, must
 * be at most 1.5 times the worst of that device's draws. One number then often decides (a variance near zero in the
 * norm of one row), and the draws of one gradient are spread over a factor of 30 and more: a device in fp32 that stores
 * bf16 is often beyond 1.5 times the worst of four. So draws are added, up to MOST_DRAWS, while a gradient is beyond
 * it; 22 was the most that six such devices took. */
#include "tests/unit/plan/golden_model.h"

#define MAX_TENSORS 65536

typedef struct {
    const char *name;
    double logits, loss, grad;
    double each[MAX_TENSORS]; /* relative error of every gradient tensor compared */
    int n_each, folders;
    double cosine, ratio; /* the smallest cosine of a gradient, the largest |length / length - 1| */
    /* of bf16: */
    double ideal_cosine, ideal_ratio, share; /* the same of the ideal; largest error / ideal's, beyond the limits */
    int beyond, worse, draws;                /* gradients beyond the limits; and beyond 1.5 times the ideal too   */
} worst;

/* How far one gradient is from the true one. */
typedef struct {
    double turn, length, rms; /* 1 - cosine, |length / length - 1|, |error| / length */
} distance;

enum { MAX_PARAMS = 1024, LEAST_DRAWS = 4, MOST_DRAWS = 32 };

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
    distance have[MAX_PARAMS],
        ideal[MAX_PARAMS]; /* of the gradients of one loss, the worst of all levels; of all draws */
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
    train_so(&f->plan.train, way);
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
    double rel = rel_error(ours, golden, n, &abs_error), figure = f->way->compute == RW_F64 ? rel : abs_error;
    if (!(figure <= w->logits)) w->logits = figure;
    rw_free(golden);
    rw_free(ours);
    rw_tape_reset(e->tape);
}

/* Direction and length, for numbers of 8 bits: what a training step takes from a gradient. Tensors whose true gradient
 * is zero everywhere have neither. */
static distance distance_of(const double *have, const double *want, int64_t n) {
    double dot = 0, a = 0, b = 0, diff = 0;
    for (int64_t i = 0; i < n; i++) {
        dot += have[i] * want[i];
        a += have[i] * have[i];
        b += want[i] * want[i];
        diff += (have[i] - want[i]) * (have[i] - want[i]);
    }
    if (b == 0) return (distance){0, 0, 0};
    return (distance){1 - (a > 0 ? dot / sqrt(a * b) : 0), fabs(sqrt(a / b) - 1), sqrt(diff / b)};
}

static void raise_to(double *most, double x) {
    if (!(x <= *most)) *most = x;
}

static void raise_distance(distance *most, distance d) {
    raise_to(&most->turn, d.turn);
    raise_to(&most->length, d.length);
    raise_to(&most->rms, d.rms);
}

/* The gradient as double; rw_free(). */
static double *read_grad(folder *f, int i) {
    rw_params *p = f->engine.model->params;
    const int64_t n = p->layout.segments[i].n;
    double *have = rw_alloc_array((size_t)n, sizeof *have);
    read_device(p->device, p->tensors[i].grad, rw_grad_dtype(&p->tensors[i]), n, have);
    return have;
}

static int find_grad(folder *f, const rw_file_tensor *t) {
    const rw_layout *l = &f->engine.model->params->layout;
    const int i = rw_layout_find(l, t->name);
    if (i < 0 || i >= MAX_PARAMS) fail_msg("no parameter %s", t->name);
    return i;
}

static double compare_grad(folder *f, const rw_tensor_file *golden, const rw_file_tensor *t, distance *most) {
    const int i = find_grad(f, t);
    int64_t n;
    double *want = read_tensor(golden, t, &n), *have = read_grad(f, i);
    assert_int_equal(n, f->engine.model->params->layout.segments[i].n);
    const double rel = rel_error(have, want, n, NULL);
    raise_distance(&most[i], distance_of(have, want, n));
    rw_free(want);
    rw_free(have);
    return rel;
}

/* Forward and backward; returns the mean loss. */
static double make_grads(folder *f, rw_l2wrap_choice l2wrap, rw_checkpoint_choice level) {
    rw_error err = {0};
    rw_engine *e = &f->engine;
    f->plan.train.l2wrap = l2wrap;
    f->plan.train.checkpoint = level;
    double loss;
    rw_engine_begin_step(e, 0, 0, 0, f->b.mask_sum);
    must(rw_engine_micro_step(e, &f->b, &loss, &err), &err);
    rw_params_finish_grads(e->model->params);
    return loss / f->b.mask_sum;
}

static rw_tensor_file *open_golden(const folder *f, const char *file) {
    rw_error err = {0};
    char path[512];
    rw_tensor_file *golden;
    must(rw_tensor_file_open(&golden, format_path(path, f->dir, file), &err), &err);
    return golden;
}

static void check_grads(folder *f, const rw_tensor_file *golden, rw_l2wrap_choice l2wrap, rw_checkpoint_choice level,
                        worst *w) {
    double loss_error = fabs(make_grads(f, l2wrap, level) - json_num(f->config, "loss", NAN));
    if (f->way->bf16) loss_error /= json_num(f->config, "loss", NAN);
    raise_to(&w->loss, loss_error);
    assert_true(rw_tensor_file_count(golden) > 0 && w->n_each + rw_tensor_file_count(golden) <= MAX_TENSORS);
    for (int64_t i = 0; i < rw_tensor_file_count(golden); i++) {
        double rel = compare_grad(f, golden, rw_tensor_file_at(golden, i), f->have);
        raise_to(&w->grad, rel);
        w->each[w->n_each++] = rel;
    }
}

/* -- bf16: what the best could do ------------------------------------------------------------------------------ */

static void add_draw(folder *f, const char *name, const rw_tensor_file *golden, rw_l2wrap_choice l2wrap, int draw) {
    const double golden_ratio = 0.6180339887498949; /* its multiples spread evenly over an octave */
    const golden_way way = {"ideal", RW_F64, ON_CPU_IN_BF16, .bf16 = true, .unit = exp2(fmod(draw * golden_ratio, 1))};
    folder *ideal = rw_alloc(sizeof *ideal);
    open_folder(ideal, f->root, name, &way);
    make_grads(ideal, l2wrap, RW_CHECKPOINT_NONE);
    for (int64_t k = 0; k < rw_tensor_file_count(golden); k++)
        compare_grad(ideal, golden, rw_tensor_file_at(golden, k), f->ideal);
    close_folder(ideal);
    rw_free(ideal);
}

static bool beyond_limits(const distance *d) {
    return !(d->turn <= 1e-3 && d->length <= 0.02);
}

static bool beyond_ideal(const folder *f, int i) {
    return beyond_limits(&f->have[i]) && !(f->have[i].rms <= 1.5 * f->ideal[i].rms);
}

static bool any_beyond(const folder *f) {
    bool any = false;
    for (int i = 0; i < MAX_PARAMS; i++) any |= beyond_ideal(f, i);
    return any;
}

static void judge(const folder *f, worst *w) {
    for (int i = 0; i < MAX_PARAMS; i++) {
        const distance *have = &f->have[i], *ideal = &f->ideal[i];
        if (!(1 - ideal->turn >= w->ideal_cosine)) w->ideal_cosine = 1 - ideal->turn;
        raise_to(&w->ideal_ratio, ideal->length);
        if (!beyond_limits(have)) continue;
        w->beyond++;
        raise_to(&w->share, have->rms / ideal->rms);
        if (!beyond_ideal(f, i)) continue;
        w->worse++;
        print_message("    %s: cosine %.5f length %.1e error %.1e, the ideal %.5f %.1e %.1e\n",
                      f->engine.model->params->layout.segments[i].name, 1 - have->turn, have->length, have->rms,
                      1 - ideal->turn, ideal->length, ideal->rms);
    }
}

static void compare_ideal(folder *f, const char *name, const rw_tensor_file *golden, rw_l2wrap_choice l2wrap,
                          worst *w) {
    int draws = 0;
    memset(f->ideal, 0, sizeof f->ideal);
    while (draws < LEAST_DRAWS || (draws < MOST_DRAWS && any_beyond(f))) add_draw(f, name, golden, l2wrap, draws++);
    if (draws > w->draws) w->draws = draws;
    judge(f, w);
}

static void check_loss(folder *f, const char *name, const char *file, rw_l2wrap_choice l2wrap, worst *w) {
    rw_tensor_file *golden = open_golden(f, file);
    memset(f->have, 0, sizeof f->have);
    for (int level = 0; level <= RW_CHECKPOINT_BLOCK; level++)
        check_grads(f, golden, l2wrap, (rw_checkpoint_choice)level, w);
    for (int i = 0; i < MAX_PARAMS; i++) {
        if (!(1 - f->have[i].turn >= w->cosine)) w->cosine = 1 - f->have[i].turn;
        raise_to(&w->ratio, f->have[i].length);
    }
    if (f->way->bf16) compare_ideal(f, name, golden, l2wrap, w);
    rw_tensor_file_close(golden);
}

/* -- folders ------------------------------------------------------------------------------------------------ */

static void take_worst(worst *w, const worst *here) {
    w->folders++;
    raise_to(&w->logits, here->logits);
    raise_to(&w->loss, here->loss);
    raise_to(&w->grad, here->grad);
    raise_to(&w->ratio, here->ratio);
    raise_to(&w->share, here->share);
    if (!(here->cosine >= w->cosine)) w->cosine = here->cosine;
    w->beyond += here->beyond;
    w->worse += here->worse;
    assert_true(w->n_each + here->n_each <= MAX_TENSORS);
    for (int i = 0; i < here->n_each; i++) w->each[w->n_each++] = here->each[i];
}

typedef struct {
    const char *root;
    worst *w;
    const golden_way *way;
} walk;

static void check_folder(const char *root, const char *name, const golden_way *way, worst *here) {
    folder *f = rw_alloc(sizeof *f);
    open_folder(f, root, name, way);
    check_logits(f, here);
    check_loss(f, name, "grads_ce.safetensors", RW_L2WRAP_OFF, here);
    check_loss(f, name, "grads_l2wrap.safetensors", RW_L2WRAP_V5, here);
    close_folder(f);
    rw_free(f);
}

static void report(const walk *k, const char *name, worst *here) {
    char path[512], bf16[256] = "", than[64] = "";
    snprintf(path, sizeof path, "models/%s", name);
    if (here->beyond)
        snprintf(than, sizeof than, ", at most %.2f times the ideal of %d draws", here->share, here->draws);
    if (k->way->bf16)
        snprintf(bf16, sizeof bf16, "; the ideal %.5f, %.1e; beyond the limits %d%s", here->ideal_cosine,
                 here->ideal_ratio, here->beyond, than);
    rw_golden_report(k->root, path,
                     "%s logits %.1e loss %.1e gradient %.1e (median tensor %.1e, cosine %.5f, length %.1e%s)",
                     k->way->name, here->logits, here->loss, here->grad, median(here->each, here->n_each), here->cosine,
                     here->ratio, bf16);
}

static rw_status one_folder(void *ctx, const char *name, rw_error *err) {
    walk *k = ctx;
    (void)err;
    char path[512];
    snprintf(path, sizeof path, "%s/models/%s/config.json", k->root, name);
    if (!runs_here(path)) return RW_OK;
    worst *here = rw_alloc(sizeof *here);
    here->cosine = here->ideal_cosine = 1;
    check_folder(k->root, name, k->way, here);
    take_worst(k->w, here);
    report(k, name, here);
    rw_free(here);
    return RW_OK;
}

/* kernels.md's numerics policy for whole models. */
static void within_limits(const golden_way *way, const worst *w, double mid) {
    const double slack = way->slack;
    if (way->bf16) {
        assert_true(w->loss <= 5e-3);
        assert_int_equal(w->worse, 0);
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
    if (way->bf16)
        print_message(
            "%s: %d gradients beyond the limits, at most %.2f times the ideal's errors; %d beyond 1.5 times\n",
            way->name, w->beyond, w->share, w->worse);
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
