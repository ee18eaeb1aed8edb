/* AdamW in every form, against the same form in fp64: the rounding at random has the same random bits, so that values
 * agree but where fp32 and fp64 fall on different sides of a border (1 in 65536 for an ulp), by one number of bf16.
 * Variants: the form, a wide gradient, what the numbers are. Padding and skipped steps are compared bit by bit. */
#include "kernels/rounding.h"
#include "tests/gpu/ops/ops.h"

#include "core/base/rng.h"

#include <math.h>
#include <stdlib.h>

typedef enum { FP32, A16, B12, B8, FORMS } form;

/* -- ranges ---------------------------------------------------------------------------------------------------- */

enum { FLAT = 40000, MANY = 600 };

/* Beside others: one element, the middle of a parameter, one that does not begin on 16 bytes, one after the other
 * without padding, an empty one. */
static const rw_adamw_range few[] = {
    {.offset = 0, .n = 1, .lr_scale = 1, .stream = 5},
    {.offset = 64, .n = 9001, .lr_scale = 2.5, .decay = 1, .stream = 6},
    {.offset = 9088, .n = 3000, .lr_scale = 0.5, .stream = 7, .first = 1001},
    {.offset = 12093, .n = 1003, .lr_scale = 1, .decay = 1, .stream = 8},
    {.offset = 13120, .n = 0, .lr_scale = 1, .stream = 9},
    {.offset = 13184, .n = 4096, .lr_scale = 1, .stream = 10},
    {.offset = 17280, .n = 8192, .lr_scale = 1, .decay = 1, .stream = 10, .first = 4096},
};

/* More than a block looks at together, out of order. */
static const rw_adamw_range *many(void) {
    static rw_adamw_range r[MANY];
    for (int i = 0; i < MANY; i++) {
        const int at = i * 7 % MANY;
        r[i] = (rw_adamw_range){.offset = at * 64, .n = 1 + at * 13 % 64, .lr_scale = 1 + i % 3, .decay = i % 2};
        r[i].stream = (uint64_t)i;
    }
    return r;
}

static const rw_adamw_range *ranges_of(op_side *s, bool lots, int64_t *n) {
    const rw_adamw_range *r = lots ? many() : few;
    *n = lots ? MANY : (int64_t)(sizeof few / sizeof *few);
    return (const rw_adamw_range *)op_ints(s, (const int32_t *)r, *n * (int64_t)sizeof *r / 4);
}

/* -- moments in bf16, on both sides: two of them in an int ------------------------------------------------------------
 */

static void *bf16_in(op_side *s, uint64_t stream, double lo, double hi) {
    int32_t *pairs = calloc(FLAT / 2, sizeof *pairs);
    if (!pairs) abort();
    for (int64_t i = 0; i < FLAT; i++) {
        const double x = lo + (hi - lo) * (double)(rw_rng_u64_at(7, stream, (uint64_t)i) >> 11) * 0x1p-53;
        ((uint16_t *)pairs)[i] = rw_bf16_from_f32((float)x);
    }
    void *p = op_ints(s, pairs, FLAT / 2);
    free(pairs);
    return p;
}

static void compare_bf16(op_side *s, const char *name, const void *x, double factor) {
    const rw_cast_args a = {
        .n = FLAT, .from = RW_BF16, .to = rw_wide(s->narrow), .src = x, .dst = op_out(s, name, OP_WIDE, FLAT)};
    op_factor(s, factor);
    OP_RUN(s, cast, &a);
}

/* -- a step ------------------------------------------------------------------------------------------------------ */

/* What the numbers are. EXACT_P and EXACT_M: such that fp32 makes no error, so that every random bit counts: no
 * gradient, betas of few digits; then p decays by 2^-10 and v by 1/8, or (lr = 0) m by 1/4. */
typedef enum { PLAIN, MANY_RANGES, FRESH, SKIPPED, NO_DECAY, EXACT_P, EXACT_M, CASES } numbers;

typedef struct {
    form f;
    numbers what;
    bool wide_grad;
    double value_factor;  /* on the limits of p: what a number of bf16 more or less makes, or nothing */
    double moment_factor; /* of m and v in bf16 */
} setting;

static setting setting_of(const op_side *s) {
    setting x = {.f = (form)(s->variant % FORMS), .what = (numbers)(s->variant / FORMS % CASES)};
    const bool exact = x.what == EXACT_P || x.what == EXACT_M;
    const double one_more = s->grid == RW_F32 ? 1000 : 1;
    x.wide_grad = s->variant >= FORMS * CASES;
    const bool same = x.what == SKIPPED || x.what == EXACT_M || (x.what == EXACT_P && x.f != A16); /* fp32 master */
    x.value_factor = same ? 1e-9 : x.f == FP32 ? 1 : one_more;
    x.moment_factor = x.what == SKIPPED || exact ? 1e-9 : one_more;
    return x;
}

static void set_scalars(op_side *s, const setting *x) {
    const bool exact = x->what == EXACT_P || x->what == EXACT_M;
    rw_step_scalars step = {.step = 7, .lr = 1e-2, .weight_decay = 0.1, .seed = 11};
    rw_device_scalars own = {.updates = x->what == FRESH ? 1 : 3, .grad_scale = 0.5};
    if (exact) step.weight_decay = 0.25, step.lr = x->what == EXACT_P ? 0x1p-8 : 0;
    own.skipped_in_row = x->what == SKIPPED;
    op_scalars(s, step, own);
}

static double some_zeros(const void *ctx, int64_t i) {
    const double scale = *(const double *)ctx;
    return i % 11 ? scale * ((double)(rw_rng_u64_at(7, 99, (uint64_t)i) >> 11) * 0x1p-52 - 1) : 0;
}

static void adamw(op_side *s) {
    const setting x = setting_of(s);
    const bool exact = x.what == EXACT_P || x.what == EXACT_M, narrow = x.f != FP32;
    const double high_m = x.what == FRESH || x.what == EXACT_P ? 0 : 1, high_v = x.what == FRESH ? 0 : 1;
    const double grad_size = exact ? 0 : 2;
    rw_adamw_args a = {.dtype = narrow ? s->narrow : rw_wide(s->narrow), .p_grid = narrow ? RW_BF16 : RW_DTYPE_NONE};
    a.beta1 = exact ? 0.75 : 0.9;
    a.beta2 = exact ? 0.875 : 0.99;
    a.eps = 1e-18;
    a.adam_w_mode = x.what != NO_DECAY;
    set_scalars(s, &x);
    a.ranges = ranges_of(s, x.what == MANY_RANGES, &a.n_ranges);

    a.p = op_both(s, "p", narrow ? OP_NARROW : OP_WIDE, FLAT, -1, 1);
    if (!narrow) op_exact(s);
    if (x.what == SKIPPED || narrow) op_factor(s, x.value_factor);
    if (narrow) OP_RUN(s, round_to, (&(rw_round_args){.dtype = s->narrow, .to = RW_BF16, .n = FLAT, .x = a.p}));
    const bool wide = x.wide_grad || !narrow;
    a.grad = op_in_of(s, "grad", wide ? OP_WIDE : OP_NARROW, FLAT, some_zeros, &grad_size);
    a.grad_dtype = wide ? rw_wide(s->narrow) : RW_DTYPE_NONE;
    if (x.f == A16) {
        a.master = op_both(s, "master", OP_WIDE, FLAT, -1, 1);
        op_exact(s);
    }
    if (x.f == B8) {
        a.moment_dtype = RW_BF16;
        a.m = bf16_in(s, 1, -high_m, high_m);
        a.v = bf16_in(s, 2, 1e-3 * high_v, high_v);
    } else {
        a.m = op_both(s, "m", OP_WIDE, FLAT, -high_m, high_m);
        op_exact(s);
        a.v = op_both(s, "v", OP_WIDE, FLAT, 1e-3 * high_v, high_v);
        op_exact(s);
    }
    OP_RUN(s, adamw, &a);
    if (x.f != B8) return;
    compare_bf16(s, "m in bf16", a.m, x.moment_factor);
    compare_bf16(s, "v in bf16", a.v, x.moment_factor);
}

/* fp16 has one narrow form: the nearest to master. The reference lets the master's number be p, and rounds a copy. */
static void adamw_f16(op_side *s) {
    rw_adamw_args a = {.dtype = s->narrow, .adam_w_mode = true, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-18};
    const double grad_size = 2;
    const bool wide = s->variant & 1, device = s->narrow == RW_F16, lots = s->variant & 2;
    op_scalars(s, (rw_step_scalars){.step = 7, .lr = 1e-2, .weight_decay = 0.1, .seed = 11},
               (rw_device_scalars){.updates = 3, .grad_scale = 0.5});
    a.ranges = ranges_of(s, lots, &a.n_ranges);
    a.p = op_both(s, "p", OP_NARROW, FLAT, 0, 0);
    a.master = op_both(s, "master", OP_WIDE, FLAT, -1, 1);
    op_exact(s);
    a.grad = op_in_of(s, "grad", wide ? OP_WIDE : OP_NARROW, FLAT, some_zeros, &grad_size);
    a.grad_dtype = wide ? rw_wide(s->narrow) : RW_DTYPE_NONE;
    a.m = op_both(s, "m", OP_WIDE, FLAT, -1, 1);
    op_exact(s);
    a.v = op_both(s, "v", OP_WIDE, FLAT, 1e-3, 1);
    op_exact(s);
    if (device) {
        OP_RUN(s, adamw, &a);
        return;
    }
    void *p = a.p;
    a.p = a.master;
    a.master = NULL;
    OP_RUN(s, adamw, &a);
    const rw_adamw_range *r = lots ? many() : few;
    for (int64_t i = 0; i < a.n_ranges; i++) { /* padding stays zero */
        const int64_t at = r[i].offset * rw_dtype_bytes(s->narrow);
        const rw_cast_args c = {
            .n = r[i].n, .from = s->narrow, .to = s->narrow, .src = (char *)a.p + at, .dst = (char *)p + at};
        OP_RUN(s, cast, &c);
    }
}

OP_CASES(adamw) = {{"adamw", adamw, 2 * FORMS *CASES, OP_F32 | OP_BF16}, {"adamw.f16", adamw_f16, 4, OP_F16}, OP_END};
