/* The vocabulary of src/simd/base.h in Advanced SIMD of AArch64. */
#ifndef MHA_NEON_VEC_H
#define MHA_NEON_VEC_H

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "src/neon needs AArch64 with Advanced SIMD"
#endif

#include "simd/base.h"

#include <arm_neon.h>
#include <sleef.h>

#define MHA_ISA neon
/* A load that broadcasts would take an FMA's slot. */
#define IN_PLACE_TILES 0

/* FMA tile: 8 x 3 accumulators, 3 of B, 2 of A (multiplied by lane: a load that broadcasts would take an FMA's slot):
 * 29 of 32 registers; 5 loads for 24 FMA. */
enum {
    V_LANES = 4,
    PANEL = 8,
    TILE_VECTORS = 3,
    BLOCK_KEYS = 128,
    GEMM_DEPTH = 256,
    DECODE_VECTORS = 4,
    DECODE_SCORES = 16,
};

typedef float32x4_t vf;
typedef uint32x4_t vm;

V_INLINE vf v_zero(void) { return vdupq_n_f32(0); }
V_INLINE vf v_set1(float x) { return vdupq_n_f32(x); }
V_INLINE vf v_load(const float *p) { return vld1q_f32(p); }
V_INLINE vf v_in_register(vf x) { return x; }
V_INLINE void v_store(float *p, vf x) { vst1q_f32(p, x); }
V_INLINE vf v_load_n(const float *p, int64_t n) {
    float lanes[V_LANES] = {0};
    if (n >= V_LANES) return v_load(p);
    for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
    return v_load(lanes);
}
V_INLINE void v_store_n(float *p, vf x, int64_t n) {
    float lanes[V_LANES];
    v_store(lanes, x);
    for (int64_t i = 0; i < V_LANES && i < n; i++) p[i] = lanes[i];
}
V_INLINE vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
V_INLINE vf v_max(vf x, vf m) { return vmaxnmq_f32(x, m); } /* the number, if one is NaN */
V_INLINE vf v_at_least(vf x, vf low) { return vmaxq_f32(x, low); }
V_INLINE vf v_zero_where_less(vf r, vf x, vf low) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(r), vcltq_f32(x, low)));
}
V_INLINE vf v_power_of_two(vf t) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23)); }
static const uint32_t lane_bits[V_LANES] = {1, 2, 4, 8};
V_INLINE vm v_mask(uint64_t bits) { return vtstq_u32(vdupq_n_u32((uint32_t)bits), vld1q_u32(lane_bits)); }
V_INLINE uint64_t v_equal(vf a, vf b) { return vaddvq_u32(vandq_u32(vceqq_f32(a, b), vld1q_u32(lane_bits))); }
V_INLINE vf v_blend(vm m, vf no, vf yes) { return vbslq_f32(m, yes, no); }

V_INLINE void v_sum4(const vf x[4], float *out) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3])));
}
V_INLINE void v_sum_rows(int rows, vf x[][4], float *out, int64_t stride) {
    V_UNROLL
    for (int r = 0; r < rows; r++) v_sum4(x[r], out + r * stride);
}
V_INLINE float v_sum(vf x) { return vaddvq_f32(x); }
V_INLINE float v_largest(vf x) { return vmaxvq_f32(x); }

V_INLINE void v_transpose(vf r[V_LANES]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])),
                      b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])),
                      d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

/* A panel is two vectors. */
V_INLINE void v_store_panels(float *dst, int64_t stride, vf x) {
    (void)stride;
    v_store(dst, x);
}

typedef struct va {
    vf part[PANEL / V_LANES];
} va;

V_INLINE va va_load(const float *p) { return (va){{v_load(p), v_load(p + V_LANES)}}; }
V_INLINE vf va_fma(va a, int i, vf b, vf c) {
    const vf part = a.part[i / V_LANES];
    switch (i % V_LANES) { /* the intrinsic wants a literal */
    case 0: return vfmaq_laneq_f32(c, b, part, 0);
    case 1: return vfmaq_laneq_f32(c, b, part, 1);
    case 2: return vfmaq_laneq_f32(c, b, part, 2);
    default: return vfmaq_laneq_f32(c, b, part, 3);
    }
}

V_INLINE vf v_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
V_INLINE void v_store_f16(uint16_t *p, vf x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
V_INLINE vf v_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
V_INLINE uint32x4_t v_pairs_of_bf16(const void *p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
V_INLINE vf v_even_bf16(const void *p) { return vreinterpretq_f32_u32(vshlq_n_u32(v_pairs_of_bf16(p), 16)); }
V_INLINE vf v_odd_bf16(const void *p) {
    return vreinterpretq_f32_u32(vandq_u32(v_pairs_of_bf16(p), vdupq_n_u32(0xffff0000)));
}
V_INLINE void v_unzip(vf x[2]) {
    const vf first = x[0], second = x[1];
    x[0] = vuzp1q_f32(first, second);
    x[1] = vuzp2q_f32(first, second);
}
V_INLINE void v_zip(vf x[2]) {
    const vf even = x[0], odd = x[1];
    x[0] = vzip1q_f32(even, odd);
    x[1] = vzip2q_f32(even, odd);
}
/* As src/scalar/elements.h. */
V_INLINE void v_store_bf16(uint16_t *p, vf x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
}

V_INLINE vf v_exp_sleef(vf x) { return Sleef_expf4_u10advsimd(x); }
V_INLINE vf v_log_sleef(vf x) { return Sleef_logf4_u10advsimd(x); }
V_INLINE vf v_tanh_sleef(vf x) { return Sleef_tanhf4_u10advsimd(x); }

#endif
