/* What there is to compute with, and what is missing. The CUDA runtime is part of the program and opens the driver
 * itself; NVML, which comes with the driver, tells memory without opening a GPU (opening takes some hundred MiB). */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/lt.cuh"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

namespace {

/* -- NVML ------------------------------------------------------------------------------------------------------ */

/* nvmlMemory_t of its first version, which every driver has. */
struct nvml_memory {
    unsigned long long total, free, used;
};

/* What is used of NVML, open between open_nvml and close_nvml. */
struct nvml {
    void *lib;
    int (*init)();
    int (*shutdown)();
    int (*driver_version)(char *text, unsigned size);
    int (*device)(const char *pci, void **device);
    int (*memory)(void *device, nvml_memory *m);
};

template <class F> bool take(void *lib, F *f, const char *name) {
    *reinterpret_cast<void **>(f) = dlsym(lib, name);
    return *f != nullptr;
}

bool open_nvml(nvml *n) {
    *n = {};
    n->lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!n->lib) return false;
    if (take(n->lib, &n->init, "nvmlInit_v2") && take(n->lib, &n->shutdown, "nvmlShutdown") &&
        take(n->lib, &n->driver_version, "nvmlSystemGetDriverVersion") &&
        take(n->lib, &n->device, "nvmlDeviceGetHandleByPciBusId_v2") &&
        take(n->lib, &n->memory, "nvmlDeviceGetMemoryInfo") && n->init() == 0)
        return true;
    dlclose(n->lib);
    return false;
}

void close_nvml(nvml *n) {
    n->shutdown();
    dlclose(n->lib);
}

/* A part of a card (MIG) is another thing to NVML than to CUDA: then the sizes differ, and nothing is known. */
int64_t free_bytes(const nvml *n, int index) {
    char pci[32];
    void *device;
    nvml_memory m;
    cudaDeviceProp prop;
    if (cudaDeviceGetPCIBusId(pci, sizeof pci, index) != cudaSuccess || n->device(pci, &device) != 0 ||
        n->memory(device, &m) != 0 || cudaGetDeviceProperties(&prop, index) != cudaSuccess)
        return -1;
    return (double)prop.totalGlobalMem > 0.9 * (double)m.total ? (int64_t)m.free : -1;
}

/* -- looking --------------------------------------------------------------------------------------------------- */

rw_status no_driver(int driver, cudaError_t e, rw_error *err) {
    rw_where nowhere = {};
    const int needed = CUDART_VERSION / 1000;
    if (driver == 0)
        return rw_fail(err, RW_E_DEVICE, nowhere,
                       "no NVIDIA driver was found (libcuda.so.1); install it (Debian, Ubuntu: the package "
                       "nvidia-driver; in a container: start that with --gpus all; in WSL2: install it in Windows)");
    if (driver / 1000 < needed)
        return rw_fail(err, RW_E_DEVICE, nowhere,
                       "the NVIDIA driver is too old: it knows CUDA %d.%d, and this program needs %d.0; update it",
                       driver / 1000, driver % 1000 / 10, needed);
    if (e == cudaErrorNoDevice)
        return rw_fail(err, RW_E_DEVICE, nowhere,
                       "the NVIDIA driver shows no GPU; see what nvidia-smi -L and CUDA_VISIBLE_DEVICES say");
    return rw_fail(err, RW_E_DEVICE, nowhere, "the GPU cannot be used: %s", cudaGetErrorString(e));
}

void look_at(rw_cuda_gpu *g, int index, const nvml *n) {
    cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, index) != cudaSuccess) return;
    snprintf(g->name, sizeof g->name, "%s", prop.name);
    g->capability = prop.major * 10 + prop.minor;
    g->total_bytes = (int64_t)prop.totalGlobalMem;
    g->free_bytes = n ? free_bytes(n, index) : -1;
    g->bf16 = prop.major >= 8;
}

void look_for_blas(rw_cuda_facts *f) {
    rw_error err = {};
    const rw_lt *lt = rw_lt_open(f->driver_cuda ? f->driver_cuda : CUDART_VERSION, &err);
    if (lt) {
        f->blas_version = lt->version;
        snprintf(f->blas, sizeof f->blas, "%s", lt->path);
    } else {
        snprintf(f->why_no_blas, sizeof f->why_no_blas, "%s", err.msg);
    }
    rw_error_clear(&err);
}

} // namespace

rw_status rw_cuda_find(int *driver, int *n_gpus, rw_error *err) {
    *driver = *n_gpus = 0;
    if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
    const cudaError_t e = cudaGetDeviceCount(n_gpus);
    if (e == cudaSuccess && *n_gpus > 0) return RW_OK;
    *n_gpus = 0;
    cudaGetLastError();
    return no_driver(*driver, e == cudaSuccess ? cudaErrorNoDevice : e, err);
}

int64_t rw_cuda_free_bytes(int index) {
    nvml n;
    if (!open_nvml(&n)) return -1;
    const int64_t answer = free_bytes(&n, index);
    close_nvml(&n);
    return answer;
}

void rw_cuda_look(rw_cuda_facts *f) {
    rw_error err = {};
    nvml n;
    memset(f, 0, sizeof *f);
    f->runtime_cuda = CUDART_VERSION;
    if (rw_cuda_find(&f->driver_cuda, &f->n_gpus, &err) != RW_OK) snprintf(f->why, sizeof f->why, "%s", err.msg);
    const bool told = open_nvml(&n);
    if (told) n.driver_version(f->driver, sizeof f->driver);
    for (int i = 0; i < f->n_gpus && i < RW_CUDA_MOST_GPUS; i++) look_at(&f->gpus[i], i, told ? &n : nullptr);
    if (told) close_nvml(&n);
    look_for_blas(f);
    rw_error_clear(&err);
}
