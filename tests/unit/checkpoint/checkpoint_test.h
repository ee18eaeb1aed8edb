/* Small helpers of the tests of this folder: files made of bytes, archives made of records, expected messages. */
#ifndef RW_TESTS_UNIT_CHECKPOINT_TEST_H
#define RW_TESTS_UNIT_CHECKPOINT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/zip.h"
#include "tests/unit/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Without fsync, and into a new file (ext4 syncs one that is truncated): the tests write thousands. */
static inline void put_file(const char *path, const void *bytes, size_t n) {
    remove(path);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) fail_msg("%s cannot be written", path);
}

static inline char *take_file(const char *path, int64_t *n) {
    char *data;
    rw_error err = {0};
    if (rw_file_slurp(path, (int64_t)1 << 30, &data, n, &err) != RW_OK) fail_msg("%s: %s", path, err.msg);
    return data;
}

/* The file must not open, and the message must contain `part`. */
static inline void expect_refused(const char *path, const char *part) {
    rw_error err = {0};
    rw_tensor_file *f;
    int64_t live = rw_alloc_live();
    if (rw_tensor_file_open(&f, path, &err) == RW_OK) fail_msg("%s was opened; expected: %s", path, part);
    if (!strstr(err.msg, part)) fail_msg("%s: '%s' does not contain '%s'", path, err.msg, part);
    assert_null(f);
    rw_error_clear(&err);
    assert_int_equal(rw_alloc_live(), live);
}

static inline rw_tensor_file *open_good(const char *path) {
    rw_error err = {0};
    rw_tensor_file *f;
    if (rw_tensor_file_open(&f, path, &err) != RW_OK) fail_msg("%s: %s", path, err.msg);
    return f;
}

/* An archive of the given records (name, bytes, n), ended by a NULL name. */
typedef struct {
    const char *name;
    const void *bytes;
    size_t n;
} test_record;

static inline void put_zip(const char *path, const test_record *r) {
    rw_error err = {0};
    rw_writer w;
    rw_zip_writer z = {.w = &w};
    assert_int_equal(rw_writer_open(&w, path, &err), RW_OK);
    for (; r->name; r++) {
        rw_zip_writer_begin(&z, r->name, (int64_t)r->n);
        rw_zip_writer_put(&z, r->bytes, (int64_t)r->n);
        rw_zip_writer_end(&z);
    }
    assert_int_equal(rw_zip_writer_finish(&z, &err), RW_OK);
    assert_int_equal(rw_writer_commit(&w, &err), RW_OK);
    rw_zip_writer_done(&z);
}

/* Opens the file and reads each tensor of at most 1 MB; returns whether all of it worked. Never may it crash. */
static inline bool read_everything(const char *path) {
    rw_tensor_file *f;
    if (rw_tensor_file_open(&f, path, NULL) != RW_OK) return false;
    bool good = true;
    for (int64_t i = 0; i < rw_tensor_file_count(f); i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        double n = 1;
        for (int d = 0; d < t->ndim; d++) n *= (double)t->shape[d];
        if (n > 1e6) continue;
        void *out = malloc((size_t)n * 8 + 1);
        good &= rw_tensor_file_read(f, t, out, t->dtype, NULL) == RW_OK;
        free(out);
    }
    rw_tensor_file_close(f);
    return good;
}

#endif
