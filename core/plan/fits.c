/* Does a run fit into this machine? What decides is the engine's own memory, which is exact; what the libraries take
 * counts on a GPU, whose driver says it, and is only warned about on a CPU, where it is a guess. */
#include "core/base/thread.h"
#include "core/plan/plan_internal.h"

#include <sys/sysinfo.h>

/* Bytes of memory and swap: with swap a run is slow, but it runs. A quota of the container has none. */
static int64_t most_memory(void) {
    struct sysinfo info;
    int64_t limit = rw_memory_limit();
    if (sysinfo(&info) != 0 || limit < (int64_t)info.totalram * (int64_t)info.mem_unit) return limit;
    return limit + (int64_t)info.totalswap * (int64_t)info.mem_unit;
}

/* -- ways that would fit ----------------------------------------------------------------------------------------- */

/* A line for a change that fits; false where it does not. */
static bool way(rw_str *out, const rw_plan *p, const rw_device *like, int64_t have) {
    char need[32];
    int64_t n_bytes;
    if (rw_plan_device_bytes(p, like, &n_bytes, NULL) != RW_OK || n_bytes > have) return false;
    rw_str_appendf(out, "  %10s  train.optim_form=%s train.checkpoint=%s train.micro_bsz=%lld train.accumulate=%lld\n",
                   rw_format_bytes(need, sizeof need, n_bytes),
                   rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form),
                   rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint), (long long)p->train.micro_bsz,
                   (long long)p->train.accumulate);
    return true;
}

static void set_batch(rw_plan *p, int64_t micro_bsz, int64_t sequences) {
    p->train.micro_bsz = micro_bsz;
    p->train.accumulate = sequences / micro_bsz;
    p->train.batch_size = 0;
    p->train.head_chunk = rw_plan_head_chunk(p);
    rw_plan_share_sizes(p);
}

/* The largest part of the micro batch that fits, with the same sequences in a step. */
static bool smaller_batch(rw_str *out, const rw_plan *p, const rw_device *like, int64_t have) {
    const int64_t sequences = p->train.micro_bsz * p->train.accumulate;
    for (int64_t n = p->train.micro_bsz; n >= 1; n--) {
        rw_plan other = *p;
        if (p->train.micro_bsz % n) continue;
        set_batch(&other, n, sequences);
        if (way(out, &other, like, have)) return true;
    }
    return false;
}

/* One change at a time, then several. */
static void ways_to_fit(rw_str *out, const rw_plan *p, const rw_device *like, int64_t have) {
    static const rw_checkpoint_choice levels[] = {RW_CHECKPOINT_MIX, RW_CHECKPOINT_FFN, RW_CHECKPOINT_BLOCK};
    static const rw_optim_form_choice forms[] = {RW_FORM_B12, RW_FORM_B8};
    rw_plan other = *p;
    smaller_batch(out, p, like, have);
    for (int i = 0; i < 3; i++) {
        if (levels[i] <= p->train.checkpoint) continue;
        other.train.checkpoint = levels[i];
        if (way(out, &other, like, have)) break;
    }
    for (int i = 0; i < 2 && p->train.compute == RW_BF16; i++) {
        other = *p;
        if (forms[i] <= p->train.optim_form) continue;
        other.train.optim_form = forms[i];
        if (way(out, &other, like, have)) break;
        other.train.checkpoint = RW_CHECKPOINT_BLOCK;
        if (smaller_batch(out, &other, like, have)) break;
    }
}

/* -- messages ------------------------------------------------------------------------------------------------------ */

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

static rw_status gpu_too_small(const rw_plan *p, const rw_device *like, rw_error *err) {
    char need[32], limit[32];
    rw_str ways = {0};
    const int64_t have = p->needs.device_limit;
    ways_to_fit(&ways, p, like, have);
    rw_status status = rw_fail(err, RW_E_RECIPE, (rw_where){.file = p->recipe_path, .key = "train.micro_bsz"},
                               ways.len > 0 ? "the GPU is too small: the run takes %s, there are %s. What would fit:"
                                            : "the GPU is too small: the run takes %s, there are %s. No form, "
                                              "checkpoint or micro_bsz of this model fits with data.ctx_len as it is",
                               rw_format_bytes(need, sizeof need, p->needs.bytes[RW_MEMORY_DEVICE]),
                               rw_format_bytes(limit, sizeof limit, have));
    if (ways.len > 0) rw_error_set_detail(err, ways.data);
    rw_str_done(&ways);
    return status;
}

rw_status rw_plan_fits(const rw_plan *p, const rw_device *device, rw_error *err) {
    if (p->device == RW_ON_CUDA)
        return p->needs.bytes[RW_MEMORY_DEVICE] <= p->needs.device_limit ? RW_OK : gpu_too_small(p, device, err);
    int64_t have = most_memory();
    if (have <= 0 || p->needs.engine_bytes <= have) return RW_OK;
    return p->needs.param_bytes > have ? model_too_large(p, have, err) : batch_too_large(p, have, err);
}
