/* Initial states in generation: the official model with time_state gives the logits of its folder; the same as two
 * files, a base and its states, to the bit; and files that are no states of it are refused by name. */
#include "core/infer/generate.h"
#include "tests/unit/plan/golden_model.h"

typedef struct {
    rw_device *device;
    char whole[512], base[512], states[512];
    int32_t *ids;
    double *golden;
    int64_t B, T, V;
} fixture;

/* The tensors of the model of which `part` of the name says so. */
static void write_part(const rw_tensor_file *f, const char *path, bool states) {
    rw_error err = {0};
    rw_save_tensor tensors[128];
    double *values[128];
    int64_t n = 0;
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        int64_t count;
        if ((strstr(t->name, "time_state") != NULL) != states) continue;
        assert_true(n < 128);
        values[n] = read_tensor(f, t, &count);
        tensors[n] = (rw_save_tensor){.name = t->name, .ndim = t->ndim, .src_dtype = RW_F64, .dtype = RW_F32};
        memcpy(tensors[n].shape, t->shape, sizeof t->shape);
        tensors[n].fetch = rw_save_fetch_contiguous;
        tensors[n].data = values[n];
        n++;
    }
    remove(path);
    must(rw_pth_write(path, tensors, n, &err), &err);
    for (int64_t i = 0; i < n; i++) rw_free(values[i]);
}

static void read_folder(fixture *f) {
    rw_error err = {0};
    rw_tensor_file *batch, *weights;
    int64_t n;
    must(rw_tensor_file_open(&batch, rw_golden_path("models/x060-states/batch.safetensors"), &err), &err);
    f->B = rw_tensor_file_find(batch, "idx")->shape[0];
    f->T = rw_tensor_file_find(batch, "idx")->shape[1];
    f->ids = read_ids(batch, "idx", &n);
    rw_tensor_file_close(batch);
    f->golden = read_npy(rw_golden_path("models/x060-states/logits.npy"), &n);
    f->V = n / (f->B * f->T);
    snprintf(f->whole, sizeof f->whole, "%s", rw_golden_path("models/x060-states/model.pth"));
    snprintf(f->base, sizeof f->base, "%s", rw_test_path("base.pth"));
    snprintf(f->states, sizeof f->states, "%s", rw_test_path("states.pth"));
    must(rw_tensor_file_open(&weights, f->whole, &err), &err);
    write_part(weights, f->base, false);
    write_part(weights, f->states, true);
    rw_tensor_file_close(weights);
}

/* [B,T,V]; each sequence begins anew. */
static float *logits_of(fixture *f, const char *model, const char *state) {
    rw_error err = {0};
    rw_generator *g;
    float *all = rw_alloc_array((size_t)(f->B * f->T * f->V), sizeof *all);
    must(rw_generator_open(&g, model, state, f->device, &err), &err);
    for (int64_t b = 0; b < f->B; b++) {
        if (b > 0) must(rw_generator_reset(g, &err), &err);
        must(rw_generator_feed(g, f->ids + b * f->T, f->T, NULL, all + b * f->T * f->V, &err), &err);
    }
    rw_generator_close(g);
    return all;
}

static double distance(const fixture *f, const float *logits) {
    int64_t n = f->B * f->T * f->V;
    double *wide = rw_alloc_array((size_t)n, sizeof *wide), worst;
    to_double(logits, RW_F32, n, wide);
    rel_error(wide, f->golden, n, &worst);
    rw_free(wide);
    return worst;
}

static void official_logits(void **state) {
    fixture *f = *state;
    float *whole = logits_of(f, f->whole, NULL), *two = logits_of(f, f->base, f->states),
          *none = logits_of(f, f->base, NULL);
    print_message("  logits within %.1e; without the states %.1e\n", distance(f, whole), distance(f, none));
    assert_true(distance(f, whole) <= 1e-4);
    assert_true(distance(f, none) > 1e-2);
    assert_memory_equal(whole, two, (size_t)(f->B * f->T * f->V) * sizeof *whole);
    rw_free(whole);
    rw_free(two);
    rw_free(none);
}

static void refused(fixture *f, const char *model, const char *state, const char *says) {
    rw_error err = {0};
    rw_generator *g;
    assert_int_not_equal(rw_generator_open(&g, model, state, f->device, &err), RW_OK);
    if (!strstr(err.msg, says)) fail_msg("'%s' is not in '%s'", says, err.msg);
    rw_error_clear(&err);
}

static void others_are_refused(void **state) {
    fixture *f = *state;
    refused(f, f->states, NULL, "this file holds only initial states (time_state), not a model");
    refused(f, f->base, f->base, "tensor 'blocks.0.att.time_state' is missing");
    refused(f, f->base, f->whole, "expected the initial states (time_state) of 2 blocks alone, found");
    refused(f, rw_golden_path("models/x060-h32/model.pth"), f->states,
            "blocks.0.att.time_state has shape [1, 64, 64], the model expects [");
    refused(f, rw_golden_path("models/x052-base/model.pth"), f->states, "x052 has no initial states");
}

static int open_fixture(void **state) {
    rw_error err = {0};
    static fixture f;
    read_folder(&f);
    must(rw_device_open_cpu(&f.device, RW_F32, 2, &err), &err);
    *state = &f;
    return 0;
}

static int close_fixture(void **state) {
    fixture *f = *state;
    rw_device_close(f->device);
    rw_free(f->ids);
    rw_free(f->golden);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official_logits), cmocka_unit_test(others_are_refused)};
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
