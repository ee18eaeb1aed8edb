/* label: gpu, cpu
 * What the training loop takes while it runs: after the second step nothing is allocated, on the host or on the device,
 * and each step reads from the device once. Calls are counted: of malloc, calloc and realloc by anybody in this
 * process, and of the device's functions. What the driver's own libraries allocate is counted apart and printed alone.
 */
#include "tests/gpu/run.h"

#include "core/train/trainer.h"

#include <dlfcn.h>
#include <stdatomic.h>

#if defined(__SANITIZE_ADDRESS__)
#define COUNTS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTS 0
#endif
#endif
#ifndef COUNTS
#define COUNTS 1
#endif

/* -- calls of malloc ---------------------------------------------------------------------------------------------- */

enum { KEPT = 4096 };
static atomic_llong calls;
static void *_Atomic callers[KEPT]; /* of the first ones since `watching` */
static atomic_bool watching;

#if COUNTS
static void note(void *caller) {
    if (!atomic_load(&watching)) return;
    const long long i = atomic_fetch_add(&calls, 1);
    if (i < KEPT) atomic_store(&callers[i], caller);
}

/* The process's own malloc; glibc's stands behind it. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n) {
    note(__builtin_return_address(0));
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    note(__builtin_return_address(0));
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    note(__builtin_return_address(0));
    return __libc_realloc(p, n);
}
#endif

/* libcuda, libnvidia-*: not ours to mend. C++'s operator new calls for them, too. */
static bool is_drivers(void *caller) {
    static const char *const names[] = {"libcuda", "libnvidia", "libnvrtc", "libstdc++"};
    Dl_info info;
    if (!dladdr(caller, &info) || !info.dli_fname) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strstr(info.dli_fname, names[i])) return true;
    return false;
}

static long long calls_of_the_driver(void) {
    const long long n = atomic_load(&calls);
    long long count = 0;
    for (long long i = 0; i < n && i < KEPT; i++) count += is_drivers(atomic_load(&callers[i]));
    return count;
}

static void name_callers(void) {
    const long long n = atomic_load(&calls);
    for (long long i = 0; i < n && i < 16; i++) {
        Dl_info info = {0};
        dladdr(atomic_load(&callers[i]), &info);
        print_message("    %s %s\n", info.dli_fname ? info.dli_fname : "?", info.dli_sname ? info.dli_sname : "?");
    }
}

/* -- calls of the device ---------------------------------------------------------------------------------------------
 */

typedef struct {
    int64_t allocs, downloads, reports, waits;
} device_calls;

static struct {
    rw_device plain; /* as it was */
    rw_device_ahead ahead;
    device_calls now;
} counted;

static void *count_alloc(rw_device *d, int64_t n) {
    counted.now.allocs++;
    return counted.plain.alloc(d, n);
}
static void count_download(rw_device *d, void *host, const void *src, int64_t n) {
    counted.now.downloads++;
    counted.plain.download(d, host, src, n);
}
static rw_status count_synchronize(rw_device *d, rw_error *err) {
    counted.now.waits++;
    return counted.plain.synchronize(d, err);
}
static void *count_host_alloc(rw_device *d, int64_t n) {
    counted.now.allocs++;
    return counted.plain.ahead->host_alloc(d, n);
}
static void count_report(rw_device *d, void *host, const void *src, int64_t n) {
    counted.now.reports++;
    counted.plain.ahead->download(d, host, src, n);
}

/* In place: the device is larger than what is known of it. */
static void count_calls(rw_device *d) {
    counted.plain = *d;
    counted.now = (device_calls){0};
    d->alloc = count_alloc;
    d->download = count_download;
    d->synchronize = count_synchronize;
    if (!d->ahead) return;
    counted.ahead = *d->ahead;
    counted.ahead.host_alloc = count_host_alloc;
    counted.ahead.download = count_report;
    d->ahead = &counted.ahead;
}

/* -- hooks in C: they only look
 * ---------------------------------------------------------------------------------------- */

enum { FIRST = 2, LAST = 9 }; /* hooks behind these steps */

typedef struct {
    rw_device *device;
    device_calls at[2];
    int64_t live[2], free_bytes[2], peak;
} seen;

static rw_status no_number(void *ctx, rw_hook_id id, rw_hook_trainer *t, double *value, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)value, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status no_boolean(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, bool *value,
                            bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)value, (void)err;
    *given = false;
    return RW_OK;
}
static rw_status no_text(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, char *buf,
                         int64_t size, bool *given, rw_error *err) {
    (void)ctx, (void)id, (void)t, (void)m, (void)buf, (void)size, (void)err;
    *given = false;
    return RW_OK;
}

static int64_t free_bytes(void) {
    return on_cpu() ? 0 : gpus()->gpus[0].free_bytes;
}

/* Looking allocates: outside of what is watched. */
static rw_status look(void *ctx, rw_hook_id id, rw_hook_trainer *t, const rw_hook_metrics *m, rw_error *err) {
    seen *s = ctx;
    (void)m, (void)err;
    if (id != RW_HOOK_on_train_batch_end || (t->step != FIRST && t->step != LAST)) return RW_OK;
    const int i = t->step == LAST;
    if (i == 1) atomic_store(&watching, false);
    s->at[i] = counted.now;
    s->live[i] = s->device->live_bytes;
    s->peak = s->device->peak_bytes;
    s->free_bytes[i] = free_bytes();
    if (i == 0) atomic_store(&watching, true);
    return RW_OK;
}

/* -- a run of 12 steps
 * ----------------------------------------------------------------------------------------------------- */

static int64_t part_bytes(const rw_plan *plan, rw_memory_place place) {
    int64_t n = 0;
    for (int i = 0; i < plan->needs.n_parts; i++)
        if (plan->needs.parts[i].ours && plan->needs.parts[i].place == place) n += plan->needs.parts[i].n_bytes;
    return n;
}

static seen train(run *r, const run_of *of) {
    rw_error err = {0};
    plan_run(r, of);
    seen s = {.device = r->device};
    const rw_hooks hooks = {.ctx = &s, .number = no_number, .boolean = no_boolean, .text = no_text, .event = look};
    atomic_store(&calls, 0);
    count_calls(r->device);
    must(rw_train(&r->plan, &r->recipe, r->device, &hooks, NULL, &err), &err);
    return s;
}

static void check(const run_of *of, bool validates) {
    static run r;
    seen s = train(&r, of);
    const bool ahead = r.device->ahead != NULL;
    const long long all = atomic_load(&calls), drivers = calls_of_the_driver(), steps = LAST - FIRST;
    const int64_t downloads = s.at[1].downloads - s.at[0].downloads, reports = s.at[1].reports - s.at[0].reports;
    print_message(
        "  %s %s%s: steps 4 to 10: malloc %lld times (%lld more by the driver), device memory %lld times, free "
        "bytes %+lld, readbacks %lld; device held %lld, planned %lld\n",
        of->arch, of->precision, of->train, all - drivers, drivers, (long long)(s.at[1].allocs - s.at[0].allocs),
        (long long)(s.free_bytes[1] - s.free_bytes[0]), (long long)(downloads + reports), (long long)s.live[1],
        (long long)part_bytes(&r.plan, RW_MEMORY_DEVICE));
    if (all > drivers) name_callers();
    if (COUNTS) assert_int_equal(all, drivers);
    assert_int_equal(s.at[1].allocs, s.at[0].allocs);
    assert_int_equal(s.live[0], s.live[1]);
    assert_int_equal(s.live[1], part_bytes(&r.plan, RW_MEMORY_DEVICE));
    assert_int_equal(s.peak, s.live[1]);
    assert_true(s.free_bytes[1] >= s.free_bytes[0]);
    if (!validates) { /* which reads the loss of each of its batches */
        assert_int_equal(ahead ? reports : downloads, steps);
        assert_int_equal(ahead ? downloads : reports, 0);
        if (ahead) assert_int_equal(s.at[1].waits, s.at[0].waits);
    }
    rw_device_close(r.device);
    rw_arena_done(&r.arena);
    rw_recipe_done(&r.recipe);
}

static void nothing_is_allocated(void **state) {
    static const char *const archs[] = {"x052", "x060", "x070"}, *const folders[] = {"a", "b", "c", "d", "e", "f"};
    (void)state;
    need_gpu();
    for (int i = 0; i < 6; i++) {
        run_of of = {.arch = archs[i % 3], .accumulate = 2, .folder = folders[i], .precision = "fp32"};
        of.train = ", eval_every: 20";
        if (i >= 3) of.precision = on_cpu() || has_bf16() ? "bf16" : "fp16";
        check(&of, false);
    }
}

static void nor_by_others(void **state) {
    (void)state;
    need_gpu();
    const char *narrow = on_cpu() ? "fp32" : "fp16";
    check(&(run_of){.arch = "x060", .precision = narrow, .folder = "g", .train = ", eval_every: 5"}, true);
    check(&(run_of){.arch = "x070", .precision = narrow, .folder = "h", .level = "block", .train = ", head_chunk: 13"},
          false);
    check(&(run_of){.arch = "x052", .precision = "fp32", .folder = "i", .graph = "off", .train = ""}, false);
}

int main(void) {
    rw_log_set_level(RW_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_allocated), cmocka_unit_test(nor_by_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
