/* Names of element types, and conversion between the floating ones.
 *
 * The inner loops hold no branch, so that the compiler can use vector instructions; loads and stores go through
 * memcpy because bytes in a file need not be aligned. f64 to a 16-bit type goes through f32 rounded to odd, which
 * gives the same result as rounding once. */
#include "core/base/dtype.h"

#include <stddef.h>
#include <strings.h>

/* -- names ------------------------------------------------------------------------------------------- */

static const struct {
    const char *text, *safetensors, *torch_storage;
} names[] = {
    {"none", "", ""},
#define RW_DTYPE(name, bytes, text, safetensors, torch_storage) {text, safetensors, torch_storage},
#include "core/base/dtypes.def"
#undef RW_DTYPE
};

static int valid(rw_dtype t) {
    return (unsigned)t < RW_DTYPE_COUNT;
}

const char *rw_dtype_name(rw_dtype t) {
    return valid(t) ? names[t].text : "?";
}
const char *rw_dtype_safetensors(rw_dtype t) {
    return valid(t) ? names[t].safetensors : "";
}
const char *rw_dtype_torch_storage(rw_dtype t) {
    return valid(t) ? names[t].torch_storage : "";
}

rw_dtype rw_dtype_from_name(const char *text) {
    static const struct {
        const char *text;
        rw_dtype dtype;
    } other[] = {{"fp32", RW_F32},      {"float32", RW_F32}, {"float", RW_F32}, {"fp64", RW_F64},
                 {"float64", RW_F64},   {"double", RW_F64},  {"fp16", RW_F16},  {"float16", RW_F16},
                 {"bfloat16", RW_BF16}, {"half", RW_F16}};
    for (int t = 1; t < RW_DTYPE_COUNT; t++)
        if (strcasecmp(names[t].text, text) == 0) return (rw_dtype)t;
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        if (strcasecmp(other[i].text, text) == 0) return other[i].dtype;
    return RW_DTYPE_NONE;
}

rw_dtype rw_dtype_from_safetensors(const char *text) {
    for (int t = 1; t < RW_DTYPE_COUNT; t++)
        if (strcmp(names[t].safetensors, text) == 0) return (rw_dtype)t;
    return RW_DTYPE_NONE;
}

rw_dtype rw_dtype_from_torch_storage(const char *text) {
    for (int t = 1; t < RW_DTYPE_COUNT; t++)
        if (strcmp(names[t].torch_storage, text) == 0) return (rw_dtype)t;
    return RW_DTYPE_NONE;
}

/* -- one element ------------------------------------------------------------------------------------- */

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Three results are made and one is chosen. Normal: move the exponent's bias, round the 13 bits that go.
 * Subnormal: adding 0.5 puts the last bit of a half, 2^-24, in the place of the last bit of a float, and the
 * adder rounds. Special: infinity, or NaN with its quiet bit and its upper payload. */
static inline uint16_t half_of(float f) {
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    uint32_t normal = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t subnormal = bits_of(float_of(a) + 0.5f) - (126u << 23);
    uint32_t special = a > 0x7f800000u ? 0x7e00u | (a >> 13 & 0x3ffu) : 0x7c00u;
    uint32_t finite = a < (113u << 23) ? subnormal : normal;
    return (uint16_t)(sign | (a >= 0x477ff000u ? special : finite)); /* 65520 and above round to infinity */
}

/* The bits of a half, moved into place, are 2^-112 times its value, subnormals included. */
static inline float float_of_half(uint16_t h) {
    uint32_t a = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t finite = bits_of(float_of(a) * 0x1p112f);
    uint32_t special = a | 0x7f800000u;
    return float_of(sign | (a >= 0x0f800000u ? special : finite));
}

/* The nearest float towards zero with its last bit set when anything was lost. */
static inline float float_to_odd(double d) {
    float f = (float)d;
    if (f != f || (double)f == d) return f;
    uint32_t u = bits_of(f);
    double back = f;
    if ((back < 0 ? -back : back) > (d < 0 ? -d : d)) u--;
    return float_of(u | 1u);
}

uint16_t rw_f16_from_f32(float f) {
    return half_of(f);
}
float rw_f32_from_f16(uint16_t h) {
    return float_of_half(h);
}

/* -- arrays ------------------------------------------------------------------------------------------ */

#define BF16_OF_F32(x) rw_bf16_from_f32(x)
#define F32_OF_BF16(x) rw_f32_from_bf16(x)
#define BF16_OF_F64(x) rw_bf16_from_f32(float_to_odd(x))
#define F64_OF_BF16(x) (double)rw_f32_from_bf16(x)
#define F16_OF_F64(x)  half_of(float_to_odd(x))
#define F64_OF_F16(x)  (double)float_of_half(x)
#define F32_OF_F64(x)  (float)(x)
#define F64_OF_F32(x)  (double)(x)
#define F16_OF_BF16(x) half_of(rw_f32_from_bf16(x))
#define BF16_OF_F16(x) rw_bf16_from_f32(float_of_half(x))

/* convert_<function>: one loop for each pair. */
#define CONVERTER(name, dst_type, src_type, expression)                                                                \
    static void name(char *restrict dst, const char *restrict src, int64_t n) {                                        \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            src_type x;                                                                                                \
            memcpy(&x, src + i * (int64_t)sizeof x, sizeof x);                                                         \
            dst_type y = expression(x);                                                                                \
            memcpy(dst + i * (int64_t)sizeof y, &y, sizeof y);                                                         \
        }                                                                                                              \
    }

CONVERTER(f32_to_bf16, uint16_t, float, BF16_OF_F32)
CONVERTER(f32_to_f16, uint16_t, float, half_of)
CONVERTER(f32_to_f64, double, float, F64_OF_F32)
CONVERTER(bf16_to_f32, float, uint16_t, F32_OF_BF16)
CONVERTER(bf16_to_f16, uint16_t, uint16_t, F16_OF_BF16)
CONVERTER(bf16_to_f64, double, uint16_t, F64_OF_BF16)
CONVERTER(f16_to_f32, float, uint16_t, float_of_half)
CONVERTER(f16_to_bf16, uint16_t, uint16_t, BF16_OF_F16)
CONVERTER(f16_to_f64, double, uint16_t, F64_OF_F16)
CONVERTER(f64_to_f32, float, double, F32_OF_F64)
CONVERTER(f64_to_bf16, uint16_t, double, BF16_OF_F64)
CONVERTER(f64_to_f16, uint16_t, double, F16_OF_F64)

typedef void converter(char *restrict dst, const char *restrict src, int64_t n);

static converter *const converters[RW_DTYPE_COUNT][RW_DTYPE_COUNT] = {
    /* [from][to] */
    [RW_F32] = {[RW_BF16] = f32_to_bf16, [RW_F16] = f32_to_f16, [RW_F64] = f32_to_f64},
    [RW_BF16] = {[RW_F32] = bf16_to_f32, [RW_F16] = bf16_to_f16, [RW_F64] = bf16_to_f64},
    [RW_F16] = {[RW_F32] = f16_to_f32, [RW_BF16] = f16_to_bf16, [RW_F64] = f16_to_f64},
    [RW_F64] = {[RW_F32] = f64_to_f32, [RW_BF16] = f64_to_bf16, [RW_F16] = f64_to_f16},
};

bool rw_dtype_is_float(rw_dtype t) {
    return t == RW_F32 || (valid(t) && converters[t][RW_F32]);
}

int rw_convert(void *dst, rw_dtype to, const void *src, rw_dtype from, int64_t n) {
    if (!valid(to) || !valid(from) || n < 0) return -1;
    if (n == 0) return 0;
    if (to == from) {
        memcpy(dst, src, (size_t)(n * rw_dtype_bytes(from)));
        return 0;
    }
    converter *convert = converters[from][to];
    if (!convert) return -1;
    convert(dst, src, n);
    return 0;
}
