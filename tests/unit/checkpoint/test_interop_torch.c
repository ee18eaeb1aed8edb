/* PyTorch and this program read each other's files bit for bit: tests/interop/torch_files.py does the other half.
 * Skipped when no Python with torch is found ($RWKV_TORCH_PYTHON, else /usr/bin/python3). */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include <sys/wait.h>

enum { ROWS = 37, COLS = 501 };

static const rw_dtype dtypes[] = {RW_F32, RW_BF16, RW_F16};

static const char *python(void) {
    const char *given = getenv("RWKV_TORCH_PYTHON");
    return given ? given : "/usr/bin/python3";
}

/* Once for both tests, because loading torch takes seconds: checks our files and saves its own. 77: no torch. */
static int run_torch(void) {
    char command[8192];
    snprintf(command, sizeof command, "'%s' '%s' '%s'", python(), rw_source_path("tests/interop/torch_files.py"),
             rw_test_folder());
    fflush(NULL);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int torch_status = -1;

static void need_torch(void) {
    if (torch_status != 77 && torch_status != 127) return;
    print_message("skipped: %s has no torch (apt-get install python3-torch, or set RWKV_TORCH_PYTHON)\n", python());
    skip();
}

/* Values whose bits are easily made on both sides: every 16-bit pattern occurs, NaN and infinities too. */
static void fill(uint32_t *bits, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) bits[i] = ((uint32_t)i * 2654435761u + seed) ^ (uint32_t)(i << 7);
}

static void make(rw_save_tensor t[4], char names[4][32], rw_dtype dtype, const uint32_t *bits) {
    static const int64_t shapes[4][3] = {{ROWS, COLS}, {1, 1, COLS}, {0}, {ROWS}};
    static const int ndims[4] = {2, 3, 0, 1};
    for (int i = 0; i < 4; i++) {
        snprintf(names[i], 32, "blocks.%d.\xe5\xad\x97.weight", i);
        t[i] = (rw_save_tensor){.name = names[i],
                                .ndim = ndims[i],
                                .src_dtype = dtype,
                                .dtype = dtype,
                                .fetch = rw_save_fetch_contiguous,
                                .data = bits};
        memcpy(t[i].shape, shapes[i], sizeof shapes[i]);
    }
}

static void torch_loads_what_we_save(void **state) {
    (void)state;
    static uint32_t bits[ROWS * COLS];
    fill(bits, ROWS * COLS, 7);
    put_file(rw_test_path("bits.bin"), bits, sizeof bits);
    for (int d = 0; d < 3; d++) {
        char names[4][32], file[64];
        rw_save_tensor t[4];
        rw_error err = {0};
        make(t, names, dtypes[d], bits);
        snprintf(file, sizeof file, "rwkv-%s.pth", rw_dtype_name(dtypes[d]));
        if (rw_pth_write(rw_test_path(file), t, 4, &err) != RW_OK) fail_msg("%s", err.msg);
    }
    torch_status = run_torch();
    need_torch();
    assert_int_equal(torch_status, 0);
}

/* For each file the script leaves NAME.pth, and NAME.raw: all tensors in logical order, in the order of their names in
 * NAME.txt. */
static void check_against_raw(const char *name) {
    char file[64], line[256];
    rw_error err = {0};
    int64_t n_raw, at = 0;
    int count = 0;
    snprintf(file, sizeof file, "%s.pth", name);
    rw_tensor_file *f = open_good(rw_test_path(file));
    snprintf(file, sizeof file, "%s.raw", name);
    char *raw = take_file(rw_test_path(file), &n_raw);
    snprintf(file, sizeof file, "%s.txt", name);
    FILE *list = fopen(rw_test_path(file), "r");
    assert_non_null(list);
    while (fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        const rw_file_tensor *t = rw_tensor_file_find(f, line);
        if (!t) fail_msg("%s: %s is missing", name, line);
        int64_t bytes = rw_dtype_bytes(t->dtype);
        for (int d = 0; d < t->ndim; d++) bytes *= t->shape[d];
        char *out = malloc((size_t)bytes + 1);
        if (rw_tensor_file_read(f, t, out, t->dtype, &err) != RW_OK) fail_msg("%s: %s", name, err.msg);
        assert_true(at + bytes <= n_raw);
        if (memcmp(out, raw + at, (size_t)bytes)) fail_msg("%s: %s differs", name, line);
        at += bytes;
        count++;
        free(out);
    }
    fclose(list);
    assert_int_equal(at, n_raw);
    assert_int_equal(count, rw_tensor_file_count(f));
    print_message("%-14s %d tensors, %lld bytes equal\n", name, count, (long long)n_raw);
    rw_free(raw);
    rw_tensor_file_close(f);
}

static void we_load_what_torch_saves(void **state) {
    (void)state;
    char name[64];
    need_torch();
    assert_int_equal(torch_status, 0);
    FILE *names = fopen(rw_test_path("saved.txt"), "r");
    assert_non_null(names);
    int n = 0;
    for (; fgets(name, sizeof name, names); n++) {
        name[strcspn(name, "\n")] = 0;
        check_against_raw(name);
    }
    fclose(names);
    assert_true(n >= 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_loads_what_we_save),
        cmocka_unit_test(we_load_what_torch_saves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
