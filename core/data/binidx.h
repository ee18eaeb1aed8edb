/* binidx: token ids back to back in PREFIX.bin, sizes and places of the items in PREFIX.idx.
 *
 *     .idx   offset      size       meaning (little-endian)
 *            0           9          "MMIDIDX" and two zero bytes
 *            9           8          version, 1
 *            17          1          type of an id: 4 = int32, 8 = uint16
 *            18          8          n_items
 *            26          8          n_borders
 *            34          4 n_items  sizes, in tokens (int32)
 *            ..          8 n_items  where each begins in the .bin, in bytes (int64): where the one before ends
 *            ..          8 n_borders  where documents begin and end, in items, rising: 0, 1, ... n_items when each item
 * is one, as our writer and the RWKV tools have it
 *            ..          n_items    only from Megatron's multimodal writer: the kind of each item; not read
 *
 * The official trainer reads the .bin as one stream and needs the .idx for the type only: borders change nothing in
 * what is trained on. Here both files must agree. */
#ifndef RW_DATA_BINIDX_H
#define RW_DATA_BINIDX_H

#include "core/base/error.h"
#include "core/base/fs.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_BINIDX_I32 4
#define RW_BINIDX_U16 8

/* -- reading -------------------------------------------------------------------------------------- */

typedef struct {
    int dtype_code;                     /* RW_BINIDX_I32, RW_BINIDX_U16 */
    int id_bytes;                       /* 4, 2 */
    int64_t n_items, n_tokens, n_bytes; /* n_bytes of the .bin */
    int64_t n_documents;                /* as the borders say; where they do not cover all items: n_items */
} rw_binidx_info;

/* Opens PREFIX.bin and checks PREFIX.idx against it; `name` may be the prefix or either file. *fd is the .bin,
 * for close(). Errors are placed at `name`: E_IO, E_FORMAT. */
rw_status rw_binidx_open(int *fd, rw_binidx_info *info, const char *name, rw_error *err);

/* -- writing -------------------------------------------------------------------------------------- */

typedef struct rw_binidx_writer rw_binidx_writer;

/* Both files are written under temporary names and renamed by commit, the .idx last: a kill between the two leaves a
 * pair that does not fit, which the reader refuses. A failed write is reported by rw_binidx_write() or by commit.
 * Commit and abort free the writer. */
rw_status rw_binidx_create(rw_binidx_writer **out, const char *prefix, int dtype_code, rw_error *err);
rw_status rw_binidx_write(rw_binidx_writer *w, const uint16_t *ids, int64_t n, rw_error *err); /* one document */
rw_status rw_binidx_commit(rw_binidx_writer *w, rw_error *err);
void rw_binidx_abort(rw_binidx_writer *w); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
