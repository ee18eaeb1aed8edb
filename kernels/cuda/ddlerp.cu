/* ddlerp on the GPU (formulas: kernels/ddlerp.h): the launchers, and a plain form for fp32, other ranks, channels that
 * are no multiple of 8 and cards for which ddlerp_mma.cuh is too large. Sums in it are never rounded below fp32.
 *
 *     tanh_rows   t = tanh(h), before everything else, so that t may take the place of h
 *     forward     block: 16 rows x 128 channels; thread: a channel
 *     rows_back   dxn, the same cut; the row after the last is computed too, since it sends something back
 *     h_back      dh: block: 16 rows x 32 ranks of a mix, over all channels
 *     sums_back   dW2 and dmu: block: 32 ranks x 32 channels of a mix, over all rows; mu is a rank whose t is 1
 *     states_back what first rows send to their states: block: a sequence x 128 channels (also beside ddlerp_mma.cuh)
 *
 * Bytes of the plain form, in R C: forward xn and 5 out; backward dout three times, xn three times, dxn. Each result
 * has one thread, which adds in a fixed order. */
#include "kernels/cuda/ddlerp_mma.cuh"

namespace {

enum { ROWS = 16, COLUMNS = 128, TILE = 32 };

/* t <- tanh(h); t may be h. */
template <class T> __global__ void tanh_rows(const T *h, T *t, int64_t n, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        float v[width.value];
        rw_load(h + i, v);
        for (float &x : v) x = tanhf(x);
        rw_store(t + i, v);
    });
}

/* begins[r] = the sequence that begins at row0 + r, or -1, for n rows; all threads see it after the next barrier. */
__device__ void find_begins(const packed &p, int64_t row0, int n, int *begins) {
    for (int r = threadIdx.x; r < n; r += blockDim.x) {
        begins[r] = -1;
        if (row0 + r >= p.R) continue;
        const int i = p.holder(row0 + r);
        if (p.first(i) == row0 + r) begins[r] = i;
    }
}

/* prev - xn of a row */
template <class T> __device__ float difference(const ddlerp<T> &a, int64_t row, int64_t c, int begins) {
    float prev = 0;
    if (begins < 0)
        prev = rw_to_float(a.xn[(row - 1) * a.C + c]);
    else if (a.shift_in)
        prev = a.shift_in[begins * a.shift_in_stride + c];
    return prev - rw_to_float(a.xn[row * a.C + c]);
}

/* q = mu + t W2 of one mix at channel c, for N rows from row0. All threads of the block take part; ts is shared. */
template <int N, class T>
__device__ void plain_mix(const ddlerp<T> &a, int mix, int64_t row0, int64_t c, float (*ts)[TILE], float (&q)[N]) {
    const float mu = c < a.C ? a.mu[mix][c] : 0;
    for (int r = 0; r < N; r++) q[r] = mu;
    for (int64_t k0 = 0; k0 < a.rank; k0 += TILE) {
        const int n = (int)min((int64_t)TILE, a.rank - k0);
        __syncthreads(); /* ts has been read */
        for (int i = threadIdx.x; i < N * n; i += blockDim.x) {
            const int64_t row = row0 + i / n;
            ts[i / n][i % n] = row < a.rows.R ? rw_to_float(a.t[(row * MIX + mix) * a.rank + k0 + i % n]) : 0;
        }
        __syncthreads(); /* ts is there */
        for (int k = 0; k < n && c < a.C; k++) {
            const float w = rw_to_float(a.w2[(mix * a.rank + k0 + k) * a.C + c]);
#pragma unroll
            for (int r = 0; r < N; r++) q[r] += ts[r][k] * w;
        }
    }
}

template <class T> __global__ void __launch_bounds__(COLUMNS) plain_forward(const __grid_constant__ ddlerp<T> a) {
    __shared__ float ts[ROWS][TILE];
    __shared__ int begins[ROWS];
    const int64_t row0 = (int64_t)blockIdx.x * ROWS, c = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
    find_begins(a.rows, row0, ROWS, begins);
    __syncthreads(); /* begins is there */
    for (int mix = 0; mix < MIX; mix++) {
        if (!a.out[mix]) continue;
        float q[ROWS];
        plain_mix(a, mix, row0, c, ts, q);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int64_t row = row0 + r;
            if (c >= a.C || row >= a.rows.R) continue;
            const float x = rw_to_float(a.xn[row * a.C + c]) + difference(a, row, c, begins[r]) * q[r];
            a.out[mix][row * a.C + c] = rw_from_float<T>(x);
        }
    }
}

/* dxn = sum over the mixes of dout (1 - q) + what the next row sends, dout q, when it is of the same sequence. */
template <class T> __global__ void __launch_bounds__(COLUMNS) plain_rows_back(const __grid_constant__ ddlerp<T> a) {
    __shared__ float ts[ROWS + 1][TILE];
    __shared__ int begins[ROWS + 1];
    const int64_t row0 = (int64_t)blockIdx.x * ROWS, c = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
    float own[ROWS + 1] = {}, send[ROWS + 1] = {};
    find_begins(a.rows, row0, ROWS + 1, begins);
    for (int mix = 0; mix < MIX; mix++) {
        if (!a.dout[mix]) continue;
        float q[ROWS + 1];
        plain_mix(a, mix, row0, c, ts, q);
#pragma unroll
        for (int r = 0; r <= ROWS; r++) {
            const int64_t row = row0 + r;
            if (c >= a.C || row >= a.rows.R) continue;
            const float d = rw_to_float(a.dout[mix][row * a.C + c]), sent = d * q[r];
            own[r] += d - sent;
            send[r] += sent;
        }
    }
    __syncthreads(); /* begins is there, with no mix as well */
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int64_t row = row0 + r, at = row * a.C + c;
        if (c >= a.C || row >= a.rows.R) continue;
        float d = own[r];
        if (row + 1 < a.rows.R && begins[r + 1] < 0) d += send[r + 1];
        if (a.adds(RW_DDLERP_ADD_XN)) d += rw_to_float(a.dxn[at]);
        a.dxn[at] = rw_from_float<T>(d);
    }
}

/* dm = dout (prev - xn) of one mix: N rows x TILE channels into shared memory, zeros outside. */
template <int N, class T>
__device__ void load_dm(const ddlerp<T> &a, int mix, int64_t row0, int64_t c0, const int *begins,
                        float (*dm)[TILE + 1]) {
    for (int i = threadIdx.x; i < N * TILE; i += blockDim.x) {
        const int r = i / TILE;
        const int64_t row = row0 + r, c = c0 + i % TILE;
        const bool there = row < a.rows.R && c < a.C;
        dm[r][i % TILE] = there ? rw_to_float(a.dout[mix][row * a.C + c]) * difference(a, row, c, begins[r]) : 0;
    }
}

/* dh = (dm W2^T) (1 - t^2). Thread: a rank of 4 rows. */
template <class T> __global__ void __launch_bounds__(COLUMNS) plain_h_back(const __grid_constant__ ddlerp<T> a) {
    __shared__ float dm[ROWS][TILE + 1], w[TILE][TILE + 1];
    __shared__ int begins[ROWS];
    enum { EACH = ROWS * TILE / COLUMNS };
    const int mix = blockIdx.y, mine = threadIdx.x % TILE, r0 = threadIdx.x / TILE * EACH;
    const int64_t row0 = (int64_t)blockIdx.x * ROWS, k0 = (int64_t)blockIdx.z * TILE, k = k0 + mine;
    float sum[EACH] = {};
    find_begins(a.rows, row0, ROWS, begins);
    for (int64_t c0 = 0; c0 < a.C && a.dout[mix]; c0 += TILE) {
        __syncthreads(); /* begins is there; dm and w have been read */
        load_dm<ROWS>(a, mix, row0, c0, begins, dm);
        for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
            const int64_t kk = k0 + i / TILE, c = c0 + i % TILE;
            w[i / TILE][i % TILE] = kk < a.rank && c < a.C ? rw_to_float(a.w2[(mix * a.rank + kk) * a.C + c]) : 0;
        }
        __syncthreads();       /* dm and w are there */
        float part[EACH] = {}; /* sums of sums: fp32 keeps its digits */
        for (int c = 0; c < TILE; c++)
#pragma unroll
            for (int e = 0; e < EACH; e++) part[e] += dm[r0 + e][c] * w[mine][c];
#pragma unroll
        for (int e = 0; e < EACH; e++) sum[e] += part[e];
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int64_t row = row0 + r0 + e, at = (row * MIX + mix) * a.rank + k;
        if (row >= a.rows.R || k >= a.rank) continue;
        const float t = rw_to_float(a.t[at]), old = a.adds(RW_DDLERP_ADD_H) ? rw_to_float(a.dh[at]) : 0;
        a.dh[at] = rw_from_float<T>(old + sum[e] * (1 - t * t));
    }
}

template <class U> __device__ void put(U *to, float x, bool add) {
    *to = rw_from_float<U>(add ? rw_to_float(*to) + x : x);
}

/* dW2 = t^T dm; behind the last rank dmu = 1^T dm. Thread: a channel of 8 ranks. */
template <class T> __global__ void __launch_bounds__(COLUMNS) plain_sums_back(const __grid_constant__ ddlerp<T> a) {
    __shared__ float dm[TILE][TILE + 1], ts[TILE][TILE];
    __shared__ int begins[TILE];
    enum { EACH = TILE * TILE / COLUMNS };
    const int mix = blockIdx.y, mine = threadIdx.x % TILE, e0 = threadIdx.x / TILE * EACH;
    const int64_t c0 = (int64_t)blockIdx.x * TILE, k0 = (int64_t)blockIdx.z * TILE, c = c0 + mine;
    float sum[EACH] = {};
    for (int64_t row0 = 0; row0 < a.rows.R && a.dout[mix]; row0 += TILE) {
        __syncthreads(); /* dm, ts and begins have been read */
        find_begins(a.rows, row0, TILE, begins);
        for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x) {
            const int64_t row = row0 + i / TILE, k = k0 + i % TILE;
            const bool there = row < a.rows.R && k < a.rank;
            ts[i / TILE][i % TILE] = there ? rw_to_float(a.t[(row * MIX + mix) * a.rank + k]) : 1;
        }
        __syncthreads(); /* begins is there */
        load_dm<TILE>(a, mix, row0, c0, begins, dm);
        __syncthreads(); /* dm and ts are there */
        float part[EACH] = {};
        for (int r = 0; r < TILE; r++)
#pragma unroll
            for (int e = 0; e < EACH; e++) part[e] += ts[r][e0 + e] * dm[r][mine];
#pragma unroll
        for (int e = 0; e < EACH; e++) sum[e] += part[e];
    }
    if (c >= a.C) return;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int64_t k = k0 + e0 + e, at = (mix * a.rank + k) * a.C + c;
        const bool add = a.adds(RW_DDLERP_ADD_W2);
        if (k == a.rank && a.dmu[mix]) put(a.dmu[mix] + c, sum[e], a.adds((uint32_t)RW_DDLERP_ADD_MU << mix));
        if (k >= a.rank || !a.dw2) continue;
        if (a.dw2_wide)
            put((float *)a.dw2 + at, sum[e], add);
        else
            put((T *)a.dw2 + at, sum[e], add);
    }
}

/* What the first row of a sequence sends to its state; an empty one sends nothing. Into `states` when all share one. */
template <class T> __global__ void __launch_bounds__(COLUMNS) states_back(const __grid_constant__ ddlerp<T> a) {
    __shared__ float ts[1][TILE];
    const int i = blockIdx.x;
    const int64_t row = a.rows.first(i), c = (int64_t)blockIdx.y * COLUMNS + threadIdx.x;
    float sent = 0;
    for (int mix = 0; mix < MIX && row < a.rows.first(i + 1); mix++) {
        if (!a.dout[mix]) continue;
        float q[1];
        plain_mix(a, mix, row, c, ts, q);
        if (c < a.C) sent += rw_to_float(a.dout[mix][row * a.C + c]) * q[0];
    }
    if (c >= a.C) return;
    if (a.states)
        a.states[i * a.C + c] = sent;
    else
        put(a.dshift_in + i * a.shift_in_stride + c, sent, a.adds(RW_DDLERP_ADD_SHIFT_IN));
}
/* In the order of the sequences. */
template <class T> __global__ void __launch_bounds__(COLUMNS) sum_states(const __grid_constant__ ddlerp<T> a) {
    const int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= a.C) return;
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < a.rows.n_seq; i++) sum += a.states[i * a.C + c];
    put(a.dshift_in + c, sum, a.adds(RW_DDLERP_ADD_SHIFT_IN));
}

/* -- launches ----------------------------------------------------------------------------------------------- */

unsigned count(int64_t n, int64_t each) {
    return (unsigned)((n + each - 1) / each);
}

/* By sizes alone. */
bool mma_possible(const rw_ddlerp_args *a, const rw_cuda_state *s) {
    if (a->dtype == RW_F32 || s->capability < 80 || a->C % 8 != 0 || a->R > INT32_MAX / 2) return false;
    return a->rank == 32 ? mma_fits<32>(s) : a->rank == 64 && mma_fits<64>(s);
}

/* And do all pointers allow for pieces of 16 bytes? */
bool takes_mma(const rw_ddlerp_args *a, const rw_cuda_state *s) {
    bool aligned = rw_aligned({a->xn, a->shift_in, a->h, a->w2, a->tanh_h, a->dxn, a->dh, a->dw2});
    for (int i = 0; i < MIX; i++) aligned &= rw_aligned({a->mu[i], a->out[i], a->dout[i], a->dmu[i]});
    return aligned && a->R > 0 && mma_possible(a, s);
}

template <class T> ddlerp<T> typed(const rw_ddlerp_args *p) {
    ddlerp<T> a = {};
    a.C = p->C, a.rank = p->rank;
    a.rows = {p->cu_seqlens, p->R, p->n_seq > 0 ? p->R / p->n_seq : p->R, (int)p->n_seq};
    a.xn = rw_in<T>(p->xn), a.w2 = rw_in<T>(p->w2), a.t = rw_in<T>(p->tanh_h);
    a.shift_in = rw_in<float>(p->shift_in), a.shift_in_stride = p->shift_in_stride;
    for (int i = 0; i < MIX; i++) {
        a.mu[i] = rw_in<float>(p->mu[i]), a.out[i] = rw_out<T>(p->out[i]);
        a.dout[i] = rw_in<T>(p->dout[i]), a.dmu[i] = rw_out<float>(p->dmu[i]);
    }
    a.dxn = rw_out<T>(p->dxn), a.dh = rw_out<T>(p->dh), a.dshift_in = rw_out<float>(p->dshift_in);
    a.dw2 = p->dw2, a.dw2_wide = p->dw2_dtype == RW_F32, a.add = p->add;
    return a;
}

template <class T> void forward(const rw_ddlerp_args *p, rw_cuda_state *s) {
    ddlerp<T> a = typed<T>(p);
    T *t = rw_out<T>(p->tanh_h ? p->tanh_h : p->scratch);
    const int64_t n = p->R * MIX * p->rank;
    if (p->h)
        tanh_rows<<<rw_cuda_blocks(s, n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(rw_in<T>(p->h), t, n,
                                                                                           rw_aligned({p->h, t}));
    a.t = t;
    if constexpr (!std::is_same_v<T, float>)
        if (takes_mma(p, s)) return p->rank == 32 ? launch_mma_forward<T, 32>(a, s) : launch_mma_forward<T, 64>(a, s);
    plain_forward<T><<<dim3(count(p->R, ROWS), count(p->C, COLUMNS)), COLUMNS, 0, s->stream>>>(a);
    rw_cuda_launched(s, "ddlerp_forward");
}

template <class T> void states_backward(const ddlerp<T> &a, rw_cuda_state *s) {
    const unsigned columns = count(a.C, COLUMNS);
    if (a.rows.n_seq > 0) states_back<T><<<dim3((unsigned)a.rows.n_seq, columns), COLUMNS, 0, s->stream>>>(a);
    if (a.states) sum_states<T><<<columns, COLUMNS, 0, s->stream>>>(a);
    rw_cuda_launched(s, "ddlerp_backward: states");
}

template <class T> void plain_backward(const ddlerp<T> &a, rw_cuda_state *s) {
    const unsigned rows = count(a.rows.R, ROWS);
    bool sums = a.dw2;
    for (float *dmu : a.dmu) sums |= dmu != nullptr;
    if (a.dxn && rows) plain_rows_back<T><<<dim3(rows, count(a.C, COLUMNS)), COLUMNS, 0, s->stream>>>(a);
    if (a.dh && rows) plain_h_back<T><<<dim3(rows, MIX, count(a.rank, TILE)), COLUMNS, 0, s->stream>>>(a);
    if (sums) plain_sums_back<T><<<dim3(count(a.C, TILE), MIX, count(a.rank + 1, TILE)), COLUMNS, 0, s->stream>>>(a);
    rw_cuda_launched(s, "ddlerp_backward");
}

/* What lies in the scratch of the backward pass, in bytes from its beginning. */
struct layout {
    int64_t states, partial, dp_part, end;
};
int64_t whole(int64_t n_bytes) {
    return (n_bytes + 255) / 256 * 256;
}
template <int K> void mma_layout(const rw_ddlerp_args *a, const rw_cuda_state *s, layout *l) {
    using G = backward_cut<K>;
    const int64_t slices = (a->C + G::CT - 1) / G::CT;
    l->dp_part = l->partial + whole(most_ranges<G>(a->R, a->C, s->n_sm) * (int64_t)MIX * (K + 1) * a->C * 4);
    l->end = l->dp_part + whole(slices * a->R * G::H * 2);
}
layout backward_layout(const rw_ddlerp_args *a, const rw_cuda_state *s) {
    layout l = {};
    l.partial = l.end = a->shift_in_stride == 0 ? whole(a->n_seq * a->C * 4) : 0;
    if (!mma_possible(a, s)) return l;
    if (a->rank == 32)
        mma_layout<32>(a, s, &l);
    else
        mma_layout<64>(a, s, &l);
    return l;
}

template <class T> void backward(const rw_ddlerp_args *p, rw_cuda_state *s) {
    ddlerp<T> a = typed<T>(p);
    const layout l = backward_layout(p, s);
    char *scratch = (char *)p->scratch;
    if (p->shift_in_stride == 0) a.states = (float *)(scratch + l.states);
    if (a.dshift_in) states_backward(a, s);
    if constexpr (!std::is_same_v<T, float>)
        if (takes_mma(p, s)) {
            a.partial = (float *)(scratch + l.partial);
            a.dp_part = a.dh ? (T *)(scratch + l.dp_part) : nullptr;
            return p->rank == 32 ? launch_mma_backward<T, 32>(a, s) : launch_mma_backward<T, 64>(a, s);
        }
    plain_backward(a, s);
}

} // namespace

int64_t rw_cuda_ddlerp_forward_scratch(const rw_ddlerp_args *a, const rw_exec *ex) {
    (void)ex;
    return a->tanh_h ? 0 : a->R * MIX * a->rank * rw_dtype_bytes(a->dtype);
}

void rw_cuda_ddlerp_forward(const rw_ddlerp_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->R == 0) return;
    RW_CUDA_NARROW(s, "ddlerp_forward", a->dtype, T, forward<T>(a, s));
}

int64_t rw_cuda_ddlerp_backward_scratch(const rw_ddlerp_args *a, const rw_exec *ex) {
    return backward_layout(a, rw_cuda_of(ex)).end;
}

/* Without rows sums over rows are still 0, and so written. */
void rw_cuda_ddlerp_backward(const rw_ddlerp_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "ddlerp_backward", a->dtype, T, backward<T>(a, s));
}
