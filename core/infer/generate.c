/* Generation: see generate.h. The state lies in memory of its own, since what a tape makes is gone after its reset;
 * there are two such memories: a piece reads one and writes the other, and becomes the state when all went well. */
#include "core/infer/generate.h"

#include "core/base/alloc.h"
#include "core/checkpoint/model_shape.h"
#include "core/checkpoint/weights.h"
#include "core/model/model.h"

#include <string.h>

struct rw_generator {
    rw_device *device;
    rw_arena names;
    rw_plan_model shape;
    rw_model *model;
    rw_step_arena arena;
    rw_tape *tape;
    char *state[2]; /* owned, on the device: of each field all layers */
    int64_t state_bytes;
    int now;         /* which of the two is the state */
    int64_t prefill; /* tokens that go through at a time */
    int32_t *tokens; /* owned, on the device: [prefill]                         */
    void *narrow;    /* owned: logits as the device has them, on their way to floats */
    /* One token at a time, recorded: a step for each of the two states that it may begin with. */
    rw_graph *steps[2];
    const void *step_logits; /* on the device */
    bool stepped;            /* it ran once without being recorded */
};

/* -- the state's buffers ----------------------------------------------------------------------------------- */

static const rw_arch *arch_of(const rw_generator *g) {
    return g->model->arch;
}

/* Shape of a field for one sequence; returns the number of dimensions. */
static int field_shape(const rw_generator *g, int field, int64_t shape[RW_MAX_DIM]) {
    int64_t sizes[RW_MAX_DIM];
    int n = rw_shape_sizes(arch_of(g)->fields[field].shape, &g->shape, sizes);
    shape[0] = 1;
    for (int i = 1; i < RW_MAX_DIM && i <= n; i++) shape[i] = sizes[i - 1];
    return 1 + n;
}

static int64_t field_elements(const rw_generator *g, int field) {
    int64_t shape[RW_MAX_DIM], n = 1;
    int ndim = field_shape(g, field, shape);
    for (int i = 0; i < ndim; i++) n *= shape[i];
    return n;
}

/* Elements of the state before a field. */
static int64_t field_begin(const rw_generator *g, int field) {
    int64_t n = 0;
    for (int f = 0; f < field; f++) n += g->shape.n_layer * field_elements(g, f);
    return n;
}

static rw_dtype state_dtype(const rw_generator *g) {
    return rw_wide(g->device->compute);
}

static char *state_at(const rw_generator *g, int which, int field, int layer) {
    int64_t element = field_begin(g, field) + layer * field_elements(g, field);
    return g->state[which] + element * rw_dtype_bytes(state_dtype(g));
}

/* One of the two as tensors of the tape, one sequence. */
static void state_tensors(rw_generator *g, int which, rw_state *s) {
    int64_t shape[RW_MAX_DIM];
    for (int f = 0; f < arch_of(g)->n_fields; f++) {
        int ndim = field_shape(g, f, shape);
        for (int l = 0; l < g->shape.n_layer; l++)
            s->at[f][l] = rw_tape_wrap(g->tape, state_dtype(g), ndim, shape, state_at(g, which, f, l));
    }
}

/* -- one piece --------------------------------------------------------------------------------------------------- */

static void read_logits(rw_generator *g, const void *logits, int64_t row, float *out) {
    const int64_t V = g->shape.vocab_size, n_bytes = V * rw_dtype_bytes(g->device->compute);
    const bool floats = g->device->compute == RW_F32;
    g->device->download(g->device, floats ? out : g->narrow, (const char *)logits + row * n_bytes, n_bytes);
    if (!floats) rw_convert(out, RW_F32, g->narrow, g->device->compute, V);
}

/* The last rows of x [R,C], at most RW_LOGIT_ROWS, as a tensor of its own: logits are made of no more rows at a time.
 */
static rw_tensor *last_rows(rw_generator *g, rw_tensor *x, int64_t n) {
    int64_t shape[] = {n, x->shape[1]};
    char *row = (char *)x->data + (x->shape[0] - n) * x->shape[1] * rw_dtype_bytes(x->dtype);
    rw_tensor *last = rw_tape_wrap(g->tape, x->dtype, 2, shape, row);
    if (last) last->room = RW_LOGIT_ROWS * x->shape[1];
    return last;
}

/* Kernels alone: from the state `now` and g->tokens to the other state and the logits of the last rows. */
static rw_status launch(rw_generator *g, int64_t n, int64_t rows, const void **logits, rw_error *err) {
    rw_state *in = rw_alloc(2 * sizeof *in), *out = in ? in + 1 : NULL;
    if (!in) return rw_fail_memory(err, 2 * sizeof *in);
    rw_tape_reset(g->tape);
    rw_tape_record(g->tape, false);
    state_tensors(g, g->now, in);
    state_tensors(g, 1 - g->now, out);
    rw_tensor *hidden = rw_model_forward(g->model, g->tape, (rw_rows){n, 1, NULL}, g->tokens, in, out, 0);
    rw_tensor *y = hidden ? rw_model_logits(g->model, g->tape, last_rows(g, hidden, rows)) : NULL;
    rw_status status = rw_tape_error(g->tape, err);
    if (status == RW_OK) *logits = y->data;
    rw_free(in);
    rw_tape_reset(g->tape);
    return status;
}

/* -- one token, recorded ---------------------------------------------------------------------------------------- */

/* What fails in between is the error; the recording is ended all the same, and dropped. */
static rw_status record_step(rw_generator *g, rw_error *err) {
    RW_TRY(g->device->record->begin(g->device, err));
    rw_status status = launch(g, 1, 1, &g->step_logits, err);
    if (status != RW_OK) {
        g->device->record->end(g->device, NULL, NULL);
        return status;
    }
    return g->device->record->end(g->device, &g->steps[g->now], err);
}

/* The first time it only runs: libraries load their kernels, which no recording may contain. */
static rw_status one_token(rw_generator *g, const void **logits, rw_error *err) {
    const bool ran = g->stepped;
    g->stepped = true;
    if (!g->device->record || !ran) return launch(g, 1, 1, logits, err);
    if (!g->steps[g->now]) RW_TRY(record_step(g, err));
    *logits = g->step_logits;
    return g->device->record->replay(g->device, g->steps[g->now], err);
}

static rw_status piece(rw_generator *g, const int32_t *tokens, int64_t n, float *logits, float *all, rw_error *err) {
    const int64_t rows = all ? n : 1;
    const void *made;
    g->device->upload(g->device, g->tokens, tokens, n * (int64_t)sizeof *tokens);
    RW_TRY(n == 1 ? one_token(g, &made, err) : launch(g, n, rows, &made, err));
    g->now = 1 - g->now;
    RW_TRY(g->device->synchronize(g->device, err));
    if (logits) read_logits(g, made, rows - 1, logits);
    for (int64_t i = 0; all && i < n; i++) read_logits(g, made, i, all + i * g->shape.vocab_size);
    return RW_OK;
}

rw_status rw_generator_feed(rw_generator *g, const int32_t *tokens, int64_t n, float *logits, float *all_logits,
                            rw_error *err) {
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= g->shape.vocab_size)
            return rw_fail(err, RW_E_DATA, RW_AT_NONE, "token id %d is outside the model's vocabulary of %lld",
                           tokens[i], (long long)g->shape.vocab_size);
    const int64_t most = all_logits ? RW_LOGIT_ROWS : g->prefill;
    for (int64_t at = 0; at < n; at += most) {
        int64_t m = n - at < most ? n - at : most;
        float *all = all_logits ? all_logits + at * g->shape.vocab_size : NULL;
        RW_TRY(piece(g, tokens + at, m, at + m == n ? logits : NULL, all, err));
    }
    if (logits && rw_first_nonfinite(logits, RW_F32, g->shape.vocab_size) < g->shape.vocab_size)
        return rw_fail(err, RW_E_NUMERIC, RW_AT_NONE,
                       "the model's logits are not finite: its numbers grow too large here; take an earlier file");
    return RW_OK;
}

/* The initial state of one field in one block, through the host. */
static rw_status begin_field(rw_generator *g, int field, int layer, rw_error *err) {
    const rw_tensor *from = rw_model_initial(g->model, layer, field);
    if (!from) return RW_OK;
    size_t index = (size_t)(from - g->model->params->tensors);
    int64_t n = field_elements(g, field), n_bytes = n * rw_dtype_bytes(state_dtype(g));
    void *host = rw_alloc((size_t)n_bytes);
    if (!host) return rw_fail_memory(err, (size_t)n_bytes);
    rw_params_get(g->model->params, RW_PARAM_VALUE, index, 0, n, state_dtype(g), host);
    g->device->upload(g->device, state_at(g, g->now, field, layer), host, n_bytes);
    rw_free(host);
    return RW_OK;
}

rw_status rw_generator_reset(rw_generator *g, rw_error *err) {
    g->device->zero(g->device, g->state[g->now], g->state_bytes);
    for (int f = 0; f < arch_of(g)->n_fields; f++)
        for (int l = 0; l < g->shape.n_layer; l++) RW_TRY(begin_field(g, f, l, err));
    return RW_OK;
}

rw_status rw_generator_state(rw_generator *g, int layer, int field, float *out, rw_error *err) {
    RW_TRY(g->device->synchronize(g->device, err));
    const char *from = state_at(g, g->now, field, layer);
    if (state_dtype(g) == RW_F32)
        g->device->download(g->device, out, from, field_elements(g, field) * (int64_t)sizeof *out);
    else
        rw_convert(out, RW_F32, from, state_dtype(g), field_elements(g, field)); /* the fp64 CPU device of tests */
    return RW_OK;
}

/* -- opening ----------------------------------------------------------------------------------------------------------
 */

static rw_status begin_with_state(rw_generator *g, const char *path, rw_error *err) {
    if (!rw_arch_has_part(rw_arch_find(g->shape.arch, NULL), RW_DIM_time_state))
        return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path), "%s has no initial states", g->shape.arch);
    g->shape.time_state = 1;
    return RW_OK;
}

static rw_status open_model(rw_generator *g, const char *path, const char *state, rw_device *device, bool real,
                            rw_error *err) {
    g->device = device;
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    rw_status status = rw_model_shape_from_file(f, &g->shape, &g->names, err);
    if (status == RW_OK && g->shape.head_qk)
        status = rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path),
                         "this model has head_qk, whose logits need every token before: it can be trained, but not "
                         "generate text");
    if (status == RW_OK && state) status = begin_with_state(g, path, err);
    if (status == RW_OK) status = rw_model_new(&g->model, &g->shape, device, NULL, err);
    if (status == RW_OK && real) status = rw_weights_load(g->model->params, RW_PARAM_VALUE, f, path, "", err);
    rw_tensor_file_close(f);
    if (status == RW_OK && real) status = rw_weights_check_finite(g->model->params, path, err);
    if (status == RW_OK && real && state) {
        status = rw_weights_load_states(g->model->params, state, err);
        if (status == RW_OK) status = rw_weights_check_finite(g->model->params, state, err);
    }
    return status;
}

/* A GPU is filled by long pieces. */
static int64_t prefill_of(const rw_device *d) {
    return d->kind == RW_DEVICE_CUDA ? RW_PREFILL_GPU : RW_PREFILL;
}

static rw_status open_buffers(rw_generator *g, int64_t prefill, int64_t arena_bytes, rw_error *err) {
    g->prefill = prefill;
    g->narrow = rw_alloc_array((size_t)g->shape.vocab_size, sizeof(double));
    if (!g->narrow) return rw_fail_memory(err, (size_t)g->shape.vocab_size * sizeof(double));
    g->state_bytes = field_begin(g, arch_of(g)->n_fields) * rw_dtype_bytes(state_dtype(g));
    for (int i = 0; i < 2; i++) g->state[i] = g->device->alloc(g->device, g->state_bytes);
    g->tokens = g->device->alloc(g->device, prefill * (int64_t)sizeof *g->tokens);
    if (!g->state[0] || !g->state[1] || !g->tokens) return rw_fail_memory(err, (size_t)g->state_bytes);
    RW_TRY(rw_step_arena_init(&g->arena, g->device, arena_bytes, err));
    RW_TRY(rw_tape_new(&g->tape, g->device, &g->arena, err));
    rw_tape_at_most(g->tape, prefill, 1);
    return RW_OK;
}

/* The arena that the largest piece needs: by running it on the meta device. */
static rw_status measure(const char *path, const char *state, rw_device *like, int64_t *arena_bytes, rw_error *err) {
    rw_device *meta;
    RW_TRY(rw_device_open_meta(&meta, like, err));
    rw_generator *g = rw_alloc(sizeof *g);
    rw_status status = g ? open_model(g, path, state, meta, false, err) : rw_fail_memory(err, sizeof *g);
    const void *logits;
    if (status == RW_OK) status = open_buffers(g, prefill_of(like), 0, err);
    if (status == RW_OK) status = launch(g, g->prefill, RW_LOGIT_ROWS, &logits, err);
    if (status == RW_OK) *arena_bytes = g->arena.high_water;
    rw_generator_close(g);
    rw_device_close(meta);
    return status;
}

rw_status rw_generator_open(rw_generator **out, const char *path, const char *state, rw_device *device, rw_error *err) {
    *out = NULL;
    int64_t arena_bytes = 0;
    RW_TRY(measure(path, state, device, &arena_bytes, err));
    rw_generator *g = rw_alloc(sizeof *g);
    if (!g) return rw_fail_memory(err, sizeof *g);
    rw_status status = open_model(g, path, state, device, true, err);
    if (status == RW_OK) status = open_buffers(g, prefill_of(device), arena_bytes, err);
    if (status == RW_OK) status = rw_generator_reset(g, err);
    if (status != RW_OK) {
        rw_generator_close(g);
        return status;
    }
    *out = g;
    return RW_OK;
}

void rw_generator_close(rw_generator *g) {
    if (!g) return;
    for (int i = 0; i < 2; i++)
        if (g->steps[i]) g->device->record->free(g->device, g->steps[i]);
    rw_tape_free(g->tape);
    rw_step_arena_done(&g->arena);
    rw_free(g->narrow);
    for (int i = 0; i < 2; i++)
        if (g->state[i]) g->device->free(g->device, g->state[i], g->state_bytes);
    if (g->tokens) g->device->free(g->device, g->tokens, g->prefill * (int64_t)sizeof *g->tokens);
    rw_model_free(g->model);
    rw_arena_done(&g->names);
    rw_free(g);
}

const rw_plan_model *rw_generator_model(const rw_generator *g) {
    return &g->shape;
}
