/* Names of element types, and conversion between the floating ones.
 *
 * The inner loops hold no branch, so that the compiler can use vector instructions; loads and stores go through
 * memcpy because bytes in a file need not be aligned. Two types of which neither is f32 meet there; f64 on its way to
 * a 16-bit type is rounded to odd, which gives the same result as rounding once. */
#include "core/base/dtype.h"

#include <math.h>
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
    for (int t = 1; *text && t < RW_DTYPE_COUNT; t++)
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

/* A type has two loops: to f32 and from it. */
#define CONVERTER(name, dst_type, src_type, expression)                                                                \
    static void name(char *restrict dst, const char *restrict src, int64_t n) {                                        \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            src_type x;                                                                                                \
            memcpy(&x, src + i * (int64_t)sizeof x, sizeof x);                                                         \
            dst_type y = expression(x);                                                                                \
            memcpy(dst + i * (int64_t)sizeof y, &y, sizeof y);                                                         \
        }                                                                                                              \
    }

CONVERTER(f32_of_f32, float, float, (float))
CONVERTER(f32_of_bf16, float, uint16_t, rw_f32_from_bf16)
CONVERTER(bf16_of_f32, uint16_t, float, rw_bf16_from_f32)
CONVERTER(f32_of_f16, float, uint16_t, float_of_half)
CONVERTER(f16_of_f32, uint16_t, float, half_of)
CONVERTER(f32_of_f64, float, double, (float))
CONVERTER(f64_of_f32, double, float, (double))
CONVERTER(odd_of_f64, float, double, float_to_odd)

typedef void converter(char *restrict dst, const char *restrict src, int64_t n);

static const struct {
    converter *to_f32, *from_f32;
} converters[RW_DTYPE_COUNT] = {
    [RW_F32] = {f32_of_f32, f32_of_f32}, /* never called */
    [RW_BF16] = {f32_of_bf16, bf16_of_f32},
    [RW_F16] = {f32_of_f16, f16_of_f32},
    [RW_F64] = {f32_of_f64, f64_of_f32},
};

bool rw_dtype_is_float(rw_dtype t) {
    return valid(t) && converters[t].to_f32;
}

enum { PIECE = 1024 };

/* Neither is f32: by way of it, which holds every number of the 16-bit types. */
static void convert_by_f32(char *dst, rw_dtype to, const char *src, rw_dtype from, int64_t n) {
    float piece[PIECE];
    converter *first = from == RW_F64 ? odd_of_f64 : converters[from].to_f32;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t len = n - i < PIECE ? n - i : PIECE;
        first((char *)piece, src + i * rw_dtype_bytes(from), len);
        converters[to].from_f32(dst + i * rw_dtype_bytes(to), (const char *)piece, len);
    }
}

/* The exponent is all ones. Many at a time without a branch, then the one. */
int64_t rw_first_nonfinite(const void *x, rw_dtype dtype, int64_t n) {
    const int64_t most = 4096;
    const float *f = x;
    const double *d = x;
    for (int64_t first = 0; first < n; first += most) {
        int64_t end = n - first < most ? n : first + most;
        unsigned any = 0;
        if (dtype == RW_F32)
            for (int64_t i = first; i < end; i++) any |= !isfinite(f[i]);
        else
            for (int64_t i = first; i < end; i++) any |= !isfinite(d[i]);
        for (int64_t i = first; any && i < end; i++)
            if (dtype == RW_F32 ? !isfinite(f[i]) : !isfinite(d[i])) return i;
    }
    return n;
}

int rw_convert(void *dst, rw_dtype to, const void *src, rw_dtype from, int64_t n) {
    if (!valid(to) || !valid(from) || n < 0) return -1;
    if (n == 0) return 0;
    if (to == from) {
        memcpy(dst, src, (size_t)(n * rw_dtype_bytes(from)));
        return 0;
    }
    converter *reads = converters[from].to_f32, *writes = converters[to].from_f32;
    if (!reads || !writes) return -1;
    if (to == RW_F32)
        reads(dst, src, n);
    else if (from == RW_F32)
        writes(dst, src, n);
    else
        convert_by_f32(dst, to, src, from, n);
    return 0;
}
