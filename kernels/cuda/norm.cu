/* layer_norm and group_norm on the GPU (formulas: kernels/norm.h).
 *
 * A layer norm is a token_shift without mixes: xn is its output, dxn the gradient of it. The same kernels do it.
 *
 * group_norm, H groups of N channels in a row. The fast form, where N channels are 1, 2, 4, .. 32 packs of 16 bytes: a
 * thread owns one pack of channels for all rows of its block (gamma, beta, dgamma and dbeta in registers), the lanes
 * that share a group add by shuffles, there is no barrier. A block takes 128 packs of a row (blockIdx.x) and its share
 * of the rows (blockIdx.y). Each tensor moves once: forward 1 + 1, backward 2 + 1 (+ 1 with add), times R H N.
 * The plain form, any N: a warp a group for out and dx, a thread a channel for the sums. Sums over rows end as one
 * partial a block, added in block order, so the bits repeat. */
#include "kernels/cuda/rows.cuh"

namespace {

using norm_args = rw_group_norm_args;

enum { THREADS = 128, FORWARD_ROWS = 4, BACKWARD_ROWS = 2 /* at a time */, WARPS = RW_CUDA_THREADS / 32 };

/* Sum over the `lanes` neighbours (a power of two) that share a group. */
__device__ __forceinline__ float group_sum(float x, int lanes) {
    for (int d = lanes / 2; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* -- fast: every lane takes part in every shuffle, those beyond C with zeros ------------------------------------- */

template <class T> __global__ void __launch_bounds__(THREADS) forward_fast(norm_args a, int64_t rows_per_block) {
    constexpr int W = rw_pack_of<T>;
    const int64_t C = a.H * a.N, c = rw_thread_index() * W;
    const int lanes = (int)a.N / W;
    const bool mine = c < C, head = threadIdx.x % lanes == 0;
    const int64_t group = c / a.N, first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, a.R);
    const float inv_n = 1.0f / a.N, eps = (float)a.eps;
    const T *x_in = rw_in<T>(a.x) + c;
    float gamma[W] = {}, beta[W] = {};
    if (mine) rw_load(rw_in<float>(a.gamma) + c, gamma);
    if (mine) rw_load(rw_in<float>(a.beta) + c, beta);
    for (int64_t row = first; row < last; row += FORWARD_ROWS) {
        float x[FORWARD_ROWS][W] = {}, mean[FORWARD_ROWS], rstd[FORWARD_ROWS];
#pragma unroll
        for (int k = 0; k < FORWARD_ROWS; k++)
            if (mine && row + k < last) rw_load(x_in + (row + k) * C, x[k]);
#pragma unroll
        for (int k = 0; k < FORWARD_ROWS; k++) {
            float sum = 0, squares = 0;
#pragma unroll
            for (int i = 0; i < W; i++) sum += x[k][i];
            mean[k] = group_sum(sum, lanes) * inv_n;
#pragma unroll
            for (int i = 0; i < W; i++) squares += (x[k][i] - mean[k]) * (x[k][i] - mean[k]);
            rstd[k] = rsqrtf(group_sum(squares, lanes) * inv_n + eps);
        }
#pragma unroll
        for (int k = 0; k < FORWARD_ROWS; k++) {
            if (!mine || row + k >= last) continue;
#pragma unroll
            for (int i = 0; i < W; i++) x[k][i] = (x[k][i] - mean[k]) * rstd[k] * gamma[i] + beta[i];
            rw_store(rw_out<T>(a.out) + (row + k) * C + c, x[k]);
            if (head && a.mean) rw_out<float>(a.mean)[(row + k) * a.H + group] = mean[k];
            if (head && a.rstd) rw_out<float>(a.rstd)[(row + k) * a.H + group] = rstd[k];
        }
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS) backward_fast(norm_args a, int64_t rows_per_block, float *partial) {
    constexpr int W = rw_pack_of<T>;
    const int64_t C = a.H * a.N, c = rw_thread_index() * W;
    const int lanes = (int)a.N / W;
    const bool mine = c < C, add = a.add & RW_NORM_ADD_X;
    const int64_t group = c / a.N, first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, a.R);
    const float inv_n = 1.0f / a.N;
    float gamma[W] = {}, dgamma[W] = {}, dbeta[W] = {};
    if (mine) rw_load(rw_in<float>(a.gamma) + c, gamma);
    for (int64_t row = first; row < last; row += BACKWARD_ROWS) {
        float hat[BACKWARD_ROWS][W] = {}, d[BACKWARD_ROWS][W] = {}, old[BACKWARD_ROWS][W] = {}, rstd[BACKWARD_ROWS];
#pragma unroll
        for (int k = 0; k < BACKWARD_ROWS; k++) {
            rstd[k] = 0;
            if (!mine || row + k >= last) continue;
            const int64_t at = (row + k) * C + c;
            const float mean = rw_in<float>(a.mean)[(row + k) * a.H + group];
            rstd[k] = rw_in<float>(a.rstd)[(row + k) * a.H + group];
            rw_load(rw_in<T>(a.x) + at, hat[k]);
            rw_load(rw_in<T>(a.dout) + at, d[k]);
            if (add) rw_load(rw_in<T>(a.dx) + at, old[k]);
#pragma unroll
            for (int i = 0; i < W; i++) hat[k][i] = (hat[k][i] - mean) * rstd[k];
        }
#pragma unroll
        for (int k = 0; k < BACKWARD_ROWS; k++) {
            float sum = 0, dot = 0;
#pragma unroll
            for (int i = 0; i < W; i++) {
                dgamma[i] += d[k][i] * hat[k][i];
                dbeta[i] += d[k][i];
                d[k][i] *= gamma[i];
                sum += d[k][i];
                dot += d[k][i] * hat[k][i];
            }
            if (!a.dx) continue; /* the same for the whole grid */
            sum = group_sum(sum, lanes) * inv_n;
            dot = group_sum(dot, lanes) * inv_n;
            if (!mine || row + k >= last) continue;
#pragma unroll
            for (int i = 0; i < W; i++) old[k][i] += rstd[k] * (d[k][i] - sum - hat[k][i] * dot);
            rw_store(rw_out<T>(a.dx) + (row + k) * C + c, old[k]);
        }
    }
    if (!mine || !partial) return;
    rw_store(partial + blockIdx.y * 2 * C + c, dgamma);
    rw_store(partial + blockIdx.y * 2 * C + C + c, dbeta);
}

/* -- plain: one warp a group --------------------------------------------------------------------------------------- */

template <class T> __global__ void forward_plain(norm_args a) {
    const int64_t q = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, N = a.N, c = q % a.H * N;
    const int lane = threadIdx.x % 32;
    if (q >= a.R * a.H) return;
    const T *x = rw_in<T>(a.x) + q * N;
    float sum = 0, squares = 0;
    for (int64_t i = lane; i < N; i += 32) sum += rw_to_float(x[i]);
    const float mean = rw_warp_sum(sum) / N;
    for (int64_t i = lane; i < N; i += 32) squares += (rw_to_float(x[i]) - mean) * (rw_to_float(x[i]) - mean);
    const float rstd = rsqrtf(rw_warp_sum(squares) / N + (float)a.eps);
    for (int64_t i = lane; i < N; i += 32)
        rw_out<T>(a.out)[q * N + i] = rw_from_float<T>(
            (rw_to_float(x[i]) - mean) * rstd * rw_in<float>(a.gamma)[c + i] + rw_in<float>(a.beta)[c + i]);
    if (lane == 0 && a.mean) rw_out<float>(a.mean)[q] = mean;
    if (lane == 0 && a.rstd) rw_out<float>(a.rstd)[q] = rstd;
}

template <class T> __global__ void dx_plain(norm_args a) {
    const int64_t q = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, N = a.N;
    const int lane = threadIdx.x % 32;
    if (q >= a.R * a.H) return;
    const T *x = rw_in<T>(a.x) + q * N, *dout = rw_in<T>(a.dout) + q * N;
    const float *gamma = rw_in<float>(a.gamma) + q % a.H * N;
    const float mean = rw_in<float>(a.mean)[q], rstd = rw_in<float>(a.rstd)[q];
    T *dx = rw_out<T>(a.dx) + q * N;
    float sum = 0, dot = 0;
    for (int64_t i = lane; i < N; i += 32) {
        const float d = rw_to_float(dout[i]) * gamma[i];
        sum += d;
        dot += d * ((rw_to_float(x[i]) - mean) * rstd);
    }
    sum = rw_warp_sum(sum) / N, dot = rw_warp_sum(dot) / N;
    for (int64_t i = lane; i < N; i += 32) {
        const float d = rw_to_float(dout[i]) * gamma[i], hat = (rw_to_float(x[i]) - mean) * rstd;
        const float old = a.add & RW_NORM_ADD_X ? rw_to_float(dx[i]) : 0.0f;
        dx[i] = rw_from_float<T>(old + rstd * (d - sum - hat * dot));
    }
}

/* -- launches ------------------------------------------------------------------------------------------------------ */

template <class T> bool is_fast(const norm_args *a) {
    const int64_t lanes = a->N / rw_pack_of<T>;
    return a->N % rw_pack_of<T> == 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0 &&
           rw_aligned({a->x, a->gamma, a->beta, a->out, a->dout, a->dx, a->scratch});
}

/* Blocks of 128 packs across a row, and blocks of rows: `per_sm` of them in all on each SM. */
template <class T> dim3 grid_of(const norm_args *a, const rw_cuda_state *s, int per_sm, int64_t *rows) {
    const int64_t across = (a->H * a->N / rw_pack_of<T> + THREADS - 1) / THREADS;
    const int64_t most = (int64_t)s->n_sm * per_sm / across;
    *rows = rw_rows_per_block(a->R, most < 1 ? 1 : most);
    return dim3((unsigned)across, (unsigned)((a->R + *rows - 1) / *rows));
}

unsigned warp_blocks(const norm_args *a) {
    return (unsigned)((a->R * a->H + WARPS - 1) / WARPS);
}

template <class T> void forward(const norm_args *a, rw_cuda_state *s) {
    int64_t rows;
    if (is_fast<T>(a)) {
        const dim3 grid = grid_of<T>(a, s, 8, &rows);
        forward_fast<T><<<grid, THREADS, 0, s->stream>>>(*a, rows);
    } else
        forward_plain<T><<<warp_blocks(a), RW_CUDA_THREADS, 0, s->stream>>>(*a);
    rw_cuda_launched(s, "group_norm_forward");
}

template <class T> void backward_rows(const norm_args *a, rw_cuda_state *s, const rw_row_sums &sums) {
    float *partial = rw_out<float>(a->scratch);
    if (is_fast<T>(a)) {
        int64_t rows;
        const dim3 grid = grid_of<T>(a, s, RW_AFFINE_BLOCKS_PER_SM, &rows);
        const bool wanted = rw_any_sum(sums, 2);
        backward_fast<T><<<grid, THREADS, 0, s->stream>>>(*a, rows, wanted ? partial : nullptr);
        rw_cuda_launched(s, "group_norm_backward");
        rw_launch_sums(s, "group_norm_backward", partial, grid.y, a->H * a->N, sums, 2);
        return;
    }
    if (a->dx) dx_plain<T><<<warp_blocks(a), RW_CUDA_THREADS, 0, s->stream>>>(*a);
    rw_cuda_launched(s, "group_norm_backward");
    const rw_affine<T> affine = {rw_in<T>(a->x),        nullptr, rw_in<T>(a->dout), rw_in<float>(a->mean),
                                 rw_in<float>(a->rstd), a->R,    a->H * a->N,       a->N};
    rw_launch_affine(s, "group_norm_backward", affine, partial, sums);
}

template <class T> void backward(const norm_args *a, rw_cuda_state *s) {
    rw_row_sums sums = {};
    sums.to[0] = rw_out<float>(a->dgamma), sums.add[0] = a->add & RW_NORM_ADD_GAMMA;
    sums.to[1] = rw_out<float>(a->dbeta), sums.add[1] = a->add & RW_NORM_ADD_BETA;
    if (a->R > 0 && a->dout) {
        if (a->dx || rw_any_sum(sums, 2)) backward_rows<T>(a, s, sums);
        return;
    }
    const size_t bytes = (size_t)(a->R * a->H * a->N) * sizeof(T); /* no gradient comes in: zeros */
    if (a->dx && bytes && !(a->add & RW_NORM_ADD_X))
        rw_cuda_check(s, "group_norm_backward", cudaMemsetAsync(a->dx, 0, bytes, s->stream));
    rw_launch_sums(s, "group_norm_backward", nullptr, 0, a->H * a->N, sums, 2);
}

/* -- layer norm ------------------------------------------------------------------------------------------------------
 */

static_assert((int)RW_NORM_ADD_X == (int)RW_TOKEN_SHIFT_ADD_X, "the same bits");
static_assert((int)RW_NORM_ADD_GAMMA == (int)RW_TOKEN_SHIFT_ADD_GAMMA, "the same bits");
static_assert((int)RW_NORM_ADD_BETA == (int)RW_TOKEN_SHIFT_ADD_BETA, "the same bits");

rw_token_shift_args without_mixes(const rw_layer_norm_args *a) {
    rw_token_shift_args t = {};
    t.dtype = a->dtype, t.R = a->R, t.C = a->C, t.n_seq = 1;
    t.x = a->x, t.gamma = a->gamma, t.beta = a->beta, t.eps = a->eps;
    t.xn = a->out, t.mean = a->mean, t.rstd = a->rstd;
    t.dxn = a->dout, t.dx = a->dx, t.dgamma = a->dgamma, t.dbeta = a->dbeta;
    t.add = a->add, t.scratch = a->scratch;
    return t;
}

} // namespace

void rw_cuda_layer_norm_forward(const rw_layer_norm_args *a, const rw_exec *ex) {
    const rw_token_shift_args t = without_mixes(a);
    rw_cuda_token_shift_forward(&t, ex);
}

void rw_cuda_layer_norm_backward(const rw_layer_norm_args *a, const rw_exec *ex) {
    const rw_token_shift_args t = without_mixes(a);
    rw_cuda_token_shift_backward(&t, ex);
}

int64_t rw_cuda_layer_norm_backward_scratch(const rw_layer_norm_args *a, const rw_exec *ex) {
    const rw_token_shift_args t = without_mixes(a);
    return rw_cuda_token_shift_backward_scratch(&t, ex);
}

void rw_cuda_group_norm_forward(const rw_group_norm_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->R * a->H * a->N == 0) return;
    RW_CUDA_NARROW(s, "group_norm_forward", a->dtype, T, forward<T>(a, s));
}

void rw_cuda_group_norm_backward(const rw_group_norm_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "group_norm_backward", a->dtype, T, backward<T>(a, s));
}

int64_t rw_cuda_group_norm_backward_scratch(const rw_group_norm_args *a, const rw_exec *ex) {
    return rw_affine_bytes(rw_cuda_of(ex), a->R, a->H * a->N);
}
