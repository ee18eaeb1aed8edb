/* Errors for people. */
#include "core/cli/commands.h"

#include <stdio.h>

void rw_print_error(const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    fprintf(stderr, "%s\n", text);
    if (err->detail) fprintf(stderr, "%s\n", err->detail);
}
