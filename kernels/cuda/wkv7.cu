/* wkv7 on the GPU (formulas: kernels/wkv7.h):
 *
 *     forward    prepare, recurrence, read_out
 *     backward   prepare again, out_backward, recurrence, prepare_backward, sums of the vectors' gradients
 *
 * wkv7_rows.cuh has what is done row by row. The recurrence goes in chunks of 16 tokens on tensor cores
 * (wkv7_chunks.cuh) where in_chunks() says so, else in steps (wkv7_steps.cuh). Between them lie rows of P, float for
 * the steps, T for the chunks. Bytes, who does what and why bits repeat: there.
 *
 * Saved: y, and what the recurrence asks for. Backward makes the operands again: four numbers a token and channel. */
#include "kernels/cuda/wkv7_chunks.cuh"

namespace wkv7 {

/* -- which form ----------------------------------------------------------------------------------------------- */

/* The one place that chooses for forward and its backward, and for the queries. */
static bool in_chunks(const rw_wkv7_args *a, const rw_cuda_state *s) {
    return a->dtype != RW_F32 && a->N == chunks::N && s->capability >= 80 && s->shared_bytes >= chunks::BWD_SMEM;
}
/* A few tokens that nothing has to be saved of (decoding) go in steps: a chunk is as long for one token as for 32. */
enum { FEW_TOKENS = 8 };
static bool forward_in_chunks(const rw_wkv7_args *a, const rw_cuda_state *s) {
    return in_chunks(a, s) && (a->saved || a->R > FEW_TOKENS * a->n_seq);
}
template <class P> constexpr bool of_chunks = !std::is_same_v<P, float>;
static bool fits_ahead(const rw_cuda_state *s) {
    return s->shared_bytes >= chunks::PIPE_SMEM;
}
/* Warps that prepare ahead pay from 512 tokens on, with 32 heads as with 1024 (H100, wkv-study); below they only take
 * the places of other blocks. */
static bool forward_ahead_pays(const rw_wkv7_args *a, const rw_cuda_state *s) {
    return fits_ahead(s) && a->R >= 256 * a->n_seq;
}

/* Backward in segments of time so that there are about three blocks a multiprocessor: 3.2 instead of 8.6 ns per token
 * and head with 32 heads of 4096 tokens, 1.6 instead of 2.2 with 128 (H100, wkv-study). */
struct segmentation {
    int segments, blocks;
};
static int64_t most_segments(const rw_cuda_state *s) {
    return 3 * (int64_t)s->n_sm;
}
static segmentation segments_of(const rw_wkv7_args *a, const rw_cuda_state *s) {
    const int64_t longest = a->cu_seqlens ? a->R : a->R / a->n_seq; /* as far as the host knows */
    const int64_t blocks = longest > 0 ? (longest + chunks::BLOCK - 1) / chunks::BLOCK : 1;
    int64_t wanted = a->R > 0 && fits_ahead(s) ? most_segments(s) * blocks * chunks::BLOCK / (a->R * a->H) : 1;
    if (wanted < 1) wanted = 1;
    const int64_t each = (blocks + wanted - 1) / wanted;
    return {(int)((blocks + each - 1) / each), (int)each};
}

/* -- memory --------------------------------------------------------------------------------------------------- */

/* The next n bytes of a buffer that may be missing: then only counted. */
template <class X> static X *take(void *base, int64_t *used, int64_t n_bytes) {
    X *p = base ? reinterpret_cast<X *>(static_cast<char *>(base) + *used) : nullptr;
    *used += (n_bytes + 255) / 256 * 256;
    return p;
}

template <class P> struct saved_parts {
    P *y;
    float *sa;
    void *states;
};
template <class P, int N> static int64_t saved_layout(const rw_wkv7_args *a, saved_parts<P> *s) {
    const int64_t n = a->R * a->H * N;
    int64_t used = 0;
    s->y = take<P>(a->saved, &used, n * sizeof(P));
    s->sa = take<float>(a->saved, &used, of_chunks<P> ? 0 : n * sizeof(float));
    s->states = take<void>(a->saved, &used, state_count(a->R, a->H) * N * N * sizeof(P));
    return used;
}

template <class P> struct work {
    prepared_rows<P> rows;
    P *dy, *dw;
    float *parts, *ds0, *room;
};
/* Bytes of recurrence.room. Of the chunks: G at the ends of segments, fewer than there are saved states. */
template <class P, int N> static int64_t room_bytes(const rw_wkv7_args *a, const rw_cuda_state *s) {
    const int64_t steps_wanted = room_blocks(a->n_seq * a->H, s->n_sm, steps<N>::PER_SM) * KEEP;
    const int64_t ends = state_count(a->R, a->H), most = most_segments(s);
    return (of_chunks<P> ? ends < most ? ends : most : steps_wanted) * N * N * (int64_t)sizeof(float);
}
template <class P, int N>
static int64_t work_layout(const rw_wkv7_args *a, const rw_cuda_state *s, bool backward, work<P> *w) {
    const int64_t n = a->R * a->H * N, state = a->H * N * N;
    int64_t used = 0;
    P **const rows[] = {&w->rows.k, &w->rows.v, &w->rows.a, &w->rows.b, &w->dy, &w->dw};
    for (int i = 0; i < (backward ? 6 : 4); i++) *rows[i] = take<P>(a->scratch, &used, n * sizeof(P));
    w->rows.bonus = take<float>(backward ? nullptr : a->scratch, &used, backward ? 0 : a->R * a->H * sizeof(float));
    if (!backward) return used;
    w->parts = take<float>(a->scratch, &used, most_parts(a->R) * PARAMS * a->H * N * sizeof(float));
    w->ds0 = take<float>(a->scratch, &used, a->s0_stride == 0 ? a->n_seq * state * sizeof(float) : 0);
    w->room = take<float>(a->scratch, &used, room_bytes<P, N>(a, s));
    return used;
}

/* -- arguments ------------------------------------------------------------------------------------------------ */

template <class T> static inputs<T> inputs_of(const rw_wkv7_args *a) {
    inputs<T> p = {a->R, a->H, rows_of_part(a->R)};
    p.r = rw_in<T>(a->r);
    p.w_raw = rw_in<T>(a->w_raw);
    p.k0 = rw_in<T>(a->k0);
    p.v = rw_in<T>(a->v);
    p.a_up = rw_in<T>(a->a_up);
    p.v_up = rw_in<T>(a->v_up);
    p.v_first = rw_in<T>(a->v_first);
    p.g = rw_in<T>(a->g);
    p.dout = rw_in<T>(a->dout);
    p.w0 = rw_in<float>(a->w0);
    p.a0 = rw_in<float>(a->a0);
    p.v0 = rw_in<float>(a->v0);
    p.k_k = rw_in<float>(a->k_k);
    p.k_a = rw_in<float>(a->k_a);
    p.r_k = rw_in<float>(a->r_k);
    p.ln_w = rw_in<float>(a->ln_w);
    p.ln_b = rw_in<float>(a->ln_b);
    p.eps = (float)a->eps;
    return p;
}
template <class T> static outputs<T> outputs_of(const rw_wkv7_args *a, float *parts) {
    return {rw_out<T>(a->dr),
            rw_out<T>(a->dw_raw),
            rw_out<T>(a->dk0),
            rw_out<T>(a->dv),
            rw_out<T>(a->da_up),
            rw_out<T>(a->dv_up),
            rw_out<T>(a->dv_first),
            rw_out<T>(a->dg),
            parts,
            a->add};
}
/* Where v' is v itself the recurrence reads the input, and prepare writes none. */
template <class T, class P> static const P *values_in_place(const rw_wkv7_args *a) {
    return std::is_same_v<T, P> && !a->v_up ? static_cast<const P *>(a->v) : nullptr;
}
template <class T, class P, int N>
static recurrence<T, P> recurrence_of(const rw_wkv7_args *a, const saved_parts<P> &saved, const work<P> &w) {
    recurrence<T, P> p = {a->R, a->H, a->n_seq, a->cu_seqlens, rw_in<T>(a->r), rw_in<T>(a->w_raw)};
    const P *v = values_in_place<T, P>(a);
    p.w0 = rw_in<float>(a->w0);
    p.k = w.rows.k, p.v = v ? v : w.rows.v, p.a = w.rows.a, p.b = w.rows.b;
    p.s0 = rw_in<float>(a->s0);
    p.s0_stride = a->s0_stride;
    p.s_out = rw_out<float>(a->s_out);
    p.y = saved.y ? saved.y : w.rows.a; /* a row's A has been read when its y is written */
    p.sa = saved.sa;
    p.states = saved.states;
    return p;
}
/* Gradients take the places of what they belong to, dr that of dy. */
template <class T, class P, int N>
static void point_gradients(const rw_wkv7_args *a, const work<P> &w, recurrence<T, P> *p) {
    p->dy = p->dr = w.dy;
    p->ds_out = rw_in<float>(a->ds_out);
    p->dw_raw = w.dw;
    p->dk = w.rows.k, p->dv = w.rows.v, p->da = w.rows.a, p->db = w.rows.b;
    const bool shared = a->ds0 && a->s0_stride == 0;
    p->ds0 = shared ? w.ds0 : rw_out<float>(a->ds0);
    p->ds0_stride = a->H * N * N;
    p->ds0_add = !shared && (a->add & RW_WKV7_ADD_S0);
    p->room = w.room;
}

/* -- forward -------------------------------------------------------------------------------------------------- */

static dim3 row_grid(const rw_wkv7_args *a) {
    return dim3((unsigned)part_count(a->R), (unsigned)((a->H + ROW_WARPS - 1) / ROW_WARPS));
}

template <class T, class P, int N>
static void prepare_rows(const rw_wkv7_args *a, cudaStream_t stream, prepared_rows<P> to, bool bonus) {
    if (a->R == 0) return;
    if (values_in_place<T, P>(a)) to.v = nullptr;
    if (!bonus || !a->r_k) to.bonus = nullptr;
    prepare<T, P, N><<<row_grid(a), 32 * ROW_WARPS, 0, stream>>>(inputs_of<T>(a), to);
}

/* Once for each kernel: more than 48 KB of shared memory a block. */
template <auto KERNEL> static void allow_shared(rw_cuda_state *s, int bytes) {
    static bool done;
    if (done) return;
    rw_cuda_check(s, "wkv7", cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    done = true;
}

template <class T> static void chunks_forward(const rw_wkv7_args *a, rw_cuda_state *s, const recurrence<T, T> &p) {
    const unsigned heads = (unsigned)(a->n_seq * a->H);
    if (forward_ahead_pays(a, s)) {
        allow_shared<chunks::forward_ahead<T>>(s, chunks::PIPE_SMEM);
        chunks::forward_ahead<T><<<heads, chunks::PIPE_THREADS, chunks::PIPE_SMEM, s->stream>>>(p);
    } else {
        allow_shared<chunks::forward<T>>(s, chunks::FWD_SMEM);
        chunks::forward<T><<<heads, chunks::THREADS, chunks::FWD_SMEM, s->stream>>>(p);
    }
}

template <class T, class P, int N> static void run_forward(const rw_wkv7_args *a, rw_cuda_state *s) {
    work<P> w;
    saved_parts<P> saved;
    work_layout<P, N>(a, s, false, &w);
    saved_layout<P, N>(a, &saved);
    const recurrence<T, P> p = recurrence_of<T, P, N>(a, saved, w);
    prepare_rows<T, P, N>(a, s->stream, w.rows, true);
    const unsigned heads = (unsigned)(a->n_seq * a->H);
    if constexpr (of_chunks<P>) {
        if (heads > 0) chunks_forward<T>(a, s, p);
    } else {
        if (heads > 0) steps_forward<T, N><<<heads, steps<N>::THREADS, 0, s->stream>>>(p);
    }
    if (a->R > 0)
        read_out<T, P, N>
            <<<row_grid(a), 32 * ROW_WARPS, 0, s->stream>>>(inputs_of<T>(a), p.y, p.v, w.rows.bonus, rw_out<T>(a->out));
}

/* -- backward ------------------------------------------------------------------------------------------------- */

static bool needs_recurrence(const rw_wkv7_args *a) {
    return a->dr || a->dw_raw || a->dk0 || a->dv || a->da_up || a->dv_up || a->dv_first || a->dw0 || a->da0 || a->dv0 ||
           a->dk_k || a->dk_a || a->ds0;
}
/* Anything but gradients of the norm and of the state? */
static bool needs_rows(const rw_wkv7_args *a) {
    return a->dr || a->dw_raw || a->dk0 || a->dv || a->da_up || a->dv_up || a->dv_first || a->dg || a->dw0 || a->da0 ||
           a->dv0 || a->dk_k || a->dk_a || a->dr_k;
}

static void sum_up(const rw_wkv7_args *a, rw_cuda_state *s, const float *parts, const float *ds0, int64_t N) {
    const int64_t C = a->H * N, width = C * N;
    part_sums p = {{rw_out<float>(a->dw0), rw_out<float>(a->da0), rw_out<float>(a->dv0), rw_out<float>(a->dk_k),
                    rw_out<float>(a->dk_a), rw_out<float>(a->dr_k), rw_out<float>(a->dln_w), rw_out<float>(a->dln_b)}};
    static_assert(D_LN_B == 7 && PARAMS == 8, "the order of the gradients above");
    static_assert(RW_WKV7_ADD_W0 << D_LN_B == RW_WKV7_ADD_LN_B, "and of their add bits");
    bool any = false;
    for (int i = 0; i < PARAMS; i++) any |= p.to[i] != nullptr;
    p.add = a->add / RW_WKV7_ADD_W0;
    p.from = parts;
    p.n = part_count(a->R);
    p.pitch = PARAMS * C;
    p.width = C;
    const dim3 block(SUM_COLUMNS, SUM_ROWS);
    if (any) sum_parts<<<dim3((unsigned)(C / SUM_COLUMNS), PARAMS), block, 0, s->stream>>>(p);
    if (!a->ds0 || a->s0_stride != 0) return;
    const part_sums q = {{rw_out<float>(a->ds0)}, a->add & RW_WKV7_ADD_S0 ? 1u : 0u, ds0, a->n_seq, width, width};
    sum_parts<<<dim3((unsigned)(width / SUM_COLUMNS), 1), block, 0, s->stream>>>(q);
}

template <class T> static void chunks_backward(const rw_wkv7_args *a, rw_cuda_state *s, const recurrence<T, T> &p) {
    const segmentation g = segments_of(a, s);
    const unsigned heads = (unsigned)(a->n_seq * a->H);
    if (g.segments > 1) {
        allow_shared<chunks::segment_ends<T>>(s, chunks::PIPE_SMEM);
        chunks::segment_ends<T><<<heads, chunks::PIPE_THREADS, chunks::PIPE_SMEM, s->stream>>>(p, g.blocks);
    }
    allow_shared<chunks::backward<T>>(s, chunks::BWD_SMEM);
    chunks::backward<T><<<heads * g.segments, chunks::THREADS, chunks::BWD_SMEM, s->stream>>>(p, g.segments, g.blocks);
}

template <class T, class P, int N> static void run_backward(const rw_wkv7_args *a, rw_cuda_state *s) {
    work<P> w;
    saved_parts<P> saved;
    work_layout<P, N>(a, s, true, &w);
    saved_layout<P, N>(a, &saved);
    recurrence<T, P> p = recurrence_of<T, P, N>(a, saved, w);
    point_gradients<T, P, N>(a, w, &p);
    const inputs<T> in = inputs_of<T>(a);
    const int64_t n_heads = a->n_seq * a->H;
    const bool recurrent = needs_recurrence(a) && n_heads > 0;
    const dim3 grid = row_grid(a), block = 32 * ROW_WARPS;
    if (recurrent) prepare_rows<T, P, N>(a, s->stream, w.rows, false);
    if (a->R > 0 && (recurrent || a->dln_w || a->dln_b))
        out_backward<T, P, N><<<grid, block, 0, s->stream>>>(in, p.y, recurrent ? w.dy : nullptr, w.parts);
    if constexpr (of_chunks<P>) {
        if (recurrent) chunks_backward<T>(a, s, p);
    } else {
        const unsigned blocks = (unsigned)room_blocks(n_heads, s->n_sm, steps<N>::PER_SM);
        if (recurrent) steps_backward<T, N><<<blocks, steps<N>::THREADS, 0, s->stream>>>(p);
    }
    recurrence_grads<P> d = {};
    if (recurrent) d = {p.dr, p.dw_raw, p.dk, p.dv, p.da, p.db};
    if (a->R > 0 && needs_rows(a))
        prepare_backward<T, P, N><<<grid, block, 0, s->stream>>>(in, p.y, d, outputs_of<T>(a, w.parts));
    sum_up(a, s, w.parts, w.ds0, N);
}

/* -- the table's rows ----------------------------------------------------------------------------------------- */

/* Runs `call` with T and, of the steps, N. */
#define RW_WKV7_AS(call)                                                                                               \
    switch (a->N) {                                                                                                    \
    case 32: {                                                                                                         \
        constexpr int N = 32;                                                                                          \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    case 64: {                                                                                                         \
        constexpr int N = 64;                                                                                          \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    case 128: {                                                                                                        \
        constexpr int N = 128;                                                                                         \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    default:                                                                                                           \
        rw_cuda_note(s, "wkv7", "the head size is not 32, 64 or 128");                                                 \
    }

template <class T> static void forward_as(const rw_wkv7_args *a, rw_cuda_state *s) {
    if constexpr (!std::is_same_v<T, float>)
        if (forward_in_chunks(a, s)) return run_forward<T, T, chunks::N>(a, s);
    RW_WKV7_AS((run_forward<T, float, N>(a, s)));
}
template <class T> static void backward_as(const rw_wkv7_args *a, rw_cuda_state *s) {
    if constexpr (!std::is_same_v<T, float>)
        if (in_chunks(a, s)) return run_backward<T, T, chunks::N>(a, s);
    RW_WKV7_AS((run_backward<T, float, N>(a, s)));
}
static int64_t work_bytes(const rw_wkv7_args *a, rw_cuda_state *s, bool backward) {
    work<__half> h; /* as wide as bf16 */
    work<float> f;
    if (in_chunks(a, s)) {
        rw_wkv7_args few = *a;
        if (few.R > FEW_TOKENS * few.n_seq) few.R = FEW_TOKENS * few.n_seq;
        const int64_t bytes = work_layout<__half, chunks::N>(a, s, backward, &h);
        const int64_t of_steps = backward ? 0 : work_layout<float, chunks::N>(&few, s, false, &f);
        return bytes > of_steps ? bytes : of_steps;
    }
    RW_WKV7_AS(return (work_layout<float, N>(a, s, backward, &f)));
    return 0;
}
static int64_t saved_bytes(const rw_wkv7_args *a, rw_cuda_state *s) {
    saved_parts<__half> h;
    saved_parts<float> f;
    if (in_chunks(a, s)) return saved_layout<__half, chunks::N>(a, &h);
    RW_WKV7_AS(return (saved_layout<float, N>(a, &f)));
    return 0;
}

} // namespace wkv7

int64_t rw_cuda_wkv7_saved(const rw_wkv7_args *a, const rw_exec *ex) {
    return wkv7::saved_bytes(a, rw_cuda_of(ex));
}
int64_t rw_cuda_wkv7_forward_scratch(const rw_wkv7_args *a, const rw_exec *ex) {
    return wkv7::work_bytes(a, rw_cuda_of(ex), false);
}
int64_t rw_cuda_wkv7_backward_scratch(const rw_wkv7_args *a, const rw_exec *ex) {
    return wkv7::work_bytes(a, rw_cuda_of(ex), true);
}

void rw_cuda_wkv7_forward(const rw_wkv7_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "wkv7_forward", a->dtype, T, wkv7::forward_as<T>(a, s));
    rw_cuda_launched(s, "wkv7_forward");
}
void rw_cuda_wkv7_backward(const rw_wkv7_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    RW_CUDA_NARROW(s, "wkv7_backward", a->dtype, T, wkv7::backward_as<T>(a, s));
    rw_cuda_launched(s, "wkv7_backward");
}
