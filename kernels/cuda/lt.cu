/* Where cuBLASLt is looked for: the folders of $RWKV_CUDA_LIBS, wherever the loader looks, the toolkit's usual folders,
 * and those into which pip and conda put it. In each, the versions whose interface is the one used here: the opaque
 * structs are made by the library itself, and what is left (enums, cublasLtMatmulHeuristicResult_t) is the same in 12
 * and 13. A library newer than the driver cannot start, so it is passed over. */
#include "kernels/cuda/lt.cuh"

#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#define TRIPLET "x86_64-linux-gnu"
#define TARGET  "x86_64-linux"
#else
#define TRIPLET "aarch64-linux-gnu"
#define TARGET  "sbsa-linux"
#endif
#define OF_PIP(packages) packages "/nvidia/cu13/lib", packages "/nvidia/cublas/lib"

namespace {

const int majors[] = {13, 12};

const char *const folders[] = {
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
    "/usr/local/cuda/targets/" TARGET "/lib",
    "/opt/cuda/lib64",
    "/usr/lib/" TRIPLET,
    "/usr/lib64",
    OF_PIP("$VIRTUAL_ENV/lib/python3*/site-packages"),
    "$CONDA_PREFIX/lib",
    OF_PIP("$CONDA_PREFIX/lib/python3*/site-packages"),
    OF_PIP("~/.local/lib/python3*/site-packages"),
    OF_PIP("/usr/local/lib/python3*/dist-packages"),
    OF_PIP("/usr/local/lib/python3*/site-packages"),
};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
rw_lt found;
char refused[256]; /* a library that was there and could not be used, and why */

bool take_functions(void *lib, rw_lt *lt) {
    bool all = true;
#define RW_LT_TAKE(name)                                                                                               \
    *reinterpret_cast<void **>(&lt->name) = dlsym(lib, "cublasLt" #name);                                              \
    all &= lt->name != nullptr;
    RW_LT_FUNCTIONS(RW_LT_TAKE)
#undef RW_LT_TAKE
    return all;
}

/* The file that a function came from: the loader's own search does not say. */
void find_path(const rw_lt &lt, const char *asked, char *path, size_t size) {
    Dl_info info;
    const bool known = dladdr(reinterpret_cast<void *>(lt.GetVersion), &info) != 0 && info.dli_fname;
    snprintf(path, size, "%s", known ? info.dli_fname : asked);
}

bool try_file(const char *file, int major) {
    void *lib = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        const char *why = dlerror();
        if (strchr(file, '/') && why && !refused[0]) snprintf(refused, sizeof refused, "%s", why);
        return false;
    }
    rw_lt lt = {};
    if (take_functions(lib, &lt) && (int)(lt.GetVersion() / 10000) == major) {
        lt.version = (int)lt.GetVersion();
        find_path(lt, file, lt.path, sizeof lt.path);
        found = lt;
        return true;
    }
    snprintf(refused, sizeof refused, "%s: no cuBLASLt %d", file, major);
    dlclose(lib);
    return false;
}

/* folder NULL: the loader's own search. */
bool try_folder(const char *folder, int driver) {
    char file[1024];
    for (int major : majors) {
        if (major > driver / 1000) continue;
        const int n = folder ? snprintf(file, sizeof file, "%s/libcublasLt.so.%d", folder, major)
                             : snprintf(file, sizeof file, "libcublasLt.so.%d", major);
        if (n < (int)sizeof file && (!folder || access(file, R_OK) == 0) && try_file(file, major)) return true;
    }
    return false;
}

bool try_list(const char *list, int driver) {
    char folder[1024];
    while (list && *list) {
        const size_t n = strcspn(list, ":");
        if (n > 0 && n < sizeof folder) {
            snprintf(folder, sizeof folder, "%.*s", (int)n, list);
            if (try_folder(folder, driver)) return true;
        }
        list += n + (list[n] == ':');
    }
    return false;
}

/* $NAME at the beginning becomes its value; false: it has none. */
bool expand(const char *pattern, char *out, size_t size) {
    if (*pattern != '$') return snprintf(out, size, "%s", pattern) < (int)size;
    char name[64];
    const size_t n = strcspn(pattern, "/");
    snprintf(name, sizeof name, "%.*s", (int)n - 1, pattern + 1);
    const char *value = getenv(name);
    return value && *value && snprintf(out, size, "%s%s", value, pattern + n) < (int)size;
}

/* All folders that the pattern fits, the newest name first. */
bool try_pattern(const char *pattern, int driver) {
    char expanded[1024];
    glob_t g = {};
    bool right = false;
    if (!expand(pattern, expanded, sizeof expanded)) return false;
    if (glob(expanded, GLOB_TILDE, nullptr, &g) == 0)
        for (size_t i = g.gl_pathc; i > 0 && !right; i--) right = try_folder(g.gl_pathv[i - 1], driver);
    globfree(&g);
    return right;
}

bool search(int driver) {
    if (try_list(getenv("RWKV_CUDA_LIBS"), driver) || try_folder(nullptr, driver)) return true;
    for (const char *pattern : folders)
        if (try_pattern(pattern, driver)) return true;
    return false;
}

rw_status not_found(int driver, rw_error *err) {
    rw_where nowhere = {};
    if (refused[0])
        return rw_fail(err, RW_E_DEVICE, nowhere, "cuBLASLt cannot be used (%s); set RWKV_CUDA_LIBS to its folder",
                       refused);
    return rw_fail(err, RW_E_DEVICE, nowhere,
                   "cuBLASLt was not found (libcublasLt.so.%d); install it (pip install %s), or set RWKV_CUDA_LIBS to "
                   "its folder",
                   driver >= 13000 ? 13 : 12, driver >= 13000 ? "nvidia-cublas" : "nvidia-cublas-cu12");
}

} // namespace

const rw_lt *rw_lt_open(int driver, rw_error *err) {
    pthread_mutex_lock(&lock);
    refused[0] = 0;
    const bool right = found.version || search(driver);
    if (!right) not_found(driver, err);
    pthread_mutex_unlock(&lock);
    return right ? &found : nullptr;
}
