/* ddlerp on the tensor cores: bf16 or fp16, rank 32 or 64, channels a multiple of 8.
 *
 *     prev[t] = xn[t-1], in front of a sequence its state;   xx = prev - xn
 *     q_i = mu_i + t_i W2_i;   out_i = xn + xx * q_i                               i = 0..4, t = tanh(h)
 *
 *     forward   reads xn (1) and t, writes out (5)                                 6    [times R C 2 bytes]
 *     backward  reads dout (5), xn (1) and t, writes dxn (1), dh, and sums         7
 *
 * Backward writes and reads again: slices of dh, 5 rank / CT, and partial sums of the parameters' gradients.
 *
 * Who does what. A block owns CT channels and a range of rows, which it walks in tiles of 48 or 64 rows. W2 of its
 * channels stays in shared memory. In a tile a warp owns 16 rows and 64 (forward) or 32 (backward) channels; a thread
 * owns 8 neighbouring channels (16 bytes) of each 32, in 2 rows. This is the fragment of the matrix instruction with
 * the columns renamed (`place`): four n8 tiles put columns {2q, 2q+1} of each into thread q of a quad, so the four
 * pairs are named channels 8q .. 8q+7. So a thread has 16 neighbouring bytes of a row straight from the fragments.
 *
 * Sums over rows are made in registers and shared memory, each by one thread, and leave as one partial a block, which
 * `finish` adds in order: the same bits each time. gmu is the sum of fp32 products that nothing rounded; gW2 and dh
 * come from products rounded to T once. */
#ifndef RW_KERNELS_CUDA_DDLERP_MMA_CUH
#define RW_KERNELS_CUDA_DDLERP_MMA_CUH

#include "kernels/cuda/ddlerp_args.cuh"
#include "kernels/cuda/mma.cuh"

namespace {

enum { SLOTS = 2 /* rows of a thread in a tile */ };

/* How one rank K is cut: channels of a block, channels of a warp, warps on top of each other. */
template <int K_, int CT_, int WIDE_, int GROUPS_> struct cut {
    static constexpr int K = K_, H = MIX * K, CT = CT_, WIDE = WIDE_, GROUPS = GROUPS_, TILE = 16 * GROUPS;
    static constexpr int STRIPS = CT / WIDE, PARTS = WIDE / 32; /* warps side by side; 32s of channels of a warp */
    static constexpr int WARPS = GROUPS * STRIPS, THREADS = 32 * WARPS;
    static constexpr int LDW = CT + 8, LDH = H + 8; /* padded: no bank conflicts in ldmatrix */
    static constexpr int PIECES = CT / 8;           /* of 16 bytes in a row */
    static constexpr int W2_BYTES = H * LDW * 2, H_BYTES = TILE * LDH * 2, DM_BYTES = TILE * LDW * 2;
    static constexpr int MU_BYTES = MIX * CT * 4;
};
template <int K> using forward_cut = cut<K, 128, 64, 4>;
template <int K> using backward_cut = cut<K, 4096 / K, 32, K == 32 ? 3 : 4>;

/* -- what both ways do -------------------------------------------------------------------------------------- */

/* Where channel c of a block lies in the rows of W2 and dm in shared memory: 8q + 2j + e -> 8j + 2q + e in each 32. */
__device__ constexpr int place(int c) {
    return (c & ~31) + ((c >> 1) & 3) * 8 + ((c >> 3) & 3) * 2 + (c & 1);
}

/* Which rows of a stretch begin a sequence, for stretches that only go up, or only down. The next beginning is kept in
 * a register, so a stretch without one costs no load. Bit k is row + k; R counts as a beginning. */
struct starts_up {
    int i;
    int64_t next;
    __device__ starts_up(const packed &p, int64_t row) {
        i = row < p.R ? p.holder(row) : p.n_seq;
        next = p.first(i);
    }
    __device__ uint32_t bits(const packed &p, int64_t row, int n) {
        uint32_t b = 0;
        while (next < row + n) {
            if (next >= row) b |= 1u << (next - row);
            if (i == p.n_seq) break;
            next = p.first(++i);
        }
        return b;
    }
};
struct starts_down {
    int i;
    int64_t next;
    __device__ starts_down(const packed &p, int64_t row) {
        i = row < p.R ? p.holder(row) : p.n_seq;
        next = p.first(i);
    }
    __device__ uint32_t bits(const packed &p, int64_t row, int n) {
        uint32_t b = 0;
        while (next >= row) {
            if (next < row + n) b |= 1u << (next - row);
            if (i == 0) break;
            next = p.first(--i);
        }
        return b;
    }
};

/* xx of a row that begins a sequence: 8 channels from c. Few rows do, so it looks up which sequence that is. */
template <class T>
__device__ __forceinline__ void state_minus(const ddlerp<T> &a, int64_t row, int64_t c, const uint32_t (&x)[4],
                                            float (&xx)[8]) {
    float state[8] = {};
    if (a.shift_in && row < a.rows.R && c < a.C)
        rw_load(a.shift_in + a.rows.holder(row) * a.shift_in_stride + c, state);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        xx[2 * j] = state[2 * j] - rw_low<T>(x[j]);
        xx[2 * j + 1] = state[2 * j + 1] - rw_high<T>(x[j]);
    }
}

/* W2 and mu of the block's channels into shared memory; zeros behind the last channel. */
template <class G, class T>
__device__ __forceinline__ void load_weights(const ddlerp<T> &a, int64_t c0, T *w2s, float *mus) {
    for (int i = threadIdx.x; i < G::H * (G::CT / 8); i += G::THREADS) {
        const int k = i / (G::CT / 8), c = i % (G::CT / 8) * 8;
        uint4 v = {};
        if (c0 + c < a.C) v = *reinterpret_cast<const uint4 *>(a.w2 + k * a.C + c0 + c);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) *reinterpret_cast<uint32_t *>(w2s + k * G::LDW + place(c + 2 * j)) = w[j];
    }
#pragma unroll
    for (int m = 0; m < MIX; m++)
        for (int c = threadIdx.x; c < G::CT; c += G::THREADS) mus[m * G::CT + c] = c0 + c < a.C ? a.mu[m][c0 + c] : 0;
}

/* A tile of t, in pieces of 16 bytes. */
template <class G, class T> __device__ __forceinline__ void fetch_t(const ddlerp<T> &a, int64_t row0, T *ts) {
#pragma unroll 1
    for (int i = threadIdx.x; i < G::TILE * (G::H / 8); i += G::THREADS) {
        const int r = i / (G::H / 8), k = i % (G::H / 8) * 8;
        const bool there = row0 + r < a.rows.R;
        rw_copy_async(rw_shared_address(ts + r * G::LDH + k), a.t + (there ? row0 * G::H + 8 * i : 0), there);
    }
}

/* q = mu + t W2 of one mix for the warp's 16 rows and its channels; the sums start from mu. */
template <class G, class T>
__device__ __forceinline__ void mix_product(float (&q)[G::PARTS][4][4], int mix, const T *ts, const T *w2s,
                                            const float *mus, int row, int channel) {
    const int lane = threadIdx.x % 32, quad = lane % 4;
#pragma unroll
    for (int k = 0; k < G::K; k += 16) {
        const rw_fragment t =
            rw_ldmatrix(rw_shared_address(ts + (row + lane % 16) * G::LDH + mix * G::K + k + lane / 16 * 8));
#pragma unroll
        for (int j = 0; j < 2 * G::PARTS; j++) {
            float(&q0)[4] = q[j / 2][j % 2 * 2], (&q1)[4] = q[j / 2][j % 2 * 2 + 1];
            const rw_fragment w = rw_ldmatrix_trans(
                rw_shared_address(w2s + (mix * G::K + k + lane % 16) * G::LDW + channel + 16 * j + lane / 16 * 8));
            if (k == 0) {
                const float4 m = *reinterpret_cast<const float4 *>(mus + mix * G::CT + channel + 32 * (j / 2) +
                                                                   8 * quad + 4 * (j % 2));
                rw_mma_from<T>(q0, t, w.x[0], w.x[1], m.x, m.y, m.x, m.y);
                rw_mma_from<T>(q1, t, w.x[2], w.x[3], m.z, m.w, m.z, m.w);
            } else {
                rw_mma<T>(q0, t, w.x[0], w.x[1]);
                rw_mma<T>(q1, t, w.x[2], w.x[3]);
            }
        }
    }
}

/* -- forward ------------------------------------------------------------------------------------------------ */

/* A thread's rows of xn, 8 channels of each 32, into its own places, and the row in front of the warp's first one.
 * `row` is the thread's first row. Only the thread that copies a place reads it: no barrier. */
template <class G, class T>
__device__ __forceinline__ void fetch_xn(const ddlerp<T> &a, int64_t row, int64_t c, uint4 *xs, uint4 *before) {
    const T *from = a.xn + row * a.C + c;
#pragma unroll
    for (int part = 0; part < G::PARTS; part++) {
        const bool mine = c + 32 * part < a.C;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            const bool there = mine && row + 8 * s < a.rows.R;
            rw_copy_async(rw_shared_address(xs + (part * SLOTS + s) * G::THREADS + threadIdx.x),
                          there ? from + 8 * s * a.C + 32 * part : a.xn, there);
        }
        if (threadIdx.x % 32 < 4) {
            const bool there = mine && row > 0 && row <= a.rows.R;
            rw_copy_async(rw_shared_address(before + (threadIdx.x / 32 * G::PARTS + part) * 4 + threadIdx.x % 4),
                          there ? from - a.C + 32 * part : a.xn, there);
        }
    }
}
/* xn and xx of one part from those places; bit k of `starts`: row k of the warp begins a sequence. */
template <class G, class T>
__device__ __forceinline__ void differences(const ddlerp<T> &a, int64_t warp_row, int64_t c, uint32_t (&x)[SLOTS][4],
                                            float (&xx)[SLOTS][8], const uint4 *xs, const uint4 *before, int part,
                                            uint32_t starts) {
    const int lane = threadIdx.x % 32, line = lane / 4;
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        const uint4 v = xs[(part * SLOTS + s) * G::THREADS + threadIdx.x];
        x[s][0] = v.x, x[s][1] = v.y, x[s][2] = v.z, x[s][3] = v.w;
    }
    uint4 v = {};
    if (line == 0) v = before[(threadIdx.x / 32 * G::PARTS + part) * 4 + lane];
    const uint32_t first[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
#pragma unroll
        for (int j = 0; j < 4; j++) { /* the row before is 4 lanes lower; for the first line, the slot before */
            const uint32_t sent = line == 7 ? (s ? x[s - 1][j] : 0u) : x[s][j];
            uint32_t prev = __shfl_sync(~0u, sent, (lane + 28) % 32);
            if (s == 0 && line == 0) prev = first[j];
            xx[s][2 * j] = rw_low<T>(prev) - rw_low<T>(x[s][j]);
            xx[s][2 * j + 1] = rw_high<T>(prev) - rw_high<T>(x[s][j]);
        }
        if (starts >> (8 * s + line) & 1) state_minus(a, warp_row + 8 * s + line, c + 32 * part, x[s], xx[s]);
    }
}

template <class G> struct forward_memory {
    static constexpr int W2 = 0, H = W2 + G::W2_BYTES, MU = H + 2 * G::H_BYTES, XN = MU + G::MU_BYTES,
                         BEFORE = XN + G::TILE * G::CT * 2, BYTES = BEFORE + G::GROUPS * G::CT * 2;
};

/* Block (tile of channels, range of rows); tiles_per_range tiles of rows each. */
template <class T, int K>
__global__ void __launch_bounds__(forward_cut<K>::THREADS, K == 32 ? 2 : 1)
    mma_forward(const __grid_constant__ ddlerp<T> a, int tiles_per_range) {
#if RW_CUDA_HAS_MMA
    using G = forward_cut<K>;
    using M = forward_memory<G>;
    extern __shared__ __align__(16) char memory[];
    T *w2s = (T *)(memory + M::W2), *ts = (T *)(memory + M::H);
    float *mus = (float *)(memory + M::MU);
    uint4 *xs = (uint4 *)(memory + M::XN), *before = (uint4 *)(memory + M::BEFORE);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane % 4, line = lane / 4;
    const int channel = warp % G::STRIPS * G::WIDE, group_row = warp / G::STRIPS * 16;
    const int64_t c0 = (int64_t)blockIdx.x * G::CT, c = c0 + channel + 8 * quad;
    const int64_t first = (int64_t)blockIdx.y * tiles_per_range * G::TILE;
    const int64_t last = min(first + (int64_t)tiles_per_range * G::TILE, a.rows.R);
    if (first >= last) return;

    fetch_t<G>(a, first, ts);
    fetch_xn<G>(a, first + group_row + line, c, xs, before);
    rw_copy_commit();
    load_weights<G>(a, c0, w2s, mus);
    rw_copy_wait<0>();
    __syncthreads(); /* weights and t are there */

    /* A store covers 4 rows of 128 bytes, so neighbouring lines trade halves: first the even lines' rows are written,
     * then the odd ones'. An even line writes the first 32 channels, an odd line the other 32. */
    const bool odd = line & 1;
    const int64_t out_c = c + (odd ? 32 : 0);
    const int out_line = line & ~1;
    starts_up sequences(a.rows, first + group_row);
    int now = 0;
    for (int64_t tile = first; tile < last; tile += G::TILE, now ^= 1) {
        const int64_t row = tile + group_row;
        const bool more = tile + G::TILE < last;
        const T *t = ts + now * (G::H_BYTES / 2);
        T *t_next = ts + (now ^ 1) * (G::H_BYTES / 2);

        uint32_t x[G::PARTS][SLOTS][4];
        float xx[G::PARTS][SLOTS][8];
        const uint32_t starts = sequences.bits(a.rows, row, 16);
#pragma unroll
        for (int part = 0; part < G::PARTS; part++)
            differences<G>(a, row, c, x[part], xx[part], xs, before, part, starts);
        if (more) {
            fetch_t<G>(a, tile + G::TILE, t_next);
            fetch_xn<G>(a, row + G::TILE + line, c, xs, before);
        }
        rw_copy_commit();
#pragma unroll
        for (int mix = 0; mix < MIX; mix++) {
            if (!a.out[mix]) continue;
            T *to = a.out[mix] + (row + out_line) * a.C + out_c;
            float q[G::PARTS][4][4];
            mix_product<G>(q, mix, t, w2s, mus, group_row, channel);
#pragma unroll
            for (int s = 0; s < SLOTS; s++) {
                uint32_t even_row[4], odd_row[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t w[2];
#pragma unroll
                    for (int part = 0; part < 2; part++)
                        w[part] =
                            rw_pack2<T>(rw_low<T>(x[part][s][j]) + xx[part][s][2 * j] * q[part][j][2 * s],
                                        rw_high<T>(x[part][s][j]) + xx[part][s][2 * j + 1] * q[part][j][2 * s + 1]);
                    const uint32_t got = __shfl_xor_sync(~0u, odd ? w[0] : w[1], 4);
                    even_row[j] = odd ? got : w[0], odd_row[j] = odd ? w[1] : got;
                }
                const int64_t r = row + 8 * s + out_line;
                if (out_c < a.C && r < last)
                    rw_store16(to + 8 * s * a.C, make_uint4(even_row[0], even_row[1], even_row[2], even_row[3]));
                if (out_c < a.C && r + 1 < last)
                    rw_store16(to + (8 * s + 1) * a.C, make_uint4(odd_row[0], odd_row[1], odd_row[2], odd_row[3]));
            }
        }
        rw_copy_wait<0>();
        __syncthreads(); /* the next t is there, and all have read this one */
    }
#endif
}

/* -- backward ----------------------------------------------------------------------------------------------- */

/* Shared memory: dout of the five mixes and xn of one tile, each refilled for the next tile as soon as it has been
 * read. */
template <class G> struct backward_memory {
    static constexpr int SLOT = G::TILE * G::CT * 2;
    static constexpr int W2 = 0, H = W2 + G::W2_BYTES, MU = H + 2 * G::H_BYTES, DM = MU + G::MU_BYTES,
                         DOUT = DM + 2 * G::DM_BYTES, XN = DOUT + MIX * SLOT, XX = XN + SLOT + G::CT * 2,
                         EDGE = XX + G::TILE * G::CT * 4, MU_SUM = EDGE + 2 * G::GROUPS * G::CT * 4,
                         BYTES = MU_SUM + G::GROUPS * G::MU_BYTES;
};

/* sum += t^T dm over the rows of the tile, for 16 ranks x 16 channels. */
template <class G, class T>
__device__ __forceinline__ void w2_product(float (&sum)[2][4], const T *t, const T *dm, int tile) {
    const int lane = threadIdx.x % 32, rank = tile / (G::CT / 16) * 16, column = tile % (G::CT / 16) * 16;
#pragma unroll
    for (int k = 0; k < G::TILE; k += 16) {
        const rw_fragment b =
            rw_ldmatrix_trans(rw_shared_address(dm + (k + lane % 16) * G::LDW + column + lane / 16 * 8));
        const rw_fragment tt =
            rw_ldmatrix_trans(rw_shared_address(t + (k + lane % 8 + lane / 16 * 8) * G::LDH + rank + lane / 8 % 2 * 8));
        rw_mma<T>(sum[0], tt, b.x[0], b.x[1]);
        rw_mma<T>(sum[1], tt, b.x[2], b.x[3]);
    }
}
/* Such a tile to its place in [K,C]; c0 is the block's first channel. */
template <class G>
__device__ __forceinline__ void w2_store(float *to, int64_t C, int64_t c0, const float (&sum)[2][4], int tile) {
    const int lane = threadIdx.x % 32, quad = lane % 4, line = lane / 4;
    const int rank = tile / (G::CT / 16) * 16, column = tile % (G::CT / 16) * 16;
#pragma unroll
    for (int u = 0; u < 2; u++) {
        const int at = column + 8 * u + 2 * quad, c = (at & ~31) + quad * 8 + (at >> 3 & 3) * 2; /* place() backwards */
        if (c0 + c < C)
#pragma unroll
            for (int e = 0; e < 2; e++)
                *(float2 *)(to + (rank + 8 * e + line) * C + c0 + c) = make_float2(sum[u][2 * e], sum[u][2 * e + 1]);
    }
}
/* Sums over the 8 lines of a warp in 7 shuffles; the sum of v[line] ends here. */
__device__ __forceinline__ float sum_lines(const float (&v)[8]) {
    const int line = threadIdx.x % 32 / 4;
    float a[4], b[2];
#pragma unroll
    for (int j = 0; j < 4; j++)
        a[j] = (line & 4 ? v[4 + j] : v[j]) + __shfl_xor_sync(~0u, line & 4 ? v[j] : v[4 + j], 16);
#pragma unroll
    for (int j = 0; j < 2; j++)
        b[j] = (line & 2 ? a[2 + j] : a[j]) + __shfl_xor_sync(~0u, line & 2 ? a[j] : a[2 + j], 8);
    return (line & 1 ? b[1] : b[0]) + __shfl_xor_sync(~0u, line & 1 ? b[0] : b[1], 4);
}

/* Block (tile of channels, range of rows). Tiles of rows are walked downwards, since a row needs what the row after it
 * sends back. In a tile, for each mix: q and dm from the fragments, dmu's sums from dm (in shared memory, each place
 * one thread's own), dm (rounded) to shared memory, barrier, then dW2 += t^T dm  (sums in registers for the whole
 * range) and dp = dm W2^T   (a slice: the sum over this block's channels). dp takes the place of the t that it came
 * from, one barrier later, and leaves as whole rows in the next tile. xn and dout come as whole rows by cp.async, a
 * tile ahead; the barrier that follows the wait hands them to all. */
template <class T, int K>
__global__ void __launch_bounds__(backward_cut<K>::THREADS, 1)
    mma_backward(const __grid_constant__ ddlerp<T> a, int tiles_per_range) {
#if RW_CUDA_HAS_MMA
    using G = backward_cut<K>;
    using M = backward_memory<G>;
    extern __shared__ __align__(16) char memory[];
    T *w2s = (T *)(memory + M::W2), *ts = (T *)(memory + M::H), *dms = (T *)(memory + M::DM);
    float *mus = (float *)(memory + M::MU), *edge = (float *)(memory + M::EDGE),
          *mu_sum = (float *)(memory + M::MU_SUM);
    float4 *xxs = (float4 *)(memory + M::XX); /* places of each thread's own, since registers are short */
    uint4 *douts = (uint4 *)(memory + M::DOUT), *xs = (uint4 *)(memory + M::XN);

    const int tid = threadIdx.x, lane = tid % 32, quad = lane % 4, line = lane / 4;
    /* The shuffle tells the compiler that a warp shares this number, so what follows from it goes to uniform registers.
     */
    const int warp = __shfl_sync(~0u, tid / 32, 0);
    const int channel = warp % G::STRIPS * 32, group = warp / G::STRIPS, group_row = group * 16;
    const int C = (int)a.C, c0 = blockIdx.x * G::CT, c = c0 + channel + 8 * quad;
    const int R = (int)a.rows.R, first = blockIdx.y * tiles_per_range * G::TILE;
    const int last = min(first + tiles_per_range * G::TILE, R), top = first + (last - 1 - first) / G::TILE * G::TILE;

    /* A tile of rows lies in pieces of 16 bytes; odd rows trade the halves of each 128 bytes, so that a thread's pieces
     * of neighbouring rows are in different banks. For a copy the threads go along the rows. */
    constexpr int PASS = G::THREADS / G::PIECES; /* rows at a time, an even number */
    auto piece = [](int row, int n) { return row * G::PIECES + (n ^ (row & 1) * 4); };
    const int copy_row = tid / G::PIECES, copy_place = piece(copy_row, tid % G::PIECES);
    const int copy_from = copy_row * C + c0 + tid % G::PIECES * 8;
    const bool copies = c0 + tid % G::PIECES * 8 < C;
    auto fetch_dout = [&](int tile,
                          int mix) { /* zeros for a mix without */
                                     if (tile >= first) {
                                         const T *from = a.dout[mix] + (int64_t)tile * C + copy_from;
                                         const bool wanted = copies && a.dout[mix];
#pragma unroll
                                         for (int r = 0; r < G::TILE; r += PASS) {
                                             const bool there = wanted && tile + r + copy_row < last;
                                             rw_copy_async(rw_shared_address(douts + mix * (M::SLOT / 16) +
                                                                             r * G::PIECES + copy_place),
                                                           there ? from + r * C : a.xn, there);
                                         }
                                     }
                                     rw_copy_commit(); /* in any case: rw_copy_wait goes by the count of groups */
    };
    auto fetch_rows = [&](int tile) { /* of xn, from the row in front of the tile */
                                      const T *from = a.xn + (int64_t)(tile - 1) * C + copy_from;
#pragma unroll
                                      for (int r = 0; r <= G::TILE; r += PASS)
                                          if (r + copy_row <= G::TILE) {
                                              const int row = tile - 1 + r + copy_row;
                                              const bool there = copies && row >= 0 && row < R;
                                              rw_copy_async(rw_shared_address(xs + r * G::PIECES + copy_place),
                                                            there ? from + r * C : a.xn, there);
                                          }
    };

    fetch_t<G>(a, top, ts);
    fetch_rows(top);
#pragma unroll
    for (int m = 0; m < MIX; m++) fetch_dout(top, m);
    load_weights<G>(a, c0, w2s, mus);
    float *t_after = (float *)dms; /* of the first row of the next range */
    for (int i = tid; i < G::H; i += G::THREADS) t_after[i] = last < R ? rw_to_float(a.t[(int64_t)last * G::H + i]) : 0;
    for (int i = tid; i < G::GROUPS * MIX * G::CT; i += G::THREADS) mu_sum[i] = 0;
    rw_copy_wait<MIX - 1>(); /* t, xn and the first mix */
    __syncthreads();         /* these, weights, t_after and mu_sum are there */
    /* what that row sends back, by plain sums; it lies where a tile's first row leaves its own */
    for (int i = tid; i < G::CT; i += G::THREADS) {
        float sum = 0;
        if (last < R && c0 + i < C)
#pragma unroll
            for (int m = 0; m < MIX; m++) {
                if (!a.dout[m]) continue;
                float q = mus[m * G::CT + i];
#pragma unroll 8
                for (int k = 0; k < K; k++) q += t_after[m * K + k] * rw_to_float(w2s[(m * K + k) * G::LDW + place(i)]);
                sum += q * rw_to_float(a.dout[m][(int64_t)last * C + c0 + i]);
            }
        edge[G::GROUPS * G::CT + i] = sum;
    }
    __syncthreads(); /* t_after has been read: dm may take its place */

    /* dW2 of a mix is 16 tiles of 16 ranks x 16 channels: EVERY for each warp. With 12 warps 4 tiles are left over: 4
     * warps take them, others in each mix, so that a warp has two of them at most. dp: 16 rows x 8 ACROSS ranks for
     * each warp. */
    constexpr int EVERY = 16 / G::WARPS, LEFT = 16 - EVERY * G::WARPS, ACROSS = K * G::GROUPS / 8 / G::WARPS;
    static_assert(LEFT == 0 || G::WARPS == 12, "how the tiles left over go round");
    float w2_sum[MIX][EVERY][2][4] = {}, w2_left[2][2][4] = {}; /* of the mixes 0..2 and 3..4 */
    auto takes_left = [&](int mix) { return LEFT > 0 && (warp / 4 + mix) % 3 == 0; };
    const int left_tile = G::WARPS + warp % 4;
    const int dp_row = warp % G::GROUPS * 16, dp_rank = warp / G::GROUPS * 8 * ACROSS;
    uint32_t dp[ACROSS][2]; /* of the mix before */
    auto put_dp = [&](T *t, int mix) {
#pragma unroll
        for (int u = 0; u < ACROSS; u++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                *(uint32_t *)(t + (dp_row + 8 * e + line) * G::LDH + mix * K + dp_rank + 8 * u + 2 * quad) = dp[u][e];
    };
    auto write_dp = [&](const T *t, int tile) { /* the pieces that fetch_t gives to the same thread */
                                                T *to = a.dp_part + ((int64_t)blockIdx.x * R + tile) * G::H;
#pragma unroll 1
                                                for (int i = tid; i < G::TILE * (G::H / 8); i += G::THREADS)
                                                    if (tile + i / (G::H / 8) < last)
                                                        rw_store16(to + 8 * i,
                                                                   *(const uint4 *)(t + i / (G::H / 8) * G::LDH +
                                                                                    i % (G::H / 8) * 8));
    };

    starts_down sequences(a.rows, top + group_row + 16);
    int now = 0;
    for (int tile = top; tile >= first; tile -= G::TILE, now ^= 1) {
        const int row = tile + group_row;
        T *t = ts + now * (G::H_BYTES / 2), *t_other = ts + (now ^ 1) * (G::H_BYTES / 2);
        const uint32_t starts = sequences.bits(a.rows, row, 17);

        float own[SLOTS][8] = {}, send[SLOTS][8] = {}; /* sums of dout (1 - q), dout q */
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            const int at = group_row + 8 * s + line, n = channel / 8 + quad;
            const uint4 p = xs[piece(at, n)], v = xs[piece(at + 1, n)];
            const uint32_t prev[4] = {p.x, p.y, p.z, p.w}, x[4] = {v.x, v.y, v.z, v.w};
            float d[8];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                d[2 * j] = rw_low<T>(prev[j]) - rw_low<T>(x[j]);
                d[2 * j + 1] = rw_high<T>(prev[j]) - rw_high<T>(x[j]);
            }
            if (starts >> (8 * s + line) & 1) state_minus(a, row + 8 * s + line, c, x, d);
#pragma unroll
            for (int i = 0; i < 2; i++)
                xxs[(2 * s + i) * G::THREADS + tid] = make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
        }
#pragma unroll
        for (int mix = 0; mix < MIX; mix++) {
            T *dm = dms + ((now + mix) & 1) * (G::DM_BYTES / 2);
            float q[1][4][4], both[8]; /* dm of both slots */
            mix_product<G>(q, mix, t, w2s, mus, group_row, channel);
#pragma unroll
            for (int s = 0; s < SLOTS; s++) {
                const uint4 v = douts[mix * (M::SLOT / 16) + piece(group_row + 8 * s + line, channel / 8 + quad)];
                const uint32_t w[4] = {v.x, v.y, v.z, v.w};
                const float4 x0 = xxs[2 * s * G::THREADS + tid], x1 = xxs[(2 * s + 1) * G::THREADS + tid];
                const float xx[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float d[2] = {rw_low<T>(w[j]), rw_high<T>(w[j])};
                    float g[2];
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const float sent = d[e] * q[0][j][2 * s + e];
                        own[s][2 * j + e] += d[e] - sent;
                        send[s][2 * j + e] += sent;
                        g[e] = d[e] * xx[2 * j + e];
                        both[2 * j + e] = s ? both[2 * j + e] + g[e] : g[e];
                    }
                    *(uint32_t *)(dm + (group_row + 8 * s + line) * G::LDW + channel + 8 * j + 2 * quad) =
                        rw_pack2<T>(g[0], g[1]);
                }
            }
            mu_sum[(group * MIX + mix) * G::CT + channel + 8 * quad + line] += sum_lines(both);
            if (mix == MIX - 1 && line == 0)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    edge[(now * G::GROUPS + group) * G::CT + channel + 8 * quad + i] = send[0][i];
            if (mix < 4)
                rw_copy_wait<3>(); /* dout of the next mix */
            else
                rw_copy_wait<2>(); /* and t and xn of the next tile, which are with mix 1 */
            __syncthreads();       /* dm is there; all are done with what the mix before left */
            if (a.dp_part) {
                if (mix > 0)
                    put_dp(t, mix - 1);
                else if (tile < top)
                    put_dp(t_other, MIX - 1);
            }
            if (mix == 1) {
                if (a.dp_part && tile < top) write_dp(t_other, tile + G::TILE);
                if (tile > first) { /* t goes where the same thread has just read dp */
                    fetch_t<G>(a, tile - G::TILE, t_other);
                    fetch_rows(tile - G::TILE);
                }
            }
            fetch_dout(tile - G::TILE, mix); /* all have read the old one */
            if (a.dw2) {
#pragma unroll
                for (int i = 0; i < EVERY; i++) w2_product<G>(w2_sum[mix][i], t + mix * K, dm, warp + i * G::WARPS);
                if (takes_left(mix)) w2_product<G>(w2_left[mix / 3], t + mix * K, dm, left_tile);
            }
            if (!a.dp_part) continue;
            float sums[ACROSS][2][4] = {}; /* two chains each */
#pragma unroll
            for (int k = 0; k < G::CT; k += 32) {
                rw_fragment d[2];
#pragma unroll
                for (int i = 0; i < 2; i++)
                    d[i] =
                        rw_ldmatrix(rw_shared_address(dm + (dp_row + lane % 16) * G::LDW + k + 16 * i + lane / 16 * 8));
#pragma unroll
                for (int u = 0; u < ACROSS; u++) {
                    const rw_fragment w = rw_ldmatrix(
                        rw_shared_address(w2s + (mix * K + dp_rank + 8 * u + lane % 8) * G::LDW + k + lane / 8 * 8));
                    rw_mma<T>(sums[u][0], d[0], w.x[0], w.x[1]);
                    rw_mma<T>(sums[u][1], d[1], w.x[2], w.x[3]);
                }
            }
#pragma unroll
            for (int u = 0; u < ACROSS; u++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    dp[u][e] = rw_pack2<T>(sums[u][0][2 * e] + sums[u][1][2 * e],
                                           sums[u][0][2 * e + 1] + sums[u][1][2 * e + 1]);
        }
        const float *after =
            group + 1 < G::GROUPS ? edge + (now * G::GROUPS + group + 1) * G::CT : edge + (now ^ 1) * G::GROUPS * G::CT;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            float r[8];
            const bool cut_off = starts >> (8 * s + line + 1) & 1;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float sent = line == 0 && s + 1 < SLOTS ? send[s + 1 < SLOTS ? s + 1 : s][j] : send[s][j];
                float next = __shfl_sync(~0u, sent, (lane + 4) % 32);
                if (s + 1 == SLOTS && line == 7) next = after[channel + 8 * quad + j];
                r[j] = own[s][j] + (cut_off ? 0.0f : next);
            }
            const int at = row + 8 * s + line;
            if (a.dxn && c < C && at < last) {
                T *to = a.dxn + (int64_t)at * C + c;
                if (a.adds(RW_DDLERP_ADD_XN)) {
                    float old[8];
                    rw_load(to, old);
#pragma unroll
                    for (int j = 0; j < 8; j++) r[j] += old[j];
                }
                rw_store16(to, make_uint4(rw_pack2<T>(r[0], r[1]), rw_pack2<T>(r[2], r[3]), rw_pack2<T>(r[4], r[5]),
                                          rw_pack2<T>(r[6], r[7])));
            }
        }
    }
    __syncthreads(); /* the last products have read t */
    if (a.dp_part) {
        T *t = ts + (now ^ 1) * (G::H_BYTES / 2);
        put_dp(t, MIX - 1);
        __syncthreads(); /* dp is whole */
        write_dp(t, first);
    }

    float *part = a.partial + (int64_t)blockIdx.y * MIX * (K + 1) * a.C;
#pragma unroll
    for (int mix = 0; mix < MIX && a.dw2; mix++) {
#pragma unroll
        for (int i = 0; i < EVERY; i++) w2_store<G>(part + mix * K * a.C, a.C, c0, w2_sum[mix][i], warp + i * G::WARPS);
        if (takes_left(mix)) w2_store<G>(part + mix * K * a.C, a.C, c0, w2_left[mix / 3], left_tile);
    }
    for (int i = tid; i < MIX * G::CT; i += G::THREADS) {
        const int m = i / G::CT, ch = i % G::CT;
        float s = 0;
#pragma unroll
        for (int g = 0; g < G::GROUPS; g++) s += mu_sum[g * MIX * G::CT + i];
        if (c0 + ch < C) part[(MIX * K + m) * a.C + c0 + ch] = s;
    }
#endif
}

/* -- what is left after mma_backward, in one launch --------------------------------------------------------- */

enum { FINISH_THREADS = 128 };

/* 4 values of [5(K+1), C] from i: the row ranges in their order. */
template <class T> __device__ __forceinline__ void sum_ranges(const ddlerp<T> &a, int64_t i, int ranges) {
    const int H = MIX * (int)a.rank, row = (int)(i / a.C);
    const int64_t c = i % a.C, n = (H + MIX) * a.C;
    float *mu = nullptr;
#pragma unroll
    for (int m = 0; m < MIX; m++)
        if (row == H + m) mu = a.dmu[m];
    if (row < H ? !a.dw2 : !mu) return;
    float s[4] = {};
#pragma unroll 8
    for (int k = 0; k < ranges; k++) {
        float v[4];
        rw_load(a.partial + k * n + i, v);
#pragma unroll
        for (int j = 0; j < 4; j++) s[j] += v[j];
    }
    const bool add = a.adds(row < H ? RW_DDLERP_ADD_W2 : (uint32_t)RW_DDLERP_ADD_MU << (row - H));
    auto put = [&](auto *to) {
        float old[4] = {};
        if (add) rw_load(to, old);
#pragma unroll
        for (int j = 0; j < 4; j++) s[j] += old[j];
        rw_store(to, s);
    };
    if (row >= H)
        put(mu + c);
    else if (a.dw2_wide)
        put((float *)a.dw2 + i);
    else
        put((T *)a.dw2 + i);
}

/* dh of 8 places from i: the slices in their order, times 1 - t^2. */
template <class T> __device__ __forceinline__ void sum_slices(const ddlerp<T> &a, int64_t i, int slices) {
    const int64_t n = a.rows.R * MIX * a.rank;
    float s[8] = {}, t[8], old[8] = {};
#pragma unroll 8
    for (int k = 0; k < slices; k++) {
        float v[8];
        rw_load(a.dp_part + k * n + i, v);
#pragma unroll
        for (int j = 0; j < 8; j++) s[j] += v[j];
    }
    rw_load(a.t + i, t);
    if (a.adds(RW_DDLERP_ADD_H)) rw_load(a.dh + i, old);
#pragma unroll
    for (int j = 0; j < 8; j++) s[j] = old[j] + s[j] * (1 - t[j] * t[j]);
    rw_store(a.dh + i, s);
}

/* The first `sum_blocks` blocks add the row ranges of dW2 and dmu, the others the slices of dh. */
template <class T>
__global__ void __launch_bounds__(FINISH_THREADS)
    finish(const __grid_constant__ ddlerp<T> a, int slices, int ranges, int sum_blocks) {
    if (blockIdx.x < sum_blocks) {
        const int64_t i = ((int64_t)blockIdx.x * FINISH_THREADS + threadIdx.x) * 4;
        if (i < MIX * (a.rank + 1) * a.C) sum_ranges(a, i, ranges);
    } else {
        const int64_t i = ((int64_t)(blockIdx.x - sum_blocks) * FINISH_THREADS + threadIdx.x) * 8;
        if (i < a.rows.R * MIX * a.rank) sum_slices(a, i, slices);
    }
}

/* -- launches ----------------------------------------------------------------------------------------------- */

struct split {
    int columns, ranges, each; /* blocks along channels and along rows; tiles of rows a block */
};
/* Blocks for the whole chip: `most` of them, as far as there are tiles. */
template <class G> split split_for(int64_t R, int64_t C, int most) {
    const int columns = (int)((C + G::CT - 1) / G::CT), tiles = (int)((R + G::TILE - 1) / G::TILE);
    const int wanted = most / columns > 1 ? most / columns : 1, each = (tiles + wanted - 1) / wanted;
    return {columns, (tiles + each - 1) / each, each};
}
/* No fewer ranges than split_for() makes for R rows or fewer. */
template <class G> int most_ranges(int64_t R, int64_t C, int most) {
    const int64_t columns = (C + G::CT - 1) / G::CT, tiles = (R + G::TILE - 1) / G::TILE;
    const int64_t wanted = most / columns > 1 ? most / columns : 1;
    return (int)(tiles < wanted ? tiles : wanted);
}

/* Once a kernel: a block may have more than the usual 48 KiB of shared memory. */
template <auto KERNEL> void allow_shared(rw_cuda_state *s, int bytes) {
    static bool done;
    if (done) return;
    rw_cuda_check(s, "ddlerp: shared memory",
                  cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    done = true;
}

/* Grid for 4 blocks a multiprocessor, of which 2 run at once (rank 32): up to 3 % faster than for 2 on an H100. */
template <class T, int K> void launch_mma_forward(const ddlerp<T> &a, rw_cuda_state *s) {
    using G = forward_cut<K>;
    constexpr int bytes = forward_memory<G>::BYTES;
    const split cut = split_for<G>(a.rows.R, a.C, s->n_sm * 4);
    allow_shared<mma_forward<T, K>>(s, bytes);
    mma_forward<T, K><<<dim3(cut.columns, cut.ranges), G::THREADS, bytes, s->stream>>>(a, cut.each);
    rw_cuda_launched(s, "ddlerp_forward");
}

template <class T, int K> void launch_mma_backward(const ddlerp<T> &a, rw_cuda_state *s) {
    using G = backward_cut<K>;
    constexpr int bytes = backward_memory<G>::BYTES;
    const split cut = split_for<G>(a.rows.R, a.C, s->n_sm);
    auto blocks = [](int64_t n) { return (int)((n + FINISH_THREADS - 1) / FINISH_THREADS); };
    const int sum_blocks = blocks(MIX * (K + 1) * a.C / 4), dh_blocks = a.dh ? blocks(a.rows.R * G::H / 8) : 0;
    allow_shared<mma_backward<T, K>>(s, bytes);
    mma_backward<T, K><<<dim3(cut.columns, cut.ranges), G::THREADS, bytes, s->stream>>>(a, cut.each);
    rw_cuda_launched(s, "ddlerp_backward");
    finish<T><<<sum_blocks + dh_blocks, FINISH_THREADS, 0, s->stream>>>(a, cut.columns, cut.ranges, sum_blocks);
    rw_cuda_launched(s, "ddlerp_backward: sums");
}

template <int K> bool mma_fits(const rw_cuda_state *s) {
    return forward_memory<forward_cut<K>>::BYTES <= s->shared_bytes &&
           backward_memory<backward_cut<K>>::BYTES <= s->shared_bytes;
}

} // namespace

#endif
