/* head_qk. Variants: few tokens, so that many rows name the same one; sequences longer than a piece of the kernel,
 * packed ones with empty ones between; chunks of rows; NULL for each gradient; adding. */
#include "tests/gpu/ops/ops.h"

typedef struct {
    int64_t R, Q, V, n_seq, first, n;
    int32_t cu[8]; /* all zero: equal lengths */
} problem;

static const problem problems[] = {
    {1, 8, 5, 1, 0, 1, {0}},
    {34, 5, 11, 2, 0, 34, {0}},
    {65, 64, 1000, 5, 0, 65, {0, 1, 1, 17, 65, 65}},
    {65, 64, 11, 7, 10, 30, {0, 0, 1, 17, 33, 33, 64, 65}},
    {600, 32, 7, 1, 0, 600, {0}},
    {600, 32, 300, 2, 250, 200, {0}},
    {90, 320, 50, 3, 60, 30, {0, 40, 40, 90}},
};

static void copy_head(op_side *s) {
    const problem *p = &problems[s->variant];
    rw_copy_head_args a = {.dtype = s->narrow, .R = p->R, .Q = p->Q, .V = p->V, .n_seq = p->n_seq};
    a.first = p->first;
    a.n = p->n;
    a.scale = 1 / (double)p->Q;
    if (p->cu[p->n_seq]) a.cu_seqlens = op_ints(s, p->cu, p->n_seq + 1);
    a.tokens = op_random_ints(s, "tokens", p->R, (int32_t)p->V);
    a.q = op_in(s, "q", OP_NARROW, p->R * p->Q, -2, 2);
    a.k = op_in(s, "k", OP_NARROW, p->R * p->Q, -2, 2);
    a.logits = op_both(s, "logits", OP_NARROW, p->n * p->V, -1, 1);
    OP_RUN(s, copy_head_forward, &a);

    a.dlogits = op_in(s, "dlogits", OP_NARROW, p->n * p->V, -1, 1);
    for (int k = 0; k < 3; k++) {
        a.add = k == 1 ? RW_COPY_HEAD_ADD_K : 0;
        a.dq = k == 1 ? NULL : op_both(s, "dq", OP_NARROW, p->R * p->Q, -1, 1);
        a.dk = k == 2 ? NULL : op_both(s, "dk", OP_NARROW, p->R * p->Q, -1, 1);
        OP_RUN(s, copy_head_backward, &a);
    }
}

OP_CASES(copy_head) = {{"copy_head", copy_head, sizeof problems / sizeof *problems, 0}, OP_END};
