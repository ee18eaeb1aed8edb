/* wkv6 and wkv7 against the operators of the reference implementation (golden set, wkv/): y and every gradient, in fp32
 * and fp64. The files hold fp32 roundings of fp64 results, so fp64 must agree to fp32 rounding.
 *
 * The files of x070 hold w, k, v and A = -kk, B = kk * a of the bare recurrence, while the kernel prepares them from
 * its own inputs. One token at a time, with parameters made for that token, it is made to prepare just those numbers;
 * the state and its gradient are handed from call to call. */
#include "tests/unit/kernels/device_test.h"

#include "tests/unit/golden.h"
#include "tests/unit/golden_safetensors.h"

typedef struct {
    golden_file g;
    rw_device *d;
    rw_dtype t;
    int64_t B, T, H, N;
    double tolerance, worst;
} file;

static void *memory(const file *f, int64_t n) {
    return test_memory((size_t)(n * rw_dtype_bytes(f->t)));
}

static void *from_doubles(const file *f, const double *x, int64_t n) {
    void *to = memory(f, n);
    for (int64_t i = 0; i < n; i++) {
        if (f->t == RW_F64) ((double *)to)[i] = x[i];
        if (f->t == RW_F32) ((float *)to)[i] = (float)x[i];
    }
    return to;
}

static void *load(const file *f, const char *name) {
    int64_t n = 0;
    const float *x = golden_f32(&f->g, name, &n);
    if (!x) return NULL;
    void *to = memory(f, n);
    assert_int_equal(rw_convert(to, f->t, x, RW_F32, n), 0);
    return to;
}

static double number_at(const file *f, const void *x, int64_t i) {
    return f->t == RW_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

/* max|x - want| / max|want| */
static void compare_doubles(file *f, const char *name, const void *x, const double *want, int64_t n) {
    double error = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        const double got = number_at(f, x, i);
        error = isnan(got) ? INFINITY : fmax(error, fabs(got - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    printf("  %-3s %s %.2g of the largest\n", name, rw_dtype_name(f->t), error / largest);
    f->worst = fmax(f->worst, error / largest);
    assert_true(error <= f->tolerance * largest);
}

static double *golden_doubles(const file *f, const char *name, int64_t *n) {
    const float *x = golden_f32(&f->g, name, n);
    assert_non_null(x);
    double *to = test_memory((size_t)*n * sizeof *to);
    for (int64_t i = 0; i < *n; i++) to[i] = x[i];
    return to;
}

static void compare(file *f, const char *name, const void *x) {
    int64_t n = 0;
    double *want = golden_doubles(f, name, &n);
    compare_doubles(f, name, x, want, n);
    free(want);
}

static const char *text(const file *f, const char *key) {
    const char *x = json_string_value(json_object_get(json_object_get(f->g.header, "__metadata__"), key));
    assert_non_null(x);
    return x;
}

static void free_all(const void *const *all, size_t n) {
    for (size_t i = 0; i < n; i++) free((void *)(uintptr_t)all[i]);
}

/* -- x052 and x060 ---------------------------------------------------------------------------------------- */

static void check_wkv6(file *f) {
    const rw_kernels *kernels = f->d->kernels;
    const int64_t n = f->B * f->T * f->H * f->N, states = f->H * f->N * f->N;
    const bool constant = strcmp(text(f, "arch"), "x052") == 0;
    rw_wkv6_args a = {.dtype = f->t,
                      .R = f->B * f->T,
                      .H = f->H,
                      .N = f->N,
                      .n_seq = f->B,
                      .r = load(f, "r"),
                      .k = load(f, "k"),
                      .v = load(f, "v"),
                      .u = load(f, "u"),
                      .s0 = load(f, "s"),
                      .dout = load(f, "gy"),
                      .out = memory(f, n),
                      .dr = memory(f, n),
                      .dk = memory(f, n),
                      .dv = memory(f, n),
                      .du = memory(f, f->H * f->N)};
    void *w = load(f, "w"), *dw = memory(f, constant ? f->H * f->N : n);
    *(constant ? &a.w0 : &a.w_raw) = w;
    *(constant ? &a.dw0 : &a.dw_raw) = dw;
    if (a.s0) a.ds0 = memory(f, states); /* one state for all: the gradient is the sum */
    a.saved = test_memory((size_t)kernels->wkv6_saved(&a, &f->d->exec));
    a.scratch = test_memory((size_t)kernels->wkv6_forward_scratch(&a, &f->d->exec));
    kernels->wkv6_forward(&a, &f->d->exec);
    free(a.scratch);
    a.scratch = test_memory((size_t)kernels->wkv6_backward_scratch(&a, &f->d->exec));
    kernels->wkv6_backward(&a, &f->d->exec);

    compare(f, "y", a.out);
    compare(f, "gr", a.dr);
    compare(f, "gk", a.dk);
    compare(f, "gv", a.dv);
    compare(f, "gw", dw);
    compare(f, "gu", a.du);
    if (a.s0) compare(f, "gs", a.ds0);
    const void *all[] = {a.r,  a.k,  a.v,  a.u, a.s0, a.dout, a.out,   a.dr,
                         a.dk, a.dv, a.du, w,   dw,   a.ds0,  a.saved, a.scratch};
    free_all(all, sizeof all / sizeof *all);
}

/* -- x070 -------------------------------------------------------------------------------------------------- */

enum { R_, W_, V_, GY_, K_K, K_A, A0, Y_, GR, GW, GV, GK_K, GK_A, GA0, ROWS };

/* Rows of all tokens, [B*T][C]: what a call of one token is given and what it writes. */
typedef struct {
    void *rows[ROWS], *ones, *zeros; /* the last two: [C] */
    void *states, *grads[2];         /* [T+1][H*N*N], [H*N*N] each */
    void *scratch;
} tokens;

/* With k0 = 1, w0 = a_up = 0: kk = k_k as it is normalised already, a = sigma(a0), k = 1 + (a - 1) k_a. */
static void parameters(const file *f, tokens *x) {
    int64_t n = 0;
    double *a = golden_doubles(f, "a", &n), *b = golden_doubles(f, "b", &n), *k = golden_doubles(f, "k", &n);
    for (int64_t i = 0; i < n; i++) {
        const double rate = -b[i] / a[i];
        k[i] = (k[i] - 1) / (rate - 1);
        b[i] = log(rate / (1 - rate));
        a[i] = -a[i];
    }
    x->rows[K_K] = from_doubles(f, a, n);
    x->rows[A0] = from_doubles(f, b, n);
    x->rows[K_A] = from_doubles(f, k, n);
    free(a), free(b), free(k);
}

static tokens tokens_new(const file *f) {
    const int64_t C = f->H * f->N, n = f->B * f->T * C, size = C * f->N;
    tokens x = {.rows = {load(f, "r"), load(f, "w"), load(f, "v"), load(f, "gy")}};
    parameters(f, &x);
    for (int i = Y_; i < ROWS; i++) x.rows[i] = memory(f, n);
    x.ones = memory(f, C), x.zeros = memory(f, C);
    for (int64_t i = 0; i < C; i++) {
        if (f->t == RW_F64) ((double *)x.ones)[i] = 1;
        if (f->t == RW_F32) ((float *)x.ones)[i] = 1;
    }
    memset(x.zeros, 0, (size_t)(C * rw_dtype_bytes(f->t)));
    x.states = memory(f, (f->T + 1) * size);
    for (int i = 0; i < 2; i++) x.grads[i] = memory(f, size);
    return x;
}

static void *row(const file *f, const tokens *x, int which, int64_t token) {
    return (char *)x->rows[which] + token * f->H * f->N * rw_dtype_bytes(f->t);
}
static void *state(const file *f, const tokens *x, int64_t t) {
    return (char *)x->states + t * f->H * f->N * f->N * rw_dtype_bytes(f->t);
}

/* Token t of sequence b. */
static rw_wkv7_args one_token(const file *f, const tokens *x, int64_t b, int64_t t) {
    const int64_t i = b * f->T + t;
    return (rw_wkv7_args){.dtype = f->t,
                          .R = 1,
                          .H = f->H,
                          .N = f->N,
                          .n_seq = 1,
                          .r = row(f, x, R_, i),
                          .w_raw = row(f, x, W_, i),
                          .k0 = x->ones,
                          .v = row(f, x, V_, i),
                          .a_up = x->zeros,
                          .w0 = x->zeros,
                          .a0 = row(f, x, A0, i),
                          .k_k = row(f, x, K_K, i),
                          .k_a = row(f, x, K_A, i),
                          .s0 = t > 0 ? state(f, x, t) : NULL,
                          .s0_stride = f->H * f->N * f->N,
                          .out = row(f, x, Y_, i),
                          .s_out = state(f, x, t + 1),
                          .scratch = x->scratch};
}

static void run_sequence(const file *f, const tokens *x, int64_t b) {
    for (int64_t t = 0; t < f->T; t++) {
        const rw_wkv7_args a = one_token(f, x, b, t);
        f->d->kernels->wkv7_forward(&a, &f->d->exec);
    }
    for (int64_t t = f->T - 1; t >= 0; t--) {
        const int64_t i = b * f->T + t;
        rw_wkv7_args a = one_token(f, x, b, t);
        a.saved = x->scratch; /* of one token without norm and gate nothing is saved */
        a.dout = row(f, x, GY_, i);
        a.ds_out = t + 1 < f->T ? x->grads[(t + 1) % 2] : NULL;
        a.ds0 = t > 0 ? x->grads[t % 2] : NULL;
        a.dr = row(f, x, GR, i), a.dw_raw = row(f, x, GW, i), a.dv = row(f, x, GV, i);
        a.dk_k = row(f, x, GK_K, i), a.dk_a = row(f, x, GK_A, i), a.da0 = row(f, x, GA0, i);
        f->d->kernels->wkv7_backward(&a, &f->d->exec);
    }
}

/* What the gradients of the parameters must be, from those of k, A and B in the file. */
static void compare_parameters(file *f, const tokens *x) {
    int64_t n = 0;
    double *a = golden_doubles(f, "a", &n), *b = golden_doubles(f, "b", &n), *k = golden_doubles(f, "k", &n);
    double *ga = golden_doubles(f, "ga", &n), *gb = golden_doubles(f, "gb", &n), *gk = golden_doubles(f, "gk", &n);
    for (int64_t i = 0; i < n; i += f->N) {
        double along = 0;
        for (int64_t j = i; j < i + f->N; j++) along += a[j] * (ga[j] + gb[j] * b[j] / a[j]);
        for (int64_t j = i; j < i + f->N; j++) {
            const double rate = -b[j] / a[j], kk = -a[j];
            const double to_rate = gb[j] * kk + gk[j] * (k[j] - 1) / (rate - 1);
            ga[j] = -ga[j] + gb[j] * rate + a[j] * along; /* perpendicular to kk */
            gk[j] *= rate - 1;
            gb[j] = to_rate * rate * (1 - rate);
        }
    }
    compare_doubles(f, "gk", x->rows[GK_A], gk, n);
    compare_doubles(f, "ga", x->rows[GK_K], ga, n);
    compare_doubles(f, "gb", x->rows[GA0], gb, n);
    free(a), free(b), free(k), free(ga), free(gb), free(gk);
}

static void check_wkv7(file *f) {
    tokens x = tokens_new(f);
    rw_wkv7_args a = one_token(f, &x, 0, 0);
    const int64_t forward = f->d->kernels->wkv7_forward_scratch(&a, &f->d->exec);
    const int64_t backward = f->d->kernels->wkv7_backward_scratch(&a, &f->d->exec);
    assert_int_equal(f->d->kernels->wkv7_saved(&a, &f->d->exec), 0);
    x.scratch = test_memory((size_t)(forward > backward ? forward : backward));
    for (int64_t b = 0; b < f->B; b++) run_sequence(f, &x, b);
    compare(f, "y", x.rows[Y_]);
    compare(f, "gr", x.rows[GR]);
    compare(f, "gw", x.rows[GW]);
    compare(f, "gv", x.rows[GV]);
    compare_parameters(f, &x);
    free_all((const void *const *)x.rows, ROWS);
    const void *all[] = {x.ones, x.zeros, x.states, x.grads[0], x.grads[1], x.scratch};
    free_all(all, sizeof all / sizeof *all);
}

/* -- all files --------------------------------------------------------------------------------------------- */

enum { KINDS = 4 };
static const struct {
    const char *arch;
    void (*check)(file *f);
} kinds[KINDS] = {{"x052", check_wkv6}, {"x060", check_wkv6}, {"x060-states", check_wkv6}, {"x070", check_wkv7}};

typedef struct {
    int n_files[KINDS];
    double worst[KINDS][2]; /* fp64, fp32 */
} totals;

static void check(totals *all, const char *path, bool f32) {
    file f = {.g = golden_open(rw_golden_path(path)), .t = f32 ? RW_F32 : RW_F64, .tolerance = f32 ? 5e-6 : 1e-7};
    f.d = test_device(f.t, 2);
    f.B = atoll(text(&f, "B")), f.T = atoll(text(&f, "T")), f.H = atoll(text(&f, "H")), f.N = atoll(text(&f, "N"));
    int kind = 0;
    while (kind < KINDS && strcmp(kinds[kind].arch, text(&f, "arch")) != 0) kind++;
    if (kind == KINDS) fail_msg("%s: no kernel for '%s'", path, text(&f, "arch"));
    printf("%s\n", path);
    kinds[kind].check(&f);
    all->n_files[kind] += !f32;
    all->worst[kind][f32] = fmax(all->worst[kind][f32], f.worst);
    rw_device_close(f.d);
    golden_close(&f.g);
}

static void one_file(void *ctx, const char *name) {
    char path[300];
    snprintf(path, sizeof path, "wkv/%s", name);
    check(ctx, path, false);
    check(ctx, path, true);
}

static void test_wkv(void **state_) {
    (void)state_;
    totals all = {.n_files = {0}};
    rw_golden_each("wkv", one_file, &all);
    for (int i = 0; i < KINDS; i++) {
        rw_golden_report(rw_golden_dir(), "wkv", "%s %d files, worst f64 %.2g, f32 %.2g of the largest", kinds[i].arch,
                         all.n_files[i], all.worst[i][0], all.worst[i][1]);
        assert_true(all.n_files[i] > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wkv)};
    return cmocka_run_group_tests_name("golden wkv", tests, NULL, NULL);
}
