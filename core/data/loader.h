/* What the plan may ask of the loader before it runs (data.h has the rest).
 *
 * A loader opened for plan->valid_file, when that is another file than plan->data_file, serves validation only: it
 * has no thread and no ring, may be shorter than a window, and rw_loader_next() is an error. */
#ifndef RW_DATA_LOADER_H
#define RW_DATA_LOADER_H

#include "core/data/data.h"
#include "core/data/id_scan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Heap that a loader of this plan and file holds while it runs, exact: rw_loader_host_bytes() without opening. */
int64_t rw_loader_bytes_for(const rw_plan_data *plan, const char *file);

/* Reads what a file holds, as rw_loader_open() would, without a thread or buffers. Errors: the same. */
rw_status rw_data_info_read(const rw_plan_data *plan, const char *file, rw_data_info *info, rw_error *err);

/* Reads all ids of a file once and refuses one that the model has not (core/data/id_scan.h). Passed over: text, whose
 * ids fit because its tokenizer does; and files above 4 GiB, which the loader reads in a thread of its own while
 * training runs: a bad id there is an error of rw_loader_next(). */
rw_status rw_data_check_ids(const rw_plan_data *plan, const char *file, rw_id_scan_progress progress, void *ctx,
                            rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
