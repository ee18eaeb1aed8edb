/* Plain elementwise operations, conversions and rounding on the GPU (kernels/elementwise.h). Bytes: each tensor once.
 * No __restrict__: outputs may be their inputs. The choice of operation stands outside of the loops. */
#include "kernels/cuda/pointwise.cuh"

namespace {

/* -- one argument -------------------------------------------------------------------------------------------- */

/* exp() to 1 ulp where numbers are stored in fp32, fast where they are rounded anyway. */
template <class T> __device__ __forceinline__ float sigmoid_of(float x) {
    if constexpr (sizeof(T) == 4)
        return 1.0f / (1.0f + expf(-x));
    else
        return rw_sigmoid(x);
}
template <class T> __device__ __forceinline__ float silu_slope(float x) {
    const float s = sigmoid_of<T>(x);
    return s * (1 + x * (1 - s));
}

/* RW_UNARY(op, f(v), df(v, y, d)): v input, y output, d incoming gradient, alpha the factor of scale. */
#define RW_UNARY_LIST                                                                                                  \
    RW_UNARY(COPY, v, d)                                                                                               \
    RW_UNARY(SCALE, alpha *v, alpha *d)                                                                                \
    RW_UNARY(TANH, tanhf(v), d *(1 - y * y))                                                                           \
    RW_UNARY(SIGMOID, sigmoid_of<T>(v), d *y *(1 - y))                                                                 \
    RW_UNARY(SILU, v *sigmoid_of<T>(v), d *silu_slope<T>(v))                                                           \
    RW_UNARY(RELU, v<0 ? 0 : v, v> 0 ? d : 0)                                                                          \
    RW_UNARY(EXP, expf(v), d *y)                                                                                       \
    RW_UNARY(LOG, logf(v), d / v)                                                                                      \
    RW_UNARY(SQUARE, v *v, 2 * v * d)                                                                                  \
    RW_UNARY(SQRT, sqrtf(v), d / (2 * y))

template <class T, class F> __device__ __forceinline__ void map(const T *x, T *out, int64_t n, bool aligned, F f) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        float v[width.value];
        rw_load(x + i, v);
        for (float &y : v) y = f(y);
        rw_store(out + i, v);
    });
}

template <class T> __global__ void unary(rw_unary_op op, const T *x, T *out, float alpha, int64_t n, bool aligned) {
    switch (op) {
#define RW_UNARY(name, f, df)                                                                                          \
    case RW_UNARY_##name:                                                                                              \
        return map(x, out, n, aligned, [=](float v) -> float { return f; });
        RW_UNARY_LIST
#undef RW_UNARY
    default:
        return;
    }
}

/* kept: x or the output, as the operation reads it; NULL: neither. dout NULL: zeros. */
template <class T, class F>
__device__ __forceinline__ void map_back(const T *kept, const T *dout, T *dx, int64_t n, bool add, bool aligned, F f) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float v[N] = {}, d[N] = {}, old[N] = {};
        if (kept) rw_load(kept + i, v);
        if (dout) rw_load(dout + i, d);
        if (add) rw_load(dx + i, old);
        for (int j = 0; j < N; j++) old[j] += dout ? f(v[j], d[j]) : 0.0f;
        rw_store(dx + i, old);
    });
}

template <class T>
__global__ void unary_back(rw_unary_op op, const T *kept, const T *dout, T *dx, float alpha, int64_t n, bool add,
                           bool aligned) {
    switch (op) {
#define RW_UNARY(name, f, df)                                                                                          \
    case RW_UNARY_##name:                                                                                              \
        return map_back(kept, dout, dx, n, add, aligned, [=](float v, float d) -> float {                              \
            const float y = v;                                                                                         \
            (void)v, (void)y;                                                                                          \
            return df;                                                                                                 \
        });
        RW_UNARY_LIST
#undef RW_UNARY
    default:
        return;
    }
}

/* -- two arguments ------------------------------------------------------------------------------------------- */

/* u is the element of a, v that of b, d the incoming gradient. */
template <rw_binary_op OP> __device__ __forceinline__ float value_of(float u, float v) {
    return OP == RW_BINARY_ADD ? u + v : OP == RW_BINARY_SUB ? u - v : OP == RW_BINARY_MUL ? u * v : u / v;
}
template <rw_binary_op OP> __device__ __forceinline__ float to_a(float, float v, float d) {
    return OP == RW_BINARY_MUL ? d * v : OP == RW_BINARY_DIV ? d / v : d;
}
template <rw_binary_op OP> __device__ __forceinline__ float to_b(float u, float v, float d) {
    return OP == RW_BINARY_ADD ? d : OP == RW_BINARY_SUB ? -d : OP == RW_BINARY_MUL ? d * u : -(d * u) / (v * v);
}

/* May whole packs be read from b, which has `period` elements? */
template <class T> bool packs_repeat(int64_t n, int64_t period) {
    return period == n || period % rw_pack_of<T> == 0;
}

template <rw_binary_op OP, class T>
__global__ void binary(const T *a, const T *b, T *out, int64_t n, int64_t period, bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float u[N], v[N];
        rw_load(a + i, u);
        rw_load(b + (period == n ? i : i % period), v);
        for (int j = 0; j < N; j++) u[j] = value_of<OP>(u[j], v[j]);
        rw_store(out + i, u);
    });
}

/* The gradient of one side, element by element: of a, or (OF_B) of a b that does not repeat. */
template <rw_binary_op OP, bool OF_B, class T>
__global__ void binary_back(const T *a, const T *b, const T *dout, T *to, int64_t n, int64_t period, bool add,
                            bool aligned) {
    rw_over<rw_pack_of<T>>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        float u[N], v[N], d[N], old[N] = {};
        if (add) rw_load(to + i, old);
        if (dout) {
            rw_load(a + i, u);
            rw_load(b + (period == n ? i : i % period), v);
            rw_load(dout + i, d);
            for (int j = 0; j < N; j++) old[j] += OF_B ? to_b<OP>(u[j], v[j], d[j]) : to_a<OP>(u[j], v[j], d[j]);
        }
        rw_store(to + i, old);
    });
}

/* The gradient of a b that repeats: a block owns `width` columns, a power of two up to 32, and its threads stand in
 * rows of that many; each adds every `rows`-th repeat in order, then the block's rows are added in order. */
enum { REPEAT_THREADS = 512 };
template <rw_binary_op OP, class T>
__global__ void __launch_bounds__(REPEAT_THREADS)
    repeats_back(const T *a, const T *b, const T *dout, T *db, int64_t n, int64_t period, int width, bool add) {
    __shared__ float room[REPEAT_THREADS];
    const int rows = REPEAT_THREADS / width, row = threadIdx.x / width;
    const int64_t column = (int64_t)blockIdx.x * width + threadIdx.x % width;
    float sum = 0;
    if (column < period && dout) {
        const float v = rw_to_float(b[column]);
        for (int64_t i = row * period + column; i < n; i += rows * period)
            sum += to_b<OP>(rw_to_float(a[i]), v, rw_to_float(dout[i]));
    }
    room[threadIdx.x] = sum;
    __syncthreads(); /* the sums of all rows are there */
    if (row > 0 || column >= period) return;
    for (int r = 1; r < rows; r++) sum += room[r * width + threadIdx.x];
    db[column] = rw_from_float<T>(add ? rw_to_float(db[column]) + sum : sum);
}

int width_for(int64_t period) {
    int width = 1;
    while (width < 32 && width < period) width *= 2;
    return width;
}

template <rw_binary_op OP, class T> void binary_backward(const rw_binary_args *p, rw_cuda_state *s, int64_t period) {
    const T *a = rw_in<T>(p->a), *b = rw_in<T>(p->b), *dout = rw_in<T>(p->dout);
    T *da = rw_out<T>(p->da), *db = rw_out<T>(p->db);
    const bool add_a = p->add & RW_BINARY_ADD_A, add_b = p->add & RW_BINARY_ADD_B;
    const bool wide = rw_aligned({a, b, dout, da, db}) && packs_repeat<T>(p->n, period);
    const int blocks = rw_cuda_blocks(s, p->n / rw_pack_of<T>), width = width_for(period);
    if (da) /* first: both may be one buffer, and b then adds to it */
        binary_back<OP, false><<<blocks, RW_CUDA_THREADS, 0, s->stream>>>(a, b, dout, da, p->n, period, add_a, wide);
    if (!db) return;
    if (period == p->n)
        binary_back<OP, true><<<blocks, RW_CUDA_THREADS, 0, s->stream>>>(a, b, dout, db, p->n, period, add_b, wide);
    else
        repeats_back<OP><<<(unsigned)((period + width - 1) / width), REPEAT_THREADS, 0, s->stream>>>(
            a, b, dout, db, p->n, period, width, add_b);
}

/* Runs the statement with OP = the operation. */
#define RW_BINARY_EACH(op, OP, ...)                                                                                    \
    switch (op) {                                                                                                      \
    case RW_BINARY_ADD: {                                                                                              \
        constexpr rw_binary_op OP = RW_BINARY_ADD;                                                                     \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case RW_BINARY_SUB: {                                                                                              \
        constexpr rw_binary_op OP = RW_BINARY_SUB;                                                                     \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case RW_BINARY_MUL: {                                                                                              \
        constexpr rw_binary_op OP = RW_BINARY_MUL;                                                                     \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    case RW_BINARY_DIV: {                                                                                              \
        constexpr rw_binary_op OP = RW_BINARY_DIV;                                                                     \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }                                                                                                                  \
    }

/* -- conversion ------------------------------------------------------------------------------------------------ */

/* As rw_convert(): between two types that are not f32 by way of it. From f64 the way is rounded towards zero with its
 * last bit set when anything was lost, so that nothing is rounded twice. */
__device__ __forceinline__ float through(double x) {
    const float f = __double2float_rz(x);
    return (double)f == x || isnan(x) ? f : __uint_as_float(__float_as_uint(f) | 1u);
}
template <class T> __device__ __forceinline__ float through(T x) {
    return rw_to_float(x);
}

template <class To, class From> __device__ __forceinline__ To converted(From x) {
    if constexpr (std::is_same_v<To, From>)
        return x;
    else if constexpr (std::is_same_v<To, double>)
        return (double)rw_to_float(x);
    else if constexpr (std::is_same_v<To, float> && std::is_same_v<From, double>)
        return __double2float_rn(x);
    else
        return rw_from_float<To>(through(x));
}

/* 16 bytes of the narrower type at a time. */
template <class To, class From> __global__ void convert(const From *src, To *dst, int64_t n, bool aligned) {
    rw_over<16 / (sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From))>(n, aligned, [=](int64_t i, auto width) {
        constexpr int N = width.value;
        const rw_pack<From, N> x = *reinterpret_cast<const rw_pack<From, N> *>(src + i);
        rw_pack<To, N> y;
#pragma unroll
        for (int j = 0; j < N; j++) y.at[j] = converted<To>(x.at[j]);
        *reinterpret_cast<rw_pack<To, N> *>(dst + i) = y;
    });
}

template <class To, class From> void launch_cast(const rw_cast_args *a, rw_cuda_state *s) {
    convert<<<rw_cuda_blocks(s, a->n / 4), RW_CUDA_THREADS, 0, s->stream>>>(rw_in<From>(a->src), rw_out<To>(a->dst),
                                                                            a->n, rw_aligned({a->src, a->dst}));
}

template <class From> void cast_from(const rw_cast_args *a, rw_cuda_state *s) {
    if (a->to == RW_F64) return launch_cast<double, From>(a, s);
    RW_CUDA_NARROW(s, "cast", a->to, To, launch_cast<To, From>(a, s));
}

/* -- rounding in place ------------------------------------------------------------------------------------------ */

template <class To, class T> __global__ void round_in_place(T *x, int64_t n, bool aligned) {
    map(x, x, n, aligned, [](float v) { return rw_to_float(rw_from_float<To>(v)); });
}

template <class To, class T> void launch_round(const rw_round_args *a, rw_cuda_state *s) {
    round_in_place<To><<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
        rw_out<T>(a->x), a->n, rw_aligned({a->x}));
}

} // namespace

void rw_cuda_unary_forward(const rw_unary_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0) return;
    const bool wide = rw_aligned({a->x, a->out});
    RW_CUDA_NARROW(s, "unary_forward", a->dtype, T,
                   unary<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
                       a->op, rw_in<T>(a->x), rw_out<T>(a->out), (float)a->alpha, a->n, wide));
    rw_cuda_launched(s, "unary_forward");
}

void rw_cuda_unary_backward(const rw_unary_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const bool reads = a->op != RW_UNARY_COPY && a->op != RW_UNARY_SCALE;
    const void *kept = !reads ? nullptr : rw_unary_reads_x(a->op) ? a->x : a->out;
    if (a->n == 0 || !a->dx || (!a->dout && a->add)) return;
    const bool wide = rw_aligned({kept, a->dout, a->dx});
    RW_CUDA_NARROW(
        s, "unary_backward", a->dtype, T,
        unary_back<<<rw_cuda_blocks(s, a->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
            a->op, rw_in<T>(kept), rw_in<T>(a->dout), rw_out<T>(a->dx), (float)a->alpha, a->n, a->add, wide));
    rw_cuda_launched(s, "unary_backward");
}

void rw_cuda_binary_forward(const rw_binary_args *p, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const int64_t period = p->period ? p->period : p->n;
    if (p->n == 0) return;
    RW_CUDA_NARROW(s, "binary_forward", p->dtype, T, {
        const bool wide = rw_aligned({p->a, p->b, p->out}) && packs_repeat<T>(p->n, period);
        RW_BINARY_EACH(p->op, OP,
                       binary<OP><<<rw_cuda_blocks(s, p->n / rw_pack_of<T>), RW_CUDA_THREADS, 0, s->stream>>>(
                           rw_in<T>(p->a), rw_in<T>(p->b), rw_out<T>(p->out), p->n, period, wide));
    });
    rw_cuda_launched(s, "binary_forward");
}

void rw_cuda_binary_backward(const rw_binary_args *p, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const int64_t period = p->period ? p->period : p->n;
    if (period == 0 || (!p->da && !p->db)) return;
    RW_CUDA_NARROW(s, "binary_backward", p->dtype, T, RW_BINARY_EACH(p->op, OP, binary_backward<OP, T>(p, s, period)));
    rw_cuda_launched(s, "binary_backward");
}

void rw_cuda_cast(const rw_cast_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0) return;
    if (a->from == RW_F64)
        cast_from<double>(a, s);
    else
        RW_CUDA_NARROW(s, "cast", a->from, From, cast_from<From>(a, s));
    rw_cuda_launched(s, "cast");
}

void rw_cuda_round_to(const rw_round_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    if (a->n == 0 || a->to == a->dtype || a->to == RW_F32 || a->to == RW_F64) return;
    RW_CUDA_NARROW(s, "round_to", a->dtype, T, RW_CUDA_NARROW(s, "round_to", a->to, To, launch_round<To, T>(a, s)));
    rw_cuda_launched(s, "round_to");
}
