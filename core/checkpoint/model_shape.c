/* First the version, by names that only it has; then the sizes, each from one tensor; then every tensor is compared
 * with model_keys.def, so that nothing is silently left out or made up. */
#include "core/checkpoint/model_shape.h"

#include "core/base/alloc.h"
#include "core/base/str.h"
#include "core/checkpoint/tensor_file_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { X052 = 1, X060 = 2, X070 = 4, ALL = 7 };
typedef enum { TOP, FIRST, BLOCK } key_place;

static const struct {
    int versions;
    key_place place;
    const char *name, *shape;
} keys[] = {
#define RW_MODEL_KEY(versions, place, name, shape) {versions, place, name, shape},
#include "core/checkpoint/model_keys.def"
#undef RW_MODEL_KEY
};
enum { N_KEYS = sizeof keys / sizeof *keys };

typedef struct {
    const rw_tensor_file *f;
    int version;
    int64_t n_layer, n_found;
    int64_t size[128]; /* of the letters of model_keys.def */
    bool *known;       /* [count of the file]; in the arena */
} survey;

static const char *path(const survey *s) {
    return s->f->file.path;
}

/* -- the version -------------------------------------------------------------------------------------- */

static bool any_name_has(const rw_tensor_file *f, const char *part) {
    for (int64_t i = 0; i < f->n; i++)
        if (strstr(f->tensors[i].name, part)) return true;
    return false;
}

static const struct {
    const char *part, *what;
} others[] = {
    {"time_first", "this is RWKV-4 or RWKV-5.0; this program knows x052, x060 and x070"},
    {"lora_A", "this is a LoRA adapter, not a whole model; merge it into its base model first"},
    {"ffnPre.", "trained with pre_ffn (it has tensors 'ffnPre.'), which this program cannot run yet"},
    {"embeddings.weight", "this is a model under the names of Hugging Face; fetch the official .pth of the same model"},
    {"att.time_state",
     "this holds only initial states (time_state), no model; load them together with their base model"},
};

static rw_status fail_version(const survey *s, rw_error *err) {
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (any_name_has(s->f, others[i].part))
            return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)), "%s", rw_message(others[i].what));
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)),
                   "no RWKV model: expected tensors like blocks.0.att.key.weight; the first of %lld here is '%.200s'",
                   (long long)s->f->n, s->f->n ? s->f->tensors[0].name : "");
}

static rw_status find_version(survey *s, rw_error *err) {
    if (rw_tensor_file_find(s->f, "blocks.0.att.r_k") || rw_tensor_file_find(s->f, "blocks.0.att.x_r"))
        s->version = X070;
    else if (rw_tensor_file_find(s->f, "blocks.0.att.time_maa_x") ||
             rw_tensor_file_find(s->f, "blocks.0.att.time_maa_w1"))
        s->version = X060;
    else if (rw_tensor_file_find(s->f, "blocks.0.att.time_faaaa") && !any_name_has(s->f, "time_maa"))
        s->version = X052;
    return s->version ? RW_OK : fail_version(s, err);
}

/* Parts that training flags add to a model. */
static rw_status refuse_additions(const survey *s, rw_error *err) {
    static const struct {
        const char *part, *what;
    } additions[] = {
        {"head_q.weight", "trained with head_qk"},
        {"att.time_state", "trained with train_type states"},
    };
    for (size_t i = 0; i < sizeof additions / sizeof *additions; i++)
        if (any_name_has(s->f, additions[i].part))
            return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)),
                           "%s (it has tensors '%s'), which this program cannot run yet", rw_message(additions[i].what),
                           additions[i].part);
    return RW_OK;
}

/* -- sizes -------------------------------------------------------------------------------------------- */

/* The number after "blocks."; -1 for other names. */
static int64_t block_of(const char *name, const char **rest) {
    if (strncmp(name, "blocks.", 7)) return -1;
    size_t n = strspn(name + 7, "0123456789");
    if (n == 0 || n > 6 || name[7 + n] != '.') return -1;
    *rest = name + 7 + n + 1;
    return strtoll(name + 7, NULL, 10);
}

static rw_status count_layers(survey *s, rw_error *err) {
    const char *rest;
    for (int64_t i = 0; i < s->f->n; i++) {
        int64_t block = block_of(s->f->tensors[i].name, &rest);
        if (block >= s->n_layer) s->n_layer = block + 1;
    }
    if (s->n_layer >= 1 && s->n_layer <= RW_MAX_LAYERS) return RW_OK;
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)), "%lld blocks; expected 1 to %d", (long long)s->n_layer,
                   RW_MAX_LAYERS);
}

static rw_status missing(const survey *s, const char *name, rw_error *err) {
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)), "tensor '%s' is missing; is this the whole model?", name);
}

/* Which dimension of which tensor gives a size; v stands in block 1, because block 0 may lack it. */
static const struct {
    int versions;
    char letter;
    const char *name;
    int dim;
} sources[] = {
    {ALL, 'V', "emb.weight", 0},
    {ALL, 'C', "emb.weight", 1},
    {ALL, 'F', "blocks.0.ffn.key.weight", 0},
    {X052 | X060, 'H', "blocks.0.att.time_faaaa", 0},
    {X052 | X060, 'N', "blocks.0.att.time_faaaa", 1},
    {X060, 'R', "blocks.0.att.time_maa_w2", 1},
    {X060, 'D', "blocks.0.att.time_decay_w1", 1},
    {X070, 'H', "blocks.0.att.r_k", 0},
    {X070, 'N', "blocks.0.att.r_k", 1},
    {X070, 'w', "blocks.0.att.w1", 1},
    {X070, 'a', "blocks.0.att.a1", 1},
    {X070, 'g', "blocks.0.att.g1", 1},
};

static rw_status take_sizes(survey *s, rw_error *err) {
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        if (!(sources[i].versions & s->version)) continue;
        const rw_file_tensor *t = rw_tensor_file_find(s->f, sources[i].name);
        if (!t) return missing(s, sources[i].name, err);
        s->size[(int)sources[i].letter] = sources[i].dim < t->ndim ? t->shape[sources[i].dim] : 0;
    }
    const rw_file_tensor *v = rw_tensor_file_find(s->f, s->n_layer > 1 ? "blocks.1.att.v1" : "blocks.0.att.v1");
    if (v && v->ndim == 2) s->size['v'] = v->shape[1];
    s->size['1'] = 1;
    s->size['5'] = 5;
    s->size['Q'] = 5 * s->size['R'];
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

static rw_status check_tensor(survey *s, const char *name, const char *letters, bool optional, rw_error *err) {
    const rw_file_tensor *t = rw_tensor_file_find(s->f, name);
    int64_t expected[RW_CHECKPOINT_MAX_DIM];
    int ndim = (int)strlen(letters);
    if (!t) return optional ? RW_OK : missing(s, name, err);
    for (int i = 0; i < ndim; i++) expected[i] = s->size[(int)letters[i]];
    if (t->ndim != ndim || memcmp(t->shape, expected, (size_t)ndim * sizeof *expected))
        return fail_shape(s, t, expected, ndim, err);
    if (t->dtype != RW_F32 && t->dtype != RW_BF16 && t->dtype != RW_F16 && t->dtype != RW_F64)
        return rw_fail(err, RW_E_UNSUPPORTED, RW_AT_FILE(path(s)),
                       "tensor '%.200s' is %s: a quantised file; fetch the bf16 or fp16 file of the model", name,
                       rw_dtype_name(t->dtype));
    s->known[t - s->f->tensors] = true;
    s->n_found++;
    return RW_OK;
}

static rw_status check_block(survey *s, int64_t block, rw_error *err) {
    char name[128];
    for (int k = 0; k < N_KEYS; k++) {
        if (!(keys[k].versions & s->version) || keys[k].place == TOP || (keys[k].place == FIRST && block > 0)) continue;
        bool optional = block == 0 && !strncmp(keys[k].name, "att.v", 5) && strlen(keys[k].name) == 6;
        snprintf(name, sizeof name, "blocks.%lld.%s", (long long)block, keys[k].name);
        RW_TRY(check_tensor(s, name, keys[k].shape, optional, err));
    }
    return RW_OK;
}

static rw_status refuse_unknown(const survey *s, rw_error *err) {
    for (int64_t i = 0; i < s->f->n; i++)
        if (!s->known[i])
            return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path(s)),
                           "tensor '%.200s' is unknown (%lld such); a %s model has no place for it",
                           s->f->tensors[i].name, (long long)(s->f->n - s->n_found),
                           s->version == X052   ? "x052"
                           : s->version == X060 ? "x060"
                                                : "x070");
    return RW_OK;
}

static rw_status check_all(survey *s, rw_error *err) {
    for (int k = 0; k < N_KEYS; k++)
        if (keys[k].place == TOP) RW_TRY(check_tensor(s, keys[k].name, keys[k].shape, false, err));
    for (int64_t block = 0; block < s->n_layer; block++) RW_TRY(check_block(s, block, err));
    RW_TRY(refuse_unknown(s, err));
    if (s->size['C'] > 0 && s->size['V'] > 0 && s->size['N'] > 0 && s->size['H'] == s->size['C'] / s->size['N'] &&
        s->size['C'] % s->size['N'] == 0)
        return RW_OK;
    return rw_fail(err, RW_E_SHAPE, RW_AT_FILE(path(s)),
                   "%lld heads of size %lld do not make n_embd %lld (dim_att other than n_embd is not supported)",
                   (long long)s->size['H'], (long long)s->size['N'], (long long)s->size['C']);
}

/* The type that most bytes have. */
static rw_dtype main_dtype(const rw_tensor_file *f) {
    int64_t bytes[RW_DTYPE_COUNT] = {0};
    rw_dtype best = RW_F32;
    for (int64_t i = 0; i < f->n; i++) {
        const rw_file_tensor *t = &f->tensors[i];
        bytes[t->dtype] += rw_shape_bytes(t->shape, t->ndim, t->dtype);
    }
    for (int t = RW_DTYPE_NONE + 1; t < RW_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[best]) best = (rw_dtype)t;
    return best;
}

rw_status rw_model_shape_from_file(const rw_tensor_file *f, rw_plan_model *out, rw_arena *arena, rw_error *err) {
    survey s = {.f = f};
    RW_TRY(find_version(&s, err));
    RW_TRY(refuse_additions(&s, err));
    RW_TRY(count_layers(&s, err));
    RW_TRY(take_sizes(&s, err));
    s.known = rw_arena_alloc(arena, (size_t)f->n);
    if (!s.known) return rw_fail_memory(err, (size_t)f->n);
    RW_TRY(check_all(&s, err));
    out->arch = s.version == X052 ? "x052" : s.version == X060 ? "x060" : "x070";
    out->n_layer = s.n_layer;
    out->n_embd = s.size['C'];
    out->vocab_size = s.size['V'];
    out->head_size = s.size['N'];
    out->n_head = s.size['H'];
    out->dim_ffn = s.size['F'];
    out->lora_mix = s.size['R'];
    out->lora_decay = s.size['D'];
    out->head_size_divisor = 8;
    out->file_dtype = main_dtype(f);
    return RW_OK;
}
