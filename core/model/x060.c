/* x060 (RWKV-6 "Finch", arXiv:2404.05892): parameters, initial values, one block.
 *
 * The order of the roles is the order of an official file; `place` puts receptance, key, value and gate side by side.
 * Initial values: the tutorial's form, or RWKV-LM's newest (plan key model.init), which differs in ffn.time_maa_*. */
#include "core/model/channel_mix.h"
#include "core/model/formula.h"
#include "core/model/model.h"
#include "core/model/role_rows.h"

#include <math.h>

/* -- initial values: see formula.h; maa = 1 - mix ----------------------------------------------------------------- */

static double maa(const void *site, int64_t i) {
    return 1.0 - rw_init_mix(site, i);
}
static double maa_value(const void *site, int64_t i) {
    return 1.0 - rw_init_mix_value(site, i);
}
static double maa_half(const void *site, int64_t i) {
    return 1.0 - rw_init_mix_half(site, i);
}
static double maa_ffn(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double r = rw_init_r(s);
    if (s->shape->init == RW_INIT_NEWEST) r = r * r * r;
    return 1.0 - pow(rw_init_x(s, i), r);
}

/* -- parameters ---------------------------------------------------------------------------------------------------- */

#define ROLES(X)                                                                                                       \
    RW_ROLES_COPY_BEFORE(X)                                                                                            \
    RW_ROLES_BEFORE(X)                                                                                                 \
    RW_ROLES_NORMS(X)                                                                                                  \
    X(MAA_X, "att.time_maa_x", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa))                                               \
    X(MAA_W, "att.time_maa_w", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa))                                               \
    X(MAA_K, "att.time_maa_k", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa))                                               \
    X(MAA_V, "att.time_maa_v", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa_value))                                         \
    X(MAA_R, "att.time_maa_r", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa_half))                                          \
    X(MAA_G, "att.time_maa_g", "1 1 C", TIME_MIX, 20, MIX, FORMULA(maa_half))                                          \
    X(MAA_W1, "att.time_maa_w1", "C 5Rm", TIME_MIX, 30, PLAIN, CONSTANT(0))                                            \
    X(MAA_W2, "att.time_maa_w2", "5 Rm C", TIME_MIX, 30, PLAIN, UNIFORM(0.01))                                         \
    X(DECAY, "att.time_decay", "1 1 C", TIME_MIX, 20, DECAY, FORMULA(rw_init_decay))                                   \
    X(DECAY_W1, "att.time_decay_w1", "C Rd", TIME_MIX, 30, PLAIN, CONSTANT(0))                                         \
    X(DECAY_W2, "att.time_decay_w2", "Rd C", TIME_MIX, 30, PLAIN, UNIFORM(0.01))                                       \
    X(FAAAA, "att.time_faaaa", "H N", TIME_MIX, 20, BONUS, FORMULA(rw_init_bonus))                                     \
    X(STATE, "att.time_state", "H N N", TIME_MIX, 25, STATE, CONSTANT(0), .needs = RW_DIM_time_state)                  \
    X(RECEPTANCE, "att.receptance.weight", "C C", TIME_MIX, 0, MATRIX, ORTHOGONAL(1))                                  \
    X(KEY, "att.key.weight", "C C", TIME_MIX, 1, MATRIX, ORTHOGONAL(0.1))                                              \
    X(VALUE, "att.value.weight", "C C", TIME_MIX, 2, MATRIX, ORTHOGONAL(1))                                            \
    X(OUTPUT, "att.output.weight", "C C", TIME_MIX, 4, MATRIX, CONSTANT(0))                                            \
    X(GATE, "att.gate.weight", "C C", TIME_MIX, 3, MATRIX, ORTHOGONAL(0.1))                                            \
    X(LN_X_W, "att.ln_x.weight", "C", TIME_MIX, 10, PLAIN, FORMULA(rw_init_ln_x))                                      \
    X(LN_X_B, "att.ln_x.bias", "C", TIME_MIX, 10, PLAIN, CONSTANT(0))                                                  \
    X(PRE_MAA_K, "ffnPre.time_maa_k", "1 1 C", FIRST, 20, MIX, FORMULA(maa_ffn), .needs = RW_DIM_pre_ffn)              \
    X(PRE_MAA_R, "ffnPre.time_maa_r", "1 1 C", FIRST, 20, MIX, FORMULA(maa_ffn), .needs = RW_DIM_pre_ffn)              \
    X(PRE_KEY, "ffnPre.key.weight", "F C", FIRST, 0, MATRIX, ORTHOGONAL(1), .needs = RW_DIM_pre_ffn)                   \
    X(PRE_RECEPTANCE, "ffnPre.receptance.weight", "C C", FIRST, 1, MATRIX, CONSTANT(0), .needs = RW_DIM_pre_ffn)       \
    X(PRE_VALUE, "ffnPre.value.weight", "C F", FIRST, 2, MATRIX, CONSTANT(0), .needs = RW_DIM_pre_ffn)                 \
    X(FFN_MAA_K, "ffn.time_maa_k", "1 1 C", EVERY, 20, MIX, FORMULA(maa_ffn))                                          \
    X(FFN_MAA_R, "ffn.time_maa_r", "1 1 C", EVERY, 20, MIX, FORMULA(maa_ffn))                                          \
    X(FFN_KEY, "ffn.key.weight", "F C", EVERY, 5, MATRIX, ORTHOGONAL(1))                                               \
    X(FFN_RECEPTANCE, "ffn.receptance.weight", "C C", EVERY, 6, MATRIX, CONSTANT(0))                                   \
    X(FFN_VALUE, "ffn.value.weight", "C F", EVERY, 7, MATRIX, CONSTANT(0))                                             \
    RW_ROLES_AFTER(X)                                                                                                  \
    RW_ROLES_COPY_AFTER(X)

enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};

static void default_shape(rw_plan_model *s) {
    bool large = s->n_embd >= 4096;
    if (!s->dim_ffn) s->dim_ffn = s->n_embd * 7 / 2 / 32 * 32;
    if (!s->lora_mix) s->lora_mix = large ? 64 : 32;
    if (!s->lora_decay) s->lora_decay = large ? 128 : 64;
}

/* -- forward ----------------------------------------------------------------------------------------------------- */

enum { ATT_SHIFT, FFN_SHIFT, WKV, N_FIELDS };
static const rw_state_field fields[] = {
    [ATT_SHIFT] = {"att_shift", "C", NULL}, /* the layer norm of the last token */
    [FFN_SHIFT] = {"ffn_shift", "C", NULL},
    [WKV] = {"wkv", "H N N", "att.time_state"}, /* row = value channel */
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

    rw_tensor *decay = rw_matmul_act(t, xw, W(DECAY_W1), false, RW_EPILOGUE_TANH);
    rw_tensor *x4[] = {xr, xk, xv, xg}, *w4[] = {W(RECEPTANCE), W(KEY), W(VALUE), W(GATE)}, *rkvg[4];
    rw_linear_group(t, 4, x4, w4, true, rkvg);
    rw_wkv6_in wkv = {.rows = io->rows, .n_head = s->n_head, .head_size = s->head_size};
    wkv.r = rkvg[0];
    wkv.k = rkvg[1];
    wkv.v = rkvg[2];
    wkv.gate = rkvg[3];
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

static rw_tensor *channel_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_channel_mix_in w = {.ln_w = W(LN2_W), .ln_b = W(LN2_B), .mix_k = W(FFN_MAA_K), .mix_r = W(FFN_MAA_R)};
    w.key = W(FFN_KEY);
    w.receptance = W(FFN_RECEPTANCE);
    w.value = W(FFN_VALUE);
    w.shift = FFN_SHIFT;
    return rw_channel_mix(t, io, x, &w);
}

/* In place of block 0's time mix. */
static rw_tensor *pre_ffn(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_channel_mix_in w = {.ln_w = W(LN1_W), .ln_b = W(LN1_B), .mix_k = W(PRE_MAA_K), .mix_r = W(PRE_MAA_R)};
    w.key = W(PRE_KEY);
    w.receptance = W(PRE_RECEPTANCE);
    w.value = W(PRE_VALUE);
    w.shift = ATT_SHIFT;
    return rw_channel_mix(t, io, x, &w);
}

static rw_tensor *block(const rw_model *m, rw_tape *t, rw_block_io *io) {
    bool first = io->layer == 0 && m->shape.pre_ffn;
    rw_tensor *x = first ? pre_ffn(m, t, io, io->x) : time_mix(m, t, io, io->x);
    return channel_mix(m, t, io, x);
}

const rw_arch rw_arch_x060 = {.name = "x060",
                              .mark = "time_maa_",
                              .roles = roles,
                              .n_roles = N_ROLES,
                              .fields = fields,
                              .n_fields = N_FIELDS,
                              .block = block,
                              .default_shape = default_shape};
