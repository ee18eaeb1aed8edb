/* Finding and loading OpenBLAS. The choice of kernels must be in the environment before the library's constructor
 * runs, hence dlopen and not a link. State is process-wide because a loaded library is. */
#include "kernels/cpu/blas.h"

#include "core/base/log.h"
#include "core/base/str.h"
#include "core/base/thread.h"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>

rw_sgemm_fn *rw_blas_sgemm;
rw_dgemm_fn *rw_blas_dgemm;
rw_strsm_fn *rw_blas_strsm;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char path[512], corename[64] = "none";

#if defined(__x86_64__)
#define TRIPLET "x86_64-linux-gnu"
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
static bool is_amd(void) {
    return __builtin_cpu_is("amd");
}
#else
#define TRIPLET "aarch64-linux-gnu"
static bool has_avx2(void) {
    return false;
}
static bool has_avx512(void) {
    return false;
}
static bool is_amd(void) {
    return false;
}
#endif

static const char *const places[] = {
    "/usr/lib/" TRIPLET "/openblas-openmp/libopenblas.so.0",
    "/usr/lib/" TRIPLET "/openblas-pthread/libopenblas.so.0",
    "/usr/lib/" TRIPLET "/openblas-serial/libopenblas.so.0",
    "libopenblas.so.0",
    "libopenblas.so",
    "libopenblaso.so.0",
    "libopenblasp.so.0",
};

const char *rw_blas_coretype_wanted(void) {
    if (has_avx512()) return "SKYLAKEX";
    if (has_avx2() && !is_amd())
        return "HASWELL"; /* AMD with AVX2 is recognised as Zen, 8 % faster than Haswell there */
    return NULL;
}

bool rw_blas_core_is_slow(const char *core, bool avx2) {
    static const char *const slow[] = {"Prescott", "Core2", "Generic", "Penryn", "Dunnington", "Nehalem", "Opteron"};
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++)
        if (avx2 && strncasecmp(core, slow[i], strlen(slow[i])) == 0) return true;
    return false;
}

static void *open_first(void) {
    const char *wanted = getenv("RWKV_BLAS");
    if (wanted && *wanted) {
        snprintf(path, sizeof path, "%s", wanted);
        return dlopen(wanted, RTLD_NOW | RTLD_LOCAL);
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        void *lib = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
        snprintf(path, sizeof path, "%s", places[i]);
        if (lib) return lib;
    }
    return NULL;
}

static void read_corename(void *lib) {
    char *(*get)(void) = (char *(*)(void))dlsym(lib, "openblas_get_corename");
    snprintf(corename, sizeof corename, "%s", get ? get() : "unknown");
    if (rw_blas_core_is_slow(corename, has_avx2()))
        rw_warn("OpenBLAS is using its '%s' kernels, several times slower than this processor allows; unset "
                "OPENBLAS_CORETYPE or set it to %s",
                corename, has_avx512() ? "SKYLAKEX" : "HASWELL");
}

/* Address space of OpenBLAS 0.3.21: the library (38 MiB) with what comes beside it, 128 MiB for each processor when it
 * opens, and as much for each thread that multiplies, with its stack. Measured on 2 processors: 295 MiB when it was
 * open, 703 MiB after a product on 4 threads at once. */
#define LIBRARY_BYTES ((int64_t)96 << 20)
#define BUFFER_BYTES  ((int64_t)128 << 20)
#define STACK_BYTES   ((int64_t)8 << 20)

/* Without its buffers OpenBLAS tries again for ever, in its constructor or at a product (ulimit -v). So as much is
 * asked for here first, and given back. */
static rw_status check_address_space(rw_error *err) {
    struct rlimit limit;
    int64_t threads = rw_cpu_count(), n = LIBRARY_BYTES + threads * STACK_BYTES;
    n += (omp_get_num_procs() + threads - 1) * BUFFER_BYTES;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return RW_OK;
    void *p = mmap(NULL, (size_t)n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED) {
        munmap(p, (size_t)n);
        return RW_OK;
    }
    char need[32], have[32];
    return rw_fail(err, RW_E_MEMORY, RW_AT_NONE,
                   "OpenBLAS needs %s of address space for %d threads, and ulimit -v allows %s for the whole program: "
                   "raise it, or set RWKV_THREADS to less",
                   rw_format_bytes(need, sizeof need, n), (int)threads,
                   rw_format_bytes(have, sizeof have, (int64_t)limit.rlim_cur));
}

static rw_status open_locked(rw_error *err) {
    RW_TRY(check_address_space(err));
    const char *core = rw_blas_coretype_wanted();
    if (core) setenv("OPENBLAS_CORETYPE", core, 0);
    void *lib = open_first();
    if (!lib)
        return rw_fail(err, RW_E_DEVICE, RW_AT_NONE,
                       "OpenBLAS was not found (%s); install libopenblas0-openmp, or set RWKV_BLAS to the path of "
                       "libopenblas.so",
                       path);
    *(void **)&rw_blas_sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&rw_blas_dgemm = dlsym(lib, "cblas_dgemm");
    *(void **)&rw_blas_strsm = dlsym(lib, "cblas_strsm");
    if (!rw_blas_sgemm || !rw_blas_dgemm || !rw_blas_strsm) {
        rw_blas_sgemm = NULL;
        dlclose(lib);
        return rw_fail(
            err, RW_E_DEVICE, RW_AT_NONE,
            "'%s' lacks cblas_sgemm, cblas_dgemm or cblas_strsm; set RWKV_BLAS to the path of libopenblas.so", path);
    }
    void (*set_threads)(int) = (void (*)(int))dlsym(lib, "openblas_set_num_threads");
    if (set_threads) set_threads(1);
    read_corename(lib);
    return RW_OK;
}

rw_status rw_blas_open(rw_error *err) {
    pthread_mutex_lock(&lock);
    rw_status status = rw_blas_sgemm ? RW_OK : open_locked(err);
    pthread_mutex_unlock(&lock);
    return status;
}

const char *rw_blas_corename(void) {
    return corename;
}
const char *rw_blas_path(void) {
    return rw_blas_sgemm ? path : "";
}
