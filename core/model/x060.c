/* x060 (RWKV-6 "Finch", arXiv:2404.05892): parameters, initial values, one block.
 *
 * The order of the roles is the order of an official file; `place` puts receptance, key, value and gate side by side.
 * Initial values: the tutorial's form, or RWKV-LM's newest (plan key model.init), which differs in ffn.time_maa_*. */
#include "core/model/model.h"
#include "core/model/role_rows.h"

#include <math.h>
#include <string.h>

/* -- initial values: r = 1 - layer/L, q = layer/(L-1), x = i/C ------------------------------------------------- */

static double ratio_1_to_0(const rw_init_site *s) {
    return 1.0 - (double)s->layer / (double)s->shape->n_layer;
}
static double ratio_0_to_1(const rw_init_site *s) {
    return s->shape->n_layer > 1 ? (double)s->layer / (double)(s->shape->n_layer - 1) : 0; /* one layer: as the first */
}
static double channel(const rw_init_site *s, int64_t i) {
    return (double)i / (double)s->shape->n_embd;
}

static double maa_full(const void *site, int64_t i) {
    const rw_init_site *s = site;
    return 1.0 - pow(channel(s, i), ratio_1_to_0(s));
}
static double maa_value(const void *site, int64_t i) {
    const rw_init_site *s = site;
    return 1.0 - (pow(channel(s, i), ratio_1_to_0(s)) + 0.3 * ratio_0_to_1(s));
}
static double maa_half(const void *site, int64_t i) {
    const rw_init_site *s = site;
    return 1.0 - pow(channel(s, i), 0.5 * ratio_1_to_0(s));
}
static double maa_ffn(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double r = ratio_1_to_0(s);
    if (s->shape->init && strcmp(s->shape->init, "newest") == 0) r = r * r * r;
    return 1.0 - pow(channel(s, i), r);
}
static double decay_speed(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double n = (double)(s->shape->n_embd - 1);
    return -6.0 + 5.0 * pow((double)i / n, 0.7 + 1.3 * ratio_0_to_1(s));
}
static double faaaa(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double n = (double)(s->shape->n_embd - 1), zigzag = (double)((i + 1) % 3 - 1) * 0.1;
    return ratio_0_to_1(s) * (1.0 - (double)i / n) + zigzag;
}
static double ln_x_weight(const void *site, int64_t i) {
    const rw_init_site *s = site;
    (void)i;
    return pow((double)(1 + s->layer) / (double)s->shape->n_layer, 0.7);
}

/* -- parameters ---------------------------------------------------------------------------------------------------- */

#define ROLES(X)                                                                                                       \
    RW_ROLES_BEFORE(X)                                                                                                 \
    RW_ROLES_NORMS(X)                                                                                                  \
    X(MAA_X, "att.time_maa_x", "1 1 C", EVERY, 20, MIX, FORMULA(maa_full))                                             \
    X(MAA_W, "att.time_maa_w", "1 1 C", EVERY, 20, MIX, FORMULA(maa_full))                                             \
    X(MAA_K, "att.time_maa_k", "1 1 C", EVERY, 20, MIX, FORMULA(maa_full))                                             \
    X(MAA_V, "att.time_maa_v", "1 1 C", EVERY, 20, MIX, FORMULA(maa_value))                                            \
    X(MAA_R, "att.time_maa_r", "1 1 C", EVERY, 20, MIX, FORMULA(maa_half))                                             \
    X(MAA_G, "att.time_maa_g", "1 1 C", EVERY, 20, MIX, FORMULA(maa_half))                                             \
    X(MAA_W1, "att.time_maa_w1", "C 5Rm", EVERY, 30, PLAIN, CONSTANT(0))                                               \
    X(MAA_W2, "att.time_maa_w2", "5 Rm C", EVERY, 30, PLAIN, UNIFORM(0.01))                                            \
    X(DECAY, "att.time_decay", "1 1 C", EVERY, 20, DECAY, FORMULA(decay_speed))                                        \
    X(DECAY_W1, "att.time_decay_w1", "C Rd", EVERY, 30, PLAIN, CONSTANT(0))                                            \
    X(DECAY_W2, "att.time_decay_w2", "Rd C", EVERY, 30, PLAIN, UNIFORM(0.01))                                          \
    X(FAAAA, "att.time_faaaa", "H N", EVERY, 20, BONUS, FORMULA(faaaa))                                                \
    X(RECEPTANCE, "att.receptance.weight", "C C", EVERY, 0, MATRIX, ORTHOGONAL(1))                                     \
    X(KEY, "att.key.weight", "C C", EVERY, 1, MATRIX, ORTHOGONAL(0.1))                                                 \
    X(VALUE, "att.value.weight", "C C", EVERY, 2, MATRIX, ORTHOGONAL(1))                                               \
    X(OUTPUT, "att.output.weight", "C C", EVERY, 4, MATRIX, CONSTANT(0))                                               \
    X(GATE, "att.gate.weight", "C C", EVERY, 3, MATRIX, ORTHOGONAL(0.1))                                               \
    X(LN_X_W, "att.ln_x.weight", "C", EVERY, 10, PLAIN, FORMULA(ln_x_weight))                                          \
    X(LN_X_B, "att.ln_x.bias", "C", EVERY, 10, PLAIN, CONSTANT(0))                                                     \
    X(FFN_MAA_K, "ffn.time_maa_k", "1 1 C", EVERY, 20, MIX, FORMULA(maa_ffn))                                          \
    X(FFN_MAA_R, "ffn.time_maa_r", "1 1 C", EVERY, 20, MIX, FORMULA(maa_ffn))                                          \
    X(FFN_KEY, "ffn.key.weight", "F C", EVERY, 5, MATRIX, ORTHOGONAL(1))                                               \
    X(FFN_RECEPTANCE, "ffn.receptance.weight", "C C", EVERY, 6, MATRIX, CONSTANT(0))                                   \
    X(FFN_VALUE, "ffn.value.weight", "C F", EVERY, 7, MATRIX, CONSTANT(0))                                             \
    RW_ROLES_AFTER(X)

enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};

static void default_shape(rw_plan_model *s) {
    bool large = s->n_embd >= 4096;
    if (!s->head_size) s->head_size = 64;
    if (!s->dim_ffn) s->dim_ffn = s->n_embd * 7 / 2 / 32 * 32;
    if (!s->lora_mix) s->lora_mix = large ? 64 : 32;
    if (!s->lora_decay) s->lora_decay = large ? 128 : 64;
}

/* -- forward ----------------------------------------------------------------------------------------------------- */

enum { ATT_SHIFT, FFN_SHIFT, WKV, N_FIELDS };
static const rw_state_field fields[] = {
    [ATT_SHIFT] = {"att_shift", "C"}, /* the layer norm of the last token */
    [FFN_SHIFT] = {"ffn_shift", "C"},
    [WKV] = {"wkv", "H N N"}, /* row = value channel */
};

#define W(role) rw_role_of(m, io->layer, role)

/* x + output(GN(wkv6(r, k, v, w)) * silu(g)) */
static rw_tensor *time_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    const rw_plan_model *s = &m->shape;
    rw_token_shift_in shift = {.rows = io->rows, .x = x, .gamma = W(LN1_W), .beta = W(LN1_B), .eps = 1e-5, .n_mix = 1};
    shift.mu[0] = W(MAA_X);
    shift.shift_in = io->state_in[ATT_SHIFT];
    shift.shift_to = io->state_out[ATT_SHIFT];
    rw_tensor *xxx, *xn;
    rw_token_shift(t, &shift, &xxx, &xn, rw_block_state_out(io, ATT_SHIFT));

    rw_tensor *h = rw_matmul(t, xxx, W(MAA_W1), false, NULL);
    rw_tensor *mu[] = {W(MAA_W), W(MAA_K), W(MAA_V), W(MAA_R), W(MAA_G)}, *mix[RW_DDLERP_MIX];
    rw_ddlerp(t, io->rows, xn, shift.shift_in, h, W(MAA_W2), mu, mix);
    rw_tensor *xw = mix[0], *xk = mix[1], *xv = mix[2], *xr = mix[3], *xg = mix[4];

    rw_tensor *decay = rw_unary(t, RW_UNARY_TANH, rw_matmul(t, xw, W(DECAY_W1), false, NULL), 0);
    rw_wkv6_in wkv = {.rows = io->rows, .n_head = s->n_head, .head_size = s->head_size};
    wkv.r = rw_matmul(t, xr, W(RECEPTANCE), true, NULL);
    wkv.k = rw_matmul(t, xk, W(KEY), true, NULL);
    wkv.v = rw_matmul(t, xv, W(VALUE), true, NULL);
    wkv.gate = rw_matmul(t, xg, W(GATE), true, NULL);
    wkv.w_raw = rw_matmul(t, decay, W(DECAY_W2), false, NULL);
    wkv.w0 = W(DECAY);
    wkv.u = W(FAAAA);
    wkv.s0 = io->state_in[WKV];
    wkv.s_to = io->state_out[WKV];
    wkv.ln_w = W(LN_X_W);
    wkv.ln_b = W(LN_X_B);
    wkv.eps = 1e-5 * s->head_size_divisor * s->head_size_divisor;
    rw_tensor *y = rw_wkv6(t, &wkv, rw_block_state_out(io, WKV));
    return rw_matmul(t, y, W(OUTPUT), true, x);
}

/* x + sigmoid(receptance(xr)) * value(relu(key(xk))^2) */
static rw_tensor *channel_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_token_shift_in shift = {.rows = io->rows, .x = x, .gamma = W(LN2_W), .beta = W(LN2_B), .eps = 1e-5, .n_mix = 2};
    shift.mu[0] = W(FFN_MAA_K);
    shift.mu[1] = W(FFN_MAA_R);
    shift.shift_in = io->state_in[FFN_SHIFT];
    shift.shift_to = io->state_out[FFN_SHIFT];
    rw_tensor *mix[2];
    rw_token_shift(t, &shift, mix, NULL, rw_block_state_out(io, FFN_SHIFT));
    rw_tensor *k = rw_relu_sq(t, rw_matmul(t, mix[0], W(FFN_KEY), true, NULL));
    rw_tensor *p = rw_matmul(t, k, W(FFN_VALUE), true, NULL);
    rw_tensor *q = rw_matmul(t, mix[1], W(FFN_RECEPTANCE), true, NULL);
    return rw_rgate(t, q, p, x);
}

static rw_tensor *block(const rw_model *m, rw_tape *t, rw_block_io *io) {
    return channel_mix(m, t, io, time_mix(m, t, io, io->x));
}

const rw_arch rw_arch_x060 = {.name = "x060",
                              .mark = "time_maa_",
                              .roles = roles,
                              .n_roles = N_ROLES,
                              .fields = fields,
                              .n_fields = N_FIELDS,
                              .block = block,
                              .default_shape = default_shape};
