/* AVX-512's vocabulary with VDPBF16PS. */
#ifndef MHA_AVX512BF16_VEC_H
#define MHA_AVX512BF16_VEC_H

#if !defined(__AVX512BF16__) && !defined(MHA_EMULATE)
#error "build src/avx512bf16 with src/avx512's flags and -mavx512bf16"
#endif

#include "avx512/vec.h"

#undef MHA_ISA
#define MHA_ISA avx512bf16
#undef IN_PLACE_TILES
#define IN_PLACE_TILES 0
#define UNIT           2

/* v_halves: 32 floats rounded to bf16, to nearest, ties to even. */
#ifndef MHA_EMULATE
V_INLINE vf v_dot(vf a, vf b, vf c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
V_INLINE __m512i v_halves(vf first, vf second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
#else
#include "emulate/avx512bf16.h"
#endif

/* 16 results each: the odd ones follow the even ones, and then take turns with them. */
V_INLINE vf v_pair(vf even, vf odd) {
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, v_halves(even, odd)));
}

V_INLINE vf va_dot(va a, int i, vf b, vf c) { return v_dot(v_set1(a[i]), b, c); }
V_INLINE vf v_set_pairs(float x) { return v_set1(x); }
V_INLINE vf v_load_pairs(const uint16_t *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }

#endif
