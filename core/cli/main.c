/* rwkv-run: the one place that decides the exit status. It prints the error too, unless a command has, because what the
 * error lends was about to go. */
#include "core/cli/commands.h"
#include "core/cli/official_flags.h"
#include "core/cli/process.h"

#include <stdio.h>

static rw_status print_text(void (*print)(rw_str *)) {
    rw_str text = {0};
    print(&text);
    if (text.data) fputs(text.data, stdout);
    rw_str_done(&text);
    return RW_OK;
}

/* The recipe to standard output, so that it can be written to a file. */
static rw_status answer_official(const rw_options *o, rw_error *err) {
    rw_str text = {0};
    rw_official_recipe(o->official.words, &text);
    if (text.data) fputs(text.data, stdout);
    fflush(stdout);
    rw_str_done(&text);
    return rw_fail(
        err, RW_E_USAGE, RW_AT_NONE,
        "these are flags of the official trainer; here they are a recipe, which is printed above. Save it as "
        "my.yaml, and run: rwkv-run my.yaml");
}

static rw_status run(const rw_options *o, rw_error *err) {
    switch (o->command) {
    case RW_COMMAND_HELP:
        fputs(rw_options_help(o->topic), stdout);
        return RW_OK;
    case RW_COMMAND_VERSION:
        printf("rwkv-run %s\n", RW_VERSION);
        return RW_OK;
    case RW_COMMAND_SCHEMA:
        return print_text(rw_keys_print_schema);
    case RW_COMMAND_KEYS:
        return print_text(rw_keys_print_markdown);
    case RW_COMMAND_OFFICIAL:
        return answer_official(o, err);
    case RW_COMMAND_TRAIN:
        return rw_command_train(o, err);
    case RW_COMMAND_GENERATE:
        return rw_command_generate(o, err);
    case RW_COMMAND_INSPECT:
        return rw_command_inspect(o, err);
    case RW_COMMAND_TOKENIZE:
        return rw_command_tokenize(o, err);
    case RW_COMMAND_BENCH:
        return rw_command_bench(o, err);
    case RW_COMMAND_DOCTOR:
        return rw_command_doctor(o, err);
    case RW_COMMAND_LUA:
        return rw_command_lua(o, err);
    }
    return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "unknown command");
}

/* A write may have failed long before the end, when the buffer was full. */
static rw_status close_output(rw_error *err) {
    bool failed = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !failed) return RW_OK;
    return rw_fail_errno(err, RW_AT_NONE, "cannot write to standard output");
}

int main(int argc, char **argv) {
    rw_process_prepare(argv);
    rw_options options;
    rw_error err = {0};
    rw_status status = rw_options_parse(&options, argc, argv, &err);
    if (status == RW_OK) status = run(&options, &err);
    if (status == RW_OK) status = close_output(&err);
    if (err.code != RW_OK) rw_print_error(&err);
    rw_error_clear(&err);
    rw_options_done(&options);
    return rw_status_exit_code(status);
}
