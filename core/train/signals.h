/* SIGINT, SIGTERM and SIGHUP (the terminal was closed). Before the first step there is nothing to lose: the process
 * ends at once, from whatever it reads, and leaves no temporary file. After rw_signals_begin() the first one asks the
 * run to stop after the step, saved, with status 3, and is answered at once on standard error; a second SIGINT or
 * SIGTERM ends the process without saving and leaves no temporary file. A hangup is no second press: a shell and its
 * terminal both send one. */
#ifndef RW_TRAIN_SIGNALS_H
#define RW_TRAIN_SIGNALS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Until rw_signals_begin() a signal says `farewell` (in the user's language, kept) and ends the process with `status`.
 * SIGHUP stays ignored where it is (nohup). Without a thread to answer from, all signals wait for rw_signals_received()
 * and are not answered. */
void rw_signals_catch(const char *farewell, int status);
void rw_signals_begin(void);
void rw_signals_release(void); /* as before rw_signals_catch(), nothing received */
int rw_signals_received(void); /* 0, or the number of the first signal */

/* Who reads what we print may leave (`| head`, a `tee` that Ctrl-C ended): a write then fails and the run goes on. */
void rw_signals_ignore_pipe(void);

#ifdef __cplusplus
}
#endif
#endif
