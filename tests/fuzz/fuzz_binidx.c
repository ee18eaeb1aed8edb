/* Any bytes as a pair: the first two are the length of the .bin, which follows; the rest is the .idx. The files
 * lie in memory (memfd) and are opened through links in a folder of this process. */
#include "core/base/fs.h"
#include "core/data/binidx.h"
#include "core/data/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The two memory files and the links PREFIX.bin, PREFIX.idx to them: made once, kept to the end. */
static int files[2];
static char folder[] = "/tmp/rwkv-fuzz-XXXXXX", prefix[64];

static void remove_links(void) {
    char path[80];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", prefix, i ? ".idx" : ".bin");
        unlink(path);
    }
    rmdir(folder);
}

static void make_links(void) {
    char path[80], target[64];
    if (!mkdtemp(folder)) abort();
    snprintf(prefix, sizeof prefix, "%s/p", folder);
    for (int i = 0; i < 2; i++) {
        files[i] = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "%s%s", prefix, i ? ".idx" : ".bin");
        snprintf(target, sizeof target, "/proc/self/fd/%d", files[i]);
        if (files[i] < 0 || symlink(target, path) != 0) abort();
    }
    atexit(remove_links);
}

static void fill(int fd, const uint8_t *data, size_t n) {
    if (ftruncate(fd, 0) != 0 || (n && pwrite(fd, data, n, 0) != (ssize_t)n)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!prefix[0]) make_links();
    size_t n_bin = size < 2 ? 0 : data[0] | (size_t)data[1] << 8, start = size < 2 ? size : 2;
    if (n_bin > size - start) n_bin = size - start;
    fill(files[0], data + start, n_bin);
    fill(files[1], data + start + n_bin, size - start - n_bin);
    rw_plan_data plan = {.data_type = RW_FORMAT_BINIDX, .vocab_size = 65536};
    rw_error err = {0};
    rw_source s;
    if (rw_source_open(&s, &plan, prefix, &err) == RW_OK) {
        int32_t ids[64];
        char scratch[256];
        for (int64_t i = 0; i < s.n_tokens; i += 64) {
            int64_t n = s.n_tokens - i < 64 ? s.n_tokens - i : 64;
            rw_status status = rw_source_read(&s, i, n, ids, scratch, &err);
            if (status != RW_OK && status != RW_E_DATA) abort(); /* what was opened can be read */
        }
        rw_source_close(&s);
    }
    rw_error_clear(&err);
    return 0;
}
