/* Descriptors, signals, and starting again with a calmer OpenMP: see process.h. */
#include "core/cli/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* open() takes the lowest number that is free. */
static void secure_descriptors(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDONLY) < 0) open("/", O_RDONLY);
}

void rw_process_prepare(char **argv) {
    secure_descriptors();
    signal(SIGXFSZ, SIG_IGN); /* lives on in the new program */
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "1000", 1) != 0) return;
    execv("/proc/self/exe", argv); /* returns only where there is no /proc: then it stays as it was */
}
