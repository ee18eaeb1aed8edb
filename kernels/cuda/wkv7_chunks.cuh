/* wkv7's recurrence on tensor cores, for bf16 and fp16 and heads of 64 (compute capability 8.0 on), a = -kk, b = kk a:
 *
 *     S_t = S_{t-1} diag(w_t) + (S_{t-1} a_t) b_t^T + v_t k_t^T,   y_t = S_t r_t,   w = exp(l), l = -e^{-1/2} sigmoid
 *
 * S is 64 x 64 for each sequence and head: row = value channel i, column = key channel j.
 *
 * Chunked form, 16 steps a chunk, decays counted from the start of the chunk.  cum_t = l_1 + .. + l_t:
 *     Rt = r e^{cum_t}   At = a e^{cum_{t-1}}   Kh = k e^{-cum_t}   Bh = b e^{-cum_t}   tot = e^{cum_16}
 *     Aab = tril(At Bh^T,-1)  Aak = tril(At Kh^T,-1)  Aqk = tril(Rt Kh^T)  Aqb = tril(Rt Bh^T)  X = (I - Aab)^{-1}
 *     U = X (Aak V + At S^T)    Y = Aqk V + Aqb U + Rt S^T    S' = (S + V^T Kh + U^T Bh) diag(tot)
 * l >= -0.607, so e^{-cum} <= 1.7e4: safe in bf16.  Four operands serve every product.
 * Backward, G = dL/dS', Gt = G diag(tot):
 *     dU = Aqb^T dY + Bh Gt^T    Z = X^T dU    dV = Aqk^T dY + Kh Gt^T + Aak^T Z    dL/dS = Gt + Z^T At + dY^T Rt
 *     Oab = tril(Z U^T,-1)  Oak = tril(Z V^T,-1)  Oqk = tril(dY V^T)  Oqb = tril(dY U^T)
 *     da = pa e^{cum_{t-1}}, pa = Z S + Oab Bh + Oak Kh       dr = pr e^{cum_t},  pr = dY S + Oqk Kh + Oqb Bh
 *     dk = pk e^{-cum_t},    pk = V Gt + Oak^T At + Oqk^T Rt  db = pb e^{-cum_t}, pb = U Gt + Oab^T At + Oqb^T Rt
 *     dl_x = sum_{t>=x} (Rt pr + At pa - Kh pk - Bh pb)_t - (At pa)_x + E,  with the rounded operands, and
 *     E[j] = (S + V^T Kh + U^T Bh)^T Gt, its diagonal: the sum over i of G S' at the end of the chunk.
 * fp16 counts from the middle: cum - cum_16 / 2 stands wherever cum does, S and G take half of tot at either end of a
 * chunk, and no factor is above 128. The rest of the formulas stays as it is.
 *
 * A block of 4 warps owns one head of one sequence and works on 32 steps (two chunks) at a time:
 *     operands   a pair of warps per chunk: decays, the four operands (in place of the raw rows)
 *     triangles  the pair again: X by one warp, Aak Aqk Aqb by the other
 *     chain      warp p owns value rows 16p..16p+15 of S (and G) as fp32 sums; rows never mix, no barrier
 *     gradients  (backward) a pair of warps per chunk, 32 key columns each
 * The sums of S and of every i x t tile are used again as A operands without leaving the registers: all tiles of the
 * chain are kept transposed ([value channel][time]) for that reason.
 *
 * Two other forms: forward_ahead has 8 more warps which prepare ahead of those that move the state; backward works on
 * segments of time at once where heads are few, G at their ends from a first pass, segment_ends.
 *
 * Saved: S in T before every 32 steps of a sequence but the first. Numbers each way, per token and channel: forward
 * reads 6 and writes 1, backward 7 and 6, segment_ends reads 5; a saved state is 2 more each way. Sums are those of the
 * products, in one order: the bits repeat. Nothing crosses blocks, but for G between segments, which lies ready. Rows
 * past the end of a sequence are zeros with no decay: they change neither S nor any gradient. */
#ifndef RW_KERNELS_CUDA_WKV7_CHUNKS_CUH
#define RW_KERNELS_CUDA_WKV7_CHUNKS_CUH

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/wkv7_steps.cuh"

namespace wkv7 {
namespace chunks {

constexpr int N = 64;                          /* head size */
constexpr int CHUNK = 16;                      /* steps of one chunk: a tile of the products */
constexpr int BLOCK = 32;                      /* steps worked on together */
constexpr int WARPS = 4, THREADS = 32 * WARPS; /* of a team */
constexpr int STATE_BYTES = N * N * 2;         /* one saved state, in the order of operands */
constexpr int ROW = N * 2;                     /* bytes of one row of a tile */
constexpr int CHUNK_TILE = CHUNK * ROW;        /* 2 KB */
constexpr int TILE = BLOCK * ROW;              /* 4 KB: one tensor, one block */
constexpr int STATE_TILE = N * ROW;            /* 8 KB: S or G, [i][j] */
constexpr int MAT = CHUNK * CHUNK * 2;         /* 512 B: one 16 x 16 matrix */
constexpr int TALL = N * CHUNK * 2;            /* 2 KB: U or Z of one chunk, transposed [i][t] */
constexpr float RATE = -0.8750387749145276f;   /* -exp(-1/2) log2(e) */
constexpr float LOG2E = 1.4426950408889634f;
static_assert(BLOCK == KEEP, "a state is saved before every block");

template <class T> constexpr bool from_middle = std::is_same_v<T, __half>;

/* -- small pieces --------------------------------------------------------------------------------------------- */

using fragment = rw_fragment; /* A operand 16 x 16, or two B operands 16 x 8: (x[0], x[1]), (x[2], x[3]) */

/* d[16 x 16] += a . b */
template <class T> static __device__ __forceinline__ void mma(float (*d)[4], const fragment &a, const fragment &b) {
    rw_mma<T>(d[0], a, b.x[0], b.x[1]);
    rw_mma<T>(d[1], a, b.x[2], b.x[3]);
}
/* what rounding took from the tile: a second A operand, so that hi + rest carries twice the bits */
template <class T> static __device__ __forceinline__ fragment rest_of(const float (*d)[4], const fragment &hi) {
    fragment f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *from = d[i / 2] + 2 * (i % 2);
        f.x[i] = rw_pack2<T>(from[0] - rw_low<T>(hi.x[i]), from[1] - rw_high<T>(hi.x[i]));
    }
    return f;
}
static __device__ __forceinline__ void clear(float (*d)[4], int tiles) {
#pragma unroll
    for (int n = 0; n < tiles; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) d[n][e] = 0;
}
static __device__ __forceinline__ uint32_t word_at(const char *p) {
    return *reinterpret_cast<const uint32_t *>(p);
}
static __device__ __forceinline__ void put_word(char *p, uint32_t x) {
    *reinterpret_cast<uint32_t *>(p) = x;
}

/* -- tiles in shared memory -----------------------------------------------------------------------------------
 * With 128-byte rows (wide): 16-byte piece p of row t lies at piece p ^ swizzle(t); ldmatrix, whole rows, and 64 bytes
 * of rows t and t + 8 together are all free of bank conflicts. With 32-byte rows (narrow): p ^ bit 2 of t. */
static __device__ __forceinline__ int swizzle(int t) {
    return (t & 7) ^ ((t & 8) >> 1);
}

struct lane {
    int thread, warp, index, g,
        c;                       /* thread and warp of its team; g = index / 4: row in a tile of sums; columns 2c .. */
    uint32_t wide_a, wide_b;     /* offsets in a wide tile that give the order of an A or of two B operands */
    uint32_t narrow_a, narrow_b; /* the same in a narrow one */
};
static __device__ __forceinline__ lane this_lane() {
    lane z;
    z.thread = rw_thread_once() & (THREADS - 1);
    z.warp = z.thread >> 5, z.index = z.thread & 31, z.g = z.index >> 2, z.c = z.index & 3;
    int row = z.index & 15, half = z.index >> 4;
    z.wide_a = row * ROW + ((half ^ swizzle(row)) << 4);
    z.narrow_a = row * 32 + ((half ^ ((row >> 2) & 1)) << 4);
    row = (z.index & 7) + 8 * (z.index >> 4), half = (z.index >> 3) & 1;
    z.wide_b = row * ROW + ((half ^ swizzle(row)) << 4);
    z.narrow_b = row * 32 + ((half ^ ((row >> 2) & 1)) << 4);
    return z;
}
/* Operands: tile = 16 rows of a wide tile, q = block of 16 columns. _t: the memory holds the operand transposed, A as
 * [k][row], B as [k][n] (not transposed: A [row][k], B [n][k]). */
static __device__ __forceinline__ fragment load_a(const char *tile, int q, const lane &z) {
    return rw_ldmatrix(rw_shared_address(tile) + (z.wide_a ^ (q << 5)));
}
static __device__ __forceinline__ fragment load_a_t(const char *tile, int q, const lane &z) {
    return rw_ldmatrix_trans(rw_shared_address(tile) + (z.wide_b ^ (q << 5)));
}
static __device__ __forceinline__ fragment load_b(const char *tile, int q, const lane &z) {
    return rw_ldmatrix(rw_shared_address(tile) + (z.wide_b ^ (q << 5)));
}
static __device__ __forceinline__ fragment load_b_t(const char *tile, int q, const lane &z) {
    return rw_ldmatrix_trans(rw_shared_address(tile) + (z.wide_a ^ (q << 5)));
}
/* the same for 16 x 16 matrices, narrow */
static __device__ __forceinline__ fragment matrix_a_t(const char *m, const lane &z) {
    return rw_ldmatrix_trans(rw_shared_address(m) + z.narrow_b);
}
static __device__ __forceinline__ fragment matrix_b(const char *m, const lane &z) {
    return rw_ldmatrix(rw_shared_address(m) + z.narrow_b);
}
static __device__ __forceinline__ fragment matrix_b_t(const char *m, const lane &z) {
    return rw_ldmatrix_trans(rw_shared_address(m) + z.narrow_a);
}
static __device__ __forceinline__ uint32_t narrow_at(int row, int word) { /* byte offset of a 4-byte word */
    return row * 32 + (((word >> 2) ^ ((row >> 2) & 1)) << 4) + ((word & 3) << 2);
}
/* a 16 x 16 tile (or 16 rows of a tall one), narrow */
static __device__ __forceinline__ void store_narrow(char *m, const fragment &f, const lane &z) {
    put_word(m + narrow_at(z.g, z.c), f.x[0]);
    put_word(m + narrow_at(z.g + 8, z.c), f.x[1]);
    put_word(m + narrow_at(z.g, z.c + 4), f.x[2]);
    put_word(m + narrow_at(z.g + 8, z.c + 4), f.x[3]);
}

/* -- operands of one chunk ------------------------------------------------------------------------------------ */

struct tiles {
    char *r, *w, *k, *v, *a, *b;
}; /* one chunk each; then: Rt, raw, Kh, V, At, Bh */

/* where a lane works: channels 2 word, 2 word + 1; steps 8 top .. 8 top + 7 */
struct column {
    int top, word;
    uint32_t base;
    __device__ __forceinline__ column(const lane &z, int half) {
        top = z.index >> 4;
        word = 16 * half + (z.index & 15);
        base = top * 8 * ROW + (((word >> 2) ^ (top << 2)) << 4) + ((word & 3) << 2);
    }
    __device__ __forceinline__ uint32_t at(int x) const { /* step 8 top + x */
        return (base ^ (x << 4)) + x * ROW;
    }
};
/* e = exp(-x) (kept finite), s = sigmoid(x) = 1 / (1 + e), so 1 - s = e s to full precision */
static __device__ __forceinline__ void sigmoid(float x, float *e, float *s) {
    *e = rw_exp2_fast(fminf(-LOG2E * x, 100.f));
    *s = __fdividef(1.f, 1.f + *e);
}
template <class T> static __device__ __forceinline__ void scale_word(char *at, float f0, float f1) {
    const uint32_t x = word_at(at);
    put_word(at, rw_pack2<T>(rw_low<T>(x) * f0, rw_high<T>(x) * f1));
}
static __device__ __forceinline__ float2 pair_of(const float *p) {
    return *reinterpret_cast<const float2 *>(p);
}

/* What a pass reads: six tensors; these and dy; only what moves G (no k, v; dy lies where v does otherwise). */
enum { FORWARD, BACKWARD, MOVE_G };

/* One warp, 16 steps x 32 channels. Raw rows -> operands in place, tot[channel] = e^{cum_16} (its root from the
 * middle). valid: steps of the chunk that there are. w0: of the head. */
template <class T, int PASS>
static __device__ __forceinline__ void make_operands(const tiles &t, float *tot, const float *w0, int valid,
                                                     const lane &z, int half) {
    const column q(z, half);
    const float2 base = pair_of(w0 + 2 * q.word);
    float cum[8][2], c0 = 0, c1 = 0;
#pragma unroll
    for (int x = 0; x < 8; x++) {
        const uint32_t w = word_at(t.w + q.at(x));
        float e, s0, s1;
        sigmoid(rw_low<T>(w) + base.x, &e, &s0);
        sigmoid(rw_high<T>(w) + base.y, &e, &s1);
        const float scale = 8 * q.top + x < valid ? RATE : 0.f; /* padding: no decay */
        c0 = fmaf(scale, s0, c0);
        c1 = fmaf(scale, s1, c1);
        cum[x][0] = c0;
        cum[x][1] = c1;
    }
    float b0 = __shfl_xor_sync(~0u, c0, 16), b1 = __shfl_xor_sync(~0u, c1, 16);
    const float half0 = 0.5f * (b0 + c0), half1 = 0.5f * (b1 + c1);
    if (!q.top) b0 = b1 = 0.f; /* lower 8 steps start at 0, upper ones above them */
    if (from_middle<T>) {
        b0 -= half0;
        b1 -= half1;
    }
    float p0 = rw_exp2_fast(b0), p1 = rw_exp2_fast(b1); /* e^{cum_{t-1}} */
#pragma unroll
    for (int x = 0; x < 8; x++) {
        const float u0 = cum[x][0] + b0, u1 = cum[x][1] + b1;
        const float e0 = rw_exp2_fast(u0), e1 = rw_exp2_fast(u1), i0 = rw_exp2_fast(-u0), i1 = rw_exp2_fast(-u1);
        const uint32_t o = q.at(x);
        scale_word<T>(t.a + o, p0, p1);
        scale_word<T>(t.b + o, i0, i1);
        if (PASS != MOVE_G) scale_word<T>(t.k + o, i0, i1);
        scale_word<T>(t.r + o, e0, e1);
        p0 = e0;
        p1 = e1;
    }
    if (q.top)
        *reinterpret_cast<float2 *>(tot + 2 * q.word) =
            from_middle<T> ? make_float2(rw_exp2_fast(half0), rw_exp2_fast(half1)) : make_float2(p0, p1);
}

/* -- triangles: the 16 x 16 matrices of one chunk ------------------------------------------------------------- */

/* d[16 x 16] = x . y^T over the 64 channels of two chunk tiles */
template <class T>
static __device__ __forceinline__ void product_nt(float (*d)[4], const char *x, const char *y, const lane &z) {
    clear(d, 2);
#pragma unroll
    for (int q = 0; q < 4; q++) mma<T>(d, load_a(x, q, z), load_b(y, q, z));
}
/* keep column <= row - gap */
static __device__ __forceinline__ void lower(float (*d)[4], int gap, const lane &z) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * n + 2 * z.c + (e & 1) > z.g + 8 * (e >> 1) - gap) d[n][e] = 0;
}
/* X = (I - A)^{-1}, A strictly lower: forward substitution in fp32, lane = column (bf16 products would lose all digits
 * with near-equal keys). A arrives as sums. */
template <class T>
static __device__ __forceinline__ void invert(char *x_out, float *scratch, const float (*d)[4], const lane &z) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *reinterpret_cast<float2 *>(scratch + (z.g + 8 * h) * CHUNK + 8 * n + 2 * z.c) =
                make_float2(d[n][2 * h], d[n][2 * h + 1]);
    __syncwarp(); /* all of A is there */
    const int col = z.index & 15, top = z.index >> 4;
    float x[CHUNK];
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
        float sum = t == col ? 1.f : 0.f;
#pragma unroll
        for (int s = 0; s < t; s += 4) { /* entries at and right of the diagonal are 0 */
            const float4 row = *reinterpret_cast<const float4 *>(scratch + t * CHUNK + s);
            sum = fmaf(row.x, x[s], sum);
            if (s + 1 < t) sum = fmaf(row.y, x[s + 1], sum);
            if (s + 2 < t) sum = fmaf(row.z, x[s + 2], sum);
            if (s + 3 < t) sum = fmaf(row.w, x[s + 3], sum);
        }
        x[t] = sum;
    }
#pragma unroll
    for (int t = 0; t < 8; t++) /* lanes 0-15 write rows 0-7, the others rows 8-15 */
        *reinterpret_cast<T *>(x_out + narrow_at(t + 8 * top, col >> 1) + (col & 1) * 2) =
            rw_from_float<T>(top ? x[t + 8] : x[t]);
}

enum { MAT_X, MAT_AK, MAT_QK, MAT_QB, MATS };

template <class T>
static __device__ __forceinline__ void triangle(char *m, const char *x, const char *y, int gap, const lane &z) {
    float d[2][4];
    product_nt<T>(d, x, y, z);
    lower(d, gap, z);
    store_narrow(m, rw_as_a<T>(d), z);
}
template <class T, int PASS>
static __device__ __forceinline__ void triangles(const tiles &t, char *mats, float *scratch, const lane &z, int half) {
    if (half == 0) {
        float d[2][4];
        product_nt<T>(d, t.a, t.b, z);
        lower(d, 1, z);
        invert<T>(mats + MAT_X * MAT, scratch, d, z);
    } else {
        triangle<T>(mats + MAT_QB * MAT, t.r, t.b, 0, z);
        if (PASS == MOVE_G) return;
        triangle<T>(mats + MAT_AK * MAT, t.a, t.k, 1, z);
        triangle<T>(mats + MAT_QK * MAT, t.r, t.k, 0, z);
    }
}

/* -- states: 16 value rows x 64 key columns a warp ------------------------------------------------------------ */

template <class T> static __device__ __forceinline__ void state_to_a(fragment *f, const float (*s)[4]) {
#pragma unroll
    for (int q = 0; q < 4; q++) f[q] = rw_as_a<T>(s + 2 * q);
}
static __device__ __forceinline__ void scale_columns(float (*s)[4], const float *tot, const lane &z) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float2 f = pair_of(tot + 8 * n + 2 * z.c);
        s[n][0] *= f.x, s[n][1] *= f.y, s[n][2] *= f.x, s[n][3] *= f.y;
    }
}
static __device__ __forceinline__ int64_t pair_in_state(int n, int h, const lane &z) {
    return (16 * z.warp + z.g + 8 * h) * N + 8 * n + 2 * z.c;
}
static __device__ __forceinline__ void load_state(float (*s)[4], const float *m, const lane &z) { /* NULL: zeros */
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 x = m ? pair_of(m + pair_in_state(n, h, z)) : make_float2(0, 0);
            s[n][2 * h] = x.x;
            s[n][2 * h + 1] = x.y;
        }
}
static __device__ __forceinline__ void store_state(float *m, const float (*s)[4], bool add, const lane &z) {
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float2 *to = reinterpret_cast<float2 *>(m + pair_in_state(n, h, z));
            const float2 old = add ? *to : make_float2(0, 0);
            *to = make_float2(old.x + s[n][2 * h], old.y + s[n][2 * h + 1]);
        }
}
/* saved states: the A operands of the four warps, 16 bytes a lane: [warp][q][lane] */
static __device__ __forceinline__ void save_state(uint4 *m, const fragment *f, const lane &z) {
#pragma unroll
    for (int q = 0; q < 4; q++)
        m[(z.warp * 4 + q) * 32 + z.index] = make_uint4(f[q].x[0], f[q].x[1], f[q].x[2], f[q].x[3]);
}
template <class T> static __device__ __forceinline__ void restore_state(float (*s)[4], const uint4 *m, const lane &z) {
#pragma unroll
    for (int q = 0; q < 4; q++) {
        const uint4 f = m[(z.warp * 4 + q) * 32 + z.index];
        s[2 * q][0] = rw_low<T>(f.x), s[2 * q][1] = rw_high<T>(f.x);
        s[2 * q][2] = rw_low<T>(f.y), s[2 * q][3] = rw_high<T>(f.y);
        s[2 * q + 1][0] = rw_low<T>(f.z), s[2 * q + 1][1] = rw_high<T>(f.z);
        s[2 * q + 1][2] = rw_low<T>(f.w), s[2 * q + 1][3] = rw_high<T>(f.w);
    }
}
/* the warp's 16 rows to the tile [i][j] */
static __device__ __forceinline__ void state_to_tile(char *tile, const fragment *f, const lane &z) {
    const int row = 16 * z.warp + z.g;
    const uint32_t at = row * ROW + (swizzle(row) << 4) + z.c * 4;
#pragma unroll
    for (int p = 0; p < 8; p++) { /* 16-byte pieces; the swizzle of row + 8 differs by 4 */
        put_word(tile + (at ^ (p << 4)), f[p >> 1].x[2 * (p & 1)]);
        put_word(tile + (at ^ (p << 4)) + 8 * ROW, f[(p ^ 4) >> 1].x[2 * (p & 1) + 1]);
    }
}

/* d += s . x^T : [16 i x 64 j] . [64 j x 16 t], x a chunk tile [t][j] */
template <class T>
static __device__ __forceinline__ void state_times(float (*d)[4], const fragment *s, const char *x, const lane &z) {
#pragma unroll
    for (int q = 0; q < 4; q++) mma<T>(d, s[q], load_b(x, q, z));
}
/* s += f . x : [16 i x 16 t] . [16 t x 64 j], x a chunk tile [t][j] */
template <class T>
static __device__ __forceinline__ void state_add(float (*s)[4], const fragment &f, const char *x, const lane &z) {
#pragma unroll
    for (int q = 0; q < 4; q++) mma<T>(s + 2 * q, f, load_b_t(x, q, z));
}
/* the warp's 16 channels of a chunk tile [t][i], transposed: A operand [i][t] */
static __device__ __forceinline__ fragment own_rows(const char *x, const lane &z) {
    return load_a_t(x, z.warp, z);
}

/* U^T [16 i x 16 t] = (V^T Aak^T + S At^T) X^T */
template <class T>
static __device__ __forceinline__ fragment make_u(const fragment *s, const fragment &v, const tiles &t,
                                                  const char *mats, const lane &z) {
    float w[2][4], u[2][4];
    clear(w, 2);
    clear(u, 2);
    mma<T>(w, v, matrix_b(mats + MAT_AK * MAT, z));
    state_times<T>(w, s, t.a, z);
    const fragment x = matrix_b(mats + MAT_X * MAT, z), hi = rw_as_a<T>(w);
    mma<T>(u, hi, x);
    mma<T>(u, rest_of<T>(w, hi), x);
    return rw_as_a<T>(u);
}
/* Z^T [16 i x 16 t] = (dY^T Aqb + Gt Bh^T) X */
template <class T>
static __device__ __forceinline__ fragment make_z(const fragment *g, const fragment &dy, const tiles &t,
                                                  const char *mats, const lane &z) {
    float d[2][4], zz[2][4];
    clear(d, 2);
    clear(zz, 2);
    mma<T>(d, dy, matrix_b_t(mats + MAT_QB * MAT, z));
    state_times<T>(d, g, t.b, z);
    const fragment x = matrix_b_t(mats + MAT_X * MAT, z), hi = rw_as_a<T>(d);
    mma<T>(zz, hi, x);
    mma<T>(zz, rest_of<T>(d, hi), x);
    return rw_as_a<T>(zz);
}
/* S <- (S + V^T Kh + U^T Bh) diag(tot) */
template <class T>
static __device__ __forceinline__ void advance(float (*s)[4], const fragment &v, const fragment &u, const tiles &t,
                                               const float *tot, const lane &z) {
    state_add<T>(s, v, t.k, z);
    state_add<T>(s, u, t.b, z);
    scale_columns(s, tot, z);
}
/* sums [16 i x 16 t] to rows t of a tensor; 32 bytes a row, whole sectors */
template <class T>
static __device__ __forceinline__ void store_transposed(T *out, int64_t stride, int valid, const float (*d)[4],
                                                        const lane &z) {
    const fragment f = rw_as_a<T>(d);
    const bool odd = z.c & 1;
    const int col = odd ? 6 + 2 * z.c : 2 * z.c;
#pragma unroll
    for (int h = 0; h < 2; h++) { /* channels 2c.. and 8+2c.. of step g + 8h */
        const uint32_t m = rw_transpose8(f.x[2 * h]), n = rw_transpose8(f.x[2 * h + 1]);
        const uint32_t got = __shfl_xor_sync(~0u, odd ? m : n, 1);
        if (z.g + 8 * h < valid)
            *reinterpret_cast<uint2 *>(out + (z.g + 8 * h) * stride + col) =
                odd ? make_uint2(got, n) : make_uint2(m, got);
    }
}

/* -- one head of one sequence --------------------------------------------------------------------------------- */

struct head_place {
    int64_t sequence, head, row, stride, first; /* first row; stride between rows, offset of the first one's channels */
    int length, blocks;
    template <class T> __device__ __forceinline__ head_place(const recurrence<T, T> &p, int64_t index) {
        sequence = index / p.H;
        head = index % p.H;
        row = rw_first_row(p.cu_seqlens, p.n_seq, p.R, sequence);
        length = (int)(rw_first_row(p.cu_seqlens, p.n_seq, p.R, sequence + 1) - row);
        blocks = (length + BLOCK - 1) / BLOCK;
        stride = p.H * N;
        first = row * stride + head * N;
    }
};
template <class T>
static __device__ __forceinline__ const float *initial_state(const recurrence<T, T> &p, const head_place &o) {
    return p.s0 ? p.s0 + o.sequence * p.s0_stride + o.head * N * N : nullptr;
}
static __device__ __forceinline__ const float *state_or_null(const float *m, int64_t index) {
    return m ? m + index * N * N : nullptr;
}
/* Of a block but the first: where S before it is kept. */
template <class T>
static __device__ __forceinline__ uint4 *kept_state(const recurrence<T, T> &p, const head_place &o, int block) {
    return static_cast<uint4 *>(p.states) + state_number(o.row + block * BLOCK, p.H, o.head) * (STATE_BYTES / 16);
}
static __device__ __forceinline__ tiles tiles_at(char *stage, int chunk) {
    char *p = stage + chunk * CHUNK_TILE;
    return tiles{p, p + TILE, p + 2 * TILE, p + 3 * TILE, p + 4 * TILE, p + 5 * TILE};
}
/* Starts copying the rows of one block into the tiles of a stage; rows from `valid` on become zeros. */
template <class T, int PASS>
static __device__ __forceinline__ void copy_inputs(char *stage, const recurrence<T, T> &p, int64_t at, int64_t stride,
                                                   int valid, const lane &z) {
#pragma unroll
    for (int x = 0; x < TILE / 16 / THREADS; x++) {
        const int row = (z.thread >> 3) + x * (THREADS / 8), piece = z.thread & 7;
        const bool there = row < valid;
        const uint32_t to = rw_shared_address(stage) + row * ROW + ((piece ^ swizzle(row)) << 4);
        const int64_t from = at + (there ? row : 0) * stride + piece * 8;
        rw_copy_async(to + TILE, p.w_raw + from, there);
        rw_copy_async(to, p.r + from, there);
        rw_copy_async(to + 3 * TILE, (PASS == MOVE_G ? p.dy : p.v) + from, there);
        rw_copy_async(to + 4 * TILE, p.a + from, there);
        rw_copy_async(to + 5 * TILE, p.b + from, there);
        if (PASS != MOVE_G) rw_copy_async(to + 2 * TILE, p.k + from, there);
        if (PASS == BACKWARD) rw_copy_async(to + 6 * TILE, p.dy + from, there);
    }
}

/* -- forward -------------------------------------------------------------------------------------------------- */

/* a block in shared memory: six tiles, the matrices of its two chunks, their tot */
constexpr int STAGE_MATS = 6 * TILE, STAGE_TOT = STAGE_MATS + 2 * MATS * MAT, STAGE = STAGE_TOT + 2 * N * 4;
constexpr int SCRATCH = 2 * CHUNK * CHUNK * 4; /* of the inverse, both chunks */

static __device__ __forceinline__ char *mats_of(char *stage, int chunk) {
    return stage + STAGE_MATS + chunk * MATS * MAT;
}
static __device__ __forceinline__ float *tot_of(char *stage, int chunk) {
    return reinterpret_cast<float *>(stage + STAGE_TOT) + chunk * N;
}
static __device__ __forceinline__ float *inverse_room(char *scratch, int chunk) {
    return reinterpret_cast<float *>(scratch) + chunk * CHUNK * CHUNK;
}

/* both chunks of one block: y and the next S. save: where S before it goes, or NULL. left: steps that there are. */
template <class T>
static __device__ __forceinline__ void forward_block(float (*s)[4], char *stage, uint4 *save, T *y, int64_t stride,
                                                     int left, const lane &z) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
        const tiles t = tiles_at(stage, c);
        const char *m = mats_of(stage, c);
        const fragment v = own_rows(t.v, z);
        fragment sf[4];
        float d[2][4];
        state_to_a<T>(sf, s);
        if (c == 0 && save) save_state(save, sf, z);
        if (from_middle<T>) {
            scale_columns(s, tot_of(stage, c), z);
            state_to_a<T>(sf, s);
        }
        const fragment u = make_u<T>(sf, v, t, m, z);
        clear(d, 2);
        state_times<T>(d, sf, t.r, z);
        mma<T>(d, v, matrix_b(m + MAT_QK * MAT, z));
        mma<T>(d, u, matrix_b(m + MAT_QB * MAT, z));
        advance<T>(s, v, u, t, tot_of(stage, c), z);
        store_transposed<T>(y + c * CHUNK * stride + 16 * z.warp, stride, left - c * CHUNK, d, z);
    }
}
template <class T>
static __device__ __forceinline__ void forward_block_of(const recurrence<T, T> &p, const head_place &o, int block,
                                                        float (*s)[4], char *stage, const lane &z) {
    forward_block<T>(s, stage, p.states && block > 0 ? kept_state(p, o, block) : nullptr,
                     p.y + o.first + (int64_t)block * BLOCK * o.stride, o.stride, o.length - block * BLOCK, z);
}

constexpr int FWD_SCRATCH = 2 * STAGE, FWD_SMEM = FWD_SCRATCH + SCRATCH;

/* grid n_seq H, THREADS threads, FWD_SMEM bytes: three blocks on a multiprocessor */
template <class T> __global__ void __launch_bounds__(THREADS, 3) forward(const recurrence<T, T> p) {
    extern __shared__ __align__(1024) char smem[];
    const lane z = this_lane();
    const head_place o(p, blockIdx.x);
    const int chunk = z.warp >> 1, half = z.warp & 1;
    float s[8][4];
    load_state(s, initial_state(p, o), z);
    if (o.blocks > 0) copy_inputs<T, FORWARD>(smem, p, o.first, o.stride, o.length, z);
    rw_copy_commit();
    for (int block = 0; block < o.blocks; block++) {
        const int left = o.length - block * BLOCK;
        const int64_t next = o.first + (int64_t)(block + 1) * BLOCK * o.stride;
        char *stage = smem + (block & 1) * STAGE;
        rw_copy_wait<0>();
        __syncthreads(); /* rows are here; the other stage is free */
        if (block + 1 < o.blocks)
            copy_inputs<T, FORWARD>(smem + (~block & 1) * STAGE, p, next, o.stride, left - BLOCK, z);
        rw_copy_commit();
        const tiles t = tiles_at(stage, chunk);
        make_operands<T, FORWARD>(t, tot_of(stage, chunk), p.w0 + o.head * N, left - chunk * CHUNK, z, half);
        rw_barrier(1 + chunk, 64); /* the operands of this chunk are there */
        triangles<T, FORWARD>(t, mats_of(stage, chunk), inverse_room(smem + FWD_SCRATCH, chunk), z, half);
        __syncthreads(); /* and the matrices, of both */
        forward_block_of<T>(p, o, block, s, stage, z);
    }
    if (p.s_out) store_state(p.s_out + (int64_t)blockIdx.x * N * N, s, false, z);
}

/* -- few heads: a pipeline inside the block ------------------------------------------------------------------
 * Team 0 (4 warps) only moves the state; teams 1 and 2 prepare every other block ahead of it, in a ring of stages. */
constexpr int STAGES = 6, MAKERS = 2, PIPE_THREADS = THREADS * (1 + MAKERS);
constexpr int PIPE_SIGNALS = STAGES * STAGE + MAKERS * SCRATCH, PIPE_SMEM = PIPE_SIGNALS + 2 * STAGES * 8;
enum { BAR_TEAM = 1, BAR_PAIR = BAR_TEAM + MAKERS }; /* named barriers inside a team */

/* Block n lies in stage n % STAGES. full: the team that made it has arrived; empty: team 0 has done with it. */
struct ring {
    char *stages;
    uint32_t full, empty;
    __device__ __forceinline__ ring(char *smem) : stages(smem) {
        full = rw_shared_address(smem + PIPE_SIGNALS);
        empty = full + STAGES * 8;
        if (threadIdx.x == 0)
            for (int i = 0; i < 2 * STAGES; i++) rw_signal_init(full + i * 8, THREADS);
        __syncthreads(); /* the signals are there */
    }
    __device__ __forceinline__ char *stage(int n) const { return stages + n % STAGES * STAGE; }
    __device__ __forceinline__ void wait_full(int n) const { rw_signal_wait(full + n % STAGES * 8, n / STAGES & 1); }
    __device__ __forceinline__ void set_full(int n) const { rw_signal_arrive(full + n % STAGES * 8); }
    __device__ __forceinline__ void wait_empty(int n) const {
        if (n >= STAGES) rw_signal_wait(empty + n % STAGES * 8, (n / STAGES - 1) & 1);
    }
    __device__ __forceinline__ void set_empty(int n) const { rw_signal_arrive(empty + n % STAGES * 8); }
};

/* Team `maker` prepares blocks first + step n, n = maker, maker + MAKERS, .. < count. */
template <class T, int PASS>
static __device__ __forceinline__ void make_blocks(const ring &ring, const recurrence<T, T> &p, const head_place &o,
                                                   int first, int step, int count, int maker, const lane &z) {
    const int chunk = z.warp >> 1, half = z.warp & 1;
    auto start = [&](int n) {
        const int t0 = (first + step * n) * BLOCK;
        copy_inputs<T, PASS>(ring.stage(n), p, o.first + (int64_t)t0 * o.stride, o.stride, o.length - t0, z);
    };
    if (maker < count) start(maker);
    rw_copy_commit();
    for (int n = maker; n < count; n += MAKERS) {
        if (n + MAKERS < count) {
            ring.wait_empty(n + MAKERS);
            start(n + MAKERS);
        }
        rw_copy_commit();
        rw_copy_wait<1>();
        rw_barrier(BAR_TEAM + maker, THREADS); /* the rows of this block are there */
        char *stage = ring.stage(n);
        const tiles t = tiles_at(stage, chunk);
        const int valid = o.length - (first + step * n) * BLOCK - chunk * CHUNK;
        make_operands<T, PASS>(t, tot_of(stage, chunk), p.w0 + o.head * N, valid, z, half);
        rw_barrier(BAR_PAIR + 2 * maker + chunk, 64); /* the operands of this chunk are there */
        triangles<T, PASS>(t, mats_of(stage, chunk),
                           inverse_room(ring.stages + STAGES * STAGE + maker * SCRATCH, chunk), z, half);
        ring.set_full(n);
    }
}

/* grid n_seq H, PIPE_THREADS threads, PIPE_SMEM bytes: the same results as forward() */
template <class T> __global__ void __launch_bounds__(PIPE_THREADS, 1) forward_ahead(const recurrence<T, T> p) {
    extern __shared__ __align__(1024) char smem[];
    const lane z = this_lane();
    const head_place o(p, blockIdx.x);
    const int team = threadIdx.x / THREADS;
    const ring ring(smem);
    if (team) {
        make_blocks<T, FORWARD>(ring, p, o, 0, 1, o.blocks, team - 1, z);
        return;
    }
    float s[8][4];
    load_state(s, initial_state(p, o), z);
    for (int n = 0; n < o.blocks; n++) {
        ring.wait_full(n);
        forward_block_of<T>(p, o, n, s, ring.stage(n), z);
        ring.set_empty(n);
    }
    if (p.s_out) store_state(p.s_out + (int64_t)blockIdx.x * N * N, s, false, z);
}

/* -- segments of time ----------------------------------------------------------------------------------------- */

/* Segments of a sequence are `blocks` blocks long, its last one at most. G at the end of all but the last, in fp32,
 * numbered like saved states. */
template <class T>
static __device__ __forceinline__ float *segment_end(const recurrence<T, T> &p, const head_place &o, int block,
                                                     int blocks) {
    const int64_t row = o.row + (int64_t)block * BLOCK; /* first one behind the segment */
    return p.room + ((row / ((int64_t)blocks * BLOCK) - 1) * p.H + o.head) * N * N;
}

/* First pass: only G moves. grid n_seq H, PIPE_THREADS threads, PIPE_SMEM bytes. */
template <class T>
__global__ void __launch_bounds__(PIPE_THREADS, 1) segment_ends(const recurrence<T, T> p, int segment_blocks) {
    extern __shared__ __align__(1024) char smem[];
    const lane z = this_lane();
    const head_place o(p, blockIdx.x);
    const int team = threadIdx.x / THREADS, count = o.blocks - segment_blocks; /* segment 0 needs no pass */
    const ring ring(smem);
    if (team) {
        make_blocks<T, MOVE_G>(ring, p, o, o.blocks - 1, -1, count, team - 1, z);
        return;
    }
    float g[8][4];
    load_state(g, state_or_null(p.ds_out, blockIdx.x), z);
    for (int n = 0; n < count; n++) {
        const int block = o.blocks - 1 - n;
        char *stage = ring.stage(n);
        ring.wait_full(n);
#pragma unroll
        for (int c = 1; c >= 0; c--) {
            const tiles t = tiles_at(stage, c);
            const fragment dy = own_rows(t.v, z);
            fragment gf[4];
            scale_columns(g, tot_of(stage, c), z);
            state_to_a<T>(gf, g);
            state_add<T>(g, dy, t.r, z);
            state_add<T>(g, make_z<T>(gf, dy, t, mats_of(stage, c), z), t.a, z);
            if (from_middle<T>) scale_columns(g, tot_of(stage, c), z);
        }
        ring.set_empty(n);
        if (block % segment_blocks == 0) store_state(segment_end(p, o, block, segment_blocks), g, false, z);
    }
}

/* -- backward ------------------------------------------------------------------------------------------------- */

/* Products of one chunk waiting for their elementwise part: fp32 pairs that take the place of 16 columns (block q) of a
 * state tile which the warp has read. which = 0, 1: two matrices [16 t x 64 j]; n, c: columns 16q + 8n + 2c, +1.
 * The bits are spread over the rows so that both the order of sums and whole rows are free of bank conflicts. */
static __device__ __forceinline__ int product_row(int which, int t, int n) {
    return ((t >> 2) & 1) | (t & 1) << 1 | n << 2 | ((t >> 1) & 1) << 3 | (t >> 3) << 4 | which << 5;
}
/* `lane` = product_lane of what depends on the lane; the rest, known to the compiler, in other bits of t, q and n */
static __device__ __forceinline__ uint32_t product_lane(int t, int q, int n, int c) {
    const int row = product_row(0, t, n);
    return row * ROW + (((2 * q + (c >> 1)) ^ swizzle(row)) << 4) + (c & 1) * 8;
}
static __device__ __forceinline__ uint32_t product_at(uint32_t lane, int which, int t, int q, int n) {
    const int row = product_row(which, t, n);
    return (lane ^ ((2 * q ^ swizzle(row)) << 4)) + row * ROW;
}
static __device__ __forceinline__ void store_product(char *tile, uint32_t lane, int which, int q, const float (*d)[4]) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            rw_store8_shared(rw_shared_address(tile) + product_at(lane, which, 8 * h, q, n), d[n][2 * h],
                             d[n][2 * h + 1]);
}
static __device__ __forceinline__ float2 product_of(const char *tile, uint32_t lane, int which, int x) {
    return *reinterpret_cast<const float2 *>(tile + product_at(lane, which, x, 0, 0));
}

/* what belongs to one chunk; u, zt: [i][t]; end: E of the formulas */
struct grads {
    const char *dy;
    char *s, *g, *u, *zt, *mats;
    float *tot, *end;
};

/* S of the chunk's start and U into tiles, for the gradients; S of the chunk's end if move */
template <class T>
static __device__ __forceinline__ void chain_s(float (*s)[4], const tiles &t, const grads &o, bool move,
                                               const lane &z) {
    const fragment v = own_rows(t.v, z);
    fragment sf[4];
    if (from_middle<T>) scale_columns(s, o.tot, z);
    state_to_a<T>(sf, s);
    state_to_tile(o.s, sf, z);
    const fragment u = make_u<T>(sf, v, t, o.mats, z);
    store_narrow(o.u + z.warp * MAT, u, z);
    if (move) advance<T>(s, v, u, t, o.tot, z);
}

/* G of the chunk's end -> G of its start; leaves Gt and Z in tiles, writes dv */
template <class T>
static __device__ __forceinline__ void chain_g(float (*g)[4], const tiles &t, const grads &o, T *dv, int64_t stride,
                                               int valid, const lane &z) {
    const fragment dy = own_rows(o.dy, z);
    fragment gf[4];
    float d[2][4];
    scale_columns(g, o.tot, z);
    state_to_a<T>(gf, g);
    state_to_tile(o.g, gf, z);
    state_add<T>(g, dy, t.r, z);
    const fragment zf = make_z<T>(gf, dy, t, o.mats, z);
    store_narrow(o.zt + z.warp * MAT, zf, z);
    state_add<T>(g, zf, t.a, z);
    if (from_middle<T>) scale_columns(g, o.tot, z);
    clear(d, 2);
    mma<T>(d, dy, matrix_b_t(o.mats + MAT_QK * MAT, z));
    state_times<T>(d, gf, t.k, z);
    mma<T>(d, zf, matrix_b_t(o.mats + MAT_AK * MAT, z));
    store_transposed<T>(dv, stride, valid, d, z);
}

struct masked {
    fragment ab, ak, qk, qb;
}; /* the four O matrices as A operands [t][s] */

template <class T>
static __device__ __forceinline__ masked masked_products(const tiles &t, const grads &o, const lane &z) {
    float ab[2][4], ak[2][4], qk[2][4], qb[2][4];
    clear(ab, 2);
    clear(ak, 2);
    clear(qk, 2);
    clear(qb, 2);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const fragment v = load_b(t.v, i, z), u = matrix_b_t(o.u + i * MAT, z);
        const fragment zz = matrix_a_t(o.zt + i * MAT, z), dy = load_a(o.dy, i, z);
        mma<T>(ab, zz, u);
        mma<T>(ak, zz, v);
        mma<T>(qk, dy, v);
        mma<T>(qb, dy, u);
    }
    lower(ab, 1, z);
    lower(ak, 1, z);
    lower(qk, 0, z);
    lower(qb, 0, z);
    return masked{rw_as_a<T>(ab), rw_as_a<T>(ak), rw_as_a<T>(qk), rw_as_a<T>(qb)};
}

/* sums [t][j] of a 16 x 16 tile as B operand [k = t][n = j] */
template <class T> static __device__ __forceinline__ fragment to_b(const float (*d)[4]) {
    const fragment f = rw_as_a<T>(d);
    return fragment{{rw_transpose8(f.x[0]), rw_transpose8(f.x[1]), rw_transpose8(f.x[2]), rw_transpose8(f.x[3])}};
}

/* pk, pb and E for 32 key columns of one chunk; pk and pb replace those columns of the tile of Gt */
template <class T>
static __device__ __forceinline__ void products_kb(const masked &m, const tiles &t, const grads &o, const lane &z,
                                                   int half) {
    const fragment abt = rw_transposed(m.ab), akt = rw_transposed(m.ak);
    const fragment qkt = rw_transposed(m.qk), qbt = rw_transposed(m.qb);
    const uint32_t lane = product_lane(z.g, 0, 0, z.c);
#pragma unroll 1
    for (int q = 2 * half; q < 2 * half + 2; q++) {
        float k[2][4], b[2][4], d[2][4];
        clear(k, 2);
        clear(b, 2);
        clear(d, 2);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const fragment g = load_b_t(o.g + i * CHUNK_TILE, q, z);
            mma<T>(k, load_a(t.v, i, z), g);
            mma<T>(b, matrix_a_t(o.u + i * MAT, z), g);
            mma<T>(d, load_a_t(o.s + i * CHUNK_TILE, q, z), g);
        }
        __syncwarp(); /* all lanes have read these columns of Gt */
        mma<T>(d, load_a_t(t.k, q, z), to_b<T>(k));
        mma<T>(d, load_a_t(t.b, q, z), to_b<T>(b));
        if (z.c == z.g >> 1) { /* the lanes that hold the diagonal */
            o.end[16 * q + z.g] = z.g & 1 ? d[0][1] : d[0][0];
            o.end[16 * q + 8 + z.g] = z.g & 1 ? d[1][3] : d[1][2];
        }
        const fragment at = load_b_t(t.a, q, z), rt = load_b_t(t.r, q, z);
        mma<T>(k, akt, at);
        mma<T>(k, qkt, rt);
        mma<T>(b, abt, at);
        mma<T>(b, qbt, rt);
        store_product(o.g, lane, 0, q, k);
        store_product(o.g, lane, 1, q, b);
    }
}
/* pr and pa for 32 key columns; they replace those columns of the tile of S */
template <class T>
static __device__ __forceinline__ void products_ra(const masked &m, const tiles &t, const grads &o, const lane &z,
                                                   int half) {
    const uint32_t lane = product_lane(z.g, 2 * half, 0, z.c);
    float r[4][4], a[4][4];
    clear(r, 4);
    clear(a, 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const fragment dy = load_a(o.dy, i, z), zz = matrix_a_t(o.zt + i * MAT, z);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const fragment s = load_b_t(o.s + i * CHUNK_TILE, 2 * half + n, z);
            mma<T>(r + 2 * n, dy, s);
            mma<T>(a + 2 * n, zz, s);
        }
    }
    __syncwarp(); /* all lanes have read these columns of S */
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int q = 2 * half + n;
        const fragment k = load_b_t(t.k, q, z), b = load_b_t(t.b, q, z);
        mma<T>(r + 2 * n, m.qk, k);
        mma<T>(r + 2 * n, m.qb, b);
        mma<T>(a + 2 * n, m.ak, k);
        mma<T>(a + 2 * n, m.ab, b);
        store_product(o.s, lane, 0, n, r + 2 * n);
        store_product(o.s, lane, 1, n, a + 2 * n);
    }
}

/* Steps of a lane, l_t in log2, and dl / dw_raw. */
struct lane_decays {
    float step[8][2], slope[8][2], c0, c1;
}; /* c0, c1: their sums */
template <class T>
static __device__ __forceinline__ lane_decays decays_of(const char *w_tile, const float *w0, const column &q,
                                                        int valid) {
    const float2 base = pair_of(w0 + 2 * q.word);
    lane_decays y;
    y.c0 = y.c1 = 0;
#pragma unroll
    for (int x = 0; x < 8; x++) {
        const uint32_t w = word_at(w_tile + q.at(x));
        const float on = 8 * q.top + x < valid ? RATE : 0.f;
        float e0, e1, s0, s1;
        sigmoid(rw_low<T>(w) + base.x, &e0, &s0);
        sigmoid(rw_high<T>(w) + base.y, &e1, &s1);
        y.step[x][0] = on * s0;
        y.step[x][1] = on * s1;
        y.slope[x][0] = -DECAY * s0 * (e0 * s0);
        y.slope[x][1] = -DECAY * s1 * (e1 * s1);
        y.c0 += y.step[x][0];
        y.c1 += y.step[x][1];
    }
    return y;
}

/* The warp stores its half rows of five gradients from the tiles, 16 bytes a lane. */
template <class T>
static __device__ __forceinline__ void store_gradients(const recurrence<T, T> &p, int64_t at, int64_t stride, int valid,
                                                       const tiles &t, const lane &z, int half) {
#pragma unroll
    for (int x = 0; x < 2; x++) {
        const int row = ((z.index >> 3) | (z.index & 4)) + 8 * x; /* rows t and t + 4 lie in different banks */
        const int piece = 4 * half + z.c;
        const uint32_t off = row * ROW + ((piece ^ swizzle(row)) << 4);
        const int64_t to = at + row * stride + piece * 8;
        if (row >= valid) continue;
        T *const out[] = {p.dr, p.da, p.dk, p.db, p.dw_raw};
        const char *const from[] = {t.r, t.a, t.k, t.b, t.w};
#pragma unroll
        for (int i = 0; i < 5; i++) rw_store16(out[i] + to, *reinterpret_cast<const uint4 *>(from[i] + off));
    }
}

/* Elementwise part: dr da dk db from the products, dw_raw by a suffix sum down the steps. Lanes as in make_operands().
 * The gradients take the places of Rt At Kh Bh and w_raw. */
template <class T>
static __device__ __forceinline__ void finish(const recurrence<T, T> &p, const float *w0, int64_t at, int64_t stride,
                                              int valid, const tiles &t, const grads &o, const lane &z, int half) {
    const column q(z, half);
    const uint32_t lane = product_lane(8 * q.top, 2 * half + ((z.index >> 3) & 1), (z.index >> 2) & 1, z.c);
    const lane_decays y = decays_of<T>(t.w, w0, q, valid);
    float c0 = y.c0, c1 = y.c1, sum0 = 0, sum1 = 0, dl[8][2];
    const float b0 = __shfl_xor_sync(~0u, c0, 16), b1 = __shfl_xor_sync(~0u, c1, 16);
    const float half0 = 0.5f * (c0 + b0), half1 = 0.5f * (c1 + b1);
    if (q.top) c0 += b0, c1 += b1; /* cum of the lane's last step */
    if (from_middle<T>) c0 -= half0, c1 -= half1;
    float e0 = rw_exp2_fast(c0), e1 = rw_exp2_fast(c1);
#pragma unroll
    for (int x = 7; x >= 0; x--) {
        const float2 pr = product_of(o.s, lane, 0, x), pa = product_of(o.s, lane, 1, x);
        const float2 pk = product_of(o.g, lane, 0, x), pb = product_of(o.g, lane, 1, x);
        const uint32_t off = q.at(x);
        const uint32_t r = word_at(t.r + off), a = word_at(t.a + off), k = word_at(t.k + off), b = word_at(t.b + off);
        const float i0 = rw_exp2_fast(-c0), i1 = rw_exp2_fast(-c1);
        c0 -= y.step[x][0];
        c1 -= y.step[x][1];
        const float f0 = rw_exp2_fast(c0), f1 = rw_exp2_fast(c1); /* e^{cum_{t-1}} */
        const float ap0 = rw_low<T>(a) * pa.x, ap1 = rw_high<T>(a) * pa.y;
        sum0 += rw_low<T>(r) * pr.x + ap0 - rw_low<T>(k) * pk.x - rw_low<T>(b) * pb.x;
        sum1 += rw_high<T>(r) * pr.y + ap1 - rw_high<T>(k) * pk.y - rw_high<T>(b) * pb.y;
        dl[x][0] = sum0 - ap0;
        dl[x][1] = sum1 - ap1;
        put_word(t.r + off, rw_pack2<T>(pr.x * e0, pr.y * e1));
        put_word(t.a + off, rw_pack2<T>(pa.x * f0, pa.y * f1));
        put_word(t.k + off, rw_pack2<T>(pk.x * i0, pk.y * i1));
        put_word(t.b + off, rw_pack2<T>(pb.x * i0, pb.y * i1));
        e0 = f0;
        e1 = f1;
    }
    float2 end = pair_of(o.end + 2 * q.word);
    const float u0 = __shfl_xor_sync(~0u, sum0, 16), u1 = __shfl_xor_sync(~0u, sum1, 16);
    if (!q.top) end.x += u0, end.y += u1; /* the lower 8 steps add the upper ones */
#pragma unroll
    for (int x = 0; x < 8; x++)
        put_word(t.w + q.at(x), rw_pack2<T>((dl[x][0] + end.x) * y.slope[x][0], (dl[x][1] + end.y) * y.slope[x][1]));
    __syncwarp(); /* the warp's half rows are there */
    store_gradients<T>(p, at, stride, valid, t, z, half);
}

constexpr int BWD_DY = 6 * TILE, BWD_S = 7 * TILE, BWD_G = BWD_S + 2 * STATE_TILE, BWD_U = BWD_G + 2 * STATE_TILE;
constexpr int BWD_Z = BWD_U + 2 * TALL, BWD_MATS = BWD_Z + 2 * TALL, BWD_TOT = BWD_MATS + 2 * MATS * MAT;
constexpr int BWD_END = BWD_TOT + 2 * N * 4, BWD_SMEM = BWD_END + 2 * N * 4;
constexpr int BWD_SCRATCH = BWD_G; /* of the inverse: before G is there */

static __device__ __forceinline__ grads grads_at(char *smem, int c) {
    return grads{smem + BWD_DY + c * CHUNK_TILE,
                 smem + BWD_S + c * STATE_TILE,
                 smem + BWD_G + c * STATE_TILE,
                 smem + BWD_U + c * TALL,
                 smem + BWD_Z + c * TALL,
                 smem + BWD_MATS + c * MATS * MAT,
                 reinterpret_cast<float *>(smem + BWD_TOT) + c * N,
                 reinterpret_cast<float *>(smem + BWD_END) + c * N};
}

/* One block of 32 steps; g: G of its end, then of its start. z is made anew, here and again for the gradients: offsets
 * kept over the loop would cost registers, and spills cost 20 %. */
template <class T>
static __device__ __forceinline__ void backward_block(const recurrence<T, T> &p, const head_place &o, int block,
                                                      float (*g)[4], char *smem) {
    const int64_t at = o.first + (int64_t)block * BLOCK * o.stride;
    const int left = o.length - block * BLOCK;
    const float *w0 = p.w0 + o.head * N;
    {
        const lane z = this_lane();
        const int chunk = z.warp >> 1, half = z.warp & 1; /* of operands, triangles and gradients */
        float s[8][4];
        if (block > 0)
            restore_state<T>(s, kept_state(p, o, block), z);
        else
            load_state(s, initial_state(p, o), z);
        __syncthreads(); /* the block before is done with the tiles */
        copy_inputs<T, BACKWARD>(smem, p, at, o.stride, left, z);
        rw_copy_commit();
        rw_copy_wait<0>();
        __syncthreads(); /* the rows are there, so gradients may be written over them */
        const tiles t = tiles_at(smem, chunk);
        make_operands<T, FORWARD>(t, grads_at(smem, chunk).tot, w0, left - chunk * CHUNK, z, half);
        rw_barrier(1 + chunk, 64); /* the operands of this chunk are there */
        triangles<T, FORWARD>(t, grads_at(smem, chunk).mats, inverse_room(smem + BWD_SCRATCH, chunk), z, half);
        __syncthreads(); /* and the matrices, of both */
#pragma unroll 1
        for (int c = 0; c < 2; c++) chain_s<T>(s, tiles_at(smem, c), grads_at(smem, c), c == 0, z);
#pragma unroll 1
        for (int c = 1; c >= 0; c--)
            chain_g<T>(g, tiles_at(smem, c), grads_at(smem, c), p.dv + at + c * CHUNK * o.stride + 16 * z.warp,
                       o.stride, left - c * CHUNK, z);
        __syncthreads(); /* S, G, U and Z of all value rows are there */
    }
    const lane z = this_lane();
    const int chunk = z.warp >> 1, half = z.warp & 1;
    const tiles t = tiles_at(smem, chunk);
    const grads w = grads_at(smem, chunk);
    const masked m = masked_products<T>(t, w, z);
    products_kb<T>(m, t, w, z, half);
    products_ra<T>(m, t, w, z, half);
    __syncwarp(); /* products and E of the warp's columns are there */
    finish<T>(p, w0, at + chunk * CHUNK * o.stride, o.stride, left - chunk * CHUNK, t, w, z, half);
}

/* grid n_seq H segments, THREADS threads, BWD_SMEM bytes. segments: of the longest sequence that may be. */
template <class T>
__global__ void __launch_bounds__(THREADS, 3) backward(const recurrence<T, T> p, int segments, int segment_blocks) {
    extern __shared__ __align__(1024) char smem[];
    const int64_t index = blockIdx.x / segments;
    const head_place o(p, index);
    const int begin = (int)(blockIdx.x % segments) * segment_blocks;
    const bool last = o.blocks - begin <= segment_blocks;
    const int end = last ? o.blocks : begin + segment_blocks;
    if (begin > 0 && begin >= o.blocks) return; /* a shorter sequence */
    float g[8][4];
    load_state(g, last ? state_or_null(p.ds_out, index) : segment_end(p, o, end, segment_blocks), this_lane());
    for (int block = end - 1; block >= begin; block--) backward_block<T>(p, o, block, g, smem);
    if (p.ds0 && begin == 0) store_state(p.ds0 + o.sequence * p.ds0_stride + o.head * N * N, g, p.ds0_add, this_lane());
}

} // namespace chunks
} // namespace wkv7

#endif
