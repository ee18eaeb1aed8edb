/* What the bench found, for people and as JSON. */
#include "core/base/json.h"
#include "core/bench/bench.h"

#include <string.h>

static void row(rw_str *out, const char *name, const char *fmt, ...) RW_PRINTF(3, 4);
static void row(rw_str *out, const char *name, const char *fmt, ...) {
    const int width = rw_utf8_columns(name, strlen(name));
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rw_str_appendf(out, "  %s%*s %s\n", name, width < 26 ? 26 - width : 0, "", text);
}

static double share(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

static void print_floor(const rw_bench_result *r, rw_str *out) {
    const double moved = r->copy_rate > 0 ? 1e3 / r->copy_rate : 0;
    row(out, rw_message("floor"), rw_message("%.2f ms, of which the step is %.0f %%"), r->floor * 1e3,
        share(r->floor, r->step));
    row(out, rw_message("  products alone"), "%.2f ms, %.0f TFLOP/s", r->products_plain * 1e3,
        r->product_flops / r->products_plain * 1e-12);
    row(out, rw_message("  fused passes"), "%.2f ms, %.2f GB", r->fused_bytes * moved, r->fused_bytes * 1e-9);
    row(out, rw_message("  loss"), "%.2f ms, %.2f GB", r->loss_bytes * moved, r->loss_bytes * 1e-9);
    row(out, rw_message("  update"), "%.2f ms, %.2f GB", r->update_bytes * moved, r->update_bytes * 1e-9);
    row(out, rw_message("  rate of a copy"), "%.0f GB/s", r->copy_rate * 1e-9);
}

static void print_kernels(const rw_bench_result *r, rw_str *out) {
    double sum = 0;
    rw_str_append(out, rw_message("kernels, the calls of each alone\n"));
    for (int i = 0; i < r->n_kernels; i++) {
        const rw_bench_kernel *k = &r->kernels[i];
        sum += k->seconds;
        rw_str_appendf(out, "  %-26s %6lld %9.3f ms %5.1f %%\n", k->name, (long long)k->calls, k->seconds * 1e3,
                       share(k->seconds, r->step));
    }
    row(out, rw_message("together"), "%16.3f ms %5.1f %%", sum * 1e3, share(sum, r->step));
}

static void print_text(const rw_bench_result *r, const rw_plan *p, const rw_device *d, rw_str *out) {
    char a[32], b[32];
    rw_str_appendf(out, "%s: %s %lldx%lld, micro_bsz %lld x ctx_len %lld x accumulate %lld, %s %s %s\n", d->detail,
                   p->model.arch, (long long)p->model.n_layer, (long long)p->model.n_embd,
                   (long long)p->train.micro_bsz, (long long)p->train.ctx_len, (long long)p->train.accumulate,
                   rw_dtype_name(p->train.compute), rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form),
                   rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint));
    row(out, rw_message("tokens a second"), "%.0f", r->tokens / r->step);
    row(out, rw_message("step"), rw_message("%.2f ms (fastest %.2f)"), r->step * 1e3, r->fastest * 1e3);
    row(out, rw_message("products"), "%.2f TFLOP, %.0f TFLOP/s of the whole step", r->product_flops * 1e-12,
        r->product_flops / r->step * 1e-12);
    row(out, rw_message("memory"), rw_message("%s, planned %s"), rw_format_bytes(a, sizeof a, r->device_bytes),
        rw_format_bytes(b, sizeof b, r->planned_bytes));
    print_floor(r, out);
    print_kernels(r, out);
}

static void print_json(const rw_bench_result *r, const rw_plan *p, const rw_device *d, rw_str *out) {
    rw_str_append(out, "{\"device\":");
    rw_json_append_string(out, d->detail, strlen(d->detail));
    rw_str_appendf(out,
                   ",\"arch\":\"%s\",\"n_layer\":%lld,\"n_embd\":%lld,\"micro_bsz\":%lld,\"ctx_len\":%lld,"
                   "\"accumulate\":%lld,\"compute\":\"%s\",\"optim_form\":\"%s\",\"checkpoint\":\"%s\"",
                   p->model.arch, (long long)p->model.n_layer, (long long)p->model.n_embd,
                   (long long)p->train.micro_bsz, (long long)p->train.ctx_len, (long long)p->train.accumulate,
                   rw_dtype_name(p->train.compute), rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form),
                   rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint));
    const struct {
        const char *name;
        double x;
    } numbers[] = {{"tokens_per_second", r->tokens / r->step},
                   {"step_seconds", r->step},
                   {"fastest_step_seconds", r->fastest},
                   {"product_flop", r->product_flops},
                   {"products_seconds", r->products},
                   {"products_plain_seconds", r->products_plain},
                   {"copy_bytes_per_second", r->copy_rate},
                   {"fused_bytes", r->fused_bytes},
                   {"loss_bytes", r->loss_bytes},
                   {"update_bytes", r->update_bytes},
                   {"floor_seconds", r->floor},
                   {"device_bytes", (double)r->device_bytes},
                   {"planned_bytes", (double)r->planned_bytes}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        rw_str_appendf(out, ",\"%s\":", numbers[i].name);
        rw_json_append_number(out, numbers[i].x);
    }
    rw_str_append(out, ",\"kernels\":{");
    for (int i = 0; i < r->n_kernels; i++)
        rw_str_appendf(out, "%s\"%s\":{\"calls\":%lld,\"seconds\":%.9f}", i ? "," : "", r->kernels[i].name,
                       (long long)r->kernels[i].calls, r->kernels[i].seconds);
    rw_str_append(out, "}}\n");
}

void rw_bench_print(const rw_bench_result *r, const rw_plan *plan, const rw_device *device, bool json, rw_str *out) {
    if (json)
        print_json(r, plan, device, out);
    else
        print_text(r, plan, device, out);
}
