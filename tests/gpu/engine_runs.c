/* label: gpu, cpu
 * Runs of small models, seen from inside: bits that repeat, with recorded graphs and without; states that go on
 * elsewhere; the loss scale of fp16; the plan against what is really taken. */
#include "tests/gpu/run.h"

#include "core/train/training_state.h"

#include <sys/wait.h>
#include <unistd.h>

static const char *const archs[] = {"x052", "x060", "x070"};
enum { N_ARCHS = 3 };

/* What a GPU computes in; the CPU has fp32 alone, with matrices that hold bf16. */
static const struct {
    const char *precision, *form;
} ways[] = {{"fp32", "auto"}, {"bf16", "a16"}, {"bf16", "b12"}, {"bf16", "b8"}, {"fp16", "auto"}, {"tf32", "auto"}};
enum { N_WAYS = sizeof ways / sizeof *ways, MOST_STEPS = 64 };

/* A CPU imitates no fp16, and two ways show what there is to show; old GPUs have neither bf16 nor tf32. */
static bool runs_way(int i) {
    if (on_cpu()) return i < 2;
    return has_bf16() || strcmp(ways[i].precision, "fp32") == 0 || strcmp(ways[i].precision, "fp16") == 0;
}

/* -- determinism ------------------------------------------------------------------------------------------------ */

static bits trained(const run_of *of, int64_t n, rw_device_scalars *reports) {
    run r;
    open_run(&r, of);
    fresh(&r);
    steps(&r, 0, n, reports);
    const bool recorded = strcmp(r.of.graph, "on") == 0;
    for (int i = 0; i < RW_N_PIECES; i++) assert_int_equal(r.e.recordings[i].graph != NULL, recorded);
    bits b = bits_of(&r);
    close_run(&r);
    return b;
}

static void check_learning(const char *name, const rw_device_scalars *reports, int64_t n) {
    for (int64_t i = 0; i < n; i++) assert_true(isfinite(reports[i].loss));
    if (!(reports[n - 1].loss < reports[0].loss))
        fail_msg("%s: the loss went from %g to %g", name, reports[0].loss, reports[n - 1].loss);
}

static void repeat(const char *arch, int way) {
    static rw_device_scalars first[MOST_STEPS], again[MOST_STEPS], plain[MOST_STEPS];
    const int64_t n = on_cpu() ? 4 : 50;
    char name[64];
    run_of of = {.arch = arch, .precision = ways[way].precision, .form = ways[way].form, .graph = "on"};
    of.accumulate = 2;
    snprintf(name, sizeof name, "%s %s %s", arch, of.precision, of.form);
    memset(first, 0, sizeof first), memset(again, 0, sizeof again), memset(plain, 0, sizeof plain);
    bits a = trained(&of, n, first), b = trained(&of, n, again);
    of.graph = "off";
    bits c = trained(&of, n, plain);
    check_learning(name, first, n);
    same_bits(&a, &b, "two equal runs");
    same_bits(&a, &c, "a run with recorded graphs and one without");
    assert_memory_equal(first, again, sizeof first);
    assert_memory_equal(first, plain, sizeof first);
    print_message("  %s: %lld steps twice, and without graphs: %zu bytes the same, loss %.4f to %.4f\n", name,
                  (long long)n, a.n, first[0].loss, first[n - 1].loss);
    rw_free(a.bytes), rw_free(b.bytes), rw_free(c.bytes);
}

static void same_bits_each_time(void **state) {
    (void)state;
    need_gpu();
    for (int a = 0; a < N_ARCHS; a++)
        for (int w = 0; w < N_WAYS; w++)
            if (runs_way(w)) repeat(archs[a], w);
}

/* -- states ------------------------------------------------------------------------------------------------------- */

static const char *save_state(run *r, const rw_device_scalars *last) {
    rw_error err = {0};
    const char *path = rw_test_path("state.safetensors");
    rw_progress p = {.step = last->step, .updates = last->updates, .skipped = last->skipped};
    p.skipped_in_row = last->skipped_in_row;
    p.loss_scale = last->loss_scale;
    p.good_steps = last->good_steps;
    must(rw_training_state_save(path, r->e.model->params, &p, &r->plan, NULL, &err), &err);
    return path;
}

/* As the trainer goes on. */
static rw_progress load_state(run *r, const char *path) {
    rw_error err = {0};
    rw_progress p;
    must(rw_training_state_load(path, r->e.model->params, &p, &err), &err);
    rw_device_scalars s = {.step = p.step, .updates = p.updates, .skipped = p.skipped, .loss_scale = p.loss_scale};
    s.skipped_in_row = p.skipped_in_row;
    s.good_steps = p.good_steps;
    rw_engine_set_counts(&r->e, &s);
    return p;
}

typedef struct {
    double rms, most; /* worst tensor; largest element, in units of lr */
} difference;

/* Of all parameters of two runs. */
static difference compare_weights(run *a, run *b) {
    rw_params *p = a->e.model->params, *q = b->e.model->params;
    difference d = {0, 0};
    for (size_t i = 0; i < p->layout.n_segments; i++) {
        const int64_t n = p->layout.segments[i].n;
        double *x = rw_alloc_array((size_t)n, sizeof *x), *y = rw_alloc_array((size_t)n, sizeof *y), sum = 0;
        rw_params_get(p, RW_PARAM_VALUE, i, 0, n, RW_F64, x);
        rw_params_get(q, RW_PARAM_VALUE, i, 0, n, RW_F64, y);
        for (int64_t e = 0; e < n; e++) {
            sum += (x[e] - y[e]) * (x[e] - y[e]);
            if (!(fabs(x[e] - y[e]) / 1e-3 <= d.most)) d.most = fabs(x[e] - y[e]) / 1e-3;
        }
        if (!(sqrt(sum / (double)n) <= d.rms)) d.rms = sqrt(sum / (double)n);
        rw_free(x);
        rw_free(y);
    }
    return d;
}

/* A file written by one is read by the other: the same numbers, written again the same. */
static void check_same_file(run *from, run *to) {
    const difference d = compare_weights(from, to);
    assert_true(d.rms == 0 && d.most == 0);
}

/* The tolerances of golden trajectories of 20 steps on a GPU in fp32 (test_golden_train.c). */
static void check_close(const char *what, run *a, run *b, const rw_device_scalars *la, const rw_device_scalars *lb) {
    double loss = 0;
    const difference d = compare_weights(a, b);
    for (int i = 0; i < MOST_STEPS; i++)
        if (la[i].step && lb[i].step && !(fabs(la[i].loss - lb[i].loss) <= loss)) loss = fabs(la[i].loss - lb[i].loss);
    print_message("  %s: worst loss %.1e, weights rms %.1e, largest difference %.2g lr\n", what, loss, d.rms, d.most);
    assert_true(loss <= 1e-4 && d.rms <= 2e-5 && d.most <= 10);
}

/* 10 steps on the CPU, 20 on the GPU, 10 on the CPU again, against 40 on the CPU; fewer where a CPU stands in. */
static void elsewhere(const char *arch) {
    static rw_device_scalars whole[MOST_STEPS], parts[MOST_STEPS];
    const run_of at_cpu = {.arch = arch, .plain_cpu = true}, at_gpu = {.arch = arch};
    const int64_t a = on_cpu() ? 2 : 10, b = 3 * a, c = 4 * a;
    run cpu, gpu, back;
    memset(whole, 0, sizeof whole), memset(parts, 0, sizeof parts);
    open_run(&cpu, &at_cpu);
    fresh(&cpu);
    steps(&cpu, 0, a, whole);
    open_run(&gpu, &at_gpu);
    load_state(&gpu, save_state(&cpu, &whole[a - 1]));
    check_same_file(&cpu, &gpu);
    steps(&cpu, a, b, whole);
    steps(&gpu, a, b, parts);
    check_close(arch, &cpu, &gpu, whole, parts);
    open_run(&back, &at_cpu);
    const rw_progress p = load_state(&back, save_state(&gpu, &parts[b - 1]));
    assert_int_equal(p.step, b);
    assert_int_equal(p.updates, b);
    check_same_file(&gpu, &back);
    close_run(&gpu);
    steps(&cpu, b, c, whole);
    steps(&back, b, c, parts);
    check_close(arch, &cpu, &back, whole, parts);
    close_run(&cpu);
    close_run(&back);
}

static void from_cpu_and_back(void **state) {
    (void)state;
    need_gpu();
    for (int a = 0; a < N_ARCHS; a++) elsewhere(archs[a]);
}

/* -- the loss scale of fp16 -----------------------------------------------------------------------------------------
 */

/* A run that begins with a scale, resumed in its middle. */
static void resume_scaled(const char *arch, const char *precision, double scale, int64_t good) {
    static rw_device_scalars whole[MOST_STEPS], rest[MOST_STEPS];
    const run_of of = {.arch = arch, .precision = precision, .accumulate = 2};
    const int64_t half = 12, all = 24;
    const bool scaled = strcmp(precision, "fp16") == 0;
    run a, b;
    memset(whole, 0, sizeof whole), memset(rest, 0, sizeof rest);
    open_run(&a, &of);
    fresh(&a);
    if (scaled) rw_engine_set_counts(&a.e, &(rw_device_scalars){.loss_scale = scale, .good_steps = good});
    steps(&a, 0, half, whole);
    const char *path = save_state(&a, &whole[half - 1]);
    steps(&a, half, all, whole);
    open_run(&b, &of);
    const rw_progress p = load_state(&b, path);
    assert_int_equal(p.good_steps, whole[half - 1].good_steps);
    assert_true(p.loss_scale == whole[half - 1].loss_scale);
    assert_true((p.loss_scale != 0) == scaled);
    steps(&b, half, all, rest);
    bits x = bits_of(&a), y = bits_of(&b);
    same_bits(&x, &y, "a resumed run and one in one go");
    assert_memory_equal(whole + half, rest + half, (size_t)(all - half) * sizeof *rest);
    print_message("  %s %s: the same bits after a resume; scale %g, %g at the resume, %g; %lld of %lld steps skipped\n",
                  arch, precision, scaled ? scale : 0, p.loss_scale, whole[all - 1].loss_scale,
                  (long long)whole[all - 1].skipped, (long long)all);
    if (scaled && good) assert_true(whole[half - 1].loss_scale == scale && whole[all - 1].loss_scale == 2 * scale);
    if (scaled && !good) assert_true(whole[0].skipped == 1 && whole[all - 1].updates > 0);
    rw_free(x.bytes), rw_free(y.bytes);
    close_run(&a);
    close_run(&b);
}

static void loss_scale(void **state) {
    (void)state;
    need_gpu();
    for (int a = 0; a < N_ARCHS; a++) {
        resume_scaled(archs[a], "fp32", 0, 0);
        if (on_cpu()) continue; /* which has no fp16; test_forms.c has its forms */
        if (has_bf16()) resume_scaled(archs[a], "bf16", 0, 0);
        resume_scaled(archs[a], "fp16", 0x1p30, 0); /* far too large: halved from the first step on */
        resume_scaled(archs[a], "fp16", 256, RW_LOSS_SCALE_STEPS - 18); /* doubled behind the resume */
    }
}

/* -- the plan
 * ---------------------------------------------------------------------------------------------------------- */

static const run_of planned[] = {
    {.arch = "x052", .precision = "fp32"},
    {.arch = "x052", .precision = "bf16", .form = "a16", .accumulate = 3, .level = "ffn"},
    {.arch = "x052", .precision = "bf16", .form = "b8", .n_embd = 256, .head_size = 64, .level = "mix"},
    {.arch = "x060", .precision = "bf16", .form = "a16", .n_embd = 256, .head_size = 64, .micro_bsz = 5},
    {.arch = "x060",
     .precision = "bf16",
     .form = "b12",
     .level = "block",
     .accumulate = 2,
     .train = ", head_chunk: 13"},
    {.arch = "x060", .precision = "fp16", .level = "mix", .ctx_len = 100, .micro_bsz = 1},
    {.arch = "x060", .precision = "tf32", .n_embd = 128, .head_size = 128, .n_layer = 2},
    {.arch = "x070", .precision = "fp32", .level = "block", .micro_bsz = 3, .ctx_len = 33},
    {.arch = "x070", .precision = "bf16", .form = "b8", .accumulate = 4, .ctx_len = 17},
    {.arch = "x070", .precision = "bf16", .form = "a16", .n_embd = 256, .head_size = 64, .level = "ffn"},
    {.arch = "x070", .precision = "fp16", .n_embd = 192, .head_size = 64, .train = ", l2wrap: v5"},
};

static int64_t planned_device_bytes(const rw_plan *plan) {
    int64_t n = 0;
    for (int i = 0; i < plan->needs.n_parts; i++)
        if (plan->needs.parts[i].ours && plan->needs.parts[i].place == RW_MEMORY_DEVICE)
            n += plan->needs.parts[i].n_bytes;
    return n;
}

static void evaluate(run *r) {
    rw_error err = {0};
    batch_room room;
    double loss;
    make_batch(&room, r, 1000);
    must(rw_engine_evaluate(&r->e, &room.b, &loss, &err), &err);
    drop_batch(&room);
}

static void exact_to_the_byte(void **state) {
    (void)state;
    need_gpu();
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++) {
        run r;
        const bool wide = strcmp(planned[i].precision, "fp32") == 0 || strcmp(planned[i].precision, "fp16") == 0;
        if (!wide && !has_bf16()) continue;
        open_run(&r, &planned[i]);
        fresh(&r);
        steps(&r, 0, 3, NULL);
        evaluate(&r);
        print_message("  %s %s %s %s, %d x %d: arena %lld, planned %lld; device %lld (peak %lld), planned %lld\n",
                      r.of.arch, r.of.precision, or_text(r.of.form, "auto"), or_text(r.of.level, "none"),
                      or_number(r.of.n_layer, 3), or_number(r.of.n_embd, 128), (long long)r.e.arena.high_water,
                      (long long)r.plan.needs.arena_bytes, (long long)r.on->live_bytes, (long long)r.on->peak_bytes,
                      (long long)planned_device_bytes(&r.plan));
        assert_int_equal(r.e.arena.high_water, r.plan.needs.arena_bytes);
        assert_int_equal(r.on->live_bytes, planned_device_bytes(&r.plan));
        assert_int_equal(r.on->peak_bytes, r.on->live_bytes);
        close_run(&r);
    }
}

/* All that a process takes of a GPU, libraries and kernels included, where that exceeds 8 GiB. Weights stay zero: only
 * memory counts here. */
static const run_of large[] = {
    {.arch = "x060",
     .precision = "bf16",
     .form = "a16",
     .n_layer = 12,
     .n_embd = 768,
     .head_size = 64,
     .ctx_len = 512,
     .micro_bsz = 32},
    {.arch = "x070",
     .precision = "bf16",
     .form = "b8",
     .n_layer = 12,
     .n_embd = 768,
     .head_size = 64,
     .ctx_len = 512,
     .micro_bsz = 40,
     .level = "mix"},
    {.arch = "x052",
     .precision = "fp32",
     .n_layer = 12,
     .n_embd = 768,
     .head_size = 64,
     .ctx_len = 1024,
     .micro_bsz = 24},
};
enum { N_LARGE = sizeof large / sizeof *large };
static int alone; /* which of them this process is for */

static void total_of_one(void **state) {
    (void)state;
    run r;
    const int64_t before = gpus()->gpus[0].free_bytes;
    open_run(&r, &large[alone]);
    steps(&r, 0, 3, NULL);
    evaluate(&r);
    const int64_t taken = before - gpus()->gpus[0].free_bytes, plan = r.plan.needs.bytes[RW_MEMORY_DEVICE];
    const double off = (double)(taken - plan) / (double)plan;
    print_message("  %s %s %d x %d: taken %.1f MiB, planned %.1f MiB: %+.2f %%\n", r.of.arch, r.of.precision,
                  r.of.n_layer, r.of.n_embd, (double)taken / 0x1p20, (double)plan / 0x1p20, 100 * off);
    close_run(&r);
    assert_true(before >= 0 && plan > (int64_t)8 << 30);
    assert_true(fabs(off) <= 0.03);
}

/* Each in a process of its own: what a GPU's context takes is taken once. */
static void total_of_large_runs(void **state) {
    (void)state;
    need_gpu();
    if (on_cpu() || !has_bf16() || gpus()->gpus[0].free_bytes < (int64_t)40 << 30) {
        printf("skipped: needs a GPU with bf16 and 40 GiB free\n");
        skip();
    }
    for (int i = 0; i < N_LARGE; i++) {
        char number[2] = {(char)('0' + i), 0};
        int status = 0;
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            execl("/proc/self/exe", "engine_runs", number, (char *)NULL);
            _exit(127);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

int main(int n, char **args) {
    rw_log_set_level(RW_LOG_ERROR);
    const struct CMUnitTest one[] = {cmocka_unit_test(total_of_one)};
    if (n > 1) {
        alone = args[1][0] - '0';
        return alone >= 0 && alone < N_LARGE ? cmocka_run_group_tests(one, NULL, NULL) : 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_each_time), cmocka_unit_test(from_cpu_and_back),   cmocka_unit_test(loss_scale),
        cmocka_unit_test(exact_to_the_byte),   cmocka_unit_test(total_of_large_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
