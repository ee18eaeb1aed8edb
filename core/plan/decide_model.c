/* The model of a run: its shape, read from the checkpoint or made from the recipe. */
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/model_shape.h"
#include "core/model/model.h"
#include "core/plan/plan_internal.h"

#include <stddef.h>
#include <string.h>

#define BYTE_VOCAB  257
#define WORLD_VOCAB 65536

static bool is(const char *a, const char *b) {
    return a && strcmp(a, b) == 0;
}

/* The recipe was refused already if it names neither a checkpoint nor arch, n_layer and n_embd. */
static rw_status shape_from_scratch(rw_plan_model *m, const rw_plan_data *d, rw_error *err) {
    const rw_arch *arch = rw_arch_find(m->arch, err);
    if (!arch) return RW_E_UNSUPPORTED;
    if (!m->vocab_size) m->vocab_size = d->tokenizer == RW_TOKENIZER_BYTE ? BYTE_VOCAB : WORLD_VOCAB;
    rw_arch_default_shape(arch, m);
    return RW_OK;
}

/* The size that a key of the recipe sets; RW_DIM_COUNT: another kind of key. */
static rw_dim dim_of_key(rw_key_id id) {
    const ptrdiff_t first = offsetof(rw_plan, model.dim), end = first + (ptrdiff_t)sizeof((rw_plan *)0)->model.dim;
    bool size = rw_keys[id].offset >= first && rw_keys[id].offset < end;
    return size ? (rw_dim)((rw_keys[id].offset - first) / (ptrdiff_t)sizeof(int64_t)) : RW_DIM_COUNT;
}

/* What the recipe states must be the file's; each contradiction is named. */
static rw_status same_as_file(const rw_recipe *r, const rw_plan_model *stated, const rw_plan_model *found,
                              rw_error *err) {
    rw_problems p = {0};
    if (stated->arch && !is(stated->arch, found->arch))
        rw_problems_add(&p, rw_recipe_where(r, RW_KEY_model_arch),
                        "the recipe says %s, but %s is %s; leave this key out", stated->arch, stated->load_model,
                        found->arch);
    for (int id = 0; id < RW_KEY_COUNT; id++) {
        rw_dim d = dim_of_key((rw_key_id)id);
        if (d == RW_DIM_COUNT || !rw_recipe_given(r, (rw_key_id)id) || stated->dim[d] == found->dim[d]) continue;
        rw_problems_add(&p, rw_recipe_where(r, (rw_key_id)id),
                        "the recipe says %lld, but %s has %lld; leave this key out", (long long)stated->dim[d],
                        stated->load_model, (long long)found->dim[d]);
    }
    return rw_problems_end(&p, err);
}

static rw_status shape_from_file(rw_plan_model *m, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, m->load_model, err));
    rw_plan_model found = *m;
    rw_status status = rw_model_shape_from_file(f, &found, arena, err);
    rw_tensor_file_close(f);
    RW_TRY(status);
    RW_TRY(same_as_file(r, m, &found, err));
    *m = found;
    return RW_OK;
}

/* Parts that some architectures have, and the key that asks for each. */
static rw_status parts_exist(const rw_plan_model *m, const rw_recipe *r, rw_error *err) {
    static const struct {
        rw_dim dim;
        rw_key_id key;
    } parts[] = {{RW_DIM_pre_ffn, RW_KEY_model_pre_ffn},
                 {RW_DIM_head_qk, RW_KEY_model_head_qk},
                 {RW_DIM_time_state, RW_KEY_train_train_type}};
    const rw_arch *arch = rw_arch_find(m->arch, err);
    for (size_t i = 0; arch && i < sizeof parts / sizeof *parts; i++)
        if (m->dim[parts[i].dim] && !rw_arch_has_part(arch, parts[i].dim))
            return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, parts[i].key),
                           "%s has no such part; leave this key out", m->arch);
    return arch ? RW_OK : RW_E_UNSUPPORTED;
}

static rw_status check_dim_att(const rw_plan_model *m, const rw_recipe *r, rw_error *err) {
    int64_t dim_att = rw_recipe_given(r, RW_KEY_model_dim_att) ? r->values[RW_KEY_model_dim_att].i : 0;
    if (dim_att == 0 || dim_att == m->n_embd) return RW_OK;
    return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_model_dim_att),
                   "expected n_embd, which is %lld, got %lld; leave this key out", (long long)m->n_embd,
                   (long long)dim_att);
}

rw_status rw_plan_decide_model(rw_plan *p, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_plan_model *m = &p->model;
    RW_TRY(m->load_model ? shape_from_file(m, r, arena, err) : shape_from_scratch(m, &p->data, err));
    if (p->train.train_type == RW_TRAIN_STATES) m->time_state = 1;
    RW_TRY(parts_exist(m, r, err));
    m->copy_ctx = m->head_qk ? p->data.ctx_len : 0;
    RW_TRY(check_dim_att(m, r, err));
    if (m->n_embd % 32)
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_model_n_embd),
                       "expected a multiple of %lld, got %lld", (long long)32, (long long)m->n_embd);
    if (m->n_embd % m->head_size)
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_model_n_embd),
                       "expected a multiple of %s (%lld), got %lld", "model.head_size", (long long)m->head_size,
                       (long long)m->n_embd);
    return RW_OK;
}
