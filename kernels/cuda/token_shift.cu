/* token_shift on the GPU (formulas: kernels/token_shift.h): layer norm, the shift by one token and all mixes in one
 * pass over the rows, each way. x052's form is the other one with mu' = 1 - mu, and its dmu has the other sign.
 *
 * The fast form, for 0, 1, 2, 4 or 6 mixes. A block owns consecutive rows and every channel of them; a thread owns VEC
 * neighbouring channels for all of its rows. So parameters and the sums over rows (dgamma, dbeta, dmu) live in
 * registers, what goes through the shift is carried in registers, and each byte of device memory moves once:
 *
 *     forward   reads x (1), writes out (n_mix), xn (1)                                        2 + n_mix
 *     backward  reads dout (n_mix), dxn (1), x (1), dx with add (1), writes dx (1)             4 + n_mix   [times R C]
 *
 * Only sums along a row cross threads: one float4 a warp through shared memory. Sums over rows end as one partial a
 * block, added in block order. So the bits do not depend on the order in which blocks run.
 *
 * The plain form takes any number of mixes and of channels: a block a row forward and for dx, a thread a channel for
 * the sums. It reads dout and x two to four times, mostly from the caches.
 *
 * The state behind a sequence is written by a launch of its own, since it may overwrite the state in front of it. */
#include "kernels/cuda/rows.cuh"

#include <cuda_pipeline.h>

namespace {

using shift_args = rw_token_shift_args;

enum { ROWS = 2 /* of one reduction */, SUMS = 2 /* dgamma, dbeta; then dmu */, PLAIN_THREADS = 256 };
enum { BLOCKS_PER_SM = 4 /* at most, of the fast form */, SUM_BLOCKS_PER_SM = 2 /* of the plain form */ };

/* -- channels of one thread ---------------------------------------------------------------------------------- */

template <int VEC> struct channels { float v[VEC]; };

/* As stored: unpacked late, so that a row fetched ahead costs half the registers. */
template <int VEC, class T> __device__ __forceinline__ rw_pack<T, VEC> fetch(const T *p, bool mine) {
    rw_pack<T, VEC> v = {};
    if (mine) v = *reinterpret_cast<const rw_pack<T, VEC> *>(p);
    return v;
}
template <int VEC, class T> __device__ __forceinline__ channels<VEC> unpack(const rw_pack<T, VEC> &p) {
    channels<VEC> r;
#pragma unroll
    for (int i = 0; i < VEC; i++) r.v[i] = rw_to_float(p.at[i]);
    return r;
}
template <int VEC> __device__ __forceinline__ channels<VEC> load_wide(const void *p, int64_t at, bool mine = true) {
    return unpack<VEC>(fetch<VEC>(static_cast<const float *>(p) + at, mine));
}
template <int VEC> __device__ __forceinline__ void store_wide(float *p, const channels<VEC> &x) {
    rw_store(p, x.v);
}
/* The share of the token before, whichever the form. */
template <int VEC> __device__ __forceinline__ channels<VEC> load_mu(const shift_args &a, int m, int64_t c, bool mine) {
    channels<VEC> mu = load_wide<VEC>(a.mu[m], c, mine);
    if (a.times_current)
#pragma unroll
        for (int i = 0; i < VEC; i++) mu.v[i] = 1 - mu.v[i];
    return mu;
}
/* The state in front of sequence `index`. */
template <int VEC>
__device__ __forceinline__ channels<VEC> state_of(const shift_args &a, int64_t index, int64_t c, bool mine) {
    return load_wide<VEC>(a.shift_in, index * a.shift_in_stride + c, mine && a.shift_in);
}
template <int VEC>
__device__ __forceinline__ channels<VEC> hat_of(const channels<VEC> &x, float mean, float rstd, bool mine) {
    channels<VEC> r;
#pragma unroll
    for (int i = 0; i < VEC; i++) r.v[i] = mine ? (x.v[i] - mean) * rstd : 0.0f;
    return r;
}
template <int VEC>
__device__ __forceinline__ channels<VEC> norm_of(const channels<VEC> &x, float mean, float rstd,
                                                 const channels<VEC> &gamma, const channels<VEC> &beta) {
    channels<VEC> r;
#pragma unroll
    for (int i = 0; i < VEC; i++) r.v[i] = (x.v[i] - mean) * rstd * gamma.v[i] + beta.v[i];
    return r;
}

/* -- forward, fast --------------------------------------------------------------------------------------------- */

template <int VEC> __device__ __forceinline__ float sum_of(const channels<VEC> &x) {
    float s = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) s += x.v[i];
    return s;
}
template <int VEC> __device__ __forceinline__ float squares_of(const channels<VEC> &x, float mean, bool mine) {
    float s = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) s += mine ? (x.v[i] - mean) * (x.v[i] - mean) : 0.0f;
    return s;
}

/* Mean and rstd of two rows. */
template <int VEC>
__device__ __forceinline__ void stats_of(const channels<VEC> (&x)[ROWS], int C, float eps, bool mine, rw_sum_room &room,
                                         float (&mean)[ROWS], float (&rstd)[ROWS]) {
    const float4 s = rw_block_sum4(make_float4(sum_of(x[0]), sum_of(x[1]), 0, 0), room, 0);
    mean[0] = s.x / C, mean[1] = s.y / C; /* divided: equal channels have exactly themselves as their mean */
    const float4 q =
        rw_block_sum4(make_float4(squares_of(x[0], mean[0], mine), squares_of(x[1], mean[1], mine), 0, 0), room, 1);
    rstd[0] = rsqrtf(q.x / C + eps), rstd[1] = rsqrtf(q.y / C + eps);
}

template <class T, int MIXES, int VEC>
__global__ void __launch_bounds__(VEC == 8 ? 512 : 640)
    forward_fast(const __grid_constant__ shift_args a, int rows_per_block) {
    __shared__ rw_sum_room room;
    const int R = (int)a.R, C = (int)a.C, c = threadIdx.x * VEC;
    const bool mine = c < C;
    const int first = blockIdx.x * rows_per_block, last = min(first + rows_per_block, R);
    const float eps = (float)a.eps;
    const T *x_in = rw_in<T>(a.x) + c;

    const channels<VEC> gamma = load_wide<VEC>(a.gamma, c, mine), beta = load_wide<VEC>(a.beta, c, mine);
    channels<VEC> mu[MIXES > 0 ? MIXES : 1];
#pragma unroll
    for (int m = 0; m < MIXES; m++) mu[m] = load_mu<VEC>(a, m, c, mine);

    rw_row_walk walk(a.cu_seqlens, a.n_seq, a.R, first);
    channels<VEC> prev = {};
    float mean[ROWS], rstd[ROWS];
    if (MIXES > 0 && first > walk.first) { /* the row in front of mine, which another block writes */
        const channels<VEC> x[ROWS] = {unpack<VEC>(fetch<VEC>(x_in + (int64_t)(first - 1) * C, mine)), {}};
        stats_of<VEC>(x, C, eps, mine, room, mean, rstd);
        prev = norm_of(x[0], mean[0], rstd[0], gamma, beta);
    }

    rw_pack<T, VEC> ahead[ROWS];
#pragma unroll
    for (int k = 0; k < ROWS; k++) ahead[k] = fetch<VEC>(x_in + (int64_t)min(first + k, R - 1) * C, mine);

    for (int row = first; row < last; row += ROWS) {
        channels<VEC> x[ROWS];
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            x[k] = unpack<VEC>(ahead[k]);
            ahead[k] = fetch<VEC>(x_in + (int64_t)min(row + ROWS + k, R - 1) * C, mine);
        }
        stats_of<VEC>(x, C, eps, mine, room, mean, rstd);
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int t = row + k;
            const int64_t here = (int64_t)t * C + c;
            if (t >= last) break; /* the same for the whole block */
            walk.up(t);
            if (MIXES > 0 && t == walk.first) prev = state_of<VEC>(a, walk.index, c, mine);
            const channels<VEC> xn = norm_of(x[k], mean[k], rstd[k], gamma, beta);
#pragma unroll
            for (int m = 0; m < MIXES; m++) {
                channels<VEC> out;
#pragma unroll
                for (int i = 0; i < VEC; i++) out.v[i] = xn.v[i] + (prev.v[i] - xn.v[i]) * mu[m].v[i];
                if (mine && a.out[m]) rw_store(rw_out<T>(a.out[m]) + here, out.v);
            }
            if (mine && a.xn) rw_store(rw_out<T>(a.xn) + here, xn.v);
            prev = xn;
            if (threadIdx.x == 0 && a.mean) rw_out<float>(a.mean)[t] = mean[k];
            if (threadIdx.x == 0 && a.rstd) rw_out<float>(a.rstd)[t] = rstd[k];
        }
    }
}

/* -- forward, plain ---------------------------------------------------------------------------------------------- */

/* Row t by a whole block. */
template <class T, int W> __global__ void forward_plain(const __grid_constant__ shift_args a) {
    __shared__ rw_sum_room room;
    const int64_t C = a.C, t = blockIdx.x;
    const float eps = (float)a.eps;
    const T *x = rw_in<T>(a.x) + t * C;
    const rw_row_walk walk(a.cu_seqlens, a.n_seq, a.R, (int)t);
    const bool begins = t == walk.first;
    const float2 now = rw_row_stats<W>(x, C, eps, room);
    const float2 before = begins || a.n_mix == 0 ? now : rw_row_stats<W>(x - C, C, eps, room);
    if (threadIdx.x == 0 && a.mean) rw_out<float>(a.mean)[t] = now.x;
    if (threadIdx.x == 0 && a.rstd) rw_out<float>(a.rstd)[t] = now.y;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += (int64_t)PLAIN_THREADS * W) {
        const channels<W> gamma = load_wide<W>(a.gamma, c), beta = load_wide<W>(a.beta, c);
        const channels<W> xn = norm_of(unpack<W>(fetch<W>(x + c, true)), now.x, now.y, gamma, beta);
        channels<W> prev = {};
        if (begins)
            prev = state_of<W>(a, walk.index, c, true);
        else if (a.n_mix > 0)
            prev = norm_of(unpack<W>(fetch<W>(x + c - C, true)), before.x, before.y, gamma, beta);
        for (int m = 0; m < a.n_mix; m++) {
            if (!a.out[m]) continue;
            channels<W> out;
            const channels<W> mu = load_mu<W>(a, m, c, true);
#pragma unroll
            for (int i = 0; i < W; i++) out.v[i] = xn.v[i] + (prev.v[i] - xn.v[i]) * mu.v[i];
            rw_store(rw_out<T>(a.out[m]) + t * C + c, out.v);
        }
        if (a.xn) rw_store(rw_out<T>(a.xn) + t * C + c, xn.v);
    }
}

/* The state behind each sequence, a block each: the norm of its last row; an empty one hands on what it got. */
template <class T> __global__ void store_states(const __grid_constant__ shift_args a) {
    __shared__ rw_sum_room room;
    const int64_t C = a.C, s = blockIdx.x;
    const int64_t first = rw_first_row(a.cu_seqlens, a.n_seq, a.R, s);
    const int64_t last = rw_first_row(a.cu_seqlens, a.n_seq, a.R, s + 1);
    float *to = rw_out<float>(a.shift_out) + s * C;
    if (first == last) {
        for (int64_t c = threadIdx.x; c < C; c += PLAIN_THREADS) to[c] = state_of<1>(a, s, c, true).v[0];
        return;
    }
    const T *x = rw_in<T>(a.x) + (last - 1) * C;
    const float2 stats = rw_row_stats<1>(x, C, (float)a.eps, room);
    for (int64_t c = threadIdx.x; c < C; c += PLAIN_THREADS) {
        const channels<1> at = {rw_to_float(x[c])};
        to[c] = norm_of(at, stats.x, stats.y, load_wide<1>(a.gamma, c), load_wide<1>(a.beta, c)).v[0];
    }
}

/* -- backward, fast ---------------------------------------------------------------------------------------------- */

/* What backward reads of one row: dout of each mix, x of the row before, and where they are wanted dxn and the old
 * dx. */
static inline __host__ __device__ int ring_items(const shift_args &a, int mixes) {
    return mixes + 1 + (a.dxn != nullptr) + (a.add & RW_TOKEN_SHIFT_ADD_X ? 1 : 0);
}

/* A ring of STAGES rows in shared memory, filled by asynchronous copies. Each thread copies and reads only its own
 * channels, so the ring needs no barrier, and the rows on their way cost no registers. */
template <class T, int MIXES, int VEC, int STAGES> struct row_ring {
    T *base; /* my channels of the first item */
    int items, old_dx, C;
    bool mine;
    enum { X_BEFORE = MIXES, DXN = MIXES + 1 };

    __device__ __forceinline__ row_ring(const shift_args &a, T *memory, int c, bool mine)
        : base(memory + c), items(ring_items(a, MIXES)), old_dx(items - 1), C((int)a.C), mine(mine) {}
    __device__ __forceinline__ T *at(int stage, int item) const { return base + (stage * items + item) * C; }
    __device__ __forceinline__ void copy(int stage, int item, const void *from, int64_t at_element) const {
        enum { BYTES = VEC * sizeof(T), STEP = BYTES < 16 ? BYTES : 16 };
        const T *source = static_cast<const T *>(from) + at_element;
#pragma unroll
        for (int i = 0; i < BYTES / STEP; i++)
            __pipeline_memcpy_async(at(stage, item) + i * (STEP / sizeof(T)), source + i * (STEP / sizeof(T)), STEP);
    }
    /* Rows below `first` are not wanted, but the group is still closed: the count of groups is what wait() goes by. */
    __device__ __forceinline__ void fill(int stage, const shift_args &a, int row, int first, int c) const {
        if (mine && row >= first) {
            const int64_t here = (int64_t)row * C + c;
#pragma unroll
            for (int m = 0; m < MIXES; m++)
                if (a.dout[m]) copy(stage, m, a.dout[m], here);
            copy(stage, X_BEFORE, a.x, row > 0 ? here - C : here);
            if (a.dxn) copy(stage, DXN, a.dxn, here);
            if (a.add & RW_TOKEN_SHIFT_ADD_X) copy(stage, old_dx, a.dx, here);
        }
        __pipeline_commit();
    }
    __device__ __forceinline__ static void wait() {
        __pipeline_wait_prior(STAGES - 2);
        asm volatile("" ::: "memory"); /* for the compiler: no read of the ring moves in front of the wait */
    }
    __device__ __forceinline__ rw_pack<T, VEC> read(int stage, int item) const {
        return fetch<VEC>(const_cast<const T *>(at(stage, item)), mine);
    }
};

/* mu of my channels: copied to shared memory, where that is large enough. */
template <int VEC, bool SHARED> struct mixes {
    const shift_args &a;
    float *memory; /* mu of mix 0; read and written by no other thread */
    int C, c;
    bool mine;
    __device__ __forceinline__ channels<VEC> operator[](int m) const {
        if constexpr (SHARED)
            return load_wide<VEC>(memory, m * C, mine);
        else
            return load_mu<VEC>(a, m, c, mine);
    }
    __device__ __forceinline__ void copy(int n) const {
        if (SHARED && mine)
            for (int m = 0; m < n; m++) store_wide(memory + m * C, load_mu<VEC>(a, m, c, true));
    }
};

/* Rows are walked from the last to the first: what a row gets through the shift comes from the row after it.
 * With d = dxn * gamma:  dx = rstd (d - mean(d) - x^ mean(d x^)). BATCH rows share one reduction. */
template <class T, int MIXES, int VEC, int STAGES, int BATCH, bool MU_SHARED>
__global__ void __launch_bounds__(VEC == 8 ? 512 : 640)
    backward_fast(const __grid_constant__ shift_args a, int rows_per_block, float *partial) {
    static_assert(BATCH <= ROWS, "one reduction carries two rows");
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ rw_sum_room room;
    using ring_type = row_ring<T, MIXES, VEC, STAGES>;
    const int C = (int)a.C, c = threadIdx.x * VEC;
    const bool mine = c < C;
    const int first = blockIdx.x * rows_per_block, last = min(first + rows_per_block, (int)a.R);
    const float inv_c = 1.0f / C;
    const float *mean = rw_in<float>(a.mean), *rstds = rw_in<float>(a.rstd);
    float *mu_memory = reinterpret_cast<float *>(memory);

    const ring_type ring(a, reinterpret_cast<T *>(mu_memory + (MU_SHARED ? MIXES * C : 0)), c, mine);
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) ring.fill(s, a, last - 1 - s, first, c);
    const mixes<VEC, MU_SHARED> mu = {a, mu_memory + c, C, c, mine};
    mu.copy(MIXES);
    const channels<VEC> gamma = load_wide<VEC>(a.gamma, c, mine);
    channels<VEC> dmu[MIXES > 0 ? MIXES : 1] = {}, dgamma = {}, dbeta = {};

    rw_row_walk walk(a.cu_seqlens, a.n_seq, a.R, last - 1);
    channels<VEC> carry = {}; /* sum over mixes of dout[t+1] mu, zero where row t+1 begins a sequence */
    if (walk.last > last) {
#pragma unroll
        for (int m = 0; m < MIXES; m++) {
            const channels<VEC> g =
                unpack<VEC>(fetch<VEC>(rw_in<T>(a.dout[m]) + (int64_t)last * C + c, mine && a.dout[m]));
            const channels<VEC> w = mu[m];
#pragma unroll
            for (int i = 0; i < VEC; i++) carry.v[i] += g.v[i] * w.v[i];
        }
    }
    float rstd_here = rstds[last - 1];
    channels<VEC> hat = hat_of(unpack<VEC>(fetch<VEC>(rw_in<T>(a.x) + (int64_t)(last - 1) * C + c, mine)),
                               mean[last - 1], rstd_here, mine);
    float mean_before = mean[max(last - 2, 0)], rstd_before = rstds[max(last - 2, 0)];
    int slot = 0, stage = 0;

    for (int row = last - 1; row >= first; row -= BATCH) {
        channels<VEC> d[BATCH], hats[BATCH];
        rw_pack<T, VEC> old[BATCH];
        float rstd[BATCH], sum[2] = {}, dot[2] = {};
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int t = row - k;
            if (t < first) { /* the same for the whole block */
                d[k] = {}, hats[k] = {}, old[k] = {}, rstd[k] = 0;
                continue;
            }
            ring.wait();
            const channels<VEC> hat_before =
                hat_of(unpack<VEC>(ring.read(stage, ring_type::X_BEFORE)), mean_before, rstd_before, mine);
            const float rstd_next = rstd_before;
            mean_before = mean[max(t - 2, 0)], rstd_before = rstds[max(t - 2, 0)];

            walk.down(t);
            const bool begins = t == walk.first;
            channels<VEC> shift, dxn = carry; /* shift: prev - xn */
#pragma unroll
            for (int i = 0; i < VEC; i++) shift.v[i] = gamma.v[i] * (hat_before.v[i] - hat.v[i]); /* beta cancels */
            if (MIXES > 0 && begins) {
                const channels<VEC> beta = load_wide<VEC>(a.beta, c, mine);
                const channels<VEC> state = state_of<VEC>(a, walk.index, c, mine);
#pragma unroll
                for (int i = 0; i < VEC; i++) shift.v[i] = state.v[i] - (hat.v[i] * gamma.v[i] + beta.v[i]);
            }
            if (a.dxn) {
                const channels<VEC> given = unpack<VEC>(ring.read(stage, ring_type::DXN));
#pragma unroll
                for (int i = 0; i < VEC; i++) dxn.v[i] += given.v[i];
            }
            if (a.dshift_out && t + 1 == walk.last) {
                const channels<VEC> given = load_wide<VEC>(a.dshift_out, (int64_t)walk.index * C + c, mine);
#pragma unroll
                for (int i = 0; i < VEC; i++) dxn.v[i] += given.v[i];
            }
            carry = {};
#pragma unroll
            for (int m = 0; m < MIXES; m++) {
                if (!a.dout[m]) continue;
                const channels<VEC> g = unpack<VEC>(ring.read(stage, m)), w = mu[m];
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    const float through = g.v[i] * w.v[i];
                    dmu[m].v[i] += g.v[i] * shift.v[i];
                    dxn.v[i] += g.v[i] - through;
                    carry.v[i] += through;
                }
            }
            if (begins) carry = {};
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                dgamma.v[i] += dxn.v[i] * hat.v[i];
                dbeta.v[i] += dxn.v[i];
                d[k].v[i] = dxn.v[i] * gamma.v[i];
                sum[k] += d[k].v[i];
                dot[k] += d[k].v[i] * hat.v[i];
            }
            hats[k] = hat, rstd[k] = rstd_here, old[k] = {};
            if (a.add & RW_TOKEN_SHIFT_ADD_X) old[k] = ring.read(stage, ring.old_dx);
            hat = hat_before, rstd_here = rstd_next;
            ring.fill(stage == 0 ? STAGES - 1 : stage - 1, a, t - (STAGES - 1), first, c); /* read one row ago */
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }
        if (!a.dx) continue; /* the same for the whole grid */
        const float4 s = rw_block_sum4(make_float4(sum[0], dot[0], sum[1], dot[1]), room, slot ^= 1);
        const float mean_d[2] = {s.x * inv_c, s.z * inv_c}, mean_dot[2] = {s.y * inv_c, s.w * inv_c};
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            if (row - k < first) break;
            channels<VEC> dx = unpack<VEC>(old[k]);
#pragma unroll
            for (int i = 0; i < VEC; i++) dx.v[i] += rstd[k] * (d[k].v[i] - mean_d[k] - hats[k].v[i] * mean_dot[k]);
            if (mine) rw_store(rw_out<T>(a.dx) + (int64_t)(row - k) * C + c, dx.v);
        }
    }

    if (!mine || !partial) return;
    float *to = partial + (int64_t)blockIdx.x * (SUMS + MIXES) * C + c;
    store_wide(to, dgamma);
    store_wide(to + C, dbeta);
#pragma unroll
    for (int m = 0; m < MIXES; m++) {
#pragma unroll
        for (int i = 0; i < VEC; i++) dmu[m].v[i] = a.times_current ? -dmu[m].v[i] : dmu[m].v[i];
        store_wide(to + (SUMS + m) * C, dmu[m]);
    }
}

/* -- backward, plain ---------------------------------------------------------------------------------------------- */

/* dL/d xn of row t, channels c .. c + W. */
template <class T, int W>
__device__ __forceinline__ channels<W> dxn_of(const shift_args &a, const rw_row_walk &walk, int64_t t, int64_t c) {
    const int64_t C = a.C, here = t * C + c;
    const bool ends = t + 1 == walk.last;
    channels<W> sum = unpack<W>(fetch<W>(rw_in<T>(a.dxn) + here, a.dxn != nullptr));
    if (ends) {
        const channels<W> given = load_wide<W>(a.dshift_out, walk.index * C + c, a.dshift_out != nullptr);
#pragma unroll
        for (int i = 0; i < W; i++) sum.v[i] += given.v[i];
    }
    for (int m = 0; m < a.n_mix; m++) {
        const T *dout = rw_in<T>(a.dout[m]);
        if (!dout) continue;
        const channels<W> g = unpack<W>(fetch<W>(dout + here, true));
        const channels<W> next = unpack<W>(fetch<W>(dout + here + C, !ends)), mu = load_mu<W>(a, m, c, true);
#pragma unroll
        for (int i = 0; i < W; i++) sum.v[i] += g.v[i] + (next.v[i] - g.v[i]) * mu.v[i];
    }
    return sum;
}

template <class T, int W> __device__ __forceinline__ channels<W> hat_at(const shift_args &a, int64_t t, int64_t c) {
    return hat_of(unpack<W>(fetch<W>(rw_in<T>(a.x) + t * a.C + c, true)), rw_in<float>(a.mean)[t],
                  rw_in<float>(a.rstd)[t], true);
}

/* dx of row t by a whole block. */
template <class T, int W> __global__ void dx_plain(const __grid_constant__ shift_args a) {
    __shared__ rw_sum_room room;
    const int64_t C = a.C, t = blockIdx.x;
    const rw_row_walk walk(a.cu_seqlens, a.n_seq, a.R, (int)t);
    float sum = 0, dot = 0;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += (int64_t)PLAIN_THREADS * W) {
        const channels<W> dxn = dxn_of<T, W>(a, walk, t, c), hat = hat_at<T, W>(a, t, c);
        const channels<W> gamma = load_wide<W>(a.gamma, c);
#pragma unroll
        for (int i = 0; i < W; i++) {
            sum += dxn.v[i] * gamma.v[i];
            dot += dxn.v[i] * gamma.v[i] * hat.v[i];
        }
    }
    const float4 s = rw_block_sum4(make_float4(sum, dot, 0, 0), room, 0);
    const float mean_d = s.x / C, mean_dot = s.y / C, rstd = rw_in<float>(a.rstd)[t];
    T *to = rw_out<T>(a.dx) + t * C;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += (int64_t)PLAIN_THREADS * W) {
        const channels<W> dxn = dxn_of<T, W>(a, walk, t, c), hat = hat_at<T, W>(a, t, c);
        const channels<W> gamma = load_wide<W>(a.gamma, c);
        channels<W> dx = unpack<W>(fetch<W>(const_cast<const T *>(to + c), a.add & RW_TOKEN_SHIFT_ADD_X));
#pragma unroll
        for (int i = 0; i < W; i++) dx.v[i] += rstd * (dxn.v[i] * gamma.v[i] - mean_d - hat.v[i] * mean_dot);
        rw_store(to + c, dx.v);
    }
}

/* partial[blockIdx.y][SUMS + n_mix][C]: W channels a thread, its block's rows. */
template <class T, int W>
__global__ void sums_plain(const __grid_constant__ shift_args a, int64_t rows_per_block, float *partial) {
    const int64_t C = a.C, c = rw_thread_index() * W;
    const int64_t first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, a.R);
    if (c >= C) return;
    const channels<W> gamma = load_wide<W>(a.gamma, c), beta = load_wide<W>(a.beta, c);
    rw_row_walk walk(a.cu_seqlens, a.n_seq, a.R, (int)first);
    channels<W> dgamma = {}, dbeta = {}, dmu[RW_MAX_MIX] = {};
    for (int64_t t = first; t < last; t++) {
        walk.up((int)t);
        const channels<W> dxn = dxn_of<T, W>(a, walk, t, c), hat = hat_at<T, W>(a, t, c);
        const bool begins = t == walk.first;
        channels<W> shift = begins ? state_of<W>(a, walk.index, c, true) : hat_at<T, W>(a, t - 1, c);
#pragma unroll
        for (int i = 0; i < W; i++) {
            dgamma.v[i] += dxn.v[i] * hat.v[i];
            dbeta.v[i] += dxn.v[i];
            shift.v[i] =
                begins ? shift.v[i] - (hat.v[i] * gamma.v[i] + beta.v[i]) : gamma.v[i] * (shift.v[i] - hat.v[i]);
            if (a.times_current) shift.v[i] = -shift.v[i];
        }
#pragma unroll
        for (int m = 0; m < RW_MAX_MIX; m++) {
            if (m >= a.n_mix || !a.dout[m]) continue;
            const channels<W> g = unpack<W>(fetch<W>(rw_in<T>(a.dout[m]) + t * C + c, true));
#pragma unroll
            for (int i = 0; i < W; i++) dmu[m].v[i] += g.v[i] * shift.v[i];
        }
    }
    float *to = partial + blockIdx.y * (SUMS + a.n_mix) * C + c;
    store_wide(to, dgamma);
    store_wide(to + C, dbeta);
#pragma unroll
    for (int m = 0; m < RW_MAX_MIX; m++)
        if (m < a.n_mix) store_wide(to + (SUMS + m) * C, dmu[m]);
}

/* What sequence s gives to dshift_in at channel c. */
template <class T> __device__ float dstate_of(const shift_args &a, int64_t s, int64_t c) {
    const int64_t first = rw_first_row(a.cu_seqlens, a.n_seq, a.R, s);
    float sum = 0;
    if (first == rw_first_row(a.cu_seqlens, a.n_seq, a.R, s + 1)) /* an empty one handed its state on */
        return a.dshift_out ? rw_in<float>(a.dshift_out)[s * a.C + c] : 0.0f;
    for (int m = 0; m < a.n_mix; m++)
        if (a.dout[m]) sum += rw_to_float(rw_in<T>(a.dout[m])[first * a.C + c]) * load_mu<1>(a, m, c, true).v[0];
    return sum;
}
/* A thread a channel; blockIdx.x takes one sequence, or all in their order where they share one state. */
template <class T> __global__ void states_backward(const __grid_constant__ shift_args a) {
    const int64_t c = (int64_t)blockIdx.y * PLAIN_THREADS + threadIdx.x, n = a.shift_in_stride == 0 ? a.n_seq : 1;
    if (c >= a.C) return;
    float *to = rw_out<float>(a.dshift_in) + blockIdx.x * a.shift_in_stride + c;
    float sum = a.add & RW_TOKEN_SHIFT_ADD_SHIFT_IN ? *to : 0.0f;
    for (int64_t s = 0; s < n; s++) sum += dstate_of<T>(a, blockIdx.x + s, c);
    *to = sum;
}

/* -- launches ------------------------------------------------------------------------------------------------------ */

int threads_of(int64_t C, int vec) {
    return (int)((C / vec + 31) / 32 * 32);
}

/* May threads take `vec` channels at a time? */
bool may_pack(const shift_args *a, int vec) {
    bool aligned = a->C % vec == 0 &&
                   rw_aligned({a->x, a->gamma, a->beta, a->shift_in, a->xn, a->dxn, a->dshift_out, a->dx, a->scratch});
    for (int m = 0; m < a->n_mix; m++) aligned = aligned && rw_aligned({a->mu[m], a->out[m], a->dout[m]});
    return aligned;
}

template <class T, int MIXES, int VEC> void launch_forward(const shift_args *a, rw_cuda_state *s) {
    const int threads = threads_of(a->C, VEC), per_sm = threads > 512 ? 1 : threads > 256 ? 2 : 4;
    const int64_t rows = rw_rows_per_block(a->R, (int64_t)s->n_sm * per_sm);
    forward_fast<T, MIXES, VEC><<<(unsigned)((a->R + rows - 1) / rows), threads, 0, s->stream>>>(*a, (int)rows);
}

/* Widths of the measured study: 4 channels a thread up to 2560, 8 up to 4096. False: not for this form. */
template <class T, int MIXES> bool forward_mixes(const shift_args *a, rw_cuda_state *s) {
    if (a->C <= 2560 && may_pack(a, 4))
        launch_forward<T, MIXES, 4>(a, s);
    else if (a->C <= 4096 && may_pack(a, 8))
        launch_forward<T, MIXES, 8>(a, s);
    else
        return false;
    return true;
}

#define MIXES_OF(n, f, ...)                                                                                            \
    (n == 0   ? f<T, 0>(__VA_ARGS__)                                                                                   \
     : n == 1 ? f<T, 1>(__VA_ARGS__)                                                                                   \
     : n == 2 ? f<T, 2>(__VA_ARGS__)                                                                                   \
     : n == 4 ? f<T, 4>(__VA_ARGS__)                                                                                   \
     : n == 6 ? f<T, 6>(__VA_ARGS__)                                                                                   \
              : false)

template <class T> void forward(const shift_args *a, rw_cuda_state *s) {
    if (a->R > 0 && !MIXES_OF(a->n_mix, forward_mixes, a, s)) {
        if (may_pack(a, 4))
            forward_plain<T, 4><<<(unsigned)a->R, PLAIN_THREADS, 0, s->stream>>>(*a);
        else
            forward_plain<T, 1><<<(unsigned)a->R, PLAIN_THREADS, 0, s->stream>>>(*a);
    }
    rw_cuda_launched(s, "token_shift_forward");
    if (a->shift_out && a->n_seq > 0) store_states<T><<<(unsigned)a->n_seq, PLAIN_THREADS, 0, s->stream>>>(*a);
    rw_cuda_launched(s, "token_shift_forward");
}

/* Launches this cut of the backward pass if the card has the shared memory for it, with as many blocks as run at once
 * (registers: up to 100 a thread with 4 channels, 128 with 8). More were always slower in the study: each begins a
 * pipeline and writes a partial. Returns how many, 0 if it does not fit. */
template <class T, int MIXES, int VEC, int STAGES, int BATCH, bool MU_SHARED>
int64_t launch_backward(const shift_args *a, rw_cuda_state *s, float *partial) {
    static bool allowed;
    const int threads = threads_of(a->C, VEC), most_threads = VEC == 8 ? 512 : 640;
    const int64_t bytes =
        (MU_SHARED ? MIXES * a->C * 4 : 0) + STAGES * ring_items(*a, MIXES) * a->C * (int64_t)sizeof(T);
    const int64_t room = s->shared_bytes - (int64_t)sizeof(rw_sum_room);
    if (threads > most_threads || bytes > room) return 0;
    auto kernel = backward_fast<T, MIXES, VEC, STAGES, BATCH, MU_SHARED>;
    if (!allowed)
        rw_cuda_check(s, "token_shift_backward",
                      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    allowed = true;
    int64_t per_sm = 65536 / (threads * (VEC == 8 ? 128 : 100));
    const int64_t by_memory = (s->shared_bytes + 1024) / (bytes + 2048);
    if (by_memory < per_sm) per_sm = by_memory;
    per_sm = per_sm < 1 ? 1 : per_sm > BLOCKS_PER_SM ? BLOCKS_PER_SM : per_sm;
    const int64_t rows = rw_rows_per_block(a->R, s->n_sm * per_sm), blocks = (a->R + rows - 1) / rows;
    kernel<<<(unsigned)blocks, threads, (size_t)bytes, s->stream>>>(*a, (int)rows, partial);
    return blocks;
}

/* The cuts in the order of the study (H100): 4 channels a thread, 3 stages; 8 and 3 between 1536 and 2048 channels; 8
 * and 2 where that is all that fits, mu outside where even that does not. */
template <class T, int MIXES> int64_t backward_mixes(const shift_args *a, rw_cuda_state *s, float *partial) {
    int64_t n = 0;
    if ((sizeof(T) == 4 || a->C <= 1536 || a->C > 2048) && may_pack(a, 4))
        n = launch_backward<T, MIXES, 4, 3, 2, true>(a, s, partial);
    if constexpr (sizeof(T) == 2) {
        if (n || !may_pack(a, 8)) return n;
        n = launch_backward<T, MIXES, 8, 3, 1, true>(a, s, partial);
        if (!n) n = launch_backward<T, MIXES, 8, 2, 1, true>(a, s, partial);
        if (!n) n = launch_backward<T, MIXES, 8, 2, 1, false>(a, s, partial);
    }
    return n;
}

template <class T, int W> int64_t backward_plain(const shift_args *a, rw_cuda_state *s, float *partial) {
    const int64_t rows = rw_rows_per_block(a->R, (int64_t)s->n_sm * SUM_BLOCKS_PER_SM);
    const int64_t blocks = (a->R + rows - 1) / rows, threads = a->C / W;
    if (a->dx) dx_plain<T, W><<<(unsigned)a->R, PLAIN_THREADS, 0, s->stream>>>(*a);
    const dim3 grid((unsigned)((threads + PLAIN_THREADS - 1) / PLAIN_THREADS), (unsigned)blocks);
    if (partial) sums_plain<T, W><<<grid, PLAIN_THREADS, 0, s->stream>>>(*a, rows, partial);
    return blocks;
}

rw_row_sums sums_of(const shift_args *a) {
    rw_row_sums s = {};
    s.to[0] = rw_out<float>(a->dgamma), s.add[0] = a->add & RW_TOKEN_SHIFT_ADD_GAMMA;
    s.to[1] = rw_out<float>(a->dbeta), s.add[1] = a->add & RW_TOKEN_SHIFT_ADD_BETA;
    for (int m = 0; m < a->n_mix; m++) {
        s.to[SUMS + m] = rw_out<float>(a->dmu[m]);
        s.add[SUMS + m] = a->add & (uint32_t)RW_TOKEN_SHIFT_ADD_MU << m;
    }
    return s;
}

template <class T> void backward(const shift_args *given, rw_cuda_state *s) {
    shift_args a = *given;
    if (!a.dx) a.add &= ~(uint32_t)RW_TOKEN_SHIFT_ADD_X; /* then the old one is not read */
    const rw_row_sums sums = sums_of(&a);
    const int n_sums = SUMS + a.n_mix;
    float *partial = rw_any_sum(sums, n_sums) ? rw_out<float>(a.scratch) : nullptr;
    int64_t blocks = 0;
    if (a.R > 0 && (a.dx || partial)) {
        blocks = MIXES_OF(a.n_mix, backward_mixes, &a, s, partial);
        if (!blocks)
            blocks = may_pack(&a, 4) ? backward_plain<T, 4>(&a, s, partial) : backward_plain<T, 1>(&a, s, partial);
        rw_cuda_launched(s, "token_shift_backward");
    }
    rw_launch_sums(s, "token_shift_backward", partial, blocks, a.C, sums, n_sums);
    if (!a.dshift_in || (a.n_seq == 0 && a.shift_in_stride != 0)) return;
    const dim3 grid((unsigned)(a.shift_in_stride == 0 ? 1 : a.n_seq),
                    (unsigned)((a.C + PLAIN_THREADS - 1) / PLAIN_THREADS));
    states_backward<T><<<grid, PLAIN_THREADS, 0, s->stream>>>(a);
    rw_cuda_launched(s, "token_shift_backward");
}

} // namespace

void rw_cuda_token_shift_forward(const rw_token_shift_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "token_shift_forward", a->dtype, T, forward<T>(a, s));
}

void rw_cuda_token_shift_backward(const rw_token_shift_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "token_shift_backward", a->dtype, T, backward<T>(a, s));
}

int64_t rw_cuda_token_shift_backward_scratch(const rw_token_shift_args *a, const rw_exec *ex) {
    const int64_t blocks = rw_most_row_blocks(a->R, (int64_t)rw_cuda_of(ex)->n_sm * BLOCKS_PER_SM);
    return blocks * (SUMS + a->n_mix) * a->C * (int64_t)sizeof(float);
}
