/* What the recipe leaves open so that a run fits into the memory of its device: how weights are stored, what the
 * backward pass makes again, how many sequences go through at a time.
 *
 * Each candidate is measured on the meta device, in the order of preference: the form that loses nothing first, then
 * nothing made again, then large micro batches. Small ones starve a GPU, so a form or level further down is preferred
 * to micro batches of fewer than ENOUGH_ROWS. On a CPU nothing is searched: fp32, everything kept. */
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/plan/plan_internal.h"

#define ENOUGH_ROWS 4096

typedef struct {
    rw_plan *p;
    const rw_device *device;
    const rw_recipe *recipe;
    const rw_saved_run *saved;
    int64_t limit;   /* 0: none */
    bool head_given; /* head_chunk is the recipe's or a saved run's */
} chooser;

/* -- chunks of the head ---------------------------------------------------------------------------------------- */

/* Logits at a time: on a CPU wider chunks win nothing, on a GPU each chunk reads and writes the head's gradient. */
static int64_t head_bytes(const rw_plan *p) {
    int64_t part = p->needs.device_limit / 32;
    return part > (int64_t)128 << 20 ? part : (int64_t)128 << 20;
}

int64_t rw_plan_head_chunk(const rw_plan *p) {
    int64_t rows = p->train.micro_bsz * p->train.ctx_len,
            width = p->train.compute ? rw_dtype_bytes(p->train.compute) : 4;
    int64_t fit = head_bytes(p) / (p->model.vocab_size * width) / 64 * 64;
    if (fit < 64) fit = 64;
    int64_t n_chunks = (rows + fit - 1) / fit, each = (rows + n_chunks - 1) / n_chunks;
    return each < rows ? (each + 63) / 64 * 64 : rows;
}

/* Chunks shape the order of sums: a saved run's is used again. */
static bool head_is_given(rw_plan *p, const rw_saved_run *saved) {
    int64_t before = rw_saved_run_number(saved, "head_chunk");
    if (p->train.head_chunk == 0 && before > 0) p->train.head_chunk = before;
    return p->train.head_chunk > 0;
}

/* -- a candidate ------------------------------------------------------------------------------------------------ */

static void set_micro_bsz(chooser *c, int64_t micro_bsz) {
    rw_plan_train *t = &c->p->train;
    t->micro_bsz = micro_bsz;
    if (t->batch_size > 0) t->accumulate = t->batch_size / micro_bsz;
    if (!c->head_given) t->head_chunk = rw_plan_head_chunk(c->p);
    rw_plan_share_sizes(c->p);
}

static rw_status fits(chooser *c, bool *yes, rw_error *err) {
    int64_t n_bytes;
    RW_TRY(rw_plan_device_bytes(c->p, c->device, &n_bytes, err));
    *yes = c->limit == 0 || n_bytes <= c->limit;
    return RW_OK;
}

/* The largest micro batch of at least `least` rows that fits, for the form and level that are set; 0: none. */
static rw_status largest_micro_bsz(chooser *c, int64_t least, int64_t *found, rw_error *err) {
    int64_t batch = c->p->train.batch_size, ctx_len = c->p->train.ctx_len;
    *found = 0;
    for (int64_t parts = 1; parts <= batch; parts++) {
        bool yes;
        if (batch % parts || (batch / parts * ctx_len < least && parts > 1)) continue;
        set_micro_bsz(c, batch / parts);
        RW_TRY(fits(c, &yes, err));
        if (!yes) continue;
        *found = batch / parts;
        break;
    }
    return RW_OK;
}

static rw_status try_candidate(chooser *c, int64_t least, bool *yes, rw_error *err) {
    int64_t micro_bsz = c->p->train.micro_bsz;
    if (c->p->train.choose_micro_bsz) {
        RW_TRY(largest_micro_bsz(c, least, &micro_bsz, err));
        *yes = micro_bsz > 0;
        return RW_OK;
    }
    set_micro_bsz(c, micro_bsz);
    return fits(c, yes, err);
}

/* -- the search ------------------------------------------------------------------------------------------------- */

static const rw_optim_form_choice narrow_forms[] = {RW_FORM_A16, RW_FORM_B12, RW_FORM_B8};
static const rw_checkpoint_choice levels[] = {RW_CHECKPOINT_NONE, RW_CHECKPOINT_MIX, RW_CHECKPOINT_FFN,
                                              RW_CHECKPOINT_BLOCK};
enum { N_FORMS = sizeof narrow_forms / sizeof *narrow_forms, N_LEVELS = sizeof levels / sizeof *levels };

/* Random rounding is made for bf16, so fp16 has one form. */
static int forms_of(const rw_plan *p, rw_optim_form_choice asked, rw_optim_form_choice forms[N_FORMS]) {
    forms[0] = asked;
    if (asked != RW_FORM_AUTO) return 1;
    forms[0] = p->train.compute == RW_F32 ? RW_FORM_FP32 : RW_FORM_A16;
    if (p->train.compute != RW_BF16) return 1;
    for (int i = 0; i < N_FORMS; i++) forms[i] = narrow_forms[i];
    return N_FORMS;
}

static int levels_of(rw_checkpoint_choice asked, rw_checkpoint_choice out[N_LEVELS]) {
    out[0] = asked;
    if (asked != RW_CHECKPOINT_AUTO) return 1;
    for (int i = 0; i < N_LEVELS; i++) out[i] = levels[i];
    return N_LEVELS;
}

static rw_status search(chooser *c, int64_t least, bool *found, rw_error *err) {
    static rw_optim_form_choice forms[N_FORMS];
    static rw_checkpoint_choice wanted[N_LEVELS];
    rw_plan_train *t = &c->p->train;
    const rw_optim_form_choice form = t->optim_form;
    const rw_checkpoint_choice level = t->checkpoint;
    const int n_forms = forms_of(c->p, form, forms), n_levels = levels_of(level, wanted);
    *found = false;
    for (int f = 0; f < n_forms; f++)
        for (int l = 0; l < n_levels && !*found; l++) {
            t->optim_form = forms[f];
            t->checkpoint = wanted[l];
            RW_TRY(try_candidate(c, least, found, err));
            if (*found) return RW_OK;
        }
    t->optim_form = form;
    t->checkpoint = level;
    return RW_OK;
}

/* What is asked for when nothing fits: the smallest there is, so that the message shows how far it is. */
static void take_smallest(chooser *c) {
    rw_optim_form_choice forms[N_FORMS];
    rw_checkpoint_choice wanted[N_LEVELS];
    rw_plan_train *t = &c->p->train;
    t->optim_form = forms[forms_of(c->p, t->optim_form, forms) - 1];
    t->checkpoint = wanted[levels_of(t->checkpoint, wanted) - 1];
    set_micro_bsz(c, t->choose_micro_bsz ? 1 : t->micro_bsz);
}

/* -- a saved run has decided already ------------------------------------------------------------------------------ */

static void as_before(rw_plan *p, const rw_saved_run *saved) {
    const char *form = rw_saved_run_choice(saved, "optim_form"), *level = rw_saved_run_choice(saved, "checkpoint");
    int f = form ? rw_choice_find(RW_KEY_train_optim_form, form) : -1;
    int l = level ? rw_choice_find(RW_KEY_train_checkpoint, level) : -1;
    if (p->train.optim_form == RW_FORM_AUTO && f > RW_FORM_AUTO) p->train.optim_form = (rw_optim_form_choice)f;
    if (p->train.checkpoint == RW_CHECKPOINT_AUTO && l >= 0 && l != RW_CHECKPOINT_AUTO)
        p->train.checkpoint = (rw_checkpoint_choice)l;
}

/* -- all of it ------------------------------------------------------------------------------------------------- */

static rw_status form_suits(const rw_plan *p, const rw_recipe *r, rw_error *err) {
    const rw_optim_form_choice form = p->train.optim_form;
    const char *word = rw_choice_word(RW_KEY_train_optim_form, form);
    rw_where at = rw_recipe_where(r, RW_KEY_train_optim_form);
    if (p->train.compute == RW_F16 && form != RW_FORM_AUTO && form != RW_FORM_A16)
        return rw_fail(err, RW_E_RECIPE, at, "'%s' does not go with precision fp16; write a16 or auto", word);
    if (p->train.compute == RW_BF16 && form == RW_FORM_FP32)
        return rw_fail(err, RW_E_RECIPE, at,
                       "'%s' does not go with precision bf16; write a16, or train.precision: fp32", word);
    return RW_OK;
}

static int64_t limit_of(const rw_plan *p, const rw_device *d) {
    int64_t limit = d->memory_bytes;
    if (limit > 0 && p->device_memory > 0 && p->device_memory < limit) limit = p->device_memory;
    return limit;
}

static bool left_open(const rw_plan *p) {
    return p->train.optim_form == RW_FORM_AUTO || p->train.checkpoint == RW_CHECKPOINT_AUTO ||
           p->train.choose_micro_bsz;
}

rw_status rw_plan_decide_memory(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, const rw_device *device,
                                rw_error *err) {
    bool found = false;
    p->needs.device_limit = limit_of(p, device);
    if (p->save.dtype == RW_DTYPE_NONE && *rw_dtype_torch_storage(p->model.file_dtype))
        p->save.dtype = p->model.file_dtype;
    if (p->save.dtype == RW_DTYPE_NONE) p->save.dtype = p->device == RW_ON_CUDA ? RW_BF16 : RW_F32;
    RW_TRY(form_suits(p, r, err));
    as_before(p, saved);
    chooser c = {p, device, r, saved, p->needs.device_limit, head_is_given(p, saved)};
    const bool open = left_open(p);
    RW_TRY(search(&c, ENOUGH_ROWS, &found, err));
    if (!found) RW_TRY(search(&c, 0, &found, err));
    if (!found) take_smallest(&c); /* rw_plan_fits() says it */
    if (open && p->device == RW_ON_CUDA)
        rw_info("for %lld MiB of GPU memory: train.optim_form=%s train.checkpoint=%s train.micro_bsz=%lld",
                (long long)(c.limit >> 20), rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form),
                rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint), (long long)p->train.micro_bsz);
    return RW_OK;
}
