/* Only the table of the file is read, never the weights, so it is quick for any size. */
#include "core/checkpoint/inspect.h"

#include "core/base/alloc.h"
#include "core/base/printable.h"
#include "core/checkpoint/model_shape.h"
#include "core/checkpoint/tensor_file_internal.h"
#include "core/model/arch.h"

#include <string.h>

#define MAX_VALUE 160 /* bytes of a metadata value that are shown */

static int64_t numel(const rw_file_tensor *t) {
    return rw_shape_bytes(t->shape, t->ndim, t->dtype) / rw_dtype_bytes(t->dtype);
}

static void print_size(const rw_tensor_file *f, rw_str *out) {
    char size[32], count[32], path[1024];
    int64_t n = 0;
    rw_printable(path, sizeof path, f->file.path);
    for (int64_t i = 0; i < f->n; i++) n = rw_add_saturated(n, numel(&f->tensors[i]));
    rw_str_appendf(out, rw_message("%s: %s, %s (%lld bytes), %lld tensors, %s elements\n"), path, f->kind,
                   rw_format_bytes(size, sizeof size, f->file.n_bytes), (long long)f->file.n_bytes, (long long)f->n,
                   rw_format_count(count, sizeof count, n));
}

static rw_status print_model(const rw_tensor_file *f, rw_str *out, rw_error *err) {
    rw_plan_model m = {0};
    rw_arena arena = {0};
    rw_error why = {0};
    rw_status status = rw_model_shape_from_file(f, &m, &arena, &why);
    if (status == RW_OK) {
        rw_str_appendf(out, rw_message("RWKV %s, %s: "), m.arch, rw_dtype_name(m.file_dtype));
        rw_dims_print(&m, out);
        rw_str_append(out, "\n");
    } else if (status != RW_E_MEMORY) {
        rw_str_appendf(out, rw_message("not a model that this program can load: %s\n"), why.msg);
    }
    rw_arena_done(&arena);
    rw_error_clear(&why);
    return status == RW_E_MEMORY ? rw_fail_memory(err, (size_t)f->n) : RW_OK;
}

static void print_metadata(const rw_tensor_file *f, rw_str *out) {
    for (int64_t i = 0; i < f->n_metadata; i++) {
        char shown[MAX_VALUE + 1];
        size_t n = rw_printable(shown, sizeof shown, f->metadata[i][1]);
        rw_str_append(out, "  ");
        rw_str_append_printable(out, f->metadata[i][0]);
        rw_str_appendf(out, ": %s", shown);
        rw_str_appendf(out, n > MAX_VALUE ? rw_message("... (%lld bytes)\n") : "\n",
                       (long long)strlen(f->metadata[i][1]));
    }
}

static void print_tensor(const rw_file_tensor *t, int width, rw_str *out) {
    size_t begin = out->len + 2;
    rw_str_append(out, "  ");
    rw_str_append_printable(out, t->name);
    int columns = out->failed ? 0 : rw_utf8_columns(out->data + begin, out->len - begin);
    rw_str_appendf(out, "%*s %-5s [", columns < width ? width - columns : 0, "", rw_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim; i++) rw_str_appendf(out, i ? ", %lld" : "%lld", (long long)t->shape[i]);
    rw_str_append(out, "]\n");
}

rw_status rw_inspect_print(const rw_tensor_file *f, rw_str *out, rw_error *err) {
    int width = 0;
    print_size(f, out);
    if (rw_tensor_file_metadata(f, "progress")) /* core/train/training_state.c */
        rw_str_append(out, rw_message("a training state\n"));
    else
        RW_TRY(print_model(f, out, err));
    print_metadata(f, out);
    for (int64_t i = 0; i < f->n; i++) {
        int w = rw_utf8_columns(f->tensors[i].name, strlen(f->tensors[i].name));
        if (w > width) width = w < 60 ? w : 60;
    }
    for (int64_t i = 0; i < f->n; i++) print_tensor(&f->tensors[i], width, out);
    return out->failed ? rw_fail_memory(err, out->len) : RW_OK;
}

/* -- every byte --------------------------------------------------------------------------------------- */

/* Records of a zip with those that no tensor is in; else those of the tensors. A file without checksums can be read:
 * that is all that can be said. */
rw_status rw_inspect_verify(const rw_tensor_file *f, rw_str *out, rw_error *err) {
    const rw_tensor_record *records = f->parts ? f->parts : f->records;
    int64_t n = f->parts ? f->n_parts : f->n, checked = 0;
    for (int64_t i = 0; i < n; i++) {
        RW_TRY(rw_tensor_record_check(&f->file, &records[i], err));
        checked += records[i].has_crc;
    }
    if (checked > 0)
        rw_str_appendf(out, rw_message("verified: the checksums of %lld of %lld records are right\n"),
                       (long long)checked, (long long)n);
    else
        rw_str_append(out,
                      rw_message("read to the end; this kind of file has no checksums, so damage cannot be seen\n"));
    return out->failed ? rw_fail_memory(err, out->len) : RW_OK;
}
