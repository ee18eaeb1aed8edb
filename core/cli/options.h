/* The command line -> what to do. */
#ifndef RW_CLI_OPTIONS_H
#define RW_CLI_OPTIONS_H

#include "core/base/arena.h"
#include "core/base/error.h"
#include "core/base/str.h"
#include "core/recipe/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_COMMAND_HELP,
    RW_COMMAND_VERSION,
    RW_COMMAND_SCHEMA, /* JSON Schema of a recipe      */
    RW_COMMAND_KEYS,   /* reference of all recipe keys */
    RW_COMMAND_TRAIN,
    RW_COMMAND_OFFICIAL, /* flags of the official trainer: official_flags.h */
    RW_COMMAND_GENERATE,
    RW_COMMAND_INSPECT,
    RW_COMMAND_TOKENIZE,
    RW_COMMAND_BENCH, /* of a recipe, as TRAIN reads it */
    RW_COMMAND_DOCTOR,
    RW_COMMAND_LUA
} rw_command;

/* Strings belong to argv. Only the section of the command is filled; the rest keeps its defaults. */
typedef struct {
    rw_command command;
    rw_command topic; /* of HELP: the command that it is about; HELP: all of them */
    struct {
        rw_recipe_options recipe; /* overrides, env_names and read_paths are in the arena; check_files is set */
        const char *resume;       /* "auto", "never" or a path                                    */
        bool dry_run;
        bool restart; /* earlier runs in proj_dir move into a subfolder                           */
    } train;
    struct {
        char **words; /* argv from the first of them, up to NULL */
    } official;
    struct {
        const char *model, *prompt;
        const char *state;     /* a file of initial states; NULL: the model's own      */
        const char *device;    /* "auto", "cpu" or "cuda"; NULL: not said              */
        const char *precision; /* of a GPU; NULL: as the file's                     */
        double temperature;    /* 1; 0: the likeliest token each time                  */
        double top_p;          /* 1: no limit                                          */
        int64_t tokens;        /* at most so many; 256                                 */
        uint64_t seed;         /* 0                                                    */
    } generate;
    struct {
        int64_t steps; /* 0: as many as some seconds allow */
        bool json;
    } bench;
    struct {
        const char *file;
        bool verify; /* read it all and compare checksums */
    } inspect;
    struct {
        const char *input, *output; /* IN.jsonl, prefix of the pair                */
        const char *dtype;          /* "int32" (the official tool) or "uint16"    */
        bool force;                 /* replaces an output that is there           */
        bool by_name;               /* --input, as the official tool has it        */
        bool append_eod;            /* asked for; the ends are written in any case */
    } tokenize;
    struct {
        const char *file;
        char **args; /* argv after the file */
        int n_args;
    } lua;
    /* of generate and tokenize */
    const char *tokenizer;  /* "world" or "byte"; NULL: not said                    */
    const char *vocab_file; /* NULL: not said                                       */
    int argc;
    char **argv; /* the whole command line, for messages that repeat it             */
    rw_arena arena;
} rw_options;

/* Reads a command line; argv[0] is skipped. E_USAGE with what to do instead; rw_options_done() in any case. */
rw_status rw_options_parse(rw_options *o, int argc, char **argv, rw_error *err);
void rw_options_done(rw_options *o);

/* The same training command as a shell would read it, without --resume, --restart and --dry-run, and without what it
 * says about the key `but` (NULL: with everything). */
void rw_options_again(const rw_options *o, const char *but, rw_str *out);

/* The text of --help about a command, or RW_COMMAND_HELP: at most 24 lines of 79 columns. In the user's language. */
const char *rw_options_help(rw_command topic);

#ifdef __cplusplus
}
#endif
#endif
