/* The table of plans: for each shape the descriptors of cuBLASLt and the algorithm, found by a hash of the shape. The
 * algorithm is the one that a saved list names (rw_cuda_preset_products); else the first one that the library's
 * heuristic names, untimed, so two runs have the same; or, where the device was opened so, the fastest of the
 * heuristic's first eight. Sums over K that are cut into parts are added in a second pass of fixed order
 * (CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, in float); one stream, one workspace: the same call gives the same bits.
 *
 * cuBLASLt stores by columns: a row-major [M,N] is its [N,M], so operands change places and nothing is transposed. */
#include "kernels/cuda/blas.cuh"

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "kernels/rounding.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

enum { B, A, C, OUT, LAYOUTS }; /* in the order in which cuBLASLt takes them */
enum { FIRST_PLANS = 256, SLOTS_PER_PLAN = 4, MOST_CANDIDATES = 8 };

struct plan {
    rw_product_key key;
    bool usable;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t layouts[LAYOUTS];
    cublasLtMatmulAlgo_t algo;
};

struct preset {
    rw_product_key key;
    cublasLtMatmulAlgo_t algo;
};

} // namespace

struct rw_cuda_blas {
    const rw_lt *lt;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    size_t workspace_bytes;
    plan *plans; /* in the order of their first use */
    size_t n_plans, most_plans;
    int32_t *slots; /* by hash: number of a plan + 1, 0: free; most_plans * SLOTS_PER_PLAN of them */
    preset *presets;
    size_t n_presets, most_presets;
    int rank; /* of the algorithm that untimed choices take; 0 but for tests */
};

namespace {

/* -- shapes ------------------------------------------------------------------------------------------------ */

/* Of all problems of a batch. */
int32_t alignment(const void *p, int64_t stride, int32_t dtype) {
    const uintptr_t bits = reinterpret_cast<uintptr_t>(p) | (uintptr_t)(stride * rw_dtype_bytes((rw_dtype)dtype)) | 16;
    return (int32_t)(bits & (~bits + 1));
}

rw_product_key key_of(const rw_matmul_args *p) {
    rw_product_key k = {};
    k.dtype = p->dtype, k.out_dtype = p->out_dtype;
    k.trans = (p->trans_a ? 1 : 0) | (p->trans_b ? 2 : 0);
    k.M = p->M, k.N = p->N, k.K = p->K;
    k.lda = p->lda, k.ldb = p->ldb, k.ldc = p->c ? p->ldc : p->ldo, k.ldo = p->ldo;
    k.batch = p->batch;
    k.stride_a = p->stride_a, k.stride_b = p->stride_b, k.stride_c = p->c ? p->stride_c : p->stride_o;
    k.stride_o = p->stride_o;
    k.align = alignment(p->a, k.stride_a, k.dtype) | alignment(p->b, k.stride_b, k.dtype) << 8 |
              alignment(p->c ? p->c : p->out, k.stride_c, k.out_dtype) << 16 |
              alignment(p->out, k.stride_o, k.out_dtype) << 24;
    return k;
}

bool same(const rw_product_key &a, const rw_product_key &b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

uint64_t hash_of(const rw_product_key &k) {
    uint64_t words[sizeof k / sizeof(uint64_t)], h = 0;
    memcpy(words, &k, sizeof k);
    for (uint64_t w : words) h = rw_mix64(h + w + 1);
    return h;
}

/* -- plans --------------------------------------------------------------------------------------------------- */

cudaDataType_t type_of(int32_t dtype) {
    return dtype == RW_F32 ? CUDA_R_32F : dtype == RW_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* Without tf32 products of fp32 are those of fp32: CUBLAS_COMPUTE_32F does not round the factors. */
cublasComputeType_t compute_of(const rw_cuda_state *s, const rw_product_key &k) {
    return k.dtype == RW_F32 && s->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

/* A row-major [rows, columns]. */
cublasStatus_t make_layout(const rw_lt *lt, cublasLtMatrixLayout_t *out, int32_t dtype, int64_t rows, int64_t columns,
                           int64_t pitch, int64_t batch, int64_t stride) {
    const int32_t n = (int32_t)batch;
    cublasStatus_t e = lt->MatrixLayoutCreate(out, type_of(dtype), (uint64_t)columns, (uint64_t)rows, pitch);
    if (e != CUBLAS_STATUS_SUCCESS || batch == 1) return e;
    e = lt->MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    return lt->MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
}

cublasStatus_t describe(const rw_cuda_state *s, plan *p) {
    const rw_lt *lt = s->blas->lt;
    const rw_product_key &k = p->key;
    const bool ta = k.trans & 1, tb = k.trans & 2;
    const cublasOperation_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatrixLayout_t *l = p->layouts;
    cublasStatus_t e = lt->MatmulDescCreate(&p->op, compute_of(s, k), CUDA_R_32F);
    auto then = [&](auto call) {
        if (e == CUBLAS_STATUS_SUCCESS) e = call();
    };
    then([&] { return lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &op_b, sizeof op_b); });
    then([&] { return lt->MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &op_a, sizeof op_a); });
    then([&] { return make_layout(lt, &l[B], k.dtype, tb ? k.N : k.K, tb ? k.K : k.N, k.ldb, k.batch, k.stride_b); });
    then([&] { return make_layout(lt, &l[A], k.dtype, ta ? k.K : k.M, ta ? k.M : k.K, k.lda, k.batch, k.stride_a); });
    then([&] { return make_layout(lt, &l[C], k.out_dtype, k.M, k.N, k.ldc, k.batch, k.stride_c); });
    then([&] { return make_layout(lt, &l[OUT], k.out_dtype, k.M, k.N, k.ldo, k.batch, k.stride_o); });
    return e;
}

cublasStatus_t set_alignment(rw_cuda_blas *b, const rw_product_key &k) {
    static const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        int shift; /* in key.align */
    } operands[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 8},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 0},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 16},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 24}};
    for (const auto &o : operands) {
        const uint32_t bytes = (uint32_t)k.align >> o.shift & 0xff;
        const cublasStatus_t e = b->lt->MatmulPreferenceSetAttribute(b->preference, o.attribute, &bytes, sizeof bytes);
        if (e != CUBLAS_STATUS_SUCCESS) return e;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* Up to `most` algorithms that can make the product, the best guess first. */
cublasStatus_t find_candidates(rw_cuda_blas *b, const plan *p, cublasLtMatmulAlgo_t *out, int most, int *n) {
    cublasLtMatmulHeuristicResult_t found[MOST_CANDIDATES] = {};
    int n_found = 0;
    const cublasLtMatrixLayout_t *l = p->layouts;
    cublasStatus_t e = set_alignment(b, p->key);
    if (e == CUBLAS_STATUS_SUCCESS)
        e = b->lt->MatmulAlgoGetHeuristic(b->handle, p->op, l[B], l[A], l[C], l[OUT], b->preference, most, found,
                                          &n_found);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    *n = 0;
    for (int i = 0; i < n_found; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS) out[(*n)++] = found[i].algo;
    return *n > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t launch(rw_cuda_state *s, const plan *p, const cublasLtMatmulAlgo_t *algo, const rw_matmul_args *a) {
    rw_cuda_blas *b = s->blas;
    const float alpha = (float)a->alpha, beta = a->c ? 1.0f : 0.0f;
    const cublasLtMatrixLayout_t *l = p->layouts;
    return b->lt->Matmul(b->handle, p->op, &alpha, a->b, l[B], a->a, l[A], &beta, a->c ? a->c : a->out, l[C], a->out,
                         l[OUT], algo, b->workspace, b->workspace_bytes, s->stream);
}

/* -- the fastest of some ------------------------------------------------------------------------------------- */

enum { ROUNDS = 3, LAUNCHES = 6 };
/* Less than this is noise: then the heuristic's order stands. */
const float least_gain = 0.02f;

int64_t out_bytes(const rw_matmul_args *a) {
    return ((a->batch - 1) * a->stride_o + (a->M - 1) * a->ldo + a->N) * rw_dtype_bytes(a->out_dtype);
}

/* Milliseconds of some launches, the fastest of some rounds; < 0: it does not run. */
float time_of(rw_cuda_state *s, const plan *p, const cublasLtMatmulAlgo_t *algo, const rw_matmul_args *a,
              const cudaEvent_t events[2]) {
    float best = -1, now;
    if (launch(s, p, algo, a) != CUBLAS_STATUS_SUCCESS) return -1; /* its kernel is loaded */
    for (int i = 0; i < ROUNDS; i++) {
        if (cudaEventRecord(events[0], s->stream) != cudaSuccess) return -1;
        for (int k = 0; k < LAUNCHES; k++)
            if (launch(s, p, algo, a) != CUBLAS_STATUS_SUCCESS) return -1;
        if (cudaEventRecord(events[1], s->stream) != cudaSuccess || cudaEventSynchronize(events[1]) != cudaSuccess ||
            cudaEventElapsedTime(&now, events[0], events[1]) != cudaSuccess)
            return -1;
        if (best < 0 || now < best) best = now;
    }
    return best;
}

int fastest_of(rw_cuda_state *s, const plan *p, const cublasLtMatmulAlgo_t *algos, int n, const rw_matmul_args *a) {
    cudaEvent_t events[2] = {};
    int best = 0;
    float best_time = -1;
    const bool ready = cudaEventCreate(&events[0]) == cudaSuccess && cudaEventCreate(&events[1]) == cudaSuccess;
    for (int i = 0; ready && i < n; i++) {
        const float t = time_of(s, p, &algos[i], a, events);
        if (t < 0 || (best_time >= 0 && t >= best_time * (1 - least_gain))) continue;
        best = i, best_time = t;
    }
    for (cudaEvent_t e : events)
        if (e) cudaEventDestroy(e);
    return best;
}

/* Into memory of its own: what is in `out` may be a summand, and the caller's call is still to come. Without that
 * memory, and where work is being recorded, the order stands. */
int choose_by_time(rw_cuda_state *s, const plan *p, const cublasLtMatmulAlgo_t *algos, int n, const rw_matmul_args *a) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    void *out = nullptr;
    int best = 0;
    const size_t n_bytes = (size_t)out_bytes(a);
    cudaStreamIsCapturing(s->stream, &capture);
    if (n == 1 || capture != cudaStreamCaptureStatusNone) return 0;
    if (cudaMalloc(&out, n_bytes) == cudaSuccess && cudaMemsetAsync(out, 0, n_bytes, s->stream) == cudaSuccess) {
        rw_matmul_args trial = *a;
        trial.out = out;
        if (a->c == a->out) trial.c = out;
        best = fastest_of(s, p, algos, n, &trial);
    }
    if (out) cudaFree(out);
    cudaGetLastError(); /* what did not run was not chosen */
    return best;
}

cublasStatus_t choose(rw_cuda_state *s, plan *p, const rw_matmul_args *a) {
    rw_cuda_blas *b = s->blas;
    cublasLtMatmulAlgo_t algos[MOST_CANDIDATES];
    int n = 0;
    const cublasStatus_t e = find_candidates(b, p, algos, s->timed ? (int)MOST_CANDIDATES : b->rank + 1, &n);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    p->algo = algos[s->timed ? choose_by_time(s, p, algos, n, a) : n - 1];
    return CUBLAS_STATUS_SUCCESS;
}

/* -- plans, made --------------------------------------------------------------------------------------------- */

/* Did a saved list name the algorithm, and does it run here? */
bool take_preset(rw_cuda_blas *b, plan *p) {
    for (size_t i = 0; i < b->n_presets; i++) {
        if (!same(b->presets[i].key, p->key)) continue;
        cublasLtMatmulHeuristicResult_t result = {};
        cublasLtMatrixLayout_t *l = p->layouts;
        const cublasStatus_t e =
            b->lt->MatmulAlgoCheck(b->handle, p->op, l[B], l[A], l[C], l[OUT], &b->presets[i].algo, &result);
        if (e == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= b->workspace_bytes) {
            p->algo = b->presets[i].algo;
            return true;
        }
        rw_warn("the saved algorithm for the product %lldx%lldx%lld cannot be used here, another takes its place: "
                "results may differ in their last bits",
                (long long)p->key.M, (long long)p->key.N, (long long)p->key.K);
        return false;
    }
    return false;
}

void forget_plan(const rw_lt *lt, plan *p) {
    if (p->op) lt->MatmulDescDestroy(p->op);
    for (cublasLtMatrixLayout_t l : p->layouts)
        if (l) lt->MatrixLayoutDestroy(l);
}

void complete(rw_cuda_state *s, plan *p, const rw_matmul_args *a) {
    rw_cuda_blas *b = s->blas;
    cublasStatus_t e = describe(s, p);
    if (e == CUBLAS_STATUS_SUCCESS && !take_preset(b, p)) e = choose(s, p, a);
    p->usable = e == CUBLAS_STATUS_SUCCESS;
    if (p->usable) return;
    const rw_product_key &k = p->key;
    rw_warn("cuBLASLt has no algorithm for the product %lldx%lldx%lld (%s): a slow one of this program takes its place",
            (long long)k.M, (long long)k.N, (long long)k.K, b->lt->GetStatusString(e));
}

/* -- the table ----------------------------------------------------------------------------------------------- */

/* The slot where the key's plan is, or should be. */
int32_t *slot_of(const rw_cuda_blas *b, const rw_product_key &k) {
    const size_t n = b->most_plans * SLOTS_PER_PLAN;
    size_t i = (size_t)hash_of(k) % n;
    while (b->slots[i] && !same(b->plans[b->slots[i] - 1].key, k)) i = (i + 1) % n;
    return &b->slots[i];
}

bool grow(rw_cuda_blas *b) {
    const size_t most = b->most_plans ? 2 * b->most_plans : (size_t)FIRST_PLANS;
    plan *plans = static_cast<plan *>(rw_realloc(b->plans, most * sizeof *plans));
    if (!plans) return false;
    b->plans = plans;
    int32_t *slots = static_cast<int32_t *>(rw_alloc_array(most * SLOTS_PER_PLAN, sizeof *slots));
    if (!slots) return false;
    rw_free(b->slots);
    b->slots = slots;
    b->most_plans = most;
    for (size_t i = 0; i < b->n_plans; i++) *slot_of(b, b->plans[i].key) = (int32_t)i + 1;
    return true;
}

/* NULL: no memory. */
const plan *plan_of(rw_cuda_state *s, const rw_matmul_args *a) {
    rw_cuda_blas *b = s->blas;
    const rw_product_key k = key_of(a);
    int32_t *slot = slot_of(b, k);
    if (*slot) return &b->plans[*slot - 1];
    if (b->n_plans == b->most_plans) {
        if (!grow(b)) return nullptr;
        slot = slot_of(b, k);
    }
    plan *p = &b->plans[b->n_plans++];
    *slot = (int32_t)b->n_plans;
    *p = {};
    p->key = k;
    complete(s, p, a);
    return p;
}

/* -- the list as text ---------------------------------------------------------------------------------------- */

/* Of the words only the algorithm is restored: cublasLtMatmulAlgo_t may be kept and used again with the same version
 * of the library (its header says so). The numbers before them are for people. */
enum { WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t) };
static_assert(sizeof(cublasLtMatmulAlgo_t) == 8 * sizeof(unsigned long long), "eight words");

template <class T>
int64_t config(const rw_lt *lt, const cublasLtMatmulAlgo_t &algo, cublasLtMatmulAlgoConfigAttributes_t attribute) {
    T x = 0;
    size_t n = 0;
    lt->MatmulAlgoConfigGetAttribute(&algo, attribute, &x, sizeof x, &n);
    return (int64_t)x;
}

void put_key(rw_str *out, const rw_product_key &k) {
    rw_str_appendf(out, "%s %s %c%c %lldx%lldx%lld", rw_dtype_name((rw_dtype)k.dtype),
                   rw_dtype_name((rw_dtype)k.out_dtype), k.trans & 1 ? 't' : 'n', k.trans & 2 ? 't' : 'n',
                   (long long)k.M, (long long)k.N, (long long)k.K);
    rw_str_appendf(out, " pitch %lld %lld %lld %lld batch %lld stride %lld %lld %lld %lld align %x", (long long)k.lda,
                   (long long)k.ldb, (long long)k.ldc, (long long)k.ldo, (long long)k.batch, (long long)k.stride_a,
                   (long long)k.stride_b, (long long)k.stride_c, (long long)k.stride_o, (unsigned)k.align);
}

void put_algorithm(rw_str *out, const rw_lt *lt, const cublasLtMatmulAlgo_t &algo) {
    static_assert(sizeof algo.data == sizeof algo, "nothing else in it");
    rw_str_appendf(out, " : algo %lld tile %lld stages %lld splitk %lld reduction %lld swizzle %lld cluster %lld words",
                   (long long)config<int32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_ID),
                   (long long)config<uint32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_TILE_ID),
                   (long long)config<uint32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                   (long long)config<int32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                   (long long)config<uint32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
                   (long long)config<uint32_t>(lt, algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING),
                   (long long)config<uint16_t>(lt, algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID));
    for (uint64_t w : algo.data) rw_str_appendf(out, " %llx", (unsigned long long)w);
    rw_str_append(out, "\n");
}

/* Reads what put_key wrote; returns what follows it, or NULL. */
const char *take_key(const char *line, rw_product_key *k) {
    char dtype[8], out_dtype[8], ta, tb;
    long long m, n, kk, pitch[4], batch, stride[4];
    unsigned align;
    int end = -1;
    sscanf(line,
           "%7s %7s %c%c %lldx%lldx%lld pitch %lld %lld %lld %lld batch %lld stride %lld %lld %lld %lld align %x : %n",
           dtype, out_dtype, &ta, &tb, &m, &n, &kk, &pitch[0], &pitch[1], &pitch[2], &pitch[3], &batch, &stride[0],
           &stride[1], &stride[2], &stride[3], &align, &end);
    if (end < 0) return nullptr;
    *k = {};
    k->dtype = rw_dtype_from_name(dtype), k->out_dtype = rw_dtype_from_name(out_dtype);
    k->trans = (ta == 't' ? 1 : 0) | (tb == 't' ? 2 : 0), k->align = (int32_t)align;
    k->M = m, k->N = n, k->K = kk, k->batch = batch;
    k->lda = pitch[0], k->ldb = pitch[1], k->ldc = pitch[2], k->ldo = pitch[3];
    k->stride_a = stride[0], k->stride_b = stride[1], k->stride_c = stride[2], k->stride_o = stride[3];
    return line + end;
}

bool take_preset_line(const char *line, preset *p) {
    unsigned long long w[WORDS];
    int used = -1;
    const char *at = take_key(line, &p->key), *end = line + strcspn(line, "\n");
    at = at ? strstr(at, " words ") : nullptr;
    if (!at) return false;
    sscanf(at, " words %llx %llx %llx %llx %llx %llx %llx %llx%n", &w[0], &w[1], &w[2], &w[3], &w[4], &w[5], &w[6],
           &w[7], &used);
    if (used < 0 || at + used > end) return false; /* cut short: the rest came from the next line */
    for (int i = 0; i < WORDS; i++) p->algo.data[i] = w[i];
    return true;
}

/* line: the end of the one before. */
rw_status take_preset_lines(rw_cuda_blas *b, const char *line, rw_error *err) {
    rw_where nowhere = {};
    for (; line && line[1]; line = strchr(line + 1, '\n')) {
        if (!rw_grow(reinterpret_cast<void **>(&b->presets), &b->most_presets, b->n_presets + 1, sizeof *b->presets))
            return rw_fail_memory(err, sizeof *b->presets);
        if (!take_preset_line(line + 1, &b->presets[b->n_presets]))
            return rw_fail(err, RW_E_FORMAT, nowhere, "cuda: this is no list of products");
        b->n_presets++;
    }
    return RW_OK;
}

rw_cuda_state *state_of(rw_device *d) {
    return static_cast<rw_cuda_state *>(d->exec.impl);
}

} // namespace

char *rw_cuda_products(rw_device *d) {
    const rw_cuda_state *s = state_of(d);
    const rw_cuda_blas *b = s->blas;
    rw_str out = {};
    rw_str_appendf(&out, "cublaslt %d capability %d multiprocessors %d\n", b->lt->version, s->capability, s->n_sm);
    for (size_t i = 0; i < b->n_plans; i++) {
        if (!b->plans[i].usable) continue;
        put_key(&out, b->plans[i].key);
        put_algorithm(&out, b->lt, b->plans[i].algo);
    }
    for (size_t i = 0; i < b->n_presets; i++) { /* not met in this process, but perhaps in the next one */
        if (*slot_of(b, b->presets[i].key)) continue;
        put_key(&out, b->presets[i].key);
        put_algorithm(&out, b->lt, b->presets[i].algo);
    }
    if (out.failed) rw_str_done(&out);
    return out.data;
}

rw_status rw_cuda_preset_products(rw_device *d, const char *text, rw_error *err) {
    const rw_cuda_state *s = state_of(d);
    rw_cuda_blas *b = s->blas;
    rw_where nowhere = {};
    int version = 0, capability = 0, n_sm = 0;
    if (sscanf(text, "cublaslt %d capability %d multiprocessors %d", &version, &capability, &n_sm) != 3)
        return rw_fail(err, RW_E_FORMAT, nowhere, "cuda: this is no list of products");
    if (version != b->lt->version || capability != s->capability || n_sm != s->n_sm)
        return rw_fail(err, RW_E_UNSUPPORTED, nowhere,
                       "cuda: saved with cuBLASLt %d on compute capability %d with %d multiprocessors, here are %d, %d "
                       "and %d: results may differ in their last bits",
                       version, capability, n_sm, b->lt->version, s->capability, s->n_sm);
    const size_t before = b->n_presets;
    const rw_status status = take_preset_lines(b, strchr(text, '\n'), err);
    if (status != RW_OK) b->n_presets = before;
    return status;
}

void rw_cuda_rank_products(rw_device *d, int rank) {
    state_of(d)->blas->rank = rank < MOST_CANDIDATES ? rank : MOST_CANDIDATES - 1;
}

const rw_device_choices rw_cuda_choices = {rw_cuda_products, rw_cuda_preset_products};

/* -- running --------------------------------------------------------------------------------------------------- */

bool rw_cuda_lt_product(rw_cuda_state *s, const rw_matmul_args *p) {
    const plan *found = plan_of(s, p);
    if (!found) {
        rw_cuda_note(s, "matmul", "out of memory");
        return true;
    }
    if (!found->usable) return false;
    const cublasStatus_t e = launch(s, found, &found->algo, p);
    if (e != CUBLAS_STATUS_SUCCESS) rw_cuda_note(s, "matmul", s->blas->lt->GetStatusString(e));
    return true;
}

/* -- opening ------------------------------------------------------------------------------------------------- */

namespace {

cublasStatus_t make_preference(rw_cuda_blas *b) {
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint64_t workspace = b->workspace_bytes;
    cublasStatus_t e = b->lt->MatmulPreferenceCreate(&b->preference);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    e = b->lt->MatmulPreferenceSetAttribute(b->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                            sizeof reduction);
    if (e != CUBLAS_STATUS_SUCCESS) return e;
    return b->lt->MatmulPreferenceSetAttribute(b->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                               sizeof workspace);
}

/* Enough to cut the sums of gradients of weights into parts: of 768 x 768 there are fewer tiles than multiprocessors
 * (kernels.md 4.5). */
size_t workspace_for(const rw_cuda_state *s) {
    return (size_t)(s->capability >= 90 ? 64 : 32) << 20;
}

} // namespace

rw_status rw_cuda_blas_open(rw_cuda_state *s, rw_error *err) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    const rw_lt *lt = rw_lt_open(driver, err);
    if (!lt) return RW_E_DEVICE;
    rw_cuda_blas *b = s->blas = static_cast<rw_cuda_blas *>(rw_alloc(sizeof *b));
    if (!b || !grow(b)) return rw_fail_memory(err, sizeof *b);
    b->lt = lt;
    b->workspace_bytes = workspace_for(s);
    rw_where nowhere = {};
    const cudaError_t c = cudaMalloc(&b->workspace, b->workspace_bytes);
    if (c != cudaSuccess) return rw_fail(err, RW_E_DEVICE, nowhere, "cuda: workspace: %s", cudaGetErrorString(c));
    cublasStatus_t e = lt->Create(&b->handle);
    if (e == CUBLAS_STATUS_SUCCESS) e = make_preference(b);
    if (e == CUBLAS_STATUS_SUCCESS) return RW_OK;
    return rw_fail(err, RW_E_DEVICE, nowhere, "cuBLASLt (%s) does not start: %s", lt->path, lt->GetStatusString(e));
}

void rw_cuda_blas_close(rw_cuda_state *s) {
    rw_cuda_blas *b = s->blas;
    if (!b) return;
    for (size_t i = 0; i < b->n_plans; i++) forget_plan(b->lt, &b->plans[i]);
    if (b->preference) b->lt->MatmulPreferenceDestroy(b->preference);
    if (b->handle) b->lt->Destroy(b->handle);
    cudaFree(b->workspace);
    rw_free(b->plans);
    rw_free(b->slots);
    rw_free(b->presets);
    rw_free(b);
    s->blas = nullptr;
}
