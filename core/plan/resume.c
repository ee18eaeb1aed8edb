/* What a plan leaves for later runs, and how it differs from what an earlier one left. */
#include "core/plan/plan_internal.h"

#include <string.h>

/* -- what this plan decided ------------------------------------------------------------------------------------ */

rw_status rw_plan_note_choices(rw_plan *p, const rw_recipe *recipe, rw_arena *arena, rw_error *err) {
    const struct {
        const char *name, *text; /* text NULL: a number */
        int64_t number;
    } rows[] = {{"device", rw_choice_word(RW_KEY_top_device, p->device), 0},
                {"compute", rw_dtype_name(p->train.compute), 0},
                {"optim_form", rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form), 0},
                {p->device == RW_ON_CUDA ? "gpu" : "cpu_kernels", p->device_name ? p->device_name : "", 0},
                {"threads", NULL, p->threads},
                {"micro_bsz", NULL, p->train.micro_bsz},
                {"head_chunk", NULL, p->train.head_chunk},
                {"checkpoint", rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint), 0},
                {"step_arena_bytes", NULL, p->needs.arena_bytes},
                {"save_dtype", rw_dtype_name(p->save.dtype), 0}};
    enum { N = sizeof rows / sizeof *rows };
    rw_pair *pairs = rw_arena_alloc(arena, sizeof *pairs * N);
    for (int i = 0; pairs && i < N; i++) {
        const char *text = rows[i].text ? rw_arena_strdup(arena, rows[i].text)
                                        : rw_arena_printf(arena, "%lld", (long long)rows[i].number);
        if (!text) return rw_fail_memory(err, sizeof *pairs);
        pairs[i] = (rw_pair){rows[i].name, text};
    }
    if (!pairs) return rw_fail_memory(err, sizeof *pairs * N);
    p->choices = (rw_pairs){N, pairs};
    return rw_recipe_pairs(recipe, p, arena, &p->keys, err);
}

/* -- is this the run that was saved? --------------------------------------------------------------------------- */

/* What changes the bits of a step and cannot be taken over: device, dtype, which GPU, BLAS kernels. */
static int compare_choices(const rw_plan *p, const rw_saved_run *saved, rw_str *out) {
    static const char *const fixed[] = {"device", "compute", "cpu_kernels", "gpu"};
    enum { N = sizeof fixed / sizeof *fixed };
    rw_pair was[N], now[N];
    int n = 0;
    for (int i = 0; i < p->choices.n; i++)
        for (int k = 0; k < N; k++) {
            const char *before = rw_saved_run_choice(saved, fixed[k]);
            if (!before || strcmp(p->choices.at[i].name, fixed[k]) != 0) continue;
            was[n] = (rw_pair){fixed[k], before};
            now[n++] = p->choices.at[i];
        }
    return rw_recipe_differences(&(rw_pairs){n, was}, &(rw_pairs){n, now}, out);
}

/* Whether the tensors of the saved state are no longer those of the model: any size of it, or what learns. */
static bool shapes_tensors(const char *key) {
    static const char *const others[] = {"model.load_model", "model.load_partial", "model.load_state", "model.init",
                                         "model.head_size_divisor"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(key, others[i]) == 0) return false;
    return strncmp(key, "model.", 6) == 0 || strcmp(key, "train.train_type") == 0;
}

static bool other_tensors(const rw_pairs *was, const rw_pairs *now) {
    for (int i = 0; i < now->n; i++)
        for (int k = 0; k < was->n; k++)
            if (strcmp(now->at[i].name, was->at[k].name) == 0 && shapes_tensors(now->at[i].name) &&
                strcmp(now->at[i].value, was->at[k].value) != 0)
                return true;
    return false;
}

rw_status rw_plan_compare(const rw_plan *p, const rw_saved_run *saved, rw_plan_difference *d, rw_error *err) {
    *d = (rw_plan_difference){0};
    if (!saved->path) return RW_OK;
    d->keys = rw_recipe_differences(&saved->keys, &p->keys, &d->text);
    d->choices = compare_choices(p, saved, &d->text);
    d->tensors = other_tensors(&saved->keys, &p->keys);
    return d->text.failed ? rw_fail_memory(err, d->text.len) : RW_OK;
}
