/* NEON's vocabulary with BFDOT, of Armv8.6-A (optional from v8.2 on): twice the products of an FMA. */
#ifndef MHA_NEONBF16_VEC_H
#define MHA_NEONBF16_VEC_H

#if !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#error "build src/neonbf16 with -march=armv8.2-a+bf16"
#endif

#include "neon/vec.h"

#undef MHA_ISA
#define MHA_ISA neonbf16
#define UNIT    2

V_INLINE bfloat16x8_t v_pairs(vf x) { return vreinterpretq_bf16_f32(x); }
V_INLINE vf v_dot(vf a, vf b, vf c) { return vbfdotq_f32(c, v_pairs(a), v_pairs(b)); }
V_INLINE vf va_dot(va a, int i, vf b, vf c) {
    const bfloat16x8_t part = v_pairs(a.part[i / V_LANES]), pairs = v_pairs(b);
    switch (i % V_LANES) { /* the intrinsic wants a literal */
    case 0: return vbfdotq_laneq_f32(c, pairs, part, 0);
    case 1: return vbfdotq_laneq_f32(c, pairs, part, 1);
    case 2: return vbfdotq_laneq_f32(c, pairs, part, 2);
    default: return vbfdotq_laneq_f32(c, pairs, part, 3);
    }
}

/* gcc 12 loads constant vectors of bf16 as if they were f16: it must not see that this is one. */
V_INLINE vf v_set_pairs(float x) {
    uint32x4_t lanes = vreinterpretq_u32_f32(v_set1(x));
    __asm__("" : "+w"(lanes));
    return vreinterpretq_f32_u32(lanes);
}
V_INLINE vf v_load_pairs(const uint16_t *p) { return vreinterpretq_f32_u16(vld1q_u16(p)); }
V_INLINE vf v_pair(vf even, vf odd) {
    const uint16x4_t a = vreinterpret_u16_bf16(vcvt_bf16_f32(even)), b = vreinterpret_u16_bf16(vcvt_bf16_f32(odd));
    return vreinterpretq_f32_u16(vcombine_u16(vzip1_u16(a, b), vzip2_u16(a, b)));
}

#endif
