/* A table of kernels that keeps the time: one wrapper for each row of ops.def. */
#include "kernels/bench/op_times.h"

#include "core/base/thread.h"

#include <stdio.h>

enum {
#define RW_KERNEL(name, args) OP_##name,
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    N_OPS
};

static const char *const op_names[] = {
#define RW_KERNEL(name, args) #name,
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
};

typedef struct {
    double whole, seconds[N_OPS];
    int64_t calls[N_OPS];
} times;

static const rw_kernels *inner;
static times now, fastest; /* whole 0: no run yet */

#define RW_KERNEL(name, args)                                                                                          \
    static void timed_##name(const args *a, const rw_exec *ex) {                                                       \
        int64_t ns = rw_now_ns();                                                                                      \
        inner->name(a, ex);                                                                                            \
        now.seconds[OP_##name] += (double)(rw_now_ns() - ns) * 1e-9;                                                   \
        now.calls[OP_##name]++;                                                                                        \
    }
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

rw_kernels rw_op_times_wrap(const rw_kernels *plain) {
    rw_kernels t = *plain;
    inner = plain;
#define RW_KERNEL(name, args) t.name = timed_##name;
#define RW_QUERY(name, args)
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY
    return t;
}

void rw_op_times_clear(void) {
    fastest = (times){0};
}

void rw_op_times_begin(void) {
    now = (times){0};
}

void rw_op_times_end(double seconds) {
    now.whole = seconds;
    if (fastest.whole == 0 || seconds < fastest.whole) fastest = now;
}

static void print_row(const char *name, long long calls, double seconds) {
    printf("%-26s %8lld %9.2f %5.1f%%\n", name, calls, seconds * 1e3, 100 * seconds / fastest.whole);
}

void rw_op_times_print(void) {
    printf("%-26s %8s %9s %6s\n", "kernel", "calls", "ms", "share");
    double between = fastest.whole;
    for (int i = 0; i < N_OPS; i++) {
        between -= fastest.seconds[i];
        if (fastest.calls[i]) print_row(op_names[i], (long long)fastest.calls[i], fastest.seconds[i]);
    }
    print_row("between kernels", 0, between);
}
