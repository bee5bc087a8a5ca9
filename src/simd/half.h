/* Half precision to f32 and back, V_LANES elements at a time. */
#ifndef MHA_SIMD_HALF_H
#define MHA_SIMD_HALF_H

V_INLINE vf load_half(const uint16_t *p, bool bf16) { return bf16 ? v_load_bf16(p) : v_load_f16(p); }

V_INLINE void store_half(uint16_t *p, vf x, bool bf16) {
    if (bf16) v_store_bf16(p, x);
    else v_store_f16(p, x);
}

V_INLINE void widen(const uint16_t *half, float *x, int64_t n, bool bf16) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(x + i, load_half(half + i, bf16));
    if (i == n) return;
    uint16_t rest[V_LANES] = {0};
    memcpy(rest, half + i, (size_t)(n - i) * sizeof *rest);
    v_store_n(x + i, load_half(rest, bf16), n - i);
}

V_INLINE void narrow(const float *x, uint16_t *half, int64_t n, bool bf16) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) store_half(half + i, v_load(x + i), bf16);
    if (i == n) return;
    uint16_t rest[V_LANES];
    store_half(rest, v_load_n(x + i, n - i), bf16);
    memcpy(half + i, rest, (size_t)(n - i) * sizeof *rest);
}

static void K(widen)(const void *half, mha_dtype dtype, float *x, size_t n) {
    if (dtype == MHA_BF16) widen(half, x, (int64_t)n, true);
    else widen(half, x, (int64_t)n, false);
}

static void K(narrow)(const float *x, mha_dtype dtype, void *half, size_t n) {
    if (dtype == MHA_BF16) narrow(x, half, (int64_t)n, true);
    else narrow(x, half, (int64_t)n, false);
}

#endif
