/* Checks and helpers of the ops: see ops_internal.h. */
#include "core/tensor/ops/ops_internal.h"

#include <stdio.h>

const char *rw_shape_text(const rw_tensor *x, char buf[RW_SHAPE_TEXT]) {
    int n = snprintf(buf, RW_SHAPE_TEXT, "(");
    for (int i = 0; i < x->ndim; i++)
        n += snprintf(buf + n, RW_SHAPE_TEXT - (size_t)n, i ? ",%lld" : "%lld", (long long)x->shape[i]);
    snprintf(buf + n, RW_SHAPE_TEXT - (size_t)n, ")");
    return buf;
}

static bool present(rw_tape *t, const char *op, const char *what, const rw_tensor *x) {
    if (rw_tape_failed(t)) return false;
    if (!x) rw_tape_fail(t, RW_E_SHAPE, "%s: %s is missing", op, what);
    return x != NULL;
}

static bool count_is(rw_tape *t, const char *op, const char *what, const rw_tensor *x, int64_t n) {
    char buf[RW_SHAPE_TEXT];
    if (n < 0 || rw_tensor_count(x) == n) return true;
    rw_tape_fail(t, RW_E_SHAPE, "%s: %s has shape %s, expected %lld elements", op, what, rw_shape_text(x, buf),
                 (long long)n);
    return false;
}

bool rw_op_typed(rw_tape *t, const char *op, const char *what, const rw_tensor *x, rw_dtype dtype, int64_t n) {
    if (!present(t, op, what, x)) return false;
    if (x->dtype == dtype) return count_is(t, op, what, x, n);
    rw_tape_fail(t, RW_E_SHAPE, "%s: %s is %s, expected %s", op, what, rw_dtype_name(x->dtype), rw_dtype_name(dtype));
    return false;
}

bool rw_op_check_rows(rw_tape *t, const char *op, rw_rows rows, const rw_tensor *x) {
    if (rw_tape_failed(t)) return false;
    if (rows.n_seq < 1 || rows.n_rows != rw_rows_of(x) || (!rows.cu_seqlens && rows.n_rows % rows.n_seq)) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %lld rows in %lld sequences do not fit %lld rows", op, (long long)rows.n_rows,
                     (long long)rows.n_seq, (long long)rw_rows_of(x));
        return false;
    }
    int64_t most_rows = rw_most_rows(t, rows.n_rows), most_seq = rw_most_seq(t, rows.n_seq);
    if (rows.n_rows > most_rows || rows.n_seq > most_seq) {
        rw_tape_fail(t, RW_E_SHAPE, "%s: %lld rows in %lld sequences, but memory is for %lld in %lld", op,
                     (long long)rows.n_rows, (long long)rows.n_seq, (long long)most_rows, (long long)most_seq);
        return false;
    }
    return true;
}

rw_tensor *rw_op_like(rw_tape *t, const rw_tensor *x) {
    return rw_tape_tensor(t, x->dtype, x->ndim, x->shape, x->room);
}

rw_tensor *rw_op_matrix(rw_tape *t, const rw_tensor *x, int64_t cols) {
    int64_t shape[] = {rw_rows_of(x), cols};
    return rw_tape_tensor(t, rw_tape_device(t)->compute, 2, shape, rw_room_rows(x) * cols);
}

rw_tensor *rw_op_state_out(rw_tape *t, const char *op, rw_tensor *to, rw_rows rows, int ndim, const int64_t *each) {
    int64_t shape[RW_MAX_DIM] = {rows.n_seq}, n = 1;
    for (int i = 0; i < ndim; i++) {
        shape[1 + i] = each[i];
        n *= each[i];
    }
    rw_dtype dtype = rw_wide(rw_tape_device(t)->compute);
    if (!to) return rw_tape_tensor(t, dtype, 1 + ndim, shape, rw_most_seq(t, rows.n_seq) * n);
    if (!rw_op_wide(t, op, "the state's memory", to, rows.n_seq * n)) return NULL;
    if (!rw_tape_recording(t)) return to;
    rw_tape_fail(t, RW_E_INTERNAL, "%s: a state is written over memory of the caller while a tape records", op);
    return NULL;
}

rw_op_saved rw_op_save(rw_tape *t, int64_t n_bytes, bool wanted) {
    rw_op_saved s = {-1, NULL};
    if (wanted && n_bytes > 0) s.share = rw_share_take(t, n_bytes, &s.data);
    return s;
}
rw_op_saved rw_op_save_stats(rw_tape *t, const rw_tensor *x, int64_t each, bool wanted) {
    return rw_op_save(t, 2 * rw_room_rows(x) * each * rw_dtype_bytes(rw_wide(x->dtype)), wanted);
}

void rw_op_stats(const rw_op_saved *s, const rw_tensor *x, int64_t each, void **mean, void **rstd) {
    int64_t n_bytes = rw_room_rows(x) * each * rw_dtype_bytes(rw_wide(x->dtype));
    *mean = s->data;
    *rstd = s->data ? (char *)s->data + n_bytes : NULL;
}

void rw_op_keep(rw_node *n, int i, rw_op_saved s) {
    if (n) n->kept[i] = s.share;
}

rw_op_saved rw_op_kept(rw_tape *t, const rw_node *n, int i) {
    return (rw_op_saved){n->kept[i], rw_share_data(t, n->kept[i])};
}

bool rw_op_records(rw_tape *t, rw_tensor *const *in, int n) {
    if (!rw_tape_recording(t)) return false;
    for (int i = 0; i < n; i++)
        if (in[i] && in[i]->requires_grad) return true;
    return false;
}

int64_t rw_op_state_stride(rw_tape *t, const char *op, rw_tensor *s, rw_rows rows, int64_t each) {
    if (!s) return 0;
    int64_t n = rw_tensor_count(s);
    if (n == rows.n_seq * each) {
        if (s->room < rw_most_seq(t, rows.n_seq) * each)
            s->room = rw_most_seq(t, rows.n_seq) * each; /* its gradient's */
        return each;
    }
    if (n == each) return 0;
    rw_tape_fail(t, RW_E_SHAPE, "%s: a state of %lld elements does not fit %lld sequences of %lld", op, (long long)n,
                 (long long)rows.n_seq, (long long)each);
    return -1;
}
