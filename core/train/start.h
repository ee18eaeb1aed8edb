/* What a start would do with the folder as it is: begin, go on, nothing because the run is finished, or refuse, because
 * weights are never overwritten in silence. Decided without writing anything, so that --dry-run can say it. */
#ifndef RW_TRAIN_START_H
#define RW_TRAIN_START_H

#include "core/plan/make_plan.h"
#include "core/train/claim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { RW_START_NEW, RW_START_RESUME, RW_START_FINISHED } rw_start_kind;

/* What the user asked for. */
typedef struct {
    bool never, restart;   /* --resume never, --restart                                                     */
    bool named_folder;     /* save.proj_dir is on the command line                                          */
    const char *same;      /* the command line without --resume, --restart and --dry-run, for a shell       */
    const char *elsewhere; /* `same` without save.proj_dir                                                   */
} rw_start_wish;

typedef struct {
    rw_start_kind kind;
    const char *state;  /* of the run to go on with; NULL: none                           */
    int64_t step;       /* that it is of                                                  */
    bool other_numbers; /* named by the user, whatever differs: only the count of batches goes on */
    bool restart;       /* files of earlier runs move into a dated subfolder              */
    bool adopt;         /* what is in the folder counts as this run's                     */
    rw_claim *claim;    /* NULL: nobody else uses the folder                              */
    const char *same;   /* for messages that come later; may be NULL                      */
} rw_start;

/* E_USAGE: refused, and err->detail names the ways on, each as a command. `saved` as rw_saved_run_find() gave it. */
rw_status rw_start_decide(rw_start *s, const rw_plan *plan, const rw_saved_run *saved, rw_claim *claim,
                          const rw_start_wish *wish, rw_error *err);

/* "begins", "resumes from ...", ... in the user's language, as a line for people. */
void rw_start_print(const rw_start *s, const rw_plan *plan, const rw_saved_run *saved, rw_str *out);

/* Appends a way on: what for, and the command on a line of its own; `value` (may be NULL) is quoted for a shell. */
void rw_start_way(rw_str *out, const char *what, const char *command, const char *option, const char *value);

#ifdef __cplusplus
}
#endif
#endif
