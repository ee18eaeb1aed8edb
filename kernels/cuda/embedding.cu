/* Token embedding with the layer norm of block 0 on the GPU (formulas: kernels/embedding.h).
 *
 * Forward: a block a row reads the token's row of the table and writes it, normalised or not: R C each.
 *
 * Backward: the table's gradient is set to zero (unless it is added to), then each token that occurs gets its row.
 * Bytes: V C once, dout once, the rows that occur once more. The sum over equal tokens:
 *   1. count the tokens; an exclusive scan makes the counts positions; each row takes the next place of its token; a
 *      row's rank among its token's rows says where it comes in their order. Atomics are on integers only, and what
 *      depends on their order (the places) is mended by the ranks.
 *   2. of long runs of one token, a block each sums PIECE rows; they go to scratch.
 *   3. a block a token sums its pieces and then the remaining rows.
 * So every sum has one order: rows upwards within a piece, pieces upwards. The norm's backward is linear in dout and
 * the rows of one token share x, mean and rstd, so it is done once a token, on the sum. */
#include "kernels/cuda/rows.cuh"

namespace {

using emb_args = rw_embedding_args;

enum { THREADS = 256, SCAN_THREADS = 1024, PIECE = 64, MOST_CHANNELS = 12000 /* of a row in shared memory */ };

/* -- forward ------------------------------------------------------------------------------------------------------ */

template <class T, int W> __global__ void forward_row(emb_args a) {
    __shared__ rw_sum_room room;
    const int64_t r = blockIdx.x, C = a.C;
    const T *x = rw_in<T>(a.weight) + a.tokens[r] * C;
    T *out = rw_out<T>(a.out) + r * C;
    float2 stats = {};
    if (a.gamma) stats = rw_row_stats<W>(x, C, (float)a.eps, room);
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += THREADS * W) {
        float v[W], gamma[W], beta[W];
        rw_load(x + c, v);
        if (a.gamma) {
            rw_load(rw_in<float>(a.gamma) + c, gamma);
            rw_load(rw_in<float>(a.beta) + c, beta);
#pragma unroll
            for (int i = 0; i < W; i++) v[i] = (v[i] - stats.x) * stats.y * gamma[i] + beta[i];
        }
        rw_store(out + c, v);
    }
    if (threadIdx.x == 0 && a.gamma && a.mean) rw_out<float>(a.mean)[r] = stats.x;
    if (threadIdx.x == 0 && a.gamma && a.rstd) rw_out<float>(a.rstd)[r] = stats.y;
}

/* -- rows sorted by token ------------------------------------------------------------------------------------------ */

/* at[v]: first how often v occurs, then where its rows begin, at last where they end, which is where those of v + 1
 * begin. */
__device__ __forceinline__ int begin_of(const int32_t *at, int32_t token) {
    return token > 0 ? at[token - 1] : 0;
}

__global__ void count_tokens(const int32_t *tokens, int64_t R, int32_t *at) {
    const int64_t r = rw_thread_index();
    if (r < R) atomicAdd(&at[tokens[r]], 1);
}

/* Exclusive sums in place by one block, SCAN_THREADS numbers at a time. */
__global__ void __launch_bounds__(SCAN_THREADS) scan_counts(int32_t *at, int64_t V) {
    __shared__ int32_t warps[SCAN_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t before = 0; /* all of the tiles in front */
    for (int64_t first = 0; first < V; first += SCAN_THREADS) {
        const int64_t v = first + threadIdx.x;
        const int32_t n = v < V ? at[v] : 0;
        int32_t sum = n; /* over the lanes up to mine */
#pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            const int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
            if (lane >= d) sum += other;
        }
        if (lane == 31) warps[warp] = sum;
        __syncthreads(); /* the sums of all warps are there */
        int32_t mine = 0, all = 0;
        for (int w = 0; w < SCAN_THREADS / 32; w++) {
            if (w == warp) mine = all;
            all += warps[w];
        }
        if (v < V) at[v] = before + mine + sum - n;
        before += all;
        __syncthreads(); /* and have been read */
    }
}

__global__ void place_rows(const int32_t *tokens, int64_t R, int32_t *at, int32_t *place) {
    const int64_t r = rw_thread_index();
    if (r < R) place[atomicAdd(&at[tokens[r]], 1)] = (int32_t)r;
}

/* order[]: the rows of each token upwards. A run is read once for each of its rows, by all lanes at one address: R^2
 * reads from the caches where one token fills the batch, little where text does. */
__global__ void rank_rows(const int32_t *tokens, int64_t R, const int32_t *at, const int32_t *place, int32_t *order) {
    const int64_t p = rw_thread_index();
    if (p >= R) return;
    const int32_t row = place[p], token = tokens[row], first = begin_of(at, token), last = at[token];
    int32_t rank = 0;
#pragma unroll 8
    for (int32_t q = first; q < last; q++) rank += place[q] < row;
    order[first + rank] = row;
}

/* -- sums over equal tokens ---------------------------------------------------------------------------------------- */

struct sorted_rows {
    const int32_t *at, *order;
    float *pieces; /* [R / PIECE, C] */
};

/* Channels c .. c + W of dout summed over order[first .. last), in that order. */
template <int W, class T>
__device__ __forceinline__ void sum_rows(const T *dout, const int32_t *order, int64_t first, int64_t last, int64_t C,
                                         int64_t c, float (&sum)[W]) {
#pragma unroll 4
    for (int64_t p = first; p < last; p++) {
        float d[W];
        rw_load(dout + order[p] * C + c, d);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] += d[i];
    }
}

/* Of the run that begins at `first`, piece k of PIECE rows is row first / PIECE + k of the scratch: whole pieces only,
 * so runs never share one. Block j finds its piece through the last position that the piece j may hold at least. */
template <class T, int W> __global__ void sum_pieces(emb_args a, sorted_rows s) {
    const int64_t j = blockIdx.x, C = a.C;
    const int32_t token = a.tokens[s.order[(j + 1) * PIECE - 1]];
    const int64_t first = begin_of(s.at, token), last = s.at[token], k = j - first / PIECE;
    if (k >= (last - first) / PIECE) return;
    const int64_t from = first + k * PIECE;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += THREADS * W) {
        float sum[W] = {};
        sum_rows(rw_in<T>(a.dout), s.order, from, from + PIECE, C, c, sum);
        rw_store(s.pieces + j * C + c, sum);
    }
}

/* The row of the token whose run begins at position blockIdx.x; G: what the gradient is stored in. With a norm the sum
 * waits in shared memory for its two sums along the row; each thread reads there what it wrote. */
template <class T, class G, int W> __global__ void table_row(emb_args a, sorted_rows s) {
    extern __shared__ __align__(16) float total[];
    __shared__ rw_sum_room room;
    const int64_t C = a.C, p = blockIdx.x, row = s.order[p];
    const int32_t token = a.tokens[row];
    if (begin_of(s.at, token) != p) return; /* the same for the whole block */
    const int64_t last = s.at[token], n_pieces = (last - p) / PIECE;
    const bool add = a.add & RW_EMBEDDING_ADD_WEIGHT;
    const T *x = rw_in<T>(a.weight) + token * C;
    G *dw = rw_out<G>(a.dweight) + token * C;
    float mean = 0, rstd = 0, along = 0, dot = 0;
    if (a.gamma) mean = rw_in<float>(a.mean)[row], rstd = rw_in<float>(a.rstd)[row];

    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += THREADS * W) {
        float sum[W] = {}, v[W];
#pragma unroll 4
        for (int64_t k = 0; k < n_pieces; k++) {
            rw_load(s.pieces + (p / PIECE + k) * C + c, v);
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += v[i];
        }
        sum_rows(rw_in<T>(a.dout), s.order, p + n_pieces * PIECE, last, C, c, sum);
        if (a.gamma) {
            float gamma[W];
            rw_load(rw_in<float>(a.gamma) + c, gamma);
            rw_load(x + c, v);
#pragma unroll
            for (int i = 0; i < W; i++) {
                sum[i] *= gamma[i];
                along += sum[i];
                dot += sum[i] * ((v[i] - mean) * rstd);
            }
            rw_store(total + c, sum);
        } else {
            float old[W] = {};
            if (add) rw_load(dw + c, old);
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += old[i];
            rw_store(dw + c, sum);
        }
    }
    if (!a.gamma) return;
    const float4 sums = rw_block_sum4(make_float4(along, dot, 0, 0), room, 0);
    along = sums.x / C, dot = sums.y / C;
    for (int64_t c = (int64_t)threadIdx.x * W; c < C; c += THREADS * W) {
        float d[W], v[W], old[W] = {};
        rw_load(total + c, d);
        rw_load(x + c, v);
        if (add) rw_load(dw + c, old);
#pragma unroll
        for (int i = 0; i < W; i++) old[i] += rstd * (d[i] - along - (v[i] - mean) * rstd * dot);
        rw_store(dw + c, old);
    }
}

/* -- launches --------------------------------------------------------------------------------------------------------
 */

struct layout {
    int32_t *at, *place, *order; /* [V], [R], [R] */
    float *pieces, *partial;
    int64_t n_bytes;
};

int64_t round256(int64_t n) {
    return (n + 255) / 256 * 256;
}

layout lay(const emb_args *a, const rw_cuda_state *s) {
    const int64_t table = round256(a->V * 4), rows = round256(a->R * 4), pieces = round256(a->R / PIECE * a->C * 4);
    char *p = rw_out<char>(a->scratch);
    layout l = {};
    l.n_bytes = table + 2 * rows + pieces + rw_affine_bytes(s, a->R, a->C);
    if (!p) return l;
    l.at = reinterpret_cast<int32_t *>(p);
    l.place = reinterpret_cast<int32_t *>(p + table);
    l.order = reinterpret_cast<int32_t *>(p + table + rows);
    l.pieces = reinterpret_cast<float *>(p + table + 2 * rows);
    l.partial = reinterpret_cast<float *>(p + table + 2 * rows + pieces);
    return l;
}

/* May threads take packs of 16 bytes? */
template <class T> bool may_pack(const emb_args *a) {
    return a->C % rw_pack_of<T> == 0 &&
           rw_aligned({a->weight, a->gamma, a->beta, a->out, a->dout, a->dweight, a->scratch});
}

template <class T> void forward(const emb_args *a, rw_cuda_state *s) {
    if (may_pack<T>(a))
        forward_row<T, rw_pack_of<T>><<<(unsigned)a->R, THREADS, 0, s->stream>>>(*a);
    else
        forward_row<T, 1><<<(unsigned)a->R, THREADS, 0, s->stream>>>(*a);
    rw_cuda_launched(s, "embedding_forward");
}

void sort_rows(const emb_args *a, const layout &l, rw_cuda_state *s) {
    const unsigned blocks = (unsigned)((a->R + THREADS - 1) / THREADS);
    rw_cuda_check(s, "embedding_backward", cudaMemsetAsync(l.at, 0, (size_t)a->V * 4, s->stream));
    count_tokens<<<blocks, THREADS, 0, s->stream>>>(a->tokens, a->R, l.at);
    scan_counts<<<1, SCAN_THREADS, 0, s->stream>>>(l.at, a->V);
    place_rows<<<blocks, THREADS, 0, s->stream>>>(a->tokens, a->R, l.at, l.place);
    rank_rows<<<blocks, THREADS, 0, s->stream>>>(a->tokens, a->R, l.at, l.place, l.order);
    rw_cuda_launched(s, "embedding_backward");
}

template <class T, class G, int W> void sum_tokens(const emb_args *a, const layout &l, rw_cuda_state *s) {
    const sorted_rows rows = {l.at, l.order, l.pieces};
    const unsigned pieces = (unsigned)(a->R / PIECE);
    const size_t room = a->gamma ? (size_t)a->C * 4 : 0;
    if (pieces > 0) sum_pieces<T, W><<<pieces, THREADS, 0, s->stream>>>(*a, rows);
    table_row<T, G, W><<<(unsigned)a->R, THREADS, room, s->stream>>>(*a, rows);
    rw_cuda_launched(s, "embedding_backward");
}

template <class T, class G> void backward_weight(const emb_args *a, const layout &l, rw_cuda_state *s) {
    const size_t bytes = (size_t)(a->V * a->C) * sizeof(G);
    if (bytes && !(a->add & RW_EMBEDDING_ADD_WEIGHT))
        rw_cuda_check(s, "embedding_backward", cudaMemsetAsync(a->dweight, 0, bytes, s->stream));
    if (!a->dout || a->R == 0) return;
    if (a->gamma && a->C > MOST_CHANNELS) return rw_cuda_note(s, "embedding_backward", "too many channels");
    sort_rows(a, l, s);
    if (may_pack<T>(a))
        sum_tokens<T, G, rw_pack_of<T>>(a, l, s);
    else
        sum_tokens<T, G, 1>(a, l, s);
}

template <class T> void backward(const emb_args *a, rw_cuda_state *s) {
    const layout l = lay(a, s);
    if (a->dweight) {
        if (a->dweight_dtype == RW_DTYPE_NONE || a->dweight_dtype == a->dtype)
            backward_weight<T, T>(a, l, s);
        else
            backward_weight<T, float>(a, l, s);
    }
    if (!a->gamma) return;
    rw_row_sums sums = {};
    sums.to[0] = rw_out<float>(a->dgamma), sums.add[0] = a->add & RW_EMBEDDING_ADD_GAMMA;
    sums.to[1] = rw_out<float>(a->dbeta), sums.add[1] = a->add & RW_EMBEDDING_ADD_BETA;
    const rw_affine<T> affine = {rw_in<T>(a->weight),
                                 a->tokens,
                                 rw_in<T>(a->dout),
                                 rw_in<float>(a->mean),
                                 rw_in<float>(a->rstd),
                                 a->R,
                                 a->C,
                                 a->C};
    rw_launch_affine(s, "embedding_backward", affine, l.partial, sums);
}

} // namespace

void rw_cuda_embedding_forward(const rw_embedding_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->R == 0) return;
    RW_CUDA_NARROW(s, "embedding_forward", a->dtype, T, forward<T>(a, s));
}

void rw_cuda_embedding_backward(const rw_embedding_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "embedding_backward", a->dtype, T, backward<T>(a, s));
}

int64_t rw_cuda_embedding_backward_scratch(const rw_embedding_args *a, const rw_exec *ex) {
    rw_embedding_args sizes = *a;
    sizes.scratch = nullptr;
    return lay(&sizes, rw_cuda_of(ex)).n_bytes;
}
