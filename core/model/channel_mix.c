/* The channel mix of x052 and x060: see channel_mix.h. */
#include "core/model/channel_mix.h"

#include "core/tensor/ops.h"

rw_tensor *rw_channel_mix(rw_tape *t, rw_block_io *io, rw_tensor *x, const rw_channel_mix_in *w) {
    rw_token_shift_in shift = {.rows = io->rows, .x = x, .gamma = w->ln_w, .beta = w->ln_b, .eps = 1e-5, .n_mix = 2};
    shift.times_current = w->times_current;
    shift.mu[0] = w->mix_k;
    shift.mu[1] = w->mix_r;
    shift.shift_in = io->state_in[w->shift];
    shift.shift_to = io->state_out[w->shift];
    rw_tensor *mix[2];
    rw_token_shift(t, &shift, mix, NULL, rw_block_state_out(io, w->shift));
    rw_tensor *k = rw_matmul_act(t, mix[0], w->key, true, RW_EPILOGUE_RELU_SQ);
    rw_tape_forget(t, k, RW_FORGET_FFN);
    rw_tensor *p = rw_matmul(t, k, w->value, true, NULL);
    rw_tensor *q = rw_matmul(t, mix[1], w->receptance, true, NULL);
    return rw_rgate(t, q, p, x);
}
