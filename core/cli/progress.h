/* A line on the terminal that says how far a long reading of a file is. Messages take its place. */
#ifndef RW_CLI_PROGRESS_H
#define RW_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t began_ns;
    bool terminal; /* standard error is one; else nothing is shown */
} rw_progress_line;

rw_progress_line rw_progress_begin(void);
/* Percent, MB/s and time left, over the line that is there. */
void rw_progress_show(const rw_progress_line *p, int64_t n_bytes, int64_t n_bytes_total);
void rw_progress_end(const rw_progress_line *p); /* clears the line */

#ifdef __cplusplus
}
#endif
#endif
