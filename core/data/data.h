/* The loader's public face: sources, tokenizers and batches ahead of time.
 *
 * A batch is a function of (plan, cursor). The loader owns a thread that prepares the next batches; the
 * cursor that it hands out with a batch belongs to that batch, so a state saved after the batch was used
 * continues with the one after it. */
#ifndef RW_DATA_DATA_H
#define RW_DATA_DATA_H

#include "core/base/error.h"
#include "core/recipe/plan.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where the next batch comes from. Plain data of fixed size: written to the training state as bytes
 * (little-endian fields by name, not memcpy) and compared for equality. */
typedef struct {
    uint64_t seed;
    uint64_t step;      /* micro batches made so far; the next one is this number */
    uint64_t data_hash; /* of names, sizes and token counts: a resume with other data is refused */
    uint64_t n_tokens;  /* of the source; 0: of any, then only `step` counts, with the plan's seed and data */
} rw_cursor;

/* R packed rows. targets[i] is the token after tokens[i] in its sequence. mask[i] weighs the loss of
 * position i. Sequences do not cross: cu_seqlens[0] = 0 .. cu_seqlens[n_seq] = n_rows. Borders and sources have the
 * fixed length max_seq of the plan: what is beyond n_seq are empty sequences at the end. */
typedef struct {
    int64_t n_rows;            /* R = micro_bsz * ctx_len, the same for every batch */
    int64_t n_seq;             /* sequences in it, at most max_seq */
    const int32_t *tokens;     /* [R] */
    const int32_t *targets;    /* [R] */
    const float *mask;         /* [R] */
    const int32_t *cu_seqlens; /* [max_seq+1]; n_rows beyond n_seq */
    const int32_t *source;     /* [max_seq] which source a sequence is from; 0: the only one */
    double mask_sum;           /* sum of mask, in double */
    rw_cursor next;            /* the cursor that makes the batch after this */
} rw_batch;

typedef struct rw_loader rw_loader;

/* What a source holds, for the plan; opens headers only where the format allows it (jsonl and text are
 * read once, streaming, to count tokens). */
typedef struct {
    int64_t n_tokens, n_documents, n_bytes;
    uint64_t hash;
    int64_t host_bytes; /* exact heap the loader will hold while running: token store + prefetch buffers */
} rw_data_info;

/* Opens `file` of the section (data_file or valid_file), tokenizes if needed, and starts the prefetch
 * thread at `cursor` (NULL: the beginning for plan->seed). Free with rw_loader_close().
 * Errors: E_IO, E_DATA with file, line and column; ids >= vocab_size; fewer than ctx_len + 2 tokens. */
rw_status rw_loader_open(rw_loader **out, const rw_plan_data *plan, const char *file, const rw_cursor *cursor,
                         rw_data_info *info, rw_error *err);

/* The next batch; blocks until it is ready. It stays valid until `n_held` more calls (n_held = plan->accumulate):
 * a step can hold all its micro batches. */
rw_status rw_loader_next(rw_loader *l, const rw_batch **batch, rw_error *err);

/* For validation: all windows of ctx_len in order, once, batch i of n; the last window of the file that is
 * shorter is padded with mask 0. Independent of the cursor and the thread. */
int64_t rw_loader_n_eval_batches(const rw_loader *l);
rw_status rw_loader_eval_batch(rw_loader *l, int64_t i, const rw_batch **batch, rw_error *err);

int64_t rw_loader_host_bytes(const rw_loader *l); /* heap it holds, exact */
void rw_loader_close(rw_loader *l);

#ifdef __cplusplus
}
#endif
#endif
