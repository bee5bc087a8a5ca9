/* For tests on CPUs without AVX512-BF16 (-Demulate=true): its two instructions in AVX-512.  Subnormals count as zeros
 * there and here. */

static inline __m512 even_floats(__m512 x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16));
}
static inline __m512 odd_floats(__m512 x) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000)));
}
static inline __m512 without_subnormals(__m512 x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(0x1p-126f), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(tiny, x, _mm512_setzero_ps());
}
V_INLINE vf v_dot(vf a, vf b, vf c) {
    const vf a0 = without_subnormals(even_floats(a)), b0 = without_subnormals(even_floats(b));
    const vf a1 = without_subnormals(odd_floats(a)), b1 = without_subnormals(odd_floats(b));
    c = without_subnormals(_mm512_fmadd_ps(a1, b1, without_subnormals(c)));
    return without_subnormals(_mm512_fmadd_ps(a0, b0, c));
}
V_INLINE __m512i v_halves(vf first, vf second) {
    uint16_t halves[2 * V_LANES];
    v_store_bf16(halves, without_subnormals(first));
    v_store_bf16(halves + V_LANES, without_subnormals(second));
    return _mm512_loadu_si512(halves);
}
