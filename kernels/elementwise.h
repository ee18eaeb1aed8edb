/* Plain elementwise operations, for Lua and for checking the fused kernels. */
#ifndef RW_KERNELS_ELEMENTWISE_H
#define RW_KERNELS_ELEMENTWISE_H

#include "core/base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_UNARY_COPY,
    RW_UNARY_SCALE, /* alpha * x */
    RW_UNARY_TANH,
    RW_UNARY_SIGMOID,
    RW_UNARY_SILU,
    RW_UNARY_RELU,
    RW_UNARY_EXP,
    RW_UNARY_LOG,
    RW_UNARY_SQUARE,
    RW_UNARY_SQRT,
    RW_UNARY_COUNT
} rw_unary_op;

/* Backward reads x of these, and out of the others. */
static inline bool rw_unary_reads_x(rw_unary_op op) {
    return op == RW_UNARY_SILU || op == RW_UNARY_RELU || op == RW_UNARY_LOG || op == RW_UNARY_SQUARE;
}

typedef struct {
    rw_dtype dtype;
    rw_unary_op op;
    int64_t n;
    double alpha;
    const void *x;
    void *out;        /* may be x */
    const void *dout; /* backward reads x or out: rw_unary_reads_x() */
    void *dx;         /* may be dout */
    bool add;
} rw_unary_args;

typedef enum { RW_BINARY_ADD, RW_BINARY_SUB, RW_BINARY_MUL, RW_BINARY_DIV } rw_binary_op;

enum { RW_BINARY_ADD_A = 1, RW_BINARY_ADD_B = 2 };
typedef struct {
    rw_dtype dtype;
    rw_binary_op op;
    int64_t n;
    int64_t period; /* b has `period` elements and repeats; 0: b has n */
    const void *a, *b;
    void *out; /* may be a */
    const void *dout;
    void *da, *db; /* db is summed over the repeats, in order */
    uint32_t add;
} rw_binary_args;

/* Conversion between floating types (rw_convert), on the device. */
typedef struct {
    int64_t n;
    rw_dtype from, to;
    const void *src;
    void *dst;
} rw_cast_args;

/* x becomes the nearest number of the narrower type `to`, ties to even: what a device that stores `to` would hold. */
typedef struct {
    rw_dtype dtype, to;
    int64_t n;
    void *x; /* [n] in place */
} rw_round_args;

#ifdef __cplusplus
}
#endif
#endif
