/* SIGINT and SIGTERM ask the run to stop after the step: saved, status 3. A second one ends the process at once. */
#ifndef RW_TRAIN_SIGNALS_H
#define RW_TRAIN_SIGNALS_H

#ifdef __cplusplus
extern "C" {
#endif

void rw_signals_catch(void);
void rw_signals_release(void); /* the default actions again, nothing received */
int rw_signals_received(void); /* 0, or the number of the signal */

#ifdef __cplusplus
}
#endif
#endif
