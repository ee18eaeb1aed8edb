/* The process itself: what must be settled before anything else. */
#ifndef RW_CLI_PROCESS_H
#define RW_CLI_PROCESS_H

#ifdef __cplusplus
extern "C" {
#endif

/* Descriptors 0 to 2 that are closed are opened, so that no file of ours gets their numbers and what is said to people:
 * on /dev/null and to be read only, so that writing to a closed standard output is the error that it should be.
 *
 * A file that reaches the limit of its size (ulimit -f) is an error of the write, as a full disk is, not a signal.
 *
 * Threads of OpenMP that wait should soon sleep: spinning, they starve whoever has work as soon as another program
 * wants a core (measured: 10 times slower on a busy machine). libgomp reads that from the environment when it is
 * loaded, so the program starts itself once more with it set; what a user set is left alone. Returns when there is
 * nothing to do. */
void rw_process_prepare(char **argv);

#ifdef __cplusplus
}
#endif
#endif
