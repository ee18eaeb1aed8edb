/* What all architectures share: declaring parameters from the table of roles, initial values, the embedding, the walk
 * over the blocks, the head. */
#include "core/model/model.h"

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/thread.h"

#include <string.h>

#define LN_EPS 1e-5

/* -- parameters -------------------------------------------------------------------------------------------- */

/* One dimension longer than 1 makes a vector; so does all that is kept by heads (a number for each channel, a state):
 * kernels want it wide. */
static rw_param_class class_of(const char *shape) {
    rw_shape_word words[RW_MAX_DIM];
    int n = rw_shape_words(shape, words), rank = 0;
    for (int i = 0; i < n; i++) rank += words[i].factor > 1 || words[i].dim != RW_DIM_COUNT;
    bool heads = n > 0 && words[0].dim == RW_DIM_n_head;
    return rank <= 1 || heads ? RW_VECTOR : RW_MATRIX;
}

static rw_status declare_buffer(rw_model *m, const rw_role_walk *w, rw_layout *l, rw_error *err) {
    rw_buffer b = {.name = rw_arena_strdup(&m->names, w->name), .value = w->role->init.formula};
    rw_init_site *site = rw_arena_alloc(&m->names, sizeof *site);
    if (!b.name || !site) return rw_fail_memory(err, sizeof *site);
    *site = (rw_init_site){&m->shape, w->layer};
    b.ctx = site;
    b.ndim = rw_shape_sizes(w->role->shape, &m->shape, b.shape);
    return rw_layout_add_buffer(l, &b, err);
}

static rw_status declare_param(rw_model *m, const rw_role_walk *w, rw_layout *l, rw_error *err) {
    int64_t sizes[RW_MAX_DIM];
    const char *name = rw_arena_strdup(&m->names, w->name);
    int ndim = rw_shape_sizes(w->role->shape, &m->shape, sizes);
    int bucket = w->role->where == RW_WHERE_ENTRY ? 0 : 1 + w->layer;
    RW_TRY(rw_layout_add(l, name, class_of(w->role->shape), ndim, sizes, bucket, w->role->place, err));
    l->segments[l->n_segments - 1].role = w->role;
    return RW_OK;
}

static rw_status declare(rw_model *m, rw_layout *l, rw_error *err) {
    for (rw_role_walk w = rw_role_walk_of(m->arch, &m->shape); rw_role_walk_next(&w);)
        RW_TRY(w.role->buffer ? declare_buffer(m, &w, l, err) : declare_param(m, &w, l, err));
    return RW_OK;
}

/* The next parameter of a walk, in the order of the layout. */
static bool next_param(rw_role_walk *w) {
    while (rw_role_walk_next(w))
        if (!w->role->buffer) return true;
    return false;
}

static int role_named(const rw_arch *arch, const char *name) {
    for (int i = 0; name && i < arch->n_roles; i++)
        if (strcmp(arch->roles[i].name, name) == 0) return i;
    return -1;
}

/* Fills the pointers to tensors; the order is that of declare(). */
static void bind(rw_model *m) {
    rw_tensor *next = m->params->tensors;
    for (rw_role_walk w = rw_role_walk_of(m->arch, &m->shape); next_param(&w);)
        m->roles[(w.layer + 1) * m->arch->n_roles + w.index] = next++;
    for (int f = 0; f < RW_MAX_FIELDS; f++)
        m->initial[f] = role_named(m->arch, f < m->arch->n_fields ? m->arch->fields[f].initial : NULL);
    m->emb = rw_params_find(m->params, "emb.weight");
    m->ln0_w = rw_params_find(m->params, "blocks.0.ln0.weight");
    m->ln0_b = rw_params_find(m->params, "blocks.0.ln0.bias");
    m->ln_out_w = rw_params_find(m->params, "ln_out.weight");
    m->ln_out_b = rw_params_find(m->params, "ln_out.bias");
    m->head = rw_params_find(m->params, "head.weight");
    m->head_q = rw_params_find(m->params, "head_q.weight");
    m->head_k = rw_params_find(m->params, "head_k.weight");
}

static rw_status build(rw_model *m, rw_device *device, const rw_model_options *o, rw_error *err) {
    const rw_storage storage = o ? o->storage : (rw_storage){0};
    rw_layout l = {0};
    rw_status status = declare(m, &l, err);
    if (status == RW_OK && o && o->groups) o->groups(o->ctx, &l);
    if (status == RW_OK) status = rw_layout_place(&l, err);
    if (status == RW_OK) status = rw_params_new(&m->params, device, &l, &storage, o && o->train, err);
    rw_layout_done(&l);
    RW_TRY(status);
    size_t n = (size_t)(m->shape.n_layer + 2) * (size_t)m->arch->n_roles;
    m->roles = rw_alloc_array(n, sizeof *m->roles);
    if (!m->roles) return rw_fail_memory(err, n * sizeof *m->roles);
    bind(m);
    return RW_OK;
}

rw_status rw_model_new(rw_model **out, const rw_plan_model *shape, rw_device *device, const rw_model_options *options,
                       rw_error *err) {
    *out = NULL;
    const rw_arch *arch = rw_arch_find(shape->arch, err);
    if (!arch) return RW_E_UNSUPPORTED;
    rw_model *m = rw_alloc(sizeof *m);
    if (!m) return rw_fail_memory(err, sizeof *m);
    m->arch = arch;
    m->shape = *shape;
    rw_status status = build(m, device, options, err);
    if (status != RW_OK) {
        rw_model_free(m);
        return status;
    }
    *out = m;
    return RW_OK;
}

void rw_model_free(rw_model *m) {
    if (!m) return;
    rw_params_free(m->params);
    rw_free(m->roles);
    rw_arena_done(&m->names);
    rw_free(m);
}

/* -- initial values ----------------------------------------------------------------------------------------- */

#define PATIENCE_NS 2000000000ll

/* Long work shows how far it is: a line for each tenth of the parameters, unless it is quick. */
typedef struct {
    int64_t began_ns, n_done;
    int tenths; /* as said last */
} init_progress;

static void init_done(init_progress *p, const rw_layout *l, size_t i) {
    p->n_done += l->segments[i].n;
    int tenths = (int)(10 * p->n_done / l->n_params);
    if (tenths == p->tenths || rw_now_ns() - p->began_ns < PATIENCE_NS) return;
    p->tenths = tenths;
    rw_info("initial values: %d %% of the parameters", 10 * tenths);
}

rw_status rw_model_init_lacking(rw_model *m, uint64_t seed, rw_model_has has, const void *ctx, rw_error *err) {
    const int threads = m->params->device->exec.threads;
    init_progress progress = {.began_ns = rw_now_ns()};
    size_t i = 0;
    for (rw_role_walk w = rw_role_walk_of(m->arch, &m->shape); next_param(&w); i++) {
        rw_init_site site = {&m->shape, w.layer};
        rw_init value = w.role->init;
        value.ctx = &site;
        if (has && has(ctx, w.name)) continue;
        RW_TRY(rw_init_param(m->params, i, &value, seed, threads > 0 ? threads : rw_cpu_count(), err));
        init_done(&progress, &m->params->layout, i);
    }
    return RW_OK;
}

rw_status rw_model_init(rw_model *m, uint64_t seed, rw_error *err) {
    return rw_model_init_lacking(m, seed, NULL, NULL, err);
}

/* -- forward -------------------------------------------------------------------------------------------------- */

typedef struct {
    const rw_model *model;
    int layer;
    rw_rows rows;
    bool want_state;
} block_site; /* the context of a checkpointed block */

/* What goes into a block and out of it: x, what blocks hand on, the fields of the state. */
enum { IO_X, IO_CARRY, IO_STATE = IO_CARRY + RW_MAX_CARRY, IO_COUNT = IO_STATE + RW_MAX_FIELDS };

/* A value handed on unchanged is no output: NULL. */
static void run_ops(rw_tape *t, const void *ctx, rw_tensor *const *in, rw_tensor **out) {
    const block_site *site = ctx;
    rw_tape_marker(t, 1 + site->layer);
    rw_block_io io = {.layer = site->layer, .rows = site->rows, .x = in[IO_X], .want_state = site->want_state};
    for (int i = 0; i < RW_MAX_CARRY; i++) io.carry[i] = in[IO_CARRY + i];
    for (int f = 0; f < RW_MAX_FIELDS; f++) {
        io.state_in[f] = in[IO_STATE + f];
        io.state_out[f] = out[IO_STATE + f];
    }
    out[IO_X] = site->model->arch->block(site->model, t, &io);
    for (int i = 0; i < RW_MAX_CARRY; i++) out[IO_CARRY + i] = io.carry[i] == in[IO_CARRY + i] ? NULL : io.carry[i];
    for (int f = 0; f < RW_MAX_FIELDS; f++) out[IO_STATE + f] = io.state_out[f];
}

/* whole: computed again from its input in the backward pass. */
static rw_tensor *run_block(const block_site *site, rw_tape *t, rw_tensor *x, rw_tensor **carry,
                            const rw_state *state_in, rw_state *state_out, bool whole) {
    rw_tensor *in[IO_COUNT] = {x}, *out[IO_COUNT] = {NULL};
    for (int i = 0; i < RW_MAX_CARRY; i++) in[IO_CARRY + i] = carry[i];
    for (int f = 0; f < RW_MAX_FIELDS; f++) {
        if (state_in) in[IO_STATE + f] = state_in->at[f][site->layer];
        if (!in[IO_STATE + f]) in[IO_STATE + f] = rw_model_initial(site->model, site->layer, f);
        if (state_out) out[IO_STATE + f] = state_out->at[f][site->layer];
    }
    if (whole)
        rw_tape_recompute(t, run_ops, site, sizeof *site, in, IO_COUNT, out, IO_COUNT);
    else {
        rw_scope s = rw_scope_begin(t);
        run_ops(t, site, in, out);
        rw_scope_end(t, s, out, IO_COUNT);
    }
    for (int i = 0; i < RW_MAX_CARRY; i++)
        if (out[IO_CARRY + i]) carry[i] = out[IO_CARRY + i];
    for (int f = 0; state_out && f < RW_MAX_FIELDS; f++) state_out->at[f][site->layer] = out[IO_STATE + f];
    return out[IO_X];
}

static const unsigned forgets[] = {
    [RW_CHECKPOINT_NONE] = 0,
    [RW_CHECKPOINT_MIX] = RW_FORGET_MIX,
    [RW_CHECKPOINT_FFN] = RW_FORGET_MIX | RW_FORGET_FFN,
    [RW_CHECKPOINT_BLOCK] = 0,
    [RW_CHECKPOINT_AUTO] = 0,
};

rw_tensor *rw_model_forward(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, const rw_state *state_in,
                            rw_state *state_out, rw_checkpoint_choice level) {
    unsigned forgot = rw_tape_forgets(t, forgets[level]);
    rw_tape_marker(t, 0);
    rw_tensor *x = rw_embedding(t, m->emb, tokens, rows.n_rows, m->ln0_w, m->ln0_b, LN_EPS);
    rw_tensor *carry[RW_MAX_CARRY] = {NULL};
    for (int l = 0; l < m->shape.n_layer && x; l++) {
        block_site site = {m, l, rows, state_out != NULL};
        rw_tensor *y = run_block(&site, t, x, carry, state_in, state_out, level == RW_CHECKPOINT_BLOCK);
        rw_tape_drop(t, x);
        x = y;
    }
    for (int i = 0; i < RW_MAX_CARRY; i++) rw_tape_drop(t, carry[i]);
    rw_tape_forgets(t, forgot);
    if (!x) return NULL;
    rw_tape_marker(t, 1 + (int)m->shape.n_layer);
    rw_tensor *hidden = rw_layer_norm(t, x, m->ln_out_w, m->ln_out_b, LN_EPS);
    rw_tape_drop(t, x);
    return hidden;
}

rw_tensor *rw_model_loss(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, rw_tensor *hidden,
                         const int32_t *targets, const float *mask, int64_t chunk) {
    if (!hidden || !m->head_q) return rw_head_loss(t, hidden, m->head, targets, mask, chunk);
    rw_copy_head_in copy = {.rows = rows, .tokens = tokens};
    copy.q = rw_matmul(t, hidden, m->head_q, true, NULL);
    copy.k = rw_matmul(t, hidden, m->head_k, true, NULL);
    return rw_head_loss_copy(t, hidden, m->head, &copy, targets, mask, chunk);
}

rw_tensor *rw_model_logits(rw_model *m, rw_tape *t, rw_tensor *hidden) {
    return rw_matmul(t, hidden, m->head, true, NULL);
}
