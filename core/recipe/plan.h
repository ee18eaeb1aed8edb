/* rw_plan: everything a run has decided before any long work. Structs only; core/plan fills them, each
 * part of the program receives its own section as `const`. Strings live in the run arena. */
#ifndef RW_RECIPE_PLAN_H
#define RW_RECIPE_PLAN_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_MAX_LAYERS 256

/* rw_device_choice, rw_l2wrap_choice, ...; rw_choice_word() of keys.h gives their words. */
// clang-format off
#define RW_CHOICES(set)     typedef enum {
#define RW_CHOICE(id, word) RW_##id,
#define RW_CHOICES_END(set) } rw_##set##_choice;
// clang-format on
#include "core/recipe/choices.def"
#undef RW_CHOICES
#undef RW_CHOICE
#undef RW_CHOICES_END

/* -- model ---------------------------------------------------------------------------------------- */

/* The sizes of dims.def: RW_DIM_n_embd, ... */
typedef enum {
#define RW_DIM(name, word) RW_DIM_##name,
#include "core/recipe/dims.def"
#undef RW_DIM
    RW_DIM_COUNT
} rw_dim;

typedef struct {
    const char *arch;       /* a name of archs.def */
    const char *load_model; /* path of a .pth, or NULL: from scratch */
    bool load_partial;      /* what load_model lacks gets initial values, what it has more is ignored */
    bool allow_nonfinite;   /* weights that are NaN or infinite are loaded too */
    const char *load_state; /* path of a file of initial states, or NULL: zeros, or those of load_model */
    union {                 /* each size by name, and all of them by number */
        int64_t dim[RW_DIM_COUNT];
        struct {
#define RW_DIM(name, word) int64_t name;
#include "core/recipe/dims.def"
#undef RW_DIM
        };
    };
    double head_size_divisor; /* 8: eps of the head's group norm is 1e-5 times its square */
    rw_init_form_choice init; /* which official form of the initial values */
    rw_dtype file_dtype;      /* dtype of load_model's tensors; RW_DTYPE_NONE from scratch */
} rw_plan_model;

/* -- data ----------------------------------------------------------------------------------------- */

typedef struct {
    rw_format_choice data_type;
    const char *data_file;         /* as written by the user, made relative to the recipe's folder */
    const char *valid_file;        /* NULL: no validation */
    rw_tokenizer_choice tokenizer; /* none: the data are ids */
    const char *vocab_file;        /* path of the World vocabulary; NULL unless it is the tokenizer's */
    rw_sampler_choice sampler;     /* core/data/sampler.h has both */
    bool qa_mask;                  /* only answers count, as with the official my_qa_mask */
    int64_t ctx_len;               /* T */
    int64_t vocab_size;            /* ids must be below */
    int64_t rows_per_batch;        /* micro_bsz: packed rows of ctx_len tokens in a micro batch */
    int64_t accumulate;            /* micro batches in a step */
    int64_t max_seq;               /* sequences in a micro batch at most: what its buffers have room for */
    uint64_t seed;
    int64_t n_tokens; /* in data_file; -1: unknown before it is read */
} rw_plan_data;

/* -- training ------------------------------------------------------------------------------------- */

typedef struct {
    rw_train_type_choice train_type; /* which parameters learn */
    int64_t micro_bsz, ctx_len, accumulate;
    int64_t batch_size;    /* sequences of a step, as asked; 0: micro_bsz * accumulate */
    bool choose_micro_bsz; /* of batch_size: the plan decides                          */
    int64_t epoch_steps, epoch_count, epoch_begin;
    int64_t n_steps; /* epoch_steps * epoch_count */
    double lr_init, lr_final;
    int64_t warmup_steps;
    rw_schedule_choice schedule; /* auto: the official trainer's rule */
    double beta1, beta2, adam_eps;
    double weight_decay, weight_decay_final; /* final <= 0: stays */
    bool layerwise_lr;
    int64_t my_pile_stage;           /* 2: the learning-rate groups of the official stage 2 */
    double grad_clip;                /* global norm; 0: no clipping */
    rw_checkpoint_choice checkpoint; /* which activations the backward pass makes again */
    rw_precision_choice precision;   /* as asked */
    rw_optim_form_choice optim_form; /* decided: how weights, gradients and moments are stored (kernels/adamw.h) */
    rw_dtype compute;                /* what the device computes in: RW_F32 on the CPU */
    rw_l2wrap_choice l2wrap;
    rw_loss_norm_choice loss_norm;
    uint64_t random_seed;
    /* Steps in a row that may change nothing because loss or gradient are not finite; one more ends the run. */
    int64_t skip_nonfinite;
    int64_t head_chunk;   /* rows of logits computed at a time */
    double max_seconds;   /* stop after this many seconds of training; 0: no limit */
    int64_t eval_every;   /* validate each N steps (and at the end); 0: only at epoch ends */
    int64_t eval_batches; /* micro batches of a validation; 0: the whole file */
} rw_plan_train;

/* -- engine ---------------------------------------------------------------------------------------- */

typedef struct {
    rw_graph_choice graph; /* on: a device that can record replays the pieces of a step */
    rw_tune_choice tune;   /* timed: a GPU tries several ways to make each product      */
} rw_plan_engine;

/* -- save, log, hooks ------------------------------------------------------------------------------ */

typedef struct {
    const char *proj_dir;
    int64_t epoch_save; /* every N epochs; 0: only the final one */
    int64_t every;      /* every N steps too; 0: no */
    int64_t keep;       /* rwkv-N.pth and training states to keep; 0: all */
    rw_dtype dtype;     /* of the .pth */
} rw_plan_save;

typedef struct {
    int64_t every; /* steps between lines */
} rw_plan_log;

typedef struct {
    int n_files;
    const char *const *files;
    bool jit;
    int64_t budget_ms;    /* wall-clock time of one hook call */
    int64_t memory_bytes; /* the Lua heap */
    bool trust;           /* --trust: no sandbox */
} rw_plan_lua;

/* -- what the run will need -------------------------------------------------------------------------- */

typedef enum { RW_MEMORY_DEVICE, RW_MEMORY_HOST, RW_MEMORY_PLACES } rw_memory_place;

typedef struct {
    const char *name; /* "parameters", "gradients", "data loader", ... */
    rw_memory_place place;
    bool ours; /* the engine's own buffers, exact to the byte; else what libraries take, about */
    int64_t n_bytes;
} rw_plan_part;

#define RW_PLAN_MAX_PARTS 24
typedef struct {
    int n_parts;
    rw_plan_part parts[RW_PLAN_MAX_PARTS];
    int64_t bytes[RW_MEMORY_PLACES]; /* all parts of a place; on a CPU both are the memory of the process */
    int64_t engine_bytes;            /* the parts that are ours */
    int64_t arena_bytes;             /* step arena: high-water mark of a step on the meta device */
    int64_t n_params, param_bytes;   /* elements; bytes of weights, master copies, gradients, moments */
    int64_t tokens_per_step, tokens_total;
    int64_t pth_bytes, state_bytes, disk_free;
    int64_t device_limit; /* bytes of the device's memory that the run may have; 0: no device of its own */
} rw_plan_needs;

/* -- all of it ---------------------------------------------------------------------------------------- */

/* Something by name, as text. */
typedef struct {
    const char *name, *value;
} rw_pair;

typedef struct {
    int n;
    const rw_pair *at;
} rw_pairs;

typedef struct {
    const char *name; /* of the run */
    const char *recipe_path, *recipe_dir;
    rw_device_choice device; /* decided: not auto */
    const char *no_gpu;      /* why `device: auto` took the CPU; NULL: it did not */
    int threads;
    int64_t device_memory;   /* bytes of a GPU's memory that the run may have, as asked; 0: all */
    const char *device_name; /* the GPU, or the BLAS kernels chosen for the CPU, e.g. "OpenBLAS Haswell" */
    rw_plan_model model;
    rw_plan_data data;
    rw_plan_train train;
    rw_plan_engine engine;
    rw_plan_save save;
    rw_plan_log log;
    rw_plan_lua lua;
    rw_plan_needs needs;
    rw_pairs keys;    /* that must stay the same in a resumed run, with the values that took effect */
    rw_pairs choices; /* what the plan decided by itself */
} rw_plan;

#ifdef __cplusplus
}
#endif
#endif
