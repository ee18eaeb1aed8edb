/* Sums: sizes around a block, narrow and wide, weights, squares, adding, views. What becomes of a step: clipping,
 * skipped steps, loss scales that stay and that adapt. */
#include "tests/gpu/ops/ops.h"

#include <math.h>

static const int64_t sizes[] = {0, 1, 15, 255, 16383, 16384, 16385, 50001, 100000};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void sum_class(op_side *s, op_class cls, rw_dtype dtype, bool weighted) {
    const int64_t n = sizes[s->variant], view = s->variant == 7; /* not on 16 bytes */
    char *x = op_in(s, "x", cls, n + view, -1, 3);
    rw_sum_args a = {.dtype = dtype, .n = n, .x = x + view * rw_dtype_bytes(dtype)};
    if (n == 0) a.x = NULL;
    if (weighted) a.weight = op_in(s, "weight", OP_FLOAT, n, 0, 1);
    a.scratch = OP_SCRATCH(s, sum_scratch, &a);
    for (int k = 0; k < 4; k++) {
        a.squares = k & 1;
        a.add = k & 2;
        a.out = a.add ? op_both(s, "added", OP_DOUBLE, 1, 0, 4) : op_out(s, "out", OP_DOUBLE, 1);
        op_factor(s, 1e-6); /* in double all the way */
        OP_RUN(s, sum, &a);
    }
}

static void sum(op_side *s) {
    for (int weighted = 0; weighted < 2; weighted++) {
        sum_class(s, OP_NARROW, s->narrow, weighted);
        sum_class(s, OP_WIDE, rw_wide(s->narrow), weighted);
    }
}

/* NaN has no place in a comparison, so what is not finite is infinite, and not clipped. */
static const struct {
    rw_device_scalars own;
    rw_clip_coef_args args;
    int runs;
} steps[] = {
    {{.updates = 3, .loss = 2, .grad_sumsq = 25}, {.max_norm = 1}, 1},
    {{.updates = 3, .loss = 2, .grad_sumsq = 25}, {.max_norm = 10}, 1},
    {{.loss = 2, .grad_sumsq = 0}, {.max_norm = 1}, 1},
    {{.loss = 2, .grad_sumsq = 25 * 64, .loss_scale = 8, .skipped_in_row = 4}, {.max_norm = 0}, 2},
    {{.loss = 2, .grad_sumsq = INFINITY, .skipped = 5}, {.max_norm = 0}, 3},
    {{.loss = -INFINITY, .grad_sumsq = 1}, {.max_norm = 1}, 1},
    {{.loss = 2, .grad_sumsq = 0x1p40, .loss_scale = 65536, .good_steps = 1997}, {1, true}, 2},
    {{.loss = 2, .grad_sumsq = 0x1p40, .loss_scale = 65536, .good_steps = 1997}, {1, true}, 3},
    {{.loss = 2, .grad_sumsq = 0x1p40, .loss_scale = 65536, .good_steps = 1997}, {1, true}, 4},
    {{.loss = 2, .grad_sumsq = INFINITY, .loss_scale = 65536, .good_steps = 1999}, {0, true}, 1},
    {{.loss = 2, .grad_sumsq = INFINITY, .loss_scale = 65536}, {0, true}, 20},
};

static void clip_coef(op_side *s) {
    op_scalars(s, (rw_step_scalars){.step = 41}, steps[s->variant].own);
    for (int i = 0; i < steps[s->variant].runs; i++) OP_RUN(s, clip_coef, &steps[s->variant].args);
    op_own_out(s);
    op_factor(s, 1e-6);
}

OP_CASES(reduce) = {{"sum", sum, N_SIZES, 0}, {"clip_coef", clip_coef, sizeof steps / sizeof *steps, 0}, OP_END};
