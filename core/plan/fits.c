/* Does a run fit into this machine? What decides is the engine's own memory, which is exact; what the libraries take is
 * a guess, and only warned about. */
#include "core/base/thread.h"
#include "core/plan/make_plan.h"

#include <sys/sysinfo.h>

/* Bytes of memory and swap: with swap a run is slow, but it runs. A quota of the container has none. */
static int64_t most_memory(void) {
    struct sysinfo info;
    int64_t limit = rw_memory_limit();
    if (sysinfo(&info) != 0 || limit < (int64_t)info.totalram * (int64_t)info.mem_unit) return limit;
    return limit + (int64_t)info.totalswap * (int64_t)info.mem_unit;
}

/* Weights, gradients and moments depend on the model alone. */
static rw_status model_too_large(const rw_plan *p, int64_t have, rw_error *err) {
    char need[32], limit[32], count[32];
    rw_format_two_sizes(need, p->needs.param_bytes, limit, have);
    return rw_fail(err, RW_E_RECIPE, (rw_where){.file = p->recipe_path, .key = "model"},
                   "too large for this machine: weights, gradients and Adam's moments take %s (%s parameters of %.1f "
                   "bytes each), but there are %s of memory; train.micro_bsz and data.ctx_len do not help. Take a "
                   "smaller model, or a machine with more memory",
                   need, rw_format_count(count, sizeof count, p->needs.n_params),
                   (double)p->needs.param_bytes / (double)p->needs.n_params, limit);
}

static rw_status batch_too_large(const rw_plan *p, int64_t have, rw_error *err) {
    char fixed[32], rest[32], limit[32];
    return rw_fail(
        err, RW_E_RECIPE, (rw_where){.file = p->recipe_path, .key = "train.micro_bsz"},
        "too large for this machine: beside weights, gradients and Adam's moments (%s) the activations and "
        "batches take %s, but there are %s of memory. Lower train.micro_bsz (%lld) or data.ctx_len (%lld), or "
        "set train.checkpoint: block",
        rw_format_bytes(fixed, sizeof fixed, p->needs.param_bytes),
        rw_format_bytes(rest, sizeof rest, p->needs.engine_bytes - p->needs.param_bytes),
        rw_format_bytes(limit, sizeof limit, have), (long long)p->train.micro_bsz, (long long)p->train.ctx_len);
}

rw_status rw_plan_fits(const rw_plan *p, rw_error *err) {
    int64_t have = most_memory();
    if (p->device == RW_ON_CUDA || have <= 0 || p->needs.engine_bytes <= have) return RW_OK;
    return p->needs.param_bytes > have ? model_too_large(p, have, err) : batch_too_large(p, have, err);
}
