/* Plain elementwise operations. One span function per operation, written by a macro so that each loop is its own
 * vector loop; the choice of operation stays outside of the loops. No `restrict`: in place is allowed. */
#include "core/base/dtype.h"
#include "kernels/cpu/span.h"
#include "kernels/cpu/vmath.h"

/* -- one argument ---------------------------------------------------------------------------------- */

/* RW_UNARY(name, f(v), df(v, y, d)): v input, y output, d incoming gradient, alpha the factor of scale. */
#define RW_UNARY_LIST                                                                                                  \
    RW_UNARY(copy, COPY, v, d)                                                                                         \
    RW_UNARY(scale, SCALE, alpha *v, alpha *d)                                                                         \
    RW_UNARY(tanh, TANH, rw_tanh(v), d *(1 - y * y))                                                                   \
    RW_UNARY(sigmoid, SIGMOID, rw_sigmoid(v), d *y *(1 - y))                                                           \
    RW_UNARY(silu, SILU, v *rw_sigmoid(v), d *silu_slope(v))                                                           \
    RW_UNARY(relu, RELU, (v < 0 ? 0 : v), (v > 0 ? d : 0))                                                             \
    RW_UNARY(exp, EXP, rw_exp(v), d *y)                                                                                \
    RW_UNARY(log, LOG, rw_log(v), d / v)                                                                               \
    RW_UNARY(square, SQUARE, v *v, 2 * v * d)                                                                          \
    RW_UNARY(sqrt, SQRT, RW_SQRT(v), d / (2 * y))

RW_INLINE real silu_slope(real v) {
    real s = rw_sigmoid(v);
    return s * (1 + v * (1 - s));
}

#define RW_UNARY(name, op, f, df)                                                                                      \
    static RW_CLONES void name##_span(const real *x, real *out, real alpha, int64_t n) {                               \
        (void)alpha;                                                                                                   \
        RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                          \
            const real v = x[i];                                                                                       \
            out[i] = f;                                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static RW_CLONES void name##_back_span(const real *kept, const real *dout, real *dx, real alpha, int64_t n,        \
                                           bool add) {                                                                 \
        (void)alpha;                                                                                                   \
        if (add) {                                                                                                     \
            RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                      \
                const real v = kept[i], y = v, d = dout[i];                                                            \
                (void)v, (void)y;                                                                                      \
                dx[i] += df;                                                                                           \
            }                                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
        RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                          \
            const real v = kept[i], y = v, d = dout[i];                                                                \
            (void)v, (void)y;                                                                                          \
            dx[i] = df;                                                                                                \
        }                                                                                                              \
    }
RW_UNARY_LIST
#undef RW_UNARY

typedef struct {
    void (*forward)(const real *x, real *out, real alpha, int64_t n);
    void (*backward)(const real *kept, const real *dout, real *dx, real alpha, int64_t n, bool add);
} unary_row;

static const unary_row unary_rows[] = {
#define RW_UNARY(name, op, f, df) [RW_UNARY_##op] = {name##_span, name##_back_span},
    RW_UNARY_LIST
#undef RW_UNARY
};

void RW_CPU_NAME(unary_forward)(const rw_unary_args *a, const rw_exec *ex) {
    const real *x = a->x;
    real *out = a->out, alpha = (real)a->alpha;
    RW_SPANS(ex, a->n, unary_rows[a->op].forward(x + first, out + first, alpha, last - first));
}

void RW_CPU_NAME(unary_backward)(const rw_unary_args *a, const rw_exec *ex) {
    const real *dout = a->dout, *kept = rw_unary_reads_x(a->op) ? a->x : a->out;
    real *dx = a->dx, alpha = (real)a->alpha;
    if (!kept) kept = dout; /* copy and scale need neither */
    if (!dx) return;
    if (!dout) {
        if (!a->add) RW_SPANS(ex, a->n, rw_zero_span(dx + first, last - first));
        return;
    }
    RW_SPANS(ex, a->n, unary_rows[a->op].backward(kept + first, dout + first, dx + first, alpha, last - first, a->add));
}

/* -- two arguments --------------------------------------------------------------------------------- */

/* u is the element of a, v that of b, d the incoming gradient. */
#define RW_BINARY_LIST                                                                                                 \
    RW_BINARY(add, ADD, u + v, d, d)                                                                                   \
    RW_BINARY(sub, SUB, u - v, d, -d)                                                                                  \
    RW_BINARY(mul, MUL, u *v, d *v, d *u)                                                                              \
    RW_BINARY(div, DIV, u / v, d / v, -(d * u) / (v * v))

#define RW_BINARY(name, op, f, dfa, dfb)                                                                               \
    static RW_CLONES void name##_span2(const real *a, const real *b, real *out, int64_t n) {                           \
        RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                          \
            const real u = a[i], v = b[i];                                                                             \
            out[i] = f;                                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static RW_CLONES void name##_da_span(const real *a, const real *b, const real *dout, real *da, int64_t n) {        \
        RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                          \
            const real u = a[i], v = b[i], d = dout[i];                                                                \
            (void)u, (void)v;                                                                                          \
            da[i] += dfa;                                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    static RW_CLONES void name##_db_span(const real *a, const real *b, const real *dout, real *db, int64_t n) {        \
        RW_PRAGMA(omp simd) for (int64_t i = 0; i < n; i++) {                                                          \
            const real u = a[i], v = b[i], d = dout[i];                                                                \
            (void)u, (void)v;                                                                                          \
            db[i] += dfb;                                                                                              \
        }                                                                                                              \
    }
RW_BINARY_LIST
#undef RW_BINARY

typedef struct {
    void (*forward)(const real *a, const real *b, real *out, int64_t n);
    void (*da)(const real *a, const real *b, const real *dout, real *da, int64_t n);
    void (*db)(const real *a, const real *b, const real *dout, real *db, int64_t n);
} binary_row;

static const binary_row binary_rows[] = {
#define RW_BINARY(name, op, f, dfa, dfb) [RW_BINARY_##op] = {name##_span2, name##_da_span, name##_db_span},
    RW_BINARY_LIST
#undef RW_BINARY
};

static int64_t period_of(const rw_binary_args *p) {
    return p->period ? p->period : p->n ? p->n : 1;
}
static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* From one repeat of b to the next. */
static void forward_span(const rw_binary_args *p, int64_t first, int64_t last) {
    int64_t period = period_of(p);
    for (int64_t i = first, n; i < last; i += n) {
        n = smaller(period - i % period, last - i);
        binary_rows[p->op].forward((const real *)p->a + i, (const real *)p->b + i % period, (real *)p->out + i, n);
    }
}

static void da_span(const rw_binary_args *p, int64_t first, int64_t last) {
    int64_t period = period_of(p);
    if (!(p->add & RW_BINARY_ADD_A)) rw_zero_span((real *)p->da + first, last - first);
    for (int64_t i = first, n; i < last && p->dout; i += n) {
        n = smaller(period - i % period, last - i);
        binary_rows[p->op].da((const real *)p->a + i, (const real *)p->b + i % period, (const real *)p->dout + i,
                              (real *)p->da + i, n);
    }
}

/* A thread owns the columns [first, last) of the period and adds the repeats in order. */
static void db_span(const rw_binary_args *p, int64_t first, int64_t last) {
    int64_t period = period_of(p);
    if (!(p->add & RW_BINARY_ADD_B)) rw_zero_span((real *)p->db + first, last - first);
    for (int64_t row = 0; row < p->n && p->dout; row += period) {
        int64_t n = smaller(last, p->n - row) - first, i = row + first;
        if (n > 0)
            binary_rows[p->op].db((const real *)p->a + i, (const real *)p->b + first, (const real *)p->dout + i,
                                  (real *)p->db + first, n);
    }
}

void RW_CPU_NAME(binary_forward)(const rw_binary_args *p, const rw_exec *ex) {
    RW_SPANS(ex, p->n, forward_span(p, first, last));
}

void RW_CPU_NAME(binary_backward)(const rw_binary_args *p, const rw_exec *ex) {
    if (p->da) RW_SPANS(ex, p->n, da_span(p, first, last));
    if (!p->db) return;
    const int64_t period = period_of(p);
    const int n = period < RW_SPAN_ALIGN * 2 ? 1 : rw_span_count(ex, p->n);
    RW_FOR(n, i, n, int64_t first, last; rw_span_cut(period, n, (int)i, &first, &last);
           if (first < last) db_span(p, first, last));
}

/* -- conversion ------------------------------------------------------------------------------------ */

void RW_CPU_NAME(cast)(const rw_cast_args *a, const rw_exec *ex) {
    const char *src = a->src;
    char *dst = a->dst;
    const int64_t from = rw_dtype_bytes(a->from), to = rw_dtype_bytes(a->to);
    RW_SPANS(ex, a->n, rw_convert(dst + first * to, a->to, src + first * from, a->from, last - first));
}

/* -- rounding in place ------------------------------------------------------------------------------ */

enum { ROUND_PIECE = 1024 };

static void round_span(real *x, int64_t n, rw_dtype to) {
    double narrow[ROUND_PIECE]; /* room for any type */
    for (int64_t i = 0; i < n; i += ROUND_PIECE) {
        int64_t len = smaller(ROUND_PIECE, n - i);
        rw_convert(narrow, to, x + i, RW_REAL_DTYPE, len);
        rw_convert(x + i, RW_REAL_DTYPE, narrow, to, len);
    }
}

void RW_CPU_NAME(round_to)(const rw_round_args *a, const rw_exec *ex) {
    RW_SPANS(ex, a->n, round_span((real *)a->x + first, last - first, a->to));
}
