/* Bytes to token ids and back.
 *
 * "world": the World vocabulary, greedy longest match on bytes. A file line is `id literal length`: a
 * decimal id, a Python string or bytes literal, and its length in bytes. Each of the 256 bytes has its own
 * entry, so that every byte string encodes and decode(encode(x)) == x.
 * "byte": id = byte + 1, no file.
 *
 * Id 0 ends a document in both; no text encodes to it. Ids fit in 16 bits. A tokenizer does not change after
 * it was opened: any number of threads may use it. */
#ifndef RW_DATA_TOKENIZER_H
#define RW_DATA_TOKENIZER_H

#include "core/base/error.h"
#include "core/base/str.h"
#include "core/recipe/plan.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_TOKEN_END_OF_DOCUMENT 0

typedef struct rw_tokenizer rw_tokenizer;

/* vocab_file is read for RW_TOKENIZER_WORLD only. Free with rw_tokenizer_close().
 * Errors: E_IO; E_FORMAT with file and line; E_UNSUPPORTED for RW_TOKENIZER_NONE. */
rw_status rw_tokenizer_open(rw_tokenizer **out, rw_tokenizer_choice kind, const char *vocab_file, rw_error *err);
/* A World vocabulary from memory; `name` is for errors and must outlive them. */
rw_status rw_tokenizer_parse(rw_tokenizer **out, const char *name, const char *text, size_t n, rw_error *err);
void rw_tokenizer_close(rw_tokenizer *t);

const char *rw_tokenizer_kind(const rw_tokenizer *t);
int64_t rw_tokenizer_vocab_size(const rw_tokenizer *t); /* largest id + 1 */
int64_t rw_tokenizer_host_bytes(const rw_tokenizer *t); /* heap it holds, exact */
uint64_t rw_tokenizer_hash(const rw_tokenizer *t);      /* of all entries */

/* Encodes n bytes into ids[], which must have room for n (a token is one byte at least). Returns how many. */
size_t rw_tokenizer_encode(const rw_tokenizer *t, const void *bytes, size_t n, int32_t *ids);
size_t rw_tokenizer_encode_u16(const rw_tokenizer *t, const void *bytes, size_t n, uint16_t *ids);

/* The same for a text that comes in pieces: encodes every token that begins far enough before the end that more
 * bytes could not change it, and returns how many bytes that was; *n_ids ids. The rest belongs to the next piece. */
size_t rw_tokenizer_encode_part(const rw_tokenizer *t, const void *bytes, size_t n, uint16_t *ids, size_t *n_ids);

/* The bytes of one id, not to be freed; NULL when it has none (0, gaps, beyond the vocabulary). */
const char *rw_tokenizer_token_at(const rw_tokenizer *t, int64_t id, size_t *n);
/* Appends the bytes of the ids; those without bytes add nothing. A token may end inside a character. */
void rw_tokenizer_decode(const rw_tokenizer *t, const int32_t *ids, size_t n, rw_str *out);

/* -- where the vocabulary is --------------------------------------------------------------------- */

#define RW_VOCAB_NAME "rwkv_vocab_v20230424.txt"

/* Finds the World vocabulary: `key` (what the recipe says, NULL when it says nothing), else $RWKV_VOCAB,
 * else RW_VOCAB_NAME in recipe_dir (NULL: the working directory). *path is for rw_free(). A named file that
 * is not there is an error, not a reason to look further. E_RECIPE with what to do when there is none. */
rw_status rw_vocab_find(const char *key, const char *recipe_dir, char **path, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
