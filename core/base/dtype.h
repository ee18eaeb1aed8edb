/* Element types of tensors and files. One list: dtypes.def. */
#ifndef RW_BASE_DTYPE_H
#define RW_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RW_DTYPE_NONE = 0,
#define RW_DTYPE(name, bytes, text, safetensors, torch_storage) RW_##name,
#include "core/base/dtypes.def"
#undef RW_DTYPE
    RW_DTYPE_COUNT
} rw_dtype;

static inline int64_t rw_dtype_bytes(rw_dtype t) {
    static const int64_t bytes[] = {
        0,
#define RW_DTYPE(name, n, text, safetensors, torch_storage) n,
#include "core/base/dtypes.def"
#undef RW_DTYPE
    };
    return bytes[t];
}

/* Beside narrow numbers (activations, matrices) stand wide ones: vectors (norm weights, mixes, decays, biases), their
 * gradients, statistics, recurrent states, losses, every sum. Narrow f32 is wide already. */
static inline rw_dtype rw_wide(rw_dtype narrow) {
    return narrow == RW_F64 ? RW_F64 : RW_F32;
}

const char *rw_dtype_name(rw_dtype t);          /* "bf16", "f32", ... */
const char *rw_dtype_safetensors(rw_dtype t);   /* "BF16", "F32", ... */
const char *rw_dtype_torch_storage(rw_dtype t); /* "BFloat16Storage", ...; "": no .pth has this type */
rw_dtype rw_dtype_from_name(const char *text);  /* also "fp32", "fp16", "float32", ...; NONE if unknown */
rw_dtype rw_dtype_from_safetensors(const char *text);
rw_dtype rw_dtype_from_torch_storage(const char *text);

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t rw_bf16_from_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
static inline float rw_f32_from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
uint16_t rw_f16_from_f32(float f);
float rw_f32_from_f16(uint16_t h);

/* A floating type, one that rw_convert() turns into the others? */
bool rw_dtype_is_float(rw_dtype t);
/* Index of the first value of x[n] (f32 or f64) that is NaN or infinite; n: none. */
int64_t rw_first_nonfinite(const void *x, rw_dtype dtype, int64_t n);

/* Converts n elements between any two floating types; src and dst may not overlap.
 * Returns 0, or -1 when the pair is not supported (integer types convert only to themselves). */
int rw_convert(void *dst, rw_dtype to, const void *src, rw_dtype from, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
