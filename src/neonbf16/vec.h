/* NEON's vocabulary with BFMMLA and BFDOT, of Armv8.6-A (optional from v8.2 on).  BFMMLA is four times the products of
 * an FMA, and adds them up as two BFDOT do: "Arm Architecture Reference Manual for A-profile", BFMatMulAdd. */
#ifndef MHA_NEONBF16_VEC_H
#define MHA_NEONBF16_VEC_H

#if !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#error "build src/neonbf16 with -march=armv8.2-a+bf16"
#endif

#include "neon/vec.h"

#undef MHA_ISA
#define MHA_ISA neonbf16
/* FMA tile: 24 accumulators, 6 of B, 1 of A: 31 of 32 registers; 10 loads for 24 BFMMLA. */
#define UNIT 2
#define TERM 2

V_INLINE bfloat16x8_t v_pairs(vf x) { return vreinterpretq_bf16_f32(x); }
V_INLINE vf v_dot(vf a, vf b, vf c) { return vbfdotq_f32(c, v_pairs(a), v_pairs(b)); }

V_INLINE void v_interleave(vf units[TERM]) {
    const vf first = vzip1q_f32(units[0], units[1]), second = vzip2q_f32(units[0], units[1]);
    units[0] = first, units[1] = second;
}
V_INLINE vf v_load_halves(const float *first, const float *second) {
    return vcombine_f32(vld1_f32(first), vld1_f32(second));
}
V_INLINE vf v_dot_rows(vf a, vf b, vf c) { return vbfmmlaq_f32(c, v_pairs(a), v_pairs(b)); }
V_INLINE void v_swap_halves(vf *a, vf *b) {
    const vf first = vcombine_f32(vget_low_f32(*a), vget_low_f32(*b));
    *b = vcombine_f32(vget_high_f32(*a), vget_high_f32(*b));
    *a = first;
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
