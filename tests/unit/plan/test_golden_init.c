/* Initial values against the official code: init/<arch>-* (tutorial and newest form). Constants and formulas element by
 * element (a float32 rounding apart: pow differs in the last place), random ones by their distribution. */
#include "tests/unit/plan/golden_model.h"

typedef struct {
    rw_params *params;
    const char *dir;
    int checked, orthogonal, uniform;
    int64_t in_buffers; /* elements; the official count has them */
    double formula;     /* worst difference, relative to max(1, |x|) */
} checks;

static double max_diff(const double *a, const double *b, int64_t n) {
    double d = 0;
    for (int64_t i = 0; i < n; i++) {
        double scale = fabs(b[i]) > 1 ? fabs(b[i]) : 1;
        if (!(fabs(a[i] - b[i]) / scale <= d)) d = fabs(a[i] - b[i]) / scale;
    }
    return d;
}

/* Rows or columns, the shorter side, are orthogonal with length `gain`. */
static void check_orthogonal(const char *name, const double *a, int64_t rows, int64_t cols, double gain) {
    int64_t k = rows < cols ? rows : cols, n = rows < cols ? cols : rows;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j <= i; j++) {
            double dot = 0;
            for (int64_t x = 0; x < n; x++)
                dot += rows < cols ? a[i * cols + x] * a[j * cols + x] : a[x * cols + i] * a[x * cols + j];
            double want = i == j ? gain * gain : 0;
            if (!(fabs(dot - want) <= 2e-6 * gain * gain))
                fail_msg("%s: product %g of %lld and %lld, expected %g", name, dot, (long long)i, (long long)j, want);
        }
}

static void check_uniform(const char *name, const double *a, int64_t n, const json_t *s) {
    double low = a[0], high = a[0], sum = 0, sq = 0, bound = fmax(fabs(json_num(s, "min", 0)), json_num(s, "max", 0));
    for (int64_t i = 0; i < n; i++) {
        low = fmin(low, a[i]);
        high = fmax(high, a[i]);
        sum += a[i];
        sq += a[i] * a[i];
    }
    double mean = sum / (double)n, std = sqrt(sq / (double)n - mean * mean), want = json_num(s, "std", 0);
    bool fine = high <= bound * 1.01 && low >= -bound * 1.01 && high > bound * 0.98 && low < -bound * 0.98 &&
                fabs(std / want - 1) < 0.03 && fabs(mean) < 4 * want / sqrt((double)n);
    if (!fine)
        fail_msg("%s: range %g to %g, mean %g, deviation %g; official %g and %g", name, low, high, mean, std, bound,
                 want);
}

/* A buffer is no parameter: its values come when it is written. */
static bool check_buffer(checks *c, const rw_tensor_file *formulas, const char *name) {
    const rw_layout *l = &c->params->layout;
    int i = 0;
    while (i < l->n_buffers && strcmp(l->buffers[i].name, name) != 0) i++;
    if (i == l->n_buffers) return false;
    int64_t n;
    double *want = read_tensor(formulas, rw_tensor_file_find(formulas, name), &n);
    for (int64_t e = 0; e < n; e++) assert_true(l->buffers[i].value(l->buffers[i].ctx, e) == want[e]);
    rw_free(want);
    c->checked++;
    c->in_buffers += n;
    return true;
}

static void check_tensor(checks *c, const rw_tensor_file *formulas, const char *name, const json_t *s) {
    if (check_buffer(c, formulas, name)) return;
    int i = rw_layout_find(&c->params->layout, name);
    if (i < 0) fail_msg("%s: no parameter %s", c->dir, name);
    const rw_segment *seg = &c->params->layout.segments[i];
    json_t *shape = json_object_get(s, "shape");
    assert_int_equal(json_array_size(shape), seg->ndim);
    for (int d = 0; d < seg->ndim; d++)
        assert_int_equal(json_integer_value(json_array_get(shape, (size_t)d)), seg->shape[d]);
    double *have = rw_alloc_array((size_t)seg->n, sizeof *have);
    to_double(c->params->tensors[i].data, c->params->device->compute, seg->n, have);
    const char *kind = json_text(s, "kind", "");
    if (strcmp(kind, "constant") == 0) {
        for (int64_t e = 0; e < seg->n; e++)
            if (!(fabs(have[e] - json_num(s, "mean", NAN)) <= 1e-7))
                fail_msg("%s: %g, expected %g", name, have[e], json_num(s, "mean", NAN));
    } else if (strcmp(kind, "formula") == 0) {
        const rw_file_tensor *t = rw_tensor_file_find(formulas, name);
        assert_non_null(t);
        int64_t n;
        double *want = read_tensor(formulas, t, &n), d = max_diff(have, want, n);
        if (!(d <= c->formula)) c->formula = d;
        rw_free(want);
    } else if (strcmp(kind, "orthogonal") == 0) {
        int64_t cols = seg->shape[seg->ndim - 1];
        check_orthogonal(name, have, seg->n / cols, cols,
                         (json_num(s, "singular_min", 0) + json_num(s, "singular_max", 0)) / 2);
        c->orthogonal++;
    } else {
        check_uniform(name, have, seg->n, s);
        c->uniform++;
    }
    rw_free(have);
    c->checked++;
}

/* What a save writes. */
static void check_order(rw_params *p, const json_t *names) {
    rw_error err = {0};
    rw_weights_list list;
    size_t i;
    json_t *name;
    must(rw_weights_list_new(&list, p, (rw_param_kind[]){RW_PARAM_VALUE}, (const char *[]){""}, 1, RW_F32, &err), &err);
    assert_int_equal(list.n, json_array_size(names));
    json_array_foreach(names, i, name) assert_string_equal(list.tensors[i].name, json_string_value(name));
    rw_weights_list_done(&list);
}

static void one_tag(const char *tag, rw_init_form_choice form) {
    rw_error err = {0};
    char dir[512], path[600];
    snprintf(dir, sizeof dir, "%s/init/%s", rw_golden_dir(), tag);
    json_t *stats = read_json(format_path(path, dir, "stats.json"));
    rw_tensor_file *formulas;
    must(rw_tensor_file_open(&formulas, format_path(path, dir, "deterministic.safetensors"), &err), &err);
    rw_plan plan;
    plan_from_config(&plan, json_object_get(stats, "config"));
    plan.model.init = form;
    rw_device *device;
    rw_model *m;
    must(rw_device_open_cpu(&device, RW_F32, 2, &err), &err);
    must(rw_model_new(&m, &plan.model, device, NULL, &err), &err);
    must(rw_model_init(m, 7, &err), &err);
    checks c = {.params = m->params, .dir = dir};
    const char *name;
    json_t *s;
    json_object_foreach(json_object_get(stats, "tensors"), name, s) check_tensor(&c, formulas, name, s);
    check_order(m->params, json_object_get(stats, "key_order"));
    assert_int_equal(m->params->layout.n_params + c.in_buffers, json_int(stats, "n_params", 0));
    snprintf(path, sizeof path, "init/%s", tag);
    rw_golden_report(rw_golden_dir(), path,
                     "%d tensors in the official order (%d orthogonal, %d uniform), formulas within %.1e", c.checked,
                     c.orthogonal, c.uniform, c.formula);
    assert_true(c.formula <= 5e-7);
    rw_model_free(m);
    rw_device_close(device);
    rw_tensor_file_close(formulas);
    json_decref(stats);
}

static void one_folder(void *ctx, const char *tag) {
    int *n = ctx;
    char path[600];
    snprintf(path, sizeof path, "%s/init/%s/stats.json", rw_golden_dir(), tag);
    if (!rw_exists(path)) return;
    json_t *stats = read_json(path);
    bool newest = strcmp(json_text(stats, "source", ""), "newest") == 0;
    bool runs = rw_arch_find(config_arch(json_object_get(stats, "config")), NULL) != NULL;
    json_decref(stats);
    if (!runs) return;
    one_tag(tag, newest ? RW_INIT_NEWEST : RW_INIT_TUTORIAL);
    ++*n;
}

static void official_forms(void **state) {
    (void)state;
    int n = 0;
    rw_golden_each("init", one_folder, &n);
    assert_true(n > 0);
}

/* A seed gives the same bits, another seed others. */
static void seeds(void **state) {
    (void)state;
    rw_error err = {0};
    rw_plan_model shape = {.arch = "x060", .n_layer = 2, .n_embd = 64, .vocab_size = 96, .head_size = 32};
    rw_arch_default_shape(&rw_arch_x060, &shape);
    rw_device *device;
    rw_model *m[3];
    must(rw_device_open_cpu(&device, RW_F32, 2, &err), &err);
    for (int i = 0; i < 3; i++) {
        must(rw_model_new(&m[i], &shape, device, NULL, &err), &err);
        must(rw_model_init(m[i], i < 2 ? 5 : 6, &err), &err);
    }
    for (int c = 0; c < RW_PARAM_CLASSES; c++) {
        const rw_flat *one = &m[0]->params->flat[RW_PARAM_VALUE][c], *other = &m[2]->params->flat[RW_PARAM_VALUE][c];
        size_t n = (size_t)one->n * sizeof(float);
        assert_memory_equal(one->data, m[1]->params->flat[RW_PARAM_VALUE][c].data, n);
        if (c == RW_MATRIX) assert_true(memcmp(one->data, other->data, n) != 0);
    }
    for (int i = 0; i < 3; i++) rw_model_free(m[i]);
    rw_device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official_forms), cmocka_unit_test(seeds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
