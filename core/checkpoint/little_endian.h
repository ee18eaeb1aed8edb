/* Little-endian integers at any address, as file formats have them. */
#ifndef RW_CHECKPOINT_LITTLE_ENDIAN_H
#define RW_CHECKPOINT_LITTLE_ENDIAN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint16_t rw_le16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t rw_le32(const uint8_t *p) {
    return rw_le16(p) | (uint32_t)rw_le16(p + 2) << 16;
}
static inline uint64_t rw_le64(const uint8_t *p) {
    return rw_le32(p) | (uint64_t)rw_le32(p + 4) << 32;
}

static inline void rw_put_le16(uint8_t *p, uint16_t x) {
    p[0] = (uint8_t)x;
    p[1] = (uint8_t)(x >> 8);
}
static inline void rw_put_le32(uint8_t *p, uint32_t x) {
    rw_put_le16(p, (uint16_t)x);
    rw_put_le16(p + 2, (uint16_t)(x >> 16));
}
static inline void rw_put_le64(uint8_t *p, uint64_t x) {
    rw_put_le32(p, (uint32_t)x);
    rw_put_le32(p + 4, (uint32_t)(x >> 32));
}

#ifdef __cplusplus
}
#endif
#endif
