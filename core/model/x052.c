/* x052 (RWKV-5.2 "Eagle", arXiv:2404.05892): parameters, initial values, one block.
 *
 * The decay is one number for each channel, the same for all tokens: wkv6 without w_raw. The mixes multiply the token
 * itself. The order of the roles is the order of an official file; `place` puts receptance, key, value and gate side by
 * side. The official forms of the initial values (plan key model.init) do not differ. */
#include "core/model/channel_mix.h"
#include "core/model/formula.h"
#include "core/model/model.h"
#include "core/model/role_rows.h"

/* -- parameters ---------------------------------------------------------------------------------------------------- */

#define ROLES(X)                                                                                                       \
    RW_ROLES_COPY_BEFORE(X)                                                                                            \
    RW_ROLES_BEFORE(X)                                                                                                 \
    RW_ROLES_NORMS(X)                                                                                                  \
    X(MIX_K, "att.time_mix_k", "1 1 C", TIME_MIX, 20, MIX, FORMULA(rw_init_mix))                                       \
    X(MIX_V, "att.time_mix_v", "1 1 C", TIME_MIX, 20, MIX, FORMULA(rw_init_mix_value))                                 \
    X(MIX_R, "att.time_mix_r", "1 1 C", TIME_MIX, 20, MIX, FORMULA(rw_init_mix_half))                                  \
    X(MIX_G, "att.time_mix_g", "1 1 C", TIME_MIX, 20, MIX, FORMULA(rw_init_mix_half))                                  \
    X(DECAY, "att.time_decay", "H N", TIME_MIX, 20, DECAY, FORMULA(rw_init_decay))                                     \
    X(FAAAA, "att.time_faaaa", "H N", TIME_MIX, 20, BONUS, FORMULA(rw_init_bonus))                                     \
    X(RECEPTANCE, "att.receptance.weight", "C C", TIME_MIX, 0, MATRIX, ORTHOGONAL(1))                                  \
    X(KEY, "att.key.weight", "C C", TIME_MIX, 1, MATRIX, ORTHOGONAL(0.1))                                              \
    X(VALUE, "att.value.weight", "C C", TIME_MIX, 2, MATRIX, ORTHOGONAL(1))                                            \
    X(OUTPUT, "att.output.weight", "C C", TIME_MIX, 4, MATRIX, CONSTANT(0))                                            \
    X(GATE, "att.gate.weight", "C C", TIME_MIX, 3, MATRIX, ORTHOGONAL(0.1))                                            \
    X(LN_X_W, "att.ln_x.weight", "C", TIME_MIX, 10, PLAIN, FORMULA(rw_init_ln_x))                                      \
    X(LN_X_B, "att.ln_x.bias", "C", TIME_MIX, 10, PLAIN, CONSTANT(0))                                                  \
    X(PRE_MIX_K, "ffnPre.time_mix_k", "1 1 C", FIRST, 20, MIX, FORMULA(rw_init_mix), .needs = RW_DIM_pre_ffn)          \
    X(PRE_MIX_R, "ffnPre.time_mix_r", "1 1 C", FIRST, 20, MIX, FORMULA(rw_init_mix), .needs = RW_DIM_pre_ffn)          \
    X(PRE_KEY, "ffnPre.key.weight", "F C", FIRST, 0, MATRIX, ORTHOGONAL(1), .needs = RW_DIM_pre_ffn)                   \
    X(PRE_RECEPTANCE, "ffnPre.receptance.weight", "C C", FIRST, 1, MATRIX, CONSTANT(0), .needs = RW_DIM_pre_ffn)       \
    X(PRE_VALUE, "ffnPre.value.weight", "C F", FIRST, 2, MATRIX, CONSTANT(0), .needs = RW_DIM_pre_ffn)                 \
    X(FFN_MIX_K, "ffn.time_mix_k", "1 1 C", EVERY, 20, MIX, FORMULA(rw_init_mix))                                      \
    X(FFN_MIX_R, "ffn.time_mix_r", "1 1 C", EVERY, 20, MIX, FORMULA(rw_init_mix))                                      \
    X(FFN_KEY, "ffn.key.weight", "F C", EVERY, 5, MATRIX, ORTHOGONAL(1))                                               \
    X(FFN_RECEPTANCE, "ffn.receptance.weight", "C C", EVERY, 6, MATRIX, CONSTANT(0))                                   \
    X(FFN_VALUE, "ffn.value.weight", "C F", EVERY, 7, MATRIX, CONSTANT(0))                                             \
    RW_ROLES_AFTER(X)                                                                                                  \
    RW_ROLES_COPY_AFTER(X)

enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};

static void default_shape(rw_plan_model *s) {
    if (!s->dim_ffn) s->dim_ffn = s->n_embd * 7 / 2 / 32 * 32;
}

/* -- forward ----------------------------------------------------------------------------------------------------- */

enum { ATT_SHIFT, FFN_SHIFT, WKV, N_FIELDS };
static const rw_state_field fields[] = {
    [ATT_SHIFT] = {"att_shift", "C", NULL}, /* the layer norm of the last token */
    [FFN_SHIFT] = {"ffn_shift", "C", NULL},
    [WKV] = {"wkv", "H N N", NULL}, /* row = value channel */
};

#define W(role) rw_role_of(m, io->layer, role)

/* x + output(GN(wkv(r, k, v)) * silu(g)). The official code divides by d = head_size_divisor before the norm; an eps
 * d^2 times as large is the same. */
static rw_tensor *time_mix(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    const rw_plan_model *s = &m->shape;
    enum { XR, XK, XV, XG, N_MIX }; /* as their weights lie */
    rw_token_shift_in shift = {.rows = io->rows, .x = x, .gamma = W(LN1_W), .beta = W(LN1_B), .eps = 1e-5};
    shift.n_mix = shift.n_slab = N_MIX;
    shift.times_current = true;
    shift.mu[XR] = W(MIX_R);
    shift.mu[XK] = W(MIX_K);
    shift.mu[XV] = W(MIX_V);
    shift.mu[XG] = W(MIX_G);
    shift.shift_in = io->state_in[ATT_SHIFT];
    shift.shift_to = io->state_out[ATT_SHIFT];
    rw_tensor *mix[N_MIX];
    rw_token_shift(t, &shift, mix, NULL, rw_block_state_out(io, ATT_SHIFT));

    rw_tensor *w[] = {W(RECEPTANCE), W(KEY), W(VALUE), W(GATE)}, *rkvg[N_MIX];
    rw_linear_group(t, N_MIX, mix, w, true, rkvg);
    rw_wkv6_in wkv = {.rows = io->rows, .n_head = s->n_head, .head_size = s->head_size};
    wkv.r = rkvg[XR];
    wkv.k = rkvg[XK];
    wkv.v = rkvg[XV];
    wkv.gate = rkvg[XG];
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
    rw_channel_mix_in w = {.ln_w = W(LN2_W), .ln_b = W(LN2_B), .mix_k = W(FFN_MIX_K), .mix_r = W(FFN_MIX_R)};
    w.key = W(FFN_KEY);
    w.receptance = W(FFN_RECEPTANCE);
    w.value = W(FFN_VALUE);
    w.times_current = true;
    w.shift = FFN_SHIFT;
    return rw_channel_mix(t, io, x, &w);
}

/* In place of block 0's time mix. */
static rw_tensor *pre_ffn(const rw_model *m, rw_tape *t, rw_block_io *io, rw_tensor *x) {
    rw_channel_mix_in w = {.ln_w = W(LN1_W), .ln_b = W(LN1_B), .mix_k = W(PRE_MIX_K), .mix_r = W(PRE_MIX_R)};
    w.key = W(PRE_KEY);
    w.receptance = W(PRE_RECEPTANCE);
    w.value = W(PRE_VALUE);
    w.times_current = true;
    w.shift = ATT_SHIFT;
    return rw_channel_mix(t, io, x, &w);
}

static rw_tensor *block(const rw_model *m, rw_tape *t, rw_block_io *io) {
    bool first = io->layer == 0 && m->shape.pre_ffn;
    rw_tensor *x = first ? pre_ffn(m, t, io, io->x) : time_mix(m, t, io, io->x);
    return channel_mix(m, t, io, x);
}

const rw_arch rw_arch_x052 = {.name = "x052",
                              .mark = "time_mix_",
                              .roles = roles,
                              .n_roles = N_ROLES,
                              .fields = fields,
                              .n_fields = N_FIELDS,
                              .block = block,
                              .default_shape = default_shape};
