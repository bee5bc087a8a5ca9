/* The vocabulary of src/simd/base.h in AVX-512 F, BW, DQ, VL. */
#ifndef MHA_AVX512_VEC_H
#define MHA_AVX512_VEC_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "build src/avx512 with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma"
#endif

#include "simd/base.h"

#include <immintrin.h>
#include <sleef.h>

#define MHA_ISA        avx512
#define IN_PLACE_TILES 2

/* FMA tile: 8 x 3 accumulators, 3 of B, 1 broadcast of A: 28 of 32 registers; 11 loads for 24 FMA. */
enum {
    V_LANES = 16,
    PANEL = 8,
    TILE_VECTORS = 3,
    BLOCK_KEYS = 128,
    GEMM_DEPTH = 128,
    DECODE_VECTORS = 4,
    DECODE_SCORES = 16,
};

typedef __m512 vf;
typedef __mmask16 vm;

V_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
V_INLINE vf v_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE vf v_in_register(vf x) { return x; }
V_INLINE void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
V_INLINE vm v_first(int64_t n) { return n >= V_LANES ? (vm)0xffff : (vm)((1u << n) - 1); }
V_INLINE vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_first(n), p); }
V_INLINE void v_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), x); }
V_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* vmaxps returns its second operand if either is NaN. */
V_INLINE vf v_max(vf x, vf m) { return _mm512_max_ps(x, m); }
V_INLINE vf v_at_least(vf x, vf low) { return _mm512_max_ps(low, x); }
V_INLINE vf v_zero_where_less(vf r, vf x, vf low) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), r);
}
V_INLINE vf v_power_of_two(vf t) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23)); }
V_INLINE vm v_mask(uint64_t bits) { return (vm)bits; }
V_INLINE vf v_blend(vm m, vf no, vf yes) { return _mm512_mask_blend_ps(m, no, yes); }

V_INLINE uint64_t v_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

V_INLINE __m256 v_low(vf x) { return _mm512_castps512_ps256(x); }
V_INLINE __m256 v_high(vf x) { return _mm512_extractf32x8_ps(x, 1); }

/* [low + high of x | low + high of y] in halves */
V_INLINE vf v_fold_halves(vf x, vf y) {
    return v_add(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
}
/* [x0 + x1, y0 + y1, x2 + x3, y2 + y3] in quarters */
V_INLINE vf v_fold_quarters(vf x, vf y) {
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                  odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const __m512d a = _mm512_castps_pd(x), b = _mm512_castps_pd(y);
    return v_add(_mm512_castpd_ps(_mm512_permutex2var_pd(a, even, b)),
                 _mm512_castpd_ps(_mm512_permutex2var_pd(a, odd, b)));
}
/* In each quarter: the sums of that quarter of x[0..3]. */
V_INLINE vf v_fold_elements(const vf x[4]) {
    const vf a = v_add(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const vf b = v_add(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return v_add(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
}
V_INLINE void v_sum_rows(int rows, vf x[][4], float *out, int64_t stride) {
    vf folded[4]; /* rows 0, 1, 2, 3 in quarters */
    V_UNROLL
    for (int i = 0; i < 4; i++) {
        const vf rows02 = v_fold_halves(x[0][i], rows > 2 ? x[2][i] : v_zero());
        const vf rows13 = rows > 1 ? v_fold_halves(x[1][i], rows > 3 ? x[3][i] : v_zero()) : v_zero();
        folded[i] = v_fold_quarters(rows02, rows13);
    }
    const vf sums = v_fold_elements(folded);
    _mm_storeu_ps(out, _mm512_castps512_ps128(sums));
    if (rows > 1) _mm_storeu_ps(out + stride, _mm512_extractf32x4_ps(sums, 1));
    if (rows > 2) _mm_storeu_ps(out + 2 * stride, _mm512_extractf32x4_ps(sums, 2));
    if (rows > 3) _mm_storeu_ps(out + 3 * stride, _mm512_extractf32x4_ps(sums, 3));
}
V_INLINE float v_sum(vf x) { return _mm512_reduce_add_ps(x); }
V_INLINE float v_largest(vf x) { return _mm512_reduce_max_ps(x); }

V_INLINE void v_transpose(vf r[V_LANES]) {
    vf t[V_LANES];
    V_UNROLL
    for (int i = 0; i < 8; i++) { /* pairs of rows */
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    V_UNROLL
    for (int i = 0; i < 4; i++) { /* fours: r[4 i + c] has column c of each 128-bit part */
        const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
        const __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    V_UNROLL
    for (int i = 0; i < 4; i++) { /* 128-bit parts: even, odd */
        t[i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    }
    V_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

V_INLINE void v_store_panels(float *dst, int64_t stride, vf x) {
    _mm256_storeu_ps(dst, v_low(x));
    _mm256_storeu_ps(dst + stride, v_high(x));
}

V_INLINE vf v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
V_INLINE void v_store_f16(uint16_t *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V_INLINE vf v_load_bf16(const uint16_t *p) {
    const __m256i half = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
V_INLINE vf v_even_bf16(const void *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
V_INLINE vf v_odd_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000)));
}
/* Lanes `from` of both, and those `next` further. */
V_INLINE void v_permute_both(vf x[2], __m512i from, int next) {
    const vf first = x[0], second = x[1];
    x[0] = _mm512_permutex2var_ps(first, from, second);
    x[1] = _mm512_permutex2var_ps(first, _mm512_add_epi32(from, _mm512_set1_epi32(next)), second);
}
V_INLINE void v_unzip(vf x[2]) {
    v_permute_both(x, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), 1);
}
V_INLINE void v_zip(vf x[2]) {
    v_permute_both(x, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), 8);
}
/* As src/scalar/elements.h. */
V_INLINE void v_store_bf16(uint16_t *p, vf x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i result = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
}

typedef const float *va;
V_INLINE va va_load(const float *p) { return p; }
V_INLINE vf va_fma(va a, int i, vf b, vf c) { return v_fma(v_set1(a[i]), b, c); }

V_INLINE vf v_exp_sleef(vf x) { return Sleef_expf16_u10avx512f(x); }
V_INLINE vf v_log_sleef(vf x) { return Sleef_logf16_u10avx512f(x); }
V_INLINE vf v_tanh_sleef(vf x) { return Sleef_tanhf16_u10avx512f(x); }

#endif
