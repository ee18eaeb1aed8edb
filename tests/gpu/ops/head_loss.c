/* Cross entropy. Variants: vocabularies that fit the shared memory and that do not, that fill packs and that do not,
 * more rows than blocks; equal and extreme logits, ties (few numbers of bf16 lie in the range), masks, L2Wrap, loss
 * scales. */
#include "tests/gpu/ops/ops.h"

#include <math.h>

typedef struct {
    int64_t R, V;
    double size; /* of the logits */
    enum { SOME, NONE, ALL_ZERO } mask;
    rw_step_scalars scalars;
    double loss_scale;
} problem;

static const problem problems[] = {
    {1, 1, 1, NONE, {.normaliser = 1, .l2wrap_mask = 1e-2}, 0},
    {3, 2, 1, SOME, {.normaliser = 0.5}, 0},
    {5, 37, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2, .l2wrap_rows = 3e-2}, 0},
    {4, 1000, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-4}, 1024},
    {3, 1000, 1e4, NONE, {.normaliser = 0.25, .l2wrap_mask = 1e-7}, 0},
    {3, 1000, 0, NONE, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
    {6, 320, 5, ALL_ZERO, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 2},
    {6, 320, 5, ALL_ZERO, {.normaliser = 0.25, .l2wrap_rows = 1e-2}, 2},
    {7, 320, 8, SOME, {.normaliser = 0.25, .l2wrap_rows = 1e-2}, 0},
    {9, 8184, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
    {2, 50277, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
    {3, 65536, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 64},
    {2, 65536, 20, NONE, {.normaliser = 0.25}, 0},
    {2, 131080, 5, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
    {9001, 16, 3, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
    {300, 2048, 4, SOME, {.normaliser = 0.25, .l2wrap_mask = 1e-2}, 0},
};

static double mask_value(const void *ctx, int64_t i) {
    const problem *p = ctx;
    return p->mask == ALL_ZERO ? 0 : (double)(i % 3) * 0.5;
}

static void head_loss(op_side *s) {
    const problem *p = &problems[s->variant];
    op_scalars(s, p->scalars, (rw_device_scalars){.loss_scale = p->loss_scale});
    rw_head_loss_args a = {.dtype = s->narrow, .R = p->R, .V = p->V, .want_grad = true};
    a.targets = op_random_ints(s, "targets", p->R, (int32_t)p->V);
    if (p->mask != NONE) a.mask = op_in_of(s, "mask", OP_FLOAT, p->R, mask_value, p);
    a.logits = op_both(s, "logits", OP_NARROW, p->R * p->V, -p->size, p->size);
    a.loss = op_out(s, "loss", OP_WIDE, p->R);
    op_exact(s);
    OP_RUN(s, head_loss, &a);

    a.want_grad = false; /* evaluation: logits stay */
    a.logits = op_both(s, "read only", OP_NARROW, p->R * p->V, -p->size, p->size);
    op_factor(s, 1e-9);
    a.loss = op_out(s, "loss alone", OP_WIDE, p->R);
    op_exact(s);
    OP_RUN(s, head_loss, &a);
}

/* The target is the largest, by more and more; then the tokens with -infinity. */
static double peaked(const void *ctx, int64_t i) {
    const int64_t V = *(const int64_t *)ctx, row = i / V, j = i % V;
    if (j == row) return 2.0 * (double)row;
    return j % 7 == 6 ? -INFINITY : (double)(j % 5) * 0.25;
}

static void head_loss_peaked(op_side *s) {
    static const int64_t sizes[] = {97, 4096};
    enum { R = 13 };
    const int64_t V = sizes[s->variant];
    int32_t targets[R];
    for (int i = 0; i < R; i++) targets[i] = i;
    op_scalars(s, (rw_step_scalars){.normaliser = 1, .l2wrap_mask = 1e-3}, (rw_device_scalars){0});
    rw_head_loss_args a = {.dtype = s->narrow, .R = R, .V = V, .want_grad = true};
    a.targets = op_ints(s, targets, R);
    void *from = op_in_of(s, "logits", OP_NARROW, R * V, peaked, &V);
    a.logits = op_out(s, "dlogits", OP_NARROW, R * V);
    op_factor(s, 4); /* softmax - 1 cancels where softmax is nearly 1 */
    OP_RUN(s, unary_forward, (&(rw_unary_args){.dtype = s->narrow, .n = R * V, .x = from, .out = a.logits}));
    a.loss = op_out(s, "loss", OP_WIDE, R);
    op_exact(s);
    OP_RUN(s, head_loss, &a);
}

OP_CASES(head_loss) = {{"head_loss", head_loss, sizeof problems / sizeof *problems, 0},
                       {"head_loss.peaked", head_loss_peaked, 2, 0},
                       OP_END};
