/* First the architecture, by names that only it has; then the sizes, each from the first parameter in whose shape it
 * stands alone; then every tensor is compared with the architecture's table, so that nothing is silently left out or
 * made up. */
#include "core/checkpoint/model_shape.h"

#include "core/base/alloc.h"
#include "core/base/str.h"
#include "core/checkpoint/tensor_file_internal.h"
#include "core/model/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SIZE ((int64_t)1 << 40) /* of a dimension: no model is so wide, and factors of it do not overflow */

typedef struct {
    const rw_tensor_file *f;
    const rw_arch *arch;
    const rw_plan_model *stated; /* with load_partial: what else the model is to have; else NULL */
    rw_plan_model shape;         /* n_layer and the sizes found so far */
    bool *known;                 /* [count of the file]; in the arena */
} survey;

static const char *path(const survey *s) {
    return s->f->file.path;
}

/* -- the architecture --------------------------------------------------------------------------------- */

static bool any_name_has(const rw_tensor_file *f, const char *part) {
    for (int64_t i = 0; i < f->n; i++)
        if (strstr(f->tensors[i].name, part)) return true;
    return false;
}

typedef struct {
    const char *part, *what;
} named;

/* Files that are no model of any architecture here, told by a part of a name; the first that fits is named. */
static const named others[] = {
    {"embeddings.weight", "this model uses Hugging Face's tensor names; download the official .pth of the same model"},
    {"lora_A", "this is a LoRA adapter, not a whole model; merge it into its base model first"},
    {"time_mix_w1", "this was converted for web-rwkv; download the official .pth of the same model"},
    {"att.gate_w1", "this is the variant x060a, which no released model uses; take an x060 model, such as "
                    "RWKV-x060-World (recipes/README.md has a list)"},
    {"time_maa_rkvw", "this is the variant x060b or x060c, which no released model uses; take an x060 model, such as "
                      "RWKV-x060-World (recipes/README.md has a list)"},
    {".tiny_", "this was trained with tiny_att_dim, which this program has not; take a model without it"},
    {"pos_emb_", "this was trained with my_pos_emb, which this program has not; take a model without it"},
    {"time_first", "this is RWKV-4, 5.0 or 5.1; download a newer model of that size, such as RWKV-5-World v2 or "
                   "RWKV-x060-World (recipes/README.md has a list)"},
};

static rw_status refuse_others(const survey *s, rw_error *err) {
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (any_name_has(s->f, others[i].part))
            return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)), "%s", rw_message(others[i].what));
    return RW_OK;
}

static rw_status find_arch(survey *s, rw_error *err) {
    RW_TRY(refuse_others(s, err));
    for (int i = 0; rw_arch_at(i) && !s->arch; i++)
        if (rw_arch_at(i)->mark && any_name_has(s->f, rw_arch_at(i)->mark)) s->arch = rw_arch_at(i);
    if (!s->arch && s->stated && s->stated->arch) s->arch = rw_arch_find(s->stated->arch, NULL);
    if (s->arch) return RW_OK;
    if (any_name_has(s->f, "att.time_state"))
        return rw_fail(
            err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)),
            "this file holds only initial states (time_state), not a model; name the model they belong to, and "
            "this file in model.load_state or with generate --state");
    return rw_fail(
        err, RW_E_FORMAT, RW_AT_FILE(path(s)),
        "not an RWKV model: expected tensors such as blocks.0.att.key.weight; the first of %lld here is '%.200s'",
        (long long)s->f->n, s->f->n ? s->f->tensors[0].name : "");
}

/* -- sizes -------------------------------------------------------------------------------------------- */

/* The number after "blocks."; -1 for other names. */
static int64_t block_of(const char *name) {
    if (strncmp(name, "blocks.", 7)) return -1;
    size_t n = strspn(name + 7, "0123456789");
    if (n == 0 || n > 6 || name[7 + n] != '.') return -1;
    return strtoll(name + 7, NULL, 10);
}

static rw_status count_layers(survey *s, rw_error *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->f->n; i++) {
        int64_t block = block_of(s->f->tensors[i].name);
        if (block >= n) n = block + 1;
    }
    if (s->stated && s->stated->n_layer) n = s->stated->n_layer;
    s->shape.n_layer = n;
    if (n >= 1 && n <= RW_MAX_LAYERS) return RW_OK;
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)), "%lld blocks; expected 1 to %d", (long long)n, RW_MAX_LAYERS);
}

/* A role's parameter in the first block that has it with `ndim` dimensions; NULL: in none. */
static const rw_file_tensor *first_of(const survey *s, const rw_role *role, int ndim) {
    char name[RW_PARAM_NAME];
    for (int64_t layer = 0; layer < s->shape.n_layer; layer++) {
        rw_role_name(role, layer, name);
        const rw_file_tensor *t = rw_tensor_file_find(s->f, name);
        if (t && t->ndim == ndim) return t;
    }
    return NULL;
}

static void take_sizes(survey *s) {
    rw_shape_word words[RW_MAX_DIM];
    for (int r = 0; r < s->arch->n_roles; r++) {
        int ndim = rw_shape_words(s->arch->roles[r].shape, words);
        const rw_file_tensor *t = first_of(s, &s->arch->roles[r], ndim);
        for (int i = 0; t && i < ndim; i++) {
            bool alone = words[i].factor == 1 && words[i].dim < RW_DIM_COUNT;
            if (!alone || s->shape.dim[words[i].dim] || t->shape[i] > MAX_SIZE) continue;
            s->shape.dim[words[i].dim] = t->shape[i];
        }
    }
}

/* What needs a part that has no size of its own (pre_ffn) shows that the model has it. */
static void take_flags(survey *s) {
    rw_shape_word words[RW_MAX_DIM];
    for (int r = 0; r < s->arch->n_roles; r++) {
        const rw_role *role = &s->arch->roles[r];
        int ndim = rw_shape_words(role->shape, words);
        if (!s->shape.dim[role->needs] && first_of(s, role, ndim)) s->shape.dim[role->needs] = 1;
    }
}

/* What no tensor tells: as stated, else the official size. */
static rw_status complete_sizes(survey *s, rw_error *err) {
    rw_plan_model *m = &s->shape;
    if (!s->stated) return RW_OK;
    for (int d = 0; d < RW_DIM_COUNT; d++)
        if (!m->dim[d]) m->dim[d] = s->stated->dim[d];
    static const rw_dim needed[] = {RW_DIM_n_embd, RW_DIM_vocab_size};
    for (int i = 0; i < 2; i++)
        if (!m->dim[needed[i]])
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)), "no tensor here tells %s; write it in the recipe",
                           rw_dim_name(needed[i]));
    rw_arch_default_shape(s->arch, m);
    return RW_OK;
}

/* -- comparing ---------------------------------------------------------------------------------------- */

static void shape_text(rw_str *out, const int64_t *shape, int ndim) {
    rw_str_append(out, "[");
    for (int i = 0; i < ndim; i++) rw_str_appendf(out, i ? ", %lld" : "%lld", (long long)shape[i]);
    rw_str_append(out, "]");
}

static rw_status fail_shape(const survey *s, const rw_file_tensor *t, const int64_t *expected, int ndim,
                            rw_error *err) {
    rw_str a = {0}, b = {0};
    shape_text(&a, expected, ndim);
    shape_text(&b, t->shape, t->ndim);
    rw_status status = a.failed || b.failed
                           ? rw_fail_memory(err, 0)
                           : rw_fail(err, RW_E_SHAPE, RW_AT_FILE(path(s)),
                                     "tensor '%.200s': expected shape %s, found %s", t->name, a.data, b.data);
    rw_str_done(&a);
    rw_str_done(&b);
    return status;
}

static rw_status check_tensor(survey *s, const rw_role_walk *w, rw_error *err) {
    const rw_file_tensor *t = rw_tensor_file_find(s->f, w->name);
    int64_t expected[RW_MAX_DIM];
    int ndim = rw_shape_sizes(w->role->shape, &s->shape, expected);
    if (!t) return RW_OK; /* optional, or partial */
    if (t->ndim != ndim || memcmp(t->shape, expected, (size_t)ndim * sizeof *expected))
        return fail_shape(s, t, expected, ndim, err);
    for (int i = 0; i < ndim; i++)
        if (t->shape[i] == 0)
            return rw_fail(err, RW_E_SHAPE, RW_AT_FILE(path(s)), "tensor '%.200s' is empty; is the file damaged?",
                           w->name);
    if (!rw_dtype_is_float(t->dtype))
        return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)),
                       "tensor '%.200s' is %s: this file is quantized; download the bf16 or fp16 file of the model",
                       w->name, rw_dtype_name(t->dtype));
    s->known[t - s->f->tensors] = true;
    return RW_OK;
}

/* A name that is missing or unknown is told by its first; the others, as far as they fit, are lines of the detail. */
enum { MAX_NAMES = 20 };
typedef struct {
    char first[RW_PARAM_NAME * 2];
    int64_t n;
    rw_str others;
} names;

static void add_name(names *l, const char *name) {
    if (l->n == 0) snprintf(l->first, sizeof l->first, "%s", name);
    if (l->n > 0 && l->n < MAX_NAMES) rw_str_appendf(&l->others, l->n > 1 ? "\n  %s" : "  %s", name);
    if (l->n++ == MAX_NAMES) rw_str_append(&l->others, "\n  ...");
}

static rw_status end_names(names *l, rw_status status, rw_error *err) {
    if (l->others.len && !l->others.failed && err) rw_error_set_detail(err, l->others.data);
    rw_str_done(&l->others);
    return status;
}

static rw_status check_missing(const survey *s, rw_error *err) {
    names lacking = {.n = 0};
    for (rw_role_walk w = rw_role_walk_of(s->arch, &s->shape); rw_role_walk_next(&w);)
        if (!rw_tensor_file_find(s->f, w.name) && !rw_role_optional(w.role, w.layer)) add_name(&lacking, w.name);
    if (lacking.n == 0) return RW_OK;
    return end_names(&lacking,
                     rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)),
                             "tensor '%s' is missing; is this the whole model? It lacks %lld; model.load_partial: true "
                             "gives them initial values",
                             lacking.first, (long long)lacking.n),
                     err);
}

/* First that all are there: a size may come from any of them. */
static rw_status check_roles(survey *s, rw_error *err) {
    if (!s->stated) RW_TRY(check_missing(s, err));
    for (rw_role_walk w = rw_role_walk_of(s->arch, &s->shape); rw_role_walk_next(&w);) RW_TRY(check_tensor(s, &w, err));
    return RW_OK;
}

static rw_status refuse_unknown(const survey *s, rw_error *err) {
    names unknown = {.n = 0};
    for (int64_t i = 0; i < s->f->n; i++)
        if (!s->known[i]) add_name(&unknown, s->f->tensors[i].name);
    if (unknown.n == 0 || s->stated) return end_names(&unknown, RW_OK, NULL);
    return end_names(&unknown,
                     rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)),
                             "tensor '%.200s' is unknown (one of %lld); a %s model has no such tensor; "
                             "model.load_partial: true ignores them",
                             unknown.first, (long long)unknown.n, s->arch->name),
                     err);
}

static rw_status check_heads(const survey *s, rw_error *err) {
    int64_t C = s->shape.n_embd, H = s->shape.n_head, N = s->shape.head_size;
    if (C > 0 && s->shape.vocab_size > 0 && N > 0 && H == C / N && C % N == 0) return RW_OK;
    return rw_fail(err, RW_E_SHAPE, RW_AT_FILE(path(s)),
                   "%lld heads of size %lld do not add up to n_embd %lld (dim_att other than n_embd is not supported)",
                   (long long)H, (long long)N, (long long)C);
}

/* The type that most bytes have. */
static rw_dtype main_dtype(const rw_tensor_file *f) {
    int64_t bytes[RW_DTYPE_COUNT] = {0};
    rw_dtype best = RW_F32;
    for (int64_t i = 0; i < f->n; i++) {
        const rw_file_tensor *t = &f->tensors[i];
        bytes[t->dtype] = rw_add_saturated(bytes[t->dtype], rw_shape_bytes(t->shape, t->ndim, t->dtype));
    }
    for (int t = RW_DTYPE_NONE + 1; t < RW_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[best]) best = (rw_dtype)t;
    return best;
}

rw_status rw_model_shape_from_file(const rw_tensor_file *f, rw_plan_model *out, rw_arena *arena, rw_error *err) {
    survey s = {.f = f, .stated = out->load_partial ? out : NULL};
    RW_TRY(find_arch(&s, err));
    RW_TRY(count_layers(&s, err));
    take_sizes(&s);
    take_flags(&s);
    RW_TRY(complete_sizes(&s, err));
    s.known = rw_arena_alloc(arena, (size_t)f->n);
    if (!s.known) return rw_fail_memory(err, (size_t)f->n);
    RW_TRY(check_roles(&s, err));
    RW_TRY(refuse_unknown(&s, err));
    RW_TRY(check_heads(&s, err));
    out->arch = s.arch->name;
    memcpy(out->dim, s.shape.dim, sizeof out->dim);
    if (!(out->head_size_divisor > 0)) out->head_size_divisor = 8;
    out->file_dtype = main_dtype(f);
    return RW_OK;
}
