/* The model of a run: its shape, read from the checkpoint or made from the recipe. */
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/model_shape.h"
#include "core/model/model.h"
#include "core/plan/plan_internal.h"

#include <string.h>

#define BYTE_VOCAB  257
#define WORLD_VOCAB 65536

static bool is(const char *a, const char *b) {
    return a && strcmp(a, b) == 0;
}

static int64_t or_else(int64_t given, int64_t otherwise) {
    return given > 0 ? given : otherwise;
}

/* The recipe was refused already if it names neither a checkpoint nor arch, n_layer and n_embd. */
static rw_status shape_from_scratch(rw_plan_model *m, const rw_plan_data *d) {
    m->head_size = or_else(m->head_size, 64);
    m->vocab_size = or_else(m->vocab_size, d->tokenizer == RW_TOKENIZER_BYTE ? BYTE_VOCAB : WORLD_VOCAB);
    m->dim_ffn = or_else(m->dim_ffn, m->n_embd * 7 / 2 / 32 * 32);
    m->lora_mix = m->n_embd >= 4096 ? 64 : 32;
    m->lora_decay = m->n_embd >= 4096 ? 128 : 64;
    m->head_size_divisor = 8;
    return RW_OK;
}

/* A size that the recipe states must be the file's. */
static rw_status same_as_file(const rw_recipe *r, rw_key_id key, int64_t stated, int64_t found, const char *file,
                              rw_error *err) {
    if (stated <= 0 || stated == found) return RW_OK;
    return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, key),
                   "the recipe says %lld, but %s has %lld; leave this key out", (long long)stated, file,
                   (long long)found);
}

static rw_status shape_from_file(rw_plan_model *m, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, m->load_model, err));
    rw_plan_model found = *m;
    rw_status status = rw_model_shape_from_file(f, &found, arena, err);
    rw_tensor_file_close(f);
    RW_TRY(status);
    if (m->arch && !is(m->arch, found.arch))
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_model_arch),
                       "the recipe says %s, but %s is %s; leave this key out", m->arch, m->load_model, found.arch);
    RW_TRY(same_as_file(r, RW_KEY_model_n_layer, m->n_layer, found.n_layer, m->load_model, err));
    RW_TRY(same_as_file(r, RW_KEY_model_n_embd, m->n_embd, found.n_embd, m->load_model, err));
    RW_TRY(same_as_file(r, RW_KEY_model_vocab_size, m->vocab_size, found.vocab_size, m->load_model, err));
    RW_TRY(same_as_file(r, RW_KEY_model_head_size, m->head_size, found.head_size, m->load_model, err));
    RW_TRY(same_as_file(r, RW_KEY_model_dim_ffn, m->dim_ffn, found.dim_ffn, m->load_model, err));
    *m = found;
    return RW_OK;
}

rw_status rw_plan_decide_model(rw_plan *p, const rw_recipe *r, rw_arena *arena, rw_error *err) {
    rw_plan_model *m = &p->model;
    RW_TRY(m->load_model ? shape_from_file(m, r, arena, err) : shape_from_scratch(m, &p->data));
    if (m->n_embd % m->head_size || m->n_embd % 32)
        return rw_fail(err, RW_E_RECIPE, rw_recipe_where(r, RW_KEY_model_n_embd),
                       "%lld is not a multiple of head_size %lld and of 32", (long long)m->n_embd,
                       (long long)m->head_size);
    m->n_head = m->n_embd / m->head_size;
    return rw_model_find(m->arch, err) ? RW_OK : RW_E_UNSUPPORTED;
}
