/* Every id of a file read once, front to back, at the rate of the disk: so that an id that the model has not is found
 * before the first step, and not when a batch happens to meet it.
 *
 * The largest id of a large file is remembered in $XDG_CACHE_HOME/rwkv-run/largest-ids (else in ~/.cache) under the
 * device, inode, size and time of change of the file, so that the next run does not read it again. */
#ifndef RW_DATA_ID_SCAN_H
#define RW_DATA_ID_SCAN_H

#include "core/data/source.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_ID_SCAN_REMEMBERED ((int64_t)64 << 20) /* bytes: smaller files are read again sooner than looked up */
#define RW_ID_SCAN_BACKGROUND ((int64_t)4 << 30)  /* bytes: larger files are read while training runs */

/* Hears how far a scan is, every 4 MiB; false ends it. */
typedef bool (*rw_id_scan_progress)(void *ctx, int64_t done, int64_t total);

/* The largest id of an open source of ids; progress may be NULL. E_DATA names the first id that is not below
 * s->vocab_size, E_STOPPED when progress gave up. A file that is known already is not read, unless its largest id is
 * too large: then the first such is looked for. */
rw_status rw_id_scan(const rw_source *s, int64_t *largest, rw_id_scan_progress progress, void *ctx, rw_error *err);
/* Whether the largest id of the source is remembered. */
bool rw_id_scan_recall(const rw_source *s, int64_t *largest);

#ifdef __cplusplus
}
#endif
#endif
