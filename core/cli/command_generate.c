/* rwkv-run generate MODEL.pth --prompt TEXT: continues a text and prints it token by token. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/checkpoint/checkpoint.h"
#include "core/cli/commands.h"
#include "core/data/tokenizer.h"
#include "core/infer/generate.h"
#include "core/infer/sampling.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    rw_generator *model;
    rw_tokenizer *tokenizer;
    int32_t *prompt; /* owned */
    size_t n_prompt;
    float *logits;            /* owned [V] */
    rw_candidates candidates; /* owned [V] each */
    rw_str pending;           /* bytes of a character that is not whole yet */
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

/* Writes whole characters; the rest of one waits for its bytes, unless it can be none. */
static void write_token(session *s, int32_t id) {
    rw_tokenizer_decode(s->tokenizer, &id, 1, &s->pending);
    size_t whole = rw_utf8_valid_prefix(s->pending.data, s->pending.len);
    if (s->pending.len - whole >= 4) whole = s->pending.len;
    if (!s->pending.data || whole == 0) return;
    fwrite(s->pending.data, 1, whole, stdout);
    fflush(stdout);
    size_t rest = s->pending.len - whole;
    memmove(s->pending.data, s->pending.data + whole, rest);
    s->pending.len = rest;
    s->pending.data[rest] = 0;
}

static rw_status run(session *s, const rw_options *o, rw_error *err) {
    rw_sampling sampling = {o->generate.temperature, o->generate.top_p};
    rw_rng rng = {o->generate.seed, rw_hash_name("generate"), 0};
    int64_t V = rw_generator_model(s->model)->vocab_size;
    if (o->generate.prompt) fputs(o->generate.prompt, stdout);
    RW_TRY(rw_generator_feed(s->model, s->prompt, (int64_t)s->n_prompt, s->logits, NULL, err));
    for (int64_t i = 0; i < o->generate.tokens; i++) {
        int32_t id = rw_sample(s->logits, V, &sampling, &rng, s->candidates);
        if (id == RW_TOKEN_END_OF_DOCUMENT) break;
        write_token(s, id);
        if (i + 1 < o->generate.tokens) RW_TRY(rw_generator_feed(s->model, &id, 1, s->logits, NULL, err));
    }
    if (s->pending.len) fwrite(s->pending.data, 1, s->pending.len, stdout);
    fputc('\n', stdout);
    return RW_OK;
}

/* -- where and in what ----------------------------------------------------------------------------------------------
 */

/* As the file's numbers are, unless the command line says otherwise. */
static rw_status file_dtype(const char *path, rw_dtype *dtype, rw_error *err) {
    rw_tensor_file *f;
    RW_TRY(rw_tensor_file_open(&f, path, err));
    *dtype = rw_tensor_file_count(f) > 0 ? rw_tensor_file_at(f, 0)->dtype : RW_F32;
    rw_tensor_file_close(f);
    return RW_OK;
}

static rw_status open_gpu(const rw_options *o, rw_device **device, rw_error *err) {
    rw_dtype compute = RW_F32;
    const char *word = o->generate.precision;
    RW_TRY(file_dtype(o->generate.model, &compute, err));
    if (word) compute = strcmp(word, "tf32") == 0 ? RW_F32 : rw_dtype_from_name(word);
    if (compute != RW_BF16 && compute != RW_F16) compute = RW_F32;
    const rw_gpu_choice choice = {.compute = compute, .tf32 = word && strcmp(word, "tf32") == 0};
    return rw_device_open_cuda(device, &choice, err);
}

static rw_status open_device(const rw_options *o, rw_device **device, rw_error *err) {
    const char *where = o->generate.device ? o->generate.device : "auto";
    rw_error why = {0};
    if (strcmp(where, "cpu") == 0) return rw_device_open_cpu(device, RW_F32, rw_cpu_count(), err);
    if (strcmp(where, "cuda") == 0) return open_gpu(o, device, err);
    if (open_gpu(o, device, &why) == RW_OK) return RW_OK;
    rw_error_clear(&why);
    return rw_device_open_cpu(device, RW_F32, rw_cpu_count(), err);
}

rw_status rw_command_generate(const rw_options *o, rw_error *err) {
    rw_device *device;
    session s = {0};
    RW_TRY(open_device(o, &device, err));
    rw_status status = open_session(&s, o, device, err);
    if (status == RW_OK) status = run(&s, o, err);
    close_session(&s);
    rw_device_close(device);
    return status;
}
