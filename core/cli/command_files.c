/* rwkv-run inspect FILE, rwkv-run tokenize IN.jsonl OUT_PREFIX, rwkv-run lua SCRIPT. */
#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/printable.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/inspect.h"
#include "core/cli/commands.h"
#include "core/cli/progress.h"
#include "core/data/binidx.h"
#include "core/data/id_scan.h"
#include "core/data/tokenize.h"
#include "core/data/tokenizer.h"
#include "core/train/signals.h"
#include "lua/open.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* -- inspect ---------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool show_scan(void *ctx, int64_t done, int64_t total) {
    rw_progress_show(ctx, done, total);
    return true;
}

/* The ids themselves are read for the largest: that tells whether a model can be trained on them. */
static rw_status inspect_binidx(const char *path, rw_error *err) {
    const int64_t any = INT64_C(1) << 31; /* vocab_size: only negative ids are refused */
    int fd;
    rw_binidx_info info;
    char a[32], b[32], shown[1024];
    RW_TRY(rw_binidx_open(&fd, &info, path, err));
    rw_printable(shown, sizeof shown, path);
    printf(rw_message("%s: binidx, %s tokens in %s documents, %s\n"), shown,
           rw_format_count(a, sizeof a, info.n_tokens), rw_format_count(b, sizeof b, info.n_documents),
           info.dtype_code == RW_BINIDX_U16 ? "uint16" : "int32");
    fflush(stdout);
    int64_t largest;
    rw_source ids = {.file = path, .vocab_size = any, .fd = fd, .id_bytes = info.id_bytes};
    ids.n_tokens = info.n_tokens;
    ids.n_bytes = info.n_bytes;
    rw_progress_line line = rw_progress_begin();
    rw_status status = rw_id_scan(&ids, &largest, show_scan, &line, err);
    rw_progress_end(&line);
    rw_source_close(&ids);
    if (status == RW_OK && info.n_tokens > 0)
        printf(rw_message("  largest id: %lld; model.vocab_size must be above it\n"), (long long)largest);
    return status;
}

rw_status rw_command_inspect(const rw_options *o, rw_error *err) {
    const char *path = o->inspect.file;
    if (ends_with(path, ".bin") || ends_with(path, ".idx")) return inspect_binidx(path, err);
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    rw_str text = {0};
    rw_status status = rw_inspect_print(f, &text, err);
    if (status == RW_OK && o->inspect.verify) status = rw_inspect_verify(f, &text, err);
    if (status == RW_OK) fwrite(text.data, 1, text.len, stdout);
    rw_str_done(&text);
    rw_tensor_file_close(f);
    return status;
}

/* -- tokenize ----------------------------------------------------------------------------------------------------- */

static rw_status show_progress(void *ctx, const rw_tokenize_progress *p, rw_error *err) {
    (void)err;
    rw_progress_show(ctx, p->n_bytes, p->n_bytes_total);
    return RW_OK;
}

static void say_tokenized(const char *path, const char *suffix, const rw_tokenize_progress *done) {
    char a[32], b[32], prefix[1024];
    rw_printable(prefix, sizeof prefix, path);
    printf(rw_message("wrote %s%s.bin and .idx: %s tokens in %s documents\n"), prefix, suffix,
           rw_format_count(a, sizeof a, done->n_tokens), rw_format_count(b, sizeof b, done->n_documents));
    if (done->n_dropped > 0) printf(rw_message("%lld empty documents left out\n"), (long long)done->n_dropped);
    printf(rw_message("in a recipe:  data: { data_type: binidx, data_file: %s%s }\n"), prefix, suffix);
}

rw_status rw_command_tokenize(const rw_options *o, rw_error *err) {
    char *vocab = NULL;
    rw_tokenizer_choice kind = RW_TOKENIZER_WORLD;
    if (o->tokenizer) kind = (rw_tokenizer_choice)rw_choice_find(RW_KEY_data_tokenizer, o->tokenizer);
    if (kind == RW_TOKENIZER_WORLD) RW_TRY(rw_vocab_find(o->vocab_file, NULL, &vocab, err));
    rw_tokenize_options options = {.tokenizer = kind, .vocab_file = vocab, .force = o->tokenize.force};
    bool tutorial = o->tokenize.dtype && strcmp(o->tokenize.dtype, "int32") == 0;
    options.layout = tutorial ? RW_LAYOUT_PREPROCESS : RW_LAYOUT_MAKE_DATA;
    if (o->tokenize.by_name && !o->tokenize.append_eod) rw_info("id 0 ends each document, as with --append-eod");
    rw_signals_catch(rw_message("stopped; the temporary files are removed"), 128 + SIGINT);
    rw_progress_line line = rw_progress_begin();
    rw_tokenize_progress done;
    rw_status status =
        rw_tokenize_file(o->tokenize.input, o->tokenize.output, &options, show_progress, &line, &done, err);
    rw_progress_end(&line);
    rw_signals_release();
    if (status != RW_OK) rw_error_settle(err);
    rw_free(vocab);
    RW_TRY(status);
    say_tokenized(o->tokenize.output, tutorial ? "_text_document" : "", &done);
    return RW_OK;
}

/* -- lua ---------------------------------------------------------------------------------------------------------- */

rw_status rw_command_lua(const rw_options *o, rw_error *err) {
    rw_plan_lua plan = {.memory_bytes = (int64_t)256 << 20};
    rw_lua *lua;
    RW_TRY(rw_lua_new(&lua, &plan, err));
    rw_status status = rw_lua_run_file(lua, o->lua.file, o->lua.args, o->lua.n_args, err);
    rw_lua_free(lua);
    return status;
}
