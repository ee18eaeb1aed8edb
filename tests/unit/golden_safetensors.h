/* The least that tests need of a safetensors file: F32 tensors by name. u64 header length, JSON header
 * {name: {dtype, shape, data_offsets: [begin, end]}}, data. Include after cmocka.h; anything odd fails the test. */
#ifndef RW_TESTS_GOLDEN_SAFETENSORS_H
#define RW_TESTS_GOLDEN_SAFETENSORS_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *bytes; /* the whole file */
    size_t n_bytes;
    json_t *header;
    const char *data;
} golden_file;

static inline golden_file golden_open(const char *path) {
    golden_file g = {0};
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open '%s'", path);
    fseek(f, 0, SEEK_END);
    g.n_bytes = (size_t)ftell(f);
    rewind(f);
    g.bytes = malloc(g.n_bytes);
    if (!g.bytes || fread(g.bytes, 1, g.n_bytes, f) != g.n_bytes) fail_msg("cannot read '%s'", path);
    fclose(f);
    uint64_t length;
    memcpy(&length, g.bytes, 8);
    g.header = json_loadb(g.bytes + 8, (size_t)length, 0, NULL);
    if (!g.header) fail_msg("'%s': no JSON header", path);
    g.data = g.bytes + 8 + length;
    return g;
}

/* The numbers of a tensor and how many; NULL when there is none of that name. */
static inline const float *golden_f32(const golden_file *g, const char *name, int64_t *n) {
    const json_t *t = json_object_get(g->header, name), *range = json_object_get(t, "data_offsets");
    if (!t) return NULL;
    const char *dtype = json_string_value(json_object_get(t, "dtype"));
    if (!dtype || strcmp(dtype, "F32") != 0) fail_msg("'%s' is not F32", name);
    const json_int_t begin = json_integer_value(json_array_get(range, 0));
    const json_int_t end = json_integer_value(json_array_get(range, 1));
    if (begin < 0 || end < begin || (size_t)(g->data - g->bytes) + (size_t)end > g->n_bytes)
        fail_msg("'%s' lies outside of the file", name);
    *n = (int64_t)(end - begin) / 4;
    return (const float *)(const void *)(g->data + begin);
}

static inline void golden_close(golden_file *g) {
    json_decref(g->header);
    free(g->bytes);
}

#endif
