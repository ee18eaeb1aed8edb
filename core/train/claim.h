/* Whose folder is it? A run writes only into a folder that it makes, that is empty, or that it claimed before.
 *
 * The claim is a file in the folder, .rwkv-run: a JSON object a line, only ever appended to.
 *
 *   {"recipe":"/home/me/a.yaml"}          the recipe whose runs the folder belongs to; the last line counts
 *   {"process":4242,"host":"bench"}       who writes now, or wrote last; it holds a lock (flock) on the file
 *   {"wrote":"rwkv-3.pth"}                a file of these runs: what may be replaced and deleted; or the folder of
 *                                         their scripts
 *   {"finished":4000}                     steps at the end of a run that came to its end
 *
 * Looking writes nothing and needs no lock. */
#ifndef RW_TRAIN_CLAIM_H
#define RW_TRAIN_CLAIM_H

#include "core/base/error.h"
#include "core/base/str.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_FOLDER_EMPTY,    /* or not there; names that begin with a dot do not count        */
    RW_FOLDER_OWN,      /* claimed by this recipe                                        */
    RW_FOLDER_OTHER,    /* claimed by another recipe, which is still there               */
    RW_FOLDER_UNCLAIMED /* files, but no claim, or that of a recipe that is no more      */
} rw_folder_kind;

/* Zero is a valid closed claim. */
typedef struct {
    char *dir, *recipe; /* owned; the recipe's real path                                 */
    rw_folder_kind kind;
    char *other;             /* owned: the recipe that claims it, or NULL                */
    int n_weights, n_states; /* .pth but for rwkv-init.pth; state-N.safetensors          */
    bool init;               /* rwkv-init.pth is there                                   */
    char example[64];        /* one of the weights or states                             */
    char stranger[64];       /* a name that no run writes; ""                            */
    int64_t finished;        /* the last of these lines; -1                              */
    rw_str wrote;            /* "\nNAME\n..." of the lines "wrote"                       */
    int fd;                  /* of .rwkv-run, locked; -1                                 */
} rw_claim;

/* Reads what there is; `recipe` is the path of the recipe. rw_claim_close() in any case. */
rw_status rw_claim_look(rw_claim *c, const char *dir, const char *recipe, rw_error *err);

/* Takes the lock of a folder that has a claim; without one there is nothing to lock yet. E_USAGE, with process and
 * host, when another run holds it. */
rw_status rw_claim_lock(rw_claim *c, rw_error *err);

/* Makes the folder and claims it. `restart`: first all files of runs move into a dated subfolder. `adopt`: the saves
 * and logs that are there count as written by this run. E_USAGE when the folder changed since rw_claim_look(). */
rw_status rw_claim_take(rw_claim *c, bool restart, bool adopt, rw_error *err);

/* Before a file of that name is written: one that this run did not write moves into a dated subfolder. NULL: nobody
 * else uses the folder. */
rw_status rw_claim_file(rw_claim *c, const char *name, rw_error *err);
/* Before a folder of that name may be made: one that is there already is not of these runs. NULL: nothing. */
rw_status rw_claim_folder(rw_claim *c, const char *name, rw_error *err);
/* Whether these runs wrote it; true for NULL. For rw_checkpoint_keep(). */
bool rw_claim_wrote(void *claim, const char *name);

rw_status rw_claim_finish(rw_claim *c, int64_t steps, rw_error *err); /* NULL: nothing */
void rw_claim_close(rw_claim *c);

#ifdef __cplusplus
}
#endif
#endif
