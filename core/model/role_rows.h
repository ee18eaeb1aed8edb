/* How the tables of roles in x052.c, x060.c, ... are written: a row is
 *
 *     X(ENUM, name, shape, where, place, group, init, other fields of rw_role)
 *
 * with `where` and `group` without their prefixes and `init` one of the forms below. From one list of rows a file makes
 * an enum, so that its block can name a parameter, and the table. */
#ifndef RW_MODEL_ROLE_ROWS_H
#define RW_MODEL_ROLE_ROWS_H

#include "core/model/arch.h"

#define CONSTANT(x)                                                                                                    \
    { RW_INIT_CONSTANT, x, NULL, NULL }
#define UNIFORM(x)                                                                                                     \
    { RW_INIT_UNIFORM, x, NULL, NULL } /* in [-x, x) */
#define ORTHOGONAL(x)                                                                                                  \
    { RW_INIT_ORTHOGONAL, x, NULL, NULL }
#define ORTHOGONAL_TALL(x)                                                                                             \
    { RW_INIT_ORTHOGONAL_TALL, x, NULL, NULL }
#define FORMULA(f)                                                                                                     \
    { RW_INIT_FORMULA, 0, f, NULL }

#define RW_ROLE_ENUM(role, ...) role,
#define RW_ROLE_ROW(role, name_, shape_, where_, place_, group_, init_, ...)                                           \
    {.name = name_,                                                                                                    \
     .shape = shape_,                                                                                                  \
     .where = RW_WHERE_##where_,                                                                                       \
     .place = place_,                                                                                                  \
     .group = RW_GROUP_##group_,                                                                                       \
     .init = init_,                                                                                                    \
     __VA_ARGS__},

/* What every architecture has. */
#define RW_ROLES_BEFORE(X) X(EMB, "emb.weight", "V C", BEFORE, 0, MATRIX, UNIFORM(1e-4))
#define RW_ROLES_NORMS(X)                                                                                              \
    X(LN1_W, "ln1.weight", "C", EVERY, 10, PLAIN, CONSTANT(1))                                                         \
    X(LN1_B, "ln1.bias", "C", EVERY, 10, PLAIN, CONSTANT(0))                                                           \
    X(LN2_W, "ln2.weight", "C", EVERY, 10, PLAIN, CONSTANT(1))                                                         \
    X(LN2_B, "ln2.bias", "C", EVERY, 10, PLAIN, CONSTANT(0))                                                           \
    X(LN0_W, "ln0.weight", "C", ENTRY, 10, PLAIN, CONSTANT(1))                                                         \
    X(LN0_B, "ln0.bias", "C", ENTRY, 10, PLAIN, CONSTANT(0))
#define RW_ROLES_AFTER(X)                                                                                              \
    X(LN_OUT_W, "ln_out.weight", "C", AFTER, 0, PLAIN, CONSTANT(1))                                                    \
    X(LN_OUT_B, "ln_out.bias", "C", AFTER, 0, PLAIN, CONSTANT(0))                                                      \
    X(HEAD, "head.weight", "V C", AFTER, 1, MATRIX, ORTHOGONAL_TALL(0.5))

/* head_qk of x052 and x060: kernels/copy_head.h. */
#define RW_ROLES_COPY_BEFORE(X)                                                                                        \
    X(COPY_MASK, "copy_mask", "T T", BEFORE, 0, PLAIN, FORMULA(rw_init_lower), .needs = RW_DIM_head_qk, .buffer = true)
#define RW_ROLES_COPY_AFTER(X)                                                                                         \
    X(HEAD_Q, "head_q.weight", "Q C", AFTER, 2, MATRIX, CONSTANT(0), .needs = RW_DIM_head_qk)                          \
    X(HEAD_K, "head_k.weight", "Q C", AFTER, 3, MATRIX, ORTHOGONAL(0.1), .needs = RW_DIM_head_qk)

#endif
