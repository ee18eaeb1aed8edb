/* Documents of a .jsonl file, one after another: each line is an object with a string under "text".
 *
 * Read in pieces: the memory is that of the longest line. A byte order mark at the beginning, CRLF and blank lines
 * are accepted; other keys are passed over, whatever they hold. Errors say file, line, column and what is there. */
#ifndef RW_DATA_JSONL_H
#define RW_DATA_JSONL_H

#include "core/base/error.h"
#include "core/base/fs.h"
#include "core/base/str.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All-zero is closed. */
typedef struct {
    rw_file file; /* fd -1 when the text came from memory */
    char *buf;    /* owned: what was read and not yet used is buf[pos..len) */
    size_t cap;
    rw_str text; /* the document last given */
    size_t pos, len;
    int64_t offset; /* in the file, of what comes after buf */
    int line;       /* of the document last given, from 1 */
    bool began;     /* a line that is not blank was read */
    bool is_open;
} rw_jsonl;

rw_status rw_jsonl_open(rw_jsonl *r, const char *path, rw_error *err);
/* The same over a copy of text[n]; `name` is for errors. */
rw_status rw_jsonl_open_memory(rw_jsonl *r, const char *name, const char *text, size_t n, rw_error *err);
/* The next document, valid until the next call; *text = NULL after the last one. Bytes are valid UTF-8.
 * Errors: E_IO, E_MEMORY, E_DATA. */
rw_status rw_jsonl_next(rw_jsonl *r, const char **text, size_t *n, rw_error *err);
/* Bytes of the file used so far. */
int64_t rw_jsonl_position(const rw_jsonl *r);
void rw_jsonl_close(rw_jsonl *r);

#ifdef __cplusplus
}
#endif
#endif
