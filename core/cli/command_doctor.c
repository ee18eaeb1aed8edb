/* rwkv-run doctor: what this machine has for training, what is missing, and how to get it. It changes nothing. */
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/printable.h"
#include "core/base/thread.h"
#include "core/cli/commands.h"
#include "kernels/cpu/blas.h"
#include "kernels/cuda/cuda.h"
#include "kernels/rates.h"

#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* -- lines ------------------------------------------------------------------------------------------------------- */

static void line(const char *name, const char *text) {
    const int width = rw_utf8_columns(name, strlen(name));
    char shown[1200];
    rw_printable(shown, sizeof shown, text);
    printf("  %s%*s %s\n", name, width < 18 ? 18 - width : 0, "", shown);
}

static const char *bytes(int64_t n) {
    static char room[4][32];
    static int next;
    char *buf = room[next++ % 4];
    return n < 0 ? rw_message("unknown") : rw_format_bytes(buf, sizeof room[0], n);
}

/* The first line of a file, or "". */
static const char *first_line(const char *path, char *buf, size_t size) {
    FILE *f = fopen(path, "r");
    buf[0] = '\0';
    if (!f) return buf;
    if (!fgets(buf, (int)size, f)) buf[0] = '\0';
    fclose(f);
    buf[strcspn(buf, "\n")] = '\0';
    return buf;
}

/* -- the processor ---------------------------------------------------------------------------------------------------
 */

static void cpu_model(char *buf, size_t size) {
    char text[512];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(buf, size, "%s", rw_message("unknown"));
    while (f && fgets(text, sizeof text, f)) {
        const char *colon = strchr(text, ':');
        if (strncmp(text, "model name", 10) != 0 || !colon) continue;
        snprintf(buf, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

static void print_cpu(void) {
    char model[256], text[600];
    rw_error err = {0};
    rw_device *d = NULL;
    cpu_model(model, sizeof model);
    snprintf(text, sizeof text, rw_message("%s; %d threads for this process"), model, rw_cpu_count());
    line(rw_message("processor"), text);
    if (rw_device_open_cpu(&d, RW_F32, rw_cpu_count(), &err) != RW_OK) {
        line("OpenBLAS", err.msg);
        rw_error_clear(&err);
        return;
    }
    double rate;
    rw_product_rate(d, &rate, &err);
    snprintf(text, sizeof text, rw_message("%s, its %s kernels: %.0f GFLOP/s in fp32"), rw_blas_path(),
             rw_blas_corename(), rate * 1e-9);
    line("OpenBLAS", text);
    rw_error_clear(&err);
    rw_device_close(d);
}

/* -- GPUs -------------------------------------------------------------------------------------------------------------
 */

static void print_versions(const rw_cuda_facts *f) {
    char text[600];
    if (f->runtime_cuda)
        snprintf(text, sizeof text, rw_message("built with CUDA %d.%d"), f->runtime_cuda / 1000,
                 f->runtime_cuda % 1000 / 10);
    else
        snprintf(text, sizeof text, "%s", rw_message("built without CUDA: it looks for no driver and no GPU"));
    line(rw_message("this program"), text);
    if (!f->runtime_cuda) return;
    if (f->driver_cuda)
        snprintf(text, sizeof text, rw_message("%s, for CUDA up to %d.%d"), f->driver, f->driver_cuda / 1000,
                 f->driver_cuda % 1000 / 10);
    else
        snprintf(text, sizeof text, "%s", rw_message("none found"));
    line(rw_message("NVIDIA driver"), text);
    if (f->blas[0]) {
        snprintf(text, sizeof text, "%d.%d.%d, %s", f->blas_version / 10000, f->blas_version / 100 % 100,
                 f->blas_version % 100, f->blas);
        line("cuBLASLt", text);
    } else {
        line("cuBLASLt", f->why_no_blas);
    }
}

static void print_gpus(const rw_cuda_facts *f) {
    for (int i = 0; i < f->n_gpus && i < RW_CUDA_MOST_GPUS; i++) {
        const rw_cuda_gpu *g = &f->gpus[i];
        char name[32], text[600];
        snprintf(name, sizeof name, "GPU %d", i);
        snprintf(text, sizeof text, rw_message("%s, compute capability %d.%d, %s of memory, %s free, %s"), g->name,
                 g->capability / 10, g->capability % 10, bytes(g->total_bytes), bytes(g->free_bytes),
                 rw_message(g->bf16 ? "bf16" : "no bf16: fp16 instead"));
        line(name, text);
    }
}

/* The tutorial's torch.cuda.is_available(), and a product that must not fail. */
static void print_verdict(const rw_cuda_facts *f) {
    rw_error err = {0};
    rw_device *d = NULL;
    char text[1200];
    if (f->why[0]) {
        line(rw_message("device: auto"), rw_message("takes the CPU"));
        line(rw_message("because"), f->why);
        return;
    }
    const rw_gpu_choice choice = {.compute = f->gpus[0].bf16 ? RW_BF16 : RW_F16};
    double rate = 0;
    if (rw_device_open_cuda(&d, &choice, &err) == RW_OK) rw_product_rate(d, &rate, &err);
    if (rate > 0)
        snprintf(text, sizeof text, rw_message("takes GPU 0: %.0f TFLOP/s in %s"), rate * 1e-12,
                 rw_dtype_name(choice.compute));
    else
        snprintf(text, sizeof text, rw_message("takes the CPU: %s"), err.msg);
    line(rw_message("device: auto"), text);
    rw_error_clear(&err);
    rw_device_close(d);
}

/* -- memory, disk, where it runs -------------------------------------------------------------------------------------
 */

static void print_memory(void) {
    struct sysinfo info;
    char text[256];
    if (sysinfo(&info) == 0) {
        const int64_t all = (int64_t)info.totalram * (int64_t)info.mem_unit;
        snprintf(text, sizeof text, rw_message("%s, of which this process may have %s"), bytes(all),
                 bytes(rw_memory_limit()));
        line(rw_message("memory"), text);
    }
    snprintf(text, sizeof text, rw_message("%s free in the working directory"), bytes(rw_disk_free(".")));
    line(rw_message("disk"), text);
}

/* WSL2 has the driver's library in a folder of its own, and its Windows disks are slow. */
static void print_wsl(void) {
    char version[256], cwd[4096] = "";
    first_line("/proc/sys/kernel/osrelease", version, sizeof version);
    if (!strstr(version, "microsoft") && !strstr(version, "Microsoft")) return;
    line("WSL2", rw_exists("/usr/lib/wsl/lib/libcuda.so.1")
                     ? rw_message("the Windows driver's libcuda is there; pinned memory is limited here")
                     : rw_message("no libcuda: install NVIDIA's driver in Windows, not in Linux, then wsl --shutdown"));
    if (getcwd(cwd, sizeof cwd) && strncmp(cwd, "/mnt/", 5) == 0)
        line("WSL2", rw_message("this folder is on a Windows disk, which is many times slower; work below ~"));
}

static void print_container(const rw_cuda_facts *f) {
    const bool inside = rw_exists("/.dockerenv") || rw_exists("/run/.containerenv");
    if (!inside) return;
    line(rw_message("container"), !f->runtime_cuda ? rw_message("yes")
                                  : f->n_gpus > 0  ? rw_message("yes, with GPUs")
                                                   : rw_message("yes, without GPUs: start it with --gpus all, and "
                                                                 "NVIDIA's container toolkit on the host"));
}

rw_status rw_command_doctor(const rw_options *o, rw_error *err) {
    static rw_cuda_facts facts;
    (void)o, (void)err;
    rw_cuda_look(&facts);
    line("rwkv-run", RW_VERSION);
    print_versions(&facts);
    print_gpus(&facts);
    print_cpu();
    print_memory();
    print_wsl();
    print_container(&facts);
    print_verdict(&facts);
    return RW_OK;
}
