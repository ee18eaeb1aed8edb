/* Runs a fuzz target over files instead of over random input, so that each seed and each crash once found
 * stays a test in every build. Arguments are files or folders (one level); a missing folder is no files.
 * libFuzzer brings its own main() and replaces this file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    size_t cap = 1 << 20, n = 0, got;
    uint8_t *data = malloc(cap);
    while (data && (got = fread(data + n, 1, cap - n, f)) > 0) {
        n += got;
        if (n == cap) data = realloc(data, cap *= 2);
    }
    fclose(f);
    if (!data) return 0;
    /* An exact block, so that a sanitizer sees reads beyond the end. */
    uint8_t *exact = malloc(n ? n : 1);
    for (size_t i = 0; exact && i < n; i++) exact[i] = data[i];
    if (exact) LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(data);
    return 1;
}

static int run_folder(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return run_file(path);
    int n = 0;
    char name[4096];
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        n += run_file(name);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv) {
    int n = 0;
    for (int i = 1; i < argc; i++) n += run_folder(argv[i]);
    n += LLVMFuzzerTestOneInput((const uint8_t *)"", 0) == 0;
    printf("%d inputs\n", n);
    return 0;
}
