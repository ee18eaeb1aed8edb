/* Shared by the tests of the lua folder: hook files written on the fly, and a trainer to call them with. */
#ifndef RW_TESTS_UNIT_LUA_TEST_H
#define RW_TESTS_UNIT_LUA_TEST_H

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "lua/hooks.h"
#include "tests/unit/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static inline rw_hook_trainer a_trainer(int64_t step) {
    return (rw_hook_trainer){.step = step,
                             .n_steps = 1000,
                             .epoch_steps = 500,
                             .epoch_count = 2,
                             .epoch_save = 1,
                             .ctx_len = 64,
                             .micro_bsz = 4,
                             .accumulate = 1,
                             .real_bsz = 4,
                             .lr_init = 1e-3,
                             .lr_final = 1e-4,
                             .warmup_steps = 10,
                             .weight_decay = 0.1,
                             .weight_decay_final = -1,
                             .schedule = "auto",
                             .log_every = 1,
                             .proj_dir = "output",
                             .name = "test",
                             .arch = "x060"};
}

static inline rw_hook_metrics some_metrics(double loss) {
    return (rw_hook_metrics){.loss = loss,
                             .loss_epoch = loss,
                             .val_loss = NAN,
                             .lr = 1e-3,
                             .tokens_per_second = 12345,
                             .seconds_left = 7380};
}

typedef struct {
    const char *files[4];
    rw_plan_lua plan;
    rw_lua *lua;
    rw_hooks hooks;
    rw_error err;
    char text[1200]; /* of the last error */
} bench;

/* Writes text as a hook file of this name; the path stays valid for the test. */
static inline const char *write_script(const char *name, const char *text) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    rw_error err = {0};
    snprintf(path, 512, "%s", rw_test_path(name));
    assert_int_equal(rw_write_file(path, text, (int64_t)strlen(text), &err), RW_OK);
    return path;
}

/* Opens hooks with up to two files (NULL: none). Fill b->plan before for other limits. */
static inline rw_status open_hooks(bench *b, const char *first, const char *second) {
    b->plan.files = b->files;
    b->plan.n_files = 0;
    if (first) b->files[b->plan.n_files++] = first;
    if (second) b->files[b->plan.n_files++] = second;
    if (b->plan.budget_ms == 0) b->plan.budget_ms = 20000; /* the machine may be busy */
    if (b->plan.memory_bytes == 0) b->plan.memory_bytes = 32 << 20;
    return rw_lua_hooks_open(&b->lua, &b->plan, &b->hooks, &b->err);
}

static inline const char *error_of(bench *b) {
    rw_error_format(&b->err, b->text, sizeof b->text);
    return b->text;
}

static inline void close_hooks(bench *b) {
    rw_lua_hooks_close(b->lua);
    b->lua = NULL;
    rw_error_clear(&b->err);
}

#define assert_contains(text, part)                                                                                    \
    do {                                                                                                               \
        const char *contains_text = (text);                                                                            \
        if (!strstr(contains_text, part)) fail_msg("expected '%s' in: %s", part, contains_text);                       \
    } while (0)

static inline void assert_ok(bench *b, rw_status status) {
    if (status != RW_OK) fail_msg("%s\n%s", error_of(b), b->err.detail ? b->err.detail : "");
}

#endif
