/* Where a run computes, and in what. */
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/plan/plan_internal.h"

#include <string.h>

#define MAX_THREADS 1024 /* that a damaged state may ask for */

static const char *precision_word(const rw_plan *p) {
    return rw_choice_word(RW_KEY_train_precision, p->train.precision);
}

/* -- a GPU -------------------------------------------------------------------------------------------------- */

static rw_dtype compute_of(rw_precision_choice precision) {
    return precision == RW_PRECISION_BF16 ? RW_BF16 : precision == RW_PRECISION_FP16 ? RW_F16 : RW_F32;
}

static rw_status open_gpu(rw_plan *p, rw_device **device, rw_error *err) {
    p->train.compute = compute_of(p->train.precision);
    const rw_gpu_choice choice = {.compute = p->train.compute,
                                  .tf32 = p->train.precision == RW_PRECISION_TF32,
                                  .timed = p->engine.tune == RW_TUNE_TIMED};
    return rw_device_open_cuda(device, &choice, err);
}

/* Cards before Ampere have no bf16: fp16 is the next best, with a loss scale. */
static rw_status open_gpu_or_fp16(rw_plan *p, rw_device **device, rw_error *err) {
    rw_status status = open_gpu(p, device, err);
    if (status != RW_E_UNSUPPORTED || p->train.compute != RW_BF16) return status;
    rw_info("this GPU does not compute in bf16: taking fp16");
    if (err) rw_error_clear(err);
    p->train.precision = RW_PRECISION_FP16;
    return open_gpu(p, device, err);
}

/* *device stays NULL where there is no GPU and `auto` may do without. */
static rw_status try_gpu(rw_plan *p, const rw_recipe *r, rw_arena *arena, rw_device **device, rw_error *err) {
    rw_error why = {0};
    rw_status status = open_gpu_or_fp16(p, device, &why);
    if (status == RW_OK) {
        p->device = RW_ON_CUDA;
        return RW_OK;
    }
    if (p->device == RW_ON_AUTO) {
        p->no_gpu = rw_arena_strdup(arena, why.msg);
        rw_error_clear(&why);
        return p->no_gpu ? RW_OK : rw_fail_memory(err, sizeof why.msg);
    }
    if (!why.at.file) why.at = rw_recipe_where(r, RW_KEY_top_device);
    if (err) *err = why;
    return status;
}

/* -- the CPU -------------------------------------------------------------------------------------------------- */

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
        rw_info("precision %s: this CPU computes in fp32", precision_word(p));
    RW_TRY(rw_device_open_cpu(device, RW_F32, p->threads, err));
    const char *detail = (*device)->detail; /* the kernels stand before the number of threads */
    p->device_name = rw_arena_strndup(arena, detail, strcspn(detail, ","));
    return p->device_name ? RW_OK : rw_fail_memory(err, strlen(detail));
}

/* -- both ------------------------------------------------------------------------------------------------------ */

static rw_status name_gpu(rw_plan *p, const rw_device *device, rw_arena *arena, rw_error *err) {
    p->device_name = rw_arena_strdup(arena, device->detail);
    return p->device_name ? RW_OK : rw_fail_memory(err, strlen(device->detail));
}

rw_status rw_plan_decide_device(rw_plan *p, const rw_recipe *r, const rw_saved_run *saved, rw_arena *arena,
                                rw_device **device, rw_error *err) {
    rw_status status = RW_OK;
    p->threads = decide_threads(saved);
    if (p->device != RW_ON_CPU) RW_TRY(try_gpu(p, r, arena, device, err));
    status = *device ? name_gpu(p, *device, arena, err) : open_cpu(p, arena, device, err);
    if (status != RW_OK) {
        rw_device_close(*device);
        *device = NULL;
    }
    return status;
}
