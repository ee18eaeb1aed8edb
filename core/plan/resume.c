/* What a plan leaves for later runs, and whether it agrees with what an earlier one left. */
#include "core/base/log.h"
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
                {"cpu_kernels", p->cpu_kernels ? p->cpu_kernels : "", 0},
                {"threads", NULL, p->threads},
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

/* -- may this run go on from the saved one? -------------------------------------------------------------------- */

/* What changes the bits of a step and cannot be taken over: device, dtype, BLAS kernels. */
static int compare_choices(const rw_plan *p, const rw_saved_run *saved, rw_str *out) {
    static const char *const fixed[] = {"device", "compute", "cpu_kernels"};
    rw_pair was[3], now[3];
    int n = 0;
    for (int i = 0; i < p->choices.n; i++)
        for (int k = 0; k < 3; k++) {
            const char *before = rw_saved_run_choice(saved, fixed[k]);
            if (!before || strcmp(p->choices.at[i].name, fixed[k]) != 0) continue;
            was[n] = (rw_pair){fixed[k], before};
            now[n++] = p->choices.at[i];
        }
    return rw_recipe_differences(&(rw_pairs){n, was}, &(rw_pairs){n, now}, out);
}

static rw_status refuse(const rw_saved_run *saved, const rw_str *differences, rw_error *err) {
    if (differences->failed) return rw_fail_memory(err, differences->len);
    return rw_fail(err, RW_E_RECIPE, RW_AT_FILE(saved->path),
                   "the saved run differs from the recipe:\n%schange the recipe back, choose another save.proj_dir, or "
                   "start over with --resume never",
                   differences->data);
}

/* Who names a state by its path may move it to another machine. */
rw_status rw_plan_agrees(const rw_plan *p, const rw_saved_run *saved, rw_error *err) {
    if (!saved || !saved->path) return RW_OK;
    rw_str differences = {0};
    rw_status status = RW_OK;
    int keys = rw_recipe_differences(&saved->keys, &p->keys, &differences);
    int chosen = compare_choices(p, saved, &differences);
    if (keys > 0 || (chosen > 0 && !saved->named))
        status = refuse(saved, &differences, err);
    else if (chosen > 0)
        rw_warn("resuming; results will not be bit-identical:\n%s", differences.data ? differences.data : "");
    rw_str_done(&differences);
    return status;
}
