/* rwkv-run generate MODEL.pth --prompt TEXT: continues a text and prints it token by token. */
#include "core/base/alloc.h"
#include "core/base/printable.h"
#include "core/base/thread.h"
#include "core/cli/commands.h"
#include "core/data/tokenizer.h"
#include "core/infer/generate.h"
#include "core/infer/sampling.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    rw_generator *model;
    rw_tokenizer *tokenizer;
    int32_t *prompt; /* owned */
    size_t n_prompt;
    float *logits;            /* owned [V] */
    rw_candidates candidates; /* owned [V] each */
    rw_str pending;           /* bytes of a character that is not whole yet */
    bool on_terminal;         /* stdout is one: what could steer it is shown as an escape */
} session;

/* A vocabulary of at most 512 ids can only be bytes. */
static rw_status open_tokenizer(session *s, const rw_options *o, rw_error *err) {
    int64_t V = rw_generator_model(s->model)->vocab_size;
    rw_tokenizer_choice kind = V <= 512 ? RW_TOKENIZER_BYTE : RW_TOKENIZER_WORLD;
    char *vocab = NULL;
    if (o->tokenizer) kind = (rw_tokenizer_choice)rw_choice_find(RW_KEY_data_tokenizer, o->tokenizer);
    if (kind == RW_TOKENIZER_WORLD) RW_TRY(rw_vocab_find(o->vocab_file, NULL, &vocab, err));
    rw_status status = rw_tokenizer_open(&s->tokenizer, kind, vocab, err);
    if (status != RW_OK) rw_error_settle(err);
    rw_free(vocab);
    return status;
}

static rw_status encode_prompt(session *s, const char *prompt, rw_error *err) {
    size_t n = prompt ? strlen(prompt) : 0;
    s->prompt = rw_alloc_array(n + 1, sizeof *s->prompt);
    if (!s->prompt) return rw_fail_memory(err, n * sizeof *s->prompt);
    s->n_prompt = rw_tokenizer_encode(s->tokenizer, prompt ? prompt : "", n, s->prompt);
    if (s->n_prompt == 0) s->prompt[s->n_prompt++] = RW_TOKEN_END_OF_DOCUMENT; /* a new document */
    return RW_OK;
}

static rw_status open_session(session *s, const rw_options *o, rw_device *device, rw_error *err) {
    RW_TRY(rw_generator_open(&s->model, o->generate.model, o->generate.state, device, err));
    RW_TRY(open_tokenizer(s, o, err));
    RW_TRY(encode_prompt(s, o->generate.prompt, err));
    size_t V = (size_t)rw_generator_model(s->model)->vocab_size;
    s->logits = rw_alloc_array(V, sizeof *s->logits);
    s->candidates.weight = rw_alloc_array(V, sizeof *s->candidates.weight);
    s->candidates.id = rw_alloc_array(V, sizeof *s->candidates.id);
    return s->logits && s->candidates.weight && s->candidates.id ? RW_OK : rw_fail_memory(err, V * sizeof *s->logits);
}

static void close_session(session *s) {
    rw_generator_close(s->model);
    rw_tokenizer_close(s->tokenizer);
    rw_free(s->prompt);
    rw_free(s->logits);
    rw_free(s->candidates.weight);
    rw_free(s->candidates.id);
    rw_str_done(&s->pending);
}

/* -- writing ------------------------------------------------------------------------------------------ */

/* A model has seen all kinds of bytes and says what it likes: a terminal gets none that it would obey, a file or a pipe
 * gets them as they are. */
static void write_bytes(const session *s, const char *bytes, size_t n) {
    rw_str shown = {0};
    if (s->on_terminal) rw_str_append_printable_bytes(&shown, bytes, n);
    if (s->on_terminal)
        fwrite(shown.data ? shown.data : "", 1, shown.len, stdout);
    else
        fwrite(bytes, 1, n, stdout);
    rw_str_done(&shown);
    fflush(stdout);
}

/* How many bytes at the end begin a character that the next token may complete. */
static size_t cut_character(const char *text, size_t n) {
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = (unsigned char)text[n - k];
        if ((c & 0xc0) == 0x80) continue;
        size_t length = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        return length > k ? k : 0;
    }
    return 0;
}

static void write_token(session *s, int32_t id) {
    rw_tokenizer_decode(s->tokenizer, &id, 1, &s->pending);
    if (!s->pending.data) return;
    size_t rest = cut_character(s->pending.data, s->pending.len), whole = s->pending.len - rest;
    if (whole == 0) return;
    write_bytes(s, s->pending.data, whole);
    memmove(s->pending.data, s->pending.data + whole, rest);
    s->pending.len = rest;
    s->pending.data[rest] = 0;
}

static rw_status run(session *s, const rw_options *o, rw_error *err) {
    rw_sampling sampling = {o->generate.temperature, o->generate.top_p};
    rw_rng rng = {o->generate.seed, rw_hash_name("generate"), 0};
    int64_t V = rw_generator_model(s->model)->vocab_size;
    if (o->generate.prompt) write_bytes(s, o->generate.prompt, strlen(o->generate.prompt));
    RW_TRY(rw_generator_feed(s->model, s->prompt, (int64_t)s->n_prompt, s->logits, NULL, err));
    for (int64_t i = 0; i < o->generate.tokens; i++) {
        int32_t id = rw_sample(s->logits, V, &sampling, &rng, s->candidates);
        if (id == RW_TOKEN_END_OF_DOCUMENT) break;
        write_token(s, id);
        if (i + 1 < o->generate.tokens) RW_TRY(rw_generator_feed(s->model, &id, 1, s->logits, NULL, err));
    }
    if (s->pending.len) write_bytes(s, s->pending.data, s->pending.len);
    fputc('\n', stdout);
    return RW_OK;
}

rw_status rw_command_generate(const rw_options *o, rw_error *err) {
    rw_device *device;
    session s = {.on_terminal = isatty(STDOUT_FILENO)};
    RW_TRY(rw_device_open_cpu(&device, RW_F32, rw_cpu_count(), err));
    rw_status status = open_session(&s, o, device, err);
    if (status == RW_OK) status = run(&s, o, err);
    close_session(&s);
    rw_device_close(device);
    return status;
}
