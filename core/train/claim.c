/* The claim of a run on its folder: see claim.h. */
#include "core/train/claim.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/retention.h"
#include "core/hooks/hooks.h"
#include "core/metrics/append.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LARGEST     ((int64_t)256 << 20)
#define HOST_LENGTH 256

/* -- reading the claim ------------------------------------------------------------------------------------- */

/* What .rwkv-run says, line by line; a line that is cut off or no claim is passed over. */
typedef struct {
    rw_claim *claim;
    int64_t process;
    char host[HOST_LENGTH];
} reading;

static rw_status keep_text(char **out, const json_t *value, rw_error *err) {
    char *copy = rw_strdup(json_string_value(value));
    if (!copy) return rw_fail_memory(err, json_string_length(value));
    rw_free(*out);
    *out = copy;
    return RW_OK;
}

static rw_status read_object(reading *r, const json_t *line, rw_error *err) {
    const json_t *recipe = json_object_get(line, "recipe"), *wrote = json_object_get(line, "wrote");
    const json_t *finished = json_object_get(line, "finished"), *process = json_object_get(line, "process");
    const char *host = json_string_value(json_object_get(line, "host"));
    if (json_is_string(wrote)) rw_str_appendf(&r->claim->wrote, "%s\n", json_string_value(wrote));
    if (json_is_integer(finished)) r->claim->finished = json_integer_value(finished);
    if (json_is_integer(process)) r->process = json_integer_value(process);
    if (host) snprintf(r->host, sizeof r->host, "%s", host);
    return json_is_string(recipe) ? keep_text(&r->claim->other, recipe, err) : RW_OK;
}

static rw_status read_line(reading *r, const char *text, size_t n, rw_error *err) {
    json_t *line;
    rw_error why = {0};
    rw_status status = rw_json_parse(text, n, RW_AT_NONE, &line, &why);
    rw_error_clear(&why);
    if (status == RW_E_MEMORY) return rw_fail_memory(err, n);
    if (status != RW_OK) return RW_OK;
    status = read_object(r, line, err);
    json_decref(line);
    return status;
}

static rw_status read_claim(reading *r, rw_error *err) {
    char *path = rw_path_join(r->claim->dir, RW_RUN_MARKER), *text = NULL;
    int64_t size = 0;
    if (!path) return rw_fail_memory(err, 64);
    rw_str_clear(&r->claim->wrote);
    rw_str_append(&r->claim->wrote, "\n");
    r->claim->finished = -1;
    rw_status status = rw_exists(path) ? rw_file_slurp(path, LARGEST, &text, &size, err) : RW_OK;
    rw_error_settle(err); /* the path goes */
    for (char *at = text; status == RW_OK && at && *at; at += strcspn(at, "\n"), at += *at == '\n')
        status = read_line(r, at, strcspn(at, "\n"), err);
    if (status == RW_OK && r->claim->wrote.failed) status = rw_fail_memory(err, (size_t)size);
    rw_free(text);
    rw_free(path);
    return status;
}

/* -- looking ------------------------------------------------------------------------------------------------ */

static rw_status look_at(void *ctx, const char *name, rw_error *err) {
    rw_claim *c = ctx;
    rw_name_kind kind = rw_checkpoint_name(name);
    (void)err;
    bool weights = kind == RW_NAME_PTH, states = kind == RW_NAME_STATE;
    c->n_weights += weights;
    c->n_states += states;
    c->init |= kind == RW_NAME_INIT;
    if (weights || states || (!c->example[0] && kind != RW_NAME_NONE))
        snprintf(c->example, sizeof c->example, "%.63s", name);
    if (kind == RW_NAME_NONE && name[0] != '.') snprintf(c->stranger, sizeof c->stranger, "%.63s", name);
    if (name[0] != '.' && c->kind == RW_FOLDER_EMPTY) c->kind = RW_FOLDER_UNCLAIMED;
    return RW_OK;
}

static rw_status look_inside(rw_claim *c, rw_error *err) {
    reading r = {.claim = c};
    c->kind = RW_FOLDER_EMPTY;
    c->n_weights = c->n_states = 0;
    c->init = false;
    c->example[0] = c->stranger[0] = '\0';
    if (rw_exists(c->dir)) RW_TRY(rw_dir_list(c->dir, look_at, c, err));
    RW_TRY(read_claim(&r, err));
    if (c->other && strcmp(c->other, c->recipe) == 0)
        c->kind = RW_FOLDER_OWN;
    else if (c->other && c->kind != RW_FOLDER_EMPTY && rw_exists(c->other))
        c->kind = RW_FOLDER_OTHER;
    return RW_OK;
}

rw_status rw_claim_look(rw_claim *c, const char *dir, const char *recipe, rw_error *err) {
    char real[PATH_MAX];
    *c = (rw_claim){.fd = -1, .finished = -1};
    c->dir = rw_strdup(dir);
    c->recipe = rw_strdup(realpath(recipe, real) ? real : recipe);
    if (!c->dir || !c->recipe) return rw_fail_memory(err, strlen(dir) + strlen(recipe));
    return look_inside(c, err);
}

/* -- the lock ------------------------------------------------------------------------------------------------- */

static rw_status in_use(rw_claim *c, rw_error *err) {
    reading r = {.claim = c, .host = "?"};
    RW_TRY(read_claim(&r, err));
    return rw_fail(
        err, RW_E_USAGE, RW_AT_NONE,
        "%s: another run writes into this folder (process %lld on %s): wait until it ends, or choose another "
        "save.proj_dir",
        c->dir, (long long)r.process, r.host);
}

/* Some network file systems have no locks. */
static rw_status lock_file(rw_claim *c, rw_error *err) {
    if (flock(c->fd, LOCK_EX | LOCK_NB) == 0) return RW_OK;
    if (errno == EWOULDBLOCK) return in_use(c, err);
    rw_warn("%s is on a file system without locks; do not start a second run in it", c->dir);
    return RW_OK;
}

static rw_status open_file(rw_claim *c, rw_error *err) {
    char *path;
    if (c->fd >= 0) return RW_OK;
    RW_TRY(rw_append_open(&c->fd, &path, c->dir, RW_RUN_MARKER, err));
    rw_free(path);
    rw_status status = lock_file(c, err);
    if (status == RW_OK) return RW_OK;
    close(c->fd);
    c->fd = -1;
    return status;
}

rw_status rw_claim_lock(rw_claim *c, rw_error *err) {
    if (!c->other) return RW_OK;
    RW_TRY(open_file(c, err));
    return look_inside(c, err); /* whoever held the lock before may have written */
}

/* -- moving away ---------------------------------------------------------------------------------------------- */

/* The dated subfolder; one a second is enough. */
static rw_status old_folder(const rw_folder *f, char name[64], rw_error *err) {
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(name, 64, "old-%Y-%m-%d-%H%M%S", &tm);
    return rw_folder_mkdir(f, name, err);
}

static rw_status move(const rw_folder *f, const char *name, const char *into, rw_error *err) {
    char to[512];
    snprintf(to, sizeof to, "%s/%s", into, name);
    return rw_folder_rename(f, name, to, err);
}

typedef struct {
    rw_claim *claim;
    const rw_folder *folder;
    char into[64];
    int n;
} moving;

/* A folder that runs claimed is theirs with all that is in it. */
static bool goes(const moving *m, const char *name) {
    bool folder = strcmp(name, RW_SCRIPTS_FOLDER) == 0;
    return folder ? rw_claim_wrote(m->claim, name) : rw_checkpoint_name(name) != RW_NAME_NONE;
}

static rw_status move_one(void *ctx, const char *name, rw_error *err) {
    moving *m = ctx;
    if (!goes(m, name)) return RW_OK;
    if (m->n++ == 0) RW_TRY(old_folder(m->folder, m->into, err));
    return move(m->folder, name, m->into, err);
}

static rw_status move_all(rw_claim *c, const rw_folder *f, rw_error *err) {
    moving m = {.claim = c, .folder = f};
    RW_TRY(rw_dir_list(c->dir, move_one, &m, err));
    if (m.n > 0) rw_info("moved %d files of earlier runs into %s/%s", m.n, c->dir, m.into);
    return RW_OK;
}

/* -- taking --------------------------------------------------------------------------------------------------- */

static rw_status add_line(rw_claim *c, rw_str *line, rw_error *err) {
    rw_str_append(line, "}\n");
    rw_status status =
        line->failed ? rw_fail_memory(err, line->len) : rw_append(c->fd, RW_RUN_MARKER, line->data, line->len, err);
    rw_str_done(line);
    return status;
}

static rw_status add_text(rw_claim *c, const char *key, const char *text, rw_error *err) {
    rw_str line = {0};
    rw_str_appendf(&line, "{\"%s\":", key);
    rw_json_append_string(&line, text, strlen(text));
    return add_line(c, &line, err);
}

static rw_status add_process(rw_claim *c, rw_error *err) {
    char host[HOST_LENGTH] = "?";
    rw_str line = {0};
    gethostname(host, sizeof host - 1);
    rw_str_appendf(&line, "{\"process\":%lld,\"host\":", (long long)getpid());
    rw_json_append_string(&line, host, strlen(host));
    return add_line(c, &line, err);
}

static rw_status note(rw_claim *c, const char *name, rw_error *err) {
    if (rw_claim_wrote(c, name)) return RW_OK;
    RW_TRY(add_text(c, "wrote", name, err));
    rw_str_appendf(&c->wrote, "%s\n", name);
    return c->wrote.failed ? rw_fail_memory(err, strlen(name)) : RW_OK;
}

static rw_status adopt_one(void *ctx, const char *name, rw_error *err) {
    return rw_checkpoint_name(name) == RW_NAME_NONE ? RW_OK : note(ctx, name, err);
}

static rw_status changed_meanwhile(const rw_claim *c, rw_error *err) {
    return rw_fail(err, RW_E_USAGE, RW_AT_NONE, "%s: another run began in this folder just now; start again", c->dir);
}

/* With the lock: what was seen without it may be out of date. */
static rw_status lock_new(rw_claim *c, rw_error *err) {
    rw_claim was = *c;
    if (c->fd >= 0) return RW_OK;
    RW_TRY(rw_mkdir_all(c->dir, err));
    RW_TRY(open_file(c, err));
    RW_TRY(look_inside(c, err));
    bool same = c->kind == was.kind && c->n_weights == was.n_weights && c->n_states == was.n_states;
    return same ? RW_OK : changed_meanwhile(c, err);
}

static rw_status move_old(rw_claim *c, rw_error *err) {
    rw_folder f;
    RW_TRY(rw_folder_open(&f, c->dir, err));
    rw_status status = move_all(c, &f, err);
    rw_folder_close(&f);
    return status;
}

rw_status rw_claim_take(rw_claim *c, bool restart, bool adopt, rw_error *err) {
    RW_TRY(lock_new(c, err));
    if (restart) RW_TRY(move_old(c, err));
    if (!c->other || strcmp(c->other, c->recipe) != 0) RW_TRY(add_text(c, "recipe", c->recipe, err));
    RW_TRY(add_process(c, err));
    return adopt ? rw_dir_list(c->dir, adopt_one, c, err) : RW_OK;
}

/* -- files of the run ------------------------------------------------------------------------------------------ */

bool rw_claim_wrote(void *claim, const char *name) {
    const rw_claim *c = claim;
    char line[300];
    if (!c) return true;
    snprintf(line, sizeof line, "\n%.290s\n", name);
    return c->wrote.data && strstr(c->wrote.data, line);
}

static rw_status move_aside(rw_claim *c, const char *name, rw_error *err) {
    rw_folder f;
    char into[64];
    RW_TRY(rw_folder_open(&f, c->dir, err));
    rw_status status = old_folder(&f, into, err);
    if (status == RW_OK) status = move(&f, name, into, err);
    rw_folder_close(&f);
    if (status == RW_OK) rw_warn("%s/%s is not of this run; it is now in %s/%s", c->dir, name, c->dir, into);
    return status;
}

rw_status rw_claim_file(rw_claim *c, const char *name, rw_error *err) {
    if (rw_claim_wrote(c, name)) return RW_OK;
    char *path = rw_path_join(c->dir, name);
    if (!path) return rw_fail_memory(err, strlen(name));
    bool there = rw_exists(path);
    rw_free(path);
    if (there) RW_TRY(move_aside(c, name, err));
    return note(c, name, err);
}

rw_status rw_claim_folder(rw_claim *c, const char *name, rw_error *err) {
    char *path = rw_path_join(c ? c->dir : "", name);
    if (!path) return rw_fail_memory(err, strlen(name));
    bool there = rw_exists(path);
    rw_free(path);
    return there || !c ? RW_OK : note(c, name, err);
}

rw_status rw_claim_finish(rw_claim *c, int64_t steps, rw_error *err) {
    rw_str line = {0};
    if (!c) return RW_OK;
    rw_str_appendf(&line, "{\"finished\":%lld", (long long)steps);
    return add_line(c, &line, err);
}

void rw_claim_close(rw_claim *c) {
    if (c->dir && c->fd >= 0) close(c->fd); /* zero was never opened: its fd 0 is not ours */
    rw_free(c->dir);
    rw_free(c->recipe);
    rw_free(c->other);
    rw_str_done(&c->wrote);
    *c = (rw_claim){.fd = -1};
}
