/* The training state: see state.h. */
#include "core/train/training_state.h"

#include "core/base/alloc.h"
#include "core/base/json.h"
#include "core/checkpoint/metadata_json.h"
#include "core/checkpoint/saved_run.h"
#include "core/checkpoint/weights.h"
#include "core/data/cursor.h"

#include <math.h>
#include <string.h>

static const rw_param_kind kinds[] = {RW_PARAM_VALUE, RW_PARAM_M, RW_PARAM_V};
static const char *const prefixes[] = {"param.", "m.", "v."};
enum { N_KINDS = 3 };

/* -- metadata as text ---------------------------------------------------------------------------------------- */

static void progress_json(const rw_progress *p, rw_str *s) {
    rw_str_appendf(s, "{\"step\":%lld,\"tokens\":%lld,\"updates\":%lld,\"skipped\":%lld,\"skipped_in_row\":%lld,",
                   (long long)p->step, (long long)p->tokens, (long long)p->updates, (long long)p->skipped,
                   (long long)p->skipped_in_row);
    if (p->loss_scale != 0)
        rw_str_appendf(s, "\"loss_scale\":%.17g,\"good_steps\":%lld,", p->loss_scale, (long long)p->good_steps);
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

static void pairs_json(const rw_pairs *pairs, rw_str *s) {
    rw_str_append(s, "{");
    for (int i = 0; i < pairs->n; i++) pair(s, pairs->at[i].name, pairs->at[i].value);
    rw_str_append(s, "}");
}

/* -- saving ------------------------------------------------------------------------------------------------------ */

/* Those that are there. */
static int optional_entries(const rw_progress *p, const char *device_choices, const char *(*to)[2]) {
    int n = 0;
    if (p->memory) to[n][0] = "hooks", to[n++][1] = p->memory;
    if (device_choices) to[n][0] = "device_choices", to[n++][1] = device_choices;
    return n;
}

rw_status rw_training_state_save(const char *path, rw_params *params, const rw_progress *progress, const rw_plan *plan,
                                 const char *device_choices, rw_error *err) {
    rw_str text[4] = {{0}};
    progress_json(progress, &text[0]);
    rw_cursor_append_json(&progress->cursor, &text[1]);
    pairs_json(&plan->choices, &text[2]);
    pairs_json(&plan->keys, &text[3]);
    rw_weights_list list = {0};
    rw_status status = rw_weights_list_new(&list, params, kinds, prefixes, N_KINDS, RW_DTYPE_NONE, err);
    for (int i = 0; i < 4; i++)
        if (status == RW_OK && text[i].failed) status = rw_fail_memory(err, text[i].len);
    if (status == RW_OK) {
        enum { ALWAYS = 6 };
        const char *metadata[ALWAYS + 2][2] = {{"format", RW_STATE_FORMAT}, {"version", RW_STATE_VERSION},
                                               {"progress", text[0].data},  {"cursor", text[1].data},
                                               {"choices", text[2].data},   {"recipe", text[3].data}};
        const int n = ALWAYS + optional_entries(progress, device_choices, &metadata[ALWAYS]);
        status = rw_safetensors_write(path, list.tensors, list.n, metadata, n, err);
    }
    rw_weights_list_done(&list);
    for (int i = 0; i < 4; i++) rw_str_done(&text[i]);
    return status;
}

/* -- loading --------------------------------------------------------------------------------------------------------
 */

static int64_t count_at(json_t *j, const char *key) {
    return (int64_t)json_integer_value(json_object_get(j, key));
}

/* Far above what any run counts, and sums of them do not overflow. */
static bool is_count(int64_t n) {
    return n >= 0 && n < INT64_C(1) << 61;
}

/* 0, or a power of two that fp32 holds. */
static bool is_scale(double x) {
    int exponent;
    return x == 0 || (x >= 1 && x <= 0x1p100 && frexp(x, &exponent) == 0.5);
}

/* States written before steps could be skipped do not name the updates: every step was one. */
static rw_status read_progress(const rw_tensor_file *f, const char *path, rw_progress *p, rw_error *err) {
    json_t *j;
    RW_TRY(rw_metadata_json(f, path, "progress", &j, err));
    *p = (rw_progress){.step = count_at(j, "step"),
                       .tokens = count_at(j, "tokens"),
                       .updates = count_at(j, json_object_get(j, "updates") ? "updates" : "step"),
                       .skipped = count_at(j, "skipped"),
                       .skipped_in_row = count_at(j, "skipped_in_row"),
                       .loss_scale = json_number_value(json_object_get(j, "loss_scale")),
                       .good_steps = count_at(j, "good_steps"),
                       .epoch_loss = json_number_value(json_object_get(j, "epoch_loss")),
                       .epoch_loss_n = count_at(j, "epoch_loss_n"),
                       .elapsed = json_number_value(json_object_get(j, "elapsed"))};
    bool fine = json_is_integer(json_object_get(j, "step")) && is_count(p->step) && is_count(p->tokens) &&
                is_count(p->epoch_loss_n) && is_count(p->updates) && is_count(p->skipped) &&
                is_count(p->skipped_in_row) && is_count(p->good_steps) && is_scale(p->loss_scale);
    json_decref(j);
    if (!fine) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata 'progress' has no valid step");
    const char *cursor = rw_tensor_file_metadata(f, "cursor");
    if (!cursor) return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata 'cursor' is missing");
    return rw_cursor_parse_json(&p->cursor, cursor, strlen(cursor), RW_AT_FILE(path), err);
}

rw_status rw_training_state_text(const char *path, const char *entry, rw_str *text, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    const char *value = rw_tensor_file_metadata(f, entry);
    if (value) rw_str_append(text, value);
    rw_tensor_file_close(f);
    return text->failed ? rw_fail_memory(err, text->len) : RW_OK;
}

rw_status rw_training_state_load(const char *path, rw_params *params, rw_progress *progress, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    rw_status status = read_progress(f, path, progress, err);
    for (int k = 0; k < N_KINDS && status == RW_OK; k++)
        status = rw_weights_load(params, kinds[k], f, path, prefixes[k], err);
    rw_tensor_file_close(f);
    return status;
}
