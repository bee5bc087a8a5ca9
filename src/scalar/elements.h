/* Elements of any dtype as f32 and back, in plain C. */
#ifndef MHA_SCALAR_ELEMENTS_H
#define MHA_SCALAR_ELEMENTS_H

#include "mha/mha.h"

#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float from_bf16(uint16_t half) { return float_of((uint32_t)half << 16); }

/* Adding a half of the last place, less one if that place is even, and cutting off rounds to nearest. */
static inline uint16_t to_bf16(float x) {
    const uint32_t bits = bits_of(x);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40); /* what is cut off may be all that makes it NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude > 0x7c00) return float_of(sign | 0x7fc00000 | magnitude << 13); /* NaN, quiet */
    if (magnitude == 0x7c00) return float_of(sign | 0x7f800000);
    if (magnitude >= 0x400) return float_of(sign | (magnitude + ((127 - 15) << 10)) << 13);
    return float_of(bits_of((float)magnitude * 0x1p-24f) | sign); /* subnormal in f16 */
}

static inline uint16_t to_f16(float x) {
    const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520: halfway to what would follow 65504 */
    if (magnitude >= 0x38800000) {                                 /* 2^-14 */
        const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
        return (uint16_t)(sign | ((rounded >> 13) - ((127 - 15) << 10)));
    }
    /* Subnormal: the last place of 1/2 <= y < 1 is 2^-24, so adding 1/2 rounds to multiples of it. */
    return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
}

static inline float load_element(const void *elements, int64_t i, mha_dtype dtype) {
    switch (dtype) {
    case MHA_F16: return from_f16(((const uint16_t *)elements)[i]);
    case MHA_BF16: return from_bf16(((const uint16_t *)elements)[i]);
    default: return ((const float *)elements)[i];
    }
}

static inline void store_element(void *elements, int64_t i, mha_dtype dtype, float x) {
    switch (dtype) {
    case MHA_F16: ((uint16_t *)elements)[i] = to_f16(x); break;
    case MHA_BF16: ((uint16_t *)elements)[i] = to_bf16(x); break;
    default: ((float *)elements)[i] = x; break;
    }
}

#endif
