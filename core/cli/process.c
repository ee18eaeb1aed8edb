/* Starting again with a calmer OpenMP: see process.h. */
#include "core/cli/process.h"

#include <stdlib.h>
#include <unistd.h>

void rw_process_prepare(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (setenv("GOMP_SPINCOUNT", "1000", 1) != 0) return;
    execv("/proc/self/exe", argv); /* returns only where there is no /proc: then it stays as it was */
}
