/* Architectures as data: the parameters of each, in the order of an official file, and the sizes that they have.
 *
 * Whoever declares, fills, groups, reads, checks or prints parameters walks these tables and knows none of them by
 * name. To add an architecture: one file that defines an rw_arch, and one row in core/recipe/archs.def. */
#ifndef RW_MODEL_ARCH_H
#define RW_MODEL_ARCH_H

#include "core/base/str.h"
#include "core/recipe/plan.h"
#include "core/tensor/init.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- parameters ----------------------------------------------------------------------------------------------- */

/* Which parts of a model have the parameter. */
typedef enum {
    RW_WHERE_BEFORE,   /* once, before the blocks                               */
    RW_WHERE_ENTRY,    /* the same, though files name it in block 0: ln0        */
    RW_WHERE_EVERY,    /* every block                                           */
    RW_WHERE_FIRST,    /* block 0 alone                                         */
    RW_WHERE_TIME_MIX, /* every block with a time mix: with pre_ffn not block 0 */
    RW_WHERE_AFTER     /* once, after the blocks                                */
} rw_role_where;

/* Which parameters learn alike. How fast, and which of them decay, is core/optim's. */
typedef enum {
    RW_GROUP_PLAIN,  /* norms, LoRA factors, what is not below                                          */
    RW_GROUP_MATRIX, /* embedding, head, projections                                                    */
    RW_GROUP_MIX,    /* the share of the token before: time_mix_*, time_maa_*                           */
    RW_GROUP_BONUS,  /* time_faaaa                                                                      */
    RW_GROUP_DECAY,  /* time_decay                                                                      */
    RW_GROUP_STATE,  /* time_state: with train_type states the only ones that learn                         */
    RW_GROUP_W0      /* att.w0 of x070: a decay, in official code without the faster stage 2            */
} rw_role_group;

/* Where an initial value is made: formulas see the sizes and the layer. */
typedef struct {
    const rw_plan_model *shape;
    int layer; /* -1 before the blocks, n_layer after them */
} rw_init_site;

typedef struct rw_role {
    const char *name;  /* of a block's parameter what follows "blocks.N."                              */
    const char *shape; /* a word for each dimension: a factor, a word of dims.def, or both: "5 Rm C"   */
    rw_role_where where;
    int place; /* order in memory, inside of a block; equal: as listed                         */
    rw_role_group group;
    rw_dim needs;    /* only in models where this size is not 0; left out (n_layer): in all          */
    bool idle_first; /* block 0 has it and never uses it: a published file may lack it there       */
    bool buffer;     /* known from its formula: files have it, memory does not, and nothing learns */
    rw_init init;    /* its formula gets an rw_init_site                                             */
} rw_role;

/* Never used, so that its gradient is exactly 0 and it never moves. */
static inline bool rw_role_idle(const rw_role *role, int layer) {
    return role->idle_first && layer == 0;
}
/* A file may lack it. */
static inline bool rw_role_optional(const rw_role *role, int layer) {
    return role->buffer || rw_role_idle(role, layer);
}

/* -- what a model carries --------------------------------------------------------------------------------------- */

/* From token to token, in each block: a state of n_seq rows of this shape. Coming in, a tensor without the first
 * dimension is shared by all sequences. */
typedef struct {
    const char *name, *shape; /* at most three words                                                   */
    const char *initial;      /* the parameter of the block that begins it when no state comes in; or NULL */
} rw_state_field;
#define RW_MAX_FIELDS 4
/* From block to block, within a pass: x070 hands the values of block 0 on. */
#define RW_MAX_CARRY 2

typedef struct {
    int layer;
    rw_rows rows;
    rw_tensor *x;                       /* [R,C]                                                                    */
    rw_tensor *carry[RW_MAX_CARRY];     /* as the block before left them, NULL at first; a block may put its own    */
    rw_tensor *state_in[RW_MAX_FIELDS]; /* NULL: zeros                                                              */
    bool want_state;
    rw_tensor *state_out[RW_MAX_FIELDS]; /* to be filled when wanted; one that is here already is memory to write to  */
} rw_block_io;

/* Where an op puts a state; NULL: not wanted. */
static inline rw_tensor **rw_block_state_out(rw_block_io *io, int field) {
    return io->want_state ? &io->state_out[field] : NULL;
}

/* -- architectures -------------------------------------------------------------------------------------------- */

typedef struct rw_model rw_model; /* model.h */

typedef struct {
    const char *name;     /* a name of archs.def; a registered one: any other                    */
    const char *mark;     /* part of the names of its parameters, and of no other architecture's */
    const rw_role *roles; /* in the order of an official file                                    */
    int n_roles;
    const rw_state_field *fields;
    int n_fields;
    rw_tensor *(*block)(const rw_model *m, rw_tape *t, rw_block_io *io); /* -> [R,C]; NULL after an error of the tape */
    void (*default_shape)(rw_plan_model *shape); /* its part of rw_arch_default_shape(), or NULL */
} rw_arch;

#define RW_ARCH(name, what, zh) extern const rw_arch rw_arch_##name;
#include "core/recipe/archs.def"
#undef RW_ARCH

/* All there are: those of archs.def in its order, then the registered ones. NULL behind the last. */
const rw_arch *rw_arch_at(int i);
/* NULL, with the names that exist in the error, when there is no such architecture. */
const rw_arch *rw_arch_find(const char *name, rw_error *err);
/* Adds an architecture at run time; it must outlive its use. Call before other threads look for one. Errors: E_USAGE
 * for a name that is taken, a text that is no shape, or more than RW_MAX_REGISTERED of them. */
#define RW_MAX_REGISTERED 8
rw_status rw_arch_register(const rw_arch *arch, rw_error *err);

/* Decides every size that is 0, but for n_layer and vocab_size, as the official code does from n_embd: heads of 64
 * channels, the rest by the architecture. n_embd must be a multiple of head_size. */
void rw_arch_default_shape(const rw_arch *arch, rw_plan_model *shape);

/* -- shapes --------------------------------------------------------------------------------------------------- */

/* A word of a shape: `factor` times a size of dims.def, or the factor alone (dim RW_DIM_COUNT). */
typedef struct {
    int64_t factor;
    rw_dim dim;
} rw_shape_word;

/* The words of a shape; returns their number, or -1 for a text that is no shape. */
int rw_shape_words(const char *shape, rw_shape_word words[RW_MAX_DIM]);
/* The sizes of a shape in a model; returns the number of dimensions. */
int rw_shape_sizes(const char *shape, const rw_plan_model *model, int64_t sizes[RW_MAX_DIM]);

const char *rw_dim_name(rw_dim dim);
/* Appends "n_layer 2, n_embd 64, ...": the sizes that are not 0. */
void rw_dims_print(const rw_plan_model *model, rw_str *out);

/* Whether an architecture has parameters that need a size other than 0: a part such as pre_ffn. */
bool rw_arch_has_part(const rw_arch *arch, rw_dim dim);

#define RW_PARAM_NAME 128
/* The official name, whole, of a role's parameter in a block; `layer` counts for parameters of blocks alone. */
void rw_role_name(const rw_role *role, int64_t layer, char name[RW_PARAM_NAME]);

/* -- walking over the parameters of a model, in the order of an official file ------------------------------------ */

typedef struct {
    const rw_arch *arch;
    const rw_plan_model *shape;
    int layer; /* of the parameter: -1 before the blocks, n_layer after them */
    int index; /* of the role in arch->roles                                */
    const rw_role *role;
    char name[RW_PARAM_NAME]; /* the official name, whole */
} rw_role_walk;

/*     for (rw_role_walk w = rw_role_walk_of(arch, shape); rw_role_walk_next(&w);) ... w.name, w.role, w.layer */
rw_role_walk rw_role_walk_of(const rw_arch *arch, const rw_plan_model *shape);
bool rw_role_walk_next(rw_role_walk *w);

#ifdef __cplusplus
}
#endif
#endif
