/* The training state: see state.h. */
#include "core/train/state.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/retention.h"
#include "core/checkpoint/weights.h"
#include "core/data/cursor.h"

#include <stdlib.h>
#include <string.h>

#define FORMAT  "rwkv-run training state"
#define VERSION "1"

static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
static const char *const prefixes[] = {"param.", "m.", "v."};
enum { N_KINDS = 3 };

/* -- metadata as text ---------------------------------------------------------------------------------------- */

static void progress_json(const rw_progress *p, rw_str *s) {
    rw_str_appendf(s, "{\"step\":%lld,\"tokens\":%lld,\"updates\":%lld,\"skipped\":%lld,\"skipped_in_row\":%lld,",
                   (long long)p->step, (long long)p->tokens, (long long)p->updates, (long long)p->skipped,
                   (long long)p->skipped_in_row);
    rw_str_appendf(s, "\"epoch_loss_n\":%lld,\"epoch_loss\":", (long long)p->epoch_loss_n);
    rw_json_append_number(s, p->epoch_loss);
    rw_str_append(s, ",\"elapsed\":");
    rw_json_append_number(s, p->elapsed);
    rw_str_append(s, "}");
}

static void pair(rw_str *s, const char *name, const char *value) {
    if (s->len > 1) rw_str_append(s, ",");
    rw_json_append_string(s, name, strlen(name));
    rw_str_append(s, ":");
    rw_json_append_string(s, value, strlen(value));
}

static void choices_json(const rw_plan *plan, rw_str *s) {
    rw_plan_choice choices[RW_PLAN_MAX_CHOICES];
    int n = rw_plan_choices(plan, choices);
    rw_str_append(s, "{");
    for (int i = 0; i < n; i++) pair(s, choices[i].name, choices[i].value);
    rw_str_append(s, "}");
}

static void recipe_json(const rw_recipe *recipe, rw_str *s) {
    rw_recipe_pair pairs[RW_KEY_COUNT];
    int n = recipe ? rw_recipe_pairs(recipe, pairs) : 0;
    rw_str_append(s, "{");
    for (int i = 0; i < n; i++) pair(s, pairs[i].key, pairs[i].value);
    rw_str_append(s, "}");
}

/* -- saving ------------------------------------------------------------------------------------------------------ */

rw_status rw_state_save(const char *path, rw_params *params, const rw_progress *progress, const rw_plan *plan,
                        const rw_recipe *recipe, rw_error *err) {
    rw_str text[4] = {{0}};
    progress_json(progress, &text[0]);
    rw_cursor_append_json(&progress->cursor, &text[1]);
    choices_json(plan, &text[2]);
    recipe_json(recipe, &text[3]);
    rw_weights_list list = {0};
    rw_status status = rw_weights_list_new(&list, params, kinds, prefixes, N_KINDS, RW_DTYPE_NONE, err);
    for (int i = 0; i < 4; i++)
        if (status == RW_OK && text[i].failed) status = rw_fail_memory(err, text[i].len);
    if (status == RW_OK) {
        const char *const metadata[][2] = {{"format", FORMAT},         {"version", VERSION},
                                           {"progress", text[0].data}, {"cursor", text[1].data},
                                           {"choices", text[2].data},  {"recipe", text[3].data}};
        status = rw_safetensors_write(path, list.tensors, list.n, metadata, sizeof metadata / sizeof *metadata, err);
    }
    rw_weights_list_done(&list);
    for (int i = 0; i < 4; i++) rw_str_done(&text[i]);
    return status;
}

/* -- loading --------------------------------------------------------------------------------------------------------
 */

static rw_status metadata_json(const rw_tensor_file *f, const char *path, const char *key, json_t **out,
                               rw_error *err) {
    const char *text = rw_tensor_file_metadata(f, key);
    if (!text)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata '%s' is missing; is this a training state?", key);
    RW_TRY(rw_json_parse(text, strlen(text), RW_AT_FILE(path), out, err));
    if (json_is_object(*out)) return RW_OK;
    json_decref(*out);
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata '%s' is not a JSON object", key);
}

static int64_t count_at(json_t *j, const char *key) {
    return (int64_t)json_integer_value(json_object_get(j, key));
}

/* States written before steps could be skipped do not name the updates: every step was one. */
static rw_status read_progress(const rw_tensor_file *f, const char *path, rw_progress *p, rw_error *err) {
    json_t *j;
    RW_TRY(metadata_json(f, path, "progress", &j, err));
    *p = (rw_progress){.step = count_at(j, "step"),
                       .tokens = count_at(j, "tokens"),
                       .updates = count_at(j, json_object_get(j, "updates") ? "updates" : "step"),
                       .skipped = count_at(j, "skipped"),
                       .skipped_in_row = count_at(j, "skipped_in_row"),
                       .epoch_loss = json_number_value(json_object_get(j, "epoch_loss")),
                       .epoch_loss_n = count_at(j, "epoch_loss_n"),
                       .elapsed = json_number_value(json_object_get(j, "elapsed"))};
    bool fine = json_is_integer(json_object_get(j, "step")) && p->step >= 0 && p->tokens >= 0 && p->epoch_loss_n >= 0 &&
                p->updates >= 0 && p->skipped >= 0 && p->skipped_in_row >= 0;
    json_decref(j);
    if (!fine) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata 'progress' does not say the step");
    const char *cursor = rw_tensor_file_metadata(f, "cursor");
    if (!cursor) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata 'cursor' is missing");
    return rw_cursor_parse_json(&p->cursor, cursor, strlen(cursor), RW_AT_FILE(path), err);
}

rw_status rw_state_load(const char *path, rw_params *params, rw_progress *progress, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    rw_status status = read_progress(f, path, progress, err);
    for (int k = 0; k < N_KINDS && status == RW_OK; k++)
        status = rw_weights_load(params, kinds[k], f, path, prefixes[k], err);
    rw_tensor_file_close(f);
    return status;
}

/* -- may this run go on from it?
 * --------------------------------------------------------------------------------------- */

static rw_status compare_recipe(const rw_recipe *recipe, json_t *saved, int *differ, rw_str *out, rw_error *err) {
    size_t n = json_object_size(saved), i = 0;
    rw_recipe_pair *pairs = rw_alloc_array(n + 1, sizeof *pairs);
    const char *key;
    json_t *value;
    if (!pairs) return rw_fail_memory(err, n * sizeof *pairs);
    json_object_foreach(saved, key, value) {
        if (json_is_string(value)) pairs[i++] = (rw_recipe_pair){key, json_string_value(value)};
    }
    *differ = rw_recipe_differences(recipe, pairs, (int)i, out);
    rw_free(pairs);
    return RW_OK;
}

static int64_t choice_int(json_t *choices, const char *name) {
    const char *text = json_string_value(json_object_get(choices, name));
    return text ? strtoll(text, NULL, 10) : 0;
}

/* What changes the bits of a step and cannot be taken over: device, dtype, BLAS kernels. */
static int compare_choices(const rw_plan *plan, json_t *saved, rw_str *out) {
    static const char *const fixed[] = {"device", "compute", "cpu_kernels"};
    rw_plan_choice choices[RW_PLAN_MAX_CHOICES];
    int n = rw_plan_choices(plan, choices), differ = 0;
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof fixed / sizeof *fixed; k++) {
            const char *was = json_string_value(json_object_get(saved, choices[i].name));
            if (strcmp(choices[i].name, fixed[k]) != 0 || !was || strcmp(was, choices[i].value) == 0) continue;
            rw_str_appendf(out, "%s: was %s, now %s\n", choices[i].name, was, choices[i].value);
            differ++;
        }
    return differ;
}

/* Threads and chunks shape the order of sums: those of the state are used again. */
static rw_status take_over(rw_plan *plan, json_t *choices, rw_device *device, rw_error *err) {
    int64_t threads = choice_int(choices, "threads"), chunk = choice_int(choices, "head_chunk");
    bool changed = chunk > 0 && chunk != plan->train.head_chunk;
    if (threads > 0 && threads <= 1024 && threads != plan->threads) {
        rw_info("uses %lld threads, as the saved run did, for the same bits", (long long)threads);
        plan->threads = device->exec.threads = (int)threads;
        changed = true;
    }
    if (chunk > 0) plan->train.head_chunk = chunk;
    return changed ? rw_plan_measure(plan, device, err) : RW_OK;
}

static rw_status check_state(rw_plan *plan, const rw_recipe *recipe, rw_device *device, const char *path,
                             rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    json_t *saved = NULL, *choices = NULL;
    rw_str differences = {0};
    rw_status status = metadata_json(f, path, "recipe", &saved, err);
    if (status == RW_OK) status = metadata_json(f, path, "choices", &choices, err);
    int keys = 0;
    if (status == RW_OK && recipe) status = compare_recipe(recipe, saved, &keys, &differences, err);
    if (status == RW_OK) {
        bool own_path = strcmp(plan->resume, "auto") != 0;
        int chosen = compare_choices(plan, choices, &differences);
        if (keys > 0 || (chosen > 0 && !own_path))
            status =
                rw_fail(err, RW_E_RECIPE, RW_AT_FILE(path),
                        "this saved run differs from the recipe:\n%sundo that, give another save.proj_dir, or start "
                        "anew with --resume never",
                        differences.data ? differences.data : "");
        else if (chosen > 0)
            rw_warn("goes on with other bits than before:\n%s", differences.data);
    }
    if (status == RW_OK) status = take_over(plan, choices, device, err);
    json_decref(saved);
    json_decref(choices);
    rw_str_done(&differences);
    rw_tensor_file_close(f);
    return status;
}

rw_status rw_resume_find(rw_plan *plan, const rw_recipe *recipe, rw_device *device, char **path, rw_error *err) {
    *path = NULL;
    if (strcmp(plan->resume, "never") == 0) return RW_OK;
    int64_t step;
    if (strcmp(plan->resume, "auto") == 0)
        RW_TRY(rw_checkpoint_latest(plan->save.proj_dir, path, &step, err));
    else if (!(*path = rw_strdup(plan->resume)))
        return rw_fail_memory(err, strlen(plan->resume));
    if (!*path) return RW_OK;
    rw_status status = check_state(plan, recipe, device, *path, err);
    if (status != RW_OK) {
        rw_error_settle(err); /* the path goes */
        rw_free(*path);
        *path = NULL;
    }
    return status;
}
