/* Reading what a training state says about its run: see saved_run.h. */
#include "core/checkpoint/saved_run.h"

#include "core/base/alloc.h"
#include "core/checkpoint/metadata_json.h"
#include "core/checkpoint/retention.h"

#include <stdlib.h>
#include <string.h>

rw_status rw_metadata_json(const rw_tensor_file *f, const char *path, const char *key, json_t **out, rw_error *err) {
    const char *text = rw_tensor_file_metadata(f, key);
    if (!text)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata '%s' is missing; is this a training state?", key);
    RW_TRY(rw_json_parse(text, strlen(text), RW_AT_FILE(path), out, err));
    if (json_is_object(*out)) return RW_OK;
    json_decref(*out);
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata '%s' is not a JSON object", key);
}

/* Values that are not strings are left out: the run that wrote them did not mean them to be compared. */
static rw_status copy_pairs(rw_arena *arena, json_t *object, rw_pairs *out, rw_error *err) {
    size_t n = json_object_size(object);
    rw_pair *pairs = rw_arena_alloc(arena, (n + 1) * sizeof *pairs);
    const char *name;
    json_t *value;
    if (!pairs) return rw_fail_memory(err, n * sizeof *pairs);
    *out = (rw_pairs){.at = pairs};
    json_object_foreach(object, name, value) {
        if (!json_is_string(value)) continue;
        rw_pair *pair = &pairs[out->n];
        pair->name = rw_arena_strdup(arena, name);
        pair->value = rw_arena_strdup(arena, json_string_value(value));
        if (!pair->name || !pair->value) return rw_fail_memory(err, strlen(name));
        out->n++;
    }
    return RW_OK;
}

static rw_status read_pairs(rw_saved_run *run, const rw_tensor_file *f, const char *key, rw_pairs *out, rw_error *err) {
    json_t *object;
    RW_TRY(rw_metadata_json(f, run->path, key, &object, err));
    rw_status status = copy_pairs(&run->arena, object, out, err);
    json_decref(object);
    return status;
}

/* A file that tells of no run is told so first: a .pth, and the weights of others, have "format": "pt" or none. */
static rw_status check_identity(const rw_tensor_file *f, const char *path, rw_error *err) {
    const char *format = rw_tensor_file_metadata(f, "format"), *version = rw_tensor_file_metadata(f, "version");
    if (!rw_tensor_file_metadata(f, "recipe")) return RW_OK; /* read_pairs() says it */
    if (!format || strcmp(format, RW_STATE_FORMAT) != 0)
        return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path), "metadata 'format' is '%s', expected '%s'",
                       format ? format : "", RW_STATE_FORMAT);
    if (version && strcmp(version, RW_STATE_VERSION) == 0) return RW_OK;
    return rw_fail(err, RW_E_FORMAT, RW_AT_FILE(path),
                   "a training state of version '%s', and this program knows version %s; resume with the rwkv-run that "
                   "wrote it",
                   version ? version : "", RW_STATE_VERSION);
}

/* -1 when it is not there: loading the state tells what is wrong with it. */
static int64_t step_of(const rw_tensor_file *f, const char *path) {
    json_t *progress;
    rw_error ignored = {0};
    rw_status status = rw_metadata_json(f, path, "progress", &progress, &ignored);
    rw_error_clear(&ignored);
    if (status != RW_OK) return -1;
    const json_t *step = json_object_get(progress, "step");
    int64_t n = json_is_integer(step) ? json_integer_value(step) : -1;
    json_decref(progress);
    return n;
}

static rw_status read_state(rw_saved_run *run, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, run->path, err));
    rw_status status = check_identity(f, run->path, err);
    if (status == RW_OK) status = read_pairs(run, f, "recipe", &run->keys, err);
    if (status == RW_OK) status = read_pairs(run, f, "choices", &run->choices, err);
    run->step = step_of(f, run->path);
    rw_tensor_file_close(f);
    return status;
}

static rw_status find_state(rw_saved_run *run, const char *resume, const char *proj_dir, rw_error *err) {
    int64_t step;
    if (!run->named) return rw_checkpoint_latest(proj_dir, &run->path, &step, err);
    run->path = rw_strdup(resume);
    return run->path ? RW_OK : rw_fail_memory(err, strlen(resume));
}

rw_status rw_saved_run_find(rw_saved_run *run, const char *resume, const char *proj_dir, rw_error *err) {
    *run = (rw_saved_run){.named = strcmp(resume, "auto") != 0, .step = -1};
    if (strcmp(resume, "never") == 0) return RW_OK;
    RW_TRY(find_state(run, resume, proj_dir, err));
    return run->path ? read_state(run, err) : RW_OK;
}

void rw_saved_run_done(rw_saved_run *run) {
    rw_free(run->path);
    rw_arena_done(&run->arena);
    *run = (rw_saved_run){0};
}

const char *rw_saved_run_choice(const rw_saved_run *run, const char *name) {
    for (int i = 0; run && i < run->choices.n; i++)
        if (strcmp(run->choices.at[i].name, name) == 0) return run->choices.at[i].value;
    return NULL;
}

int64_t rw_saved_run_number(const rw_saved_run *run, const char *name) {
    const char *text = rw_saved_run_choice(run, name);
    return text ? strtoll(text, NULL, 10) : 0;
}
