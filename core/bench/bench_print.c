/* What the bench found, for people and as JSON. */
#include "core/base/json.h"
#include "core/bench/bench.h"
#include "core/plan/make_plan.h"

#include <stdio.h>
#include <string.h>

static void begin_row(rw_str *out, const char *name) {
    const int width = rw_utf8_columns(name, strlen(name));
    rw_str_appendf(out, "  %s%*s ", name, width < 26 ? 26 - width : 0, "");
}

static void time_row(rw_str *out, const char *name, double seconds, double n_bytes) {
    begin_row(out, name);
    rw_str_appendf(out, "%.2f ms, %.2f GB\n", seconds * 1e3, n_bytes * 1e-9);
}

/* 3.17e9: "3.17 G" */
static const char *scaled(char buf[16], double x) {
    const bool tera = x >= 1e12;
    snprintf(buf, 16, x >= (tera ? 1e14 : 1e11) ? "%.0f %s" : "%.2f %s", x * (tera ? 1e-12 : 1e-9), tera ? "T" : "G");
    return buf;
}

static double share(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

static void print_floor(const rw_bench_result *r, rw_str *out) {
    char rate[16];
    const double moved = r->copy_rate > 0 ? 1 / r->copy_rate : 0;
    begin_row(out, rw_message("floor"));
    rw_str_appendf(out, rw_message("%.2f ms, %.0f %% of the step\n"), r->floor * 1e3, share(r->floor, r->step));
    begin_row(out, rw_message("  products alone"));
    rw_str_appendf(out, rw_message("%.2f ms, %sFLOP/s, %.0f %% of the machine's product rate\n"),
                   r->products_plain * 1e3, scaled(rate, r->product_flops / r->products_plain),
                   share(r->product_flops / r->products_plain, r->product_rate));
    time_row(out, rw_message("  fused passes"), r->fused_bytes * moved, r->fused_bytes);
    time_row(out, rw_message("  loss"), r->loss_bytes * moved, r->loss_bytes);
    time_row(out, rw_message("  update"), r->update_bytes * moved, r->update_bytes);
    begin_row(out, rw_message("  rate of a copy"));
    rw_str_appendf(out, "%.0f GB/s\n", r->copy_rate * 1e-9);
    begin_row(out, rw_message("  rate of one product"));
    rw_str_appendf(out, "%.3g TFLOP/s\n", r->product_rate * 1e-12);
}

static void print_kernel(rw_str *out, const char *name, int64_t calls, double seconds, double step) {
    begin_row(out, name);
    rw_str_appendf(out, "%6lld %9.3f ms %5.1f %%\n", (long long)calls, seconds * 1e3, share(seconds, step));
}

static void print_kernels(const rw_bench_result *r, rw_str *out) {
    double sum = 0;
    int64_t calls = 0;
    rw_str_append(out, rw_message("kernels, the calls of each alone\n"));
    for (int i = 0; i < r->n_kernels; i++) {
        print_kernel(out, r->kernels[i].name, r->kernels[i].calls, r->kernels[i].seconds, r->step);
        sum += r->kernels[i].seconds;
        calls += r->kernels[i].calls;
    }
    print_kernel(out, rw_message("together"), calls, sum, r->step);
}

static void print_text(const rw_bench_result *r, const rw_plan *p, const rw_device *d, rw_str *out) {
    char a[32], b[32], work[16], rate[16];
    rw_str_appendf(out, "%s: %s %lldx%lld, micro_bsz %lld x ctx_len %lld x accumulate %lld, %s %s %s\n", d->detail,
                   p->model.arch, (long long)p->model.n_layer, (long long)p->model.n_embd,
                   (long long)p->train.micro_bsz, (long long)p->train.ctx_len, (long long)p->train.accumulate,
                   rw_dtype_name(p->train.compute), rw_choice_word(RW_KEY_train_optim_form, p->train.optim_form),
                   rw_choice_word(RW_KEY_train_checkpoint, p->train.checkpoint));
    begin_row(out, rw_message("tokens a second"));
    rw_str_appendf(out, "%.0f\n", r->tokens / r->step);
    begin_row(out, rw_message("step"));
    rw_str_appendf(out, rw_message("%.2f ms (fastest %.2f)\n"), r->step * 1e3, r->fastest * 1e3);
    begin_row(out, rw_message("products"));
    rw_str_appendf(out, rw_message("%sFLOP, %sFLOP/s of the whole step, %.0f %% of the machine's product rate\n"),
                   scaled(work, r->product_flops), scaled(rate, r->product_flops / r->step),
                   share(r->product_flops / r->step, r->product_rate));
    begin_row(out, rw_message("memory taken"));
    rw_str_appendf(out, rw_message("%s, planned %s\n"), rw_format_bytes(a, sizeof a, r->device_bytes),
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
                   {"product_flop_per_second", r->product_rate},
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
