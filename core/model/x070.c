/* x070 (RWKV-7 "Goose", arXiv:2503.14456): parameters, initial values, one block.
 *
 * The values of block 0 go to every later block (carry 0), which mix their own with them; so block 0 has v0, v1 and v2
 * as every block does and never uses them. Ranks of the LoRA matrices are those of RWKV-LM's RWKV-v7/train_temp;
 * released models have others, read from the file. The order of the roles is the order of an official file; `place`
 * puts receptance, key and value side by side. The tutorial's trainer has no x070: both official forms of the initial
 * values (plan key model.init) are train_temp's. */
#include "core/model/formula.h"
#include "core/model/model.h"
#include "core/model/role_rows.h"

#include <math.h>

#define GROUP_NORM_EPS 64e-5 /* fixed: head_size_divisor does not count here */

/* -- initial values: see formula.h --------------------------------------------------------------------------------- */

/* 1 - x^(p r) */
static double shift(const void *site, double p, int64_t i) {
    return 1.0 - pow(rw_init_x(site, i), p * rw_init_r(site));
}
static double shift_slow(const void *site, int64_t i) {
    return shift(site, 0.2, i);
}
static double shift_decay(const void *site, int64_t i) {
    return shift(site, 0.9, i);
}
static double shift_key(const void *site, int64_t i) {
    return shift(site, 0.7, i);
}
static double shift_ffn(const void *site, int64_t i) {
    return 1.0 - pow(rw_init_x(site, i), pow(rw_init_r(site), 4));
}

/* From -1/2 in the first channel to 1/2 in the last. */
static double linear(const void *site, int64_t i) {
    const rw_init_site *s = site;
    return (double)i / (double)(s->shape->n_embd - 1) - 0.5;
}
/* t |t|, with t from -1 in the first channel of each head to 1 in its last. */
static double zigzag(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double middle = (double)(s->shape->head_size - 1) / 2;
    double t = ((double)(i % s->shape->head_size) - middle) / middle;
    return t * fabs(t);
}

static double decay(const void *site, int64_t i) {
    double rising = pow(linear(site, i) + 0.5, 1.0 + pow(rw_init_q(site), 0.3));
    return -6.0 + 6.0 * rising + 0.5 + 2.5 * zigzag(site, i);
}
static double learning_rate(const void *site, int64_t i) {
    return -0.19 + 0.3 * zigzag(site, i) + 0.4 * linear(site, i);
}
static double value_share(const void *site, int64_t i) {
    return 0.73 - 0.4 * linear(site, i);
}
static double removal_key(const void *site, int64_t i) {
    return 0.71 - 0.1 * linear(site, i);
}

/* -- parameters ---------------------------------------------------------------------------------------------------- */

#define ROLES(X)                                                                                                       \
    RW_ROLES_BEFORE(X)                                                                                                 \
    RW_ROLES_NORMS(X)                                                                                                  \
    X(X_R, "att.x_r", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_slow))                                                  \
    X(X_W, "att.x_w", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_decay))                                                 \
    X(X_K, "att.x_k", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_key))                                                   \
    X(X_V, "att.x_v", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_key))                                                   \
    X(X_A, "att.x_a", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_decay))                                                 \
    X(X_G, "att.x_g", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_slow))                                                  \
    X(W1, "att.w1", "C Rw", EVERY, 30, PLAIN, CONSTANT(0))                                                             \
    X(W2, "att.w2", "Rw C", EVERY, 30, PLAIN, ORTHOGONAL_TALL(0.1))                                                    \
    X(W0, "att.w0", "1 1 C", EVERY, 20, W0, FORMULA(decay))                                                            \
    X(A1, "att.a1", "C Ra", EVERY, 30, PLAIN, CONSTANT(0))                                                             \
    X(A2, "att.a2", "Ra C", EVERY, 30, PLAIN, ORTHOGONAL_TALL(0.1))                                                    \
    X(A0, "att.a0", "1 1 C", EVERY, 20, PLAIN, FORMULA(learning_rate))                                                 \
    X(V1, "att.v1", "C Rv", EVERY, 30, PLAIN, CONSTANT(0), .idle_first = true)                                         \
    X(V2, "att.v2", "Rv C", EVERY, 30, PLAIN, ORTHOGONAL_TALL(0.1), .idle_first = true)                                \
    X(V0, "att.v0", "1 1 C", EVERY, 20, PLAIN, FORMULA(value_share), .idle_first = true)                               \
    X(G1, "att.g1", "C Rg", EVERY, 30, PLAIN, CONSTANT(0))                                                             \
    X(G2, "att.g2", "Rg C", EVERY, 30, PLAIN, ORTHOGONAL_TALL(0.1))                                                    \
    X(K_K, "att.k_k", "1 1 C", EVERY, 20, PLAIN, FORMULA(removal_key))                                                 \
    X(K_A, "att.k_a", "1 1 C", EVERY, 20, PLAIN, CONSTANT(1.02))                                                       \
    X(R_K, "att.r_k", "H N", EVERY, 20, PLAIN, CONSTANT(-0.04))                                                        \
    X(RECEPTANCE, "att.receptance.weight", "C C", EVERY, 0, MATRIX, ORTHOGONAL(1))                                     \
    X(KEY, "att.key.weight", "C C", EVERY, 1, MATRIX, ORTHOGONAL(0.1))                                                 \
    X(VALUE, "att.value.weight", "C C", EVERY, 2, MATRIX, ORTHOGONAL(1))                                               \
    X(OUTPUT, "att.output.weight", "C C", EVERY, 3, MATRIX, CONSTANT(0))                                               \
    X(LN_X_W, "att.ln_x.weight", "C", EVERY, 10, PLAIN, FORMULA(rw_init_ln_x))                                         \
    X(LN_X_B, "att.ln_x.bias", "C", EVERY, 10, PLAIN, CONSTANT(0))                                                     \
    X(FFN_X_K, "ffn.x_k", "1 1 C", EVERY, 20, PLAIN, FORMULA(shift_ffn))                                               \
    X(FFN_KEY, "ffn.key.weight", "F C", EVERY, 4, MATRIX, ORTHOGONAL(1))                                               \
    X(FFN_VALUE, "ffn.value.weight", "C F", EVERY, 5, MATRIX, CONSTANT(0))                                             \
    RW_ROLES_AFTER(X)

enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};

/* factor * sqrt(C) as the nearest multiple of 32 (halfway: the even one, as Python rounds), at least 32 */
static int64_t rank_of(const rw_plan_model *s, double factor) {
    int64_t rank = 32 * llrint(factor * sqrt((double)s->n_embd) / 32);
    return rank > 32 ? rank : 32;
}

static void default_shape(rw_plan_model *s) {
    if (!s->dim_ffn) s->dim_ffn = 4 * s->n_embd;
    if (!s->lora_w) s->lora_w = rank_of(s, 2.5);
    if (!s->lora_a) s->lora_a = rank_of(s, 2.5);
    if (!s->lora_v) s->lora_v = rank_of(s, 1.7);
    if (!s->lora_g) s->lora_g = rank_of(s, 5);
}

/* -- forward ----------------------------------------------------------------------------------------------------- */

enum { ATT_SHIFT, FFN_SHIFT, WKV, N_FIELDS };
static const rw_state_field fields[] = {
    [ATT_SHIFT] = {"att_shift", "C", NULL}, /* the layer norm of the last token */
    [FFN_SHIFT] = {"ffn_shift", "C", NULL},
    [WKV] = {"wkv", "H N N", NULL}, /* row = value channel */
};
enum { V_FIRST }; /* carry */

#define W(role) rw_role_of(m, io->layer, role)

enum { XR, XK, XV, XW, XA, XG, N_MIX }; /* r, k, v as their weights lie */

static void shift_tokens(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x, rw_tensor *mix[N_MIX]) {
    rw_token_shift_in in = {.rows = io->rows, .x = x, .gamma = W(LN1_W), .beta = W(LN1_B), .eps = 1e-5};
    in.n_mix = N_MIX;
    in.n_slab = XV + 1;
    in.mu[XR] = W(X_R);
    in.mu[XK] = W(X_K);
    in.mu[XV] = W(X_V);
    in.mu[XW] = W(X_W);
    in.mu[XA] = W(X_A);
    in.mu[XG] = W(X_G);
    in.shift_in = io->state_in[ATT_SHIFT];
    in.shift_to = io->state_out[ATT_SHIFT];
    rw_token_shift(t, &in, mix, NULL, rw_block_state_out(io, ATT_SHIFT));
}

/* f(x down) up: of low rank */
static rw_tensor *lora(rw_tape *t, rw_tensor *x, rw_tensor *down, rw_epilogue f, rw_tensor *up) {
    return rw_matmul(t, rw_matmul_act(t, x, down, false, f), up, false, NULL);
}

/* In block 0 each by itself: its values stay until the last block, and would hold the memory of a group. */
static void project_rkv(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *const mix[N_MIX], rw_tensor *y[]) {
    rw_tensor *w[] = {W(RECEPTANCE), W(KEY), W(VALUE)};
    if (io->layer > 0)
        rw_linear_group(t, 3, mix, w, true, y);
    else
        for (int i = 0; i < 3; i++) y[i] = rw_matmul(t, mix[i], w[i], true, NULL);
}

/* The products; of block 0 its values go to the others. The group comes last, so that it is the first to write the
 * gradient of mix[XV]: it must write all of its gradients alike. */
static void project(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *const mix[N_MIX], rw_wkv7_in *in) {
    rw_tensor *rkv[3];
    in->w_raw = lora(t, mix[XW], W(W1), RW_EPILOGUE_TANH, W(W2));
    in->a_up = lora(t, mix[XA], W(A1), RW_EPILOGUE_NONE, W(A2));
    in->g = lora(t, mix[XG], W(G1), RW_EPILOGUE_SIGMOID, W(G2));
    if (io->layer > 0) in->v_up = lora(t, mix[XV], W(V1), RW_EPILOGUE_NONE, W(V2));
    project_rkv(m, t, io, mix, rkv);
    in->r = rkv[XR];
    in->k0 = rkv[XK];
    in->v = rkv[XV];
    if (io->layer > 0)
        in->v_first = io->carry[V_FIRST];
    else
        io->carry[V_FIRST] = in->v;
}

/* x + output(wkv7(...)): see kernels/wkv7.h */
static rw_tensor *time_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_tensor *mix[N_MIX];
    shift_tokens(m, t, io, x, mix);
    rw_wkv7_in in = {.rows = io->rows, .n_head = m->shape.n_head, .head_size = m->shape.head_size};
    project(m, t, io, mix, &in);
    in.w0 = W(W0);
    in.a0 = W(A0);
    in.v0 = W(V0);
    in.k_k = W(K_K);
    in.k_a = W(K_A);
    in.r_k = W(R_K);
    in.ln_w = W(LN_X_W);
    in.ln_b = W(LN_X_B);
    in.eps = GROUP_NORM_EPS;
    in.s0 = io->state_in[WKV];
    in.s_to = io->state_out[WKV];
    rw_tensor *y = rw_wkv7(t, &in, rw_block_state_out(io, WKV));
    return rw_matmul(t, y, W(OUTPUT), true, x);
}

/* x + value(relu(key(xk))^2) */
static rw_tensor *channel_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_token_shift_in in = {.rows = io->rows, .x = x, .gamma = W(LN2_W), .beta = W(LN2_B), .eps = 1e-5, .n_mix = 1};
    in.mu[0] = W(FFN_X_K);
    in.shift_in = io->state_in[FFN_SHIFT];
    in.shift_to = io->state_out[FFN_SHIFT];
    rw_tensor *xk;
    rw_token_shift(t, &in, &xk, NULL, rw_block_state_out(io, FFN_SHIFT));
    rw_tensor *k = rw_matmul_act(t, xk, W(FFN_KEY), true, RW_EPILOGUE_RELU_SQ);
    return rw_matmul(t, k, W(FFN_VALUE), true, x);
}

static rw_tensor *block(const rw_model *m, rw_tape *t, rw_block_io *io) {
    return channel_mix(m, t, io, time_mix(m, t, io, io->x));
}

const rw_arch rw_arch_x070 = {.name = "x070",
                              .mark = ".att.x_",
                              .roles = roles,
                              .n_roles = N_ROLES,
                              .fields = fields,
                              .n_fields = N_FIELDS,
                              .block = block,
                              .default_shape = default_shape};
