/* Matrix products (kernels/matmul.h): few rows by a kernel of our own, which reads each weight once (gemv.cu), the
 * others by cuBLASLt (blas.cu) with a pass over the result for the epilogue. */
#include "kernels/cuda/blas.cuh"
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/pointwise.cuh"

namespace {

enum { FEW_ROWS = 8, MOST_GRID_Y = 65535 };

/* -- what comes behind a product, and the empty product ---------------------------------------------------------- */

struct pass {
    const void *from; /* the product: out itself, c of an empty one, or NULL: zeros */
    void *out;
    const void *act;
    int64_t M, N, batch, ldf, ldo, stride_f, stride_o;
    rw_epilogue f;
    bool aligned;
};

/* A row of the grid takes every gridDim.y-th row, its threads the packs of it. from may be out: no __restrict__. */
template <class O, class T> __global__ void finish(pass p) {
    for (int64_t row = blockIdx.y; row < p.M * p.batch; row += gridDim.y) {
        const int64_t i = row / p.M, m = row - i * p.M, at = i * p.stride_o + m * p.ldo;
        const O *from = p.from ? static_cast<const O *>(p.from) + i * p.stride_f + m * p.ldf : nullptr;
        const T *act = p.act ? static_cast<const T *>(p.act) + at : nullptr;
        O *out = static_cast<O *>(p.out) + at;
        rw_over<rw_pack_of<T>>(p.N, p.aligned, [=](int64_t n, auto width) {
            constexpr int W = width.value;
            float x[W] = {}, y[W] = {};
            if (from) rw_load(from + n, x);
            if (act) rw_load(act + n, y);
#pragma unroll
            for (int j = 0; j < W; j++) x[j] = rw_epilogue_of(p.f, x[j], y[j]);
            rw_store(out + n, x);
        });
    }
}

/* Rows without gaps are one long row. */
void join_rows(pass *p) {
    const bool tight = p->ldo == p->N && (p->ldf == p->N || !p->from);
    const bool joined = p->stride_o == p->M * p->N && (p->stride_f == p->stride_o || !p->from);
    if (!tight || (p->batch > 1 && !joined)) return;
    p->N *= p->M * p->batch;
    p->M = p->batch = 1;
}

void run_pass(rw_cuda_state *s, const rw_matmul_args *a, const void *from, int64_t ldf, int64_t stride_f) {
    pass p = {from, a->out, nullptr, a->M, a->N, a->batch, ldf, a->ldo, stride_f, a->stride_o, a->epilogue, false};
    if (rw_epilogue_reads_act(a->epilogue)) p.act = a->act;
    join_rows(&p);
    const int64_t pack = 16 / rw_dtype_bytes(a->dtype), rows = p.M * p.batch;
    p.aligned = rw_aligned({from, a->out, p.act}) &&
                (rows == 1 || (p.ldo % pack == 0 && p.stride_o % pack == 0 && ldf % pack == 0 && stride_f % pack == 0));
    const dim3 grid((unsigned)rw_cuda_blocks(s, p.N / pack), (unsigned)(rows < MOST_GRID_Y ? rows : MOST_GRID_Y));
    RW_CUDA_NARROW(s, "matmul", a->dtype, T,
                   if (a->out_dtype == a->dtype) finish<T, T><<<grid, RW_CUDA_THREADS, 0, s->stream>>>(p);
                   else finish<float, T><<<grid, RW_CUDA_THREADS, 0, s->stream>>>(p));
    rw_cuda_launched(s, "matmul");
}

/* -- all of it ------------------------------------------------------------------------------------------------ */

/* With what 0 stands for written out. */
rw_matmul_args complete(const rw_matmul_args *p) {
    rw_matmul_args q = *p;
    if (!q.out_dtype) q.out_dtype = q.dtype;
    if (!q.batch) q.batch = 1;
    if (q.alpha == 0) q.alpha = 1;
    if (!q.lda) q.lda = q.trans_a ? q.M : q.K;
    if (!q.ldb) q.ldb = q.trans_b ? q.K : q.N;
    if (!q.ldc) q.ldc = q.N;
    if (!q.ldo) q.ldo = q.N;
    if (q.batch == 1) q.stride_a = q.stride_b = q.stride_c = q.stride_o = 0;
    return q;
}

const char *what_is_wrong(const rw_matmul_args *p) {
    if (p->dtype != RW_F32 && p->dtype != RW_BF16 && p->dtype != RW_F16) return "no such number type on a GPU";
    if (p->out_dtype != p->dtype && p->out_dtype != RW_F32) return "the result has another number type";
    if (p->lda < (p->trans_a ? p->M : p->K) || p->ldb < (p->trans_b ? p->K : p->N) || p->ldo < p->N ||
        (p->c && p->ldc < p->N))
        return "a pitch is shorter than a row";
    if (rw_epilogue_reads_act(p->epilogue) && (!p->act || p->c)) return "a slope needs act, and takes no c";
    return nullptr;
}

} // namespace

void rw_cuda_matmul(const rw_matmul_args *a, const rw_exec *ex) {
    rw_cuda_state *s = rw_cuda_of(ex);
    const rw_matmul_args p = complete(a);
    const char *wrong = what_is_wrong(&p);
    if (wrong) return rw_cuda_note(s, "matmul", wrong);
    if (p.M == 0 || p.N == 0) return;
    if (p.K == 0) {
        if (p.c != p.out || p.epilogue != RW_EPILOGUE_NONE) run_pass(s, &p, p.c, p.ldc, p.stride_c);
        return;
    }
    const bool few = p.M <= FEW_ROWS && !p.trans_a;
    if (few || !rw_cuda_lt_product(s, &p)) return rw_cuda_few_rows(s, &p);
    if (p.epilogue != RW_EPILOGUE_NONE) run_pass(s, &p, p.out, p.ldo, p.stride_o);
}
