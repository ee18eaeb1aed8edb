/* head_qk on the GPU: plain, since it is rare (formula: kernels/copy_head.h). Forward and dq: a block for each row of
 * logits; dk: a block for each row that is copied from. A block goes through its sequence in pieces of PIECE rows:
 * their products with q (forward, a warp each) or their gradients (backward) come to shared memory, then are used in
 * order. Several rows may name the same token; forward, the first of them in the piece adds up for all, so that a logit
 * is read and written by one thread a piece. Bytes: k (or q) once for each row of logits, from the cache as a rule. */
#include "kernels/cuda/pointwise.cuh"

namespace {

enum { PIECE = RW_CUDA_THREADS };

struct sequence {
    int64_t first, last; /* rows */
};

/* The last that begins at or before `row`: empty ones are passed over. */
__device__ sequence sequence_of(const int32_t *cu_seqlens, int64_t n_seq, int64_t R, int64_t row) {
    int64_t low = 0, high = n_seq; /* low begins there or before, high does not */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (rw_first_row(cu_seqlens, n_seq, R, middle) <= row ? low : high) = middle;
    }
    return {rw_first_row(cu_seqlens, n_seq, R, low), rw_first_row(cu_seqlens, n_seq, R, low + 1)};
}

template <class T> struct tensors {
    int64_t R, Q, V, n_seq, first, n;
    const int32_t *cu_seqlens, *tokens;
    float scale;
    const T *q, *k, *dlogits;
    T *logits, *dq, *dk;
    bool add_k;
};

/* Every lane gets x . y. */
template <class T> __device__ float dot(const T *x, const T *y, int64_t n) {
    float sum = 0;
    for (int64_t i = threadIdx.x % 32; i < n; i += 32) sum += rw_to_float(x[i]) * rw_to_float(y[i]);
    return rw_warp_sum(sum);
}

template <class T> __global__ void forward(tensors<T> a) {
    __shared__ float c[PIECE];
    __shared__ int32_t token[PIECE];
    const int64_t t = a.first + blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, me = threadIdx.x;
    T *logits = a.logits + blockIdx.x * a.V;
    for (int64_t s = sequence_of(a.cu_seqlens, a.n_seq, a.R, t).first; s <= t; s += PIECE) {
        const int n = (int)(t + 1 - s < PIECE ? t + 1 - s : PIECE);
        for (int i = warp; i < n; i += PIECE / 32) {
            const float product = dot(a.q + t * a.Q, a.k + (s + i) * a.Q, a.Q);
            if (lane == 0) c[i] = a.scale * product;
        }
        if (me < n) token[me] = a.tokens[s + me];
        __syncthreads(); /* the piece is there */
        bool leads = me < n;
        for (int i = 0; i < me && leads; i++) leads = token[i] != token[me];
        if (leads) {
            float sum = c[me];
            for (int i = me + 1; i < n; i++)
                if (token[i] == token[me]) sum += c[i];
            T &logit = logits[token[me]];
            logit = rw_from_float<T>(rw_to_float(logit) + sum);
        }
        __syncthreads(); /* the piece was used, and its logits are written: the next may name the same tokens */
    }
}

/* sum over i of d[i] * x[i][column], in order */
template <class T> __device__ float weighted(const float *d, const T *x, int64_t width, int n) {
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < n; i++) sum += d[i] * rw_to_float(x[i * width]);
    return sum;
}

/* Rows [from, to) of x, each times the gradient of its pair, into `out`. Columns in turns of the block's threads. */
template <class T, class F>
__device__ void add_rows(const T *x, int64_t Q, int64_t from, int64_t to, float scale, T *out, bool add, F gradient) {
    __shared__ float d[PIECE];
    for (int64_t first = 0; first < Q; first += PIECE) {
        const int64_t column = first + threadIdx.x;
        float sum = 0;
        for (int64_t s = from; s < to; s += PIECE) {
            const int n = (int)(to - s < PIECE ? to - s : PIECE);
            __syncthreads(); /* the last piece was used */
            if (threadIdx.x < n) d[threadIdx.x] = gradient(s + threadIdx.x);
            __syncthreads(); /* the piece is there */
            if (column < Q) sum += weighted(d, x + s * Q + column, Q, n);
        }
        if (column >= Q) continue;
        sum *= scale;
        out[column] = rw_from_float<T>(add ? rw_to_float(out[column]) + sum : sum);
    }
}

template <class T> __global__ void query_back(tensors<T> a) {
    const int64_t t = a.first + blockIdx.x;
    const T *row = a.dlogits + blockIdx.x * a.V;
    add_rows(a.k, a.Q, sequence_of(a.cu_seqlens, a.n_seq, a.R, t).first, t + 1, a.scale, a.dq + t * a.Q, false,
             [=](int64_t s) { return rw_to_float(row[a.tokens[s]]); });
}

template <class T> __global__ void key_back(tensors<T> a) {
    const int64_t s = blockIdx.x, last = sequence_of(a.cu_seqlens, a.n_seq, a.R, s).last, here = a.first + a.n;
    const T *column = a.dlogits + a.tokens[s];
    add_rows(a.q, a.Q, s > a.first ? s : a.first, last < here ? last : here, a.scale, a.dk + s * a.Q, a.add_k,
             [=](int64_t t) { return rw_to_float(column[(t - a.first) * a.V]); });
}

template <class T> tensors<T> tensors_of(const rw_copy_head_args *a) {
    return {a->R,
            a->Q,
            a->V,
            a->n_seq,
            a->first,
            a->n,
            a->cu_seqlens,
            a->tokens,
            (float)a->scale,
            rw_in<T>(a->q),
            rw_in<T>(a->k),
            rw_in<T>(a->dlogits),
            rw_out<T>(a->logits),
            rw_out<T>(a->dq),
            rw_out<T>(a->dk),
            (a->add & RW_COPY_HEAD_ADD_K) != 0};
}

template <class T> void backward(const rw_copy_head_args *a, cudaStream_t stream) {
    if (a->dq && a->n > 0) query_back<<<(unsigned)a->n, PIECE, 0, stream>>>(tensors_of<T>(a));
    if (a->dk && a->R > 0) key_back<<<(unsigned)a->R, PIECE, 0, stream>>>(tensors_of<T>(a));
}

} // namespace

void rw_cuda_copy_head_forward(const rw_copy_head_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0) return;
    RW_CUDA_NARROW(s, "copy_head_forward", a->dtype, T,
                   forward<<<(unsigned)a->n, PIECE, 0, s->stream>>>(tensors_of<T>(a)));
    rw_cuda_launched(s, "copy_head_forward");
}

void rw_cuda_copy_head_backward(const rw_copy_head_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "copy_head_backward", a->dtype, T, backward<T>(a, s->stream));
    rw_cuda_launched(s, "copy_head_backward");
}
