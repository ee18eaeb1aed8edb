/* Where tokens go that were made from text: a temporary file without a name, 2 bytes an id.
 * It is in $TMPDIR, else /var/tmp, else /tmp, and is gone when it is closed or the process ends. */
#ifndef RW_DATA_STORE_H
#define RW_DATA_STORE_H

#include "core/data/source.h"
#include "core/data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All-zero is closed. */
typedef struct {
    const char *file;   /* whose tokens these are; borrowed           */
    const char *folder; /* where it is, for errors; never freed       */
    rw_tokenizer *tokenizer;
    int fd;
    bool is_open;
    uint16_t *ids; /* [cap] not yet written: ids[0..used)        */
    size_t used, cap;
    int64_t n_tokens;
    int64_t next_look; /* at this many bytes the disk is looked at */
} rw_store;

/* Opens the file and the plan's tokenizer, whose ids must fit plan->vocab_size. */
rw_status rw_store_open(rw_store *st, const rw_plan_data *plan, const char *file, rw_error *err);
/* Room for n more ids after st->ids[st->used]; the caller fills some of it and then calls rw_store_add(). */
rw_status rw_store_reserve(rw_store *st, size_t n, rw_error *err);
rw_status rw_store_add(rw_store *st, size_t n, rw_error *err);
/* The document is complete: id 0. */
rw_status rw_store_end_document(rw_store *st, rw_error *err);
/* Writes what is left and hands the file over to the source: fd, id_bytes, n_tokens. */
rw_status rw_store_finish(rw_store *st, rw_source *s, rw_error *err);
void rw_store_close(rw_store *st);

#ifdef __cplusplus
}
#endif
#endif
