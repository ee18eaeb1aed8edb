/* The speed of the World tokenizer on one core.
 *
 *     tokenizer VOCAB TEXT [IDS.bin]
 *
 * Encodes the whole text several times in one thread, prints the median in MB/s (10^6 bytes) by the clock and by the
 * processor time of the thread (the same on a quiet machine; on a busy one the clock counts other work too), checks
 * that decoding gives the text back, and writes the ids as int32 for tokenizer_peer.py. */
#include "core/data/tokenizer.h"
#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 7

static int64_t cpu_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fail(const rw_error *err) {
    char text[2048];
    rw_error_format(err, text, sizeof text);
    fprintf(stderr, "%s\n", text);
    return 1;
}

static bool same_back(const rw_tokenizer *t, const int32_t *ids, size_t n_ids, const char *text, size_t n) {
    size_t at = 0, len;
    for (size_t i = 0; i < n_ids; i++) {
        const char *bytes = rw_tokenizer_token_at(t, ids[i], &len);
        if (!bytes || at + len > n || memcmp(text + at, bytes, len)) return false;
        at += len;
    }
    return at == n;
}

int main(int argc, char **argv) {
    rw_error err = {0};
    rw_tokenizer *t;
    char *text;
    int64_t n;
    if (argc < 3) return fprintf(stderr, "usage: %s VOCAB TEXT [IDS.bin]\n", argv[0]), 2;
    int64_t start = rw_now_ns();
    if (rw_tokenizer_open(&t, RW_TOKENIZER_WORLD, argv[1], &err) != RW_OK) return fail(&err);
    double open_ms = (double)(rw_now_ns() - start) / 1e6;
    if (rw_file_slurp(argv[2], INT64_C(1) << 32, &text, &n, &err) != RW_OK) return fail(&err);
    int32_t *ids = rw_alloc_array((size_t)n + 1, sizeof *ids);
    if (!ids) return 1;
    size_t n_ids = 0;
    double rate[RUNS], cpu_rate[RUNS];
    for (int i = -1; i < RUNS; i++) { /* the first run touches the memory */
        start = rw_now_ns();
        int64_t cpu_start = cpu_now_ns();
        n_ids = rw_tokenizer_encode(t, text, (size_t)n, ids);
        if (i < 0) continue;
        rate[i] = (double)n / ((double)(rw_now_ns() - start) / 1e3);
        cpu_rate[i] = (double)n / ((double)(cpu_now_ns() - cpu_start) / 1e3);
    }
    qsort(rate, RUNS, sizeof *rate, compare_doubles);
    qsort(cpu_rate, RUNS, sizeof *cpu_rate, compare_doubles);
    printf("vocabulary read in %.1f ms, %.2f MB held\n", open_ms, (double)rw_tokenizer_host_bytes(t) / 1e6);
    printf("%lld bytes, %zu ids, %.2f bytes per id\n", (long long)n, n_ids, (double)n / (double)n_ids);
    printf("encode: %.1f MB/s by the clock, %.1f MB/s of processor time (medians of %d)\n", rate[RUNS / 2],
           cpu_rate[RUNS / 2], RUNS);
    if (!same_back(t, ids, n_ids, text, (size_t)n)) return fprintf(stderr, "decoding gives another text\n"), 1;
    if (argc > 3 && rw_write_file(argv[3], ids, (int64_t)(n_ids * sizeof *ids), &err) != RW_OK) return fail(&err);
    rw_free(ids);
    rw_free(text);
    rw_tokenizer_close(t);
    return 0;
}
