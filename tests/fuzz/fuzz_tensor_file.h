/* Opens any bytes as a file of tensors, reads and prints it. */
#ifndef RW_TESTS_FUZZ_TENSOR_FILE_H
#define RW_TESTS_FUZZ_TENSOR_FILE_H

#include "core/base/arena.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/inspect.h"
#include "core/checkpoint/model_shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_tensor(const rw_tensor_file *f, const rw_file_tensor *t) {
    double n = 1;
    for (int d = 0; d < t->ndim; d++) n *= (double)t->shape[d];
    if (n > 100000) return; /* a view may repeat a few bytes without end */
    void *out = malloc((size_t)n * 8 + 1);
    rw_tensor_file_read(f, t, out, t->dtype, NULL);
    rw_tensor_file_read(f, t, out, RW_F32, NULL);
    free(out);
}

static void use(const rw_tensor_file *f) {
    rw_plan_model m = {0};
    rw_arena a = {0};
    rw_str s = {0};
    for (int64_t i = 0; i < rw_tensor_file_count(f) && i < 50; i++) {
        const rw_file_tensor *t = rw_tensor_file_at(f, i);
        if (rw_tensor_file_find(f, t->name) != t) abort();
        read_tensor(f, t);
    }
    rw_model_shape_from_file(f, &m, &a, NULL);
    rw_inspect_print(f, &s, NULL);
    rw_arena_done(&a);
    rw_str_done(&s);
}

static void open_bytes(const uint8_t *data, size_t size) {
    char path[64];
    rw_tensor_file *f;
    rw_error err = {0};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0) return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data, size) == (ssize_t)size && rw_tensor_file_open(&f, path, &err) == RW_OK) {
        use(f);
        rw_tensor_file_close(f);
    }
    close(fd);
}

#endif
