/* jsonl -> binidx: what `rwkv-run tokenize IN.jsonl OUT_PREFIX` does. */
#ifndef RW_DATA_TOKENIZE_H
#define RW_DATA_TOKENIZE_H

#include "core/base/error.h"
#include "core/recipe/plan.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The two layouts of the official tools, each bit-equal to its tool's output:
 *
 *                       RW_LAYOUT_MAKE_DATA       RW_LAYOUT_PREPROCESS
 *     tool              make_data.py (newest)     tools/preprocess_data.py (official)
 *     type of an id     uint16                    int32
 *     names             PREFIX.bin, .idx          PREFIX_text_document.bin, .idx
 *     empty documents   kept, as a lone id 0      dropped
 *
 * Both trainers read both; the first takes half the size and the name that was asked for. Documents keep the order
 * of the file (make_data.py shuffles them first; its output for an order is ours for that order), each is followed by
 * id 0, and blank lines are passed over. */
typedef enum { RW_LAYOUT_MAKE_DATA, RW_LAYOUT_PREPROCESS } rw_tokenize_layout;

typedef struct {
    rw_tokenizer_choice tokenizer; /* world or byte                */
    const char *vocab_file;        /* for world                    */
    rw_tokenize_layout layout;
    bool force; /* replaces an output that is there; never the input or the vocabulary */
} rw_tokenize_options;

typedef struct {
    int64_t n_bytes, n_bytes_total; /* of the jsonl, read so far and in all */
    int64_t n_documents;            /* written                             */
    int64_t n_dropped;              /* empty ones                          */
    int64_t n_tokens;               /* written, ends of documents included */
} rw_tokenize_progress;

/* `progress` (NULL: none) is called after about each MB and at the end; another status than RW_OK stops the work and is
 * returned. *result (may be NULL) is filled also on failure. Memory: the longest document and 4 bytes for each
 * document. Errors: E_IO, E_USAGE when the output is there already, E_DATA with file:line:col, E_FORMAT of the
 * vocabulary; then no file is left. */
rw_status rw_tokenize_file(const char *in, const char *out_prefix, const rw_tokenize_options *options,
                           rw_status (*progress)(void *ctx, const rw_tokenize_progress *p, rw_error *err), void *ctx,
                           rw_tokenize_progress *result, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
