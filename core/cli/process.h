/* The process itself: what must be settled in the environment before libraries read it. */
#ifndef RW_CLI_PROCESS_H
#define RW_CLI_PROCESS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Threads of OpenMP that wait should soon sleep: spinning, they starve whoever has work as soon as another program
 * wants a core (measured: 10 times slower on a busy machine). libgomp reads that from the environment when it is
 * loaded, so the program starts itself once more with it set; what a user set is left alone. Returns when there is
 * nothing to do. */
void rw_process_prepare(char **argv);

#ifdef __cplusplus
}
#endif
#endif
