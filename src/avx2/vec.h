/* The vocabulary of src/simd/base.h in AVX2 and FMA. */
#ifndef MHA_AVX2_VEC_H
#define MHA_AVX2_VEC_H

#if !defined(__AVX2__) || !defined(__FMA__)
#error "build src/avx2 with -mavx2 -mfma -mf16c"
#endif

#include "simd/base.h"

#include <immintrin.h>
#include <sleef.h>

#define MHA_ISA        avx2
#define IN_PLACE_TILES 6

/* FMA tile: 4 x 3 accumulators, 3 of B, 1 broadcast of A: all 16 registers; 7 loads for 12 FMA. */
enum {
    V_LANES = 8,
    PANEL = 4,
    TILE_VECTORS = 3,
    BLOCK_KEYS = 128,
    GEMM_DEPTH = 256,
    DECODE_VECTORS = 2,
    DECODE_SCORES = 8,
};

typedef __m256 vf;
typedef __m256 vm; /* a lane is in the mask if its sign bit is set */

V_INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
V_INLINE vf v_set1(float x) { return _mm256_set1_ps(x); }
V_INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
V_INLINE void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
V_INLINE vf v_in_register(vf x) {
    __asm__("" : "+x"(x)); /* gcc does: an FMA takes an operand from memory */
    return x;
}
V_INLINE __m256i v_first(int64_t n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= V_LANES ? V_LANES : (int)n), lanes);
}
V_INLINE vf v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, v_first(n)); }
V_INLINE void v_store_n(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, v_first(n), x); }
V_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
V_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
V_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
V_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* vmaxps returns its second operand if either is NaN. */
V_INLINE vf v_max(vf x, vf m) { return _mm256_max_ps(x, m); }
V_INLINE vf v_at_least(vf x, vf low) { return _mm256_max_ps(low, x); }
V_INLINE vf v_zero_where_less(vf r, vf x, vf low) { return _mm256_andnot_ps(_mm256_cmp_ps(x, low, _CMP_LT_OQ), r); }
V_INLINE vf v_power_of_two(vf t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }
V_INLINE vm v_mask(uint64_t bits) {
    const __m256i to_sign = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    return _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_set1_epi32((int)bits), to_sign));
}
V_INLINE vf v_blend(vm m, vf no, vf yes) { return _mm256_blendv_ps(no, yes, m); }

V_INLINE uint64_t v_equal(vf a, vf b) { return (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }

V_INLINE void v_sum4(const vf x[4], float *out) {
    const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}
V_INLINE void v_sum_rows(int rows, vf x[][4], float *out, int64_t stride) {
    V_UNROLL
    for (int r = 0; r < rows; r++) v_sum4(x[r], out + r * stride);
}
V_INLINE float v_sum(vf x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
V_INLINE float v_largest(vf x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

V_INLINE void v_transpose(vf r[V_LANES]) {
    vf t[V_LANES];
    V_UNROLL
    for (int i = 0; i < 4; i++) { /* pairs of rows */
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    V_UNROLL
    for (int i = 0; i < 2; i++) { /* fours: r[4 i + c] has column c of each 128-bit half */
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    V_UNROLL
    for (int i = 0; i < 4; i++) { /* halves */
        t[i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
    }
    V_UNROLL
    for (int i = 0; i < V_LANES; i++) r[i] = t[i];
}

V_INLINE void v_store_panels(float *dst, int64_t stride, vf x) {
    _mm_storeu_ps(dst, _mm256_castps256_ps128(x));
    _mm_storeu_ps(dst + stride, _mm256_extractf128_ps(x, 1));
}

typedef const float *va;
V_INLINE va va_load(const float *p) { return p; }
V_INLINE vf va_fma(va a, int i, vf b, vf c) { return v_fma(v_set1(a[i]), b, c); }

V_INLINE vf v_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE void v_store_f16(uint16_t *p, vf x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V_INLINE vf v_load_bf16(const uint16_t *p) {
    const __m128i half = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
V_INLINE vf v_even_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)p), 16));
}
V_INLINE vf v_odd_bf16(const void *p) {
    const __m256i high_half = _mm256_set1_epi32((int)0xffff0000);
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), high_half));
}
V_INLINE void v_unzip(vf x[2]) {
    const vf low = _mm256_permute2f128_ps(x[0], x[1], 0x20), high = _mm256_permute2f128_ps(x[0], x[1], 0x31);
    x[0] = _mm256_shuffle_ps(low, high, 0x88);
    x[1] = _mm256_shuffle_ps(low, high, 0xdd);
}
V_INLINE void v_zip(vf x[2]) {
    const vf low = _mm256_unpacklo_ps(x[0], x[1]), high = _mm256_unpackhi_ps(x[0], x[1]);
    x[0] = _mm256_permute2f128_ps(low, high, 0x20);
    x[1] = _mm256_permute2f128_ps(low, high, 0x31);
}
/* As src/scalar/elements.h. */
V_INLINE void v_store_bf16(uint16_t *p, vf x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i result = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i low = _mm256_castsi256_si128(result), high = _mm256_extracti128_si256(result, 1);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(low, high));
}

V_INLINE vf v_exp_sleef(vf x) { return Sleef_expf8_u10avx2(x); }
V_INLINE vf v_log_sleef(vf x) { return Sleef_logf8_u10avx2(x); }
V_INLINE vf v_tanh_sleef(vf x) { return Sleef_tanhf8_u10avx2(x); }

#endif
