/* What all architectures share: declaring parameters from the table of roles, initial values, the embedding, the walk
 * over the blocks, the head. */
#include "core/model/model.h"

#include "core/base/alloc.h"

#define LN_EPS 1e-5

/* -- parameters -------------------------------------------------------------------------------------------- */

static rw_status declare(const rw_arch *arch, const rw_plan_model *shape, rw_layout *l, rw_arena *names,
                         rw_error *err) {
    int64_t sizes[RW_MAX_DIM];
    for (rw_role_walk w = rw_role_walk_of(arch, shape); rw_role_walk_next(&w);) {
        const char *name = rw_arena_strdup(names, w.name);
        int ndim = rw_shape_sizes(w.role->shape, shape, sizes);
        RW_TRY(rw_layout_add(l, name, ndim, sizes, 1 + w.layer, w.role->place, err));
        l->segments[l->n_segments - 1].role = w.role;
    }
    return RW_OK;
}

/* Fills the pointers to tensors; the order is that of declare(). */
static void bind(rw_model *m) {
    rw_tensor *next = m->params->tensors;
    for (rw_role_walk w = rw_role_walk_of(m->arch, &m->shape); rw_role_walk_next(&w);)
        m->roles[(w.layer + 1) * m->arch->n_roles + w.index] = next++;
    m->emb = rw_params_find(m->params, "emb.weight");
    m->ln0_w = rw_params_find(m->params, "blocks.0.ln0.weight");
    m->ln0_b = rw_params_find(m->params, "blocks.0.ln0.bias");
    m->ln_out_w = rw_params_find(m->params, "ln_out.weight");
    m->ln_out_b = rw_params_find(m->params, "ln_out.bias");
    m->head = rw_params_find(m->params, "head.weight");
}

static rw_status build(rw_model *m, rw_device *device, const rw_model_options *o, rw_error *err) {
    rw_layout l = {0};
    rw_status status = declare(m->arch, &m->shape, &l, &m->names, err);
    if (status == RW_OK && o && o->groups) o->groups(o->ctx, &l);
    if (status == RW_OK) status = rw_layout_place(&l, err);
    if (status == RW_OK) status = rw_params_new(&m->params, device, &l, o && o->train, err);
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

static rw_status init_all(rw_model *m, uint64_t seed, rw_device *host64, rw_error *err) {
    size_t i = 0;
    for (rw_role_walk w = rw_role_walk_of(m->arch, &m->shape); rw_role_walk_next(&w);) {
        rw_init_site site = {&m->shape, w.layer};
        rw_init init = w.role->init;
        init.ctx = &site;
        RW_TRY(rw_init_param(m->params, i++, &init, seed, host64, err));
    }
    return RW_OK;
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
    out[0] = site->model->arch->block(site->model, t, l, site->rows, in[0], &from, site->want_state ? &to : NULL);
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
