/* Where a run computes. */
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/plan/plan_internal.h"

#include <string.h>

#define MAX_THREADS 1024 /* that a damaged state may ask for */

/* *device stays NULL where there is no GPU and `auto` may do without. */
static rw_status try_gpu(rw_plan *p, const rw_recipe *r, rw_device **device, rw_error *err) {
    rw_error why = {0};
    rw_status status = rw_device_open_cuda(device, &(rw_gpu_choice){.compute = RW_F32}, &why);
    if (status != RW_OK && p->device == RW_ON_AUTO) {
        rw_error_clear(&why);
        return RW_OK;
    }
    if (!why.at.file) why.at = rw_recipe_where(r, RW_KEY_top_device);
    if (err) *err = why;
    p->device = RW_ON_CUDA;
    return status;
}

/* Threads shape the order of sums: those of the saved run are used again. */
static int decide_threads(const rw_saved_run *saved) {
    int64_t before = rw_saved_run_number(saved, "threads");
    int now = rw_cpu_count();
    if (before < 1 || before > MAX_THREADS || before == now) return now;
    rw_info("using %lld threads, as the saved run did, so that the results stay bit-identical", (long long)before);
    return (int)before;
}

static rw_status open_cpu(rw_plan *p, rw_arena *arena, rw_device **device, rw_error *err) {
    p->device = RW_ON_CPU;
    p->train.compute = RW_F32;
    if (p->train.precision == RW_PRECISION_BF16 || p->train.precision == RW_PRECISION_FP16)
        rw_info("precision %s: this CPU computes in fp32", rw_choice_word(RW_KEY_train_precision, p->train.precision));
    RW_TRY(rw_device_open_cpu(device, RW_F32, p->threads, err));
    const char *detail = (*device)->detail; /* the kernels stand before the number of threads */
    p->cpu_kernels = rw_arena_strndup(arena, detail, strcspn(detail, ","));
    return p->cpu_kernels ? RW_OK : rw_fail_memory(err, strlen(detail));
}

/* Every device computes in fp32 so far. */
static rw_optim_form_choice decide_form(rw_optim_form_choice asked) {
    return asked == RW_FORM_AUTO ? RW_FORM_FP32 : asked;
}

rw_status rw_plan_decide_device(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_arena *arena,
                                rw_device **device, rw_error *err) {
    p->threads = decide_threads(saved);
    p->train.optim_form = decide_form(p->train.optim_form);
    if (p->device != RW_ON_CPU) RW_TRY(try_gpu(p, r, device, err));
    if (*device) return RW_OK;
    rw_status status = open_cpu(p, arena, device, err);
    if (status != RW_OK) {
        rw_device_close(*device);
        *device = NULL;
    }
    return status;
}
