/* Products with 8 rows of a or fewer (decoding): bound by memory, so each element of b is read once, 16 bytes a load,
 * and a, which is small, comes from the caches. Bytes: b, and the rows of a and out.
 *
 * dots, b [N,K]:    a block makes ROWS neighbouring columns of out for all rows of a; its threads walk along K
 * together. columns, b [K,N]: a block makes the columns of PACKS packs; its threads take the rows of b in turn.
 *
 * Each thread sums its part of K, lanes add by shuffles in a fixed tree, warps in their order: the same bits each time.
 * Between threads go only those sums, one float per warp and output, behind one barrier. The epilogue runs on the
 * float sum. More rows than 8 are groups of 8 in gridDim.y: right, but not fast; cuBLASLt is for those. */
#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/pointwise.cuh"

namespace {

enum { WARPS = RW_CUDA_THREADS / 32, ROWS = 4, MOST_BATCH = 65535 };

template <class T> struct problem {
    int64_t M, N, K;
    const T *a, *b, *act;
    const void *c;
    void *out;
    int64_t step_m, step_k; /* elements of a from row to row and along K */
    int64_t ldb, ldc, ldo, stride_a, stride_b, stride_c, stride_o;
    float alpha;
    bool wide; /* c and out are float */
    rw_epilogue f;
};

/* -- one output ------------------------------------------------------------------------------------------------ */

template <class T> static __device__ float read(const void *p, int64_t i, bool wide) {
    return wide ? static_cast<const float *>(p)[i] : rw_to_float(static_cast<const T *>(p)[i]);
}

/* c may be out: an element is read and written by one thread. */
template <class T> static __device__ void put(const problem<T> &p, int64_t i, int64_t m, int64_t n, float sum) {
    const int64_t at = i * p.stride_o + m * p.ldo + n;
    float x = p.alpha * sum;
    if (p.c) x += read<T>(p.c, i * p.stride_c + m * p.ldc + n, p.wide);
    x = rw_epilogue_of(p.f, x, p.act ? rw_to_float(p.act[at]) : 0.0f);
    if (p.wide)
        static_cast<float *>(p.out)[at] = x;
    else
        static_cast<T *>(p.out)[at] = rw_from_float<T>(x);
}

/* -- sums over lanes ------------------------------------------------------------------------------------------- */

/* V sums over the lanes that differ in the bits D, D/2, ..., LAST of their number, to room[0..V-1]. While there is more
 * than one, a lane keeps half of them and gives the other half away, so V sums cost V shuffles and not 5 V.
 * keeper: of the lanes that hold the same sums, the one to write them. */
template <int V, int D, int LAST>
static __device__ __forceinline__ void fold(const float (&x)[V], float *room, bool keeper = true) {
    const bool upper = threadIdx.x & D;
    if constexpr (D < LAST) {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (keeper) room[i] = x[i];
    } else if constexpr (V == 1) {
        const float y[1] = {x[0] + __shfl_xor_sync(0xffffffffu, x[0], D)};
        fold<1, D / 2, LAST>(y, room, keeper && !upper);
    } else {
        float half[V / 2];
#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            const float mine = upper ? x[i + V / 2] : x[i], other = upper ? x[i] : x[i + V / 2];
            half[i] = mine + __shfl_xor_sync(0xffffffffu, other, D);
        }
        fold<V / 2, D / 2, LAST>(half, room + (upper ? V / 2 : 0), keeper);
    }
}

/* W neighbours that nobody reads again. */
template <int W, class T> static __device__ __forceinline__ void load_once(const T *p, float (&x)[W]) {
    if constexpr (W == 1) {
        x[0] = rw_to_float(*p);
    } else {
        union {
            uint4 bits;
            rw_pack<T, W> pack;
        } v = {__ldcs(reinterpret_cast<const uint4 *>(p))};
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = rw_to_float(v.pack.at[i]);
    }
}

/* -- b [N,K] --------------------------------------------------------------------------------------------------- */

template <int M, int W, class T>
static __device__ __forceinline__ void add_dots(const problem<T> &p, const T *const (&a)[M], const T *const (&b)[ROWS],
                                                int64_t k, float (&sum)[M * ROWS]) {
    float y[ROWS][W];
#pragma unroll
    for (int r = 0; r < ROWS; r++) load_once(b[r] + k, y[r]);
#pragma unroll
    for (int m = 0; m < M; m++) {
        float x[W];
        rw_load(a[m] + k * p.step_k, x);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int j = 0; j < W; j++) sum[m * ROWS + r] += x[j] * y[r][j];
    }
}

template <class T, int M, int W> static __global__ void __launch_bounds__(RW_CUDA_THREADS) dots(problem<T> p) {
    __shared__ float part[WARPS][M * ROWS];
    const int64_t n0 = (int64_t)blockIdx.x * ROWS, m0 = (int64_t)blockIdx.y * M, i = blockIdx.z;
    const T *a[M], *b[ROWS]; /* beyond the last row stands the last one again; its sums are dropped */
#pragma unroll
    for (int m = 0; m < M; m++) a[m] = p.a + i * p.stride_a + min(m0 + m, p.M - 1) * p.step_m;
#pragma unroll
    for (int r = 0; r < ROWS; r++) b[r] = p.b + i * p.stride_b + min(n0 + r, p.N - 1) * p.ldb;
    float sum[M * ROWS] = {};
    const int64_t packs = p.K / W;
    constexpr int AHEAD = M < 8 ? 2 : 1; /* 8 rows have loads enough on their way, and no registers for more */
#pragma unroll AHEAD
    for (int64_t k = threadIdx.x; k < packs; k += blockDim.x) add_dots<M, W>(p, a, b, k * W, sum);
    if (W > 1 && (int64_t)threadIdx.x < p.K - packs * W) add_dots<M, 1>(p, a, b, packs * W + threadIdx.x, sum);
    fold<M * ROWS, 16, 1>(sum, part[threadIdx.x / 32]);
    __syncthreads(); /* the sums of all warps are there */
    if (threadIdx.x >= M * ROWS) return;
    const int64_t m = m0 + threadIdx.x / ROWS, n = n0 + threadIdx.x % ROWS;
    float total = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) total += part[w][threadIdx.x];
    if (m < p.M && n < p.N) put(p, i, m, n, total);
}

/* -- b [K,N] --------------------------------------------------------------------------------------------------- */

/* Two packs are 32 bytes of each row of b: a whole sector of memory, and many blocks where N is small. */
template <int W> constexpr int packs_of = W > 1 ? 2 : 16;

template <class T, int M, int W> static __global__ void __launch_bounds__(RW_CUDA_THREADS) columns(problem<T> p) {
    constexpr int PACKS = packs_of<W>, STEP = RW_CUDA_THREADS / PACKS;
    __shared__ float part[WARPS][PACKS][M * W];
    const int pack = threadIdx.x % PACKS;
    const int64_t n0 = (int64_t)blockIdx.x * PACKS * W, m0 = (int64_t)blockIdx.y * M, i = blockIdx.z;
    const T *a[M], *b = p.b + i * p.stride_b + n0 + pack * W;
#pragma unroll
    for (int m = 0; m < M; m++) a[m] = p.a + i * p.stride_a + min(m0 + m, p.M - 1) * p.step_m;
    float sum[M * W] = {};
    if (n0 + pack * W < p.N) {
#pragma unroll 4
        for (int64_t k = threadIdx.x / PACKS; k < p.K; k += STEP) {
            float y[W];
            load_once(b + k * p.ldb, y);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const float x = rw_to_float(a[m][k * p.step_k]);
#pragma unroll
                for (int j = 0; j < W; j++) sum[m * W + j] += x * y[j];
            }
        }
    }
    fold<M * W, 16, PACKS>(sum, part[threadIdx.x / 32][pack]);
    __syncthreads(); /* the sums of all warps are there */
    if (threadIdx.x >= PACKS * M * W) return;
    const int64_t m = m0 + threadIdx.x / W % M, n = n0 + threadIdx.x / (M * W) * W + threadIdx.x % W;
    float total = 0;
    for (int w = 0; w < WARPS; w++) total += part[w][threadIdx.x / (M * W)][threadIdx.x % (M * W)];
    if (m < p.M && n < p.N) put(p, i, m, n, total);
}

/* -- launching ------------------------------------------------------------------------------------------------- */

template <class T> problem<T> problem_of(const rw_matmul_args *p, int64_t first) {
    const int64_t width = p->out_dtype == RW_F32 ? 4 : (int64_t)sizeof(T);
    problem<T> q = {};
    q.M = p->M, q.N = p->N, q.K = p->K;
    q.a = rw_in<T>(p->a) + first * p->stride_a;
    q.b = rw_in<T>(p->b) + first * p->stride_b;
    if (rw_epilogue_reads_act(p->epilogue)) q.act = rw_in<T>(p->act) + first * p->stride_o;
    if (p->c) q.c = static_cast<const char *>(p->c) + first * p->stride_c * width;
    q.out = static_cast<char *>(p->out) + first * p->stride_o * width;
    q.step_m = p->trans_a ? 1 : p->lda;
    q.step_k = p->trans_a ? p->lda : 1;
    q.ldb = p->ldb, q.ldc = p->ldc, q.ldo = p->ldo;
    q.stride_a = p->stride_a, q.stride_b = p->stride_b, q.stride_c = p->stride_c, q.stride_o = p->stride_o;
    q.alpha = (float)p->alpha;
    q.wide = p->out_dtype == RW_F32;
    q.f = p->epilogue;
    return q;
}

/* May b, and with it a where both are walked along K, be read by packs? */
bool by_packs(const rw_matmul_args *p, int64_t pack) {
    const bool b = rw_aligned({p->b}) && p->ldb % pack == 0 && p->stride_b % pack == 0;
    const bool a = rw_aligned({p->a}) && p->lda % pack == 0 && p->stride_a % pack == 0 && !p->trans_a;
    return b && (p->trans_b ? a : p->N % pack == 0);
}

template <class T, int M, int W>
void launch(rw_cuda_state *s, const rw_matmul_args *a, const problem<T> &p, int64_t n) {
    const unsigned groups = (unsigned)((p.M + M - 1) / M);
    if (a->trans_b) {
        const int64_t warps = (p.K / W + 31) / 32;
        const unsigned threads = warps < 1 ? 32 : warps < WARPS ? (unsigned)warps * 32 : RW_CUDA_THREADS;
        dots<T, M, W><<<dim3((unsigned)((p.N + ROWS - 1) / ROWS), groups, (unsigned)n), threads, 0, s->stream>>>(p);
    } else {
        constexpr int COLUMNS = packs_of<W> * W;
        const dim3 grid((unsigned)((p.N + COLUMNS - 1) / COLUMNS), groups, (unsigned)n);
        columns<T, M, W><<<grid, RW_CUDA_THREADS, 0, s->stream>>>(p);
    }
}

/* Odd addresses and pitches are rare: one instance is enough for them. */
template <class T> void run(rw_cuda_state *s, const rw_matmul_args *a) {
    constexpr int W = rw_pack_of<T>;
    const bool packs = by_packs(a, W);
    for (int64_t first = 0; first < a->batch; first += MOST_BATCH) {
        const int64_t n = a->batch - first < MOST_BATCH ? a->batch - first : MOST_BATCH;
        const problem<T> p = problem_of<T>(a, first);
        if (!packs)
            launch<T, 8, 1>(s, a, p, n);
        else if (p.M == 1)
            launch<T, 1, W>(s, a, p, n);
        else if (p.M == 2)
            launch<T, 2, W>(s, a, p, n);
        else if (p.M <= 4)
            launch<T, 4, W>(s, a, p, n);
        else
            launch<T, 8, W>(s, a, p, n);
    }
}

} // namespace

void rw_cuda_few_rows(rw_cuda_state *s, const rw_matmul_args *a) {
    RW_CUDA_NARROW(s, "matmul", a->dtype, T, run<T>(s, a));
    rw_cuda_launched(s, "matmul");
}
