/* Helpers of the golden tests that run whole models: a folder's config, batch and files, and an engine for them. */
#ifndef RW_TESTS_UNIT_PLAN_GOLDEN_MODEL_H
#define RW_TESTS_UNIT_PLAN_GOLDEN_MODEL_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/model_shape.h"
#include "core/checkpoint/weights.h"
#include "core/engine/engine.h"
#include "tests/unit/golden.h"
#include "tests/unit/plan/narrow_device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void must(rw_status status, const rw_error *err) {
    if (status == RW_OK) return;
    char text[2048];
    rw_error_format(err, text, sizeof text);
    fail_msg("%s", text);
}

static inline const char *format_path(char buf[512], const char *dir, const char *name) {
    if (snprintf(buf, 512, "%s/%s", dir, name) >= 512) fail_msg("%s: path too long", dir);
    return buf;
}

static inline json_t *read_json(const char *path) {
    rw_error err = {0};
    char *text;
    int64_t n;
    json_t *json;
    must(rw_file_slurp(path, 1 << 26, &text, &n, &err), &err);
    must(rw_json_parse(text, (size_t)n, RW_AT_FILE(path), &json, &err), &err);
    rw_free(text);
    return json;
}

static inline int64_t json_int(const json_t *j, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(j, key);
    return json_is_integer(v) ? (int64_t)json_integer_value(v) : otherwise;
}

static inline double json_num(const json_t *j, const char *key, double otherwise) {
    const json_t *v = json_object_get(j, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static inline const char *json_text(const json_t *j, const char *key, const char *otherwise) {
    const json_t *v = json_object_get(j, key);
    return json_is_string(v) ? json_string_value(v) : otherwise;
}

/* Its architecture, which stands under one of two names. */
static inline const char *config_arch(const json_t *c) {
    return json_text(c, "arch", json_text(c, "my_testing", ""));
}

/* Is there such a file, of an architecture that this build has? */
static inline bool runs_here(const char *config) {
    if (!rw_exists(config)) return false;
    json_t *c = read_json(config);
    bool runs = rw_arch_find(config_arch(c), NULL) != NULL;
    json_decref(c);
    return runs;
}

static inline bool trains_states(const json_t *c) {
    return strcmp(json_text(c, "train_type", ""), "states") == 0;
}

/* Sizes from a config.json; LoRA ranks are the official ones. */
static inline void plan_from_config(rw_plan *p, const json_t *c) {
    *p = (rw_plan){0};
    rw_plan_model *m = &p->model;
    m->arch = config_arch(c);
    m->n_layer = json_int(c, "n_layer", 0);
    m->n_embd = json_int(c, "n_embd", 0);
    m->vocab_size = json_int(c, "vocab_size", 0);
    m->head_size = json_int(c, "head_size", 64);
    m->dim_ffn = json_int(c, "ffn_hidden", 0);
    m->pre_ffn = json_int(c, "pre_ffn", 0);
    m->time_state = trains_states(c);
    m->head_qk = json_int(c, "head_qk", 0);
    m->copy_ctx = m->head_qk ? json_int(c, "ctx_len", 0) : 0;
    m->head_size_divisor = json_num(c, "head_size_divisor", 8);
    rw_arch_default_shape(rw_arch_find(m->arch, NULL), m);
    p->train.l2wrap = RW_L2WRAP_OFF;
    p->train.loss_norm = RW_LOSS_NORM_STEP;
    p->train.accumulate = 1;
    p->train.head_chunk = 7; /* several chunks, the last one shorter */
    p->needs.arena_bytes = (int64_t)1 << 28;
    p->engine.graph = RW_GRAPH_ON;
}

/* The same with every size as the weights have it. */
static inline void plan_from_weights(rw_plan *p, const json_t *c, const rw_tensor_file *weights) {
    rw_error err = {0};
    rw_arena arena = {0};
    plan_from_config(p, c);
    rw_plan_model config = p->model;
    must(rw_model_shape_from_file(weights, &p->model, &arena, &err), &err);
    rw_arena_done(&arena);
    assert_string_equal(p->model.arch, config.arch);
    if (!json_object_get(c, "ffn_hidden")) config.dim_ffn = p->model.dim_ffn; /* train/: not said */
    for (int d = 0; d < RW_DIM_COUNT; d++)
        if (strncmp(rw_dim_name((rw_dim)d), "lora_", 5) != 0) assert_int_equal(p->model.dim[d], config.dim[d]);
}

/* The .pth of a folder: its own, or the one that `key` names relative to the golden root. */
static inline void weights_path(char buf[512], const char *root, const char *dir, const json_t *c, const char *key) {
    const char *named = json_text(c, key, NULL);
    if (!rw_exists(format_path(buf, dir, "model.pth")) && named) format_path(buf, root, named);
}

/* Reads a whole tensor as double; free with rw_free(). */
static inline double *read_tensor(const rw_tensor_file *f, const rw_file_tensor *t, int64_t *n) {
    rw_error err = {0};
    *n = 1;
    for (int i = 0; i < t->ndim; i++) *n *= t->shape[i];
    double *out = rw_alloc_array((size_t)*n, sizeof *out);
    must(rw_tensor_file_read(f, t, out, RW_F64, &err), &err);
    return out;
}

/* The golden files store ids as I64 or I32, which the reader hands out as they are. */
static inline int32_t *read_ids(const rw_tensor_file *f, const char *name, int64_t *n) {
    rw_error err = {0};
    const rw_file_tensor *t = rw_tensor_file_find(f, name);
    assert_non_null(t);
    *n = 1;
    for (int i = 0; i < t->ndim; i++) *n *= t->shape[i];
    int32_t *ids = rw_alloc_array((size_t)*n, sizeof *ids);
    if (t->dtype == RW_I32) {
        must(rw_tensor_file_read(f, t, ids, RW_I32, &err), &err);
        return ids;
    }
    int64_t *wide = rw_alloc_array((size_t)*n, sizeof *wide);
    must(rw_tensor_file_read(f, t, wide, RW_I64, &err), &err);
    for (int64_t i = 0; i < *n; i++) ids[i] = (int32_t)wide[i];
    rw_free(wide);
    return ids;
}

/* numpy v1.0, little-endian F32, C order: the data as double. */
static inline double *read_npy(const char *path, int64_t *n) {
    rw_error err = {0};
    char *bytes;
    int64_t size;
    must(rw_file_slurp(path, 1 << 28, &bytes, &size, &err), &err);
    assert_true(size > 10 && memcmp(bytes, "\x93NUMPY\x01\x00", 8) == 0);
    int64_t header = 10 + (unsigned char)bytes[8] + 256 * (unsigned char)bytes[9];
    int width = strstr(bytes + 10, "<f8") ? 8 : 4;
    *n = (size - header) / width;
    double *out = rw_alloc_array((size_t)*n, sizeof *out);
    rw_convert(out, RW_F64, bytes + header, width == 8 ? RW_F64 : RW_F32, *n);
    rw_free(bytes);
    return out;
}

static inline void to_double(const void *x, rw_dtype dtype, int64_t n, double *out) {
    if (dtype == RW_F64)
        memcpy(out, x, (size_t)n * sizeof *out);
    else
        rw_convert(out, RW_F64, x, dtype, n);
}

/* max |a - b| / max |b| over n; 0 / 0 is 0. */
static inline double rel_error(const double *a, const double *b, int64_t n, double *abs_error) {
    double diff = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs(a[i] - b[i]) <= diff)) diff = fabs(a[i] - b[i]);
        if (fabs(b[i]) > top) top = fabs(b[i]);
    }
    if (abs_error) *abs_error = diff;
    return diff == 0 ? 0 : diff / (top > 0 ? top : 1e-300);
}

/* Device memory as double. */
static inline void read_device(rw_device *d, const void *x, rw_dtype dtype, int64_t n, double *out) {
    void *raw = rw_alloc_array((size_t)n, sizeof *out);
    d->download(d, raw, x, n * rw_dtype_bytes(dtype));
    to_double(raw, dtype, n, out);
    rw_free(raw);
}

/* What these tests run on, and how far it may be off. $RWKV_TEST_DEVICE=cuda: a GPU; bf16: a CPU that stores bf16
 * (narrow_device.h), in its place; else the CPU, which is the reference in fp64 and fp32. */
typedef struct {
    const char *name;
    rw_dtype compute;
    enum { ON_CPU, ON_GPU, ON_CPU_IN_BF16 } where;
    double slack; /* on the tolerances of the CPU in fp32; 0: those of fp64                        */
    bool bf16;    /* matrices and activations are; tolerances of its own                          */
    double unit;  /* of narrow_device.h                                                             */
} golden_way;

static const golden_way on_cpu[] = {{"fp64", RW_F64, ON_CPU, .slack = 0}, {"fp32", RW_F32, ON_CPU, .slack = 1}};
static const golden_way on_gpu[] = {{"GPU fp32", RW_F32, ON_GPU, .slack = 10},
                                    {"GPU bf16", RW_BF16, ON_GPU, .bf16 = true}};
static const golden_way in_bf16[] = {{"fp32", RW_F32, ON_CPU, .slack = 1},
                                     {"fp32 kept in bf16", RW_F32, ON_CPU_IN_BF16, .bf16 = true, .unit = 1}};

/* The two ways, first and second. */
static inline const golden_way *way_at(int i) {
    const char *device = getenv("RWKV_TEST_DEVICE");
    if (device && strcmp(device, "cuda") == 0) return &on_gpu[i];
    return device && strcmp(device, "bf16") == 0 ? &in_bf16[i] : &on_cpu[i];
}

static inline const golden_way *fp32_way(void) {
    return way_at(0)->compute == RW_F32 ? way_at(0) : way_at(1);
}

static inline void open_gpu(rw_device **d, const rw_gpu_choice *choice) {
    rw_error err = {0};
    if (rw_device_open_cuda(d, choice, &err) == RW_OK) return;
    printf("skipped: %s\n", err.msg);
    skip();
}

static inline rw_device *open_way(const golden_way *w) {
    rw_error err = {0};
    rw_device *d = NULL;
    const rw_gpu_choice gpu = {.compute = w->compute};
    if (w->where == ON_GPU)
        open_gpu(&d, &gpu);
    else if (w->where == ON_CPU_IN_BF16)
        must(narrow_open(&d, w->compute, w->unit, &err), &err);
    else
        must(rw_device_open_cpu(&d, w->compute, 2, &err), &err);
    return d;
}

/* Matrices and their gradients in bf16, with a master that moves. */
static inline void train_so(rw_plan_train *t, const golden_way *w) {
    t->compute = w->compute;
    t->optim_form = w->bf16 ? RW_FORM_A16 : RW_FORM_FP32;
}

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static inline double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n ? x[n / 2] : 0;
}

#endif
