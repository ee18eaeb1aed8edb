/* The commands of rwkv-run: each does its work and returns what the process should leave with. Results for programs and
 * people go to standard output, progress and notices to standard error. */
#ifndef RW_CLI_COMMANDS_H
#define RW_CLI_COMMANDS_H

#include "core/cli/options.h"

#ifdef __cplusplus
extern "C" {
#endif

rw_status rw_command_train(const rw_options *o, rw_error *err);
rw_status rw_command_generate(const rw_options *o, rw_error *err);
rw_status rw_command_inspect(const rw_options *o, rw_error *err);
rw_status rw_command_tokenize(const rw_options *o, rw_error *err);
rw_status rw_command_bench(const rw_options *o, rw_error *err);
rw_status rw_command_doctor(const rw_options *o, rw_error *err);
rw_status rw_command_lua(const rw_options *o, rw_error *err);

/* Prints an error as "place: message", then its detail, on standard error. */
void rw_print_error(const rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
