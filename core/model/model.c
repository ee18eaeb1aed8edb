/* What all architectures share: declaring parameters from a table of roles, initial values, the embedding, the walk
 * over the blocks, the head. */
#include "core/model/model.h"

#include "core/base/alloc.h"
#include "core/base/str.h"

#include <math.h>
#include <string.h>

#define LN_EPS 1e-5

static const rw_model_ops *const models[] = {&rw_model_x060, NULL};

const rw_model_ops *rw_model_find(const char *arch, rw_error *err) {
    for (int i = 0; models[i]; i++)
        if (strcmp(models[i]->arch, arch) == 0) return models[i];
    rw_fail(err, RW_E_UNSUPPORTED, RW_AT_NONE, "no model of architecture '%s' in this build; there is x060", arch);
    return NULL;
}

/* -- parameters -------------------------------------------------------------------------------------------- */

static int64_t dim_of(const rw_plan_model *s, char letter) {
    switch (letter) {
    case '1':
        return 1;
    case '5':
        return 5;
    case 'C':
        return s->n_embd;
    case 'F':
        return s->dim_ffn;
    case 'H':
        return s->n_head;
    case 'N':
        return s->head_size;
    case 'M':
        return s->lora_mix;
    case 'm':
        return 5 * s->lora_mix;
    case 'D':
        return s->lora_decay;
    default:
        return s->vocab_size;
    }
}

static rw_status add(rw_layout *l, const rw_plan_model *s, int bucket, int place, const char *shape, const char *name,
                     rw_error *err) {
    int64_t dims[RW_MAX_DIM];
    int ndim = (int)strlen(shape);
    for (int i = 0; i < ndim; i++) dims[i] = dim_of(s, shape[i]);
    return rw_layout_add(l, name, ndim, dims, bucket, place, err);
}

static rw_status declare(const rw_model_ops *ops, const rw_plan_model *s, rw_layout *l, rw_arena *names,
                         rw_error *err) {
    int last = (int)s->n_layer + 1;
    RW_TRY(add(l, s, 0, 0, "VC", "emb.weight", err));
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int r = 0; r < ops->n_roles; r++) {
            const rw_role *role = &ops->roles[r];
            if (role->only_first && layer > 0) continue;
            const char *name = rw_arena_printf(names, "blocks.%d.%s", layer, role->name);
            RW_TRY(add(l, s, 1 + layer, role->place, role->shape, name, err));
        }
    RW_TRY(add(l, s, last, 0, "C", "ln_out.weight", err));
    RW_TRY(add(l, s, last, 0, "C", "ln_out.bias", err));
    return add(l, s, last, 1, "VC", "head.weight", err);
}

/* Fills the pointers to tensors; the order is that of declare(). */
static void bind(rw_model *m) {
    rw_tensor *next = m->params->tensors;
    m->emb = next++;
    for (int layer = 0; layer < m->shape.n_layer; layer++)
        for (int r = 0; r < m->ops->n_roles; r++)
            if (layer == 0 || !m->ops->roles[r].only_first) m->roles[layer * m->ops->n_roles + r] = next++;
    m->ln_out_w = next++;
    m->ln_out_b = next++;
    m->head = next;
    m->ln0_w = rw_params_find(m->params, "blocks.0.ln0.weight");
    m->ln0_b = rw_params_find(m->params, "blocks.0.ln0.bias");
}

static rw_status build(rw_model *m, rw_device *device, const rw_model_options *o, rw_error *err) {
    rw_layout l = {0};
    rw_status status = declare(m->ops, &m->shape, &l, &m->names, err);
    if (status == RW_OK && o && o->groups) o->groups(o->ctx, &l);
    if (status == RW_OK) status = rw_layout_place(&l, err);
    if (status == RW_OK) status = rw_params_new(&m->params, device, &l, o && o->train, err);
    rw_layout_done(&l);
    RW_TRY(status);
    size_t n = (size_t)m->shape.n_layer;
    m->roles = rw_alloc_array(n * (size_t)m->ops->n_roles, sizeof *m->roles);
    if (!m->roles) return rw_fail_memory(err, n * (size_t)m->ops->n_roles * sizeof *m->roles);
    bind(m);
    return RW_OK;
}

rw_status rw_model_new(rw_model **out, const rw_plan_model *shape, rw_device *device, const rw_model_options *options,
                       rw_error *err) {
    *out = NULL;
    const rw_model_ops *ops = rw_model_find(shape->arch, err);
    if (!ops) return RW_E_UNSUPPORTED;
    rw_model *m = rw_alloc(sizeof *m);
    if (!m) return rw_fail_memory(err, sizeof *m);
    m->ops = ops;
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

static double head_gain(const rw_plan_model *s) {
    return s->vocab_size > s->n_embd ? 0.5 * sqrt((double)s->vocab_size / (double)s->n_embd) : 0.5;
}

static rw_status init_tensor(rw_model *m, const rw_tensor *x, const rw_init *init, uint64_t seed, rw_device *host64,
                             rw_error *err) {
    return rw_init_param(m->params, (size_t)(x - m->params->tensors), init, seed, host64, err);
}

static rw_status init_block(rw_model *m, int layer, uint64_t seed, rw_device *host64, rw_error *err) {
    rw_init_site site = {&m->shape, layer};
    for (int r = 0; r < m->ops->n_roles; r++) {
        const rw_role *role = &m->ops->roles[r];
        rw_init init = {role->kind, role->value, role->formula, &site};
        if (rw_role_of(m, layer, r)) RW_TRY(init_tensor(m, rw_role_of(m, layer, r), &init, seed, host64, err));
    }
    return RW_OK;
}

static rw_status init_all(rw_model *m, uint64_t seed, rw_device *host64, rw_error *err) {
    rw_init one = {RW_INIT_CONSTANT, 1, NULL, NULL}, zero = {RW_INIT_CONSTANT, 0, NULL, NULL};
    rw_init emb = {RW_INIT_UNIFORM, 1e-4, NULL, NULL}, head = {RW_INIT_ORTHOGONAL, head_gain(&m->shape), NULL, NULL};
    RW_TRY(init_tensor(m, m->emb, &emb, seed, host64, err));
    for (int layer = 0; layer < m->shape.n_layer; layer++) RW_TRY(init_block(m, layer, seed, host64, err));
    RW_TRY(init_tensor(m, m->ln_out_w, &one, seed, host64, err));
    RW_TRY(init_tensor(m, m->ln_out_b, &zero, seed, host64, err));
    return init_tensor(m, m->head, &head, seed, host64, err);
}

rw_status rw_model_init(rw_model *m, uint64_t seed, rw_error *err) {
    rw_device *host64;
    RW_TRY(rw_device_open_cpu(&host64, RW_F64, m->params->device->exec.threads, err));
    rw_status status = init_all(m, seed, host64, err);
    rw_device_close(host64);
    return status;
}

/* -- forward -------------------------------------------------------------------------------------------------- */

/* in: x, att_shift, ffn_shift, wkv (NULL: zeros); out: the same four (NULL: not wanted) */
static void block_segment(rw_tape *t, const void *ctx, rw_tensor *const *in, rw_tensor **out) {
    const rw_block_site *site = ctx;
    int l = site->layer;
    rw_state from = {0}, to = {0};
    from.att_shift[l] = in[1];
    from.ffn_shift[l] = in[2];
    from.wkv[l] = in[3];
    out[0] = site->model->ops->block(site->model, t, l, site->rows, in[0], &from, site->want_state ? &to : NULL);
    out[1] = to.att_shift[l];
    out[2] = to.ffn_shift[l];
    out[3] = to.wkv[l];
}

static rw_tensor *run_block(rw_model *m, rw_tape *t, int l, rw_rows rows, rw_tensor *x, const rw_state *state_in,
                            rw_state *state_out, int grad_cp) {
    rw_block_site site = {m, l, rows, state_out != NULL};
    rw_tensor *in[4] = {x}, *out[4] = {NULL};
    if (state_in) {
        in[1] = state_in->att_shift[l];
        in[2] = state_in->ffn_shift[l];
        in[3] = state_in->wkv[l];
    }
    if (grad_cp)
        rw_tape_segment(t, block_segment, &site, sizeof site, in, 4, out, 4);
    else {
        rw_scope s = rw_scope_begin(t);
        block_segment(t, &site, in, out);
        rw_scope_end(t, s, out, 4);
    }
    if (state_out) {
        state_out->att_shift[l] = out[1];
        state_out->ffn_shift[l] = out[2];
        state_out->wkv[l] = out[3];
    }
    return out[0];
}

rw_tensor *rw_model_forward(rw_model *m, rw_tape *t, rw_rows rows, const int32_t *tokens, const rw_state *state_in,
                            rw_state *state_out, int grad_cp) {
    rw_tensor *x = rw_embedding(t, m->emb, tokens, rows.n_rows, m->ln0_w, m->ln0_b, LN_EPS);
    for (int l = 0; l < m->shape.n_layer && x; l++) {
        rw_tensor *y = run_block(m, t, l, rows, x, state_in, state_out, grad_cp);
        rw_tape_drop(t, x);
        x = y;
    }
    if (!x) return NULL;
    rw_tensor *hidden = rw_layer_norm(t, x, m->ln_out_w, m->ln_out_b, LN_EPS);
    rw_tape_drop(t, x);
    return hidden;
}

rw_tensor *rw_model_logits(rw_model *m, rw_tape *t, rw_tensor *hidden) {
    return rw_matmul(t, hidden, m->head, true, NULL);
}
